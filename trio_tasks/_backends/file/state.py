"""The state of a journal: all rows in memory, and transactions that can be rolled back until their record is written.

Nothing here awaits, and the caller sets the time, of which a transaction has one. A transaction has three steps: rows
are changed, after noting how they were before; a record of the changes is appended to the journal; then the transaction
is committed, or rolled back if the record could not be written.
"""

from __future__ import annotations

import math
from collections import Counter
from heapq import heapify, heappop, heappush, merge
from typing import TYPE_CHECKING, Any, final

from ..._clock import wall_now
from ..._contracts.minutes import KEPT_MINUTES, MOST_NAMES, OTHER, Sums
from ..._contracts.states import FREED, KeyChange
from ..durable.encoding import aborted_error, deadline_error, expired_error, replaced_error, with_loss
from ..durable.engine import ClaimKey, KilledRow, KillReason
from .packed import PackedRows
from .rows import (
    ABORTED,
    DELAYED,
    GIVEN_UP,
    GONE,
    KILLED,
    KILLS,
    LIVE,
    PUSHED,
    RUNNING,
    TIMED,
    WAITING,
    WITHDRAWN,
    QueueRows,
    Row,
    TimedKey,
    TimeIndex,
)
from .schedules import JournalSchedules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..._tasks.limits import Limits

_SAME_MOMENT = 1e-6
"""Seconds between two rows that came in the same moment."""


@final
class Transaction:
    """The changes of the current transaction, and the rows as they were before it."""

    __slots__ = (
        "begun",
        "claimed",
        "claims",
        "counts",
        "gone",
        "holders",
        "in_full",
        "limits",
        "minutes",
        "rows",
        "timed_keys",
        "weight",
    )

    def __init__(self, state: JournalState) -> None:
        self.rows: dict[Row, tuple[Any, ...] | None] = {}  # the row before the transaction; None if it is new
        # The earlier payload, options, priority, name, unique_until and group of rows in which they were replaced.
        self.in_full: dict[Row, tuple[bytes, bytes | None, int, str | None, str, str | None]] = {}
        # The rows that were claimed, and not changed otherwise.
        self.claimed: list[tuple[Row, str | None, float | None]] = []
        self.claims: list[Any] = []  # the worker and the keys of each claim
        self.gone: list[Row] = []
        self.counts: dict[QueueRows, list[int]] = {}
        self.holders: list[tuple[QueueRows, str, Row | None]] = []
        self.timed_keys: dict[tuple[QueueRows, str], TimedKey | None] = {}  # as they were before
        self.minutes: dict[tuple[QueueRows, int, str], Sums | None] = {}  # as they were before
        self.limits: dict[tuple[QueueRows, str | None], Limits | None] = {}  # as they were before
        self.begun: dict[tuple[QueueRows, str | None], int] = {}  # attempts that count for a rate
        self.weight = state.weight

    @property
    def is_empty(self) -> bool:
        """True if nothing has changed."""
        return not (self.rows or self.claimed or self.counts or self.minutes)  # limits come with counts

    @property
    def has_more(self) -> bool:
        """True if it has changed something that most transactions do not."""
        return bool(self.minutes or self.timed_keys or self.limits or self.begun)

    def restore_unique_keys(self) -> None:
        """Give all unique keys to those rows again that had them."""
        for queue, key, holder in reversed(self.holders):
            if holder is None:
                queue.holders.pop(key, None)
            else:
                queue.holders[key] = holder
        for (queue, key), timed in self.timed_keys.items():
            if timed is None:
                queue.timed_keys.pop(key, None)
            else:
                queue.timed_keys[key] = timed

    def restore_limits(self) -> None:
        """Restore the limits, and the attempts that count for them, as they were."""
        for (queue, limited), limits in self.limits.items():
            queue.set_limits(limits, limited)
        for (queue, limited), number in self.begun.items():
            for _ in range(number):
                queue.window(limited).take_back()

    def restore_minutes(self) -> None:
        """Restore the sums of attempts as they were."""
        for (queue, minute, name), sums in self.minutes.items():
            if sums is None:
                queue.minutes.pop((minute, name), None)
            else:
                queue.minutes[minute, name] = sums


@final
class JournalState:
    """All rows and queues of a journal, in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.packed = PackedRows(self.rows)  # those that were loaded, and not looked at yet
        self.queues: dict[str, QueueRows] = {}
        self.queues_by_number: dict[int, QueueRows] = {}
        self.time = 0.0  # the time of the latest change, or of the current transaction
        self.next_key = 1
        self.next_token = 1
        self.weight = 0  # the approximate size of the rows in a snapshot
        self.last_moment = 0.0  # the time at which the last row began to wait, or was finished
        self.killed: list[KilledRow] = []  # rows killed since they were last taken, but not by a settlement
        self.has_wall_clock_rows = False  # True if a row waits for the wall clock
        self.retained = TimeIndex()
        self._nothing_due_before = math.inf
        self.schedules = JournalSchedules()
        self.transaction = Transaction(self)

    def queue(self, name: str) -> QueueRows:
        """Return the queue of this name; create it if it does not exist."""
        queue = self.queues.get(name)
        if queue is None:
            number = max(self.queues_by_number, default=-1) + 1
            queue = self.queues[name] = self.queues_by_number[number] = QueueRows(number, name)
        return queue

    def row(self, key: int) -> Row | None:
        """Return the row of this key; None if there is none."""
        return self.rows.get(key) or self.packed.find(key)

    def rows_after(self, key: int) -> Iterator[tuple[int, Row]]:
        """Return the rows with later keys, in order."""
        made = ((each, self.rows[each]) for each in sorted(each for each in self.rows if each > key))
        return merge(made, self.packed.rows_after(key))

    # A transaction

    def touch(self, row: Row) -> None:
        """Save a row's fields before they are changed, so that the change can be rolled back."""
        if row not in self.transaction.rows:
            self.transaction.rows[row] = row.condition

    def touch_in_full(self, row: Row) -> None:
        """Save a row before its payload, options, priority, name, unique_until or group are changed as well; see
        :meth:`touch`.
        """
        self.touch(row)
        in_full = row.payload, row.options, row.priority, row.name, row.unique_until, row.group
        self.transaction.in_full.setdefault(row, in_full)
        self.transaction.counts.setdefault(row.queue, row.queue.counts.copy())  # a row in full is told with its queue

    def count(self, queue: QueueRows, what: int, live: int = 0) -> None:
        """Count an event, and the change in the number of live rows."""
        if queue not in self.transaction.counts:
            self.transaction.counts[queue] = queue.counts.copy()
        queue.counts[what] += 1
        queue.counts[LIVE] += live

    def add_minute(self, queue: QueueRows, minute: int, name: str, sums: Sums) -> None:
        """Add sums of attempts to those of their minute."""
        names = sum(each[0] == minute for each in queue.minutes) if (minute, name) not in queue.minutes else 0
        if names >= MOST_NAMES:
            name = OTHER
        if not names:  # the first one of a minute, as a rule
            queue.drop_minutes(minute - KEPT_MINUTES)
        known = queue.minutes.get((minute, name))
        self.transaction.minutes.setdefault((queue, minute, name), known)
        self.transaction.counts.setdefault(queue, queue.counts.copy())  # the record of a minute needs that of its queue
        added = queue.minutes[minute, name] = Sums()
        for each in (known, sums):
            if each is not None:
                added.merge(each)

    # Limits

    def set_limits(self, queue: QueueRows, limits: Limits | None, key: str | None) -> None:
        """Go by these limits of a queue, or of a key in it, from now on."""
        self.transaction.limits.setdefault((queue, key), queue.limits.get(key))
        self.transaction.counts.setdefault(queue, queue.counts.copy())  # the record of limits needs that of the queue
        queue.set_limits(limits, key)
        if queue.limits.by_key and queue.groups is None:
            queue.use_groups()

    def note_begun(self, queue: QueueRows, rows: Sequence[Row]) -> None:
        """Note the attempts that begin now and count for rates; for those of their keys they are counted already."""
        limits, begun = queue.limits, self.transaction.begun
        limits.begin(self.time, len(rows))
        if limits.of_queue is not None and limits.of_queue.rate is not None:
            begun[queue, None] = begun.get((queue, None), 0) + len(rows)
        for key, number in Counter(row.group for row in rows if row.group is not None).items():
            of_key = limits.effective(key)
            if of_key is not None and of_key.rate_per_key is not None:
                begun[queue, key] = begun.get((queue, key), 0) + number
        if begun:
            self.transaction.counts.setdefault(queue, queue.counts.copy())  # as above

    def set_group(self, row: Row, group: str | None) -> None:
        """Change the key by which a row shares its queue; it is in no index of ready rows."""
        row.group = group
        if group is not None and row.queue.groups is None:
            row.queue.use_groups()

    # The end of a transaction

    def commit(self) -> None:
        """Commit the transaction."""
        for row in self.transaction.gone:
            self._remove(row)
        if self.schedules.before:
            self.schedules.commit()
        self.transaction = Transaction(self)

    def roll_back(self) -> None:
        """Restore every row as it was before the transaction."""
        transaction = self.transaction
        self.transaction = Transaction(self)
        for row, worker, started in reversed(transaction.claimed):
            row.state, row.worker, row.started = WAITING, worker, started
            row.due = None
            row.attempt -= 1
            row.queue.give_back(row)
        for row in transaction.rows:
            row.queue.take_out(row)
        for row, in_full in transaction.in_full.items():
            row.payload, row.options, row.priority, row.name, row.unique_until, row.group = in_full
        for row, condition in transaction.rows.items():
            if condition is None:
                row.state = GONE
                self._remove(row)
        for row, condition in transaction.rows.items():
            if condition is not None:
                row.condition = condition
                row.queue.ids.setdefault(row.id, row)
                self.place(row)
        for queue, counts in transaction.counts.items():
            queue.counts = counts
        transaction.restore_unique_keys()
        transaction.restore_minutes()
        transaction.restore_limits()
        self.schedules.roll_back()
        self.weight = self.transaction.weight = transaction.weight
        self.killed.clear()

    def take_killed(self) -> list[KilledRow]:
        """Return the rows that were killed since this was last called, but not by a settlement."""
        killed, self.killed = self.killed, []
        return killed

    def _remove(self, row: Row) -> None:
        self.rows.pop(row.key, None)
        if row.queue.ids.get(row.id) is row:
            del row.queue.ids[row.id]

    def place(self, row: Row, *, again: bool = False) -> None:
        """Put a row into the index of its state, and note when it is due; ``again``: into its old place, as it ran."""
        if again:
            row.queue.give_back(row)
        else:
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
                self.retained.add(moment, row)
            if moment < self._nothing_due_before:
                self._nothing_due_before = moment

    # Rows that are looked up

    def current_row(self, name: str, task_id: str) -> Row | None:
        """Return the row of this id as it is now, killed if it has expired.

        Return None if there is no such row, or if it is not kept any more.
        """
        queue = self.queues.get(name)
        row = queue.row(task_id) if queue is not None else None
        if row is None or row.state == GONE:
            return None
        if row.has_expired(self.time):
            self.expire(row)
        elif row.is_kept_no_longer(self.time):
            self.touch(row)
            self.forget(row)
            return None
        return row

    def leased_row(self, key: int, token: int) -> Row | None:
        """Return the row of this key if it runs under this token; or None."""
        row = self.rows.get(key)
        return row if row is not None and row.state == RUNNING and row.token == token else None

    def renew(self, held: ClaimKey, until: float) -> bool:
        """Set the end of a lease, without a record; return False if it was lost."""
        row = self.leased_row(held.key, held.token)
        if row is None:
            return False
        row.due = until
        row.queue.no_lease_ends_before = min(row.queue.no_lease_ends_before, until)
        self.note_due(until)
        return True

    # Unique keys

    def key_holder(self, queue: QueueRows, key: str) -> tuple[str, Row | None] | None:
        """Return the id and the row that hold a unique key, or None; the row is None if it is forgotten.

        A row that has expired is killed first, and one that is kept no longer is forgotten.
        """
        row = queue.holders.get(key)
        if row is not None:
            row = self.current_row(queue.name, row.id)
            return (row.id, row) if row is not None and queue.holders.get(key) is row else None
        timed = queue.timed_keys.get(key)
        if timed is None or timed.end <= self.time:
            return None
        row = self.row(timed.row_key)
        return timed.id, None if row is None else self.current_row(queue.name, row.id)

    def take_key(self, row: Row, seconds: float | None = None) -> Row | None:
        """Give a row its unique key, for this many seconds if it is held for a time, and return None; or return the row
        that has the key. A key that another row holds for a time is taken away from it.
        """
        assert row.unique is not None
        queue, key = row.queue, row.unique
        if row.unique_until == TIMED:
            if seconds is not None:
                self._drop_free_keys(queue)
                self.set_timed_key(queue, key, TimedKey(row.id, row.key, self.time + seconds))
                heappush(queue.key_ends, (self.time + seconds, key))
            return None
        if row.unique_until == GIVEN_UP:
            return None
        holder = queue.holders.get(key)
        if holder is None:
            if key in queue.timed_keys:
                self.set_timed_key(queue, key, None)
            self.transaction.holders.append((queue, key, None))
            queue.holders[key] = row
        return holder if holder is not row else None

    def free_key(self, row: Row, change: KeyChange) -> None:
        """Free the unique key of a row, if this change frees it; one that is held for a time stays as it is."""
        queue, key = row.queue, row.unique
        if key is not None and row.unique_until in FREED.get(change, ()) and queue.holders.get(key) is row:
            self.transaction.holders.append((queue, key, row))
            del queue.holders[key]

    def hand_over_key(self, row: Row) -> None:
        """Free the unique key of a row for good, as another one takes it."""
        self.free_key(row, KeyChange.HANDED_OVER)
        if row.unique_until == "forgotten":  # of others, its state tells it
            self.touch_in_full(row)
            row.unique_until = GIVEN_UP

    def begin(self, row: Row) -> None:
        """Free the unique key of a row that is held until it begins."""
        self.touch_in_full(row)
        self.free_key(row, KeyChange.BEGUN)
        row.unique_until = GIVEN_UP

    def set_timed_key(self, queue: QueueRows, key: str, timed: TimedKey | None) -> None:
        self.transaction.timed_keys.setdefault((queue, key), queue.timed_keys.get(key))
        if timed is None:
            del queue.timed_keys[key]
        else:
            queue.timed_keys[key] = timed

    def _drop_free_keys(self, queue: QueueRows) -> None:
        """Drop the keys whose time is over; loading the journal does the same, so it needs no record."""
        heap, keys = queue.key_ends, queue.timed_keys
        if len(heap) > 64 + 2 * len(keys):  # most were taken again before their time was over
            heap[:] = [(timed.end, key) for key, timed in keys.items()]
            heapify(heap)
        while heap and heap[0][0] <= self.time:
            end, key = heappop(heap)
            if key in keys and keys[key].end == end:
                del keys[key]

    # What becomes of a row

    def insert(self, row: Row) -> None:
        """Add a new row; the caller puts it into a state next."""
        self.next_key += 1
        self.transaction.rows[row] = None
        if row.group is not None:
            self.set_group(row, row.group)
        self.rows[row.key] = row.queue.ids[row.id] = row
        self.count(row.queue, PUSHED, 1)
        self.weight += row.weight

    def make_wait(self, row: Row, delay: float, *, suspended: str | None = None) -> None:
        """Make a row ready after this many seconds."""
        if row.state == DELAYED:
            row.queue.end_delay(row)
        elif row.queue.groups is not None:
            row.queue.leave_ready(row)
        if delay > 0:
            row.suspended = suspended
            row.state = DELAYED
            row.since = row.due = self.time + delay
        else:
            row.state, row.since, row.due = WAITING, self._next_moment(), None
        self.place(row)

    def _next_moment(self) -> float:
        """Return the present time, after that of all rows before, so that rows of one transaction keep their order."""
        self.last_moment = max(self.time, self.last_moment + _SAME_MOMENT)
        return self.last_moment

    def put_back(self, row: Row, delay: float | None, *, suspended: str | None = None) -> bool:
        """Make a row that ran wait again, and return True: after ``delay`` seconds, or in its old place if ``delay`` is
        None. If it was to be aborted, or was replaced, it is killed.
        """
        row.expires = row.deadline
        if row.requested_end is ABORTED:
            self.kill(row, aborted_error(), KillReason.NOT_AGAIN)
        elif row.requested_end == WITHDRAWN:
            self.touch(row)
            self.discard(row, KillReason.NOT_AGAIN)
        elif isinstance(row.requested_end, str):
            self.kill(row, replaced_error(row.requested_end), KillReason.REPLACED, row.requested_end)
        elif row.unique is not None and (holder := self.take_key(row)) is not None:
            # An older version replaced it, and did not record that.
            self.kill(row, replaced_error(holder.id), KillReason.REPLACED, holder.id)
        elif delay is None:
            row.state, row.due = WAITING, None
            self.place(row, again=True)
            return True
        else:
            row.queue.end_attempt(row)
            self.make_wait(row, delay, suspended=suspended)
            return True
        return False

    def take_back(self, row: Row) -> None:
        """Make a row wait again whose lease ran out, or whose process died; the attempt counts."""
        self.touch(row)
        row.history = with_loss(row.history, row.attempt, self.time, row.worker)
        self.put_back(row, None)

    def kill(self, row: Row, error: bytes, reason: KillReason, by: str = "") -> None:
        """Kill a live row, which is kept until it is vacuumed."""
        self.touch(row)
        self.finish(row, KILLED, KILLS, error, math.inf)
        self.killed.append(KilledRow(row.queue.name, row.id, reason, by))

    def discard(self, row: Row, reason: KillReason = KillReason.CANCELLED) -> None:
        """Remove a live row, already touched, which counts as killed."""
        self.finish(row, KILLED, KILLS, None, 0.0)
        self.killed.append(KilledRow(row.queue.name, row.id, reason))

    def expire(self, row: Row) -> None:
        """Kill a row that was not claimed in time, or whose deadline is over; it is finished since its moment."""
        if row.ends_by_deadline:
            self.kill(row, deadline_error(), KillReason.DEADLINE)
        else:
            self.kill(row, expired_error(), KillReason.EXPIRED)
        row.since = min(row.since, row.late_since)

    def finish(self, row: Row, state: int, what: int, result: bytes | None, keep: float) -> None:
        """Put a live row, already touched, into a final state, and keep it for this many seconds."""
        queue = row.queue
        if row.state == RUNNING:
            queue.end_attempt(row)
        elif row.state == DELAYED:
            queue.end_delay(row)
        else:
            queue.leave_ready(row)
        self.count(queue, what, -1)
        if row.unique is not None:
            self.free_key(row, KeyChange.ENDED)
        if keep <= 0:
            self.forget(row)
            return
        row.state, row.result, row.since = state, result, self._next_moment()
        row.due = self.time + keep if keep < math.inf else None
        self.place(row)

    def forget(self, row: Row) -> None:
        """Remove a row, already touched, when the transaction is committed."""
        if row.unique is not None:
            self.free_key(row, KeyChange.FORGOTTEN)
        row.state = GONE
        row.queue.take_out(row)
        self.transaction.gone.append(row)
        self.weight -= row.weight

    # Time

    def enter_due(self, as_of: float = math.inf) -> None:
        """Enter all changes that are due: expiries, delays, retention, and leases that had run out by ``as_of``."""
        now = self.time
        if self.has_wall_clock_rows:
            self._enter_due_by_wall_clock()
        if now < self._nothing_due_before:
            return
        for queue in self.queues.values():
            for orphan in queue.lapsed(min(now, as_of)):  # first: its deadline may be over
                self.take_back(orphan)
            while (row := queue.pop_expired(now)) is not None:
                self.expire(row)
            self.enter_delays(queue, now)
        self._forget_retained(now)
        moments = [queue.next_due for queue in self.queues.values()]
        if (first := self.retained.first) is not None:
            moments.append(first[0])
        self._nothing_due_before = min(moments, default=math.inf)

    def enter_delays(self, queue: QueueRows, now: float) -> None:
        """Make rows ready whose time has come. That remains true after a rollback, so it needs no record."""
        while (row := self._pop_due(queue, now)) is not None:
            row.state, row.due = WAITING, None
            queue.place(row)

    def _pop_due(self, queue: QueueRows, now: float) -> Row | None:
        """Remove and return a delayed row whose time has come, by the wall clock where that decides."""
        while (row := queue.pop_due(now)) is not None:
            if not row.by_wall or row.run_at is None or (rest := row.run_at / 1e6 - wall_now().timestamp()) <= 0:
                return row
            row.due = now + rest  # the wall clock was set back; not recorded, since every later look finds it again
            queue.place(row)
        return None

    def _enter_due_by_wall_clock(self) -> None:
        """Make rows ready that are due by the wall clock, which may have been set forward."""
        wall = wall_now().timestamp()
        self.has_wall_clock_rows = False
        for queue in self.queues.values():
            while (row := queue.pop_due_by_wall_clock(wall)) is not None:
                row.state, row.due = WAITING, None  # no record, as above
                queue.place(row)
            self.has_wall_clock_rows = self.has_wall_clock_rows or queue.by_wall_clock.first is not None

    def _forget_retained(self, now: float) -> None:
        while (first := self.retained.first) is not None and first[0] <= now:
            self.retained.pop()
            row = first[2]
            if RUNNING < row.state < GONE and row.due == first[0] and row not in self.transaction.rows:
                row.state = GONE  # loading the journal does the same, so it needs no record
                row.queue.take_out(row)
                if row.unique is not None and row.queue.holders.get(row.unique) is row:
                    del row.queue.holders[row.unique]
                self._remove(row)
                self.weight -= row.weight

    def note_due(self, moment: float) -> None:
        """Note that a row is due at this time."""
        if moment < self._nothing_due_before:
            self._nothing_due_before = moment
