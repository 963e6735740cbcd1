"""Tests of what happens to a stored schedule, case by case, as the documentation tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import Firing, Schedules, every
from trio_tasks._clock import use_wall_clock
from trio_tasks.testing import virtual_clock

from tests._storages import STORAGES
from tests.schedules._stories import STORIES, Story, Verb, steps_of, times_of

BEGIN = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=BEGIN) as clock:
        yield clock


class Player:
    """Plays a story, and notes which times are fired at which minute.

    Args:
      story: the story.
      storage: an empty storage.
      nursery: one for the programs.
      ahead: a function that sets the wall clock ahead by so many seconds.
    """

    def __init__(self, story: Story, storage: Any, nursery: trio.Nursery, ahead: Callable[[float], None]) -> None:
        self.settings = {"overlap": "allow", **story.settings}
        self.hours = self.settings.pop("hours", 0)
        self._story = story
        self._storage = storage
        self._nursery = nursery
        self._ahead = ahead
        self._person = Schedules(storage)
        self._programs: dict[str, trio.CancelScope] = {}

    async def step(self, verb: Verb) -> None:
        if verb.startswith("start"):
            schedules = Schedules(self._storage)
            if verb != "start without":
                schedules.declare("it", 1, times_of(self._story, verb), **self.settings)
            self._programs[verb] = await self._nursery.start(self._run, schedules)
        elif verb.startswith("end"):
            for name in [*self._programs] if verb == "end" else ["start newer"]:
                self._programs.pop(name).cancel()
        elif verb in ("put", "edit"):
            await self._person.put("it", 1, times_of(self._story, verb), **self.settings)
        elif verb == "set the clock":
            self._ahead(self.hours * 3600)
            await self._person.put("other", 1, every(days=1000))  # virtual time is not looked at each second
        elif verb == "finish":
            await self._storage.discard((await self._storage.list_tasks())[0].parts.id)
        else:
            calls = {"pause": self._person.pause, "resume": self._person.resume, "remove": self._person.remove}
            assert await {**calls, "run now": self._person.run_now}[verb]("it")

    async def _run(  # noqa: ASYNC114  the name is ours alone
        self, schedules: Schedules, task_status: trio.TaskStatus[trio.CancelScope]
    ) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(schedules.run)
                task_status.started(scope)

    async def is_orphaned(self) -> bool:
        return any(each.is_orphaned for each in await self._person.list() if each.name == "it")


async def play(story: Story, storage: Any, clock: MockClock) -> tuple[str, bool]:
    """Return the times that are fired, as the story has them, and True if the schedule is orphaned at the end."""
    ahead, found, known = 0.0, list[tuple[datetime, str]](), set[str]()

    def set_ahead(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    with use_wall_clock(lambda: BEGIN.timestamp() + ahead + clock.current_time()):
        async with trio.open_nursery() as nursery:
            player = Player(story, storage, nursery, set_ahead)
            for minute in range(66):
                for time, verb in steps_of(story):
                    if time == f"{BEGIN + timedelta(minutes=minute):%H:%M}":
                        await player.step(verb)
                await trio.sleep(0.5)
                now = BEGIN + timedelta(seconds=ahead + 60 * minute)
                for task in await storage.list_tasks(limit=1000):
                    if task.parts.id not in known:
                        fired = (await Firing.from_task(task)).time
                        at = "" if fired == now else f" (at {now:%H:%M})"
                        found.append((fired, f"{fired:%H:%M}{at}"))
                        known.add(task.parts.id)
                await trio.sleep(59.5)
            is_orphaned = await player.is_orphaned()
            nursery.cancel_scope.cancel()
    return " ".join(text for _, text in sorted(found)), is_orphaned


PAIRS = [(story, kind) for n, story in enumerate(STORIES) for kind in ("memory", ("file", "sqlite")[n % 2])]
"""Each story in memory, and in a store in turn."""


@pytest.mark.parametrize(("story", "kind"), PAIRS, ids=[f"{s.title}: {s.told:.30} {s.settings} {k}" for s, k in PAIRS])
async def test_a_schedule_is_fired_as_it_is_told(story: Story, kind: str, tmp_path: Path, clock: MockClock) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        assert await play(story, storage, clock) == (story.fired, story.orphaned)
