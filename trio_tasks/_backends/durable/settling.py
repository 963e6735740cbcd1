"""What an outcome does to a stored task."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from ..._clock import microseconds_of, wall_after
from ..._codecs.codec import EncodeError
from ..._logging import catch_errors, line_of
from ..._printing import quoted
from ..._tasks.errors import BackendError, UnsettledError
from ..._tasks.outcome import ALL_OUTCOMES, Failed, Killed, Released, Retried, Status, Succeeded, Suspended
from ..._tasks.task_info import PastAttempt
from .encoding import UNREADABLE, encode_error, unreadable_since, with_attempt
from .engine import Settlement, SettlementKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._tasks.outcome import Outcome
    from ..._tasks.task import Task
    from .engine import Engine
    from .queue import Lease

_VERDICTS: dict[type, SettlementKind] = {
    Retried: SettlementKind.RETRIED,
    Failed: SettlementKind.FAILED,
    Killed: SettlementKind.KILLED,
}
STATUS_AFTER = {
    SettlementKind.SUCCEEDED: Status.Done,
    SettlementKind.RETRIED: Status.Pending,
    SettlementKind.FAILED: Status.Failed,
    SettlementKind.KILLED: Status.Killed,
    SettlementKind.RELEASED: Status.Pending,
    SettlementKind.SUSPENDED: Status.Pending,
}


def settlement_of(task: Task[Any], lease: Lease, outcome: Outcome, engine: Engine) -> Settlement:
    """The settlement of this attempt.

    Raises:
      UnsettledError: the result cannot be encoded.
    """
    queue = lease.queue
    worker = _who_made(task, lease) if lease.queue.by_name or not lease.worker else None
    if isinstance(outcome, Succeeded):
        write = _all_of(lease.writes) if lease.writes else None
        result = None if outcome.result is None else _encoded(outcome.result, lease, engine.longest)
        keep = queue.keep_results
        return Settlement(
            queue.name, lease.key, lease.token, SettlementKind.SUCCEEDED, 0.0, result, None, keep, write, None, worker
        )
    if isinstance(outcome, Released):
        return Settlement(queue.name, lease.key, lease.token, SettlementKind.RELEASED, 0.0, None, None, math.inf)
    if isinstance(outcome, Suspended):
        after = max(0.0, outcome.until - trio.current_time())
        history = _note_unreadable(task, lease, engine, worker)
        run_at = microseconds_of(wall_after(after)) if after else None
        key, token, verdict = lease.key, lease.token, SettlementKind.SUSPENDED
        return Settlement(queue.name, key, token, verdict, after, None, history, math.inf, run_at=run_at, worker=worker)
    if not isinstance(outcome, (Retried, Failed, Killed)):
        raise TypeError(f"an outcome is {ALL_OUTCOMES}, not {quoted(outcome)}")
    verdict = _VERDICTS[type(outcome)]
    who = worker or lease.worker
    entry = PastAttempt(task.parts.attempt, engine.now(), who, verdict.name.lower(), line_of(outcome.error))
    after = outcome.after if isinstance(outcome, Retried) else 0.0
    history = with_attempt(lease.packed_history, entry)
    packed_error = encode_error(outcome.error)
    run_at = microseconds_of(wall_after(after)) if after else None
    key, token, keep = lease.key, lease.token, queue.keep_dead
    return Settlement(queue.name, key, token, verdict, after, packed_error, history, keep, run_at=run_at, worker=worker)


def _note_unreadable(task: Task[Any], lease: Lease, engine: Engine, worker: str | None) -> bytes | None:
    """The history with a note of when the task was first found unreadable; None if there is nothing to note."""
    error = task.parts.unfit and task.parts.unfit.__cause__
    if error is None:
        return None
    with suppress(BackendError):
        if unreadable_since(lease.packed_history) is not None:
            return None
    entry = PastAttempt(task.parts.attempt, engine.now(), worker or lease.worker, UNREADABLE, line_of(error))
    return with_attempt(lease.packed_history, entry)


def _who_made(task: Task[Any], lease: Lease) -> str | None:
    """The name of the worker that made the attempt; None if the claim names it, or if no worker did."""
    if task.parts.holder is None:
        return None
    name: str = task.parts.holder.worker
    return name if name != lease.worker else None


def check_length(length: int, longest: float, name: str) -> None:
    """Raise :class:`EncodeError` if something is longer than the store takes."""
    if length > longest:
        raise EncodeError(f"{name} has {length:,} bytes when it is stored, and this store takes {longest:,.0f} at most")


def _encoded(result: Any, lease: Lease, longest: float) -> bytes:
    with catch_errors() as caught:
        encoded: bytes = lease.queue.results.encode(result)
        check_length(len(encoded), longest, "the result")
        return encoded
    assert caught.error is not None
    raise UnsettledError(caught.error, for_good=True) from caught.error


def _all_of(writes: tuple[Callable[[Any], object], ...]) -> Callable[[Any], object]:
    def write(writer: Any) -> None:
        for each in writes:
            each(writer)

    return write
