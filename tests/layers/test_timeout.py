"""Tests of the layer Timeout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import Error, Event, MemoryStorage, Retried, RetryPolicy, Task, Worker, WorkerContext, constant
from trio_tasks.layers import Timeout


async def work_for(task: Task[float]) -> str:
    await trio.sleep(task.args)
    return "done"


async def test_what_ends_in_time_is_returned(autojump_clock: trio.testing.MockClock) -> None:
    assert await Timeout(2)(work_for, Task(1.9)) == "done"


async def test_what_takes_longer_is_cancelled_and_named(autojump_clock: trio.testing.MockClock) -> None:
    task = Task(5.0)
    with pytest.raises(trio.TooSlowError, match=rf"^task {task.parts.id} took longer than 2 s$"):
        await Timeout(2)(work_for, task)
    assert trio.current_time() == 2


async def test_the_error_waits_for_the_cleanup(autojump_clock: trio.testing.MockClock) -> None:
    cleaned: list[float] = []

    async def tidy(task: Task[None]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
                cleaned.append(trio.current_time())

    with pytest.raises(trio.TooSlowError):
        await Timeout(2)(tidy, Task(None))
    assert cleaned == [5]


async def test_a_cancellation_from_outside_is_no_timeout(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as outside:
        await Timeout(2)(work_for, Task(5.0))
    assert outside.cancelled_caught


async def test_a_cancellation_from_outside_wins_when_both_strike(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(2) as outside:
        await Timeout(2)(work_for, Task(5.0))
    assert outside.cancelled_caught


async def test_a_result_without_checkpoints_is_a_result(mock_clock: trio.testing.MockClock) -> None:
    async def block(task: Task[None]) -> str:
        mock_clock.jump(10)
        return "done all the same"

    assert await Timeout(2)(block, Task(None)) == "done all the same"


async def test_a_thread_that_cannot_be_cancelled_has_a_result() -> None:
    async def in_thread(task: Task[None]) -> str:
        entered = trio.Event()
        with trio.CancelScope(shield=True):
            entered.set()
            await trio.sleep(0.02)
        return "the thread is over"

    assert await Timeout(0.001)(in_thread, Task(None)) == "the thread is over"


async def test_an_error_passes_even_if_it_is_the_handlers_own_timeout() -> None:
    mine = trio.TooSlowError("mine")

    async def fail(task: Task[None]) -> None:
        raise mine

    with pytest.raises(trio.TooSlowError, match="mine") as caught:
        await Timeout(1)(fail, Task(None))
    assert caught.value is mine


async def test_one_object_serves_many_attempts(autojump_clock: trio.testing.MockClock) -> None:
    layer = Timeout(2)
    results: list[str] = []

    async def attempt(seconds: float) -> None:
        await trio.sleep(seconds)
        results.append(await layer(work_for, Task(1.5)))

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(attempt, float(n))
    assert results == ["done"] * 5


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_wrong_number_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds must be"):
        Timeout(seconds)


def test_what_is_no_number_is_refused() -> None:
    wrong: Any = "30"
    with pytest.raises(TypeError, match="seconds must be a number of seconds, not '30'"):
        Timeout(wrong)


async def test_in_a_worker_a_timeout_is_an_error_like_others(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[float]()
    heard: list[Error] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Error):
            heard.append(event)

    async def slow(seconds: float) -> str:
        await trio.sleep(seconds)
        return "done"

    await storage.push(10.0)
    storage.close()
    policy = RetryPolicy(attempts=2, backoff=constant(7))
    worker = Worker("w", storage, slow, layers=[Timeout(3)], retry=policy, on_event=listen)
    report = await worker.run()
    assert [type(event.error) for event in heard] == [trio.TooSlowError, trio.TooSlowError]
    assert heard[0].outcome == Retried(heard[0].error, 7)
    assert (report.retried, report.failed) == (1, 1)
    assert trio.current_time() == 3 + 7 + 3
