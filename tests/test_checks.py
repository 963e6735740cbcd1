"""Tests of argument checks: the values that are refused, and the error texts."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from trio_tasks._checks import (
    check_callable,
    check_count,
    check_fraction,
    check_moment,
    check_seconds,
    check_several,
    check_sync,
    check_text,
)


@pytest.mark.parametrize("value", [0, 0.0, 1, 2.5, 10**15])
def test_seconds_come_back_as_a_float(value: float) -> None:
    checked = check_seconds(value, "delay")
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize("value", ["5", None, True, False, 5j, [5], timedelta(seconds=5)], ids=repr)
def test_seconds_must_be_a_number(value: object) -> None:
    with pytest.raises(TypeError, match=r"^delay must be a number of seconds, not ") as caught:
        check_seconds(value, "delay")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400], ids=["inf", "-inf", "nan", "no float"])
def test_seconds_must_be_finite(value: int | float) -> None:
    shown = "a whole number of 1329 bits" if value == 10**400 else value
    with pytest.raises(ValueError, match=f"^delay must be a finite number of seconds, not {shown}$"):
        check_seconds(value, "delay")


def test_seconds_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match=r"^delay must be 0 or more seconds, not -1$"):
        check_seconds(-1, "delay")


@pytest.mark.parametrize("value", [0, -0.0, -1])
def test_seconds_may_have_to_be_positive(value: float) -> None:
    assert check_seconds(0.001, "timeout", positive=True) == 0.001
    with pytest.raises(ValueError, match=r"^timeout must be more than 0 seconds, not "):
        check_seconds(value, "timeout", positive=True)


def test_a_count_comes_back() -> None:
    assert check_count(1, "attempts") == 1
    assert check_count(0, "keep", minimum=0) == 0
    assert check_count(-5, "priority", minimum=None) == -5


@pytest.mark.parametrize("value", [1.0, "1", None, True, math.inf], ids=repr)
def test_a_count_must_be_a_whole_number(value: object) -> None:
    with pytest.raises(TypeError, match=r"^attempts must be a whole number, not ") as caught:
        check_count(value, "attempts")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("value", "minimum"), [(0, 1), (-1, 0), (4, 5)])
def test_a_count_has_a_minimum(value: int, minimum: int) -> None:
    with pytest.raises(ValueError, match=f"^attempts must be {minimum} or more, not {value}$"):
        check_count(value, "attempts", minimum=minimum)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_a_fraction_comes_back_as_a_float(value: float) -> None:
    checked = check_fraction(value, "jitter")
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize(
    ("value", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (math.nan, ValueError), (math.inf, ValueError),
     ("0.5", TypeError), (None, TypeError), (True, TypeError)],
    ids=repr,
)  # fmt: skip
def test_a_fraction_lies_between_0_and_1(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^jitter must be a number from 0 to 1, not ") as caught:
        check_fraction(value, "jitter")
    assert repr(value) in str(caught.value)


def test_text_comes_back() -> None:
    assert check_text("text", "name") == "text"


@pytest.mark.parametrize("value", [b"text", 5, None, ["text"]], ids=repr)
def test_text_must_be_a_string(value: object) -> None:
    with pytest.raises(TypeError, match=r"^name must be a string, not "):
        check_text(value, "name")


def test_text_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^name must not be an empty string$"):
        check_text("", "name")


def test_a_callable_comes_back() -> None:
    assert check_callable(len, "fn", "fn(x)") is len


def test_a_callable_must_be_callable_and_its_shape_is_told() -> None:
    with pytest.raises(TypeError, match=r"^fn must be callable, as fn\(x\); got 5$"):
        check_callable(5, "fn", "fn(x)")


def test_a_moment_comes_back() -> None:
    moment = datetime.now(timezone(timedelta(hours=2)))
    assert check_moment(moment, "run_at") is moment


@pytest.mark.parametrize(
    "value", [5.0, "2026-11-23", None, datetime(2026, 11, 23, tzinfo=timezone.utc).date()], ids=repr
)
def test_a_moment_must_be_a_datetime(value: object) -> None:
    with pytest.raises(TypeError, match=r"^run_at must be a datetime\.datetime, not "):
        check_moment(value, "run_at")


class Nowhere(tzinfo):
    """A time zone without an offset."""

    def utcoffset(self, moment: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        return "nowhere"


@pytest.mark.parametrize("zone", [None, Nowhere()], ids=["none", "without offset"])
def test_a_moment_must_have_a_time_zone(zone: tzinfo | None) -> None:
    with pytest.raises(ValueError, match=r"^run_at must have a time zone, as datetime.now\(timezone.utc\) has; "):
        check_moment(datetime(2026, 11, 23, tzinfo=zone), "run_at")


async def waits(error: object) -> None: ...


class Waits:
    async def __call__(self, error: object) -> None: ...


def test_a_plain_function_comes_back() -> None:
    assert check_sync(len, "fn", "fn(x)") is len


@pytest.mark.parametrize(
    "value",
    [waits, Waits(), Waits().__call__, functools.partial(waits)],
    ids=["function", "object", "method", "partial"],
)
def test_a_function_that_is_not_awaited_must_not_be_async(value: object) -> None:
    with pytest.raises(
        TypeError, match=r"^fn must be a plain function, as fn\(x\), since nobody awaits it; .* is async$"
    ):
        check_sync(value, "fn", "fn(x)")


def test_a_plain_function_must_be_callable() -> None:
    with pytest.raises(TypeError, match=r"^fn must be callable, as fn\(x\); got 5$"):
        check_sync(5, "fn", "fn(x)")


@pytest.mark.parametrize(
    "value", [[1, 2], (1, 2), iter([1, 2]), {1: "a", 2: "b"}], ids=["list", "tuple", "iterator", "dict"]
)
def test_several_come_back_as_a_tuple(value: Iterable[int]) -> None:
    assert check_several(value, "data", "values") == (1, 2)


@pytest.mark.parametrize("value", ["text", b"bytes", "", 5, None], ids=repr)
def test_several_must_be_a_list_and_no_text(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^data must be a list of values, not "):
        check_several(value, "data", "values")
