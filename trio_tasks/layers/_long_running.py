"""A layer that logs attempts which take long, repeatedly, without ending them."""

from __future__ import annotations

from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

import outcome
import trio

from .._checks import check_seconds
from .._concurrency.background import open_background
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

    __slots__ = ("_watchers", "maximum")

    def __init__(self, maximum: float) -> None:
        self.maximum = check_seconds(maximum, "maximum", positive=True)
        self._watchers: dict[WorkerContext, _Watcher] = {}  # of runs that have begun an attempt

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt. A watcher, which is one for all attempts of a worker, logs warnings meanwhile."""
        watcher = self._watcher_in(getattr(task.parts.holder, "context", None))
        if watcher is None:
            return await self._run_beside_a_watcher(handler, task)
        watch = _Watch(task, self.maximum)
        watcher.add(watch)
        try:
            return await handler(task)
        finally:
            watcher.discard(watch)
            watch.end()

    def _watcher_in(self, context: WorkerContext | None) -> _Watcher | None:
        """Return the watcher of the worker's run, which is started for the first attempt; None without a worker."""
        watcher = None if context is None else self._watchers.get(context)
        if watcher is None and context is not None and context.background is not None:
            watcher = self._watchers[context] = _Watcher()
            context.background.start(self._watch, context, watcher)
        return watcher

    @trio.lowlevel.enable_ki_protection
    async def _watch(self, context: WorkerContext, watcher: _Watcher) -> None:
        try:
            await watcher.run()
        finally:
            del self._watchers[context]

    async def _run_beside_a_watcher(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt without a worker, beside a watcher of its own."""
        watcher, watch = _Watcher(), _Watch(task, self.maximum)
        ended: outcome.Value[R] | outcome.Error | None = None
        async with open_background() as background:
            background.start(watcher.run)
            watcher.add(watch)
            try:
                ended = await _captured(handler, task)
            finally:
                watcher.discard(watch)
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
    """An attempt that is watched, with the time at which it is to be logged next."""

    __slots__ = ("_interval", "_started", "_task", "_told", "context", "due")

    def __init__(self, task: Task[Any], interval: float) -> None:
        self._task = task
        self._interval = interval
        self._started = self._told = trio.current_time()
        self.due = self._started + interval
        self.context = copy_context()
        """The context variables of the attempt when it began: filters of the log and listeners see them."""

    def tell(self) -> None:
        """Log that the attempt is still running."""
        self._told = trio.current_time()
        self.due = self._told + self._interval
        seconds = self._told - self._started
        log.warning("task %s is still running, after %.3g s", escaped(self._task.parts.id), seconds)
        try:
            context = WorkerContext.of(self._task)
        except WorkerError:
            return  # without a worker there are no listeners
        context.emit(Custom(StillRunning(self._task, seconds)))

    def end(self) -> None:
        """Note that the attempt has ended. If it should have been logged a tenth of the interval ago and was not, it
        has blocked the event loop: log that.
        """
        now = trio.current_time()
        if now - self.due > self._interval / 10:
            log.warning(
                "task %s ran for %.3g s, the last %.3g s of them without letting another trio task run",
                escaped(self._task.parts.id),
                now - self._started,
                now - self._told,
            )


@final
class _Watcher:
    """The watcher of attempts that have one interval. A cancellation does not end it: an attempt may take long to clean
    up.

    It sleeps until the first of them is to be logged. If that one has ended by then, it sleeps again: so an attempt
    that begins and ends wakes nothing.
    """

    __slots__ = ("_asleep", "_watches")

    def __init__(self) -> None:
        self._watches: dict[_Watch, None] = {}  # in the order in which they are due, since the interval is the same
        self._asleep = trio.lowlevel.ParkingLot()  # where it is while there is nothing to watch

    def add(self, watch: _Watch) -> None:
        """Watch this attempt."""
        self._watches[watch] = None
        if self._asleep:
            self._asleep.unpark()

    def discard(self, watch: _Watch) -> None:
        """Watch this attempt no longer."""
        self._watches.pop(watch, None)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Log each attempt each time it has lasted another interval."""
        while True:
            first = next(iter(self._watches), None)
            if first is None:
                await self._asleep.park()
            elif trio.current_time() < first.due:
                await trio.sleep_until(first.due)
            else:
                self._watches[first] = self._watches.pop(first)
                first.context.run(first.tell)
                await trio.lowlevel.checkpoint()
