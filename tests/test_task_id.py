"""Tests of task ids: unique, in order, and plain text."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time
import uuid
from itertools import pairwise

import pytest
from trio_tasks._tasks import task_id as _task_id
from trio_tasks._tasks.task_id import _RANDOM_LIMIT, TaskId, _Sequence


def test_it_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    task_id = TaskId.new()
    after = time.time_ns() // 1_000_000
    parsed = uuid.UUID(task_id)
    assert str(parsed) == task_id
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert before <= parsed.int >> 80 <= after + 1


def test_they_are_unique_and_sort_as_text_in_the_order_in_which_they_were_made() -> None:
    made = [TaskId.new() for _ in range(20_000)]
    assert all(one < other for one, other in pairwise(made))


def sequence_ahead_of_the_clock() -> _Sequence:
    """One that has made an id at a time which the clock reaches in the year 2096 only: to it, the clock went back."""
    sequence = _Sequence()
    sequence._millisecond, sequence._tail = 4_000_000_000_000, 0
    return sequence


def test_they_only_grow_while_the_clock_stands_or_goes_back() -> None:
    sequence = sequence_ahead_of_the_clock()
    made = [sequence.next_text() for _ in range(1000)]
    assert all(one < other for one, other in pairwise(made))
    assert {uuid.UUID(each).int >> 80 for each in made} == {4_000_000_000_000}


def test_a_new_millisecond_begins_anew() -> None:
    sequence = _Sequence()
    sequence._millisecond, sequence._tail = 1, _RANDOM_LIMIT - 1
    assert abs((uuid.UUID(sequence.next_text()).int >> 80) - time.time() * 1000) < 60_000
    assert sequence._tail < _RANDOM_LIMIT // 2, "half of the range is left to grow into"


def test_they_grow_into_the_next_millisecond_when_one_is_full() -> None:
    sequence = sequence_ahead_of_the_clock()
    first = sequence.next_text()
    sequence._tail = _RANDOM_LIMIT - 1
    second, third = uuid.UUID(sequence.next_text()), uuid.UUID(sequence.next_text())
    assert first < str(second) < str(third)
    assert second.int >> 80 == third.int >> 80 == 4_000_000_000_001
    assert second.version == third.version == 7


def test_the_greatest_of_a_millisecond_is_well_formed() -> None:
    sequence = sequence_ahead_of_the_clock()
    sequence._tail = _RANDOM_LIMIT - 1 - (1 << 32)
    parsed = uuid.UUID(sequence.next_text())
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == 4_000_000_000_000


def test_threads_make_different_ones() -> None:
    made: list[list[TaskId]] = [[] for _ in range(4)]

    def make(into: list[TaskId]) -> None:
        into.extend(TaskId.new() for _ in range(5000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert len({each for some in made for each in some}) == 20_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_goes_on_with_numbers_of_its_own() -> None:
    TaskId.new()
    before = _task_id._sequence
    _task_id._reseed()  # what a fork calls in the child
    assert _task_id._sequence is not before
    assert _task_id._sequence._random.getstate() != before._random.getstate()


def test_any_text_will_do() -> None:
    task_id = TaskId("task-123")
    assert task_id == "task-123"
    assert isinstance(task_id, str)
    assert {"task-123": 1}[task_id] == 1
    assert f"{task_id}" == "task-123"
    assert repr(task_id) == "TaskId('task-123')"


@pytest.mark.parametrize("bad", [None, 5, b"task", TaskId])
def test_it_must_be_text(bad: object) -> None:
    with pytest.raises(TypeError, match=r"^a task's id must be a string, not "):
        TaskId(bad)  # type: ignore[arg-type]  # this is the point


def test_it_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^a task's id must not be an empty string$"):
        TaskId("")


def test_it_can_be_copied_and_pickled() -> None:
    task_id = TaskId.new()
    for each in (copy.copy(task_id), copy.deepcopy(task_id), pickle.loads(pickle.dumps(task_id)), TaskId(task_id)):
        assert each == task_id
        assert type(each) is TaskId
