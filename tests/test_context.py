"""Tests of WorkerContext: its state and its methods, at all times and from all threads."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    Custom,
    CustomBackend,
    Event,
    LeaseLostError,
    MemoryStorage,
    Outcome,
    Task,
    Worker,
    WorkerContext,
    WorkerError,
    WorkerReport,
    WorkerStatistics,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # noqa: F401  RaisesGroup shows it


async def sleep(seconds: float) -> None:
    await trio.sleep(seconds)


async def start(
    nursery: trio.Nursery, storage: MemoryStorage[Any], handler: Any = sleep, **options: Any
) -> WorkerContext:
    context: WorkerContext = await nursery.start(Worker("w", storage, handler, **options).run)
    return context


# What it knows


async def test_its_life(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([5, 5])
    worker = Worker("w", storage, sleep, concurrency=3)
    context = worker.prepare()

    def state() -> tuple[bool, ...]:
        return (
            context.is_running,
            context.is_paused,
            context.is_shutting_down,
            context.is_stopped,
            context.is_ready,
        )

    assert state() == (False, False, False, False, False)
    assert repr(context) == "<WorkerContext 'w' not started, 0/3 slots busy>"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, context)
        await trio.sleep(1)
        assert state() == (True, False, False, False, True)
        assert repr(context) == "<WorkerContext 'w' running, 2/3 slots busy>"
        assert context.task_count == 2
        context.pause()
        assert state() == (True, True, False, False, False)
        assert repr(context) == "<WorkerContext 'w' paused, 2/3 slots busy>"
        context.resume()
        assert state() == (True, False, False, False, True)
        await storage.push(5)
        await trio.sleep(1)
        assert not context.is_ready  # all slots are taken
        context.stop()
        assert state() == (True, False, True, False, False)
        assert repr(context) == "<WorkerContext 'w' shutting down, 3/3 slots busy>"
    assert state() == (False, False, True, True, False)
    assert repr(context) == "<WorkerContext 'w' stopped, 0/3 slots busy>"
    assert context.task_count == 0


async def test_statistics_are_frozen_and_whole(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([0, 0, 100])
    context = await start(nursery, storage, concurrency=2)
    await trio.sleep(1)
    found = context.statistics()
    assert found == WorkerStatistics(
        name="w",
        state="running",
        concurrency=2,
        tasks_running=1,
        slots_waiting=1,
        tracked=0,
        succeeded=2,
        retried=0,
        failed=0,
        killed=0,
        released=0,
        suspended=0,
        leases_lost=0,
        settle_seconds=0.0,
        settle_times={},
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.succeeded = 3  # type: ignore[misc]  # which is what must not work
    nursery.cancel_scope.cancel()


async def test_statistics_tell_of_lost_leases_and_of_settling(autojump_clock: MockClock) -> None:
    async def settle(task: Task[str], outcome: Outcome) -> None:
        await trio.sleep(3 if task.args == "slow" else 0.3)
        if task.args == "lost":
            raise LeaseLostError("another worker has it")

    async def receive() -> Task[str]:
        await trio.lowlevel.checkpoint()
        if not items:
            raise trio.EndOfChannel
        return Task.builder(items.pop()).build()

    async def handle(item: str, context: WorkerContext) -> None:
        if item == "interrupted":
            await trio.sleep_forever()

    items = ["interrupted", "slow", *["quick"] * 300, "lost"]
    worker = Worker("w", CustomBackend(receive=receive, settle=settle), handle, concurrency=1, log=None)
    context = worker.prepare()
    with trio.move_on_after(300 * 0.3 + 10):
        await worker.run(context)
    found = context.statistics()
    assert (found.released, found.leases_lost, found.succeeded) == (2, 1, 301)
    assert found.settle_times == {0.5: 302, 4.0: 1}, "that of the one that was interrupted among them"
    assert found.settle_seconds == pytest.approx(302 * 0.3 + 3)


async def test_a_report_can_be_had_at_any_time(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    context = await start(nursery, storage)
    assert context.report() == WorkerReport("w")
    await storage.push(1)
    await trio.sleep(2)
    assert context.report() == WorkerReport("w", succeeded=1)
    context.stop()


async def test_wait_stopped(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    await storage.push(5)
    context = await start(nursery, storage)
    await trio.sleep(1)
    with trio.move_on_after(1) as scope:
        await context.wait_stopped()
    assert scope.cancelled_caught
    context.stop()
    began = trio.current_time()
    await context.wait_stopped()
    assert trio.current_time() - began == 3
    with assert_checkpoints():
        await context.wait_stopped()


async def test_it_belongs_to_the_running_tasks(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    found: list[bool] = []

    async def handler(task: Task[int], context: WorkerContext) -> None:
        found.append(WorkerContext.of(task) is context)

    await Worker("w", storage, handler).run()
    assert found == [True]
    with pytest.raises(WorkerError, match="no worker has claimed task"):
        WorkerContext.of(Task(1))


@pytest.mark.parametrize("given", [5, None, "task"], ids=repr)
def test_only_a_task_has_a_context(given: Any) -> None:
    with pytest.raises(TypeError, match="Task"):
        WorkerContext.of(given)


# Controls


Control = Callable[[WorkerContext], None]


async def directly(control: Control, context: WorkerContext) -> None:
    control(context)
    await trio.lowlevel.checkpoint()


async def from_a_trio_thread(control: Control, context: WorkerContext) -> None:
    await trio.to_thread.run_sync(control, context)


async def from_a_foreign_thread(control: Control, context: WorkerContext) -> None:
    thread = threading.Thread(target=control, args=(context,))
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    await trio.sleep(0.02)


async def from_another_run(control: Control, context: WorkerContext) -> None:
    async def main() -> None:
        control(context)
        await trio.lowlevel.checkpoint()

    await trio.to_thread.run_sync(trio.run, main)
    await trio.sleep(0.02)


@pytest.mark.parametrize("call", [directly, from_a_trio_thread, from_a_foreign_thread, from_another_run])
async def test_controls_work_from_anywhere(call: Any, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    heard: list[Event] = []
    context = await start(nursery, storage, on_event=lambda _, event: heard.append(event))
    await wait_all_tasks_blocked()
    await call(WorkerContext.pause, context)
    assert context.is_paused
    await storage.push(0)
    await call(WorkerContext.resume, context)
    assert not context.is_paused
    while not storage.statistics().succeeded:  # noqa: ASYNC110  it has no event
        await trio.sleep(0.001)
    await call(lambda each: each.emit(Custom(5)), context)
    assert Custom(5) in heard
    done = trio.Event()

    async def tracked() -> None:
        done.set()

    await call(lambda each: each.track(tracked), context)
    await done.wait()
    await call(WorkerContext.stop, context)
    await context.wait_stopped()


async def test_a_sync_handler_controls_its_worker() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))
    heard: list[Event] = []

    def handler(n: int, context: WorkerContext) -> None:
        context.emit(Custom(n))
        context.stop()

    report = await Worker("w", storage, handler, concurrency=1, on_event=lambda _, event: heard.append(event)).run()
    assert report.succeeded == 1
    assert Custom(0) in heard


async def test_controls_after_the_end_do_nothing() -> None:
    storage = MemoryStorage[int]()
    storage.close()
    worker = Worker("w", storage, sleep)
    context = worker.prepare()
    await worker.run(context)
    context.pause()
    context.resume()
    context.stop()
    context.emit(Custom(1))
    assert context.is_stopped


def test_controls_after_the_end_of_trio_do_nothing() -> None:
    async def main() -> WorkerContext:
        storage = MemoryStorage[int]()
        storage.close()
        worker = Worker("w", storage, sleep)
        context = worker.prepare()
        await worker.run(context)
        return context

    context = trio.run(main)
    context.stop()
    context.pause()
    context.resume()
    context.emit(Custom(1))
    assert context.is_stopped


# Listeners


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("out")], ids=repr)
async def test_a_listener_that_fails_is_logged_and_others_hear(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage[int]()
    storage.close()
    heard: list[Event] = []

    def broken(context: WorkerContext, event: Event) -> None:
        raise error

    await Worker("w", storage, sleep, on_event=[broken, lambda _, event: heard.append(event)]).run()
    assert len(heard) >= 2
    assert len(caplog.records) == len(heard)
    assert "worker 'w': listener" in caplog.records[0].getMessage()
    caplog.clear()


async def test_a_listener_may_emit_and_stop(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    await storage.push(0)
    heard: list[str] = []

    def listener(context: WorkerContext, event: Event) -> None:
        heard.append(type(event).__name__)
        if type(event).__name__ == "Engage":
            context.emit(Custom("seen"))
            context.stop()

    context = await start(nursery, storage, concurrency=1, on_event=listener)
    await context.wait_stopped()
    assert heard[:4] == ["Start", "Engage", "Custom", "Success"]


@pytest.mark.parametrize("given", [5, None, "event", Custom], ids=repr)
async def test_only_events_are_emitted(given: Any) -> None:
    context = Worker("w", MemoryStorage[int](), sleep).prepare()
    with pytest.raises(TypeError, match="event"):
        context.emit(given)


# Tracking


async def test_what_is_tracked_outlives_its_attempt_but_not_the_worker(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    task_id = await storage.push(1)
    log: list[tuple[str, float]] = []
    began = trio.current_time()

    async def long(name: str) -> None:
        await trio.sleep(10)
        log.append((name, trio.current_time() - began))

    async def handler(seconds: float, context: WorkerContext) -> None:
        context.track(long, "long")
        await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        context = await start(nursery, storage, handler)
        await storage.wait_for(task_id)
        assert trio.current_time() - began == 1
        assert context.task_count == context.statistics().tracked == 1
        context.stop()
        await trio.sleep(2)
        assert context.is_running
    assert log == [("long", 10)]


async def test_what_is_tracked_may_track_on_while_the_worker_stops(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    steps: list[int] = []
    async with trio.open_nursery() as nursery:
        context = await start(nursery, storage)

        async def step(number: int) -> None:
            await trio.sleep(1)
            steps.append(number)
            if number < 3:
                context.track(step, number + 1)

        context.track(step, 1)
        context.stop()
    assert steps == [1, 2, 3]


async def test_what_is_tracked_is_cancelled_with_the_worker(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    ended: list[float] = []

    async def long() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        context = await start(nursery, storage)
        context.track(long)
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert len(ended) == 1
    assert context.is_stopped


async def fails() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("no")


async def exits() -> None:
    await trio.lowlevel.checkpoint()
    raise SystemExit("out")


async def exits_in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exits)
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("async_fn", [fails, exits, exits_in_a_nursery])
async def test_tracked_work_that_fails_is_logged_and_does_no_harm(
    async_fn: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage[float]()
    await storage.push(5)
    async with trio.open_nursery() as nursery:
        context = await start(nursery, storage)
        context.track(async_fn)
        await trio.sleep(1)
        storage.close()
    assert context.report().succeeded == 1
    assert "a tracked function failed" in caplog.records[0].getMessage()


variable: ContextVar[str] = ContextVar("variable", default="default")


async def test_tracked_work_sees_the_context_variables_of_its_caller() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())

    async def handler(n: int, context: WorkerContext) -> None:
        variable.set("handler's")
        context.track(look)

    await Worker("w", storage, handler).run()
    assert seen == ["handler's"]


async def test_nothing_can_be_tracked_before_and_after() -> None:
    storage = MemoryStorage[int]()
    storage.close()
    worker = Worker("w", storage, sleep)
    context = worker.prepare()
    with pytest.raises(WorkerError, match="worker 'w' is not running, so it cannot track"):
        context.track(trio.sleep, 1)
    await worker.run(context)
    with pytest.raises(WorkerError, match="worker 'w' is not running, so it cannot track"):
        context.track(trio.sleep, 1)


class SlowHeart(Backend[int]):
    """A backend that ends at once, and whose heartbeat takes time to end."""

    heartbeat_interval = 1.0

    async def receive(self) -> Task[int]:
        await trio.sleep(1)
        raise trio.EndOfChannel

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        raise AssertionError("it gave none")

    async def beat(self, context: WorkerContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)


@pytest.mark.parametrize("threaded", [False, True])
async def test_nothing_can_be_tracked_when_the_last_of_it_has_ended(
    threaded: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    autojump_clock.autojump_threshold = 0.05  # a thread takes real time
    context: WorkerContext = await nursery.start(Worker("w", SlowHeart(), sleep).run)
    await trio.sleep(5)
    assert not context.is_stopped
    with pytest.raises(WorkerError, match="cannot track"):
        if threaded:
            await trio.to_thread.run_sync(context.track, trio.sleep, 1)
        else:
            context.track(trio.sleep, 1)


@pytest.mark.parametrize("given", [5, None, "sleep"], ids=repr)
async def test_only_what_can_be_called_is_tracked(given: Any, nursery: trio.Nursery) -> None:
    context = await start(nursery, MemoryStorage[float]())
    try:
        with pytest.raises(TypeError, match=r"track\(async_fn"):
            context.track(given)
    finally:
        context.stop()


async def test_a_worker_that_stops_at_once_tracks_what_its_handler_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    done = False

    async def late() -> None:
        nonlocal done
        await trio.lowlevel.checkpoint()
        done = True

    async def handler(n: int, context: WorkerContext) -> None:
        context.stop()
        context.track(late)

    with caplog.at_level(logging.WARNING, "trio_tasks"):
        await Worker("w", storage, handler).run()
    assert done
    assert not caplog.records
