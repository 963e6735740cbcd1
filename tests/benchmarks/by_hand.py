"""The baseline: the same work written by hand with trio: a memory channel, a limiter, a trio task and a scope for each
item.
"""

from __future__ import annotations

import logging
import math

import trio

from .load import Load
from .measuring import CpuTime

log = logging.getLogger(__name__)


def ignore(event: str, n: int) -> None:
    """A listener that does nothing."""


async def attempt(load: Load, limiter: trio.CapacityLimiter, n: int) -> None:
    async with limiter:
        if load.listener:
            ignore("begun", n)
        try:
            with trio.CancelScope() if load.timeout is None else trio.fail_after(load.timeout):
                await load.handler(n)
        except Exception:
            log.exception("item %r failed", n)
        if load.listener:
            ignore("done", n)


async def handle_all(load: Load, receive: trio.MemoryReceiveChannel[int]) -> None:
    limiter = trio.CapacityLimiter(load.concurrency)
    async with trio.open_nursery() as nursery:
        async for n in receive:
            nursery.start_soon(attempt, load, limiter, n)


async def by_hand(load: Load) -> float:
    """Return CPU seconds for each task."""
    send, receive = trio.open_memory_channel[int](math.inf)
    if load.trickles:
        with CpuTime() as cpu:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handle_all, load, receive)
                for n in range(load.tasks):
                    await send.send(n)
                send.close()
    else:
        for n in range(load.tasks):
            send.send_nowait(n)
        send.close()
        with CpuTime() as cpu:
            await handle_all(load, receive)
    return cpu.seconds / load.tasks
