"""Tests of Worker.run_until_idle, which needs no test clock and no list of tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    BackendError,
    CustomBackend,
    FileStorage,
    MemoryStorage,
    RetryAfterError,
    SqliteStorage,
    Status,
    Task,
    Worker,
    WorkerContext,
)

OPEN: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: MemoryStorage[int](),
    "file": lambda path: FileStorage(path, int, synchronous="NORMAL"),
    "sqlite": lambda path: SqliteStorage(path, int, synchronous="OFF"),
}


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("kind", OPEN)
async def test_it_does_all_that_is_ready_and_leaves_the_rest(kind: str, slots: int, tmp_path: Path) -> None:
    async with OPEN[kind](tmp_path / "store") as storage:

        async def handler(n: int) -> None:
            await trio.lowlevel.checkpoint()
            if n == 1:
                await storage.push(10)  # what a handler pushes is done, too
            if n == 2:
                raise RetryAfterError("later", 3600.0)

        worker = Worker("w", storage, handler, concurrency=slots)
        await storage.push_bulk(range(30))
        late = await storage.push(50, delay=3600.0)
        with trio.fail_after(60):
            report = await worker.run_until_idle()
        assert (report.succeeded, report.retried, report.released) == (30, 1, 0)
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["delayed"], metrics["running"]) == (0, 2, 0)
        assert (await storage.fetch_by_id(late)).parts.status is Status.Pending
        with trio.fail_after(60):
            assert (await worker.run_until_idle()).succeeded == 0
        await storage.push(5)  # it is open


async def test_a_channel_is_idle_when_it_gives_nothing(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](math.inf)
    for number in range(5):
        send.send_nowait(number)

    async def handler(n: int) -> None:
        await trio.sleep(n)

    report = await Worker("w", receive, handler).run_until_idle()
    assert report.succeeded == 5
    assert trio.current_time() < 12


async def test_a_backend_that_takes_its_time_is_waited_for(autojump_clock: MockClock) -> None:
    tasks = [Task(number) for number in range(3)]

    async def receive() -> Task[int]:
        if not tasks:
            await trio.sleep_forever()
        await trio.sleep(0.03)
        return tasks.pop()

    async def settle(task: Task[int], outcome: object) -> None:
        await trio.lowlevel.checkpoint()

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    backend = CustomBackend(receive=receive, settle=settle)
    assert (await Worker("w", backend, handler).run_until_idle()).succeeded == 3


async def test_it_ends_with_its_backend_and_with_its_error() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    assert (await Worker("w", storage, handler).run_until_idle()).succeeded == 1

    async def fail(*_: object) -> Task[int]:
        await trio.lowlevel.checkpoint()
        raise BackendError("there is no store")

    broken: Any = CustomBackend(receive=fail, settle=fail)
    with pytest.RaisesGroup(pytest.RaisesExc(BackendError, match="there is no store")):
        await Worker("w", broken, handler, concurrency=1).run_until_idle()


async def test_it_can_be_started_and_does_not_end_while_it_is_paused(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    ended = trio.Event()

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    async def work(task_status: trio.TaskStatus[WorkerContext]) -> None:  # noqa: ASYNC128  it is handed on
        await worker.run_until_idle(task_status=task_status)
        ended.set()

    worker = Worker("w", storage, handler)
    async with trio.open_nursery() as nursery:
        context = await nursery.start(work)
        context.pause()
        await storage.push(1)
        await trio.sleep(100)
        assert not ended.is_set()
        context.resume()
    assert (await storage.metrics())["succeeded"] == 1
