"""Copy the file of a queue while it is in use, and look whether the copy is sound."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from trio_tasks import SqliteStorage


def back_up(source: Path, copy: Path) -> str:
    """Copy what is committed at this moment; returns "ok", or what is wrong with the copy."""
    with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("vacuum into ?", (str(copy),))
    with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as connection:
        return str(connection.execute("pragma integrity_check").fetchone()[0])


async def main() -> None:
    with TemporaryDirectory() as directory:
        source, copy = Path(directory, "tasks.db"), Path(directory, "copy.db")
        async with SqliteStorage(source, str) as storage:
            await storage.push_bulk(["one", "two"])
            print("the copy is", await trio.to_thread.run_sync(back_up, source, copy))
            await storage.push("three")
        async with SqliteStorage(copy, str) as storage:
            print([task.args for task in await storage.list_tasks()])


if __name__ == "__main__":
    trio.run(main)
