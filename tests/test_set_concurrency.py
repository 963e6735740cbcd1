"""``WorkerContext.set_concurrency``: more slots at once, fewer as their attempts end, none of them cancelled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import MemoryStorage, Worker, WorkerContext
from trio_tasks.layers import ConcurrencyLimit

from ._progress import until
from ._storages import STORAGES


class Attempts:
    """A handler whose attempts go on until they are let go."""

    def __init__(self) -> None:
        self.now: dict[int, trio.Event] = {}
        self.most = 0
        self.done: list[int] = []

    async def __call__(self, number: int) -> None:
        event = self.now[number] = trio.Event()
        self.most = max(self.most, len(self.now))
        try:
            await event.wait()
            self.done.append(number)
        finally:
            del self.now[number]

    async def wait_for(self, number: int) -> None:
        """Wait until so many are under way."""
        await until(lambda: len(self.now) == number)

    async def wait_for_done(self, number: int) -> None:
        """Wait until so many have ended."""
        await until(lambda: len(self.done) == number)

    def end(self, number: int = 1) -> None:
        for event in list(self.now.values())[:number]:
            event.set()


@asynccontextmanager
async def running(worker: Worker[Any, Any]) -> AsyncGenerator[WorkerContext, None]:
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(worker.run)
        yield context
        context.stop()


@pytest.mark.parametrize("kind", STORAGES)
async def test_more_slots_take_tasks_at_once(kind: str, tmp_path: Path) -> None:
    attempts = Attempts()
    async with STORAGES[kind](tmp_path / "store") as storage:
        await storage.push_bulk(range(10))
        async with running(Worker("w", storage, attempts, concurrency=2)) as context:
            await attempts.wait_for(2)
            context.set_concurrency(5)
            await attempts.wait_for(5)
            assert context.concurrency == context.statistics().concurrency == 5
            assert "5/5 slots" in repr(context)
            while len(attempts.done) < 10:
                attempts.end(5)
                await trio.sleep(0.001)
        assert attempts.most == 5


@pytest.mark.parametrize("kind", STORAGES)
async def test_fewer_slots_end_with_their_attempts_and_none_is_cancelled(kind: str, tmp_path: Path) -> None:
    attempts = Attempts()
    async with STORAGES[kind](tmp_path / "store") as storage:
        await storage.push_bulk(range(9))
        async with running(Worker("w", storage, attempts, concurrency=5)) as context:
            await attempts.wait_for(5)
            context.set_concurrency(2)
            attempts.end(5)
            await until(lambda: len(attempts.done) == 5)
            attempts.most = 0
            await attempts.wait_for(2)
            while len(attempts.done) < 9:
                attempts.end(2)
                await trio.sleep(0.001)
            assert attempts.most == 2
            assert context.tally.released == 0
        assert sorted(attempts.done) == list(range(9))


@pytest.mark.parametrize("kind", STORAGES)
async def test_idle_slots_end_at_once_and_nothing_is_lost(kind: str, tmp_path: Path) -> None:
    attempts = Attempts()
    async with STORAGES[kind](tmp_path / "store") as storage:
        async with running(Worker("w", storage, attempts, concurrency=8)) as context:
            await until(lambda: context.statistics().slots_waiting >= 8)
            context.set_concurrency(1)
            await until(lambda: context.statistics().slots_waiting <= 1)
            await storage.push_bulk(range(4))
            for number in range(4):
                await attempts.wait_for(1)
                attempts.end()
                await attempts.wait_for_done(number + 1)
        assert attempts.most == 1
        assert attempts.done == list(range(4))


async def test_fewer_and_more_again_uses_the_slots_that_were_to_end() -> None:
    attempts = Attempts()
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(20))
    async with running(Worker("w", storage, attempts, concurrency=4)) as context:
        await attempts.wait_for(4)
        for concurrency in (1, 3, 2, 6, 1, 4):
            context.set_concurrency(concurrency)
        await attempts.wait_for(6)  # those that had begun go on
        attempts.end(6)
        await attempts.wait_for(4)
        while len(attempts.done) < 20:
            attempts.end(4)
            await trio.sleep(0.001)
        assert context.statistics().slots_waiting <= 4
    assert sorted(attempts.done) == list(range(20))


async def test_the_places_of_a_gate_are_given_back() -> None:
    attempts = Attempts()
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(6))
    worker = Worker("w", storage, attempts, concurrency=4, layers=[ConcurrencyLimit(2)])
    async with running(worker) as context:
        await attempts.wait_for(2)
        context.set_concurrency(1)
        attempts.end(2)
        await attempts.wait_for(1)
        context.set_concurrency(4)
        await attempts.wait_for(2)
        while len(attempts.done) < 6:
            attempts.end(2)
            await trio.sleep(0.001)
    assert attempts.most == 2


async def test_from_a_thread_and_from_a_handler() -> None:
    storage = MemoryStorage[int]()

    def in_a_thread(number: int, context: WorkerContext) -> None:
        context.set_concurrency(3)

    async def in_a_handler(number: int, context: WorkerContext) -> None:
        context.set_concurrency(2)
        await trio.lowlevel.checkpoint()

    handlers: list[tuple[Any, int]] = [(in_a_thread, 3), (in_a_handler, 2)]
    for handler, slots in handlers:
        worker: Worker[Any, Any] = Worker("w", storage, handler, concurrency=1)
        async with running(worker) as context:
            await storage.wait_for(await storage.push(1))
            assert context.concurrency == context.statistics().concurrency == slots
            for _ in range(100):
                await trio.testing.wait_all_tasks_blocked()
                if context.statistics().slots_waiting == slots:
                    break
            assert context.statistics().slots_waiting == slots
        assert worker.concurrency == 1


async def test_before_the_run_while_it_stops_and_after_it() -> None:
    attempts = Attempts()
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(3))
    worker = Worker("w", storage, attempts, concurrency=1)
    context = worker.prepare()
    context.set_concurrency(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, context)
        await attempts.wait_for(2)
        context.stop()
        context.set_concurrency(5)
        await trio.testing.wait_all_tasks_blocked()
        assert len(attempts.now) == 2
        attempts.end(2)
    context.set_concurrency(7)
    assert worker.concurrency == 1
    assert sorted(attempts.done) == [0, 1]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", None, True])
def test_what_is_no_concurrency_is_refused(wrong: Any) -> None:
    context = Worker("w", MemoryStorage[int](), Attempts()).prepare()
    with pytest.raises((TypeError, ValueError), match="concurrency must be"):
        context.set_concurrency(wrong)
    assert context.concurrency == 8
