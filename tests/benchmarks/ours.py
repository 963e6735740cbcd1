"""The same work done by trio_tasks."""

from __future__ import annotations

import trio
from trio_tasks import MemoryStorage, TaskOptions, Worker, WorkerContext
from trio_tasks.abc import Event

from .load import Load
from .measuring import CpuTime


def ignore(context: WorkerContext, event: Event) -> None:
    """A listener that does nothing."""


async def ours(load: Load) -> float:
    """Return CPU seconds for each task."""
    storage = MemoryStorage[int]()
    options: TaskOptions = {} if load.timeout is None else {"timeout": load.timeout}
    listeners = [ignore] if load.listener else []
    worker = Worker("numbers", storage, load.handler, concurrency=load.concurrency, on_event=listeners)
    if load.trickles:
        with CpuTime() as cpu:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run)
                for n in range(load.tasks):
                    await storage.push(n, **options)
                storage.close()
    else:
        await storage.push_bulk(range(load.tasks), **options)
        storage.close()
        with CpuTime() as cpu:
            await worker.run()
    assert storage.statistics().succeeded == load.tasks
    return cpu.seconds / load.tasks
