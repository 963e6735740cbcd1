from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    Attempt,
    DuplicateTaskError,
    Released,
    RetryPolicy,
    SqliteStorage,
    SqliteTransaction,
    Status,
    Succeeded,
    Worker,
    constant,
)

ONCE = RetryPolicy(attempts=1)


async def test_a_connection_of_another_library_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("apsw")
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, str, driver="apsw") as storage:
        connection = sqlite3.connect(f"{path}-of-somebody-else")
        with pytest.raises(TypeError, match="must be by 'apsw', as the storage's own one is"):
            storage.push_in(connection, "b")
        connection.close()
        assert (await storage.metrics())["pushed"] == 0


async def test_a_connection_beside_the_storage_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, str) as storage:
        await storage.push("a")
        connection = sqlite3.connect(path)
        with connection:
            storage.push_in(connection, "b")
        connection.close()
        assert await trio.Path(f"{path}-wal").exists()  # it is not the last one, so the log is not deleted
        assert (await storage.metrics())["pushed"] == 2


async def test_a_task_exists_exactly_if_the_transaction_that_pushed_it_commits(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with SqliteStorage(path, str, poll_interval=3600.0) as storage:
        shop = sqlite3.connect(path)
        shop.execute("CREATE TABLE orders (name TEXT)")
        with pytest.raises(ZeroDivisionError), shop:
            shop.execute("INSERT INTO orders VALUES ('lost')")
            storage.push_in(shop, "lost")
            _ = 1 / 0
        with shop:
            shop.execute("INSERT INTO orders VALUES ('kept')")
            task_id = storage.push_in(shop, "kept", priority=3, metadata={"n": 1}, unique="key")
            assert storage.push_in(shop, "again", unique="key") == task_id
            with pytest.raises(DuplicateTaskError):
                storage.push_in(shop, "again", unique="key", on_conflict="raise")
        storage.wake()
        task = await storage.receive()
        assert (task.args, task.parts.id, task.parts.priority) == ("kept", task_id, 3)
        assert task.parts.metadata == {"n": 1}
        assert (await storage.metrics())["pushed"] == 1
        assert shop.execute("SELECT name FROM orders").fetchall() == [("kept",)]
        shop.close()


async def test_outside_of_a_transaction_it_is_pushed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, str, poll_interval=3600.0) as storage:
        connection = sqlite3.connect(path, isolation_level=None)
        storage.push_in(connection, "a")
        connection.close()
        with trio.fail_after(60):
            assert (await storage.receive()).args == "a"


async def test_no_storage_that_is_not_open_pushes_anything(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "tasks.db", str)
    connection = sqlite3.connect(tmp_path / "tasks.db")
    with pytest.raises(trio.ClosedResourceError):
        storage.push_in(connection, "a")
    connection.close()


class Shop:
    """A table of the user's own in the file of the queue."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path)
        self.connection.execute("CREATE TABLE sold (number INTEGER UNIQUE)")

    def sold(self) -> list[int]:
        return [number for (number,) in self.connection.execute("SELECT number FROM sold ORDER BY number")]


async def test_writes_and_settlement_are_committed_together(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    seen_before: list[list[int]] = []

    async def sell(number: int, transaction: SqliteTransaction, nursery: trio.Nursery) -> int:
        transaction.execute("INSERT INTO sold VALUES (?)", (number,))
        transaction.call(lambda writer: writer.execute("INSERT INTO sold VALUES (?)", (number + 100,)))
        nursery.start_soon(trio.sleep, 0.01)
        seen_before.append(shop.sold())
        return number

    async with SqliteStorage(path, int) as storage:
        shop = Shop(path)
        ids = await storage.push_bulk([1, 2])
        storage.close()
        await Worker("w", storage, sell, concurrency=1).run()
        assert seen_before == [[], [1, 101]]
        assert shop.sold() == [1, 2, 101, 102]
        assert [(await storage.wait_for(task_id)).result for task_id in ids] == [1, 2]
        shop.connection.close()


async def test_what_cannot_be_written_fails_the_attempt_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    attempts: list[int] = []

    async def sell(number: int, attempt: Attempt, transaction: SqliteTransaction) -> None:
        attempts.append(attempt)
        transaction.execute("INSERT INTO sold VALUES (?)", (number + 100,))
        transaction.execute("INSERT INTO sold VALUES (?)", (number,))

    async with SqliteStorage(path, int) as storage:
        shop = Shop(path)
        with shop.connection:
            shop.connection.execute("INSERT INTO sold VALUES (1)")
        task_id = await storage.push(1)
        storage.close()
        policy = RetryPolicy(attempts=2, backoff=constant(0.0))
        report = await Worker("w", storage, sell, retry=policy).run()
        result = await storage.wait_for(task_id)
        assert (result.status, attempts) == (Status.Failed, [1, 2])
        assert "UNIQUE constraint failed" in str(result.error)
        assert (report.retried, report.failed, report.succeeded) == (1, 1, 0)
        assert shop.sold() == [1]
        shop.connection.close()


async def test_a_handler_that_fails_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"

    async def sell(number: int, transaction: SqliteTransaction) -> None:
        transaction.execute("INSERT INTO sold VALUES (?)", (number,))
        raise ValueError("no")

    async with SqliteStorage(path, int) as storage:
        shop = Shop(path)
        task_id = await storage.push(1)
        storage.close()
        await Worker("w", storage, sell, retry=ONCE).run()
        assert (await storage.wait_for(task_id)).status is Status.Failed
        assert shop.sold() == []
        shop.connection.close()


async def test_a_transaction_whose_lease_was_lost_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"

    async with SqliteStorage(path, int, lease=0.2) as storage:
        shop = Shop(path)
        await storage.push(1)
        task = await storage.receive()
        transaction = await SqliteTransaction.from_task(task)
        transaction.execute("INSERT INTO sold VALUES (1)")
        again = await storage.receive()
        assert again.parts.attempt == 2
        from trio_tasks import LeaseLostError, Succeeded

        with pytest.raises(LeaseLostError):
            await storage.settle(task, Succeeded(None))
        assert shop.sold() == []
        shop.connection.close()


async def test_only_tasks_of_an_sqlite_storage_have_a_transaction() -> None:
    from trio_tasks import Task

    task: Task[Any] = Task(1)
    with pytest.raises(TypeError, match="needs a task from a SqliteStorage"):
        await SqliteTransaction.from_task(task)


async def test_what_was_replaced_while_it_ran_has_not_forgotten_its_key(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", str) as storage:
        old = await storage.push("old", unique="key")
        task = await storage.receive()
        new = await storage.push("new", unique="key", on_conflict="replace")
        await storage.settle(task, Released())
        assert (await storage.wait_for(old)).status is Status.Killed
        with pytest.raises(DuplicateTaskError, match=new):
            await storage.resume_by_id(old)
        await storage.settle(await storage.receive(), Succeeded(None))
        assert await storage.resume_by_id(old)
        assert await storage.push("newer", unique="key") == old
        assert (await storage.metrics())["waiting"] == 1
