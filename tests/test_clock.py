"""Tests of the wall clock, which is read through one replaceable function."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from trio_tasks._clock import seconds_until, use_wall_clock, wall_after, wall_now

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


def test_now_is_the_present_in_utc() -> None:
    before = time.time()
    now = wall_now()
    assert now.tzinfo is timezone.utc
    assert before - 0.001 <= now.timestamp() <= time.time() + 0.001


def test_the_clock_can_be_replaced() -> None:
    with use_wall_clock(NOON.timestamp):
        assert wall_now() == NOON


def test_it_is_put_back_whatever_happens_and_replacements_nest() -> None:
    before = wall_now()
    with pytest.raises(LookupError), use_wall_clock(lambda: 1.0):
        with use_wall_clock(lambda: 2.0):
            assert wall_now().timestamp() == 2.0
        assert wall_now().timestamp() == 1.0
        raise LookupError
    assert before <= wall_now()


def test_after_some_seconds() -> None:
    with use_wall_clock(NOON.timestamp):
        assert wall_after(0) == NOON
        assert wall_after(90.5) == NOON + timedelta(seconds=90.5)


@pytest.mark.parametrize("seconds", [1e11 * 9, 1e12, 1e20, 1e308])
def test_what_lies_beyond_the_calendar_is_its_last_moment(seconds: float) -> None:
    with use_wall_clock(NOON.timestamp):
        assert wall_after(seconds) == datetime.max.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=5, minutes=30))], ids=str)
def test_seconds_until_a_moment_in_any_time_zone(zone: timezone) -> None:
    with use_wall_clock(NOON.timestamp):
        assert seconds_until((NOON + timedelta(minutes=1)).astimezone(zone)) == 60


def test_no_seconds_until_what_has_passed() -> None:
    with use_wall_clock(NOON.timestamp):
        assert seconds_until(NOON) == 0
        assert seconds_until(NOON - timedelta(days=1)) == 0
