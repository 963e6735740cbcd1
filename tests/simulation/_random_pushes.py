"""Random pushes, single and in bulk, with all options, over a connection that may fail."""

from __future__ import annotations

import math
from contextlib import suppress
from random import Random
from typing import Any

import trio
from trio_tasks import BackendError, DuplicateTaskError, Task, TaskBuilder
from trio_tasks._tasks.task import OnConflict

from tests._attempt_checker import ALL
from tests.simulation._claim_checker import ClaimChecker

HELD: list[dict[str, Any]] = [{}, {"until": "start"}, {}, {"until": "forgotten"}, {}, {"seconds": 4.0}]
"""How long unique keys are held, in turn."""
_KEYS = (None, "x", "y", "x")
"""The keys of the groups of tasks, in turn."""
_ON_CONFLICT: tuple[OnConflict, ...] = ("skip", "replace", "raise")


class RandomPushes:
    """Pushes tasks at random, and reports the results to the checker.

    Args:
      checker: to enter it in.
    """

    def __init__(self, checker: ClaimChecker) -> None:
        self.ids: list[str] = []
        self._checker = checker
        self._bulks = 0

    async def push(self, storage: Any, random: Random) -> None:
        """Push a few tasks; try again while the connection is down."""
        for _ in range(random.randint(1, 8)):
            await trio.sleep(random.choice((0, 0, random.random() * 5)))
            try:
                if random.random() < 0.2:
                    await self._push_bulk(storage, random)
                else:
                    await self.push_one(storage, self.task(random), random.choice((math.inf, math.inf, 0, 1)))
            except trio.ClosedResourceError:
                return

    def task(self, random: Random) -> Task[int]:
        builder = TaskBuilder(random.randrange(1000)).priority(random.choice((0, 0, -1, 5)))
        delay = random.random() * 10 if random.random() < 0.3 else 0.0
        if delay:
            builder.run_after(delay)
        if random.random() < 0.2:
            builder.expires_in(delay + 0.1 + random.random() * 10)
        if len(self.ids) % 5 == 3:
            builder.deadline(delay + 0.1 + len(self.ids) % 9)
        if random.random() < 0.3:
            builder.attempts(random.randint(1, 4))
        if random.random() < 0.2:
            builder.timeout(0.1 + random.random() * 3)
        if random.random() < 0.2:
            key, on_conflict = random.choice("ab"), random.choice(_ON_CONFLICT)
            builder.unique(key, on_conflict=on_conflict, **HELD[len(self.ids) % len(HELD)])
        group = _KEYS[len(self.ids) % len(_KEYS)]
        return (builder if group is None else builder.key(group)).build()

    async def push_one(self, storage: Any, task: Task[int], seconds: float) -> None:
        checker, task_id = self._checker, task.parts.id
        checker.will_push(task)
        checker.refused.add(task_id)  # until it says otherwise
        self.ids.append(task_id)
        with trio.move_on_after(seconds):
            while True:
                try:
                    answer = await storage.push_task(task)
                except DuplicateTaskError:
                    return
                except BackendError:
                    await trio.sleep(1)  # it may be pushed again: its id makes it count once
                    continue
                break
            if answer == task_id:
                checker.refused.discard(task_id)
                checker.pushed.add(task_id)

    async def push_and_cut(self, storage: Any, random: Random) -> None:
        """Push, and cancel the push at some moment."""

        async def cut(rounds: int) -> None:
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut, random.randint(1, 6))
            with suppress(trio.ClosedResourceError):
                await self.push_one(storage, self.task(random), math.inf)
            nursery.cancel_scope.cancel()

    async def push_again(self, storage: Any, random: Random) -> None:
        """Check that a task that is remembered cannot be pushed again."""
        known = [task_id for task_id in self.ids if task_id in self._checker.pushed]
        task = TaskBuilder(0).id(random.choice(known or ["nobody"])).build()
        if task.parts.id == "nobody":
            return
        with trio.move_on_after(1), suppress(DuplicateTaskError, trio.ClosedResourceError):
            await storage.push_task(task)
            self._checker.fault(f"{task.parts.id} was pushed, and is pushed again")

    async def push_too_late(self, storage: Any) -> None:
        """Check that a closed storage refuses a push."""
        task = Task(0)
        self._checker.refused.add(task.parts.id)
        with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError):
            await storage.push_task(task)
            self._checker.fault(f"{task.parts.id} was pushed to a closed storage")

    async def _push_bulk(self, storage: Any, random: Random) -> None:
        """Push a bulk; if it is cut short, its first tasks are stored."""
        self._bulks += 1
        size, name = random.randint(0, 4), f"bulk {self._bulks}"
        ids: list[Any] = []
        tasks: list[Task[int]] = []
        done = False
        try:
            with trio.move_on_after(random.choice((math.inf, 1))):
                delay = random.choice((0.0, 1.0))
                ids = await storage.push_bulk(range(size), metadata={"bulk": name}, delay=delay)
                done = True
        except BackendError:
            pass
        finally:
            with trio.CancelScope(shield=True):
                tasks = await getattr(storage, "backend", storage).list_tasks(limit=ALL)
            stored = [task for task in tasks if task.parts.metadata.get("bulk") == name]
            if sorted(_number(task) for task in stored) != list(range(size if done else len(stored))):
                self._checker.fault(f"of a bulk of {size}, {stored} are stored")
            self._checker.pushed.update(ids, (task.parts.id for task in stored))
            self.ids += ids


def _number(task: Task[int]) -> int:
    return task.args
