"""A backend of one's own, checked by the conformance kit: it finds what was forgotten."""

from __future__ import annotations

import sys
from typing import Any

import trio
import trio.testing
from trio_tasks import (
    Attempt,
    Backend,
    DuplicateTaskError,
    LeaseLostError,
    Outcome,
    Released,
    Retried,
    Task,
    TaskId,
    TaskSink,
)
from trio_tasks.testing import check_backend

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class ListBackend(TaskSink[int], Backend[int]):
    """Tasks in a list. Delays, priorities and unique keys are not done yet."""

    def __init__(self) -> None:
        self._waiting: list[Task[int]] = []
        self._running: dict[str, Task[int]] = {}
        self._pushed = trio.Condition()

    async def push_task(self, task: Task[int]) -> TaskId:
        if not isinstance(task, Task):
            raise TypeError(f"push_task takes a Task, not {task!r}")
        async with self._pushed:
            if task.parts.id in self._running or any(each.parts.id == task.parts.id for each in self._waiting):
                raise DuplicateTaskError(f"the id {task.parts.id} is known already")
            self._waiting.append(task)
            self._pushed.notify()
        return task.parts.id

    async def receive(self) -> Task[int]:
        async with self._pushed:
            while not self._waiting:
                await self._pushed.wait()
            task = self._waiting.pop(0)
        task.parts.attempt = Attempt(task.parts.attempt + 1)
        self._running[task.parts.id] = task
        return task

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        if self._running.get(task.parts.id) is not task:
            raise LeaseLostError(f"task {task.parts.id} is not running")
        del self._running[task.parts.id]
        if isinstance(outcome, (Released, Retried)):
            again = task.parts.again(task.parts.attempt)  # a release must not count: forgotten
            self._waiting.append(Task(task.args, again))
        await trio.lowlevel.checkpoint()


async def main() -> None:
    rules = ["first_come_first_served", "released_comes_back_untouched", "settling_is_fenced"]
    try:
        await check_backend(ListBackend, only=rules)
    except ExceptionGroup as group:
        for broken in group.exceptions:
            print(broken)

    report = await check_backend(ListBackend, only=["first_come_first_served", "a_cancelled_receive_takes_nothing"])
    print(*report.passed)


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
