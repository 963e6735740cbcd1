"""A test of a layer: where it stands in the list, and what it does to time."""

from __future__ import annotations

from typing import TypeVar

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, RetryPolicy, Succeeded, Task
from trio_tasks.abc import Handler
from trio_tasks.layers import Retry, Timeout
from trio_tasks.testing import TestWorker

A = TypeVar("A")
R = TypeVar("R")


class Count:
    """A layer that counts how often it is gone through."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        self.calls += 1
        return await handler(task)


async def slow_at_first(seconds: float) -> str:
    """The first call, at time 0, takes long."""
    await trio.sleep(seconds if trio.current_time() == 0 else 0)
    return "done"


async def test_the_first_one_is_outermost(autojump_clock: MockClock) -> None:
    outside, inside = Count(), Count()
    storage = MemoryStorage[float]()
    layers = (outside, Retry(2), Timeout(5), inside)
    worker = TestWorker(storage, slow_at_first, layers=layers, retry=RetryPolicy(attempts=1))
    await storage.push(3600)
    _, outcome = await worker.execute_next()
    assert outcome == Succeeded("done")
    assert (outside.calls, inside.calls) == (1, 2)
    assert 5 < trio.current_time() < 6
