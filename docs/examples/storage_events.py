"""A dashboard's list of open orders, kept right by the events of the storage."""

from __future__ import annotations

import trio
from trio_tasks import Cancelled, DeadlinePassed, Expired, MemoryStorage, Missed, Pushed, Replaced, Status, StorageEvent

open_orders: set[str] = set()
storage = MemoryStorage[str]()


async def follow(events: trio.abc.ReceiveChannel[StorageEvent]) -> None:
    async for event in events:
        match event:
            case Pushed(task_id):
                open_orders.add(task_id)
            case Expired(task_id) | DeadlinePassed(task_id) | Cancelled(task_id):
                open_orders.discard(task_id)
            case Replaced(task_id, by):
                open_orders.discard(task_id)
                print(f"{task_id} was replaced by {by}")
            case Missed(number):  # too slow for so many events: look anew
                print(f"{number} events were missed")
                open_orders.clear()
                open_orders.update(task.parts.id for task in await storage.list_tasks(Status.Pending))
        print(f"{type(event).__name__}: {', '.join(sorted(open_orders))}")


async def main() -> None:
    async with storage.events() as events, trio.open_nursery() as nursery:
        nursery.start_soon(follow, events)
        await storage.push("tea", id="order-1")
        await storage.push("coffee", id="order-2", unique="table 5")
        await storage.push("cocoa", id="order-3", unique="table 5", on_conflict="replace")
        await storage.cancel("order-1")
        storage.close()  # ends the channel, and so follow


if __name__ == "__main__":
    trio.run(main)
