"""Rows of an SQLite file that somebody else has written to: read, or refused in our words."""

from __future__ import annotations

import math
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import trio
from trio_tasks import BackendError, RetryAfterError, SqliteStorage, Worker
from trio_tasks.testing import run_seeded

from tests._silence import silence
from tests.fuzz._spoil import spoiled

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

_TASKS = 8
_USER = 1000
"""The seed of who opens it afterwards: the ids that it makes are others."""
_COLUMNS = (
    "queue",
    "id",
    "state",
    "priority",
    "turn",
    "due",
    "start_by",
    "token",
    "attempt",
    "uniq",
    "wish",
    "worker",
    "payload",
    "head",
    "result",
    "history",
    "progress",
)
_VALUES: list[Any] = [
    None,
    0,
    1,
    2,
    3,
    5,
    -1,
    7,
    2**62,
    -(2**63),
    0.5,
    math.inf,
    "",
    "abort",
    "é",
    b"",
    b"\xff" * 9,
    "1",
]


def fuzz_rows(random: Random) -> None:
    """A whole file."""
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path = Path(directory, "tasks.db")
        with silence():
            run_seeded(_write, path, seed=0)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                for _ in range(random.choice((1, 1, 3, 8))):
                    _scribble(connection, random)
            run_seeded(_use, path, seed=_USER)


async def _handle(n: int) -> int:
    if n % 3 == 0:
        raise RetryAfterError("again", 60.0)
    return n


async def _write(path: Path) -> None:
    async with SqliteStorage(path, int, synchronous="OFF") as storage:
        for n in range(_TASKS):
            await storage.push(n, delay=30.0 * (n % 5 == 4), metadata={"n": n} if n % 2 else {})
        with trio.move_on_after(5):
            await Worker("w", storage, _handle).run()
        for n in range(3):
            await storage.push(n)


def _scribble(connection: sqlite3.Connection, random: Random) -> None:
    """Put something else into one place; the table itself refuses some of it."""
    column, seq = random.choice(_COLUMNS), random.randint(1, _TASKS + 3)
    value = random.choice(_VALUES)
    if random.random() < 0.5:
        rows = connection.execute(f"SELECT {column} FROM trio_tasks_task WHERE seq = ?", (seq,)).fetchall()
        value = spoiled(rows[0][0], random) if rows and isinstance(rows[0][0], bytes) else value
    try:
        connection.execute(f"UPDATE trio_tasks_task SET {column} = ? WHERE seq = ?", (value, seq))
    except sqlite3.IntegrityError:
        return


async def _use(path: Path) -> None:
    """Everything that reads rows. What cannot be read is a BackendError where it is looked at; a worker goes on."""
    try:
        async with SqliteStorage(path, int, synchronous="OFF") as storage:
            with suppress(BackendError):
                await storage.list_tasks(limit=100)
            await storage.metrics()
            await storage.push(5)
            done: list[int] = []
            with trio.move_on_after(300):
                await Worker("w", storage, _handle, on_event=lambda _, event: done.append(1)).run()
            assert done
            with trio.move_on_after(1):
                await storage.wait_for(await storage.push(7, delay=5.0))
    except BackendError:
        return
    except ExceptionGroup as group:
        _, others = group.split(BackendError)
        if others is not None:
            raise others from None
