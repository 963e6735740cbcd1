"""Health from a thread of its own, which also answers while the event loop of the program is stuck."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from trio_tasks import MemoryStorage, Monitor, Worker
from trio_tasks.observe import health

PLACE = "health.sock"  # in production: "0.0.0.0:9000"


async def ship(order: int) -> None:
    await trio.sleep(0.01)


def serve_apart(app: Any, stopped: threading.Event) -> None:
    """Serve in this thread, in a trio run of its own, until the program sets the event."""
    config = Config()
    config.bind = [f"unix:{PLACE}"]
    config.errorlog = None

    async def until_stopped() -> None:
        await trio.to_thread.run_sync(stopped.wait)

    trio.run(partial(serve, app, config, shutdown_trigger=until_stopped))


async def connect() -> trio.SocketStream:
    while True:  # until the other thread serves
        try:
            return await trio.open_unix_socket(PLACE)
        except OSError:
            await trio.sleep(0.01)


async def ask(path: str) -> str:
    async with await connect() as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([chunk async for chunk in stream]).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return f"{head.split()[1]} {body}"


async def main() -> None:
    storage = MemoryStorage[int](queue="orders")
    stopped = threading.Event()
    async with trio.open_nursery() as nursery:
        try:
            async with Monitor() as monitor:
                monitor.register(Worker("shipping", storage, ship))
                app = health(monitor, storage)  # made in the program's own run, of which it tells
                nursery.start_soon(trio.to_thread.run_sync, serve_apart, app, stopped)
                await storage.wait_for(await storage.push(1))
                print(await ask("/live"))
                print((await ask("/ready"))[:3])
                monitor.shutdown()
        finally:
            stopped.set()


if __name__ == "__main__":
    trio.run(main)
