"""The queues of ready and of delayed tasks in memory.

Neither of the two queues removes anything from its middle. A task that was cancelled stays in it as a stale entry,
which the caller skips when it is popped; so each operation costs the same with a million waiting tasks as with a few.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._tasks.task import Task

A = TypeVar("A")


@final
class ReadyQueue(Generic[A]):
    """A queue of ready tasks: highest priority first; within one priority, first in, first out."""

    __slots__ = ("_first", "_last", "_levels", "_priorities")

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

    def levels(self) -> Iterable[deque[Task[A]]]:
        """The tasks of each priority, in order; to be looked at, not to be changed."""
        return self._levels.values()

    def __reversed__(self) -> Iterator[Task[A]]:
        """Return all of them, the last one first."""
        for priority in self._priorities:
            yield from reversed(self._levels[priority])

    def pop(self) -> Task[A] | None:
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
