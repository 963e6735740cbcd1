"""The suspended tasks of one key that wait for a limit, in the order in which they first came.

A task that must wait is put back into its storage, and joins the line here once it is there. When a place is free, the
first in the line is *woken*: it is made ready in its storage, and the place is *kept* for it until it arrives. It may
never do so, since it was cancelled or another process took it; so after a while the next one is woken as well. A place
that is kept for a task may be taken by one that came before that task, and by no other. So none is overtaken, and no
place is idle for longer than it takes to wake a task.

The line is in memory. So each task has a time at which it comes back in any case.
"""

from __future__ import annotations

import logging
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, final

import trio

from .._contracts.attempt_log import AttemptLog
from .._tasks.errors import SuspendError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._contracts.backend import Reschedule
    from .._contracts.context import WorkerContext
    from .._tasks.task import Task

_FIRST_RETURN, _LATEST_RETURN = 30.0, 300.0
"""Seconds after which a task comes back that was not woken: at first, and at most."""
_KEPT_FOR_AT_LEAST, _KEPT_FOR_AT_MOST = 0.05, 10.0
"""Seconds for which a place is kept: as long as the last attempt took, within these bounds."""
_LOST_AFTER = 600.0
"""Seconds after which a task that was woken is not expected any more, so that its turn can be forgotten."""


def suspension(task: Task[Any], delay: float, reason: str) -> SuspendError:
    """Return the error that suspends a task for want of room, as happens all the time: the log has it at DEBUG."""
    error = SuspendError(delay, reason)
    if (log := AttemptLog.of(task)) is not None:
        log.note(task, error, 0.0, logging.DEBUG)
    return error


@final
class Waiter:
    """A task that was suspended since there was no place for it.

    Args:
      line: the line of its key.
      turn: its number, in the order in which the tasks first came.
      task_id: the id of the task.
      backend: the backend that has it.
      context: the run of the worker that suspended it.
    """

    __slots__ = ("backend", "context", "gone", "left", "line", "since", "task_id", "turn")

    def __init__(
        self, line: SuspendedLine, turn: int, task_id: str, backend: Reschedule, context: WorkerContext
    ) -> None:
        self.line = line
        self.turn = turn
        self.task_id = task_id
        self.backend = backend
        self.context = context
        self.since = trio.current_time()
        self.gone = trio.Event()  # set when no place is kept for it any more
        self.left: float | None = None  # when it left its line

    @property
    def returns_in(self) -> float:
        """Seconds after which it comes back if it is not woken: as many as it has waited, within bounds."""
        return min(max(_FIRST_RETURN, trio.current_time() - self.since), _LATEST_RETURN)

    @property
    def is_lost(self) -> bool:
        """True if it was woken, and has not come for so long that it will not."""
        return self.left is not None and trio.current_time() - self.left > _LOST_AFTER


@final
class SuspendedLine:
    """The suspended tasks of one key, and the places that are kept for those that were woken.

    Args:
      free: a function that returns the number of places that are not in use.
      on_change: a function that is called when the line may have become empty.
    """

    __slots__ = ("_by_turn", "_free", "_kept", "_on_change", "_turns", "kept_for")

    def __init__(self, free: Callable[[], int], on_change: Callable[[], object]) -> None:
        self._free = free
        self._on_change = on_change
        self._by_turn: dict[int, Waiter] = {}
        self._turns: list[int] = []  # a heap, with turns of waiters that have left
        self._kept: dict[int, Waiter] = {}  # by their turns, those for which a place is kept
        self.kept_for = 0.0
        """Seconds for which a place is kept, before bounds: the duration of the last attempt."""

    def __len__(self) -> int:
        return len(self._by_turn)

    @property
    def kept(self) -> int:
        """The number of places that are kept."""
        return len(self._kept)

    def kept_before(self, waiter: Waiter | None) -> int:
        """Return the number of places that are kept for tasks that came before this one; None has come just now."""
        return self.kept if waiter is None else sum(turn < waiter.turn for turn in self._kept)

    def join(self, waiter: Waiter) -> None:
        """Add a task that is suspended now, at its turn; wake the first one if there is a place."""
        waiter.left = None
        self._by_turn[waiter.turn] = waiter
        heappush(self._turns, waiter.turn)
        self.wake()

    def leave(self, waiter: Waiter) -> None:
        """Remove a task, which has come back; no place is kept for it any more."""
        waiter.left = trio.current_time()
        self._by_turn.pop(waiter.turn, None)
        self._stop_keeping(waiter)

    def _stop_keeping(self, waiter: Waiter) -> None:
        if self._kept.pop(waiter.turn, None) is not None:
            waiter.gone.set()

    def wake(self) -> None:
        """Wake as many tasks as there are free places that are not kept, the first ones of the line."""
        while self._by_turn and self.kept < self._free():
            waiter = self._by_turn.pop(heappop(self._turns), None)
            if waiter is None:  # a turn that was left
                continue
            waiter.left = trio.current_time()
            if waiter.context.intake_state.closed or waiter.context.intake_state.cancelled:
                continue  # its worker takes no more tasks: it comes back by itself
            waiter.gone = trio.Event()
            self._kept[waiter.turn] = waiter
            try:
                waiter.context.track(self._wake, waiter)
            except WorkerError:  # the run is over
                self._stop_keeping(waiter)
        if not self._by_turn:
            self._turns.clear()
        self._on_change()

    async def _wake(self, waiter: Waiter) -> None:
        """Make a task ready, and keep its place until it arrives or its time is over; then wake the next one if there
        is a place. If the storage fails, no other is woken before the next place is free.
        """
        has_failed = False
        try:
            await self._keep_place(waiter)
        except Exception:
            has_failed = True
            raise
        finally:
            self._stop_keeping(waiter)
            if has_failed:
                self._on_change()
            else:
                self.wake()

    async def _keep_place(self, waiter: Waiter) -> None:
        if not await waiter.backend.reschedule(waiter.task_id, 0.0):
            return  # it was cancelled, say, or has been taken already
        seconds = min(max(_KEPT_FOR_AT_LEAST, self.kept_for), _KEPT_FOR_AT_MOST)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_wait, waiter.context.wait_shutting_down, nursery)
                nursery.start_soon(_wait, waiter.gone.wait, nursery)


async def _wait(wait: Callable[[], Awaitable[None]], nursery: trio.Nursery) -> None:
    """Wait for one of several things; then end the waits for the others."""
    await wait()
    nursery.cancel_scope.cancel()
