"""Tests of ConcurrencyLimit(key=) through workers: tasks that have to wait are suspended, and woken in their turn."""

from __future__ import annotations

import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage, Status, Task, Worker
from trio_tasks.layers import ConcurrencyLimit, ConcurrencyLimitStatistics, Filter, RateLimit, Retry

MockClock = trio.testing.MockClock


def tenant(task: Task[Any]) -> Any:
    return str(task.args).partition(" ")[0]


def at_rest(limit: ConcurrencyLimit) -> bool:
    """True if the limit holds nothing: no permit, no key, no line."""
    return limit.statistics() == ConcurrencyLimitStatistics(limit.limit, taken=0, waiting=0, keys=())


class Office:
    """A handler that takes some seconds, and notes when each task began, and how many of a tenant were in at once."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.began: dict[str, float] = {}
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def work(self, name: str) -> None:
        key = name.partition(" ")[0]
        self.began[name] = trio.current_time()
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        try:
            await trio.sleep(self.seconds)
        finally:
            self.inside[key] -= 1


# Promise 4


async def test_promise_4_fifty_tasks_of_a_busy_key_delay_another_key_by_none(autojump_clock: MockClock) -> None:
    """When the layer waited inside of its slot, the small one began after 49 others."""
    office, limit, storage = Office(), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    big = [f"big {n}" for n in range(50)]
    ids = await storage.push_bulk([*big, "small"])
    storage.close()
    report = await Worker("w", storage, office.work, concurrency=2, layers=[limit]).run()
    assert office.began.pop("small") == 0
    assert office.began == {name: n for n, name in enumerate(big)}, "in their order, and no permit lay idle"
    assert report.succeeded == 51
    assert report.suspended <= 2 * 50, "about one for each task, and not for each permit that was free"
    for each in await storage.fetch_by_id(ids):
        assert each is not None and each.parts.attempt == 1, "a suspension costs none"
    assert at_rest(limit)


@pytest.mark.parametrize("store", ["memory", "file", "sqlite"])
async def test_promise_4_a_task_that_waits_for_its_key_holds_no_slot(store: str, tmp_path: Path) -> None:
    """The first one of the busy key ends only when all of the others have run."""
    order = list[str]()
    others = trio.Event()

    async def work(name: str) -> None:
        order.append(name)
        if name == "big 0":
            await others.wait()
        elif name == "small 2":
            others.set()

    path = tmp_path / "tasks.db"
    storage: Any = MemoryStorage[str]()
    if store != "memory":
        storage = FileStorage(path, str) if store == "file" else SqliteStorage(path, str)
    limit = ConcurrencyLimit(1, key=tenant)
    async with storage:
        names = [*(f"big {n}" for n in range(5)), *(f"small {n}" for n in range(3))]
        for name in names:
            await storage.push(name)
        storage.close()
        with trio.fail_after(60):
            report = await Worker("w", storage, work, concurrency=2, layers=[limit]).run()
    assert report.succeeded == 8
    assert [name for name in order if name.startswith("big")] == names[:5]
    assert report.suspended <= 3 * 8
    assert at_rest(limit)


# The line


async def test_tasks_that_come_later_do_not_overtake_those_in_the_line(autojump_clock: MockClock) -> None:
    """A new one comes in the very step in which a permit is free."""
    office, limit, storage = Office(), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, office.work, concurrency=3, layers=[limit]).run)
        await storage.push_bulk([f"a {n}" for n in range(4)])
        for n in range(4, 8):
            await trio.sleep(1)
            await storage.push(f"a {n}")
        await trio.sleep(10)
        context.stop()
    assert office.began == {f"a {n}": n for n in range(8)}
    assert at_rest(limit)


async def test_a_task_that_is_cancelled_in_the_line_holds_up_no_other(autojump_clock: MockClock) -> None:
    office, limit, storage = Office(), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    ids = await storage.push_bulk([f"a {n}" for n in range(4)])
    storage.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, office.work, concurrency=2, layers=[limit]).run)
        await trio.sleep(0.5)
        assert limit.statistics() == ConcurrencyLimitStatistics(1, taken=1, waiting=0, keys=("a",), suspended=3)
        assert await storage.cancel(ids[1])
    assert office.began == {"a 0": 0, "a 2": 1, "a 3": 2}
    assert at_rest(limit)


async def test_a_permit_that_is_free_before_the_task_is_put_back_wakes_it(autojump_clock: MockClock) -> None:
    """An outer layer takes its time. Meanwhile the task is still running, and cannot be made ready."""

    async def tidy_up(handler: Any, task: Task[str]) -> Any:
        try:
            return await handler(task)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    office, limit = Office(), ConcurrencyLimit(1, key=tenant)
    storages = [MemoryStorage[str](), MemoryStorage[str]()]
    async with trio.open_nursery() as nursery:
        for n, storage in enumerate(storages):
            await storage.push(f"a {n}")
            storage.close()
            layers: list[Any] = [tidy_up, limit] if n else [limit]
            await nursery.start(Worker(f"w {n}", storage, office.work, layers=layers).run)
            await trio.testing.wait_all_tasks_blocked()
    assert office.began == {"a 0": 0, "a 1": 2}, "a 1 is put back at 2 s, when the permit has been free for 1 s"
    assert at_rest(limit)


async def test_a_place_is_kept_for_a_task_that_does_not_come_for_a_bounded_time(autojump_clock: MockClock) -> None:
    """It is ready, and its queue is paused. So the next one is woken too, after the duration of an attempt."""
    office, limit, storage = Office(2.0), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    await storage.push_bulk([f"a {n}" for n in range(5)])
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, office.work, concurrency=2, layers=[limit]).run)
        await trio.sleep(1)
        await storage.pause()
        seen = list[int]()
        for _ in range(4):
            await trio.sleep(2)
            seen.append(limit.statistics().suspended)
        assert seen == [3, 2, 1, 0]
        await storage.resume()
        await trio.sleep(20)
        context.stop()
    assert office.began == {"a 0": 0, "a 1": 9, "a 2": 11, "a 3": 13, "a 4": 15}
    assert office.most["a"] == 1
    assert at_rest(limit)


@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_a_worker_that_ends_does_not_wait_for_a_task_that_was_woken(end: str, autojump_clock: MockClock) -> None:
    office, limit, storage = Office(5.0), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    await storage.push_bulk(["a 0", "a 1", "a 2"])
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, office.work, concurrency=2, layers=[limit]).run)
        await trio.sleep(1)
        await storage.pause()
        await trio.sleep(5)
        assert limit.statistics().suspended == 1, "the first one was woken"
        context.stop() if end == "stop" else nursery.cancel_scope.cancel()
    assert trio.current_time() == 6
    assert at_rest(limit)


async def test_without_its_worker_a_task_comes_back_by_itself(autojump_clock: MockClock) -> None:
    """The worker ends at once, and leaves nothing in the limit; another one gets the task half a minute later."""
    office, limit, storage = Office(), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    ids = await storage.push_bulk(["a 0", "a 1", "a 2"])
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", storage, office.work, concurrency=2, layers=[limit]).run)
        await trio.sleep(0.5)
        context.stop()
    assert trio.current_time() == 1
    assert at_rest(limit)
    waiting = [await storage.fetch_by_id(each) for each in ids[1:]]
    assert [each and (each.parts.status, each.parts.attempt) for each in waiting] == [(Status.Pending, 0)] * 2
    storage.close()
    with trio.fail_after(100):
        await Worker("next", storage, office.work, layers=[limit]).run()
    assert office.began == {"a 0": 0, "a 1": 30, "a 2": 31}
    assert at_rest(limit)


async def test_a_worker_that_is_cancelled_leaves_nothing_in_the_limit(autojump_clock: MockClock) -> None:
    for moment in (0.0, 0.5, 1.0, 1.5):
        office, limit, storage = Office(), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
        await storage.push_bulk([f"a {n}" for n in range(4)])
        with trio.move_on_after(moment):
            await Worker("w", storage, office.work, concurrency=3, layers=[limit]).run()
        assert at_rest(limit)
        counts = await storage.metrics()
        assert counts["waiting"] + counts["delayed"] + counts["succeeded"] == 4


async def test_one_attempt_keeps_its_permit_from_one_call_to_the_next(autojump_clock: MockClock) -> None:
    calls = list[str]()

    async def fail_once(name: str) -> None:
        calls.append(name)
        await trio.sleep(1)
        if calls.count(name) == 1:
            raise KeyError(name)

    limit, storage = ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    await storage.push_bulk(["a 0", "a 1"])
    storage.close()
    layers: list[Any] = [Retry(2, backoff=lambda attempt: 5.0), limit]
    report = await Worker("w", storage, fail_once, concurrency=2, layers=layers).run()
    assert calls == ["a 0", "a 0", "a 1", "a 1"]
    assert (report.succeeded, report.suspended) == (2, 1)


async def test_what_a_layer_turns_away_takes_no_permit(autojump_clock: MockClock) -> None:
    office, limit, storage = Office(), ConcurrencyLimit(1, key=tenant), MemoryStorage[str]()
    await storage.push_bulk(["a no", "a yes", "a no"])
    storage.close()
    layers: list[Any] = [Filter(lambda task: task.args == "a yes"), limit]
    report = await Worker("w", storage, office.work, concurrency=2, layers=layers).run()
    assert (report.succeeded, report.killed, report.suspended) == (1, 2, 0)
    assert at_rest(limit)


async def test_a_task_from_a_channel_waits_inside(autojump_clock: MockClock) -> None:
    """A channel takes no task back. So its sender feels that the worker is busy."""
    office, limit = Office(), ConcurrencyLimit(1, key=tenant)
    send, receive = trio.open_memory_channel[str](0)
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", receive, office.work, concurrency=2, layers=[limit]).run)
        with send:
            for n in range(4):
                await send.send(f"a {n}")
            assert trio.current_time() == 2
    assert office.began == {f"a {n}": n for n in range(4)}
    assert at_rest(limit)


async def test_permits_that_were_forgotten_do_not_take_the_new_ones_of_their_key_with_them() -> None:
    limit = ConcurrencyLimit(1, key=tenant)
    old = limit._permits_of("a")
    limit._forget_if_idle(old)
    task = Task("a 0")
    assert limit.try_admit(task)
    old.suspended.wake()  # as when the wait for a task that was woken ends late
    assert not limit.try_admit(Task("a 1"))
    limit.dismiss(task)
    assert at_rest(limit)


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_shakes_the_line(seed: int, autojump_clock: MockClock) -> None:
    """Several workers on two queues, that come and go; two limits; attempts of all lengths; cancellations."""
    chance = random.Random(seed)
    office = Office()
    by_tenant, by_floor = ConcurrencyLimit(2, key=tenant), ConcurrencyLimit(3, key=lambda task: len(task.args) % 2)
    storages = [MemoryStorage[str](), MemoryStorage[str]()]
    floors: Counter[int] = Counter()

    async def work(name: str) -> None:
        floors[len(name) % 2] += 1
        assert floors[len(name) % 2] <= 3
        office.seconds = chance.choice([0, 0.01, 1, 7])
        try:
            await office.work(name)
        finally:
            floors[len(name) % 2] -= 1

    async def employ(storage: MemoryStorage[str]) -> None:
        layers: list[Any] = [by_tenant, by_floor] if chance.random() < 0.7 else [by_floor, by_tenant]
        for _ in range(3):
            with trio.move_on_after(chance.choice([3, 10, 20])):
                await Worker(f"w{chance.random()}", storage, work, concurrency=4, layers=layers).run()

    async def push(storage: MemoryStorage[str]) -> None:
        for n in range(60):
            await storage.push(f"{chance.choice('aaabc')} {n}", id=f"{n}")
            await trio.sleep(chance.choice([0, 0, 0.5]))
            if chance.random() < 0.05:
                await storage.cancel(f"{chance.randint(0, n)}")

    async with trio.open_nursery() as nursery:
        for storage in storages:
            nursery.start_soon(push, storage)
            for _ in range(2):
                nursery.start_soon(employ, storage)
    async with trio.open_nursery() as nursery:
        for storage in storages:
            storage.close()
            nursery.start_soon(Worker("last", storage, work, layers=[by_tenant, by_floor]).run)
    assert max(office.most.values()) == 2
    for storage in storages:
        counts = await storage.metrics()
        assert counts["succeeded"] + counts["killed"] == 60
        assert counts["suspended"] < 20 * 60
    assert at_rest(by_tenant) and at_rest(by_floor)


# What is told


async def test_a_suspension_is_explained_and_is_no_noise_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_tasks")
    office, storage = Office(), MemoryStorage[str]()
    ids = await storage.push_bulk(["big 0", "big 1"])
    storage.close()
    limit, rate = ConcurrencyLimit(1, key=tenant), RateLimit(1, per=10, key=tenant)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", storage, office.work, layers=[limit, rate]).run)
        await trio.sleep(0.5)
        found = await storage.explain(ids[1])
        assert (found.kind, found.attempt) == ("suspended", 0)
        assert (
            found.reason == "ConcurrencyLimit: its key 'big' has 1 of 1 permits taken; it is woken when it is its turn"
        )
        assert limit.explain() == "ConcurrencyLimit: 1 permits are taken in all, 1 for each key, 1 tasks are suspended"
        await trio.sleep(1)
        found = await storage.explain(ids[1])
        assert found.reason == "RateLimit: its key 'big' may begin 1 attempts in 10 s"
    told = [each for each in caplog.records if "suspended: " in each.getMessage()]
    assert [each.levelno for each in told] == [logging.DEBUG] * 2
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]
