"""Tests of promise 4: a worker receives only when it has a free slot and every layer is ready."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import Idle, MemoryStorage, Task, Worker, WorkerContext
from trio_tasks.abc import Handler

from tests.promises._run_worker import A_MONTH, EventRecord, run_for, run_handler


async def sleep_on(args: object) -> None:
    await trio.sleep_forever()


async def return_it(args: object) -> object:
    return args


class Gate:
    """A gate that is open or closed."""

    def __init__(self) -> None:
        self.opened = trio.Event()

    async def __call__(self, handler: Handler[Any, Any], task: Task[Any]) -> Any:
        return await handler(task)

    async def ready(self) -> None:
        await self.opened.wait()


class Slots(Gate):
    """A gate that counts, and that may be full after it has said that it is ready."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.opened.set()
        self.room = room
        self.turned_away = 0

    def admit(self, task: Task[Any]) -> bool:
        if not self.room:
            self.turned_away += 1
            self.opened = trio.Event()
            return False
        self.room -= 1
        return True

    def dismiss(self, task: Task[Any]) -> None:
        self.room += 1
        self.opened.set()


@pytest.mark.parametrize("concurrency", [1, 3, None])
async def test_promise_04_readiness_is_backpressure_a_slot_is_free(
    autojump_clock: MockClock, nursery: trio.Nursery, concurrency: int | None
) -> None:
    """The worker takes as many tasks as it can begin at once. The default is bounded, too."""
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(100))
    options: dict[str, Any] = {} if concurrency is None else {"concurrency": concurrency}
    context: WorkerContext = await nursery.start(Worker("busy", storage, sleep_on, **options).run)
    await trio.sleep(10)
    statistics = storage.statistics()
    assert (statistics.running, statistics.waiting) == (concurrency or 8, 100 - (concurrency or 8))
    assert context.task_count == context.concurrency == (concurrency or 8)
    assert not context.is_ready
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("unbounded", [math.inf, None, 0, -1])
def test_promise_04_readiness_is_backpressure_there_is_no_way_to_say_unbounded(unbounded: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="concurrency must be"):
        Worker("unbounded", MemoryStorage[int](), return_it, concurrency=unbounded)


@pytest.mark.parametrize("which", [0, 1])
async def test_promise_04_readiness_is_backpressure_every_gate_is_open(
    autojump_clock: MockClock, nursery: trio.Nursery, which: int
) -> None:
    """While one of the layers is not ready, the task stays in the backend, where another worker takes it."""
    storage, gates = MemoryStorage[str](), [Gate(), Gate()]
    record, other = EventRecord(), EventRecord()
    gates[1 - which].opened.set()
    await nursery.start(Worker("gated", storage, return_it, layers=gates, on_event=record).run)
    await storage.push("for another")
    await trio.sleep(10)
    assert (storage.statistics().waiting, record.outcomes) == (1, [])
    await nursery.start(Worker("free", storage, return_it, on_event=other).run)
    await trio.sleep(10)
    assert (storage.statistics().waiting, other.kinds) == (0, ["Succeeded"])
    nursery.cancel_scope.cancel()


async def test_promise_04_readiness_is_backpressure_a_gate_opens(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage, gate, record = MemoryStorage[str](), Gate(), EventRecord()
    await nursery.start(Worker("gated", storage, return_it, layers=[gate], on_event=record).run)
    await storage.push("waits")
    await trio.sleep(10)
    gate.opened.set()
    await trio.sleep(10)
    assert record.kinds == ["Succeeded"]
    nursery.cancel_scope.cancel()


async def test_promise_04_readiness_is_backpressure_a_paused_worker_takes_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage, record = MemoryStorage[str](), EventRecord()
    context: WorkerContext = await nursery.start(Worker("paused", storage, return_it, on_event=record).run)
    await wait_all_tasks_blocked()
    context.pause()
    await storage.push("waits")
    await trio.sleep(10)
    assert (context.is_paused, storage.statistics().waiting, record.outcomes) == (True, 1, [])
    context.resume()
    await trio.sleep(10)
    assert (context.is_paused, storage.statistics().waiting, record.kinds) == (False, 0, ["Succeeded"])
    nursery.cancel_scope.cancel()


async def test_promise_04_readiness_is_backpressure_a_busy_worker_that_is_paused_takes_no_more(
    autojump_clock: MockClock,
) -> None:
    storage, record = MemoryStorage[int](), EventRecord()
    await storage.push_bulk([1] * 10)
    async with trio.open_nursery() as nursery:
        worker = Worker("paused", storage, trio.sleep, concurrency=2, on_event=record)
        context: WorkerContext = await nursery.start(worker.run)
        await trio.sleep(0.5)
        context.pause()
        await trio.sleep(10)
        assert (record.kinds, storage.statistics().waiting) == (["Succeeded"] * 2, 8)
        context.resume()
        await trio.sleep(10)
        assert (record.kinds, storage.statistics().waiting) == (["Succeeded"] * 10, 0)
        context.pause()
        context.stop()  # a paused worker ends too


async def test_promise_04_readiness_is_backpressure_a_task_that_is_not_admitted_goes_back(
    autojump_clock: MockClock,
) -> None:
    """If several workers share a gate, another one may have taken the last place. The task goes back, and loses
    nothing.
    """
    storage, gate, records = MemoryStorage[int](), Slots(2), [EventRecord(), EventRecord()]
    running: list[int] = []

    async def handler(args: int) -> None:
        running.append(args)
        assert len(running) <= 2
        await trio.sleep(1)
        running.remove(args)

    await storage.push_bulk(range(20))
    storage.close()
    async with trio.open_nursery() as nursery:
        for record in records:
            worker = Worker("sharing", storage, handler, layers=[gate], concurrency=3, on_event=record)
            nursery.start_soon(worker.run)
    assert sum(len(record.outcomes) for record in records) == 20
    assert {kind for record in records for kind in record.kinds} == {"Succeeded"}
    assert {attempt for record in records for attempt in record.attempts} == {1}
    assert gate.turned_away
    assert gate.room == 2


async def test_promise_04_readiness_is_backpressure_an_idle_worker_does_not_poll(autojump_clock: MockClock) -> None:
    class Steps(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1

    counter = Steps()
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("idle", MemoryStorage[int](), return_it).run)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(counter)
        await trio.sleep(A_MONTH)
        trio.lowlevel.remove_instrument(counter)
        nursery.cancel_scope.cancel()
    assert counter.steps <= 2, "nobody but this test has woken up"


@pytest.mark.parametrize("gated", [False, True])
async def test_promise_04_readiness_is_backpressure_idle_is_said_when_it_is_true(
    autojump_clock: MockClock, gated: bool
) -> None:
    """A worker does not emit Idle between two tasks of a backlog."""
    gate = Gate()
    gate.opened.set()
    record = await run_handler(return_it, *range(10), layers=[gate] if gated else [])
    assert len(record.outcomes) == 10
    assert len(record.of(Idle)) <= 1


async def test_promise_04_readiness_is_backpressure_a_worker_does_not_starve_the_program(
    autojump_clock: MockClock,
) -> None:
    """Even where time stands still, a handler that pushes the next task at once lets other trio tasks run."""
    storage, most = MemoryStorage[int](), 20_000

    async def push_another(args: int) -> None:
        if args < most:
            storage.push_nowait(args + 1)

    await storage.push(0)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("eager", storage, push_another).run)
        await trio.lowlevel.checkpoint()
        context.stop()
    assert storage.statistics().succeeded < most


async def test_promise_04_readiness_is_backpressure_in_a_bounded_storage(autojump_clock: MockClock) -> None:
    """A push waits only while there is no room. An expired task makes room, too."""
    storage = MemoryStorage[int](1)
    await storage.push(0, expires_in=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.push, 1)
        await trio.sleep(10)
        assert storage.statistics().pushers_waiting == 1
        with trio.fail_after(10):
            assert (await storage.receive()).args == 1
        nursery.cancel_scope.cancel()


async def test_promise_04_readiness_is_backpressure_room_that_is_made_is_given(autojump_clock: MockClock) -> None:
    """Room is given to all pushes that wait for it: none waits while there is room."""
    storage = MemoryStorage[int](1)
    await storage.push(0, expires_in=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.push, 1)
        nursery.start_soon(storage.push, 2)
        await trio.sleep(10)
        await storage.receive()
        await trio.sleep(10)
        statistics = storage.statistics()
        nursery.cancel_scope.cancel()
    assert (statistics.waiting, statistics.pushers_waiting) == (1, 0)


async def test_promise_04_readiness_is_backpressure_holds_for_a_worker_that_is_cut(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))
    await run_for(5, Worker("cut", storage, sleep_on, concurrency=2))
    assert storage.statistics().released == 2
