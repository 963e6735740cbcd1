"""A benchmark of the time from a push to the start of the task on an idle worker. This is wall time, so a busy machine
shows in the p99.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from statistics import quantiles

import trio
from trio_tasks import MemoryStorage, Worker

from .by_hand import handle_all
from .load import Load
from .measuring import MICRO

SAMPLES = 500
ROUNDS = 4
REST = 0.001  # seconds between two pushes, so that the run loop goes to sleep


def show() -> None:
    print("µs from push to start, one task at a time, everybody asleep before")
    print(f"  {'':20}{'p50':>8}{'p99':>8}")
    sides = {"ours": _ours, "by hand": _by_hand}
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            trio.run(side, samples[name])
    for name, found in samples.items():
        percentiles = quantiles(found, n=100)
        print(f"  {name:20}{percentiles[49] * MICRO:8.1f}{percentiles[98] * MICRO:8.1f}")


async def _ours(samples: list[float]) -> None:
    async def note(pushed: int) -> None:
        samples.append((time.perf_counter_ns() - pushed) / 1e9)

    storage = MemoryStorage[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("notes", storage, note).run)
        await _push_now_and_then(storage.push)
        storage.close()


async def _by_hand(samples: list[float]) -> None:
    async def note(pushed: int) -> None:
        samples.append((time.perf_counter_ns() - pushed) / 1e9)

    send, receive = trio.open_memory_channel[int](math.inf)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle_all, Load(SAMPLES, 8, note), receive)
        await _push_now_and_then(send.send)
        send.close()


async def _push_now_and_then(push: Callable[[int], Awaitable[object]]) -> None:
    for _ in range(SAMPLES):
        await trio.sleep(REST)
        await push(time.perf_counter_ns())
