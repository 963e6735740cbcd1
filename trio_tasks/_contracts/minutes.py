"""The attempts of each minute, added up: how they ended, how long they took, and how long their tasks had waited.

A process adds up what it settles, in :class:`Tally`, and its storage writes that down once a second, if there is
something new: so a process that dies loses a second of it at most.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from datetime import datetime, timedelta, timezone
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple, final

from .metrics import AttemptTotals, Minute

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KEPT_MINUTES = 48 * 60
"""Minutes for which the numbers are kept."""
MOST_NAMES = 100
"""Names of tasks in a minute that are told apart; all others share ``OTHER``."""
OTHER = "other"
MOST_IN_MEMORY = 10_000
"""Minutes, times names, that are kept of a queue in memory."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LEAST = 2.0**-24
"""Seconds that count as the shortest time."""
_LONGEST = 2.0**32
_LARGEST_EXPONENT = 33
"""Of two, of a time between these."""
_MOST = 2**53
"""Attempts of a minute, and more: a larger number is damage."""
_LAST_MINUTE = int(datetime.max.replace(tzinfo=timezone.utc).timestamp() // 60)
_OUTCOMES = 6
ADDED_AT_ONCE = 256
"""Attempts that are added up together, which costs a fifth of adding each by itself."""
VALUES = 4
"""Values of each of them."""


@final
class Sums:
    """The sums of attempts: the number by outcome, in the order of ``SettlementKind``; the seconds that they took, and
    that their tasks had waited; and how many took, and had waited, less than each power of two, by its exponent.
    """

    __slots__ = ("counts", "durations", "seconds", "waited", "waits")

    def __init__(self) -> None:
        self.counts = [0] * _OUTCOMES
        self.seconds = 0.0
        self.waited = 0.0
        self.durations: dict[int, int] = {}
        self.waits: dict[int, int] = {}

    def add(self, kind: int, seconds: float, waited: float) -> None:
        """Add an attempt."""
        self.counts[kind] += 1
        seconds = min(seconds, _LONGEST) if seconds > _LEAST else _LEAST
        waited = min(waited, _LONGEST) if waited > _LEAST else _LEAST
        self.seconds += seconds
        self.waited += waited
        histogram, exponent = self.durations, math.frexp(seconds)[1]
        histogram[exponent] = histogram.get(exponent, 0) + 1
        histogram, exponent = self.waits, math.frexp(waited)[1]
        histogram[exponent] = histogram.get(exponent, 0) + 1

    def add_succeeded(self, seconds: list[float], waited: list[float]) -> None:
        """Add attempts that have succeeded: the seconds that each took, and that its task had waited, in any order."""
        self.counts[0] += len(seconds)
        self.seconds += enter_times(seconds, self.durations)
        self.waited += enter_times(waited, self.waits)

    def merge(self, other: Sums) -> None:
        """Add the attempts of other sums."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds
        self.waited += other.waited
        for mine, theirs in ((self.durations, other.durations), (self.waits, other.waits)):
            for exponent, number in theirs.items():
                mine[exponent] = mine.get(exponent, 0) + number

    def pack(self) -> list[Any]:
        """Return all numbers, the histograms as flat lists of exponents and numbers."""
        histograms = [[each for pair in sorted(one.items()) for each in pair] for one in (self.durations, self.waits)]
        return [*self.counts, self.seconds, self.waited, *histograms]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Sums:
        """Make the sums that :meth:`pack` has packed.

        Raises:
          TypeError, ValueError: the numbers are no such sums.
        """
        *counts, seconds, waited, durations, waits = packed
        sums = cls()
        numbers = *counts, *durations[1::2], *waits[1::2]
        exponents = *durations[::2], *waits[::2]
        if (
            len(counts) != _OUTCOMES
            or not all(type(each) is int and 0 <= each <= _MOST for each in numbers)
            or not all(type(each) is int and abs(each) <= _LARGEST_EXPONENT for each in exponents)
            or not all(type(each) in (int, float) and 0 <= each < math.inf for each in (seconds, waited))
        ):
            raise ValueError(f"{packed!r:.100} are no sums of a minute")
        sums.counts, sums.seconds, sums.waited = counts, float(seconds), float(waited)
        sums.durations = dict(zip(durations[::2], durations[1::2], strict=True))
        sums.waits = dict(zip(waits[::2], waits[1::2], strict=True))
        return sums

    def shown(self, minute: int, name: str) -> Minute:
        """Return the sums of a minute, as users see them."""
        return Minute(_EPOCH + timedelta(minutes=minute), name or None, *self._fields())

    def totals(self, name: str) -> AttemptTotals:
        """Return the sums of a longer time, as users see them."""
        return AttemptTotals(name or None, *self._fields())

    def _fields(self) -> tuple[Any, ...]:
        return *self.counts, self.seconds, self.waited, by_bound(self.durations), by_bound(self.waits)


def enter_times(seconds: list[float], histogram: dict[int, int]) -> float:
    """Count these times in the histogram, by the exponent of the next power of two; return their sum."""
    seconds.sort()
    if seconds[0] < _LEAST or seconds[-1] > _LONGEST:
        seconds = sorted(min(max(each, _LEAST), _LONGEST) for each in seconds)
    start = 0
    while start < len(seconds):
        exponent = math.frexp(seconds[start])[1]
        end = bisect_left(seconds, 2.0**exponent, start)
        histogram[exponent] = histogram.get(exponent, 0) + end - start
        start = end
    return sum(seconds)


def by_bound(histogram: Mapping[int, int]) -> dict[float, int]:
    """Return a histogram by the upper bounds of its classes, in seconds."""
    return {2.0**exponent: number for exponent, number in sorted(histogram.items())}


class MinuteRow(NamedTuple):
    """Attempts of a queue that are to be added to what is stored."""

    queue: str
    minute: int
    """Minutes since the epoch, by the engine's clock."""
    name: str
    """Of the tasks; empty for those without a name."""
    sums: Sums


@final
class Tally:
    """The sums of the attempts that this process has settled in a queue, by minute and name of the task.

    Args:
      most: sums that are kept, where nothing takes them; then none is kept for longer than 48 hours either.
    """

    __slots__ = ("_end", "_most", "_names", "_past", "_returned", "rows", "succeeded")

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self.rows: dict[tuple[int, str], Sums] = {}
        self.succeeded: list[Any] = []
        """Attempts that have succeeded, to be added up: for each its ``VALUES``, one after the other, since that is the
        fastest to add to. They are the name of the task, and when it was claimed, had become ready, and was done. The
        caller extends the list, and calls :meth:`add_up` when it has ``ADDED_AT_ONCE`` attempts."""
        self._names: dict[str | None, Sums] = {}  # those of the present minute
        self._end = -math.inf  # of it
        self._returned: list[MinuteRow] = []  # those that could not be written
        self._past: dict[str, Sums] = {}  # by name, the sums of what is not in `rows` any more

    def add(self, name: str | None, kind: int, seconds: float, waited: float, now: float) -> None:
        """Add an attempt that has ended now."""
        self.add_up()
        self._sums_of(name, now).add(kind, seconds, waited)

    def add_up(self) -> None:
        """Add all attempts that succeeded to the sums."""
        if not self.succeeded:
            return
        values, self.succeeded = self.succeeded, []
        names, started, ready, ended = (values[first::VALUES] for first in range(VALUES))
        seconds, waited = list(map(sub, ended, started)), list(map(sub, started, ready))
        latest = max(ended)
        if names.count(names[0]) == len(names) and min(ended) // 60 == latest // 60:  # as a rule
            self._sums_of(names[0], latest).add_succeeded(seconds, waited)
            return
        groups: dict[Sums, tuple[list[float], list[float]]] = {}
        for name, moment, took, stood in zip(names, ended, seconds, waited, strict=True):
            group = groups.setdefault(self._sums_of(name, moment), ([], []))
            group[0].append(took)
            group[1].append(stood)
        for sums, group in groups.items():
            sums.add_succeeded(*group)

    def _sums_of(self, name: str | None, now: float) -> Sums:
        if now < self._end and (known := self._names.get(name)) is not None:
            return known
        minute = int(now // 60)
        if now >= self._end:
            self._end = 60.0 * (minute + 1)
            self._names.clear()
            self._drop_old(minute - KEPT_MINUTES)
        label = name or ""
        if len(self._names) >= MOST_NAMES:
            return self.rows.setdefault((minute, OTHER), Sums())
        sums = self._names[name] = self.rows.setdefault((minute, label), Sums())
        return sums

    def take(self, queue: str) -> list[MinuteRow]:
        """Remove and return all sums."""
        self.add_up()
        taken = [MinuteRow(queue, minute, name, sums) for (minute, name), sums in self.rows.items()]
        for row in taken:
            self._past_of(row.name).merge(row.sums)
        taken += self._returned
        self.rows, self._returned, self._end = {}, [], -math.inf
        self._names.clear()
        return taken

    def give_back(self, rows: Iterable[MinuteRow]) -> None:
        """Keep sums that could not be written, until they are taken again."""
        self._returned += rows

    def totals(self) -> list[AttemptTotals]:
        """Return the sums of all attempts so far, for each name. The first hundred names are told apart."""
        self.add_up()
        totals = {self._label(name): Sums() for _, name in self.rows}
        totals.update((name, Sums()) for name in self._past)
        for (_, name), sums in self.rows.items():
            totals[self._label(name)].merge(sums)
        for name, sums in self._past.items():
            totals[name].merge(sums)
        return [sums.totals(name) for name, sums in sorted(totals.items())]

    def _label(self, name: str) -> str:
        """Return the name under which the attempts at tasks of this name are totalled, for good."""
        if name not in self._past:
            if len(self._past) >= MOST_NAMES:
                name = OTHER
            self._past.setdefault(name, Sums())
        return name

    def _past_of(self, name: str) -> Sums:
        return self._past[self._label(name)]

    def drop_old(self, now: float) -> None:
        """Forget the sums that are kept no longer."""
        self.add_up()
        self._drop_old(int(now // 60) - KEPT_MINUTES)

    def _drop_old(self, first: int) -> None:
        while self.rows and (len(self.rows) > self._most or next(iter(self.rows))[0] < first):
            key = next(iter(self.rows))
            self._past_of(key[1]).merge(self.rows.pop(key))


def shown(
    rows: Iterable[tuple[int, str, Sums]], since: datetime | None, until: datetime | None, name: str | None
) -> list[Minute]:
    """Return the minutes of these rows that overlap a time, of one name if it is given, in order."""
    first = -math.inf if since is None else since.timestamp() // 60
    end = math.inf if until is None else until.timestamp() / 60
    chosen = [row for row in rows if first <= row[0] < end and name in (None, row[1])]
    return [sums.shown(minute, label) for minute, label, sums in sorted(chosen, key=lambda row: row[:2])]


def check_minute(minute: object, name: object) -> None:
    """Raise ``TypeError`` unless a minute and a name that were read are what was stored."""
    if type(minute) is not int or not 0 <= minute <= _LAST_MINUTE or type(name) is not str:
        raise TypeError(f"{minute!r:.50} is no minute, or {name!r:.50} no name")


def check_span(since: datetime | None, until: datetime | None, name: str | None) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless these choose minutes."""
    for what, moment in (("since", since), ("until", until)):
        if moment is not None and not isinstance(moment, datetime):
            raise TypeError(f"{what} must be a datetime, not {type(moment).__name__}")
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{what} must have a time zone, as datetime.now(timezone.utc) has")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
