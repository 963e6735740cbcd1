"""When a task was pushed, begun and finished, as the storages tell it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import FileStorage, MemoryStorage, Metadata, Parts, Retried, SqliteStorage, Status, Succeeded, Task
from trio_tasks._backends.durable.encoding import decode_options, encode_options
from trio_tasks._clock import use_wall_clock, wall_now
from trio_tasks._tasks.task import USUAL_TERMS, Terms
from trio_tasks.testing import virtual_clock

HOUR = 3600.0
KINDS = ("memory", "file", "sqlite")


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    kinds: dict[str, Callable[[], Any]] = {
        "memory": MemoryStorage,
        "file": lambda: FileStorage(tmp_path / "tasks.journal", keep_results=float("inf")),
        "sqlite": lambda: SqliteStorage(tmp_path / "tasks.db", keep_results=float("inf")),
    }
    return kinds[request.param]


@asynccontextmanager
async def opened(storage: Any) -> AsyncGenerator[Any, None]:
    async with storage:
        yield storage


async def shown(storage: Any, task_id: str) -> Parts:
    task = await storage.fetch_by_id(task_id)
    assert task is not None
    parts: Parts = task.parts
    return parts


def test_times_pass_in_virtual_time_as_trio_says(make: Callable[[], Any]) -> None:
    """A storage uses trio's clock: an hour of virtual time is an hour in the times of a task."""

    async def main() -> None:
        async with opened(make()) as storage:
            task_id = await storage.push(1, delay=HOUR)
            task = await storage.receive()
            await storage.settle(task, Retried(ValueError("again"), HOUR))
            task = await storage.receive()
            await trio.sleep(60)
            await storage.settle(task, Succeeded(None))
            parts = await shown(storage, task_id)
            assert parts.pushed_at is not None and parts.started_at is not None and parts.finished_at is not None
            assert parts.started_at - parts.pushed_at == pytest.approx(timedelta(hours=2), abs=timedelta(seconds=5))
            assert parts.finished_at - parts.started_at == pytest.approx(timedelta(minutes=1), abs=timedelta(seconds=5))

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


async def test_times_are_moments_in_utc(make: Callable[[], Any]) -> None:
    before = wall_now()
    async with opened(make()) as storage:
        task_id = await storage.push(1)
        parts = (await storage.receive()).parts
        assert parts.pushed_at is not None and parts.started_at is not None and parts.finished_at is None
        assert parts.pushed_at.tzinfo is timezone.utc
        assert before - timedelta(seconds=1) <= parts.pushed_at <= parts.started_at <= wall_now() + timedelta(seconds=1)
        found = await shown(storage, task_id)
        assert (found.pushed_at, found.started_at) == (parts.pushed_at, parts.started_at)
    assert Parts().pushed_at is Parts().started_at is Parts().finished_at is None


def test_a_task_that_expired_is_finished_since_that_moment(make: Callable[[], Any]) -> None:
    """The time is the same, however late the first look comes."""

    async def main() -> None:
        async with opened(make()) as storage:
            task_id = await storage.push(1, expires_in=10.0)
            await trio.sleep(HOUR)
            for _ in range(2):
                parts = await shown(storage, task_id)
                assert parts.status is Status.Killed and parts.pushed is not None and parts.finished is not None
                assert parts.finished - parts.pushed == pytest.approx(10.0, abs=0.1)
                await storage.push(2)
                await storage.settle(await storage.receive(), Succeeded(None))

    with virtual_clock() as clock:
        trio.run(main, clock=clock)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_times_and_names_outlive_the_process(kind: str, tmp_path: Path) -> None:
    """They are read from a journal, from a compacted journal, and from an SQLite file."""

    def make() -> Any:
        if kind == "sqlite":
            return SqliteStorage(tmp_path / "tasks.db", keep_results=float("inf"))
        storage = FileStorage(tmp_path / "tasks.journal", keep_results=float("inf"))
        storage._loop.engine._compact_above = 0  # type: ignore[attr-defined]  # it is a FileEngine
        return storage

    ids: list[str] = []
    async with make() as storage:
        ids.append(await storage.push_task(Task(0, Parts(terms=Terms(name="named")))))
        ids += [await storage.push(number) for number in range(1, 5)]
        for number in range(4):
            task = await storage.receive()
            if number < 2:
                await storage.settle(task, Succeeded(None))
        before = [await shown(storage, each) for each in ids]
    for _ in range(2):
        async with make() as storage:
            after = [await shown(storage, each) for each in ids]
            for number in range(60):  # the journal is written anew meanwhile
                await storage.push(number, delay=HOUR)
            after += [await shown(storage, each) for each in ids]
        told = [(each.name, each.pushed, each.started, each.finished) for each in after]
        assert told == [(each.name, each.pushed, each.started, each.finished) for each in before] * 2
        assert [each.name for each in before] == ["named", None, None, None, None]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_mock_clock_will_do(kind: str) -> None:
    """Also if the wall clock was not replaced."""

    async def main() -> None:
        storage: Any = MemoryStorage[int]() if kind == "memory" else FileStorage.temporary()
        async with opened(storage):
            await storage.push(1, delay=HOUR)
            parts = (await storage.receive()).parts
            assert parts.started - parts.pushed == pytest.approx(HOUR, abs=1.0)
            assert abs(parts.pushed_at - wall_now()) < timedelta(minutes=1)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_memory_goes_by_the_wall_clock_if_that_was_replaced() -> None:
    async def main() -> None:
        storage = MemoryStorage[int]()
        await storage.push(1)
        parts = (await storage.receive()).parts
        assert parts.pushed_at == parts.started_at == datetime(2030, 1, 1, tzinfo=timezone.utc)

    with use_wall_clock(datetime(2030, 1, 1, tzinfo=timezone.utc).timestamp):
        trio.run(main, clock=MockClock())


async def test_what_is_pushed_again_begins_anew() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    task = await storage.receive()
    await storage.settle(task, Succeeded(None))
    assert task.parts.finished is not None
    await storage.discard(task.parts.id)
    again = await shown(storage, await storage.push_task(task))
    assert again.pushed is not None and again.pushed >= task.parts.finished
    assert (again.started, again.finished) == (None, None)


def test_a_name_alone_needs_no_options() -> None:
    assert encode_options(Terms(name="mail"), Metadata()) is None
    assert decode_options(None, "mail") == (Terms(name="mail"), Metadata())
    assert decode_options(None) == (USUAL_TERMS, Metadata())
    terms = Terms(name="mail", attempts=3)
    assert decode_options(encode_options(terms, Metadata(a=1)), "mail") == (terms, Metadata(a=1))
