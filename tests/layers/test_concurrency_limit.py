"""Tests of the layer ConcurrencyLimit, with and without workers."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import MemoryStorage, Status, Task, Worker
from trio_tasks.abc import Admitting
from trio_tasks.layers import ConcurrencyLimit, ConcurrencyLimitStatistics, MapArgs, Retry


class Room:
    """A handler that notes how many calls are inside at the same time, in all and by args, and their order."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.inside: Counter[object] = Counter()
        self.most: Counter[object] = Counter()
        self.entered: list[object] = []

    async def __call__(self, task: Task[Any]) -> str:
        return await self.enter(task.args)

    async def enter(self, args: object) -> str:
        self.entered.append(args)
        for key in (args, "all"):
            self.inside[key] += 1
            self.most[key] = max(self.most[key], self.inside[key])
        try:
            await trio.sleep(self.seconds)
        finally:
            for key in (args, "all"):
                self.inside[key] -= 1
        return f"{args} was in"


def taken(limit: ConcurrencyLimit) -> int:
    return limit.statistics().taken


# Without a worker


async def test_a_call_that_was_not_admitted_waits_for_a_permit(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(2), Room()
    async with trio.open_nursery() as nursery:
        for n in range(6):
            nursery.start_soon(limit, room, Task(n))
            await trio.testing.wait_all_tasks_blocked()
        assert limit.statistics() == ConcurrencyLimitStatistics(limit=2, taken=2, waiting=4, keys=())
    assert room.most["all"] == 2
    assert room.entered == [0, 1, 2, 3, 4, 5], "first come, first served"
    assert trio.current_time() == 3
    assert limit.statistics() == ConcurrencyLimitStatistics(limit=2, taken=0, waiting=0, keys=())


async def test_the_permit_comes_back_whatever_happens(autojump_clock: trio.testing.MockClock) -> None:
    limit = ConcurrencyLimit(1)

    async def fail(task: Task[int]) -> None:
        raise KeyError(task.args)

    with pytest.raises(KeyError):
        await limit(fail, Task(1))
    assert taken(limit) == 0
    with trio.move_on_after(0.5) as within:
        await limit(Room(), Task(2))
    assert within.cancelled_caught
    assert taken(limit) == 0


async def test_a_call_that_is_cancelled_while_it_waits_has_taken_no_permit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit, room = ConcurrencyLimit(1), Room(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit, room, Task("first"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as waiting:
            await limit(room, Task("gave up"))
        assert waiting.cancelled_caught
        nursery.start_soon(limit, room, Task("second"))
    assert room.entered == ["first", "second"]
    assert taken(limit) == 0


async def test_a_cancellation_in_the_very_moment_of_the_permit_loses_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The permit is given back and the waiting call cancelled at the same time, in either order, many times."""
    for _ in range(50):
        limit, room = ConcurrencyLimit(1), Room(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(limit, room, Task("first"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await limit(room, Task("second"))
        assert limit.statistics() == ConcurrencyLimitStatistics(limit=1, taken=0, waiting=0, keys=())
        await limit(room, Task("third"))


# What a worker does


async def test_an_admitted_task_has_its_permit_until_it_is_dismissed() -> None:
    limit, room = ConcurrencyLimit(1), Room(0)
    task = Task("a")
    await limit.ready()
    assert limit.admit(task)
    assert not limit.admit(Task("b"))
    await limit(room, task)
    assert taken(limit) == 1, "the attempt is over only when the worker says so"
    await limit(room, task)
    assert taken(limit) == 1, "a second call in turn needs no second permit"
    limit.dismiss(task)
    assert taken(limit) == 0
    assert limit.admit(Task("b"))


async def test_a_new_task_with_the_same_parts_is_the_same_attempt() -> None:
    limit, room = ConcurrencyLimit(1), Room(0)
    task = Task("a")
    assert limit.admit(task)
    await limit(room, Task("other args", task.parts))
    assert room.entered == ["other args"]
    assert taken(limit) == 1


async def test_calls_at_the_same_time_take_a_permit_each(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(2), Room()
    task = Task("a")
    assert limit.admit(task)
    await limit(room, task)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(limit, room, task)
    assert room.most["all"] == 2
    assert taken(limit) == 1
    limit.dismiss(task)
    assert taken(limit) == 0


async def test_a_task_admitted_twice_has_two_permits() -> None:
    limit = ConcurrencyLimit(3)
    task = Task("a")
    assert limit.admit(task)
    assert limit.admit(task)
    assert taken(limit) == 2
    limit.dismiss(task)
    assert taken(limit) == 1
    limit.dismiss(task)
    limit.dismiss(task)
    limit.dismiss(Task("never seen"))
    assert taken(limit) == 0, "what was never taken cannot be given back"
    assert all(limit.admit(Task(n)) for n in range(3))
    assert not limit.admit(Task("a fourth"))


async def test_a_dismissal_during_the_call_corrupts_nothing(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(1), Room()
    task = Task("a")
    assert limit.admit(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit, room, task)
        await trio.testing.wait_all_tasks_blocked()
        limit.dismiss(task)
    assert taken(limit) == 0
    assert limit.admit(Task("b"))
    assert not limit.admit(Task("c"))


async def test_ready_waits_for_a_permit_and_takes_none(autojump_clock: trio.testing.MockClock) -> None:
    limit = ConcurrencyLimit(1)
    task = Task("a")
    with trio.testing.assert_checkpoints():
        await limit.ready()
    assert limit.admit(task)
    ready_at: list[float] = []

    async def wait() -> None:
        await limit.ready()
        ready_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(5)
        limit.dismiss(task)
    assert ready_at == [5, 5], "one permit makes both ready, since neither has taken it yet"
    assert taken(limit) == 0


async def test_a_call_that_waits_is_not_kept_waiting_by_idle_workers(autojump_clock: trio.testing.MockClock) -> None:
    """Workers that wait in ready(), and then find no task, stand in nobody's way."""
    limit, room = ConcurrencyLimit(1), Room(1)
    task = Task("a")
    assert limit.admit(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit.ready)
        nursery.start_soon(limit.ready)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(limit, room, Task("b"))
        await trio.testing.wait_all_tasks_blocked()
        limit.dismiss(task)
    assert trio.current_time() == 1
    assert room.entered == ["b"]


# By key


async def test_by_key_each_key_has_so_many(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(2, key=lambda task: task.args), Room()
    async with trio.open_nursery() as nursery:
        for name in "aaaabbbc":
            nursery.start_soon(limit, room, Task(name))
        await trio.testing.wait_all_tasks_blocked()
        statistics = limit.statistics()
        assert (statistics.taken, statistics.waiting, set(statistics.keys)) == (5, 3, {"a", "b", "c"})
    assert {name: room.most[name] for name in "abc"} == {"a": 2, "b": 2, "c": 1}
    assert trio.current_time() == 2
    assert limit.statistics().keys == (), "a key that nobody uses is forgotten"


@pytest.mark.parametrize("seed", range(10))
async def test_by_key_nothing_shakes_the_count(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Calls that come, wait, give up, stay for long or for short, so that keys are forgotten and come back."""
    chance = random.Random(seed)
    limit, room = ConcurrencyLimit(2, key=lambda task: task.args), Room()

    async def caller() -> None:
        for _ in range(10):
            await trio.sleep(chance.choice([0, 0, 1, 5]))
            room.seconds = chance.choice([0, 1, 3])
            with trio.move_on_after(chance.choice([0, 2, math.inf])):
                await limit(room, Task(chance.choice("ab")))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(caller)
    assert max(room.most["a"], room.most["b"]) == 2
    assert limit.statistics() == ConcurrencyLimitStatistics(limit=2, taken=0, waiting=0, keys=())


async def test_by_key_a_call_cancelled_at_once_leaves_no_key_behind() -> None:
    limit = ConcurrencyLimit(1, key=lambda task: task.args)
    with trio.CancelScope() as scope:
        scope.cancel()
        await limit(Room(), Task("a"))
    assert scope.cancelled_caught
    assert limit.statistics().keys == ()


async def test_by_key_everything_is_admitted_and_waits_inside_without_a_storage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit, room = ConcurrencyLimit(1, key=lambda task: task.args), Room()
    tasks = [Task("a"), Task("a")]
    with trio.testing.assert_checkpoints():
        await limit.ready()
    assert all(limit.admit(task) for task in tasks)

    async def attempt(task: Task[str]) -> None:
        await limit(room, task)
        limit.dismiss(task)

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(attempt, task)
    assert room.most["a"] == 1
    assert limit.statistics() == ConcurrencyLimitStatistics(limit=1, taken=0, waiting=0, keys=())


async def test_try_admit_says_no_for_a_key_that_is_used_up() -> None:
    limit = ConcurrencyLimit(1, key=lambda task: task.args)
    first = Task("a")
    assert limit.try_admit(first)
    assert not limit.try_admit(Task("a"))
    assert limit.try_admit(Task("b"))
    await limit(Room(0), first)
    limit.dismiss(first)
    assert limit.statistics().keys == ("b",)
    assert limit.try_admit(Task("a"))


async def test_by_key_a_permit_taken_beforehand_is_not_forgotten_after_a_call() -> None:
    limit = ConcurrencyLimit(2, key=lambda task: task.args)
    first = Task("a")
    assert limit.try_admit(first)
    await limit(Room(0), Task("a"))
    assert limit.try_admit(Task("a"))
    assert not limit.try_admit(Task("a"))


async def test_a_key_that_cannot_be_had_is_the_attempts_error() -> None:
    def key(task: Task[Any]) -> str:
        return str(task.parts.metadata["tenant"])

    limit = ConcurrencyLimit(1, key=key)
    task = Task("a")
    assert limit.admit(task), "the worker does not see the error"
    with pytest.raises(KeyError, match="tenant"):
        await limit(Room(), task)
    limit.dismiss(task)
    unhashable = ConcurrencyLimit(1, key=lambda task: task.args)
    with pytest.raises(TypeError, match="unhashable"):
        await unhashable(Room(), Task(["a list"]))


# Through workers


async def run_workers(storages: list[MemoryStorage[str]], room: Room, layers: list[Any]) -> None:
    async with trio.open_nursery() as nursery:
        for n, storage in enumerate(storages):
            storage.close()
            nursery.start_soon(Worker(f"w{n}", storage, room.enter, concurrency=8, layers=layers).run)


async def test_workers_that_share_it_share_the_permits(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(3), Room()
    storages = [MemoryStorage[str](), MemoryStorage[str]()]
    for storage in storages:
        await storage.push_bulk([f"{n}" for n in range(9)])
    await run_workers(storages, room, [limit])
    assert room.most["all"] == 3
    assert len(room.entered) == 18
    assert trio.current_time() == 6, "no permit lay idle"
    assert taken(limit) == 0


async def test_promise_4_what_it_has_no_room_for_stays_in_the_backend(autojump_clock: trio.testing.MockClock) -> None:
    """A full limiter stops the intake of its worker, and another worker takes what is left."""
    limit, room, other = ConcurrencyLimit(1), Room(100), Room(1)
    storage = MemoryStorage[str]()
    ids = await storage.push_bulk(["a", "b", "c"])
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("limited", storage, room.enter, concurrency=8, layers=[limit]).run)
        await trio.sleep(1)
        assert room.entered == ["a"]
        assert context.task_count == 1
        waiting = [await storage.fetch_by_id(task_id) for task_id in ids[1:]]
        assert [task and (task.parts.status, task.parts.attempt) for task in waiting] == [(Status.Pending, 0)] * 2
        storage.close()
        nursery.start_soon(Worker("free", storage, other.enter, concurrency=1).run)
    assert other.entered == ["b", "c"]
    assert (await storage.metrics())["released"] == 0, "nothing was even taken and given back"


async def test_a_worker_takes_one_permit_for_each_attempt_wherever_it_stands(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Inside of a retry and of a layer that makes new tasks, with just one permit: nothing waits for itself."""
    limit, calls = ConcurrencyLimit(1), 0

    async def flaky(args: str) -> None:
        nonlocal calls
        calls += 1
        assert taken(limit) == 1
        if calls % 2:
            raise KeyError(args)

    storage = MemoryStorage[str]()
    await storage.push_bulk(["a", "b"])
    storage.close()
    layers: list[Any] = [Retry(2), MapArgs(str.upper), limit]
    report = await Worker("w", storage, flaky, layers=layers).run()
    assert (report.succeeded, calls) == (2, 4)
    assert taken(limit) == 0


async def test_by_key_a_worker_keeps_to_it_and_goes_on_with_other_keys(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(1, key=lambda task: task.args), Room()
    storage = MemoryStorage[str]()
    await storage.push_bulk(["a", "a", "a", "b", "b", "c"])
    await run_workers([storage], room, [limit])
    assert {name: room.most[name] for name in "abc"} == {"a": 1, "b": 1, "c": 1}
    assert trio.current_time() == 3


async def test_a_stopped_worker_leaves_no_permit_behind(autojump_clock: trio.testing.MockClock) -> None:
    limit, room = ConcurrencyLimit(1), Room(100)
    storage = MemoryStorage[str]()
    await storage.push_bulk(["a", "b"])
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, room.enter, layers=[limit]).run)
        await trio.sleep(1)
        assert limit.statistics() == ConcurrencyLimitStatistics(limit=1, taken=1, waiting=1, keys=())
        nursery.cancel_scope.cancel()
    assert limit.statistics() == ConcurrencyLimitStatistics(limit=1, taken=0, waiting=0, keys=())
    assert (await storage.metrics())["waiting"] == 2


# Arguments

WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: ConcurrencyLimit(0), ValueError, "n must be 1 or more, not 0"),
    (lambda: ConcurrencyLimit(True), TypeError, "n must be a whole number, not True"),
    (lambda: ConcurrencyLimit(2, key="tenant"), TypeError, "key must be callable, as key"),  # type: ignore[arg-type]  # it is refused
]


@pytest.mark.parametrize(("make", "kind", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_arguments_are_refused(make: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_a_key_that_would_have_to_be_awaited_is_refused() -> None:
    async def key(task: Task[Any]) -> str:
        return "nobody awaits this"

    with pytest.raises(TypeError, match="key must be a plain function"):
        ConcurrencyLimit(2, key=key)  # type: ignore[arg-type]  # it is refused


def test_it_is_a_gate_that_counts_and_shows_itself() -> None:
    assert isinstance(ConcurrencyLimit(2), Admitting)
    assert repr(ConcurrencyLimit(2)) == "<ConcurrencyLimit 0/2 taken>"
    assert repr(ConcurrencyLimit(2, key=repr)) == "<ConcurrencyLimit 2 for each key, 0 taken>"
