from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import BackendError, Failed, LeaseLostError, Retried, Succeeded, Task, Worker
from trio_tasks._backends.durable.engine import State
from trio_tasks._backends.durable.queue import QueueState
from trio_tasks._concurrency.exception_groups import leaves

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

from tests.storages._engine import FinalError, Storage, Store, TroubledEngine, broken


async def test_a_push_while_the_engine_fails_raises_at_once(autojump_clock: MockClock) -> None:
    async with Storage[int]() as storage:
        storage.engine.trouble = broken()
        for _ in range(5):
            start = trio.current_time()
            with pytest.raises(BackendError, match="the line is dead"):
                await storage.push(1)
            assert trio.current_time() - start < 0.1
        storage.engine.trouble = None
        await storage.push(2)
        assert len(await storage.rows()) == 1


async def test_settling_is_tried_again_for_a_while(autojump_clock: MockClock) -> None:
    async with Storage[int]() as storage:
        await storage.push(1)
        task = await storage.receive()
        storage.engine.trouble = broken()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.settle, task, Succeeded(None))
            await trio.sleep(5)
            storage.engine.trouble = None
        assert trio.current_time() < 7
        assert await storage.rows(State.DONE) == [task.parts.id]


async def test_a_settlement_that_was_made_when_the_line_broke_is_a_lost_lease_at_worst(
    autojump_clock: MockClock,
) -> None:
    async with Storage[int]() as storage:
        await storage.push(1)
        task = await storage.receive()
        storage.engine.late_trouble = broken()
        async with trio.open_nursery() as nursery:

            async def settle() -> None:
                with suppress(LeaseLostError):
                    await storage.settle(task, Succeeded(None))

            nursery.start_soon(settle)
            await trio.sleep(1)
            storage.engine.late_trouble = None
        assert await storage.rows(State.DONE) == [task.parts.id]


async def test_receivers_wait_through_a_short_failure(autojump_clock: MockClock) -> None:
    store = Store()
    async with Storage[int](TroubledEngine(store)) as storage, Storage[int](TroubledEngine(store)) as other:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                assert (await storage.receive()).args == 1

            await trio.sleep(1)
            storage.engine.trouble = broken()
            await other.push(1)
            await trio.sleep(8)
            storage.engine.trouble = None
        assert trio.current_time() < 12


@pytest.mark.parametrize(("error", "patience"), [(broken, 10.0), (FinalError, 0.0)])
async def test_a_lasting_failure_is_raised_to_waiters(
    autojump_clock: MockClock, error: Callable[[], Exception], patience: float
) -> None:
    told: dict[str, float] = {}
    async with Storage[int]() as storage:
        await storage.push(1)
        task = await storage.receive()

        async def expect(name: str, async_fn: Any, *args: Any) -> None:
            with pytest.raises(BackendError):
                await async_fn(*args)
            told[name] = trio.current_time()

        storage.engine.trouble = error()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, "settle", storage.settle, task, Succeeded(None))
            nursery.start_soon(expect, "receive", storage.receive)
        assert told == {name: pytest.approx(patience, abs=2.0) for name in ("settle", "receive")}


async def test_a_worker_survives_a_short_failure_and_its_work_is_settled(autojump_clock: MockClock) -> None:
    async with Storage[float](lease=3.0) as storage:
        worker = Worker("w", storage, trio.sleep, concurrency=2)
        async with trio.open_nursery() as nursery:
            context = await nursery.start(worker.run)
            await storage.push_bulk([1.0] * 6)
            await trio.sleep(0.5)
            storage.engine.trouble = broken()
            await trio.sleep(1.5)  # longer than a heartbeat, shorter than a lease
            storage.engine.trouble = None
            await trio.sleep(10)
            context.stop()
        assert len(await storage.rows(State.DONE)) == 6
        assert (await storage.metrics())["retried"] == 0


async def test_a_worker_ends_when_the_engine_fails_for_good(autojump_clock: MockClock) -> None:
    async with Storage[float]() as storage:
        worker = Worker("w", storage, trio.sleep, concurrency=2)
        with pytest.raises(ExceptionGroup) as caught:  # noqa: ASYNC401  its leaves are what matters
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                await trio.sleep(1)
                storage.engine.trouble = FinalError("it is gone")
                await trio.sleep(60)
        assert {str(error) for error in leaves(caught.value)} == {"it is gone"}
        assert {type(error) for error in leaves(caught.value)} <= {BackendError, FinalError}


async def test_an_engine_that_fails_in_an_unforeseen_way_leaves_no_caller_waiting(autojump_clock: MockClock) -> None:
    async with Storage[int]() as storage:
        storage.engine.trouble = OverflowError("a bug")
        with trio.fail_after(60), pytest.raises(BackendError, match="OverflowError"):
            await storage.push(1)
        storage.engine.trouble = None
        await storage.push(2)


async def test_an_idle_storage_does_next_to_nothing(autojump_clock: MockClock) -> None:
    async with Storage[int](poll_interval=1.0) as storage:
        await trio.sleep(100)
        assert storage.engine.calls["exchange"] == 0
        with trio.move_on_after(100):
            await storage.receive()
        assert 90 <= storage.engine.calls["exchange"] <= 110
        await storage.push(1, delay=1000)
        with trio.move_on_after(100):
            await storage.receive()
        assert storage.engine.calls["exchange"] <= 230


async def test_what_falls_due_is_received_then_without_looking(autojump_clock: MockClock) -> None:
    async with Storage[int](poll_interval=1000.0) as storage:
        await storage.push(1, delay=33.3)
        await storage.receive()
        assert trio.current_time() == pytest.approx(33.3, abs=0.01)


async def test_news_that_went_astray_is_made_up_for_by_looking(autojump_clock: MockClock) -> None:
    store = Store()
    polling_engine = TroubledEngine(store)
    polling_engine.misses_wakeups = True
    async with Storage[int](polling_engine, poll_interval=2.0) as storage, Storage[int](TroubledEngine(store)) as other:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                await storage.receive()
                await storage.settle(await storage.receive(), Failed(ValueError()))

            await trio.sleep(10.5)
            await other.push(1)
            await trio.sleep(2.1)
            last = await other.push(2)
            assert (await other.wait_for(last)).status.value == "Failed"
        assert trio.current_time() < 16


async def test_retries_in_a_worker_wait_in_the_store(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        times: list[float] = []

        async def handler(task: Task[str]) -> None:
            times.append(trio.current_time())
            if task.parts.attempt < 3:
                raise ValueError("again")

        await storage.push("x")
        storage.close()
        await Worker("w", storage, handler).run()
        assert len(times) == 3
        [task] = await storage.list_tasks()
        assert [each.became for each in task.parts.context.history] == ["retried", "retried"]
    assert Retried(ValueError()).after == 0.0


async def test_any_end_of_the_loop_fails_all_waiters(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange loop is not expected to fail. If it does, a settlement, which cannot be cancelled, must not wait for
    ever."""
    engine = TroubledEngine()
    told: list[str] = []

    async def tell(async_fn: Callable[..., Any], *args: Any) -> None:
        with trio.CancelScope(shield=True):  # the storage cancels its block as well
            try:
                await async_fn(*args)
            except BackendError as error:
                told.append(str(error))

    with pytest.RaisesGroup(TypeError, flatten_subgroups=True):
        async with Storage[int](engine) as storage:
            await storage.push(1)
            task = await storage.receive()
            engine.latency = 1.0
            monkeypatch.setattr(QueueState, "deliver", None)  # as broken as it can be
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell, storage.receive)
                await trio.sleep(0.5)
                nursery.start_soon(tell, storage.settle, task, Succeeded(None))
                nursery.start_soon(tell, storage.push, 3)
                nursery.start_soon(tell, trio.sleep, 5)
                await tell(trio.sleep, 5)
                await tell(storage.push, 4)
    assert len(told) == 4
    assert all("the engine failed: TypeError" in each for each in told), told
    assert engine.calls["aclose"] == 1
