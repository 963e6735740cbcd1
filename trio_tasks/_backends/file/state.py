"""The state of a journal: all rows in memory, and transactions that can be rolled back until their record is written.

Nothing here awaits, and the caller passes the time in. A transaction has three steps: rows are changed, after noting
how they were before; a record of the changes is appended to the journal; then the transaction is committed, or rolled
back if the record could not be written.
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
class Transaction:
    """The changes of a transaction so far, and how the rows were before."""

    __slots__ = ("claimed", "claims", "counts", "gone", "holders", "in_full", "rows", "weight")

    def __init__(self, state: JournalState) -> None:
        self.rows: dict[Row, tuple[Any, ...] | None] = {}  # None: it is new
        self.in_full: dict[Row, tuple[bytes, bytes | None]] = {}  # payload and head were replaced
        self.claimed: list[tuple[Row, str | None]] = []  # claimed, and otherwise as before
        self.claims: list[Any] = []  # worker and keys, for each claim
        self.gone: list[Row] = []
        self.counts: dict[QueueRows, list[int]] = {}
        self.holders: list[tuple[QueueRows, str, Row | None]] = []
        self.weight = state.weight

    @property
    def is_empty(self) -> bool:
        """True if nothing has changed."""
        return not (self.rows or self.claimed or self.counts)


_MOMENT = 1e-6
"""Seconds between two rows that came in the same moment."""


@final
class JournalState:
    """All rows and queues of a journal."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.queues: dict[str, QueueRows] = {}
        self.queues_by_number: dict[int, QueueRows] = {}
        self.time = 0.0  # of the latest change
        self.next_key = 1
        self.next_token = 1
        self.weight = 0  # what the rows would take in a snapshot, about
        self.last_moment = 0.0  # since when the last one waits that came to be ready at once
        self.finished: list[tuple[str, str]] = []  # killed since the last exchange, other than by a settlement
        self.has_wall_clock_rows = False  # whether a row is waited for by the wall clock
        self._retained = TimeIndex()
        self._nothing_due_before = math.inf
        self.transaction = Transaction(self)

    def queue(self, name: str) -> QueueRows:
        """The queue of this name; it is made if it does not exist."""
        queue = self.queues.get(name)
        if queue is None:
            number = max(self.queues_by_number, default=-1) + 1
            queue = self.queues[name] = self.queues_by_number[number] = QueueRows(number, name)
        return queue

    # A transaction

    def touch(self, row: Row) -> None:
        """Note how a row is, before it is changed."""
        if row not in self.transaction.rows:
            self.transaction.rows[row] = row.condition

    def touch_in_full(self, row: Row) -> None:
        """Note how a row is, before its payload or head is changed as well; see :meth:`touch`."""
        self.touch(row)
        self.transaction.in_full.setdefault(row, (row.payload, row.head))
        self.transaction.counts.setdefault(row.queue, row.queue.counts.copy())  # a row in full is told with its queue

    def count(self, queue: QueueRows, what: int, live: int = 0) -> None:
        """Count one more of something; and how many live rows there are more, or fewer."""
        if queue not in self.transaction.counts:
            self.transaction.counts[queue] = queue.counts.copy()
        queue.counts[what] += 1
        queue.counts[LIVE] += live

    def commit(self) -> None:
        """Commit the transaction."""
        for row in self.transaction.gone:
            self._remove(row)
        self.transaction = Transaction(self)

    def roll_back(self) -> None:
        """Restore every row as it was before the transaction."""
        transaction = self.transaction
        self.transaction = Transaction(self)
        for row, worker in reversed(transaction.claimed):
            row.state, row.worker = WAITING, worker
            row.due = None
            row.attempt -= 1
            row.queue.running.pop(row.key, None)
            row.queue.place(row)
        for row, (payload, head) in transaction.in_full.items():
            row.payload, row.head = payload, head
        for row, condition in transaction.rows.items():
            row.queue.running.pop(row.key, None)
            row.queue.finished.pop(row.key, None)
            if condition is None:
                row.state = GONE
                self._remove(row)
        for row, condition in transaction.rows.items():
            if condition is not None:
                row.condition = condition
                row.queue.ids.setdefault(row.id, row)
                self.place(row)
        for queue, key, holder in reversed(transaction.holders):
            self._set_holder(queue, key, holder)
        for queue, counts in transaction.counts.items():
            queue.counts = counts
        self.weight = self.transaction.weight = transaction.weight
        self.finished.clear()

    def _remove(self, row: Row) -> None:
        self.rows.pop(row.key, None)
        if row.queue.ids.get(row.id) is row:
            del row.queue.ids[row.id]

    def place(self, row: Row) -> None:
        """Put a row into the indexes of its state, and look at it again when it falls due."""
        row.queue.place(row)
        moment = row.due
        if row.state == DELAYED and row.by_wall and row.run_at is not None:
            row.queue.by_wall_clock.add(row.run_at / 1e6, row)
            self.has_wall_clock_rows = True
        if row.state <= DELAYED and row.expires is not None:
            row.queue.expiring.add(row.expires, row)
            moment = row.expires if moment is None else min(moment, row.expires)
        if moment is not None:
            if row.state > RUNNING:
                self._retained.add(moment, row)
            if moment < self._nothing_due_before:
                self._nothing_due_before = moment

    # Unique keys

    def _set_holder(self, queue: QueueRows, key: str, row: Row | None) -> None:
        if row is None:
            queue.holders.pop(key, None)
        else:
            queue.holders[key] = row

    def hold(self, row: Row) -> Row | None:
        """Give a row its unique key, and return None; or the row that holds it already."""
        assert row.unique is not None
        holder = row.queue.holders.get(row.unique)
        if holder is None:
            self.transaction.holders.append((row.queue, row.unique, None))
            row.queue.holders[row.unique] = row
        return holder if holder is not row else None

    def holder(self, queue: QueueRows, key: str, now: float) -> Row | None:
        """The holder of a unique key; one that has expired is killed, and holds none."""
        row = queue.holders.get(key)
        if row is not None and row.has_expired(now):
            self.kill(row, expired_error())
            return None
        return row

    def known(self, name: str, task_id: str, now: float) -> Row | None:
        """The row of this id as it is now: killed, if it has expired; None, if it is not there, or kept no longer."""
        queue = self.queues.get(name)
        row = queue.ids.get(task_id) if queue is not None else None
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
        if row.unique is not None and row.queue.holders.get(row.unique) is row:
            self.transaction.holders.append((row.queue, row.unique, row))
            del row.queue.holders[row.unique]

    def replace(self, row: Row, successor: str) -> None:
        """Give the unique key of a running row to its successor; the row may finish, but not run again."""
        self.touch(row)
        self.release(row)
        row.requested_end = row.requested_end or successor

    # What becomes of a row

    def insert(self, row: Row) -> None:
        """Add a new row; the caller makes it wait next."""
        self.next_key += 1
        self.transaction.rows[row] = None
        self.rows[row.key] = row.queue.ids[row.id] = row
        self.count(row.queue, PUSHED, 1)
        self.weight += weight_of(row)

    def wait(self, row: Row, delay: float, now: float) -> None:
        """Make a row ready so many seconds from now."""
        if delay > 0:
            row.state = DELAYED
            row.since = row.due = now + delay
        else:
            # Rows that come at the same moment keep their order.
            self.last_moment = max(now, self.last_moment + _MOMENT)
            row.state, row.since, row.due = WAITING, self.last_moment, None
        self.place(row)

    def come_back(self, row: Row, now: float, delay: float | None) -> bool:
        """Make a row that ran wait again, and return True: after ``delay`` seconds; if that is None, in its old place.
        If it was to be aborted, or was replaced, it is killed."""
        row.queue.running.pop(row.key, None)
        if row.requested_end is True:
            self.kill(row, aborted_error())
        elif row.requested_end:
            self.kill(row, replaced_error(row.requested_end))
        elif row.unique is not None and (holder := self.hold(row)) is not None:
            self.kill(row, replaced_error(holder.id))  # by an older version, which did not note it down
        elif delay is None:
            row.state, row.due = WAITING, None
            self.place(row)
            return True
        else:
            self.wait(row, delay, now)
            return True
        return False

    def lose(self, row: Row, now: float) -> None:
        """End the attempt at a running row whose lease ran out, or whose process died; the attempt counts."""
        self.touch(row)
        row.history = with_loss(row.history, row.attempt, now, row.worker)
        self.come_back(row, now, None)

    def kill(self, row: Row, error: bytes) -> None:
        """Kill a live row; it is kept until it is vacuumed."""
        self.touch(row)
        self.finish(row, KILLED, KILLS, error, math.inf, self.time)
        self.finished.append((row.queue.name, row.id))

    def finish(self, row: Row, state: int, what: int, result: bytes | None, keep: float, now: float) -> None:
        """Put a live row, touched before, into a final state, and keep it for so many seconds."""
        queue = row.queue
        queue.running.pop(row.key, None)
        self.count(queue, what, -1)
        if row.unique is not None:
            self.release(row)
        if keep <= 0:
            self.forget(row)
            return
        row.state, row.result, row.since = state, result, now
        row.due = now + keep if keep < math.inf else None
        self.place(row)

    def forget(self, row: Row) -> None:
        """Remove a row, touched before, when the transaction is committed."""
        row.state = GONE
        row.queue.finished.pop(row.key, None)
        self.transaction.gone.append(row)
        self.weight -= weight_of(row)

    # Time

    def enter_due(self, now: float, as_of: float = math.inf) -> None:
        """Enter all that has fallen due: expiries, delays, retention; and leases that had run out by ``as_of``."""
        if self.has_wall_clock_rows:
            self._enter_due_by_wall_clock()
        if now < self._nothing_due_before:
            return
        for queue in self.queues.values():
            while (row := queue.pop_expired(now)) is not None:
                self.kill(row, expired_error())
            while (row := self._pop_due(queue, now)) is not None:
                row.state, row.due = WAITING, None  # true even if the transaction is rolled back, so it needs no record
                queue.place(row)
            for row in queue.lapsed(min(now, as_of)):
                self.lose(row, now)
        self._forget_retained(now)
        moments = [queue.next_due for queue in self.queues.values()]
        if (first := self._retained.first) is not None:
            moments.append(first[0])
        self._nothing_due_before = min(moments, default=math.inf)

    def _pop_due(self, queue: QueueRows, now: float) -> Row | None:
        """Take out a delayed row whose time has come, by the wall clock for those that go by it."""
        while (row := queue.pop_due(now)) is not None:
            if not row.by_wall or row.run_at is None or (rest := row.run_at / 1e6 - wall_now().timestamp()) <= 0:
                return row
            row.due = now + rest  # the wall clock was set back; no record says so, as it will be found out again
            queue.place(row)
        return None

    def _enter_due_by_wall_clock(self) -> None:
        """Make rows ready that are due by the wall clock, which may have been set forward."""
        wall = wall_now().timestamp()
        self.has_wall_clock_rows = False
        for queue in self.queues.values():
            while (row := queue.pop_due_by_wall_clock(wall)) is not None:
                row.state, row.due = WAITING, None  # likewise
                queue.place(row)
            self.has_wall_clock_rows = self.has_wall_clock_rows or queue.by_wall_clock.first is not None

    def _forget_retained(self, now: float) -> None:
        while (first := self._retained.first) is not None and first[0] <= now:
            self._retained.pop()
            row = first[2]
            if RUNNING < row.state < GONE and row.due == first[0] and row not in self.transaction.rows:
                row.state = GONE  # as it is when this is read again, so it needs no record
                row.queue.finished.pop(row.key, None)
                self._remove(row)
                self.weight -= weight_of(row)

    def look_at(self, moment: float) -> None:
        """Look for rows that are due at this moment."""
        if moment < self._nothing_due_before:
            self._nothing_due_before = moment


def weight_of(row: Row) -> int:
    """Bytes that the row takes in a snapshot, about."""
    return len(row.payload) + OVERHEAD + (len(row.head) if row.head is not None else 0)
