"""The books of a journal: all rows in memory, and transactions that can be undone until their record is written.

Pure bookkeeping, as the kernel's ledger: nothing awaits, and the time is told. A change is made in three steps: the
books are changed, and note how each row was before; the record of what has changed is written; then the change is
kept, or, if it could not be written, undone.
"""

from __future__ import annotations

import math
from typing import Any, final

from ..._clock import wall_now
from ..durable.encoding import aborted_error, expired_error, replaced_error, with_loss
from .rows import DELAYED, GONE, KILLED, KILLS, LIVE, PUSHED, RUNNING, WAITING, QueueRows, Row, TimeIndex

OVERHEAD = 120
"""Bytes that a row takes in a snapshot beside its payload and its head, about."""


@final
class Change:
    """What a transaction has done so far, and how it was before."""

    __slots__ = ("claimed", "claims", "counts", "gone", "holders", "in_full", "rows", "weight")

    def __init__(self, books: JournalState) -> None:
        self.rows: dict[Row, tuple[Any, ...] | None] = {}  # None: it is new
        self.in_full: dict[Row, tuple[bytes, bytes | None]] = {}  # payload and head were replaced
        self.claimed: list[tuple[Row, str | None]] = []  # claimed, and otherwise as before
        self.claims: list[Any] = []  # worker and keys, for each claim
        self.gone: list[Row] = []
        self.counts: dict[QueueRows, list[int]] = {}
        self.holders: list[tuple[QueueRows, str, Row | None]] = []
        self.weight = books.weight

    @property
    def is_empty(self) -> bool:
        """Whether nothing has changed."""
        return not (self.rows or self.claimed or self.counts)


_MOMENT = 1e-6
"""Seconds between two rows that came in the same moment."""


@final
class JournalState:
    """All that a journal tells."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.queue_rows: dict[str, QueueRows] = {}
        self.numbered: dict[int, QueueRows] = {}
        self.time = 0.0  # of the latest change
        self.next_key = 1
        self.next_token = 1
        self.weight = 0  # what the rows would take in a snapshot, about
        self.last_moment = 0.0  # since when the last one waits that came to be ready at once
        self.finished: list[tuple[str, str]] = []  # by the books themselves, since somebody last looked
        self.has_walled = False  # whether a row is waited for by the wall clock
        self._retained = TimeIndex()
        self._nothing_due_before = math.inf
        self.change = Change(self)

    def rows_of(self, name: str) -> QueueRows:
        """The queue of this name; it is made if it does not exist."""
        queue_rows = self.queue_rows.get(name)
        if queue_rows is None:
            number = max(self.numbered, default=-1) + 1
            queue_rows = self.queue_rows[name] = self.numbered[number] = QueueRows(number, name)
        return queue_rows

    # A transaction

    def touch(self, row: Row) -> None:
        """Note how a row is, before it is changed."""
        if row not in self.change.rows:
            self.change.rows[row] = row.condition

    def touch_in_full(self, row: Row) -> None:
        """As :meth:`touch`, before its payload or head is changed as well."""
        self.touch(row)
        self.change.in_full.setdefault(row, (row.payload, row.head))
        self.change.counts.setdefault(
            row.queue_rows, row.queue_rows.counts.copy()
        )  # a row in full is told with its queue

    def count(self, queue_rows: QueueRows, what: int, live: int = 0) -> None:
        """Count one more of something; and how many live rows there are more, or fewer."""
        if queue_rows not in self.change.counts:
            self.change.counts[queue_rows] = queue_rows.counts.copy()
        queue_rows.counts[what] += 1
        queue_rows.counts[LIVE] += live

    def commit(self) -> None:
        """The transaction is over, and holds."""
        for row in self.change.gone:
            self._remove(row)
        self.change = Change(self)

    def roll_back(self) -> None:
        """The transaction has never been."""
        change = self.change
        self.change = Change(self)
        for row, worker in reversed(change.claimed):
            row.state, row.worker = WAITING, worker
            row.due = None
            row.attempt -= 1
            row.queue_rows.running.pop(row.key, None)
            row.queue_rows.enlist(row)
        for row, (payload, head) in change.in_full.items():
            row.payload, row.head = payload, head
        for row, condition in change.rows.items():
            row.queue_rows.running.pop(row.key, None)
            row.queue_rows.finished.pop(row.key, None)
            if condition is None:
                row.state = GONE
                self._remove(row)
        for row, condition in change.rows.items():
            if condition is not None:
                row.condition = condition
                row.queue_rows.ids.setdefault(row.id, row)
                self.enlist(row)
        for queue_rows, key, holder in reversed(change.holders):
            self._set_holder(queue_rows, key, holder)
        for queue_rows, counts in change.counts.items():
            queue_rows.counts = counts
        self.weight = self.change.weight = change.weight
        self.finished.clear()

    def _remove(self, row: Row) -> None:
        self.rows.pop(row.key, None)
        if row.queue_rows.ids.get(row.id) is row:
            del row.queue_rows.ids[row.id]

    def enlist(self, row: Row) -> None:
        """Put a row where its state wants it to be, and see to it that it is looked at in time."""
        row.queue_rows.enlist(row)
        moment = row.due
        if row.state == DELAYED and row.by_wall and row.run_at is not None:
            row.queue_rows.walled.add(row.run_at / 1e6, row)
            self.has_walled = True
        if row.state <= DELAYED and row.expires is not None:
            row.queue_rows.expiring.add(row.expires, row)
            moment = row.expires if moment is None else min(moment, row.expires)
        if moment is not None:
            if row.state > RUNNING:
                self._retained.add(moment, row)
            if moment < self._nothing_due_before:
                self._nothing_due_before = moment

    # Unique keys

    def _set_holder(self, queue_rows: QueueRows, key: str, row: Row | None) -> None:
        if row is None:
            queue_rows.holders.pop(key, None)
        else:
            queue_rows.holders[key] = row

    def hold(self, row: Row) -> Row | None:
        """Have a row hold its unique key; or the one that holds it already."""
        assert row.unique is not None
        holder = row.queue_rows.holders.get(row.unique)
        if holder is None:
            self.change.holders.append((row.queue_rows, row.unique, None))
            row.queue_rows.holders[row.unique] = row
        return holder if holder is not row else None

    def holder(self, queue_rows: QueueRows, key: str, now: float) -> Row | None:
        """The holder of a unique key; one that has expired is killed, and holds none."""
        row = queue_rows.holders.get(key)
        if row is not None and row.has_expired(now):
            self.kill(row, expired_error())
            return None
        return row

    def known(self, queue: str, task_id: str, now: float) -> Row | None:
        """The row of this id as it is now: killed, if it has expired; None, if it is not there, or kept no longer."""
        queue_rows = self.queue_rows.get(queue)
        row = queue_rows.ids.get(task_id) if queue_rows is not None else None
        if row is None or row.state == GONE:
            return None
        if row.has_expired(now):
            self.kill(row, expired_error())
        elif row.is_kept_no_longer(now):
            self.touch(row)
            self.forget(row)
            return None
        return row

    def release(self, row: Row) -> None:
        """Free the unique key that a row holds, if it does."""
        if row.unique is not None and row.queue_rows.holders.get(row.unique) is row:
            self.change.holders.append((row.queue_rows, row.unique, row))
            del row.queue_rows.holders[row.unique]

    def replace(self, row: Row, successor: str) -> None:
        """A running row may come to its end, but it is not to come back: its unique key is the successor's."""
        self.touch(row)
        self.release(row)
        row.requested_end = row.requested_end or successor

    # What becomes of a row

    def insert(self, row: Row) -> None:
        """A new row; it is to wait next."""
        self.next_key += 1
        self.change.rows[row] = None
        self.rows[row.key] = row.queue_rows.ids[row.id] = row
        self.count(row.queue_rows, PUSHED, 1)
        self.weight += weight_of(row)

    def wait(self, row: Row, delay: float, now: float) -> None:
        """Have a row be ready so many seconds from now."""
        if delay > 0:
            row.state = DELAYED
            row.since = row.due = now + delay
        else:
            # Of those that come in the same moment, each stands behind the one before.
            self.last_moment = max(now, self.last_moment + _MOMENT)
            row.state, row.since, row.due = WAITING, self.last_moment, None
        self.enlist(row)

    def come_back(self, row: Row, now: float, delay: float | None) -> bool:
        """A row that ran waits again: after ``delay`` seconds, or, if that is None, where it stood; or it ends, if it
        was to be aborted, or was replaced. Returns whether it waits."""
        row.queue_rows.running.pop(row.key, None)
        if row.requested_end is True:
            self.kill(row, aborted_error())
        elif row.requested_end:
            self.kill(row, replaced_error(row.requested_end))
        elif row.unique is not None and (holder := self.hold(row)) is not None:
            self.kill(row, replaced_error(holder.id))  # by an older version, which did not note it down
        elif delay is None:
            row.state, row.due = WAITING, None
            self.enlist(row)
            return True
        else:
            self.wait(row, delay, now)
            return True
        return False

    def lose(self, row: Row, now: float) -> None:
        """The lease of a running row has run out, or its process has died: the attempt counts."""
        self.touch(row)
        row.history = with_loss(row.history, row.attempt, now, row.worker)
        self.come_back(row, now, None)

    def kill(self, row: Row, error: bytes) -> None:
        """End a live row by decree; it is remembered until it is vacuumed."""
        self.touch(row)
        self.finish(row, KILLED, KILLS, error, math.inf, self.time)
        self.finished.append((row.queue_rows.name, row.id))

    def finish(self, row: Row, state: int, what: int, result: bytes | None, keep: float, now: float) -> None:
        """Have a live row, touched before, be in a final state, and remembered for so many seconds."""
        queue_rows = row.queue_rows
        queue_rows.running.pop(row.key, None)
        self.count(queue_rows, what, -1)
        if row.unique is not None:
            self.release(row)
        if keep <= 0:
            self.forget(row)
            return
        row.state, row.result, row.since = state, result, now
        row.due = now + keep if keep < math.inf else None
        self.enlist(row)

    def forget(self, row: Row) -> None:
        """Have no such row any more, once the transaction is over; touched before."""
        row.state = GONE
        row.queue_rows.finished.pop(row.key, None)
        self.change.gone.append(row)
        self.weight -= weight_of(row)

    # Time

    def enter_due(self, now: float, as_of: float = math.inf) -> None:
        """Enter what has fallen due: expiries, delays, retention; and leases that had run out by ``as_of``."""
        if self.has_walled:
            self._enter_walled()
        if now < self._nothing_due_before:
            return
        for queue_rows in self.queue_rows.values():
            while (row := queue_rows.pop_expired(now)) is not None:
                self.kill(row, expired_error())
            while (row := self._pop_due(queue_rows, now)) is not None:
                row.state, row.due = WAITING, None  # whether the transaction holds or not, so it needs no record
                queue_rows.enlist(row)
            for row in queue_rows.lapsed(min(now, as_of)):
                self.lose(row, now)
        self._forget_retained(now)
        moments = [queue_rows.next_due for queue_rows in self.queue_rows.values()]
        if (first := self._retained.first) is not None:
            moments.append(first[0])
        self._nothing_due_before = min(moments, default=math.inf)

    def _pop_due(self, queue_rows: QueueRows, now: float) -> Row | None:
        """Take out a delayed row whose time has come, by the wall clock for those that go by it."""
        while (row := queue_rows.pop_due(now)) is not None:
            if not row.by_wall or row.run_at is None or (rest := row.run_at / 1e6 - wall_now().timestamp()) <= 0:
                return row
            row.due = now + rest  # the wall clock was set back; no record says so, as it will be found out again
            queue_rows.enlist(row)
        return None

    def _enter_walled(self) -> None:
        """Enter what has come due by the wall clock, which may have been set forward."""
        wall = wall_now().timestamp()
        self.has_walled = False
        for queue_rows in self.queue_rows.values():
            while (row := queue_rows.pop_walled(wall)) is not None:
                row.state, row.due = WAITING, None  # likewise
                queue_rows.enlist(row)
            self.has_walled = self.has_walled or queue_rows.walled.first is not None

    def _forget_retained(self, now: float) -> None:
        while (first := self._retained.first) is not None and first[0] <= now:
            self._retained.pop()
            row = first[2]
            if RUNNING < row.state < GONE and row.due == first[0] and row not in self.change.rows:
                row.state = GONE  # as it is when this is read again, so it needs no record
                row.queue_rows.finished.pop(row.key, None)
                self._remove(row)
                self.weight -= weight_of(row)

    def look_at(self, moment: float) -> None:
        """Something falls due at this moment."""
        if moment < self._nothing_due_before:
            self._nothing_due_before = moment


def weight_of(row: Row) -> int:
    """Bytes that the row takes in a snapshot, about."""
    return len(row.payload) + OVERHEAD + (len(row.head) if row.head is not None else 0)
