"""The floor under a drain with the guarantees of :class:`SqliteStorage`: its file and statements, without its layers.

It is as :mod:`.by_hand_on_sqlite`, with all that an exchange of the library does to keep its promises: a settlement
counts only under the token of its claim, finished rows are kept for an hour, claims have leases and count attempts, due
rows are looked for, the queue's counts are kept, the session is noted as alive, the clocks are compared, and nothing is
acknowledged before the file and its log are seen to be in their place. Payloads are decoded. No error is foreseen.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import trio
from cbor2 import loads
from trio_tasks import SqliteStorage
from trio_tasks._backends.sqlite import exchange as sql

from ..fresh import answer
from ..stored import Synchronous, new_directory
from ..stored_daily import Both, Seconds
from .bare_sqlite import Row, Rows
from .by_hand_on_sqlite import Drain

LEASE, KEEP, QUEUE = 30.0, 3600.0, 1
_DUE = sql.DUE.format("")
_SUCCEED = """
UPDATE trio_tasks_task SET state = 3, due = ?, order_key = ?, result = NULL
WHERE seq IN (SELECT value FROM json_each(?)) AND token = ? AND state = 2
"""
_COUNT = "UPDATE trio_tasks_queue SET live = live - ?, running = running + ?, succeeded = succeeded + ? WHERE num = ?"


class GuardedRows(Rows):
    """The rows of a file that :class:`SqliteStorage` has made."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        super().__init__(connection)
        self._paths = str(path), f"{path}-wal"
        self._place = self._look()
        self._ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._renew_at = 0.0

    def exchange(self, settled: list[int], limit: int) -> list[Row]:
        """Settle what was claimed last, and claim so many more."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        now, wall = self._ahead + time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        if now >= self._renew_at:
            self._renew_at = now + 20.0
            execute("UPDATE trio_tasks_session SET expires = ?, noted = ?, wall = ?", (now + 60.0, now, wall))
        if settled:
            succeeded = _SUCCEED, (now + KEEP, int(now * 1e6), str(settled), self._token)
            assert execute(*succeeded).rowcount == len(settled)
        assert not execute(_DUE, (QUEUE, now, 500)).fetchall()
        rows = execute(sql.READY, (QUEUE, limit)).fetchall()
        self._token += 1
        claimed = self._token, now + LEASE, "w", str([row[0] for row in rows])
        assert execute(sql.CLAIM, claimed).rowcount == len(rows)
        execute(_COUNT, (len(settled), len(rows) - len(settled), len(settled), QUEUE))
        execute("COMMIT")
        assert self._look() == self._place
        return [(row[0], loads(row[3])) for row in rows]

    def _look(self) -> list[tuple[int, int]]:
        return [(found.st_dev, found.st_ino) for found in map(os.stat, self._paths)]


async def fill(path: Path, synchronous: Synchronous, tasks: int) -> None:
    """Push so many tasks."""
    async with SqliteStorage(path, synchronous=synchronous) as storage:
        await storage.push_bulk(range(tasks))


def measure(kind: str, synchronous: Synchronous, tasks: int, concurrency: int) -> Seconds:
    assert kind == "drain"
    with new_directory() as directory:
        path = Path(directory, "tasks.db")
        trio.run(fill, path, synchronous, tasks)
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA cache_size = -32768")
            connection.execute("SELECT count(*) FROM trio_tasks_task").fetchall()  # now there is a log
            drain = Drain(GuardedRows(connection, path))
            with Both() as both:
                trio.run(drain.run, concurrency)
            assert drain.done == tasks
    return both.each(tasks)


if __name__ == "__main__":
    answer(measure)
