"""Tests of an SQLite file with many users: nobody holds the lock for long, waits longer than configured, or fills the
disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, Killed, Limits, Retried, SqliteStorage, Status, Succeeded, Task
from trio_tasks._backends.durable import exchange_loop as _exchange_loop
from trio_tasks._backends.durable.engine import ClaimRequest, Exchange
from trio_tasks._backends.sqlite import (
    exchange as _sqlite_exchange,
    operations as _sqlite_operations,
    session as _sqlite_session,
)
from trio_tasks._backends.sqlite.wakeup import News, WakeupSocket

from tests._progress import until

DEAD = 600


async def add_dead_letters(storage: SqliteStorage[int], number: int = DEAD) -> None:
    """Have so many dead letters."""
    await storage.push_bulk(range(number))
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(storage.settle, await storage.receive(), Killed(ValueError("boom")))


def abandon(path: Path, number: int) -> None:
    """Have so many orphans."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE trio_tasks_task SET state = 2, attempt = 1, token = 1, due = 1.0, worker = 'dead' WHERE seq IN "
            "(SELECT seq FROM trio_tasks_task WHERE state = 0 LIMIT ?)",
            (number,),
        )
        connection.execute("UPDATE trio_tasks_queue SET running = running + ?", (number,))


@pytest.mark.parametrize("work", ["vacuum", "resume_abandoned"])
async def test_long_work_lets_others_go_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    """Other operations of this process run in between, and so do those of another process, which must find the lock
    free.
    """
    monkeypatch.setattr(_sqlite_operations, "_FORGOTTEN", 20)
    monkeypatch.setattr(_sqlite_exchange, "_MOST_DUE", 20)
    path = tmp_path / "tasks.db"
    async with (
        SqliteStorage[int](path, int, synchronous="OFF") as storage,
        SqliteStorage[int](path, int, queue="other", synchronous="OFF") as other,
    ):
        if work == "vacuum":
            await add_dead_letters(storage)
        else:
            await storage.push_bulk(range(DEAD))
            abandon(path, DEAD)
        beside, pushed = storage.share(int, queue="third"), {"beside": 0, "elsewhere": 0}

        async def push(name: str, queue: SqliteStorage[int]) -> None:
            while True:
                await queue.push(0)
                pushed[name] += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, "beside", beside)
            nursery.start_soon(push, "elsewhere", other)
            assert await getattr(storage, work)() == DEAD
            nursery.cancel_scope.cancel()
        assert min(pushed.values()) > 5, pushed
        assert (await storage.metrics())["waiting"] == (0 if work == "vacuum" else DEAD)


async def test_a_lock_of_others_is_told_to_all_in_the_time_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All waiting operations fail within the configured time, however many of them wait."""
    patience = 1.5
    monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", patience)
    monkeypatch.setattr(_exchange_loop, "_PATIENCE", patience)
    path = tmp_path / "tasks.db"
    took: dict[str, float] = {}

    async def measure(name: str, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        began = trio.current_time()
        with pytest.raises(BackendError, match="locked"):
            await async_fn(*args)
        took[name] = trio.current_time() - began

    async def open_another() -> None:
        async with SqliteStorage[int](path, int):
            raise AssertionError("it has opened")

    async with SqliteStorage[int](path, int) as storage:
        await storage.push(1)
        task = await storage.receive()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(measure, "receive", storage.receive)
                nursery.start_soon(measure, "push", storage.push, 2)
                nursery.start_soon(measure, "open", open_another)
                await trio.sleep(0.1)
                nursery.start_soon(measure, "push later", storage.push, 3)
                nursery.start_soon(measure, "settle", storage.settle, task, Succeeded(None))
                nursery.start_soon(measure, "vacuum", storage.vacuum)
                nursery.start_soon(measure, "cancel", storage.cancel, "nobody")
        assert max(took.values()) < 3 * patience, took  # or, one behind the other, five times that
        await storage.push(4)


async def test_a_call_after_an_outage_waits_as_long_as_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_session, "_LOCK_PATIENCE", 0.2)
    monkeypatch.setattr(_sqlite_session, "_ONE_OUTAGE", 0.1)
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                began = trio.current_time()
                with pytest.raises(BackendError, match="locked"):
                    await storage.push(1)
                assert trio.current_time() - began > 0.19
                await trio.sleep(0.3)


def log_of(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


async def test_a_log_that_has_grown_is_short_again_when_its_reader_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 100_000
    monkeypatch.setattr(_sqlite_session, "_LOG_LIMIT", limit)
    path = tmp_path / "tasks.db"
    async with SqliteStorage[bytes](path, bytes, synchronous="OFF") as storage:
        await storage.push(b"first")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM trio_tasks_task").fetchall()
            for _ in range(60):
                await storage.push(bytes(100_000))
            grown = log_of(path)
            assert grown > 5_000_000
        await storage.push(b"last")
        with trio.fail_after(60):
            while log_of(path) > limit:  # noqa: ASYNC110  the thread does it when it has nothing else to do
                await trio.sleep(0.01)
        assert (await storage.metrics())["waiting"] == 62


async def test_a_claim_that_finds_nothing_waits_for_no_lock(tmp_path: Path) -> None:
    """All processes look after a push, so that looking must not hold up those that write."""
    async with SqliteStorage[int](tmp_path / "tasks.db", int) as storage, trio.open_nursery() as nursery:
        engine = storage._loop.engine
        await storage.push(1)
        await storage.settle(await storage.receive(), Succeeded(None))
        await storage.push(2, delay=3600)
        claim = Exchange(claims=[ClaimRequest(storage.queue, 1, 30.0, "idle")])
        first = await engine.exchange(claim)
        with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = await engine.exchange(claim)
            connection.execute("ROLLBACK")
        assert (found.claimed, found.live, found.next_due) == ([[]], [1], first.next_due)

        await storage.reschedule((await storage.list_tasks())[0].parts.id, 0)
        assert len((await engine.exchange(claim)).claimed[0]) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("change", ["pause", "limits", "key", "due", "expired", "orphan"])
async def test_what_another_process_has_changed_is_found_without_a_lock_too(tmp_path: Path, change: str) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage, SqliteStorage[int](path, int) as other:
        engine = storage._loop.engine
        claim = Exchange(claims=[ClaimRequest(storage.queue, 5, 30.0, "idle")])
        await other.push(0)
        await other.settle(await other.receive(), Succeeded(None))
        for _ in range(3):
            assert (await engine.exchange(claim)).claimed == [[]]
        if change == "pause":
            await other.pause()
            await other.push(1)
            assert (await engine.exchange(claim)).claimed == [[]]
            await other.resume()
        elif change == "limits":
            await other.set_limits(Limits(concurrency=1))
            await other.push_bulk([1, 2])
        elif change == "key":
            await other.push(1, key="acme")
        elif change == "due":
            await other.push(1, delay=0.05)
            assert (await engine.exchange(claim)).claimed == [[]]
            await trio.sleep(0.06)
        elif change == "expired":
            task_id = await other.push(1, delay=0.01, expires_in=0.05)
            await trio.sleep(0.06)
            await engine.exchange(claim)
            assert (await other.list_tasks(status=Status.Killed))[0].parts.id == task_id
            return
        else:
            await other.push(1)
            abandon(path, 1)
        assert len((await engine.exchange(claim)).claimed[0]) == 1


async def test_a_push_wakes_others_only_if_it_leaves_them_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int) as storage, SqliteStorage[int](path, int):
        sent: list[News] = []
        send = WakeupSocket.send

        def note(self: WakeupSocket, others: Any, news: News = News.CHANGED) -> None:
            sent.extend([news for _ in others])
            send(self, others, news)

        monkeypatch.setattr(WakeupSocket, "send", note)
        async with trio.open_nursery() as nursery:
            received: list[Task[int]] = []

            async def receive() -> None:
                received.append(await storage.receive())

            nursery.start_soon(receive)
            await trio.sleep(0.05)
            await storage.push(1)
        assert (len(received), sent) == (1, []), "the receiver here has it"

        await storage.push(2)
        assert sent == [News.CHANGED]
        await trio.sleep(0.05)
        await storage.settle(received[0], Succeeded(None))
        assert sent == [News.CHANGED, News.FINISHED]
        await storage.settle(await storage.receive(), Retried(ValueError("again"), 0.0))
        assert sent == [News.CHANGED, News.FINISHED, News.CHANGED]


async def test_one_that_waits_for_another_process_hears_what_it_has_finished(tmp_path: Path) -> None:
    """A result, the end of a queue, and a place under a limit."""
    path = tmp_path / "tasks.db"
    options: Any = {"poll_interval": 3600.0, "lease": 3600.0}
    async with SqliteStorage[int](path, int, **options) as storage, SqliteStorage[int](path, int, **options) as other:
        ids = await storage.push_bulk([1, 2])
        await storage.set_limits(Limits(concurrency=1))
        task = await storage.receive()
        async with trio.open_nursery() as nursery:
            found: list[Task[int]] = []

            async def receive() -> None:
                found.append(await other.receive())

            nursery.start_soon(receive)
            nursery.start_soon(other.wait_for, ids[0])
            await trio.sleep(0.2)
            assert not found
            await storage.settle(task, Succeeded(None))
            await until(lambda: bool(found))
        await storage.set_limits(None)
        other.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_end, storage)
            storage.close()
            await trio.sleep(0.2)
            await other.settle(found[0], Succeeded(None))


async def expect_end(storage: SqliteStorage[int]) -> None:
    with trio.fail_after(60), pytest.raises(trio.EndOfChannel):
        await storage.receive()
