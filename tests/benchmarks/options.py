"""A benchmark of what the options of a push cost, compared with a push without any."""

from __future__ import annotations

from functools import partial

import trio
from trio_tasks import MemoryStorage, TaskOptions

from .fresh import size
from .measuring import MICRO, CpuTime, in_turns, verdict

PUSHES = 10_000
ROUNDS = 7
NONE = "no option"
TARGET = 1.5
"""The most microseconds that each option may cost."""

OPTIONS: dict[str, TaskOptions] = {
    NONE: {},
    "attempts": {"attempts": 3},
    "timeout": {"timeout": 30.0},
    "metadata": {"metadata": {"tenant": "acme"}},
    "three of them": {"attempts": 3, "timeout": 30.0, "metadata": {"tenant": "acme"}},
}


def show() -> None:
    pushes = size(PUSHES, 500)
    for title, measure in {"one by one": _push, "in bulk": _push_bulk}.items():
        print(f"CPU for each push in µs over that of one without options, memory, {title}")
        print(f"  {'':20}{'in all':>9}{'over none':>11}{'ratio':>7}")
        cpu = in_turns(
            {name: partial(trio.run, measure, pushes, each) for name, each in OPTIONS.items()}, rounds=ROUNDS
        )
        for name, seconds in cpu.items():
            over = (seconds - cpu[NONE]) * MICRO
            word = "" if name == NONE else verdict(over, TARGET * len(OPTIONS[name]))
            print(f"  {name:20}{seconds * MICRO:9.2f}{over:11.2f}{seconds / cpu[NONE]:6.2f}x  {word}", flush=True)


async def _push(pushes: int, options: TaskOptions) -> float:
    """Return CPU seconds for each push."""
    storage = MemoryStorage[int]()
    with CpuTime() as cpu:
        for n in range(pushes):
            storage.push_nowait(n, **options)
    return cpu.seconds / pushes


async def _push_bulk(pushes: int, options: TaskOptions) -> float:
    """Return CPU seconds for each push."""
    storage = MemoryStorage[int]()
    with CpuTime() as cpu:
        await storage.push_bulk(range(pushes), **options)
    return cpu.seconds / pushes
