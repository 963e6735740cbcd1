"""The shop over HTTP. Alone, with workers in other processes: `hypercorn --worker-class trio bookshop.web:app`."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from trio_tasks import Queues

from .database import URL, make_tables, transaction
from .tasks import send_receipt, ship, tasks


def save_order(queues: Queues, book: str, email: str, coupon: str | None) -> int:
    """Write an order and push its tasks, in one transaction."""
    with transaction() as database:
        rows = database.execute("insert into orders (book, email) values (?, ?) returning id", (book, email))
        order: int = rows.fetchone()[0]
        queues.push_in(database, ship.bind(order), id=f"ship-{order}")
        queues.push_in(database, send_receipt.bind(order, email), id=f"receipt-{order}")
        if coupon is not None:  # one that is used raises: there is no order then, and no task
            database.execute("insert into coupons values (?, ?)", (coupon, order))
    queues.wake()  # it is committed: have workers look at once
    return order


def set_copies(book: str, copies: int) -> None:
    with transaction() as database:
        database.execute("replace into books values (?, ?)", (book, copies))


async def take_order(request: Request) -> JSONResponse:
    try:
        given = await request.json()
        arguments = str(given["book"]), str(given["email"]), given.get("coupon")
    except (ValueError, TypeError, LookupError) as error:
        raise HTTPException(400, "an order is JSON with a book and an email") from error
    try:
        order = await trio.to_thread.run_sync(save_order, request.app.state.queues, *arguments)
    except sqlite3.IntegrityError as error:
        raise HTTPException(409, "this coupon has been used") from error
    return JSONResponse({"order": order}, status_code=201)


async def show_order(request: Request) -> JSONResponse:
    """How far an order is: at once, or with `?wait=10` when its tasks have ended, or after ten seconds."""
    queues: Queues = request.app.state.queues
    ids = [f"{name}-{request.path_params['order']}" for name in ("ship", "receipt")]
    if None in await queues.fetch_by_id(ids):
        raise HTTPException(404)
    with trio.move_on_after(float(request.query_params.get("wait", 0))):
        await queues.wait_for(ids)
    found = [task.parts for task in await queues.fetch_by_id(ids) if task is not None]
    told = {str(each.id): {"status": each.status.name, "result": each.context.result} for each in found}
    return JSONResponse(told)


async def restock(request: Request) -> JSONResponse:
    copies = int((await request.json())["copies"])
    await trio.to_thread.run_sync(set_copies, request.path_params["book"], copies)
    return JSONResponse({"copies": copies})


routes = [
    Route("/orders", take_order, methods=["POST"]),
    Route("/orders/{order:int}", show_order),
    Route("/books/{book}", restock, methods=["PUT"]),
]


@asynccontextmanager
async def open_queues(app: Starlette) -> AsyncGenerator[None, None]:
    async with tasks.open(URL) as app.state.queues:
        await trio.to_thread.run_sync(make_tables)
        yield


app = Starlette(routes=routes, lifespan=open_queues)
