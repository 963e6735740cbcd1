"""A benchmark of pushing to SqliteStorage and FileStorage, and of running tasks from them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio_tasks import Worker

from .fresh import answer
from .load import no_op
from .stored import Engine, Synchronous, make, new_directory

if TYPE_CHECKING:
    from trio_tasks._backends.durable.storage import DurableStorage

Seconds = dict[str, float]


class Both:
    """Measures wall time and CPU time of a block: ``with Both() as both``."""

    def __enter__(self) -> Both:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self.seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def each(self, tasks: int) -> Seconds:
        """Return the figures for one task."""
        return {clock: seconds / tasks for clock, seconds in self.seconds.items()}


@asynccontextmanager
async def opened(engine: Engine, synchronous: Synchronous) -> AsyncGenerator[DurableStorage[Any], None]:
    with new_directory() as directory:
        async with make(directory, engine, synchronous) as storage:
            yield storage


async def push(engine: Engine, synchronous: Synchronous, tasks: int, concurrency: int) -> Seconds:
    """Push from several producers, each of which awaits each push."""

    async def produce(storage: DurableStorage[Any]) -> None:
        for n in range(tasks // concurrency):
            await storage.push(n)

    async with opened(engine, synchronous) as storage:
        await storage.push(0)
        with Both() as both:
            async with trio.open_nursery() as nursery:
                for _ in range(concurrency):
                    nursery.start_soon(produce, storage)
    return both.each(tasks // concurrency * concurrency)


async def bulk(engine: Engine, synchronous: Synchronous, tasks: int, concurrency: int) -> Seconds:
    """Push all in one call."""
    async with opened(engine, synchronous) as storage:
        await storage.push(0)
        with Both() as both:
            await storage.push_bulk(range(tasks))
    return both.each(tasks)


async def drain(engine: Engine, synchronous: Synchronous, tasks: int, concurrency: int) -> Seconds:
    """Run tasks that were pushed before, until none is left."""
    async with opened(engine, synchronous) as storage:
        await storage.push_bulk(range(tasks))
        storage.close()
        with Both() as both:
            report = await Worker("w", storage, no_op, concurrency=concurrency).run()
    assert report.succeeded == tasks, report
    return both.each(tasks)


KINDS = {"push": push, "bulk": bulk, "drain": drain}


def measure(kind: str, **terms: Any) -> Seconds:
    return trio.run(partial(KINDS[kind], **terms))


if __name__ == "__main__":
    answer(measure)
