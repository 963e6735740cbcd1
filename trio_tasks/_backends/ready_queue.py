"""The queues of ready and of delayed tasks in memory.

Neither of the two queues removes anything from its middle. A task that was cancelled stays in it as a stale entry,
which the caller skips when it is popped; so each operation costs the same with a million waiting tasks as with a few.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar, final

from .._contracts.fairness import NO_KEY
from .._contracts.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .._contracts.groups import LimitReached, QueueLimits
    from .._tasks.task import Parts, Task

A = TypeVar("A")


@final
class ReadyQueue(Generic[A]):
    """A queue of ready tasks: highest priority first; within one priority, first in, first out."""

    __slots__ = ("_first", "_last", "_levels", "_priorities")
    is_timed = False

    def __init__(self) -> None:
        self._levels: dict[int, deque[Task[A]]] = {}
        self._priorities: list[int] = []  # the priorities that have tasks, in ascending order
        self._first = self._last = 0  # the first and the last position given so far

    def _level(self, priority: int) -> deque[Task[A]]:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            insort(self._priorities, priority)
        return level

    def append(self, task: Task[A]) -> None:
        """Add a task behind all others of its priority."""
        priority = task.parts.terms.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._level(priority)
        self._last = task.parts.position = self._last + 1
        level.append(task)

    def append_front(self, task: Task[A]) -> None:
        """Add a task before all others of its priority, since it has waited already."""
        self._first = task.parts.position = self._first - 1
        self._level(task.parts.terms.priority).appendleft(task)

    def __iter__(self) -> Iterator[Task[A]]:
        """Iterate over all tasks, in order."""
        for priority in reversed(self._priorities):
            yield from self._levels[priority]

    def firsts(self, now: float, is_valid: Callable[[Task[A]], bool]) -> Iterator[Task[A]]:
        """Return the first task of each priority: what was released goes before all others, and has waited longest."""
        for level in self._levels.values():
            first = next(filter(is_valid, level), None)
            if first is not None:
                yield first

    def __reversed__(self) -> Iterator[Task[A]]:
        """Return all of them, the last one first."""
        for priority in self._priorities:
            yield from reversed(self._levels[priority])

    def pop(self, now: float) -> Task[A] | None:
        """Remove and return the next task; None if there is none."""
        if not self._priorities:
            return None
        priority = self._priorities[-1]
        level = self._levels[priority]
        task = level.popleft()
        if not level:
            self._priorities.pop()
            del self._levels[priority]
        return task


@final
class KeyedQueue(Generic[A]):
    """The ready tasks of a queue with keys or limits: as a :class:`ReadyQueue`, but that keys take turns within one
    priority, and that no task goes for which a limit leaves no place.

    Args:
      limits: the limits; after a change of them, call :meth:`apply_limits`.
      running: the running tasks.
      before: the tasks that are ready by now, in order.
    """

    __slots__ = ("_first", "_groups", "_last", "_limits", "_running", "_wake", "is_timed")

    def __init__(self, limits: QueueLimits, running: Mapping[str, Parts], before: Iterable[Task[A]]) -> None:
        self._limits = limits
        self._running = running
        self._groups: Groups[Task[A]] = Groups(limits)
        self._wake = math.inf  # the moment at which the rate of the queue lets go on
        self.is_timed = limits.has_rates
        """True if :meth:`pop` depends on the time, since there are rates."""
        self._first = self._last = 0
        for parts in running.values():
            self._groups.begin(parts.terms.key or NO_KEY)
        for task in before:
            self.append(task)

    @property
    def next_wake(self) -> float:
        """The moment from which on a rate lets a task go that is ready; ``math.inf`` if none waits for that."""
        return min(self._wake, self._groups.next_wake)

    def wake(self, now: float) -> None:
        """Note that this moment has come."""
        if self._wake <= now:
            self._wake = math.inf
        self._groups.wake(now)

    def _add(self, task: Task[A]) -> None:
        parts = task.parts
        self._groups.add(parts.id, task, parts.terms.key or NO_KEY, parts.terms.priority, parts.position)

    def append(self, task: Task[A]) -> None:
        """Add a task behind all others of its key and priority."""
        self._last = task.parts.position = self._last + 1
        self._add(task)

    def append_front(self, task: Task[A]) -> None:
        """Add a task before all others of its key and priority, which has waited already. Its attempt has ended."""
        self._first = task.parts.position = self._first - 1
        self._groups.give_turn_back(task.parts.terms.key or NO_KEY, task.parts.terms.priority)
        self._add(task)

    def discard(self, parts: Parts) -> None:
        """Remove a task, if it is there."""
        self._groups.discard(parts.id, parts.terms.key or NO_KEY)

    def end(self, parts: Parts) -> None:
        """Note that an attempt has ended."""
        self._groups.end(parts.terms.key or NO_KEY)

    def pop(self, now: float) -> Task[A] | None:
        """Remove and return the next task, which is to run now; None if there is none that may."""
        self._wake = math.inf
        if self._limits.free(len(self._running), now) <= 0:
            if len(self._groups) and (moment := self._limits.free_at()) > now:
                self._wake = moment
            self._groups.wake(now)  # or a moment that has come would stay the next one
            return None
        task = self._groups.pop(now)
        if task is not None:
            self._limits.begin(now)
        return task

    def apply_limits(self, key: str | None) -> None:
        """Go by the limits as they are now."""
        self._wake, self.is_timed = math.inf, self._limits.has_rates
        self._groups.apply_limits(key)

    def restart_clock(self) -> None:
        """Forget the attempts that count for rates, since the times of another clock follow."""
        self._wake = math.inf
        self._groups.restart_clock()

    # Looking

    def __iter__(self) -> Iterator[Task[A]]:
        """Iterate over all tasks, by priority and position."""
        return self._groups.rows()

    def __reversed__(self) -> Iterator[Task[A]]:
        """Return all of them, the last one first."""
        return self._groups.rows(newest_first=True)

    def firsts(self, now: float, is_valid: Callable[[Task[A]], bool]) -> Iterator[Task[A]]:
        """Return the task that goes first of each key and priority, of those that no limit of their key holds back."""
        return filter(is_valid, self._groups.firsts(now))

    def in_turn(self) -> Iterator[Task[A]]:
        """Return all tasks in the order in which they would go if no limit held them back."""
        return self._groups.in_turn()

    def held_now(self, now: float) -> int:
        """Return the number of tasks that the limits of their keys hold back."""
        return self._groups.held_now(now)

    def held_test(self, now: float) -> Callable[[Task[A]], bool]:
        """Return a function that returns True for a task that a limit of its key holds back."""
        is_held = self._groups.held_test(now)
        return lambda task: is_held(task.parts.id, task.parts.terms.key or NO_KEY)

    def limit_of(self, task: Task[A], now: float, seconds: float) -> LimitReached | None:
        """Return the limit that holds a ready task back, with times by a clock that is at ``seconds`` now; None if none
        does.
        """
        key = task.parts.terms.key or NO_KEY
        if self._groups.held_test(now)(task.parts.id, key):
            limit = self._groups.limit_of(key, now)
        else:
            limit = self._limits.reached(len(self._running), now)
        if limit is None or limit.free_at is None:
            return limit
        return limit._replace(free_at=limit.free_at - now + seconds)


@final
class DelayQueue(Generic[A]):
    """A queue of delayed tasks: earliest first; at the same time, first in, first out."""

    __slots__ = ("_tiebreak", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Task[A]]] = []
        """The moment, a tiebreak, and the task, as a heap: to be looked at, not to be changed."""
        self._tiebreak = count()

    def append(self, task: Task[A], due: float) -> None:
        """Hold the task until ``due``."""
        heappush(self.heap, (due, next(self._tiebreak), task))

    @property
    def next_due(self) -> float | None:
        """The time at which the first task is due; None if there is none."""
        return self.heap[0][0] if self.heap else None

    @property
    def first(self) -> Task[A] | None:
        """The task that is due first; None if there is none."""
        return self.heap[0][2] if self.heap else None

    def pop_first(self) -> Task[A]:
        """Remove and return the task that is due first, whether its time has come or not."""
        return heappop(self.heap)[2]


def first_moment(heap: list[tuple[float, str]], moments: Mapping[str, float]) -> float | None:
    """Return the first of these moments, by the id of a task; None if there is none.

    Args:
      heap: a heap of these moments with the ids, with stale entries, which are removed.
      moments: the moments.
    """
    if len(heap) > 64 + 2 * len(moments):  # most are stale
        heap[:] = [(moment, task_id) for task_id, moment in moments.items()]
        heapify(heap)
    while heap and moments.get(heap[0][1]) != heap[0][0]:
        heappop(heap)
    return heap[0][0] if heap else None
