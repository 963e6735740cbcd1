"""The ready rows of a queue in memory, by their keys: whose turn it is, and which keys are at a limit.

The rows of one key and one priority are a *line*, in the order in which they are to go. For each priority there is a
heap of lines by the tag of their first row (see :mod:`~trio_tasks._contracts.fairness`). A line whose key is at a limit
is *parked* when its turn comes: it leaves the heap, and comes back when an attempt of its key ends, when its rate has a
place again, or when the limits are changed. So taking a row costs the same however many rows and keys are held back.

Nothing here awaits or reads a clock. Memory and journal keep their rows in it; the type of the rows is theirs.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Mapping
from heapq import heappop, heappush, heapreplace, merge
from itertools import count, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, final

from .fairness import FIRST_TAG, NO_KEY, RateWindow, cost_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from .._tasks.limits import Limits, Rate

R = TypeVar("R")

_NONE_GONE: Mapping[str, int] = MappingProxyType({})
_MOST_IDLE = 256
"""Groups and lines that are remembered at least; with more of them, those that say nothing are forgotten at times."""


@final
class QueueLimits:
    """The limits of a queue and of single keys in it, and the attempts that count for the rate of the queue."""

    __slots__ = ("of_keys", "of_queue", "window")

    def __init__(self) -> None:
        self.of_queue: Limits | None = None
        self.of_keys: dict[str, Limits] = {}
        self.window = RateWindow()

    def get(self, key: str | None) -> Limits | None:
        """Return the limits of the queue, or of a key that has some of its own."""
        return self.of_queue if key is None else self.of_keys.get(key)

    def set(self, limits: Limits | None, key: str | None) -> None:
        """Replace the limits of the queue, or of a key; None removes them."""
        if key is None:
            self.of_queue = limits
        elif limits is not None:
            self.of_keys[key] = limits
        else:
            self.of_keys.pop(key, None)

    def effective(self, key: str) -> Limits | None:
        """Return the limits by which a key goes: its own, or those of the queue."""
        return self.of_keys.get(key, self.of_queue)

    def limited(self) -> list[str | None]:
        """Return what has limits: each key with some of its own, and None if the queue has."""
        return [*([] if self.of_queue is None else [None]), *self.of_keys]

    def all(self) -> dict[str | None, Limits]:
        """Return the limits of the queue, under None, and then those of keys, in their order."""
        of_queue: dict[str | None, Limits] = {} if self.of_queue is None else {None: self.of_queue}
        return of_queue | {key: self.of_keys[key] for key in sorted(self.of_keys)}

    def rate(self, key: str | None) -> Rate | None:
        """Return the rate of the queue, or the one by which a key goes."""
        if key is None:
            return None if self.of_queue is None else self.of_queue.rate
        limits = self.effective(key)
        return None if limits is None else limits.rate_per_key

    @property
    def is_empty(self) -> bool:
        """True if there are no limits."""
        return self.of_queue is None and not self.of_keys

    @property
    def by_key(self) -> bool:
        """True if there are limits or weights of keys."""
        queue = self.of_queue
        return bool(self.of_keys) or (queue is not None and (queue.per_key or queue.rate_per_key) is not None)

    def free(self, running: int, now: float) -> float:
        """Return the number of attempts that may begin now in the whole queue, where so many run; 0 if none may."""
        limits, free = self.of_queue, math.inf
        if limits is not None:
            if limits.concurrency is not None:
                free = limits.concurrency - running
            if limits.rate is not None and free > 0:
                free = min(free, self.window.free(limits.rate, now))
        return max(0, free)

    def free_at(self) -> float:
        """Return the moment from which on the rate of the queue lets an attempt begin; ``-math.inf`` if it has none."""
        limits = self.of_queue
        return -math.inf if limits is None or limits.rate is None else self.window.free_at(limits.rate)

    def reached(self, running: int, now: float) -> LimitReached | None:
        """Return the limit of the queue that lets no attempt begin now; None if one may."""
        limits = self.of_queue
        if limits is None or self.free(running, now) > 0:
            return None
        if limits.concurrency is not None and running >= limits.concurrency:
            return LimitReached("concurrency", None, limits.concurrency, running)
        assert limits.rate is not None
        return LimitReached.of_rate(None, limits.rate, self.window, now)

    @property
    def has_rates(self) -> bool:
        """True if there is a rate, of the queue or of keys."""
        queue = self.of_queue
        if queue is not None and not (queue.rate is None and queue.rate_per_key is None):
            return True
        return any(each.rate_per_key is not None for each in self.of_keys.values())

    def begin(self, now: float, number: int = 1) -> None:
        """Count so many attempts that begin now."""
        if self.of_queue is not None and self.of_queue.rate is not None:
            self.window.begin(self.of_queue.rate, now, number)


class LimitReached(NamedTuple):
    """A limit that holds a row back, with what it is about."""

    field: str
    """The field of :class:`Limits`: ``"concurrency"``, ``"per_key"``, ``"rate"`` or ``"rate_per_key"``."""
    key: str | None
    """The key of the row, if the limit is one of keys."""
    limit: int
    """The number of attempts that are allowed."""
    number: int
    """The number of attempts that run, or have begun within the time of the rate."""
    per: float | None = None
    """The time of the rate, in seconds."""
    free_at: float | None = None
    """The moment from which on the rate lets the next attempt begin, by the clock of the store."""

    @classmethod
    def of_rate(cls, key: str | None, rate: Rate, window: RateWindow, now: float) -> LimitReached:
        """Return what the rate of a key, or of the queue, says now; it is reached if the number is not less than the
        limit.
        """
        field = "rate" if key is None else "rate_per_key"
        number = rate.n - window.free(rate, now)
        free_at = window.free_at(rate)
        return cls(field, key, rate.n, number, rate.per, free_at if free_at > now else None)


class _Entry(NamedTuple):
    """A row in its line. It counts as long as its group has this very entry under its id."""

    order: Any
    number: int
    id: Hashable
    row: Any
    line: _Line[Any]


@final
class _Line(Generic[R]):
    """The ready rows of a key with the same priority, and the tag of the first of them."""

    __slots__ = ("_in_order", "_others", "group", "level", "place", "tag")

    def __init__(self, group: _Group[R], level: _Level[R]) -> None:
        self.group = group
        self.level = level
        self.tag = FIRST_TAG
        self.place = 0  # the number of its entry in the heap of its level; 0 if it is not there
        self._in_order: deque[_Entry] = deque()
        self._others: list[_Entry] = []  # a heap of those that did not come in order

    def add(self, entry: _Entry) -> None:
        """Add a row."""
        if not self._in_order or self._in_order[-1] < entry:
            self._in_order.append(entry)
        else:
            heappush(self._others, entry)

    def first(self) -> _Entry | None:
        """Return the first row, after dropping those before it that are not in it any more; None if there is none."""
        in_order, others, waiting = self._in_order, self._others, self.group.waiting
        while others and waiting.get(others[0].id) is not others[0]:
            heappop(others)
        while in_order and waiting.get(in_order[0].id) is not in_order[0]:
            in_order.popleft()
        if others and (not in_order or others[0] < in_order[0]):
            return others[0]
        return in_order[0] if in_order else None

    def rows(self, *, newest_first: bool = False) -> Iterator[_Entry]:
        """Return all rows in order."""
        in_order = reversed(self._in_order) if newest_first else iter(self._in_order)
        others = sorted(self._others, reverse=newest_first)
        entries: Iterable[_Entry] = merge(in_order, others, reverse=newest_first)
        waiting = self.group.waiting
        return (entry for entry in entries if waiting.get(entry.id) is entry)


@final
class _Group(Generic[R]):
    """The rows of a key: those that are ready, and the number of those that run."""

    __slots__ = ("cost", "held", "key", "lines", "parked", "per_key", "rate", "running", "timer", "waiting", "window")

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: dict[Hashable, _Entry] = {}
        self.lines: dict[int, _Line[R]] = {}
        self.parked: list[_Line[R]] = []
        self.running = 0
        self.held = 0  # the number of waiting rows for which there is no place, as far as `per_key` says
        self.timer = math.inf  # the moment at which it is looked at again since its rate has a place
        self.window = RateWindow()
        self.per_key: int | None = None
        self.rate: Rate | None = None
        self.cost = 0

    def go_by(self, limits: Limits | None) -> None:
        """Go by these limits from now on."""
        of_key = None if self.key == NO_KEY else limits
        self.per_key, self.rate = (None, None) if of_key is None else (of_key.per_key, of_key.rate_per_key)
        self.cost = cost_of(1.0 if limits is None else limits.weight)

    def free(self, now: float) -> float:
        """Return the number of attempts that may begin now; 0 if none may."""
        free = math.inf if self.per_key is None else self.per_key - self.running
        if self.rate is not None and free > 0:
            free = min(free, self.window.free(self.rate, now))
        return max(0, free)

    def first(self, number: int, is_gone: Callable[[R], bool] | None = None) -> list[_Entry]:
        """Return the rows that go first, up to this number, without those that are to go no more."""
        in_turn = (self.lines[priority].rows() for priority in sorted(self.lines, reverse=True))
        entries = (entry for line in in_turn for entry in line)
        return [*islice((each for each in entries if is_gone is None or not is_gone(each.row)), number)]

    def says_nothing(self, now: float) -> bool:
        """Return True if it can be forgotten."""
        if self.waiting or self.running or self.lines:
            return False
        return self.rate is None or self.window.free(self.rate, now) >= self.rate.n


@final
class _Level(Generic[R]):
    """The lines of one priority: a heap of those whose turn may come, and the virtual time."""

    __slots__ = ("heap", "highest", "is_listed", "passed", "priority", "waiting")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.heap: list[tuple[int, int, _Line[R]]] = []  # the tag, a number, the line; with stale entries
        self.is_listed = False
        self.passed = self.highest = FIRST_TAG  # the virtual time, and the end of the last turn of all
        self.waiting = 0

    def remove_one(self) -> None:
        """Note that there is a row less. With none left, all turns are over, and nothing is owed to anybody."""
        self.waiting -= 1
        if not self.waiting:
            self.passed = self.highest


@final
class Groups(Generic[R]):
    """The ready rows of a queue, in the order in which keys take turns, and the limits of keys.

    Args:
      limits: the limits of the queue and of keys; after a change of them, call :meth:`apply_limits`.
    """

    __slots__ = (
        "_groups",
        "_held",
        "_levels",
        "_lines",
        "_look_at",
        "_now",
        "_number",
        "_priorities",
        "_rated",
        "_timers",
        "limits",
    )

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self._groups: dict[str, _Group[R]] = {}
        self._levels: dict[int, _Level[R]] = {}
        self._priorities: list[int] = []  # of the levels with lines in their heap, in ascending order
        self._number = count(1)
        self._rated: dict[str, _Group[R]] = {}  # the groups that have a rate
        self._timers: list[tuple[float, int, _Group[R]]] = []  # a heap of their timers, with stale entries
        self._held = 0  # the sum of the numbers of rows that are held, but for groups that have a rate
        self._lines = 0
        self._now = -math.inf  # the latest time that was told
        self._look_at = _MOST_IDLE

    # Rows come and go

    def add(self, id: Hashable, row: R, key: str, priority: int, order: Any) -> None:
        """Add a row that is ready; nothing if one of this id is there.

        Args:
          id: the identity of the row.
          row: what :meth:`pop` is to return.
          key: the key; :data:`NO_KEY` for a row without one.
          priority: rows with a higher one go first.
          order: its place among the rows of the same key and priority; all of them must be comparable.
        """
        group = self._groups.get(key) or self._group(key)
        if id in group.waiting:
            return
        line = group.lines.get(priority) or self._line(group, priority)
        entry = group.waiting[id] = _Entry(order, next(self._number), id, row, line)
        line.add(entry)
        line.level.waiting += 1
        if not line.place and line not in group.parked:
            self._queue(line)
        if group.per_key is not None:
            self._count_held(group)

    def discard(self, id: Hashable, key: str) -> bool:
        """Remove a row that is ready no more; return False if it is not here."""
        group = self._groups.get(key)
        entry = None if group is None else group.waiting.pop(id, None)
        if group is None or entry is None:
            return False
        entry.line.level.remove_one()
        if entry.line.place and entry.line.first() is None:
            entry.line.place = 0
        if group.per_key is not None:
            self._count_held(group)
        return True

    def pop(self, now: float) -> R | None:
        """Remove and return the row whose turn it is, which counts as running from now on; None if there is none."""
        self.wake(now)
        while self._priorities:
            level = self._levels[self._priorities[-1]]
            while (line := self._first_line(level)) is not None:
                group = line.group
                if (group.per_key is not None or group.rate is not None) and group.free(now) <= 0:
                    self._park(line)
                    continue
                return self._take(line, now)
            level.is_listed = False
            self._priorities.pop()
        return None

    def _first_line(self, level: _Level[R]) -> _Line[R] | None:
        """Return the line whose turn it is, after dropping empty ones."""
        heap = level.heap
        while heap:
            _, number, line = heap[0]
            if line.place == number:
                if line.first() is not None:
                    return line
                line.place = 0
            heappop(heap)
        return None

    def _take(self, line: _Line[R], now: float) -> R:
        """Take the first row of the line that is first in its level, and put the line behind by one turn."""
        group, level, entry = line.group, line.level, line.first()
        assert entry is not None
        row: R = entry.row
        del group.waiting[entry.id]
        group.running += 1
        if group.rate is not None:
            group.window.begin(group.rate, now)
        level.passed = max(level.passed, line.tag)
        line.tag += group.cost
        level.highest = max(level.highest, line.tag)
        if line.first() is None:
            line.place = 0
            heappop(level.heap)
            if not level.heap:
                level.is_listed = False
                self._priorities.pop()
        else:
            line.place = next(self._number)
            heapreplace(level.heap, (line.tag, line.place, line))
        level.remove_one()
        if group.per_key is not None:
            self._count_held(group)
        return row

    def begin(self, key: str, number: int = 1) -> None:
        """Count attempts of a key that began elsewhere, such as before a restart, and run."""
        group = self._groups.get(key) or self._group(key)
        group.running += number
        if group.per_key is not None:
            self._count_held(group)

    def end(self, key: str) -> None:
        """Note that an attempt of a key is over, or has lost its lease."""
        group = self._groups.get(key)
        if group is None or not group.running:
            return
        group.running -= 1
        if group.parked:
            self._unpark(group)
        if group.per_key is not None:
            self._count_held(group)

    def put_back(self, id: Hashable, row: R, key: str, priority: int, order: Any, *, begun: bool = True) -> None:
        """Add a row again that was taken, and end its attempt. Its key is given the turn back.

        Args:
          id: the identity of the row, and so on; see :meth:`add`.
          begun: False if its attempt has not begun, so that it does not count for the rate.
        """
        self.end(key)
        self.give_turn_back(key, priority, begun=begun)
        self.add(id, row, key, priority, order)

    def give_turn_back(self, key: str, priority: int, *, begun: bool = True) -> None:
        """Let a key have one turn more, since a row of it that was taken is to be added again; see :meth:`put_back`."""
        group = self._groups.get(key) or self._group(key)
        line = group.lines.get(priority) or self._line(group, priority)
        if not begun and group.rate is not None:
            group.window.take_back()
        line.tag = max(line.tag, line.level.passed) - group.cost
        self._queue(line, again=True)

    # Lines and groups

    def _group(self, key: str) -> _Group[R]:
        group = self._groups[key] = _Group(key)
        self._apply(group)
        if len(self._groups) + self._lines > self._look_at:
            self._forget_idle(group)
        return group

    def _line(self, group: _Group[R], priority: int) -> _Line[R]:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level(priority)
        line = group.lines[priority] = _Line(group, level)
        self._lines += 1
        if len(self._groups) + self._lines > self._look_at:
            self._forget_idle(group)
        return line

    def _queue(self, line: _Line[R], *, again: bool = False) -> None:
        """Put a line into the heap of its level; ``again``: in another place, with the tag that it has now."""
        level = line.level
        if not again:
            line.tag = max(line.tag, level.passed)
        line.place = next(self._number)
        heappush(level.heap, (line.tag, line.place, line))
        if not level.is_listed:
            level.is_listed = True
            insort(self._priorities, level.priority)

    def _park(self, line: _Line[R]) -> None:
        """Take the line that is first in its level out of the heap, until its key may go on."""
        group = line.group
        heappop(line.level.heap)
        line.place = 0
        group.parked.append(line)
        if group.rate is not None and (group.per_key is None or group.running < group.per_key):
            group.timer = group.window.free_at(group.rate)
            heappush(self._timers, (group.timer, next(self._number), group))

    def _unpark(self, group: _Group[R]) -> None:
        lines, group.parked = group.parked, []
        group.timer = math.inf
        for line in lines:
            self._queue(line)

    def _forget_idle(self, used: _Group[R]) -> None:
        """Forget groups, lines and levels that say nothing, but for one that is in use."""
        for group in [*self._groups.values()]:
            if group is used:
                continue
            for priority, line in [*group.lines.items()]:
                if line.tag <= line.level.passed and line.first() is None:
                    del group.lines[priority]
                    self._lines -= 1
                    line.place = 0
            group.parked = [line for line in group.parked if line.level.priority in group.lines]
            if group.says_nothing(self._now):
                del self._groups[group.key]
                self._rated.pop(group.key, None)
        used_levels = {line.level.priority for group in self._groups.values() for line in group.lines.values()}
        for priority in self._levels.keys() - used_levels - set(self._priorities):
            del self._levels[priority]
        self._look_at = max(_MOST_IDLE, 2 * (len(self._groups) + self._lines))

    # Time and limits

    @property
    def next_wake(self) -> float:
        """The moment at which the rate of a key lets go on a line that is parked; ``math.inf`` if none is."""
        while self._timers and self._timers[0][2].timer != self._timers[0][0]:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else math.inf

    def wake(self, now: float) -> None:
        """Let lines go on whose rate has a place by now."""
        self._now = now
        while self._timers and self.next_wake <= now:
            group = heappop(self._timers)[2]
            self._unpark(group)

    def apply_limits(self, key: str | None) -> None:
        """Go by the limits as they are now, after those of the queue, or of a key, were changed."""
        groups = [*self._groups.values()] if key is None else [*filter(None, [self._groups.get(key)])]
        for group in groups:
            self._apply(group)
            if group.parked:
                self._unpark(group)

    def _apply(self, group: _Group[R]) -> None:
        before = group.cost
        group.go_by(self.limits.effective(group.key))
        if before and group.cost != before:
            for line in group.lines.values():
                self._scale(line, before)
        if group.rate is not None:
            self._rated[group.key] = group
        else:
            self._rated.pop(group.key, None)
        self._count_held(group)

    def _scale(self, line: _Line[R], before: int) -> None:
        """Let the rest of the turn of a line be as long as the weight of its key says now."""
        passed = line.level.passed
        if line.tag > passed:
            line.tag = passed + max(1, (line.tag - passed) * line.group.cost // before)
            if line.place:
                self._queue(line, again=True)

    def _count_held(self, group: _Group[R]) -> None:
        """Count again the rows of a group for which there is no place."""
        held = 0
        if group.per_key is not None and group.rate is None:
            held = max(0, len(group.waiting) - max(0, group.per_key - group.running))
        self._held += held - group.held
        group.held = held

    def restart_clock(self) -> None:
        """Forget the attempts that count for rates, since the times of another clock follow."""
        self.limits.window = RateWindow()
        for group in self._groups.values():
            group.window = RateWindow()
        self.apply_limits(None)

    def window(self, key: str) -> RateWindow | None:
        """Return the attempts of a key that count for its rate; None if there are none."""
        group = self._groups.get(key)
        return None if group is None or group.window.is_empty else group.window

    def load_window(self, key: str, window: RateWindow) -> None:
        """Set the attempts of a key that count for its rate."""
        (self._groups.get(key) or self._group(key)).window = window

    def windows(self, now: float) -> Iterator[tuple[str, RateWindow]]:
        """Return each key that has a rate, and the attempts that count for it, if there are some."""
        for key, group in self._rated.items():
            if group.rate is not None and group.window.free(group.rate, now) < group.rate.n:
                yield key, group.window

    # Looking

    def __len__(self) -> int:
        """The number of rows."""
        return sum(level.waiting for level in self._levels.values())

    def has_ready(self, key: str, priority: int) -> bool:
        """Return True if a row of this key and priority is here."""
        line = None if (group := self._groups.get(key)) is None else group.lines.get(priority)
        return line is not None and line.first() is not None

    def running(self, key: str) -> int:
        """Return the number of attempts of a key that run."""
        group = self._groups.get(key)
        return 0 if group is None else group.running

    def held_now(self, now: float, gone: Mapping[str, int] = _NONE_GONE) -> int:
        """Return the number of rows that are held back by the limits of their keys.

        Args:
          gone: by key, the number of rows that are here, and are to go no more.
        """
        rated = (len(group.waiting) - group.free(now) for group in self._rated.values())
        held = self._held + sum(int(number) for number in rated if number > 0)
        for key, number in gone.items():
            excess = 0.0 if (group := self._groups.get(key)) is None else len(group.waiting) - group.free(now)
            held -= int(max(0.0, excess) - max(0.0, excess - number))
        return held

    def held_test(self, now: float, is_gone: Callable[[R], bool] | None = None) -> Callable[[Hashable, str], bool]:
        """Return a function of the id of a row and its key: True if a limit of its key holds it back now.

        Args:
          is_gone: a function that returns True for rows that are here, and are to go no more.
        """
        admitted: dict[str, set[Hashable] | None] = {}  # the ids of rows for which there is a place; None: all

        def is_held(id: Hashable, key: str) -> bool:
            if key not in admitted:
                group = self._groups.get(key)
                free = math.inf if group is None else group.free(now)
                all_go = group is None or free >= len(group.waiting)
                admitted[key] = (
                    None if all_go or group is None else {each.id for each in group.first(int(free), is_gone)}
                )
            ids = admitted[key]
            group = self._groups.get(key)
            return ids is not None and group is not None and id in group.waiting and id not in ids

        return is_held

    def limit_of(self, key: str, now: float) -> LimitReached | None:
        """Return the limit of a key that lets no row of it begin now, or the one that lets fewer begin; None if it has
        none.
        """
        group = self._groups.get(key)
        if group is None or (group.per_key is None and group.rate is None):
            return None
        free = math.inf if group.rate is None else group.window.free(group.rate, now)
        if group.per_key is not None and group.per_key - group.running <= free:
            return LimitReached("per_key", key, group.per_key, group.running)
        assert group.rate is not None
        return LimitReached.of_rate(key, group.rate, group.window, now)

    def rows(self, *, newest_first: bool = False) -> Iterator[R]:
        """Return all rows: those with a higher priority first, then by their order, whatever their keys."""
        for priority in sorted(self._levels, reverse=not newest_first):
            lines = (line for group in self._groups.values() if (line := group.lines.get(priority)) is not None)
            entries = merge(*(line.rows(newest_first=newest_first) for line in lines), reverse=newest_first)
            yield from (entry.row for entry in entries)

    def in_turn(self) -> Iterator[R]:
        """Return all rows in the order in which they would go if no limit held them back."""
        for priority in sorted(self._levels, reverse=True):
            lines = [line for group in self._groups.values() if (line := group.lines.get(priority)) is not None]
            yield from (row for _, _, row in merge(*map(_tagged, lines), key=lambda each: each[:2]))

    def firsts(self, now: float) -> Iterator[R]:
        """Return the row that goes first of each key and priority, of those that are not held back."""
        for group in self._groups.values():
            free = group.free(now)
            if free >= len(group.waiting):
                yield from (entry.row for line in group.lines.values() if (entry := line.first()) is not None)
            else:
                yield from (entry.row for entry in group.first(int(free)))


def _tagged(line: _Line[R]) -> Iterable[tuple[int, int, R]]:
    """Return the rows of a line with the tags that they would have if no other row came or went."""
    tag, cost = max(line.tag, line.level.passed) if not line.place else line.tag, line.group.cost
    return ((tag + number * cost, line.place, entry.row) for number, entry in enumerate(line.rows()))
