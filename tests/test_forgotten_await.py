"""Tests of handlers that return a coroutine: the attempt fails, and the error names both functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    Failed,
    FileStorage,
    MemoryStorage,
    RetryPolicy,
    SqliteStorage,
    Status,
    Succeeded,
    Task,
    Worker,
    constant,
)
from trio_tasks.testing import run_once

began: list[int] = []


async def fetch(number: int) -> int:
    began.append(number)
    await trio.lowlevel.checkpoint()
    return number * 2


async def forgetful(number: int) -> Any:
    await trio.lowlevel.checkpoint()
    return fetch(number)


async def with_nursery(number: int, nursery: trio.Nursery) -> Any:
    await trio.lowlevel.checkpoint()
    return fetch(number)


def in_thread(number: int) -> Any:
    return forgetful(number)  # this one is awaited, but not what it returns


async def forgetful_layer(handler: Any, task: Task[Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return handler(task)


@pytest.mark.parametrize("handler", [forgetful, with_nursery, in_thread], ids=lambda each: each.__name__)
@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
async def test_a_result_that_is_a_coroutine_is_an_error(kind: str, handler: Any, tmp_path: Path) -> None:
    began.clear()
    path = tmp_path / "tasks"
    stored: Any = {"file": FileStorage, "sqlite": SqliteStorage}.get(kind)
    async with MemoryStorage[int]() if stored is None else stored(path, int) as storage:
        task_id = await storage.push(1)
        storage.close()
        retry = RetryPolicy(attempts=3, backoff=constant(0))
        await Worker("w", storage, handler, retry=retry).run()
        result = await storage.wait_for(task_id)
        task: Any = await storage.fetch_by_id(task_id)
    assert result.status is Status.Failed
    assert str(result.error) == (
        f"{__name__}.{handler.__name__} returned a coroutine of fetch, which was not awaited: return what it returns"
    )
    assert isinstance(result.error, TypeError)
    assert task.parts.attempt == 1  # it would do the same again
    assert not began


async def test_a_layer_that_forgets_is_told_the_same() -> None:
    outcome = await run_once(fetch, 1, layers=[forgetful_layer])
    assert isinstance(outcome, Failed)
    assert "which was not awaited" in str(outcome.error)


async def test_a_sync_handler_may_return_one() -> None:
    assert await run_once(lambda number: fetch(number), 2) == Succeeded(4)
