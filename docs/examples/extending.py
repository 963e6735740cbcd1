"""A worker as a team likes it: one function that adds a layer, a listener and an event of its own to any worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trio
from trio.testing import MockClock
from trio_tasks import Custom, Event, MemoryStorage, Success, Task, Worker, WorkerContext
from trio_tasks.abc import Backend, Handler
from trio_tasks.layers import Timeout

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Slow:
    """An event of our own: an attempt took longer than it should."""

    seconds: float


class Budget:
    """A layer that tells the worker's listeners of each attempt that takes longer than its budget."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        began = trio.current_time()
        try:
            return await handler(task)
        finally:
            if (seconds := trio.current_time() - began) > self.seconds:
                WorkerContext.of(task).emit(Custom(Slow(seconds)))


class Totals:
    """A listener that counts, for whatever exports numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, context: WorkerContext, event: Event) -> None:
        if isinstance(event, Success):
            self.counts[f"{context.name} succeeded"] += 1
        elif isinstance(event, Custom) and isinstance(event.value, Slow):
            self.counts[f"{context.name} slow"] += 1


def our_worker(name: str, backend: Backend[A], handler: Callable[[A], Any], totals: Totals) -> Worker[A, Any]:
    """A worker with what each of ours should have."""
    return Worker(name, backend, handler, layers=[Timeout(60), Budget(5)], on_event=totals)


async def work(seconds: int) -> None:
    await trio.sleep(seconds)


async def main() -> None:
    totals = Totals()
    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2, 30])
    storage.close()
    await our_worker("jobs", storage, work, totals).run()
    print(dict(totals.counts))


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
