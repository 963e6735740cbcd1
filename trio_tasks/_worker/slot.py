"""A slot: one unit of a worker's concurrency, a trio task that receives, attempts and settles, again and again; and all
slots of a run.

What a handler raises becomes a value here and nowhere else. All attempts of a slot run under one cancel scope, which
is replaced only once it was cancelled: because the task was aborted, or its lease lost; or, while the slot waits for a
task, because intake was stopped or paused. A cancellation from further out passes through it, and releases the task on
its way.

An attempt that waits for another task lends its slot: an extra slot runs in its place until the wait is over. The extra
one ends as soon as it runs no task; the attempt goes on at once.
"""

from __future__ import annotations

import math
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, final

import trio
from outcome import Value

from .._concurrency.exception_groups import find_within, is_a, leaves
from .._concurrency.stacks import cancelled_line, current_line
from .._concurrency.tracebacks import drop_locals
from .._contracts.attempt_log import LEASE_LOST
from .._contracts.backend import NowaitBackend
from .._contracts.deadlines import ATTEMPT_SCOPES
from .._contracts.events import Engage, Error, Release, Start, Success
from .._contracts.lending import SLOTS, is_attempted
from .._contracts.report import Interruption
from .._logging import catch_errors, log
from .._printing import escaped
from .._tasks.errors import AbortError, DeadlineError, LeaseLostError, OrphanedError, SuspendError, UnsettledError
from .._tasks.outcome import Failed, Killed, Released, Retried, Succeeded, Suspended, judge
from .._tasks.task_info import first_began
from .misnesting import end_nurseries, forget_nurseries, innermost_scope, left_open_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from .._contracts.backend import Backend
    from .._contracts.context import WorkerContext
    from .._contracts.layer import Handler
    from .._contracts.lending import LendingGate
    from .._tasks.outcome import Outcome
    from .._tasks.retry import RetryPolicy
    from .._tasks.task import Attempt, Parts, Task, Terms
    from .._tasks.task_id import TaskId

_INTERRUPTED = Released("interrupted")
_SUCCEEDED = Succeeded(None)
_STOPPED = Released("its worker stops while it waits for another task")

_STALL_INTERVAL = 5.0
"""Seconds for which all slots wait for other tasks before the log names the stall; also the time between records."""


class TaskSource(Protocol):
    """A source of tasks for slots: the intake, or the source of an extra slot, which ends earlier."""

    async def take(self, slot: Slot) -> Task[Any] | None:
        """Return the next task for this slot; None if there are no more."""

    def dismiss(self, task: Task[Any]) -> None:
        """Note that an attempt is over."""

    @property
    def will_take_more(self) -> bool:
        """True if a slot that finishes its task will take another one at once."""
        ...


@final
class Slot:
    """A slot: it takes tasks from the intake, attempts and settles them, one at a time.

    Args:
      context: the run of the worker that this slot belongs to.
      intake: the source of tasks.
      backend: the backend in which outcomes are settled.
      handler: the user's function, inside all its layers.
      policy: the retry policy, which judges errors.
      settle_timeout: the seconds that the backend may take to settle.
    """

    __slots__ = (
        "_backend",
        "_began",
        "_failure",
        "_forced_outcome",
        "_handler",
        "_initial_context",
        "_intake",
        "_is_open",
        "_noted",
        "_original_parts",
        "_outcome",
        "_outer_scope",
        "_settle_nowait",
        "_settle_timeout",
        "_task",
        "_trio_task",
        "context",
        "is_cancelled",
        "left_open",
        "lender",
        "now",
        "policy",
        "scope",
        "waits_for",
        "what",
        "worker",
    )

    def __init__(
        self,
        context: WorkerContext,
        intake: TaskSource,
        backend: Backend[Any],
        handler: Handler[Any, Any],
        policy: RetryPolicy,
        settle_timeout: float,
    ) -> None:
        self.context = context
        self.worker = context.name
        self._intake = intake
        self._backend = backend
        self._handler = handler
        self.policy = policy
        self._settle_timeout = settle_timeout
        self._settle_nowait = backend.settle_nowait if isinstance(backend, NowaitBackend) else None
        self._noted = () if context.attempt_log is None else context.attempt_log.noted
        self._initial_context = copy_context()
        self._trio_task: trio.lowlevel.Task
        self.now: Callable[[], float]
        self.scope: trio.CancelScope
        self.is_cancelled = False  # the present scope was; to ask the scope itself costs four calls a task
        self._task: Task[Any]
        self._outcome: Outcome = _INTERRUPTED
        self._forced_outcome: Killed | Released | None = None
        self._is_open = False
        self._failure: BaseException | None = None
        self._began = 0.0  # the attempt under way, if its task has a retry_for
        self._outer_scope: object = None
        self._original_parts: tuple[Parts, TaskId, Attempt, Terms, Any]
        self.left_open = False
        """True if a handler has left a cancel scope or a nursery open: then this slot has ended, and needs another one
        in its place, in a trio task of its own."""
        self.lender: Slots | None = None
        """The lender of this slot while its attempt waits for another task; None if there is none."""
        self.waits_for: Collection[str] | None = None
        """The id of the task that its attempt waits for, while it is lent: empty if it is something else."""
        self.what = ""
        """A description of it, in words."""

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:  # noqa: ASYNC910  taking is a checkpoint, now and then
        """Receive, attempt and settle tasks until there are no more to take.

        A ``KeyboardInterrupt`` can be raised in what :meth:`_run` returns only: in the handler, its layers, what they
        call. At any other moment trio keeps it for the main task, so no task is lost between two lines.
        """
        self._trio_task = trio.lowlevel.current_task()
        self.now = trio.lowlevel.current_clock().current_time  # half the cost of trio.current_time
        SLOTS[self._trio_task] = self
        try:
            await self._take_and_attempt()
        except RuntimeError:  # raised by trio when a scope inside of the slot's scope is still open
            if not self.left_open:
                raise
            forget_nurseries(self._trio_task)
        finally:
            del SLOTS[self._trio_task]

    async def _take_and_attempt(self) -> None:  # noqa: ASYNC910  taking is a checkpoint, now and then
        task: Task[Any] | None = None
        while True:  # noqa: ASYNC913  taking is one, now and then
            with trio.CancelScope() as self.scope:  # noqa: ASYNC912  it is there to be cancelled
                ATTEMPT_SCOPES.add(self.scope)
                self.is_cancelled = False
                self._outer_scope = innermost_scope(self._trio_task)
                while True:
                    if task is None and (task := await self._intake.take(self)) is None:
                        return
                    if self.is_cancelled:  # meanwhile: attempt the task in the next scope
                        break
                    current, task = task, None
                    await self._attempt(current)
                    if self.left_open:
                        return
                    if self._needs_new_context():
                        await self._reset_context()

    async def _attempt(self, task: Task[Any]) -> None:
        """Attempt one task and settle it. It is settled once, whatever happens, and when it is, nothing that its
        attempt started is still running. What the handler raises is made an outcome by ``__exit__``.
        """
        self._begin(task)
        try:
            with self:
                if self.context.listeners:
                    self.context.emit(Engage(task))
                result = await self._run(task)
                self._outcome = _SUCCEEDED if result is None else self._outcome_of(result)
        finally:
            refusal: UnsettledError | LeaseLostError | None = None
            if (
                self._settle_nowait is None
                or self.left_open
                or (refusal := self._settle_at_once(task, self._settle_nowait)) is not None
            ):
                await self._settle(task, refusal)  # noqa: ASYNC102  it shields itself, within bounds

    def _begin(self, task: Task[Any]) -> None:
        self._task = task
        self._outcome = _INTERRUPTED
        self._forced_outcome = None
        self._is_open = True
        parts = task.parts
        parts.holder = self
        self._original_parts = parts, parts.id, parts.attempt, parts.terms, parts.context
        if parts.terms.retry_for is not None:
            self._began = trio.current_time()
        self.context.idle = False
        self.context.running_tasks[task] = None

    def _restore_parts(self, task: Task[Any]) -> None:
        """Restore the parts that identify the task, if the handler has replaced them."""
        parts, task_id, attempt, terms, context = self._original_parts
        task.parts = parts
        parts.id, parts.attempt, parts.terms, parts.context = task_id, attempt, terms, context

    @trio.lowlevel.disable_ki_protection
    def _run(self, task: Task[Any]) -> Awaitable[Any]:
        if self._failure is not None:
            self._raise_failure()
        parts = task.parts
        if parts.is_orphan:
            self._check_attempts_left(parts)
        if parts.unfit is not None:
            raise parts.unfit
        if parts.terms.timeout is not None or parts.deadline is not None:
            return self._run_in_time(task, parts.terms.timeout)
        handler = self._handler
        return _interruptibly(handler(task))

    def fail_next(self, error: BaseException) -> None:
        """Let the next attempt fail with this error of a gate, without calling the handler."""
        self._failure = error

    def _raise_failure(self) -> NoReturn:
        obstacle, self._failure = self._failure, None
        assert obstacle is not None
        raise obstacle

    def _check_attempts_left(self, parts: Parts) -> None:
        """Fail a task whose last allowed attempt was lost with its worker or its lease."""
        attempts = self.policy.attempts if parts.terms.attempts is None else parts.terms.attempts
        if parts.attempt > attempts and parts.unfit is None:
            parts.unfit = OrphanedError(f"in attempt {parts.attempt - 1}, the last, its worker died, or lost its lease")

    @trio.lowlevel.disable_ki_protection
    async def _run_in_time(self, task: Task[Any], seconds: float | None) -> Any:
        """Run the handler until the timeout of the attempt, or the deadline of the task, whichever comes first."""
        parts, now = task.parts, self.now()
        deadline = _deadline_of(parts)
        timeout = math.inf if seconds is None else now + seconds
        if deadline > now:
            with trio.CancelScope(deadline=min(timeout, deadline)):
                return await self._handler(task)
        if deadline <= timeout:
            late = self._past_deadline(parts)
            self._forced_outcome = self._forced_outcome or Killed(late)
            raise late
        raise trio.TooSlowError(
            f"attempt {parts.attempt} of task {escaped(parts.id)} took longer than its {seconds} seconds"
        )

    def _past_deadline(self, parts: Parts) -> DeadlineError:
        return DeadlineError(f"the deadline of task {escaped(parts.id)} was over in its attempt {parts.attempt}")

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Turn an error of the attempt into its outcome; only ``KeyboardInterrupt`` passes.

        A ``Cancelled`` of an outer scope may end here without loss: trio raises it again at the next checkpoint, when
        the task has been released.
        """
        task = self._task
        parts, task_id, attempt, terms, context = self._original_parts
        if not (
            task.parts is parts
            and parts.id is task_id
            and parts.attempt is attempt
            and parts.terms is terms
            and parts.context is context
        ):
            self._restore_parts(task)
        self.left_open = innermost_scope(self._trio_task) is not self._outer_scope
        if error is None and not self.left_open:
            return False
        if error is not None and any(is_a(each, KeyboardInterrupt) for each in leaves(error)):
            self._outcome = Released("KeyboardInterrupt")
            return False
        if self._forced_outcome is not None:
            self._outcome = self._forced_outcome
        elif error is not None and self._was_cancelled() and find_within(error, trio.Cancelled):
            self._outcome = Released("cancelled")
            interruption = Interruption(self.context.name, self._task.parts.id, cancelled_line(error))
            self.context.tally.interrupted.append(interruption)
        else:
            if error is None or self.left_open:
                error = left_open_error(self.context, self._trio_task, error)
            self._outcome = self._judge(error)
        return True

    def _was_cancelled(self) -> bool:
        """Return True if a cancellation from outside has reached the slot, rather than one of a scope left open."""
        return self.context.intake_state.cancelled if self.left_open else trio.current_effective_deadline() == -math.inf

    def _outcome_of(self, result: Any) -> Succeeded[Any] | Failed:
        """Return the outcome for a result: a coroutine that was not awaited is a failure. Its attempt has failed for
        good, since the handler has done the rest of its work.
        """
        if type(result) is not CoroutineType:
            return Succeeded(result)
        forgotten: str = result.__qualname__
        result.close()  # or Python would warn that it was never awaited
        handler = getattr(self.context.recipe, "handler_name", "its handler")
        return Failed(
            TypeError(f"{handler} returned a coroutine of {forgotten}, which was not awaited: return what it returns")
        )

    def _judge(self, error: BaseException) -> Outcome:
        parts = self._task.parts
        if parts.unfit is not None and not is_a(parts.unfit, SuspendError):
            return Killed(error) if is_a(parts.unfit, AbortError) else Failed(error)
        now, terms = trio.current_time(), parts.terms
        policy = getattr(parts, "policy", self.policy)
        with catch_errors() as caught:
            outcome = judge(error, attempt=parts.attempt, attempts=terms.attempts, policy=policy, now=now)
            is_over = (
                terms.retry_for is not None and isinstance(outcome, Retried) and self._elapsed(parts) >= terms.retry_for
            )
            if parts.deadline is not None and isinstance(outcome, Retried) and now >= _deadline_of(parts):
                late = self._past_deadline(parts)
                late.__cause__ = error
                return Killed(late)
            return Failed(error) if is_over else outcome
        name = type(error).__name__
        log.error(
            "worker %r: the retry policy raised an error while judging a %s; the task has failed",
            self.context.name,
            name,
            exc_info=caught.error,
        )
        return Failed(error)

    def _elapsed(self, parts: Parts) -> float:
        """The seconds since the begin of the first attempt; those before this attempt by the storage's clock."""
        began = first_began(getattr(parts.context, "history", ()), parts.attempt)
        before = 0.0 if began is None or parts.started is None else max(0.0, parts.started - began)
        return before + trio.current_time() - self._began

    def revoke(self, outcome: Killed | Released) -> bool:
        """Cancel the attempt under way; this is its outcome, unless it succeeds all the same. False if it is over
        already, and only being settled.
        """
        if not self._is_open:
            return False
        self._forced_outcome = outcome
        self.cancel()
        return True

    def cancel(self) -> None:
        """Cancel what the slot does now: it attempts a task, or waits for one."""
        self.is_cancelled = True
        self.scope.cancel()

    @property
    def will_take_more(self) -> bool:
        """True if the slot will take another task as soon as this one is settled."""
        return self._intake.will_take_more

    @property
    def version(self) -> str | None:
        """The version of the program, as its worker was told."""
        return self.context.version

    @property
    def trio_task(self) -> trio.lowlevel.Task:
        """The trio task that runs the slot and its handlers."""
        return self._trio_task

    # Lending

    @property
    def attempted(self) -> str | None:
        """The id of the task whose attempt is under way."""
        return self._original_parts[1] if self._is_open else None

    def use(self, source: TaskSource) -> None:
        """Take tasks from this source from now on."""
        self._intake = source

    @property
    def is_busy(self) -> bool:
        """True if the slot has a task that is being attempted or settled."""
        return getattr(self, "_task", None) in self.context.running_tasks

    def retire(self) -> None:
        """End the slot, which has no task."""
        if hasattr(self, "scope"):  # otherwise it has not begun
            self.cancel()

    def lend(self, waits_for: Collection[str], what: str) -> None:
        """Lend the slot while its attempt waits for other tasks."""
        if self._is_open and self.lender is not None and self.waits_for is None:
            self.waits_for, self.what = waits_for, what
            self.lender.lend(self, self._task)

    def reclaim(self) -> None:
        """Note that the attempt does not wait any more."""
        if self.waits_for is not None and self.lender is not None:
            self.waits_for = None
            self.lender.reclaim(self, self._task)

    def current_line(self) -> str:
        """Return the line at which the attempt under way waits now."""
        return current_line(self._trio_task)

    def _settle_at_once(
        self, task: Task[Any], settle_nowait: Callable[[Task[Any], Outcome], None]
    ) -> UnsettledError | LeaseLostError | None:
        """Settle with a backend that does so without waiting. If it refuses, its error is returned: more is to be done,
        by :meth:`_settle`.
        """
        self._is_open = False
        is_over = True
        try:
            settle_nowait(task, self._outcome)
        except (UnsettledError, LeaseLostError) as refusal:
            is_over = False
            return refusal
        finally:
            if is_over:
                self._let_go(task)
        self._record(task)
        return None

    def _let_go(self, task: Task[Any]) -> None:
        self.context.running_tasks.pop(task, None)
        task.parts.holder = None
        self._intake.dismiss(task)

    async def _settle(  # noqa: ASYNC910  a slot checkpoints when its slice is over
        self, task: Task[Any], refusal: UnsettledError | LeaseLostError | None
    ) -> None:
        """Settle with the backend, shielded from cancellation, within a time limit. With a ``refusal``, which the
        backend has raised already, settle what follows from it.
        """
        self._is_open = False
        if self.left_open:
            await end_nurseries(self._trio_task)
        began = self.now()
        try:
            if refusal is not None:
                await self._settle_refused(task, refusal)
            elif self._settle_nowait is not None:
                self._settle_nowait(task, self._outcome)
            elif self._backend.settles_within_bounds:
                await self._backend.settle(task, self._outcome)
            else:
                with trio.fail_after(self._settle_timeout, shield=True):
                    await self._backend.settle(task, self._outcome)
        except (UnsettledError, LeaseLostError) as refused:
            await self._settle_refused(task, refused)
        finally:
            self._let_go(task)
        self.context.tally.note_settling(self.now() - began)
        self._record(task)

    async def _settle_refused(  # noqa: ASYNC910  settling is one
        self, task: Task[Any], refusal: UnsettledError | LeaseLostError
    ) -> None:
        """Settle the error of a refusal in place of the outcome that was refused. If that is refused as well, the task
        is left to come back when its lease is over.
        """
        if isinstance(refusal, LeaseLostError):
            self._outcome = Released(LEASE_LOST)
            return  # noqa: ASYNC910  a slot checkpoints when its slice is over
        self._outcome = Failed(refusal.error) if refusal.permanent else self._judge(refusal.error)
        try:
            with trio.fail_after(self._settle_timeout, shield=True):
                await self._backend.settle(task, self._outcome)
        except UnsettledError as unsettled:
            message = "worker %r: task %s cannot be settled, and comes back when its lease is over"
            log.error(message, self.context.name, escaped(task.parts.id), exc_info=unsettled.error)
            self._outcome = Released("it could not be settled")
        except LeaseLostError:
            self._outcome = Released(LEASE_LOST)

    def _record(self, task: Task[Any]) -> None:
        """Count the outcome, log it, and call the listeners."""
        context, outcome = self.context, self._outcome
        context.tally.count(outcome)
        if context.intake_state.closed and not isinstance(outcome, Released):
            context.tally.drained.append(task.parts.id)
        is_success = type(outcome) is Succeeded
        if (self._noted or not is_success) and context.attempt_log is not None:
            context.attempt_log.ended(task, outcome)
        if context.listeners:
            self._emit_end(task, outcome)
        if not is_success and isinstance(outcome, (Retried, Failed, Killed)):  # it may be kept for long
            drop_locals(outcome.error)

    def _emit_end(self, task: Task[Any], outcome: Outcome) -> None:
        context = self.context
        if isinstance(outcome, Succeeded):
            context.emit(Success(task, outcome.result))
        elif isinstance(outcome, Released):
            context.emit(Release(task, outcome.reason))
        elif isinstance(outcome, Suspended):
            context.emit(Release(task, outcome.reason, outcome.until))
        else:
            context.emit(Error(task, outcome.error, outcome))

    def _needs_new_context(self) -> bool:
        """Return True if the attempt was interrupted, or has left context variables behind."""
        now, before = copy_context(), self._initial_context
        return (
            type(self._outcome) is Released
            or len(now) != len(before)
            or (bool(now) and any(before.get(variable, now) is not value for variable, value in now.items()))
        )

    async def _reset_context(self) -> None:
        """Restore the context variables that a handler has changed. A new context takes effect at a checkpoint, where a
        cancellation from further out is delivered too.
        """
        trio.lowlevel.current_task().context = self._initial_context.copy()
        await trio.lowlevel.checkpoint()


def _deadline_of(parts: Parts) -> float:
    """Return the deadline of a task in an attempt by trio's clock; infinity if it has none."""
    return math.inf if parts.deadline is None else getattr(parts, "cancel_at", math.inf)


@trio.lowlevel.disable_ki_protection
async def _interruptibly(attempt: Awaitable[Any]) -> Any:
    return await attempt


@final
class Slots:
    """The slots of one run: as many as its concurrency.

    Args:
      context: the run.
      intake: the source of tasks.
      make_slot: a function that makes a slot which takes its tasks from a given source.
      lend: the most extra slots that there may be.
      gates: layers in which an attempt that waits lends its places.
    """

    def __init__(
        self,
        context: WorkerContext,
        intake: TaskSource,
        make_slot: Callable[[TaskSource], Slot],
        lend: int,
        gates: Sequence[LendingGate],
    ) -> None:
        self._context = context
        self._intake = intake
        self._make_slot = make_slot
        self._lend = lend
        self._gates = gates
        self._nursery: trio.Nursery
        self._running = 0
        self._regular: dict[Slot, None] = {}  # in the order in which they began
        self._ending: dict[Slot, None] = {}  # those that are too many, and end with their attempt
        self._watcher: trio.lowlevel.Task | None = None
        self._lenders: dict[Slot, Task[Any]] = {}
        self._extras: dict[Slot, None] = {}  # a set that keeps its order, so that a seed decides all
        self._stall_scope: trio.CancelScope | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[WorkerContext]) -> None:
        """Run the slots; return when all have ended."""
        self._context.intake_state.on_close = self._release_lenders
        async with trio.open_nursery() as self._nursery:
            self._context.emit(Start())
            for _ in range(self._context.concurrency):
                self._start()
            self._context.on_resize = self._resize
            task_status.started(self._context)
            await self._watch()
            self._nursery.cancel_scope.cancel()  # there may be one left that only looks for a stall

    def _start(self) -> None:
        slot = self._make_slot(self._intake)
        self._regular[slot] = None
        self._running += 1
        self._nursery.start_soon(self._run_slot, slot, self._start)

    def _resize(self) -> None:
        """Have as many slots as the concurrency is by now: those that are too many end, idle ones at once."""
        if self._context.intake_state.closed or not self._running:
            return
        wanted = self._context.concurrency - len(self._regular)
        for slot in [*self._ending][: max(0, wanted)]:
            del self._ending[slot]
            self._regular[slot] = None
            slot.use(self._intake)
        for _ in range(self._context.concurrency - len(self._regular)):
            self._start()
        for slot in sorted(self._regular, key=lambda each: each.is_busy)[: max(0, -wanted)]:
            del self._regular[slot]
            self._ending[slot] = None
            slot.use(EndedSource(self._intake))
            if not slot.is_busy:
                slot.retire()

    @trio.lowlevel.enable_ki_protection
    async def _run_slot(self, slot: Slot, replace: Callable[[], object]) -> None:
        slot.lender = self
        try:
            await slot.run()
            if slot.left_open and slot not in self._ending:
                replace()
        finally:
            for kind in (self._regular, self._ending, self._extras):
                kind.pop(slot, None)
            self._running -= 1
            if not self._running and self._watcher is not None:
                watcher, self._watcher = self._watcher, None
                trio.lowlevel.reschedule(watcher, Value(None))

    async def _watch(self) -> None:
        """Wait until all slots have ended, or the run is cancelled.

        trio calls the abort function in the step in which the cancellation is made, and so the intake is closed by it
        at once: no slot has to look for a cancellation before each task, and nothing more is claimed for any of them.
        """
        self._watcher = trio.lowlevel.current_task()

        def note(_: object) -> trio.lowlevel.Abort:
            self._watcher = None
            self._context.intake_state.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(note)

    # Lending

    @property
    def has_surplus(self) -> bool:
        """True if there are more extra slots than lent slots."""
        return len(self._extras) > len(self._lenders)

    def lend(self, slot: Slot, task: Task[Any]) -> None:
        """Start an extra slot in place of a lent one, if the limit allows. If no slot will ever take the task that its
        attempt waits for, end the attempt.
        """
        if self._context.intake_state.closed:
            slot.revoke(_STOPPED)
            return
        self._lenders[slot] = task
        self._context.lent = len(self._lenders)
        for gate in self._gates:
            gate.lend(task)
        if len(self._extras) < min(len(self._lenders), self._lend):
            self._start_extra()
        self._look_for_stall()

    def reclaim(self, slot: Slot, task: Task[Any]) -> None:
        """Take a lent slot back, since its attempt goes on. An extra slot that runs no task ends; if all have one, the
        first that has not.
        """
        if self._lenders.pop(slot, None) is None:
            return
        self._context.lent = len(self._lenders)
        for gate in self._gates:
            gate.reclaim(task)
        if self._stall_scope is not None:
            self._stall_scope.cancel()
            self._stall_scope = None
        if self.has_surplus:
            idle = next((extra for extra in self._extras if not extra.is_busy), None)
            if idle is not None:
                del self._extras[idle]
                idle.retire()

    def _start_extra(self) -> None:
        slot = self._make_slot(ExtraSource(self, self._intake))
        self._extras[slot] = None
        self._running += 1
        self._nursery.start_soon(self._run_slot, slot, lambda: None)

    def has_retired(self, slot: Slot) -> bool:
        """Return True if this extra slot takes no more tasks: it was told to end, or there is one too many."""
        if slot in self._extras and self.has_surplus:
            del self._extras[slot]
        return slot not in self._extras

    def _release_lenders(self) -> None:
        """Release the attempts in lent slots: intake has stopped, so no slot will take the tasks they wait for."""
        for slot in list(self._lenders):
            slot.revoke(_STOPPED)

    # Stalls

    def _look_for_stall(self) -> None:
        if len(self._lenders) >= self._context.concurrency + self._lend and self._stall_scope is None:
            self._stall_scope = trio.CancelScope()
            self._nursery.start_soon(self._name_stall, self._stall_scope)

    async def _name_stall(self, scope: trio.CancelScope) -> None:
        """Log at intervals that all slots wait for tasks that no slot here attempts."""
        with scope:
            looks = 0
            while True:  # noqa: ASYNC913  it sleeps first
                await trio.sleep(_STALL_INTERVAL / 2)
                goes_on = any(is_attempted(slot.waits_for) for slot in self._lenders if slot.waits_for)
                looks = 0 if goes_on else looks + 1
                if not looks or looks % 2:  # at the first one, what is waited for may just have ended
                    continue
                waits = [f"task {slot.attempted} waits for {slot.what}" for slot in self._lenders]
                log.warning(
                    "worker %r stalls: its %d slots, and %d more that they lent, all wait for tasks that no slot "
                    "attempts: %s; give it more concurrency, or a larger lend",
                    self._context.name,
                    self._context.concurrency,
                    len(self._extras),
                    "; ".join(waits),
                )


@final
class ExtraSource:
    """A source of tasks for one extra slot, which gives no more once the slot is not needed.

    Args:
      slots: know whether it is.
      intake: the source of its tasks.
    """

    def __init__(self, slots: Slots, intake: TaskSource) -> None:
        self._slots = slots
        self._intake = intake

    async def take(self, slot: Slot) -> Task[Any] | None:
        """Return the next task; None if there are no more, or this slot is not needed any more."""
        if self._slots.has_retired(slot):
            return None  # noqa: ASYNC910  the slot ends
        return await self._intake.take(slot)

    def dismiss(self, task: Task[Any]) -> None:
        """Note that an attempt is over."""
        self._intake.dismiss(task)

    @property
    def will_take_more(self) -> bool:
        """True if the slot will take another task when it finishes its task."""
        return not self._slots.has_surplus and self._intake.will_take_more


@final
class EndedSource:
    """A source that gives no more tasks: for a slot that ends when its attempt does.

    Args:
      intake: the source of the task of that attempt.
    """

    will_take_more = False

    def __init__(self, intake: TaskSource) -> None:
        self._intake = intake

    async def take(self, slot: Slot) -> None:  # noqa: ASYNC910  the slot ends
        """Return None: no more will come."""

    def dismiss(self, task: Task[Any]) -> None:
        """Take note that the attempt is over."""
        self._intake.dismiss(task)
