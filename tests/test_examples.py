"""Tests of all examples: each prints its recorded output, and every line of Python on a page comes from one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_fences import blocks, pages

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"

DEMOS = {"hash_tree", "nox_pool"}  # which have tests of their own
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in DEMOS)
TESTS = [name for name in PROGRAMS if name.startswith("test_")]  # run by pytest
SCRIPTS = [name for name in PROGRAMS if name not in TESTS]
NOTEBOOKS = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FENCE = re.compile(r"^(.*)\n( *)```(.*)\n((?s:.*?))^\2```$", re.MULTILINE)
LANGUAGES = {
    "sh",
    "powershell",
    "ini",
    "sql",
    "text",
    "{eval-rst}",
}  # that may be typed on a page: no program is behind them
PYTHON = re.compile(r"^\s*(>>>|import \w|from [\w.]+ import|(async )?(def|with|for) .*:|class \w+.*:|await |@\w)")

UNLOGGED = ROOT / "tests" / "_unlogged"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a directory of its own, with every warning an error, and without the records of failed attempts."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{UNLOGGED}", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def normal(output: str) -> list[str]:
    """The lines, without what differs from run to run: fresh ids, where the files are, and whether a worker has had
    the time to say that it is idle, which trio leaves open."""
    output = UUID.sub("…", output.replace(f"{EXAMPLES}{os.sep}", ""))
    return [line.rstrip() for line in output.splitlines() if not line.endswith(" Idle()")]


def typed_by_hand(text: str) -> list[str]:
    """The lines of a page that are code, and that no program is behind."""
    found: list[str] = []
    for above, _, language, body in FENCE.findall(text):
        if re.match(r" *<!-- (example|output): ", above):
            continue
        if language not in LANGUAGES:
            found.append(f"```{language}")
        found += [line.strip() for line in body.splitlines() if PYTHON.match(line)]
    return found + re.findall(r"^>>>.*$", FENCE.sub("", text), re.MULTILINE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_says_what_is_kept_beside_it(name: str, tmp_path: Path) -> None:
    finished = run(str(EXAMPLES / f"{name}.py"), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    assert normal(finished.stdout) == normal((EXAMPLES / f"{name}.out").read_text("utf-8"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_prints_what_is_kept_beside_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    runner = ROOT / "tests" / "_run_notebook.py"
    finished = run(str(runner), str(EXAMPLES / f"{name}.ipynb"), cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert not finished.stderr
    assert normal(finished.stdout) == normal((EXAMPLES / f"{name}.out").read_text("utf-8"))


@pytest.mark.parametrize("name", TESTS)
def test_an_example_that_is_a_test_passes(name: str) -> None:
    plugins = "-p", "no:cacheprovider", "-p", "trio_tasks.testing.pytest"
    finished = run("-m", "pytest", "-q", *plugins, str(EXAMPLES / f"{name}.py"), cwd=ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^\d+ passed in", finished.stdout, re.MULTILINE), finished.stdout


def test_there_are_examples_and_nothing_is_kept_beside_one_that_is_gone() -> None:
    assert SCRIPTS
    assert TESTS
    assert {path.stem for path in EXAMPLES.glob("*.out")} == {*SCRIPTS, *NOTEBOOKS}


def test_every_example_stands_on_a_page() -> None:
    shown = {block.name for page in pages() for block in blocks(page.read_text("utf-8"))}
    assert not {f"{name}.py" for name in PROGRAMS} - shown


@pytest.mark.parametrize("page", pages(), ids=[page.relative_to(ROOT).as_posix() for page in pages()])
def test_no_page_has_code_that_is_not_run(page: Path) -> None:
    assert not typed_by_hand(page.read_text("utf-8"))


def test_these_tests_see_code_that_is_typed_by_hand() -> None:
    assert typed_by_hand("So:\n\n```text\nimport trio\n```\n\nand so on") == ["import trio"]
    assert typed_by_hand("\n```python\nx = 1\n```\n") == ["```python"]
    assert typed_by_hand("<!-- example: hello.py -->\n```python\nx = 1\n```\n") == []
    assert typed_by_hand("\n```sh\nnox -s demo\n```\n\nimport trio, and so on") == []
    assert typed_by_hand(">>> 1 + 1\n2") == [">>> 1 + 1"]
    assert normal("a Idle()\nat " + str(EXAMPLES / "b.py") + ":1  \n") == ["at b.py:1"]
