"""Tests of promise 3: ``wait_for`` gives the error that the attempt failed with, on every storage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import AbortError, Attempt, FileStorage, MemoryStorage, RetryPolicy, SqliteStorage, TaskId, Worker
from trio_tasks.testing import virtual_clock

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

STORAGES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: nullcontext(MemoryStorage[str]()),
    "file": lambda path: FileStorage(path / "tasks.journal", str, synchronous="NORMAL"),
    "sqlite": lambda path: SqliteStorage(path / "tasks.db", str, synchronous="OFF"),
}


async def handler(what: str, task_id: TaskId, attempt: Attempt) -> None:
    if what == "timeout":
        await trio.sleep(100)
    if what == "KeyError":
        raise KeyError(task_id)
    if what == "ValueError":
        raise ValueError(attempt)
    if what == "AbortError":
        raise AbortError(ValueError("why"))
    if what == "FileNotFoundError":
        await trio.Path("/nonexistent/x").read_bytes()
    raise ExceptionGroup("group", [ValueError(1), trio.BrokenResourceError("gone")])


async def results(open_storage: Callable[[], Any]) -> dict[str, BaseException | None]:
    whats = ["timeout", "KeyError", "ValueError", "AbortError", "FileNotFoundError", "group"]
    async with open_storage() as storage:
        ids = {what: await storage.push(what, timeout=5) for what in whats}
        storage.close()
        await Worker("w", storage, handler, retry=RetryPolicy(1)).run()
        return {what: (await storage.wait_for(task_id)).error for what, task_id in ids.items()}


@pytest.mark.parametrize("kind", STORAGES)
def test_wait_for_gives_back_the_error_that_was_raised(kind: str, tmp_path: Path) -> None:
    with virtual_clock() as clock:
        errors = trio.run(results, lambda: STORAGES[kind](tmp_path), clock=clock)
    timeout, key, value, abort, file, group = errors.values()
    assert type(timeout) is trio.TooSlowError
    assert "took longer than its 5" in str(timeout)
    assert type(key) is KeyError
    assert type(key.args[0]) is TaskId
    assert type(value) is ValueError
    assert value.args == (1,)
    assert type(abort) is AbortError
    assert type(abort.source) is ValueError
    assert abort.__cause__ is abort.source
    assert type(file) is FileNotFoundError
    assert file.filename == "/nonexistent/x"
    assert type(group) is ExceptionGroup
    assert [type(each) for each in group.exceptions] == [ValueError, trio.BrokenResourceError]
