"""Operations on the rows of a journal besides exchanges: look up, cancel, reschedule, resume, forget."""

from __future__ import annotations

import math
from heapq import nsmallest
from itertools import chain, islice
from typing import TYPE_CHECKING, final

from ..._clock import wall_now
from ..._contracts.metrics import STORED_STATES, Balance, QueueMetrics, make_metrics
from ..._contracts.states import COUNTERS
from ..._tasks.errors import not_again
from ..durable.encoding import expired_error
from ..durable.engine import ClaimKey, Part, Renewal, State, StoredRow
from .state import (
    DELAYED,
    DONE,
    FAILED,
    KILLED,
    KILLS,
    PAUSED,
    PUSHED,
    RESUMED,
    RUNNING,
    WAITING,
    JournalState,
    QueueRows,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KEPT = {DONE: "kept_done", FAILED: "kept_failed", KILLED: "kept_killed"}
_NAMES = {WAITING: "waiting", DELAYED: "delayed", RUNNING: "running", **_KEPT}

_BATCH_SIZE = 2_000
"""Rows that one transaction changes at most, in operations on any number of them."""


@final
class Operations:
    """The operations on rows besides exchanges; the caller commits each one or rolls it back.

    Those that append a record are called in a transaction, which has set the time of the state.

    Args:
      state: the rows and queues of the journal.
    """

    def __init__(self, state: JournalState) -> None:
        self._state = state

    # Operations that append no record

    def renew(self, held: Sequence[ClaimKey], until: float) -> Renewal:
        """Set the end of these leases, and return the rows that are to be aborted."""
        lost = [each for each in held if not self._state.renew(each, until)]
        running = (row for queue_rows in self._state.queues.values() for row in queue_rows.running.values())
        return Renewal(lost, [ClaimKey(row.key, row.token) for row in running if row.requested_end is True])

    def find(self, queue: str, task_id: str, now: float) -> StoredRow | None:
        """Return the row of this id."""
        row = self._row(queue, task_id)
        return None if row is None or row.is_kept_no_longer(now) else _stored(row, now)

    def list_rows(self, queue: str, states: Sequence[State], limit: int, now: float) -> list[StoredRow]:
        """Return at most this many rows in these states."""
        found: list[StoredRow] = []
        queue_rows = self._state.queues.get(queue)
        if queue_rows is None:
            return found
        expired = [row for row in queue_rows.ids.values() if row.has_expired(now)] if queue_rows.next_due <= now else []
        for wanted in states:
            rows: Iterable[Row] = queue_rows.running.values() if wanted == RUNNING else queue_rows.ids.values()
            if wanted > RUNNING:
                rows = queue_rows.finished[wanted].values()
            there = (row for row in rows if row.state == wanted and not _is_over(row, now))
            first = nsmallest(limit - len(found), there, key=_order_key)
            if wanted == KILLED:
                first += expired[: limit - len(found) - len(first)]
            found += [_stored(row, now) for row in first]
        return found

    def metrics(self, queue: str, now: float) -> QueueMetrics:
        """Return the counters of the queue, with what is due by now, entered or not."""
        queue_rows = self._state.queues.get(queue) or QueueRows(-1, queue)
        counts = _counts(queue_rows)
        since = [] if (moment := queue_rows.oldest_waiting(now)) is None else [moment]
        wall = wall_now().timestamp()
        expired = {row.key: row for row in queue_rows.expiring.until(now) if row.has_expired(now)}
        for row in expired.values():
            counts["delayed" if row.state == DELAYED else "waiting"] -= 1
            counts["suspended_now"] -= row.is_suspended
            counts["killed"] += 1
            counts["kept_killed"] += 1
        for row in queue_rows.delayed_rows.values() if queue_rows.next_due <= now else ():
            if row.key not in expired and row.due is not None and row.due <= now and not _is_early(row, wall):
                counts["delayed"] -= 1
                counts["suspended_now"] -= row.is_suspended
                counts["waiting"] += 1
                since.append(row.since)
        for row in {row.key: row for row in self._state.retained.until(now)}.values():
            if row.queue is queue_rows and row.is_kept_no_longer(now):
                counts[_KEPT[row.state]] -= 1
        running = queue_rows.running.values() if queue_rows.no_lease_ends_before <= now else ()
        orphans = sum(row.due is not None and row.due <= now for row in running)
        age = max(0.0, now - min(since)) if since else 0.0
        return make_metrics(counts, orphans=orphans, oldest_waiting=age, is_paused=bool(queue_rows.counts[PAUSED]))

    def set_paused(self, queue: str, paused: bool) -> None:
        """Store whether the queue is paused."""
        queue_rows = self._state.queue(queue)
        if queue_rows.counts[PAUSED] != paused:
            self._state.count(queue_rows, PAUSED)
            queue_rows.counts[PAUSED] = int(paused)

    def audit(self, queue: str) -> Balance:
        """Compare the counters of the queue with its rows."""
        queue_rows = self._state.queues.get(queue) or QueueRows(-1, queue)
        rows = [row for row in self._state.rows.values() if row.queue is queue_rows]
        there = dict.fromkeys(STORED_STATES, 0)
        for row in rows:
            there[_NAMES[row.state]] += 1
            there["suspended_now"] += row.state == DELAYED and row.is_suspended
        return Balance(queue, _counts(queue_rows), there)

    def names(self) -> list[str]:
        """Return the names of the queues that a task was ever pushed to."""
        return [queue_rows.name for queue_rows in self._state.queues.values() if queue_rows.counts[PUSHED]]

    # Operations that append a record

    def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Store the progress of a running row."""
        row = self._state.leased_row(held.key, held.token)
        if row is not None:
            self._state.touch(row)
            row.progress = progress
        return row is not None

    def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool | ClaimKey:
        """Kill the row if it waits; with ``running``, note that it is to be aborted, if it runs."""
        row = self._waiting_row(queue, task_id)
        if row is not None:
            self._state.kill(row, error)
            return True
        return (running and self.abort(queue, task_id)) or False

    def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Note that the row is to be aborted, if it runs."""
        row = self._row(queue, task_id)
        if row is None or row.state != RUNNING:
            return None
        self._state.touch(row)
        row.requested_end = True
        return ClaimKey(row.key, row.token)

    def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None) -> bool:
        """Make the row ready in this many seconds, if it waits."""
        state = self._state
        row = self._waiting_row(queue, task_id)
        if row is not None and (delay > 0 or row.state == DELAYED):  # a ready row keeps its place
            state.touch(row)
            row.run_at, row.by_wall = run_at if delay > 0 else None, False
            state.make_wait(row, delay)
        return row is not None

    def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None) -> bool:
        """Replace the payload and options of the row, if it waits."""
        state = self._state
        row = self._waiting_row(queue, task_id)
        if row is not None:
            state.touch_in_full(row)
            state.weight -= row.weight
            row.payload, row.options = payload, options
            state.weight += row.weight
        return row is not None

    def resume(self, queue: str, task_id: str) -> bool:
        """Make the row wait again, if it is finished.

        Raises:
          DuplicateTaskError: its unique key is taken.
        """
        state = self._state
        row = state.current_row(queue, task_id)
        if row is None or row.state <= RUNNING:
            return False
        if row.unique is not None:
            state.key_holder(row.queue, row.unique)
        if row.unique is not None and (holder := state.take_key(row)) is not None:
            raise not_again(task_id, holder.id)
        state.touch(row)
        row.queue.take_out(row.key)
        if row.state == DONE:
            row.result = None
        row.attempt, row.expires, row.requested_end = 0, None, False
        state.count(row.queue, RESUMED, live=1)
        state.make_wait(row, 0.0)
        return True

    def resume_abandoned(self, queue: str) -> Part:
        """Make up to this many running rows wait again whose lease has run out."""
        state = self._state
        queue_rows = state.queues.get(queue)
        lapsed = queue_rows.lapsed(state.time) if queue_rows is not None else []
        for row in lapsed[:_BATCH_SIZE]:
            state.take_back(row)
        if queue_rows is not None and len(lapsed) > _BATCH_SIZE:
            queue_rows.no_lease_ends_before = state.time  # the others are still to be found
        return Part(min(len(lapsed), _BATCH_SIZE), is_more=len(lapsed) > _BATCH_SIZE)

    def forget(self, queue: str, task_id: str | None) -> Part:
        """Remove the row of this id, unless it runs, or up to so many finished ones."""
        state = self._state
        queue_rows = state.queues.get(queue)
        if queue_rows is None:
            return Part(0, is_more=False)
        if task_id is None:
            state.enter_due(-math.inf)  # but not leases that ran out, since their attempts may run here
        rows = list(islice(chain.from_iterable(map(dict.values, queue_rows.finished.values())), _BATCH_SIZE))
        if task_id is not None:
            row = state.current_row(queue, task_id)
            rows = [row] if row is not None and row.state != RUNNING else []
        for row in rows:
            state.touch(row)
            if row.state <= DELAYED:
                state.finish(row, KILLED, KILLS, None, 0.0)
            else:
                state.forget(row)
        return Part(len(rows), is_more=len(rows) == _BATCH_SIZE)

    def _row(self, queue: str, task_id: str) -> Row | None:
        queue_rows = self._state.queues.get(queue)
        return queue_rows.ids.get(task_id) if queue_rows is not None else None

    def _waiting_row(self, queue: str, task_id: str) -> Row | None:
        row = self._state.current_row(queue, task_id)
        return row if row is not None and row.state <= DELAYED else None


def _counts(queue: QueueRows) -> dict[str, int]:
    """All counters of a queue, as they are stored."""
    return {
        **dict(zip(COUNTERS, queue.counts, strict=False)),
        "waiting": queue.waiting,
        "delayed": len(queue.delayed_rows),
        "running": len(queue.running),
        "suspended_now": len(queue.suspended_rows),
        **{name: len(queue.finished[state]) for state, name in _KEPT.items()},
    }


def _is_early(row: Row, wall: float) -> bool:
    """Return True if a delayed row is not due by the wall clock, which was set back."""
    return row.by_wall and row.run_at is not None and row.run_at / 1e6 > wall


def _is_over(row: Row, now: float) -> bool:
    """Return True if the row's state has ended by now, though no transaction has entered that yet."""
    return row.has_expired(now) or row.is_kept_no_longer(now)


def _order_key(row: Row) -> tuple[float, ...]:
    """Return the sort key for rows of one state: as they would be claimed, fall due, or were finished."""
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
        row.options,
        None if has_expired else row.due,
        expired_error() if has_expired else row.result,
        row.history,
        row.progress,
        row.worker,
        None if has_expired or row.state > DELAYED else row.expires,
        row.run_at,
        row.name,
        row.pushed,
        row.started,
        row.expires if has_expired else row.since if row.state > RUNNING else None,
    )
