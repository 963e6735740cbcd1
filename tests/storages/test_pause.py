"""A paused queue gives out no tasks, in any process, until it is resumed; all else goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import BackendError, FileStorage, MemoryStorage, Pause, Pipe, SqliteStorage, Succeeded, Worker

from tests._storages import STORAGES

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)
stored = pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])


@everywhere
async def test_attempts_go_on_and_the_rest_waits_for_the_resumption(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    begun: list[int] = []

    async def handle(n: int) -> None:
        begun.append(n)
        await trio.sleep(10)

    async with opened(tmp_path / "tasks") as storage:
        await storage.push_bulk(range(5))
        await storage.push(5, delay=20.0)
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, handle, concurrency=2).run)
            await trio.sleep(5)
            await storage.pause()
            assert await storage.is_paused()
            assert (await storage.metrics())["is_paused"]
            await storage.push(6)
            storage.close()
            await trio.sleep(100)
            assert sorted(begun) == [0, 1], "those that ran have ended, and no other one began"
            assert context.is_running, "the queue is closed, and not empty"
            assert (await storage.metrics())["succeeded"] == 2
            await storage.resume()
            await context.wait_stopped()
        assert sorted(begun) == [0, 1, 2, 3, 4, 5, 6]
        assert not await storage.is_paused()
        assert await storage.audit()


@everywhere
async def test_a_receiver_that_waits_is_served_by_the_resumption(
    opened: Opener, tmp_path: Path, nursery: trio.Nursery
) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await storage.pause()
        await storage.pause()
        got: list[Any] = []

        async def receive() -> None:
            got.append(await storage.receive())

        async with trio.open_nursery() as receivers:
            receivers.start_soon(receive)
            await wait_all_tasks_blocked(0.01)
            await storage.push(1)
            assert not got
            with pytest.raises(trio.WouldBlock):
                storage.receive_nowait()
            await storage.resume()
        await storage.settle(got[0], Succeeded(None))


@everywhere
async def test_a_paused_queue_that_is_closed_and_empty_has_ended(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await storage.pause()
        storage.close()
        with trio.fail_after(60), pytest.raises(trio.EndOfChannel):
            await storage.receive()


@pytest.mark.parametrize("kind", [MemoryStorage, SqliteStorage, FileStorage])
async def test_a_pause_is_of_one_queue(kind: Any, tmp_path: Path) -> None:
    opening = kind(tmp_path / "tasks", int) if kind is not MemoryStorage else MemoryStorage[int]()
    async with opening as storage:
        other: Any = storage.share(int, queue="other")
        await storage.pause()
        assert not await other.is_paused()
        await other.push(1)
        assert (await other.receive()).args == 1


@stored
async def test_a_pause_is_stored(kind: Any, tmp_path: Path) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        await storage.push(1)
        await storage.pause()
    async with kind(tmp_path / "tasks", int) as storage:
        assert await storage.is_paused()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.receive)
            await wait_all_tasks_blocked(0.05)
            assert (await storage.metrics())["running"] == 0
            nursery.cancel_scope.cancel()
        async with kind(tmp_path / "tasks", int, read_only=True) as view:
            assert await view.is_paused()
            with pytest.raises(BackendError, match="read_only"):
                await view.resume()
        await storage.resume()
    async with kind(tmp_path / "tasks", int) as storage:
        assert not await storage.is_paused()
        assert (await storage.receive()).args == 1


async def test_a_queue_that_was_only_paused_is_not_listed(tmp_path: Path) -> None:
    for kind in (SqliteStorage, FileStorage):
        async with kind(tmp_path / kind.__name__, int) as storage:
            await storage.pause()
            assert await storage.list_queues() == []
            assert await storage.is_paused()


@stored
async def test_waiting_for_a_resumption_is_no_work(kind: Any, tmp_path: Path, autojump_clock: MockClock) -> None:
    """This holds even if tasks fall due meanwhile: each costs one exchange, and none is repeated."""
    async with kind(tmp_path / "tasks", int) as storage:
        for n in range(10):
            await storage.push(n, delay=1.0 + n)
        await storage.pause()
        engine, calls = storage._loop.engine, 0
        exchange = engine.exchange

        async def count(request: Any) -> Any:
            nonlocal calls
            calls += 1
            return await exchange(request)

        engine.exchange = count
        with trio.move_on_after(100):
            await storage.receive()
        assert calls < 40


@pytest.mark.parametrize("number", range(2))
async def test_another_session_honours_it_and_is_woken(tmp_path: Path, number: int) -> None:
    async with (
        SqliteStorage(tmp_path / "tasks.db", int, poll_interval=3600.0) as one,
        SqliteStorage(tmp_path / "tasks.db", int, poll_interval=3600.0) as two,
    ):
        done = trio.Event()

        async def handle(n: int) -> None:
            done.set()

        async with trio.open_nursery() as nursery:
            await one.pause()
            context = await nursery.start(Worker("w", two, handle).run)
            await one.push(1)
            await wait_all_tasks_blocked(0.05)
            assert not done.is_set()
            await one.resume()
            with trio.fail_after(60):  # far less than an hour: it was told
                await done.wait()
            context.stop()


async def test_a_pipe_pauses_its_storage() -> None:
    send, receive = trio.open_memory_channel[int](5)
    storage = MemoryStorage[int]()
    pipe: Any = Pipe(receive, storage)
    assert isinstance(pipe, Pause)
    await pipe.pause()
    assert await storage.is_paused()
    send.close()
