"""Tests of the ledger of a queue in memory: a task is in exactly one place before and after every call."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from trio_tasks._backends.ledger import Ledger
from trio_tasks._clock import use_wall_clock
from trio_tasks._tasks.errors import AbortError, DuplicateTaskError, LeaseLostError, TaskExpiredError
from trio_tasks._tasks.outcome import (
    Ending,
    Failed,
    Killed,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Suspended,
    TaskResult,
)
from trio_tasks._tasks.task import Task, TaskOptions, make_task
from trio_tasks._tasks.task_id import TaskId

T = TypeVar("T")

ERROR = ValueError("of the handler")
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


class TimedLedger:
    """A ledger, the time, and the tasks that it reported as finished."""

    def __init__(self, *, keep_results: int = 100) -> None:
        self.finished: list[tuple[str, Ending | None]] = []
        self.now = 0.0
        self.ledger = Ledger[Any](
            on_finish=lambda task_id, outcome: self.finished.append((task_id, outcome)),
            keep_results=keep_results,
            line_of=repr,
            traceback_of=lambda _: "",
            is_virtual=lambda: False,
        )

    def wall(self) -> datetime:
        """Return the wall clock, which goes with the ledger's time."""
        return NOON + timedelta(seconds=self.now)

    def push(self, id: str, args: Any = None, **options: Any) -> TaskId:
        return self.ledger.push(make_task(args, cast("TaskOptions", {"id": id, **options})), self.now)

    def take(self) -> Task[Any] | None:
        return self.ledger.take(self.now)

    def take_one(self) -> Task[Any]:
        task = self.take()
        assert task is not None
        return task

    def take_ids(self) -> list[str]:
        found: list[str] = []
        while (task := self.take()) is not None:
            found.append(task.parts.id)
        return found

    def settle(self, task: Task[Any], outcome: Outcome) -> None:
        self.ledger.settle(task, outcome, self.now)

    def status_of(self, id: str) -> Status | None:
        task = self.ledger.find(id)
        return task and task.parts.status


class Holder:
    """The holder of a running task; it records the outcomes that it is given."""

    worker = "w"

    def __init__(self) -> None:
        self.told: list[Outcome] = []

    def revoke(self, outcome: Killed | Released) -> bool:
        self.told.append(outcome)
        return True

    def current_line(self) -> str:
        return "nowhere"


# Coming in and going out


def test_what_is_pushed_is_taken_in_order_and_once() -> None:
    timed = TimedLedger()
    assert [timed.push(id, args=id.upper()) for id in "abc"] == ["a", "b", "c"]
    assert (timed.ledger.waiting, timed.ledger.running) == (3, 0)
    task = timed.take_one()
    assert (task.args, task.parts.id, task.parts.attempt, task.parts.status) == ("A", "a", 1, Status.Running)
    assert (timed.ledger.waiting, timed.ledger.running) == (2, 1)
    assert timed.take_ids() == ["b", "c"]
    assert timed.take() is None


def test_higher_priority_goes_first() -> None:
    timed = TimedLedger()
    for id, priority in (("a", 0), ("b", 5), ("c", -5), ("d", 5)):
        timed.push(id, priority=priority)
    assert timed.take_ids() == ["b", "d", "a", "c"]


def test_a_delayed_task_is_taken_when_it_is_due_and_not_before() -> None:
    timed = TimedLedger()
    timed.push("late", delay=10)
    timed.push("later", delay=20)
    timed.push("soon")
    assert timed.ledger.next_due == 10
    assert timed.take_ids() == ["soon"]
    timed.now = 9.999
    assert timed.take() is None
    timed.now = 10
    assert timed.take_ids() == ["late"]
    assert timed.ledger.next_due == 20
    timed.now = 1000
    assert timed.take_ids() == ["later"]
    assert timed.ledger.next_due is None


def test_the_delay_counts_from_the_push() -> None:
    timed = TimedLedger()
    timed.now = 100
    with use_wall_clock(NOON.timestamp):
        timed.push("a", delay=10)
    assert timed.ledger.next_due == 110
    task = timed.ledger.find("a")
    assert task is not None
    assert task.parts.run_at == NOON + timedelta(seconds=10)


def test_a_moment_is_held_against_the_wall_clock() -> None:
    """It is looked at once a second, since it may be set, and close to the moment at that very time."""
    timed = TimedLedger()
    timed.now = 100
    with use_wall_clock(lambda: NOON.timestamp() + timed.now - 100):
        timed.push("a", run_at=NOON + timedelta(minutes=1))
        timed.push("past", run_at=NOON - timedelta(minutes=1))
        assert timed.ledger.next_due == 101
        assert timed.take_ids() == ["past"]
        task = timed.ledger.find("a")
        assert task is not None
        assert task.parts.run_at == NOON + timedelta(minutes=1)
        timed.now = 159.5
        assert timed.take_ids() == []
        assert timed.ledger.next_due == 160
        timed.now = 160
        assert timed.take_ids() == ["a"]
        assert timed.ledger.next_due is None


def test_the_wall_clock_is_set_while_moments_are_waited_for() -> None:
    """Forward, they are due at once, in their order; back, they wait for longer. Delays do not care, and what has
    started is left alone, whatever becomes of it."""
    timed, ahead = TimedLedger(), [0.0]
    with use_wall_clock(lambda: NOON.timestamp() + timed.now + ahead[0]):
        for id, seconds in (("late", 3600), ("b", 60), ("a", 30), ("gone", 20), ("moved", 40)):
            timed.push(id, run_at=NOON + timedelta(seconds=seconds))
        timed.push("delayed", delay=50)
        timed.ledger.cancel("gone", "no more")
        timed.ledger.reschedule("moved", 55, timed.now)
        assert timed.take_ids() == []
        ahead[0] = 100.0
        [a, b] = [timed.take_one(), timed.take_one()]
        assert [a.parts.id, b.parts.id] == ["a", "b"]
        assert timed.take() is None
        timed.settle(a, Retried(ERROR, 45))
        timed.settle(b, Released())
        ahead[0] = -1000.0
        assert timed.take_ids() == ["b"]
        timed.push("c", run_at=NOON + timedelta(seconds=-990))
        timed.now = 44.0
        assert timed.take_ids() == ["c"]
        assert timed.ledger.next_due == 45.0
        timed.now = 55.0
        assert timed.take_ids() == ["a", "delayed", "moved"]
        timed.now = 3600.0
        assert timed.take_ids() == []
        assert timed.ledger.next_due == 3601.0
        timed.now = 4599.5
        assert timed.take_ids() == []
        assert timed.ledger.next_due == 4600.0
        timed.now = 4600.0
        assert timed.take_ids() == ["late"]
        assert timed.ledger.next_due is None


@pytest.mark.parametrize("place", ["waiting", "running", "done", "dead"])
def test_an_id_that_is_known_is_refused_and_nothing_changes(place: str) -> None:
    timed = TimedLedger()
    timed.push("a", args=1)
    if place != "waiting":
        task = timed.take_one()
        if place != "running":
            timed.settle(task, Succeeded(1) if place == "done" else Failed(ERROR))
    before = (
        timed.ledger.waiting,
        timed.ledger.running,
        timed.ledger.dead,
        timed.ledger.remembered,
        timed.ledger.counts,
    )
    with pytest.raises(DuplicateTaskError, match="a task with the id 'a' has been pushed already; ids must be new"):
        timed.push("a", args=2, unique="key")
    after = (
        timed.ledger.waiting,
        timed.ledger.running,
        timed.ledger.dead,
        timed.ledger.remembered,
        timed.ledger.counts,
    )
    assert before == after
    assert timed.push("b", unique="key") == "b", "the refused one has not taken the key"


def test_what_cannot_be_placed_in_time_is_refused_and_not_half_stored() -> None:
    timed = TimedLedger()
    timed.push("old", unique="key")
    task = make_task("args", TaskOptions(id="a", unique="key", on_conflict="replace"))
    task.parts.run_at = datetime(2026, 11, 23)  # noqa: DTZ001  that it is naive is the point
    with pytest.raises(TypeError, match="offset-naive"):
        timed.ledger.push(task, 0)
    assert timed.ledger.find("a") is None
    assert (timed.ledger.waiting, timed.ledger.counts["pushed"]) == (1, 1)
    assert timed.take_ids() == ["old"]


# Unique keys


def test_skip_leaves_the_first_in_place_and_returns_its_id() -> None:
    timed = TimedLedger()
    timed.push("a", args=1, unique="key")
    assert timed.push("b", args=2, unique="key") == "a"
    assert timed.ledger.find("b") is None
    assert timed.ledger.counts["pushed"] == 1
    assert timed.take_one().args == 1
    assert timed.push("c", unique="key") == "a", "one that runs has its key still"


def test_raise_raises() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    with pytest.raises(DuplicateTaskError, match="the unique key 'key' is taken by the unfinished task 'a'"):
        timed.push("b", unique="key", on_conflict="raise")
    assert timed.take_ids() == ["a"]


def test_replace_takes_out_one_that_waits() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key", delay=5)
    assert timed.push("b", unique="key", on_conflict="replace") == "b"
    assert timed.status_of("a") is Status.Killed
    timed.now = 5
    assert timed.take_ids() == ["b"]
    result = timed.ledger.result_of("a")
    assert result is not None
    assert isinstance(result.error, AbortError)
    assert str(result.error) == "replaced by task b"


def test_replace_leaves_one_that_runs_and_the_key_goes_to_the_new_one() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    first = timed.take_one()
    timed.push("b", unique="key", on_conflict="replace")
    timed.settle(first, Succeeded(None))
    assert timed.push("c", unique="key") == "b"
    assert timed.take_ids() == ["b"]


@pytest.mark.parametrize(
    "outcome", [Retried(ERROR), Retried(ERROR, 5), Released(), Suspended(0), Suspended(5)], ids=repr
)
def test_one_that_was_replaced_while_it_ran_does_not_wait_again_beside_the_new_one(outcome: Outcome) -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    first = timed.take_one()
    timed.push("b", unique="key", on_conflict="replace")
    timed.settle(first, outcome)
    assert timed.status_of("a") is Status.Killed
    assert timed.take_ids() == ["b"]
    assert timed.push("c", unique="key") == "b"


@pytest.mark.parametrize("outcome", [Retried(ERROR), Released(), Suspended(5)], ids=repr)
def test_nor_when_the_new_one_is_finished_for_it_was_replaced(outcome: Outcome) -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    first = timed.take_one()
    timed.push("b", unique="key", on_conflict="replace")
    timed.settle(timed.take_one(), Succeeded(None))
    timed.settle(first, outcome)
    assert timed.status_of("a") is Status.Killed
    assert timed.push("c", unique="key") == "c", "the key is free"
    assert timed.take_ids() == ["c"]


def test_one_that_was_replaced_while_it_ran_names_its_successor() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    first = timed.take_one()
    for task_id in ("b", "c"):
        timed.push(task_id, unique="key", on_conflict="replace")
    timed.settle(first, Retried(ERROR))
    ends = {task_id: str(outcome.error) for task_id, outcome in timed.finished if isinstance(outcome, Killed)}
    assert ends == {"a": "replaced by task b", "b": "replaced by task c"}


@pytest.mark.parametrize("outcome", [Succeeded(1), Failed(ERROR), Killed(ERROR)], ids=lambda each: type(each).__name__)
def test_a_key_is_free_when_its_task_is_finished(outcome: Outcome) -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    timed.settle(timed.take_one(), outcome)
    assert timed.push("b", unique="key") == "b"


@pytest.mark.parametrize(
    "outcome", [Retried(ERROR), Retried(ERROR, 5), Released(), Suspended(0), Suspended(5)], ids=repr
)
def test_a_key_is_not_free_before(outcome: Outcome) -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    timed.settle(timed.take_one(), outcome)
    assert timed.push("b", unique="key") == "a"


def test_a_dead_letter_that_waits_again_has_its_key_again() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    timed.ledger.cancel("a", "for a while")
    assert timed.ledger.resume("a", timed.now)
    assert timed.push("b", unique="key") == "a"


def test_a_dead_letter_whose_key_is_taken_does_not_wait_again() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key")
    timed.ledger.cancel("a", "for a while")
    timed.push("b", unique="key")
    with pytest.raises(DuplicateTaskError, match="task a cannot wait again: task b has its unique key"):
        timed.ledger.resume("a", timed.now)
    assert timed.status_of("a") is Status.Killed
    assert (timed.ledger.dead, timed.ledger.waiting) == (1, 1)
    timed.ledger.cancel("b", "so that the key is free")
    assert timed.ledger.resume("a", timed.now)


# Expiry


@pytest.mark.parametrize("delay", [0.0, 3.0, 9.0])
def test_a_task_expires_at_the_very_second_delayed_or_not(delay: float) -> None:
    timed = TimedLedger()
    timed.push("a", expires_in=5)
    timed.ledger.reschedule("a", delay, timed.now)
    timed.now = 4.999
    assert not timed.ledger.expire(timed.now)
    assert timed.ledger.expires_at("a") == 5
    timed.now = 5
    assert timed.ledger.expire(timed.now)
    assert timed.status_of("a") is Status.Killed
    assert timed.ledger.expires_at("a") is None
    assert timed.take() is None
    assert timed.ledger.next_due is None


@pytest.mark.parametrize("on_conflict", ["skip", "replace", "raise"])
def test_a_push_kills_an_expired_task_and_takes_its_key(on_conflict: str) -> None:
    timed = TimedLedger()
    timed.push("ahead")
    timed.push("a", unique="key", expires_in=5)
    timed.now = 4
    assert timed.push("b", unique="key") == "a"
    timed.now = 5
    assert timed.push("c", unique="key", on_conflict=on_conflict) == "c"
    [(task_id, outcome)] = timed.finished
    assert task_id == "a"
    assert isinstance(outcome, Killed)
    assert isinstance(outcome.error, TaskExpiredError)
    assert timed.take_ids() == ["ahead", "c"]


def test_what_was_started_in_time_leaves_nothing_behind() -> None:
    timed = TimedLedger()
    for number in range(5000):
        timed.push(str(number), expires_in=1e9)
        timed.settle(timed.take_one(), Succeeded(None))
        assert timed.ledger.next_due is None
    assert len(timed.ledger._expiring) < 100


def test_a_task_that_was_not_started_in_time_is_killed_unstarted() -> None:
    timed = TimedLedger()
    timed.push("a", expires_in=5)
    timed.push("b")
    timed.now = 5.001
    assert timed.take_ids() == ["b"]
    assert timed.status_of("a") is Status.Killed
    ((task_id, outcome),) = timed.finished
    assert task_id == "a"
    assert isinstance(outcome, Killed)
    assert isinstance(outcome.error, TaskExpiredError)
    assert timed.ledger.counts["killed"] == 1


@pytest.mark.parametrize(
    "outcome", [Retried(ERROR, 60), Released(), Suspended(60)], ids=lambda each: type(each).__name__
)
def test_a_task_that_was_started_in_time_may_go_on_later(outcome: Outcome) -> None:
    timed = TimedLedger()
    timed.push("a", expires_in=5)
    timed.now = 4.999
    timed.settle(timed.take_one(), outcome)
    timed.now = 65
    assert timed.take_ids() == ["a"]


# Coming back


def test_success_is_remembered() -> None:
    timed = TimedLedger()
    timed.push("a")
    task = timed.take_one()
    timed.settle(task, Succeeded(5))
    assert task.parts.status is Status.Done
    assert timed.ledger.result_of("a") == TaskResult(TaskId("a"), Status.Done, 5)
    assert timed.ledger.find("a") is task
    assert (timed.ledger.waiting, timed.ledger.running, timed.ledger.remembered) == (0, 0, 1)
    assert timed.finished == [("a", Succeeded(5))]


@pytest.mark.parametrize(
    ("outcome", "status"), [(Failed(ERROR), Status.Failed), (Killed(ERROR), Status.Killed)], ids=["failed", "killed"]
)
def test_failure_is_a_dead_letter(outcome: Ending, status: Status) -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.settle(timed.take_one(), outcome)
    assert timed.status_of("a") is status
    assert timed.ledger.result_of("a") == TaskResult(TaskId("a"), status, error=ERROR)
    assert (timed.ledger.dead, timed.ledger.remembered) == (1, 0)
    assert timed.finished == [("a", outcome)]


def test_a_retried_task_waits_and_its_attempts_count() -> None:
    timed = TimedLedger()
    timed.push("a", args=1, metadata={"tenant": "acme"})
    first = timed.take_one()
    with use_wall_clock(NOON.timestamp):
        timed.settle(first, Retried(ERROR, 10))
    assert timed.take() is None
    waiting = timed.ledger.find("a")
    assert waiting is not None
    assert waiting.parts.run_at == NOON + timedelta(seconds=10)
    timed.now = 10
    again = timed.take_one()
    assert (again.args, again.parts.attempt) == (1, 2)
    assert again.parts.metadata == {"tenant": "acme"}
    assert first.parts.attempt == 1, "whoever still holds the last attempt sees what it was"
    assert first.parts.status is Status.Pending, "and that it is over"
    assert timed.finished == []


def test_what_is_retried_at_once_goes_behind_the_others() -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.push("b")
    timed.settle(timed.take_one(), Retried(ERROR))
    assert timed.take_ids() == ["b", "a"]


def test_a_released_task_goes_to_the_front_and_its_attempt_does_not_count() -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.push("b")
    for _ in range(3):
        task = timed.take_one()
        assert (task.parts.id, task.parts.attempt) == ("a", 1)
        timed.settle(task, Released("interrupted"))
    assert timed.ledger.counts["released"] == 3
    assert timed.take_ids() == ["a", "b"]


def test_a_suspended_task_waits_for_its_moment_and_its_attempt_does_not_count() -> None:
    timed = TimedLedger()
    timed.push("a")
    for number in range(1, 4):
        task = timed.take_one()
        assert (task.parts.id, task.parts.attempt) == ("a", 1)
        timed.settle(task, Suspended(timed.now + 5, "not yet"))
        assert (timed.status_of("a"), timed.ledger.waiting, timed.ledger.running) == (Status.Pending, 1, 0)
        assert timed.ledger.counts == {**dict.fromkeys(timed.ledger.counts, 0), "pushed": 1, "suspended": number}
        assert timed.ledger.next_due == timed.now + 5
        assert timed.take() is None
        timed.now += 5
    assert timed.take_ids() == ["a"]


def test_a_suspended_task_waits_behind_those_that_were_ready_before() -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.settle(timed.take_one(), Suspended(5))
    timed.push("b")
    timed.now = 5
    assert timed.take_ids() == ["b", "a"]


def test_a_suspension_without_end_is_ended_by_rescheduling() -> None:
    timed = TimedLedger()
    timed.push("a", unique="key", expires_in=10)
    timed.settle(timed.take_one(), Suspended(math.inf))
    timed.now = 1e9
    assert timed.take() is None
    assert timed.push("b", unique="key") == "a", "it keeps its key"
    assert timed.ledger.reschedule("a", 0, timed.now)
    task = timed.take_one()
    assert (task.parts.id, task.parts.attempt) == ("a", 1)


@pytest.mark.parametrize(
    "outcome",
    [Succeeded(1), Failed(ERROR), Killed(ERROR), Retried(ERROR), Released(), Suspended(5)],
    ids=lambda o: type(o).__name__,
)
def test_settling_is_fenced(outcome: Outcome) -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.push("other")
    first = timed.take_one()
    timed.settle(first, Retried(ERROR))
    stale: list[Task[Any]] = [first, Task("never pushed")]
    for each in stale:
        with pytest.raises(LeaseLostError, match=r"is not running in its attempt .*: nothing to settle"):
            timed.settle(each, outcome)
    assert timed.take_ids() == ["other", "a"]
    with pytest.raises(LeaseLostError):
        timed.settle(first, outcome)
    assert timed.ledger.running == 2


def test_one_that_waits_cannot_be_settled() -> None:
    timed = TimedLedger()
    task = make_task("args", {})
    timed.ledger.push(task, 0)
    with pytest.raises(LeaseLostError):
        timed.settle(task, Succeeded(1))
    assert timed.ledger.waiting == 1


@pytest.mark.parametrize("outcome", [None, "done", ERROR, Succeeded], ids=repr)
def test_what_is_no_outcome_is_refused_and_nothing_changes(outcome: Any) -> None:
    timed = TimedLedger()
    timed.push("a")
    task = timed.take_one()
    with pytest.raises(
        TypeError, match="an outcome is Succeeded, Retried, Failed, Killed, Released or Suspended, not "
    ):
        timed.settle(task, outcome)
    assert (timed.ledger.running, timed.status_of("a")) == (1, Status.Running)


def test_results_are_remembered_up_to_a_number_the_oldest_go_first() -> None:
    timed = TimedLedger(keep_results=2)
    for id in "abc":
        timed.push(id)
        timed.settle(timed.take_one(), Succeeded(id))
    assert [timed.ledger.find(id) is not None for id in "abc"] == [False, True, True]
    assert timed.ledger.result_of("a") is None
    assert timed.ledger.remembered == 2
    assert len(timed.finished) == 3


def test_a_result_that_came_back_is_forgotten_in_its_new_turn() -> None:
    timed = TimedLedger(keep_results=3)

    def finish(*ids: str) -> None:
        for id in ids:
            if timed.ledger.find(id) is None:
                timed.push(id)
            timed.settle(timed.take_one(), Succeeded(id))

    finish(*"abcd")  # the oldest are known from now on: b, c, d
    assert timed.ledger.resume("b", timed.now)
    finish("b")
    assert timed.ledger.discard("c")
    finish("e")
    assert [id for id in "abcde" if timed.ledger.find(id)] == ["b", "d", "e"]
    finish("f")
    assert [id for id in "abcdef" if timed.ledger.find(id)] == ["b", "e", "f"]
    finish("g")
    assert [id for id in "abcdefg" if timed.ledger.find(id)] == ["e", "f", "g"]


# Interventions


@pytest.mark.parametrize("delay", [0, 5])
def test_a_waiting_task_can_be_cancelled(delay: float) -> None:
    timed = TimedLedger()
    timed.push("a", delay=delay)
    assert timed.ledger.cancel("a", "not wanted")
    assert not timed.ledger.cancel("a", "again")
    timed.now = 10
    assert timed.take() is None
    assert timed.ledger.next_due is None
    assert timed.status_of("a") is Status.Killed
    ((_, outcome),) = timed.finished
    assert isinstance(outcome, Killed)
    assert isinstance(outcome.error, AbortError)
    assert str(outcome.error) == "not wanted"


def test_what_does_not_wait_cannot_be_cancelled() -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.take_one()
    assert not timed.ledger.cancel("a", "too late")
    assert not timed.ledger.cancel("unknown", "never")
    assert timed.finished == []


def test_no_wakeup_is_due_for_a_cancelled_task() -> None:
    timed = TimedLedger()
    for id, delay in (("a", 5), ("b", 10), ("c", 15)):
        timed.push(id, delay=delay)
    timed.ledger.cancel("a", "no")
    assert timed.ledger.next_due == 10
    timed.ledger.cancel("c", "no")
    timed.ledger.cancel("b", "no")
    assert timed.ledger.next_due is None


def test_a_running_task_is_aborted_through_its_holder_if_it_has_one() -> None:
    timed = TimedLedger()
    timed.push("a")
    assert not timed.ledger.abort("a", "it waits")
    task = timed.take_one()
    assert timed.ledger.abort("a", "nobody holds it")
    task.parts.holder = holder = Holder()
    assert timed.ledger.abort("a", "enough")
    (told,) = holder.told
    assert isinstance(told, Killed)
    assert str(told.error) == "enough"
    assert timed.ledger.running == 1, "it is running until it is settled"
    assert not timed.ledger.abort("unknown", "never")


@pytest.mark.parametrize(
    ("outcome", "attempts"), [(Retried(ERROR, 5), 1), (Released(), 0), (Suspended(5), 0)], ids=repr
)
def test_an_aborted_task_does_not_come_back(outcome: Outcome, attempts: int) -> None:
    timed = TimedLedger()
    timed.push("a")
    task = timed.take_one()
    task.parts.holder = Holder()
    timed.ledger.abort("a", "enough")
    timed.settle(task, outcome)
    [(_, end)] = timed.finished
    assert isinstance(end, Killed)
    assert str(end.error) == "enough"
    again = timed.ledger.find("a")
    assert again is not None
    assert again.parts.attempt == attempts
    assert timed.ledger.resume("a", timed.now)
    timed.settle(timed.take_one(), outcome)
    assert timed.status_of("a") is Status.Pending, "that was in another life"


def test_a_waiting_task_can_be_rescheduled_either_way() -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.push("b", delay=10)
    with use_wall_clock(NOON.timestamp):
        assert timed.ledger.reschedule("a", 20, 0)
        assert timed.ledger.reschedule("b", 0, 0)
    found = timed.ledger.find("a")
    assert found is not None
    assert found.parts.run_at == NOON + timedelta(seconds=20)
    assert timed.ledger.next_due == 20
    (at_once,) = [task for task in timed.ledger.reader.tasks() if task.parts.id == "b"]
    assert at_once.parts.run_at in (None, NOON), "it does not say any more that it waits for a time to come"
    assert timed.take_ids() == ["b"]
    timed.now = 10
    assert timed.take() is None
    timed.now = 20
    assert timed.take_ids() == ["a"]
    assert not timed.ledger.reschedule("a", 1, 20)
    assert not timed.ledger.reschedule("unknown", 1, 20)


def test_a_task_that_is_rescheduled_again_and_again_is_still_one() -> None:
    timed = TimedLedger()
    timed.push("a")
    for delay in (5, 1, 0, 3, 0):
        timed.ledger.reschedule("a", delay, timed.now)
    assert timed.ledger.waiting == 1
    timed.now = 10
    assert timed.take_ids() == ["a"]


def test_a_waiting_task_can_be_updated() -> None:
    timed = TimedLedger()
    timed.push("a", args=1, priority=5)
    replacement = make_task(2, TaskOptions(id="a", metadata={"tenant": "acme"}, priority=-5))
    assert timed.ledger.update(replacement)
    task = timed.take_one()
    assert (task.args, task.parts.priority) == (2, 5)
    assert task.parts.metadata == {"tenant": "acme"}
    assert not timed.ledger.update(replacement), "it runs"
    assert task.args == 2
    assert not timed.ledger.update(Task("unknown"))


def test_a_dead_letter_waits_again_with_all_of_its_attempts() -> None:
    timed = TimedLedger()
    timed.push("a", args=1, expires_in=5, metadata={"tenant": "acme"})
    timed.settle(timed.take_one(), Retried(ERROR))
    dead = timed.take_one()
    timed.settle(dead, Failed(ERROR))
    assert timed.ledger.resume("a", timed.now)
    assert not timed.ledger.resume("a", timed.now), "it is no dead letter any more"
    assert (timed.ledger.dead, timed.ledger.waiting) == (0, 1)
    assert timed.ledger.result_of("a") is None
    timed.now = 100
    task = timed.take_one()
    assert (task.args, task.parts.attempt) == (1, 1)
    assert task.parts.metadata == {"tenant": "acme"}
    assert dead.parts.attempt == 2
    assert dead.parts.status is Status.Failed


def test_only_finished_tasks_can_be_resumed() -> None:
    timed = TimedLedger()
    for id in ("waiting", "done"):
        timed.push(id)
    task = timed.take_one()
    timed.settle(task, Released())
    timed.ledger.reschedule("waiting", 5, 0)
    timed.settle(timed.take_one(), Succeeded(1))
    for id in ("waiting", "unknown"):
        assert not timed.ledger.resume(id, timed.now)
    assert timed.ledger.resume("done", timed.now)
    assert timed.ledger.result_of("done") is None


def test_the_error_of_an_attempt_before_a_success_is_forgotten_with_the_result() -> None:
    timed = TimedLedger()
    timed.push("a")
    timed.settle(timed.take_one(), Retried(ERROR, 0.0))
    timed.settle(timed.take_one(), Succeeded(1))
    assert timed.ledger.resume("a", timed.now)
    info = timed.take_one().parts.context
    assert info.error is None
    assert [each.became for each in info.history] == ["retried"]


def test_finished_tasks_can_be_forgotten() -> None:
    timed = TimedLedger()
    for id in "abcd":
        timed.push(id)
    for outcome in (Succeeded(1), Failed(ERROR), Killed(ERROR)):
        timed.settle(timed.take_one(), outcome)
    assert timed.ledger.vacuum() == 3
    assert timed.ledger.vacuum() == 0
    assert [timed.ledger.find(id) is not None for id in "abcd"] == [False, False, False, True]
    assert timed.push("a") == "a"


def test_a_task_that_comes_back_after_it_was_cancelled_and_forgotten_is_taken_once() -> None:
    timed = TimedLedger()
    task = make_task("args", {})
    for _ in range(2):
        timed.ledger.push(task, 0)
        timed.ledger.cancel(task.parts.id, "not yet")
        timed.ledger.vacuum()
    timed.ledger.push(task, 0)
    assert timed.take_ids() == [task.parts.id]
    assert timed.ledger.running == 1


@pytest.mark.parametrize("outcome", [Succeeded(1), Failed(ERROR)], ids=lambda each: type(each).__name__)
def test_a_task_that_is_pushed_again_after_it_was_finished_begins_anew(outcome: Outcome) -> None:
    timed = TimedLedger()
    task = make_task("args", {})
    for _ in range(3):
        timed.ledger.push(task, 0)
        taken = timed.take_one()
        assert (taken.parts.attempt, taken.parts.status) == (1, Status.Running)
        timed.settle(taken, outcome)
        timed.ledger.vacuum()


def test_it_is_empty_when_nothing_waits_and_nothing_can_come_back() -> None:
    timed = TimedLedger()
    assert timed.ledger.is_empty
    timed.push("a", delay=5)
    assert not timed.ledger.is_empty
    timed.now = 5
    task = timed.take_one()
    assert timed.ledger.is_empty, "nobody holds it who would give it back"
    task.parts.holder = Holder()
    assert not timed.ledger.is_empty
    timed.settle(task, Retried(ERROR))
    assert not timed.ledger.is_empty
    timed.settle(timed.take_one(), Succeeded(1))
    assert timed.ledger.is_empty


def test_all_are_listed_once_wherever_they_are() -> None:
    timed = TimedLedger()
    for id in ("done", "failed", "running"):
        timed.push(id)
    for outcome in (Succeeded(1), Failed(ERROR)):
        timed.settle(timed.take_one(), outcome)
    timed.take_one()
    timed.push("delayed", delay=5)
    timed.push("waiting")
    assert {task.parts.id: task.parts.status for task in timed.ledger.reader.tasks()} == {
        "done": Status.Done,
        "failed": Status.Failed,
        "running": Status.Running,
        "delayed": Status.Pending,
        "waiting": Status.Pending,
    }
    assert len(list(timed.ledger.reader.tasks())) == 5


# Any program at all, beside a model of lists that are searched through


@dataclass
class Record:
    """The model's record of a task."""

    id: str
    args: int
    priority: int
    unique: str | None
    start_by: float | None
    owns_key: bool
    attempt: int = 0
    due: float | None = None
    place: str = "ready"  # or delayed, running, done, failed, killed
    order: tuple[float, ...] = field(default=(0.0,))


Outcomes = st.sampled_from(
    [
        *(Succeeded(5), Retried(ERROR), Retried(ERROR, 3), Failed(ERROR), Killed(ERROR), Released()),
        *(Suspended(2.0), Suspended(6.0), Suspended(math.inf)),  # until a moment, which may have passed
    ]
)
Delays = st.sampled_from([0.0, 1.0, 2.0, 5.0])
KeyedPushes: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "delay": st.sampled_from([0.0, 0.0, 2.0]),
        "priority": st.just(0),
        "unique": st.sampled_from(["x", "y"]),
        "on_conflict": st.sampled_from(["skip", "replace", "replace", "raise"]),
    },
    optional={"expires_in": st.sampled_from([2.5, 3.0])},
)
Pushes: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries({"delay": Delays, "priority": st.integers(-1, 1)}),
    st.fixed_dictionaries(
        {"delay": st.sampled_from([0.0, 2.0]), "priority": st.just(0), "expires_in": st.sampled_from([2.5, 3.0])}
    ),
    KeyedPushes,
)
FINISHED = {"done": Status.Done, "failed": Status.Failed, "killed": Status.Killed}


def pick(several: list[T], which: int) -> T | None:
    return several[which % len(several)] if several else None


class LedgerAndModel:
    """A state machine that calls a ledger and a model, and compares the answers. ``which`` says, in whatever way, which
    of several is meant.
    """

    def __init__(self) -> None:
        self.timed = TimedLedger(keep_results=3)
        self.ledger = self.timed.ledger
        self.records: list[Record] = []
        self.held: dict[str, Task[Any]] = {}
        self.past: list[Task[Any]] = []
        self.finished: list[str] = []
        self.tally = dict.fromkeys(self.ledger.counts, 0)
        self.resumed = 0
        self.forgotten = 0
        self.ticks = 0
        self.walled = False

    # The model

    def at(self, *places: str) -> list[Record]:
        return [each for each in self.records if each.place in places]

    def place_in_time(self, record: Record, delay: float, *, front: bool = False) -> None:
        self.ticks += 1
        record.place, record.due = ("delayed", self.timed.now + delay) if delay else ("ready", None)
        record.order = (-self.ticks if front else self.ticks,)

    def finish(self, record: Record, place: str) -> None:
        self.records.remove(record)
        self.records.append(record)
        record.place = place
        self.finished.append(record.id)
        self.tally["succeeded" if place == "done" else place] += 1
        if len(done := self.at("done")) > 3:
            self.records.remove(done[0])
            self.forgotten += 1

    def owner_of(self, key: str | None) -> Record | None:
        unfinished = self.at("ready", "delayed", "running")
        owners = [each for each in unfinished if each.owns_key and each.unique == key]
        assert len(owners) <= 1, "a key has one owner at most"
        return owners[0] if owners else None

    def model_take(self) -> Record | None:
        self.model_enter_due()
        for each in sorted(self.at("ready"), key=lambda each: (-each.priority, each.order)):
            each.place, each.start_by = "running", None
            each.attempt += 1
            return each
        return None

    def model_enter_due(self) -> None:
        now = self.timed.now
        self.model_expire()
        due = [each for each in self.at("delayed") if each.due is not None and each.due <= now]
        for each in sorted(due, key=lambda each: (each.due, each.order)):
            self.place_in_time(each, 0)

    def model_expire(self) -> None:
        waiting = [each for each in self.at("ready", "delayed") if each.start_by is not None]
        for each in sorted(waiting, key=lambda each: (each.start_by, each.id)):
            if each.start_by is not None and each.start_by <= self.timed.now:
                self.finish(each, "killed")

    # The program

    def wait(self, which: int, seconds: float) -> None:
        self.timed.now += seconds

    def push(self, which: int, options: TaskOptions) -> None:
        number = self.ticks = self.ticks + 1
        options = TaskOptions(**options, id=str(number))
        delay, unique, on_conflict = options["delay"], options.get("unique"), options.get("on_conflict")
        if number % 2:  # the same, by the wall clock
            del options["delay"]
            options["run_at"] = self.timed.wall() + timedelta(seconds=delay)
        task = make_task(number, options)
        self.model_enter_due()
        owner = self.owner_of(unique)
        if owner is not None and on_conflict == "raise":
            with pytest.raises(DuplicateTaskError):
                self.ledger.push(task, self.timed.now)
            return
        pushed = self.ledger.push(task, self.timed.now)
        if owner is not None and on_conflict == "skip":
            assert pushed == owner.id
            return
        assert pushed == str(number)
        if owner is not None:
            if owner.place == "running":
                owner.owns_key = False  # it goes on, beside the new one
            else:
                self.finish(owner, "killed")
        start_by = self.timed.now + options["expires_in"] if "expires_in" in options else None
        record = Record(str(number), number, options["priority"], unique, start_by, owns_key=unique is not None)
        self.records.append(record)
        self.place_in_time(record, delay)
        self.walled = self.walled or ("run_at" in options and delay > 0)
        self.tally["pushed"] += 1

    def expire(self, which: int, what: None) -> None:
        self.model_expire()
        self.ledger.expire(self.timed.now)

    def push_a_known_id(self, which: int, what: None) -> None:
        record = pick(self.records, which)
        if record is not None:
            self.model_enter_due()
            with pytest.raises(DuplicateTaskError):
                self.timed.push(record.id)

    def take(self, which: int, what: None) -> None:
        task, record = self.timed.take(), self.model_take()
        assert (task is None) == (record is None)
        if task is not None and record is not None:
            assert (task.parts.id, task.args, task.parts.attempt) == (record.id, record.args, record.attempt)
            assert record.id not in self.held
            self.held[record.id] = task

    def settle(self, which: int, outcome: Outcome) -> None:
        record = pick(self.at("running"), which)
        if record is None:
            return
        task = self.held.pop(record.id)
        self.timed.settle(task, outcome)
        self.past.append(task)
        record.attempt -= isinstance(outcome, (Released, Suspended))
        if not isinstance(outcome, (Retried, Released, Suspended)):
            self.finish(record, {Succeeded: "done", Failed: "failed", Killed: "killed"}[type(outcome)])
        elif record.unique is not None and not record.owns_key:
            self.finish(record, "killed")
        elif isinstance(outcome, Retried):
            self.tally["retried"] += 1
            self.place_again(record, outcome.after)
        elif isinstance(outcome, Suspended):
            self.tally["suspended"] += 1
            self.place_again(record, max(0.0, outcome.until - self.timed.now))
        else:
            self.tally["released"] += 1
            self.place_in_time(record, 0, front=True)

    def place_again(self, record: Record, delay: float) -> None:
        if not delay:
            self.model_enter_due()
        self.place_in_time(record, delay)

    def settle_again(self, which: int, outcome: Outcome) -> None:
        task = pick(self.past, which)
        if task is not None:
            with pytest.raises(LeaseLostError):
                self.timed.settle(task, outcome)

    def cancel(self, which: int, what: None) -> None:
        record = pick(self.records, which)
        if record is None:
            return
        waits = record.place in ("ready", "delayed")
        assert self.ledger.cancel(record.id, "cancelled") is waits
        if waits:
            self.finish(record, "killed")

    def reschedule(self, which: int, delay: float) -> None:
        record = pick(self.records, which)
        if record is None:
            return
        self.model_enter_due()
        waits = record.place in ("ready", "delayed")
        assert self.ledger.reschedule(record.id, delay, self.timed.now) is waits
        if waits and (delay or record.place == "delayed"):  # what is ready keeps its place
            self.place_in_time(record, delay)

    def update(self, which: int, what: None) -> None:
        record = pick(self.records, which)
        if record is None:
            return
        waits = record.place in ("ready", "delayed")
        assert self.ledger.update(make_task(-record.args, TaskOptions(id=record.id))) is waits
        if waits:
            record.args = -record.args

    def resume(self, which: int, what: None) -> None:
        record = pick(self.at(*FINISHED), which)
        if record is None:
            return
        if self.owner_of(record.unique):
            with pytest.raises(DuplicateTaskError):
                self.ledger.resume(record.id, self.timed.now)
            return
        assert self.ledger.resume(record.id, self.timed.now)
        self.resumed += 1
        self.model_enter_due()
        self.tally["resumed"] += 1
        record.attempt, record.start_by, record.owns_key = 0, None, record.unique is not None
        self.place_in_time(record, 0)

    def vacuum(self, which: int, what: None) -> None:
        finished = self.at(*FINISHED)
        assert self.ledger.vacuum() == len(finished)
        self.forgotten += len(finished)
        self.records = [each for each in self.records if each not in finished]

    # What holds at any time

    def each_task_is_in_one_place(self) -> None:
        known = {str(task.parts.id): task for task in self.ledger.reader.tasks()}
        assert len(list(self.ledger.reader.tasks())) == len(known)
        assert sorted(known) == sorted(each.id for each in self.records)
        for record in self.records:
            task = known[record.id]
            assert self.ledger.find(record.id) is task
            assert (task.args, task.parts.attempt) == (record.args, record.attempt)
            expected = Status.Running if record.place == "running" else FINISHED.get(record.place, Status.Pending)
            assert task.parts.status is expected
            result = self.ledger.result_of(record.id)
            assert (result and result.status) == FINISHED.get(record.place)

    def the_numbers_are_right(self) -> None:
        ledger = self.ledger
        assert ledger.waiting == len(self.at("ready", "delayed"))
        assert ledger.running == len(self.held) == len(self.at("running"))
        assert ledger.dead == len(self.at("failed", "killed"))
        assert ledger.remembered == len(self.at("done"))
        assert ledger.counts == self.tally
        assert [id for id, _ in self.timed.finished] == self.finished

    def nothing_is_lost_and_nothing_settled_twice(self) -> None:
        counts, ledger = self.ledger.counts, self.ledger
        ended = counts["succeeded"] + counts["failed"] + counts["killed"]
        assert counts["pushed"] + self.resumed == ended + ledger.waiting + ledger.running
        assert ended - self.resumed == ledger.dead + ledger.remembered + self.forgotten

    def the_next_one_due_is_told(self) -> None:
        moments = [each.due for each in self.at("delayed") if each.due]
        moments += [each.start_by for each in self.at("ready", "delayed") if each.start_by is not None]
        told, expected = self.ledger.next_due, min(moments, default=None)
        is_look_at_wall = told is not None and expected is not None and self.walled and told < expected
        assert told == expected or is_look_at_wall

    def all_that_waits_comes_out_in_order_each_once(self) -> None:
        self.timed.now += 100
        while (task := self.timed.take()) is not None:
            record = self.model_take()
            assert record is not None
            assert task.parts.id == record.id
        assert self.model_take() is None
        assert self.ledger.waiting == len([each for each in self.at("delayed") if each.due == math.inf])


# What is worth more often stands here more often.
STEPS = (
    ["push"] * 5 + ["take"] * 5 + ["settle"] * 5 + ["wait"] * 2 + ["cancel", "reschedule", "update", "resume"]
    + ["settle_again", "push_a_known_id", "vacuum", "expire"]
)  # fmt: skip
WHAT: dict[str, st.SearchStrategy[Any]] = {
    "settle": Outcomes, "settle_again": Outcomes, "wait": Delays, "reschedule": Delays
}  # fmt: skip


@st.composite
def programs(draw: st.DrawFn, pushes: st.SearchStrategy[Any]) -> list[tuple[str, int, Any]]:
    what = {**WHAT, "push": pushes}
    names = draw(st.lists(st.sampled_from(STEPS), min_size=50, max_size=80))
    return [(name, draw(st.integers(0, 5)), draw(what.get(name, st.none()))) for name in names]


long_programs = settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # making one that fails shorter takes minutes
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)


@long_programs
@given(programs(Pushes))
def test_whatever_is_asked_of_a_ledger_it_agrees_with_its_model(program: list[tuple[str, int, Any]]) -> None:
    check(program)


@long_programs
@given(programs(KeyedPushes))
def test_however_they_fight_over_keys_the_ledger_agrees_with_its_model(program: list[tuple[str, int, Any]]) -> None:
    check(program)


def check(program: list[tuple[str, int, Any]]) -> None:
    both = LedgerAndModel()
    with use_wall_clock(lambda: both.timed.wall().timestamp()):
        for name, which, what in program:
            getattr(both, name)(which, what)
            both.each_task_is_in_one_place()
            both.the_numbers_are_right()
            both.nothing_is_lost_and_nothing_settled_twice()
            both.the_next_one_due_is_told()
        both.all_that_waits_comes_out_in_order_each_once()
