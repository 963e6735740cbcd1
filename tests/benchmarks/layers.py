"""A benchmark of what each layer costs a task that has nothing to wait for, compared with a worker without layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from trio_tasks import MemoryStorage, Worker
from trio_tasks.layers import CircuitBreaker, ConcurrencyLimit, Log, LongRunning, RateLimit

from .fresh import size
from .load import no_op
from .measuring import MICRO, CpuTime, in_turns, verdict

TASKS = 10_000
ROUNDS = 7
CONCURRENCY = 10
NONE = "no layer"

LAYERS: dict[str, tuple[Callable[[], Any], float]] = {
    "ConcurrencyLimit": (partial(ConcurrencyLimit, 1000), 8.0),
    "RateLimit": (partial(RateLimit, 10**6, per=1.0), 8.0),
    "CircuitBreaker": (CircuitBreaker, 8.0),
    "Log, at no level": (Log, 4.0),
    "LongRunning": (partial(LongRunning, 60.0), 4.0),
}
"""Each layer, with the most microseconds for each task that it may cost."""


def show() -> None:
    print(f"CPU for each task in µs over that of a worker without layers, memory, {CONCURRENCY} slots")
    print(f"  {'':20}{'in all':>9}{'over none':>11}{'ratio':>7}")
    tasks = size(TASKS, 500)
    sides = {NONE: partial(trio.run, _drain, tasks, None)}
    sides |= {name: partial(trio.run, _drain, tasks, make) for name, (make, _) in LAYERS.items()}
    cpu = in_turns(sides, rounds=ROUNDS)
    for name, seconds in cpu.items():
        over = (seconds - cpu[NONE]) * MICRO
        word = "" if name == NONE else verdict(over, LAYERS[name][1])
        print(f"  {name:20}{seconds * MICRO:9.2f}{over:11.2f}{seconds / cpu[NONE]:6.2f}x  {word}", flush=True)


async def _drain(tasks: int, make: Callable[[], Any] | None) -> float:
    """Return CPU seconds for each task."""
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(tasks))
    storage.close()
    layers = [] if make is None else [make()]
    worker = Worker("bench", storage, no_op, concurrency=CONCURRENCY, layers=layers)
    with CpuTime() as cpu:
        await worker.run()
    assert storage.statistics().succeeded == tasks
    return cpu.seconds / tasks
