"""Tests of push_in over each kind of connection, in each kind of thread: rolled back, locked out, closed, forked."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.orm
import trio
from trio_tasks import Router, SqliteStorage, Worker

FAR = 120.0  # seconds between two looks at the file, so that none of them helps

tasks = Router()


@tasks.task
async def ship(order: str) -> str:
    return order


# Connections


class Transaction(ABC):
    """A transaction of the program, over a connection of its own to the file."""

    connection: Any

    @abstractmethod
    def execute(self, sql: str) -> object: ...
    @abstractmethod
    def end(self) -> None: ...

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


class BySqlite3(Transaction):
    def __init__(self, path: Path, timeout: float) -> None:
        self.connection = sqlite3.connect(path, timeout=timeout)

    def execute(self, sql: str) -> object:
        return self.connection.execute(sql)

    def end(self) -> None:
        self.connection.close()


class BySqlalchemy(Transaction):
    def __init__(self, path: Path, timeout: float) -> None:
        self._engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": timeout})
        self.connection = sqlalchemy.orm.Session(self._engine)

    def execute(self, sql: str) -> object:
        return self.connection.execute(sqlalchemy.text(sql))

    def end(self) -> None:
        self.connection.close()
        self._engine.dispose()


class ByDjango(Transaction):
    def __init__(self, path: Path, timeout: float) -> None:
        import django
        from django.conf import settings
        from django.db.utils import ConnectionHandler

        if not settings.configured:
            settings.configure(LOGGING_CONFIG=None)
            django.setup()
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": {"timeout": timeout}}
        self.connection = ConnectionHandler({"default": database})["default"]
        self.connection.set_autocommit(False)

    def execute(self, sql: str) -> object:
        with self.connection.cursor() as cursor:
            return cursor.execute(sql)

    def end(self) -> None:
        self.connection.close()


KINDS: dict[str, Callable[[Path, float], Transaction]] = {
    "sqlite3": BySqlite3,
    "sqlalchemy": BySqlalchemy,
    "django": ByDjango,
}


@contextmanager
def transaction(kind: str, path: Path, timeout: float = 30) -> Iterator[Transaction]:
    made = KINDS[kind](path, timeout)
    try:
        yield made
    finally:
        made.end()


# Threads


async def in_a_thread_of_trio(work: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(work)


async def in_a_thread_of_the_program(work: Callable[[], None]) -> None:
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    assert not raised


async def in_a_second_trio_run(work: Callable[[], None]) -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        work()

    await trio.to_thread.run_sync(trio.run, main)


async def in_a_thread_of_a_second_trio_run(work: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(trio.run, in_a_thread_of_trio, work)


PLACES: dict[str, Callable[[Callable[[], None]], Awaitable[None]]] = {
    each.__name__.removeprefix("in_"): each
    for each in (
        in_a_thread_of_trio,
        in_a_thread_of_the_program,
        in_a_second_trio_run,
        in_a_thread_of_a_second_trio_run,
    )
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE orders (name)")
    return path


def stored(path: Path, table: str, column: str) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [value for (value,) in db.execute(f"SELECT {column} FROM {table} ORDER BY rowid")]


def opened(path: Path) -> Any:
    return tasks.open(SqliteStorage(path, join_existing=True, poll_interval=FAR))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_shares_the_fate_of_its_order(kind: str, place: str, path: Path) -> None:
    async with opened(path) as queues:

        def work() -> None:
            with transaction(kind, path) as mine:
                for name, end in (("lost", mine.rollback), ("kept", mine.commit)):
                    mine.execute(f"INSERT INTO orders VALUES ('{name}')")
                    queues.push_in(mine.connection, ship.bind(name), id=name)
                    assert "lost" not in stored(path, "trio_tasks_task", "id")  # others do not see it yet
                    end()
            queues.wake()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                [worker] = queues.make_workers({"default": 1})
                await nursery.start(worker.run)
                await PLACES[place](work)
                assert await ship.result(queues, "kept") == "kept"
                queues.close()
        assert stored(path, "orders", "name") == ["kept"]
        assert stored(path, "trio_tasks_task", "id") == ["kept"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lock_of_another_process_is_the_drivers_own_error_and_the_next_try_succeeds(
    kind: str, path: Path
) -> None:
    async with opened(path) as queues:

        def work() -> None:
            with transaction(kind, path, timeout=0) as mine:
                with closing(sqlite3.connect(path, isolation_level=None)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                        queues.push_in(mine.connection, ship.bind("a"))
                    other.execute("ROLLBACK")
                mine.rollback()
                queues.push_in(mine.connection, ship.bind("b"), id="b")
                mine.commit()

        await trio.to_thread.run_sync(work)
    assert stored(path, "trio_tasks_task", "id") == ["b"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_closed_storage_refuses_and_the_transaction_goes_on_without_it(kind: str, path: Path) -> None:
    def work() -> None:
        with transaction(kind, path) as mine:
            mine.execute("INSERT INTO orders VALUES ('before')")
            with pytest.raises(trio.ClosedResourceError):
                queues.push_in(mine.connection, ship.bind("a"))
            mine.execute("INSERT INTO orders VALUES ('after')")
            mine.commit()
            queues.wake()

    async with opened(path) as queues:
        queues.close()
        await trio.to_thread.run_sync(work)
    await trio.to_thread.run_sync(work)
    assert stored(path, "orders", "name") == ["before", "after"] * 2
    assert stored(path, "trio_tasks_task", "id") == []


async def test_what_a_failed_attempt_of_a_sync_handler_has_pushed_is_gone(path: Path) -> None:
    attempts: list[int] = []

    async with SqliteStorage(path, str, queue="first", join_existing=True) as storage:
        second = storage.share(str, queue="second")

        def handle(name: str) -> None:
            with transaction("sqlalchemy", path) as mine:
                mine.execute(f"INSERT INTO orders VALUES ('{name}')")
                second.push_in(mine.connection, name)
                attempts.append(1)
                if len(attempts) == 1:
                    raise ConnectionError("before the commit")
                mine.commit()

        await storage.push("a lamp", attempts=2)
        storage.close()
        await Worker("w", storage, handle).run()
        assert (await second.metrics())["waiting"] == 1
    assert stored(path, "orders", "name") == ["a lamp"]


FORK = """
import os, sqlite3, sys, warnings
import sqlalchemy, sqlalchemy.orm, trio
from trio_tasks import Router, SqliteStorage

warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, and the child does without them
tasks = Router()
path = sys.argv[1]

@tasks.task
async def ship(order: str) -> str: ...

def is_refused(fn, *args):
    try:
        fn(*args)
    except RuntimeError as error:
        return "cannot be used after a fork" in str(error)

def is_child_refused(queues):
    child = os.fork()
    if child == 0:
        session = sqlalchemy.orm.Session(sqlalchemy.create_engine(f"sqlite:///{path}"))
        calls = [(queues.push_in, session, ship.bind("a")), (queues.push_in, sqlite3.connect(path), ship.bind("a"))]
        os._exit(0 if all(is_refused(*call) for call in [*calls, (queues.wake,)]) else 1)
    return os.waitpid(child, 0)[1] == 0

def work(queues):
    session = sqlalchemy.orm.Session(sqlalchemy.create_engine(f"sqlite:///{path}"))
    queues.push_in(session, ship.bind("kept"))
    assert is_child_refused(queues)  # in the middle of the transaction of its parent
    session.commit()
    queues.wake()

async def main():
    async with tasks.open(SqliteStorage(path, join_existing=True)) as queues:
        await trio.to_thread.run_sync(work, queues)
        assert (await queues["default"].metrics())["waiting"] == 1

trio.run(main)
"""


@pytest.mark.real
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_in_a_thread_is_refused_and_leaves_the_transaction_of_its_parent_alone(path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORK, str(path)], check=True)
    assert len(stored(path, "trio_tasks_task", "id")) == 1
