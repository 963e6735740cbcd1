"""Tests of schedules in several processes on one file: kills and clocks that are set lose no time, and repeat none."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import Firing, Schedules, SqliteStorage, every

from tests._progress import Progress
from tests._scale import FIRST_SEED, scaled

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
HOUR, DAY = 3600, 86400
PROCESSES = 4


class Group:
    """Processes that fire the schedules of one file."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.path = path
        self._nursery = nursery
        self.offset = path.with_suffix(".offset")
        self.processes: list[trio.Process] = []

    async def add(self) -> None:
        """Start a process, and wait until it runs."""
        command = [sys.executable, "-m", "tests.schedules._scheduler_process", str(self.path), str(self.offset)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        start: Callable[..., Any] = trio.run_process
        process: trio.Process = await self._nursery.start(
            lambda *, task_status: start(
                command, stdout=subprocess.PIPE, check=False, cwd=ROOT, env=environment, task_status=task_status
            )
        )
        self.processes.append(process)

    async def kill(self, process: trio.Process) -> None:
        process.kill()
        await process.wait()
        self.processes.remove(process)

    async def set_clock(self, ahead: float) -> None:
        """Set the clocks of all processes: in one step, so that none reads a half of it."""
        new = self.offset.with_suffix(".new")
        new.write_text(str(ahead))
        new.replace(self.offset)


async def firings(storage: Any) -> list[Firing]:
    """All firings, in the order in which they were pushed."""
    found: list[Firing] = []
    after: str | None = None
    while True:
        page = await storage.list_tasks(limit=1000, after=after)
        found += [await Firing.from_task(task) for task in page]
        if (after := page.next) is None:
            return found


async def wait_for_more(storage: Any, number: int) -> None:
    """Wait until so many more tasks were pushed."""
    wanted, progress = (await storage.metrics())["pushed"] + number, Progress(120.0)
    while (pushed := (await storage.metrics())["pushed"]) < wanted:
        progress.note(pushed, "no schedule was fired")
        await trio.sleep(0.1)


@pytest.mark.nightly
async def test_kills_and_clocks_that_are_set_lose_no_time_and_repeat_none(tmp_path: Path) -> None:
    chance = random.Random(FIRST_SEED)
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage, trio.open_nursery() as nursery:
        group = Group(tmp_path / "tasks.db", nursery)
        await group.set_clock(0)
        for _ in range(PROCESSES):
            await group.add()
        for _ in range(max(2, scaled(30))):
            await wait_for_more(storage, chance.randint(2, 6))
            await group.kill(chance.choice(group.processes))
            if not chance.randrange(3):  # at times nobody runs
                for process in [*group.processes]:
                    await group.kill(process)
            while len(group.processes) < PROCESSES:
                await group.add()
        await wait_for_more(storage, 4)
        await group.set_clock(-HOUR)
        await trio.sleep(3)  # so that all processes have seen it
        before = await firings(storage)
        await trio.sleep(2)
        assert len(await firings(storage)) == len(before), "a clock that is set back repeats nothing"
        await group.set_clock(DAY)
        await wait_for_more(storage, 104)
        for process in [*group.processes]:
            await group.kill(process)
        check(before, await firings(storage))


def check(before: list[Firing], after: list[Firing]) -> None:
    """Check that each time was fired once, and that none is missing but those that may be passed over."""
    counts = Counter((each.schedule, each.time) for each in after)
    assert {key: count for key, count in counts.items() if count > 1} == {}
    for name, step in (("all", 1), ("minutes", 60)):
        times = sorted(each.time.timestamp() for each in before if each.schedule == name)
        assert times == [times[0] + step * number for number in range(len(times))] if times else name == "minutes"
    for name in ("all", "latest", "minutes"):
        chain = sorted((each for each in after if each.schedule == name), key=lambda each: each.time)
        assert [each.previous for each in chain] == [None, *[each.time for each in chain[:-1]]][: len(chain)]
    late = [each for each in after if each not in before]
    days = sorted(each.time.timestamp() - before[-1].time.timestamp() for each in late if each.schedule == "latest")
    assert days[0] > DAY - 600, "of the day that was left out, the last time"
    assert sum(each.schedule == "minutes" for each in late) >= 100, "of the minutes of it, a hundred"


async def test_what_another_process_changes_holds(tmp_path: Path) -> None:
    def of_new(found: list[Firing]) -> list[Firing]:
        return [each for each in found if each.schedule == "new"]

    async with SqliteStorage(tmp_path / "tasks.db", int) as storage, trio.open_nursery() as nursery:
        group = Group(tmp_path / "tasks.db", nursery)
        await group.set_clock(0)
        await group.add()
        schedules = Schedules(storage)
        await schedules.put("new", 4, every(seconds=1), overlap="allow")
        progress = Progress(120.0)
        while not of_new(found := await firings(storage)):
            progress.note(0, "the schedule was not fired")
            await trio.sleep(0.1)
        assert await schedules.pause("new")
        number = len(of_new(await firings(storage)))
        await wait_for_more(storage, 6)
        assert len(of_new(await firings(storage))) == number, "a pause holds at once"
        await schedules.resume("new")
        progress = Progress(120.0)
        while len(of_new(found := await firings(storage))) == number:
            progress.note(0, "the schedule was not fired again")
            await trio.sleep(0.1)
        for process in [*group.processes]:
            await group.kill(process)
        times = [each.time for each in of_new(found)]
        assert len(set(times)) == len(times)
