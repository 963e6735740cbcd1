"""A thread that owns a connection and makes all calls on it, in order.

Threads make a program nondeterministic. A run that has to be repeatable does without: the caller makes its calls in
place, after a pause.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio
from outcome import Outcome, capture

from ..._concurrency.threads import pause_instead
from ..._logging import log_and_suppress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._concurrency.threads import Pause

T = TypeVar("T")


@final
class WriterThread:
    """A thread that makes calls in the order in which they were given.

    Args:
      name: the name of the thread.
      on_idle: a function that is called in the thread once no call has come for ``idle_after`` seconds since the last
          one.
    """

    def __init__(self, name: str, on_idle: Callable[[], None], idle_after: float) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._on_idle = on_idle
        self._idle_after = idle_after
        self._pause = pause_instead()
        self._line: deque[Callable[[], None]] = deque()
        if self._pause is not None:
            return
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @trio.lowlevel.enable_ki_protection
    async def call(self, fn: Callable[..., T], *args: Any) -> T:
        """Call ``fn(*args)`` in the thread, and return its result. It cannot be cancelled."""
        if self._pause is not None:
            return await self._call_in_place(self._pause, fn, *args)
        self._calls.put(_Call(fn, args, trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()))
        result: T = await trio.lowlevel.wait_task_rescheduled(_stay)
        return result

    def do_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call ``fn(*args)`` in the thread without waiting; an error is logged."""
        if self._pause is None:
            self._calls.put(_Call(fn, args))
            return
        self._line.append(_Call(fn, args).make)
        if len(self._line) == 1:  # no other call is before it
            self._line.popleft()()

    async def _call_in_place(self, pause: Pause, fn: Callable[..., T], *args: Any) -> T:
        """Without threads: pause for as long as the thread would take, then make all calls up to this one."""
        answers: list[Outcome[T]] = []
        self._line.append(lambda: answers.append(capture(fn, *args)))
        with trio.CancelScope(shield=True):
            await pause()
        while not answers:
            self._line.popleft()()
        if not self._line:
            self._be_idle()
        return answers[0].unwrap()

    def end(self) -> None:
        """End the thread after the calls that it was given so far."""
        self._calls.put(None)

    def _be_idle(self) -> None:
        with log_and_suppress("a writer thread failed in its idle work"):
            self._on_idle()

    def _run(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=self._idle_after)
            except queue.Empty:
                self._be_idle()
                call = self._calls.get()
            if call is None:
                return
            call.make()


@final
class _Call:
    """A call to make in the thread, and the trio task that waits for its result, if any."""

    __slots__ = ("_args", "_fn", "_token", "_trio_task")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        trio_task: trio.lowlevel.Task | None = None,
        token: trio.lowlevel.TrioToken | None = None,
    ) -> None:
        self._fn = fn
        self._args = args
        self._trio_task = trio_task
        self._token = token

    def make(self) -> None:
        """Make the call, and wake the trio task that waits with its result."""
        if self._token is None or self._trio_task is None:
            with log_and_suppress("%r failed in a writer thread", self._fn):
                self._fn(*self._args)
            return
        result: Outcome[Any] = capture(self._fn, *self._args)
        with suppress(trio.RunFinishedError):  # the run has ended
            self._token.run_sync_soon(trio.lowlevel.reschedule, self._trio_task, result)


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
