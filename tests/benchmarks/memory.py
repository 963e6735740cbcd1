"""A benchmark of the memory that a waiting task takes."""

from __future__ import annotations

import gc
import math
import tracemalloc

import trio
from trio_tasks import MemoryStorage

TASKS = 100_000


def show() -> None:
    print("bytes for each waiting task whose args are a small int")
    print(f"  {'MemoryStorage':20}{trio.run(_weigh_storage):8.0f}")
    print(f"  {'a trio channel':20}{trio.run(_weigh_channel):8.0f}")


async def _weigh_storage() -> float:
    storage = MemoryStorage[int]()
    before = _begin()
    await storage.push_bulk(0 for _ in range(TASKS))
    return _bytes_since(before)


async def _weigh_channel() -> float:
    send, _receive = trio.open_memory_channel[int](math.inf)
    before = _begin()
    for _ in range(TASKS):
        send.send_nowait(0)
    return _bytes_since(before)


def _begin() -> int:
    gc.collect()
    tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


def _bytes_since(before: int) -> float:
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / TASKS
