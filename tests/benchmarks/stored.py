"""Stored storages made for a measurement."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trio_tasks import FileStorage, SqliteStorage

if TYPE_CHECKING:
    from trio_tasks._backends.durable.storage import DurableStorage

Synchronous = Literal["NORMAL", "FULL"]
Engine = Literal["sqlite3", "apsw", "file"]

ENGINES: dict[str, str] = {
    "sqlite3": "SqliteStorage, sqlite3",
    "apsw": "SqliteStorage, apsw",
    "file": "FileStorage",
}
LEVELS: list[Synchronous] = ["NORMAL", "FULL"]


def new_directory() -> tempfile.TemporaryDirectory[str]:
    """Make a directory for the files of a measurement: on a real disk if TMPDIR is on one."""
    return tempfile.TemporaryDirectory(prefix="bench-")


def make(directory: str, engine: Engine, synchronous: Synchronous) -> DurableStorage[Any]:
    """Make one of our storages, for args of any type."""
    if engine == "file":
        return FileStorage(Path(directory, "tasks.journal"), synchronous=synchronous)
    return SqliteStorage(Path(directory, "tasks.db"), synchronous=synchronous, driver=engine)
