"""Functions of ``on_push``: they see each task before it is pushed, in every way of pushing, on every storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    DuplicateTaskError,
    FileStorage,
    MemoryStorage,
    Pipe,
    SqliteStorage,
    Task,
    TaskBuilder,
    TaskId,
    TaskSink,
    Worker,
)

OPEN: dict[str, Callable[[Path, Any], Any]] = {
    "memory": lambda path, on_push: MemoryStorage[int](on_push=on_push),
    "encoded": lambda path, on_push: MemoryStorage(type=int, on_push=on_push),
    "file": lambda path, on_push: FileStorage(path, int, synchronous="NORMAL", on_push=on_push),
    "sqlite": lambda path, on_push: SqliteStorage(path, int, synchronous="NORMAL", on_push=on_push),
}


def tenant(task: Task[Any]) -> Task[Any]:
    return task.with_metadata(tenant="acme")


def doubled(task: Task[Any]) -> Task[Any]:
    return Task(task.args * 2, task.with_metadata({"before": task.args}).parts)


async def push(storage: Any) -> list[TaskId]:
    return [await storage.push(21)]


async def push_task(storage: Any) -> list[TaskId]:
    return [await storage.push_task(Task.builder(21).metadata(mine=1).build())]


async def push_or_get(storage: Any) -> list[TaskId]:
    pushed = await storage.push_or_get(21)
    assert pushed.is_new
    return [pushed.id]


async def push_bulk(storage: Any) -> list[TaskId]:
    ids: list[TaskId] = await storage.push_bulk([21, 21])
    return ids


async def push_stream(storage: Any) -> list[TaskId]:
    send, receive = trio.open_memory_channel[int](1)
    send.send_nowait(21)
    send.close()
    assert await storage.push_stream(receive) == 1
    return [task.parts.id for task in await storage.list_tasks()]


async def push_all(storage: Any) -> list[TaskId]:
    send, receive = trio.open_memory_channel[Task[int]](1)
    send.send_nowait(Task(21))
    send.close()
    assert await storage.push_all(receive) == 1
    return [task.parts.id for task in await storage.list_tasks()]


WAYS: list[Callable[[Any], Awaitable[list[TaskId]]]] = [push, push_task, push_or_get, push_bulk, push_stream, push_all]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", OPEN)
async def test_every_way_of_pushing_calls_them_in_order_once(kind: str, way: Any, tmp_path: Path) -> None:
    calls: list[str] = []

    def count(task: Task[Any]) -> Task[Any]:
        calls.append(task.parts.id)
        return task

    async with OPEN[kind](tmp_path / "store", [tenant, doubled, count]) as storage:
        ids = await way(storage)
        assert sorted(calls) == sorted(ids)
        for task_id in ids:
            task = await storage.fetch_by_id(task_id)
            assert task.args == 42
            assert task.parts.metadata["tenant"] == "acme"
            assert task.parts.metadata["before"] == 21
            assert ("mine" in task.parts.metadata) == (way is push_task)


@pytest.mark.parametrize("kind", OPEN)
async def test_a_pipe_calls_them_too(kind: str, tmp_path: Path) -> None:
    send, receive = trio.open_memory_channel[int](1)
    send.send_nowait(21)
    send.close()
    seen: list[Any] = []

    async def handler(task: Task[int]) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((task.args, dict(task.parts.metadata)))

    async with OPEN[kind](tmp_path / "store", [doubled, tenant]) as storage:
        await Worker("w", Pipe(receive, storage), handler).run()
    assert seen == [(42, {"before": 21, "tenant": "acme"})]


@pytest.mark.parametrize("kind", ["memory", "encoded"])
async def test_a_push_that_waits_for_room_calls_them_once(kind: str) -> None:
    calls: list[str] = []

    def count(task: Task[Any]) -> Task[Any]:
        calls.append(task.parts.id)
        return tenant(task)

    storage = MemoryStorage[int](1, type=int if kind == "encoded" else None, on_push=count)
    first = await storage.push(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.push, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert (await storage.receive()).parts.id == first
        await trio.testing.wait_all_tasks_blocked()
    second = await storage.receive()
    assert calls == [first, second.parts.id]
    assert second.parts.metadata == {"tenant": "acme"}


async def test_a_transaction_of_ones_own_calls_them(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int, on_push=tenant) as storage:
        connection = sqlite3.connect(path)
        with connection:
            task_id = storage.push_in(connection, 21)
        connection.close()
        task = await storage.fetch_by_id(task_id)
        assert task is not None
        assert task.parts.metadata == {"tenant": "acme"}


def test_a_storage_without_trio_calls_them(tmp_path: Path) -> None:
    with SqliteStorage.open_sync(tmp_path / "tasks.db", int, on_push=[tenant]) as storage:
        for task_id in [storage.push(21), *storage.push_bulk([21]), storage.push_task(Task(21))]:
            task = storage.fetch_by_id(task_id)
            assert task is not None
            assert task.parts.metadata == {"tenant": "acme"}


@pytest.mark.parametrize("kind", OPEN)
async def test_a_shared_queue_has_them_unless_it_is_given_others(kind: str, tmp_path: Path) -> None:
    async with OPEN[kind](tmp_path / "store", tenant) as storage:
        same, none = storage.share(queue="same"), storage.share(queue="none", on_push=())
        for queue, metadata in ((same, {"tenant": "acme"}), (none, {})):
            task = await queue.fetch_by_id(await queue.push(21))
            assert task.parts.metadata == metadata


@pytest.mark.parametrize("kind", OPEN)
async def test_a_function_with_a_parameter_queue_is_given_its_name(kind: str, tmp_path: Path) -> None:
    def note(task: Task[Any], queue: str | None = None) -> Task[Any]:
        return task.with_metadata(queue=queue)

    async with OPEN[kind](tmp_path / "store", [note, tenant]) as storage:
        for each in (storage, storage.share(queue="other")):
            task = await each.fetch_by_id(await each.push(21))
            assert task.parts.metadata == {"queue": each.queue, "tenant": "acme"}


@pytest.mark.parametrize("kind", OPEN)
async def test_their_errors_are_raised_by_push_and_nothing_is_stored(kind: str, tmp_path: Path) -> None:
    def refuse(task: Task[Any]) -> Task[Any]:
        if task.args > 1:
            raise LookupError("no such tenant")
        return task

    def forgets(task: Task[Any]) -> Any:
        return None

    async with OPEN[kind](tmp_path / "store", refuse) as storage:
        with pytest.raises(LookupError, match="no such tenant"):
            await storage.push_bulk([1, 2])
        assert await storage.list_tasks() == []
        forgetful = storage.share(int, queue="forgetful", on_push=[forgets])
        with pytest.raises(TypeError, match=r"on_push: .*forgets must return a Task, and returned None"):
            await forgetful.push(1)
        assert await forgetful.list_tasks() == []


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("wrong", [5, "carry", [5], [tenant, None]])
def test_what_is_no_function_is_refused_when_the_storage_is_made(kind: str, wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="on_push"):
        OPEN[kind](tmp_path / "store", wrong)


@pytest.mark.parametrize("kind", OPEN)
def test_an_async_function_is_refused(kind: str, tmp_path: Path) -> None:
    async def carry(task: Task[Any]) -> Task[Any]:
        return task

    with pytest.raises(TypeError, match="on_push"):
        OPEN[kind](tmp_path / "store", carry)


def test_with_metadata_leaves_the_task_as_it_was() -> None:
    task = Task.builder(1).id("t").attempts(3).metadata(a=1, b=1).data(2.5).build()
    other = task.with_metadata({"b": 2}, c=3)
    assert dict(task.parts.metadata) == {"a": 1, "b": 1}
    assert dict(other.parts.metadata) == {"a": 1, "b": 2, "c": 3}
    assert (other.parts.id, other.parts.attempts, other.parts.extensions[float]) == ("t", 3, 2.5)


def keyed(task: Task[Any]) -> Task[Any]:
    return TaskBuilder(task.args).unique(f"key {task.args}", on_conflict="raise").build()


@pytest.mark.parametrize("kind", [*OPEN, "sync", "default"])
async def test_of_several_tasks_all_but_the_duplicates_are_pushed(kind: str, tmp_path: Path) -> None:
    opened = "sqlite" if kind == "sync" else "memory" if kind == "default" else kind
    async with OPEN[opened](tmp_path / "store", keyed) as storage:
        await storage.push_bulk([3, 600])
        with pytest.raises(DuplicateTaskError, match="'key 3'"):
            if kind == "sync":
                with SqliteStorage.open_sync(tmp_path / "store", int, on_push=keyed) as other:
                    other.push_bulk(range(700))
            elif kind == "default":
                await TaskSink.push_bulk(storage, range(700))
            else:
                await storage.push_bulk(range(700))
        tasks = await storage.list_tasks(limit=1000)
        assert [task.args for task in tasks] == [3, 600, *(n for n in range(700) if n not in (3, 600))]
