"""Rows that were loaded and not looked at yet, kept as they are in the journal.

A row in memory takes ten times the room of its record, and most of the time of loading. So rows that only wait stay in
segments, of a record each, until one of a segment is claimed, looked up or changed: then all of that segment are made.
A list or a snapshot reads the rows of a segment without keeping them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from operator import le, lt
from typing import TYPE_CHECKING, Any, final

import cbor2

from .rows import OVERHEAD, PACKED, Entry, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .rows import QueueRows

ROW = 18
"""Fields of a row in a record."""
LEAST = 16
"""Rows below which a record is not worth a segment."""
MOST = 1000
"""Rows of a segment at most, as all of them are made at once."""
_FACTS = 4
_ROWS_AT, _FACTS_AT = 4, 10
"""The places of rows and facts in a record."""
_ABSENT = (6, 10, 12, 13, 14, 15, 16)
"""The fields that are None in a row that was never claimed: unique, due, expires, result, history, worker, progress."""
_ZERO = (7, 8, 11)
"""The fields that are 0 there: state, attempt, token."""
_OPTIONAL_BYTES, _OPTIONAL_TEXT, _MOMENT = {bytes, type(None)}, {str, type(None)}, {float, int, type(None)}


@final
class Segment:
    """Rows of one queue and priority that wait, and were never claimed, in the order in which they go."""

    __slots__ = (
        "_ids",
        "_owner",
        "_pushed",
        "_record",
        "entries",
        "first",
        "last",
        "number",
        "priority",
        "queue",
        "weight",
    )

    state = PACKED
    """Where a row is expected, this tells that it is a segment."""

    def __init__(
        self, owner: PackedRows, record: bytes, rows: list[Any], queue: QueueRows, pushed: float | None
    ) -> None:
        self._owner = owner
        self._record = record
        self._ids: list[str] = rows[2::ROW]
        self._pushed = pushed
        self.queue = queue
        self.number = len(rows) // ROW
        self.priority: int = rows[5]
        self.first: tuple[float, int] = rows[9], rows[0]
        self.last: tuple[float, int] = rows[9 - ROW], rows[-ROW]
        self.weight = 0
        self.entries: list[Entry] | None = None  # the rows, once they are made, and the moments since which they wait

    def _make(self) -> Iterator[Row]:
        record = cbor2.loads(self._record)
        fields, facts = record[_ROWS_AT], record[_FACTS_AT : _FACTS_AT + 1]
        unnamed: list[Any] = [None, None, self._pushed, None]
        named: list[Any] = (facts and facts[0]) or unnamed * self.number
        pairs = zip(range(0, len(fields), ROW), range(0, len(named), _FACTS), strict=True)
        for start, fact in pairs:
            key, _, id, payload, options, priority, _ = fields[start : start + 7]
            row = Row(key, self.queue, id, payload, options, priority, None, named[fact + 1], named[fact + 2])
            row.since = fields[start + 9]
            yield row

    def rows(self) -> Iterator[Row]:
        """Return the rows as they are at each step; those of a packed segment are not kept."""
        copies: list[Row] = []
        for number in range(self.number):
            if self.entries is not None:
                yield self.entries[number][2]
            else:
                copies = copies or [*self._make()]
                yield copies[number]

    def read_entries(self) -> Iterator[Entry]:
        """Return the entries of the rows; those of a packed segment are not kept."""
        return iter(self.entries) if self.entries is not None else ((row.since, row.key, row) for row in self._make())

    def unpack(self) -> None:
        """Make the rows, unless that is done."""
        self._owner.unpack(self)

    def make_rows(self, rows: dict[int, Row]) -> None:
        """Make the rows, and put them among these."""
        ids = self.queue.ids
        self.entries = [(row.since, row.key, row) for row in self._make()]
        self._record, self._ids = b"", []
        for _, key, row in self.entries:
            rows[key] = row
            if ids.get(row.id) is self:
                ids[row.id] = row

    def enter_ids(self) -> None:
        """Put the ids of the rows into the index of the queue."""
        self.queue.ids.update(dict.fromkeys(self._ids, self))
        self._ids = []


@final
class PackedRows:
    """All segments that are still packed, by the keys of their rows."""

    __slots__ = ("_first_keys", "_rows", "_segments")

    def __init__(self, rows: dict[int, Row]) -> None:
        self._rows = rows
        self._first_keys: list[int] = []
        self._segments: list[Segment] = []

    def __iter__(self) -> Iterator[Segment]:
        return iter([*self._segments])

    def __len__(self) -> int:
        return sum(segment.number for segment in self._segments)

    @property
    def last_key(self) -> int:
        """The last key of all; 0 if there is none."""
        return self._segments[-1].last[1] if self._segments else 0

    def of(self, queue: QueueRows) -> list[Segment]:
        """Return the segments of a queue."""
        return [segment for segment in self._segments if segment.queue is queue]

    def find(self, key: int) -> Row | None:
        """Return the row of a key, after making the rows of its segment; None if it is in none."""
        at = bisect_right(self._first_keys, key) - 1
        if at < 0 or key > self._segments[at].last[1]:
            return None
        self.unpack(self._segments[at])
        return self._rows.get(key)

    def unpack(self, segment: Segment) -> None:
        """Make the rows of a segment, unless that is done."""
        if segment.entries is None:
            at = bisect_left(self._first_keys, segment.first[1])
            del self._first_keys[at], self._segments[at]
            segment.make_rows(self._rows)

    def rows_after(self, key: int) -> Iterator[tuple[int, Row]]:
        """Return the keys and rows after a key, which are not kept."""
        for segment in self:
            if segment.last[1] > key:
                yield from ((row.key, row) for row in segment.rows() if row.key > key)

    def first_rows(
        self, queue: QueueRows, after: tuple[float, ...] | None, most: int, *, newest_first: bool
    ) -> Iterator[Row]:
        """Return rows of a queue, which are not kept, with the first ``most`` of them after a position among them."""
        segments = sorted(self.of(queue), key=lambda each: (-each.priority, each.first), reverse=newest_first)
        for segment in segments:
            last = segment.first if newest_first else segment.last
            place = -segment.priority, *last
            if most > 0 and (after is None or (place < after if newest_first else place > after)):
                first = -segment.priority, *(segment.last if newest_first else segment.first)
                if after is None or (first < after if newest_first else first > after):
                    most -= segment.number  # all of them come after it
                yield from segment.rows()

    def arrange(self) -> list[list[Segment]]:
        """Return all segments by queue and priority, in the order in which their rows go, without those that reach
        between the rows of another, and the last of each: their rows are made.
        """
        lines: dict[tuple[QueueRows, int], list[Segment]] = {}
        for segment in sorted(self._segments, key=lambda each: each.first):
            line = lines.setdefault((segment.queue, segment.priority), [])
            if line and segment.first < line[-1].last:
                self.unpack(segment)
            else:
                line.append(segment)
        for line in lines.values():
            self.unpack(line.pop())
        return [line for line in lines.values() if line]

    def add(
        self, record: bytes, fields: list[Any], facts: Any, queues: dict[int, QueueRows], pushed: float | None
    ) -> bool:
        """Take the rows of a record, and return True; or False if they do not all just wait, in order."""
        if len(fields) < LEAST * ROW:
            return False
        try:
            if not self._are_new(fields) or not _all_wait(fields, facts, pushed):
                return False
        except (TypeError, ValueError, OverflowError):  # what is compared or counted here is no number
            return False
        queue = queues[fields[1]]
        at = bisect_left(self._first_keys, fields[0])
        made: list[Segment] = []
        sizes = [*map(len, fields[3::ROW])]
        options = [0 if each is None else len(each) for each in fields[4::ROW]]
        for start in range(0, len(sizes), MOST):
            end = start + MOST
            rows = fields[start * ROW : end * ROW]
            if len(rows) < len(fields):
                record = cbor2.dumps([0, 0, 0, [], rows, *[[]] * 5, facts[start * _FACTS : end * _FACTS]])
            segment = Segment(self, record, rows, queue, pushed)
            segment.weight = sum(sizes[start:end]) + sum(options[start:end]) + segment.number * OVERHEAD
            made.append(segment)
        self._segments[at:at] = made
        self._first_keys[at:at] = [segment.first[1] for segment in made]
        return True

    def _are_new(self, fields: list[Any]) -> bool:
        """Return True if the keys ascend, and no row of them is known, and no segment reaches between them."""
        keys = fields[::ROW]
        if set(map(type, keys)) != {int} or not all(map(lt, keys, keys[1:])):
            return False
        at = bisect_left(self._first_keys, keys[0])
        is_after = at == 0 or self._segments[at - 1].last[1] < keys[0]
        is_before = at == len(self._segments) or keys[-1] < self._first_keys[at]
        return is_after and is_before and self._rows.keys().isdisjoint(keys)


def _all_wait(fields: list[Any], facts: Any, pushed: float | None) -> bool:
    """Return True if these are valid fields of rows in one queue and of one priority that wait, and were never claimed,
    in the order in which they go. If not, the rows are loaded and checked one by one.
    """
    number, rest = divmod(len(fields), ROW)
    if rest or len(set(fields[1::ROW])) != 1 or set(map(type, fields[5::ROW])) != {int} or type(fields[1]) is not int:
        return False
    moments, ids = fields[9::ROW], fields[2::ROW]
    return (
        all(fields[at::ROW].count(None) == number for at in _ABSENT)
        and all(fields[at::ROW].count(0) == number and set(map(type, fields[at::ROW])) == {int} for at in _ZERO)
        and fields[17::ROW].count(False) == number
        and set(map(type, fields[17::ROW])) == {bool}
        and len(set(fields[5::ROW])) == 1
        and set(map(type, ids)) == {str}
        and all(ids)
        and set(map(type, fields[3::ROW])) == {bytes}
        and set(map(type, fields[4::ROW])) <= _OPTIONAL_BYTES
        and None not in moments
        and _are_moments(moments)
        and all(map(le, moments, moments[1:]))
        and _are_moments([pushed])
        and (not facts or _are_facts(facts, fields[::ROW]))
    )


def _are_facts(facts: Any, keys: list[int]) -> bool:
    """Return True if these are valid facts of just these rows, none of which was claimed."""
    return bool(
        type(facts) is list
        and len(facts) == _FACTS * len(keys)
        and facts[::_FACTS] == keys
        and set(map(type, facts[1::_FACTS])) <= _OPTIONAL_TEXT
        and _are_moments(facts[2::_FACTS])
        and facts[3::_FACTS].count(None) == len(keys)
    )


def _are_moments(values: Sequence[Any]) -> bool:
    """Return True if all of these are finite numbers, or None."""
    moments: Iterable[Any] = filter(None, values)
    return set(map(type, values)) <= _MOMENT and all(map(math.isfinite, moments))
