"""Tests of the layer Filter."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing
from trio_tasks import AbortError, DeferredError, MemoryStorage, RetryPolicy, Status, Task, Worker
from trio_tasks.layers import Filter


async def double(task: Task[int]) -> int:
    return task.args * 2


async def test_what_passes_is_run() -> None:
    assert await Filter(lambda task: task.args > 1)(double, Task(2)) == 4


async def test_what_does_not_pass_is_aborted_unrun() -> None:
    ran: list[int] = []

    async def handler(task: Task[int]) -> None:
        ran.append(task.args)

    task = Task(1)
    with pytest.raises(AbortError, match=f"Filter rejected task {task.parts.id}: "):
        await Filter(lambda task: task.args > 1)(handler, task)
    assert not ran


async def test_a_predicate_may_raise_what_it_wants_instead() -> None:
    def later(task: Task[Any]) -> bool:
        raise DeferredError("not now")

    with pytest.raises(DeferredError):
        await Filter(later)(double, Task(1))


async def test_in_a_worker_it_makes_dead_letters(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    good = await storage.push(1, metadata={"tenant": "acme"})
    bad = await storage.push(2, metadata={"tenant": "blocked"})
    storage.close()

    async def handler(n: int) -> int:
        return n

    layer = Filter(lambda task: task.parts.metadata["tenant"] != "blocked")
    await Worker("w", storage, handler, layers=[layer], retry=RetryPolicy(attempts=5)).run()
    assert (await storage.wait_for(good)).status is Status.Done
    assert (await storage.wait_for(bad)).status is Status.Killed


def test_a_predicate_that_would_always_be_true_is_refused() -> None:
    async def predicate(task: Task[int]) -> bool:
        return False

    with pytest.raises(TypeError, match="predicate must be a plain function"):
        Filter(predicate)
    wrong: Any = True
    with pytest.raises(TypeError, match="predicate must be callable, as predicate"):
        Filter(wrong)


def test_it_shows_itself() -> None:
    assert repr(Filter(callable)) == "<Filter by <built-in function callable>>"
