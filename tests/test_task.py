"""Tests of Task and Parts."""

from __future__ import annotations

import pytest
from trio_tasks._tasks.extensions import NO_METADATA, Extensions, Metadata
from trio_tasks._tasks.outcome import Status
from trio_tasks._tasks.task import USUAL_TERMS, Attempt, Parts, Task, TaskBuilder, Terms, attempt_number
from trio_tasks._tasks.task_id import TaskId


def test_a_fresh_task_waits_and_has_not_been_attempted() -> None:
    task = Task("args")
    parts = task.parts
    assert task.args == "args"
    assert isinstance(parts.id, TaskId)
    assert (parts.attempt, parts.status, parts.run_at) == (0, Status.Pending, None)
    assert (parts.attempts, parts.timeout, parts.priority) == (None, None, 0)
    assert (parts.delay, parts.unique, parts.on_conflict, parts.expires_in) == (0.0, None, "skip", None)
    assert (parts.context.history, parts.holder) == ((), None)
    assert parts.metadata == {}


def test_each_task_has_an_id_of_its_own() -> None:
    assert Task(1).parts.id < Task(1).parts.id


def test_parts_can_be_given() -> None:
    parts = Parts(TaskId("task-123"), attempt=Attempt(2), terms=Terms(attempts=3, timeout=1.5, priority=-1))
    assert Task("args", parts).parts is parts
    assert (parts.id, parts.attempt, parts.attempts, parts.timeout, parts.priority) == ("task-123", 2, 3, 1.5, -1)


def test_extensions_are_made_when_they_are_asked_for() -> None:
    parts = Task(1).parts
    assert not parts.has_extensions
    parts.extensions.insert(5)
    assert parts.has_extensions
    assert parts.extensions[int] == 5
    assert parts.extensions is parts.extensions


def test_the_next_attempt_has_fresh_parts_and_the_last_one_keeps_its_own() -> None:
    extensions, metadata, terms = Extensions(5), Metadata(tenant="acme"), Terms(priority=3)
    parts = Parts(TaskId("a"), attempt=Attempt(2), terms=terms, metadata=metadata, extensions=extensions)
    parts.status = Status.Running
    again = parts.again(2)
    assert (again.id, again.attempt, again.status) == ("a", 2, Status.Pending)
    assert (again.terms, again.metadata, again.extensions) == (terms, metadata, extensions)
    assert (again.context.history, again.holder, again.run_at) == ((), None, None)
    again.attempt = Attempt(3)
    assert (parts.attempt, parts.status) == (2, Status.Running)


def test_an_attempt_is_an_int() -> None:
    assert Attempt(2) == 2
    assert isinstance(Attempt(2), int)
    assert Attempt(2) + 1 == 3


@pytest.mark.parametrize("number", [0, 1, 31, 32, 1000])
def test_attempts_are_numbered(number: int) -> None:
    attempt = attempt_number(number)
    assert attempt == number
    assert type(attempt) is Attempt


def test_the_final_statuses() -> None:
    assert {each for each in Status if each.is_final} == {Status.Done, Status.Failed, Status.Killed}
    assert [each.value for each in Status] == ["Pending", "Queued", "Running", "Done", "Failed", "Killed"]


def test_the_repr_of_a_task_names_it() -> None:
    task = TaskBuilder("args").id("task-123").build()
    assert repr(task) == "<Task task-123 <str>: Pending, attempt 0>"
    task.parts.status, task.parts.attempt = Status.Running, Attempt(2)
    assert repr(task) == "<Task task-123 <str>: Running, attempt 2>"
    assert repr(task.parts) == "<Parts of task-123: Running, attempt 2>"


def test_a_task_opens_a_builder_for_its_like() -> None:
    builder = Task.builder("args")
    assert isinstance(builder, TaskBuilder)
    assert builder.build().args == "args"


def test_what_is_usual_is_shared_and_nothing_is_asked_for_by_it() -> None:
    assert Task(1).parts.terms is USUAL_TERMS is Task(2).parts.terms
    assert Task(1).parts.metadata is NO_METADATA
    assert Terms() == USUAL_TERMS
