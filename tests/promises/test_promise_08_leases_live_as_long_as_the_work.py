"""Tests of promise 8: leases last exactly as long as the work; on a backend made by hand.

A storage in memory has no leases; those of a stored backend are held to the same by the conformance kit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    HeartBeat,
    LeaseLostError,
    Outcome,
    Release,
    Released,
    Stop,
    Succeeded,
    Task,
    Worker,
    WorkerContext,
)

from tests.promises._run_worker import A_MONTH, EventRecord, Open, run_for


async def sleep_for(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def sleep_shielded(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def fail(seconds: float) -> None:
    raise ValueError("no")


async def stop_at(seconds: float, worker: Worker[Any, Any]) -> None:
    """Run the worker, and stop it at this time."""
    context = worker.prepare()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, context)
        await trio.sleep(seconds)
        context.stop()


async def test_promise_08_leases_live_as_long_as_the_work(autojump_clock: MockClock) -> None:
    """Heartbeats continue after intake has stopped, and end when the last attempt has been settled."""
    backend, record = Open(10.5, heartbeat_interval=1), EventRecord()

    async def take_time(task: Task[Any], outcome: Outcome) -> None:
        await trio.sleep(2)

    backend.on_settle = take_time
    await stop_at(3.5, Worker("leasing", backend, sleep_for, on_event=record))
    assert backend.when("settled") == [12.5]
    assert backend.when("beat") == [*range(13)]
    assert len(record.of(HeartBeat)) >= 12
    assert isinstance(record.events[-1], Stop)


async def test_promise_08_leases_live_as_long_as_the_work_and_its_clean_up(autojump_clock: MockClock) -> None:
    """While a cancelled attempt cleans up, no other worker may claim the task."""
    backend = Open(10.5, heartbeat_interval=1)
    await run_for(3.5, Worker("leasing", backend, sleep_shielded))
    assert backend.when("settled") == [10.5]
    assert backend.when("beat")[:11] == [*range(11)]


async def test_promise_08_leases_live_as_long_as_the_work_that_is_tracked(autojump_clock: MockClock) -> None:
    backend = Open(10.5, heartbeat_interval=1)

    async def handler(seconds: float, context: WorkerContext) -> None:
        context.track(trio.sleep, seconds)

    await stop_at(3.5, Worker("leasing", backend, handler))
    assert backend.when("beat") == [*range(11)]


async def test_promise_08_leases_live_as_long_as_the_work_no_interval_no_beat(autojump_clock: MockClock) -> None:
    backend = Open(10.5)
    await run_for(A_MONTH, Worker("leasing", backend, sleep_for))
    assert backend.when("beat") == []


async def test_promise_08_leases_live_as_long_as_the_work_a_lost_one_ends_the_attempt(
    autojump_clock: MockClock,
) -> None:
    """The worker notices the loss, cancels that attempt and no other, cannot settle it, and goes on."""
    backend, record, seen = Open(1000.0, 8.0, 4.0, heartbeat_interval=1), EventRecord(), []
    settled: list[tuple[float, type[Outcome]]] = []

    def lose_the_first() -> None:
        if len(backend.when("beat")) == 6:
            holder = backend.given[0].parts.holder
            assert holder is not None
            holder.revoke(Released("its lease was lost"))

    async def fence(task: Task[Any], outcome: Outcome) -> None:
        settled.append((task.args, type(outcome)))
        if task is backend.given[0]:
            raise LeaseLostError("somebody else has it")

    async def handler(seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            seen.append(seconds)
            raise

    backend.on_beat = lose_the_first
    backend.on_settle = fence
    await run_for(20, Worker("losing", backend, handler, concurrency=2, on_event=record))
    assert seen == [1000.0]
    assert settled == [(1000.0, Released), (8.0, Succeeded), (4.0, Succeeded)]
    assert record.kinds == ["Released", "Succeeded", "Succeeded"]
    (release,) = record.of(Release)
    assert release.task is backend.given[0]
    assert "lease" in release.reason


@pytest.mark.parametrize("handler", [sleep_for, fail])
async def test_promise_08_leases_live_as_long_as_the_work_a_late_worker_cannot_settle(
    autojump_clock: MockClock, handler: Callable[..., Any]
) -> None:
    """Whatever the outcome of the late attempt, it does not count, and no event says that it was settled."""
    backend, record = Open(1.0, 1.0), EventRecord()

    async def fence(task: Task[Any], outcome: Outcome) -> None:
        raise LeaseLostError("somebody else has it")

    backend.on_settle = fence
    await run_for(20, Worker("late", backend, handler, concurrency=1, on_event=record))
    assert len(backend.given) == 2
    assert backend.settled == []
    assert record.kinds == ["Released", "Released"]


async def test_promise_08_leases_live_as_long_as_the_work_a_lost_one_is_not_an_error(
    autojump_clock: MockClock,
) -> None:
    """An attempt that raises an error because it was cancelled is released all the same."""
    backend = Open(0, heartbeat_interval=1)

    async def handler(args: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("already closed")

    def lose() -> None:
        if len(backend.when("beat")) == 3:
            holder = backend.given[0].parts.holder
            assert holder is not None
            holder.revoke(Released("its lease was lost"))

    backend.on_beat = lose
    await run_for(20, Worker("losing", backend, handler))
    assert [outcome for _, outcome in backend.settled] == [Released("its lease was lost")]


async def test_promise_08_leases_live_as_long_as_the_work_a_beat_that_fails_ends_the_worker(
    autojump_clock: MockClock,
) -> None:
    """Without its leases a worker could keep no promise. Its running tasks are released."""
    backend = Open(1000.0, heartbeat_interval=1)

    def fail() -> None:
        if len(backend.when("beat")) == 5:
            raise ConnectionError("the backend is gone")

    backend.on_beat = fail
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match="the backend is gone")):
        await run_for(50, Worker("failing", backend, sleep_for))
    assert [type(outcome) for _, outcome in backend.settled] == [Released]
