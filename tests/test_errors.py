"""Tests of the public errors."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from trio_tasks._tasks.errors import (
    AbortError,
    BackendError,
    DeferredError,
    DuplicateTaskError,
    LeaseLostError,
    MonitorError,
    OverloadedError,
    RetryAfterError,
    SuspendError,
    TaskExpiredError,
    UnknownTaskError,
    UnsettledError,
    WorkerError,
)
from trio_tasks._tasks.task_id import TaskId

STEERING: dict[str, Callable[[BaseException | str], AbortError | RetryAfterError | DeferredError]] = {
    "AbortError": AbortError,
    "RetryAfterError": lambda source: RetryAfterError(source, 5),
    "DeferredError": DeferredError,
}
each_steering_error = pytest.mark.parametrize("make", STEERING.values(), ids=STEERING)


@each_steering_error
def test_the_trouble_behind_it_is_its_source_and_cause(
    make: Callable[[BaseException | str], AbortError],
) -> None:
    trouble = ValueError("no such address")
    error = make(trouble)
    assert error.source is trouble
    assert error.__cause__ is trouble
    assert str(error) == "no such address"


@each_steering_error
def test_a_text_will_do(make: Callable[[BaseException | str], AbortError]) -> None:
    error = make("no such address")
    assert error.source == "no such address"
    assert error.__cause__ is None
    assert str(error) == "no such address"


@each_steering_error
def test_trouble_without_words_is_told_by_its_repr(make: Callable[[BaseException | str], AbortError]) -> None:
    assert str(make(ValueError())) == "ValueError()"


def test_a_suspension_says_how_long_and_why() -> None:
    error = SuspendError(5, "the shop is closed")
    assert (error.delay, error.reason, str(error)) == (5.0, "the shop is closed", "the shop is closed")
    assert str(SuspendError(2.5)) == "suspended for 2.5 s"
    assert str(SuspendError(math.inf)) == "suspended for inf s"
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (again.delay, again.reason) == (5.0, "the shop is closed")


@pytest.mark.parametrize("delay", [-1, math.nan, -math.inf, "1", None, True])
def test_a_suspension_of_no_time_at_all_is_refused(delay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="SuspendError's delay must be"):
        SuspendError(delay)


def test_the_reason_of_a_suspension_is_a_text() -> None:
    with pytest.raises(TypeError, match="SuspendError's reason must be a text"):
        SuspendError(5, ValueError("no"))  # type: ignore[arg-type]  # it is the wrong type on purpose


@each_steering_error
def test_another_cause_may_be_given(make: Callable[[BaseException | str], AbortError]) -> None:
    cause = KeyError("cause")
    with pytest.raises(Exception, match="trouble") as caught:
        raise make(ValueError("trouble")) from cause
    assert caught.value.__cause__ is cause


def copies(error: BaseException) -> list[BaseException]:
    return [copy.copy(error), pickle.loads(pickle.dumps(error))]


@each_steering_error
def test_it_can_be_copied_and_pickled(make: Callable[[BaseException | str], AbortError]) -> None:
    for each in copies(make(ValueError("trouble"))):
        assert type(each) is type(make(""))
        assert str(each) == "trouble"
        assert isinstance(each.__cause__, ValueError)


def test_a_delay_survives_copying() -> None:
    for each in copies(RetryAfterError("busy", 2.5)):
        assert isinstance(each, RetryAfterError)
        assert (each.source, each.delay) == ("busy", 2.5)


def test_retry_after_takes_seconds() -> None:
    assert RetryAfterError("busy", 0).delay == 0.0
    assert RetryAfterError("busy", delay=3).delay == 3.0


@pytest.mark.parametrize(
    ("delay", "error"),
    [(-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("5", TypeError), (None, TypeError)],
)
def test_retry_after_refuses_what_is_no_delay(delay: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="RetryAfterError's delay must be "):
        RetryAfterError("busy", delay)


def test_an_unknown_task_is_named() -> None:
    assert "no task 'task-123' is known" in str(UnknownTaskError(TaskId("task-123")))
    assert isinstance(UnknownTaskError("task-123"), LookupError)


def test_an_unknown_task_can_be_copied_and_pickled() -> None:
    error = UnknownTaskError("task-123")
    for each in copies(error):
        assert isinstance(each, UnknownTaskError)
        assert str(each) == str(error)


@each_steering_error
@pytest.mark.parametrize("source", [5, None, ValueError, b"text"], ids=repr)
def test_what_is_no_trouble_at_all_is_refused(make: Callable[[BaseException | str], AbortError], source: Any) -> None:
    with pytest.raises(TypeError, match="an exception or a text"):
        make(source)


def test_what_a_backend_answers_can_be_caught_at_once() -> None:
    answers = [DuplicateTaskError, UnknownTaskError, LeaseLostError, UnsettledError]
    assert all(issubclass(answer, BackendError) for answer in answers)
    assert not BackendError.is_final


def test_none_of_them_looks_like_a_cancellation() -> None:
    kinds = [WorkerError, MonitorError, BackendError, TaskExpiredError, OverloadedError, AbortError]
    assert all(issubclass(kind, Exception) for kind in kinds)
