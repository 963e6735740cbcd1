"""Cut a piece of code at every moment of its run, and see whether anything is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio_tasks import MemoryStorage, Succeeded
from trio_tasks.testing import BrokenByCut, Cut, explore_cancellations

Orders = trio.MemoryReceiveChannel[str]
Storage = MemoryStorage[str]


async def carry(orders: Orders, storage: Storage) -> None:
    async for order in orders:
        await storage.push(order)


async def carry_safely(orders: Orders, storage: Storage) -> None:
    async for order in orders:
        with trio.fail_after(60, shield=True):
            await storage.push(order)


async def pack(storage: Storage, packed: list[str]) -> None:
    while True:
        task = await storage.receive()
        packed.append(task.args)
        await storage.settle(task, Succeeded(None))
        await trio.sleep(1)


def scenario(carry: Callable[[Orders, Storage], Awaitable[None]]) -> Callable[[Cut], Awaitable[None]]:
    async def carry_three_orders(cut: Cut) -> None:
        send, orders = trio.open_memory_channel[str](3)
        for order in ("tea", "milk", "bread"):
            send.send_nowait(order)
        send.close()
        storage, packed = Storage(1), list[str]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pack, storage, packed)
            with cut:
                await carry(orders, storage)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert len(packed) + orders.statistics().current_buffer_used == 3, f"of three orders, {packed} were packed"

    return carry_three_orders


try:
    explore_cancellations(scenario(carry))
except BrokenByCut as broken:
    print(f"cut {broken.number} of {broken.cuts}, and {broken.others} others: {broken.__cause__}")
    print("it was cut at", *broken.lines)

found = explore_cancellations(scenario(carry_safely), seeds=range(10))
print(f"{found.cuts} cuts under {len(found.seeds)} seeds, and nothing is lost")
