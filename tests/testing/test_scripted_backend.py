"""Tests of ScriptedBackend."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio_tasks import (
    Attempt,
    Event,
    Failed,
    Killed,
    LeaseLostError,
    Monitor,
    Outcome,
    Released,
    Retried,
    RetryAfterError,
    Status,
    Succeeded,
    Task,
    TaskId,
    Worker,
    WorkerContext,
)
from trio_tasks.testing import Pause, ScriptedBackend, run_until_idle


async def double(n: int) -> int:
    return n * 2


def outcomes(backend: ScriptedBackend[int]) -> list[Outcome]:
    return [outcome for _, outcome in backend.settled]


async def test_it_gives_what_the_script_says_and_ends() -> None:
    task = Task(3)
    backend = ScriptedBackend[int]([1, 2, task])
    report = await Worker("test", backend, double, concurrency=1).run()
    assert report.succeeded == 3
    assert [(each.args, outcome) for each, outcome in backend.settled] == [
        (1, Succeeded(2)),
        (2, Succeeded(4)),
        (3, Succeeded(6)),
    ]
    assert backend.settled[2][0] is task
    assert (task.parts.attempt, task.parts.status) == (1, Status.Done)


async def test_every_slot_has_its_line() -> None:
    backend = ScriptedBackend(range(100))
    await Worker("test", backend, double, concurrency=8).run()
    assert sorted(task.args for task, _ in backend.settled) == [*range(100)]


async def test_pauses(autojump_clock: trio.testing.MockClock) -> None:
    engaged: list[float] = []

    async def note(n: int) -> None:
        engaged.append(trio.current_time())

    backend = ScriptedBackend[int]([1, Pause(5), Pause(0.5), 2, 3, Pause(10)])
    await Worker("test", backend, note, concurrency=2).run()
    assert engaged == [0, 5.5, 5.5]
    assert trio.current_time() == 15.5


async def test_a_pause_goes_on_while_no_receiver_waits(autojump_clock: trio.testing.MockClock) -> None:
    backend = ScriptedBackend[int]([Pause(5), 1])
    with trio.move_on_after(2):
        await backend.receive()
    await trio.sleep(1)
    assert (await backend.receive()).args == 1
    assert trio.current_time() == 5


async def test_a_receive_that_is_cancelled_has_taken_nothing(autojump_clock: trio.testing.MockClock) -> None:
    backend = ScriptedBackend[int]([1, Pause(5), 2, OSError(), 3])
    received: list[object] = []

    async def take() -> None:
        try:
            received.append((await backend.receive()).args)
        except OSError as error:
            received.append(error)

    for _ in range(4):
        with trio.CancelScope() as scope:
            scope.cancel()
            await take()
        async with trio.open_nursery() as nursery:  # two wait, the first of them is cancelled
            with trio.CancelScope() as first:
                nursery.start_soon(take)
                first.cancel()
                await take()
    assert [type(each) for each in received] == [int, int, OSError, int]
    assert received[0] == 1


async def test_an_exception_is_raised_and_what_follows_can_still_be_received() -> None:
    error = ConnectionError("gone")
    backend = ScriptedBackend[int]([1, error, 2])
    worker = Worker("test", backend, double, concurrency=1)
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, check=lambda raised: raised is error)):
        await worker.run()
    assert outcomes(backend) == [Succeeded(2)]
    await worker.run()
    assert outcomes(backend) == [Succeeded(2), Succeeded(4)]


async def test_it_makes_a_monitor_restart_its_worker(autojump_clock: trio.testing.MockClock) -> None:
    backend = ScriptedBackend[int]([1, ConnectionError("gone"), 2])
    monitor = Monitor(should_restart=lambda context, error, attempt: True)
    monitor.register(Worker("test", backend, double))
    report = await monitor.run()
    assert report.restarts == 1
    settled: list[Any] = outcomes(backend)
    assert sorted(outcome.result for outcome in settled) == [2, 4]


async def test_what_is_retried_comes_again_only_if_it_is_written_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def fail_at_first(n: int, attempt: Attempt) -> int:
        if attempt == 1:
            raise RetryAfterError("not yet", 60)
        return attempt

    task = Task(1)
    backend = ScriptedBackend[int]([task, 2, Pause(60), task])
    await Worker("test", backend, fail_at_first, concurrency=1).run()
    first, other, second = backend.settled
    assert isinstance(first[1], Retried)
    assert isinstance(other[1], Retried)
    assert second[1] == Succeeded(2)
    assert second[0].parts.id == task.parts.id
    assert first[0] is task
    assert (task.parts.attempt, task.parts.status) == (1, Status.Pending)
    assert second[0].parts.status is Status.Done


async def test_a_release_costs_no_attempt() -> None:
    task = Task(1)
    backend = ScriptedBackend[int]([task, task, task])
    received = await backend.receive()
    await backend.settle(received, Released())
    assert received.parts.attempt == 1
    again = await backend.receive()
    assert (again.parts.id, again.parts.attempt) == (task.parts.id, 1)
    await backend.settle(again, Failed(ValueError()))
    assert (await backend.receive()).parts.attempt == 2


async def test_a_task_may_be_given_twice_at_once() -> None:
    task = Task(1)
    backend = ScriptedBackend[int]([task, task, task])
    one, other = await backend.receive(), await backend.receive()
    assert one is not other
    assert (one.parts.attempt, other.parts.attempt) == (1, 2)
    await backend.settle(one, Released())  # an older attempt, which has no say in what comes next
    assert (await backend.receive()).parts.attempt == 3


async def test_an_attempt_is_settled_once() -> None:
    backend = ScriptedBackend[int]([1])
    task = await backend.receive()
    await backend.settle(task, Succeeded(2))
    for stranger in (task, Task(1)):
        with pytest.raises(LeaseLostError, match="is not running"):
            await backend.settle(stranger, Succeeded(3))
    assert outcomes(backend) == [Succeeded(2)]


async def test_the_status_follows_the_outcome() -> None:
    outcome: Outcome
    for outcome, status in (
        (Succeeded(1), Status.Done),
        (Failed(ValueError()), Status.Failed),
        (Killed(ValueError()), Status.Killed),
        (Retried(ValueError()), Status.Pending),
        (Released(), Status.Pending),
    ):
        backend = ScriptedBackend[int]([1])
        task = await backend.receive()
        assert task.parts.status is Status.Running
        await backend.settle(task, outcome)
        assert task.parts.status is status


async def test_settling_takes_effect_even_if_it_is_cancelled() -> None:
    backend = ScriptedBackend[int]([1])
    task = await backend.receive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await backend.settle(task, Succeeded(2))
    assert not scope.cancelled_caught
    assert outcomes(backend) == [Succeeded(2)]


async def test_a_worker_that_is_cancelled_releases(autojump_clock: trio.testing.MockClock) -> None:
    async def nap(n: int) -> None:
        await trio.sleep(n)

    backend = ScriptedBackend[int]([1, 10, Pause(60), 2])
    with trio.move_on_after(5):
        await Worker("test", backend, nap).run()
    assert [(task.args, type(outcome)) for task, outcome in backend.settled] == [(1, Succeeded), (10, Released)]
    assert repr(backend) == "<ScriptedBackend: 2 lines left, 0 running, 2 settled>"


async def test_args_that_are_exceptions_go_in_a_task() -> None:
    error = ValueError()
    backend = ScriptedBackend[object]([Task(error), Task(ValueError), None, "text", Status.Done])
    assert [(await backend.receive()).args for _ in range(5)] == [error, ValueError, None, "text", Status.Done]


async def test_a_script_is_no_schedule(autojump_clock: trio.testing.MockClock) -> None:
    late = Task.builder(1).run_in_hours(1).id("late").build()
    backend = ScriptedBackend[int]([late, Task.builder(2).priority(9).build()])
    assert (await backend.receive()).parts.id == TaskId("late")
    assert trio.current_time() == 0


def test_lines_that_were_meant_otherwise_are_refused() -> None:
    for line, right in (
        (ValueError, r"write ValueError\(\.\.\.\)"),
        (Pause, r"Pause\(60\)"),
        (trio.EndOfChannel(), "it ends after its last line"),
        (trio.WouldBlock(), r"waits by Pause\(seconds\)"),
        (KeyboardInterrupt(), "must be an Exception"),
        (trio.sleep(1), r"to wait, use Pause\(seconds\)"),  # noqa: ASYNC105  that it is not awaited is the mistake
    ):
        with pytest.raises(TypeError, match=right):
            ScriptedBackend([line])
    for script in ("abc", b"abc", 5, None):
        with pytest.raises(TypeError, match="a script must be a list"):
            ScriptedBackend[object](script)  # type: ignore[arg-type]  # it is the wrong type on purpose


def test_wrong_pauses_are_refused() -> None:
    for seconds in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"Pause\.seconds must be"):
            Pause(seconds)
    with pytest.raises(TypeError, match=r"Pause\.seconds must be a number of seconds"):
        Pause("5")  # type: ignore[arg-type]  # it is the wrong type on purpose


async def test_run_until_idle_sees_it_to_its_end(autojump_clock: trio.testing.MockClock) -> None:
    told: list[Event] = []

    def listen(context: WorkerContext, event: Event) -> None:
        told.append(event)

    backend = ScriptedBackend[int]([1, 2])
    report = await run_until_idle(Worker("test", backend, double, on_event=listen))
    assert report.succeeded == 2
