"""A layer that logs attempts which take long, repeatedly, without ending them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

import outcome
import trio

from .._checks import check_seconds
from .._contracts.context import WorkerContext
from .._contracts.events import Custom
from .._logging import log, passes_through
from .._printing import escaped
from .._tasks.errors import WorkerError
from ._failures import FAILURES

if TYPE_CHECKING:
    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class StillRunning:
    """A report that an attempt at ``task`` has been running for ``seconds`` so far."""

    task: Task[Any]
    seconds: float


@final
class LongRunning:
    """Log a warning each time an attempt has run for another ``maximum`` seconds.

    Args:
      maximum: the interval in seconds, more than 0.

    Each time, a warning is logged, and the worker's listeners are told ``Custom(StillRunning(task, seconds))``. The
    attempt goes on: to end it, use :class:`Timeout`. A graceful shutdown waits for it, as for any other.

    Functions that a handler tracks (``WorkerContext.track``) are not watched.

    An attempt that never comes to a checkpoint lets no other trio task run. It is logged afterwards.

    What the attempt raises comes out as it is. A cancelled attempt is logged for as long as it cleans up.
    """

    __slots__ = ("maximum",)

    def __init__(self, maximum: float) -> None:
        self.maximum = check_seconds(maximum, "maximum", positive=True)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, with a timer beside it that logs warnings."""
        watch = _Watch(task, self.maximum)
        ended: outcome.Value[R] | outcome.Error | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.keep)
            try:
                ended = await _captured(handler, task)
            finally:
                watch.end()
        assert ended is not None
        return ended.unwrap()

    def __repr__(self) -> str:
        return f"<LongRunning, named after {self.maximum:g} s>"


async def _captured(handler: Handler[A, R], task: Task[A]) -> outcome.Value[R] | outcome.Error:
    """Return the result or the error of the attempt as a value, so that the nursery makes no group of the error.
    Interruptions are raised.
    """
    try:
        return outcome.Value(await handler(task))
    except FAILURES as error:
        if passes_through(error):
            raise
        return outcome.Error(error)  # noqa: ASYNC910  the handler was awaited


@final
class _Watch:
    """The timer that watches one attempt. A cancellation does not end it: the attempt may take long to clean up."""

    __slots__ = ("_due", "_interval", "_scope", "_started", "_task", "_told")

    def __init__(self, task: Task[Any], interval: float) -> None:
        self._task = task
        self._interval = interval
        self._started = self._told = trio.current_time()
        self._due = self._started + interval
        self._scope = trio.CancelScope(shield=True)

    async def keep(self) -> None:
        """Log the attempt each time it has lasted another interval."""
        with self._scope:
            while True:
                await trio.sleep_until(self._due)
                self._tell()

    def _tell(self) -> None:
        self._told = trio.current_time()
        self._due = self._told + self._interval
        seconds = self._told - self._started
        log.warning("task %s is still running, after %.3g s", escaped(self._task.parts.id), seconds)
        try:
            context = WorkerContext.of(self._task)
        except WorkerError:
            return  # without a worker there are no listeners
        context.emit(Custom(StillRunning(self._task, seconds)))

    def end(self) -> None:
        """Stop the timer, since the attempt has ended. If the timer is late by more than a tenth of
        the interval, the attempt has blocked the event loop: log that.
        """
        self._scope.cancel()
        now = trio.current_time()
        if now - self._due > self._interval / 10:
            log.warning(
                "task %s ran for %.3g s, the last %.3g s of them without letting another trio task run",
                escaped(self._task.parts.id),
                now - self._started,
                now - self._told,
            )
