"""A trio channel as a backend; and a pipe from any source into a storage."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio
from trio_tasks import MemoryStorage, Pipe, Worker


async def square(n: int) -> int:
    print(n * n)
    return n * n


@trio.as_safe_channel
async def sensor() -> AsyncGenerator[int, None]:
    """Stands for readings that arrive by themselves."""
    for reading in (5, 6):
        await trio.sleep(0.01)
        yield reading


async def a_channel_is_a_backend() -> None:
    send, receive = trio.open_memory_channel[int](10)
    worker = Worker("squares", receive, square, concurrency=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with send:  # when the sending end is closed and the channel is empty, the worker ends
            await send.send(2)
            await send.send(3)


async def a_pipe_leads_into_a_storage() -> None:
    storage = MemoryStorage[int]()
    async with sensor() as readings:
        worker = Worker("squares", Pipe(readings, storage), square, concurrency=1)
        await worker.run()  # carries, and works; the source's end is the end of both
    print("pushed:", storage.statistics().pushed)


async def main() -> None:
    await a_channel_is_a_backend()
    await a_pipe_leads_into_a_storage()


if __name__ == "__main__":
    trio.run(main)
