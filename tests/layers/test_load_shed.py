"""Tests of the layer LoadShed."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import Error, Event, MemoryStorage, OverloadedError, RetryPolicy, Task, Worker, WorkerContext, constant
from trio_tasks.abc import Gate
from trio_tasks.layers import CircuitBreaker, ConcurrencyLimit, LoadShed, RateLimit


async def work(task: Task[Any]) -> str:
    await trio.sleep(10)
    return "done"


async def fail(task: Task[Any]) -> None:
    raise ConnectionError(task.args)


async def test_what_there_is_room_for_goes_through(autojump_clock: trio.testing.MockClock) -> None:
    limit = ConcurrencyLimit(1)
    shed = LoadShed(limit)
    for _ in range(3):
        assert await shed(work, Task("a")) == "done"
    assert limit.statistics().taken == 0


async def test_a_full_limit_refuses_at_once(autojump_clock: trio.testing.MockClock) -> None:
    limit = ConcurrencyLimit(1)
    shed = LoadShed(limit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shed, work, Task("a"))
        await trio.testing.wait_all_tasks_blocked()
        task = Task("b")
        with pytest.raises(OverloadedError, match=rf"refused task {task.parts.id}: .*ConcurrencyLimit 1/1 taken"):
            await shed(work, task)
        assert limit.statistics().waiting == 0
        assert trio.current_time() == 0
    assert limit.statistics().taken == 0


async def test_by_key_only_the_key_that_is_used_up_refuses(autojump_clock: trio.testing.MockClock) -> None:
    limit = ConcurrencyLimit(1, key=lambda task: task.args)
    shed = LoadShed(limit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shed, work, Task("a"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(shed, work, Task("b"))
        with pytest.raises(OverloadedError):
            await shed(work, Task("a"))
    assert trio.current_time() == 10
    assert limit.statistics().keys == ()


async def test_by_key_only_the_key_whose_rate_is_used_up_refuses(autojump_clock: trio.testing.MockClock) -> None:
    shed = LoadShed(RateLimit(1, per=60, key=lambda task: task.args))
    await shed(work, Task("a"))
    await shed(work, Task("b"))
    with pytest.raises(OverloadedError):
        await shed(work, Task("a"))
    await trio.sleep(50)
    await shed(work, Task("a"))


async def test_a_rate_refuses_what_is_too_soon(autojump_clock: trio.testing.MockClock) -> None:
    shed = LoadShed(RateLimit(1, per=60))
    await shed(work, Task("a"))
    with pytest.raises(OverloadedError):
        await shed(work, Task("b"))
    await trio.sleep(50)
    await shed(work, Task("c"))


async def test_an_open_breaker_fails_fast(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=60)
    shed = LoadShed(breaker)
    with pytest.raises(ConnectionError):
        await shed(fail, Task("a"))
    with pytest.raises(OverloadedError, match="CircuitBreaker open"):
        await shed(work, Task("b"))
    assert trio.current_time() == 0
    await trio.sleep(60)
    await shed(work, Task("c"))


async def test_what_was_taken_comes_back_on_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    limit = ConcurrencyLimit(1)
    with trio.move_on_after(1) as scope:
        await LoadShed(limit)(work, Task("a"))
    assert scope.cancelled_caught
    assert limit.statistics().taken == 0


async def test_a_worker_goes_on_receiving_and_the_refused_are_judged(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[str]()
    heard: list[Error] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Error):
            heard.append(event)

    async def handler(name: str) -> str:
        return await work(Task(name))

    await storage.push_bulk(list("abc"))
    storage.close()
    worker = Worker(
        "w",
        storage,
        handler,
        layers=[LoadShed(ConcurrencyLimit(2))],
        retry=RetryPolicy(attempts=5, backoff=constant(15)),
        on_event=listen,
    )
    report = await worker.run()
    assert (report.succeeded, report.retried) == (3, 1)
    assert [type(event.error) for event in heard] == [OverloadedError]
    assert trio.current_time() == 25


class JustAGate:
    """A gate that is no layer: it cannot be called."""

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()

    def admit(self, task: Task[Any]) -> bool:
        return True

    def dismiss(self, task: Task[Any]) -> None:
        pass


def test_it_is_no_gate() -> None:
    assert not isinstance(LoadShed(ConcurrencyLimit(1)), Gate)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(3, id="a number"),
        pytest.param(work, id="a plain function"),
        pytest.param(JustAGate(), id="a gate that is no layer"),
        pytest.param(ConcurrencyLimit, id="the class and not a limit"),
    ],
)
def test_what_is_no_gate_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="gate must be a layer with ready, admit and dismiss"):
        LoadShed(wrong)


def test_it_shows_itself() -> None:
    assert repr(LoadShed(ConcurrencyLimit(2))) == "<LoadShed over <ConcurrencyLimit 0/2 taken>>"
