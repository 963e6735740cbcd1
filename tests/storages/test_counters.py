"""The counters of a queue are right at any moment, and an audit finds those that are not."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock
from trio_tasks import Balance, Failed, FileStorage, Killed, Retried, SqliteStorage, Succeeded, Suspended
from trio_tasks._backends.sqlite import schema

from tests._storages import STORAGES

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)


async def fill(storage: Any) -> None:
    """Have tasks in every state."""
    for number in range(6):
        await storage.push(number)
    await storage.push(6, delay=60.0)
    outcomes = (Suspended(math.inf), Retried(ValueError(), 30.0), Succeeded(1), Failed(ValueError()))
    for outcome in (*outcomes, Killed(ValueError())):
        await storage.settle(await storage.receive(), outcome)


@everywhere
async def test_each_state_is_counted(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await fill(storage)
        metrics = await storage.metrics()
        there = {"waiting": 1, "delayed": 3, "running": 0, "suspended_now": 1, "orphans": 0}
        there |= {"kept_done": 1, "kept_failed": 1, "kept_killed": 1}
        assert {name: metrics[name] for name in there} == there


@everywhere
async def test_what_is_due_counts_as_waiting_though_no_one_has_received_since(
    opened: Opener, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await storage.push(1, delay=10.0)
        await storage.push(2, delay=100.0)
        mock_clock.jump(15.0)
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["delayed"]) == (1, 1)
        assert metrics["oldest_waiting"] == pytest.approx(5.0, abs=1e-3)
        assert await storage.audit()


@pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])
async def test_counters_outlive_the_process(kind: Any, tmp_path: Path) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        await fill(storage)
        before = {**await storage.metrics(), "oldest_waiting": 0.0}
    async with kind(tmp_path / "tasks", int) as storage:
        assert {**await storage.metrics(), "oldest_waiting": 0.0} == before
        assert await storage.audit()


@pytest.mark.parametrize(
    ("column", "name"),
    [("pushed", None), ("resumed", None), ("live", "waiting"), ("delayed", "delayed"), ("kept_failed", "kept_failed")],
)
async def test_an_audit_finds_a_counter_that_is_wrong(column: str, name: str | None, tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        await fill(storage)
        assert await storage.audit()
        with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
            connection.execute(f"UPDATE trio_tasks_queue SET {column} = {column} + 1")
            connection.commit()
        balance = await storage.audit()
        assert not balance
        assert not balance.is_balanced
        assert "not balanced" in str(balance)
        if name is not None:
            assert name in balance.wrong_counters
            assert f"{name} is " in str(balance)


async def test_an_audit_finds_a_task_that_is_missing(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        await fill(storage)
        with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
            connection.execute("DELETE FROM trio_tasks_task WHERE state = 0")
            connection.commit()
        balance = await storage.audit()
        assert not balance
        assert str(balance) == (
            "queue 'default' is not balanced: 7 pushed + 0 resumed ≠ 3 finished + 0 waiting + 3 delayed + 0 running; "
            "counters are wrong: waiting is 1, not 0"
        )


async def test_a_migration_counts_what_is_there(tmp_path: Path) -> None:
    """A released version did not count resumed tasks. So the migration counts finished and unfinished tasks beyond
    those pushed as resumed.
    """
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for step in range(2):
            for statement in vars(schema)["_MIGRATIONS"][step]:
                connection.execute(statement)
        connection.execute("UPDATE trio_tasks_meta SET value = 2 WHERE name = 'version'")
        connection.execute(
            "INSERT INTO trio_tasks_queue (name, live, pushed, succeeded, killed) VALUES ('default', 2, 4, 2, 1)"
        )
        for number, (state, due) in enumerate([(0, None), (1, 4e9), (3, 4e9), (3, None), (5, None)]):
            connection.execute(
                "INSERT INTO trio_tasks_task (queue, id, state, priority, turn, due, payload) "
                "VALUES (1, ?, ?, 0, 1, ?, x'01')",
                (f"t{number}", state, due),
            )
    async with SqliteStorage(path, int) as storage:
        balance = await storage.audit()
        assert balance, str(balance)
        assert balance.counters["resumed"] == 1
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["delayed"], metrics["kept_done"], metrics["kept_killed"]) == (1, 1, 2, 1)


def test_a_balance_is_a_value() -> None:
    totals = dict.fromkeys(("pushed", "resumed", "succeeded", "failed", "killed"), 0)
    there = dict.fromkeys(("waiting", "delayed", "running"), 0)
    assert Balance("q", {**totals, **there}, there) == Balance("q", {**totals, **there}, there)
