"""taskiq's broker in memory.

It makes an asyncio task of each message as it comes and does not bound them, so they are kicked 100 at a time.
"""

from __future__ import annotations

import asyncio

from taskiq import InMemoryBroker

from ..load import no_op
from ..measuring import MICRO, CpuTime
from . import LOAD


async def measure() -> float:
    broker = InMemoryBroker(max_async_tasks=LOAD.concurrency)
    task = broker.task(no_op)
    await broker.startup()
    with CpuTime() as cpu:
        for first in range(0, LOAD.tasks, LOAD.concurrency):
            for n in range(first, first + LOAD.concurrency):
                await task.kiq(n)
            await broker.wait_all()
    await broker.shutdown()
    return cpu.seconds / LOAD.tasks


if __name__ == "__main__":
    print(min(asyncio.run(measure()) for _ in range(3)) * MICRO)
