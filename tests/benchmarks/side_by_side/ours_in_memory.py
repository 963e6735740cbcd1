"""trio_tasks: pushed one by one, then run."""

from __future__ import annotations

import trio
from trio_tasks import MemoryStorage, Worker

from ..measuring import MICRO, CpuTime
from . import LOAD


async def measure() -> float:
    storage = MemoryStorage[int]()
    worker = Worker("numbers", storage, LOAD.handler, concurrency=LOAD.concurrency)
    with CpuTime() as cpu:
        for n in range(LOAD.tasks):
            await storage.push(n)
        storage.close()
        await worker.run()
    return cpu.seconds / LOAD.tasks


if __name__ == "__main__":
    print(min(trio.run(measure) for _ in range(3)) * MICRO)
