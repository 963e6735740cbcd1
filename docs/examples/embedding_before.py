"""Background work as one writes it by hand on trio."""

from __future__ import annotations

import trio


async def resize(name: str) -> None:
    await trio.sleep(0.01)
    print(f"resized {name}")


async def worker(jobs: trio.MemoryReceiveChannel[str]) -> None:
    room = trio.Semaphore(8)
    async with trio.open_nursery() as nursery:
        async for name in jobs:  # takes a job, and then looks for room
            await room.acquire()
            nursery.start_soon(run_one, name, room)


async def run_one(name: str, room: trio.Semaphore) -> None:
    try:
        await resize(name)
    except Exception as error:  # and now? try again? when? where is it kept?
        print(f"{name} failed: {error}")
    finally:
        room.release()


async def main() -> None:
    send, receive = trio.open_memory_channel[str](100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker, receive)
        async with send:
            await send.send("cat.png")


if __name__ == "__main__":
    trio.run(main)
