"""The unique keys of a queue in memory: the task that holds each of them, and for how long."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, final

from .._contracts.states import KeyChange, frees_key

if TYPE_CHECKING:
    from .._tasks.task import Parts
    from .._tasks.task_id import TaskId


@final
class UniqueKeys:
    """The unique keys that tasks hold, by the rules of the state table.

    A key that is held for a time is free when that is over, whatever has become of the task; it is dropped when another
    key is taken, or asked for.
    """

    __slots__ = ("_ends", "_heap", "_holders", "until_start")

    def __init__(self) -> None:
        self._holders: dict[str, TaskId] = {}
        self._ends: dict[str, float] = {}  # the times at which keys are free that are held for a time
        self._heap: list[tuple[float, str]] = []  # a heap of these times, with stale entries
        self.until_start: set[str] = set()
        """The ids of tasks that hold their key until they begin: to be looked at, not to be changed."""

    def holder(self, key: str, now: float) -> TaskId | None:
        """Return the id of the task that holds a key, be it finished or forgotten; None if the key is free."""
        if self._ends and self._ends.get(key, now + 1) <= now:
            self._drop(key)
        return self._holders.get(key)

    def take(self, parts: Parts, now: float) -> None:
        """Give a task its key, from now on; another one may have held it."""
        terms = parts.terms
        key = terms.unique
        assert key is not None
        self._holders[key] = parts.id
        self.until_start.discard(parts.id)
        if terms.unique_for is not None:
            self._drop_free(now)
            self._ends[key] = now + terms.unique_for
            heappush(self._heap, (now + terms.unique_for, key))
            return
        if self._ends:
            self._ends.pop(key, None)
        if terms.unique_until == "start":
            self.until_start.add(parts.id)

    def note(self, parts: Parts, change: KeyChange) -> None:
        """Free the key of a task, if it holds one that this change frees."""
        terms = parts.terms
        if terms.unique is None or self._holders.get(terms.unique) != parts.id:
            return
        if frees_key(change, terms.unique_until if terms.unique_for is None else None):
            del self._holders[terms.unique]
            self.until_start.discard(parts.id)

    def _drop_free(self, now: float) -> None:
        """Drop all keys whose time is over."""
        heap, ends = self._heap, self._ends
        if len(heap) > 64 + 2 * len(ends):  # most were taken again before their time was over
            heap[:] = [(end, key) for key, end in ends.items()]
            heapify(heap)
        while heap and heap[0][0] <= now:
            end, key = heappop(heap)
            if ends.get(key) == end:
                self._drop(key)

    def _drop(self, key: str) -> None:
        del self._ends[key], self._holders[key]

    def __bool__(self) -> bool:
        return bool(self._holders)
