"""A sync handler runs in a thread. If it looks now and then, it can be cancelled."""

from __future__ import annotations

import time

import trio
from trio_tasks import Error, Event, MemoryStorage, Worker, WorkerContext


def compress(name: str) -> str:
    for _ in range(1000):
        trio.from_thread.check_cancelled()  # raises Cancelled if the attempt is to end
        if name == "small.txt":
            return "small.txt.gz"
        time.sleep(0.01)  # stands for one block of work
    return f"{name}.gz"


def tell(context: WorkerContext, event: Event) -> None:
    if isinstance(event, Error):
        print(f"{event.task.args}: {type(event.error).__name__}")


async def main() -> None:
    storage = MemoryStorage[str]()
    worker = Worker("compressor", storage, compress, concurrency=2, on_event=tell)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        print((await storage.wait_for(await storage.push("small.txt"))).result)
        await storage.wait_for(await storage.push("huge.iso", timeout=0.05, attempts=1))
        storage.close()


if __name__ == "__main__":
    trio.run(main)
