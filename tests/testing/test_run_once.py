"""Tests of run_once."""

from __future__ import annotations

import threading

import pytest
import trio
from trio_tasks import (
    Attempt,
    Data,
    Failed,
    Killed,
    MemoryStorage,
    Outcome,
    Retried,
    RetryPolicy,
    Status,
    Succeeded,
    Task,
    TaskId,
    constant,
)
from trio_tasks.abc import Handler
from trio_tasks.testing import run_once
from typing_extensions import assert_type


async def double(n: int) -> int:
    return n * 2


async def test_it_returns_the_outcome() -> None:
    outcome = await run_once(double, 21)
    assert_type(outcome, Outcome)
    assert outcome == Succeeded(42)


async def test_a_sync_handler_runs_in_a_thread() -> None:
    def where(n: int) -> bool:
        return threading.current_thread() is not threading.main_thread()

    assert await run_once(where, 1) == Succeeded(True)


async def test_an_error_is_an_outcome() -> None:
    error = ValueError("no")

    async def fail(n: int) -> None:
        raise error

    policy = RetryPolicy(attempts=3, backoff=constant(7))
    assert await run_once(fail, 1, retry=policy) == Retried(error, 7)
    assert await run_once(fail, 1, retry=policy, attempt=3) == Failed(error)
    assert await run_once(fail, 1, retry=RetryPolicy(retry_if=lambda error: False)) == Killed(error)


async def test_which_attempt_it_is() -> None:
    async def which(n: int, attempt: Attempt) -> int:
        return attempt

    assert await run_once(which, 1) == Succeeded(1)
    assert await run_once(which, 1, attempt=40) == Succeeded(40)
    task = Task(1)
    task.parts.attempt = Attempt(2)
    assert await run_once(which, task) == Succeeded(3)
    assert await run_once(which, task, attempt=1) == Succeeded(1)


async def test_a_whole_task_keeps_what_was_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    async def read(task: Task[str]) -> object:
        await trio.sleep(task.parts.metadata["seconds"])
        return task.args, task.parts.id, task.parts.metadata["tenant"], task.parts.extensions[float]

    def made(seconds: float) -> Task[str]:
        builder = Task.builder("args").id("a").timeout(5).metadata(tenant="acme", seconds=seconds)
        return builder.data(0.5).run_in_hours(1).build()

    assert await run_once(read, made(1)) == Succeeded(("args", TaskId("a"), "acme", 0.5))
    assert trio.current_time() == 1, "the delay counts for a storage, not here"
    outcome = await run_once(read, made(9))
    assert isinstance(outcome, Retried)
    assert isinstance(outcome.error, trio.TooSlowError)


async def test_a_whole_task_stays_as_it_is() -> None:
    task = Task(4)
    parts = task.parts
    for _ in range(2):
        assert await run_once(double, task) == Succeeded(8)
    assert task.parts is parts
    assert (parts.attempt, parts.status, parts.holder) == (0, Status.Pending, None)
    storage = MemoryStorage[int]()
    await storage.push_task(task)  # nobody knows of it yet


async def test_layers_and_data() -> None:
    async def one_more(handler: Handler[int, int], task: Task[int]) -> int:
        return await handler(task) + 1

    async def scale(n: int, factor: Data[float]) -> int:
        return int(n * factor)

    assert await run_once(scale, 3, layers=[one_more], data=[2.0]) == Succeeded(7)


async def test_children_have_ended_before_the_outcome_is_there(autojump_clock: trio.testing.MockClock) -> None:
    async def start_a_child(n: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(trio.sleep, n)

    assert await run_once(start_a_child, 5) == Succeeded(None)
    assert trio.current_time() == 5


async def test_args_may_be_anything() -> None:
    async def same(args: object) -> object:
        return args

    error = ValueError()
    everything: list[object] = [None, [], error, ValueError]
    for args in everything:
        outcome = await run_once(same, args)
        assert isinstance(outcome, Succeeded)
        assert outcome.result is args


async def test_cancelling_it_cancels_the_attempt(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []

    async def sleep(n: int) -> None:
        try:
            await trio.sleep(n)
        finally:
            ended.append("attempt")

    with trio.move_on_after(1) as scope:
        await run_once(sleep, 5)
    assert scope.cancelled_caught
    assert ended == ["attempt"]
    assert trio.current_time() == 1


async def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="attempt must be 1 or more"):
        await run_once(double, 1, attempt=0)
    with pytest.raises(TypeError, match="attempt must be a whole number"):
        await run_once(double, 1, attempt="first")  # type: ignore[call-overload]  # it is wrong on purpose
    with pytest.raises(TypeError, match="a TestWorker has one slot"):
        await run_once(double, 1, concurrency=4)
    with pytest.raises(TypeError, match="a handler must be a function"):
        await run_once("double", 1)  # type: ignore[call-overload]  # it is wrong on purpose
