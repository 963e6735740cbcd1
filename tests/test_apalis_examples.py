"""Tests of the examples in the documentation of apalis-core, translated into Python."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from trio_tasks import (
    Event,
    MemoryStorage,
    Monitor,
    Start,
    Stop,
    Success,
    Task,
    TaskBuilder,
    Worker,
    WorkerBuilder,
    WorkerContext,
)
from trio_tasks._clock import wall_now
from trio_tasks.abc import Handler


def test_using_task_builder() -> None:
    task = TaskBuilder("my-task").id("task-123").attempts(3).timeout(30).run_in_minutes(10).build()
    assert task.args == "my-task"
    assert task.parts.id == "task-123"
    assert task.parts.attempts == 3
    assert task.parts.timeout == 30
    assert task.parts.run_at is not None
    assert timedelta(minutes=9) < task.parts.run_at - wall_now() <= timedelta(minutes=10)


async def test_building_and_running_a_worker(autojump_clock: object) -> None:
    in_memory = MemoryStorage[int]()
    await in_memory.push(1)
    seen: list[int] = []
    said: list[tuple[str, Event]] = []

    async def task(task: int, worker: WorkerContext) -> None:
        await trio.sleep(1)  # do some work
        seen.append(task)
        worker.stop()

    worker = (
        WorkerBuilder("rango-tango")
        .backend(in_memory)
        .on_event(lambda context, event: said.append((context.name, event)))
        .build(task)
    )
    await worker.run()
    assert seen == [1]
    assert {name for name, _ in said} == {"rango-tango"}
    assert [type(event) for _, event in said][:1] == [Start]
    assert [type(event) for _, event in said][-1:] == [Stop]


async def test_using_monitor_with_a_worker() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    processed: list[int] = []
    said: list[str] = []

    async def handler(req: int, context: WorkerContext) -> int:
        processed.append(req)
        return req

    monitor = Monitor(on_event=lambda context, event: said.append(f"{context.name}: {type(event).__name__}"))
    monitor.register(lambda _: WorkerBuilder("demo-worker").backend(storage).build(handler))
    report = await monitor.run()  # starts all registered workers
    assert processed == [1]
    assert "demo-worker: Success" in said
    assert report.workers[0].succeeded == 1


class LoggingService:
    """A layer with an object of its own."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    async def __call__(self, inner: Handler[int, int], task: Task[int]) -> int:
        self.lines.append(f"Processing task: {task.args!r}")
        return await inner(task)


async def test_creating_custom_middleware() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(20)
    storage.close()
    lines: list[str] = []

    async def double(n: int) -> int:
        return n * 2

    await Worker("w", storage, double, layers=[LoggingService(lines)]).run()
    assert lines == ["Processing task: 20"]
    assert (await storage.wait_for(task_id)).result == 40


async def test_a_worker_as_a_stream_of_events() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()

    async def increment(n: int) -> int:
        return n + 1

    async with Worker("w", storage, increment).stream() as events:
        kinds = [type(event) async for event in events]
    assert kinds[0] is Start
    assert Success in kinds
    assert kinds[-1] is Stop


@pytest.mark.parametrize("tasks", [1, 20])
async def test_shutdown_waits_until_all_tasks_have_finished(tasks: int, autojump_clock: object) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(tasks))
    done: list[int] = []

    async def slow(n: int) -> None:
        await trio.sleep(5)
        done.append(n)

    monitor = Monitor(shutdown_timeout=10).register(Worker("slow", storage, slow, concurrency=tasks))
    async with monitor:
        await trio.sleep(1)
        monitor.shutdown()
    assert sorted(done) == list(range(tasks))
    assert len(monitor.report.drained) == tasks
    assert monitor.report.interrupted == ()
