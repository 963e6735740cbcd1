"""Tests of `wait_for(id, type)`, which compares the result with the type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    FileStorage,
    Killed,
    Lease,
    MemoryStorage,
    SqliteStorage,
    Status,
    StorageOptions,
    StoredTaskInfo,
    Succeeded,
    Task,
    Worker,
)


def opened(kind: str, path: Path) -> Any:
    if kind == "memory":
        return MemoryStorage[int]()
    return FileStorage(path / "journal", int) if kind == "file" else SqliteStorage(path / "tasks.db", int)


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
async def test_a_result_is_of_the_type_that_was_named(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as storage:
        number, text, killed = [await storage.push(n) for n in range(3)]
        for outcome in (Succeeded(5), Succeeded("five"), Killed(ValueError("no"))):
            await storage.settle(await storage.receive(), outcome)
        assert (await storage.wait_for(number, int)).unwrap() == 5
        assert (await storage.wait_for(text)).unwrap() == "five"
        assert (await storage.wait_for(text, Any)).unwrap() == "five"
        assert (await storage.wait_for(killed, type=int)).status is Status.Killed
        with pytest.raises(TypeError, match=r"the result of task .* is of type str, not int"):
            await storage.wait_for(text, int)
        with pytest.raises(TypeError, match=r"the result of task .* is of type str, not list"):
            await storage.wait_for(text, list[int])
        with pytest.raises(TypeError, match="wait_for takes the class of the result, such as int, not 5"):
            await storage.wait_for(text, 5)


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
async def test_a_result_that_is_waited_for_is_compared_too(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as storage, trio.open_nursery() as nursery:
        task_id = await storage.push(1)

        async def wait() -> None:
            with pytest.raises(TypeError, match="is of type str, not int"):
                await storage.wait_for(task_id, int)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await storage.settle(await storage.receive(), Succeeded("one"))


async def test_a_result_without_trio_is_of_the_type_that_was_named(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        task_id = await storage.push(1)
        await storage.settle(await storage.receive(), Succeeded("one"))
        with SqliteStorage.open_sync(tmp_path / "tasks.db", int) as sync:
            assert sync.wait_for(task_id, str, timeout=10).unwrap() == "one"
            with pytest.raises(TypeError, match="is of type str, not int"):
                sync.wait_for(task_id, int)


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
async def test_the_context_of_a_task_has_a_public_type(kind: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    async def handler(task: Task[int]) -> None:
        seen.append(task.parts.context)

    async with opened(kind, tmp_path) as storage:
        task_id = await storage.push(1)
        storage.close()
        await Worker("w", storage, handler).run()
        found = await storage.fetch_by_id(task_id)
    assert isinstance(found.parts.context, StoredTaskInfo)
    assert isinstance(seen[0], StoredTaskInfo if kind == "memory" else Lease)
    assert seen[0].history == ()


def test_the_options_of_a_storage_have_a_public_type() -> None:
    kept = {"keep_results", "keep_dead", "unreadable_after"}
    names = {"lease", "codec", "result_type", "on_push", "deadline", "limits", *kept}
    assert StorageOptions.__optional_keys__ == names
    for name in names:
        assert f"{name}:" in (StorageOptions.__doc__ or ""), f"{name} is not described"
