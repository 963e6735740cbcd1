"""SQLite and nothing else: what settling so many rows and claiming so many more costs, in one transaction each time.

There is no library here, no thread, no lease, no result, no count, one narrow table, and one index: whoever exchanges
as many tasks at a time as there are free seats cannot be faster than this.
"""

from __future__ import annotations

import sqlite3
from json import dumps
from pathlib import Path

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> Seconds:
    assert kind == "drain"
    with new_directory() as directory:
        connection = sqlite3.connect(Path(directory, "bare.db"), isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE task (seq INTEGER PRIMARY KEY, state INTEGER, token INTEGER, payload BLOB)")
        connection.execute("CREATE INDEX ready ON task (seq) WHERE state = 0")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO task VALUES (NULL, 0, NULL, ?)", [(b"\1",)] * tasks)
        connection.execute("COMMIT")
        with Both() as both:
            _drain(connection, concurrency)
        connection.close()
    return both.each(tasks)


def _drain(connection: sqlite3.Connection, batch: int) -> None:
    held: list[int] = []
    token = 0
    while held or not token:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "UPDATE task SET state = 3 WHERE seq IN (SELECT value FROM json_each(?)) AND token = ?",
            (dumps(held), token),
        )
        token += 1
        claimed = connection.execute(
            "UPDATE task SET state = 2, token = ? WHERE seq IN (SELECT seq FROM task WHERE state = 0 ORDER BY seq "
            "LIMIT ?) RETURNING seq, payload",
            (token, batch),
        ).fetchall()
        connection.execute("COMMIT")
        held = [seq for seq, _ in claimed]


if __name__ == "__main__":
    answer(measure)
