"""A web shop: it takes orders over HTTP, and mails receipts from a worker in the same process."""

import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from trio_tasks import Monitor, SqliteStorage, Worker

DATABASE = "shop.db"
ADDRESS = f"127.0.0.1:{os.environ.get('PORT', '8000')}"


@dataclass
class Receipt:
    order: int
    email: str


async def mail_receipt(receipt: Receipt) -> None:
    await trio.sleep(1)  # a mail server takes its time
    print(f"receipt for order {receipt.order} was sent to {receipt.email}", flush=True)


def save_order(storage: SqliteStorage[Receipt], item: str, email: str) -> int:
    """Write the order, and push the task, in one transaction."""
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        rows = connection.execute("insert into orders (item, email) values (?, ?) returning id", (item, email))
        order: int = rows.fetchone()[0]
        storage.push_in(connection, Receipt(order, email))
    storage.wake()  # it is committed: have workers look at once
    return order


async def take_order(request: Request) -> JSONResponse:
    order = await request.json()
    number = await trio.to_thread.run_sync(save_order, request.app.state.storage, order["item"], order["email"])
    return JSONResponse({"order": number}, status_code=201)


async def wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def main() -> None:
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("create table if not exists orders (id integer primary key, item text, email text)")
    async with SqliteStorage(DATABASE, Receipt, join_existing=True) as storage:
        app: Any = Starlette(routes=[Route("/orders", take_order, methods=["POST"])])
        app.state.storage = storage
        config = Config()
        config.bind = [ADDRESS]
        async with Monitor(shutdown_timeout=20) as monitor:
            monitor.register(Worker("receipts", storage, mail_receipt, concurrency=4))
            await serve(app, config, shutdown_trigger=wait_for_signal)
            monitor.shutdown()  # no more requests: running attempts have 20 seconds
        print(monitor.report)


if __name__ == "__main__":
    trio.run(main)
