"""SQLite alone: the cost of a transaction that settles some rows and claims as many.

There is no library here, no thread, no lease, no result, no count, one narrow table, and one index: whoever exchanges
as many tasks at a time as there are free slots cannot be faster than this.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from json import dumps
from pathlib import Path

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds

Row = tuple[int, bytes]


@contextmanager
def filled(synchronous: str, tasks: int) -> Generator[sqlite3.Connection, None, None]:
    """Make a file with this many waiting rows."""
    with (
        new_directory() as directory,
        closing(sqlite3.connect(Path(directory, "bare.db"), isolation_level=None, check_same_thread=False)) as opened,
    ):
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute(f"PRAGMA synchronous = {synchronous}")
        opened.execute("CREATE TABLE task (seq INTEGER PRIMARY KEY, state INTEGER, token INTEGER, payload BLOB)")
        opened.execute("CREATE INDEX ready ON task (seq) WHERE state = 0")
        opened.execute("BEGIN")
        opened.executemany("INSERT INTO task VALUES (NULL, 0, NULL, ?)", [(b"\1",)] * tasks)
        opened.execute("COMMIT")
        yield opened


class Rows:
    """The rows of the file, each claim with a token of its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._token = 0

    def exchange(self, settled: list[int], limit: int) -> list[Row]:
        """Settle the rows claimed last, and claim as many again."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE task SET state = 3 WHERE seq IN (SELECT value FROM json_each(?)) AND token = ?",
            (dumps(settled), self._token),
        )
        self._token += 1
        claimed: list[Row] = execute(
            "UPDATE task SET state = 2, token = ? WHERE seq IN (SELECT seq FROM task WHERE state = 0 ORDER BY seq "
            "LIMIT ?) RETURNING seq, payload",
            (self._token, limit),
        ).fetchall()
        execute("COMMIT")
        return claimed


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    assert kind == "drain"
    with filled(synchronous, tasks) as connection:
        rows, held = Rows(connection), list[int]()
        with Both() as both:
            while claimed := rows.exchange(held, concurrency):
                held = [seq for seq, _ in claimed]
    return both.each(tasks)


if __name__ == "__main__":
    answer(measure)
