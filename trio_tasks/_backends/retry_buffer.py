"""A retry buffer, which keeps retried and released tasks for a source that takes no task back.

A channel, or a function that fetches, gives tasks and takes none. So a retried or released task waits in a ledger here,
and goes before the source once it is due. One receiver at a time asks the source, under the deadline of the next task
that waits here; the others wait for a lock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

import trio

from .._concurrency.tracebacks import traceback_text
from .._concurrency.virtual_time import epoch_clock, is_virtual
from .._contracts.deadlines import end_of
from .._contracts.result_waits import ResultWaits
from .._logging import line_of, log
from .._tasks.errors import DuplicateTaskError
from .._tasks.outcome import Released, Retried, Suspended
from .._tasks.task import Task
from .ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._tasks.outcome import Outcome

A = TypeVar("A")


@final
class RetryBuffer(Generic[A]):
    """A source, and a ledger of the tasks that it gave.

    Args:
      receive: a function that waits for the next task or args, and raises ``trio.EndOfChannel`` after the last. If it
          is cancelled, it must have taken nothing. One trio task at a time calls it.
      receive_nowait: the same at once, or ``trio.WouldBlock``; if not given, the source can only be waited for.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[Task[A] | A]],
        receive_nowait: Callable[[], Task[A] | A] | None = None,
    ) -> None:
        self.name = "default"
        self.is_paused = False  # it never is
        self.completion = ResultWaits()
        self.ledger: Ledger[A] = Ledger(
            on_finish=self.completion.announce,
            keep_results=0,
            line_of=line_of,
            traceback_of=traceback_text,
            is_virtual=is_virtual,
        )
        self._receive = receive
        self._receive_nowait = receive_nowait
        self._ended = False
        self._receiving = trio.Lock()
        self._clock: trio.abc.Clock | None = None  # the clock of the trio run in which the buffer was last used
        self._asking = trio.CancelScope()  # the scope around the present or latest call of the source

    # Taking

    @trio.lowlevel.enable_ki_protection
    async def take(self) -> Task[A]:
        """Wait for the next task, and claim it.

        Raises:
          trio.EndOfChannel: the source has ended, and nothing waits here.

        If it is cancelled, nothing was taken. What the source raises comes through as it is.
        """
        async with self._receiving:
            while (task := self._take_kept()) is None:
                self._check_end()
                await self._ask()
            return task

    @trio.lowlevel.enable_ki_protection
    def take_nowait(self) -> Task[A]:
        """Claim the next task, or raise ``trio.WouldBlock`` if there is none now."""
        while (task := self._take_kept()) is None:
            self._check_end()
            if self._ended or self._receive_nowait is None:
                raise trio.WouldBlock
            try:
                self._accept(self._receive_nowait())
            except trio.EndOfChannel:
                self._ended = True
        return task

    def _take_kept(self) -> Task[A] | None:
        return self.ledger.take(trio.current_time()) if self.ledger.waiting else None

    def _check_end(self) -> None:
        if self._ended and not self.ledger.waiting:
            raise trio.EndOfChannel

    async def _ask(self) -> None:  # noqa: ASYNC910  the lock of the caller was a checkpoint
        """Wait until the source gives a task or ends, or until a task in the buffer is due."""
        due = self.ledger.next_due
        with trio.CancelScope(deadline=math.inf if due is None else due) as self._asking:  # noqa: ASYNC912  if the source does not wait, nor do we
            try:
                if self._ended:
                    await trio.sleep_forever()
                self._accept(await self._receive())
            except trio.EndOfChannel:
                self._ended = True

    def _accept(self, item: Task[A] | A) -> None:
        task = cast("Task[A]", item) if isinstance(item, Task) else Task(item)
        clock = trio.lowlevel.current_clock()
        if clock is not self._clock:
            self._clock, self.ledger.clock = clock, epoch_clock()
        terms = task.parts.terms
        # A channel hands over no deadline that could be inherited.
        end = end_of(terms, inherits=False) if isinstance(terms.deadline, float) else None
        try:
            self.ledger.push(task, clock.current_time(), end)
        except DuplicateTaskError as error:  # the sender is not known here, so only log it
            log.warning("a task from a channel was ignored: %s", error)
        else:
            self._keep_time()

    # Coming back

    @trio.lowlevel.enable_ki_protection
    def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome of the attempt; raise :class:`LeaseLostError` if the task is not running."""
        now = trio.current_time()
        self.ledger.settle(task, outcome, now)
        if isinstance(outcome, (Retried, Suspended)):
            due = now + outcome.after if isinstance(outcome, Retried) else outcome.until
            self._keep_time() if due > now else self.match_waiters()
        elif isinstance(outcome, Released):
            self.match_waiters()

    def expire(self) -> None:
        """Kill tasks that were not started in time."""
        if self.ledger.is_timed():
            self.ledger.expire(trio.current_time())

    def match_waiters(self) -> None:
        """Interrupt the call of the source, so that the receiver takes a task of the buffer that may be ready."""
        self._asking.cancel()

    def _keep_time(self) -> None:
        """Let the call of the source end when the next task in the buffer is due."""
        due = self.ledger.next_due
        self._asking.deadline = math.inf if due is None else due
