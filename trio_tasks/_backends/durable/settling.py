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
from .engine import Settlement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._tasks.outcome import Outcome
    from ..._tasks.task import Task
    from .engine import Engine
    from .queue import Lease

_VERDICTS: dict[type, Verdict] = {Retried: Verdict.RETRIED, Failed: Verdict.FAILED, Killed: Verdict.KILLED}
STATUS_AFTER = {
    Verdict.SUCCEEDED: Status.Done,
    Verdict.RETRIED: Status.Pending,
    Verdict.FAILED: Status.Failed,
    Verdict.KILLED: Status.Killed,
    Verdict.RELEASED: Status.Pending,
    Verdict.SUSPENDED: Status.Pending,
}


def settlement_of(task: Task[Any], grip: Lease, outcome: Outcome, engine: Engine) -> Settlement:
    """The settlement of this attempt.

    Raises:
      UnsettledError: the result cannot be encoded.
    """
    lane = grip.lane
    worker = _who_made(task, grip) if grip.lane.by_name or not grip.worker else None
    if isinstance(outcome, Succeeded):
        write = _all_of(grip.writes) if grip.writes else None
        result = None if outcome.result is None else _encoded(outcome.result, grip, engine.longest)
        keep = lane.keep_results
        return Settlement(
            lane.queue, grip.key, grip.token, Verdict.SUCCEEDED, 0.0, result, None, keep, write, None, worker
        )
    if isinstance(outcome, Released):
        return Settlement(lane.queue, grip.key, grip.token, Verdict.RELEASED, 0.0, None, None, math.inf)
    if isinstance(outcome, Suspended):
        after = max(0.0, outcome.until - trio.current_time())
        history = _note_unreadable(task, grip, engine, worker)
        run_at = microseconds_of(wall_after(after)) if after else None
        key, token, verdict = grip.key, grip.token, Verdict.SUSPENDED
        return Settlement(lane.queue, key, token, verdict, after, None, history, math.inf, run_at=run_at, worker=worker)
    if not isinstance(outcome, (Retried, Failed, Killed)):
        raise TypeError(f"an outcome is {ALL_OUTCOMES}, not {quoted(outcome)}")
    verdict = _VERDICTS[type(outcome)]
    who = worker or grip.worker
    entry = PastAttempt(task.parts.attempt, engine.now(), who, verdict.name.lower(), line_of(outcome.error))
    after = outcome.after if isinstance(outcome, Retried) else 0.0
    history = with_attempt(grip.packed_history, entry)
    packed_error = encode_error(outcome.error)
    run_at = microseconds_of(wall_after(after)) if after else None
    key, token, keep = grip.key, grip.token, lane.keep_dead
    return Settlement(lane.queue, key, token, verdict, after, packed_error, history, keep, run_at=run_at, worker=worker)


def _note_unreadable(task: Task[Any], grip: Lease, engine: Engine, worker: str | None) -> bytes | None:
    """The history with a note of when the task was first found unreadable; None if there is nothing to note."""
    error = task.parts.unfit and task.parts.unfit.__cause__
    if error is None:
        return None
    with suppress(BackendError):
        if unreadable_since(grip.packed_history) is not None:
            return None
    entry = PastAttempt(task.parts.attempt, engine.now(), worker or grip.worker, UNREADABLE, line_of(error))
    return with_attempt(grip.packed_history, entry)


def _who_made(task: Task[Any], grip: Lease) -> str | None:
    """The name of the worker that made the attempt; None if the claim names it, or if no worker did."""
    if task.parts.holder is None:
        return None
    name: str = task.parts.holder.worker
    return name if name != grip.worker else None


def check_length(length: int, longest: float, name: str) -> None:
    """Raise :class:`EncodeError` if something is longer than the store takes."""
    if length > longest:
        raise EncodeError(f"{name} has {length:,} bytes when it is stored, and this store takes {longest:,.0f} at most")


def _encoded(result: Any, grip: Lease, longest: float) -> bytes:
    with catch_errors() as caught:
        encoded: bytes = grip.lane.results.encode(result)
        check_length(len(encoded), longest, "the result")
        return encoded
    assert caught.error is not None
    raise UnsettledError(caught.error, for_good=True) from caught.error


def _all_of(writes: tuple[Callable[[Any], object], ...]) -> Callable[[Any], object]:
    def write(writer: Any) -> None:
        for each in writes:
            each(writer)

    return write
