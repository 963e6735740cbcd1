"""Conversions between tasks and rows: pushed tasks, outcomes to be settled, rows that were looked up, and events.

A claimed row becomes a task in :meth:`QueueState.deliver`, since its lease belongs to the queue.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

import trio

from ..._clock import microseconds_of, wall_after
from ..._codecs.codec import CborCodec, EncodeError
from ..._concurrency.tracebacks import traceback_text
from ..._concurrency.virtual_time import uses_wall_clock
from ..._contracts.bulk import Refusal
from ..._contracts.deadlines import seconds_left
from ..._contracts.explanation import reason_text
from ..._contracts.sink import check_storable
from ..._contracts.states import STATUSES, TaskState
from ..._contracts.storage_events import Cancelled, DeadlinePassed, Expired, Replaced
from ..._logging import catch_errors, line_of
from ..._printing import escaped, quoted
from ..._tasks.errors import BackendError, DuplicateTaskError, UnsettledError, is_by_caller
from ..._tasks.extensions import NO_METADATA
from ..._tasks.outcome import ALL_OUTCOMES, Failed, Killed, Released, Retried, Status, Succeeded, Suspended, TaskResult
from ..._tasks.task import USUAL_TERMS, Parts, Task, attempt_number, check_ends
from ..._tasks.task_id import stored_id
from ..._tasks.task_info import PastAttempt, StoredTaskInfo
from .encoding import (
    UNREADABLE,
    check_time,
    decode_error,
    decode_history,
    decode_options,
    encode_error,
    encode_options,
    moment_of,
    unreadable_since,
    with_attempt,
)
from .engine import CHANGES, ENDS, KillReason, NewRow, Settlement, SettlementKind, State, StoredRow, new_tuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..._tasks.outcome import Outcome
    from ..._tasks.task_id import TaskId
    from .engine import Engine, KilledRow
    from .queue import Lease, QueueState

_STATUS = {state: STATUSES[TaskState[state.name]] for state in State}
STATES = {status: [state for state in State if _STATUS[state] is status] for status in Status}
STATES[Status.Queued] = STATES[Status.Running]
PLAIN = CborCodec()
_SUCCEEDED = SettlementKind.SUCCEEDED
_KINDS: dict[type, SettlementKind] = {
    Retried: SettlementKind.RETRIED,
    Failed: SettlementKind.FAILED,
    Killed: SettlementKind.KILLED,
}
STATUS_AFTER = {kind: STATUSES[change.state] for kind, change in CHANGES.items()}


# A pushed task


def row_of(task: Task[Any], queue: QueueState, longest: float, now: Callable[[], float]) -> NewRow:
    """Make the row to insert for a task.

    Args:
      task: the task. Its ``parts.run_at`` and ``parts.deadline`` become the values that are stored.
      queue: the queue to which it is pushed.
      longest: the most bytes that the store takes.
      now: the clock of the store.

    Raises:
      TypeError, ValueError: it cannot be stored.
    """
    parts = task.parts
    terms = parts.terms
    check_storable(parts)
    delay = parts.seconds_to_wait
    deadline: float | None = None
    if terms is not USUAL_TERMS:
        check_ends(terms, delay)
    if queue.inherits or terms.deadline is not None:
        rest = seconds_left(terms, inherits=queue.inherits)
        deadline = None if rest is None else now() + rest
    run_at = wall_after(delay) if terms.delay else parts.run_at  # a delay begins now, whenever the task was built
    payload, options = queue.codec.encode(task.args), None
    if terms is not USUAL_TERMS or parts.metadata is not NO_METADATA or run_at is not None:
        options = encode_options(terms, parts.metadata, run_at)
    check_length(len(payload) + len(options or b""), longest, "the task")
    by_wall_clock = run_at is not None and not terms.delay and uses_wall_clock()
    row = NewRow(
        queue.name,
        parts.id,
        payload,
        options,
        terms.priority,
        delay,
        terms.unique,
        terms.on_conflict,
        terms.expires_in,
        None if run_at is None else microseconds_of(run_at),
        by_wall_clock,
        terms.name,
        terms.unique_until,
        terms.unique_for,
        terms.key,
        deadline,
    )
    parts.run_at, parts.deadline = run_at, deadline
    return row


def ids_of(answers: Iterable[str | DuplicateTaskError]) -> list[TaskId]:
    """Return the ids of pushed rows.

    Raises:
      DuplicateTaskError: one of them was refused.
    """
    ids: list[TaskId] = []
    for answer in answers:
        if isinstance(answer, DuplicateTaskError):
            raise answer
        ids.append(stored_id(answer))
    return ids


def check_length(length: int, longest: float, name: str) -> None:
    """Raise :class:`EncodeError` if a value is longer than the store takes."""
    if length > longest:
        raise EncodeError(f"{name} has {length:,} bytes when it is stored, and this store takes {longest:,.0f} at most")


# An outcome


def settlement_of(task: Task[Any], lease: Lease, outcome: Outcome, engine: Engine) -> Settlement:
    """Make the settlement of an attempt with this outcome.

    Raises:
      UnsettledError: the result cannot be encoded.
    """
    queue = lease.queue
    worker = _worker_of(task, lease) if lease.queue.by_name or not lease.worker else None
    if isinstance(outcome, Succeeded):
        write = _in_order(lease.writes) if lease.writes else None
        result = None if outcome.result is None else _encoded(outcome.result, lease, engine.longest)
        keep = queue.keep_results
        key, token = lease.key, lease.token
        fields = queue.name, key, token, _SUCCEEDED, 0.0, result, None, keep, write, None, worker, ""
        return new_tuple(Settlement, fields)
    if isinstance(outcome, Released):
        return Settlement(queue.name, lease.key, lease.token, SettlementKind.RELEASED, 0.0, None, None, math.inf)
    if isinstance(outcome, Suspended):
        after = max(0.0, outcome.until - trio.current_time())
        history = _note_unreadable(task, lease, engine, worker)
        run_at = microseconds_of(wall_after(after)) if after else None
        key, token, kind = lease.key, lease.token, SettlementKind.SUSPENDED
        reason = reason_text(outcome.reason)
        row = queue.name, key, token, kind, after, None, history, math.inf
        return Settlement(*row, run_at=run_at, worker=worker, reason=reason)
    if not isinstance(outcome, (Retried, Failed, Killed)):
        raise TypeError(f"an outcome is {ALL_OUTCOMES}, not {quoted(outcome)}")
    kind = _KINDS[type(outcome)]
    entry = _failed_attempt(task.parts, worker or lease.worker, kind.name.lower(), outcome.error, engine.now())
    after = outcome.after if isinstance(outcome, Retried) else 0.0
    history = with_attempt(lease.packed_history, entry)
    packed_error = encode_error(outcome.error)
    run_at = microseconds_of(wall_after(after)) if after else None
    key, token, keep = lease.key, lease.token, 0.0 if is_by_caller(outcome.error) else queue.keep_dead
    return Settlement(queue.name, key, token, kind, after, packed_error, history, keep, run_at=run_at, worker=worker)


def _failed_attempt(parts: Parts, worker: str, became: str, error: BaseException, now: float) -> PastAttempt:
    seconds = None if parts.started is None else max(0.0, now - parts.started)
    version = getattr(parts.holder, "version", None)
    return PastAttempt(parts.attempt, now, worker, became, line_of(error), seconds, traceback_text(error), version)


def _note_unreadable(task: Task[Any], lease: Lease, engine: Engine, worker: str | None) -> bytes | None:
    """Return the history with the time at which the task was first unreadable; None if that is not needed."""
    error = task.parts.unfit and task.parts.unfit.__cause__
    if error is None:
        return None
    with suppress(BackendError):
        if unreadable_since(lease.packed_history) is not None:
            return None
    entry = PastAttempt(task.parts.attempt, engine.now(), worker or lease.worker, UNREADABLE, line_of(error))
    return with_attempt(lease.packed_history, entry)


def _worker_of(task: Task[Any], lease: Lease) -> str | None:
    """Return the name of the worker that made the attempt; None if it is that of the claim, or there is none."""
    if task.parts.holder is None:
        return None
    name: str = task.parts.holder.worker
    return name if name != lease.worker else None


def _encoded(result: Any, lease: Lease, longest: float) -> bytes:
    with catch_errors() as caught:
        encoded: bytes = lease.queue.results.encode(result)
        check_length(len(encoded), longest, "the result")
        return encoded
    assert caught.error is not None
    raise UnsettledError(caught.error, permanent=True) from caught.error


def _in_order(writes: tuple[Callable[[Any], object], ...]) -> Callable[[Any], object]:
    def write(writer: Any) -> None:
        for each in writes:
            each(writer)

    return write


# A row that was looked up


@final
class _RowInfo(StoredTaskInfo):
    """The StoredTaskInfo of a row."""

    __slots__ = ("_queue", "_stored")

    def __init__(self, stored: StoredRow, queue: QueueState) -> None:
        self._stored = stored
        self._queue = queue

    @property
    def history(self) -> tuple[PastAttempt, ...]:
        """The attempts that did not succeed, the oldest first."""
        return decode_history(self._stored.history)

    @property
    def error(self) -> BaseException | None:
        """The error of the latest attempt, if the task failed, was killed, or waits for a retry."""
        has_one = self._stored.state is not State.DONE and self._stored.result is not None
        return decode_error(self._stored.result) if has_one else None

    @property
    def result(self) -> Any:
        """The result of the task; None if it has not succeeded."""
        if self._stored.state is not State.DONE or self._stored.result is None:
            return None
        return self._queue.results.decode(self._stored.result)

    @property
    def progress(self) -> Any:
        """The progress last reported by the latest attempt."""
        return None if self._stored.progress is None else PLAIN.decode(self._stored.progress)

    @property
    def worker(self) -> str | None:
        """The name of the worker that claimed it last."""
        return self._stored.worker

    def __repr__(self) -> str:
        return f"<kept of task {escaped(self._stored.id)}: {self._stored.state.name}>"


def task_of(stored: StoredRow, queue: QueueState) -> Task[Any]:
    """Make the task of a row that was looked up. If its payload does not decode any more, its args are the payload."""
    parts = Parts(stored_id(stored.id), attempt=attempt_number(stored.attempt))
    parts.status = _STATUS[stored.state]
    if stored.state is State.RUNNING and stored.id in queue.unbegun():
        parts.status = Status.Queued
    parts.context = _RowInfo(stored, queue)
    args: Any = stored.payload
    with catch_errors() as caught:
        parts.run_at = moment_of(stored.run_at, stored.options)
        parts.terms, parts.metadata = decode_options(stored.options, stored.name)
        parts.pushed, parts.started = check_time(stored.pushed), check_time(stored.started)
        parts.finished, parts.deadline = check_time(stored.finished), check_time(stored.deadline)
        args = queue.codec.decode(stored.payload)
    parts.unfit = caught.error
    return Task(args, parts)


def result_of(stored: StoredRow, queue: QueueState) -> TaskResult[Any]:
    """Return the result of the finished task of this row."""
    task_id = stored_id(stored.id)
    if stored.state is State.DONE:
        return TaskResult(task_id, Status.Done, _RowInfo(stored, queue).result)
    return TaskResult(task_id, _STATUS[stored.state], error=decode_error(stored.result))


def result_of_ending(task_id: str, ending: Settlement, queue: QueueState) -> TaskResult[Any]:
    """Return the result of a task that the store does not keep."""
    stored = StoredRow(task_id, ENDS[ending.kind], 0, b"", None, None, ending.result, None, None, None)
    return result_of(stored, queue)


def refusal_of(stored: StoredRow | None) -> Refusal:
    """Return the state of a row that was not changed, since it was not in the state for that."""
    if stored is None:
        return Refusal()
    return Refusal(_STATUS[stored.state], stored.worker if stored.state is State.RUNNING else None)


def event_of(row: KilledRow) -> Expired | DeadlinePassed | Cancelled | Replaced | None:
    """Return the event of a row that the engine has killed; None if there is none, since it ran."""
    task_id = stored_id(row.id)
    if row.reason is KillReason.EXPIRED:
        return Expired(task_id)
    if row.reason is KillReason.DEADLINE:
        return DeadlinePassed(task_id)
    if row.reason is KillReason.REPLACED:
        return Replaced(task_id, stored_id(row.by))
    return Cancelled(task_id) if row.reason is KillReason.CANCELLED else None
