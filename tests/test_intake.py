"""Tests of receiving: never more tasks than slots, never past a gate, never while intake is closed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    Event,
    Idle,
    MemoryStorage,
    Outcome,
    Released,
    RetryPolicy,
    Start,
    Status,
    Stop,
    Task,
    Worker,
    WorkerContext,
    WorkerReport,
)
from trio_tasks.abc import ReceiveNowaitBackend
from trio_tasks.layers import CircuitBreaker, ConcurrencyLimit, RateLimit


async def no_op(n: int) -> None:
    pass


class Plain(Backend[int]):
    """A storage without ``nowait`` methods."""

    def __init__(self, storage: MemoryStorage[int]) -> None:
        self._storage = storage

    async def receive(self) -> Task[int]:
        return await self._storage.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await self._storage.settle(task, outcome)


class Gate:
    """A layer that lets attempts through while it is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.asked = 0
        self._opened = trio.Event()
        if is_open:
            self._opened.set()

    async def __call__(self, handler: Any, task: Task[Any]) -> Any:
        return await handler(task)

    async def ready(self) -> None:
        self.asked += 1
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


class QuickGate(Gate):
    """A gate that can tell at once that it is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        super().__init__(is_open=is_open)
        self.asked_at_once = 0

    def ready_nowait(self) -> None:
        self.asked_at_once += 1
        if not self._opened.is_set():
            raise trio.WouldBlock


class Counting(Gate):
    """A gate that counts attempts; with ``refuses_every_other`` it refuses every other one."""

    def __init__(self, room: int = 1, *, refuses_every_other: bool = False) -> None:
        super().__init__()
        self.room = room
        self.admitted: list[str] = []
        self.dismissed: list[str] = []
        self._left = trio.Event()
        self._refuses_every_other = refuses_every_other
        self._refused = False

    async def ready(self) -> None:
        while len(self.admitted) - len(self.dismissed) >= self.room:
            await self._left.wait()
        await trio.lowlevel.checkpoint()

    def admit(self, task: Task[Any]) -> bool:
        self._refused = self._refuses_every_other and not self._refused
        if not self._refused:
            self.admitted.append(task.parts.id)
        return not self._refused

    def dismiss(self, task: Task[Any]) -> None:
        self.dismissed.append(task.parts.id)
        self._left.set()
        self._left = trio.Event()


class QuickCounting(Counting):
    """A gate that counts attempts, and can tell at once that it is open."""

    def ready_nowait(self) -> None:
        if len(self.admitted) - len(self.dismissed) >= self.room:
            raise trio.WouldBlock


KINDS_OF_GATE = pytest.mark.parametrize("kind", [Gate, QuickGate])
KINDS_OF_COUNTING = pytest.mark.parametrize("counting", [Counting, QuickCounting])
WITH_AND_WITHOUT_GATES = pytest.mark.parametrize(
    "gates",
    [(), (QuickGate,), (lambda: ConcurrencyLimit(500), lambda: RateLimit(10**6, per=1), CircuitBreaker)],
    ids=["no gates", "a gate", "three gates"],
)


Gates = Sequence[Callable[[], Any]]


class Steps(trio.abc.Instrument):
    """Counts the steps of all trio tasks."""

    taken = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken += 1


# Slots


@pytest.mark.parametrize("slots", [1, 3])
async def test_no_more_tasks_are_running_than_there_are_slots(
    slots: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))

    async def handler(n: int) -> None:
        await trio.sleep(1)

    context: WorkerContext = await nursery.start(Worker("w", storage, handler, concurrency=slots).run)
    await trio.sleep(0.5)
    assert storage.statistics().running == len(context.running_tasks) == context.task_count == slots
    assert not context.is_ready
    storage.close()
    await context.wait_stopped()
    assert context.report().succeeded == 10


@WITH_AND_WITHOUT_GATES
@pytest.mark.parametrize("slots", [2, 8, 100])
async def test_every_slot_is_taken_while_there_is_something_to_do(
    slots: int, gates: Gates, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[float]()
    for n in range(5 * slots):
        storage.push_nowait(0 if n % 5 else 10)

    async def handler(seconds: float) -> None:
        if seconds:
            await trio.sleep(seconds)

    layers = [gate() for gate in gates]
    context: WorkerContext = await nursery.start(Worker("w", storage, handler, concurrency=slots, layers=layers).run)
    await trio.sleep(5)
    assert len(context.running_tasks) == slots
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(60))
async def test_no_slot_stays_idle_while_a_task_waits(seed: int, autojump_clock: MockClock) -> None:
    """Greedy scheduling ends within the total over the slots, and the longest; pauses come on top."""
    chance = random.Random(seed)
    slots = chance.choice([1, 2, 3, 10])
    storage = MemoryStorage[float]()
    durations = [chance.choice([-1, -1, 0, 1, 2, 5]) for _ in range(chance.randint(1, 150))]
    for each in durations:
        storage.push_nowait(each)
    storage.close()
    paused = 0.0

    async def handler(seconds: float, context: WorkerContext) -> None:
        if chance.random() < 0.05:
            context.pause()
            context.resume()
        if seconds >= 0:
            await trio.sleep(seconds)

    worker = Worker("w", storage, handler, concurrency=slots)
    context = worker.prepare()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, context)
        for _ in range(chance.randint(0, 4)):
            await trio.sleep(chance.choice([0, 0.5, 3]))
            context.pause()
            pause = chance.choice([0, 0.5, 3])
            await trio.sleep(pause)
            paused += pause
            context.resume()
    assert context.report().succeeded == len(durations)
    work = [max(each, 0.0) for each in durations]
    last_look = 4 * 3.5  # until the last pause, there may be nothing to do
    assert trio.current_time() - start <= max(sum(work) / slots + max(work) + paused, last_look)


# Taking turns


@WITH_AND_WITHOUT_GATES
@pytest.mark.parametrize("slots", [1, 8, 300])
async def test_a_backlog_of_no_ops_leaves_a_turn_to_others(slots: int, gates: Gates) -> None:
    """Whatever the number of slots, others wait for one slice and not for as many as there are slots."""
    storage = MemoryStorage[int]()
    for n in range(10_000 if gates else 100_000):
        storage.push_nowait(n)
    storage.close()
    handled_in_a_turn: list[int] = []

    async def take_turns() -> None:
        before = 0
        while True:
            await trio.lowlevel.checkpoint()
            now = storage.statistics().succeeded
            handled_in_a_turn.append(now - before)
            before = now

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await Worker("w", storage, no_op, concurrency=slots, layers=[gate() for gate in gates]).run()
        nursery.cancel_scope.cancel()
    assert max(handled_in_a_turn) < 2000


async def test_a_gate_that_never_waits_leaves_turns_to_others(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    class Careless(Gate):
        async def ready(self) -> None:
            pass

    storage = MemoryStorage[int]()
    await storage.push_bulk(range(1000))
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op, layers=[Careless()], concurrency=1).run)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    context.stop()
    await context.wait_stopped()
    assert storage.statistics().succeeded < 100


@WITH_AND_WITHOUT_GATES
@pytest.mark.parametrize("slots", [1, 8])
async def test_one_slice_takes_many_tasks(slots: int, gates: Gates, autojump_clock: MockClock) -> None:
    """A gate that can tell at once that it is open costs no checkpoint for each task."""
    storage, steps = MemoryStorage[int](), Steps()
    await storage.push_bulk(range(2000))
    storage.close()
    trio.lowlevel.add_instrument(steps)
    await Worker("w", storage, no_op, concurrency=slots, layers=[gate() for gate in gates]).run()
    trio.lowlevel.remove_instrument(steps)
    assert steps.taken < 200


@pytest.mark.parametrize("slots", [1, 8])
async def test_slots_that_waited_for_tasks_take_many_in_one_slice(slots: int, autojump_clock: MockClock) -> None:
    """A slot that is told that there are tasks does not hold the gates until it runs."""
    storage, steps = MemoryStorage[int](), Steps()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, no_op, concurrency=slots, layers=[ConcurrencyLimit(500)]).run)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        for n in range(2000):
            storage.push_nowait(n)
        storage.close()
    trio.lowlevel.remove_instrument(steps)
    assert storage.statistics().succeeded == 2000
    assert steps.taken < 200


@WITH_AND_WITHOUT_GATES
async def test_a_worker_gives_turns_even_if_time_stands_still(
    gates: Gates, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    handled = 0

    async def feed_itself(n: int) -> None:
        nonlocal handled
        handled += 1
        if handled < 100_000:
            storage.push_nowait(n + 1)

    await storage.push(0)
    layers = [gate() for gate in gates]
    context: WorkerContext = await nursery.start(Worker("w", storage, feed_itself, layers=layers).run)
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    context.stop()
    await context.wait_stopped()
    assert handled < 100_000


@WITH_AND_WITHOUT_GATES
async def test_a_cancellation_is_heeded_in_the_middle_of_a_backlog(gates: Gates, autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(100_000))
    async with trio.open_nursery() as nursery:

        async def cancel_at_ten(n: int) -> None:
            if n == 10:
                nursery.cancel_scope.cancel()

        await nursery.start(Worker("w", storage, cancel_at_ten, layers=[gate() for gate in gates]).run)
    counts = storage.statistics()
    assert counts.succeeded + counts.waiting == 100_000
    assert counts.waiting > 50_000


# Stopping and pausing


@WITH_AND_WITHOUT_GATES
@pytest.mark.parametrize("plain", [False, True], ids=["nowait", "plain"])
async def test_a_stop_from_a_handler_is_heeded_before_the_next_task(plain: bool, gates: Gates) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))

    async def handler(n: int, context: WorkerContext) -> None:
        if n == 3:
            context.stop()

    backend = Plain(storage) if plain else storage
    layers = [gate() for gate in gates]
    report = await Worker("w", backend, handler, concurrency=1, layers=layers).run()
    assert report.succeeded == 4
    assert storage.statistics().waiting == 6


@WITH_AND_WITHOUT_GATES
@pytest.mark.parametrize("plain", [False, True], ids=["nowait", "plain"])
async def test_a_pause_from_a_handler_is_heeded_before_the_next_task(
    plain: bool, gates: Gates, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))

    async def handler(n: int, context: WorkerContext) -> None:
        if n == 3:
            context.pause()

    backend = Plain(storage) if plain else storage
    layers = [gate() for gate in gates]
    context: WorkerContext = await nursery.start(Worker("w", backend, handler, concurrency=1, layers=layers).run)
    await trio.sleep(5)
    assert storage.statistics().succeeded == 4
    assert context.is_paused
    context.resume()
    storage.close()
    await context.wait_stopped()
    assert storage.statistics().succeeded == 10


async def test_a_pause_cancels_receivers_that_wait(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op, concurrency=3).run)
    await wait_all_tasks_blocked()
    assert storage.statistics().receivers_waiting == 3
    context.pause()
    await wait_all_tasks_blocked()
    assert storage.statistics().receivers_waiting == 0
    await storage.push(1)
    await trio.sleep(1)
    assert storage.statistics().waiting == 1
    context.resume()
    await wait_all_tasks_blocked()
    assert storage.statistics().succeeded == 1
    nursery.cancel_scope.cancel()


async def test_pausing_and_resuming_in_one_breath_changes_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op, concurrency=3).run)
    await wait_all_tasks_blocked()
    for _ in range(5):
        context.pause()
        context.resume()
    await storage.push_bulk(range(5))
    await trio.sleep(1)
    assert storage.statistics().succeeded == 5
    assert storage.statistics().receivers_waiting == 3
    context.pause()
    await wait_all_tasks_blocked()
    context.resume()
    context.pause()  # before the slots that wait have seen that intake was open
    await storage.push(9)
    await trio.sleep(1)
    assert storage.statistics().waiting == 1
    nursery.cancel_scope.cancel()


async def test_a_task_that_is_handed_over_while_the_door_closes_is_carried_out(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op, concurrency=2).run)
    await wait_all_tasks_blocked()
    storage.push_nowait(1)
    context.stop()
    await context.wait_stopped()
    assert storage.statistics().succeeded == 1
    assert context.report().succeeded == 1


async def test_a_paused_worker_can_be_stopped(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op).run)
    context.pause()
    await wait_all_tasks_blocked()
    context.stop()
    await context.wait_stopped()
    assert context.is_stopped


# Idle


def names(events: list[Event]) -> list[str]:
    return [type(each).__name__ for each in events if isinstance(each, (Start, Idle, Stop))]


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
async def test_idle_is_said_once_and_only_when_there_is_nothing_to_do(
    gated: bool, slots: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))
    events: list[Event] = []
    worker = Worker(
        "w",
        storage,
        no_op,
        concurrency=slots,
        layers=[Gate()] if gated else [],
        on_event=lambda _, event: events.append(event),
    )
    context: WorkerContext = await nursery.start(worker.run)
    await trio.sleep(1)
    assert names(events) == ["Start", "Idle"]
    await storage.push_bulk(range(3))
    await trio.sleep(1)
    assert names(events)[-1] == "Idle"
    context.stop()
    await context.wait_stopped()


# Gates


@KINDS_OF_GATE
async def test_nothing_is_received_while_a_gate_is_closed(
    kind: type[Gate], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage, gate = MemoryStorage[int](), kind(is_open=False)
    await storage.push(1)
    await nursery.start(Worker("w", storage, no_op, layers=[kind(), gate]).run)
    await trio.sleep(10)
    assert storage.statistics().waiting == 1
    assert gate.asked == 1  # one slot at a time asks
    gate.open()
    await trio.sleep(1)
    assert storage.statistics().succeeded == 1
    nursery.cancel_scope.cancel()


@KINDS_OF_GATE
async def test_a_worker_that_waits_at_a_gate_can_be_paused_and_stopped(
    kind: type[Gate], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage, gate = MemoryStorage[int](), kind(is_open=False)
    await storage.push(1)
    context: WorkerContext = await nursery.start(Worker("w", storage, no_op, layers=[gate]).run)
    await trio.sleep(1)
    context.pause()
    gate.open()
    await trio.sleep(1)
    assert storage.statistics().waiting == 1
    context.stop()
    await context.wait_stopped()
    assert storage.statistics().waiting == 1


async def test_a_gate_is_not_waited_for_while_all_gates_tell_at_once_that_they_are_open(
    autojump_clock: MockClock,
) -> None:
    storage, gates = MemoryStorage[int](), [QuickGate(), QuickGate()]
    await storage.push_bulk(range(10))
    await run_all(storage, gates)
    assert [gate.asked for gate in gates] == [0, 0]
    assert all(gate.asked_at_once >= 10 for gate in gates)
    await storage.push_bulk(range(10))
    slow = Gate()
    await run_all(storage, [*gates, slow])
    assert slow.asked >= 10


async def run_all(storage: MemoryStorage[int], gates: Sequence[Gate]) -> None:
    """Run a worker until it is idle."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, no_op, layers=gates).run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert storage.statistics().waiting == 0


@KINDS_OF_COUNTING
async def test_a_gate_that_counts_is_told_of_the_end_of_each_attempt_once(
    counting: type[Counting], autojump_clock: MockClock
) -> None:
    storage, gate = MemoryStorage[int](), counting(2)
    await storage.push_bulk(range(6))
    storage.close()
    most = 0

    async def handler(n: int, context: WorkerContext) -> None:
        nonlocal most
        most = max(most, len(context.running_tasks))
        await trio.sleep(1)
        if n % 2:
            raise ValueError("no")

    await Worker("w", storage, handler, layers=[gate]).run()
    assert most == 2
    assert sorted(gate.admitted) == sorted(gate.dismissed)
    assert storage.statistics().waiting == 0


@KINDS_OF_COUNTING
async def test_a_task_that_is_not_admitted_goes_back_untouched(
    counting: type[Counting], autojump_clock: MockClock
) -> None:
    storage, generous, refuses_every_other = MemoryStorage[int](), counting(9), counting(9, refuses_every_other=True)
    ids = await storage.push_bulk(range(3))
    storage.close()
    attempts: list[int] = []

    async def handler(task: Task[int]) -> None:
        attempts.append(task.parts.attempt)

    report = await Worker("w", storage, handler, layers=[generous, refuses_every_other], concurrency=1).run()
    assert report == WorkerReport("w", succeeded=3)
    assert attempts == [1, 1, 1]
    assert storage.statistics().released == 3
    assert refuses_every_other.admitted == ids
    assert sorted(generous.admitted) == sorted(generous.dismissed)


@KINDS_OF_COUNTING
@pytest.mark.parametrize("after", [0.0, 0.5])
async def test_a_task_that_is_not_admitted_goes_back_though_the_worker_is_cancelled_meanwhile(
    counting: type[Counting], after: float, autojump_clock: MockClock
) -> None:
    class Slow(Plain, ReceiveNowaitBackend[int]):
        def receive_nowait(self) -> Task[int]:
            return self._storage.receive_nowait()

        async def settle(self, task: Task[Any], outcome: Outcome) -> None:
            await trio.sleep(1)
            await super().settle(task, outcome)

    storage = MemoryStorage[int]()
    await storage.push(1)
    with trio.move_on_after(after) as cut:
        await Worker("w", Slow(storage), no_op, layers=[counting(9, refuses_every_other=True)]).run()
    assert cut.cancelled_caught
    assert storage.statistics().running == 0
    assert storage.statistics().waiting == 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("quick", "method"),
    [
        (False, "ready"),
        (False, "admit"),
        (False, "dismiss"),
        (True, "ready_nowait"),
        (True, "admit"),
        (True, "dismiss"),
    ],
)
@pytest.mark.parametrize("error", [ValueError("no idea"), SystemExit(3), GeneratorExit()], ids=repr)
async def test_a_gate_that_fails_costs_one_attempt_and_not_the_worker(
    quick: bool, first: bool, method: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failed = list[int]()

    def fail_once() -> None:
        if not failed:
            failed.append(1)
            raise error

    class Broken(Counting):
        async def ready(self) -> None:
            await super().ready()
            if method == "ready":
                fail_once()

        def admit(self, task: Task[Any]) -> bool:
            if method == "admit":
                fail_once()
            return super().admit(task)

        def dismiss(self, task: Task[Any]) -> None:
            super().dismiss(task)
            if method == "dismiss":
                fail_once()

    class QuickBroken(Broken):
        def ready_nowait(self) -> None:
            if method == "ready_nowait":
                fail_once()

    storage, counting, broken = MemoryStorage[int](), Counting(9), Broken(9)
    if quick:
        counting, broken = QuickCounting(9), QuickBroken(9)
    ids = await storage.push_bulk([1, 2, 3])
    storage.close()
    layers = [broken, counting] if first else [counting, broken]
    await Worker("w", storage, no_op, layers=layers, concurrency=1, retry=RetryPolicy(1)).run()
    results = [await storage.wait_for(task_id) for task_id in ids]
    if method == "dismiss":
        assert [result.status for result in results] == [Status.Done] * 3
        assert "failed to dismiss a task" in caplog.text
    else:
        assert [result.status for result in results] == [Status.Failed, Status.Done, Status.Done]
        assert results[0].error is error
    assert counting.admitted == counting.dismissed
    assert broken.admitted == broken.dismissed
    assert storage.statistics().running == 0


@pytest.mark.parametrize("quick", [False, True])
async def test_a_gate_that_always_fails_lets_the_worker_end(quick: bool) -> None:
    class Broken(Gate):
        async def ready(self) -> None:
            await trio.lowlevel.checkpoint()
            raise SystemExit("no idea")

    class QuickBroken(Gate):
        def ready_nowait(self) -> None:
            raise SystemExit("no idea")

    storage = MemoryStorage[int]()
    await storage.push_bulk(range(20))
    storage.close()
    gate = QuickBroken() if quick else Broken()
    report = await Worker("w", storage, no_op, layers=[gate], retry=RetryPolicy(1)).run()
    assert (report.succeeded, report.failed) == (0, 20)


@pytest.mark.parametrize("slots", [1, 5])
async def test_gated_slots_end_with_the_backend(slots: int, autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(7))
    await storage.push(8, delay=5)
    storage.close()
    report = await Worker("w", storage, no_op, layers=[Gate()], concurrency=slots).run()
    assert report.succeeded == 8


async def test_a_backend_that_will_not_have_a_task_back_has_failed(autojump_clock: MockClock) -> None:
    class CannotRelease(Plain):
        async def settle(self, task: Task[Any], outcome: Outcome) -> None:
            assert isinstance(outcome, Released)
            await trio.sleep_forever()

    storage = MemoryStorage[int]()
    await storage.push(1)
    start = trio.current_time()
    with pytest.RaisesGroup(trio.TooSlowError):
        await Worker(
            "w", CannotRelease(storage), no_op, layers=[Counting(9, refuses_every_other=True)], settle_timeout=4
        ).run()
    assert trio.current_time() - start == 4


async def test_a_worker_that_waits_at_a_shared_gate_is_not_overtaken(nursery: trio.Nursery) -> None:
    """The first worker has a backlog, and a slice that is not over, when its attempt ends. The second waited first."""
    storages, begun, shared = [MemoryStorage[str](), MemoryStorage[str]()], list[str](), ConcurrencyLimit(1)
    both_are_there = trio.Event()

    async def handler(name: str) -> None:
        begun.append(name)
        await both_are_there.wait()

    for storage, name in zip(storages, "ab", strict=True):
        await storage.push_bulk([name] * 20)
        nursery.start_soon(Worker("w", storage, handler, layers=[shared], concurrency=1).run)
        await wait_all_tasks_blocked()
    both_are_there.set()
    await wait_all_tasks_blocked()
    assert begun[:2] == ["a", "b"]
    assert sorted(begun) == ["a"] * 20 + ["b"] * 20
    nursery.cancel_scope.cancel()


# A backend that fails


@pytest.mark.parametrize("error", [OSError("gone"), trio.ClosedResourceError("closed")], ids=lambda e: type(e).__name__)
async def test_a_backend_that_fails_ends_the_worker_and_releases_running_tasks(
    error: Exception, autojump_clock: MockClock
) -> None:
    class Failing(Plain):
        async def receive(self) -> Task[int]:
            with trio.move_on_after(5):
                return await super().receive()
            raise error

    storage = MemoryStorage[int]()
    await storage.push(1)

    async def stuck(n: int) -> None:
        await trio.sleep_forever()

    with pytest.RaisesGroup(type(error)) as caught:
        await Worker("w", Failing(storage), stuck, concurrency=2).run()
    assert caught.value.exceptions == (error,)
    assert storage.statistics().waiting == 1
