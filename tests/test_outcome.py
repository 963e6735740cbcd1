"""Tests of outcomes, and of the judgement of an error by its leaves."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, strategies as st
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks._tasks.errors import AbortError, DeferredError, RetryAfterError, SuspendError
from trio_tasks._tasks.outcome import (
    Failed,
    Killed,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Suspended,
    TaskResult,
    judge,
)
from trio_tasks._tasks.retry import RetryPolicy, constant
from trio_tasks._tasks.task_id import TaskId

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

POLICY = RetryPolicy(attempts=3, backoff=lambda attempt: attempt * 10.0)


def verdict(
    error: BaseException, *, attempt: int = 1, attempts: int | None = None, policy: RetryPolicy = POLICY
) -> Outcome:
    return judge(error, attempt=attempt, attempts=attempts, policy=policy, now=1000.0)


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", errors)


# The values


def test_outcomes_are_values() -> None:
    error = ValueError()
    assert Succeeded(5) == Succeeded(5)
    assert Retried(error, 2) == Retried(error, 2.0) != Retried(error)
    failed: Outcome = Failed(error)
    assert failed != Killed(error)
    assert Released() == Released("interrupted")
    assert repr(Succeeded(5)) == "Succeeded(result=<int>)"


@pytest.mark.parametrize(
    "outcome",
    [Succeeded(5), Retried(ValueError()), Failed(ValueError()), Killed(ValueError()), Released(), Suspended(5.0),
     TaskResult(TaskId("a"), Status.Done, 5)],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_outcomes_do_not_change(outcome: Any) -> None:
    for name in type(outcome).__slots__:
        with pytest.raises(FrozenInstanceError):
            setattr(outcome, name, None)
    assert not hasattr(outcome, "__dict__")


@pytest.mark.parametrize("kind", [Retried, Failed, Killed])
@pytest.mark.parametrize("error", ["text", 5, None, ValueError], ids=repr)
def test_the_error_of_an_outcome_must_be_one(kind: Callable[[Any], Outcome], error: Any) -> None:
    with pytest.raises(TypeError, match="error must be "):
        kind(error)


@pytest.mark.parametrize(
    ("after", "error"), [(-1, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError)]
)
def test_a_retry_after_no_delay_at_all_is_refused(after: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Retried.after must be "):
        Retried(ValueError(), after)


@pytest.mark.parametrize(
    ("until", "error"), [(math.nan, ValueError), (-math.inf, ValueError), ("1", TypeError), (None, TypeError)]
)
def test_a_suspension_until_no_moment_at_all_is_refused(until: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Suspended.until must be a moment on trio's clock"):
        Suspended(until)


def test_a_suspension_may_last_until_it_is_rescheduled() -> None:
    assert Suspended(math.inf, "paused by the owner") == Suspended(math.inf, "paused by the owner")
    assert Suspended(-5.0).until == -5.0, "trio's clock may start anywhere"


def test_the_result_of_a_success() -> None:
    result = TaskResult.of(TaskId("a"), Succeeded(5))
    assert result == TaskResult(TaskId("a"), Status.Done, 5)
    assert result.unwrap() == 5


@pytest.mark.parametrize(("kind", "status"), [(Failed, Status.Failed), (Killed, Status.Killed)])
def test_the_result_of_a_failure_raises_its_error(
    kind: Callable[[BaseException], Failed | Killed], status: Status
) -> None:
    error = ValueError("of the task")
    result = TaskResult.of(TaskId("a"), kind(error))
    assert (result.status, result.error, result.result) == (status, error, None)
    with pytest.raises(ValueError, match="of the task") as caught:
        result.unwrap()
    assert caught.value is error


# The judgement


def test_any_error_is_tried_again_after_the_backoff() -> None:
    error = ValueError()
    assert verdict(error) == Retried(error, 10.0)
    assert verdict(error, attempt=2) == Retried(error, 20.0)


def test_the_last_attempt_fails() -> None:
    error = ValueError()
    assert verdict(error, attempt=3) == Failed(error)
    assert verdict(error, attempt=4) == Failed(error)


def test_the_tasks_own_attempts_go_before_the_policy() -> None:
    error = ValueError()
    assert verdict(error, attempt=1, attempts=1) == Failed(error)
    assert verdict(error, attempt=4, attempts=5) == Retried(error, 40.0)


def test_abort_kills_whatever_the_attempt() -> None:
    for attempt in (1, 3, 9):
        error = AbortError("no")
        assert verdict(error, attempt=attempt) == Killed(error)


def test_retry_after_waits_as_long_as_it_says() -> None:
    error = RetryAfterError("busy", 77)
    assert verdict(error) == Retried(error, 77.0)
    assert verdict(error, attempt=3) == Failed(error)


def test_deferred_is_tried_again_at_once() -> None:
    error = DeferredError("not yet")
    assert verdict(error) == Retried(error, 0.0)
    assert verdict(error, attempt=3) == Failed(error)


def test_a_suspension_counts_from_now_and_no_attempt_is_needed_for_it() -> None:
    for attempt in (1, 3, 9):
        assert verdict(SuspendError(5, "later"), attempt=attempt) == Suspended(1005.0, "later")
    assert verdict(SuspendError(math.inf)) == Suspended(math.inf)


def test_of_several_suspensions_the_longest_counts() -> None:
    whole = group(SuspendError(5, "a"), group(SuspendError(50, "b"), SuspendError(0, "c")))
    assert verdict(whole, attempt=3) == Suspended(1050.0, "b")


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize(
    "other", [ValueError("no"), AbortError("no"), RetryAfterError("busy", 77), DeferredError("not yet")], ids=repr
)
def test_what_failed_beside_a_suspension_is_judged_as_if_alone(other: Exception, attempt: int) -> None:
    """An uncounted suspension must not hide it."""
    alone = verdict(other, attempt=attempt)
    for errors in ([other, SuspendError(5)], [SuspendError(5), other], [SuspendError(500), other, SuspendError(5)]):
        whole = group(errors[0], group(*errors[1:]))
        outcome = verdict(whole, attempt=attempt)
        assert type(outcome) is type(alone)
        assert isinstance(outcome, (Retried, Failed, Killed))
        assert outcome.error is whole
        assert getattr(outcome, "after", None) == getattr(alone, "after", None)


def test_the_policy_is_not_asked_about_suspensions() -> None:
    policy = RetryPolicy(3, constant(5), retry_if=lambda error: isinstance(error, ConnectionError))
    both = group(ConnectionError(), SuspendError(5))
    assert verdict(both, policy=policy) == Retried(both, 5.0)


def test_what_the_policy_does_not_allow_is_killed() -> None:
    policy = RetryPolicy(retry_if=lambda error: isinstance(error, ConnectionError), backoff=constant(5))
    fatal, transient = ValueError(), ConnectionError()
    assert verdict(fatal, policy=policy) == Killed(fatal)
    assert verdict(transient, policy=policy) == Retried(transient, 5.0)
    both = group(transient, group(fatal))
    assert verdict(both, policy=policy) == Killed(both)


def test_the_policy_is_not_asked_about_errors_with_a_meaning_of_their_own() -> None:
    def never(error: BaseException) -> bool:
        raise AssertionError(error)

    policy = RetryPolicy(retry_if=never)
    assert isinstance(verdict(RetryAfterError("busy", 1), policy=policy), Retried)
    assert isinstance(verdict(DeferredError("not yet"), policy=policy), Retried)
    assert isinstance(verdict(AbortError("no"), policy=policy), Killed)


def test_abort_beats_retry_after_beats_deferred_beats_any_other() -> None:
    other, deferred = ValueError(), DeferredError("not yet")
    after, abort = RetryAfterError("busy", 77), AbortError("no")
    for errors, expected in (
        ([other, deferred, after, abort], "Killed"),
        ([other, deferred, after], 77.0),
        ([other, deferred], 0.0),
        ([other], 10.0),
    ):
        for ordered in (errors, errors[::-1]):
            whole = group(ordered[0], group(*ordered[1:])) if ordered[1:] else group(*ordered)
            assert verdict(whole) == (Killed(whole) if expected == "Killed" else Retried(whole, float(expected)))


def test_among_retry_afters_the_longest_wins() -> None:
    whole = group(RetryAfterError("a", 5), group(RetryAfterError("b", 50), RetryAfterError("c", 0)))
    assert verdict(whole) == Retried(whole, 50.0)


def test_the_group_is_kept_whole() -> None:
    whole = group(ValueError("a"), AbortError("b"))
    outcome = verdict(whole)
    assert isinstance(outcome, Killed)
    assert outcome.error is whole


def test_a_system_exit_is_an_error_like_any_other() -> None:
    error = SystemExit(3)
    assert verdict(error) == Retried(error, 10.0)


errors = st.recursive(
    st.one_of(
        st.builds(ValueError),
        st.builds(AbortError, st.just("no")),
        st.builds(DeferredError, st.just("not yet")),
        st.builds(RetryAfterError, st.just("busy"), st.integers(0, 100)),
        st.builds(SuspendError, st.integers(0, 100)),
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=4).map(lambda several: group(*several)),
    max_leaves=12,
)


@given(error=errors, attempt=st.integers(1, 6), attempts=st.one_of(st.none(), st.integers(1, 5)))
def test_the_judgement_is_that_of_its_ranking(error: Exception, attempt: int, attempts: int | None) -> None:
    kinds = {type(leaf) for leaf in leaves(error)}
    expected: Outcome
    if kinds == {SuspendError}:
        expected = Suspended(1000.0 + max(leaf.delay for leaf in leaves(error) if isinstance(leaf, SuspendError)))
    elif AbortError in kinds:
        expected = Killed(error)
    elif attempt >= (attempts or 3):
        expected = Failed(error)
    elif RetryAfterError in kinds:
        expected = Retried(error, max(leaf.delay for leaf in leaves(error) if isinstance(leaf, RetryAfterError)))
    elif DeferredError in kinds:
        expected = Retried(error, 0.0)
    else:
        expected = Retried(error, attempt * 10.0)
    assert verdict(error, attempt=attempt, attempts=attempts) == expected
