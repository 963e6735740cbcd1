"""Fuzzing of the tables of an SQLite file by another writer: they are read, or refused with an error of ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trio_tasks._backends.sqlite.driver import Connection, connect, is_of_the_driver
from trio_tasks.testing import run_seeded

from tests.fuzz._corrupt import corrupted
from tests.fuzz._exercise import USER, by, use, write
from tests.fuzz._expected_logs import foreseen

if TYPE_CHECKING:
    from trio_tasks._backends.sqlite.driver import Driver

_OTHERS = ("meta", "queue", "session", "worker", "key", "schedule")
_META = ("version", "sessions", "latest", "boot", "anchor")
_VALUES: list[Any] = [
    None,
    0,
    1,
    2,
    3,
    5,
    7,
    -1,
    -5,
    2**31,
    2**62,
    2**63 - 1,
    -(2**63),
    0.5,
    -0.5,
    1e13,
    1e300,
    -1e300,
    math.inf,
    -math.inf,
    "",
    "1",
    "abort",
    "default",
    "nan",
    "é",
    "9" * 400,
    b"",
    b"1",
    b"default",
    b"\xff" * 9,
    bytes(70_000),
]


def drivers() -> list[Driver]:
    """Return the drivers that are installed."""
    return ["sqlite3", "apsw"] if find_spec("apsw") else ["sqlite3"]


@cache
def template() -> bytes:
    """Make a file with rows in each table."""
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path = Path(directory, "tasks.db")
        run_seeded(write, path, seed=0)
        with closing(connect("sqlite3", str(path))) as connection:
            connection.execute(
                "INSERT INTO trio_tasks_session (num, address, key, expires) "
                "VALUES (7, '9', x'00', 9e9), (8, NULL, NULL, 9e9)"
            )
            connection.execute(
                "INSERT INTO trio_tasks_worker (session, queue, name) VALUES (7, 'default', 'v'), (8, 'other', 'w')"
            )
            connection.execute("PRAGMA journal_mode = DELETE")
        return path.read_bytes()


def fuzz_rows(random: Random) -> None:
    """Damage the table of tasks."""
    _fuzz(("task",), random)


def fuzz_tables(random: Random) -> None:
    """Damage the other tables."""
    _fuzz(_OTHERS, random)


def _fuzz(tables: tuple[str, ...], random: Random) -> None:
    driver = random.choice(drivers())
    times = random.choice(("before", "meanwhile", "both"))
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory, foreseen():
        path = Path(directory, "tasks.db")
        path.write_bytes(template())
        tamper = partial(_tamper, driver, path, tables, random)
        if times != "meanwhile":
            tamper()
        run_seeded(use, path, by(driver), None if times == "before" else tamper, seed=USER)


def _tamper(driver: Driver, path: Path, tables: tuple[str, ...], random: Random) -> None:
    """By the same driver: another one in this process would take the locks away."""
    with closing(connect(driver, str(path))) as connection:
        if random.random() < 0.3:
            connection.execute("PRAGMA ignore_check_constraints = 1")
        for _ in range(random.choice((1, 1, 3, 8))):
            table = f"trio_tasks_{random.choice(tables)}"
            if not _columns(connection, table):  # it was dropped
                continue
            try:
                random.choice(_WAYS)(connection, table, random)
            except Exception as error:  # the tables themselves refuse some of it
                if not is_of_the_driver(error):
                    raise


def _put(connection: Connection, table: str, random: Random) -> None:
    """Put a random value into one cell, or into a whole column."""
    column = random.choice(_columns(connection, table))
    where = random.choice(("1", f"rowid = {random.randint(1, 12)}", "rowid = (SELECT max(rowid) FROM {table})"))
    if table == "trio_tasks_meta":
        column, where = "value", f"name = '{random.choice(_META)}'"
    rows = connection.execute(f"SELECT {column} FROM {table} WHERE {where.format(table=table)} LIMIT 1")
    value = random.choice(_VALUES)
    if rows and isinstance(rows[0][0], bytes) and random.random() < 0.5:
        value = corrupted(rows[0][0], random)
    sign = "CAST(? AS TEXT)" if isinstance(value, bytes) and random.random() < 0.3 else "?"
    connection.execute(f"UPDATE {table} SET {column} = {sign} WHERE {where.format(table=table)}", (value,))


def _take_away(connection: Connection, table: str, random: Random) -> None:
    """Delete one row, or all rows."""
    where = random.choice(("1", f"rowid = {random.randint(1, 12)}"))
    if table == "trio_tasks_meta":
        where = f"name = '{random.choice(_META)}'"
    connection.execute(f"DELETE FROM {table} WHERE {where}")


def _add(connection: Connection, table: str, random: Random) -> None:
    """Add a row that the library would not have written."""
    values = [random.choice(_VALUES) for _ in _columns(connection, table)]
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def _drop(connection: Connection, table: str, random: Random) -> None:
    """Drop the table, rarely."""
    if random.random() < 0.1:
        connection.execute(f"DROP TABLE {table}")


def _columns(connection: Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]


_WAYS: tuple[Callable[[Connection, str, Random], None], ...] = (_put, _put, _put, _put, _take_away, _add, _drop)
