"""Tests of schedules that are cancelled at each moment: a change is made or not, and each time is fired once."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, Firing, MemoryStorage, Schedules, every
from trio_tasks.testing import Cut, explore_cancellations


@asynccontextmanager
async def memory() -> AsyncGenerator[Any, None]:
    yield MemoryStorage[int]()


@asynccontextmanager
async def file() -> AsyncGenerator[Any, None]:
    with tempfile.TemporaryDirectory() as directory:
        async with FileStorage(Path(directory, "tasks"), int, synchronous="NORMAL") as storage:
            yield storage


Opener = Callable[[], Any]
everywhere = pytest.mark.parametrize("opened", [memory, file])


async def state(storage: Any, schedules: Schedules) -> Any:
    tasks = [task.args for task in await storage.list_tasks()]
    stored = [(entry.name, entry.schedule) for entry in await storage.list_schedules()]
    return tasks, [(name, each.times, each.is_paused, each.template.payload) for name, each in stored if each]


CHANGES: dict[str, Callable[[Schedules], Awaitable[object]]] = {
    "put": lambda schedules: schedules.put("each", 2, every(minutes=2)),
    "put anew": lambda schedules: schedules.put("new", 2, every(minutes=2)),
    "pause": lambda schedules: schedules.pause("each"),
    "resume": lambda schedules: schedules.resume("paused"),
    "remove": lambda schedules: schedules.remove("each"),
    "run_now": lambda schedules: schedules.run_now("each"),
    "prune": lambda schedules: schedules.prune(),
    "list": lambda schedules: schedules.list(),
}


@everywhere
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_made_or_not(opened: Opener, name: str) -> None:
    async def prepare(storage: Any) -> Schedules:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(minutes=1))
        await schedules.put("paused", 1, every(minutes=1))
        await schedules.pause("paused")
        orphaned = Schedules(storage)
        orphaned.declare("orphaned", 1, every(hours=1))
        for each in (orphaned, schedules):
            with trio.move_on_after(1):
                await each.run()
        assert [each.name for each in await schedules.list() if each.is_orphaned] == ["orphaned"]
        return schedules

    async def scenario(cut: Cut) -> None:
        async with opened() as storage, opened() as other:
            schedules, whole = await prepare(storage), await prepare(other)
            before = await state(storage, schedules)
            await CHANGES[name](whole)
            after = await state(other, whole)
            returned = False
            with cut:
                await CHANGES[name](schedules)
                returned = True
            assert await state(storage, schedules) in ([after] if returned else [before, after])

    assert explore_cancellations(scenario).cuts > 1


@everywhere
def test_a_scheduler_that_is_cancelled_loses_and_repeats_no_time(opened: Opener) -> None:
    def declare(storage: Any) -> Schedules:
        schedules = Schedules(storage)
        for name in ("a", "b"):
            schedules.declare(name, 1, every(minutes=1), missed="all", overlap="allow")
        return schedules

    async def scenario(cut: Cut) -> None:
        async with opened() as storage:
            with cut, trio.move_on_after(130):
                await declare(storage).run()
            with trio.move_on_after(130):
                await declare(storage).run()
            fired = [await Firing.from_task(task) for task in await storage.list_tasks()]
            for name in ("a", "b"):
                times = sorted(each.time for each in fired if each.schedule == name)
                assert len(times) >= 2
                assert times == [times[0] + timedelta(minutes=n) for n in range(len(times))]

    assert explore_cancellations(scenario).cuts > 1


@everywhere
def test_a_scheduler_that_is_cancelled_marks_orphans_later_and_keeps_its_own(opened: Opener) -> None:
    def declared(storage: Any) -> Schedules:
        schedules = Schedules(storage)
        for name in ("a", "b"):
            schedules.declare(name, 1, every(minutes=30))
        return schedules

    async def run(schedules: Schedules, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await schedules.run()

    async def orphaned(storage: Any) -> list[str]:
        return [each.name for each in await Schedules(storage).list() if each.is_orphaned]

    async def scenario(cut: Cut) -> None:
        async with opened() as storage:
            await run(declared(storage), 1)
            with cut:
                await run(Schedules(storage), 1)  # it has not the code: it marks them
            await run(Schedules(storage), 1)
            assert await orphaned(storage) == ["a", "b"]
            with cut:
                await run(declared(storage), 1)  # it has: it takes the marks back
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, Schedules(storage), 1200)
                await run(declared(storage), 1200)  # both: it postpones them, again and again
                assert await orphaned(storage) == []

    assert explore_cancellations(scenario).cuts > 1


@everywhere
def test_reading_a_firing_changes_nothing(opened: Opener) -> None:
    async def scenario(cut: Cut) -> None:
        async with opened() as storage:
            schedules = Schedules(storage)
            await schedules.put("each", 1, every(minutes=1))
            await schedules.run_now("each")
            task = await storage.receive()
            with cut:
                await Firing.from_task(task)
            assert (await Firing.from_task(task)).time <= datetime.now(timezone.utc) + timedelta(days=1)

    assert explore_cancellations(scenario).cuts > 0
