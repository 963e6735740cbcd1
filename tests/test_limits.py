"""Tests of limits as values, and of the arithmetic of turns and rates that all storages go by."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from trio_tasks import Limits, Rate
from trio_tasks._contracts.fairness import FIRST_TAG, NO_KEY, RateWindow, VirtualTime
from trio_tasks._tasks.limits import check_limits

ALL = Limits(concurrency=50, per_key=2, rate=Rate(100, per=60), rate_per_key=Rate(3, per=0.5), weight=2)


def test_limits_say_what_they_are() -> None:
    """A repr shows what was given, and only that."""
    assert repr(Limits()) == "Limits()"
    assert repr(ALL) == (
        "Limits(concurrency=50, per_key=2, rate=Rate(100, per=60.0), rate_per_key=Rate(3, per=0.5), weight=2.0)"
    )
    assert Rate(5, per=1) == Rate(5, per=1.0) != Rate(5, per=2)


@pytest.mark.parametrize("limits", [Limits(), ALL, Limits(weight=0.001)], ids=repr)
def test_limits_can_be_stored(limits: Limits) -> None:
    """Plain values give the same limits again."""
    assert Limits.from_plain(limits.to_plain()) == limits


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"concurrency": 0}, "concurrency must be 1 or more"),
        ({"per_key": 2.0}, "per_key must be a whole number"),
        ({"per_key": True}, "per_key must be a whole number"),
        ({"rate": 5}, r"rate must be a Rate, such as Rate\(100, per=60\), or None, not 5"),
        ({"rate_per_key": (5, 60)}, "rate_per_key must be a Rate"),
        ({"weight": 0}, "weight must be from 0.001 to 1000, not 0"),
        ({"weight": math.nan}, "weight must be from 0.001 to 1000, not nan"),
        ({"weight": "2"}, "weight must be a number, not '2'"),
    ],
)
def test_wrong_limits_are_refused(fields: dict[str, Any], told: str) -> None:
    """The error names the field, and what would be right."""
    with pytest.raises((TypeError, ValueError), match=told):
        Limits(**fields)


@pytest.mark.parametrize(
    ("n", "per", "told"),
    [
        (0, 1, "n must be 1 or more"),
        (1, 0, "per must be more than 0"),
        (1, math.inf, "per must be a finite number"),
        (1, 5e-324, "per must be 0.001 seconds or more, not 5e-324"),
    ],
)
def test_wrong_rates_are_refused(n: Any, per: Any, told: str) -> None:
    """So does the one for a rate."""
    with pytest.raises(ValueError, match=told):
        Rate(n, per=per)


def test_limits_of_a_key_have_no_limit_of_the_queue() -> None:
    """What belongs to the whole queue is refused for one key, with the field to give in its place."""
    assert check_limits(Limits(per_key=2), of_key=True) == Limits(per_key=2)
    assert check_limits(None) is None
    with pytest.raises(ValueError, match="concurrency is a limit of a whole queue; for one key give per_key"):
        check_limits(Limits(concurrency=2), of_key=True)
    with pytest.raises(ValueError, match="rate is a limit of a whole queue; for one key give rate_per_key"):
        check_limits(Limits(rate=Rate(2, per=1)), of_key=True)
    with pytest.raises(TypeError, match="limits must be Limits"):
        check_limits({"per_key": 2})


class Turns:
    """A queue of one priority, to which keys add tasks."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.waiting: list[tuple[int, int, str]] = []
        self.number = 0

    def push(self, key: str, times: int = 1, weight: float = 1.0) -> None:
        for _ in range(times):
            self.number += 1
            self.waiting.append((self.time.next_tag(0, key, weight), self.number, key))

    def take(self, times: int = 1) -> list[str]:
        taken: list[str] = []
        for _ in range(min(times, len(self.waiting))):
            self.waiting.sort()
            tag, _, key = self.waiting.pop(0)
            self.time.take(0, tag)
            taken.append(key)
        return taken


def test_a_key_that_comes_late_waits_for_one_turn() -> None:
    """Fifty tasks before it delay it by one."""
    turns = Turns()
    turns.push("big", 50)
    assert turns.take() == ["big"]
    turns.push("small")
    assert "small" in turns.take(2)
    turns.push("small", 3)
    assert turns.take(6).count("small") == 3


def test_turns_are_in_proportion_to_weights() -> None:
    """A weight of 3 has three turns for each one of weight 1; tasks without a key are a key, too."""
    turns = Turns()
    turns.push(NO_KEY, 400)
    turns.push("heavy", 400, weight=3)
    counts = Counter(turns.take(400))
    assert 299 <= counts["heavy"] <= 301


def test_a_key_saves_up_no_turns() -> None:
    """A key that was idle for long takes turns with others when it is back; a key alone has all."""
    turns = Turns()
    turns.push("a", 100)
    assert turns.take(100) == ["a"] * 100
    turns.push("a", 20)
    turns.push("b", 20)
    assert Counter(turns.take(20)) == {"a": 10, "b": 10}


def test_a_key_with_one_task_at_a_time_does_not_go_before_others() -> None:
    """It pushes the next one when the one before is taken, and has every second turn."""
    turns = Turns()
    turns.push("big", 50)
    taken: list[str] = []
    turns.push("one")
    for _ in range(40):
        [key] = turns.take()
        taken.append(key)
        if key == "one":
            turns.push("one")
    assert 19 <= taken.count("one") <= 21


def test_idle_keys_are_forgotten() -> None:
    """Ten thousand keys that each had one task leave little behind, and get the same tags as without it."""
    time, tag = VirtualTime(), FIRST_TAG
    for number in range(10_000):
        tag = time.next_tag(0, str(number), 1.0)
        time.take(0, tag + 2**21)
        assert len(time._finish) <= 600
    assert tag > FIRST_TAG


@pytest.mark.parametrize("seed", range(20))
def test_a_rate_is_never_exceeded(seed: int) -> None:
    """Whenever attempts begin as soon as they may, no stretch of ``per`` seconds sees more than ``n`` of them."""
    chance = random.Random(seed)
    rate = Rate(chance.randint(1, 20), per=chance.choice([0.001, 1.0, 60.0]))
    window, now, begun = RateWindow(), 1.8e9 + chance.random(), list[float]()
    for _ in range(300):
        free = window.free(rate, now)
        if free > 0:
            number = chance.randint(1, free)
            window.begin(rate, now, number)
            begun += [now] * number
            now += chance.random() * rate.per / rate.n
        else:
            later = window.free_at(rate)
            assert now < later <= begun[-rate.n] + rate.per * 1.0101
            now = later
        window = RateWindow(window.state())
        assert len(window.state()) <= 108
    for first, last in zip(begun, begun[rate.n :], strict=False):
        assert last - first >= rate.per * (1 - 1e-6)
    assert len(begun) > 4 * rate.n


def test_a_rate_that_is_lowered_counts_what_has_begun() -> None:
    """Ten that began under the old rate leave no place for the new one, before they are over."""
    window = RateWindow()
    window.begin(Rate(10, per=60), 1000.0, 10)
    assert window.free(Rate(4, per=60), 1001.0) == -6
    assert 1060.0 <= window.free_at(Rate(4, per=60)) <= 1060.6
    assert window.free_at(Rate(4, per=60), 5) == math.inf
    assert window.free(Rate(4, per=60), 1061.0) == 4
    assert window.is_empty


def test_a_rate_that_follows_a_long_one_counts_no_more_than_its_own_time() -> None:
    """Attempts that began a minute ago count for a rate of an hour, and not for one of a second that follows."""
    window = RateWindow()
    window.begin(Rate(5, per=86400), 1000.0, 5)
    assert window.free(Rate(5, per=3600), 1060.0) == 0
    assert 4600 < window.free_at(Rate(5, per=3600)) < 4636
    assert window.free(Rate(5, per=1), 1060.0) == 5
