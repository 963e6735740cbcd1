"""Tests of the layer EventListener."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    Engage,
    Error,
    Event,
    Failed,
    Killed,
    MemoryStorage,
    Released,
    Retried,
    RetryPolicy,
    Success,
    Task,
    Worker,
    WorkerContext,
    WorkerError,
    constant,
)
from trio_tasks.layers import EventListener, MapArgs, Retry


class Hand:
    """A holder of running tasks, in place of a worker's slot."""

    worker = "w"

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self.context = WorkerContext("w")
        self.policy = policy

    def hold(self, args: Any) -> Task[Any]:
        task = Task(args)
        task.parts.holder = self
        return task

    def revoke(self, outcome: Killed | Released) -> bool:
        raise AssertionError("nobody does that here")

    def current_line(self) -> str:
        return "nowhere"


class EventLog:
    """A listener that records events and their workers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.contexts: set[str] = set()

    def __call__(self, context: WorkerContext, event: Event) -> None:
        self.contexts.add(context.name)
        self.events.append(event)


async def double(task: Task[int]) -> int:
    return task.args * 2


async def test_it_hears_the_beginning_and_a_success() -> None:
    log = EventLog()
    task = Hand().hold(21)
    assert await EventListener(log)(double, task) == 42
    assert log.events == [Engage(task), Success(task, 42)]
    assert log.contexts == {"w"}


async def test_it_hears_an_error_and_what_becomes_of_it() -> None:
    log, error = EventLog(), KeyError("x")

    async def fail(task: Task[int]) -> None:
        raise error

    task = Hand().hold(1)
    with pytest.raises(KeyError):
        await EventListener(log, retry=RetryPolicy(backoff=constant(3)))(fail, task)
    assert log.events == [Engage(task), Error(task, error, Retried(error, 3))]


async def test_errors_are_judged_by_the_policy_of_the_worker_that_runs_the_task() -> None:
    log, error = EventLog(), SystemExit(1)

    async def fail(task: Task[int]) -> None:
        raise error

    task = Hand(RetryPolicy(attempts=1)).hold(1)
    with pytest.raises(SystemExit):
        await EventListener(log)(fail, task)
    assert log.events[1:] == [Error(task, error, Failed(error))]


async def test_without_a_policy_errors_are_judged_as_is_usual() -> None:
    log, error = EventLog(), KeyError("x")

    async def fail(task: Task[int]) -> None:
        raise error

    with pytest.raises(KeyError):
        await EventListener(log)(fail, Hand().hold(1))
    told = log.events[1]
    assert isinstance(told, Error)
    assert isinstance(told.outcome, Retried)
    assert 0.5 <= told.outcome.after <= 1


async def test_an_error_that_only_happens_to_come_after_a_cancellation_is_one() -> None:
    log, error = EventLog(), KeyError("x")

    async def fail(task: Task[int]) -> None:
        scope.cancel()
        raise error

    with pytest.raises(KeyError), trio.CancelScope() as scope:
        await EventListener(log)(fail, Hand().hold(1))
    assert [type(event) for event in log.events] == [Engage, Error]


async def test_after_a_cancellation_it_hears_nothing(autojump_clock: trio.testing.MockClock) -> None:
    log = EventLog()

    async def sleep(task: Task[int]) -> None:
        await trio.sleep_forever()

    task = Hand().hold(1)
    with trio.move_on_after(1) as scope:
        await EventListener(log)(sleep, task)
    assert scope.cancelled_caught
    assert log.events == [Engage(task)]


async def test_after_a_cancellation_that_its_cleanup_hides_it_hears_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log = EventLog()

    async def clean_up_badly(task: Task[int]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("could not say goodbye")

    task = Hand().hold(1)
    with pytest.raises(ConnectionError), trio.move_on_after(1):
        await EventListener(log)(clean_up_badly, task)
    assert log.events == [Engage(task)]


@pytest.mark.parametrize("error", [ValueError("failing_listener"), SystemExit(1)], ids=["an error", "an exit"])
async def test_a_listener_that_fails_changes_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def failing_listener(context: WorkerContext, event: Event) -> None:
        raise error

    assert await EventListener(failing_listener)(double, Hand().hold(21)) == 42
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "failed on Engage(" in caplog.text


async def test_without_a_worker_there_is_no_context_to_tell_of() -> None:
    with pytest.raises(WorkerError, match="no worker has claimed task"):
        await EventListener(EventLog())(double, Task(1))


async def test_in_a_worker_its_place_decides_what_it_hears(autojump_clock: trio.testing.MockClock) -> None:
    outer, inner = EventLog(), EventLog()
    storage = MemoryStorage[str]()
    await storage.push("21")
    storage.close()
    calls = 0

    async def flaky(n: int) -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise KeyError(n)
        return n * 2

    layers: list[Any] = [EventListener(outer), Retry(5), MapArgs(int), EventListener(inner)]
    untyped: Any = flaky
    await Worker("w", storage, untyped, layers=layers).run()
    assert [type(event) for event in outer.events] == [Engage, Success]
    assert [type(event) for event in inner.events] == [Engage, Error, Engage, Error, Engage, Success]
    first_in, first_out = inner.events[0], outer.events[0]
    assert isinstance(first_in, Engage)
    assert isinstance(first_out, Engage)
    assert (first_out.task.args, first_in.task.args) == ("21", 21)
    assert outer.contexts == inner.contexts == {"w"}


def test_wrong_arguments_are_refused() -> None:
    async def listener(context: WorkerContext, event: Event) -> None:
        pass

    with pytest.raises(TypeError, match="listener must be a plain function"):
        EventListener(listener)
    wrong: Any = "print"
    with pytest.raises(TypeError, match="listener must be callable, as listener"):
        EventListener(wrong)
    with pytest.raises(TypeError, match="retry must be a RetryPolicy"):
        EventListener(print, retry=wrong)


def test_it_shows_itself() -> None:
    assert repr(EventListener(print)) == "<EventListener <built-in function print>>"
