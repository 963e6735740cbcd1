"""Calls that wait for results. Each is registered under the ids of its tasks, and told which may be finished."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, final

import trio

from .._tasks.outcome import TaskResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Self

    from .._tasks.outcome import Ending
    from .._tasks.task_id import TaskId


@final
class ResultWait:
    """A call that waits for the results of some tasks. It is registered from the beginning of its block to the end.

    Args:
      waits: the register.
      ids: the ids of the tasks.
    """

    __slots__ = ("_event", "_expiring", "_news", "_waits", "ids", "pending", "results", "unknown")

    def __init__(self, waits: ResultWaits, ids: Iterable[str]) -> None:
        self._waits = waits
        self.ids = tuple(dict.fromkeys(ids))
        self.pending = dict.fromkeys(self.ids)
        """The tasks that have no result yet."""
        self.results: dict[str, TaskResult[Any]] = {}
        self.unknown: list[str] = []
        """The tasks that are not known, or not any more."""
        self._news = dict.fromkeys(self.ids)
        self._event = trio.Event()
        self._expiring: list[tuple[float, str]] = []

    def __enter__(self) -> Self:
        self._waits.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waits.remove(self)

    def note(self, task_id: str) -> None:
        """Note that this task may be finished."""
        if task_id in self.pending:
            self._news[task_id] = None
            self._event.set()

    def note_all(self) -> None:
        """Note that each task may be finished, or that the storage has failed."""
        self._news.update(self.pending)
        self._event.set()

    def wake_up(self) -> None:
        """Wake the trio task that waits."""
        self._event.set()

    def end(self, task_id: str, result: TaskResult[Any] | None) -> None:
        """Note the result of a task; None if the task is not known any more."""
        if task_id in self.pending:
            del self.pending[task_id]
            if result is None:
                self.unknown.append(task_id)
            else:
                self.results[task_id] = result

    def expires_at(self, task_id: str, moment: float | None) -> None:
        """Note when an unfinished task is killed, unless it is begun before; None: never."""
        if moment is not None:
            heappush(self._expiring, (moment, task_id))

    @property
    def has_news(self) -> bool:
        """True if there is something to look at since :meth:`take_news`."""
        return self._event.is_set()

    def take_news(self) -> list[str]:
        """Return the tasks that may be finished since the last call; the first call returns all."""
        news = [task_id for task_id in self._news if task_id in self.pending]
        self._news.clear()
        self._event = trio.Event()
        return news

    async def wait(self, now: float) -> None:
        """Wait until a task may be finished.

        Args:
          now: the time, by the clock of :meth:`expires_at`.
        """
        while self._expiring and self._expiring[0][1] not in self.pending:
            heappop(self._expiring)
        if not self._expiring:
            await self._event.wait()
            return
        # At least a millisecond, since trio's clock may be ahead of that one.
        with trio.move_on_after(max(0.001, self._expiring[0][0] - now)):
            await self._event.wait()
            return
        self._news[heappop(self._expiring)[1]] = None


@final
class ResultWaits:
    """The calls that wait for results, by the ids of the tasks."""

    __slots__ = ("by_id",)

    def __init__(self) -> None:
        self.by_id: dict[str, list[ResultWait]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_id)

    def of(self, task_id: str) -> Sequence[ResultWait]:
        """Return the calls that wait for this task."""
        return self.by_id.get(task_id, ())

    def note(self, task_id: str) -> None:
        """Tell all calls that wait for this task that it may be finished."""
        for wait in self.of(task_id):
            wait.note(task_id)

    def announce(self, task_id: TaskId, outcome: Ending | None) -> None:
        """Tell all calls that wait for this task its result; with None, it was discarded."""
        if (waits := self.by_id.get(task_id)) is not None:
            result = None if outcome is None else TaskResult.of(task_id, outcome)
            for wait in waits:
                wait.end(task_id, result)
                wait.wake_up()

    def note_all(self) -> None:
        """Tell all calls to look again."""
        for wait in {id(each): each for waits in self.by_id.values() for each in waits}.values():
            wait.note_all()

    def add(self, wait: ResultWait) -> None:
        """Register a call."""
        for task_id in wait.ids:
            self.by_id.setdefault(task_id, []).append(wait)

    def remove(self, wait: ResultWait) -> None:
        """Forget a call."""
        for task_id in wait.ids:
            waits = self.by_id[task_id]
            waits.remove(wait)
            if not waits:
                del self.by_id[task_id]
