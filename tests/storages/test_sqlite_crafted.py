"""Tests of SQLite files made by an attacker: nothing in them is executed, blocks the program, or appears in errors."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, SqliteStorage, SqliteTransaction, Status, Worker
from trio_tasks._backends.sqlite import driver as _sqlite_driver
from trio_tasks._backends.sqlite.driver import Driver, is_installed
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import KEY_SIZE, WakeupSocket

pytestmark = pytest.mark.once

DRIVERS = [
    "sqlite3",
    pytest.param("apsw", marks=pytest.mark.skipif(not is_installed("apsw"), reason="there is no apsw here")),
]
ENDLESS = "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"


def craft(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def fill(path: Path) -> None:
    async with SqliteStorage(path, str) as storage:
        await storage.push("a")


ON_OUR_TABLES = [
    "CREATE TRIGGER spy AFTER INSERT ON trio_tasks_task BEGIN SELECT 1; END",
    "CREATE TRIGGER spy BEFORE UPDATE ON TRIO_TASKS_META BEGIN SELECT 1; END",
    "CREATE VIEW late AS SELECT * FROM trio_tasks_task",
]


@pytest.mark.parametrize("statement", ON_OUR_TABLES)
@pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=["to_work", "to_look"])
async def test_what_others_have_put_on_our_tables_is_refused_unless_it_is_allowed(
    tmp_path: Path, statement: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "tasks.db"
    await fill(path)
    craft(path, statement)
    with pytest.raises(BackendError, match=r"(trigger 'spy'|view 'late').*allow_triggers=True") as caught:
        async with SqliteStorage(path, str, **options):
            raise AssertionError("it has opened")
    assert caught.value.is_final
    async with SqliteStorage(path, str, allow_triggers=True, **options) as storage:
        assert (await storage.metrics())["waiting"] == 1


async def test_a_view_in_the_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    craft(path, f"CREATE VIEW trio_tasks_meta AS {ENDLESS}")
    with pytest.raises(BackendError, match="view 'trio_tasks_meta'"):
        async with SqliteStorage(path, str, join_existing=True):
            raise AssertionError("it has opened")


async def test_triggers_and_views_on_the_users_own_tables_are_none_of_our_business(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    craft(
        path,
        "CREATE TABLE orders (n INTEGER)",
        "CREATE VIEW open_orders AS SELECT * FROM orders",
        "CREATE TRIGGER on_order AFTER INSERT ON orders BEGIN DELETE FROM orders; END",
    )
    async with SqliteStorage(path, str, join_existing=True) as storage:
        await storage.push("a")
    await fill(path)
    async with SqliteStorage(path, str) as storage:
        assert [task.args for task in await storage.list_tasks()] == ["a", "a"]
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '%order%' ORDER BY name").fetchall()
    assert kept == [("on_order",), ("open_orders",), ("orders",)]


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_driver, "_LONGEST", 0.3)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_statement_without_an_end_is_broken_off(tmp_path: Path, driver: Driver, hurry: None) -> None:
    """Such a statement held the lock, and the thread, for ever. Later requests succeed."""
    path = tmp_path / "tasks.db"
    await fill(path)
    craft(path, f"CREATE TRIGGER t AFTER INSERT ON trio_tasks_task WHEN new.priority = 7 BEGIN {ENDLESS}; END")
    async with SqliteStorage(path, str, driver=driver, allow_triggers=True) as storage:
        for _ in range(2):
            with trio.fail_after(60), pytest.raises(BackendError, match="broken off"):
                await storage.push("b", priority=7)
            await storage.push("c")
        assert (await storage.metrics())["waiting"] == 3


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_write_without_an_end_fails_its_own_attempt(tmp_path: Path, driver: Driver, hurry: None) -> None:
    async def handler(args: str, transaction: SqliteTransaction) -> None:
        if args == "endless":
            transaction.execute(ENDLESS)

    async with SqliteStorage(tmp_path / "tasks.db", str, driver=driver) as storage:
        endless = await storage.push("endless", attempts=1)
        other = await storage.push("other")
        storage.close()
        with trio.fail_after(60):
            await Worker("w", storage, handler).run()
        assert (await storage.wait_for(endless)).status is Status.Failed
        assert (await storage.wait_for(other)).status is Status.Done


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_schema_of_a_file_is_not_trusted(tmp_path: Path, driver: Driver) -> None:
    session = Session(str(tmp_path / "tasks.db"), driver, Opening("OFF"), WakeupSocket())
    now, _ = session.open()
    assert vars(session)["_connection"].execute("PRAGMA trusted_schema") == [(0,)]
    session.close(now)


# The wake-up socket


@pytest.fixture
def victim() -> Iterator[socket.socket]:
    """Somebody else's port on this machine, at which something listens."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        yield server


def received(server: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        try:
            found.append(server.recv(100_000))
        except BlockingIOError:
            time.sleep(0.005)
    return found


def test_only_keys_are_sent_and_to_so_many_at_most(tmp_path: Path, victim: socket.socket) -> None:
    path = tmp_path / "tasks.db"
    wakeup_socket = WakeupSocket()
    opened = [trio.run(_open, wakeup_socket)]
    session = Session(str(path), "sqlite3", Opening("OFF"), wakeup_socket)
    now, _ = session.open()
    port = str(victim.getsockname()[1])
    keys: list[Any] = [b"", b"DROP ALL", bytes(KEY_SIZE - 1), bytes(KEY_SIZE + 1), bytes(60_000), "t" * KEY_SIZE, 5]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = [(100 + number, port, key, 9e12) for number, key in enumerate(keys)]
        connection.executemany("INSERT INTO trio_tasks_session (num, address, key, expires) VALUES (?, ?, ?, ?)", rows)
        session.wake_others(now)
        assert received(victim) == []
        rows = [(1000 + number, port, b"k" * KEY_SIZE, 9e12) for number in range(3000)]
        connection.executemany("INSERT INTO trio_tasks_session (num, address, key, expires) VALUES (?, ?, ?, ?)", rows)
        session.wake_others(now)
    found = received(victim)
    assert 0 < len(found) <= 500
    assert set(found) == {b"k" * KEY_SIZE}
    session.close(now)
    wakeup_socket.close()
    assert opened


async def _open(wakeup_socket: WakeupSocket) -> bool:
    wakeup_socket.open()
    await trio.lowlevel.checkpoint()
    return wakeup_socket.address is not None


async def test_garbage_at_the_socket_does_not_keep_the_process_busy() -> None:
    wakeup_socket, rung = WakeupSocket(), trio.Event()
    wakeup_socket.open()
    looked = 0
    hear = wakeup_socket._received

    def count() -> bool:
        nonlocal looked
        looked += 1
        return hear()

    vars(wakeup_socket)["_received"] = count
    address = ("127.0.0.1", int(wakeup_socket.address or 0))
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wakeup_socket.listen, rung.set)
            began = trio.current_time()
            for _ in range(2000):
                sender.sendto(b"garbage", address)
                await trio.lowlevel.checkpoint()
            took = trio.current_time() - began
            assert looked < 20 + 20 * took, "it looks less and less often"
            assert not rung.is_set()
            with trio.fail_after(60):
                while not rung.is_set():
                    sender.sendto(wakeup_socket.key, address)
                    await trio.sleep(0.01)
            wakeup_socket.close()
