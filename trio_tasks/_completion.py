"""Waiting for a task to be finished: who waits is told in the very moment in which the books say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio

from ._lending import Loan
from ._outcome import TaskResult
from ._printing import escaped

if TYPE_CHECKING:
    from ._outcome import Ending
    from ._task_id import TaskId


@final
class Completion:
    """Those who wait for tasks to be finished; :meth:`announce` is what a ledger calls."""

    __slots__ = ("_awaited",)

    def __init__(self) -> None:
        self._awaited: dict[str, _Awaited] = {}

    def announce(self, task_id: TaskId, outcome: Ending) -> None:
        """This task is finished."""
        awaited = self._awaited.pop(task_id, None)
        if awaited is not None:
            awaited.result = TaskResult.of(task_id, outcome)
            awaited.finished.set()

    async def wait_for(self, task_id: str) -> TaskResult[Any]:
        """How a task ends that is not finished yet. If it is cancelled, nothing else is."""
        awaited = self._awaited.setdefault(task_id, _Awaited())
        with Loan(task_id, f"task {escaped(task_id)}") as loan:
            loan.begin()
            await awaited.finished.wait()
        assert awaited.result is not None
        return awaited.result


@final
class _Awaited:
    """A task that somebody waits for."""

    __slots__ = ("finished", "result")

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.result: TaskResult[Any] | None = None
