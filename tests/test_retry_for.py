"""Tests of ``retry_for``: the time after which errors are not retried any more."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    FileStorage,
    MemoryStorage,
    RetryAfterError,
    RetryPolicy,
    SqliteStorage,
    Status,
    Task,
    Worker,
    constant,
)

OPEN: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: MemoryStorage[int](),
    "file": lambda path: FileStorage(path, int, synchronous="NORMAL"),
}  # an SQLite file has a thread, which takes real time, in which a virtual clock jumps on
on_each_storage = pytest.mark.parametrize("kind", OPEN)


async def attempts_of(storage: Any, handler: Any) -> list[float]:
    """Run a worker on a task until that is finished; return when its attempts began."""
    begun: list[float] = []

    async def noted(task: Task[int]) -> object:
        begun.append(trio.current_time())
        return await handler(task)

    policy = RetryPolicy(attempts=1000, backoff=constant(10.0))
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, noted, retry=policy).run)
        await storage.wait_for("a")
        context.stop()
    return [moment - begun[0] for moment in begun]


async def fail(task: Task[int]) -> None:
    await trio.sleep(1.0)
    raise ValueError("no")


@on_each_storage
async def test_errors_are_retried_for_so_long(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with OPEN[kind](tmp_path / "store") as storage:
        await storage.push(1, id="a", retry_for=30.0)
        begun = await attempts_of(storage, fail)
        assert begun == pytest.approx([0.0, 11.0, 22.0, 33.0], abs=1.0)  # the last one fails after 34 seconds
        found = await storage.fetch_by_id("a")
        assert (found.parts.status, found.parts.attempt, found.parts.retry_for) == (Status.Failed, 4, 30.0)


@on_each_storage
async def test_it_counts_from_the_first_attempt_even_of_many(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with OPEN[kind](tmp_path / "store") as storage:
        await storage.push(1, id="a", delay=100.0, retry_for=1000.0)
        begun = await attempts_of(storage, fail)
        assert begun[-1] == pytest.approx(1000.0, abs=12.0)
        assert len(begun) > 80


@on_each_storage
async def test_it_counts_anew_when_the_task_is_resumed(kind: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with OPEN[kind](tmp_path / "store") as storage:
        await storage.push(1, id="a", retry_for=15.0)
        assert len(await attempts_of(storage, fail)) == 3
        await trio.sleep(100)
        assert await storage.resume_by_id("a")
        assert len(await attempts_of(storage, fail)) == 3


async def test_an_sqlite_file_stores_it(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        await storage.push(1, id="a", retry_for=30.0)
        found = await storage.fetch_by_id("a")
        assert found is not None
        assert found.parts.retry_for == 30.0


async def test_errors_that_ask_for_a_retry_are_not_retried_either(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1, id="a", retry_for=15.0)

    async def later(task: Task[int]) -> None:
        await trio.lowlevel.checkpoint()
        raise RetryAfterError("later", 5.0)

    assert len(await attempts_of(storage, later)) == 4
    result = await storage.wait_for("a")
    assert (result.status, type(result.error)) == (Status.Failed, RetryAfterError)


async def test_an_attempt_is_not_cut_short_and_may_succeed(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1, id="a", retry_for=15.0)

    async def slow(task: Task[int]) -> int:
        await trio.sleep(60.0)
        return 5

    assert len(await attempts_of(storage, slow)) == 1
    assert (await storage.wait_for("a")).result == 5


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, "5", None])
async def test_wrong_values_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="retry_for"):
        await MemoryStorage[int]().push(1, retry_for=wrong)


def test_it_is_given_to_a_builder_too() -> None:
    assert Task.builder(1).retry_for(5).build().parts.retry_for == 5
