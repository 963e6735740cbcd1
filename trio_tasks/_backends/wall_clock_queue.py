"""The delayed tasks in memory that wait for a moment by the wall clock, which may be set."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar, final

from .._clock import is_wall_clock_replaced, microseconds_of, wall_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from .._tasks.task import Task

A = TypeVar("A")

WALL_CLOCK_INTERVAL = 1.0
"""Seconds between two looks at the wall clock, which may be set, while a task waits for a moment by it."""


@final
class WallClockQueue(Generic[A]):
    """The tasks that wait for their ``run_at`` by the wall clock. Each of them is in the queue of delayed tasks, too.

    Args:
      is_virtual: a function that returns True if the time of the ledger is on a clock that a test moves.
    """

    __slots__ = ("_is_virtual", "_tiebreak", "heap", "moments", "next_look")

    def __init__(self, is_virtual: Callable[[], bool]) -> None:
        self._is_virtual = is_virtual
        self._tiebreak = count()
        self.moments: dict[str, int] = {}
        """The ``run_at`` of each task by its id, in microseconds; the holder removes those that wait no more."""
        self.heap: list[tuple[int, int, Task[A]]] = []
        """The moment, a tiebreak, and the task, as a heap with stale entries: to be looked at, not to be changed."""
        self.next_look = math.inf
        """The time of the next look at the wall clock."""

    def append(self, task: Task[A], run_at: datetime, rest: float, now: float) -> None:
        """Compare the task's time with the wall clock from now on, unless only trio's clock is virtual.

        Args:
          task: the task.
          run_at: its moment.
          rest: seconds until then, as the wall clock is now.
          now: the time of the ledger.
        """
        if is_wall_clock_replaced() or not self._is_virtual():
            moment = self.moments[task.parts.id] = microseconds_of(run_at)
            heappush(self.heap, (moment, next(self._tiebreak), task))
            self.next_look = min(self.next_look, self._look_after(now, rest))

    def rest(self, task_id: str) -> float:
        """Return the seconds until the task is due by the wall clock; 0 or less if it is, or does not go by it."""
        moment = self.moments.get(task_id)
        return 0.0 if moment is None else (moment - microseconds_of(wall_now())) / 1e6

    def pop_due(self, now: float, is_delayed: Callable[[Task[A]], bool]) -> Iterator[Task[A]]:
        """Remove and return the tasks that are due by the wall clock, which may have been set forward.

        Args:
          now: the time of the ledger.
          is_delayed: a function that returns True if a task still waits for its time.
        """
        wall = microseconds_of(wall_now())
        while self.heap:
            moment, _, first = self.heap[0]
            is_valid = is_delayed(first)
            if is_valid and moment > wall:
                self.next_look = self._look_after(now, (moment - wall) / 1e6)
                return
            heappop(self.heap)
            if is_valid:
                yield first
        self.next_look = math.inf

    def _look_after(self, now: float, rest: float) -> float:
        """Return the time of the next look at the wall clock, ``rest`` seconds before a task is due by it. A virtual
        one is set by the test alone, so it need not be watched.
        """
        return later(now, rest if self._is_virtual() else min(rest, WALL_CLOCK_INTERVAL))


def later(now: float, seconds: float) -> float:
    """Return the time ``seconds`` from now, later than now even if they are too few for a float."""
    return max(now + seconds, math.nextafter(now, math.inf))
