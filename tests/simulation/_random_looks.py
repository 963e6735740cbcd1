"""Looks at workers, and explanations of tasks, at random moments of a program, compared with what is known of them."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import trio
from trio_tasks import Explanation, Parts, Status, WorkerContext, WorkerInfo

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._program_run import ProgramRun
from tests.simulation._random_pushes import RandomPushes

_KINDS: dict[Status | None, set[str]] = {
    None: {"unknown"},
    Status.Pending: {"suspended", "delayed", "paused", "no_worker", "held_by_limit", "held_by_gate", "waiting"},
    Status.Queued: {"running"},
    Status.Running: {"running"},
    Status.Done: {"finished"},
    Status.Failed: {"finished"},
    Status.Killed: {"finished"},
}
"""The kinds of explanations that a task of each status may have."""


class RandomLooks:
    """Asks for workers and explanations.

    Args:
      checker: of the program.
      pushing: knows what was pushed.
    """

    def __init__(self, checker: ClaimChecker, pushing: RandomPushes) -> None:
        self._checker = checker
        self._pushing = pushing

    async def look(self, program_run: ProgramRun, random: Random) -> None:
        """Look now and then."""
        for _ in range(random.randint(2, 12)):
            await trio.sleep(random.choice((0, random.random() * 3)))
            storage = random.choice(program_run.storages)
            if random.random() < 0.5:
                await self._look_at_workers(storage, fresh=random.random() < 0.5)
            else:
                ids = self._pushing.ids or ["nobody"]
                unfinished = [each for each in ids if each not in self._checker.final]
                chosen = random.choice(unfinished if unfinished and random.random() < 0.8 else ids)
                await self._ask_for_explanation(program_run, storage, chosen)

    # Workers

    async def _look_at_workers(self, storage: Any, *, fresh: bool) -> None:
        checker = self._checker
        before = self._running()
        asked_at, began_at = checker.storage_now(), trio.current_time()
        infos: list[WorkerInfo] = await storage.workers(fresh=fresh)
        alive = [each for each in infos if each.is_alive]
        listed, there = Counter(each.name for each in alive), self._running()
        # 1. Each worker that was registered all the time is listed; and no other one that never was.
        least, most = (Counter(context.name for context in some) for some in (before & there, checker.ever_registered))
        if least - listed:
            checker.fault(f"{least - listed} are registered, and not listed: {infos}")
        if listed - most or any(each.name not in most for each in infos):
            checker.fault(f"{listed - most} are listed, and were never registered: {infos}")
        # 2. Those of this process are told of as they are now; of others, what they run was begun, and had not ended
        #    before they were asked, if they have answered since.
        for context in [each for each in there if checker.registered[each] is _handle(storage)]:
            told = _state(context.name, context.concurrency, [task.parts for task in context.running_tasks])
            if not any(_state_of(info) == told for info in infos):
                checker.fault(f"{context!r} runs {told}, and is not listed so: {infos}")
        for info in alive:
            is_new = info.as_of.timestamp() > asked_at
            for task in info.running:
                key = info.name, task.id, task.attempt
                ended_at = checker.ended.get(key, trio.current_time())
                if key not in checker.begun or (is_new and ended_at < began_at):
                    checker.fault(f"{info} was asked at {asked_at}, and does not run {task}")

    def _running(self) -> set[WorkerContext]:
        """Return the workers that are registered, and have not ended; one may end without being unregistered."""
        return {context for context in self._checker.registered if not context.is_stopped}

    # Explanations

    async def _ask_for_explanation(self, program_run: ProgramRun, storage: Any, task_id: str) -> None:
        before = await self._known(program_run, storage, task_id)
        found: Explanation = await storage.explain(task_id)
        if before != await self._known(program_run, storage, task_id):
            return  # it has changed meanwhile
        status, _, is_final, holders = before
        checker = self._checker
        checker.note(f"explain {found}")
        checker.seen[f"explained: {found.kind}"] += 1
        if found.kind not in _KINDS[status] or found.status is not status:
            checker.fault(f"{task_id} is {status}, and it is explained: {found!r}")
        if is_final and found.kind not in ("finished", "unknown"):
            checker.fault(f"{task_id} was {checker.final[task_id]}, and it is explained: {found!r}")
        if status is Status.Running and len(holders) == 1 and found.worker not in holders:
            checker.fault(f"{task_id} is run by {holders}, and it is explained: {found!r}")
        if not str(found).startswith(f"task {task_id} "):
            checker.fault(f"an explanation of {task_id} reads {found}")

    async def _known(
        self, program_run: ProgramRun, storage: Any, task_id: str
    ) -> tuple[Status | None, int, bool, frozenset[str]]:
        """Return what is known of a task: its status and attempt; if it is finished; and the workers that run it."""
        task = await storage.fetch_by_id(task_id)
        status, attempt = (None, 0) if task is None else (task.parts.status, int(task.parts.attempt))
        checker = self._checker
        latest = checker.latest.get(task_id)
        holders = frozenset(
            context.name
            for context in program_run.workers
            for each in context.running_tasks
            if latest is not None and latest in checker.claims_of(each) and latest.settled is None
        )
        is_lost = task_id in checker.lost or latest is None or latest.is_void or bool(latest.under_way)
        return status, attempt, task_id in checker.final, frozenset() if is_lost else holders


def _handle(storage: Any) -> object:
    """What all handles of a storage in one process have in common."""
    return storage._queue


def _state(name: str, slots: int, running: list[Parts]) -> tuple[str, int, list[tuple[str, int]]]:
    return name, slots, sorted((str(parts.id), int(parts.attempt)) for parts in running)


def _state_of(info: WorkerInfo) -> tuple[str, int, list[tuple[str, int]]]:
    return info.name, info.slots, sorted((each.id, each.attempt) for each in info.running)
