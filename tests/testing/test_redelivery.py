"""Tests of the proof that a handler may be run twice."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import AbortError, TaskId
from trio_tasks.testing import BrokenByCut, Redelivery, explore_redelivery
from trio_tasks.testing.pytest import explored_test


class Bank:
    """A bank that takes a while, and knows the keys of charges that it has made."""

    def __init__(self) -> None:
        self.charges: list[int] = []
        self.keys: set[str] = set()

    async def charge(self, amount: int, key: str | None = None) -> None:
        await trio.sleep(1)
        if key is None or key not in self.keys:
            self.charges.append(amount)
            self.keys.add(key or "")
        await trio.sleep(1)


def by(handle: Callable[[Bank, int, TaskId], Awaitable[object]]) -> Callable[[Redelivery], Awaitable[None]]:
    """A test that delivers a charge to this handler."""

    async def test(redelivery: Redelivery) -> None:
        bank = Bank()

        async def handler(amount: int, task_id: TaskId) -> None:
            await handle(bank, amount, task_id)

        await redelivery.deliver(handler, 7)
        redelivery.compare(charges=bank.charges)

    return test


async def once_by_its_key(bank: Bank, amount: int, task_id: TaskId) -> None:
    await bank.charge(amount, task_id)


async def each_time(bank: Bank, amount: int, task_id: TaskId) -> None:
    await bank.charge(amount)


def test_a_handler_that_charges_by_a_key_may_be_run_twice() -> None:
    assert explore_redelivery(by(once_by_its_key)).cuts >= 3


def test_one_that_charges_each_time_is_found() -> None:
    with pytest.raises(AssertionError, match=r"after two full attempts.*\n +charges: \[7\] after .* then \[7, 7\]"):
        explore_redelivery(by(each_time))


def test_one_that_harms_only_if_it_is_cut_is_found() -> None:
    async def in_two_steps(bank: Bank, amount: int, task_id: TaskId) -> None:
        if task_id not in bank.keys:
            await bank.charge(amount)
            bank.keys.add(task_id)

    with pytest.raises(BrokenByCut) as broken:
        explore_redelivery(by(in_two_steps))
    assert "charges: [7] after one clean run, and then [7, 7]" in str(broken.value.__cause__)
    assert any("await trio.sleep(1)" in line for line in broken.value.lines), "it says where it was cut"


def put(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def is_there(path: Path) -> bool:
    return path.exists()


async def write(path: Path, text: str, *, at_once: bool) -> None:
    if at_once:
        put(path, text)
    elif not is_there(path):
        put(path, text[:1])
        await trio.sleep(1)
        put(path, text)
    await trio.sleep(1)


@pytest.mark.parametrize("at_once", [True, False])
def test_files_are_compared(at_once: bool) -> None:
    async def test(redelivery: Redelivery) -> None:
        async def report(text: str) -> None:
            await write(redelivery.directory / "out" / "report.txt", text, at_once=at_once)

        (redelivery.directory / "out").mkdir()
        await redelivery.deliver(report, "whole")

    if at_once:
        explore_redelivery(test)
        return
    with pytest.raises(BrokenByCut) as broken:
        explore_redelivery(test)
    assert "out/report.txt: b'whole' after one clean run, and then b'w'" in str(broken.value.__cause__)


@pytest.mark.parametrize("statement", ["insert or ignore into rows values (?)", "insert into rows values (?)"])
def test_databases_are_compared_by_their_content(statement: str) -> None:
    async def test(redelivery: Redelivery) -> None:
        async def insert(number: int) -> None:
            with closing(sqlite3.connect(redelivery.directory / "shop.db")) as connection, connection:
                connection.execute("pragma journal_mode=wal")
                unique = "unique" if "ignore" in statement else ""
                connection.execute(f"create table if not exists rows (number integer {unique})")
                connection.execute(statement, (number,))
            await trio.lowlevel.checkpoint()

        await redelivery.deliver(insert, 7)

    if "ignore" in statement:
        assert explore_redelivery(test).cuts
        return
    with pytest.raises(AssertionError, match=r"shop\.db: "):
        explore_redelivery(test)


def test_how_deliveries_end_is_compared() -> None:
    async def test(redelivery: Redelivery) -> None:
        seen: set[int] = set()

        async def refuse_seconds(number: int) -> None:
            if number in seen:
                raise AbortError("again?")
            seen.add(number)
            await trio.sleep(1)

        await redelivery.deliver(refuse_seconds, 7, log=None)

    with pytest.raises(AssertionError, match="delivery 1: 'succeeded' after one clean run, and then 'killed'"):
        explore_redelivery(test)


def test_what_delivers_nothing_is_refused() -> None:
    async def test(redelivery: Redelivery) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(ValueError, match="nothing to cancel"):
        explore_redelivery(test)
    with pytest.raises(TypeError, match="test"):
        explore_redelivery(5)  # type: ignore[arg-type]  # on purpose


# The plugin for pytest

PROGRAM = """
import pytest, trio
from trio_tasks.testing import Redelivery

runs = []

async def handler(number: int) -> None:
    await trio.sleep(1)

@pytest.mark.redelivery(seeds=2)
async def test_many_runs(redelivery, tmp_path):
    assert isinstance(redelivery, Redelivery)
    assert (await redelivery.deliver(handler, 1)) is not None
    runs.append(redelivery)

def test_it_was_run_often():
    assert len(runs) > 6

class TestInAClass:
    @pytest.mark.redelivery
    @pytest.mark.parametrize("number", [1, 2])
    async def test_with_a_parameter(self, redelivery, number):
        await redelivery.deliver(handler, number)

@pytest.mark.redelivery
async def test_differs(redelivery):
    made = []
    async def note(number: int) -> None:
        made.append(number)
        await trio.sleep(1)
    await redelivery.deliver(note, 1)
    redelivery.compare(made=made)

async def test_two_clocks(task_clock, autojump_clock): ...

@pytest.fixture
def later(task_clock):
    return 5

async def test_only_a_fixture_names_it(later): ...

@pytest.fixture
def month(autojump_clock):
    return 30 * 86400

async def test_a_fixture_names_the_clock_of_pytest_trio(month, tasks):
    await trio.sleep(month)

async def test_the_test_names_it_too(month, tasks, autojump_clock):
    await trio.sleep(month)

@pytest.fixture
def clock(autojump_clock):
    return autojump_clock

async def test_the_test_is_given_it(clock, open_sqlite):
    await trio.sleep(86400)

async def test_no_marker(redelivery): ...

async def test_virtual_time(tasks, open_sqlite, task_clock):
    await trio.sleep(86400)
    async with open_sqlite(int) as storage:
        await storage.push(1)
    async with open_sqlite(int) as storage:
        assert len(await storage.list_tasks()) == 1
"""


def run_pytest(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_program.py").write_text(program, "utf-8")
    (directory / "pytest.ini").write_text("[pytest]\ntrio_mode = true\naddopts = --strict-markers\n", "utf-8")
    (directory / "conftest.py").write_text("pytest_plugins = ['trio_tasks.testing.pytest']\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-rfE"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=directory, env=environment, text=True, capture_output=True, timeout=120)


def test_the_plugin_runs_and_refuses(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, PROGRAM).stdout
    assert "7 passed" in said, said
    assert "2 failed" in said
    assert "made: [1] after one clean run, and then [1, 1]" in said
    assert "the test asks for autojump_clock and for task_clock: leave autojump_clock out" in said
    assert "add a parameter task_clock to the test, or it would wait in real time" in said
    assert "add a parameter autojump_clock to the test, or it would wait in real time" in said
    assert "the fixture redelivery is for tests with @pytest.mark.redelivery" in said


@pytest.mark.parametrize(
    ("program", "fixtures", "complaint"),
    [
        ("def test(redelivery): ...", ["redelivery"], "is for async tests of `redelivery`"),
        ("async def test(tmp_path): ...", ["tmp_path"], "is for async tests of `redelivery`"),
        ("async def test(redelivery): ...", ["redelivery", "autojump_clock"], "it cannot use autojump_clock"),
    ],
    ids=["sync", "without it", "clock"],
)
def test_a_wrong_use_of_the_marker_is_named(program: str, fixtures: list[str], complaint: str) -> None:
    there: dict[str, Any] = {}
    exec(program, there)  # a test of each shape
    with pytest.raises(pytest.UsageError, match=complaint):
        explored_test(there["test"], fixtures)
