"""Tests of FaultyBackend: it injects faults at the given rates, logs them, and breaks no promise itself."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    BackendError,
    FileStorage,
    LeaseLostError,
    MemoryStorage,
    Monitor,
    OrphanedError,
    RetryPolicy,
    SqliteStorage,
    SqliteTransaction,
    Status,
    Succeeded,
    Task,
    TaskSink,
    Worker,
    abc,
)
from trio_tasks.testing import (
    Fault,
    Faults,
    FaultyBackend,
    ScriptedBackend,
    check_backend,
    run_seeded,
    run_until_idle,
)

from tests.testing._leased_storage import LEASE, LeasedStorage, Store

RATES = [field.name for field in fields(Faults) if not field.name.endswith("_seconds")]
INTERFACES = [
    each
    for each in vars(abc).values()
    if issubclass(type(each), type)  # `list[int]` is no class on 3.10
    and inspect.isabstract(each)  # a base with all of its methods is no interface
    and not getattr(each, "_is_protocol", False)  # a layer is what has its verbs, a backend what says so
]


async def double(n: int) -> int:
    return n * 2


def memory(faults: Faults, *, seed: int = 0, **options: Any) -> tuple[MemoryStorage[int], FaultyBackend[int]]:
    storage = MemoryStorage[int]()
    return storage, FaultyBackend(storage, faults, seed=seed, **options)


def kinds(faulty: FaultyBackend[Any]) -> list[str]:
    return [fault.kind for fault in faulty.log]


async def drain(faulty: FaultyBackend[Any]) -> list[Any]:
    """What is at hand just now, or comes within a moment."""
    found = []
    with trio.move_on_after(0.001):
        while True:
            found.append(await faulty.receive())
    return [task.args for task in found]


# The door


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(
    ("value", "error"), [(-0.1, ValueError), (1.1, ValueError), (math.nan, ValueError), ("1", TypeError)]
)
def test_a_rate_is_a_fraction(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"Faults.{name} must be"):
        Faults(**{name: value})


@pytest.mark.parametrize("value", [3.0, (1.0,), (1.0, 2.0, 3.0), (2.0, 1.0), (-1.0, 1.0), (0.0, math.inf), ("1", "2")])
def test_a_range_is_two_times_the_shorter_first(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"Faults\.delay_seconds"):
        Faults(delay_seconds=value)


def test_what_is_away_is_away_for_some_time() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Faults(absence_seconds=(0.0, 1.0))


def test_faults_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Faults().drop = 0.5  # type: ignore[misc]  # that it cannot be done is the point


async def test_arguments_are_checked() -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(TypeError, match="faults must be a Faults"):
        FaultyBackend(storage, 0.5)  # type: ignore[arg-type]  # the mistake that is made here on purpose
    with pytest.raises(TypeError, match="seed must be a whole number"):
        FaultyBackend(storage, Faults(), seed=0.5)  # type: ignore[arg-type]  # the same
    with pytest.raises(TypeError, match="on_fault"):
        FaultyBackend(storage, Faults(), on_fault=3)  # type: ignore[arg-type]  # the same
    with pytest.raises(TypeError, match="a worker receives from a backend"):
        FaultyBackend([1, 2], Faults())  # type: ignore[arg-type]  # the same


@pytest.mark.parametrize("preset", [Faults.none(), Faults.unordered(), Faults.rough()])
def test_presets_differ(preset: Faults) -> None:
    others = [Faults.none(), Faults.unordered(), Faults.rough()]
    assert others.count(preset) == 1
    assert preset.jump == 0  # they do not ask for a MockClock


# Its shape


@pytest.mark.parametrize(
    "make",
    [MemoryStorage, lambda: LeasedStorage(Store()), lambda: ScriptedBackend([1]), FileStorage.temporary],
    ids=["memory", "leased", "scripted", "file"],
)
async def test_it_has_exactly_the_interfaces_of_what_is_inside(make: Callable[[], Any]) -> None:
    inside = make()
    faulty = FaultyBackend[Any](inside, Faults.none())
    assert isinstance(faulty, FaultyBackend)
    for interface in INTERFACES:
        assert isinstance(faulty, interface) == isinstance(inside, interface), interface
    assert faulty.heartbeat_interval == inside.heartbeat_interval
    assert faulty.settles_within_bounds == inside.settles_within_bounds


async def test_a_backend_that_stalls_cannot_settle_without_waiting() -> None:
    _, faulty = memory(Faults(stall=0.1))
    assert isinstance(faulty, abc.ReceiveNowaitBackend)
    assert not isinstance(faulty, abc.NowaitBackend)
    assert not faulty.settles_within_bounds


async def test_without_faults_memory_is_as_sound_as_before(autojump_clock: MockClock) -> None:
    report = await check_backend(lambda: FaultyBackend[int](MemoryStorage[int](), Faults.none()))
    assert len(report.passed) >= 66


async def test_without_faults_leases_are_as_sound_as_before(autojump_clock: MockClock) -> None:
    store = Store()
    report = await check_backend(lambda: FaultyBackend[int](LeasedStorage(store), Faults.none()))
    assert set(report.skipped) == {
        "settling_without_waiting_is_settling",
        # It has no engine.
        "a_closing_that_raises_ends_all_the_same",
        "a_settlement_outlives_an_engine_that_raises",
        "an_engine_error_reaches_only_its_caller",
        "an_exported_task_can_be_imported",
    }


async def test_what_is_in_no_interface_is_passed_on() -> None:
    storage, faulty = memory(Faults(disconnect=1))
    faulty.push_nowait(1)
    assert faulty.statistics() == storage.statistics()
    with pytest.raises(AttributeError, match="no_such_thing"):
        faulty.no_such_thing()
    assert "0 faults" in repr(faulty)


async def test_opening_it_opens_what_is_inside() -> None:
    async with FaultyBackend[int](FileStorage.temporary(int), Faults.none()) as faulty:
        await faulty.push(1)
        assert (await faulty.receive()).args == 1


# Each fault alone


async def test_a_drop_comes_back_with_its_lease(autojump_clock: MockClock) -> None:
    storage = LeasedStorage(Store())
    faulty = FaultyBackend[int](storage, Faults(drop=1))
    task_id = await faulty.push(1)
    assert await drain(faulty) == []
    assert [(f.kind, f.task_id, f.attempt) for f in faulty.log] == [("drop", task_id, 1)]
    assert (await storage.metrics())["running"] == 1
    await trio.sleep(LEASE)
    assert (await storage.receive()).parts.attempt == 2


async def test_a_drop_without_leases_comes_back_after_a_while(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(drop=1, absence_seconds=(5, 5)))
    await storage.push(1)
    with pytest.raises(trio.WouldBlock):
        faulty.receive_nowait()
    assert kinds(faulty) == ["drop", "lost"]
    assert (await storage.receive()).parts.attempt == 2
    assert trio.current_time() == 5


async def test_what_was_lost_too_often_fails_as_an_orphan(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(drop=0.9, absence_seconds=(1, 1)))
    task_id = await storage.push(1)
    await run_until_idle(Worker("test", faulty, double, retry=RetryPolicy(2)), delayed=True)
    result = await storage.wait_for(task_id)
    assert result.status is Status.Failed
    assert isinstance(result.error, OrphanedError)


@pytest.mark.parametrize("leased", [False, True])
async def test_of_two_copies_one_can_be_settled(leased: bool, autojump_clock: MockClock) -> None:
    storage: Any = LeasedStorage(Store()) if leased else MemoryStorage[int]()
    for winner in (0, 1):
        faulty = FaultyBackend[int](storage, Faults(duplicate=1))
        task_id = await storage.push(1)
        copies = [await faulty.receive(), await faulty.receive()]
        assert [each.parts.id for each in copies] == [task_id, task_id]
        assert [each.parts.attempt for each in copies] == [1, 1]
        assert copies[0].parts is not copies[1].parts
        await faulty.settle(copies[winner], Succeeded(winner))
        with pytest.raises(LeaseLostError):
            await faulty.settle(copies[1 - winner], Succeeded("twice"))
        assert (await storage.wait_for(task_id)).result == winner
        assert kinds(faulty) == ["duplicate"]
    assert (await storage.metrics())["succeeded"] == 2


async def test_what_each_copy_would_write_is_written_once(tmp_path: Path) -> None:
    async def note(n: int, transaction: SqliteTransaction) -> None:
        transaction.execute("INSERT INTO notes VALUES (?)", (n,))
        await trio.sleep(0.01)

    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int, driver="sqlite3") as storage:
        import sqlite3

        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE notes (n)")
        faulty = FaultyBackend[int](storage, Faults(duplicate=1))
        await storage.push_bulk([1, 2, 3])
        storage.close()
        report = await Worker("test", faulty, note).run()
        notes = sorted(connection.execute("SELECT n FROM notes"))
        connection.close()
    assert notes == [(1,), (2,), (3,)]
    assert report.succeeded == 3


async def test_a_delay_is_a_delay(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(delay=1, delay_seconds=(7, 7)))
    await storage.push(1)
    with pytest.raises(trio.WouldBlock):
        faulty.receive_nowait()
    assert storage.statistics().running == 1
    assert (await faulty.receive()).args == 1
    assert trio.current_time() == 7
    assert [(fault.kind, fault.seconds) for fault in faulty.log] == [("delay", 7)]


async def test_a_late_delivery_goes_to_the_next_receiver(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(delay=1, delay_seconds=(7, 7)))
    await storage.push(1)
    with trio.move_on_after(3):
        await faulty.receive()
    assert trio.current_time() == 3
    assert (await faulty.receive()).args == 1
    assert trio.current_time() == 7


async def test_a_delivery_that_no_receiver_takes_is_lost_after_a_while(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(delay=1, delay_seconds=(7, 7), absence_seconds=(10, 10)))
    await storage.push(1)
    with trio.move_on_after(3):
        await faulty.receive()
    assert (await storage.receive()).parts.attempt == 2
    assert trio.current_time() == 7 + 10 + 10
    assert kinds(faulty) == ["delay", "lost"]


async def test_no_more_is_late_than_there_are_people_waiting(mock_clock: MockClock) -> None:
    storage, faulty = memory(Faults(delay=1))
    await storage.push_bulk(range(10))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(faulty.receive)
        await trio.testing.wait_all_tasks_blocked()
        assert storage.statistics().running == 3
        mock_clock.jump(5)


async def test_reordering_swaps_neighbours(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(reorder=1))
    await storage.push_bulk([1, 2, 3, 4])
    assert [(await faulty.receive()).args for _ in range(4)] == [2, 1, 4, 3]
    assert kinds(faulty) == ["reorder", "reorder"]
    assert trio.current_time() == 0


async def test_what_is_held_back_is_not_held_back_for_ever(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(reorder=1, delay_seconds=(2, 2)))
    await storage.push(1)
    assert (await faulty.receive()).args == 1
    assert trio.current_time() == 2


async def test_the_end_waits_for_what_is_on_its_way(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(delay=0.5, reorder=0.5, duplicate=0.5))
    ids = await storage.push_bulk(range(50))
    storage.close()
    report = await Worker("test", faulty, double).run()
    assert report.succeeded == 50
    assert {(await storage.wait_for(task_id)).status for task_id in ids} == {Status.Done}


async def test_the_end_is_not_told_while_something_is_on_its_way(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(reorder=1, delay_seconds=(2, 2)))
    await storage.push(1)
    storage.close()
    with pytest.raises(trio.WouldBlock):
        faulty.receive_nowait()
    await trio.sleep(2)
    assert faulty.receive_nowait().args == 1
    with pytest.raises(trio.EndOfChannel):
        faulty.receive_nowait()


@pytest.mark.parametrize("leased", [False, True])
async def test_a_settle_that_fails_before_has_changed_nothing(leased: bool, autojump_clock: MockClock) -> None:
    storage: Any = LeasedStorage(Store()) if leased else MemoryStorage[int]()
    faulty = FaultyBackend[int](storage, Faults(fail_before=1))
    await storage.push(1)
    task = await faulty.receive()
    with pytest.raises(BackendError, match="nothing was stored"):
        await faulty.settle(task, Succeeded(2))
    assert (await storage.metrics())["succeeded"] == 0
    assert kinds(faulty) == (["fail_before"] if leased else ["fail_before", "lost"])
    assert (await storage.receive()).parts.attempt == 2
    assert trio.current_time() >= 1


async def test_a_settle_that_fails_after_has_stored_the_outcome() -> None:
    storage, faulty = memory(Faults(fail_after=1))
    task_id = await storage.push(1)
    with pytest.raises(BackendError, match="though the outcome was stored"):
        faulty.settle_nowait(await faulty.receive(), Succeeded(2))
    assert (await storage.wait_for(task_id)).result == 2
    assert kinds(faulty) == ["fail_after"]


async def test_a_receiver_that_dies_settles_no_received_task(autojump_clock: MockClock) -> None:
    storage = LeasedStorage(Store())
    faulty = FaultyBackend[int](storage, Faults(die=1))
    await storage.push_bulk([1, 2, 3])
    first, second = await faulty.receive(), await faulty.receive()
    for task in (first, second):
        with pytest.raises(BackendError, match="died"):
            await faulty.settle(task, Succeeded(2))
    assert kinds(faulty) == ["die", "refused"]
    assert await storage.metrics() | {"running": 2, "succeeded": 0, "released": 0} == await storage.metrics()
    await trio.sleep(LEASE)
    assert sorted([(await storage.receive()).parts.attempt for _ in range(3)]) == [1, 2, 2]


async def test_a_successor_works_through_the_same_line(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(die=0.3, absence_seconds=(1, 1)))
    ids = await storage.push_bulk(range(20))
    storage.close()
    monitor = Monitor(should_restart=lambda context, error, attempt: True)
    monitor.register(Worker("test", faulty, double, retry=RetryPolicy(100)))
    await monitor.run()
    assert {(await storage.wait_for(task_id)).status for task_id in ids} == {Status.Done}
    assert {"die", "lost"} <= {*kinds(faulty)}


@pytest.mark.parametrize("verb", ["receive", "push", "metrics", "settle"])
async def test_a_stall_takes_its_time(verb: str, autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(stall=1, stall_seconds=(4, 4)))
    await storage.push(1)
    task = await storage.receive() if verb == "settle" else None
    args = {"push": (2,), "settle": (task, Succeeded(2))}.get(verb, ())
    await getattr(faulty, verb)(*args)
    assert trio.current_time() == (8 if verb == "settle" else 4)
    assert kinds(faulty) == ["stall"] * (2 if verb == "settle" else 1)


async def test_a_settle_that_is_cancelled_while_it_stalls_comes_back(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(stall=1, stall_seconds=(4, 4)))
    await storage.push(1)
    task = await faulty.receive()
    with trio.move_on_after(1) as scope:
        await faulty.settle(task, Succeeded(2))
    assert scope.cancelled_caught
    assert kinds(faulty) == ["stall", "stall", "lost"]
    assert (await storage.receive()).parts.attempt == 2


async def test_the_line_is_down_for_a_while(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    faulty = FaultyBackend[int](storage, Faults(disconnect=1, outage_seconds=(5, 5)))
    with pytest.raises(BackendError, match="the connection went down"):
        await faulty.push(1)
    await trio.sleep(4.9)
    for verb in (faulty.receive, faulty.metrics, faulty.list_tasks):
        with pytest.raises(BackendError, match="the connection is down"):
            await verb()
    await trio.sleep(0.2)
    with pytest.raises(BackendError, match="the connection went down"):
        await faulty.receive()
    assert kinds(faulty) == ["disconnect", "refused", "refused", "refused", "disconnect"]
    assert storage.statistics().pushed == 0


async def test_a_waiting_receiver_gets_the_error_of_a_lost_connection(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    faulty = FaultyBackend[int](storage, Faults(disconnect=0.5), seed=2)

    async def receive() -> None:
        with pytest.raises(BackendError, match="went down"):
            await faulty.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert not faulty.log, "another seed, please: this one disconnects who receives first"
        while not faulty.log:
            try:
                await faulty.metrics()
            except BackendError:
                break


async def test_the_clock_jumps(autojump_clock: MockClock) -> None:
    _, faulty = memory(Faults(jump=1, jump_seconds=(30, 30)))
    await faulty.push(1)
    assert trio.current_time() == 30
    assert kinds(faulty) == ["jump"]


async def test_the_real_clock_cannot_be_moved() -> None:
    _, faulty = memory(Faults(jump=0.001))
    with pytest.raises(RuntimeError, match="MockClock"):
        await faulty.push(1)


# The log, the rates, the seed


async def test_the_log_is_told_as_it_grows() -> None:
    heard: list[Fault] = []
    storage, faulty = memory(Faults(fail_after=1), on_fault=heard.append)
    await storage.push_task(Task.builder(1).id("a").build())
    with pytest.raises(BackendError):
        faulty.settle_nowait(faulty.receive_nowait(), Succeeded(2))
    assert tuple(heard) == faulty.log
    assert str(heard[0]).endswith("fail_after (settle), task a in attempt 1")
    with pytest.raises(FrozenInstanceError):
        heard[0].kind = "drop"  # type: ignore[misc]  # that it cannot be done is the point


async def test_a_rate_is_how_often_it_happens(autojump_clock: MockClock) -> None:
    storage, faulty = memory(Faults(drop=0.2, duplicate=0.1))
    await storage.push_bulk(range(2000))
    await drain(faulty)
    counts = Counter(kinds(faulty))
    assert 300 < counts["drop"] < 500
    assert 100 < counts["duplicate"] < 220


def rough_run(seed: int) -> tuple[Fault, ...]:
    async def main() -> tuple[Fault, ...]:
        storage, faulty = memory(Faults.rough(), seed=seed)
        await storage.push_bulk(range(40))
        storage.close()
        monitor = Monitor(should_restart=lambda context, error, attempt: True)
        monitor.register(Worker("test", faulty, double, retry=RetryPolicy(100)))
        await monitor.run()
        return faulty.log

    return run_seeded(main, seed=seed)


def test_the_same_seed_has_the_same_log() -> None:
    assert rough_run(1) == rough_run(1) != rough_run(2)


@asynccontextmanager
async def opened(storage: Any) -> AsyncGenerator[Any, None]:
    async with storage:
        yield storage


async def test_a_worker_gets_everything_done_all_the_same(autojump_clock: MockClock) -> None:
    async with opened(FileStorage.temporary(int, lease=5.0)) as storage:
        faulty = FaultyBackend[int](storage, Faults.rough(), seed=3)
        ids = await storage.push_bulk(range(100))
        monitor = Monitor(should_restart=lambda context, error, attempt: True)
        monitor.register(Worker("test", faulty, double, retry=RetryPolicy(100)))
        async with monitor:
            results = [await storage.wait_for(task_id) for task_id in ids]
            storage.close()  # a shutdown may meet a line that is down, which is an error then
        assert [result.result for result in results] == [n * 2 for n in range(100)]
        assert isinstance(faulty, TaskSink)
        assert {"drop", "duplicate", "delay", "reorder"} <= {*kinds(faulty)}
