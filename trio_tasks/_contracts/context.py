"""The context of a worker's run, for handlers, layers, listeners and the monitor; and the state of its intake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final

import trio

from .._checks import check_callable, check_count, check_name, check_sync
from .._concurrency.stacks import is_in_thread
from .._concurrency.threads import call_in_trio_thread, is_in_trio_thread
from .._logging import log_and_suppress
from .._printing import escaped
from .._tasks.errors import BackendError, WorkerError
from .._tasks.outcome import Failed, Killed, Released, Retried, Succeeded
from .._tasks.task import Task
from .attempt_log import LEASE_LOST
from .events import EVENTS, Event
from .layer import explanation_by
from .minutes import ADDED_AT_ONCE, by_bound, enter_times
from .report import WorkerReport

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._concurrency.background import Background
    from .._tasks.outcome import Outcome
    from .._tasks.task_id import TaskId
    from .attempt_log import AttemptLog
    from .report import Interruption, Overrun

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """The state and the counts of a worker's run at one moment.

    The six counts from ``succeeded`` on are of attempts that have been settled, by outcome. ``leases_lost`` are those
    of the released ones that had lost their lease. ``settle_times`` says how many attempts were settled in less than so
    many seconds, and not in less than half of that; ``settle_seconds`` is the sum. A storage in memory settles at once,
    so there it is empty.
    """

    name: str
    state: str
    concurrency: int
    tasks_running: int
    slots_waiting: int
    tracked: int
    succeeded: int
    retried: int
    failed: int
    killed: int
    released: int
    suspended: int
    leases_lost: int
    settle_seconds: float
    settle_times: Mapping[float, int] = field(hash=False)


@final
class WorkerContext:
    """One run of a worker, with methods to stop, pause and observe it.

    All methods but :meth:`wait_shutting_down` and :meth:`wait_stopped` are sync. They may be called from the run's own
    trio tasks and from the threads of sync handlers alike; from a thread they take effect a moment later.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int = 1,
        listeners: tuple[Listener, ...] = (),
        recipe: object = None,
        version: str | None = None,
        task_names: tuple[str, ...] | None = None,
        attempt_log: AttemptLog | None = None,
    ) -> None:
        self.name = check_name(name, "a worker's name")
        self.recipe = recipe
        self.version = version
        """The version of the program, as the worker was told."""
        self.task_names = task_names
        """The names of the kinds of tasks that the handler knows; None if it takes tasks of any name."""
        self.concurrency = check_count(concurrency, "concurrency")
        self.intake_state = IntakeState()
        self.running_tasks: dict[Task[Any], None] = {}  # a set in order of insertion, so that a seed decides the order
        self.idle = False
        self.resources: Mapping[type, Any] = {}
        """The values that were opened for the run, by class: those of a Router."""
        self.on_resize: Callable[[], object] | None = None  # called when the concurrency was changed, while it runs
        self.lent = 0  # how many running attempts wait for other tasks
        self.tally = Tally()
        self.listeners = listeners
        self.attempt_log = attempt_log
        self.named: set[str] = set()
        """The ids of the running tasks that the log has named, since their attempts go on after a cancellation."""
        self.background: Background | None = None
        """The background of the attempts, for layers: it goes on while attempts clean up after a cancellation."""
        self._tracked: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stopped = trio.Event()

    @staticmethod
    def of(task: Task[Any]) -> WorkerContext:
        """Return the context of the run that claimed this task.

        Raises:
          WorkerError: no worker runs it.
        """
        if not isinstance(task, Task):
            raise TypeError(f"WorkerContext.of takes a Task, not {type(task).__name__}")
        context = getattr(task.parts.holder, "context", None)
        if not isinstance(context, WorkerContext):
            raise WorkerError(f"no worker has claimed task {escaped(task.parts.id)}, so it has no WorkerContext")
        return context

    # For handlers: the state

    @property
    def is_running(self) -> bool:
        """True if the run has started and not ended yet."""
        return self._tracked is not None

    @property
    def is_paused(self) -> bool:
        """True if intake is paused."""
        return self.intake_state.paused

    @property
    def is_shutting_down(self) -> bool:
        """True if the worker was told to stop."""
        return self.intake_state.closed

    @property
    def is_stopped(self) -> bool:
        """True if the run has ended."""
        return self._stopped.is_set()

    @property
    def is_ready(self) -> bool:
        """True if the worker would take a task now: it runs, its intake is open, and a slot is free."""
        return self.is_running and self.intake_state.is_open and len(self.running_tasks) - self.lent < self.concurrency

    @property
    def intake(self) -> str:
        """The state of intake: ``"open"``, ``"paused"``, ``"closed"``, or the layer that it waits for: what its
        ``explain()`` returns, if it has that method, and its repr otherwise.
        """
        state = self.intake_state
        if state.closed or state.cancelled or not self.is_running:
            return "closed"
        return "paused" if state.paused else "open" if state.gate is None else explanation_by(state.gate)

    @property
    def task_count(self) -> int:
        """The number of running tasks, plus the number of tracked functions that still run."""
        tracked = self._tracked
        return len(self.running_tasks) + (len(tracked.child_tasks) if tracked is not None else 0)

    def statistics(self) -> WorkerStatistics:
        """Return the state and the counts of this moment."""
        report = self.report()
        self.tally.add_up()
        return WorkerStatistics(
            name=self.name,
            state=self._state(),
            concurrency=self.concurrency,
            tasks_running=len(self.running_tasks),
            slots_waiting=self.intake_state.waiting,
            tracked=self.task_count - len(self.running_tasks),
            succeeded=report.succeeded,
            retried=report.retried,
            failed=report.failed,
            killed=report.killed,
            released=report.released,
            suspended=report.suspended,
            leases_lost=self.tally.leases_lost,
            settle_seconds=self.tally.settle_seconds,
            settle_times=by_bound(self.tally.settle_times),
        )

    def report(self) -> WorkerReport:
        """Return the report of the run so far."""
        return self.tally.report(self.name)

    # For handlers: controls

    def stop(self) -> None:
        """Take no more tasks; finish those that are running, then return from the worker's ``run``."""
        call_in_trio_thread(self._token, self.intake_state.close)

    def pause(self) -> None:
        """Take no more tasks until :meth:`resume` is called; running attempts go on."""
        call_in_trio_thread(self._token, self.intake_state.pause)

    def resume(self) -> None:
        """Take tasks again."""
        call_in_trio_thread(self._token, self.intake_state.resume)

    def set_concurrency(self, concurrency: int) -> None:
        """Change how many attempts may be under way at once.

        >>> context = await nursery.start(worker.run)
        >>> context.set_concurrency(2)

        With more, slots are added at once. With fewer, slots that wait for a task end at once, and others with the
        attempt that they run: none is cancelled. ``lend`` stays as it is. It holds for this run: the next run of the
        worker has the concurrency of the worker again.

        Raises:
          TypeError, ValueError: it is not a whole number of 1 or more.
        """
        call_in_trio_thread(self._token, self._set_concurrency, check_count(concurrency, "concurrency"))

    def _set_concurrency(self, concurrency: int) -> None:
        self.concurrency = concurrency
        if self.on_resize is not None:
            self.on_resize()

    async def set_metadata(self, task: Task[Any], **values: Any) -> None:
        """Add values to the metadata of a running task, in place of those of the same names.

        >>> await context.set_metadata(task, invoice=invoice.number)

        They are stored at once, so later attempts see them in ``task.parts.metadata``, and so does ``fetch_by_id`` in
        any process.

        Raises:
          TypeError, ValueError: a value cannot be stored. Nothing changed.
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
          BackendError: the backend cannot do it, or has failed.
        """
        set_metadata = getattr(getattr(self.recipe, "backend", None), "set_metadata", None)
        if set_metadata is None:
            raise BackendError(f"the backend of worker {self.name!r} cannot change the metadata of a running task")
        await set_metadata(task, values)

    def track(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run ``async_fn(*args)`` in the background of the worker. It may outlive the attempt that started it, but not
        the worker: a stopping worker waits for it. If the worker is cancelled, so is the function; if it raises,
        the error is logged.

        Raises:
          WorkerError: the worker is not running.
        """
        check_callable(async_fn, "async_fn", "WorkerContext.track(async_fn, *args)")
        if self._tracked is None:
            raise WorkerError(f"worker {self.name!r} is not running, so it cannot track anything")
        if is_in_trio_thread(self._token):
            self._start_tracking(async_fn, args)
        elif trio.lowlevel.in_trio_run():  # another trio run, which cannot wait for the answer
            call_in_trio_thread(self._token, self._run_contained, self._start_tracking, async_fn, args)
        else:
            trio.from_thread.run_sync(self._start_tracking, async_fn, args, trio_token=self._token)

    def _start_tracking(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            assert self._tracked is not None
            self._tracked.start_soon(self._run_tracked, async_fn, args)
        except (AssertionError, RuntimeError):  # the nursery has been left already
            raise WorkerError(f"worker {self.name!r} is ending, so it cannot track anything") from None

    def _run_contained(self, sync_fn: Callable[..., object], *args: Any) -> None:
        with log_and_suppress("worker %r: a function could not be tracked", self.name):
            sync_fn(*args)

    async def _run_tracked(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        with log_and_suppress("worker %r: a tracked function failed", self.name):
            await async_fn(*args)

    def emit(self, event: Event) -> None:
        """Call the listeners with this event; an error that a listener raises is logged.

        Raises:
          TypeError: it is none of the events; your own go into ``Custom(value)``.
        """
        if type(event) not in EVENTS:
            raise TypeError(f"emit takes an event, such as Custom(value), not {type(event).__name__}")
        if self.listeners:
            call_in_trio_thread(self._token, self._notify_listeners, event)

    @trio.lowlevel.disable_ki_protection
    def _notify_listeners(self, event: Event) -> None:
        for listener in self.listeners:
            with log_and_suppress("worker %r: listener %r failed on %s", self.name, listener, type(event).__name__):
                listener(self, event)

    async def wait_shutting_down(self) -> None:
        """Wait until the worker is told to stop, so that a handler can end early. In the thread of a sync handler, ask
        :attr:`is_shutting_down` now and then.
        """
        await self.intake_state.was_closed.wait()

    async def wait_stopped(self) -> None:
        """Wait until the run has ended."""
        await self._stopped.wait()

    def current_lines(self) -> dict[str, str]:
        """Return, by the id of each running task, the line at which its attempt waits now."""
        return {task.parts.id: task.parts.holder.current_line() for task in self.running_tasks if task.parts.holder}

    def in_threads(self) -> set[str]:
        """Return the ids of the running tasks whose attempt is in a thread now."""
        return {
            task.parts.id for task in self.running_tasks if is_in_thread(getattr(task.parts.holder, "trio_task", None))
        }

    # For the worker alone

    def opened(self, tracked: trio.Nursery, background: Background) -> None:
        """Note that the run begins; tracked functions run in this nursery, what layers start in this background."""
        self.background = background
        self._token = trio.lowlevel.current_trio_token()
        self._tracked = tracked

    def ended(self) -> None:
        """Note that the run is over."""
        self._tracked = self.background = None
        self.intake_state.close()
        self._stopped.set()

    def _state(self) -> str:
        if not self.is_running:
            return "stopped" if self.is_stopped else "not started"
        if self.is_shutting_down:
            return "shutting down"
        return "paused" if self.is_paused else "running"

    def __repr__(self) -> str:
        return f"<WorkerContext {self.name!r} {self._state()}, {len(self.running_tasks)}/{self.concurrency} slots busy>"


def check_listeners(on_event: Listener | Iterable[Listener] | None) -> tuple[Listener, ...]:
    """Return the listeners as a tuple; one listener, several, or None may be given."""
    shape = "on_event(context, event)"
    if on_event is None:
        return ()
    if callable(on_event) or not isinstance(on_event, Iterable):
        return (check_sync(on_event, "on_event", shape),)
    return tuple(check_sync(each, "each of on_event", shape) for each in on_event)


class Cancellable(Protocol):
    """A slot, or a cancel scope."""

    def cancel(self) -> None:
        """Cancel what it does."""


@final
class IntakeState:
    """The state of a worker's intake: open, paused, or closed for good. It starts open.

    Attributes:
      is_open: True if tasks may be taken now. A plain attribute, since it is read for each task.
      closed: True if it was closed for good.
      paused: True if no tasks are taken until :meth:`resume`.
      cancelled: True if a cancellation from outside has reached the worker.
      on_close: a function that is called when it is closed, or None.
      gate: the layer whose ``ready`` it waits for; None if it waits for none.
    """

    __slots__ = (
        "_opened",
        "_waiters",
        "cancelled",
        "closed",
        "gate",
        "is_open",
        "on_close",
        "paused",
        "waiting",
        "was_closed",
    )

    def __init__(self) -> None:
        self.is_open = True
        self.closed = False
        self.paused = False
        self.cancelled = False
        self.on_close: Callable[[], object] | None = None
        self.gate: object = None
        self.waiting = 0
        """The number of slots that wait for a task, or for the intake to be resumed."""
        self.was_closed = trio.Event()
        self._opened = trio.Event()
        self._opened.set()
        self._waiters: set[Cancellable] = set()

    def add_waiter(self, slot: Cancellable) -> None:
        """Add a slot that waits, and that :meth:`close` and :meth:`pause` cancel."""
        self._waiters.add(slot)
        self.waiting += 1

    def remove_waiter(self, slot: Cancellable) -> None:
        """Remove a slot that no longer waits."""
        self._waiters.discard(slot)
        self.waiting -= 1

    @contextmanager
    def interruptible(self) -> Generator[None, None, None]:
        """Let :meth:`close` and :meth:`pause` end the block early, without an error."""
        with trio.CancelScope() as scope:
            self._waiters.add(scope)
            try:
                yield
            finally:
                self._waiters.discard(scope)

    async def wait_open(self) -> None:
        """Wait until the intake is not paused."""
        await self._opened.wait()

    def close(self) -> None:
        """Close the intake: no more tasks are taken."""
        self.closed = True
        self.is_open = False
        self.was_closed.set()
        self._cancel_waiters()
        if self.on_close is not None:
            self.on_close()

    def cancel(self) -> None:
        """Close the intake since the worker was cancelled. Slots that wait are cancelled with it, so none is left to be
        cancelled here; the others find the cancellation at :meth:`wait_cancelled`.
        """
        self.cancelled = True
        self.is_open = False

    async def wait_cancelled(self) -> None:
        """Wait for the cancellation that :meth:`cancel` announced, in a slot that is between two tasks."""
        await trio.sleep_forever()

    def pause(self) -> None:
        """Pause the intake: no tasks are taken until :meth:`resume` is called."""
        if not self.paused:
            self.paused = True
            self.is_open = False
            self._opened = trio.Event()
            self._cancel_waiters()

    def resume(self) -> None:
        """Open the intake again."""
        self.paused = False
        self.is_open = not (self.closed or self.cancelled)
        self._opened.set()

    def _cancel_waiters(self) -> None:
        for waiter in self._waiters:
            waiter.cancel()


@final
class Tally:
    """The counts of a run that is under way."""

    __slots__ = (
        "drained",
        "failed",
        "interrupted",
        "killed",
        "leases_lost",
        "overruns",
        "released",
        "retried",
        "settle_seconds",
        "settle_times",
        "settled",
        "succeeded",
        "suspended",
    )

    def __init__(self) -> None:
        self.succeeded = self.retried = self.failed = self.killed = self.released = self.suspended = 0
        self.leases_lost = 0
        self.settled: list[float] = []
        """The seconds that settling took, for each of the latest attempts, to be added up together."""
        self.settle_seconds = 0.0
        self.settle_times: dict[int, int] = {}
        self.drained: list[TaskId] = []
        self.interrupted: list[Interruption] = []
        self.overruns: dict[str, Overrun] = {}

    def count(self, outcome: Outcome) -> None:
        """Count one more attempt, which ended with this outcome."""
        if isinstance(outcome, Succeeded):
            self.succeeded += 1
        elif isinstance(outcome, Retried):
            self.retried += 1
        elif isinstance(outcome, Failed):
            self.failed += 1
        elif isinstance(outcome, Killed):
            self.killed += 1
        elif isinstance(outcome, Released):
            self.released += 1
            self.leases_lost += outcome.reason.startswith(LEASE_LOST)
        else:
            self.suspended += 1

    def note_settling(self, seconds: float) -> None:
        """Note the time that settling an attempt took."""
        self.settled.append(seconds)
        if len(self.settled) >= ADDED_AT_ONCE:
            self.add_up()

    def add_up(self) -> None:
        """Add up the times that were noted."""
        if self.settled:
            self.settle_seconds += enter_times(self.settled, self.settle_times)
            self.settled.clear()

    def report(self, worker: str) -> WorkerReport:
        """Return the counts so far."""
        return WorkerReport(
            worker,
            self.succeeded,
            self.retried,
            self.failed,
            self.killed,
            self.released,
            self.suspended,
            tuple(self.drained),
            tuple(self.interrupted),
            tuple(self.overruns.values()),
        )


Listener = Callable[["WorkerContext", Event], object]
