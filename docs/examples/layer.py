"""Two layers of one's own: a function, and an object that can also hold intake back."""

from __future__ import annotations

from typing import TypeVar

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Task, Worker
from trio_tasks.abc import Handler

A = TypeVar("A")
R = TypeVar("R")


async def timed(handler: Handler[A, R], task: Task[A]) -> R:
    """Say how long the attempt took, however it ended."""
    began = trio.current_time()
    try:
        return await handler(task)
    finally:
        print(f"task {task.args} took {trio.current_time() - began:.0f} s")


class Maintenance:
    """Have no attempt begin while maintenance goes on. The tasks stay in the backend."""

    def __init__(self) -> None:
        self._over = trio.Event()

    def end(self) -> None:
        self._over.set()

    async def ready(self) -> None:  # a worker waits for this before it receives
        await self._over.wait()

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        return await handler(task)


async def work(seconds: int) -> None:
    await trio.sleep(seconds)


async def main() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2])
    storage.close()
    maintenance = Maintenance()
    worker = Worker("worker", storage, work, concurrency=1, layers=[maintenance, timed])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(3600)
        print("after an hour:", storage.statistics().waiting, "waiting")
        maintenance.end()


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
