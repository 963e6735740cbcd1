"""A graceful shutdown has a timeline: (a) intake stops at once, (b) running attempts go on, (c) the terminator fires,
(d) ``run()`` returns the truth."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Attempt,
    MemoryStorage,
    Monitor,
    Outcome,
    Released,
    Report,
    RetryPolicy,
    Stop,
    Succeeded,
    Task,
    Worker,
    WorkerContext,
)

from tests.promises._run_worker import EventRecord, Open, released, run_for

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


async def sleep_for(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def sleep_on(args: object) -> None:
    await trio.sleep_forever()


async def shut_down_after(seconds: float, monitor: Monitor) -> Report:
    """Run the monitor, and shut it down after so many seconds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_later, seconds, monitor)
        report = await monitor.run()
        nursery.cancel_scope.cancel()
    return report


async def stop_later(seconds: float, monitor: Monitor) -> None:
    await trio.sleep(seconds)
    monitor.shutdown()


# (a) intake stops at once


async def test_promise_05_graceful_shutdown_has_a_timeline_a_slots_that_wait_leave_at_once(
    autojump_clock: MockClock,
) -> None:
    storage, record, begun = MemoryStorage[float](), EventRecord(), trio.current_time()
    monitor = Monitor(shutdown_timeout=100, on_event=record)
    monitor.register(Worker("idle", storage, sleep_for, concurrency=5))
    await storage.push(1, delay=1000)
    await shut_down_after(10, monitor)
    assert trio.current_time() - begun == pytest.approx(10)
    assert record.outcomes == []
    assert (storage.statistics().waiting, storage.statistics().running) == (1, 0)


async def test_promise_05_graceful_shutdown_has_a_timeline_a_the_backlog_stays(autojump_clock: MockClock) -> None:
    storage, record = MemoryStorage[float](), EventRecord()
    await storage.push_bulk([5.0] * 10)
    monitor = Monitor(on_event=record)
    monitor.register(Worker("busy", storage, sleep_for, concurrency=2))
    await shut_down_after(1, monitor)
    assert record.kinds == ["Succeeded"] * 2
    assert storage.statistics().waiting == 8


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_promise_05_graceful_shutdown_has_a_timeline_a_a_slot_that_was_just_woken_takes_nothing(
    autojump_clock: MockClock, concurrency: int
) -> None:
    """A task that waited in the backend when the worker was told to stop stays there."""
    storage, record = MemoryStorage[float](), EventRecord()
    worker = Worker("woken", storage, sleep_for, concurrency=concurrency, on_event=record)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(worker.run)
        await wait_all_tasks_blocked()
        for _ in range(concurrency):
            storage.push_nowait(1, delay=5)
        storage.push_nowait(2)
        waiting = storage.statistics().waiting
        context.stop()
    assert storage.statistics().waiting == waiting


async def test_promise_05_graceful_shutdown_has_a_timeline_a_before_the_start(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(1)
    monitor = Monitor().register(Worker("never", storage, sleep_for))
    monitor.shutdown()
    await monitor.run()
    worker = Worker("never", storage, sleep_for)
    context = worker.prepare()
    context.stop()
    await worker.run(context)
    assert storage.statistics().waiting == 1


# (b) running attempts go on


async def test_promise_05_graceful_shutdown_has_a_timeline_b_attempts_go_on_and_so_do_heartbeats(
    autojump_clock: MockClock,
) -> None:
    backend = Open(30.0, heartbeat_interval=1)
    monitor = Monitor(shutdown_timeout=100).register(Worker("beating", backend, sleep_for))
    await shut_down_after(5, monitor)
    assert [outcome for _, outcome in backend.settled] == [Succeeded(30.0)]
    assert backend.when("settled") == [30]
    assert backend.when("beat") == [*range(30)] or backend.when("beat") == [*range(31)]


async def test_promise_05_graceful_shutdown_has_a_timeline_b_retries_are_for_the_next_worker(
    autojump_clock: MockClock,
) -> None:
    storage, record = MemoryStorage[float](), EventRecord()
    await storage.push(5)

    async def fail(args: float) -> None:
        await trio.sleep(args)
        raise ValueError("no")

    monitor = Monitor(shutdown_timeout=100, on_event=record).register(Worker("failing", storage, fail))
    await shut_down_after(1, monitor)
    assert record.kinds == ["Retried"]
    (task,) = await storage.list_tasks()
    assert task.parts.attempt == 1


async def test_promise_05_graceful_shutdown_has_a_timeline_b_without_a_limit_it_takes_as_long_as_it_takes(
    autojump_clock: MockClock,
) -> None:
    storage, record = MemoryStorage[float](), EventRecord()
    await storage.push(1e6)
    monitor = Monitor(on_event=record).register(Worker("long", storage, sleep_for))
    report = await shut_down_after(1, monitor)
    assert record.kinds == ["Succeeded"]
    assert len(report.drained) == 1


# (c) the terminator fires


def by_seconds(monitor_of: Callable[..., Monitor]) -> Monitor:
    return monitor_of(shutdown_timeout=3)


def by_function(monitor_of: Callable[..., Monitor]) -> Monitor:
    async def terminator() -> None:
        await trio.sleep(3)

    return monitor_of(terminator=terminator)


def by_scope(monitor_of: Callable[..., Monitor]) -> Monitor:
    return monitor_of()


async def by_nothing(args: object) -> None:
    """A handler that ends when it is told to."""
    await trio.sleep_forever()


async def by_cleaning_up(args: object) -> None:
    """A handler whose clean-up takes two seconds."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(20, shield=True):
            await trio.sleep(2)


async def by_failing(args: object) -> None:
    """A handler whose clean-up raises an error, which hides the cancellation."""
    try:
        await trio.sleep_forever()
    finally:
        raise ConnectionError("already closed")


async def by_failing_from_another_error(args: object) -> None:
    """The same; the new error names an older one as its cause, which hides the cancellation further."""
    error = OSError("the socket is gone")
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise ConnectionError("already closed") from error  # noqa: ASYNC104  that it hides the cancellation is the point


async def by_failing_over_a_group(args: object, nursery: trio.Nursery) -> None:
    """The same; what stands behind the new error is a group, and the cancellation is in it."""

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("the socket is gone")

    try:
        async with trio.open_nursery() as inner:
            inner.start_soon(child)
            inner.start_soon(trio.sleep_forever)
    except BaseExceptionGroup:
        raise ConnectionError("already closed")  # noqa: B904  it is what hides the group


async def by_failing_beside(args: object, nursery: trio.Nursery) -> None:
    """A handler with a child that is cancelled, and another child that fails because of that."""

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("the socket is gone")

    nursery.start_soon(child)
    await trio.sleep_forever()


@pytest.mark.parametrize("time_is_up", [by_seconds, by_function, by_scope])
@pytest.mark.parametrize(
    "ends",
    [by_nothing, by_cleaning_up, by_failing, by_failing_from_another_error, by_failing_over_a_group, by_failing_beside],
)
async def test_promise_05_graceful_shutdown_has_a_timeline_c_what_is_left_is_released(
    autojump_clock: MockClock, time_is_up: Callable[..., Monitor], ends: Callable[..., Awaitable[None]]
) -> None:
    """A deploy does not use up an attempt, whatever the clean-up of the handler does."""
    storage, record, begun = MemoryStorage[int](), EventRecord(), trio.current_time()
    task_id = await storage.push(0)
    monitor = time_is_up(Monitor).on_event(record)
    monitor.register(Worker("left", storage, ends, retry=RetryPolicy(1)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await trio.sleep(10)
        monitor.shutdown()
        if time_is_up is by_scope:
            monitor.cancel_scope.deadline = trio.current_time() + 3
    assert trio.current_time() - begun == pytest.approx(15 if ends is by_cleaning_up else 13)
    assert record.kinds == ["Released"]
    task = await storage.fetch_by_id(task_id)
    assert task is not None
    assert task.parts.attempt == 0
    assert [each.task_id for each in monitor.report.interrupted] == [task_id]
    assert monitor.report.drained == ()


async def test_promise_05_graceful_shutdown_has_a_timeline_c_leases_are_kept_during_the_clean_up(
    autojump_clock: MockClock,
) -> None:
    """Heartbeats end after the last attempt has been settled, also if it was cancelled."""
    backend = Open(0, heartbeat_interval=1)
    await run_for(5.5, Worker("cleaning", backend, by_cleaning_up))
    assert [type(outcome) for _, outcome in backend.settled] == [Released]
    assert backend.when("settle") == [7.5]
    assert backend.when("beat")[:8] == [*range(8)]


async def test_promise_05_graceful_shutdown_has_a_timeline_c_a_cancel_from_outside_is_the_same(
    autojump_clock: MockClock,
) -> None:
    storage, record = MemoryStorage[int](), EventRecord()
    await storage.push(0)
    monitor = Monitor(on_event=record).register(Worker("cut", storage, by_cleaning_up))
    with trio.move_on_after(5) as scope:
        await monitor.run()
    assert scope.cancelled_caught, "the cancellation goes on its way"
    assert released(record) == ["cancelled"]
    assert len(monitor.report.interrupted) == 1
    assert isinstance(record.events[-1], Stop)


async def test_promise_05_graceful_shutdown_has_a_timeline_c_a_group_of_workers_in_a_block(
    autojump_clock: MockClock,
) -> None:
    storage, record = MemoryStorage[float](), EventRecord()
    async with Monitor(shutdown_timeout=3, on_event=record) as monitor:
        monitor.register(Worker("in a block", storage, sleep_for))
        await storage.push_bulk([1, 100])
        await trio.sleep(5)
        monitor.shutdown()
    assert record.kinds == ["Succeeded", "Released"]
    assert len(monitor.report.interrupted) == 1


# (d) the truth


async def test_promise_05_graceful_shutdown_has_a_timeline_d_says_what_drained_and_what_was_stuck_where(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[float]()
    before, drained, stuck = [await storage.push(seconds) for seconds in (1.0, 12.0, 50.0)]
    monitor = Monitor(shutdown_timeout=10).register(Worker("mixed", storage, sleep_for, concurrency=3))
    report = await shut_down_after(5, monitor)
    assert report is not None
    assert report == monitor.report
    assert report.drained == (drained,)
    (interruption,) = report.interrupted
    assert (interruption.worker, interruption.task_id) == ("mixed", stuck)
    assert "test_promise_05" in interruption.where
    assert "in sleep_for: await trio.sleep(seconds)" in interruption.where
    assert (report.errors, report.restarts) == ((), 0)
    assert before not in report.drained
    (worker,) = report.workers
    assert (worker.succeeded, worker.released) == (2, 1)


async def test_promise_05_graceful_shutdown_has_a_timeline_d_time_that_ran_out_does_not_look_drained(
    autojump_clock: MockClock,
) -> None:
    reports = []
    for seconds in (12.0, 50.0):
        storage = MemoryStorage[float]()
        await storage.push(seconds)
        monitor = Monitor(shutdown_timeout=10).register(Worker("mixed", storage, sleep_for))
        reports.append(await shut_down_after(5, monitor))
    assert [bool(report.interrupted) for report in reports] == [False, True]
    assert [bool(report.drained) for report in reports] == [True, False]


async def test_promise_05_graceful_shutdown_has_a_timeline_d_says_which_errors_there_were(
    autojump_clock: MockClock,
) -> None:
    """The report has the error of a backend that fails after the terminator has fired, too."""
    backend = Open(0)

    async def fail(task: Task[Any], outcome: Outcome) -> None:
        raise ConnectionError("the backend is gone")

    backend.on_settle = fail
    monitor = Monitor(shutdown_timeout=1).register(Worker("failing", backend, sleep_on))
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError), flatten_subgroups=True):
        await shut_down_after(5, monitor)
    assert "the backend is gone" in str(monitor.report)


async def test_promise_05_graceful_shutdown_has_a_timeline_d_an_attempt_that_cannot_be_stopped_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage, go_on = MemoryStorage[int](), trio.Event()
    task_id = await storage.push(0)

    async def stubborn(args: int) -> None:
        with trio.CancelScope(shield=True):
            await go_on.wait()

    monitor = Monitor(shutdown_timeout=1).register(Worker("stubborn", storage, stubborn))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await trio.sleep(1)
        monitor.shutdown()
        with caplog.at_level(logging.WARNING, "trio_tasks"):
            await trio.sleep(60)
        go_on.set()
    assert any(task_id in each and "await go_on.wait()" in each for each in caplog.messages)


async def test_promise_05_graceful_shutdown_has_a_timeline_costs_no_attempt_however_often(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[int]()
    await storage.push(0)
    attempts: list[int] = []

    async def handler(args: int, attempt: Attempt) -> None:
        attempts.append(attempt)
        if len(attempts) < 20:
            await trio.sleep_forever()
        raise ValueError("no")

    worker = Worker("deployed", storage, handler, retry=RetryPolicy(2, lambda attempt: 0))
    for _ in range(20):
        await run_for(5, worker)
    assert attempts == [1] * 20 + [2]
