"""Tests of push_in and wake in any thread and over wrapped connections, and of the storage without trio."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.orm
import trio
import trio.testing
from trio_tasks import (
    BackendError,
    DuplicateTaskError,
    EncodeError,
    Pushed,
    SqliteStorage,
    Status,
    TaskId,
    UnknownTaskError,
    Worker,
)
from trio_tasks._backends.sqlite import session as _sqlite_session

FAR = 30.0  # seconds between two looks at the file: who is not woken is late


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def waiting(path: Path) -> list[str]:
    """The ids of all tasks in the file."""
    with closing(sqlite3.connect(path)) as db:
        return [text for (text,) in db.execute("SELECT id FROM trio_tasks_task ORDER BY seq")]


# Threads


def in_transaction(storage: SqliteStorage[str], path: Path, args: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        storage.push_in(db, args)
    storage.wake()


async def test_push_in_and_wake_work_in_any_thread(path: Path) -> None:
    async with SqliteStorage(path, str, poll_interval=FAR) as storage:
        other = threading.Thread(target=in_transaction, args=(storage, path, "of a thread"))
        with trio.fail_after(60):
            await trio.to_thread.run_sync(in_transaction, storage, path, "of trio's thread")
            assert (await storage.receive()).args == "of trio's thread"
            async with trio.open_nursery() as nursery:
                received: list[str] = []

                async def receive() -> None:
                    received.append((await storage.receive()).args)

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                other.start()
            assert received == ["of a thread"]
        await trio.to_thread.run_sync(other.join)


async def test_push_in_works_in_a_second_trio_run(path: Path) -> None:
    async with SqliteStorage(path, str, poll_interval=FAR) as storage:

        async def elsewhere() -> None:
            await trio.lowlevel.checkpoint()
            in_transaction(storage, path, "a")

        await trio.to_thread.run_sync(trio.run, elsewhere)
        with trio.fail_after(60):
            assert (await storage.receive()).args == "a"


async def test_a_sync_handler_pushes_in_its_own_transaction(path: Path) -> None:
    async with SqliteStorage(path, int, poll_interval=FAR) as storage:

        def count_down(number: int) -> int:
            if number:
                with closing(sqlite3.connect(path)) as db, db:
                    db.execute("CREATE TABLE IF NOT EXISTS seen (number)")
                    db.execute("INSERT INTO seen VALUES (?)", (number,))
                    storage.push_in(db, number - 1)
                storage.wake()
            else:
                storage.close()
            return number

        await storage.push(3)
        with trio.fail_after(60):
            await Worker("w", storage, count_down).run()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT number FROM seen").fetchall() == [(3,), (2,), (1,)]


async def test_a_closed_storage_refuses_in_a_thread_and_wakes_no_process(path: Path) -> None:
    async with SqliteStorage(path, str) as storage:
        storage.close()
        with pytest.raises(trio.ClosedResourceError):
            await trio.to_thread.run_sync(in_transaction, storage, path, "a")
    with pytest.raises(trio.ClosedResourceError):
        await trio.to_thread.run_sync(in_transaction, storage, path, "a")
    storage.wake()
    await trio.to_thread.run_sync(storage.wake)
    assert waiting(path) == []


async def test_what_a_refused_push_in_leaves_is_the_users_own(path: Path) -> None:
    """A duplicate, a value that does not fit, or another file: the user's transaction goes on, without the task."""
    async with SqliteStorage(path, str) as storage:
        await storage.push("a", id="known")

        def work() -> None:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("CREATE TABLE orders (name)")
                db.execute("INSERT INTO orders VALUES ('kept')")
                with pytest.raises(DuplicateTaskError):
                    storage.push_in(db, "b", id="known")
                wrong: Any = 5
                with pytest.raises(EncodeError):
                    storage.push_in(db, wrong)
                db.execute("INSERT INTO orders VALUES ('too')")
                with closing(sqlite3.connect(f"{path}2")) as other, pytest.raises(ValueError, match="must be to"):
                    storage.push_in(other, "c")
            with closing(sqlite3.connect(path)) as db:
                with pytest.raises(DuplicateTaskError):
                    storage.push_in(db, "b", id="known")
                assert not db.in_transaction  # it was opened for the push alone
                assert db.execute("SELECT name FROM orders").fetchall() == [("kept",), ("too",)]

        await trio.to_thread.run_sync(work)
        assert waiting(path) == ["known"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def test_a_lock_of_another_connection_is_the_drivers_own_error(path: Path) -> None:
    async with SqliteStorage(path, str, join_existing=True) as storage:

        def work() -> None:
            levels: list[Any] = ["", "IMMEDIATE", None]
            for level in levels:
                with closing(sqlite3.connect(path, timeout=0, isolation_level=level)) as db:
                    with locked(path), pytest.raises(sqlite3.OperationalError, match="locked"):
                        storage.push_in(db, "a")
                    assert not db.in_transaction
                    storage.push_in(db, "b")
                    db.commit()

        await trio.to_thread.run_sync(work)
        assert len(waiting(path)) == 3


# Who opens the transaction


def legacy(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path)


def immediate(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level="IMMEDIATE")


def modern(path: Path) -> sqlite3.Connection:
    options: dict[str, Any] = {"autocommit": False} if sys.version_info >= (3, 12) else {}
    connection: sqlite3.Connection = sqlite3.connect(path, **options)
    return connection


@pytest.mark.parametrize("connect", [legacy, immediate, modern])
@pytest.mark.parametrize("statement", ["", "SELECT 1", "UPDATE trio_tasks_meta SET value = 5 WHERE name = 'no'"])
async def test_what_is_rolled_back_was_never_pushed(
    path: Path, connect: Callable[[Path], sqlite3.Connection], statement: str
) -> None:
    """This holds even if the push is the first write: sqlite3 begins no transaction before a savepoint, and would
    commit it.
    """
    async with SqliteStorage(path, str) as storage:
        with closing(connect(path)) as db:
            db.execute(statement)
            storage.push_in(db, "lost")
            db.rollback()
            assert waiting(path) == []
            db.execute(statement)
            kept = storage.push_in(db, "kept")
            assert waiting(path) == []
            db.commit()
            assert waiting(path) == [kept]


# SQLAlchemy


@pytest.fixture
def engine(path: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


def insert(storage: SqliteStorage[str], owner: Any, args: str, before: str) -> None:
    if before:
        owner.execute(sqlalchemy.text(before))
    storage.push_in(owner, args)


STATEMENTS = {"nothing": "", "read": "SELECT 1", "write": "INSERT INTO orders VALUES ('x')"}


@pytest.mark.parametrize("before", STATEMENTS.values(), ids=STATEMENTS.keys())
@pytest.mark.parametrize("kind", ["connection", "session", "scoped"])
async def test_a_push_over_sqlalchemy_shares_the_fate_of_its_transaction(
    path: Path, engine: sqlalchemy.Engine, kind: str, before: str
) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "connection": engine.connect,
        "session": lambda: sqlalchemy.orm.Session(engine),
        "scoped": sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(engine)),
    }
    async with SqliteStorage(path, str, poll_interval=FAR) as storage:

        def work() -> None:
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text("CREATE TABLE orders (name)"))
            for is_kept in (False, True):
                owner = makers[kind]()
                insert(storage, owner, "a", before)
                assert waiting(path) == []
                if is_kept:
                    owner.commit()
                else:
                    owner.rollback()
                owner.close()
                assert len(waiting(path)) == is_kept
            with engine.begin() as connection, connection.begin_nested() as savepoint:
                insert(storage, connection, "b", before)
                savepoint.rollback()
            assert len(waiting(path)) == 1
            storage.wake()

        await trio.to_thread.run_sync(work)
        with trio.fail_after(60):
            assert (await storage.receive()).args == "a"


async def test_a_push_over_sqlalchemy_that_commits_each_statement_is_there_at_once(path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    async with SqliteStorage(path, str, poll_interval=FAR) as storage:

        def work() -> None:
            with engine.connect() as connection:
                storage.push_in(connection, "a")
                assert len(waiting(path)) == 1
            engine.dispose()

        await trio.to_thread.run_sync(work)
        with trio.fail_after(60):
            assert (await storage.receive()).args == "a"


class AsyncSession:
    """A session as in SQLAlchemy's asyncio extension."""

    async def connection(self) -> object:
        await trio.lowlevel.checkpoint()
        return None


@pytest.mark.parametrize(
    "wrong", [None, 5, "shop.db", object(), AsyncSession()], ids=["None", "int", "path", "object", "async"]
)
async def test_what_is_no_connection_is_refused(path: Path, wrong: object) -> None:
    async with SqliteStorage(path, str) as storage:
        with pytest.raises(TypeError, match=r"must be by 'sqlite3'|with sync methods"):
            storage.push_in(wrong, "a")


# Django


DJANGO = """
import sys, trio
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}})
django.setup()
from django.db import connection, transaction
from trio_tasks import SqliteStorage

with SqliteStorage.open_sync(sys.argv[1], str) as storage:
    try:
        with transaction.atomic():
            storage.push_in(connection, "lost")
            raise LookupError
    except LookupError:
        pass
    with transaction.atomic():
        storage.push_in(connection, "kept", id="kept")
        transaction.on_commit(storage.wake)
    storage.push_in(connection, "at once", id="at once")
connection.close()
"""


@pytest.mark.real
async def test_a_push_over_django_shares_the_fate_of_its_transaction(path: Path) -> None:
    pytest.importorskip("django")
    await trio.run_process([sys.executable, "-c", DJANGO, str(path)])
    assert waiting(path) == ["kept", "at once"]


# Forks


FORK = """
import os, sqlite3, sys, warnings
import trio
import trio.testing
from trio_tasks import SqliteStorage

warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, and the child does without them

def refused(fn, *args):
    try:
        fn(*args)
    except RuntimeError as error:
        return "cannot be used after a fork" in str(error)

def is_child_refused(storage):
    child = os.fork()
    if child == 0:
        db = sqlite3.connect(sys.argv[1])
        calls = [(storage.push_in, db, "a"), (storage.wake,)]
        if hasattr(storage, "fetch_by_id") and not hasattr(storage, "receive"):
            calls += [(storage.push, "a"), (storage.fetch_by_id, "x"), (storage.wait_for, "x")]
            storage.close()
        os._exit(0 if all(refused(*call) for call in calls) else 1)
    return os.waitpid(child, 0)[1] == 0

async def main():
    async with SqliteStorage(sys.argv[1], str) as storage:
        assert is_child_refused(storage)
        await storage.push("b")

trio.run(main)
with SqliteStorage.open_sync(sys.argv[1], str) as storage:
    assert is_child_refused(storage)
    storage.push("c")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
async def test_after_a_fork_each_of_them_is_refused(path: Path) -> None:
    await trio.run_process([sys.executable, "-c", FORK, str(path)])
    assert len(waiting(path)) == 2


# Without trio


@dataclass
class Mail:
    to: str


def test_the_sync_storage_pushes_fetches_and_waits(path: Path) -> None:
    with SqliteStorage.open_sync(path, Mail, queue="mail") as storage:
        first = storage.push(Mail("a"), priority=3, metadata={"n": 1})
        many = storage.push_bulk([Mail("b"), Mail("c")])
        assert storage.push(Mail("d"), id="d", unique="key") == "d"
        assert storage.push(Mail("e"), unique="key") == "d"
        assert storage.push_or_get(Mail("e"), unique="key") == Pushed(TaskId("d"), False)
        assert storage.push_or_get(Mail("e"), id="e", delay=100.0) == Pushed(TaskId("e"), True)
        with pytest.raises(DuplicateTaskError):
            storage.push(Mail("d"), id="d")
        wrong: Any = "a"
        with pytest.raises(EncodeError, match="args must be Mail, not str"):
            storage.push(wrong)
        with pytest.raises(TypeError, match=r"SyncSqliteStorage\.push has no option 'colour'"):
            storage.push(Mail("f"), colour=1)  # type: ignore[call-arg]  # as users do
        task = storage.fetch_by_id(first)
        assert task is not None
        assert (task.args, task.parts.priority) == (Mail("a"), 3)
        assert task.parts.metadata == {"n": 1}
        assert storage.fetch_by_id("nobody") is None
        with pytest.raises(UnknownTaskError):
            storage.wait_for("nobody")
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.01 s"):
            storage.wait_for(first, timeout=0.01)
        assert waiting(path) == [first, *many, "d", "e"]
        assert repr(storage) == f"<SyncSqliteStorage at {str(path)!r}, queue 'mail', open>"
    storage.close()
    with pytest.raises(trio.ClosedResourceError):
        storage.push(Mail("g"))
    with pytest.raises(trio.ClosedResourceError), storage:
        pass


async def test_workers_are_woken_by_the_sync_storage_and_it_hears_of_results(path: Path) -> None:
    async def send(mail: Mail) -> str:
        if mail.to == "nobody":
            raise LookupError("no such address")
        await trio.lowlevel.checkpoint()
        return f"sent to {mail.to}"

    def web_request() -> tuple[str, Status, str]:
        with SqliteStorage.open_sync(path, Mail) as storage, closing(sqlite3.connect(path)) as db:
            with db:
                task_id = storage.push_in(db, Mail("a"))
            storage.wake()
            result: str = storage.wait_for(task_id, timeout=20).unwrap()
            ended = storage.wait_for(storage.push(Mail("nobody"), attempts=1), timeout=20)
            task = storage.fetch_by_id(ended.id)
            assert task is not None
            return result, ended.status, str(task.parts.context.error)

    async with SqliteStorage(path, Mail, poll_interval=FAR) as storage, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, send).run)
        assert await trio.to_thread.run_sync(web_request) == ("sent to a", Status.Failed, "no such address")
        storage.close()


def test_many_threads_share_a_sync_storage(path: Path) -> None:
    with SqliteStorage.open_sync(path, int) as storage:
        threads = [threading.Thread(target=lambda: [storage.push(n) for n in range(20)]) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(waiting(path)) == 160


def test_a_lock_of_another_connection_is_an_error_of_the_sync_storage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqliteStorage.open_sync(path, int) as storage:
        monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", 0.05)
        with locked(path):
            with pytest.raises(BackendError, match="is locked by another connection"):
                storage.push(1)
            assert storage.fetch_by_id("a") is None  # to look needs no lock
        storage.push(2)
    assert len(waiting(path)) == 1


def test_a_sync_storage_needs_no_trio_run_and_no_thread(path: Path) -> None:
    program = (
        "import sys, threading\n"
        "from trio_tasks import SqliteStorage\n"
        "with SqliteStorage.open_sync(sys.argv[1], int) as storage:\n"
        "    storage.push(1)\n"
        "    assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert len(waiting(path)) == 1
