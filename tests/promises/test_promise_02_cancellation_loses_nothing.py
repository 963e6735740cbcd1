"""Tests of promise 2: after a cancellation at any checkpoint, every task is settled or back in the backend."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    Engage,
    Event,
    MemoryStorage,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Task,
    Worker,
    WorkerContext,
)
from trio_tasks.abc import Handler

from tests._attempt_checker import ALL
from tests.promises._cut_scenario import DO, ENDS, Scenario
from tests.promises._run_worker import EventRecord, Open, run_for, run_handler_on

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

CUTS = {"memory": DO, "slow": DO, "pipe": ENDS, "channel": ENDS}


@pytest.mark.parametrize(("over", "what"), [(over, what) for over, cuts in CUTS.items() for what in cuts])
def test_promise_02_cancellation_loses_nothing(over: str, what: str) -> None:
    for step in count(1):
        scenario = Scenario(over, what, step)
        scenario.run()
        assert not scenario.checker.faults, f"cut before step {step}"
        if not scenario.was_cut:
            assert step > 50, "the scenario has lost its steps"
            return


async def sleep_on(args: object) -> None:
    await trio.sleep_forever()


async def return_it(args: object) -> object:
    return args


def places(storage: MemoryStorage[Any]) -> tuple[int, int, int]:
    """Return how many tasks wait, are running, and are finished."""
    statistics = storage.statistics()
    assert (
        statistics.pushed
        == statistics.waiting + statistics.running + statistics.succeeded + statistics.failed + statistics.killed
    )
    return statistics.waiting, statistics.running, statistics.succeeded + statistics.failed + statistics.killed


async def test_promise_02_cancellation_loses_nothing_released_tasks_are_as_they_were(
    autojump_clock: MockClock,
) -> None:
    storage, record = MemoryStorage[int](), EventRecord()
    await storage.push_bulk(range(5), metadata={"tenant": "acme"})
    await run_for(10, Worker("cut", storage, sleep_on, concurrency=3, on_event=record))
    assert record.kinds == ["Released"] * 3
    assert places(storage) == (5, 0, 0)
    for task in await storage.list_tasks(limit=ALL):
        assert (task.parts.status, task.parts.attempt, task.parts.holder) == (Status.Pending, 0, None)
        assert task.parts.metadata == {"tenant": "acme"}


async def test_promise_02_cancellation_loses_nothing_a_cancelled_push_has_pushed_nothing(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[int](1)
    await storage.push(0)
    with trio.move_on_after(5) as scope:
        await storage.push(1)
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await MemoryStorage[int]().push(1)
    assert scope.cancelled_caught
    assert places(storage) == (1, 0, 0)
    assert (await storage.receive()).args == 0
    assert storage.statistics().pushers_waiting == 0


async def test_promise_02_cancellation_loses_nothing_of_a_bulk_a_beginning_is_stored(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[int](3)
    with trio.move_on_after(5) as scope:
        await storage.push_bulk(range(10))
    assert scope.cancelled_caught
    assert sorted(task.args for task in await storage.list_tasks()) == [0, 1, 2]


async def test_promise_02_cancellation_loses_nothing_a_push_and_a_cancel_in_one_step(
    autojump_clock: MockClock,
) -> None:
    """The receiver is cancelled after the task was handed to it, and before it has run."""
    storage = MemoryStorage[int]()
    received: list[int] = []

    async def receive() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            received.append((await storage.receive()).args)

    scopes: list[trio.CancelScope] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        storage.push_nowait(7)
        scopes[0].cancel()
    assert received == [7]
    assert places(storage) == (0, 1, 0)


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_promise_02_cancellation_loses_nothing_not_even_time(autojump_clock: MockClock, which: int) -> None:
    """One of the waiting receivers waits for the next due time. If it is cancelled, another one receives the task when
    it is due.
    """
    storage, begun = MemoryStorage[int](), trio.current_time()
    received: list[float] = []
    scopes: list[trio.CancelScope] = []

    async def receive() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await storage.receive()
            received.append(trio.current_time() - begun)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        storage.push_nowait(7, delay=5)
        scopes[which].cancel()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert received == [5]


async def test_promise_02_cancellation_loses_nothing_settling_is_shielded(autojump_clock: MockClock) -> None:
    backend = Open(0)

    async def take_time(task: Task[Any], outcome: Outcome) -> None:
        await trio.sleep(8)

    backend.on_settle = take_time
    await run_for(5, Worker("cut", backend, return_it))
    assert [outcome for _, outcome in backend.settled] == [Succeeded(0)]
    assert (backend.when("settle"), backend.when("settled")) == ([0], [8])


async def test_promise_02_cancellation_loses_nothing_and_the_shield_is_bounded(autojump_clock: MockClock) -> None:
    backend, begun = Open(0), trio.current_time()

    async def hang(task: Task[Any], outcome: Outcome) -> None:
        await trio.sleep_forever()

    backend.on_settle = hang
    with pytest.RaisesGroup(trio.TooSlowError, flatten_subgroups=True):
        await run_for(5, Worker("cut", backend, sleep_on, settle_timeout=3))
    assert trio.current_time() - begun == pytest.approx(8)
    assert backend.settled == []


async def test_promise_02_cancellation_loses_nothing_of_what_a_channel_gave(autojump_clock: MockClock) -> None:
    """A channel takes nothing back. So released and retried tasks are kept for the next worker on the channel."""
    send, receive = trio.open_memory_channel[int](10)
    send.send_nowait(7)
    send.close()
    await run_for(5, Worker("cut", receive, sleep_on))
    record = await run_handler_on(receive, return_it)
    assert record.kinds == ["Succeeded"]


class Failing:
    """A gate that raises in one of its methods."""

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def _do(self, verb: str) -> None:
        if verb == self._verb:
            raise ZeroDivisionError(verb)

    async def __call__(self, handler: Handler[Any, Any], task: Task[Any]) -> Any:
        self._do("call")
        return await handler(task)

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()
        self._do("ready")

    def admit(self, task: Task[Any]) -> bool:
        self._do("admit")
        return True

    def dismiss(self, task: Task[Any]) -> None:
        self._do("dismiss")


@pytest.mark.parametrize("verb", ["call", "ready", "admit", "dismiss"])
async def test_promise_02_cancellation_loses_nothing_though_a_gate_fails(autojump_clock: MockClock, verb: str) -> None:
    """A gate that fails may end the worker. The task that it was asked about is not lost."""
    storage = MemoryStorage[int]()
    await storage.push(0)
    with suppress(ExceptionGroup):
        await run_for(5, Worker("gated", storage, return_it, layers=[Failing(verb)]))
    assert storage.statistics().running == 0


@pytest.mark.parametrize("what", [KeyboardInterrupt, SystemExit])
async def test_promise_02_cancellation_loses_nothing_though_a_listener_is_interrupted(
    autojump_clock: MockClock, what: type[BaseException]
) -> None:
    """Ctrl-C may interrupt any line, also a line of a listener."""
    storage = MemoryStorage[int]()
    await storage.push(0)

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Engage):
            raise what

    with suppress(BaseExceptionGroup):
        await run_for(5, Worker("interrupted", storage, return_it, on_event=listen))
    assert storage.statistics().running == 0


async def test_promise_02_cancellation_loses_nothing_lease_lost_or_not_given_back_it_is_settled_once(
    autojump_clock: MockClock,
) -> None:
    """A second settlement, or one for an earlier attempt, is refused, and changes nothing."""
    storage = MemoryStorage[int]()
    await storage.push(0)
    first = await storage.receive()
    await storage.settle(first, Retried(ValueError(), 0))
    second = await storage.receive()
    for outcome in (Released(), Retried(ValueError(), 0)):
        with pytest.raises(Exception, match="not running in its attempt 1"):
            await storage.settle(first, outcome)
    assert places(storage) == (0, 1, 0)
    await storage.settle(second, Released())
    assert places(storage) == (1, 0, 0)
