"""Random calls: tasks that are pushed and waited for, and end when the wait is cancelled at some moment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from random import Random
from typing import Any

import trio
from trio_tasks import Pushed, TaskId, UnknownTaskError
from trio_tasks._contracts.calls import SETTLE_TIMEOUT
from trio_tasks._tasks.task import make_task

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._random_handlers import PlainBaseError
from tests.simulation._random_pushes import RandomPushes

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

_CLOSE = 1e-3
_KEYS = (None, "x", "y")


@dataclass
class Ended:
    """The end of a call: its result, or its error, or neither if it was cancelled; and the times of both."""

    id: TaskId
    result: int | None = None
    error: BaseException | None = None
    cancelled_at: float = 0.0
    returned_at: float = 0.0

    @property
    def was_cancelled(self) -> bool:
        return self.result is None and self.error is None


class RandomCalls:
    """Calls storages at random, and checks what is left of each call.

    Args:
      checker: is told what was pushed, and what was forgotten.
      pushing: is told of tasks that are finished and remembered, so that they are resumed, for example.
      lease: the seconds of a lease of the storages.
    """

    def __init__(self, checker: ClaimChecker, pushing: RandomPushes, lease: float) -> None:
        self._checker = checker
        self._pushing = pushing
        self._bound = lease + SETTLE_TIMEOUT
        self._open: set[TaskId] = set()  # tasks of calls that were not seen finished
        self._number = 0

    async def call(self, storage: Any, random: Random) -> None:
        """Make a few calls, each of which is perhaps cancelled: after some steps, or some seconds."""
        for _ in range(random.randint(1, 6)):
            await trio.sleep(random.choice((0, random.random() * 4)))
            await self._call_one(storage, random)

    def _options(self, random: Random) -> Any:
        self._number += 1
        options: dict[str, Any] = {"id": f"call-{self._number}", "priority": random.choice((0, 0, -1, 5))}
        options["key"] = random.choice(_KEYS)
        options["delay"] = random.choice((0.0, 0.0, 2 * random.random()))
        options["attempts"] = random.choice((None, 1, 2))
        if random.random() < 0.3:
            options |= {"unique": random.choice("ab"), "on_conflict": random.choice(("skip", "skip", "replace"))}
        return {name: value for name, value in options.items() if value is not None}

    async def _call_one(self, storage: Any, random: Random) -> None:
        checker, options, args = self._checker, self._options(random), random.randrange(1000)
        ended = Ended(TaskId(options["id"]))
        checker.will_push(make_task(args, options))
        checker.refused.add(ended.id)
        checker.to_abort.add(ended.id)
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel, scope, random.randrange(20), random.choice((0.0, 1.0, 9.0, 99.0)))
                    nursery.start_soon(_note_cancellation, ended)
                    await _wait(storage, args, options, ended)
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._check(storage, args, ended)

    async def _check(self, storage: Any, args: int, ended: Ended) -> None:
        checker = self._checker
        checker.note(f"called {ended}")
        is_new = Pushed(ended.id, True) in checker.told
        checker.seen["a call that was cancelled"] += is_new and ended.was_cancelled
        checker.seen["a call that returned"] += is_new and ended.result is not None
        checker.seen["a call whose key was taken"] += not is_new and ended.result is not None
        if not is_new:
            return
        checker.refused.discard(ended.id)
        checker.pushed.add(ended.id)
        self._open.add(ended.id)
        if ended.result not in (None, args * 2):
            checker.fault(f"{ended}, for {args}")
        if ended.was_cancelled:
            self._check_that_nothing_runs(ended)
        await self.forget_withdrawn(storage)
        if ended.id in self._open and ended.was_cancelled and not self._was_late(ended):
            checker.fault(f"{ended}, and its task is still {await storage.fetch_by_id(ended.id)}")
        if ended.id in checker.forgotten and not (ended.was_cancelled or isinstance(ended.error, UnknownTaskError)):
            checker.fault(f"{ended}, and its task is forgotten")

    def _was_late(self, ended: Ended) -> bool:
        """Return True if a call that was cancelled has waited for as long as it may."""
        seconds = ended.returned_at - ended.cancelled_at
        if seconds > self._bound + _CLOSE and not self._checker.may_oversleep:
            self._checker.fault(f"{ended} has taken longer than {self._bound:g} s to end")
        self._checker.seen["a call that ended at its bound"] += seconds >= self._bound - _CLOSE
        return seconds >= self._bound - _CLOSE

    def _check_that_nothing_runs(self, ended: Ended) -> None:
        """Check that no attempt of a call that was cancelled is under way, unless its lease was lost."""
        checker = self._checker
        if ended.id in checker.lost or self._was_late(ended):
            return
        left = [
            claim
            for claim in checker.claims_of_task(ended.id)
            if not (claim.settled or claim.is_void or claim.under_way)
        ]
        running = [parts for parts, number in checker.children.items() if number and parts.id == ended.id]
        if running and not (left and checker.has_leases):
            checker.fault(f"{ended}, and {running} is still under way")
        for claim in left:
            if not checker.has_leases or checker.storage_now() < claim.lease_until - _CLOSE:
                checker.fault(f"{ended}, and {claim} is not settled")
        checker.seen["a call that was cancelled under its attempt"] += ended.id in checker.final

    async def forget_withdrawn(self, storage: Any) -> None:
        """Note which tasks of calls are forgotten, and which are finished, and stay."""
        checker = self._checker
        for task_id in sorted(self._open):
            found = await storage.fetch_by_id(task_id)
            if found is None and task_id in checker.pushed:
                checker.was_withdrawn(task_id)
            if found is not None and found.parts.status.is_final:
                self._pushing.ids.append(task_id)
            if found is None or found.parts.status.is_final:
                self._open.discard(task_id)


async def _wait(storage: Any, args: int, options: Any, ended: Ended) -> None:
    """Make a call, and note its end."""
    try:
        ended.result = await storage.call(args, **options)
    except (Exception, SystemExit, PlainBaseError, BaseExceptionGroup) as error:  # as its task did
        ended.error = error
    finally:
        ended.returned_at = trio.current_time()


async def _cancel(scope: trio.CancelScope, steps: int, seconds: float) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    await trio.sleep(seconds)
    scope.cancel()


async def _note_cancellation(ended: Ended) -> None:
    try:
        await trio.sleep_forever()
    finally:
        ended.cancelled_at = trio.current_time()
