"""An HTTP client as a resource: opened with the workers, closed after the last attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]  # hypercorn's types are not complete
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trio_tasks import AbortError, Data, Injected, RetryAfterError, RetryPolicy, Router, constant

tasks = Router()


@tasks.resource
async def client(address: Data[httpx2.URL]) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=5) as client:
        yield client


@tasks.task(attempts=5, timeout=20)
async def notify(order: int, *, client: Data[httpx2.AsyncClient] = Injected) -> int:
    response = await client.post("/hook", json={"order": order}, headers={"Idempotency-Key": f"order-{order}"})
    if response.status_code in (429, 503):
        raise RetryAfterError(f"status {response.status_code}", float(response.headers.get("Retry-After", 5)))
    if response.is_client_error:
        raise AbortError(f"status {response.status_code}")  # the next attempt would be refused, too
    return response.raise_for_status().status_code


# The other side, and a run


answers = {1: [503, 200], 2: [404], 3: [500, 200]}


async def hook(request: Request) -> Response:
    order = (await request.json())["order"]
    status = answers[order].pop(0)
    print(f"order {order}: {status}")
    return Response(status_code=status, headers={"Retry-After": "0"})


async def main() -> None:
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    app: Any = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        async with tasks.open("memory://") as queues:
            at_once = RetryPolicy(backoff=constant(0))
            async with queues.monitor({"default": 1}, data=[httpx2.URL(address)], retry=at_once) as monitor:
                for order in answers:
                    result = (await queues.wait_for(await queues.push(notify.bind(order)))).status
                    print(f"order {order} is {result.name}")
                monitor.shutdown()
        stop.set()


if __name__ == "__main__":
    trio.run(main)
