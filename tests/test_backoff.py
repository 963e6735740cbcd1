"""Tests of retry policies: the delays and the number of attempts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, strategies as st
from trio_tasks._tasks.retry import Backoff, RetryPolicy, constant, exponential, linear


def first_four(backoff: Backoff) -> list[float]:
    return [backoff(attempt) for attempt in range(1, 5)]


def test_constant_stays() -> None:
    assert first_four(constant(5)) == [5, 5, 5, 5]


def test_linear_adds() -> None:
    assert first_four(linear(5)) == [5, 10, 15, 20]
    assert first_four(linear(5, step=1)) == [5, 6, 7, 8]
    assert first_four(linear(5, step=0)) == [5, 5, 5, 5]
    assert first_four(linear(5, maximum=12)) == [5, 10, 12, 12]


def test_exponential_multiplies() -> None:
    assert first_four(exponential(1)) == [1, 2, 4, 8]
    assert first_four(exponential(1, factor=10)) == [1, 10, 100, 1000]
    assert first_four(exponential(3, factor=1)) == [3, 3, 3, 3]
    assert first_four(exponential(1, maximum=5)) == [1, 2, 4, 5]


def test_nothing_is_longer_than_a_day_unless_it_is_asked_for() -> None:
    assert exponential(1)(100_000) == 86400
    assert linear(1)(100_000) == 86400
    assert linear(1, maximum=1e6)(100_000) == 100_000


@pytest.mark.parametrize("attempt", [1, 10, 1024, 1025, 10**6, 10**18])
def test_a_late_attempt_does_not_overflow(attempt: int) -> None:
    assert exponential(1.5, factor=1e300, maximum=60)(attempt) <= 60
    assert exponential(2, maximum=60)(attempt) <= 60
    assert exponential(0, factor=1e300)(attempt) == 0


MAKERS: dict[str, Callable[..., Backoff]] = {"constant": constant, "linear": linear, "exponential": exponential}
each_backoff = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@each_backoff
@given(first=st.floats(0, 1e6), jitter=st.floats(0, 1), attempt=st.integers(1, 2000))
def test_jitter_takes_off_up_to_its_part(
    make: Callable[..., Backoff], first: float, jitter: float, attempt: int
) -> None:
    whole = make(first)(attempt)
    assert whole * (1 - jitter) <= make(first, jitter=jitter)(attempt) * (1 + 1e-9) + 1e-300
    assert make(first, jitter=jitter)(attempt) <= whole


@each_backoff
def test_jitter_scatters(make: Callable[..., Backoff]) -> None:
    backoff = make(100, jitter=1)
    drawn = [backoff(1) for _ in range(300)]
    assert min(drawn) < 25
    assert max(drawn) > 75
    assert len(set(drawn)) > 250


@each_backoff
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"_": -1}, "must be 0 or more seconds, not -1"),
        ({"_": math.nan}, "must be a finite number of seconds, not nan"),
        ({"_": "5"}, "must be a number of seconds, not '5'"),
        ({"_": True}, "must be a number of seconds, not True"),
        ({"_": 1, "jitter": 1.5}, "jitter must be a number from 0 to 1, not 1.5"),
        ({"_": 1, "jitter": "much"}, "jitter must be a number from 0 to 1, not 'much'"),
    ],
    ids=repr,
)
def test_every_backoff_refuses_what_makes_no_sense(
    make: Callable[..., Backoff], arguments: dict[str, Any], message: str
) -> None:
    first, *_ = arguments.values()
    with pytest.raises((TypeError, ValueError), match=message):
        make(first, **{name: value for name, value in arguments.items() if name != "_"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(1, step=-1), "step must be 0 or more seconds, not -1"),
        (lambda: linear(1, maximum=-1), "maximum must be 0 or more seconds, not -1"),
        (lambda: exponential(1, maximum=math.inf), "maximum must be a finite number of seconds, not inf"),
        (lambda: exponential(1, factor=0.5), "factor must be 1 or more, or delays would shrink; not 0.5"),
    ],
)
def test_their_own_arguments_are_checked(make: Callable[[], Backoff], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# The policy


def test_the_usual_policy() -> None:
    policy = RetryPolicy()
    assert policy.attempts == 5
    assert policy.allows(ValueError())
    for attempt in range(1, 20):
        whole = min(3600.0, 2.0 ** (attempt - 1))
        assert whole / 2 <= policy.delay_after(attempt) <= whole


def test_a_policy_asks_whether_an_error_may_be_tried_again() -> None:
    policy = RetryPolicy(retry_if=lambda error: "x" if isinstance(error, OSError) else "")  # type: ignore[arg-type, return-value]  # any truth will do
    assert policy.allows(OSError()) is True
    assert policy.allows(ValueError()) is False


def test_a_policy_does_not_change_and_is_a_value() -> None:
    policy: Any = RetryPolicy(attempts=3)
    with pytest.raises(FrozenInstanceError):
        policy.attempts = 4
    assert policy == RetryPolicy(attempts=3) != RetryPolicy(attempts=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": 0}, "attempts must be 1 or more, not 0"),
        ({"attempts": 2.5}, "attempts must be a whole number, not 2.5"),
        ({"attempts": None}, "attempts must be a whole number, not None"),
        ({"backoff": 5}, r"backoff must be callable, as backoff\(attempt\) -> seconds, for example exponential"),
        ({"retry_if": ValueError()}, r"retry_if must be callable, as retry_if\(error\) -> bool; got ValueError"),
    ],
    ids=repr,
)
def test_a_policy_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        RetryPolicy(**arguments)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, None, "5"])
def test_a_backoff_that_gives_no_delay_is_told_so(delay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="the delay that backoff gave after attempt 2 must be "):
        RetryPolicy(backoff=lambda attempt: delay).delay_after(2)
