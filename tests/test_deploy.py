"""Tests of the systemd unit and the Dockerfile in docs/examples/deploy: their commands exist, with these options."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from trio_tasks._cli.app import trio_tasks

DEPLOY = Path(__file__).parents[1] / "docs" / "examples" / "deploy"
UNIT = DEPLOY / "trio-tasks.service"
DOCKERFILE = DEPLOY / "Dockerfile"
UNCLEAN = 6
"""The status of `run` if it has interrupted work, which is no failure: the work is put back."""


def parsed(command: list[str]) -> dict[str, object]:
    """The arguments of a command of trio-tasks; click refuses those that it does not have."""
    program, name, *arguments = command
    assert Path(program).name == "trio-tasks"
    root = click.Context(trio_tasks, **trio_tasks.context_settings)  # click keeps `--help` as it is first asked for
    return trio_tasks.commands[name].make_context(name, arguments, parent=root).params


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the names of options are case-sensitive
    parser.read_string(UNIT.read_text("utf-8"))
    return parser["Service"]


def test_the_unit_runs_a_command_that_there_is_and_waits_longer_than_its_shutdown() -> None:
    service = unit()
    options = parsed(shlex.split(service["ExecStart"]))
    assert options["queues"] == {"emails": 8, "video": 2}
    assert options["shutdown_timeout"] == 30.0
    assert float(service["TimeoutStopSec"]) >= 30.0 + 10
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"  # the signal goes to the first process alone, which forwards it
    assert int(service["SuccessExitStatus"]) == UNCLEAN
    assert service["Environment"].startswith("TRIO_TASKS_URL=sqlite:////var/lib/" + service["StateDirectory"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8").replace("/srv/shop/bin/trio-tasks", sys.executable), "utf-8")
    finished = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert not [line for line in finished.stderr.splitlines() if UNIT.name in line]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments."""
    return re.findall(r"^([A-Z]+) +(.*)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)


def in_last_stage(name: str) -> str:
    """The arguments of an instruction that is once in the last stage."""
    lines = instructions()
    start = max(number for number, (each, _) in enumerate(lines) if each == "FROM")
    [found] = [arguments for each, arguments in lines[start:] if each == name]
    return found


def test_the_commands_of_the_image_exist_and_run_without_a_shell() -> None:
    options = parsed(json.loads(in_last_stage("CMD")))  # a list: the first process is trio-tasks, which has the signal
    assert options["target"] == "shop:tasks"
    assert options["shutdown_timeout"] == 25.0
    _, mark, health = in_last_stage("HEALTHCHECK").partition(" CMD ")
    assert mark
    assert json.loads(health) == ["trio-tasks", "health"]
    assert parsed(json.loads(health))
    assert "TRIO_TASKS_URL=sqlite:////data/tasks.db" in in_last_stage("ENV").split()
    assert in_last_stage("STOPSIGNAL") == "SIGTERM"


def test_the_image_has_two_stages_and_another_user_than_root() -> None:
    names = [name for name, _ in instructions()]
    assert names.count("FROM") == 2
    assert in_last_stage("COPY").startswith("--from=build ")
    assert in_last_stage("USER") not in ("root", "0")
    assert names.index("USER") < names.index("CMD")


def test_the_extras_that_the_image_installs_exist() -> None:
    [extras] = re.findall(r"trio_tasks\[(.*?)\]", DOCKERFILE.read_text("utf-8"))
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    _, _, optional = project.partition("[project.optional-dependencies]")
    known = re.findall(r"^(\w+) = \[", optional.partition("\n[")[0], re.MULTILINE)
    assert {*extras.split(",")} <= {*known}
