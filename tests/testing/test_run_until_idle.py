"""Tests of run_until_idle."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    Attempt,
    Event,
    FileStorage,
    MemoryStorage,
    Outcome,
    RetryAfterError,
    SqliteStorage,
    Status,
    Stop,
    Task,
    Worker,
    WorkerContext,
    WorkerReport,
)
from trio_tasks.abc import Backend
from trio_tasks.layers import ConcurrencyLimit, RateLimit
from trio_tasks.testing import Pause, ScriptedBackend, run_until_idle
from typing_extensions import assert_type


async def double(n: int) -> int:
    return n * 2


async def nap(seconds: float) -> None:
    await trio.sleep(seconds)


@pytest.mark.parametrize("slots", [1, 8])
async def test_it_does_all_that_is_ready_and_leaves_the_storage_open(slots: int) -> None:
    storage = MemoryStorage[int]()
    worker = Worker("test", storage, double, concurrency=slots)
    for count in (5, 100):
        await storage.push_bulk(range(count))
        report = await run_until_idle(worker)
        assert_type(report, WorkerReport)
        assert (report.worker, report.succeeded) == ("test", count)
    assert storage.statistics().waiting == 0
    await storage.push(1)


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])
async def test_on_a_storage_in_a_file_it_does_all_that_is_ready(kind: Any, delayed: bool, tmp_path: Path) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        for count in (3, 50):
            await storage.push_bulk(range(count))
            await storage.push(1, delay=0.1 if delayed else 3600)
            report = await run_until_idle(Worker("test", storage, double, concurrency=2), delayed=delayed)
            assert report.succeeded == count + delayed


async def test_with_nothing_to_do_it_returns_at_once() -> None:
    assert await run_until_idle(Worker("test", MemoryStorage[int](), double)) == WorkerReport("test")


async def test_a_closed_storage_ends_it() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    worker = Worker("test", storage, double)
    assert (await run_until_idle(worker)).succeeded == 1
    assert (await run_until_idle(worker)).succeeded == 0


@pytest.mark.parametrize("slots", [1, 3])
async def test_attempts_that_wait_are_waited_for(slots: int, autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([5, 1, 3])
    report = await run_until_idle(Worker("test", storage, nap, concurrency=slots))
    assert report.succeeded == 3
    assert trio.current_time() == (9 if slots == 1 else 5)


async def test_what_a_task_pushes_is_done_too(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()

    async def count_down(n: int) -> None:
        await trio.sleep(1)
        if n:
            await storage.push(n - 1)

    await storage.push(9)
    assert (await run_until_idle(Worker("test", storage, count_down))).succeeded == 10


async def test_what_others_are_about_to_push_is_done_too() -> None:
    storage = MemoryStorage[int]()

    async def push_slowly() -> None:
        for n in range(20):
            for _ in range(n):
                await trio.lowlevel.checkpoint()
            await storage.push(n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push_slowly)
        assert (await run_until_idle(Worker("test", storage, double))).succeeded == 20


async def test_a_sync_handler_is_waited_for() -> None:
    storage = MemoryStorage[int]()
    release = threading.Event()

    def wait(n: int) -> None:
        release.wait(10)

    async def let_go() -> None:
        await trio.testing.wait_all_tasks_blocked(0.05)
        release.set()

    await storage.push(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        assert (await run_until_idle(Worker("test", storage, wait))).succeeded == 1


async def fail_twice(n: int, attempt: Attempt) -> None:
    if attempt < 3:
        raise RetryAfterError("not yet", 3600)


async def test_delayed_and_retried_tasks_are_left(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    await storage.push(2, delay=60)
    report = await run_until_idle(Worker("test", storage, fail_twice))
    assert (report.retried, report.succeeded) == (1, 0)
    assert storage.statistics().waiting == 2
    assert trio.current_time() == 0


async def test_delayed_and_retried_tasks_are_waited_for_if_asked(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int](keep_results=0)  # what has ended is forgotten at once
    await storage.push(1)
    await storage.push(2, delay=60)
    report = await run_until_idle(Worker("test", storage, fail_twice), delayed=True)
    assert (report.retried, report.succeeded) == (4, 2)
    assert trio.current_time() == 7260


async def test_delayed_tasks_that_never_start_do_not_hold_it(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.reschedule(await storage.push(1, expires_in=30), 60)
    task_id = await storage.push(2, delay=1e6)

    async def think_better_of_it() -> None:
        await trio.sleep(100)
        await storage.cancel(task_id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(think_better_of_it)
        report = await run_until_idle(Worker("test", storage, double), delayed=True)
    assert report == WorkerReport("test")
    assert trio.current_time() == 100
    assert len(await storage.list_tasks(Status.Killed)) == 2


async def test_delayed_tasks_that_are_forgotten_do_not_trouble_it() -> None:
    async def forget(storage: MemoryStorage[int], task_id: str) -> None:
        await trio.testing.wait_all_tasks_blocked()
        await storage.cancel(task_id)
        await storage.vacuum()

    for _ in range(40):  # one in four falls between being listed and being waited for
        storage = MemoryStorage[int]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forget, storage, await storage.push(1, delay=1e6))
            assert await run_until_idle(Worker("test", storage, double), delayed=True) == WorkerReport("test")


async def test_delayed_tasks_of_a_channel(autojump_clock: trio.testing.MockClock) -> None:
    send, receive = trio.open_memory_channel[int](5)
    await send.send(1)
    await send.send(2)
    report = await run_until_idle(Worker("test", receive, fail_twice), delayed=True)
    assert (report.retried, report.succeeded) == (4, 2)
    send.close()


class Slow(Backend[int]):
    """A backend that takes time and cannot receive without waiting."""

    def __init__(self, count: int, *, in_threads: bool) -> None:
        self.left = count
        self.in_threads = in_threads
        self.turn = trio.Lock()

    async def receive(self) -> Task[int]:
        async with self.turn:
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            if self.in_threads:
                await trio.to_thread.run_sync(threading.Event().wait, 0.01)
            if not self.left:
                await trio.sleep_forever()
            self.left -= 1
            return Task(self.left)

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()


async def test_a_backend_that_has_to_look_is_given_the_time() -> None:
    report = await run_until_idle(Worker("test", Slow(7, in_threads=False), double, concurrency=2))
    assert report.succeeded == 7


async def test_a_cushion_is_for_backends_that_work_in_threads() -> None:
    report = await run_until_idle(Worker("test", Slow(7, in_threads=True), double, concurrency=2), cushion=0.5)
    assert report.succeeded == 7


@pytest.mark.parametrize("slots", [1, 4])
async def test_gates_are_waited_for(slots: int, autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(6))
    worker = Worker("test", storage, double, concurrency=slots, layers=[RateLimit(2, per=10), ConcurrencyLimit(1)])
    assert (await run_until_idle(worker)).succeeded == 6
    assert 20 <= trio.current_time() <= 30  # the gate is asked before the backend is


async def test_a_worker_with_gates_is_idle_in_the_end(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([1, 2])
    worker = Worker("test", storage, nap, concurrency=4, layers=[RateLimit(100, per=1)])
    with trio.fail_after(1000):
        assert (await run_until_idle(worker)).succeeded == 2
    assert trio.current_time() == 2


async def test_it_is_a_run_as_any_other() -> None:
    told: list[str] = []

    def listen(context: WorkerContext, event: Event) -> None:
        told.append(type(event).__name__)

    storage = MemoryStorage[int]()
    await storage.push(1)
    await run_until_idle(Worker("test", storage, double, concurrency=1, on_event=listen))
    assert told == ["Start", "Engage", "Success", "Idle", "Stop"]


async def test_cancelled_it_releases(autojump_clock: trio.testing.MockClock) -> None:
    stopped: list[WorkerContext] = []

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Stop):
            stopped.append(context)

    storage = MemoryStorage[float]()
    await storage.push(10)
    with trio.move_on_after(1) as scope:
        await run_until_idle(Worker("test", storage, nap, on_event=listen))
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert storage.statistics().released == storage.statistics().waiting == 1
    assert len(stopped) == 1


async def test_cancelled_while_it_waits_for_a_delayed_task(autojump_clock: trio.testing.MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1, delay=100)
    with trio.move_on_after(1) as scope:
        await run_until_idle(Worker("test", storage, double), delayed=True)
    assert scope.cancelled_caught
    assert storage.statistics().waiting == 1


async def test_a_backend_that_fails_comes_out_in_one_group() -> None:
    backend = ScriptedBackend[int]([1, ConnectionError("gone")])
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match="gone")):
        await run_until_idle(Worker("test", backend, double))


async def test_a_pause_in_a_script_is_idleness(autojump_clock: trio.testing.MockClock) -> None:
    backend = ScriptedBackend[int]([1, Pause(60), 2])
    worker = Worker("test", backend, double)
    assert (await run_until_idle(worker)).succeeded == 1
    await trio.sleep(60)
    assert (await run_until_idle(worker)).succeeded == 1


async def test_wrong_arguments_are_refused() -> None:
    worker = Worker("test", MemoryStorage[int](), double)
    with pytest.raises(TypeError, match="run_until_idle runs a Worker"):
        await run_until_idle(double)  # type: ignore[arg-type]  # it is the wrong type on purpose
    with pytest.raises(ValueError, match="cushion must be 0 or more"):
        await run_until_idle(worker, cushion=-1)
    with pytest.raises(TypeError, match="delayed=True needs a backend with list_tasks"):
        await run_until_idle(Worker("test", ScriptedBackend([1]), double), delayed=True)
