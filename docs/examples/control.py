"""Pause, resume, drain, stop."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Worker, WorkerContext


async def work(number: int) -> None:
    await trio.sleep(10)


def show(context: WorkerContext, storage: MemoryStorage[int]) -> None:
    print(f"{trio.current_time():3.0f} s  {context!r}, {storage.statistics().waiting} waiting")


async def main() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(6))
    worker = Worker("worker", storage, work, concurrency=2)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(worker.run)
        await trio.sleep(5)
        show(context, storage)

        context.pause()  # takes no more tasks; the two running attempts go on
        await trio.sleep(30)
        show(context, storage)

        context.resume()
        await trio.sleep(5)
        show(context, storage)

        context.stop()  # for good: running attempts are carried to their end
        await context.wait_stopped()
        show(context, storage)

    storage.close()  # to drain: close the storage, and run a worker until it is empty
    print(await worker.run())


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
