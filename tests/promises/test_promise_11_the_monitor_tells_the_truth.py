"""Tests of promise 11: restarts follow the policy, and an error that is not restarted comes out of ``run()``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    Event,
    MemoryStorage,
    Monitor,
    MonitorError,
    Report,
    Start,
    Stop,
    Success,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks._concurrency.exception_groups import leaves

from tests.promises._run_worker import A_MONTH, EventRecord, Open

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Dying(Open):
    """A backend that fails some seconds after a worker has begun to receive, so many times."""

    def __init__(self, *args: Any, after: float = 1.0, times: float = float("inf"), name: str = "gone") -> None:
        super().__init__(*args)
        self.after, self.times, self.name = after, times, name

    async def receive(self) -> Any:
        if self._waiting or self.times <= 0:
            return await super().receive()
        await trio.sleep(self.after)
        self.times -= 1
        raise ConnectionError(self.name)


async def return_it(args: object) -> object:
    return args


async def sleep_on(args: object) -> None:
    await trio.sleep_forever()


def dying(**options: Any) -> Worker[Any, Any]:
    return Worker("dying", Dying(**options), return_it, concurrency=1)


async def run_and_fail(monitor: Monitor, *expected: str) -> Report:
    """Run the monitor; check that exactly these errors come out."""
    with trio.fail_after(A_MONTH):
        try:
            await monitor.run()
        except ExceptionGroup as group:
            errors = sorted(map(str, leaves(group)))
        else:
            errors = []
    assert errors == sorted(expected)
    return monitor.report


async def test_promise_11_the_monitor_tells_the_truth_an_error_comes_out(autojump_clock: MockClock) -> None:
    """As in a nursery, the other workers are cancelled, and their tasks are released."""
    storage, record = MemoryStorage[int](), EventRecord()
    await storage.push(0)
    monitor = Monitor(on_event=record)
    monitor.register(Worker("well", storage, sleep_on)).register(dying())
    report = await run_and_fail(monitor, "gone")
    assert record.kinds == ["Released"]
    assert storage.statistics().waiting == 1
    assert [str(leaf) for each in report.errors for leaf in leaves(each)] == ["gone"]
    assert len(report.interrupted) == 1
    assert sorted(each.worker for each in report.workers) == ["dying", "well"]


async def test_promise_11_the_monitor_tells_the_truth_errors_do_not_hide_errors(autojump_clock: MockClock) -> None:
    monitor = Monitor()
    for name in ("one", "two", "three"):
        monitor.register(dying(name=name))
    report = await run_and_fail(monitor, "one", "two", "three")
    assert len(report.errors) == 3


@pytest.mark.parametrize("times", [0, 1, 5])
async def test_promise_11_the_monitor_tells_the_truth_restarts_follow_the_policy(
    autojump_clock: MockClock, times: int
) -> None:
    """The policy is called after every failure, with the context, the error and the number of the run. Its answer
    decides.
    """
    asked: list[tuple[str, str, int]] = []

    def restart(context: WorkerContext, error: Exception, attempt: int) -> bool:
        (leaf,) = leaves(error)
        asked.append((context.name, str(leaf), attempt))
        return attempt <= times

    monitor = Monitor(should_restart=restart, restart_backoff=constant(1)).register(dying())
    report = await run_and_fail(monitor, "gone")
    assert asked == [("dying", "gone", attempt) for attempt in range(1, times + 2)]
    assert (report.restarts, len(report.errors), len(report.workers)) == (times, times + 1, times + 1)


async def test_promise_11_the_monitor_tells_the_truth_by_default_nothing_is_restarted(
    autojump_clock: MockClock,
) -> None:
    assert (await run_and_fail(Monitor().register(dying()), "gone")).restarts == 0


async def test_promise_11_the_monitor_tells_the_truth_a_worker_that_ended_well_is_not_restarted(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[int]()
    await storage.push(0)
    storage.close()
    runs: list[int] = []

    def member(attempt: int) -> Worker[int, object]:
        runs.append(attempt)
        return Worker("well", storage, return_it)

    report = await Monitor(should_restart=lambda *_: True).register(member).run()
    assert (runs, report.restarts, report.errors) == ([1], 0, ())


async def test_promise_11_the_monitor_tells_the_truth_waits_between_restarts(autojump_clock: MockClock) -> None:
    begun, times = trio.current_time(), []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Start):
            times.append(trio.current_time() - begun)

    monitor = Monitor(
        should_restart=lambda context, error, attempt: attempt < 4,
        restart_backoff=lambda attempt: 10.0 * attempt,
        on_event=listen,
    )
    await run_and_fail(monitor.register(dying(after=1)), "gone")
    assert times == pytest.approx([0, 11, 32, 63])


async def test_promise_11_the_monitor_tells_the_truth_so_many_in_so_many_seconds(autojump_clock: MockClock) -> None:
    """Three restarts within ten seconds are made, a fourth is not. Over a longer time there is no limit."""
    quick = Monitor(should_restart=lambda *_: True, restart_backoff=constant(1), max_restarts=3, restart_period=10)
    assert (await run_and_fail(quick.register(dying(after=1)), "gone")).restarts == 3
    slow = Monitor(should_restart=lambda *_: True, restart_backoff=constant(1), max_restarts=3, restart_period=10)
    slow.register(dying(after=10, times=20))
    with trio.move_on_after(1000):
        await slow.run()
    assert slow.report.restarts == 20


async def test_promise_11_the_monitor_tells_the_truth_what_it_asks_may_fail(autojump_clock: MockClock) -> None:
    """If the policy raises, there is no restart, and the error of the worker is not hidden."""

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("the policy")

    asks_should = Monitor(should_restart=fail)
    report = await run_and_fail(asks_should.register(dying()), "gone", "the policy")
    assert len(report.errors) >= 1
    asks_backoff = Monitor(should_restart=lambda *_: True, restart_backoff=fail)
    await run_and_fail(asks_backoff.register(dying()), "gone", "the policy")


async def test_promise_11_the_monitor_tells_the_truth_a_factory_that_fails(autojump_clock: MockClock) -> None:
    """The error of the function that makes workers comes out, and is in the report."""

    def fail(attempt: int) -> Worker[Any, Any]:
        raise ZeroDivisionError("the factory")

    report = await run_and_fail(Monitor().register(fail), "the factory")
    assert "the factory" in str(report)


async def test_promise_11_the_monitor_tells_the_truth_listeners_do_not_displace_one_another(
    autojump_clock: MockClock,
) -> None:
    storage, heard = MemoryStorage[int](), [EventRecord() for _ in range(5)]

    def fail(context: WorkerContext, event: Event) -> None:
        raise ValueError("a listener")

    monitor = Monitor(on_event=[heard[0], fail, heard[1]])
    monitor.on_event(heard[2]).on_event(fail)
    async with monitor:
        monitor.register(Worker("heard", storage, return_it, on_event=[heard[3], fail]))
        await storage.push(1)
        await trio.sleep(1)
        monitor.on_event(heard[4])
        await storage.push(2)
        await trio.sleep(1)
        monitor.shutdown()
    for record in heard[:4]:
        assert [each.result for each in record.of(Success)] == [1, 2]
        assert record.of(Start)
        assert record.of(Stop)
    assert [each.result for each in heard[4].of(Success)] == [2]
    assert heard[4].of(Stop)


async def test_promise_11_the_monitor_tells_the_truth_while_it_shuts_down(autojump_clock: MockClock) -> None:
    """A worker that fails during the shutdown is not restarted; its error comes out."""
    asked: list[int] = []

    def restart(context: WorkerContext, error: Exception, attempt: int) -> bool:
        asked.append(attempt)
        return True

    backend = Open(10.0)

    async def fail(*_: Any) -> None:
        raise ConnectionError("gone")

    backend.on_settle = fail
    monitor = Monitor(should_restart=restart).register(Worker("failing", backend, trio.sleep))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_and_fail, monitor, "gone")
        await trio.sleep(5)
        monitor.shutdown()
    assert asked == []
    assert len(monitor.report.errors) == 1


async def test_promise_11_the_monitor_tells_the_truth_shutdown_ends_the_wait_for_a_restart(
    autojump_clock: MockClock,
) -> None:
    begun = trio.current_time()
    monitor = Monitor(should_restart=lambda *_: True, restart_backoff=constant(1000)).register(dying(after=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await trio.sleep(10)
        monitor.shutdown()
    assert trio.current_time() - begun == pytest.approx(10)
    assert (monitor.report.restarts, len(monitor.report.errors)) == (0, 1)


async def test_promise_11_the_monitor_tells_the_truth_of_each_run(autojump_clock: MockClock) -> None:
    """A monitor may be run again, and its report is that of the last run. It cannot be run twice at once."""
    storage = MemoryStorage[int]()
    monitor = Monitor().register(Worker("again", storage, return_it))
    reports = []
    for number in range(2):
        await storage.push_bulk(range(number + 1))
        async with monitor:
            with pytest.raises(MonitorError):
                await monitor.run()
            await trio.sleep(1)
            monitor.shutdown()
        reports.append(monitor.report)
    assert [[worker.succeeded for worker in report.workers] for report in reports] == [[1], [2]]


@pytest.mark.parametrize("how", ["cancelled", "error in the block"])
async def test_promise_11_the_monitor_tells_the_truth_however_it_ends(autojump_clock: MockClock, how: str) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(0)
    monitor = Monitor().register(Worker("cut", storage, sleep_on))
    with trio.move_on_after(5):
        with suppress(ExceptionGroup):
            async with monitor:
                await trio.sleep(1)
                if how == "error in the block":
                    raise ZeroDivisionError(how)
                await trio.sleep_forever()
    assert [each.task_id for each in monitor.report.interrupted] == [task_id]
    assert not monitor.is_running


async def test_promise_11_the_monitor_tells_the_truth_from_any_thread(autojump_clock: MockClock) -> None:
    """shutdown() may be called in any thread, while the monitor runs, before and after."""
    say: list[Callable[[], object]] = []
    storage = MemoryStorage[int]()
    monitor = Monitor().register(Worker("idle", storage, return_it))
    say.append(monitor.shutdown)
    async with monitor:
        await trio.to_thread.run_sync(monitor.shutdown)
    await trio.to_thread.run_sync(monitor.shutdown)
    assert monitor.report.errors == ()
