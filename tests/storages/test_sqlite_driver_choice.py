"""Tests of the choice of the SQLite driver, the warning about its fault, and the ban on two drivers for one file."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, SqliteStorage
from trio_tasks._backends.sqlite import driver as _sqlite_driver, engine as _sqlite_engine
from trio_tasks._backends.sqlite.driver import has_reset_race, is_installed
from trio_tasks._backends.sqlite.wakeup import WakeupSocket, is_answered

from tests.storages import _child as programs
from tests.storages._child import child

needs_apsw = pytest.mark.skipif(not is_installed("apsw"), reason="there is no apsw here")


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SQLite that has the fault, and nobody has been told yet."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    monkeypatch.setattr(_sqlite_engine, "_WARNED", set())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_older_sqlite_is_told_of_where_another_living_process_has_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / "tasks.db", tmp_path / "other.db"
    async with child(programs.work_without_a_net, path) as worker:
        assert await worker.hear_of("works")
        async with SqliteStorage(path, float):
            [warning] = warnings(caplog)
            for part in (str(path), "3.40.1", "very rarely", "https://sqlite.org/wal.html#walresetbug"):
                assert part in warning
        async with SqliteStorage(path, float), SqliteStorage(other, float):
            assert len(warnings(caplog)) == 1, "once in a process"


async def test_there_is_no_warning_where_the_other_processes_have_died(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This happens when a program is started again after it was killed."""
    path = tmp_path / "tasks.db"
    async with child(programs.work_without_a_net, path) as worker:
        assert await worker.hear_of("works")
        worker.process.kill()
        await worker.process.wait()
    async with SqliteStorage(path, float), SqliteStorage(path, float):
        assert warnings(caplog) == []


async def test_a_sound_sqlite_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    path = tmp_path / "tasks.db"
    async with child(programs.work_without_a_net, path) as worker:
        assert await worker.hear_of("works")
        async with SqliteStorage(path, float):
            assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_the_versions_that_have_the_fault(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], expected: bool
) -> None:
    monkeypatch.setattr(_sqlite_driver, "version", lambda _: version)
    assert has_reset_race("sqlite3") is expected


async def test_only_another_process_answers_at_an_address(tmp_path: Path) -> None:
    wakeup_socket = WakeupSocket()
    wakeup_socket.open()
    address, key = wakeup_socket.address, wakeup_socket.key
    assert address is not None
    assert is_answered(address, key) is False, "that is this process"
    assert is_answered(None, key) is None
    wakeup_socket.close()
    assert is_answered(address, key) is False, "nobody is there"
    for nonsense in ("", "x", "-1", "70000", 2.5, b"9"):
        odd: Any = nonsense
        assert is_answered(odd, key) is False


@needs_apsw
@pytest.mark.parametrize("drivers", [("sqlite3", "apsw"), ("apsw", "sqlite3")])
async def test_two_drivers_are_not_let_at_one_file(tmp_path: Path, drivers: tuple[Any, Any]) -> None:
    first, second = drivers
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, str, driver=first) as storage:
        for options in ({}, {"read_only": True}):
            odd: dict[str, Any] = options
            with pytest.raises(BackendError, match=f"by '{first}', and cannot be by '{second}' as well") as caught:
                await SqliteStorage(path, str, driver=second, **odd).__aenter__()
            assert caught.value.is_final
        async with SqliteStorage(path, str, driver=first), SqliteStorage(tmp_path / "other.db", str, driver=second):
            await storage.push("a")
        with pytest.raises(BackendError, match="cannot be by"):
            await SqliteStorage(path, str, driver=second).__aenter__()
    async with SqliteStorage(path, str, driver=second) as storage:
        assert (await storage.metrics())["waiting"] == 1


@needs_apsw
async def test_a_file_that_could_not_be_opened_is_not_in_use(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (n INTEGER)")
    with pytest.raises(BackendError, match="not ours"):
        await SqliteStorage(path, str, driver="sqlite3").__aenter__()
    async with SqliteStorage(path, str, driver="apsw", join_existing=True) as storage:
        await storage.push("a")
    await trio.lowlevel.checkpoint()
