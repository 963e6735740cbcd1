"""Workers on a table that was there before: a backend out of three functions."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import Any

import trio
from trio_tasks import (
    Attempt,
    CustomBackend,
    Interval,
    Outcome,
    Parts,
    RetryPolicy,
    Task,
    TaskId,
    Worker,
    constant,
    poll,
)

SCHEMA = """
    create table outbox (id integer primary key, address text, state text default 'Pending',
                         attempts integer default 0, due real default 0)
"""


class Outbox:
    """The table, as the rest of the program knows it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def run(self, sql: str, *values: object) -> list[Any]:
        def execute() -> list[Any]:
            return self._database.execute(sql, values).fetchall()

        return await trio.to_thread.run_sync(execute, limiter=self._one_at_a_time)

    async def fetch(self) -> Task[str] | None:
        """The next one that is due, counted as an attempt in the table; or None."""
        if not await self.run("select 1 from outbox where state in ('Pending', 'Running')"):
            raise trio.EndOfChannel  # so that this program ends; a service would wait for more
        rows = await self.run(
            "update outbox set state = 'Running', attempts = attempts + 1 where id = "
            "(select id from outbox where state = 'Pending' and due <= ? order by id limit 1) "
            "returning id, address, attempts - 1",
            time.time(),
        )
        if not rows:
            return None
        [(row, address, attempts_made)] = rows
        return Task(address, Parts(TaskId(str(row)), attempt=Attempt(attempts_made)))

    async def settle(self, task: Task[str], outcome: Outcome) -> None:
        """``task`` comes as it is to be stored: its status, attempts and time are those afterwards."""
        parts = task.parts
        due = parts.run_at.timestamp() if parts.run_at else 0
        await self.run(
            "update outbox set state = ?, attempts = ?, due = ? where id = ? and state = 'Running'",
            parts.status.value,
            parts.attempt,
            due,
            parts.id,
        )


async def send(address: str, attempt: Attempt) -> None:
    if address.startswith("grace") and attempt == 1:
        raise ConnectionError("mailbox busy")
    if "@" not in address:
        raise ValueError("no address")


async def main() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)) as database:
        outbox = Outbox(database)
        await outbox.run(SCHEMA)
        for address in ("ada@example.com", "grace@example.com", "nobody"):
            await outbox.run("insert into outbox (address) values (?)", address)

        backend = CustomBackend(receive=poll(outbox.fetch, Interval(0.05)), settle=outbox.settle)
        policy = RetryPolicy(attempts=2, backoff=constant(0.1))
        await Worker("sender", backend, send, concurrency=2, retry=policy).run()
        for row in await outbox.run("select address, state, attempts from outbox order by id"):
            print(*row)


if __name__ == "__main__":
    trio.run(main)
