"""Work that takes long: be told of it, or let it outlive its attempt."""

from __future__ import annotations

import logging
import sys

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Worker, WorkerContext
from trio_tasks.layers import LongRunning


async def transcode(film: str, context: WorkerContext) -> None:
    await trio.sleep(150)
    print(f"{trio.current_time():4.0f} s  {film} is transcoded")
    context.track(make_thumbnails, film)  # the task is settled without waiting for these


async def make_thumbnails(film: str) -> None:
    await trio.sleep(30)
    print(f"{trio.current_time():4.0f} s  {film} has thumbnails")


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="        %(message)s")
    storage = MemoryStorage[str]()
    worker = Worker("films", storage, transcode, layers=[LongRunning(maximum=60)])
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(worker.run)
        film = await storage.push("metropolis", id="metropolis")
        await storage.wait_for(film)
        print(f"{trio.current_time():4.0f} s  settled; {context.task_count} piece of work goes on")
        context.stop()  # a stopping worker waits for what is tracked
    print(f"{trio.current_time():4.0f} s  the worker has ended")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
