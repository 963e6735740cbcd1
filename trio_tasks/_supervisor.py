"""One run of a monitor: its root nursery, the workers in it, and how it ends."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, final

import trio

from ._checks import check_seconds
from ._concurrency.background import run_and_cancelling
from ._concurrency.exception_groups import leaves, unnested
from ._concurrency.threads import call_in_trio_thread
from ._contracts.report import Report
from ._worker.stuck_attempts import log_where_stuck
from ._worker.worker import Worker

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from ._contracts.context import Listener, WorkerContext
    from ._contracts.report import WorkerReport
    from ._tasks.retry import Backoff

    Factory = Callable[[int], Worker[Any, Any]]


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """What a monitor was told about shutdown and restarts; :class:`Monitor` says what each means."""

    shutdown_timeout: float | None
    terminator: Callable[[], Awaitable[object]] | None
    should_restart: Callable[[WorkerContext, Exception, int], bool]
    restart_backoff: Backoff
    max_restarts: int | None
    restart_period: float


@final
class Supervisor:
    """One run of a monitor.

    Args:
      policy: what the monitor was told.
      listeners: hear the events of all workers; more may be added at any time.
    """

    def __init__(self, policy: Policy, listeners: tuple[Listener, ...]) -> None:
        self.cancel_scope = trio.CancelScope()
        self.shutting_down = trio.Event()
        self.contexts: list[WorkerContext] = []
        self.was_started = False
        self._policy = policy
        self._listeners = listeners
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._reports: list[WorkerReport] = []
        self._restarts = 0
        self._errors: list[Exception] = []

    @property
    def is_running(self) -> bool:
        """Whether its nursery is open."""
        return self._nursery is not None

    def report(self) -> Report:
        """What it has come to so far."""
        return Report(tuple(self._reports), self._restarts, tuple(self._errors))

    @asynccontextmanager
    async def group(self, members: Iterable[Factory]) -> AsyncGenerator[None, None]:
        """The root nursery, around the block; it is left when all workers have ended."""
        self.was_started = True
        try:
            with self.cancel_scope, unnested():
                async with run_and_cancelling(self._terminate), trio.open_nursery() as self._nursery:
                    self._token = trio.lowlevel.current_trio_token()
                    for member in members:
                        self.start(member)
                    yield
        finally:
            self._nursery = None

    def start(self, member: Factory) -> None:
        """Keep one more worker running."""
        assert self._nursery is not None
        self._nursery.start_soon(self._keep, member)

    def add_listeners(self, listeners: tuple[Listener, ...]) -> None:
        """From now on, these hear the events too."""
        self._listeners += listeners
        for context in self.contexts:
            context.listeners += listeners

    # Ending

    def shut_down(self) -> None:
        """Stop all intake, and set the deadline; from this thread or any other."""
        call_in_trio_thread(self._token, self._shut_down)

    def _shut_down(self) -> None:
        if self.shutting_down.is_set():
            return
        self.shutting_down.set()
        if self._policy.shutdown_timeout is not None and self.is_running:
            deadline = trio.current_time() + self._policy.shutdown_timeout
            self.cancel_scope.deadline = min(self.cancel_scope.deadline, deadline)
        for context in self.contexts:
            context.stop()

    def cancel(self) -> None:
        """Time is up."""
        self.cancel_scope.cancel()

    def name_stuck_threads(self) -> bool:
        """Name the attempts that are in threads, and go on in spite of the cancellation. Return whether there are some,
        and the log had named all of them already."""
        if not self.cancel_scope.cancel_called:
            return False
        stuck = [context for context in self.contexts if context.in_threads()]
        had_named = [context for context in stuck if context.in_threads() <= context.named]
        for context in stuck:
            log_where_stuck(context)
        return bool(stuck) and stuck == had_named

    async def _terminate(self) -> None:
        await self.shutting_down.wait()
        if self._policy.terminator is not None:
            await self._policy.terminator()
            self.cancel_scope.cancel()

    # Keeping one worker

    async def _keep(self, member: Factory) -> None:  # noqa: ASYNC910  running a worker is a checkpoint
        """Run a worker, and again for as long as it fails and the policy allows."""
        restarted: deque[float] = deque()
        for attempt in count(1):
            if self.shutting_down.is_set():
                return  # noqa: ASYNC910  running a worker is a checkpoint
            context, group = await self._run_worker(member, attempt)
            if group is None:
                return
            error = group.exceptions[0] if len(group.exceptions) == 1 else group
            self._errors.append(error)
            try:
                if self.shutting_down.is_set() or not self._may_restart(context, error, attempt, restarted):
                    raise group
                delay = check_seconds(self._policy.restart_backoff(attempt), "what restart_backoff gave")
            except ExceptionGroup:
                raise
            except Exception as trouble:
                errors = [*group.exceptions, trouble]
                raise ExceptionGroup(f"{context!r} failed, and so did its policy", errors) from None
            with trio.move_on_after(delay):
                await self.shutting_down.wait()
                return
            self._restarts += 1
            restarted.append(trio.current_time())

    async def _run_worker(
        self, member: Factory, attempt: int
    ) -> tuple[WorkerContext, ExceptionGroup[Exception] | None]:
        worker = self._make(member, attempt)
        context = worker.prepare(on_event=self._listeners)
        self.contexts.append(context)
        try:
            await worker.run(context)
        except ExceptionGroup as group:
            return context, group  # noqa: ASYNC910  running a worker is a checkpoint
        except BaseExceptionGroup as group:  # cancelled, or interrupted, and it failed over that
            self._errors += [each for each in leaves(group) if isinstance(each, Exception)]
            raise
        finally:
            self.contexts.remove(context)
            self._reports.append(context.report())
        return context, None

    def _make(self, member: Factory, attempt: int) -> Worker[Any, Any]:
        """What cannot be made is not restarted either: the error is the program's, not the worker's."""
        try:
            worker = member(attempt)
            if not isinstance(worker, Worker):
                raise TypeError(f"a function that is registered must return a Worker; {member!r} gave {worker!r}")
        except Exception as error:
            self._errors.append(error)
            raise
        return worker

    def _may_restart(self, context: WorkerContext, error: Exception, attempt: int, restarted: deque[float]) -> bool:
        policy = self._policy
        while restarted and restarted[0] <= trio.current_time() - policy.restart_period:
            restarted.popleft()
        if policy.max_restarts is not None and len(restarted) >= policy.max_restarts:
            return False
        return bool(policy.should_restart(context, error, attempt))
