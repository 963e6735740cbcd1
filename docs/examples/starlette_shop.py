"""A Starlette application whose lifespan runs workers: hypercorn --worker-class trio starlette_shop:app serves it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypedDict

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]  # hypercorn's types are not complete
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from trio_tasks import Queues, Router

tasks = Router()
mailing = trio.Event()


@tasks.task
async def mail_receipt(order: int, email: str) -> None:
    mailing.set()
    await trio.sleep(0.2)
    print(f"mailed the receipt of order {order} to {email}")


class State(TypedDict):
    queues: Queues


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[State, None]:
    async with tasks.open("sqlite:///shop.db") as queues:
        async with queues.monitor({"default": 4}, shutdown_timeout=20) as monitor:
            yield {"queues": queues}  # requests are served
            monitor.shutdown()  # there are no more: running attempts have 20 seconds
        print(f"{len(monitor.report.interrupted)} tasks were interrupted")


async def take_order(request: Request) -> JSONResponse:
    order = await request.json()
    queues: Queues = request.state.queues
    task_id = await queues.push(mail_receipt.bind(order["number"], order["email"]))
    return JSONResponse({"task": task_id}, status_code=202)


app: Any = Starlette(routes=[Route("/orders", take_order, methods=["POST"])], lifespan=lifespan)


async def main() -> None:
    """Serve the application, order something, and stop serving while the receipt is being mailed."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None  # an example prints the same each time
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        async with httpx2.AsyncClient(base_url=address) as client:
            response = await client.post("/orders", json={"number": 7, "email": "ada@example.com"})
        print(response.status_code, *response.json())
        await mailing.wait()
        stop.set()  # as SIGTERM does, where hypercorn was started by its command


if __name__ == "__main__":
    trio.run(main)
