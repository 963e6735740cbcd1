"""A shop whose orders and tasks are in one SQLite file, and are committed together."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import trio
from trio_tasks import Attempt, RetryPolicy, SqliteStorage, SqliteTransaction, Status, Worker, constant

SCHEMA = """
    create table orders (id integer primary key, item text);
    create table stock (item text primary key, number integer check (number >= 0));
    create table parcels (to_order integer, item text);
    insert into stock values ('a lamp', 2), ('a teapot', 0);
"""


def place_order(shop: sqlite3.Connection, storage: SqliteStorage[int], item: str) -> int:
    """Store an order and the task to ship it in one transaction."""
    with shop:  # a transaction of sqlite3's: committed at the end of the block, rolled back if something is raised
        order = shop.execute("insert into orders (item) values (?)", [item]).lastrowid
        assert order is not None
        storage.push_in(shop, order)
        if item == "a unicorn":
            raise LookupError("there are no unicorns")
    storage.wake()
    return order


async def ship(order: int, attempt: Attempt, transaction: SqliteTransaction) -> None:
    """Take the item from the stock and add a parcel, exactly once, however many attempts there are."""
    transaction.execute("insert into parcels select id, item from orders where id = ?", (order,))
    transaction.execute(
        "update stock set number = number - 1 where item = (select item from orders where id = ?)", (order,)
    )
    if attempt == 1:
        raise ConnectionError("the printer for the labels is off")  # so nothing of this attempt is written


def count(shop: sqlite3.Connection, table: str) -> int:
    [number] = shop.execute(f"select count(*) from {table}").fetchone()
    return int(number)


async def main() -> None:
    with closing(sqlite3.connect("shop.db")) as shop:
        shop.executescript(SCHEMA)
        async with SqliteStorage("shop.db", int, queue="shipping", join_existing=True) as storage:
            place_order(shop, storage, "a lamp")
            place_order(shop, storage, "a teapot")
            try:
                place_order(shop, storage, "a unicorn")
            except LookupError as error:
                print(f"{error}: {count(shop, 'orders')} orders, {(await storage.metrics())['waiting']} tasks")

            storage.close()
            await Worker("clerk", storage, ship, retry=RetryPolicy(attempts=2, backoff=constant(0))).run()
            print("parcels:", shop.execute("select * from parcels").fetchall())
            print("stock:", shop.execute("select * from stock").fetchall())
            for task in await storage.list_tasks(Status.Failed):
                print(f"order {task.args} has failed: {task.parts.context.error}")


if __name__ == "__main__":
    trio.run(main)
