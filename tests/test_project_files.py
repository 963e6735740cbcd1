"""Tests of the files for contributors: the commands, sessions and pages that they name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = ["Breaking", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def commands_of(session: str) -> list[str]:
    """The commands that a session of the noxfile runs, in order."""
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    [function] = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == session]
    calls = [
        each for each in ast.walk(function) if isinstance(each, ast.Call) and ast.unparse(each.func) == "session.run"
    ]
    return [" ".join(ast.literal_eval(argument) for argument in call.args) for call in calls]


def sessions() -> set[str]:
    """The names of the sessions of the noxfile."""
    return set(re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8"), re.MULTILINE))


def test_pre_commit_runs_what_the_lint_session_runs() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"^ +entry: (.*)$", text, re.MULTILINE) == commands_of("lint")
    assert set(re.findall(r"repo: (.*)", text)) == {"local"}, "a hook from elsewhere has a version of its own"
    hooks = text.count("- id:")
    assert hooks == text.count("language: system") == text.count("pass_filenames: false") == len(commands_of("lint"))


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/pull_request_template.md", "README.md"])
def test_the_nox_sessions_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    named = {session.split("-")[0] for session in re.findall(r"nox -s ([\w.-]+)", text)}
    assert named - sessions() == set()
    assert "nox" in text


def test_the_changelog_is_by_kind_of_change_and_breaking_ones_come_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert versions
    for version in versions:
        assert re.match(r"\[\d+\.\d+\.\d+\] - (unreleased|\d{4}-\d\d-\d\d)\n", version)
        found = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert found == [kind for kind in KINDS if kind in found], "unknown, twice, or in another order"
        for body in re.split(r"^### .*$", version, flags=re.MULTILINE)[1:]:
            assert re.match(r"\n\n- \S", body), "no entry"


def test_the_security_policy_names_the_options_that_there_are() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    package = "\n".join(path.read_text("utf-8") for path in (ROOT / "trio_tasks").rglob("*.py"))
    for name in re.findall(r"`(\w+)=", text):
        assert name in package, f"SECURITY.md speaks of {name}"


def test_the_forms_for_issues_ask_for_what_is_needed() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {path.name for path in forms} == {"bug.yml", "idea.yml", "config.yml"}
    for path in forms[:1] + forms[2:]:
        text = path.read_text("utf-8")
        assert re.search(r"^name: \S", text, re.MULTILINE)
        assert re.search(r"^description: \S", text, re.MULTILINE)
        ids = re.findall(r"^    id: (\w+)$", text, re.MULTILINE)
        assert len(ids) == len(set(ids)) >= 3
