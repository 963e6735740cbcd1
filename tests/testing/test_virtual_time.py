"""Tests of virtual time, over every storage."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from trio_tasks import (
    FileStorage,
    MemoryStorage,
    RetryPolicy,
    SqliteStorage,
    Succeeded,
    Task,
    Worker,
    exponential,
)
from trio_tasks._clock import machine_now, wall_now
from trio_tasks._concurrency.threads import pause_instead
from trio_tasks.testing import advance, run_once, run_until_idle, virtual_clock

KINDS = ["memory", "file", "sqlite"]
Storage = MemoryStorage[int] | FileStorage[int] | SqliteStorage[int]


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(autojump=False) as clock:
        yield clock


@pytest.fixture
def jumping_clock() -> Iterator[MockClock]:
    with virtual_clock() as clock:
        yield clock


@asynccontextmanager
async def open_storage(kind: str, directory: Path) -> AsyncGenerator[Storage, None]:
    if kind == "memory":
        yield MemoryStorage[int]()
    elif kind == "file":
        async with FileStorage(directory / "tasks.journal", int, lease=3600) as storage:
            yield storage
    else:
        async with SqliteStorage(directory / "tasks.db", int, poll_interval=3600, lease=3600) as storage:
            yield storage


# The clock


def test_both_clocks_begin_and_go_on_together() -> None:
    start = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)

    async def main() -> None:
        assert trio.current_time() == 0
        assert wall_now() == start
        await trio.sleep(86400)
        assert wall_now() == start + timedelta(days=1)
        assert machine_now() == ("virtual time", 86400.0)

    with virtual_clock(start=start) as clock:
        trio.run(main, clock=clock)
    assert wall_now() > datetime(2025, 1, 1, tzinfo=timezone.utc)
    assert machine_now()[0] != "virtual time"
    assert pause_instead() is None


def test_afterwards_everything_is_as_it_was_though_it_failed() -> None:
    def fail() -> None:
        with virtual_clock():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert wall_now() > datetime(2025, 1, 1, tzinfo=timezone.utc)
    assert pause_instead() is None


@pytest.mark.parametrize("start", [datetime(2000, 1, 1), "2000-01-01"])  # noqa: DTZ001  that it has no zone is the point
def test_a_start_is_an_aware_datetime(start: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"start (must be a datetime|must have a time zone)"):
        with virtual_clock(start=start):
            pass  # pragma: no cover


async def test_sync_handlers_take_no_time(jumping_clock: MockClock) -> None:
    task = Task.builder(1).timeout(0.001).build()
    assert await run_once(lambda n: threading.current_thread().name, task) == Succeeded(threading.current_thread().name)
    assert trio.current_time() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_week_of_retries_takes_no_time(jumping_clock: MockClock, kind: str, tmp_path: Path) -> None:
    week = 7 * 86400

    async def handler(n: int) -> float:
        if trio.current_time() < week:
            raise ConnectionError("down")
        return trio.current_time()

    async with open_storage(kind, tmp_path) as storage:
        await storage.push(1)
        policy = RetryPolicy(attempts=100, backoff=exponential(60, maximum=6 * 3600))
        report = await run_until_idle(Worker("w", storage, handler, retry=policy), delayed=True)
    assert report.succeeded == 1
    assert week <= trio.current_time() < week + 6 * 3600 + 60


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_to_run_at_a_moment_does(jumping_clock: MockClock, kind: str, tmp_path: Path) -> None:
    began: list[float] = []

    async def handler(n: int) -> None:
        began.append(trio.current_time())

    async with open_storage(kind, tmp_path) as storage:
        await storage.push(1, run_at=datetime(2000, 1, 2, tzinfo=timezone.utc))
        [task] = await storage.list_tasks()
        assert task.parts.run_at == datetime(2000, 1, 2, tzinfo=timezone.utc)
        await run_until_idle(Worker("w", storage, handler), delayed=True)
    assert began == [pytest.approx(86400, abs=1e-3)]


# Letting it pass


async def test_time_stands_still_until_it_is_advanced(clock: MockClock) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert trio.current_time() == 0
    await advance(7.5)
    assert trio.current_time() == 7.5


@pytest.mark.parametrize("which", ["clock", "jumping_clock"])
def test_what_becomes_due_happens_at_its_time_and_in_its_order(which: str) -> None:
    said: list[tuple[str, float]] = []

    async def say(name: str, after: float, then: float) -> None:
        await trio.sleep(after)
        said.append((name, trio.current_time()))
        await trio.sleep(then)
        said.append((name, trio.current_time()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, "a", 1, 2.5)
            nursery.start_soon(say, "b", 2, 2)
            await advance(4)
            assert said == [("a", 1), ("b", 2), ("a", 3.5), ("b", 4)]
            nursery.cancel_scope.cancel()

    with virtual_clock(autojump=which != "clock") as clock:
        trio.run(main, clock=clock)


async def test_what_is_due_later_is_left_alone(clock: MockClock, nursery: trio.Nursery) -> None:
    woken = trio.Event()

    async def sleep() -> None:
        await trio.sleep(10)
        woken.set()

    nursery.start_soon(sleep)
    await advance(9.999)
    assert not woken.is_set()
    await advance(0.001)
    assert woken.is_set()


async def test_everything_settles_first_and_last(clock: MockClock, nursery: trio.Nursery) -> None:
    steps: list[float] = []

    async def go() -> None:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        steps.append(trio.current_time())
        await trio.sleep(1)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        steps.append(trio.current_time())

    nursery.start_soon(go)
    await advance(0)
    assert steps == [0]
    await advance(1)
    assert steps == [0, 1]


async def test_many_small_steps_lose_nothing(clock: MockClock, nursery: trio.Nursery) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        for number in range(1, 1001):
            await trio.sleep_until(number * 0.1)
            ticks.append(trio.current_time())

    nursery.start_soon(tick)
    await advance(100)
    assert len(ticks) == 1000
    assert max(abs(tick - number * 0.1) for number, tick in enumerate(ticks, 1)) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_and_its_retries(clock: MockClock, kind: str, tmp_path: Path) -> None:
    attempts: list[float] = []

    async def handler(n: int) -> None:
        attempts.append(round(trio.current_time(), 3))
        if len(attempts) < 3:
            raise OSError("busy")

    async with open_storage(kind, tmp_path) as storage, trio.open_nursery() as nursery:
        policy = RetryPolicy(backoff=exponential(10))
        await nursery.start(Worker("w", storage, handler, retry=policy).run)
        await storage.push(1, delay=3600)
        await advance(3599)
        assert not attempts
        await advance(1)
        assert attempts == [3600]
        await advance(9)
        assert len(attempts) == 1
        await advance(86400)
        assert attempts == [3600, 3610, 3630]
        nursery.cancel_scope.cancel()


async def test_cancelled_what_has_passed_has_passed(clock: MockClock) -> None:
    with trio.move_on_after(5):
        await advance(10)
    assert trio.current_time() == 5


async def test_only_a_clock_that_stands_still_can_be_advanced() -> None:
    with pytest.raises(RuntimeError, match=r"needs a trio\.testing\.MockClock of rate 0"):
        await advance(1)


def test_nor_one_that_runs_by_itself() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"needs a trio\.testing\.MockClock of rate 0"):
            await advance(1)

    trio.run(main, clock=MockClock(rate=1000))


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan, "1"])
async def test_seconds_are_seconds(clock: MockClock, seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds must be"):
        await advance(seconds)
