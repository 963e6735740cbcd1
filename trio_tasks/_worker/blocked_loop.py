"""A watch thread that logs which handler blocks an event loop, while it does so.

An async handler that does not come to a checkpoint stops everything in its thread: other attempts, heartbeats, timeouts
and cancellation. Nothing in that thread can say so. Therefore one thread of the process asks each run of trio in which
an attempt is under way, twice a second, to answer, and looks where it is when there is no answer. It sleeps while
nothing is under way, and ends with the last worker. Under a virtual clock there is no watch.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio

from .._concurrency.stacks import running_line, runs_in
from .._concurrency.threads import call_in_trio_thread, pause_instead
from .._logging import log_and_suppress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import FrameType
    from typing import Any

    from .._contracts.context import WorkerContext
    from .._tasks.task import Task

INTERVAL = 0.5
"""Seconds between two looks."""
BLOCKED_AFTER = 1.0
"""Seconds without an answer after which a loop is taken to be blocked; said again each time that they have doubled."""


@contextmanager
def watching_the_loop(context: WorkerContext) -> Generator[None, None, None]:
    """Log attempts of this worker that block the event loop inside the block, if the worker logs and time is real."""
    if context.attempt_log is None or pause_instead() is not None or not _is_real(trio.lowlevel.current_clock()):
        yield
        return
    loop = _watch.add(context)
    try:
        yield
    finally:
        _watch.remove(loop, context)


def _is_real(clock: trio.abc.Clock) -> bool:
    """Return True if time on this clock passes by itself."""
    return 0.9 < clock.deadline_to_sleep_time(clock.current_time() + 1.0) < 1.1


@final
class _Loop:
    """One trio run, and the workers in it."""

    def __init__(self) -> None:
        self.contexts: list[WorkerContext] = []
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self._asked_at = 0.0
        self._answered = True
        self._limit = BLOCKED_AFTER
        self._blocking: tuple[WorkerContext, Task[Any]] | None = None

    def look(self, now: float) -> None:
        """Check whether the event loop has answered since the last look, and ask again if it has."""
        waited = now - self._asked_at
        if not self._answered and waited >= self._limit:
            self._limit = 2 * waited
            self._name(waited)
        if self._answered and any(context.running_tasks for context in self.contexts):
            self._asked_at, self._answered, self._limit = now, False, BLOCKED_AFTER
            call_in_trio_thread(self._token, self._answer)

    def _answer(self) -> None:
        self._answered = True
        if self._blocking is not None:
            context, task = self._blocking
            self._blocking = None
            self._say(
                context,
                task,
                f"blocked the event loop, which stood still for {time.monotonic() - self._asked_at:.1f} s",
            )

    def _name(self, waited: float) -> None:
        """Log the attempt that runs now, if one does."""
        innermost: FrameType | None = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]  # it is documented, as a debugger's
        frames = list(_frame_and_callers(innermost))
        if self._answered:  # meanwhile; so what runs now need not be what has blocked
            return
        for context in tuple(self.contexts):
            for task in tuple(context.running_tasks):
                holder = task.parts.holder
                if runs_in(getattr(holder, "trio_task", None), frames):
                    self._blocking = context, task
                    line = running_line(reversed(frames))
                    self._say(context, task, f"blocks the event loop, for {waited:.1f} s by now, at {line}")
                    if self._answered:
                        self._blocking = None
                    return

    @staticmethod
    def _say(context: WorkerContext, task: Task[Any], text: str) -> None:
        if context.attempt_log is not None:
            context.attempt_log.warn(task, text)


def _frame_and_callers(frame: FrameType | None) -> Iterable[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


@final
class _Watch:
    """The watch thread, and the event loops that it looks at."""

    def __init__(self) -> None:
        self._loops: dict[trio.lowlevel.TrioToken, _Loop] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @trio.lowlevel.enable_ki_protection
    def add(self, context: WorkerContext) -> _Loop:
        """Watch the current trio run, for this worker."""
        with self._changed:
            loop = self._loops.setdefault(trio.lowlevel.current_trio_token(), _Loop())
            loop.contexts.append(context)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="trio_tasks: watch over event loops", daemon=True
                )
                self._thread.start()
        return loop

    @trio.lowlevel.enable_ki_protection
    def remove(self, loop: _Loop, context: WorkerContext) -> None:
        """Stop watching for a worker, which has ended."""
        with self._changed:
            loop.contexts.remove(context)
            if not loop.contexts:
                del self._loops[trio.lowlevel.current_trio_token()]
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._loops:
                    self._thread = None
                    return
                loops = tuple(self._loops.values())
            now = time.monotonic()
            for loop in loops:
                with log_and_suppress("the watch thread could not check an event loop"):
                    loop.look(now)
            with self._changed:
                if self._loops:
                    self._changed.wait(INTERVAL)


_watch = _Watch()
