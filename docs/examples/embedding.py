"""The same with a worker. The channel may stay as it is."""

from __future__ import annotations

import trio
from trio_tasks import Worker


async def resize(name: str) -> None:
    await trio.sleep(0.01)
    print(f"resized {name}")


async def main() -> None:
    send, receive = trio.open_memory_channel[str](100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("images", receive, resize, concurrency=8).run)
        async with send:
            await send.send("cat.png")


if __name__ == "__main__":
    trio.run(main)
