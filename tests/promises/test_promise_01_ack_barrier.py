"""Tests of promise 1: when a task is settled, nothing that its attempt started is still running."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    Failed,
    Killed,
    MemoryStorage,
    Outcome,
    Released,
    Retried,
    RetryPolicy,
    Succeeded,
    Success,
    Task,
    TaskBuilder,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks.abc import Handler

from tests.promises._run_worker import EventRecord, Open, run_for, run_handler, run_handler_on

HOW = ["success", "error", "error of a child", "timeout", "abort", "cancellation"]


class Family:
    """A handler whose children take a second to clean up, and a count of those that run."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.running = 0

    async def child(self) -> None:
        self.running += 1
        try:
            if self.how == "error of a child" and self.running == 2:
                raise ValueError("a child")
            await trio.sleep(1 if self.how == "success" else 100)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            self.running -= 1

    async def __call__(self, args: int, nursery: trio.Nursery) -> str:
        for _ in range(3):
            nursery.start_soon(self.child)
        await trio.sleep(0.5)
        if self.how == "error":
            raise ValueError("the handler")
        return "the handler has ended"


class Watching(Open):
    """A backend that counts the running children at the moment of settling."""

    def __init__(self, family: Family, task: Task[int]) -> None:
        super().__init__(task)
        self._family = family
        self.running: list[int] = []

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        self.running.append(self._family.running)
        await super().settle(task, outcome)


@pytest.mark.parametrize("how", HOW)
async def test_promise_01_ack_barrier(autojump_clock: MockClock, how: str) -> None:
    family = Family(how)
    builder = TaskBuilder(0).attempts(1)
    backend = Watching(family, (builder.timeout(5) if how == "timeout" else builder).build())
    worker = Worker("parents", backend, family)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_for, 10 if how == "cancellation" else 1000, worker)
        await trio.sleep(7)
        if how == "abort":
            holder = backend.given[0].parts.holder
            assert holder is not None
            holder.revoke(Killed(ValueError("aborted")))
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert backend.running == [0]
    expected = {"success": Succeeded, "abort": Killed, "cancellation": Released}.get(how, Failed)
    ((_, outcome),) = backend.settled
    assert type(outcome) is expected
    assert how != "success" or outcome == Succeeded("the handler has ended")


async def test_promise_01_ack_barrier_the_error_of_a_child_does_not_vanish(autojump_clock: MockClock) -> None:
    lost = ValueError("lost")

    async def child() -> None:
        await trio.sleep(1)
        raise lost

    async def handler(args: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(child)

    (outcome,) = (await run_handler(handler, retry=RetryPolicy(1))).outcomes
    assert isinstance(outcome, Failed)
    assert pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="lost")).matches(outcome.error)


async def test_promise_01_ack_barrier_holds_layers_too(autojump_clock: MockClock) -> None:
    order = []

    async def slow_to_end(handler: Handler[Any, Any], task: Task[Any]) -> Any:
        try:
            return await handler(task)
        finally:
            await trio.sleep(1)  # noqa: ASYNC102  it is not cancelled here
            order.append("the layer has ended")

    async def handler(args: int) -> None:
        order.append("the handler has ended")

    backend = Open(0)

    async def note(task: Task[Any], outcome: Outcome) -> None:
        order.append("settled")

    backend.on_settle = note
    await run_for(10, Worker("layered", backend, handler, layers=[slow_to_end]))
    assert order == ["the handler has ended", "the layer has ended", "settled"]


@pytest.mark.parametrize("which", [0, 1])
async def test_promise_01_ack_barrier_of_one_attempt_leaves_others_alone(autojump_clock: MockClock, which: int) -> None:
    """Every attempt has a scope of its own."""
    storage, record = MemoryStorage[str](), EventRecord()

    async def handler(args: str) -> str:
        await trio.sleep(10)
        return args

    names = ["left alone", "left alone"]
    names[which] = "aborted"
    ids = await storage.push_bulk(names)
    storage.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("two", storage, handler, concurrency=2, on_event=record).run)
        await trio.sleep(5)
        assert await storage.abort(ids[which])
    assert record.kinds == ["Killed", "Succeeded"]
    assert [each.result for each in record.of(Success)] == ["left alone"]


async def test_promise_01_ack_barrier_a_thread_has_ended_too() -> None:
    go_on, ended = threading.Event(), threading.Event()
    seen = []

    def handler(args: int) -> None:
        go_on.wait(30)
        ended.set()

    async def note(task: Task[Any], outcome: Outcome) -> None:
        seen.append(ended.is_set())

    backend = Open(0)
    backend.on_settle = note
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("threads", backend, handler).run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not seen
        go_on.set()
    assert seen == [True]


async def test_promise_01_ack_barrier_tracked_work_outlives_its_attempt_but_not_the_drain(
    autojump_clock: MockClock,
) -> None:
    order = []

    async def report() -> None:
        await trio.sleep(50)
        order.append("the tracked work has ended")

    async def handler(args: int, context: WorkerContext) -> None:
        context.track(report)
        order.append("the handler has ended")

    record = await run_handler(handler, on_event=[lambda context, event: order.append(type(event).__name__)])
    assert record.kinds == ["Succeeded"]
    assert order[-3:] == ["Success", "the tracked work has ended", "Stop"]


async def test_promise_01_ack_barrier_between_two_attempts_of_a_task(autojump_clock: MockClock) -> None:
    """An attempt begins only when nothing of the previous attempt is running."""
    family = Family("error")
    storage = MemoryStorage[int]()
    begun_with = []

    async def handler(args: int, nursery: trio.Nursery) -> str:
        begun_with.append(family.running)
        return await family(args, nursery)

    await storage.push(0)
    storage.close()
    record = await run_handler_on(storage, handler, concurrency=4, retry=RetryPolicy(3, constant(0)))
    assert [type(each) for each in record.outcomes] == [Retried, Retried, Failed]
    assert begun_with == [0, 0, 0]
