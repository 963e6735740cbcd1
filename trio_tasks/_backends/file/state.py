"""The state of a journal: all rows in memory, and transactions that can be rolled back until their record is written.

Nothing here awaits, and the caller sets the time, of which a transaction has one. A transaction has three steps: rows
are changed, after noting how they were before; a record of the changes is appended to the journal; then the transaction
is committed, or rolled back if the record could not be written.

A row lies in an index under a moment. It is never searched there: when it moves elsewhere, the old entry stays, and is
skipped when it is popped, since its moment is not the row's any more. So every operation costs the same with a thousand
rows as with a million.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush, merge
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, final

from ..._clock import wall_now
from ..._contracts.minutes import KEPT_MINUTES, MOST_NAMES, OTHER, Sums, check_minute
from ..._contracts.states import FREED, KeyChange
from ..._printing import escaped
from ..durable.encoding import aborted_error, expired_error, replaced_error, with_loss
from ..durable.engine import ClaimKey, KilledRow, KillReason, State, WorkerRow
from .schedules import JournalSchedules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WAITING, DELAYED, RUNNING, DONE, FAILED, KILLED = (int(state) for state in State)  # plain ints are compared faster
MOMENTS = 4
"""Fields at the end of a row's condition that are told apart from the others: ``run_at``, as in ``StoredRow``; whether
it is waited for by the wall clock; whether the row is delayed by a suspension; and when it was last claimed."""
GONE = 6
"""The state of rows that are forgotten."""
TIMED = "time"
"""The ``unique_until`` of a row that was pushed with a time for which its key is held, in ``QueueRows.timed_keys``;"""
GIVEN_UP = "given up"
"""and of one that does not hold its key any more, as it has begun, or was replaced."""

PUSHED, SUCCEEDED, RETRIED, FAILURES, KILLS, RELEASED, SUSPENDED, RESUMED, PAUSED, LIVE = range(10)
"""Indexes of the counts of a queue; ``PAUSED`` is 1 if it is paused."""
COUNTS = 10

_OVERHEAD = 120
"""Bytes that a row takes in a snapshot beside its payload and its options, about."""
_SAME_MOMENT = 1e-6
"""Seconds between two rows that came in the same moment."""


@final
class Row:
    """A task, as the journal has it. ``since`` is when it first waited, or was finished; ``due`` as in ``Stored``;
    ``requested_end`` is why it is not to come back from its attempt: True if it is to be aborted, or the id
    of the task that replaced it; ``unique_until`` is the end of the time for which it holds its unique key, as in
    ``NewRow``, or ``TIMED``, or ``GIVEN_UP``."""

    __slots__ = (
        "attempt",
        "by_wall",
        "due",
        "expires",
        "history",
        "id",
        "key",
        "name",
        "options",
        "payload",
        "priority",
        "progress",
        "pushed",
        "queue",
        "requested_end",
        "result",
        "run_at",
        "since",
        "started",
        "state",
        "suspended",
        "token",
        "unique",
        "unique_until",
        "worker",
    )

    def __init__(
        self,
        key: int,
        queue: QueueRows,
        id: str,
        payload: bytes,
        options: bytes | None,
        priority: int,
        unique: str | None,
        name: str | None = None,
        pushed: float | None = None,
    ) -> None:
        self.key = key
        self.queue = queue
        self.id = id
        self.payload = payload
        self.options = options
        self.priority = priority
        self.unique = unique
        self.unique_until = "end"
        self.name = name
        self.pushed = pushed
        self.started: float | None = None
        self.state = WAITING
        self.attempt = 0
        self.since = 0.0
        self.due: float | None = None
        self.token = 0
        self.expires: float | None = None
        self.result: bytes | None = None
        self.history: bytes | None = None
        self.worker: str | None = None
        self.progress: bytes | None = None
        self.requested_end: bool | str = False
        self.run_at: int | None = None
        self.by_wall = False
        self.suspended: str | None = None  # the reason of the suspension that delays it

    @property
    def condition(self) -> tuple[Any, ...]:
        """The fields that change after the push."""
        return (
            self.state,
            self.attempt,
            self.since,
            self.due,
            self.token,
            self.expires,
            self.result,
            self.history,
            self.worker,
            self.progress,
            self.requested_end,
            self.run_at,
            self.by_wall,
            self.suspended,
            self.started,
        )

    @condition.setter
    def condition(self, fields: tuple[Any, ...]) -> None:
        (
            self.state,
            self.attempt,
            self.since,
            self.due,
            self.token,
            self.expires,
            self.result,
            self.history,
            self.worker,
            self.progress,
            self.requested_end,
            self.run_at,
            self.by_wall,
            self.suspended,
            self.started,
        ) = fields

    @property
    def is_suspended(self) -> bool:
        """True if a suspension delays it."""
        return self.suspended is not None

    @property
    def finished(self) -> float | None:
        """The moment at which it was finished; None if it is unfinished."""
        return self.since if self.state > RUNNING else None

    @property
    def weight(self) -> int:
        """The size of the row in a snapshot, in bytes, approximately."""
        return len(self.payload) + _OVERHEAD + (len(self.options) if self.options is not None else 0)

    def has_expired(self, now: float) -> bool:
        """Return True if the row waits, and was not claimed in time."""
        return self.state <= DELAYED and self.expires is not None and self.expires <= now

    def is_kept_no_longer(self, now: float) -> bool:
        """Return True if the row is finished, and was kept long enough."""
        return RUNNING < self.state < GONE and self.due is not None and self.due <= now

    def __repr__(self) -> str:
        return f"<row {self.key}: task {escaped(self.id)}, state {self.state}>"


class TimedKey(NamedTuple):
    """The holder of a unique key that is held for a time, and the end of that time."""

    id: str
    row_key: int
    """The key of its row, which may be forgotten: no other row ever has it."""
    end: float


NO_KEY = TimedKey("", 0, 0.0)
"""Recorded for a key that is held for a time no more."""

Entry = tuple[float, int, Row]


@final
class TimeIndex:
    """An index of rows by time, the earliest first; rows of the same time by their keys.

    Those that come in order, as nearly all do, lie in a deque, and only the others in a heap.
    """

    __slots__ = ("_in_order", "_others")

    def __init__(self) -> None:
        self._in_order: deque[Entry] = deque()
        self._others: list[Entry] = []

    def add(self, moment: float, row: Row) -> None:
        """Add a row."""
        entry = (moment, row.key, row)
        if not self._in_order or self._in_order[-1] < entry:
            self._in_order.append(entry)
        else:
            heappush(self._others, entry)

    def pop(self) -> Entry | None:
        """Remove and return the first row; None if there is none."""
        if self._others and (not self._in_order or self._others[0] < self._in_order[0]):
            return heappop(self._others)
        return self._in_order.popleft() if self._in_order else None

    def __iter__(self) -> Iterator[Entry]:
        """Return all entries: first those that came in order."""
        yield from self._in_order
        yield from self._others

    def in_order(self) -> Iterator[Entry]:
        """Return all entries, the earliest first."""
        return merge(self._in_order, sorted(self._others))

    def until(self, moment: float) -> Iterable[Row]:
        """Return the rows of all entries up to a moment, stale ones among them."""
        if (first := self.first) is None or first[0] > moment:
            return
        yield from (entry[2] for entry in takewhile(lambda entry: entry[0] <= moment, self._in_order))
        yield from (entry[2] for entry in self._others if entry[0] <= moment)

    @property
    def first(self) -> Entry | None:
        """The first row; None if there is none."""
        if self._others and (not self._in_order or self._others[0] < self._in_order[0]):
            return self._others[0]
        return self._in_order[0] if self._in_order else None


@final
class QueueRows:
    """The rows of a queue, in one index for each state."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.ids: dict[str, Row] = {}
        self.holders: dict[str, Row] = {}  # by unique key, the row that holds it,
        self.timed_keys: dict[str, TimedKey] = {}  # or the one that holds it for a time
        self.key_ends: list[tuple[float, str]] = []  # a heap of the ends of these times, with stale entries
        self.running: dict[int, Row] = {}
        self.finished: dict[int, dict[int, Row]] = {DONE: {}, FAILED: {}, KILLED: {}}
        self.minutes: dict[tuple[int, str], Sums] = {}  # of attempts, by minute and name of the tasks
        self.delayed_rows: dict[int, Row] = {}
        self.suspended_rows: dict[int, Row] = {}  # the delayed rows that were suspended
        self.delayed = TimeIndex()
        self.expiring = TimeIndex()
        self.by_wall_clock = TimeIndex()  # the delayed rows that wait for the wall clock
        self.counts = [0] * COUNTS
        self.no_lease_ends_before = math.inf
        self.workers: list[WorkerRow] = []
        self._ready: dict[int, TimeIndex] = {}
        self._priorities: list[int] = []  # the priorities that have rows, in ascending order

    def place(self, row: Row) -> None:
        """Put a row into the index of its state."""
        state = row.state
        if state == WAITING:
            level = self._ready.get(row.priority)
            if level is None:
                level = self._ready[row.priority] = TimeIndex()
                insort(self._priorities, row.priority)
            level.add(row.since, row)
        elif state == DELAYED:
            assert row.due is not None
            self.delayed.add(row.due, row)
            self.delayed_rows[row.key] = row
            if row.is_suspended:
                self.suspended_rows[row.key] = row
        elif state == RUNNING:
            assert row.due is not None
            self.running[row.key] = row
            self.no_lease_ends_before = min(self.no_lease_ends_before, row.due)
        elif state != GONE:
            self.finished[state][row.key] = row

    def end_delay(self, row: Row) -> None:
        """Note that a row does not wait for its time any more."""
        if self.delayed_rows.pop(row.key, None) is not None and row.is_suspended:
            del self.suspended_rows[row.key]
            row.suspended = None

    def take_out(self, key: int) -> None:
        """Take the row of this key out of all collections by state, whatever state it was in."""
        for rows in (self.running, self.delayed_rows, self.suspended_rows, *self.finished.values()):
            rows.pop(key, None)

    def drop_stale(self) -> None:
        """Drop entries at the front of the indexes that are not valid any more, where nothing else pops them."""
        while (first := self.expiring.first) is not None and not (
            first[2].state <= DELAYED and first[2].expires == first[0]
        ):
            self.expiring.pop()
        while (first := self.delayed.first) is not None and not (
            first[2].state == DELAYED and first[2].due == first[0]
        ):
            self.delayed.pop()
        for level in self._ready.values():
            while (first := level.first) is not None and not (first[2].state == WAITING and first[2].since == first[0]):
                level.pop()

    def load_minute(self, minute: int, name: str, sums: Sums) -> None:
        """Set the sums of a minute, as they were recorded."""
        check_minute(minute, name)
        self.minutes[minute, name] = sums
        self.drop_minutes(minute - KEPT_MINUTES)

    def load_timed_keys(self, now: float) -> None:
        """Keep those keys of all that were loaded whose time is not over."""
        self.timed_keys = {key: timed for key, timed in self.timed_keys.items() if timed.end > now}
        self.key_ends = sorted((timed.end, key) for key, timed in self.timed_keys.items())

    def drop_minutes(self, first: int) -> None:
        """Forget the sums of attempts before this minute."""
        while self.minutes and next(iter(self.minutes))[0] < first:
            del self.minutes[next(iter(self.minutes))]

    @property
    def waiting(self) -> int:
        """The number of rows that are ready."""
        return self.counts[LIVE] - len(self.running) - len(self.delayed_rows)

    def ready(self, now: float) -> Iterator[Row]:
        """Return the rows that are ready, in the order in which they go."""
        last: Row | None = None
        for priority in reversed(self._priorities):
            for moment, _, row in self._ready[priority].in_order():  # one may have several entries after a rollback
                if row is not last and row.state == WAITING and row.since == moment and not row.has_expired(now):
                    last = row
                    yield row

    def oldest_waiting(self, now: float) -> float | None:
        """The moment since when the oldest of the ready rows waits; None if there is none."""
        self.drop_stale()
        firsts = [each.first for each in self._ready.values()]
        if any(entry is not None and entry[2].has_expired(now) for entry in firsts):
            return min((row.since for row in self.ready(now)), default=None)
        return min((entry[0] for entry in firsts if entry is not None), default=None)

    def pop_ready(self) -> Row | None:
        """Remove and return the next waiting row; None if none waits."""
        while self._priorities:
            level = self._ready[self._priorities[-1]]
            while (entry := level.pop()) is not None:
                row = entry[2]
                if row.state == WAITING and row.since == entry[0]:
                    return row
            del self._ready[self._priorities.pop()]
        return None

    def pop_due(self, now: float) -> Row | None:
        """Remove and return a delayed row whose time has come; None if there is none."""
        while (first := self.delayed.first) is not None:
            row = first[2]
            counts = row.state == DELAYED and row.due == first[0]
            if counts and first[0] > now:
                return None
            self.delayed.pop()
            if counts:
                self.end_delay(row)
                return row
        return None

    def pop_due_by_wall_clock(self, wall: float) -> Row | None:
        """Remove and return a row that is due by the wall clock; None if there is none."""
        while (first := self.by_wall_clock.first) is not None:
            row = first[2]
            counts = row.state == DELAYED and row.by_wall and row.run_at is not None and row.run_at / 1e6 == first[0]
            if counts and first[0] > wall:
                return None
            self.by_wall_clock.pop()
            if counts:
                self.end_delay(row)
                return row
        return None

    def pop_expired(self, now: float) -> Row | None:
        """Remove and return a row that was not claimed in time; None if there is none."""
        while (first := self.expiring.first) is not None:
            row = first[2]
            counts = row.state <= DELAYED and row.expires == first[0]
            if counts and first[0] > now:
                return None
            self.expiring.pop()
            if counts:
                return row
        return None

    def lapsed(self, now: float) -> list[Row]:
        """Return the running rows whose lease has run out."""
        if not self.running:
            self.no_lease_ends_before = math.inf  # otherwise an ended lease would make the next one look expired
        if now < self.no_lease_ends_before:
            return []
        lapsed: list[Row] = []
        others = math.inf
        for row in self.running.values():
            assert row.due is not None
            if row.due <= now:
                lapsed.append(row)
            else:
                others = min(others, row.due)
        self.no_lease_ends_before = others
        return lapsed

    @property
    def next_due(self) -> float:
        """Return the time at which the next row is due, or slightly before; infinity if none is."""
        moment = self.no_lease_ends_before if self.running else math.inf
        for index in (self.delayed, self.expiring):
            if (first := index.first) is not None:
                moment = min(moment, first[0])
        return moment

    def __repr__(self) -> str:
        return f"<queue {self.name!r}: {self.counts[LIVE]} live, {len(self.running)} running>"


@final
class Transaction:
    """The changes of the current transaction, and the rows as they were before it."""

    __slots__ = (
        "claimed",
        "claims",
        "counts",
        "gone",
        "holders",
        "in_full",
        "minutes",
        "rows",
        "timed_keys",
        "weight",
    )

    def __init__(self, state: JournalState) -> None:
        self.rows: dict[Row, tuple[Any, ...] | None] = {}  # the row before the transaction; None if it is new
        # The earlier payload, options, priority, name and unique_until of rows in which they were replaced.
        self.in_full: dict[Row, tuple[bytes, bytes | None, int, str | None, str]] = {}
        # The rows that were claimed, and not changed otherwise.
        self.claimed: list[tuple[Row, str | None, float | None]] = []
        self.claims: list[Any] = []  # the worker and the keys of each claim
        self.gone: list[Row] = []
        self.counts: dict[QueueRows, list[int]] = {}
        self.holders: list[tuple[QueueRows, str, Row | None]] = []
        self.timed_keys: dict[tuple[QueueRows, str], TimedKey | None] = {}  # as they were before
        self.minutes: dict[tuple[QueueRows, int, str], Sums | None] = {}  # as they were before
        self.weight = state.weight

    @property
    def is_empty(self) -> bool:
        """True if nothing has changed."""
        return not (self.rows or self.claimed or self.counts or self.minutes)

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

    # A transaction

    def touch(self, row: Row) -> None:
        """Save a row's fields before they are changed, so that the change can be rolled back."""
        if row not in self.transaction.rows:
            self.transaction.rows[row] = row.condition

    def touch_in_full(self, row: Row) -> None:
        """Save a row before its payload, options, priority, name or unique_until are changed as well; see
        :meth:`touch`.
        """
        self.touch(row)
        in_full = row.payload, row.options, row.priority, row.name, row.unique_until
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
            row.queue.running.pop(row.key, None)
            row.queue.place(row)
        for row, in_full in transaction.in_full.items():
            row.payload, row.options, row.priority, row.name, row.unique_until = in_full
        for row, condition in transaction.rows.items():
            row.queue.take_out(row.key)
            if condition is None:
                row.state = GONE
                self._remove(row)
        for row, condition in transaction.rows.items():
            if condition is not None:
                row.condition = condition
                row.queue.ids.setdefault(row.id, row)
                self.place(row)
        for queue, key, holder in reversed(transaction.holders):
            if holder is None:
                queue.holders.pop(key, None)
            else:
                queue.holders[key] = holder
        for (queue, key), timed in transaction.timed_keys.items():
            if timed is None:
                queue.timed_keys.pop(key, None)
            else:
                queue.timed_keys[key] = timed
        for queue, counts in transaction.counts.items():
            queue.counts = counts
        transaction.restore_minutes()
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

    def place(self, row: Row) -> None:
        """Put a row into the index of its state, and note when it is due."""
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
        row = queue.ids.get(task_id) if queue is not None else None
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
        row = self.rows.get(timed.row_key)
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
        self.rows[row.key] = row.queue.ids[row.id] = row
        self.count(row.queue, PUSHED, 1)
        self.weight += row.weight

    def make_wait(self, row: Row, delay: float, *, suspended: str | None = None) -> None:
        """Make a row ready after this many seconds."""
        if row.state == DELAYED:
            row.queue.end_delay(row)
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
        row.queue.running.pop(row.key, None)
        if row.requested_end is True:
            self.kill(row, aborted_error(), KillReason.NOT_AGAIN)
        elif row.requested_end:
            self.kill(row, replaced_error(row.requested_end), KillReason.REPLACED, row.requested_end)
        elif row.unique is not None and (holder := self.take_key(row)) is not None:
            # An older version replaced it, and did not record that.
            self.kill(row, replaced_error(holder.id), KillReason.REPLACED, holder.id)
        elif delay is None:
            row.state, row.due = WAITING, None
            self.place(row)
            return True
        else:
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

    def discard(self, row: Row) -> None:
        """Remove a waiting row, already touched, which counts as killed."""
        self.finish(row, KILLED, KILLS, None, 0.0)
        self.killed.append(KilledRow(row.queue.name, row.id, KillReason.CANCELLED))

    def expire(self, row: Row) -> None:
        """Kill a row that was not claimed in time; it is finished since its moment."""
        self.kill(row, expired_error(), KillReason.EXPIRED)
        assert row.expires is not None
        row.since = min(row.since, row.expires)

    def finish(self, row: Row, state: int, what: int, result: bytes | None, keep: float) -> None:
        """Put a live row, already touched, into a final state, and keep it for this many seconds."""
        queue = row.queue
        queue.running.pop(row.key, None)
        if row.state == DELAYED:
            queue.end_delay(row)
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
        row.queue.take_out(row.key)
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
            while (row := queue.pop_expired(now)) is not None:
                self.expire(row)
            while (row := self._pop_due(queue, now)) is not None:
                row.state, row.due = WAITING, None  # this remains true after a rollback, so it needs no record
                queue.place(row)
            for row in queue.lapsed(min(now, as_of)):
                self.take_back(row)
        self._forget_retained(now)
        moments = [queue.next_due for queue in self.queues.values()]
        if (first := self.retained.first) is not None:
            moments.append(first[0])
        self._nothing_due_before = min(moments, default=math.inf)

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
                row.queue.take_out(row.key)
                if row.unique is not None and row.queue.holders.get(row.unique) is row:
                    del row.queue.holders[row.unique]
                self._remove(row)
                self.weight -= row.weight

    def note_due(self, moment: float) -> None:
        """Note that a row is due at this time."""
        if moment < self._nothing_due_before:
            self._nothing_due_before = moment
