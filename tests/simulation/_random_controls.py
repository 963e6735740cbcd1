"""Random calls of the controls of tasks, workers and monitors, while a program runs."""

from __future__ import annotations

from random import Random
from typing import Any

import trio
from trio_tasks import DuplicateTaskError

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._program_run import ProgramRun
from tests.simulation._random_pushes import RandomPushes
from tests.simulation._random_workers import RandomWorkers


class RandomControls:
    """Calls controls at random.

    Args:
      checker: of the program.
      pushing: knows what was pushed.
      random_workers: to have more workers.
    """

    def __init__(self, checker: ClaimChecker, pushing: RandomPushes, random_workers: RandomWorkers) -> None:
        self._checker = checker
        self._pushing = pushing
        self._random_workers = random_workers

    async def act(self, program_run: ProgramRun, nursery: trio.Nursery, random: Random) -> None:
        """Call a few controls of tasks and workers."""
        for _ in range(random.randint(0, 20)):
            await trio.sleep(random.choice((0, random.random() * 3)))
            what = random.choice((self._control_task, self._control_task, self._control_worker))
            await what(program_run, random)
            if random.random() < 0.1:
                self._random_workers.start_worker(program_run, nursery)

    async def push_again_and_listen(self, program_run: ProgramRun, random: Random) -> None:
        """Push known tasks again, cancel pushes, and add listeners."""
        for _ in range(random.randint(0, 4)):
            await trio.sleep(random.random() * 5)
            await self._pushing.push_again(random.choice(program_run.storages), random)
            await self._pushing.push_and_cut(random.choice(program_run.storages), random)
            if program_run.monitors:
                random.choice(program_run.monitors).add_listener()

    async def _control_task(self, program_run: ProgramRun, random: Random) -> None:
        storage, checker = random.choice(program_run.storages), self._checker
        task_id = random.choice(self._pushing.ids or ["nobody"])
        what = random.choice(("abort", "abort", "cancel", "reschedule", "resume", "wait", "abandoned", "pause"))
        checker.note(f"{what} {task_id}")
        if what == "abort":
            checker.to_abort.add(task_id)
            if await storage.abort(task_id):
                checker.was_aborted(task_id)
        elif what == "cancel":
            await storage.cancel(task_id)
        elif what == "reschedule":
            delay = random.choice((0.0, random.random() * 10))
            checker.will_reschedule(task_id, delay)
            try:
                await storage.reschedule(task_id, delay)
            finally:
                checker.was_rescheduled(task_id)
        elif what == "resume":
            await self._resume(storage, task_id)
        elif what == "wait" and await storage.fetch_by_id(task_id) is not None:
            with trio.move_on_after(random.random()):
                await storage.wait_for(task_id)
        elif what == "pause":
            await storage.pause()
            try:
                await trio.sleep(random.random() * 3)
            finally:
                with trio.CancelScope(shield=True):  # or no task would come any more
                    await storage.resume()
        elif what == "abandoned":
            resumed = await storage.resume_abandoned()
            if resumed and not checker.has_leases:
                checker.fault(f"{resumed} tasks were abandoned, without leases")

    async def _resume(self, storage: Any, task_id: str) -> None:
        self._checker.will_resume(task_id)
        resumed = False
        try:
            with trio.CancelScope(shield=True):  # or nobody would know
                resumed = await storage.resume_by_id(task_id)
        except DuplicateTaskError:
            pass  # its unique key is taken
        self._checker.was_resumed(task_id, really=resumed)

    async def _control_worker(self, program_run: ProgramRun, random: Random) -> None:
        context = random.choice([*program_run.workers, None])
        what = random.random()
        if what < 0.15 and program_run.scopes:
            random.choice(program_run.scopes).cancel()
        elif what < 0.25 and program_run.monitors:
            random.choice(program_run.monitors).shut_down()
        elif context is not None and what < 0.4:
            program_run.stop(context)
        elif context is not None:
            context.pause()
            await trio.sleep(random.choice((0, random.random() * 3)))
            context.resume()
