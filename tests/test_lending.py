"""Tests of lending: an attempt that waits for another task lends its slot, so that the other task can run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    MemoryStorage,
    Release,
    RetryPolicy,
    Status,
    Task,
    Worker,
    WorkerBuilder,
    WorkerContext,
)
from trio_tasks.layers import CircuitBreaker, ConcurrencyLimit, LoadShed

from tests._storages import STORAGES
from tests.promises._run_worker import EventRecord

PARENT, CHILD = 1000, 1


class Family:
    """A handler whose parents push children and wait for them; it counts attempts that run and that wait."""

    def __init__(self, storage: Any, *, children: int = 2) -> None:
        self.storage = storage
        self.children = children
        self.inside = self.most_inside = self.busy = self.most_busy = 0

    async def __call__(self, n: int) -> int:
        self.inside += 1
        self.busy += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await (self.be_parent(n) if n >= PARENT else self.be_child(n))
        finally:
            self.inside -= 1
            self.busy -= 1

    async def be_child(self, n: int) -> int:
        await trio.sleep(0.001)
        return n

    async def be_parent(self, n: int) -> int:
        ids = await self.storage.push_bulk([n - PARENT] * self.children)
        total = 0
        for task_id in ids:
            self.busy -= 1
            try:
                total += (await self.storage.wait_for(task_id)).result
            finally:
                self.busy += 1
        await trio.sleep(0.001)
        return total


LAYERS: dict[str, Callable[[], list[Any]]] = {
    "none": list,
    "limit": lambda: [ConcurrencyLimit(4)],
    "shed limit": lambda: [LoadShed(ConcurrencyLimit(8))],
}


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kind", STORAGES)
async def test_a_fan_out_over_ones_own_queue_is_done(tmp_path: Path, kind: str, layers: str) -> None:
    parents = 4 if layers == "limit" else 8
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        family = Family(storage)
        ids = await storage.push_bulk([PARENT + n for n in range(parents)])
        async with trio.open_nursery() as nursery:
            worker = Worker("w", storage, family.__call__, concurrency=8, layers=LAYERS[layers]())
            context: WorkerContext = await nursery.start(worker.run)
            with trio.fail_after(60):  # noqa: ASYNC100  waiting is one
                results = [(await storage.wait_for(each)).result for each in ids]
            assert context.lent == 0
            context.stop()
        assert results == [2 * n for n in range(parents)]
        assert family.most_inside <= 16


async def one_more(storage: MemoryStorage[int], n: int) -> int:
    """One more than what a child makes of one less."""
    result: Any = (await storage.wait_for(await storage.push(n - 1))).result
    return int(result) + 1


async def test_children_that_are_parents_lend_too(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()

    async def handler(depth: int) -> int:
        await trio.sleep(1)
        return await one_more(storage, depth) if depth else 0

    task_id = await storage.push(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, handler, concurrency=1, lend=5).run)
        with trio.fail_after(100):
            assert (await storage.wait_for(task_id)).result == 5
        nursery.cancel_scope.cancel()


async def test_no_more_attempts_are_begun_than_are_lent(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    gate = trio.Event()
    begun: list[int] = []

    async def handler(n: int) -> None:
        begun.append(n)
        if n < 2:
            await storage.wait_for("never")
        await gate.wait()

    await storage.push(99, id="never", delay=10**6)
    await storage.push_bulk(range(10))
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler, concurrency=3, lend=1).run)
        await trio.sleep(1)
        assert begun == [0, 1, 2, 3]
        assert (context.lent, context.task_count, context.is_ready) == (2, 4, True)
        await storage.cancel("never")  # both go on at once, so for a while there are four
        await trio.sleep(1)
        assert begun == [0, 1, 2, 3]
        assert context.lent == 0
        assert not context.is_ready
        gate.set()
        await trio.sleep(1)
        assert sorted(begun) == list(range(10))
        nursery.cancel_scope.cancel()


async def test_an_extra_slot_that_is_busy_takes_no_other_task_when_the_wait_is_over(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    gate = trio.Event()
    begun: list[int] = []

    async def handler(n: int) -> None:
        begun.append(n)
        if n:
            await trio.sleep(5)
        else:
            await storage.wait_for("soon")
            await gate.wait()

    await storage.push(99, id="soon", delay=10**6)
    await storage.push_bulk(range(4))
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, concurrency=1).run)
        await trio.sleep(1)
        assert begun == [0, 1]
        await storage.cancel("soon")
        await trio.sleep(20)  # the task in the extra slot has ended
        assert begun == [0, 1]
        gate.set()
        await trio.sleep(1)
        assert begun == [0, 1, 2]
        nursery.cancel_scope.cancel()


async def test_an_extra_slot_that_has_nothing_to_do_ends_when_the_wait_is_over(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    for n in range(3):
        await storage.push(0, id=f"later {n}", delay=10.0 + n)

    async def handler(n: int) -> None:
        if n:
            for each in range(3):
                await storage.wait_for(f"later {each}")
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler, concurrency=1).run)
        await storage.push(1)
        await trio.sleep(5)
        assert context.statistics().slots_waiting == 1
        await trio.sleep(20)
        assert context.statistics().slots_waiting == 1
        assert context.report().succeeded == 4
        context.stop()


async def test_handlers_that_fill_their_own_bounded_queue_go_on(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](1)
    done: list[int] = []

    async def handler(n: int) -> None:
        if n >= PARENT:
            for child in range(3):
                await storage.push(child)
        await trio.sleep(1)
        done.append(n)

    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler, concurrency=2).run)
        with trio.fail_after(100):
            for n in range(2):
                await storage.push(PARENT + n)
            while len(done) < 8:  # noqa: ASYNC110  each attempt counts
                await trio.sleep(1)
        context.stop()
    assert sorted(done) == [0, 0, 1, 1, 2, 2, PARENT, PARENT + 1]
    assert storage.statistics().waiting == storage.statistics().pushers_waiting == 0


async def test_children_of_the_attempt_and_threads_do_not_lend(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(0, id="never", delay=10**6)
    begun: list[int] = []

    async def handler(n: int) -> None:
        begun.append(n)
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  it is not the handler that waits
            nursery.start_soon(storage.wait_for, "never")

    await storage.push_bulk(range(3))
    with trio.move_on_after(10):
        await Worker("w", storage, handler, concurrency=1).run()
    assert begun == [0]


async def test_when_intake_stops_attempts_that_lend_are_released(autojump_clock: MockClock) -> None:
    storage, record = MemoryStorage[int](), EventRecord()

    async def handler(n: int) -> None:
        await storage.wait_for("never")

    await storage.push(0, id="never", delay=10**6)
    [early, late] = await storage.push_bulk([1, 2])

    async def late_one(task: Task[int]) -> None:
        if task.args == 2:
            await trio.sleep(10)
        await handler(task.args)

    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, late_one, concurrency=2, on_event=record).run)
        await trio.sleep(5)
        context.stop()
        begun_at = trio.current_time()
        await context.wait_stopped()
        assert trio.current_time() - begun_at == 5, "the other attempt goes on until it begins to wait"
    reason = "its worker stops while it waits for another task"
    assert [(each.task.parts.id, each.reason) for each in record.of(Release)] == [(early, reason), (late, reason)]
    for each in await storage.list_tasks(Status.Pending):
        assert each.parts.attempt == 0


async def test_a_cancelled_wait_gives_the_slot_back(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(0, id="never", delay=10**6)
    most = inside = 0

    async def handler(n: int) -> None:
        nonlocal most, inside
        with trio.move_on_after(1):
            await storage.wait_for("never")
        inside += 1
        most = max(most, inside)
        await trio.sleep(5)
        inside -= 1

    await storage.push_bulk(range(20))
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler, concurrency=2).run)
        await trio.sleep(200)
        assert (context.lent, context.report().succeeded) == (0, 20)
        context.stop()
    assert most <= 4


async def test_a_breaker_that_is_half_open_lends_the_place_of_a_trial(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=1, half_open_max_calls=1)

    async def handler(n: int) -> int:
        await trio.lowlevel.checkpoint()
        if n < 0:
            raise ValueError("the first")
        if n:
            return await one_more(storage, n)
        return 0

    await storage.push(-1)
    task_id = await storage.push(1)
    async with trio.open_nursery() as nursery:
        worker = Worker("w", storage, handler, concurrency=1, layers=[breaker], retry=RetryPolicy(1))
        nursery.start_soon(worker.run)
        with trio.fail_after(100):
            assert (await storage.wait_for(task_id)).result == 1
        nursery.cancel_scope.cancel()


async def test_a_limit_by_key_lends_its_permit(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    limit = ConcurrencyLimit(1, key=lambda task: "one")

    async def handler(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return await one_more(storage, n) if n else 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, handler, concurrency=4, layers=[limit]).run)
        with trio.fail_after(100):
            assert (await storage.wait_for(await storage.push(3))).result == 3
        assert limit.statistics().taken == 0
        assert limit.statistics().keys == ()
        nursery.cancel_scope.cancel()


# Stalls


@pytest.mark.parametrize(("one", "other"), [("c", "d"), ("b", "a")])
async def test_a_stall_is_named_with_the_tasks_that_wait_for_one_another(
    one: str, other: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Two queues, each of whose workers waits for a task of the other one: for one that waits there, or that runs."""
    caplog.set_level(logging.WARNING)
    here, there = MemoryStorage[str](), MemoryStorage[str]()

    def waiting_in(other: MemoryStorage[str]) -> Callable[[str], Any]:
        async def handler(task_id: str) -> None:
            await trio.sleep(1)
            if task_id:
                await other.wait_for(task_id)

        return handler

    async with trio.open_nursery() as nursery:
        await here.push(one, id="a")
        await there.push(other, id="b")
        await there.push("", id="c")
        await here.push("", id="d")
        nursery.start_soon(Worker("here", here, waiting_in(there), concurrency=1, lend=0).run)
        nursery.start_soon(Worker("there", there, waiting_in(here), concurrency=1, lend=0).run)
        await trio.sleep(8)
        said = [each.getMessage() for each in caplog.records]
        assert len(said) == 2
        assert any("worker 'here' stalls" in each and f"task a waits for task {one}" in each for each in said)
        assert any("worker 'there' stalls" in each and f"task b waits for task {other}" in each for each in said)
        nursery.cancel_scope.cancel()


async def test_a_wait_for_what_is_attempted_is_no_stall(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    here, there = MemoryStorage[int](), MemoryStorage[int]()

    async def wait(n: int) -> None:
        await there.wait_for("slow")

    async def sleep(n: int) -> None:
        await trio.sleep(100)

    async with trio.open_nursery() as nursery:
        await there.push(0, id="slow")
        await here.push(0)
        here.close()
        there.close()
        nursery.start_soon(Worker("here", here, wait, concurrency=1, lend=0).run)
        nursery.start_soon(Worker("there", there, sleep, concurrency=1).run)
    assert not caplog.records


def test_the_bound_is_checked() -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    storage = MemoryStorage[int]()
    assert Worker("w", storage, handler, concurrency=3).lend == 3
    assert Worker("w", storage, handler, lend=0).lend == 0
    assert WorkerBuilder("w").backend(storage).lend(2).build(handler).lend == 2
    with pytest.raises(ValueError, match="lend"):
        Worker("w", storage, handler, lend=-1)
