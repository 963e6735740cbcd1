"""Tests of ``context.set_metadata``: metadata that an attempt stores for later ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    BackendError,
    CustomBackend,
    FileStorage,
    LeaseLostError,
    MemoryStorage,
    SqliteStorage,
    Task,
    Worker,
    WorkerContext,
)

OPEN: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: MemoryStorage[int](),
    "encoded": lambda path: MemoryStorage(type=int),
    "file": lambda path: FileStorage(path, int, synchronous="NORMAL"),
    "sqlite": lambda path: SqliteStorage(path, int, synchronous="OFF"),
}


@pytest.mark.parametrize("kind", OPEN)
async def test_later_attempts_and_others_see_it(kind: str, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    async with OPEN[kind](tmp_path / "store") as storage:

        async def handler(task: Task[int], context: WorkerContext) -> None:
            seen.append(dict(task.parts.metadata))
            await context.set_metadata(task, invoice=5, note="new")
            found = await storage.fetch_by_id(task.parts.id)
            assert dict(found.parts.metadata) == dict(task.parts.metadata) == {"note": "new", "kept": 1, "invoice": 5}
            if task.parts.attempt == 1:
                raise ValueError("again")

        worker = Worker("w", storage, handler, concurrency=1)
        task_id = await storage.push(1, metadata={"note": "old", "kept": 1}, priority=3)
        async with trio.open_nursery() as nursery:
            context = await nursery.start(worker.run)
            await storage.wait_for(task_id)
            context.stop()
        assert seen == [{"note": "old", "kept": 1}, {"note": "new", "kept": 1, "invoice": 5}]
        found = await storage.fetch_by_id(task_id)
        assert (dict(found.parts.metadata), found.parts.priority) == (seen[1], 3)


@pytest.mark.parametrize("kind", OPEN)
async def test_calls_side_by_side_lose_nothing_of_one_another(kind: str, tmp_path: Path) -> None:
    async with OPEN[kind](tmp_path / "store") as storage:
        task_id = await storage.push(1, metadata={"kept": 1})
        task = await storage.receive()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(storage.set_metadata, task, {f"part {number}": number})
        found = await storage.fetch_by_id(task_id)
        wanted = {"kept": 1, **{f"part {number}": number for number in range(5)}}
        assert dict(found.parts.metadata) == dict(task.parts.metadata) == wanted


@pytest.mark.parametrize("kind", ["encoded", "file", "sqlite"])
async def test_what_cannot_be_stored_is_refused(kind: str, tmp_path: Path) -> None:
    async with OPEN[kind](tmp_path / "store") as storage:
        task_id = await storage.push(1, metadata={"a": 1})
        task = await storage.receive()
        with pytest.raises((TypeError, ValueError)):
            await storage.set_metadata(task, {"a": object()})
        assert dict(task.parts.metadata) == dict((await storage.fetch_by_id(task_id)).parts.metadata) == {"a": 1}


async def test_a_file_keeps_it_when_it_is_opened_again(tmp_path: Path) -> None:
    async with FileStorage(tmp_path / "store", int) as storage:
        task_id = await storage.push(1)
        await storage.set_metadata(await storage.receive(), {"a": 1})
    async with FileStorage(tmp_path / "store", int) as storage:
        found = await storage.fetch_by_id(task_id)
        assert found is not None
        assert dict(found.parts.metadata) == {"a": 1}


async def test_a_backend_that_cannot_do_it_says_so() -> None:
    async def receive(*_: object) -> Any:
        await trio.sleep_forever()

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    context = Worker("w", CustomBackend(receive=receive, settle=receive), handler).prepare()
    with pytest.raises(BackendError, match="cannot change the metadata"):
        await context.set_metadata(Task(1), a=1)
    with pytest.raises(LeaseLostError):
        await Worker("w", MemoryStorage[int](), handler).prepare().set_metadata(Task(1), a=1)
