"""A storage tells of its changes: each after it is committed, to each reader, however slow that is."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    BackendError,
    Cancelled,
    DuplicateTaskError,
    Expired,
    FileStorage,
    MemoryStorage,
    Missed,
    Pipe,
    Pushed,
    Released,
    Replaced,
    Retried,
    SqliteStorage,
    StorageEvent,
    Succeeded,
    TaskId,
    Watch,
    Worker,
)
from trio_tasks._contracts.event_readers import MOST_UNREAD, EventReaders
from trio_tasks.testing import Faults, FaultyBackend

from tests._storages import STORAGES
from tests.storages._engine import Storage, Store, TroubledEngine, broken

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)


def pushed(*ids: str) -> list[StorageEvent]:
    return [Pushed(TaskId(id), True) for id in ids]


def cancelled(*ids: str) -> list[StorageEvent]:
    return [Cancelled(TaskId(id)) for id in ids]


@asynccontextmanager
async def told(storage: Watch) -> AsyncGenerator[Callable[[], Any], None]:
    """Read the events of a storage beside the block; gives a function that returns the new ones."""
    seen: list[StorageEvent] = []

    async def read(events: trio.abc.ReceiveChannel[StorageEvent]) -> None:
        async for event in events:
            seen.append(event)  # noqa: PERF401  it is read meanwhile

    async def new() -> list[StorageEvent]:
        await wait_all_tasks_blocked()
        found = [*seen]
        seen.clear()
        return found

    async with storage.events() as events, trio.open_nursery() as nursery:
        nursery.start_soon(read, events)
        yield new
        nursery.cancel_scope.cancel()


@everywhere
async def test_each_way_of_pushing_is_told(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, told(storage) as new:
        one = await storage.push(1, delay=60.0)
        bulk = await storage.push_bulk(range(3))
        got = await storage.push_or_get(4, unique="key")
        assert await storage.push_or_get(5, unique="key") == Pushed(got.id, False)
        await storage.push(6, unique="key", on_conflict="update")
        send, receive = trio.open_memory_channel[int](2)
        with send:
            await send.send(7)
        await storage.push_stream(receive)
        events = await new()
        assert events[:-1] == pushed(one, *bulk, got.id)
        assert events[-1].id not in {one, *bulk, got.id}
        assert all(type(each.id) is TaskId for each in events)


@everywhere
async def test_what_pushes_nothing_is_not_told(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        first = await storage.push(1, unique="key")
        async with told(storage) as new:
            await storage.push(2, unique="key")
            for wrong in ({"unique": "key", "on_conflict": "raise"}, {"id": first}):
                with pytest.raises(DuplicateTaskError):
                    await storage.push(2, **wrong)
            with trio.CancelScope() as scope:
                scope.cancel()
                await storage.push(3)
            assert await new() == []


@everywhere
async def test_an_end_by_a_call_is_told(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        ids = await storage.push_bulk(range(6), delay=60.0)
        running = await storage.push(7)
        task = await storage.receive()
        async with told(storage) as new:
            assert await storage.cancel(ids[0])
            assert not await storage.cancel(ids[0])
            assert await storage.discard(ids[0])  # it is finished
            assert await storage.discard(ids[1])
            assert await storage.cancel(ids[2], running=True)
            assert not await storage.cancel(running)
            assert await new() == cancelled(*ids[:3])
            assert (await storage.cancel([ids[0], ids[3], "unknown"])).changed == (ids[3],)
            assert (await storage.discard([ids[0], ids[4]])).changed == (ids[4],)
            assert await new() == cancelled(*ids[3:5])
            assert await storage.cancel_all() == 1
            assert await new() == cancelled(ids[5])
            await storage.settle(task, Succeeded(None))
            assert await storage.discard_all() == 4
            assert await storage.vacuum() == 0
            assert await new() == []


@everywhere
async def test_an_aborted_attempt_is_told_by_its_worker_alone(opened: Opener, tmp_path: Path) -> None:
    has_begun = trio.Event()

    async def hang(_: int) -> None:
        has_begun.set()
        await trio.sleep_forever()

    async with opened(tmp_path / "tasks") as storage, told(storage) as new, trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, hang, log=None).run)
        task_id = await storage.push(1)
        await has_begun.wait()
        assert await storage.cancel(task_id, running=True)
        assert (await storage.wait_for(task_id)).status.name == "Killed"
        assert await new() == pushed(task_id)
        context.stop()


@everywhere
async def test_an_expiry_is_told_when_it_is_entered(opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage, storage.events() as channel, trio.open_nursery() as nursery:
        ids = [await storage.push(n, expires_in=10.0, delay=n / 10, unique=f"key {n}") for n in range(5)]
        assert (await storage.receive()).parts.id == ids[0], "it was started in time"
        assert [await channel.receive() for _ in ids] == pushed(*ids)
        mock_clock.jump(10)
        assert not await storage.cancel(ids[1])
        successor = await storage.push(6, unique="key 2", delay=60.0)
        nursery.start_soon(storage.receive)
        events = [await channel.receive() for _ in range(5)]
        assert len(set(events)) == 5, "each is told once"
        assert sorted(each.id for each in events if isinstance(each, Expired)) == ids[1:]
        assert events.index(Expired(ids[2])) < events.index(Pushed(successor, True))
        assert (await storage.metrics())["killed"] == 4
        nursery.cancel_scope.cancel()


@everywhere
async def test_one_that_expires_at_once_is_told_of_first_and_then_of_its_end(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, told(storage) as new, trio.open_nursery() as nursery:
        nursery.start_soon(storage.receive)
        await wait_all_tasks_blocked()
        task_id = await storage.push(1, expires_in=1e-9)
        while not (events := await new())[1:]:
            await trio.sleep(0.001)
            await storage.reschedule("unknown", 0.0)
        assert events == [*pushed(task_id), Expired(task_id)]
        nursery.cancel_scope.cancel()


@everywhere
async def test_a_replaced_task_comes_before_its_successor(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, told(storage) as new:
        await storage.push_bulk(range(3), unique="key", on_conflict="replace")  # in one transaction
        first, end, second, *others = await new()
        assert end == Replaced(first.id, by=second.id)
        assert others[0] == Replaced(second.id, by=others[1].id)
        running = await storage.receive()
        assert running.parts.id == others[1].id
        last = await storage.push(4, unique="key", on_conflict="replace")
        assert await new() == pushed(last), "the other one runs, and may succeed"
        await storage.settle(running, Retried(ValueError("again"), 0.0))
        assert await new() == [Replaced(running.parts.id, by=last)]


@everywhere
async def test_a_replaced_task_that_succeeds_is_not_told(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await storage.push(1, unique="key")
        running = await storage.receive()
        async with told(storage) as new:
            last = await storage.push(4, unique="key", on_conflict="replace")
            await storage.settle(running, Succeeded(None))
            again = await storage.receive()
            await storage.settle(again, Released("for another one"))
            assert await new() == pushed(last)


@everywhere
async def test_a_slow_reader_misses_the_oldest_and_is_told_how_many(opened: Opener, tmp_path: Path) -> None:
    number = MOST_UNREAD + 500
    async with opened(tmp_path / "tasks") as storage, storage.events() as events:
        ids = [task_id for _ in range(number // 500) for task_id in await storage.push_bulk([0] * 500)]
        assert await events.receive() == Missed(500)
        assert await events.receive() == pushed(ids[500])[0]
        assert await storage.cancel(ids[0])
        rest = [await events.receive() for _ in range(MOST_UNREAD)]
        assert rest == [*pushed(*ids[501:]), *cancelled(ids[0])]


async def test_a_gap_is_not_lost_by_a_cancellation() -> None:
    readers = EventReaders()
    async with readers.opened(lambda: None) as events:
        for n in range(MOST_UNREAD + 2):
            readers.tell(Expired(TaskId(str(n))))
        with trio.CancelScope() as scope:
            scope.cancel()
            await events.receive()
        assert await events.receive() == Missed(2)
        assert await events.receive() == Expired(TaskId("2"))
        readers.tell(Expired(TaskId("more")))
        assert await events.receive() == Expired(TaskId("3"))
        assert "9999 wait" in repr(events)
    readers.tell(Expired(TaskId("late")))  # no reader is left
    assert readers.open == []


@everywhere
async def test_a_reader_that_leaves_or_closes_disturbs_no_other(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, told(storage) as new:
        async with storage.events() as closed:
            await closed.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await closed.receive()
            first = await storage.push(1)
        with pytest.raises(ValueError, match="of the reader"):
            async with storage.events():
                raise ValueError("of the reader")
        second = await storage.push(2)
        assert await new() == pushed(first, second)
        with trio.CancelScope() as scope:
            scope.cancel()
            async with storage.events():
                pytest.fail("it was cancelled before")
        third = await storage.push(3)
        assert await new() == pushed(third)


@everywhere
async def test_the_channel_ends_when_the_last_handle_is_closed(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        is_memory = isinstance(storage, MemoryStorage)
        other = storage.clone() if is_memory else storage.share(int, queue=storage.queue)
        if is_memory:
            await other.push(0)  # or else it is for receiving only
        async with storage.events() as events:
            storage.close()
            task_id = await other.push(1)
            with pytest.raises(trio.ClosedResourceError):
                async with storage.events():
                    pytest.fail("this handle is closed")
            other.close()
            assert [each async for each in events] == pushed(task_id)


@everywhere
async def test_a_push_under_way_is_told_of_before_the_end(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage, storage.events() as events, trio.open_nursery() as nursery:
        ids: list[str] = []

        async def push() -> None:
            ids.append(await storage.push(1))

        for _ in range(3):
            nursery.start_soon(push)
        await wait_all_tasks_blocked()
        storage.close()
        seen = [each async for each in events]
        await wait_all_tasks_blocked()
        assert len(ids) == 3
        assert sorted(each.id for each in seen) == sorted(ids)


@everywhere
async def test_another_queue_is_not_told(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        other = storage.share(queue="other")
        async with told(storage) as new:
            await other.push(1, unique="key")
            await other.push(1, unique="key", on_conflict="replace")
            assert await new() == []


@pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])
async def test_the_channel_ends_with_the_connection(kind: Any, tmp_path: Path) -> None:
    storage = kind(tmp_path / "tasks", int)
    with pytest.raises(trio.ClosedResourceError):
        async with storage.events():
            pytest.fail("it is not open")
    async with storage:
        other = storage.share(queue="other")
        async with other.events() as events:
            await storage.aclose()
            with pytest.raises(trio.EndOfChannel):
                await events.receive()


async def test_a_failed_storage_raises_in_its_readers() -> None:
    engine = TroubledEngine()
    async with Storage[int](engine) as storage, storage.events() as events:
        task_id = await storage.push(1)
        storage._loop.fail(broken("for good"))
        assert await events.receive() == pushed(task_id)[0]
        for _ in range(2):
            with pytest.raises(BackendError, match="for good"):
                await events.receive()
        with pytest.raises(BackendError, match="for good"):
            async with storage.events():
                pytest.fail("it has failed")


async def test_what_was_rolled_back_is_not_told() -> None:
    engine = TroubledEngine()
    async with Storage[int](engine) as storage:
        await storage.push(1, unique="key")
        async with told(storage) as new:
            engine.trouble = broken()
            with pytest.raises(BackendError):
                await storage.push(2, unique="key", on_conflict="replace")
            engine.trouble = None
            assert await new() == []
            third = await storage.push(3, unique="key", on_conflict="replace")
            end, *rest = await new()
            assert isinstance(end, Replaced)
            assert rest == pushed(third)


async def test_what_a_transaction_of_ones_own_pushes_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int) as storage, told(storage) as new:
        connection = sqlite3.connect(path)
        first = storage.push_in(connection, 1, unique="key")
        connection.rollback()
        storage.push_in(connection, 2, unique="key")
        connection.commit()
        connection.close()
        assert await storage.fetch_by_id(first) is None
        assert await new() == []
        third = await storage.push(3, unique="key", on_conflict="replace")
        assert len(await new()) == 2
        async with SqliteStorage(path, int) as other:
            assert await other.cancel(third)
        assert await new() == [], "another storage did that"


async def test_a_row_that_sqlite_refuses_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int, allow_triggers=True) as storage:
        await storage.push(1, unique="key")
        connection = sqlite3.connect(path)
        connection.execute(
            "CREATE TRIGGER no BEFORE INSERT ON trio_tasks_task WHEN new.id = 'no' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        connection.commit()
        connection.close()
        async with told(storage) as new:
            with pytest.raises(BackendError):
                await storage.push(2, id="no", unique="key", on_conflict="replace")
            assert len(await storage.list_tasks()) == 1
            assert await new() == []


@pytest.mark.parametrize("wrapper", ["pipe", "faulty"])
async def test_a_wrapper_passes_events_on(wrapper: str) -> None:
    storage = MemoryStorage[int]()
    outside: Any = FaultyBackend(storage, Faults())
    if wrapper == "pipe":
        outside = Pipe(trio.open_memory_channel[int](0)[1], storage)
    assert isinstance(outside, Watch)
    async with told(outside) as new:
        task_id = await storage.push(1)
        assert await new() == pushed(task_id)


async def test_a_pusher_that_waits_for_room_is_told_of_when_it_gets_it() -> None:
    storage = MemoryStorage[int](1)
    async with told(storage) as new, trio.open_nursery() as nursery:
        first = await storage.push(1)
        nursery.start_soon(storage.push, 2)
        assert await new() == pushed(first)
        await storage.cancel(first)
        end, second = await new()
        assert end == cancelled(first)[0]
        assert isinstance(second, Pushed)


async def test_what_two_storages_share_is_told_by_the_one_that_did_it() -> None:
    store = Store()
    async with Storage[int](TroubledEngine(store)) as storage, Storage[int](TroubledEngine(store)) as other:
        async with told(storage) as new, told(other) as others:
            task_id = await other.push(1)
            assert await storage.cancel(task_id)
            assert await new() == cancelled(task_id)
            assert await others() == pushed(task_id)
