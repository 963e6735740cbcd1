"""Tests of migrating an SQLite file of an older version when it is opened: wholly or not at all, with all its
content.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from trio_tasks import BackendError, SqliteStorage, Succeeded, Worker
from trio_tasks._backends.durable.engine import State
from trio_tasks._backends.sqlite import schema

pytestmark = pytest.mark.once

TASKS = 300
TABLES = ("meta", "queue", "task", "session")


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def contents(path: Path) -> dict[str, list[Any]]:
    with closing(connect(path)) as connection:
        return {table: connection.execute(f"SELECT * FROM trio_tasks_{table}").fetchall() for table in TABLES}


async def make_old(path: Path, version: int = 1) -> dict[str, list[Any]]:
    """A file of an older version with tasks that wait, are delayed, or done, in the tables of then."""
    new = path.with_suffix(".new")
    async with SqliteStorage[int](new, int) as storage:
        for n in range(TASKS):
            await storage.push(n, priority=n % 3, delay=60.0 * (n % 2))
        await storage.settle(await storage.receive(), Succeeded(42))
    rows = contents(new)
    with closing(connect(path)) as connection:
        for step in range(version):
            for statement in vars(schema)["_MIGRATIONS"][step]:
                connection.execute(statement)
        for table, content in rows.items():
            connection.execute(f"DELETE FROM trio_tasks_{table}")
            columns = len(connection.execute(f"PRAGMA table_info(trio_tasks_{table})").fetchall())
            for row in [each[:columns] for each in content]:
                connection.execute(f"INSERT INTO trio_tasks_{table} VALUES ({', '.join('?' * len(row))})", row)
        connection.execute("UPDATE trio_tasks_meta SET value = ? WHERE name = 'version'", (version,))
    return contents(path)


@pytest.mark.parametrize("version", range(1, schema.VERSION))
async def test_the_tables_of_an_older_version_are_made_as_they_were(tmp_path: Path, version: int) -> None:
    """A released version has written files with these names, so no later change may alter what makes them."""
    await make_old(tmp_path / "tasks.db", version)
    with closing(connect(tmp_path / "tasks.db")) as connection:
        columns = {
            table: " ".join(row[1] for row in connection.execute(f"PRAGMA table_info(trio_tasks_{table})"))
            for table in TABLES
        }
        indexes = {row[1] for row in connection.execute("PRAGMA index_list(trio_tasks_task)")}
    assert columns == {
        "meta": "name value",
        "queue": "num name live running pushed succeeded retried failed killed released",
        "task": "seq queue id state priority turn due start_by token attempt uniq wish worker payload head result "
        "history progress",
        "session": "num address key expires",
    }
    assert indexes == {f"trio_tasks_{name}" for name in ("by_id", "ready", "timed", "unique", "wished", "finished")}


@pytest.mark.parametrize("version", range(1, schema.VERSION))
async def test_an_older_version_is_migrated_with_all_that_is_in_it(tmp_path: Path, version: int) -> None:
    path = tmp_path / "tasks.db"
    old = await make_old(path, version)
    seen: list[int] = []

    async def see(n: int) -> None:
        seen.append(n)

    async with SqliteStorage[int](path, int) as storage:
        assert [row[: len(before)] for row, before in zip(contents(path)["task"], old["task"], strict=True)] == old[
            "task"
        ]
        assert ("version", schema.VERSION) in contents(path)["meta"]
        [cancelled, *delayed] = [row[2] for row in old["task"] if row[3] == State.DELAYED]
        assert await storage.cancel(cancelled)
        for task_id in delayed:
            assert await storage.reschedule(task_id, delay=0.0)
        storage.close()
        await Worker("w", storage, see).run()
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(seen) == len(set(seen)) == TASKS - 2, "one was done before, and one was cancelled"


async def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    old = await make_old(path)
    statements: list[str] = vars(schema)["_MIGRATIONS"][1]
    monkeypatch.setitem(vars(schema)["_MIGRATIONS"], 1, [*statements[:4], "DROP TABLE no_such_table"])
    with pytest.raises(BackendError):
        async with SqliteStorage[int](path, int):
            raise AssertionError("it has opened")
    assert contents(path) == old
    monkeypatch.undo()
    async with SqliteStorage[int](path, int) as storage:
        assert len(await storage.list_tasks(limit=2 * TASKS)) == TASKS
