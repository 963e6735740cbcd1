"""Calls: push a task, wait for its result, and end the task if the caller gives up."""

from __future__ import annotations

import logging
import sys

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Status, Worker


async def render(pages: int) -> str:
    try:
        await trio.sleep(pages)
        return f"a document of {pages} pages"
    except trio.Cancelled:
        print(f"{trio.current_time():4.0f} s  rendering {pages} pages is given up")
        raise


async def serve(storage: MemoryStorage[int], pages: int, patience: float) -> None:
    """Answer a request, whose client waits for so many seconds."""
    answer = f"503: {pages} pages took too long, and nothing of the task is left"
    with trio.move_on_after(patience):
        answer = await storage.call(pages, str)
    print(f"{trio.current_time():4.0f} s  {answer}")


async def main() -> None:
    storage = MemoryStorage[int]()
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("renderer", storage, render, concurrency=1).run)
        await serve(storage, 3, patience=10)
        async with trio.open_nursery() as requests:
            requests.start_soon(serve, storage, 60, 10)  # it runs when its client gives up
            await trio.sleep(1)
            requests.start_soon(serve, storage, 5, 4)  # it waits when its client gives up
        print(
            "left:", [task.parts.status for task in await storage.list_tasks() if task.parts.status is not Status.Done]
        )
        storage.close()


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING)
    trio.run(main, clock=MockClock(autojump_threshold=0))
