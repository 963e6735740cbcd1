"""A channel, a limiter, a trio task and a scope for each item: sent one by one, then handled."""

from __future__ import annotations

import math

import trio

from ..by_hand import handle_all
from ..measuring import MICRO, CpuTime
from . import LOAD


async def measure() -> float:
    send, receive = trio.open_memory_channel[int](math.inf)
    with CpuTime() as cpu:
        for n in range(LOAD.tasks):
            await send.send(n)
        send.close()
        await handle_all(LOAD, receive)
    return cpu.seconds / LOAD.tasks


if __name__ == "__main__":
    print(min(trio.run(measure) for _ in range(3)) * MICRO)
