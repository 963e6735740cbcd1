"""People who meddle with a program: with its tasks, its workers, its monitors."""

from __future__ import annotations

from random import Random
from typing import Any

import trio
from trio_tasks import DuplicateTaskError

from tests.simulation._books import Books
from tests.simulation._hiring import Hiring
from tests.simulation._life import Life
from tests.simulation._pushing import Pushing


class Meddling:
    """What they do.

    Args:
      books: of the program.
      pushing: knows what was pushed.
      hiring: to have more workers.
    """

    def __init__(self, books: Books, pushing: Pushing, hiring: Hiring) -> None:
        self._books = books
        self._pushing = pushing
        self._hiring = hiring

    async def meddle(self, life: Life, nursery: trio.Nursery, random: Random) -> None:
        """Do a few things to tasks and to workers."""
        for _ in range(random.randint(0, 20)):
            await trio.sleep(random.choice((0, random.random() * 3)))
            what = random.choice((self._meddle_with_a_task, self._meddle_with_a_task, self._meddle_with_a_worker))
            await what(life, random)
            if random.random() < 0.1:
                self._hiring.hire(life, nursery)

    async def try_doors(self, life: Life, random: Random) -> None:
        """Push what has been pushed, and think better of it; and listen to whom others listen."""
        for _ in range(random.randint(0, 4)):
            await trio.sleep(random.random() * 5)
            await self._pushing.push_again(random.choice(life.storages), random)
            await self._pushing.push_and_cut(random.choice(life.storages), random)
            if life.bosses:
                random.choice(life.bosses).invite_listener()

    async def _meddle_with_a_task(self, life: Life, random: Random) -> None:
        storage, books = random.choice(life.storages), self._books
        task_id = random.choice(self._pushing.ids or ["nobody"])
        what = random.choice(("abort", "abort", "cancel", "reschedule", "resume", "wait", "abandoned"))
        books.note(f"{what} {task_id}")
        if what == "abort":
            books.to_abort.add(task_id)
            if await storage.abort(task_id):
                books.was_aborted(task_id)
        elif what == "cancel":
            await storage.cancel(task_id)
        elif what == "reschedule":
            delay = random.choice((0.0, random.random() * 10))
            books.will_reschedule(task_id, delay)
            try:
                await storage.reschedule(task_id, delay)
            finally:
                books.was_rescheduled(task_id)
        elif what == "resume":
            await self._resume(storage, task_id)
        elif what == "wait" and await storage.fetch_by_id(task_id) is not None:
            with trio.move_on_after(random.random()):
                await storage.wait_for(task_id)
        elif what == "abandoned":
            resumed = await storage.resume_abandoned()
            if resumed and not books.has_leases:
                books.fault(f"{resumed} tasks were abandoned, without leases")

    async def _resume(self, storage: Any, task_id: str) -> None:
        self._books.will_resume(task_id)
        resumed = False
        try:
            with trio.CancelScope(shield=True):  # or nobody would know
                resumed = await storage.resume_by_id(task_id)
        except DuplicateTaskError:
            pass  # its unique key is taken
        self._books.was_resumed(task_id, really=resumed)

    async def _meddle_with_a_worker(self, life: Life, random: Random) -> None:
        context = random.choice([*life.workers, None])
        what = random.random()
        if what < 0.15 and life.scopes:
            random.choice(life.scopes).cancel()
        elif what < 0.25 and life.bosses:
            random.choice(life.bosses).shut_down()
        elif context is not None and what < 0.4:
            life.stop(context)
        elif context is not None:
            context.pause()
            await trio.sleep(random.choice((0, random.random() * 3)))
            context.resume()
