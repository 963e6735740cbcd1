"""Tests of promise 6: anything that a handler leaves open or changes affects its own task only."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    Error,
    Idle,
    MemoryStorage,
    RetryPolicy,
    Status,
    Task,
    TaskId,
    Worker,
    WorkerContext,
)
from trio_tasks._tasks.task import Attempt, Parts, Terms

from tests._storages import STORAGES
from tests.promises._run_worker import EventRecord

KEPT: list[AsyncGenerator[int, None]] = []
"""Generators that are not collected before the run ends, which then closes them."""
ALIVE: list[int] = []
"""One for each child of an abandoned nursery that has not ended."""


async def in_a_scope() -> AsyncGenerator[int, None]:  # noqa: ASYNC900  that is what is wrong
    with trio.CancelScope():  # noqa: ASYNC100  that is what is wrong
        yield 1  # noqa: ASYNC101, ASYNC119  the same


async def in_a_scope_that_ends() -> AsyncGenerator[int, None]:  # noqa: ASYNC900  that is what is wrong
    with trio.move_on_after(0.001):  # noqa: ASYNC100  the same
        yield 1  # noqa: ASYNC101, ASYNC119  the same


async def live() -> None:
    ALIVE.append(1)
    try:
        await trio.sleep_forever()
    finally:
        ALIVE.pop()


async def in_a_nursery() -> AsyncGenerator[int, None]:  # noqa: ASYNC900  that is what is wrong
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        yield 1  # noqa: ASYNC101, ASYNC119  the same


def abandoning(generator: Callable[[], AsyncGenerator[int, None]]) -> Callable[[], Awaitable[None]]:
    async def abandon() -> None:
        KEPT.append(generator())
        async for _ in KEPT[-1]:
            break
        await trio.sleep(0.01)

    return abandon


async def leave_a_scope_open() -> None:
    trio.CancelScope().__enter__()
    await trio.lowlevel.checkpoint()


async def leave_a_scope_open_and_fail() -> None:
    trio.CancelScope().__enter__()
    await trio.lowlevel.checkpoint()
    raise ValueError("as well")


LEAVE: dict[str, Callable[[], Awaitable[None]]] = {
    "a scope around a yield": abandoning(in_a_scope),
    "a scope around a yield that ends": abandoning(in_a_scope_that_ends),
    "a nursery around a yield": abandoning(in_a_nursery),
    "a scope": leave_a_scope_open,
    "a scope, and an error": leave_a_scope_open_and_fail,
}


@pytest.mark.parametrize("what", LEAVE)
@pytest.mark.parametrize("kind", STORAGES)
async def test_promise_06_an_attempt_that_leaves_something_open_fails_by_name(
    tmp_path: Path, kind: str, what: str
) -> None:
    alive: list[int] = []

    async def careless(n: int) -> int:
        await trio.lowlevel.checkpoint()
        if n % 2:
            await LEAVE[what]()
        return n

    def look(_: object, event: object) -> None:
        if isinstance(event, Error):
            alive.append(len(ALIVE))

    record = EventRecord()
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        ids = await storage.push_bulk(range(8))
        storage.close()
        with trio.fail_after(60):
            await Worker("w", storage, careless, concurrency=2, retry=RetryPolicy(1), on_event=[record, look]).run()
        found = [(await storage.fetch_by_id(each)).parts.status for each in ids]
    assert found == [Status.Done, Status.Failed] * 4
    for error in (each.error for each in record.of(Error)):
        assert "careless left a" in str(error)
        assert "open" in str(error)
        assert ("nursery" in str(error)) == ("nursery" in what)
        assert isinstance(error.__cause__, ValueError) == ("error" in what)
    assert max(alive) <= 1, "children of an abandoned nursery live on"  # that of the attempt in the other slot may
    assert not ALIVE


async def test_promise_06_a_cancelled_attempt_that_leaves_something_open_is_released() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)

    async def careless(n: int) -> None:
        trio.CancelScope().__enter__()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, careless).run)
        await trio.testing.wait_all_tasks_blocked()
        assert storage.statistics().running == 1
        nursery.cancel_scope.cancel()
    [task] = await storage.list_tasks()
    assert (task.parts.status, task.parts.attempt) == (Status.Pending, 0)


CHANGE: dict[str, Callable[[Any], object]] = {
    "id": lambda task: setattr(task.parts, "id", TaskId("another")),
    "id of a neighbour": lambda task: setattr(task.parts, "id", TaskId("quiet")),
    "attempt": lambda task: setattr(task.parts, "attempt", Attempt(99)),
    "terms": lambda task: setattr(task.parts, "terms", Terms(unique="mine")),
    "context": lambda task: setattr(task.parts, "context", None),
    "parts": lambda task: setattr(task, "parts", Parts("another")),
}


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("what", CHANGE)
@pytest.mark.parametrize("kind", STORAGES)
async def test_promise_06_a_handler_that_changes_its_parts_is_settled_as_what_it_was(
    tmp_path: Path, kind: str, what: str, fails: bool
) -> None:
    async def handler(task: Task[int]) -> int:
        await trio.lowlevel.checkpoint()
        if task.parts.id == "changed":
            CHANGE[what](task)
            if fails:
                raise ValueError("and failed")
        return 42

    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await storage.push(1, id="changed", unique="key")
        await storage.push(2, id="quiet")
        storage.close()
        with trio.fail_after(60):
            await Worker("w", storage, handler, concurrency=2, retry=RetryPolicy(1)).run()
        changed, quiet = await storage.wait_for("changed"), await storage.wait_for("quiet")
        assert changed.status is (Status.Failed if fails else Status.Done)
        assert (quiet.status, quiet.result) == (Status.Done, 42)
        assert (await storage.metrics())["running"] == 0


NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("NUMBER", default=0)


async def test_promise_06_a_listener_on_idle_sets_nothing_for_the_next_task() -> None:
    storage = MemoryStorage[int]()
    seen: list[int] = []

    def listen(_: WorkerContext, event: object) -> None:
        if isinstance(event, Idle):
            NUMBER.set(NUMBER.get() + 1)

    async def handler(n: int) -> None:
        seen.append(NUMBER.get())
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, handler, concurrency=1, on_event=listen).run)
        for n in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await storage.push(n)
        await trio.testing.wait_all_tasks_blocked()
        storage.close()
    assert seen == [0, 0, 0]
