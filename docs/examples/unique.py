"""Only once: a push under a unique key that a task holds, and how long it holds it."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Worker


async def run(what: str) -> None:
    print(f"{trio.current_time():5.0f} s  {what}")
    await trio.sleep(10)


async def push(storage: MemoryStorage[str]) -> None:
    # Until it is finished, as usual: one report at a time.
    await storage.push("report", unique="report")
    second = await storage.push_or_get("report again", unique="report")
    print("the second report is new:", second.is_new)

    # Until it begins: a change that comes while the index is built is not lost.
    for change in (1, 2, 3):
        await storage.push(f"index, from change {change} on", unique="index", unique_until="start")
        await trio.sleep(8)

    # Until it is forgotten: a message that comes twice is not handled twice.
    order = await storage.push("order 17", unique="order 17", unique_until="forgotten")
    await storage.wait_for(order)
    again = await storage.push_or_get("order 17", unique="order 17", unique_until="forgotten")
    print("the order is new:", again.is_new)

    # For a time: at most one warning an hour, whatever has become of the one before.
    for _ in range(4):
        await storage.push("warning: the disk is full", unique="disk", unique_for=3600)
        await trio.sleep(1500)

    # For a time that each push begins anew: once the changes have stopped for 5 s.
    for change in (1, 2, 3, 4):
        await storage.push(f"save, {change} changes", unique="save", unique_for=5, delay=5, on_conflict="update")
        await trio.sleep(2)
    storage.close()


async def main() -> None:
    storage = MemoryStorage[str]()
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("worker", storage, run, concurrency=1).run)
        await push(storage)


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
