"""What the shop does after an order, and at set times."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from trio_tasks import (
    AbortError,
    Data,
    Firing,
    Injected,
    RetryPolicy,
    Router,
    SqliteTransaction,
    TaskId,
    cron,
    every,
    exponential,
)

from .database import transaction
from .mail import Mailer

tasks = Router()


@tasks.resource  # opened with the run, closed after the last attempt
async def mailer() -> AsyncIterator[Mailer]:
    yield Mailer(Path("outbox"))


@tasks.task(queue="mails", timeout=60, retry=RetryPolicy(attempts=8, backoff=exponential(1, maximum=3600)))
async def send_receipt(order: int, email: str, *, mailer: Data[Mailer] = Injected, task_id: TaskId = Injected) -> str:
    """Mail a receipt. An attempt may follow one that was killed after it had sent: the key makes that harmless."""
    await mailer.send(email, f"Thank you for order {order}.", key=task_id)
    return f"mailed to {email}"


@tasks.task
async def ship(order: int, *, writes: SqliteTransaction = Injected) -> str:
    """Take a copy from the stock, and send it. This is committed together with the end of the task: exactly once."""

    def take_copy(database: Any) -> None:
        taken = database.execute(
            "update books set copies = copies - 1"
            " where copies > 0 and title = (select book from orders where id = ?) returning title",
            (order,),
        )
        if not taken:
            raise AbortError("the book is sold out")  # a dead letter, which waits for somebody to look at it
        database.execute("insert into parcels values (?)", (order,))

    writes.call(take_copy)
    return "sent"


@tasks.task(queue="reports")
def note_stock(*, firing: Firing = Injected) -> int:  # sync: runs in a thread
    with transaction() as database:
        rows = database.execute("insert into stock select ?, title, copies from books", [firing.time.isoformat()])
        return rows.rowcount


@tasks.task(queue="reports")
def report() -> str:
    with transaction() as database:
        [sent, ordered] = database.execute("select (select count(*) from parcels), count(*) from orders").fetchone()
        return f"{sent} of {ordered} orders are sent"


tasks.schedule("stock", note_stock.bind(), every(seconds=float(os.environ.get("STOCK_EVERY", "60"))))
tasks.schedule("report", report.bind(), cron("0 7 * * MON-FRI", zone="Europe/Berlin"))
