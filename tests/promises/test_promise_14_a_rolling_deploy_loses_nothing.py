"""Tests of promise 14: a task that one version of a program cannot read is left to another version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trio_tasks import (
    Attempt,
    DecodeError,
    Event,
    FileStorage,
    MemoryStorage,
    Release,
    SqliteStorage,
    Status,
    Worker,
    WorkerContext,
)


@dataclass
class OldMail:
    to: str
    text: str


@dataclass
class NewMail:
    to: str
    subject: str


Open = Callable[..., Any]


@pytest.fixture(params=["sqlite", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Open the store as a version of the program with this type does."""
    if request.param == "file":
        return lambda type, **options: FileStorage(tmp_path / "tasks.journal", type, **options)
    return lambda type, **options: SqliteStorage(tmp_path / "tasks.db", type, driver="sqlite3", **options)


async def refuse(mail: OldMail) -> None:
    raise AssertionError(f"{mail} was read")


async def run_old(opened: Open, **options: Any) -> list[Event]:
    """Run a worker of the old version until it has put a task back, or finished one; returns its events."""
    events: list[Event] = []

    def listen(context: WorkerContext, event: Event) -> None:
        events.append(event)
        if isinstance(event, Release) or hasattr(event, "error"):
            context.stop()

    async with opened(OldMail, **options) as storage:
        await Worker("old", storage, refuse, concurrency=1, on_event=listen).run()
    return events


async def test_promise_14_a_rolling_deploy_loses_nothing(opened: Open) -> None:
    async with opened(NewMail) as storage:
        task_id = await storage.push(NewMail("a@example.com", "hi"), attempts=1)
    for _ in range(3):
        events = await run_old(opened)
        [released] = [each for each in events if isinstance(each, Release)]
        assert "cannot be read" in released.reason
        async with opened(NewMail) as storage:
            found = await storage.fetch_by_id(task_id)
            assert (found.parts.status, found.parts.attempt) == (Status.Pending, 0)
            assert [each.became for each in found.parts.context.history] == ["unreadable"]
            assert await storage.reschedule(task_id, 0)
    done: list[Any] = []

    async def send(mail: NewMail, attempt: Attempt) -> None:
        done.append((mail, int(attempt)))

    async with opened(NewMail) as storage:
        storage.close()
        await Worker("new", storage, send).run()
        counts = await storage.metrics()
    assert done == [(NewMail("a@example.com", "hi"), 1)]
    assert (counts["suspended"], counts["failed"], counts["killed"]) == (3, 0, 0)


async def test_promise_14_a_rolling_deploy_loses_nothing_though_its_patience_ends(opened: Open) -> None:
    """At a configurable age the task is a dead letter, which a version that can read it can resume."""
    async with opened(NewMail) as storage:
        task_id = await storage.push(NewMail("a@example.com", "hi"))
    await run_old(opened, unreadable_after=0.0)
    async with opened(NewMail) as storage:
        found = await storage.fetch_by_id(task_id)
        assert (found.parts.status, found.args) == (Status.Failed, NewMail("a@example.com", "hi"))
        assert isinstance(found.parts.context.error, DecodeError)
        assert await storage.resume_by_id(task_id)
        assert (await storage.receive()).args == NewMail("a@example.com", "hi")


class Unreadable:
    """A codec that cannot decode what it has encoded."""

    def encode(self, value: object) -> bytes:
        return b"payload"

    def decode(self, payload: bytes) -> object:
        raise DecodeError("no version reads this")


async def test_promise_14_a_rolling_deploy_loses_nothing_and_memory_has_one_version() -> None:
    storage = MemoryStorage[Any](codec=Unreadable())
    task_id = await storage.push(1)
    storage.close()
    await Worker("w", storage, refuse).run()
    result = await storage.wait_for(task_id)
    assert (result.status, str(result.error)) == (Status.Failed, "no version reads this")
