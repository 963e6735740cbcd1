"""Tests of TestWorker."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio_tasks import (
    AbortError,
    Attempt,
    Data,
    Event,
    Failed,
    Killed,
    LeaseLostError,
    MemoryStorage,
    Outcome,
    Released,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Start,
    Status,
    Stop,
    Succeeded,
    Success,
    Task,
    TaskId,
    WorkerContext,
)
from trio_tasks.abc import Backend, Handler
from trio_tasks.testing import ScriptedBackend, TestWorker
from typing_extensions import assert_type


async def double(n: int) -> int:
    return n * 2


async def test_it_runs_one_task_and_says_what_became_of_it() -> None:
    storage = MemoryStorage[int]()
    ids = await storage.push_bulk([1, 2, 3])
    worker = TestWorker(storage, double)
    answer = await worker.execute_next()
    assert_type(answer, tuple[TaskId, Outcome])
    assert answer == (ids[0], Succeeded(2))
    statistics = storage.statistics()
    assert (statistics.waiting, statistics.running, statistics.succeeded) == (2, 0, 1)
    assert await worker.execute_next() == (ids[1], Succeeded(4))


async def test_the_task_is_settled_before_it_returns() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    await TestWorker(storage, double).execute_next()
    found = storage.statistics()
    assert (found.succeeded, found.running) == (1, 0)
    assert (await storage.wait_for(task_id)).result == 2


async def test_it_waits_for_the_next_task(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1, delay=600)
    assert (await TestWorker(storage, double).execute_next())[1] == Succeeded(2)
    assert trio.current_time() == 600


async def test_at_the_end_it_raises_end_of_channel() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    worker = TestWorker(storage, double)
    await worker.execute_next()
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await worker.execute_next()


async def test_a_run_that_is_stopped_before_a_task_came_is_an_end_too() -> None:
    def stop(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Start):
            context.stop()

    storage = MemoryStorage[int]()
    await storage.push(1)
    with pytest.raises(trio.EndOfChannel):
        await TestWorker(storage, double, on_event=stop).execute_next()
    assert storage.statistics().waiting == 1


async def test_each_kind_of_outcome() -> None:
    error = ValueError("no")

    async def fail(source: Exception) -> None:
        raise source

    storage = MemoryStorage[Exception]()
    worker = TestWorker(storage, fail, retry=RetryPolicy(attempts=2))
    for source, attempts, outcome in (
        (AbortError(error), 2, Killed),
        (RetryAfterError(error, 600), 2, Retried),
        (error, 1, Failed),
        (trio.EndOfChannel(), 1, Failed),  # the handler's own, not the backend's
    ):
        task_id = await storage.push(source, attempts=attempts)
        answered_id, answer = await worker.execute_next()
        assert answered_id == task_id
        assert isinstance(answer, outcome)
        assert not isinstance(answer, (Succeeded, Released))
        assert answer.error is source
        assert not isinstance(answer, Retried) or answer.after == 600
    assert storage.statistics().waiting == 1


async def test_a_retried_task_comes_again(autojump_clock: trio.testing.MockClock) -> None:
    async def second_time_lucky(n: int, attempt: Attempt) -> int:
        if attempt == 1:
            raise RetryAfterError("not yet", 60)
        return attempt

    storage = MemoryStorage[int]()
    await storage.push(1)
    worker = TestWorker(storage, second_time_lucky)
    assert isinstance((await worker.execute_next())[1], Retried)
    assert (await worker.execute_next())[1] == Succeeded(2)


async def test_a_lost_lease_is_a_release() -> None:
    class LosesLeases(Backend[int]):
        async def receive(self) -> Task[int]:
            await trio.lowlevel.checkpoint()
            return Task(1)

        async def settle(self, task: Task[Any], outcome: Outcome) -> None:
            raise LeaseLostError("somebody else has it")

    _, outcome = await TestWorker(LosesLeases(), double).execute_next()
    assert isinstance(outcome, Released)


async def test_layers_data_and_listeners_are_those_of_a_worker() -> None:
    told: list[str] = []

    async def upper(handler: Handler[str, str], task: Task[str]) -> str:
        return (await handler(task)).upper()

    async def greet(name: str, greeting: Data[str], context: WorkerContext) -> str:
        assert context.is_running
        assert not context.is_shutting_down  # as in a worker that goes on
        return f"{greeting} {name}"

    def listen(context: WorkerContext, event: Event) -> None:
        told.append(f"{context.name}: {type(event).__name__}")

    storage = MemoryStorage[str]()
    await storage.push("you")
    worker = TestWorker(storage, greet, layers=[upper], data=["hello"], on_event=listen)
    assert (await worker.execute_next())[1] == Succeeded("HELLO YOU")
    assert told == ["test: Start", "test: Engage", "test: Success", "test: Stop"]


async def test_layers_keep_their_state_from_one_call_to_the_next() -> None:
    seen: list[int] = []

    async def remember(handler: Handler[int, int], task: Task[int]) -> int:
        seen.append(task.args)
        return await handler(task)

    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2])
    worker = TestWorker(storage, double, layers=[remember])
    await worker.execute_next()
    await worker.execute_next()
    assert seen == [1, 2]


async def test_any_channel_will_do() -> None:
    send, receive = trio.open_memory_channel[int](1)
    worker = TestWorker(receive, double)
    await send.send(4)
    assert (await worker.execute_next())[1] == Succeeded(8)
    send.close()
    with pytest.raises(trio.EndOfChannel):
        await worker.execute_next()


async def test_nothing_is_left_running(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    ended: list[str] = []

    async def linger() -> None:
        await trio.sleep(5)
        ended.append("tracked")

    async def start_something(n: int, context: WorkerContext, nursery: trio.Nursery) -> None:
        nursery.start_soon(trio.sleep, 1)
        context.track(linger)

    await storage.push(1)
    before = trio.lowlevel.current_statistics().tasks_living
    await TestWorker(storage, start_something).execute_next()
    assert ended == ["tracked"]
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert await storage.list_workers() == []


async def test_two_may_run_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async def nap(n: int) -> int:
        await trio.sleep(n)
        return n

    storage = MemoryStorage[int]()
    await storage.push_bulk([2, 1])
    worker = TestWorker(storage, nap)
    answers: list[Outcome] = []

    async def one() -> None:
        answers.append((await worker.execute_next())[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    assert answers == [Succeeded(1), Succeeded(2)]
    assert trio.current_time() == 2


async def test_cancelled_while_it_waits_it_has_taken_nothing(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    worker = TestWorker(storage, double)
    with trio.move_on_after(1) as scope:
        await worker.execute_next()
    assert scope.cancelled_caught
    await storage.push(1)
    assert (await worker.execute_next())[1] == Succeeded(2)


async def test_cancelled_in_the_attempt_it_releases(autojump_clock: trio.testing.MockClock) -> None:
    async def nap(n: int, attempt: Attempt) -> int:
        await trio.sleep(n)
        return attempt

    storage = MemoryStorage[int]()
    task_id = await storage.push(10)
    worker = TestWorker(storage, nap)
    with trio.move_on_after(1) as scope:
        await worker.execute_next()
    assert scope.cancelled_caught
    task = await storage.fetch_by_id(task_id)
    assert task is not None
    assert (task.parts.status, task.parts.attempt) == (Status.Pending, 0)
    assert (await worker.execute_next())[1] == Succeeded(1)  # it cost no attempt


async def test_cancelled_at_any_checkpoint_the_task_is_in_one_place() -> None:
    async def pause(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n

    async def cancel_at(checkpoint: int, scope: trio.CancelScope) -> None:
        for _ in range(checkpoint):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    finished = False
    for checkpoint in range(40):
        storage = MemoryStorage[int]()
        await storage.push(1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, checkpoint, scope)
                await TestWorker(storage, pause).execute_next()
                finished = True
                nursery.cancel_scope.cancel()
        now = storage.statistics()
        assert now.running == 0
        assert now.waiting + now.succeeded == 1
    assert finished, "40 checkpoints were not enough to see it through"


async def test_a_backend_that_fails_is_not_an_outcome() -> None:
    worker = TestWorker(ScriptedBackend[int]([ConnectionError("gone"), 5]), double)
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match="gone")):
        await worker.execute_next()
    assert (await worker.execute_next())[1] == Succeeded(10)


async def test_a_listener_that_fails_does_no_harm() -> None:
    def fail(context: WorkerContext, event: Event) -> None:
        if isinstance(event, (Success, Stop)):
            raise ValueError("a listener")

    storage = MemoryStorage[int]()
    await storage.push(1)
    assert (await TestWorker(storage, double, on_event=fail).execute_next())[1] == Succeeded(2)


def test_wrong_arguments_are_refused() -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(TypeError, match="a TestWorker has one slot"):
        TestWorker(storage, double, concurrency=2)
    with pytest.raises(TypeError, match="a handler must be a function"):
        TestWorker(storage, 5)  # type: ignore[call-overload]  # it is the wrong type on purpose
    with pytest.raises(TypeError, match="a worker receives from a backend"):
        TestWorker([1, 2], double)  # type: ignore[call-overload]  # it is the wrong type on purpose
    with pytest.raises(TypeError, match="retry must be a RetryPolicy"):
        TestWorker(storage, double, retry=3)  # type: ignore[call-overload]  # it is the wrong type on purpose


def test_pytest_does_not_take_it_for_a_test() -> None:
    assert TestWorker.__test__ is False


def test_its_repr_is_for_people() -> None:
    text = repr(TestWorker(MemoryStorage[int](), double))
    assert text.startswith("<TestWorker: ")
    assert text.endswith("double on <MemoryStorage open: 0 waiting, 0 running, 0 dead>>")
