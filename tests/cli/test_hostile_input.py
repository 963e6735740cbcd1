"""Hostile input of each argument and option of each command: they are read from the commands themselves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from trio_tasks._cli.app import trio_tasks
from trio_tasks._cli.output import without_secrets

from tests._scale import IS_NIGHTLY
from tests.cli._command import NEEDS, SECRET, Ended, call, filled

VALUES = [
    "", " ", "-", "--", "-x", "--x=y", "=", "a=b", "\n", "\0", "\x1b[31m", "\u202e", "\udcff", "\ud800", "é", "%00",
    "NaN", "inf", "-inf", "1e400", "-1", "0", "1.5", "9" * 400, "9" * 5000, "x" * 100_000,
    "null", "[]", '{"a":' * 2000, "a=NaN", "a=1e999", "a=" + "[" * 100_000,
    "../../etc/passwd", "/dev/null", "/", "/nowhere/at/all", f"http://ann:{SECRET}@host/x",
]  # fmt: skip
TRIED = len(VALUES) if IS_NIGHTLY else 6
"""Values that each argument is given, of these; the next argument is given the next ones."""


class Leaf(NamedTuple):
    """A command that does something."""

    name: str
    command: click.Command


def leaves(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[Leaf]:
    for name, command in sorted(group.commands.items()):
        if not isinstance(command, click.Group):
            yield Leaf(" ".join([*above, name]), command)
            continue
        if command.invoke_without_command:
            yield Leaf(" ".join([*above, name]), command)
        yield from leaves(command, (*above, name))


COMMANDS = list(leaves(trio_tasks))
each_command = pytest.mark.parametrize("leaf", COMMANDS, ids=lambda leaf: leaf.name)


def line_with(leaf: Leaf, parameter: click.Parameter, value: str) -> list[str]:
    """The command line in which this parameter has this value."""
    given = [*NEEDS.get(leaf.name, [])]
    if not isinstance(parameter, click.Argument):
        return [*leaf.name.split(), *given, f"{parameter.opts[-1]}={value}"]
    place = [each for each in leaf.command.params if isinstance(each, click.Argument)].index(parameter)
    return [*leaf.name.split(), *given[:place], value, *given[place + 1 :]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    filled("sqlite", folder)
    return folder


def check(ended: Ended, line: list[str]) -> None:
    """Check that a command ended as the documentation says, in few words."""
    context = ascii(line)[:200], ascii(ended)[:2000]
    assert ended.status in range(6), context
    assert ended.status == 0 or ended.err or ended.out, context
    assert not (ended.status == 2 and ended.out), context
    assert "_cli" not in ended.err and ended.err.count("Traceback") <= 1, context
    assert not {"\x1b", "\u202e", "\0"} & {*ended.out, *ended.err}, context
    assert len(ended.err) < 4000 and SECRET not in ended.err, context


@each_command
def test_each_value_of_each_parameter(leaf: Leaf, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(store, tmp_path / "store")
    monkeypatch.setenv("TRIO_TASKS_URL", f"sqlite:///{tmp_path}/store/tasks.db")
    monkeypatch.chdir(tmp_path)
    first = COMMANDS.index(leaf)
    for parameter in leaf.command.params:
        if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count):
            continue
        for number in range(first, first + TRIED):
            line = line_with(leaf, parameter, VALUES[number % len(VALUES)])
            check(call(*line, stdin=b"\xff\n"), line)
        first += TRIED
    assert os.listdir(tmp_path) == ["store"], "nothing else is made"  # noqa: PTH208  names are enough


def test_all_values_are_tried() -> None:
    parameters = [
        each
        for leaf in COMMANDS
        for each in leaf.command.params
        if not (isinstance(each, click.Option) and each.is_flag)
    ]
    assert len(parameters) * TRIED > 2 * len(VALUES)


@each_command
def test_no_secret_of_a_url_is_written(leaf: Leaf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_TASKS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    urls = [f"{scheme}://ann:{SECRET}@host/x.db" for scheme in ("sqlite", "file", "postgresql", "redis", "http")]
    urls += [f"sqlite:///x.db?{option}={SECRET}" for option in ("password", "token")]
    for url in urls if any(each.name == "url" for each in leaf.command.params) else ():
        line = [*leaf.name.split(), *NEEDS.get(leaf.name, [])]
        monkeypatch.setenv("TRIO_TASKS_URL", url)
        for ended in (call(*line), call(*line, "--url", url)):
            assert ended.status == 2, (url, ended)
            assert SECRET not in ended.out + ended.err, (url, ended)
    misplaced = call(*leaf.name.split(), urls[0], *urls)
    assert SECRET not in misplaced.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x://ann:pw@host/y", "x://ann:***@host/y"),
        ("'x://ann:p@w@host' is wrong: 'x://:pw@host'", "'x://ann:***@host' is wrong: 'x://:***@host'"),
        ("sqlite:///x.db?lease=5&db_password=a%20b&queue=c", "sqlite:///x.db?lease=5&db_password=***&queue=c"),
        ("x:?TOKEN=a", "x:?TOKEN=***"),
        ("at 09:30 to a:b@c; http://host:80/x", "at 09:30 to a:b@c; http://host:80/x"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
