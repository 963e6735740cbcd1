"""A monitor: a root nursery of workers. Graceful shutdown is one assignment to the deadline of its cancel scope."""

from __future__ import annotations

import signal
import sys
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, final

import trio
from trio_util import run_and_cancelling

from ._backoff import exponential
from ._checks import check_callable, check_count, check_seconds
from ._context import WorkerContext, check_listeners
from ._errors import MonitorError
from ._report import Report
from ._worker import Worker

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from types import TracebackType

    from ._backoff import Backoff
    from ._events import Listener
    from ._report import WorkerReport

    Factory = Callable[[int], Worker[Any, Any]]


def _never(context: WorkerContext, error: Exception, attempt: int) -> bool:
    return False


@final
class Monitor:
    """Runs workers together, restarts those that fail if the policy says so, and stops them all gracefully.

    Args:
      shutdown_timeout: seconds that attempts in hand may go on after :meth:`shutdown`; then they are cancelled, and
          their tasks released. None waits for them without limit.
      terminator: an async function in place of ``shutdown_timeout``: time is up when it returns.
      on_event: called with the events of every worker, as ``on_event(context, event)``; one function, or several.
      should_restart: given the context of a run that has failed, its error, and the number of that run (from 1),
          whether to run the worker again. By default never.
      restart_backoff: from the number of the run that failed to the seconds to wait before the next.
      max_restarts: of one worker within ``restart_period``; one more is not granted. None sets no limit.
      restart_period: seconds.

    A monitor is a recipe too, and may be run again.
    """

    def __init__(
        self,
        *,
        shutdown_timeout: float | None = None,
        terminator: Callable[[], Awaitable[object]] | None = None,
        on_event: Listener | Iterable[Listener] | None = None,
        should_restart: Callable[[WorkerContext, Exception, int], bool] = _never,
        restart_backoff: Backoff = exponential(0.1, maximum=30.0, jitter=0.5),  # noqa: B008  it is a pure function
        max_restarts: int | None = None,
        restart_period: float = 60.0,
    ) -> None:
        if shutdown_timeout is not None and terminator is not None:
            raise TypeError("give a Monitor a shutdown_timeout or a terminator, not both: each says when time is up")
        self._shutdown_timeout = (
            None if shutdown_timeout is None else check_seconds(shutdown_timeout, "shutdown_timeout")
        )
        if terminator is not None:
            check_callable(terminator, "terminator", "an async function without parameters")
        self._terminator = terminator
        self._listeners = check_listeners(on_event)
        self._should_restart = check_callable(
            should_restart, "should_restart", "should_restart(context, error, attempt) -> bool"
        )
        self._restart_backoff = check_callable(
            restart_backoff, "restart_backoff", "restart_backoff(attempt) -> seconds"
        )
        self._max_restarts = None if max_restarts is None else check_count(max_restarts, "max_restarts", minimum=0)
        self._restart_period = check_seconds(restart_period, "restart_period", positive=True)
        self._members: list[Factory] = []
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._open_group: AsyncExitStack | None = None
        self._renew()

    def _renew(self) -> None:
        """What belongs to one run."""
        self._cancel_scope = trio.CancelScope()
        self._shutting_down = trio.Event()
        self._contexts: list[WorkerContext] = []
        self._reports: list[WorkerReport] = []
        self._restarts = 0
        self._errors: list[Exception] = []
        self._spent = False

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The root: all workers of the run, or of the next one, are inside it."""
        return self._cancel_scope

    @property
    def report(self) -> Report:
        """What the run, or the last one, has come to; also where it was cancelled or raised."""
        return Report(tuple(self._reports), self._restarts, tuple(self._errors))

    @property
    def workers(self) -> tuple[WorkerContext, ...]:
        """The runs of workers that are going on."""
        return tuple(self._contexts)

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._nursery is not None

    @property
    def is_shutting_down(self) -> bool:
        """Whether it was told to shut down."""
        return self._shutting_down.is_set()

    # Who takes part

    def register(self, worker: Worker[Any, Any] | Factory) -> Monitor:
        """Have this worker run; at once, if the monitor is running.

        Args:
          worker: a :class:`Worker`; or a function from the number of the run (from 1) to one, called for each run.

        Raises:
          MonitorError: the monitor is shutting down.
        """
        if isinstance(worker, Worker):
            member: Factory = lambda attempt: worker  # noqa: E731  a member is a factory
        else:
            member = check_callable(worker, "what is registered", "a Worker or a function (attempt) -> Worker")
        if self.is_running and self.is_shutting_down:
            raise MonitorError("the monitor is shutting down: it takes no more workers")
        self._members.append(member)
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, member)
        return self

    def on_event(self, listener: Listener) -> Monitor:
        """One more listener, beside those it has, from now on."""
        self._listeners += check_listeners(listener)
        for context in self._contexts:
            context.listeners += (listener,)
        return self

    # Running

    async def run(self, *, task_status: trio.TaskStatus[Monitor] = trio.TASK_STATUS_IGNORED) -> Report:
        """Run until every worker has ended, of itself or by :meth:`shutdown`; returns the truth about it.

        Raises:
          ExceptionGroup: a worker failed and was not restarted. All others were cancelled, as in a nursery;
              :attr:`report` tells the rest.
          MonitorError: it runs already.

        If it is cancelled, so are all attempts, and their tasks are released; :attr:`report` tells which.
        """
        async with self._group():
            task_status.started(self)
        return self.report

    async def run_with_signal(
        self,
        *signals: signal.Signals,
        task_status: trio.TaskStatus[Monitor] = trio.TASK_STATUS_IGNORED,
    ) -> Report:
        """As :meth:`run`. The first signal shuts down gracefully; the second one is the terminator.

        Args:
          signals: SIGINT and SIGTERM if none are given.
        """
        with trio.open_signal_receiver(*(signals or (signal.SIGINT, signal.SIGTERM))) as received:
            async with _unnested(), run_and_cancelling(self._heed, received):
                async with self._group():
                    task_status.started(self)
        return self.report

    async def _heed(self, received: Any) -> None:
        await anext(received)
        self.shutdown()
        await anext(received)
        self._cancel_scope.cancel()

    async def __aenter__(self) -> Monitor:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._group())
            self._open_group = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        group, self._open_group = self._open_group, None
        assert group is not None
        return await group.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _group(self) -> AsyncIterator[None]:
        """The root nursery, and who ends it when time is up."""
        if self.is_running:
            raise MonitorError("this monitor is running already; another one can run beside it")
        if self._spent:
            self._renew()
        self._spent = True
        try:
            with self._cancel_scope:
                async with _unnested(), run_and_cancelling(self._terminate):
                    async with trio.open_nursery() as self._nursery:
                        self._token = trio.lowlevel.current_trio_token()
                        for member in self._members:
                            self._nursery.start_soon(self._keep, member)
                        yield
        finally:
            self._nursery = None

    # Ending

    def shutdown(self) -> None:
        """Stop all intake now; attempts in hand have until the terminator fires.

        From anywhere: from a handler, a listener, another trio task, or a thread. Before :meth:`run` it makes that
        return at once.
        """
        try:
            here = self._token is None or trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:  # no trio in this thread
            here = False
        if here or self._token is None:
            self._shut_down()
        else:
            self._token.run_sync_soon(self._shut_down)

    def _shut_down(self) -> None:
        if self.is_shutting_down:
            return
        self._shutting_down.set()
        if self._shutdown_timeout is not None and self.is_running:
            self._cancel_scope.deadline = min(
                self._cancel_scope.deadline, trio.current_time() + self._shutdown_timeout
            )
        for context in self._contexts:
            context.stop()

    async def _terminate(self) -> None:
        await self._shutting_down.wait()
        if self._terminator is not None:
            await self._terminator()
            self._cancel_scope.cancel()

    # Keeping one worker

    async def _keep(self, member: Factory) -> None:
        """Run a worker, and again for as long as it fails and the policy allows."""
        restarted: deque[float] = deque()
        for attempt in count(1):
            if self._shutting_down.is_set():
                return
            context, error = await self._run_worker(member, attempt)
            if error is None:
                return
            self._errors.append(error)
            if self.is_shutting_down or not self._may_restart(context, error, attempt, restarted):
                raise error
            with trio.move_on_after(check_seconds(self._restart_backoff(attempt), "what restart_backoff gave")):
                await self._shutting_down.wait()
                return
            self._restarts += 1
            restarted.append(trio.current_time())

    async def _run_worker(self, member: Factory, attempt: int) -> tuple[WorkerContext, Exception | None]:
        worker = member(attempt)
        if not isinstance(worker, Worker):
            raise TypeError(f"what is registered as a function must return a Worker; {member!r} gave {worker!r}")
        context = worker.prepare(on_event=self._listeners)
        self._contexts.append(context)
        try:
            await worker.run(context)
        except Exception as error:
            return context, error
        finally:
            self._contexts.remove(context)
            self._reports.append(context.report())
        return context, None

    def _may_restart(self, context: WorkerContext, error: Exception, attempt: int, restarted: deque[float]) -> bool:
        while restarted and restarted[0] <= trio.current_time() - self._restart_period:
            restarted.popleft()
        if self._max_restarts is not None and len(restarted) >= self._max_restarts:
            return False
        return bool(self._should_restart(context, error, attempt))

    def __repr__(self) -> str:
        state = "shutting down" if self.is_shutting_down else "running" if self.is_running else "not running"
        return f"<Monitor {state}: {len(self._contexts)} workers>"


@asynccontextmanager
async def _unnested() -> AsyncIterator[None]:
    """A group that holds nothing but another group says no more than that one does."""
    try:
        yield
    except ExceptionGroup as group:
        inner: Exception = group
        while isinstance(inner, ExceptionGroup) and len(inner.exceptions) == 1:
            if not isinstance(inner.exceptions[0], ExceptionGroup):
                break
            inner = inner.exceptions[0]
        if inner is group:
            raise
        raise inner from None
