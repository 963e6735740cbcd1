"""All operations on the rows of a journal besides the exchange; the caller commits each one or rolls it back."""

from __future__ import annotations

import math
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from ..._tasks.errors import not_again
from ..durable.encoding import expired_error
from ..durable.engine import ClaimKey, Part, Renewal, State, StoredRow
from .rows import COUNTS, DELAYED, FAILED, KILLED, LIVE, PUSHED, RUNNING, WAITING, Row
from .state import weight_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .state import JournalState


def _row(state: JournalState, queue: str, task_id: str) -> Row | None:
    queue_rows = state.queues.get(queue)
    return queue_rows.ids.get(task_id) if queue_rows is not None else None


def _waiting(state: JournalState, queue: str, task_id: str, now: float) -> Row | None:
    row = state.known(queue, task_id, now)
    return row if row is not None and row.state <= DELAYED else None


def _held(state: JournalState, held: ClaimKey) -> Row | None:
    row = state.rows.get(held.key)
    return row if row is not None and row.state == RUNNING and row.token == held.token else None


# Operations that append no record


def renew(state: JournalState, held: Sequence[ClaimKey], until: float) -> list[ClaimKey]:
    """Set the end of these leases; returns those that were lost."""
    lost: list[ClaimKey] = []
    for each in held:
        row = _held(state, each)
        if row is None:
            lost.append(each)
        else:
            row.due = until
            row.queue.no_lease_ends_before = min(row.queue.no_lease_ends_before, until)
            state.look_at(until)
    return lost


def find(state: JournalState, queue: str, task_id: str, now: float) -> StoredRow | None:
    """The row of this id."""
    row = _row(state, queue, task_id)
    return None if row is None or row.is_kept_no_longer(now) else _stored(row, now)


def list_rows(state: JournalState, queue: str, states: Sequence[State], limit: int, now: float) -> list[StoredRow]:
    """At most so many rows in these states."""
    found: list[StoredRow] = []
    queue_rows = state.queues.get(queue)
    if queue_rows is None:
        return found
    expired = [row for row in queue_rows.ids.values() if row.has_expired(now)] if queue_rows.next_due <= now else []
    for wanted in states:
        rows: Iterable[Row] = queue_rows.running.values() if wanted == RUNNING else queue_rows.ids.values()
        if wanted > RUNNING:
            rows = queue_rows.finished.values()
        there = (row for row in rows if row.state == wanted and not _is_over(row, now))
        first = nsmallest(limit - len(found), there, key=_order_key)
        if wanted == KILLED:
            first += expired[: limit - len(found) - len(first)]
        found += [_stored(row, now) for row in first]
    return found


def _is_over(row: Row, now: float) -> bool:
    """Return True if its state has ended by now, though no transaction has entered that yet."""
    return row.has_expired(now) or row.is_kept_no_longer(now)


def _order_key(row: Row) -> tuple[float, ...]:
    """A sort key for rows of one state: as they would be claimed, fall due, or were finished."""
    if row.state == WAITING:
        return -row.priority, row.since, row.key
    if row.state <= RUNNING:
        assert row.due is not None
        return row.due if row.expires is None else min(row.due, row.expires), row.key
    return row.since, row.key


def _stored(row: Row, now: float) -> StoredRow:
    has_expired = row.has_expired(now)
    return StoredRow(
        row.id,
        State.KILLED if has_expired else State(row.state),
        row.attempt,
        row.payload,
        row.head,
        None if has_expired else row.due,
        expired_error() if has_expired else row.result,
        row.history,
        row.progress,
        row.worker,
        None if has_expired or row.state > DELAYED else row.expires,
        row.run_at,
    )


def counts(state: JournalState, queue: str, now: float) -> dict[str, int]:
    """The counts of a queue."""
    queue_rows = state.queues.get(queue)
    numbers, running = (queue_rows.counts, len(queue_rows.running)) if queue_rows is not None else ([0] * COUNTS, 0)
    names = ("pushed", "succeeded", "retried", "failed", "killed", "released", "suspended")
    found = {**dict(zip(names, numbers, strict=False)), "waiting": numbers[LIVE] - running, "running": running}
    if queue_rows is not None and queue_rows.next_due <= now:
        expired = sum(row.has_expired(now) for row in queue_rows.ids.values())
        found["waiting"] -= expired
        found["killed"] += expired
    return found


def names(state: JournalState) -> list[str]:
    """The names of the queues that a task was ever pushed to."""
    return [queue_rows.name for queue_rows in state.queues.values() if queue_rows.counts[PUSHED]]


# Operations that append a record


def report(state: JournalState, held: ClaimKey, progress: bytes) -> bool:
    """Keep the progress of a row that runs."""
    row = _held(state, held)
    if row is not None:
        state.touch(row)
        row.progress = progress
    return row is not None


def cancel(state: JournalState, queue: str, task_id: str, error: bytes, now: float) -> bool:
    """Kill the row if it waits."""
    row = _waiting(state, queue, task_id, now)
    if row is not None:
        state.kill(row, error)
    return row is not None


def abort(state: JournalState, queue: str, task_id: str) -> ClaimKey | None:
    """Note that the row, if it runs, is to be aborted."""
    row = _row(state, queue, task_id)
    if row is None or row.state != RUNNING:
        return None
    state.touch(row)
    row.requested_end = True
    return ClaimKey(row.key, row.token)


def aborted(state: JournalState) -> list[ClaimKey]:
    """The keys of running rows that are to be aborted."""
    running = (row for queue_rows in state.queues.values() for row in queue_rows.running.values())
    return [ClaimKey(row.key, row.token) for row in running if row.requested_end is True]


def look(state: JournalState, held: Sequence[ClaimKey], until: float) -> Renewal:
    """Renew these leases, and look for rows that are to be aborted."""
    return Renewal(renew(state, held, until), aborted(state))


def reschedule(state: JournalState, queue: str, task_id: str, delay: float, run_at: int | None, now: float) -> bool:
    """Make the row ready in so many seconds, if it waits."""
    row = _waiting(state, queue, task_id, now)
    if row is not None and (delay > 0 or row.state == DELAYED):  # a ready row keeps its place
        state.touch(row)
        row.run_at, row.by_wall = run_at if delay > 0 else None, False
        state.wait(row, delay, now)
    return row is not None


def update(state: JournalState, queue: str, task_id: str, payload: bytes, head: bytes | None, now: float) -> bool:
    """Replace the payload of the row, if it waits."""
    row = _waiting(state, queue, task_id, now)
    if row is not None:
        state.touch_in_full(row)
        state.weight -= weight_of(row)
        row.payload, row.head = payload, head
        state.weight += weight_of(row)
    return row is not None


def resume(state: JournalState, queue: str, task_id: str, now: float) -> bool:
    """Make the row wait again, if it is dead.

    Raises:
      DuplicateTaskError: its unique key is taken.
    """
    row = state.known(queue, task_id, now)
    if row is None or row.state not in (FAILED, KILLED):
        return False
    if row.unique is not None:
        state.holder(row.queue, row.unique, now)
    if row.unique is not None and (holder := state.hold(row)) is not None:
        raise not_again(task_id, holder.id)
    state.touch(row)
    row.queue.finished.pop(row.key)
    row.attempt, row.expires, row.requested_end = 0, None, False
    state.count(row.queue, LIVE)
    state.wait(row, 0.0, now)
    return True


def resume_abandoned(state: JournalState, queue: str, now: float, limit: int) -> Part:
    """Make up to so many running rows wait again, whose lease has run out."""
    queue_rows = state.queues.get(queue)
    lapsed = queue_rows.lapsed(now) if queue_rows is not None else []
    for row in lapsed[:limit]:
        state.lose(row, now)
    if queue_rows is not None and len(lapsed) > limit:
        queue_rows.no_lease_ends_before = now  # the others are still to be found
    return Part(min(len(lapsed), limit), is_more=len(lapsed) > limit)


def forget(state: JournalState, queue: str, task_id: str | None, limit: int, now: float) -> Part:
    """Forget the finished row of this id, or up to so many finished ones."""
    queue_rows = state.queues.get(queue)
    if queue_rows is None:
        return Part(0, is_more=False)
    if task_id is None:
        state.enter_due(now, -math.inf)  # but not leases that ran out, since their attempts may run here
    rows = list(islice(queue_rows.finished.values(), limit))
    if task_id is not None:
        row = state.known(queue, task_id, now)
        rows = [row] if row is not None and row.key in queue_rows.finished else []
    for row in rows:
        state.touch(row)
        state.forget(row)
    return Part(len(rows), is_more=len(rows) == limit)
