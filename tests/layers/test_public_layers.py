"""Tests of the package trio_tasks.layers: every layer of the design has its public name, and works in a list."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import trio.testing
import trio_tasks.layers
from trio_tasks import MemoryStorage, Task, Worker
from trio_tasks.abc import Admitting, Gate
from trio_tasks.layers import (
    Acknowledge,
    CircuitBreaker,
    ConcurrencyLimit,
    EventListener,
    Filter,
    InThread,
    LoadShed,
    Log,
    LongRunning,
    MapArgs,
    MapError,
    MapResult,
    RateLimit,
    Retry,
    Timeout,
    Trace,
)


async def acknowledge(outcome: object, parts: object) -> None:
    await trio.lowlevel.checkpoint()


def every_layer() -> list[Any]:
    return [
        Acknowledge(acknowledge),
        Trace(),
        Log(),
        EventListener(lambda context, event: None),
        Filter(lambda task: True),
        InThread(nullcontext),
        LongRunning(maximum=60),
        Timeout(30),
        Retry(3),
        ConcurrencyLimit(4),
        ConcurrencyLimit(4, key=lambda task: task.args),
        RateLimit(100, per=1),
        CircuitBreaker(),
        LoadShed(ConcurrencyLimit(4)),
        MapError(lambda error: error),
        MapResult(lambda result: result + 1),
        MapArgs(lambda args: args * 2),
    ]


async def test_all_of_them_together(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(n: int) -> int:
        return n

    storage = MemoryStorage[int]()
    ids = await storage.push_bulk(range(10))
    storage.close()
    report = await Worker("w", storage, handler, layers=every_layer()).run()
    assert report.succeeded == 10
    assert [(await storage.wait_for(task_id)).unwrap() for task_id in ids] == [2 * n + 1 for n in range(10)]


async def test_all_of_them_let_a_cancellation_through(autojump_clock: trio.testing.MockClock) -> None:
    """At whatever layer: the task is released, and nothing is counted against it."""

    async def handler(n: int) -> int:
        await trio.sleep(20)
        return n

    layers = every_layer()
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(3))
    worker = Worker("w", storage, handler, layers=layers)
    context = worker.prepare()
    with trio.move_on_after(10):
        await worker.run(context)
    report = context.report()
    assert (report.released, report.failed, report.retried, report.killed) == (3, 0, 0, 0)
    for layer in layers:
        if isinstance(layer, ConcurrencyLimit):
            assert layer.statistics().taken == 0
        if isinstance(layer, CircuitBreaker):
            assert layer.statistics().failures == 0


def test_public_names_say_where_they_are_public() -> None:
    public = {name: value for name, value in vars(trio_tasks.layers).items() if not name.startswith("_")}
    assert public
    assert {value.__module__ for value in public.values()} == {"trio_tasks.layers"}


def test_three_of_them_are_gates() -> None:
    gates = {type(layer) for layer in every_layer() if isinstance(layer, Gate)}
    assert gates == {ConcurrencyLimit, RateLimit, CircuitBreaker}


async def test_they_pass_the_very_result() -> None:
    result = object()

    async def handler(task: Task[int]) -> object:
        return result

    for layer in every_layer():
        if not isinstance(layer, (EventListener, MapResult)):  # one needs a worker, the other changes the result
            assert await layer(handler, Task(1)) is result, layer


async def test_gates_keep_nothing_of_a_task_that_is_over(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(task: Task[int]) -> int:
        return task.args

    limit = ConcurrencyLimit(4, key=lambda task: task.args)
    for gate in (ConcurrencyLimit(4), RateLimit(4, per=1), CircuitBreaker(), LoadShed(limit)):
        task = Task(1)
        before = sys.getrefcount(task.parts)
        if isinstance(gate, Admitting):
            assert gate.admit(task)
        await gate(handler, task)
        if isinstance(gate, Admitting):
            gate.dismiss(task)
        after = sys.getrefcount(task.parts)
        assert after == before, gate
