"""Fuzzing of whole SQLite files and write-ahead logs: each is opened and used, or refused with an error of ours.

SQLite has no checksums but in the log, so values may be wrong. What must hold is that only our errors come out, soon.
"""

from __future__ import annotations

from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest.mock import patch

from trio_tasks._backends.sqlite import schema as _sqlite_schema
from trio_tasks._backends.sqlite.driver import connect
from trio_tasks.testing import run_seeded

from tests.fuzz._corrupt import corrupted
from tests.fuzz._exercise import USER, by, use, write
from tests.fuzz._expected_logs import foreseen
from tests.fuzz._tables import drivers

_PAGE = 512
"""Bytes: the smallest page there is, so that much of the file is something that matters."""


@cache
def _written(logged: bool) -> tuple[bytes, bytes]:
    """Write a file, and the write-ahead log that a crash leaves behind."""
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path = Path(directory, "tasks.db")
        log = path.with_name("tasks.db-wal")
        with closing(connect("sqlite3", str(path), "mode=rwc")) as connection:
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            connection.execute("VACUUM")
        found: list[bytes] = []
        run_seeded(write, path, lambda: found.extend((path.read_bytes(), log.read_bytes())), seed=0)
        database, content = found
        return (database, content) if logged else (path.read_bytes(), b"")


def fuzz_file(random: Random) -> None:
    """Damage and open a file and its log."""
    database, log = _written(random.random() < 0.4)
    if not log or random.random() < 0.6:
        database = _corrupted(database, random)
    else:
        log = _corrupted(log, random)
    driver = random.choice(drivers())
    small = random.choice((0, _sqlite_schema._SMALL))  # a large file is not read through when it is opened
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory, foreseen():
        path = Path(directory, "tasks.db")
        path.write_bytes(database)
        if log:
            path.with_name("tasks.db-wal").write_bytes(log)
        with patch.object(_sqlite_schema, "_SMALL", small):
            run_seeded(use, path, by(driver), seed=USER)


def _corrupted(data: bytes, random: Random) -> bytes:
    """Bytes anywhere, or those of a page, which stay in their place: the whole is not moved, as by what is put in."""
    for _ in range(random.choice((1, 1, 2, 8))):
        start = random.randrange(0, max(1, len(data)), _PAGE)
        page = data[start : start + _PAGE]
        way = random.randrange(6)
        if way == 0:
            data = corrupted(data, random)
        elif way == 1:
            other = random.randrange(0, max(1, len(data)), _PAGE)
            data = data[:start] + data[other : other + len(page)].ljust(len(page), b"\0") + data[start + len(page) :]
        else:
            head = page[: random.choice((8, 40, 100, _PAGE))]  # where a page says what is in it, and where
            data = (
                data[:start] + corrupted(head, random).ljust(len(head), b"\0")[: len(head)] + data[start + len(head) :]
            )
    return data
