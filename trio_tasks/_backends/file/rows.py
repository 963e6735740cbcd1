"""The rows of a journal in memory, and the indexes of those of a queue.

A row lies in an index under a moment. It is never searched there: when it moves elsewhere, the old entry stays, and is
skipped when it is popped, since its moment is not the row's any more. So every operation costs the same with a thousand
rows as with a million.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from heapq import heappop, heappush, merge
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, final

from ..._contracts.fairness import NO_KEY, RateWindow
from ..._contracts.groups import Groups, QueueLimits
from ..._contracts.minutes import KEPT_MINUTES, Sums, check_minute
from ..._printing import escaped
from ..durable.engine import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..._contracts.groups import LimitReached
    from ..._tasks.limits import Limits
    from ..durable.engine import WorkerRow

WAITING, DELAYED, RUNNING, DONE, FAILED, KILLED = (int(state) for state in State)  # plain ints are compared faster
MOMENTS = 5
"""Fields at the end of a row's condition that are told apart from the others: ``run_at``, as in ``StoredRow``; whether
it is waited for by the wall clock; whether the row is delayed by a suspension; when it was last claimed; and its
deadline."""
GONE = 6
"""The state of rows that are forgotten."""
PACKED = 7
"""The state of a :class:`Segment`, which stands where its first row would."""
TIMED = "time"
"""The ``unique_until`` of a row that was pushed with a time for which its key is held, in ``QueueRows.timed_keys``;"""
GIVEN_UP = "given up"
"""and of one that does not hold its key any more, as it has begun, or was replaced."""
ABORTED, WITHDRAWN = True, 2
"""The ``requested_end`` of a row that is to be aborted; and of one that is forgotten after that, as its call was
cancelled."""

PUSHED, SUCCEEDED, RETRIED, FAILURES, KILLS, RELEASED, SUSPENDED, RESUMED, PAUSED, LIVE = range(10)
"""Indexes of the counts of a queue; ``PAUSED`` is 1 if it is paused."""
COUNTS = 10

OVERHEAD = 120
"""Bytes that a row takes in a snapshot beside its payload and its options, about."""


@final
class Row:
    """A task, as the journal has it. ``key`` is its number, and ``group`` is what a user calls its key; ``since`` is
    when it first waited, or was finished; ``due`` as in ``Stored``; ``requested_end`` is why it is not to come back
    from its attempt: ``ABORTED``, ``WITHDRAWN``, or the id of the task that replaced it; ``unique_until`` is the end
    of the time for which it holds its unique key, as in ``NewRow``, or ``TIMED``, or ``GIVEN_UP``."""

    __slots__ = (
        "attempt",
        "by_wall",
        "deadline",
        "due",
        "expires",
        "group",
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
        group: str | None = None,
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
        self.group = group
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
        self.requested_end: bool | int | str = False
        self.run_at: int | None = None
        self.by_wall = False
        self.suspended: str | None = None  # the reason of the suspension that delays it
        self.deadline: float | None = None  # the time at which it is killed, if it waits then

    @property
    def condition(self) -> tuple[Any, ...]:
        """The fields that change after the push. They are read for each task, and so are written out: by a list of
        their names it takes twice as long.
        """
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
            self.deadline,
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
            self.deadline,
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
        return len(self.payload) + OVERHEAD + (len(self.options) if self.options is not None else 0)

    def has_expired(self, now: float) -> bool:
        """Return True if the row waits, and was not claimed in time, or its deadline is over."""
        return self.state <= DELAYED and self.expires is not None and self.expires <= now

    @property
    def ends_by_deadline(self) -> bool:
        """True if a row that expires does so by its deadline."""
        return self.expires is not None and self.expires == self.deadline

    @property
    def late_since(self) -> float:
        """The moment since which a row that has expired is finished: its push may have taken longer than it had."""
        assert self.expires is not None
        return self.expires if self.pushed is None else max(self.expires, self.pushed)

    def set_ends(self, expires: float | None, deadline: float | None) -> None:
        """Set the time by which it must be claimed, and its deadline."""
        self.deadline = deadline
        self.expires = min((each for each in (expires, deadline) if each is not None), default=None)

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


NO_TIMED_KEY = TimedKey("", 0, 0.0)
"""Recorded for a key that is held for a time no more."""

Entry = tuple[float, int, Row]


class Segment(Protocol):
    """Rows that are packed, and stand in an index where the first of them would."""

    @property
    def state(self) -> int:
        """``PACKED``."""
        ...

    @property
    def priority(self) -> int:
        """The priority of all rows."""
        ...

    @property
    def first(self) -> tuple[float, int]:
        """The place of the first row."""
        ...

    @property
    def last(self) -> tuple[float, int]:
        """The place of the last row."""
        ...

    @property
    def entries(self) -> list[Entry] | None:
        """The entries of the rows, once they are made."""
        ...

    def read_entries(self) -> Iterator[Entry]:
        """Return the entries of the rows; those of a packed segment are not kept."""
        ...

    def unpack(self) -> None:
        """Make the rows, unless that is done."""
        ...


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

    def merge(self, segments: Sequence[Segment]) -> None:
        """Add segments, in order, to entries of rows that are all valid. The last entry has to be a row, with which
        later ones are compared.
        """
        firsts = [(*segment.first, cast("Row", segment)) for segment in segments]
        entries, others, end = deque[Entry](), list[Entry](), (-math.inf, 0)
        for entry in sorted([*firsts, *self._in_order, *self._others]):
            (entries if entry[:2] > end else others).append(entry)
            if entry[2].state == PACKED:
                end = cast("Segment", entry[2]).last
        self._in_order, self._others = entries, others  # sorted, and so a heap

    def put_first(self, entries: Iterable[Entry]) -> None:
        """Put the entries of a segment into the place from which it was popped, in descending order."""
        self._in_order.extendleft(entries)

    def __iter__(self) -> Iterator[Entry]:
        """Return all entries: first those that came in order."""
        yield from self._in_order
        yield from self._others

    def in_order(self) -> Iterator[Entry]:
        """Return all entries, the earliest first; those of segments, too."""
        return merge(self._flat(), sorted(self._others))

    def _flat(self) -> Iterator[Entry]:
        for entry in self._in_order:
            if entry[2].state == PACKED:
                yield from cast("Segment", entry[2]).read_entries()
            else:
                yield entry

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


_MOVED_AT_ONCE = 100
"""Rows without a key that are moved into the groups together."""


def _never(row: Row) -> bool:
    return False


def _entries_of(segment: Row | Segment) -> Iterable[Entry]:
    """Make the rows of a segment, unless that is done; return their entries, the latest first."""
    segment = cast("Segment", segment)
    segment.unpack()
    return reversed(segment.entries or ())


@final
class QueueRows:
    """The rows of a queue, in one index for each state."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.ids: dict[str, Row | Segment] = {}  # a segment for a row that is packed in it
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
        self.limits = QueueLimits()
        self.groups: Groups[Row] | None = None  # from the first row with a key on, or the first limit of keys
        self.has_keys = False  # True if a row with a key was loaded
        self._windows: dict[str, RateWindow] = {}  # of keys, while there are no groups
        # While there are no groups. Then what is left are rows without a key, all of which go after those of the same
        # priority that are in the groups already.
        self._ready: dict[int, TimeIndex] = {}
        self._priorities: list[int] = []  # the priorities that have rows, in ascending order

    def place(self, row: Row) -> None:
        """Put a row into the index of its state."""
        state = row.state
        if state == WAITING:
            if self.groups is not None and not (self._ready and self._is_behind(row)):
                self.groups.add(row.key, row, row.group or NO_KEY, row.priority, (row.since, row.key))
                return
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
            if self.groups is not None:
                self.groups.begin(row.group or NO_KEY)
        elif state != GONE:
            self.finished[state][row.key] = row

    def row(self, task_id: str) -> Row | None:
        """Return the row of an id; None if there is none."""
        row = self.ids.get(task_id)
        if row is not None and row.state == PACKED:
            _entries_of(row)
            row = self.ids.get(task_id)
        return cast("Row | None", row)

    def end_delay(self, row: Row) -> None:
        """Note that a row does not wait for its time any more."""
        if self.delayed_rows.pop(row.key, None) is not None and row.is_suspended:
            del self.suspended_rows[row.key]
            row.suspended = None

    def take_out(self, row: Row) -> None:
        """Take a row out of all collections by state, whatever state it was in."""
        self.end_attempt(row)
        for rows in (self.delayed_rows, self.suspended_rows, *self.finished.values()):
            rows.pop(row.key, None)
        if self.groups is not None:
            self.groups.discard(row.key, row.group or NO_KEY)

    # Keys

    def use_groups(self) -> None:
        """Keep the ready rows by their keys from now on. Those that are there follow when their turn comes, so this
        takes as long with a million of them as with a few.
        """
        groups = self.groups = Groups[Row](self.limits)
        for key, window in self._windows.items():
            groups.load_window(key, window)
        for row in self.running.values():
            groups.begin(row.group or NO_KEY)
        self._windows = {}

    def _is_behind(self, row: Row) -> bool:
        """Return True if a ready row goes after rows that are not in the groups yet."""
        if row.group is not None or (level := self._ready.get(row.priority)) is None:
            return False
        first = level.first
        return first is not None and (row.since, row.key) > first[:2]

    def fill_groups(self, groups: Groups[Row], number: int = 0) -> None:
        """Move rows without a key into the groups, where none is left there of their priority, or this number."""
        for priority, level in [*self._ready.items()]:
            wanted = number or (0 if groups.has_ready(NO_KEY, priority) else _MOVED_AT_ONCE)
            while wanted and (entry := level.pop()) is not None:
                row = entry[2]
                if row.state == WAITING and row.since == entry[0]:
                    groups.add(row.key, row, row.group or NO_KEY, row.priority, (row.since, row.key))
                    wanted -= 1
                elif row.state == PACKED:
                    level.put_first(_entries_of(row))
            if level.first is None:
                del self._ready[priority]
                self._priorities.remove(priority)

    def join_segments(self, segments: Sequence[Segment]) -> None:
        """Put segments of one priority, in order, among its rows, of which the last one is there."""
        self._ready[segments[0].priority].merge(segments)

    def set_limits(self, limits: Limits | None, key: str | None) -> None:
        """Go by these limits of the queue, or of a key, from now on."""
        self.limits.set(limits, key)
        if self.groups is not None:
            self.groups.apply_limits(key)

    def window(self, key: str | None) -> RateWindow:
        """Return the attempts that count for the rate of the queue, or of a key."""
        if key is None:
            return self.limits.window
        if self.groups is None:
            return self._windows.setdefault(key, RateWindow())
        window = self.groups.window(key)
        if window is None:
            window = RateWindow()
            self.groups.load_window(key, window)
        return window

    def load_window(self, key: str | None, window: RateWindow) -> None:
        """Set the attempts that count for the rate of the queue, or of a key."""
        if key is None:
            self.limits.window = window
        elif self.groups is None:
            self._windows[key] = window
        else:
            self.groups.load_window(key, window)

    def free_at(self, now: float) -> float:
        """Return the moment from which on a rate lets another attempt begin, as far as it holds one back; infinity if
        none does.
        """
        if self.limits.of_queue is not None and self.limits.free(len(self.running), now) <= 0:
            concurrency = self.limits.of_queue.concurrency
            is_full = concurrency is not None and len(self.running) >= concurrency
            return math.inf if is_full else self.limits.free_at()
        return math.inf if self.groups is None else self.groups.next_wake

    def windows(self, now: float) -> Iterator[tuple[str | None, RateWindow]]:
        """Return the attempts that count for rates: those of the queue, with None, and of each key."""
        window, rate = self.limits.window, self.limits.rate(None)
        if rate is not None:
            window.free(rate, now)  # forget those that count no more
        if not window.is_empty:
            yield None, window
        if self.groups is not None:
            yield from self.groups.windows(now)

    @property
    def holds_back(self) -> bool:
        """True after a claim that got all rows that may begin, if limits hold others back."""
        return (self.groups is not None or self.limits.of_queue is not None) and self.waiting > 0

    def limit_of(self, row: Row, now: float) -> LimitReached | None:
        """Return the limit that holds a ready row back; None if none does."""
        if self.groups is not None and row.group is not None and self.held_test(now)(row):
            return self.groups.limit_of(row.group, now)
        return self.limits.reached(len(self.running), now)

    def free_of(self, key: str, running: int, now: float) -> float:
        """Return the number of attempts of a key that may begin now, while so many of it run."""
        limits = self.limits.effective(key)
        if limits is None:
            return math.inf
        free = math.inf if limits.per_key is None else limits.per_key - running
        if limits.rate_per_key is not None:
            free = min(free, self.window(key).free(limits.rate_per_key, now))
        return max(0, free)

    def leave_ready(self, row: Row) -> None:
        """Take a row out of the rows that are ready, if it is one; without groups, its entry there is skipped."""
        if self.groups is not None and row.state == WAITING:
            self.groups.discard(row.key, row.group or NO_KEY)

    def join_ready(self, row: Row) -> None:
        """Put a row in again that was taken out by :meth:`leave_ready`, and waits."""
        if self.groups is not None:
            self.place(row)

    def end_attempt(self, row: Row) -> None:
        """Note that a row does not run any more, if it did."""
        if self.running.pop(row.key, None) is not None and self.groups is not None:
            self.groups.end(row.group or NO_KEY)

    def give_back(self, row: Row, *, begun: bool = True) -> None:
        """Put a row that ran, or was to run, back into its old place; it waits already."""
        ran = self.running.pop(row.key, None) is not None or not begun
        if ran and self.groups is not None:
            place = row.group or NO_KEY, row.priority, (row.since, row.key)
            self.groups.put_back(row.key, row, *place, begun=begun)
        else:
            self.place(row)

    # Looking

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
                if first[2].state == PACKED:
                    level.put_first(_entries_of(first[2]))

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
        """Return the rows that are ready, in the order in which they go; those that :meth:`fill_groups` has not moved
        come last.
        """
        if self.groups is not None:
            yield from (row for row in self.groups.in_turn() if not row.has_expired(now))
        last: Row | None = None
        for priority in reversed(self._priorities):
            for moment, _, row in self._ready[priority].in_order():  # one may have several entries after a rollback
                if row is not last and row.state == WAITING and row.since == moment and not row.has_expired(now):
                    last = row
                    yield row

    def oldest_waiting(self, now: float) -> float | None:
        """The moment since when the oldest of the ready rows waits; None if there is none."""
        self.drop_stale()
        firsts = [first[2] for level in self._ready.values() if (first := level.first) is not None]
        if self.groups is not None:
            firsts += self.groups.firsts(now)
        if any(row.has_expired(now) for row in firsts):
            is_held = self.held_test(now)
            firsts = [row for row in self.ready(now) if not is_held(row)]
        return min((row.since for row in firsts), default=None)

    def held_test(self, now: float) -> Callable[[Row], bool]:
        """Return a function that returns True for a ready row that a limit of its key holds back."""
        if self.groups is None or not self.limits.by_key:
            return _never
        is_held = self.groups.held_test(now, lambda row: row.has_expired(now))
        return lambda row: row.group is not None and row.state == WAITING and is_held(row.key, row.group)

    def pop_ready(self, now: float) -> Row | None:
        """Remove and return the next waiting row that may begin; None if there is none."""
        if self.groups is not None:
            if self._ready:
                self.fill_groups(self.groups)
            return self.groups.pop(now)
        while self._priorities:
            level = self._ready[self._priorities[-1]]
            while (entry := level.pop()) is not None:
                row = entry[2]
                if row.state == WAITING and row.since == entry[0]:
                    return row
                if row.state == PACKED:
                    level.put_first(_entries_of(row))
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
