"""Tests of opening an SQLite file: it is checked before SQLite touches it, and read-only use changes nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, SqliteStorage, Status, Succeeded, Worker
from trio_tasks._backends.sqlite.driver import is_installed
from trio_tasks._concurrency.exception_groups import leaves

from tests.storages._child import Child
from tests.storages._store_files import (
    LOSSES,
    NO_FILES,
    ROOT,
    as_another_account,
    command_of_another_account,
    contents,
    delete,
    make_directory,
    modes,
    names,
    needs_root,
    owners,
    public_directory,
    set_mode,
    write,
)

pytestmark = pytest.mark.once

DRIVERS = [
    "sqlite3",
    pytest.param("apsw", marks=pytest.mark.skipif(not is_installed("apsw"), reason="there is no apsw here")),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A file in a directory that everybody may look into."""
    with public_directory() as directory:
        yield directory / "tasks.db"


async def fill(path: Path) -> None:
    async with SqliteStorage(path, str) as storage:
        await storage.push_bulk(["a", "b"])


# Refused before anything is made


@needs_root
async def test_an_account_that_may_only_read_leaves_nothing_behind(place: Path) -> None:
    """SQLite would make a log that belongs to this account, and then the owner could not open the file any more."""
    await fill(place)
    set_mode(place.parent, 0o777)
    set_mode(place, 0o644)
    assert "read-only for this account" in as_another_account(SqliteStorage, place)
    assert names(place) == {place.name}
    os.chown(place, 1, 1)
    assert as_another_account(SqliteStorage, place, 1) == "['a', 'b']", "the owner is not locked out"


@needs_root
async def test_a_log_of_another_account_is_named(place: Path) -> None:
    await fill(place)
    set_mode(place.parent, 0o777)
    set_mode(place, 0o666)
    write(Path(f"{place}-wal"))
    assert "tasks.db-wal' may not be written to by this account" in as_another_account(SqliteStorage, place)


async def test_a_file_is_not_made_where_none_is_to_be(place: Path) -> None:
    for option, value in (("create", False), ("read_only", True)):
        options: dict[str, Any] = {option: value}
        with pytest.raises(BackendError, match="does not exist, and create=False") as caught:
            await SqliteStorage(place, str, **options).__aenter__()
        assert caught.value.is_final and caught.value.is_missing
        assert names(place) == set()
        write(place)
        with pytest.raises(BackendError, match="is empty") as caught:
            await SqliteStorage(place, str, **options).__aenter__()
        assert caught.value.is_missing
        assert contents(place) == {place.name: b""}
        delete(place)
    await fill(place)
    async with SqliteStorage(place, str, create=False) as storage:
        assert await storage.push("c")


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("read_only", [False, True])
async def test_what_is_no_regular_file_is_refused_and_left_alone(place: Path, make: Any, read_only: bool) -> None:
    make(place)
    before, found = os.lstat(place), names(place)
    with trio.fail_after(60), pytest.raises(BackendError, match=r"a FIFO|a socket|a directory|symbolic links"):
        async with SqliteStorage(place, str, read_only=read_only):
            raise AssertionError("it has opened")
    assert names(place) == found
    assert os.path.samestat(os.lstat(place), before)


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o640, 0o640), (0o666, 0o666)])
async def test_a_new_file_and_those_beside_it_have_the_mode_that_is_asked_for(
    place: Path, mode: int | None, expected: int
) -> None:
    options: dict[str, Any] = {} if mode is None else {"mode": mode}
    async with SqliteStorage(place, str, **options) as storage:
        await storage.push("a")
        found = modes(place)
    assert found == dict.fromkeys(["tasks.db", "tasks.db-wal", "tasks.db-shm"], expected)


@pytest.mark.parametrize("mode", [0o400, 0, 0o10600, -1, True, "600"])
def test_a_mode_that_is_none_is_refused(place: Path, mode: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="mode must"):
        SqliteStorage(place, str, mode=mode)


# Only looking


@pytest.mark.parametrize("driver", DRIVERS)
async def test_looking_changes_nothing(place: Path, driver: Any) -> None:
    await fill(place)
    before = contents(place)
    async with SqliteStorage(place, str, read_only=True, driver=driver) as storage:
        tasks = await storage.list_tasks()
        assert sorted(task.args for task in tasks) == ["a", "b"]
        assert (await storage.metrics())["waiting"] == 2
        assert (await storage.list_queues(), await storage.list_workers()) == (["default"], [])
        found = await storage.fetch_by_id(tasks[0].parts.id)
        assert found is not None and found.parts.status is Status.Pending
        for change in (
            lambda: storage.push("c"),
            storage.receive,
            storage.vacuum,
            storage.resume_abandoned,
            lambda: storage.cancel(tasks[0].parts.id),
            lambda: storage.reschedule(tasks[0].parts.id, 1.0),
        ):
            with trio.fail_after(60), pytest.raises(BackendError, match="read_only=True"):
                await change()
        with closing(sqlite3.connect(place)) as connection, pytest.raises(BackendError, match="read_only=True"):
            storage.push_in(connection, "c")
    assert contents(place)[place.name] == before[place.name]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_reader_sees_what_writers_do(place: Path, driver: Any) -> None:
    async with (
        SqliteStorage(place, str, driver=driver) as busy,
        SqliteStorage(place, str, driver=driver, read_only=True, poll_interval=0.01) as looker,
    ):
        task_id = await busy.push("a")
        assert [task.args for task in await looker.list_tasks()] == ["a"]
        if driver == "sqlite3":
            with closing(sqlite3.connect(place)) as connection:
                sessions = connection.execute("SELECT count(*) FROM trio_tasks_session").fetchall()
            assert sessions == [(1,)], "who only looks has none"
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with trio.fail_after(60):
                    assert (await looker.wait_for(task_id)).result == "done"

            nursery.start_soon(wait)
            await busy.settle(await busy.receive(), Succeeded("done"))


async def test_an_older_file_is_not_migrated_by_a_reader(place: Path) -> None:
    await fill(place)
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute("UPDATE trio_tasks_meta SET value = 1 WHERE name = 'version'")
    with pytest.raises(BackendError, match="older trio_tasks") as caught:
        async with SqliteStorage(place, str, read_only=True):
            raise AssertionError("it has opened")
    assert caught.value.is_outdated and not caught.value.is_missing


async def test_a_database_without_our_tables_is_not_looked_into(place: Path) -> None:
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("CREATE TABLE orders (n INTEGER)")
    before = contents(place)
    with pytest.raises(BackendError, match="none of the tables"):
        async with SqliteStorage(place, str, read_only=True):
            raise AssertionError("it has opened")
    assert contents(place) == before


@needs_root
@pytest.mark.parametrize("directory", [0o755, 0o777])
async def test_an_account_that_may_only_read_looks_and_makes_nothing(place: Path, directory: int) -> None:
    """This holds while no process has the file open, while one has, and after that."""
    await fill(place)
    set_mode(place.parent, directory)
    set_mode(place, 0o644)
    assert as_another_account(SqliteStorage, place, read_only=True) == "['a', 'b']"
    assert names(place) == {place.name}
    command = command_of_another_account(SqliteStorage, place, read_only=True)
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, cwd=ROOT)
    looker = Child(process)
    try:
        with trio.fail_after(60):
            assert await looker.hear() == "['a', 'b']"
            async with SqliteStorage(place, str) as storage:
                await storage.push("c")
                await looker.tell("look")
                assert await looker.hear() == "['a', 'b', 'c']"
                await storage.push("d")
                await looker.tell("look")
                assert await looker.hear() == "['a', 'b', 'c', 'd']"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
    assert owners(place) == {(os.geteuid(), os.getegid())}, names(place)


# A file that is not there any more


def delete_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("lose", [*LOSSES, delete_log])
async def test_what_goes_into_a_file_that_is_not_there_is_not_acknowledged(
    tmp_path: Path, lose: Callable[[Path], None], driver: Any
) -> None:
    path = tmp_path / "here" / "tasks.db"
    make_directory(path.parent)
    async with SqliteStorage(path, str, driver=driver) as storage:
        await storage.push("a")
        lose(path)
        for _ in range(2):
            with pytest.raises(BackendError, match="deleted, moved or replaced"):
                await storage.push("b")


async def test_a_worker_on_a_file_that_is_not_there_ends(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    done: list[str] = []

    async def handler(args: str) -> None:
        done.append(args)
        delete(path)

    async with SqliteStorage(path, str) as storage:
        await storage.push("a")
        error: Exception | None = None
        with trio.fail_after(60):
            try:
                await Worker("w", storage, handler).run()
            except Exception as caught:
                error = caught
    assert error is not None
    assert all("deleted, moved or replaced" in str(each) for each in leaves(error))
    assert done == ["a"]
