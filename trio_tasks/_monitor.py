"""The monitor, which runs workers in a root nursery, restarts them and shuts them down. Graceful shutdown sets the
deadline of its cancel scope.
"""

from __future__ import annotations

import sys
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, final

import trio

from ._checks import check_callable, check_count, check_seconds, check_several, check_sync
from ._concurrency.background import run_and_cancelling
from ._concurrency.exception_groups import leaves, unnested
from ._concurrency.threads import call_in_trio_thread
from ._contracts.context import WorkerContext, check_listeners
from ._contracts.report import Report
from ._printing import quoted, readable
from ._signals import check_signals, handling_signals, usual_signals
from ._tasks.errors import MonitorError
from ._tasks.retry import exponential
from ._worker.stuck_attempts import log_where_stuck
from ._worker.worker import Worker

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from ._contracts.context import Listener
    from ._contracts.report import WorkerReport
    from ._tasks.retry import Backoff

    Factory = Callable[[int], Worker[Any, Any]]


class MonitorOptions(TypedDict, total=False):
    """The keyword options of :class:`Monitor`, where others hand them on."""

    shutdown_timeout: float | None
    terminator: Callable[[], Awaitable[object]] | None
    on_event: Listener | Iterable[Listener] | None
    should_restart: Callable[[WorkerContext, Exception, int], bool]
    restart_backoff: Backoff
    max_restarts: int | None
    restart_period: float
    signals: Iterable[signal.Signals]
    around: Iterable[Callable[[], AbstractAsyncContextManager[object]]]


@readable
def _never(context: WorkerContext, error: Exception, attempt: int) -> bool:
    return False


@final
class Monitor:
    """Run workers together, restart those that fail if the policy says so, and stop them all gracefully.

    >>> monitor = Monitor(
    ...     shutdown_timeout=10, should_restart=lambda context, error, attempt: attempt < 5
    ... )
    >>> monitor.register(Worker("emails", storage, send_email))
    >>> report = await monitor.run_with_signal()  # SIGINT or SIGTERM shuts down gracefully

    Args:
      shutdown_timeout: the seconds that running attempts may go on after :meth:`shutdown`; then they are cancelled, and
          their tasks released. Default: None, which waits for them without limit.
      terminator: an async function in place of ``shutdown_timeout``: time is up when it returns. Default: none.
      on_event: a function, or several, called as ``on_event(context, event)`` with the events of every worker.
          Default: none.
      should_restart: a function that returns True if a worker should run again. It is called with the context of the
          failed run, its error (a group only if there were several), and the number of that run (from 1).
          Default: never.
      restart_backoff: a function from the number of the failed run to the seconds before the next. Default: delays
          that double from 0.1 to 30 seconds, of which up to a half is taken off at random.
      max_restarts: the most restarts of one worker within ``restart_period``. Default: None, no limit.
      restart_period: the period for ``max_restarts``, in seconds. Default: 60.
      signals: the signals to handle while it runs, such as ``(SIGINT, SIGTERM)``: the first one shuts down
          gracefully, the second one cancels. See :meth:`run_with_signal`. Default: none.
      around: functions that return async context managers, for each run: they are entered in this order before its
          workers start, and left when these have ended. Default: none.

    A monitor is a recipe too: it may be run again, though not twice at once.
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
        signals: Iterable[signal.Signals] = (),
        around: Iterable[Callable[[], AbstractAsyncContextManager[object]]] = (),
    ) -> None:
        if shutdown_timeout is not None:
            if terminator is not None:
                raise TypeError("give Monitor a shutdown_timeout or a terminator, not both")
            check_seconds(shutdown_timeout, "shutdown_timeout")
        if terminator is not None:
            check_callable(terminator, "terminator", "an async function without parameters")
        check_sync(should_restart, "should_restart", "should_restart(context, error, attempt) -> bool")
        check_sync(restart_backoff, "restart_backoff", "restart_backoff(attempt) -> seconds")
        if max_restarts is not None:
            check_count(max_restarts, "max_restarts", minimum=0)
        check_seconds(restart_period, "restart_period", positive=True)
        surroundings = check_several(around, "around", "functions that return async context managers")
        for each in surroundings:
            check_sync(each, "each of around", "function() -> async context manager")
        self._policy = _Policy(
            shutdown_timeout, terminator, should_restart, restart_backoff, max_restarts, restart_period, surroundings
        )
        self._signals = check_signals(signals)
        self._listeners = check_listeners(on_event)
        self._members: list[Factory] = []
        self._open_group: AsyncExitStack | None = None
        self._run = self._latest = _Run(self._policy, self._listeners)

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The cancel scope around all workers of the run. Before the first run it is that of the first; after a run it
        is still that run's, so that one can see whether it was cancelled.
        """
        return self._run.cancel_scope

    @property
    def report(self) -> Report:
        """The report of the present run, or of the last one, even if that was cancelled or raised."""
        return self._latest.report()

    @property
    def workers(self) -> tuple[WorkerContext, ...]:
        """The contexts of the workers that run now."""
        return tuple(self._run.contexts)

    @property
    def restarting(self) -> int:
        """The number of workers that have failed, and wait to run again."""
        return self._run.restarting

    @property
    def is_running(self) -> bool:
        """True while the monitor runs."""
        return self._run.is_running

    @property
    def is_shutting_down(self) -> bool:
        """True if the monitor was told to shut down."""
        return self._run.shutting_down.is_set()

    # Workers and listeners

    def register(self, worker: Worker[Any, Any] | Factory) -> Monitor:
        """Add a worker; it starts at once if the monitor is running.

        Args:
          worker: a :class:`Worker`; or a function from the number of the run (from 1) to one, called for each run.

        Raises:
          MonitorError: the monitor is shutting down.
        """
        if self.is_running and self.is_shutting_down:
            raise MonitorError("Monitor.register: the monitor is shutting down, and takes no more workers")
        if isinstance(worker, Worker):
            member: Factory = lambda attempt: worker  # noqa: E731  a member is a factory
        else:
            member = check_callable(worker, "Monitor.register(worker)", "a Worker or a function (attempt) -> Worker")
        self._members.append(member)
        if self.is_running:
            self._run.start(member)
        return self

    def on_event(self, listener: Listener | Iterable[Listener]) -> Monitor:
        """Add one or several listeners, which get the events from now on."""
        listeners = check_listeners(listener)
        if not listeners:
            raise TypeError(f"on_event must be a function on_event(context, event), or several; got {quoted(listener)}")
        self._listeners += listeners
        self._run.add_listeners(listeners)
        return self

    # Running

    async def run(self, *, task_status: trio.TaskStatus[Monitor] = trio.TASK_STATUS_IGNORED) -> Report:
        """Run all workers until they have ended, by themselves or by :meth:`shutdown`; return the report.

        Raises:
          ExceptionGroup: a worker failed and was not restarted. All others were cancelled, as in a nursery;
              :attr:`report` tells the rest.
          MonitorError: it runs already.

        If it is cancelled, so are all attempts, and their tasks are released; :attr:`report` tells which.
        """
        async with self._group(self._signals):
            task_status.started(self)
        return self.report

    async def run_with_signal(
        self,
        *signals: signal.Signals,
        task_status: trio.TaskStatus[Monitor] = trio.TASK_STATUS_IGNORED,
    ) -> Report:
        """Run as :meth:`run` does, and shut down when a signal comes. The first signal shuts down gracefully; the
        second one is the terminator.

        After that, a further SIGTERM is kept until the storages of this run of trio are closed, and delivered then. A
        further SIGINT names in the log the threads that go on in spite of the cancellation; if the log had named them
        before, it ends the process with status 130. Their tasks are orphans then.

        Args:
          signals: the signals; if none are given, those of the monitor; else SIGINT and SIGTERM (and SIGBREAK, on
              Windows).

        Raises:
          RuntimeError: this is not the main thread.
        """
        async with self._group(check_signals(signals) or self._signals or usual_signals()):
            task_status.started(self)
        return self.report

    async def __aenter__(self) -> Monitor:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._group(self._signals))
            self._open_group = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        group, self._open_group = self._open_group, None
        assert group is not None
        return await group.__aexit__(kind, error, trace)  # noqa: ASYNC102  this is leaving a nursery

    @asynccontextmanager
    async def _group(self, signals: tuple[signal.Signals, ...]) -> AsyncGenerator[None, None]:
        """Open the root nursery of a run for the block."""
        self._check_not_running()
        self._latest = self._renew()
        with handling_signals(signals, self._latest):
            async with self._latest.group(self._members):
                yield

    def _check_not_running(self) -> None:
        if self.is_running:
            raise MonitorError("Monitor is already running. To add a worker, call monitor.register(worker).")

    def _renew(self) -> _Run:
        """Return the present run, or a new one if the last is over."""
        if self._run.was_started and not self._run.is_running:
            self._run = _Run(self._policy, self._listeners)
        return self._run

    def shutdown(self) -> None:
        """Stop the intake of all workers; running attempts may go on until the terminator ends them.

        From anywhere: from a handler, a listener, another trio task, or a thread. While it does not run, this is
        about the next run, which will return at once.
        """
        self._renew().shut_down()

    def __repr__(self) -> str:
        state = ("shutting down" if self.is_shutting_down else "running") if self.is_running else "not running"
        return f"<Monitor {state}: {len(self.workers)} workers>"


class _Policy(NamedTuple):
    """The arguments of a monitor about shutdown and restarts; :class:`Monitor` says what each means."""

    shutdown_timeout: float | None
    terminator: Callable[[], Awaitable[object]] | None
    should_restart: Callable[[WorkerContext, Exception, int], bool]
    restart_backoff: Backoff
    max_restarts: int | None
    restart_period: float
    around: tuple[Callable[[], AbstractAsyncContextManager[object]], ...]


@final
class _Run:
    """One run of a monitor: its root nursery, its workers and its report.

    Args:
      policy: the arguments of the monitor.
      listeners: the listeners to the events of all workers; more may be added at any time.
    """

    def __init__(self, policy: _Policy, listeners: tuple[Listener, ...]) -> None:
        self.cancel_scope = trio.CancelScope()
        self.shutting_down = trio.Event()
        self.contexts: list[WorkerContext] = []
        self.was_started = False
        self.is_running = False
        """True while it runs."""
        self.restarting = 0
        """Workers that wait for their next run."""
        self._policy = policy
        self._listeners = listeners
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._reports: list[WorkerReport] = []
        self._restarts = 0
        self._errors: list[Exception] = []

    def report(self) -> Report:
        """Make the report from the workers, the restarts and the errors so far."""
        return Report(tuple(self._reports), self._restarts, tuple(self._errors))

    @asynccontextmanager
    async def group(self, members: Iterable[Factory]) -> AsyncGenerator[None, None]:
        """Open the root nursery for the block; it closes when all workers have ended.

        Args:
          members: the workers, also those that are registered while the surroundings are entered.
        """
        self.was_started = self.is_running = True
        is_open = False
        try:
            with self.cancel_scope, unnested():
                self._token = trio.lowlevel.current_trio_token()
                async with run_and_cancelling(self._terminate), AsyncExitStack() as stack:
                    for each in self._policy.around:
                        await stack.enter_async_context(each())
                    async with trio.open_nursery() as self._nursery:
                        for member in members:
                            self.start(member)
                        is_open = True
                        yield
        finally:
            self._nursery = None
            self.is_running = False
        if not is_open:  # it was cancelled while the surroundings were entered, and so is the block
            with trio.CancelScope() as block:  # noqa: ASYNC100  the block has checkpoints
                block.cancel()
                yield

    def start(self, member: Factory) -> None:
        """Start one more worker, and keep it running; before the nursery is open, it is among the members."""
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, member)

    def add_listeners(self, listeners: tuple[Listener, ...]) -> None:
        """Add listeners, which get the events from now on."""
        self._listeners += listeners
        for context in self.contexts:
            context.listeners += listeners

    # Shutting down

    def shut_down(self) -> None:
        """Stop all intake, and set the deadline; may be called from any thread."""
        call_in_trio_thread(self._token, self._shut_down)

    def _shut_down(self) -> None:
        if self.shutting_down.is_set():
            return
        self.shutting_down.set()
        timeout = self._policy.shutdown_timeout
        if timeout is not None and self.is_running:
            deadline = trio.current_time() + timeout
            self.cancel_scope.deadline = min(self.cancel_scope.deadline, deadline)
        for context in self.contexts:
            context.stop()

    def cancel(self) -> None:
        """Cancel all workers."""
        self.cancel_scope.cancel()

    def name_stuck_threads(self) -> bool:
        """Log the attempts that are in threads, which go on in spite of the cancellation. Return whether there are
        some, and the log had named all of them already.
        """
        if not self.cancel_scope.cancel_called:
            return False
        stuck = [context for context in self.contexts if context.in_threads()]
        had_named = [context for context in stuck if context.in_threads() <= context.named]
        for context in stuck:
            log_where_stuck(context)
        return bool(stuck) and stuck == had_named

    async def _terminate(self) -> None:
        await self.shutting_down.wait()
        terminator = self._policy.terminator
        if terminator is not None:
            await terminator()
            self.cancel_scope.cancel()

    # Keeping one worker

    async def _keep(self, member: Factory) -> None:  # noqa: ASYNC910  running a worker is a checkpoint
        """Run a worker, and restart it as long as it fails and the policy allows another restart."""
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
                delay = check_seconds(self._policy.restart_backoff(attempt), "the delay that restart_backoff returned")
            except ExceptionGroup:
                raise
            except Exception as trouble:
                errors = [*group.exceptions, trouble]
                raise ExceptionGroup(
                    f"{context!r} failed, and so did should_restart or restart_backoff", errors
                ) from None
            if await self._shuts_down_within(delay):
                return
            self._restarts += 1
            restarted.append(trio.current_time())

    async def _shuts_down_within(self, delay: float) -> bool:
        """Wait before a worker runs again; return True if it is told to shut down meanwhile."""
        self.restarting += 1
        try:
            with trio.move_on_after(delay):
                await self.shutting_down.wait()
        finally:
            self.restarting -= 1
        return self.shutting_down.is_set()

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
        except BaseExceptionGroup as group:  # cancelled or interrupted, with errors during clean-up
            self._errors += [each for each in leaves(group) if isinstance(each, Exception)]
            raise
        finally:
            self.contexts.remove(context)
            self._reports.append(context.report())
        return context, None

    def _make(self, member: Factory, attempt: int) -> Worker[Any, Any]:
        """Call the factory of the worker. If that fails, it is not restarted: the error is the program's, not the
        worker's.
        """
        try:
            worker = member(attempt)
            if not isinstance(worker, Worker):
                raise TypeError(f"a registered function must return a Worker; {member!r} returned {worker!r}")
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
