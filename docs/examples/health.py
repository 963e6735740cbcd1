"""Health and metrics of a program, over HTTP: what a container or a load balancer asks, and what Prometheus reads."""

from __future__ import annotations

from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from trio_tasks import MemoryStorage, Monitor, Worker
from trio_tasks.observe import health

PLACE = "health.sock"  # in production: "0.0.0.0:9000"


async def ship(order: int) -> None:
    await trio.sleep(0.01)


async def ask(path: str) -> str:
    """What `curl --unix-socket health.sock http://localhost/ready` does."""
    async with await trio.open_unix_socket(PLACE) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([chunk async for chunk in stream]).decode()
    status, body = answer.splitlines()[0], answer.partition("\r\n\r\n")[2]
    return f"{status.split()[1]} {body}"


async def main() -> None:
    storage = MemoryStorage[int](queue="orders")
    config = Config()
    config.bind = [f"unix:{PLACE}"]
    config.errorlog = None
    stop_serving = trio.Event()
    async with trio.open_nursery() as nursery, Monitor() as monitor:
        monitor.register(Worker("shipping", storage, ship))
        app = health(monitor, storage)
        await nursery.start(partial(serve, app, config, shutdown_trigger=stop_serving.wait))  # type: ignore[arg-type]  # hypercorn's types are for its own scopes
        await storage.wait_for(await storage.push(1))
        print(await ask("/live"))
        print(await ask("/ready"))
        metrics = await ask("/metrics")
        print(*[line for line in metrics.splitlines() if "attempts_total{" in line and line.endswith(" 1.0")])
        monitor.shutdown()
        print((await ask("/ready"))[:3], "while it is shut down")
        stop_serving.set()


if __name__ == "__main__":
    trio.run(main)
