"""Tests of keys and limits in an SQLite file: the rows that are ready, and those that are held back."""

from __future__ import annotations

import math
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import DuplicateTaskError, Limits, Rate, SqliteStorage
from trio_tasks._backends.durable.engine import (
    ClaimedRow,
    ClaimRequest,
    Exchange,
    ExchangeResult,
    NewRow,
    Query,
    RowChange,
    Settlement,
    SettlementKind,
    State,
)
from trio_tasks._backends.sqlite.opening import Opening
from trio_tasks._backends.sqlite.operations import Operations
from trio_tasks._backends.sqlite.session import Session
from trio_tasks._backends.sqlite.wakeup import WakeupSocket
from trio_tasks._contracts.listing import Selection

from tests._scale import seeds

Q = "q"


class File:
    """A session with a file, whose time is moved by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = Session(str(path), "sqlite3", Opening("OFF"), WakeupSocket())
        self.now, _ = self.session.open()
        self.now += 1e6  # the clock of the session stays behind
        self.pushed = 0

    def sql(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = vars(self.session)["_connection"]
        return [*connection.execute(sql, parameters)]

    def push(self, *rows: str | None, **fields: Any) -> list[str]:
        ids = [f"{self.pushed + number:06}" for number in range(len(rows))]
        self.pushed += len(rows)
        new = [
            NewRow(Q, task_id, b"", None, 0, 0.0, None, "skip", None, key=key)._replace(**fields)
            for task_id, key in zip(ids, rows, strict=True)
        ]
        self.exchange(pushed=new)
        return ids

    def exchange(self, **fields: Any) -> ExchangeResult:
        self.now += 1e-5
        return self.session.exchange(Exchange(**fields), self.now)

    def claim(self, number: int = 1, settled: Any = ()) -> list[ClaimedRow]:
        return self.exchange(settled=settled, claims=[ClaimRequest(Q, number, 30.0, "w")]).claimed[0]

    def end(self, row: ClaimedRow, kind: SettlementKind = SettlementKind.SUCCEEDED, after: float = 0.0) -> None:
        assert self.exchange(settled=[settlement(row, kind, after)]).settled == [True]

    def set_limits(
        self, limits: Limits | None, key: str | None = None, pause: Callable[[], object] = lambda: None
    ) -> None:
        left = self.session.write(Operations.set_limits, Q, key, limits, False, self.now)
        while left is not None:
            pause()
            left = self.session.write(Operations.reweigh, Q, left)

    def by_state(self, key: str | None) -> Counter[str]:
        found = self.sql("SELECT state, held FROM trio_tasks_task WHERE key IS ? AND state < 3", key)
        return Counter("held" if held else State(state).name for state, held in found)


def settlement(
    row: ClaimedRow, kind: SettlementKind = SettlementKind.SUCCEEDED, after: float = 0.0, keep: float = 60.0
) -> Settlement:
    return Settlement(Q, row.key, row.token, kind, after, None, None, keep)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "tasks.db")
    yield file
    check(file)
    file.session.close(file.now)


def check(file: File) -> None:
    """Check that counters are right, that ready and running rows alone have places, and that claims count them where a
    key may have too many.
    """
    balance = file.session.read(Operations.audit, Q, file.now)
    assert balance, str(balance)
    assert sum(held for (held,) in file.sql("SELECT held_now FROM trio_tasks_queue")) == len(
        file.sql("SELECT 1 FROM trio_tasks_task WHERE held = 1")
    )
    assert not file.sql("SELECT 1 FROM trio_tasks_task WHERE held = 1 AND state != 1")
    assert not file.sql("SELECT 1 FROM trio_tasks_task WHERE held = 0 AND state NOT IN (0, 2)")
    assert not file.sql("SELECT 1 FROM trio_tasks_task WHERE state = 0 AND order_key < 0 AND since IS NULL")
    if not is_guarded(file):
        for key, placed in file.sql("SELECT key, count(*) FROM trio_tasks_task WHERE held = 0 GROUP BY key"):
            limits = file.session.read(Operations.get_limits, Q, key) or file.session.read(
                Operations.get_limits, Q, None
            )
            assert limits is None or limits.per_key is None or placed <= limits.per_key, (key, placed)
    if file.sql("SELECT 1 FROM trio_tasks_rules WHERE is_fair AND NOT is_untagged"):
        assert not file.sql("SELECT 1 FROM trio_tasks_task WHERE state = 0 AND order_key >= 0")


def is_guarded(file: File) -> bool:
    """Return True if claims count the places of keys."""
    return bool(file.sql("SELECT 1 FROM trio_tasks_rules WHERE is_guarded"))


def test_a_key_with_few_rows_waits_for_one_of_a_key_with_many(file: File) -> None:
    file.push(*["big"] * 50)
    file.push("small")
    assert [row.id for row in file.claim(3)] == ["000000", "000050", "000001"]


def test_rows_of_before_the_first_key_are_one_group_in_their_order(file: File) -> None:
    file.push(*[None] * 1_200)
    file.push("small", None)
    file.push(None, priority=5)
    claimed = [row.id for _ in range(150) for row in file.claim(10)]
    assert claimed[:3] == ["001202", "000000", "001200"]
    without = [each for each in claimed if each not in ("001202", "001200")]
    assert without == [f"{number:06}" for number in (*range(1_200), 1_201)]
    assert not file.sql("SELECT 1 FROM trio_tasks_rules WHERE is_untagged")


def test_priority_goes_before_fairness(file: File) -> None:
    file.push("a", "a", "b")
    file.push("a", "a", priority=1)
    assert [row.id for row in file.claim(9)] == ["000003", "000004", "000000", "000002", "000001"]


def test_a_key_has_turns_by_its_weight(file: File) -> None:
    file.set_limits(Limits(weight=3.0), "a")
    file.push(*["a"] * 40, *["b"] * 40)
    keys = Counter("a" if row.id < "000040" else "b" for row in file.claim(40))
    assert abs(keys["a"] - 30) <= 1


@pytest.mark.parametrize(("before", "after"), [(3.0, 5.0), (4.0, 1.0), (0.5, 3.0), (3.0, 0.5)])
@pytest.mark.parametrize("others", [0, 50])
def test_a_changed_weight_holds_for_rows_that_wait(file: File, before: float, after: float, others: int) -> None:
    """With rows of many other keys it takes several steps, and rows are pushed in between."""
    file.set_limits(Limits(weight=before), "a")
    file.push(*[f"c{number}" for number in range(others)] * 100)
    file.push(*["a", "b"] * 200, *["b"] * 200)
    [first] = file.push("a", priority=2)
    assert file.claim()[0].id == first
    file.set_limits(Limits(weight=after), "a", pause=lambda: file.push("a", "b"))
    file.push(*["a"] * 100)
    key_of = dict(file.sql("SELECT id, key FROM trio_tasks_task"))
    number, weights = (40 * round(51 + after), 51 + after) if others else (300, after + 1)
    claimed = [row.id for row in file.claim(number)]
    of_a = sum(key_of[each] == "a" for each in claimed)
    assert abs(of_a - number * after / weights) <= 3
    claimed += [row.id for row in file.claim(10_000)]
    for key in ("a", "b"):
        order = [each for each in claimed if key_of[each] == key]
        assert order == sorted(order)


def test_a_weight_that_is_lowered_does_not_let_rows_pass_others_of_their_key(file: File) -> None:
    for of_queue in (True, False):
        ids = file.push(*["a"] * 10, "b", "b")
        file.set_limits(Limits(weight=1 / 3), None if of_queue else "a")
        file.session.write(Operations.cancel, Q, ids[7], b"", False, file.now)
        last = file.push("a")
        claimed = [row.id for row in file.claim(20) if row.id not in ids[10:]]
        assert claimed == [*ids[:7], *ids[8:10], *last]
        file.set_limits(None)


def test_no_more_of_a_key_run_than_its_limit(file: File) -> None:
    file.set_limits(Limits(per_key=2))
    file.push(*["a"] * 6, None, None, None)
    first = file.claim(9)
    assert [row.id for row in first] == ["000000", "000006", "000001", "000007", "000008"]
    assert file.by_state("a") == {"RUNNING": 2, "held": 4}
    answer = file.exchange(claims=[ClaimRequest(Q, 9, 30.0, "w")])
    assert (answer.claimed, answer.held_back, answer.next_due[0] is None) == ([[]], [True], False)
    [second] = file.claim(9, [settlement(first[0])])
    assert second.id == "000002"
    assert abs(second.since - first[0].since) < 1e-3  # it has waited since it was pushed


def test_a_row_that_is_put_off_or_back_has_no_place_until_it_is_its_turn(file: File) -> None:
    file.set_limits(Limits(per_key=1))
    file.push("a", "a", "a")
    [first] = file.claim()
    file.end(first, SettlementKind.SUSPENDED, after=50.0)
    [second] = file.claim()
    file.end(second, SettlementKind.RETRIED)
    [third] = file.claim(9)
    assert (second.id, third.id, file.by_state("a")) == ("000001", "000002", {"DELAYED": 1, "RUNNING": 1, "held": 1})
    file.end(third, SettlementKind.RELEASED)
    assert [row.id for row in file.claim(9)] == ["000002"]  # it keeps its place


def test_a_lower_limit_holds_at_once_and_a_higher_one_lets_rows_go(file: File) -> None:
    file.push(*["a"] * 10)
    file.set_limits(Limits(per_key=3))
    running = file.claim(9)
    file.set_limits(Limits(per_key=2), "a")
    assert (len(running), file.claim(9)) == (3, [])
    file.end(running.pop())
    assert file.claim(9) == []
    file.end(running.pop())
    running += file.claim(9)
    assert len(running) == 2
    file.set_limits(Limits(), "a")
    assert len(file.claim(9)) == 6


def test_claims_count_places_from_a_change_of_limits_until_no_key_has_too_many(file: File) -> None:
    file.set_limits(Limits(per_key=3))
    file.push(*["a"] * 4)
    assert not is_guarded(file)
    running = file.claim(9)
    file.set_limits(Limits(per_key=2))
    assert is_guarded(file)
    assert file.claim(9) == []
    assert is_guarded(file)  # three run
    file.end(running.pop())
    assert file.claim(9) == []
    assert not is_guarded(file)
    file.end(running.pop())
    assert len(file.claim(9)) == 1


def test_rows_that_were_ready_before_the_limit_of_their_key_are_counted_when_they_are_claimed(file: File) -> None:
    file.push("a", "a", "a", "b")
    file.set_limits(Limits(per_key=1), "a")
    file.sql("UPDATE trio_tasks_rules SET is_guarded = 0")  # even if it is not known that there are such rows
    file.sql("UPDATE trio_tasks_queue SET rules = rules + 1")
    assert [row.id for row in file.claim(9)] == ["000000", "000003"]
    assert file.by_state("a") == {"RUNNING": 1, "held": 2}


@pytest.mark.parametrize("limits", [Limits(per_key=1), Limits(per_key=2), Limits(rate_per_key=Rate(1, per=1))])
def test_the_places_of_many_keys_are_given_in_one_transaction(file: File, limits: Limits) -> None:
    """With a key that SQLite could take for the beginning of another one."""
    file.set_limits(limits)
    keys = ["k\0", "k", *(f"k{number}" for number in range(300))]
    file.push(*keys * 3)
    running, done = file.claim(1_000), 0
    while running:
        done += len(running)
        file.exchange(settled=[*map(settlement, running)])
        file.now += 1.1
        running = file.claim(1_000)
    assert done == 3 * len(keys)


def test_more_rows_than_one_transaction_takes_are_let_go_when_limits_end(file: File) -> None:
    file.set_limits(Limits(per_key=1))
    file.push(*["a"] * 1_300, *["b"] * 700, "c", "c")
    assert len(file.claim(9)) == 3
    file.set_limits(None)
    answer = file.exchange(claims=[ClaimRequest(Q, 3_000, 30.0, "w")])
    claimed = len(answer.claimed[0])
    while answer.next_due[0] is not None and answer.next_due[0] <= file.now:
        answer = file.exchange(claims=[ClaimRequest(Q, 3_000, 30.0, "w")])
        claimed += len(answer.claimed[0])
    assert claimed == 1_999


def test_a_row_with_a_higher_priority_takes_the_place_of_one_that_is_ready(file: File) -> None:
    file.set_limits(Limits(per_key=2))
    file.push("a", "a", "a")
    file.push("a", priority=7)
    assert file.by_state("a") == {"WAITING": 2, "held": 2}
    assert [row.id for row in file.claim(9)] == ["000003", "000000"]


def test_a_rate_is_kept_and_the_next_row_is_due_when_it_has_a_place(file: File) -> None:
    file.set_limits(Limits(rate_per_key=Rate(2, per=10)))
    file.push(*["a"] * 5, None)
    began = file.now
    answer = file.exchange(claims=[ClaimRequest(Q, 9, 30.0, "w")])
    assert [row.id for row in answer.claimed[0]] == ["000000", "000005", "000001"]
    due = answer.next_due[0]
    assert due is not None
    assert 10.0 <= due - began <= 10.2
    file.now = began + 9.9
    assert file.claim(9) == []
    file.now = due
    assert [row.id for row in file.claim(9)] == ["000002", "000003"]


def test_the_limits_of_a_queue_hold_without_keys(file: File) -> None:
    file.push(*[None] * 9)
    file.set_limits(Limits(concurrency=4, rate=Rate(6, per=10)))
    running = file.claim(9)
    answer = file.exchange(claims=[ClaimRequest(Q, 9, 30.0, "w")])
    assert (len(running), answer.claimed, answer.held_back) == (4, [[]], [True])
    answer = file.exchange(settled=[*map(settlement, running)], claims=[ClaimRequest(Q, 9, 30.0, "w")])
    assert (len(answer.claimed[0]), file.claim(9)) == (2, [])
    due = answer.next_due[0]
    assert due is not None
    file.now = due
    assert len(file.claim(9)) == 2
    assert not file.sql("SELECT 1 FROM trio_tasks_rules WHERE is_fair")


def test_another_session_hears_of_keys_and_limits_in_its_next_transaction(tmp_path: Path) -> None:
    one, two = File(tmp_path / "tasks.db"), File(tmp_path / "tasks.db")
    one.push(None, None, None, None)
    two.pushed = 100
    assert [row.id for row in two.claim()] == ["000000"]
    one.push("a", "a")
    one.set_limits(Limits(per_key=1))
    two.push("a", None)
    claimed = [row.id for row in two.claim(9)]
    assert claimed[:2] == ["000001", "000004"]
    assert sorted(claimed[2:]) == ["000002", "000003", "000101"]
    assert two.by_state("a") == {"RUNNING": 1, "held": 2}
    for file in (one, two):
        check(file)
        file.session.close(file.now)


def test_a_push_and_a_settlement_hear_of_the_keys_of_another_session(tmp_path: Path) -> None:
    one, two = File(tmp_path / "tasks.db"), File(tmp_path / "tasks.db")
    two.push(None)
    [row] = two.claim()
    one.pushed = 100
    one.push("a", "a")
    two.push(None)
    check(two)
    one.set_limits(Limits(per_key=1))
    [first, _] = two.claim(9)
    one.set_limits(Limits(per_key=2))
    one.set_limits(Limits(per_key=1))
    one.push("a")
    two.end(row)
    two.end(first)
    for file in (one, two):
        check_limits(file, {})
        file.session.close(file.now)


def test_the_held_rows_of_a_key_follow_when_others_are_cancelled(file: File) -> None:
    file.set_limits(Limits(per_key=1))
    file.push(*["a"] * 10, *[None] * 1_000)
    cancelled, after = 0, None
    while True:
        changed = file.session.write(
            Operations.change, Q, "cancel", Query([State.WAITING, State.DELAYED], limit=300, after=after), file.now
        )
        cancelled, after = cancelled + len(changed.ids), changed.after
        if not changed.is_more:
            break
    assert cancelled == 1_010


def change_all(file: File, between: Callable[[], object], **selected: Any) -> set[str]:
    """Cancel the rows of a selection in steps, as a storage does; return their ids.

    Args:
      between: what happens after the first step.
    """
    query = Query([State.WAITING, State.DELAYED], Selection(until=file.now, **selected), limit=100)
    found, is_more = set[str](), True
    while is_more:
        step = file.session.write(Operations.change, Q, "cancel", query, file.now)
        if not found:
            between()
        found.update(step.ids)
        query, is_more = query._replace(after=step.after), step.is_more
    return found


def test_a_row_that_is_held_between_two_steps_of_a_change_of_many_is_changed(file: File) -> None:
    file.set_limits(Limits(per_key=1))
    file.push(*[None] * 250, priority=5)
    [ready] = file.push("a")
    assert ready in change_all(file, lambda: file.push("a", priority=9))
    assert file.sql("SELECT key FROM trio_tasks_task WHERE state < 3") == [("a",)]


def test_a_row_that_is_held_by_a_lower_limit_meanwhile_is_changed(file: File) -> None:
    file.set_limits(Limits(per_key=2))
    file.push(*[None] * 250, priority=5)
    [first, second] = file.push("a", "a")

    def lower() -> None:
        file.set_limits(Limits(per_key=1))
        assert file.claim(152)[-1].id == first

    assert second in change_all(file, lower)
    assert not file.sql("SELECT 1 FROM trio_tasks_task WHERE state < 2")


def test_a_row_whose_time_comes_between_two_steps_is_changed(file: File) -> None:
    """Whether or not keys take turns."""
    file.push(*[None] * 250)
    [delayed] = file.push(None, priority=5, delay=1.0)

    def wait() -> None:
        file.now += 2.0
        file.exchange(claims=[ClaimRequest(Q, 1, 30.0, "w", left_out=[delayed])])

    assert delayed in change_all(file, wait)


def test_a_change_of_many_ends_though_most_rows_are_not_selected(file: File) -> None:
    file.push(*[None] * 150, name="x")
    file.push(*[None] * 150, name="y")
    assert len(change_all(file, lambda: None, name="x")) == 150
    assert len(change_all(file, lambda: None, name="x")) == 0


def cancel_selected(file: File, ids: list[str]) -> None:
    assert change_all(file, lambda: None, name="x") == {*ids}


def cancel_from_the_last(file: File, ids: list[str]) -> None:
    for task_id in reversed(ids):
        assert file.session.write(Operations.cancel, Q, task_id, b"", False, file.now) is True


def discard_by_ids(file: File, ids: list[str]) -> None:
    for start in range(0, len(ids), 100):
        file.session.write(Operations.change_each, Q, RowChange("forget"), ids[start : start + 100], file.now)


def put_off(file: File, ids: list[str]) -> None:
    file.session.write(Operations.change_each, Q, RowChange("reschedule", delay=3600.0), ids, file.now)


def expire(file: File, ids: list[str]) -> None:
    file.now += 25.0
    file.claim(0)  # some of them,
    file.session.write(Operations.forget, Q, None, file.now)  # others,
    file.push("c")  # and the rest


@pytest.mark.parametrize("leave", [cancel_selected, cancel_from_the_last, discard_by_ids, put_off, expire])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_rows_that_leave_before_they_began_cost_their_key_no_turn(
    file: File, leave: Callable[[File, list[str]], None], weight: float
) -> None:
    file.push(*["b"] * 100)
    file.set_limits(Limits(weight=weight), "a")
    ids = file.push(*["a"] * 1_000, name="x", expires_in=20.0 if leave is expire else None)
    begun = {row.id for row in file.claim(9)}
    assert begun & {*ids}
    leave(file, [each for each in ids if each not in begun])
    [one] = file.push("a")
    assert one in [row.id for row in file.claim(3)]


def test_a_row_that_changes_places_again_and_again_costs_its_key_no_turn(file: File) -> None:
    file.set_limits(Limits(per_key=1))
    file.push("a", *[f"b{number}" for number in range(100)])
    for _ in range(50):
        [first] = file.push("a", priority=9)
        [row] = file.claim()
        assert row.id == first
        file.end(row)
    assert file.claim()[0].id == "000000"


def test_turns_and_rates_that_are_over_are_forgotten(file: File) -> None:
    file.set_limits(Limits(rate_per_key=Rate(1, per=1)))
    for number in range(40):
        file.push(*(f"{number}-{each}" for each in range(50)))
        file.now += 2.0
        while rows := file.claim(60):
            file.exchange(settled=[settlement(row, keep=0.0) for row in rows])
    assert len(file.sql("SELECT 1 FROM trio_tasks_turn")) < 800
    assert len(file.sql("SELECT 1 FROM trio_tasks_rate")) < 800


def rest(file: File, seconds: float) -> None:
    """Look for rows in an empty queue for so long."""
    for _ in range(5):
        assert file.claim() == []
        file.now += seconds / 4


def is_plain(file: File) -> bool:
    return not file.sql("SELECT 1 FROM trio_tasks_rules")


def test_a_queue_that_has_no_rows_with_keys_any_more_is_plain_again(tmp_path: Path) -> None:
    file, other = File(tmp_path / "tasks.db"), File(tmp_path / "tasks.db")
    file.push(*["a", "b"] * 600)
    while rows := file.claim(500):
        file.exchange(settled=[settlement(row, keep=0.0) for row in rows])
    other.pushed = 10_000
    other.push("c")
    [row] = file.claim()
    file.end(row)
    assert not is_plain(file)
    rest(file, 61.0)
    assert is_plain(file)
    assert not file.sql("SELECT 1 FROM trio_tasks_turn")
    other.push(None)  # it knew of keys only
    file.push(None)
    assert all(Q in vars(each.session)["_counters"].without_rules for each in (file, other))
    other.push("c", "c", "d")
    file.pushed = 20_000
    file.set_limits(Limits(per_key=1))
    file.push("c")
    assert len(file.claim(100)) == 4
    assert other.by_state("c") == {"RUNNING": 1, "held": 2}
    for each in (file, other):
        check(each)
        each.session.close(each.now)


def test_rules_that_come_after_those_of_a_queue_that_was_plain_again_are_not_taken_for_them(tmp_path: Path) -> None:
    file, other = File(tmp_path / "tasks.db"), File(tmp_path / "tasks.db")
    file.set_limits(Limits())  # none, but as many changes as those below
    file.push("a")
    other.pushed = 10_000
    other.push("a")
    file.exchange(settled=[settlement(row) for row in file.claim(2)])
    rest(file, 61.0)
    file.set_limits(Limits(per_key=1))
    file.push("b")
    other.push("c", "c")
    assert [row.id for row in other.claim(9)] == ["000001", "010001"]
    for each in (file, other):
        check(each)
        each.session.close(each.now)


def test_a_queue_with_limits_or_keys_now_and_then_goes_on_by_keys(file: File) -> None:
    other = File(file.path)
    for _ in range(10):
        other.push("a")
        [row] = file.claim()
        file.end(row)
        rest(file, 50.0)
    other.session.close(other.now)
    assert not is_plain(file)
    for key in ("a", None):
        file.set_limits(Limits(weight=2.0), key)
        rest(file, 100.0)
        assert not is_plain(file)
        file.set_limits(None, key)
    file.pushed = 100
    file.push("a", delay=1e4)
    rest(file, 100.0)
    assert not is_plain(file)


KEYS = ("a", "b", "c", None)


@pytest.mark.parametrize("seed", seeds(120))
def test_whatever_happens_no_limit_is_exceeded_and_no_place_is_left_free(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    file, limits = File(tmp_path / "tasks.db"), dict[str, Limits]()
    running: dict[int, ClaimedRow] = {}
    for _ in range(300):
        step(file, random_, running, limits)
        check_limits(file, limits)
    file.now += 1e5
    file.set_limits(None)
    for key in [*limits]:
        file.set_limits(None, key)
    while file.claim(100):
        pass
    assert not file.sql("SELECT 1 FROM trio_tasks_task WHERE state < 2")
    check(file)
    file.session.close(file.now)


def step(file: File, random_: random.Random, running: dict[int, ClaimedRow], limits: dict[str, Limits]) -> None:
    kind, key = random_.random(), random_.choice(KEYS)
    if kind < 0.35:
        keys = [random_.choice(KEYS) for _ in range(random_.randrange(1, 6))]
        unique = random_.choice((None, "u")) if len(keys) == 1 else None
        expires = random_.choice((None, None, 3.0))
        file.push(
            *keys,
            priority=random_.choice((0, 0, 1)),
            delay=random_.choice((0.0, 0.0, 0.5)),
            unique=unique,
            on_conflict=random_.choice(("update", "replace")),
            expires_in=expires,
        )
    elif kind < 0.6:
        limit, settled = random_.randrange(1, 6), [settlement(running.pop(each)) for each in [*running][:2]]
        before = {each: file.by_state(each)["RUNNING"] for each in KEYS}
        running.update((row.key, row) for row in file.claim(limit, settled))
        for each, most in most_of(file, limits).items():
            assert file.by_state(each)["RUNNING"] <= max(before[each], most), each
    elif kind < 0.75 and running:
        row = running.pop(random_.choice([*running]))
        kinds = (SettlementKind.RETRIED, SettlementKind.RELEASED, SettlementKind.SUSPENDED, SettlementKind.FAILED)
        file.exchange(settled=[settlement(row, random_.choice(kinds), random_.choice((0.0, 0.5)))])
    elif kind < 0.8:
        chosen = random_.choice((None, 1, 2, 3))
        of_key = (
            Limits(per_key=chosen, weight=random_.choice((1.0, 0.3, 4.0)))
            if key is not None and random_.random() < 0.5
            else None
        )
        if key is None:
            file.set_limits(Limits(per_key=chosen, rate_per_key=random_.choice((None, Rate(3, per=2)))))
        elif of_key is None:
            limits.pop(key, None)
            file.set_limits(None, key)
        else:
            limits[key] = of_key
            file.set_limits(of_key, key)
    elif kind < 0.9:
        change_one(file, random_)
    else:
        file.now += random_.choice((0.1, 0.5, 40.0))
        if file.now > 0 and random_.random() < 0.3:
            running.clear()  # their worker has died


def change_one(file: File, random_: random.Random) -> None:
    task_id = f"{random_.randrange(max(1, file.pushed)):06}"
    verb = random_.choice(("cancel", "forget", "reschedule", "resume"))
    if verb == "cancel":
        file.session.write(Operations.cancel, Q, task_id, b"", False, file.now)
    elif verb == "forget":
        file.session.write(Operations.forget, Q, task_id, file.now)
    elif verb == "reschedule":
        file.session.write(Operations.reschedule, Q, task_id, random_.choice((0.0, 0.5)), None, file.now)
    else:
        with suppress(DuplicateTaskError):
            file.session.write(Operations.resume, Q, task_id, file.now)


def check_limits(file: File, limits: dict[str, Limits]) -> None:
    check(file)
    general = file.session.read(Operations.get_limits, Q, None) or Limits()
    for key, most in most_of(file, limits).items():
        states = file.by_state(key)
        if limits.get(key, general).rate_per_key is None and states["held"]:
            assert states["RUNNING"] + states["WAITING"] >= most, (key, states, most)


def most_of(file: File, limits: dict[str, Limits]) -> dict[str, float]:
    """Return for each key the number of attempts that may run at once."""
    general = file.session.read(Operations.get_limits, Q, None) or Limits()
    each = {key: limits.get(key, general).per_key for key in KEYS if key is not None}
    return {key: math.inf if most is None else most for key, most in each.items()}


async def test_a_push_inside_a_transaction_of_the_user_has_its_turn_and_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage[int](path, int, limits=Limits(per_key=1)) as storage:
        await storage.push_bulk(range(3), key="big")
        with closing(sqlite3.connect(path)) as users:
            storage.push_in(users, 3, key="small")
            storage.push_in(users, 4, key="big")
            users.commit()
            storage.push_in(users, 5, key="none")
            users.rollback()
        with SqliteStorage.open_sync(path, int) as here:
            await trio.to_thread.run_sync(lambda: here.push(6, key="small"))
        async with SqliteStorage[int](path, int, read_only=True) as looking:
            metrics = await looking.metrics()
            assert (metrics["waiting"], metrics["delayed"], metrics["held_now"]) == (2, 4, 4)
            assert [task.args for task in await looking.list_tasks(delayed=True)] == [1, 2, 4, 6]
        received = [(await storage.receive()).args for _ in range(2)]
        assert received == [0, 3]
        assert await storage.audit()


async def test_rows_that_are_held_back_are_ready_in_another_file(tmp_path: Path) -> None:
    async with (
        SqliteStorage[int](tmp_path / "one.db", int, limits=Limits(per_key=1)) as one,
        SqliteStorage[int](tmp_path / "two.db", int, limits=Limits(per_key=2)) as two,
    ):
        await one.push_bulk(range(4), key="a")
        await one.push(4)
        loops: list[Any] = [vars(storage)["_loop"] for storage in (one, two)]
        rows = (await loops[0].ask(loops[0].engine.read_rows, "default", 0, 100)).rows
        assert await loops[1].ask(loops[1].engine.insert_rows, "default", rows) == [True] * 5
        metrics = await two.metrics()
        assert (metrics["waiting"], metrics["held_now"], bool(await two.audit())) == (3, 2, True)
