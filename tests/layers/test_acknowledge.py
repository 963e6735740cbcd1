"""Tests of the layer Acknowledge."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    AbortError,
    Failed,
    Killed,
    MemoryStorage,
    Outcome,
    Parts,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Succeeded,
    Task,
    TaskBuilder,
    Worker,
    constant,
)
from trio_tasks.layers import Acknowledge, Retry, Timeout

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Acknowledger:
    """Notes what it is told; and then fails, if it has an error for that."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.heard: list[tuple[Outcome, Parts]] = []
        self.error = error

    async def __call__(self, outcome: Outcome, parts: Parts) -> None:
        await trio.sleep(1)
        self.heard.append((outcome, parts))
        if self.error is not None:
            raise self.error

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for outcome, _ in self.heard]


async def double(task: Task[int]) -> int:
    return task.args * 2


def failing(error: BaseException) -> Any:
    async def fail(task: Task[int]) -> None:
        raise error

    return fail


async def test_a_success_is_acknowledged_before_it_counts(autojump_clock: trio.testing.MockClock) -> None:
    ack = Acknowledger()
    task = Task(21)
    assert await Acknowledge(ack)(double, task) == 42
    assert ack.heard == [(Succeeded(42), task.parts)]
    assert trio.current_time() == 1


PLAIN, GROUP = KeyError("x"), ExceptionGroup("", [KeyError("x"), AbortError("no")])
LATER = RetryAfterError("later", 30)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(PLAIN, Retried(PLAIN, 7), id="any error"),
        pytest.param(LATER, Retried(LATER, 30), id="retry-after"),
        pytest.param(GROUP, Killed(GROUP), id="an abort in a group"),
    ],
)
async def test_an_error_is_acknowledged_as_what_becomes_of_it(
    error: Exception, outcome: Outcome, autojump_clock: trio.testing.MockClock
) -> None:
    ack = Acknowledger()
    with pytest.raises(type(error)) as caught:
        await Acknowledge(ack, retry=RetryPolicy(backoff=constant(7)))(failing(error), Task(1))
    assert caught.value is error
    assert ack.outcomes == [outcome]


async def test_the_last_attempt_fails(autojump_clock: trio.testing.MockClock) -> None:
    ack = Acknowledger()
    task = TaskBuilder(1).attempts(1).build()
    with pytest.raises(KeyError):
        await Acknowledge(ack)(failing(PLAIN), task)
    assert ack.outcomes == [Failed(PLAIN)]


async def test_a_handler_that_exits_is_acknowledged(autojump_clock: trio.testing.MockClock) -> None:
    ack, error = Acknowledger(), SystemExit(1)
    with pytest.raises(SystemExit):
        await Acknowledge(ack, retry=RetryPolicy(attempts=1))(failing(error), Task(1))
    assert ack.outcomes == [Failed(error)]


async def test_if_it_fails_after_a_success_the_attempt_fails(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ConnectionError):
        await Acknowledge(Acknowledger(ConnectionError()))(double, Task(1))


async def test_if_it_fails_after_an_error_nothing_is_hidden(autojump_clock: trio.testing.MockClock) -> None:
    error, another = AbortError("no"), ConnectionError()
    task = Task(1)
    message = f"task {task.parts.id} failed, and so did"
    with pytest.RaisesGroup(AbortError, ConnectionError, match=message) as caught:
        await Acknowledge(Acknowledger(another))(failing(error), task)
    assert caught.value.exceptions == (error, another)


async def test_an_exit_within_a_failed_acknowledgement_is_kept_too(autojump_clock: trio.testing.MockClock) -> None:
    error, another = SystemExit(1), ConnectionError()
    with pytest.RaisesGroup(SystemExit, ConnectionError) as caught:
        await Acknowledge(Acknowledger(another))(failing(error), Task(1))
    assert caught.value.exceptions == (error, another)


async def test_a_cancelled_attempt_is_not_acknowledged(autojump_clock: trio.testing.MockClock) -> None:
    ack = Acknowledger()

    async def sleep(task: Task[int]) -> None:
        await trio.sleep(10)

    with trio.move_on_after(5) as scope:
        await Acknowledge(ack)(sleep, Task(1))
    assert scope.cancelled_caught
    assert not ack.heard


async def test_an_attempt_whose_cleanup_hides_the_cancellation_is_not_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ack = Acknowledger()

    async def clean_up_badly(task: Task[int]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("could not say goodbye")

    with pytest.raises(ConnectionError), trio.move_on_after(1):
        await Acknowledge(ack)(clean_up_badly, Task(1))
    assert not ack.heard


async def test_an_interrupt_in_the_acknowledgement_passes_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    for error in (KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])):
        with pytest.raises(type(error)) as caught:
            await Acknowledge(Acknowledger(error))(failing(KeyError("x")), Task(1))
        assert caught.value is error


async def test_a_policy_that_fails_is_logged_and_the_attempt_has_failed(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    ack = Acknowledger()
    with pytest.raises(KeyError):
        await Acknowledge(ack, retry=RetryPolicy(backoff=lambda attempt: math.nan))(failing(PLAIN), Task(1))
    assert ack.outcomes == [Failed(PLAIN)]
    assert "the retry policy raised an error while judging a KeyError" in caplog.text


@pytest.mark.parametrize("handler", [double, failing(KeyError("x"))], ids=["after a success", "after an error"])
async def test_a_cancelled_acknowledgement_cancels_the_attempt(
    handler: Any, autojump_clock: trio.testing.MockClock
) -> None:
    ack = Acknowledger()
    with trio.move_on_after(0.5) as scope:
        await Acknowledge(ack)(handler, Task(1))
    assert scope.cancelled_caught
    assert not ack.heard


async def test_listed_first_it_hears_what_is_settled(autojump_clock: trio.testing.MockClock) -> None:
    """Through a worker: one outcome for each attempt, by the worker's policy, after all that happens further in."""
    ack = Acknowledger()
    storage = MemoryStorage[int]()
    await storage.push(1)
    await storage.push(2)
    storage.close()
    calls = 0

    async def handler(n: int) -> int:
        nonlocal calls
        calls += 1
        await trio.sleep(100 if n == 2 else 0)
        if calls < 3:
            raise KeyError(n)
        return n

    policy = RetryPolicy(attempts=2, backoff=constant(9))
    layers: list[Any] = [Acknowledge(ack, retry=policy), Timeout(50), Retry(5)]
    report = await Worker("w", storage, handler, layers=layers, retry=policy, concurrency=1).run()
    assert (report.succeeded, report.retried, report.failed) == (1, 1, 1)
    kinds = [(type(outcome).__name__, parts.attempt) for outcome, parts in ack.heard]
    assert kinds == [("Succeeded", 1), ("Retried", 1), ("Failed", 2)]
    assert isinstance(ack.outcomes[1], Retried)
    assert isinstance(ack.outcomes[1].error, trio.TooSlowError)
    assert ack.outcomes[1].after == 9


def test_wrong_arguments_are_refused() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match="acknowledge must be callable, as async acknowledge"):
        Acknowledge(wrong)
    with pytest.raises(TypeError, match="retry must be a RetryPolicy, or None for the worker's own, not 3"):
        Acknowledge(Acknowledger(), retry=wrong)


def test_it_shows_itself() -> None:
    assert repr(Acknowledge(trio.sleep)).startswith("<Acknowledge by <function sleep")  # type: ignore[arg-type]  # it is never called
