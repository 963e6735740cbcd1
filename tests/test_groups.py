"""Tests of the ready rows of a queue in memory: turns of keys, their limits, and what is told of rows held back."""

from __future__ import annotations

import math
import random
from collections import Counter, deque

import pytest
from trio_tasks import Limits, Rate
from trio_tasks._contracts.fairness import NO_KEY
from trio_tasks._contracts.groups import Groups, LimitReached, QueueLimits


class Queue:
    """Groups of rows that are named after their key and their number, with a clock."""

    def __init__(self, limits: Limits | None = None, **of_keys: Limits) -> None:
        self.limits = QueueLimits()
        self.limits.of_queue = limits
        self.limits.of_keys.update(of_keys)
        self.groups: Groups[str] = Groups(self.limits)
        self.number = 0
        self.now = 1000.0
        self.priorities: dict[str, int] = {}
        self.orders: dict[str, int] = {}

    def push(self, key: str, times: int = 1, *, priority: int = 0) -> list[str]:
        rows: list[str] = []
        for _ in range(times):
            self.number += 1
            row = f"{key}{self.number}"
            self.priorities[row], self.orders[row] = priority, self.number
            self.groups.add(row, row, key, priority, self.number)
            rows.append(row)
        return rows

    def take(self, times: int = 1) -> list[str]:
        taken = [self.groups.pop(self.now) for _ in range(times)]
        return [row for row in taken if row is not None]

    def keys(self, times: int) -> list[str]:
        return [row.rstrip("0123456789") for row in self.take(times)]

    def set(self, limits: Limits | None, key: str | None = None) -> None:
        self.limits.set(limits, key)
        self.groups.apply_limits(key)

    def release(self, row: str, *, begun: bool = True) -> None:
        key = row.rstrip("0123456789")
        self.groups.put_back(row, row, key, self.priorities[row], self.orders[row], begun=begun)


def test_keys_take_turns() -> None:
    """Each key in its order; one that comes late is delayed by one task, not by fifty."""
    queue = Queue()
    queue.push("big", 50)
    assert queue.take() == ["big1"]
    queue.push("small", 2)
    assert queue.take(5) == ["small51", "big2", "small52", "big3", "big4"]
    queue.push("small")
    assert "small" in queue.keys(2)
    assert queue.keys(100) == ["big"] * (50 - 4 - 1)
    assert len(queue.groups) == 0


def test_rows_without_a_key_are_a_group() -> None:
    """They take turns with the others as if they had the same key."""
    queue = Queue()
    queue.push(NO_KEY, 10)
    queue.push("a", 10)
    assert Counter(queue.keys(10)) == {NO_KEY: 5, "a": 5}


def test_priority_goes_before_fairness() -> None:
    """All rows of a higher priority go first, and turns are counted for each priority apart."""
    queue = Queue()
    queue.push("a", 3)
    queue.push("b", 3, priority=1)
    queue.push("a", 2, priority=1)
    assert queue.keys(8) == ["b", "a", "b", "a", "b", "a", "a", "a"]


def test_turns_go_by_weight() -> None:
    """A key with weight 3 has three turns while one with weight 1 has one."""
    queue = Queue(heavy=Limits(weight=3))
    queue.push("light", 400)
    queue.push("heavy", 400)
    assert 299 <= Counter(queue.keys(400))["heavy"] <= 301


@pytest.mark.parametrize(("before", "after"), [(0.001, 1.0), (0.5, 3.0), (3.0, 0.5), (1000.0, 0.25)])
@pytest.mark.parametrize("of_queue", [False, True])
def test_a_changed_weight_holds_from_the_next_turn_on(before: float, after: float, of_queue: bool) -> None:
    """A key with a small weight does not wait for the rest of a long turn once it has a larger one."""
    queue = Queue(Limits(weight=before)) if of_queue else Queue(a=Limits(weight=before))
    queue.set(Limits(), "b")
    queue.push("a", 1000)
    queue.push("b", 1000)
    queue.take(30)
    queue.set(Limits(weight=after), None if of_queue else "a")
    assert abs(queue.keys(200).count("a") - 200 * after / (after + 1)) <= 2


def test_a_key_at_its_limit_is_passed_over() -> None:
    """Others go on; a row of it begins when another one ends."""
    queue = Queue(Limits(per_key=2))
    queue.push("big", 10)
    queue.push("small", 2)
    queue.push(NO_KEY, 3)
    assert Counter(queue.keys(10)) == {"big": 2, "small": 2, NO_KEY: 3}
    assert queue.groups.held_now(queue.now) == 8
    assert queue.groups.limit_of("big", queue.now) == LimitReached("per_key", "big", 2, 2)
    queue.groups.end("big")
    assert queue.groups.held_now(queue.now) == 7
    assert queue.take(5) == ["big3"]
    queue.groups.end("small")
    assert queue.take() == []


def test_a_key_that_was_held_back_does_not_catch_up() -> None:
    """Its turns go on from the present, so that it does not shut others out."""
    queue = Queue(blocked=Limits(per_key=1))
    queue.push("blocked", 20)
    assert queue.take() == ["blocked1"]
    queue.push("other", 40)
    assert set(queue.keys(20)) == {"other"}
    queue.set(None, "blocked")
    assert Counter(queue.keys(10)) == {"blocked": 5, "other": 5}


def test_limits_are_changed() -> None:
    """A higher one lets rows go at once; a lower one none before enough attempts have ended."""
    queue = Queue(Limits(per_key=3))
    queue.push("a", 10)
    assert len(queue.take(5)) == 3
    queue.set(Limits(per_key=4))
    assert len(queue.take(5)) == 1
    queue.set(Limits(per_key=2), "a")
    for left in (0, 0, 1):
        queue.groups.end("a")
        assert len(queue.take(5)) == left
    queue.set(Limits(weight=2), "a")  # which replaces all of it: no limit
    assert len(queue.take(9)) == 5


def test_a_rate_holds_a_key_back_for_a_time() -> None:
    """When it has a place again is known."""
    queue = Queue(Limits(rate_per_key=Rate(2, per=60)))
    queue.push("a", 4)
    queue.push("b")
    assert queue.groups.next_wake == math.inf
    assert Counter(queue.keys(9)) == {"a": 2, "b": 1}
    assert queue.groups.held_now(queue.now) == 2
    moment = queue.groups.next_wake
    assert 1060 <= moment <= 1060.6
    assert queue.groups.limit_of("a", queue.now) == LimitReached("rate_per_key", "a", 2, 2, 60, moment)
    queue.now = 1059.9
    assert queue.take() == []
    queue.now = moment
    assert queue.take(5) == ["a3", "a4"]
    assert queue.groups.held_now(queue.now) == 0


def test_a_row_that_is_released_goes_first() -> None:
    """Its key is given the turn back, and one that did not begin is not counted for the rate."""
    queue = Queue(Limits(rate_per_key=Rate(4, per=60)))
    queue.push("a", 5)
    queue.push("b", 5)
    assert queue.take(4) == ["a1", "b6", "a2", "b7"]
    queue.release("a1", begun=False)
    queue.release("b6")
    assert queue.take(3) == ["a1", "b6", "a3"]
    assert Counter(queue.keys(9)) == {"a": 1, "b": 1}


def test_discarded_rows_spend_no_turn() -> None:
    """A row that is cancelled leaves its turn to the next one of its key."""
    queue = Queue(Limits(per_key=5))
    rows = queue.push("a", 4)
    queue.push("b", 4)
    assert [queue.groups.discard(row, "a") for row in (*rows[:2], rows[0])] == [True, True, False]
    assert not queue.groups.discard("x", "unknown")
    assert queue.take(4) == ["a3", "b5", "a4", "b6"]


def test_rows_are_told_in_both_orders() -> None:
    """By their order for lists, and by the turns of their keys for explanations."""
    queue = Queue(Limits(per_key=1))
    queue.push("a", 3)
    queue.push("b")
    queue.push("c", priority=1)
    queue.groups.add("a0", "a0", "a", 0, 0)
    assert [*queue.groups.rows()] == ["c5", "a0", "a1", "a2", "a3", "b4"]
    assert [*queue.groups.rows(newest_first=True)] == ["b4", "a3", "a2", "a1", "a0", "c5"]
    assert [*queue.groups.in_turn()] == ["c5", "a0", "b4", "a1", "a2", "a3"]
    assert {*queue.groups.firsts(queue.now)} == {"c5", "a0", "b4"}
    is_held = queue.groups.held_test(queue.now)
    assert [is_held(row, "a") for row in ("a0", "a1", "a3")] == [False, True, True]
    assert not is_held("b4", "b")
    assert not is_held("x", "unknown")


def test_keys_are_forgotten() -> None:
    """Two thousand keys and priorities that have nothing any more leave little behind."""
    queue = Queue(Limits(rate_per_key=Rate(1, per=1)))
    queue.push("always", 3)
    for number in range(1, 2_001):
        queue.push(f"k{number}x", priority=number)
        [row] = queue.take()
        assert row.startswith("k")
        queue.groups.end(row.rstrip("0123456789"))
        queue.now += 1.1
    assert len(queue.groups._groups) + len(queue.groups._levels) < 1_200
    assert queue.take(3) == ["always1"]


def test_windows_are_kept() -> None:
    """What has begun before a restart counts on."""
    queue, again = Queue(Limits(rate_per_key=Rate(1, per=60))), Queue(Limits(rate_per_key=Rate(1, per=60)))
    queue.push("a")
    queue.take()
    assert queue.groups.window("b") is None
    window = queue.groups.window("a")
    assert window is not None
    again.groups.load_window("a", window)
    again.groups.begin("a")
    again.push("a")
    assert again.take() == []
    assert again.groups.running("a") == 1


def test_the_limits_of_a_queue_bound_each_claim() -> None:
    """Both of them; and the moment is known from which on the rate lets go on."""
    limits = QueueLimits()
    assert limits.is_empty
    assert limits.free(1000, 0.0) == math.inf
    limits.set(Limits(concurrency=3, rate=Rate(2, per=1)), None)
    assert not limits.by_key
    assert [limits.free(running, 0.0) for running in (0, 2, 3, 4)] == [2, 1, 0, 0]
    limits.begin(0.0, 2)
    assert limits.free(0, 0.5) == 0
    assert limits.free(0, limits.free_at()) == 2
    limits.set(Limits(weight=2), "a")
    assert limits.by_key
    limits.set(None, "a")
    assert limits.get("a") is None
    assert limits.effective("a") == limits.get(None)


@pytest.mark.parametrize("seed", range(30))
def test_random_queues(seed: int) -> None:
    """Whatever comes and goes: no limit is exceeded, no row is lost or stuck, and what is told is right."""
    chance = random.Random(seed)
    names = ["a", "b", "c", NO_KEY]
    queue = Queue(chance.choice([None, Limits(per_key=2), Limits(per_key=1, weight=2)]))
    running: list[str] = []
    waiting: dict[str, dict[str, None]] = {name: {} for name in names}
    began: dict[str, deque[float]] = {name: deque() for name in names}

    def key_of(row: str) -> str:
        return row.rstrip("0123456789")

    def places(key: str) -> float:
        limits = queue.limits.effective(key)
        if limits is None or limits.per_key is None or key == NO_KEY:
            return math.inf
        return max(0, limits.per_key - sum(key_of(row) == key for row in running))

    for _ in range(400):
        what = chance.random()
        if what < 0.35:
            key = chance.choice(names)
            waiting[key].update(dict.fromkeys(queue.push(key, chance.randint(1, 3), priority=chance.randint(0, 1))))
        elif what < 0.65:
            free = {key: places(key) for key in names if waiting[key]}
            [*taken] = queue.take()
            assert bool(taken) == any(free.values())
            for row in taken:
                assert free[key_of(row)] > 0
                others = [each for key in free if free[key] for each in waiting[key]]
                assert queue.priorities[row] == max(queue.priorities[each] for each in others)
                same = [e for e in waiting[key_of(row)] if queue.priorities[e] == queue.priorities[row]]
                assert queue.orders[row] == min(queue.orders[each] for each in same)
                del waiting[key_of(row)][row]
                running.append(row)
                began[key_of(row)].append(queue.now)
        elif what < 0.85 and running:
            row = running.pop(chance.randrange(len(running)))
            if chance.random() < 0.3:
                queue.release(row)
                waiting[key_of(row)][row] = None
            else:
                queue.groups.end(key_of(row))
        elif what < 0.95:
            key = chance.choice(names)
            if waiting[key]:
                row = chance.choice([*waiting[key]])
                del waiting[key][row]
                assert queue.groups.discard(row, key)
        else:
            queue.set(
                chance.choice([None, Limits(per_key=1), Limits(per_key=3, weight=3)]), chance.choice(["a", "b", None])
            )
        is_held, held = queue.groups.held_test(queue.now), 0.0
        for key in names:
            more = max(0, len(waiting[key]) - places(key))
            assert sum(is_held(row, key) for row in waiting[key]) == more
            held += more
        assert queue.groups.held_now(queue.now) == held
        assert {*queue.groups.rows()} == {*queue.groups.in_turn()} == {row for rows in waiting.values() for row in rows}
    for row in running:
        queue.groups.end(key_of(row))
    while rows := queue.take():
        queue.groups.end(key_of(rows[0]))
        del waiting[key_of(rows[0])][rows[0]]
    assert not any(waiting.values())
