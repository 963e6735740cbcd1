"""Tests of reports: counts by outcome, interrupted attempts, and their text."""

from __future__ import annotations

import dataclasses

import pytest
from trio_tasks import (
    Failed,
    Interruption,
    Killed,
    Outcome,
    Released,
    Report,
    Retried,
    Succeeded,
    Suspended,
    TaskId,
    WorkerReport,
)
from trio_tasks._contracts.context import Tally

ERROR = ValueError("no")


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Succeeded(1), "succeeded"),
        (Retried(ERROR), "retried"),
        (Failed(ERROR), "failed"),
        (Killed(ERROR), "killed"),
        (Released(), "released"),
        (Suspended(5.0), "suspended"),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, str) else each,
)
def test_each_outcome_has_its_count(outcome: Outcome, name: str) -> None:
    tally = Tally()
    tally.count(outcome)
    tally.count(outcome)
    counts = {"succeeded": 0, "retried": 0, "failed": 0, "killed": 0, "released": 0, "suspended": 0, name: 2}
    found = dataclasses.asdict(tally.report("w"))
    assert {each: found[each] for each in counts} == counts


def test_a_report_does_not_change_with_what_comes_after_it() -> None:
    tally = Tally()
    tally.drained.append(TaskId("a"))
    before = tally.report("w")
    tally.drained.append(TaskId("b"))
    tally.interrupted.append(Interruption("w", TaskId("c"), "here"))
    tally.count(Succeeded(None))
    assert before == WorkerReport("w", drained=(TaskId("a"),))


def test_reports_are_frozen() -> None:
    for report in (WorkerReport("w"), Report(), Interruption("w", TaskId("a"), "here")):
        for field in dataclasses.fields(report):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(report, field.name, None)


def test_a_report_of_several_workers_puts_their_tasks_together() -> None:
    one = Interruption("a", TaskId("1"), "app.py:3 in fetch")
    two = Interruption("b", TaskId("2"), "app.py:9 in store")
    report = Report(
        workers=(
            WorkerReport("a", drained=(TaskId("3"),), interrupted=(one,)),
            WorkerReport("b", drained=(TaskId("4"), TaskId("5")), interrupted=(two,)),
        ),
        restarts=1,
        errors=(ERROR,),
    )
    assert report.drained == (TaskId("3"), TaskId("4"), TaskId("5"))
    assert report.interrupted == (one, two)
    assert str(report).splitlines() == [
        "2 worker runs, 1 restart, 3 tasks drained, 2 interrupted, 1 error",
        "interrupted: 1 of a, at app.py:3 in fetch",
        "interrupted: 2 of b, at app.py:9 in store",
        "error: ValueError('no')",
    ]


def test_an_empty_report() -> None:
    assert str(Report()) == "0 worker runs, 0 restarts, 0 tasks drained, 0 interrupted, 0 errors"
