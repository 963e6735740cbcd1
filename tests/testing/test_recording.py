"""Tests of Recording."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import (
    Custom,
    Engage,
    Error,
    Idle,
    MemoryStorage,
    Monitor,
    RetryPolicy,
    Start,
    Stop,
    Success,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks.testing import Recorded, Recording, run_until_idle


async def divide(n: int) -> float:
    await trio.sleep(1)
    return 1 / n


async def recorded(*args: int) -> Recording:
    recording, storage = Recording(), MemoryStorage[int]()
    for number, each in enumerate(args):
        await storage.push(each, id=f"task {number}")
    worker = Worker("w", storage, divide, concurrency=1, retry=RetryPolicy(2, constant(5.0)), on_event=recording)
    await run_until_idle(worker, delayed=True)
    return recording


async def test_events_are_recorded_with_their_worker_and_time(autojump_clock: MockClock) -> None:
    recording = await recorded(4, 0)
    assert [each for each in recording if each.kind is not Idle] == [
        Recorded(0, "w", Start),
        Recorded(0, "w", Engage, "task 0", 1, "4"),
        Recorded(1, "w", Success, "task 0", 1, "4", "0.25"),
        Recorded(1, "w", Engage, "task 1", 1, "0"),
        Recorded(2, "w", Error, "task 1", 1, "0", "Retried(error=ZeroDivisionError('division by zero'), after=5.0)"),
        Recorded(7, "w", Engage, "task 1", 2, "0"),
        Recorded(8, "w", Error, "task 1", 2, "0", "Failed(error=ZeroDivisionError('division by zero'))"),
        Recorded(8, "w", Stop),
    ]


async def test_it_can_be_sifted(autojump_clock: MockClock) -> None:
    recording = await recorded(4, 0, 2)
    assert [each.text for each in recording.of(Success)] == ["0.25", "0.5"]
    assert [each.attempt for each in recording.of(Engage, Error, task_id="task 1")] == [1, 1, 2, 2]
    assert recording.of() == list(recording)
    assert not recording.of(worker="another")
    assert len(recording.of(Stop, worker="w")) == 1


async def test_it_is_a_sequence(autojump_clock: MockClock) -> None:
    recording = await recorded(4)
    assert len(recording) == len(list(recording)) > 3
    assert recording[0].kind is Start
    assert [each.kind for each in recording[-1:]] == [Stop]
    assert recording[0] in recording
    assert repr(recording) == f"<Recording of {len(recording)} events>"


async def test_the_event_itself_is_kept_and_not_compared(autojump_clock: MockClock) -> None:
    first, second = await recorded(4), Recording()
    [success] = first.of(Success)
    assert isinstance(success.event, Success)
    assert success.event.task.args == 4
    autojump_clock.jump(1)
    second = await recorded(4)
    assert first.of(Success)[0].event != second.of(Success)[0].event
    assert Recorded(0, "w", Success, "1", event=success.event) == Recorded(0, "w", Success, "1")
    assert hash(success)


async def test_values_are_kept_as_they_were(autojump_clock: MockClock) -> None:
    args = [1]

    async def change(values: list[int]) -> list[int]:
        values.append(2)
        return values

    recording, storage = Recording(), MemoryStorage[list[int]]()
    await storage.push(args)
    await run_until_idle(Worker("w", storage, change, on_event=recording))
    args.append(3)
    assert [each.args for each in recording.of(Engage, Success)] == ["[1]", "[1, 2]"]
    assert [each.text for each in recording.of(Success)] == ["[1, 2]"]


async def test_addresses_are_left_out_and_what_cannot_be_shown_is_said(autojump_clock: MockClock) -> None:
    class WithoutRepr:
        def __repr__(self) -> str:
            raise ValueError

    recording = Recording()
    for value in (object(), WithoutRepr(), ["x"] * 1000):
        recording.note(value)
    plain, shy, long = (each.text for each in recording)
    assert plain == "<object object>"
    assert shy == "<WithoutRepr, whose repr raises ValueError>"
    assert 300 < len(long) < 500


async def test_notes_and_custom_events_stand_among_the_others(autojump_clock: MockClock) -> None:
    recording, storage = Recording(), MemoryStorage[int]()

    async def handler(n: int, context: WorkerContext) -> None:
        recording.note("here")
        context.emit(Custom(("there", n)))

    await storage.push(7)
    await run_until_idle(Worker("w", storage, handler, on_event=recording))
    assert recording.of(Custom) == [
        Recorded(0, "", Custom, text="here"),
        Recorded(0, "w", Custom, text="('there', 7)"),
    ]


async def test_several_workers_and_a_monitor(autojump_clock: MockClock) -> None:
    recording, storage = Recording(), MemoryStorage[int]()
    monitor = Monitor(on_event=recording)
    for name in ("a", "b"):
        monitor.register(Worker(name, storage, divide, concurrency=1))
    await storage.push_bulk([1, 2])
    storage.close()
    await monitor.run()
    assert sorted(each.worker for each in recording.of(Success)) == ["a", "b"]


def test_a_line_is_for_people() -> None:
    engage = Recorded(61.5, "emails", Engage, "task-1", 2, "Email('a')")
    assert str(engage) == "      61.500 s  emails       Engage    task-1 Email('a'), attempt 2"
    assert str(Recorded(0, "w", Start)) == "       0.000 s  w            Start"
    assert str(Recorded(0, "w", Custom, text="'x'")).endswith("Custom    'x'")
    assert str(Recorded(0, "w", Success, "t", 1, "1", "42")).endswith("t 1, attempt 1: 42")
