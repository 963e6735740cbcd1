"""Tests of assert_pushed, and of its messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage, Status, Worker
from trio_tasks.testing import ScriptedBackend, assert_pushed, run_until_idle


@dataclass(frozen=True)
class Email:
    to: str


KINDS = ["memory", "file", "sqlite"]
Storage = MemoryStorage[Email] | FileStorage[Email] | SqliteStorage[Email]


@asynccontextmanager
async def open_storage(kind: str, directory: Path) -> AsyncGenerator[Storage, None]:
    if kind == "memory":
        yield MemoryStorage[Email]()
    elif kind == "file":
        async with FileStorage.temporary(Email) as storage:
            yield storage
    else:
        async with SqliteStorage(directory / "tasks.db", Email) as storage:
            yield storage


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_pushed_is_found(kind: str, tmp_path: Path) -> None:
    async with open_storage(kind, tmp_path) as storage:
        await storage.push(Email("ada"), priority=5, attempts=3, metadata={"tenant": "acme", "try": 1})
        await storage.push(Email("bob"), unique="b", timeout=30, expires_in=60, delay=10)
        await storage.push(Email("bob"), id="second")
        [ada] = await assert_pushed(storage, Email("ada"))
        assert ada.parts.priority == 5
        assert len(await assert_pushed(storage)) == 3
        assert len(await assert_pushed(storage, Email("bob"), count=2)) == 2
        assert await assert_pushed(storage, Email("eve"), count=0) == []
        for terms in (
            {"metadata": {"tenant": "acme"}}, {"priority": 5}, {"attempts": 3}, {"unique": "b"}, {"timeout": 30},
            {"expires_in": 60}, {"id": "second"}, {"where": lambda task: task.args.to == "ada"},
        ):  # fmt: skip
            await assert_pushed(storage, count=1, **terms)
        await assert_pushed(storage, count=3, status=Status.Pending)


@pytest.mark.parametrize(
    "wanted",
    [
        {"args": Email("eve")},
        {"args": Email("ada"), "count": 2},
        {"args": Email("ada"), "count": 0},
        {"metadata": {"tenant": "another"}},
        {"metadata": {"tenant": None, "colour": None}},
        {"priority": 4},
        {"status": Status.Done},
        {"where": lambda task: False},
    ],
)
async def test_what_was_not_pushed_is_missed(wanted: dict[str, Any]) -> None:
    storage = MemoryStorage[Email]()
    await storage.push(Email("ada"), priority=5, metadata={"tenant": "acme"})
    with pytest.raises(AssertionError, match=r"pushed to <MemoryStorage"):
        await assert_pushed(storage, **wanted)


async def test_the_message_lists_what_is_there() -> None:
    storage = MemoryStorage[Email]()
    for number in range(22):
        await storage.push(Email(f"u{number}"), id=f"t{number}", priority=number % 2, metadata={"n": number})
    with pytest.raises(AssertionError) as caught:
        await assert_pushed(storage, Email("eve"), priority=1, metadata={"n": 7})
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("no task Email(to='eve') with metadata={'n': 7}, priority=1 was pushed to <MemoryStorage")
    assert first.endswith("there are:")
    assert "  t1 Pending Email(to='u1'), priority=1, metadata={'n': 1}" in lines
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 21


async def test_the_message_counts() -> None:
    storage = MemoryStorage[Email]()
    with pytest.raises(AssertionError, match=r"no task was pushed to .*; there are none at all"):
        await assert_pushed(storage)
    await storage.push(Email("ada"))
    with pytest.raises(AssertionError, match=r"1 of the tasks Email\(to='ada'\) were pushed to .*, not 2; there are:"):
        await assert_pushed(storage, Email("ada"), count=2)


async def test_finished_tasks_count_for_as_long_as_they_are_remembered(autojump_clock: object) -> None:
    async def handler(email: Email) -> None:
        if email.to == "eve":
            raise ValueError

    storage = MemoryStorage[Email](keep_results=10)
    await storage.push_bulk([Email("ada"), Email("eve")], attempts=1)
    await run_until_idle(Worker("w", storage, handler))
    await assert_pushed(storage, Email("ada"), status=Status.Done)
    await assert_pushed(storage, Email("eve"), status=Status.Failed)


async def test_none_is_an_argument_like_any_other() -> None:
    storage = MemoryStorage[None]()
    await storage.push(None)
    await assert_pushed(storage, None, count=1)
    with pytest.raises(AssertionError, match="no task 1 was"):
        await assert_pushed(storage, 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"colour": "red"}, "has no option 'colour'"),
        ({"count": -1}, "count must be 0 or more"),
        ({"where": 1}, "where must be callable"),
    ],
)
async def test_wrong_arguments_are_refused(wrong: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        await assert_pushed(MemoryStorage[int](), **wrong)


async def test_a_backend_that_cannot_list_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a storage with list_tasks"):
        await assert_pushed(ScriptedBackend[int]([]))


async def test_it_is_a_checkpoint() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await assert_pushed(storage)
    assert scope.cancelled_caught
