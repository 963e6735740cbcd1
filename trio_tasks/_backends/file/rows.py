"""Rows that live in memory, and the orders in which they wait.

A row lies in an index under a moment. It is never searched there: when it moves elsewhere, the old entry stays, and is
skipped when it is popped, since its moment is not the row's any more. So every operation costs the same with a thousand
rows as with a million.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from heapq import heappop, heappush
from typing import Any, final

from ..._printing import escaped
from ..durable.engine import State

WAITING, DELAYED, RUNNING, DONE, FAILED, KILLED = (int(state) for state in State)  # plain ints are compared faster
MOMENTS = 2
"""Fields at the end of a row's condition that are told apart from the others: ``run_at``, as in ``Stored``, and whether
it is waited for by the wall clock."""
GONE = 6
"""The state of rows that are forgotten."""

PUSHED, SUCCEEDED, RETRIED, FAILURES, KILLS, RELEASED, SUSPENDED, LIVE = range(8)
"""Indexes of the counts of a queue."""
COUNTS = 8


@final
class Row:
    """A task, as the journal has it. ``since`` is when it first waited, or was finished; ``due`` as in ``Stored``;
    ``requested_end`` is why it is not to come back from its attempt: True if it is to be aborted, or the id
    of the task that replaced it."""

    __slots__ = (
        "attempt",
        "by_wall",
        "due",
        "expires",
        "head",
        "history",
        "id",
        "key",
        "payload",
        "priority",
        "progress",
        "queue",
        "requested_end",
        "result",
        "run_at",
        "since",
        "state",
        "token",
        "unique",
        "worker",
    )

    def __init__(
        self,
        key: int,
        queue: QueueRows,
        id: str,
        payload: bytes,
        head: bytes | None,
        priority: int,
        unique: str | None,
    ) -> None:
        self.key = key
        self.queue = queue
        self.id = id
        self.payload = payload
        self.head = head
        self.priority = priority
        self.unique = unique
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
        ) = fields

    def has_expired(self, now: float) -> bool:
        """Return True if it waits, and was to be claimed before."""
        return self.state <= DELAYED and self.expires is not None and self.expires <= now

    def is_kept_no_longer(self, now: float) -> bool:
        """Return True if it is finished, and was to be forgotten by now."""
        return RUNNING < self.state < GONE and self.due is not None and self.due <= now

    def __repr__(self) -> str:
        return f"<row {self.key}: task {escaped(self.id)}, state {self.state}>"


Entry = tuple[float, int, Row]


@final
class TimeIndex:
    """Rows by a moment, the earliest first; rows of the same moment by their keys.

    Those that come in order, as nearly all do, lie in a deque, and only the others in a heap.
    """

    __slots__ = ("_in_order", "_others")

    def __init__(self) -> None:
        self._in_order: deque[Entry] = deque()
        self._others: list[Entry] = []

    def add(self, moment: float, row: Row) -> None:
        """Put a row into its place."""
        entry = (moment, row.key, row)
        if not self._in_order or self._in_order[-1] < entry:
            self._in_order.append(entry)
        else:
            heappush(self._others, entry)

    def pop(self) -> Entry | None:
        """Take out the first one; None if there is none."""
        if self._others and (not self._in_order or self._others[0] < self._in_order[0]):
            return heappop(self._others)
        return self._in_order.popleft() if self._in_order else None

    @property
    def first(self) -> Entry | None:
        """The first one; None if there is none."""
        if self._others and (not self._in_order or self._others[0] < self._in_order[0]):
            return self._others[0]
        return self._in_order[0] if self._in_order else None


@final
class QueueRows:
    """The rows of a queue, in an index for each state."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.ids: dict[str, Row] = {}
        self.holders: dict[str, Row] = {}  # of unique keys
        self.running: dict[int, Row] = {}
        self.finished: dict[int, Row] = {}
        self.delayed = TimeIndex()
        self.expiring = TimeIndex()
        self.by_wall_clock = TimeIndex()  # delayed ones, by the wall clock
        self.counts = [0] * COUNTS
        self.no_lease_ends_before = math.inf
        self.workers: list[str] = []
        self._ready: dict[int, TimeIndex] = {}
        self._priorities: list[int] = []  # of the levels that hold something, in ascending order

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
        elif state == RUNNING:
            assert row.due is not None
            self.running[row.key] = row
            self.no_lease_ends_before = min(self.no_lease_ends_before, row.due)
        elif state != GONE:
            self.finished[row.key] = row

    def pop_ready(self) -> Row | None:
        """Take out the next row that waits; None if none does."""
        while self._priorities:
            level = self._ready[self._priorities[-1]]
            while (entry := level.pop()) is not None:
                row = entry[2]
                if row.state == WAITING and row.since == entry[0]:
                    return row
            del self._ready[self._priorities.pop()]
        return None

    def pop_due(self, now: float) -> Row | None:
        """Take out a delayed row whose time has come; None if there is none."""
        while (first := self.delayed.first) is not None:
            row = first[2]
            counts = row.state == DELAYED and row.due == first[0]
            if counts and first[0] > now:
                return None
            self.delayed.pop()
            if counts:
                return row
        return None

    def pop_due_by_wall_clock(self, wall: float) -> Row | None:
        """Take out a row that is due by the wall clock; None if there is none."""
        while (first := self.by_wall_clock.first) is not None:
            row = first[2]
            counts = row.state == DELAYED and row.by_wall and row.run_at is not None and row.run_at / 1e6 == first[0]
            if counts and first[0] > wall:
                return None
            self.by_wall_clock.pop()
            if counts:
                return row
        return None

    def pop_expired(self, now: float) -> Row | None:
        """Take out a row that was not claimed in time; None if there is none."""
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
        """The running rows whose lease has run out."""
        if not self.running:
            self.no_lease_ends_before = math.inf  # or the next lease would seem to have run out with one that is over
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
        """The time at which the next row falls due, or a little before that; infinite if none does."""
        moment = self.no_lease_ends_before if self.running else math.inf
        for index in (self.delayed, self.expiring):
            if (first := index.first) is not None:
                moment = min(moment, first[0])
        return moment

    def __repr__(self) -> str:
        return f"<queue {self.name!r}: {self.counts[LIVE]} live, {len(self.running)} running>"
