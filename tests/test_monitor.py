"""Tests of Monitor: restarts by policy, graceful shutdown, and reports."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    Engage,
    Event,
    FileStorage,
    Idle,
    MemoryStorage,
    Monitor,
    MonitorError,
    Outcome,
    Report,
    Start,
    Stop,
    Task,
    Worker,
    WorkerContext,
    WorkerReport,
    constant,
)


async def sleep(seconds: float) -> None:
    await trio.sleep(seconds)


async def stubborn(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


def worker_on(storage: Backend[float], name: str = "w", **options: Any) -> Worker[float, None]:
    return Worker(name, storage, options.pop("handler", sleep), **options)


class Failing(Backend[int]):
    """A backend that fails after a while, so many times, and then ends."""

    def __init__(self, error: Exception | None = None, *, after: float = 1.0, times: float = math.inf) -> None:
        self.error = error or OSError("gone")
        self.times = times
        self.failed_at: list[float] = []
        self._after = after

    async def receive(self) -> Task[int]:
        await trio.sleep(self._after)
        if self.times <= 0:
            raise trio.EndOfChannel
        self.times -= 1
        self.failed_at.append(trio.current_time())
        raise self.error

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        raise AssertionError("it gave none")


async def no_op(n: int) -> None:
    pass


def failing(backend: Failing, name: str = "failing") -> Worker[int, None]:
    return Worker(name, backend, no_op, concurrency=1)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread or a signal brings about."""
    while not condition():  # noqa: ASYNC110  it sets no event
        await trio.sleep(0.001)


def always(context: WorkerContext, error: Exception, attempt: int) -> bool:
    return True


# Running


async def test_it_runs_until_every_worker_has_ended(autojump_clock: MockClock) -> None:
    storages = [MemoryStorage[float]() for _ in range(3)]
    monitor = Monitor()
    for number, storage in enumerate(storages):
        await storage.push(number)
        storage.close()
        assert monitor.register(worker_on(storage, str(number))) is monitor
    start = trio.current_time()
    report = await monitor.run()
    assert trio.current_time() - start == 2
    assert [each.worker for each in report.workers] == ["0", "1", "2"]
    assert all(each.succeeded == 1 for each in report.workers)
    assert report == monitor.report
    assert not monitor.is_running


async def test_without_workers_it_returns_at_once() -> None:
    assert await Monitor().run() == Report()


async def test_started_gives_the_monitor(nursery: trio.Nursery) -> None:
    monitor = Monitor().register(worker_on(MemoryStorage()))
    assert await nursery.start(monitor.run) is monitor
    assert monitor.is_running
    await wait_all_tasks_blocked()
    (context,) = monitor.workers
    assert context.is_running
    monitor.shutdown()


async def test_it_may_be_run_again_and_then_reports_afresh(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    monitor = Monitor(shutdown_timeout=5).register(worker_on(storage))
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            await nursery.start(monitor.run)
            await storage.push(1)
            await trio.sleep(2)
            assert not monitor.is_shutting_down
            monitor.shutdown()
        assert [each.succeeded for each in monitor.report.workers] == [1]


ALREADY = "Monitor is already running. To add a worker, call monitor.register(worker)."


async def test_it_does_not_run_twice_at_once(nursery: trio.Nursery) -> None:
    monitor = Monitor().register(worker_on(MemoryStorage()))
    await nursery.start(monitor.run)
    with pytest.raises(MonitorError, match=re.escape(ALREADY)):
        await monitor.run()
    with pytest.raises(MonitorError, match=re.escape(ALREADY)):
        async with monitor:
            raise AssertionError("it runs already")
    assert monitor.is_running
    monitor.shutdown()


async def test_run_with_signal_does_not_run_twice_at_once_either(nursery: trio.Nursery) -> None:
    monitor = Monitor().register(worker_on(MemoryStorage()))
    await nursery.start(monitor.run)
    try:
        with pytest.raises(MonitorError, match=re.escape(ALREADY)):
            await monitor.run_with_signal()
    finally:
        monitor.shutdown()


def test_it_may_be_run_in_one_trio_run_after_the_other() -> None:
    storage = MemoryStorage[float]()
    monitor = Monitor().register(worker_on(storage))

    async def main(number: int) -> None:
        storage.push_nowait(0.0)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(monitor.run)
                await until(lambda: storage.statistics().succeeded == number)
                monitor.shutdown()

    for number in (1, 2):
        trio.run(main, number)
        assert not monitor.is_running
        assert [worker.succeeded for worker in monitor.report.workers] == [1]


# Who takes part


async def test_a_worker_that_is_registered_while_it_runs_starts_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    early, late = MemoryStorage[float](), MemoryStorage[float]()
    monitor = Monitor().register(worker_on(early, "early"))
    await nursery.start(monitor.run)
    await late.push(1)
    monitor.register(worker_on(late, "late"))
    await trio.sleep(5)
    assert late.statistics().succeeded == 1
    assert {each.name for each in monitor.workers} == {"early", "late"}
    monitor.shutdown()
    with pytest.raises(MonitorError, match="and takes no more workers"):
        monitor.register(worker_on(late))
    await wait_all_tasks_blocked()
    assert len(monitor.report.workers) == 2


async def test_a_worker_that_was_registered_while_it_ran_takes_part_in_the_next_run(autojump_clock: MockClock) -> None:
    one, other = MemoryStorage[float](), MemoryStorage[float]()
    monitor = Monitor().register(worker_on(one, "one"))
    async with monitor:
        monitor.register(worker_on(other, "other"))
        monitor.shutdown()
    one.close()
    other.close()
    assert {each.worker for each in (await monitor.run()).workers} == {"one", "other"}


async def test_a_factory_is_told_the_number_of_the_run(autojump_clock: MockClock) -> None:
    backend = Failing(times=2)
    monitor = Monitor(should_restart=always)
    monitor.register(lambda attempt: failing(backend, f"worker-{attempt}"))
    report = await monitor.run()
    assert [each.worker for each in report.workers] == ["worker-1", "worker-2", "worker-3"]
    assert report.restarts == 2
    assert report.errors == (backend.error, backend.error)


@pytest.mark.parametrize("given", [None, 5, "worker", MemoryStorage()], ids=lambda each: type(each).__name__)
async def test_a_factory_that_returns_something_else_ends_the_monitor(given: Any) -> None:
    monitor = Monitor(should_restart=always).register(lambda attempt: given)
    with pytest.RaisesGroup(TypeError) as caught:
        await monitor.run()
    assert "must return a Worker" in str(caught.value.exceptions[0])


async def test_a_factory_that_fails_ends_the_monitor_and_is_reported(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    error = KeyError("no such setting")

    def make(attempt: int) -> Worker[Any, Any]:
        raise error

    monitor = Monitor(should_restart=always).register(worker_on(storage)).register(make)
    with pytest.RaisesGroup(KeyError) as caught:
        await monitor.run()
    assert caught.value.exceptions == (error,)
    assert monitor.report.errors == (error,)
    assert storage.statistics().waiting == 1


# Shutting down


async def test_shutdown_lets_attempts_finish_and_takes_no_more(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    first = await storage.push(5)
    await storage.push(5)
    async with Monitor(shutdown_timeout=10) as monitor:
        monitor.register(worker_on(storage, concurrency=1))
        await trio.sleep(1)
        start = trio.current_time()
        monitor.shutdown()
        monitor.shutdown()
        assert monitor.is_shutting_down
    assert trio.current_time() - start == 4
    assert monitor.report == Report((WorkerReport("w", succeeded=1, drained=(first,)),))
    assert storage.statistics().waiting == 1


async def test_when_time_is_up_attempts_are_released_and_named(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    quick, slow = await storage.push_bulk([3, 100])
    async with Monitor(shutdown_timeout=10) as monitor:
        monitor.register(worker_on(storage))
        await trio.sleep(1)
        start = trio.current_time()
        monitor.shutdown()
    assert trio.current_time() - start == 10
    report = monitor.report
    assert report.drained == (quick,)
    (interruption,) = report.interrupted
    assert interruption.worker == "w"
    assert interruption.task_id == slow
    assert " in sleep: await trio.sleep(seconds)" in interruption.where
    assert str(report) == (
        "1 worker run, 0 restarts, 1 task drained, 1 interrupted, 0 errors\n"
        f"interrupted: {slow} of w, at {interruption.where}"
    )
    task = await storage.receive()
    assert (task.parts.id, task.parts.attempt) == (slow, 1)


async def test_no_time_at_all(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    async with Monitor(shutdown_timeout=0) as monitor:
        monitor.register(worker_on(storage))
        await trio.sleep(1)
        start = trio.current_time()
        monitor.shutdown()
    assert trio.current_time() == start
    assert len(monitor.report.interrupted) == 1


async def test_without_a_limit_shutdown_waits(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(10_000)
    async with Monitor() as monitor:
        monitor.register(worker_on(storage))
        await trio.sleep(1)
        monitor.shutdown()
    assert monitor.report.workers[0].succeeded == 1


async def test_a_terminator_says_when_time_is_up(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    started: list[float] = []

    async def terminator() -> None:
        started.append(trio.current_time())
        await trio.sleep(7)

    async with Monitor(terminator=terminator) as monitor:
        monitor.register(worker_on(storage))
        await trio.sleep(5)
        assert not started
        start = trio.current_time()
        monitor.shutdown()
    assert started == [start]
    assert trio.current_time() - start == 7
    assert len(monitor.report.interrupted) == 1


async def test_a_terminator_that_is_not_needed_is_cancelled(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(3)
    async with Monitor(terminator=trio.sleep_forever) as monitor:
        monitor.register(worker_on(storage))
        await trio.sleep(1)
        monitor.shutdown()
    assert len(monitor.report.drained) == 1


async def test_a_terminator_that_fails_means_time_is_up_and_says_so(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    error = ValueError("no idea")

    async def terminator() -> None:
        await trio.sleep(2)
        raise error

    monitor = Monitor(terminator=terminator).register(worker_on(storage))
    with pytest.RaisesGroup(ValueError) as caught:
        async with monitor:
            await trio.sleep(1)
            monitor.shutdown()
    assert caught.value.exceptions == (error,)
    assert storage.statistics().waiting == 1
    assert len(monitor.report.interrupted) == 1


async def test_shutdown_before_the_run_makes_it_return_at_once() -> None:
    monitor = Monitor(shutdown_timeout=5).register(worker_on(MemoryStorage()))
    monitor.shutdown()
    assert await monitor.run() == Report()


async def test_shutdown_between_two_runs_is_about_the_next(autojump_clock: MockClock) -> None:
    monitor = Monitor(shutdown_timeout=5).register(worker_on(MemoryStorage()))
    async with monitor:
        monitor.shutdown()
    before = monitor.report
    monitor.shutdown()
    assert monitor.report == before
    with trio.fail_after(100):
        assert await monitor.run() == Report()


def test_shutdown_between_two_runs_of_trio_is_about_the_next() -> None:
    monitor = Monitor(shutdown_timeout=5).register(worker_on(MemoryStorage()))

    async def first() -> None:
        async with monitor:
            monitor.shutdown()

    async def second() -> Report:
        with trio.fail_after(60):
            return await monitor.run()

    trio.run(first)
    monitor.shutdown()
    assert trio.run(second) == Report()


async def test_the_cancel_scope_after_a_run_tells_whether_it_was_cancelled(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    monitor = Monitor(shutdown_timeout=5).register(worker_on(storage))
    assert not monitor.cancel_scope.cancel_called
    async with monitor:
        monitor.shutdown()
    assert not monitor.cancel_scope.cancelled_caught
    await storage.push(100)
    async with monitor:
        await trio.sleep(1)
        monitor.shutdown()
    assert monitor.cancel_scope.cancelled_caught


async def test_shutdown_from_a_thread(nursery: trio.Nursery) -> None:
    monitor = Monitor(shutdown_timeout=5).register(worker_on(MemoryStorage()))
    await nursery.start(monitor.run)
    thread = threading.Thread(target=monitor.shutdown)
    thread.start()
    await until(lambda: not monitor.is_running)
    thread.join()
    assert monitor.is_shutting_down


async def test_shutdown_from_a_handler_in_a_thread() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    monitor = Monitor(shutdown_timeout=5)

    def handler(n: int) -> None:
        monitor.shutdown()

    report = await monitor.register(Worker("w", storage, handler)).run()
    assert report.workers[0].succeeded == 1


@pytest.mark.parametrize("kind", [Start, Engage, Idle])
async def test_shutdown_from_a_listener(kind: type[Event]) -> None:
    storage = MemoryStorage[int]()
    if kind is Engage:
        await storage.push(1)

    def listener(context: WorkerContext, event: Event) -> None:
        if isinstance(event, kind):
            monitor.shutdown()

    monitor = Monitor(on_event=listener).register(Worker("w", storage, no_op))
    report = await monitor.run()
    assert len(report.workers) == 1


async def test_a_worker_that_ends_by_itself_does_not_end_the_others(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    short, long = MemoryStorage[float](), MemoryStorage[float]()
    short.close()
    monitor = Monitor().register(worker_on(short)).register(worker_on(long))
    await nursery.start(monitor.run)
    await trio.sleep(1)
    assert len(monitor.workers) == 1
    assert len(monitor.report.workers) == 1
    monitor.shutdown()


# Cancelling


async def test_a_cancel_from_outside_releases_and_reports(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    task_id = await storage.push(100)
    monitor = Monitor(shutdown_timeout=50).register(worker_on(storage))
    with trio.move_on_after(5) as scope:
        await monitor.run()
    assert scope.cancelled_caught
    assert not monitor.is_running
    assert [each.task_id for each in monitor.report.interrupted] == [task_id]
    assert storage.statistics().waiting == 1


async def test_cancelling_the_root_ends_the_run_with_its_report(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    monitor = Monitor().register(worker_on(storage))
    monitor.cancel_scope.deadline = trio.current_time() + 5
    report = await monitor.run()
    assert len(report.interrupted) == 1


async def test_a_deadline_of_ones_own_is_not_put_off_by_shutdown(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    start = trio.current_time()
    async with Monitor(shutdown_timeout=50) as monitor:
        monitor.cancel_scope.deadline = start + 5
        monitor.register(worker_on(storage))
        await trio.sleep(1)
        monitor.shutdown()
    assert trio.current_time() - start == 5


async def test_an_attempt_that_finishes_although_time_was_up_has_drained(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    task_id = await storage.push(20)
    async with Monitor(shutdown_timeout=5) as monitor:
        monitor.register(worker_on(storage, handler=stubborn))
        await trio.sleep(1)
        monitor.shutdown()
    assert monitor.report.drained == (task_id,)
    assert not monitor.report.interrupted


# Around a block


async def test_a_block_that_raises_cancels_the_workers(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    monitor = Monitor(shutdown_timeout=50)
    error = ValueError("the block's")
    with pytest.RaisesGroup(ValueError) as caught:
        async with monitor:
            monitor.register(worker_on(storage))
            await trio.sleep(1)
            raise error
    assert caught.value.exceptions == (error,)
    assert not monitor.is_running
    assert len(monitor.report.interrupted) == 1


async def test_a_block_that_ends_waits_for_the_workers(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    async with Monitor() as monitor:
        monitor.register(worker_on(storage))
        await storage.push(5)
        storage.close()
    assert monitor.report.workers[0].succeeded == 1


async def test_a_worker_that_fails_cancels_the_block(autojump_clock: MockClock) -> None:
    monitor = Monitor()
    cancelled = False
    with pytest.RaisesGroup(OSError):
        async with monitor:
            monitor.register(failing(Failing()))
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled = True
                raise
    assert cancelled


async def test_the_block_can_be_entered_again() -> None:
    monitor = Monitor().register(worker_on(MemoryStorage()))
    for _ in range(2):
        async with monitor as same:
            assert same is monitor
            monitor.shutdown()


async def test_one_monitor_inside_another(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    async with Monitor(shutdown_timeout=5) as outer, Monitor(shutdown_timeout=5) as inner:
        outer.register(worker_on(storage, "outer"))
        inner.register(worker_on(storage, "inner"))
        await storage.push_bulk([100] * 10)
        await trio.sleep(1)
        inner.shutdown()
        outer.shutdown()
    assert storage.statistics().waiting == 10
    assert len(outer.report.interrupted) + len(inner.report.interrupted) == 10


# Errors and restarts


async def test_an_error_that_is_not_restarted_comes_out_as_out_of_a_nursery(autojump_clock: MockClock) -> None:
    storage, backend = MemoryStorage[float](), Failing()
    await storage.push(100)
    monitor = Monitor().register(failing(backend)).register(worker_on(storage))
    with pytest.RaisesGroup(OSError) as caught:
        await monitor.run()
    assert caught.value.exceptions == (backend.error,)
    report = monitor.report
    assert [each.worker for each in report.workers] == ["failing", "w"]
    assert len(report.interrupted) == 1
    assert report.errors == (backend.error,)
    assert "worker 'failing' has ended" in str(caught.value)


async def test_the_errors_of_several_workers_come_out_together(autojump_clock: MockClock) -> None:
    one, other = Failing(ValueError("one")), Failing(KeyError("other"))
    monitor = Monitor().register(failing(one, "one")).register(failing(other, "other"))
    with pytest.RaisesGroup(ValueError, KeyError, flatten_subgroups=True):
        await monitor.run()


async def test_restarts_wait_as_the_backoff_says(autojump_clock: MockClock) -> None:
    backend = Failing(times=3)
    asked: list[tuple[str, str, int]] = []

    def should_restart(context: WorkerContext, error: Exception, attempt: int) -> bool:
        assert context.is_stopped
        asked.append((context.name, repr(error), attempt))
        return True

    monitor = Monitor(should_restart=should_restart, restart_backoff=lambda attempt: 10.0 * attempt)
    start = trio.current_time()
    report = await monitor.register(failing(backend)).run()
    assert [when - start for when in backend.failed_at] == [1, 12, 33]
    assert [(name, attempt) for name, _, attempt in asked] == [("failing", 1), ("failing", 2), ("failing", 3)]
    assert report.restarts == 3
    assert len(report.errors) == 3
    assert len(report.workers) == 4


async def test_a_worker_is_restarted_only_so_often_in_a_period(autojump_clock: MockClock) -> None:
    backend = Failing(after=1)
    monitor = Monitor(should_restart=always, restart_backoff=constant(1), max_restarts=3, restart_period=100)
    with pytest.RaisesGroup(OSError):
        await monitor.register(failing(backend)).run()
    assert len(backend.failed_at) == 4
    assert monitor.report.restarts == 3
    assert len(monitor.report.errors) == 4


async def test_after_the_period_restarts_are_granted_again(autojump_clock: MockClock) -> None:
    backend = Failing(after=9, times=20)
    monitor = Monitor(should_restart=always, restart_backoff=constant(1), max_restarts=2, restart_period=15)
    report = await monitor.register(failing(backend)).run()
    assert report.restarts == 20


async def test_no_restarts_at_all(autojump_clock: MockClock) -> None:
    backend = Failing()
    with pytest.RaisesGroup(OSError):
        await Monitor(should_restart=always, max_restarts=0).register(failing(backend)).run()
    assert len(backend.failed_at) == 1


async def test_the_limit_is_for_each_worker_on_its_own(autojump_clock: MockClock) -> None:
    monitor = Monitor(should_restart=always, restart_backoff=constant(0), max_restarts=2, restart_period=1000)
    for _ in range(3):
        monitor.register(failing(Failing(times=2)))
    assert (await monitor.run()).restarts == 6


async def test_shutdown_ends_the_waiting_for_a_restart(autojump_clock: MockClock) -> None:
    backend = Failing()
    monitor = Monitor(should_restart=always, restart_backoff=constant(1000)).register(failing(backend))
    start = trio.current_time()
    async with monitor:
        await trio.sleep(5)
        assert monitor.restarting == 1
        monitor.shutdown()
    assert monitor.restarting == 0
    assert trio.current_time() - start == 5
    assert monitor.report.restarts == 0
    assert len(monitor.report.errors) == 1


async def test_an_error_during_shutdown_is_not_restarted(autojump_clock: MockClock) -> None:
    class FailsToSettle(Failing):
        async def receive(self) -> Task[int]:
            await trio.lowlevel.checkpoint()
            return Task(3)

        async def settle(self, task: Task[Any], outcome: Outcome) -> None:
            await trio.lowlevel.checkpoint()
            raise self.error

    backend = FailsToSettle()
    monitor = Monitor(should_restart=always)
    with pytest.RaisesGroup(OSError) as caught:
        async with monitor:
            monitor.register(Worker("w", backend, sleep, concurrency=1))
            await trio.sleep(1)
            monitor.shutdown()
    assert caught.value.exceptions == (backend.error,)
    assert monitor.report.restarts == 0
    assert len(monitor.report.errors) == 1


@pytest.mark.parametrize("delay", [math.nan, -1.0, math.inf, None, "soon"], ids=repr)
async def test_a_backoff_that_gives_nonsense_ends_the_monitor_and_says_so(
    delay: Any, autojump_clock: MockClock
) -> None:
    monitor = Monitor(should_restart=always, restart_backoff=lambda attempt: delay)
    with pytest.RaisesGroup(OSError, Exception) as caught:  # the worker's, and the policy's
        await monitor.register(failing(Failing())).run()
    assert "the delay that restart_backoff returned" in str(caught.value.exceptions[1])
    assert len(monitor.report.errors) == 1


async def test_a_policy_that_raises_does_not_hide_the_error_of_the_worker(autojump_clock: MockClock) -> None:
    def should_restart(context: WorkerContext, error: Exception, attempt: int) -> bool:
        raise KeyError("no idea")

    backend = Failing()
    monitor = Monitor(should_restart=should_restart).register(failing(backend))
    with pytest.RaisesGroup(KeyError, OSError, flatten_subgroups=True):
        await monitor.run()
    assert monitor.report.errors == (backend.error,)


async def test_a_keyboard_interrupt_is_not_restarted_and_releases(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    monitor = Monitor(should_restart=always).register(Worker("w", storage, handler, concurrency=1))
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await monitor.run()
    assert storage.statistics().waiting == 1
    assert monitor.report.restarts == 0
    assert [each.released for each in monitor.report.workers] == [1]
    assert not monitor.is_running


# Listeners


async def test_every_listener_hears_every_worker(autojump_clock: MockClock) -> None:
    heard: list[list[str]] = [[], [], []]

    def listener(number: int) -> Callable[[WorkerContext, Event], None]:
        return lambda context, event: heard[number].append(f"{context.name}: {type(event).__name__}")

    storage = MemoryStorage[float]()
    storage.close()
    monitor = Monitor(on_event=[listener(0), listener(1)])
    monitor.register(worker_on(storage, "a", on_event=listener(2))).register(worker_on(storage, "b"))
    await monitor.run()
    everything = {"a: Start", "a: Stop", "b: Start", "b: Stop"}
    assert everything <= set(heard[0])
    assert heard[0] == heard[1]
    assert {"a: Start", "a: Stop"} <= set(heard[2]) <= {"a: Start", "a: Idle", "a: Stop"}


@pytest.mark.parametrize("several", [False, True])
async def test_a_listener_added_while_it_runs_hears_from_then_on(
    several: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[float]()
    heard: list[str] = []

    def listener(context: WorkerContext, event: Event) -> None:
        heard.append(f"{context.name}: {type(event).__name__}")

    monitor = Monitor().register(worker_on(storage, "early"))
    await nursery.start(monitor.run)
    await trio.sleep(1)
    more: Any = [listener] if several else listener
    assert monitor.on_event(more) is monitor
    await trio.sleep(1)
    assert heard == []
    monitor.register(worker_on(storage, "late"))
    await storage.push(1)
    await trio.sleep(5)
    monitor.shutdown()
    await wait_all_tasks_blocked()
    assert {"early: Engage", "early: Stop", "late: Start", "late: Stop"} <= set(heard)


async def test_a_listener_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(context: WorkerContext, event: Event) -> None:
        raise SystemExit("out")

    storage = MemoryStorage[float]()
    await storage.push(0)
    storage.close()
    monitor = Monitor(on_event=[broken, lambda context, event: heard.append(event)])
    with caplog.at_level(logging.CRITICAL + 1, "trio_tasks"):
        report = await monitor.register(worker_on(storage)).run()
    assert report.workers[0].succeeded == 1
    assert isinstance(heard[-1], Stop)


# Signals


async def test_the_first_signal_is_graceful(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    await storage.push(0.05)
    monitor = Monitor().register(worker_on(storage))
    await nursery.start(monitor.run_with_signal)
    await until(lambda: storage.statistics().running > 0)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: not monitor.is_running)
    assert len(monitor.report.drained) == 1


async def test_windows_has_one_more_signal(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    monitor = Monitor().register(worker_on(MemoryStorage[float]()))
    await nursery.start(monitor.run_with_signal)
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(lambda: not monitor.is_running)
    assert monitor.is_shutting_down, "by the signal: nothing else ends it"
    assert len(monitor.report.workers) == 1


async def test_the_second_signal_is_now(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    await storage.push(1000)
    monitor = Monitor().register(worker_on(storage))
    await nursery.start(monitor.run_with_signal)
    await until(lambda: storage.statistics().running > 0)
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: monitor.is_shutting_down)
    assert monitor.is_running
    os.kill(os.getpid(), signal.SIGINT)
    await until(lambda: not monitor.is_running)
    assert len(monitor.report.interrupted) == 1


async def test_a_monitor_in_a_block_heeds_signals_too(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([0.0, 3600.0])
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    async with Monitor(signals=(signal.SIGUSR1, signal.SIGUSR2)) as monitor:
        monitor.register(worker_on(storage))
        await until(lambda: storage.statistics().succeeded == 1)
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: monitor.is_shutting_down)
        assert monitor.is_running, "what runs goes on, and so does the block"
        os.kill(os.getpid(), signal.SIGUSR1)
        await trio.sleep_forever()
    assert [each.where for each in monitor.report.interrupted]
    assert storage.statistics().waiting == 1
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == before


async def test_one_run_after_the_other_heeds_the_signals_anew(tmp_path: Path) -> None:
    """Also while a storage is open, for which a late signal of the first run would be kept."""
    before = signal.getsignal(signal.SIGUSR1)
    async with FileStorage(tmp_path / "tasks") as storage:
        monitor = Monitor(signals=[signal.SIGUSR1]).register(worker_on(storage))
        for _ in range(3):
            async with monitor:
                os.kill(os.getpid(), signal.SIGUSR1)
                await until(lambda: monitor.is_shutting_down)
        assert signal.getsignal(signal.SIGUSR1) != before
    await until(lambda: signal.getsignal(signal.SIGUSR1) == before)


async def test_signals_are_for_the_main_thread() -> None:
    def run_elsewhere() -> None:
        trio.run(Monitor().run_with_signal)

    with pytest.raises(
        RuntimeError, match=r"only in the main thread: run the monitor there, or call monitor\.shutdown"
    ):
        await trio.to_thread.run_sync(run_elsewhere)


async def test_a_handler_can_wait_for_the_shutdown(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)

    async def handler(n: int, context: WorkerContext) -> float:
        await context.wait_shutting_down()
        return trio.current_time()

    async with Monitor() as monitor:
        monitor.register(Worker("w", storage, handler))
        start = trio.current_time()
        await trio.sleep(5)
        monitor.shutdown()
    assert monitor.report.drained
    assert trio.current_time() - start == 5


@pytest.mark.parametrize("by", ["timeout", "terminator"])
async def test_the_report_tells_what_has_overrun_the_terminator(by: str, autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    slow = await storage.push(7.5)
    await storage.push_bulk([0.5, 0.0])

    async def handler(seconds: float) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    async def terminator() -> None:
        await trio.sleep(3)

    monitor = Monitor(shutdown_timeout=3) if by == "timeout" else Monitor(terminator=terminator)
    async with monitor:
        monitor.register(Worker("w", storage, handler))
        await wait_all_tasks_blocked()
        monitor.shutdown()
    report = monitor.report
    assert len(report.interrupted) == 3
    [overrun] = report.overrun
    assert (overrun.worker, overrun.task_id, overrun.seconds) == ("w", slow, 7)
    assert "await trio.sleep(seconds)" in overrun.where
    assert f"overrun: {slow} of w went on for 7 s, at {overrun.where}" in str(report)


async def test_a_terminator_that_is_not_overrun_is_not_reported(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push(100)
    async with Monitor(shutdown_timeout=3) as monitor:
        monitor.register(worker_on(storage))
        await wait_all_tasks_blocked()
        monitor.shutdown()
    assert len(monitor.report.interrupted) == 1
    assert not monitor.report.overrun


async def test_the_signals_can_be_chosen_and_errors_come_out_as_ever(autojump_clock: MockClock) -> None:
    backend = Failing()
    monitor = Monitor().register(failing(backend))
    with pytest.RaisesGroup(OSError) as caught:
        await monitor.run_with_signal(signal.SIGUSR1)
    assert caught.value.exceptions == (backend.error,)


# Wrong arguments


async def an_async_function(*args: object) -> float:
    return 1.0


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"shutdown_timeout": -1}, ValueError, "shutdown_timeout must be 0 or more seconds"),
    ({"shutdown_timeout": math.nan}, ValueError, "shutdown_timeout must be a finite number"),
    ({"shutdown_timeout": "10"}, TypeError, "shutdown_timeout must be a number of seconds"),
    ({"shutdown_timeout": 1, "terminator": trio.sleep_forever}, TypeError, "a shutdown_timeout or a terminator"),
    ({"signals": 15}, TypeError, "signals must be several of signal.Signals"),
    ({"signals": [0]}, TypeError, "signals must be several of signal.Signals, such as"),
    ({"terminator": 5}, TypeError, "terminator must be callable, as an async function"),
    ({"on_event": 5}, TypeError, r"on_event must be callable, as on_event\(context, event\)"),
    ({"on_event": [5]}, TypeError, "each of on_event must be callable"),
    ({"on_event": an_async_function}, TypeError, "on_event must be a plain function"),
    ({"should_restart": True}, TypeError, "should_restart must be callable"),
    ({"should_restart": an_async_function}, TypeError, "should_restart must be a plain function"),
    ({"restart_backoff": 5}, TypeError, r"restart_backoff must be callable, as restart_backoff\(attempt\) -> seconds"),
    ({"restart_backoff": an_async_function}, TypeError, "restart_backoff must be a plain function"),
    ({"max_restarts": -1}, ValueError, "max_restarts must be 0 or more"),
    ({"max_restarts": 1.5}, TypeError, "max_restarts must be a whole number"),
    ({"restart_period": 0}, ValueError, "restart_period must be more than 0 seconds"),
]


@pytest.mark.parametrize(
    ("options", "kind", "message"), WRONG, ids=[f"{' '.join(each[0])}: {each[2]}" for each in WRONG]
)
def test_a_wrong_argument_is_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Monitor(**options)


@pytest.mark.parametrize("given", [None, 5, "worker", MemoryStorage()], ids=lambda each: type(each).__name__)
def test_what_is_no_worker_is_not_registered(given: Any) -> None:
    with pytest.raises(TypeError, match="a Worker or a function"):
        Monitor().register(given)


@pytest.mark.parametrize("given", [None, 5, an_async_function], ids=lambda each: type(each).__name__)
def test_what_is_no_listener_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="on_event must be"):
        Monitor().on_event(given)


async def test_its_repr_is_for_people(nursery: trio.Nursery) -> None:
    monitor = Monitor().register(worker_on(MemoryStorage()))
    assert repr(monitor) == "<Monitor not running: 0 workers>"
    await nursery.start(monitor.run)
    await wait_all_tasks_blocked()
    assert repr(monitor) == "<Monitor running: 1 workers>"
    monitor.shutdown()
    assert repr(monitor) == "<Monitor shutting down: 1 workers>"
    await wait_all_tasks_blocked()
    assert repr(monitor) == "<Monitor not running: 0 workers>"
