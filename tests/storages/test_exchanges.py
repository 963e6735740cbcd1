from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import Failed, Released, Retried, RetryAfterError, Status, Succeeded, Task, Worker, WorkerContext
from trio_tasks._backends.durable.engine import State
from trio_tasks.layers import ConcurrencyLimit, RateLimit
from trio_tasks.testing._exploration.steps import StepCounter

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

from tests._attempt_checker import run_isolated
from tests.storages._engine import Storage, Store, TroubledEngine, broken


class Cut:
    """A scope that is cancelled before the k-th step that is taken inside it."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self.is_on = False
        self.step_counter = StepCounter(step, self.scope.cancel, lambda task: self.is_on and task is not None)


def steps_of(play: Callable[[Cut], Awaitable[None]]) -> int:
    """Run it again and again, cut before each of its steps; the number of the first that it did not take."""
    for step in count(1):
        cut = Cut(step)
        run_isolated(f"{play.__name__} cut before step {step}", partial(play, cut), cut.step_counter)
        if not cut.step_counter.was_reached:
            return step
    raise AssertionError("there is no end")


# Pushing


async def push_under_the_step_counter(cut: Cut) -> None:
    engine = TroubledEngine()
    engine.latency = 0.5
    async with Storage[str](engine) as storage:
        pushed: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.push, "before")
            cut.is_on = True
            with cut.scope:
                await trio.sleep(0.25)
                pushed.append(await storage.push("cut"))
                pushed.extend(await storage.push_bulk(["x", "y", "z"]))
            cut.is_on = False
        found = [task.args for task in await storage.list_tasks()]
        if len(pushed) == 0:
            assert found == ["before"]
        elif len(pushed) == 1:
            assert sorted(found) == ["before", "cut"]
        else:
            assert sorted(found) == ["before", "cut", "x", "y", "z"]


def test_a_push_that_was_cancelled_has_stored_nothing_wherever_it_was_cut() -> None:
    assert steps_of(push_under_the_step_counter) > 10


async def test_a_push_is_cancelled_while_it_waits_and_not_once_it_is_under_way(autojump_clock: MockClock) -> None:
    engine = TroubledEngine()
    async with Storage[str](engine) as storage:
        engine.latency = 5.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.push, "first")
            await trio.sleep(1)
            with trio.move_on_after(1) as waiting:
                await storage.push("second")
            assert waiting.cancelled_caught
            assert trio.current_time() == pytest.approx(2, abs=0.1)
            await trio.sleep(20)
            with trio.move_on_after(1):
                await storage.push("third")
            assert await storage.rows(State.WAITING)
        assert [task.args for task in await storage.list_tasks()] == ["first", "third"]


async def test_all_that_lines_up_goes_into_one_exchange(autojump_clock: MockClock) -> None:
    engine = TroubledEngine()
    async with Storage[int](engine) as storage:
        engine.latency = 1.0
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(storage.push, number)
        assert len([each for each in engine.exchanges if each.pushed]) <= 2
        assert len(await storage.rows(State.WAITING)) == 100
        assert engine.at_once == 1


# Receiving


async def receive_under_the_step_counter(cut: Cut) -> None:
    engine = TroubledEngine()
    engine.latency = 0.1
    async with Storage[str](engine) as storage:
        await storage.push("a")
        task: Task[str] | None = None
        cut.is_on = True
        with cut.scope:
            task = await storage.receive()
            cut.is_on = False
        cut.is_on = False
        await trio.sleep(1)
        running, waiting = await storage.rows(State.RUNNING), await storage.rows(State.WAITING)
        assert (len(running), len(waiting)) == ((1, 0) if task is not None else (0, 1))
        again = task or await storage.receive()
        assert again.parts.attempt == 1
        await storage.settle(again, Succeeded(None))


def test_a_receive_that_was_cancelled_has_taken_nothing_wherever_it_was_cut() -> None:
    assert steps_of(receive_under_the_step_counter) > 3


async def test_prefetched_rows_that_no_receiver_takes_are_given_back(autojump_clock: MockClock) -> None:
    store = Store()
    engine, other = TroubledEngine(store), TroubledEngine(store)
    engine.latency = 0.5
    async with Storage[int](engine) as storage, Storage[int](other) as elsewhere:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(storage.push, 1)
                await trio.sleep(0.6)
                nursery.cancel_scope.deadline = trio.current_time() + 0.1  # while the claim is under way
                nursery.start_soon(storage.receive)
                await trio.sleep_forever()
            assert not scope.cancelled_caught
        with trio.fail_after(3):
            task = await elsewhere.receive()
        assert (task.args, task.parts.attempt) == (1, 1)


# Settling


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Succeeded(1), State.DONE),
        (Failed(ValueError()), State.FAILED),
        (Retried(ValueError()), State.WAITING),
        (Released(), State.WAITING),
    ],
)
async def test_settling_cannot_be_cancelled(autojump_clock: MockClock, outcome: Any, state: State) -> None:
    engine = TroubledEngine()
    async with Storage[int](engine) as storage:
        await storage.push(1)
        task = await storage.receive()
        engine.latency = 5.0
        with trio.CancelScope() as scope:
            scope.cancel()
            await storage.settle(task, outcome)
        assert await storage.rows(state)


# Prefetch


async def most_running(storage: Storage[Any], seconds: int) -> int:
    most = 0
    for _ in range(seconds * 50):
        most = max(most, len(await storage.rows(State.RUNNING)))
        await trio.sleep(0.02)
    return most


@pytest.mark.parametrize("latency", [0.0, 0.03])
@pytest.mark.parametrize(
    ("layers", "slots"),
    [([], 5), ([ConcurrencyLimit(2)], 3), ([RateLimit(10, per=1.0)], 6)],
    ids=["none", "limit", "rate"],
)
async def test_no_more_is_claimed_than_there_are_free_slots(
    autojump_clock: MockClock, latency: float, layers: list[Any], slots: int
) -> None:
    engine = TroubledEngine()
    async with Storage[int](engine) as storage:
        await storage.push_bulk(range(200))
        engine.latency = latency

        async def handler(number: int) -> None:
            await trio.sleep(0.01 * (number % 7))

        worker = Worker("w", storage, handler, concurrency=5, layers=layers)
        async with trio.open_nursery() as nursery:
            context: WorkerContext = await nursery.start(worker.run)
            assert 0 < await most_running(storage, 2) <= slots
            context.stop()
        await trio.sleep(0.5)
        assert await storage.rows(State.RUNNING) == []


async def test_a_slow_worker_claims_no_more_than_its_slots(autojump_clock: MockClock) -> None:
    async with Storage[int]() as storage:
        await storage.push_bulk(range(50))
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, trio.sleep, concurrency=3).run)
            assert await most_running(storage, 5) == 3
            context.stop()


async def test_a_worker_that_is_paused_or_stopped_sits_on_nothing(autojump_clock: MockClock) -> None:
    engine = TroubledEngine()
    async with Storage[float](engine) as storage:
        await storage.push_bulk([0.1] * 50)
        engine.latency = 0.05
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, trio.sleep, concurrency=4).run)
            for delay in (0.0, 0.05, 0.13, 0.2, 0.31):
                await trio.sleep(delay)
                context.pause()
                await trio.sleep(1)
                assert await storage.rows(State.RUNNING) == []
                context.resume()
            await trio.sleep(0.02)
            context.stop()
        await trio.sleep(0.5)
        assert await storage.rows(State.RUNNING) == []
        assert await storage.rows(State.WAITING)
        assert {task.parts.attempt for task in await storage.list_tasks()} <= {0, 1}


# Closing


async def test_a_closed_queue_ends_when_it_is_empty(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        ends: list[float] = []

        async def drain() -> None:
            with pytest.raises(trio.EndOfChannel):
                while True:
                    await storage.settle(await storage.receive(), Succeeded(None))
            ends.append(trio.current_time())

        await storage.push("later", delay=60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            nursery.start_soon(drain)
            await trio.sleep(1)
            storage.close()
        assert ends == [pytest.approx(60, abs=0.1)] * 2
        with pytest.raises(trio.EndOfChannel):
            storage.receive_nowait()
        with pytest.raises(trio.ClosedResourceError):
            await storage.push("more")


async def test_what_came_later_than_its_lease_is_not_begun(autojump_clock: MockClock) -> None:
    """This happens if the process was suspended meanwhile. The task is given back, under a claim that may not count any
    more.
    """
    async with Storage[str](lease=5.0) as storage:
        await storage.push("x")
        storage.engine.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_later, storage.engine.gate, 8)
            task = await storage.receive()
        assert task.parts.context.until > storage.engine.now() + 4
        assert task.parts.attempt == 1  # it was never begun before
        assert task.parts.context.history == ()


async def test_a_row_that_came_later_than_its_lease_may_be_claimed_elsewhere(autojump_clock: MockClock) -> None:
    store = Store()
    slow, quick = TroubledEngine(store), TroubledEngine(store)
    async with Storage[str](slow, lease=5.0) as here, Storage[str](quick, lease=5.0) as there:
        await there.push("x")
        slow.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.receive)
            await trio.sleep(6)
            task = await there.receive()
            assert [each.became for each in task.parts.context.history] == ["lost"]
            slow.gate.set()
            await trio.sleep(1)
            await there.settle(task, Succeeded(None))
            nursery.cancel_scope.cancel()
        assert len(await here.rows(State.DONE)) == 1


async def test_what_came_late_is_not_kept_until_the_lease_that_the_store_has_noted(autojump_clock: MockClock) -> None:
    """The process counts a lease from the request, the store from the claim."""
    async with Storage[str](lease=5.0) as storage:
        await storage.push("x")
        storage.engine.latency = 8.0
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def be_quicker() -> None:
                await trio.sleep(1)
                storage.engine.latency = 0.0

            with trio.fail_after(9):
                task = await storage.receive()
        assert task.parts.attempt == 1


async def open_later(gate: trio.Event, seconds: float) -> None:
    await trio.sleep(seconds)
    gate.set()


async def test_news_that_comes_while_a_claim_is_under_way_is_not_lost(autojump_clock: MockClock) -> None:
    """The claim found no task, and its answer comes after the wake-up, so the answer is outdated."""
    store = Store()
    slow, quick = TroubledEngine(store), TroubledEngine(store)
    async with Storage[str](slow, poll_interval=1000) as here, Storage[str](quick) as there:
        slow.gate = trio.Event()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                with trio.fail_after(100):
                    assert (await here.receive()).args == "x"

            await trio.sleep(1)
            await there.push("x")
            slow.gate.set()


async def test_a_task_that_runs_for_long_keeps_a_closed_queue_open(autojump_clock: MockClock) -> None:
    """Its lease is renewed all the time, and the task may still come back."""
    async with Storage[str](lease=3.0) as storage:
        ended: list[float] = []

        async def handler(task: Task[str]) -> None:
            if task.parts.attempt < 2:
                await trio.sleep(20)
                raise RetryAfterError("again", 10)

        async def receive() -> None:
            async for _ in storage:
                pass
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(Worker("w", storage, handler, concurrency=1).run)
            await storage.push("x")
            await trio.sleep(1)
            storage.close()
            await receive()
        assert ended[0] - began >= 29


async def test_no_worker_ends_while_another_may_still_put_its_task_back(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        ended: dict[str, float] = {}

        async def handler(task: Task[str]) -> None:
            await trio.sleep(1)
            if task.parts.attempt < 3:
                raise RetryAfterError("again", 10)

        async def work(name: str) -> None:
            await Worker(name, storage, handler).run()
            ended[name] = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a")
            nursery.start_soon(work, "b")
            await trio.sleep(1)
            await storage.push("x")
            storage.close()
        assert ended == {"a": pytest.approx(24, abs=0.5), "b": pytest.approx(24, abs=0.5)}


async def test_a_closed_queue_waits_for_a_task_whose_settlement_failed(autojump_clock: MockClock) -> None:
    """No worker holds the task, but it will come back when its lease has run out."""
    async with Storage[str](lease=20.0) as storage:
        runs: list[float] = []

        async def handler(text: str) -> None:
            runs.append(trio.current_time())
            if len(runs) == 1:
                storage.engine.trouble = broken()

        task_id = await storage.push("x")
        storage.close()
        with pytest.raises(ExceptionGroup):  # noqa: ASYNC401  how its worker ends is somebody else's test
            await Worker("first", storage, handler, concurrency=1).run()
        storage.engine.trouble = None
        await Worker("second", storage, handler, concurrency=2).run()
        assert runs == [0.0, pytest.approx(20, abs=0.1)]
        assert (await storage.wait_for(task_id)).status is Status.Done
        with pytest.raises(trio.EndOfChannel):
            await storage.receive()


async def test_a_closed_queue_waits_for_a_task_that_was_received_outside_of_a_worker_and_lost(
    autojump_clock: MockClock,
) -> None:
    """While its lease lasts, the task does not keep the queue open. Afterwards another process may claim it, and put it
    back.
    """
    store = Store()
    here = Storage[str](TroubledEngine(store), lease=3.0, poll_interval=1000.0)
    there = Storage[str](TroubledEngine(store), lease=60.0)
    async with here, there:
        await here.push("x")
        await here.receive()
        task = await there.receive()
        here.close()
        with trio.move_on_after(5) as waiting:
            await here.receive()
        assert waiting.cancelled_caught
        await there.settle(task, Released())
        assert (await here.receive()).args == "x"


async def test_a_closed_queue_that_was_empty_once_is_looked_at_again(autojump_clock: MockClock) -> None:
    """Another process may have pushed since, and its wake-up may have been lost."""
    store = Store()
    polling_engine = TroubledEngine(store)
    polling_engine.misses_wakeups = True
    here = Storage[str](polling_engine, poll_interval=1000.0)
    there = Storage[str](TroubledEngine(store))
    async with here, there:
        here.close()
        with pytest.raises(trio.EndOfChannel):
            await here.receive()
        await there.push_bulk(["x", "y"])
        await trio.sleep(1)
        task = await here.receive()
        assert task.args == "x"
        await here.settle(task, Succeeded(None))

        async def handler(_: str) -> None:  # in no thread: the clock would jump over that
            await trio.lowlevel.checkpoint()

        await Worker("w", here, handler).run()
        assert len(await here.rows(State.DONE)) == 2


async def test_a_queue_with_several_handles_ends_when_all_are_closed(autojump_clock: MockClock) -> None:
    async with Storage[str]() as storage:
        twin = storage.share(queue="q")
        other = storage.share(queue="other")
        storage.close()
        with pytest.raises(trio.ClosedResourceError):
            await storage.push("no")
        await twin.push("yes")
        await other.push("there")
        assert (await storage.receive()).args == "yes"
        with trio.move_on_after(5) as scope:
            await storage.receive()
        assert scope.cancelled_caught
        await twin.aclose()
        twin.close()
        with pytest.raises(trio.EndOfChannel):
            await storage.receive()
        assert (await other.receive()).args == "there"
        with trio.move_on_after(5) as scope:
            await other.receive()
        assert scope.cancelled_caught


async def test_closing_the_storage_wakes_all_waiters(autojump_clock: MockClock) -> None:
    engine = TroubledEngine()
    errors: list[str] = []

    async def expect_closed(name: str, async_fn: Any, *args: Any) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await async_fn(*args)
        errors.append(name)

    async with trio.open_nursery() as nursery:
        storage = Storage[str](engine, poll_interval=1000.0)
        async with storage:
            task_id = await storage.push("later", delay=60)
            nursery.start_soon(expect_closed, "receive", storage.receive)
            nursery.start_soon(expect_closed, "wait_for", storage.wait_for, task_id)
            await trio.sleep(1)
            engine.latency = 1.0
            nursery.start_soon(storage.push, "under way")
            await trio.sleep(0.1)
            nursery.start_soon(expect_closed, "push", storage.push, "late")
            await trio.sleep(0.1)
    assert sorted(errors) == ["push", "receive", "wait_for"]


async def test_a_claim_that_is_under_way_when_the_storage_is_closed_is_given_back(
    autojump_clock: MockClock,
) -> None:
    store = Store()
    engine, other = TroubledEngine(store), TroubledEngine(store)
    async with Storage[str](other) as elsewhere:
        async with trio.open_nursery() as nursery:
            async with Storage[str](engine, poll_interval=1000.0) as storage:

                async def receive() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await storage.receive()

                nursery.start_soon(receive)
                await trio.sleep(1)
                engine.latency = 1.0
                await elsewhere.push("a")
                await trio.sleep(0.5)  # it has heard, and claims
        assert await elsewhere.rows(State.RUNNING) == []
        assert await elsewhere.rows(State.WAITING)


async def test_settling_while_it_closes_is_done(autojump_clock: MockClock) -> None:
    store = Store()
    engine, other = TroubledEngine(store), TroubledEngine(store)
    async with Storage[str](other) as elsewhere:
        async with trio.open_nursery() as nursery:
            async with Storage[str](engine) as storage:
                await storage.push_bulk(["a", "b"])
                a, b = await storage.receive(), await storage.receive()
                engine.latency = 1.0
                nursery.start_soon(storage.settle, a, Succeeded(None))  # noqa: ASYNC111  it is closed under who waits: that is the test
                await trio.sleep(0.5)
                nursery.start_soon(storage.settle, b, Succeeded(None))  # noqa: ASYNC111  the same
                await trio.sleep(0.1)
        assert len(await elsewhere.rows(State.DONE)) == 2
