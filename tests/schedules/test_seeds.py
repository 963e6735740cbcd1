"""Tests of random histories of schedulers: they start, are cut short and fail, and people and clocks act meanwhile.

A seed decides all of it; ``TRIO_TASKS_SEEDS=1234`` runs one, ``5000-9000`` runs many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, Firing, Schedules, every
from trio_tasks._clock import use_wall_clock
from trio_tasks.abc import StoreSchedules
from trio_tasks.testing import run_seeded

from tests._logging_off import logging_off
from tests._scale import seeds
from tests._storages import STORAGES

pytestmark = [pytest.mark.searching, pytest.mark.nightly]

BEGIN = 1_800_000_000
STEPS = 30
GRID = {"all": 7, "latest": 11, "paused": 15, "newer": 9}
_FIRST, _, _LAST = os.environ.get("TRIO_TASKS_SEEDS", "").partition("-")
Opener = Callable[[Path], AbstractAsyncContextManager[Any]]


class RoughStore(StoreSchedules):
    """A store that fails now and then: before it does anything, or after it has done it."""

    def __init__(self, storage: Any, random: Random) -> None:
        self.storage, self.queue = storage, storage.queue
        self.random = random
        self.rate = random.choice((0.0, 0.0, 0.05, 0.2))

    async def list_schedules(self, after: int = 0, *, name: str | None = None) -> Any:
        return await self._call(lambda: self.storage.list_schedules(after, name=name))

    async def set_schedules(self, changes: Any) -> Any:
        return await self._call(lambda: self.storage.set_schedules(changes))

    def make_template(self, task: Any) -> Any:
        return self.storage.make_template(task)

    async def wait_for_schedules(self, seen: int = 0) -> int:
        found: int = await self._call(lambda: self.storage.wait_for_schedules(seen))
        return found

    async def _call(self, call: Callable[[], Any]) -> Any:
        what = self.random.random()
        if what < self.rate / 2:
            await trio.lowlevel.checkpoint()
            raise BackendError("the disk is busy")
        result = await call()
        if what < self.rate:
            raise BackendError("the answer was lost")
        return result


class History:
    """One random history.

    Args:
      storage: an empty storage.
      seed: the seed.
    """

    def __init__(self, storage: Any, seed: int) -> None:
        self.storage = storage
        self.random = Random(f"schedules {seed}")
        self.ahead = self.most_ahead = 0.0
        self.person = Schedules(storage)
        self.programs: list[trio.CancelScope] = []
        self.pauses: list[tuple[int, int]] = []
        """The numbers of tasks of the paused schedule, when each pause had begun and when it was to end."""

    def now(self) -> float:
        return BEGIN + self.ahead + trio.current_time()

    def program(self, store: Any, *, is_newer: bool) -> Schedules:
        """Make the schedules of a program; a newer one has one more, and lacks none."""
        schedules = Schedules(store)
        for name, seconds in GRID.items():
            if name != "newer" or is_newer:
                missed = "latest" if name == "latest" else "all"
                schedules.declare(name, 1, every(seconds=seconds), missed=missed, overlap="allow", limit=10_000)  # type: ignore[arg-type]  # one of the two
        return schedules

    async def run(self) -> None:
        with use_wall_clock(self.now):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.start, True)
                for _ in range(self.random.randrange(STEPS)):
                    await self.step(nursery)
                nursery.cancel_scope.cancel()
            self.ahead = max(self.most_ahead, self.ahead)  # or all of the time that is left may have been before
            with trio.move_on_after(60):  # at last, one goes on in peace
                await self.program(self.storage, is_newer=True).run()
            await self.check()

    async def step(self, nursery: trio.Nursery) -> None:
        random = self.random
        await trio.sleep(random.choice((0, random.random(), random.random() * 20)))
        what = random.random()
        if what < 0.4 and len(self.programs) < 4:
            nursery.start_soon(self.start, random.random() < 0.7)
        elif what < 0.7 and self.programs:
            for _ in range(random.choice((1, 1, len(self.programs)))):
                self.programs.pop(random.randrange(len(self.programs))).cancel()
        elif what < 0.8:
            self.most_ahead = max(self.most_ahead, self.ahead)
            self.ahead += random.choice((-600, -5, 5, 60, 600)) * random.random()
        elif what < 0.9:
            await self.pause()
        else:
            await self.person.run_now("latest")

    async def start(  # noqa: ASYNC114, ASYNC128  the name is ours alone, and run() calls started()
        self, is_newer: bool, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        schedules = self.program(RoughStore(self.storage, self.random), is_newer=is_newer)
        with trio.CancelScope() as scope:
            self.programs.append(scope)
            await schedules.run(task_status=task_status)

    async def pause(self) -> None:
        assert await self.person.pause("paused")
        before = len(await self.fired("paused"))
        await trio.sleep(self.random.random() * 30)
        self.pauses.append((before, len(await self.fired("paused"))))
        assert await self.person.resume("paused")

    async def fired(self, name: str) -> list[Firing]:
        firings = [await Firing.from_task(task) for task in await self.storage.list_tasks(limit=100_000)]
        return sorted((each for each in firings if each.schedule == name), key=lambda each: each.time)

    async def check(self) -> None:
        """Each time was fired once; of the two whose every time counts, none is missing but those of a pause."""
        for name, seconds in GRID.items():
            firings = [each for each in await self.fired(name) if each.time.timestamp() % seconds == 0]
            times = [each.time.timestamp() for each in firings]
            assert len(times) == len({*times}), f"{name} was fired twice for one time"
            assert times, f"{name} was not fired"
            if name in ("all", "newer"):
                gaps = [(a, b) for a, b in pairwise(times) if b != a + seconds]
                assert not gaps, f"{name} was not fired between {gaps}"
        for name in ("all", "paused", "newer"):
            firings = await self.fired(name)
            assert [each.previous for each in firings] == [None, *[each.time for each in firings[:-1]]]
        assert [before for before, _ in self.pauses] == [after for _, after in self.pauses], "a pause holds"
        assert not [each.name for each in await self.person.list() if each.is_orphaned]


def run(opened: Opener, path: Path, seed: int) -> History:
    async def main() -> History:
        async with opened(path / f"tasks{seed}") as storage:
            history = History(storage, seed)
            await history.run()
            return history

    with logging_off():
        return run_seeded(main, seed=seed)


@pytest.mark.parametrize(("kind", "number"), [("memory", 400), ("file", 100), ("sqlite", 100)])
def test_schedulers_fire_each_time_once_whatever_happens(kind: str, number: int, tmp_path: Path) -> None:
    chosen = range(int(_FIRST), int(_LAST or _FIRST) + 1) if _FIRST else seeds(number)
    for seed in chosen:
        try:
            run(STORAGES[kind], tmp_path, seed)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {kind}: {error!r}") from error
