"""Tests of the ready queue and the delay queue."""

from __future__ import annotations

from hypothesis import given, strategies as st
from trio_tasks._backends.ready_queue import DelayQueue, ReadyQueue
from trio_tasks._tasks.task import Task, TaskBuilder


def task(args: int, priority: int = 0) -> Task[int]:
    return TaskBuilder(args).priority(priority).build()


def drained(queue: ReadyQueue[int]) -> list[int]:
    found = []
    while (each := queue.pop(0.0)) is not None:
        found.append(each.args)
    return found


def test_first_in_first_out() -> None:
    queue = ReadyQueue[int]()
    for n in range(5):
        queue.append(task(n))
    assert drained(queue) == [0, 1, 2, 3, 4]


def test_nothing_comes_out_of_nothing() -> None:
    queue = ReadyQueue[int]()
    assert queue.pop(0.0) is None
    queue.append(task(1))
    assert drained(queue) == [1]
    assert queue.pop(0.0) is None


def test_higher_priority_goes_first() -> None:
    queue = ReadyQueue[int]()
    for n, priority in enumerate([0, 5, -5, 5, 0]):
        queue.append(task(n, priority))
    assert drained(queue) == [1, 3, 0, 4, 2]


def test_what_comes_to_the_front_goes_first_of_its_priority_only() -> None:
    queue = ReadyQueue[int]()
    for n, priority in enumerate([0, 5, 0]):
        queue.append(task(n, priority))
    queue.append_front(task(9))
    assert drained(queue) == [1, 9, 0, 2]


orders = st.lists(st.one_of(st.none(), st.tuples(st.booleans(), st.integers(-2, 2))), max_size=60)


@given(orders)
def test_it_agrees_with_a_sorted_list(program: list[tuple[bool, int] | None]) -> None:
    queue, model = ReadyQueue[int](), list[tuple[int, int, int]]()
    for n, step in enumerate(program):
        if step is None:
            popped = queue.pop(0.0)
            assert (popped and popped.args) == (model.pop(0)[2] if model else None)
        else:
            front, priority = step
            (queue.append_front if front else queue.append)(task(n + 1, priority))
            model.append((-priority, -n if front else n, n + 1))
            model.sort()
    assert drained(queue) == [n for _, _, n in model]


def test_earliest_first_and_first_in_first_out_at_the_same_time() -> None:
    queue = DelayQueue[int]()
    assert (queue.first, queue.next_due) == (None, None)
    for n, due in enumerate([5.0, 1.0, 5.0, 3.0, 1.0]):
        queue.append(task(n), due)
    found = []
    while (first := queue.first) is not None:
        found.append((queue.next_due, first.args))
        assert queue.pop_first() is first
    assert found == [(1.0, 1), (1.0, 4), (3.0, 3), (5.0, 0), (5.0, 2)]


@given(st.lists(st.floats(0, 1e9), max_size=60))
def test_it_agrees_with_a_stable_sort(dues: list[float]) -> None:
    queue = DelayQueue[int]()
    for n, due in enumerate(dues):
        queue.append(task(n), due)
    assert [queue.pop_first().args for _ in dues] == sorted(range(len(dues)), key=dues.__getitem__)
