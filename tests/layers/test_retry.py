"""Tests of the layer Retry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    AbortError,
    DeferredError,
    Engage,
    Event,
    MemoryStorage,
    RetryAfterError,
    RetryPolicy,
    Task,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks.layers import Retry

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Flaky:
    """A handler that raises these errors, one a call, and then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls: list[float] = []
        self.attempts: list[int] = []

    async def __call__(self, task: Task[Any]) -> str:
        self.calls.append(trio.current_time())
        self.attempts.append(task.parts.attempt)
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_it_calls_until_it_succeeds(autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky(ValueError(1), ValueError(2))
    assert await Retry(5, backoff=lambda attempt: attempt * 10.0)(flaky, Task(1)) == "done"
    assert flaky.calls == [0, 10, 30]
    assert len(set(flaky.attempts)) == 1


async def test_the_last_error_is_raised_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    errors = [ValueError(1), ValueError(2), ValueError(3)]
    flaky = Flaky(*errors)
    with pytest.raises(ValueError, match="3") as caught:
        await Retry(3, backoff=constant(1))(flaky, Task(1))
    assert caught.value is errors[2]
    assert caught.value.__context__ is caught.value.__cause__ is None
    assert flaky.calls == [0, 1, 2]


async def test_one_attempt_is_no_retry(autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky(KeyError())
    with pytest.raises(KeyError):
        await Retry(1)(flaky, Task(1))
    assert len(flaky.calls) == 1


async def test_it_waits_a_little_by_default(autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky(*[ValueError()] * 20)
    await Retry(21)(flaky, Task(1))
    delays = [later - earlier for earlier, later in zip(flaky.calls, flaky.calls[1:], strict=False)]
    assert 0.05 <= delays[0] <= 0.1
    assert 5 <= delays[-1] <= 10
    assert max(delays) <= 10


ABORT, LATER, SOON, USUAL = AbortError("no"), RetryAfterError("later", 30), DeferredError("soon"), KeyError("oh")


def group(*errors: Exception) -> Exception:
    return ExceptionGroup("together", [ExceptionGroup("inner", list(errors[:1])), *errors[1:]])


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        pytest.param(USUAL, 5, id="any error"),
        pytest.param(LATER, 30, id="retry-after"),
        pytest.param(SOON, 0, id="deferred"),
        pytest.param(group(USUAL, LATER), 30, id="retry-after in a group"),
        pytest.param(group(RetryAfterError("", 40), LATER), 40, id="the longest delay"),
        pytest.param(group(USUAL, SOON), 0, id="deferred in a group"),
    ],
)
async def test_errors_mean_what_they_mean_everywhere(
    error: Exception, delay: float, autojump_clock: trio.testing.MockClock
) -> None:
    flaky = Flaky(error)
    assert await Retry(2, backoff=constant(5))(flaky, Task(1)) == "done"
    assert flaky.calls == [0, delay]


@pytest.mark.parametrize("error", [pytest.param(ABORT, id="alone"), pytest.param(group(LATER, ABORT), id="in a group")])
async def test_an_abort_stands(error: Exception, autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)) as caught:
        await Retry(5)(flaky, Task(1))
    assert caught.value is error
    assert len(flaky.calls) == 1


async def test_an_error_that_is_not_to_be_retried_stands(autojump_clock: trio.testing.MockClock) -> None:
    layer = Retry(5, retry_if=lambda error: not isinstance(error, KeyError))
    flaky = Flaky(ValueError(), KeyError("stands"))
    with pytest.raises(KeyError):
        await layer(flaky, Task(1))
    assert len(flaky.calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=["interrupt", "exit"])
async def test_what_is_no_exception_stands(error: BaseException) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await Retry(5)(flaky, Task(1))
    assert len(flaky.calls) == 1


async def test_no_further_call_if_cancelled_in_between(autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky(ValueError())
    with trio.move_on_after(5) as scope:
        await Retry(2, backoff=constant(10))(flaky, Task(1))
    assert scope.cancelled_caught
    assert flaky.calls == [0]


async def test_no_further_call_if_cancelled_within(autojump_clock: trio.testing.MockClock) -> None:
    calls: list[float] = []

    async def hang(task: Task[int]) -> None:
        calls.append(trio.current_time())
        await trio.sleep(10)

    with trio.move_on_after(5) as scope:
        await Retry(2, backoff=constant(0))(hang, Task(1))
    assert scope.cancelled_caught
    assert calls == [0]


async def test_a_handler_without_checkpoints_can_be_stopped_between_two_calls() -> None:
    calls = 0

    async def stubborn(task: Task[int]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            scope.cancel()
        raise DeferredError("again")

    with trio.CancelScope() as scope:
        await Retry(1_000_000)(stubborn, Task(1))
    assert calls == 3


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Retry(0), ValueError, "attempts must be 1 or more, not 0"),
    (lambda: Retry(1.5), TypeError, "attempts must be a whole number"),  # type: ignore[arg-type]  # it is refused
    (lambda: Retry(2, backoff=3), TypeError, "backoff must be callable"),  # type: ignore[arg-type]  # it is refused
    (lambda: Retry(2, retry_if=True), TypeError, "retry_if must be callable"),  # type: ignore[arg-type]  # it is refused
]


@pytest.mark.parametrize(("make", "kind", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_arguments_are_refused(make: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


async def test_the_workers_attempts_are_counted_apart(autojump_clock: trio.testing.MockClock) -> None:
    """Two attempts of three calls each; what the backend counts, and the listeners hear, is the attempts."""
    storage = MemoryStorage[int]()
    flaky = Flaky(*[ValueError()] * 6)
    engaged: list[Event] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Engage):
            engaged.append(event)

    async def handler(task: Task[int]) -> str:
        return await flaky(task)

    await storage.push(1)
    storage.close()
    policy = RetryPolicy(attempts=2, backoff=constant(100))
    report = await Worker(
        "w", storage, handler, layers=[Retry(3, backoff=constant(1))], retry=policy, on_event=listen
    ).run()
    assert flaky.calls == [0, 1, 2, 102, 103, 104]
    assert flaky.attempts == [1, 1, 1, 2, 2, 2]
    assert len(engaged) == 2
    assert (report.retried, report.failed) == (1, 1)
