"""A monitor: a root nursery of workers. Graceful shutdown is one assignment to the deadline of its cancel scope."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, final

import trio

from ._checks import check_callable, check_count, check_seconds, check_sync
from ._contracts.context import WorkerContext, check_listeners
from ._printing import quoted, readable
from ._signals import check_signals, heeding_signals, usual_signals
from ._supervisor import Policy, Supervisor
from ._tasks.errors import MonitorError
from ._tasks.retry import exponential
from ._worker.worker import Worker

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
    from types import TracebackType

    from ._contracts.context import Listener
    from ._contracts.report import Report
    from ._supervisor import Factory
    from ._tasks.retry import Backoff


@readable
def _never(context: WorkerContext, error: Exception, attempt: int) -> bool:
    return False


@final
class Monitor:
    """Runs workers together, restarts those that fail if the policy says so, and stops them all gracefully.

    >>> monitor = Monitor(
    ...     shutdown_timeout=10, should_restart=lambda context, error, attempt: attempt < 5
    ... )
    >>> monitor.register(Worker("emails", storage, send_email))
    >>> report = await monitor.run_with_signal()  # SIGINT or SIGTERM shuts down gracefully

    Args:
      shutdown_timeout: seconds that attempts in hand may go on after :meth:`shutdown`; then they are cancelled, and
          their tasks released. Default: None, which waits for them without limit.
      terminator: an async function in place of ``shutdown_timeout``: time is up when it returns. Default: none.
      on_event: called with the events of every worker, as ``on_event(context, event)``; one function, or several.
          Default: none.
      should_restart: given the context of a run that has failed, its error (a group only if there were several),
          and the number of that run (from 1), whether to run the worker again. Default: never.
      restart_backoff: from the number of the run that failed to the seconds to wait before the next. Default: delays
          that double from 0.1 to 30 seconds, of which up to a half is taken off at random.
      max_restarts: of one worker within ``restart_period``; one more is not granted. Default: None, no limit.
      restart_period: seconds. Default: 60.
      signals: such as ``(SIGINT, SIGTERM)``: for as long as it runs, the first one shuts down gracefully, and the
          second one cancels. See :meth:`run_with_signal`. Default: none.

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
    ) -> None:
        if shutdown_timeout is not None:
            if terminator is not None:
                raise TypeError("give a shutdown_timeout or a terminator, not both: each says when time is up")
            check_seconds(shutdown_timeout, "shutdown_timeout")
        if terminator is not None:
            check_callable(terminator, "terminator", "an async function without parameters")
        check_sync(should_restart, "should_restart", "should_restart(context, error, attempt) -> bool")
        check_sync(restart_backoff, "restart_backoff", "restart_backoff(attempt) -> seconds")
        if max_restarts is not None:
            check_count(max_restarts, "max_restarts", minimum=0)
        check_seconds(restart_period, "restart_period", positive=True)
        self._policy = Policy(
            shutdown_timeout, terminator, should_restart, restart_backoff, max_restarts, restart_period
        )
        self._signals = check_signals(signals)
        self._listeners = check_listeners(on_event)
        self._members: list[Factory] = []
        self._open_group: AsyncExitStack | None = None
        self._run = self._latest = Supervisor(self._policy, self._listeners)

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The root: all workers of the run are inside it. Before the first run it is that of the first; after a run
        it is still that run's, so that one can see whether it was cancelled."""
        return self._run.cancel_scope

    @property
    def report(self) -> Report:
        """What the run, or the last one, has come to; also where it was cancelled or raised."""
        return self._latest.report()

    @property
    def workers(self) -> tuple[WorkerContext, ...]:
        """The runs of workers that are going on."""
        return tuple(self._run.contexts)

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._run.is_running

    @property
    def is_shutting_down(self) -> bool:
        """Whether it was told to shut down."""
        return self._run.shutting_down.is_set()

    # Who takes part

    def register(self, worker: Worker[Any, Any] | Factory) -> Monitor:
        """Have this worker run; at once, if the monitor is running.

        Args:
          worker: a :class:`Worker`; or a function from the number of the run (from 1) to one, called for each run.

        Raises:
          MonitorError: the monitor is shutting down.
        """
        if self.is_running and self.is_shutting_down:
            raise MonitorError("the monitor is shutting down: it takes no more workers")
        if isinstance(worker, Worker):
            member: Factory = lambda attempt: worker  # noqa: E731  a member is a factory
        else:
            member = check_callable(worker, "what is registered", "a Worker or a function (attempt) -> Worker")
        self._members.append(member)
        if self.is_running:
            self._run.start(member)
        return self

    def on_event(self, listener: Listener | Iterable[Listener]) -> Monitor:
        """One more listener, or several, beside those it has, from now on."""
        listeners = check_listeners(listener)
        if not listeners:
            raise TypeError(f"on_event must be a function on_event(context, event), or several; got {quoted(listener)}")
        self._listeners += listeners
        self._run.add_listeners(listeners)
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
        async with self._group(self._signals):
            task_status.started(self)
        return self.report

    async def run_with_signal(
        self,
        *signals: signal.Signals,
        task_status: trio.TaskStatus[Monitor] = trio.TASK_STATUS_IGNORED,
    ) -> Report:
        """As :meth:`run`. The first signal shuts down gracefully; the second one is the terminator.

        After that, a further SIGTERM is kept until the storages of this run of trio are closed, and delivered then. A
        further SIGINT names in the log the threads that go on in spite of the cancellation; if the log had named them
        before, it ends the process with status 130. Their tasks are orphans then.

        Args:
          signals: if none are given, those of the monitor; else SIGINT and SIGTERM (and SIGBREAK, on Windows).

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
        """The root nursery of a run."""
        self._check_not_running()
        self._latest = self._renew()
        with heeding_signals(signals, self._latest):
            async with self._latest.group(tuple(self._members)):
                yield

    def _check_not_running(self) -> None:
        if self.is_running:
            raise MonitorError("Monitor is already running. To add a worker, call monitor.register(worker).")

    def _renew(self) -> Supervisor:
        """The present run; or the next one, if the last is over."""
        if self._run.was_started and not self._run.is_running:
            self._run = Supervisor(self._policy, self._listeners)
        return self._run

    def shutdown(self) -> None:
        """Stop all intake now; attempts in hand have until the terminator fires.

        From anywhere: from a handler, a listener, another trio task, or a thread. While it does not run, this is
        about the next run, which will return at once.
        """
        self._renew().shut_down()

    def __repr__(self) -> str:
        state = ("shutting down" if self.is_shutting_down else "running") if self.is_running else "not running"
        return f"<Monitor {state}: {len(self.workers)} workers>"
