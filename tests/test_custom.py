"""Tests of CustomBackend, with and without a ``settle`` function."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Attempt,
    BackendError,
    CustomBackend,
    Failed,
    Killed,
    LeaseLostError,
    ListTasks,
    MemoryStorage,
    Outcome,
    Parts,
    Pipe,
    Released,
    Retried,
    RetryPolicy,
    Status,
    Succeeded,
    Suspended,
    Task,
    TaskId,
    TaskSink,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks._tasks.outcome import OUTCOMES

DONE = Succeeded(None)
ERROR = ValueError("no")


class OtherSystem:
    """An existing system: it keeps tasks in a deque, and their outcomes in a list."""

    def __init__(self, *waiting: Any) -> None:
        self.waiting: deque[Any] = deque(waiting)
        self.settled: list[tuple[Task[Any], Outcome]] = []
        self.closed = False
        self._changed = trio.Event()
        self.receivers = 0

    async def receive(self) -> Any:
        self.receivers += 1
        try:
            await trio.lowlevel.checkpoint()
            while not self.waiting:
                if self.closed:
                    raise trio.EndOfChannel
                await self._changed.wait()
            assert self.receivers == 1, "one at a time is enough"
            return self.waiting.popleft()
        finally:
            self.receivers -= 1

    async def push(self, task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.waiting.append(task)
        self._change()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await trio.lowlevel.checkpoint()
        self.settled.append((task, outcome))
        if isinstance(outcome, (Retried, Released, Suspended)):
            self.waiting.append(task)
            self._change()

    def close(self) -> None:
        self.closed = True
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def open(self) -> CustomBackend[Any]:
        return CustomBackend(receive=self.receive, push=self.push, settle=self.settle, close=self.close)


# Pushing


async def test_what_is_pushed_goes_to_the_function() -> None:
    system = OtherSystem()
    backend = system.open()
    task_id = await backend.push(1, priority=3)
    assert [(task.args, task.parts.id, task.parts.priority) for task in system.waiting] == [(1, task_id, 3)]
    with pytest.raises(TypeError, match="push_task takes a Task, not int"):
        await backend.push_task(5)  # type: ignore[arg-type]  # it is the wrong type on purpose


async def test_the_function_may_say_under_which_id_it_has_the_task() -> None:
    system = OtherSystem()

    async def push(task: Task[int]) -> TaskId:
        await trio.lowlevel.checkpoint()
        return TaskId("the one that was there")

    backend: CustomBackend[int] = CustomBackend(receive=system.receive, push=push)
    assert await backend.push(1) == "the one that was there"


async def test_without_a_function_nothing_can_be_pushed() -> None:
    backend: CustomBackend[int] = CustomBackend(receive=OtherSystem().receive)
    assert isinstance(backend, TaskSink)
    with pytest.raises(BackendError, match="made without push="):
        await backend.push(1)


async def test_closing_is_told_once_and_ends_pushing() -> None:
    closed: list[None] = []
    system = OtherSystem()
    backend: CustomBackend[int] = CustomBackend(
        receive=system.receive, push=system.push, close=lambda: closed.append(None)
    )
    backend.close()
    backend.close()
    assert closed == [None]
    with pytest.raises(trio.ClosedResourceError, match="nothing more can be pushed here"):
        await backend.push(1)
    with pytest.raises(BackendError, match="made without close="):
        CustomBackend(receive=system.receive).close()


# With settle=: another keeps the tasks


async def test_a_received_task_is_running_and_one_attempt_further() -> None:
    stored: Task[Any] = Task("whole", Parts(TaskId("mine"), attempt=Attempt(2)))
    stored.parts.context = "receipt handle"
    backend = OtherSystem("plain", stored).open()
    first, second = await backend.receive(), await backend.receive()
    assert (first.args, first.parts.attempt, first.parts.status) == ("plain", 1, Status.Running)
    assert (second.args, second.parts.id, second.parts.attempt) == ("whole", "mine", 3)
    assert second.parts.context == "receipt handle"
    assert (stored.parts.attempt, stored.parts.status) == (2, Status.Pending)


@pytest.mark.parametrize(
    ("outcome", "status", "attempt"),
    [
        (DONE, Status.Done, 3),
        (Retried(ERROR), Status.Pending, 3),
        (Failed(ERROR), Status.Failed, 3),
        (Killed(ERROR), Status.Killed, 3),
        (Released(), Status.Pending, 2),
        (Suspended(math.inf), Status.Pending, 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OUTCOMES) else None,
)
async def test_settle_is_given_the_task_as_it_is_to_be_stored(outcome: Outcome, status: Status, attempt: int) -> None:
    stored: Task[Any] = Task("args", Parts(TaskId("mine"), attempt=Attempt(2)))
    stored.parts.context = "receipt handle"
    system = OtherSystem(stored)
    backend = system.open()
    task = await backend.receive()
    await backend.settle(task, outcome)
    [(told, how)] = system.settled
    assert (told.args, told.parts.id, told.parts.context) == ("args", "mine", "receipt handle")
    assert (told.parts.status, told.parts.attempt, how) == (status, attempt, outcome)
    assert task.parts.status is status
    assert (told.parts.run_at is None) is not isinstance(outcome, (Retried, Suspended))


async def test_what_is_no_outcome_is_refused() -> None:
    for backend in (OtherSystem("args").open(), CustomBackend(receive=OtherSystem("args").receive)):
        task = await backend.receive()
        with pytest.raises(
            TypeError, match="an outcome is Succeeded, Retried, Failed, Killed, Released or Suspended, not 5"
        ):
            await backend.settle(task, 5)  # type: ignore[arg-type]  # it is the wrong type on purpose
        await backend.settle(task, DONE)


async def test_only_running_tasks_are_settled() -> None:
    system = OtherSystem("args")
    backend = system.open()
    task = await backend.receive()
    await backend.settle(task, Retried(ERROR))
    with pytest.raises(LeaseLostError, match="not running"):
        await backend.settle(task, DONE)
    with pytest.raises(LeaseLostError, match="not running"):
        await backend.settle(Task("stranger"), DONE)
    assert len(system.settled) == 1


async def test_a_task_that_settling_brought_back_at_once_is_another_attempt() -> None:
    system = OtherSystem("args")
    again: list[Task[Any]] = []

    async def slow_settle(task: Task[Any], outcome: Outcome) -> None:
        await system.settle(task, outcome)
        await wait_all_tasks_blocked()  # the other one has received it by now

    async def receive() -> None:
        again.append(await backend.receive())

    backend: CustomBackend[Any] = CustomBackend(receive=system.receive, settle=slow_settle)
    first = await backend.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await backend.settle(first, Retried(ERROR))
    assert again[0].parts.attempt == 2
    await backend.settle(again[0], DONE)


@pytest.mark.parametrize("way", ["cancelled", "failed"])
async def test_a_settlement_that_did_not_happen_can_be_repeated(way: str, autojump_clock: MockClock) -> None:
    system = OtherSystem("args")
    broken = True

    async def settle(task: Task[Any], outcome: Outcome) -> None:
        if broken and way == "failed":
            raise OSError("no connection")
        await trio.sleep(10 if broken else 0)
        await system.settle(task, outcome)

    backend: CustomBackend[Any] = CustomBackend(receive=system.receive, settle=settle)
    task = await backend.receive()
    if way == "cancelled":
        with trio.move_on_after(1):
            await backend.settle(task, DONE)
    else:
        with pytest.raises(OSError, match="no connection"):
            await backend.settle(task, DONE)
    assert task.parts.status is Status.Running
    broken = False
    await backend.settle(task, DONE)
    assert [outcome for _, outcome in system.settled] == [DONE]


async def test_a_settlement_that_failed_does_not_end_a_later_claim() -> None:
    system = OtherSystem("args")

    async def settle(task: Task[Any], outcome: Outcome) -> None:
        await system.settle(task, outcome)
        if len(system.settled) == 1:
            await wait_all_tasks_blocked()  # the other one has received it by now
            raise OSError("no answer")

    async def receive() -> None:
        again.append(await backend.receive())

    again: list[Task[Any]] = []
    backend: CustomBackend[Any] = CustomBackend(receive=system.receive, settle=settle)
    first = await backend.receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        with pytest.raises(OSError, match="no answer"):
            await backend.settle(first, Retried(ERROR))
    with pytest.raises(LeaseLostError, match="not running"):
        await backend.settle(first, DONE)
    await backend.settle(again[0], DONE)


async def test_a_lease_that_is_lost_elsewhere_is_lost_here() -> None:
    asked = 0

    async def settle(task: Task[str], outcome: Outcome) -> None:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        raise LeaseLostError("somebody else has it")

    backend: CustomBackend[str] = CustomBackend(receive=OtherSystem("args").receive, settle=settle)
    task = await backend.receive()
    with pytest.raises(LeaseLostError, match="somebody else"):
        await backend.settle(task, DONE)
    with pytest.raises(LeaseLostError, match="not running"):
        await backend.settle(task, DONE)
    assert asked == 1


async def test_a_task_that_is_given_out_again_is_lost_to_its_older_attempt(autojump_clock: MockClock) -> None:
    stored: Task[Any] = Task("args", Parts(TaskId("mine")))
    system = OtherSystem(stored)
    ended: list[str] = []
    runs = 0

    async def handle(task: Task[Any]) -> str:
        nonlocal runs
        runs += 1
        run = runs
        try:
            await trio.sleep(10 * run)
        finally:
            ended.append(f"run {run} at {trio.current_time() - start:.0f}")
        return f"run {run}"

    async def give_it_out_again() -> None:
        await trio.sleep(3)
        await system.push(stored)
        system.close()

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_it_out_again)
        await Worker("w", system.open(), handle, concurrency=2).run()
    assert ended == ["run 1 at 3", "run 2 at 23"]
    assert [outcome for _, outcome in system.settled] == [Succeeded("run 2")]


@pytest.mark.parametrize("steps", range(12))
async def test_a_worker_that_is_cut_short_anywhere_loses_nothing(steps: int) -> None:
    system = OtherSystem(*range(5))
    backend = system.open()

    async def handle(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n

    worker = Worker("w", backend, handle, concurrency=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    system.close()
    await worker.run()
    assert sorted(outcome.result for _, outcome in system.settled if isinstance(outcome, Succeeded)) == list(range(5))
    assert all(task.parts.attempt == 1 for task, outcome in system.settled if isinstance(outcome, Succeeded))


# Without settle=: it keeps what comes back


async def test_a_retried_task_waits_here_where_the_backend_cannot_take_it_back(autojump_clock: MockClock) -> None:
    system = OtherSystem("first", "second")
    backend: CustomBackend[Any] = CustomBackend(receive=system.receive, close=system.close)
    start = trio.current_time()
    await backend.settle(await backend.receive(), Retried(ERROR, 10))
    await backend.settle(await backend.receive(), Released())
    assert (await backend.receive()).args == "second"
    again = await backend.receive()
    assert (again.args, again.parts.attempt) == ("first", 2)
    assert trio.current_time() == start + 10
    backend.close()
    with pytest.raises(trio.EndOfChannel):
        await backend.receive()
    await backend.settle(again, DONE)
    with pytest.raises(LeaseLostError):
        await backend.settle(again, DONE)


async def test_dead_letters_are_readable_where_they_are_kept() -> None:
    system = OtherSystem("args")
    keeping: CustomBackend[Any] = CustomBackend(receive=system.receive)
    await keeping.settle(task := await keeping.receive(), Failed(ERROR))
    assert isinstance(keeping, ListTasks)
    assert [each.parts.id for each in await keeping.list_tasks(Status.Failed)] == [task.parts.id]
    assert not isinstance(system.open(), ListTasks)


# Both


@pytest.mark.parametrize("keeps", [False, True], ids=["with settle", "without"])
@pytest.mark.parametrize("steps", range(8))
async def test_a_receive_that_is_cancelled_has_taken_nothing(keeps: bool, steps: int) -> None:
    system = OtherSystem(*range(4))
    backend: CustomBackend[int] = (
        CustomBackend(receive=system.receive) if keeps else CustomBackend(receive=system.receive, settle=system.settle)
    )
    received: list[int] = []

    async def keep_receiving() -> None:
        while len(received) < 4:
            received.append((await backend.receive()).args)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_receiving)
        nursery.start_soon(keep_receiving)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await keep_receiving()
    assert received == list(range(4))


@pytest.mark.parametrize("keeps", [False, True], ids=["with settle", "without"])
async def test_a_worker_runs_on_it(keeps: bool, autojump_clock: MockClock) -> None:
    system = OtherSystem(*range(6))
    backend: CustomBackend[int] = CustomBackend(
        receive=system.receive, push=system.push, settle=None if keeps else system.settle, close=system.close
    )
    attempts: dict[int, int] = {}

    async def handle(n: int, attempt: Attempt) -> None:
        await trio.sleep(1)
        attempts[n] = attempt
        if attempt == 1 and n % 2:
            raise ERROR

    async with trio.open_nursery() as nursery:
        worker = Worker("w", backend, handle, concurrency=2, retry=RetryPolicy(2, constant(0)))
        nursery.start_soon(worker.run)
        await backend.push(6)
        await trio.sleep(60)
        backend.close()
    assert attempts == {n: 1 + n % 2 for n in range(7)}


async def test_leases_are_renewed_by_beat(autojump_clock: MockClock) -> None:
    beats: list[tuple[float, str]] = []

    async def beat(context: WorkerContext) -> None:
        await trio.lowlevel.checkpoint()
        beats.append((trio.current_time() - start, context.name))

    async def handle(n: int) -> None:
        await trio.sleep(25)

    system = OtherSystem(1)
    system.close()
    start = trio.current_time()
    backend: CustomBackend[int] = CustomBackend(receive=system.receive, beat=beat, heartbeat_interval=10)
    await Worker("w", backend, handle).run()
    assert beats == [(0, "w"), (10, "w"), (20, "w")]


async def test_it_can_be_carried_into() -> None:
    system = OtherSystem()
    send, receive = trio.open_memory_channel[int](math.inf)
    handled: list[int] = []

    async def handle(n: int) -> None:
        handled.append(n)

    for n in range(3):
        send.send_nowait(n)
    send.close()
    await Worker("w", Pipe(receive, system.open()), handle, concurrency=1).run()
    assert handled == [0, 1, 2]


async def test_a_function_that_fails_ends_the_worker() -> None:
    async def receive() -> int:
        raise OSError("no connection")

    async def handle(n: int) -> None: ...

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no connection")):
        await Worker("w", CustomBackend(receive=receive), handle, concurrency=1).run()


async def test_a_function_that_is_not_async_is_named() -> None:
    def wrong(*args: object) -> int:
        return 1

    backend: CustomBackend[int] = CustomBackend(
        receive=wrong,  # type: ignore[arg-type]  # it is the wrong type on purpose
        push=wrong,  # type: ignore[arg-type]  # it is the wrong type on purpose
    )
    with pytest.raises(
        TypeError, match=r"receive must be an async function, but .*wrong.* returned int, not an awaitable"
    ):
        await backend.receive()
    with pytest.raises(TypeError, match="push must be an async function"):
        await backend.push(1)


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"receive": 5}, r"receive must be callable, as async receive\(\)"),
        ({"receive": None}, r"receive must be callable"),
        ({"push": 5}, r"push must be callable, as async push\(task\)"),
        ({"settle": 5}, r"settle must be callable, as async settle\(task, outcome\)"),
        ({"beat": 5, "heartbeat_interval": 1}, r"beat must be callable, as async beat\(context\)"),
        ({"close": 5}, r"close must be callable, as close\(\)"),
        ({"beat": print}, "needs both beat and heartbeat_interval"),
        ({"heartbeat_interval": 1}, "needs both beat and heartbeat_interval"),
        ({"beat": print, "heartbeat_interval": 0}, "heartbeat_interval must be more than 0 seconds"),
        ({"recieve": print}, "unexpected keyword argument 'recieve'"),
    ],
)
async def test_what_it_cannot_use_is_refused_with_what_would_be_right(options: dict[str, Any], right: str) -> None:
    with pytest.raises((TypeError, ValueError), match=right):
        CustomBackend(**{"receive": MemoryStorage[int]().receive, **options})


async def test_it_describes_itself() -> None:
    assert (
        repr(OtherSystem().open())
        == "<CustomBackend receive=OtherSystem.receive, push=OtherSystem.push, settle=OtherSystem.settle>"
    )
