"""Keys share a queue fairly, and limits hold, whatever becomes of the attempts; the same on each storage."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    AbortError,
    FileStorage,
    Limits,
    MemoryStorage,
    Rate,
    Released,
    Retried,
    RetryAfterError,
    SetLimits,
    SqliteStorage,
    Status,
    Succeeded,
    Suspended,
    SuspendError,
    Task,
    Worker,
)
from trio_tasks._concurrency.threads import without_threads

from tests._scale import scaled
from tests._storages import STORAGES

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
KINDS: dict[str, type] = {"memory": MemoryStorage, "file": FileStorage, "sqlite": SqliteStorage}
KEYED = {name: STORAGES[name] for name, kind in KINDS.items() if issubclass(kind, SetLimits)}
STORED = [kind for name, kind in KINDS.items() if name in KEYED and name != "memory"]


@pytest.fixture(autouse=True)
def in_place() -> Generator[None, None, None]:
    """Let engines work in place, so that a clock that jumps does not jump meanwhile."""
    with without_threads(trio.lowlevel.checkpoint):
        yield


everywhere = pytest.mark.parametrize("opened", KEYED.values(), ids=KEYED)


def key_of(task: Task[int]) -> str:
    return task.parts.terms.key or ""


@everywhere
async def test_fifty_tasks_of_another_key_delay_a_task_by_one(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    done: list[str] = []

    async def handle(task: Task[int]) -> None:
        await trio.sleep(10)
        done.append(key_of(task))

    async with opened(tmp_path / "tasks") as storage:
        await storage.push_bulk(range(50), key="big")
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handle, concurrency=1).run)
            await trio.sleep(5)
            await storage.push(50, key="small")
            await storage.push(51)
            storage.close()
        assert len(done) == 52
        assert done.index("small") <= 2
        assert done.index("") <= 3
        assert await storage.audit()


@everywhere
@pytest.mark.parametrize("way", ["replaced", "updated", "put off", "cancelled"])
async def test_tasks_that_never_began_cost_no_turn(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock, way: str
) -> None:
    """A key whose task is replaced, put off or cancelled twenty times is as near to its turn as before."""
    done: list[str] = []

    async def handle(task: Task[int]) -> None:
        await trio.sleep(10)
        done.append(key_of(task))

    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await storage.push_bulk(range(50), key="big")
        await nursery.start(Worker("w", storage, handle, concurrency=1).run)
        await trio.sleep(5)
        for number in range(20):
            if way == "replaced":
                await storage.push(number, key="small", unique="u", on_conflict="replace")
            elif way == "updated":
                await storage.push(number, key="small", unique="u", on_conflict="update", priority=0)
                await storage.push(number, key="small", unique="u", on_conflict="update", delay=1000)
            else:
                task_id = await storage.push(number, key="small")
                if way == "cancelled":
                    await storage.cancel(task_id)
                else:
                    await storage.reschedule(task_id, 1000)
        await storage.push(20, key="small")
        await trio.sleep(40)
        nursery.cancel_scope.cancel()
    assert "small" in done[:3]


@everywhere
async def test_a_lone_key_has_all_slots(opened: Opener, tmp_path: Path, autojump_clock: MockClock) -> None:
    running = most = 0

    async def handle(n: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(10)
        running -= 1

    async with opened(tmp_path / "tasks") as storage:
        await storage.push_bulk(range(12), key="alone")
        storage.close()
        began = trio.current_time()
        await Worker("w", storage, handle, concurrency=4).run()
        assert most == 4
        assert trio.current_time() - began < 35


@everywhere
async def test_the_others_wait_for_one_handler_at_most(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A hundred keys, one of which has 99 % of the tasks, and slots that are all busy: another task begins when the
    next slot is free, as on an idle queue, and one turn later at most.
    """
    waits: list[float] = []
    pushed: dict[int, float] = {}
    begun = 0

    async def handle(task: Task[int]) -> None:
        nonlocal begun
        begun += 1
        if key_of(task) != "big":
            waits.append(trio.current_time() - pushed[task.args])
        await trio.sleep(1.0)

    async def push(number: int) -> None:
        pushed[number] = trio.current_time()
        await storage.push(number, key=f"other{number}")

    others = 99
    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handle, concurrency=20).run)
        await push(0)
        await trio.sleep(5.0)
        [idle] = waits
        await storage.push_bulk(range(99 * others), key="big")
        for number in range(1, others + 1):
            await push(number)
            await trio.sleep(0.3)
        await trio.sleep(2.0)
        assert begun < 99 * others, "the slots were busy all the time"
        nursery.cancel_scope.cancel()
    assert len(waits) == 1 + others
    assert max(waits) <= 1.0 + 2 * idle + 1e-6


@everywhere
async def test_no_receiver_spins_while_the_queue_is_full_and_a_key_may_go_on(
    opened: Opener, tmp_path: Path, mock_clock: MockClock
) -> None:
    """The moment from which on the rate of a key lets a task go comes while no slot of the queue is free."""
    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await storage.set_limits(Limits(concurrency=1, rate_per_key=Rate(1, per=10)))
        await storage.push(1, key="a")
        await storage.settle(await storage.receive(), Succeeded(None))
        await storage.push(2, key="a")
        nursery.start_soon(storage.receive)
        nursery.start_soon(storage.receive)
        await wait_all_tasks_blocked()
        await storage.push(3)
        await wait_all_tasks_blocked()
        assert (await storage.metrics())["running"] == 1
        mock_clock.jump(11)
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        assert trio.lowlevel.current_statistics().tasks_runnable == 0
        nursery.cancel_scope.cancel()


@everywhere
@pytest.mark.parametrize("seed", range(2))
async def test_a_limit_by_key_is_never_exceeded(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock, seed: int
) -> None:
    """Two workers; attempts fail, are put off, are cancelled or aborted, and are interrupted; limits change."""
    chance = random.Random(seed)
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    limits = {"a": 3, "b": 1}
    number = scaled(400)
    names = ["a", "a", "a", "b", "c", ""]

    async def handle(task: Task[int]) -> None:
        key = key_of(task)
        running[key] += 1
        most[key] = max(most[key], running[key])
        try:
            await trio.sleep(chance.random() * 5)
            what = chance.random()
            if what < 0.1:
                raise RetryAfterError(ValueError("no"), chance.choice([0.0, 3.0]))
            if what < 0.2:
                raise SuspendError(chance.random() * 5, "later")
            if what < 0.25:
                raise AbortError(ValueError("no"))
        finally:
            running[key] -= 1

    async def meddle(storage: Any, ids: list[Any]) -> None:
        while True:
            await trio.sleep(2)
            task_id = chance.choice(ids)
            verb = chance.choice(["cancel", "abort", "discard", "reschedule", "resume_by_id"])
            await getattr(storage, verb)(task_id, *([chance.choice([0.0, 5.0])] if verb == "reschedule" else []))

    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=3))
        await storage.set_limits(Limits(per_key=1, weight=2), key="b")
        await storage.set_limits(Limits(), key="c")
        ids = [await storage.push(n, **({"key": key} if (key := chance.choice(names)) else {})) for n in range(number)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meddle, storage, ids)
            for _ in range(5):
                with trio.move_on_after(20 + chance.random()):
                    async with trio.open_nursery() as workers:
                        for name in ("one", "two"):
                            workers.start_soon(Worker(name, storage, handle, concurrency=6).run)
                assert not +running
            storage.close()
            await Worker("last", storage, handle, concurrency=10).run()
            nursery.cancel_scope.cancel()
        assert all(most[key] <= limit for key, limit in limits.items()), most
        assert most["a"] == 3
        assert most["c"] > 3 or number < 100
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["delayed"], metrics["running"], metrics["held_now"]) == (0, 0, 0, 0)
        assert await storage.audit()


@everywhere
async def test_a_rate_is_never_exceeded(opened: Opener, tmp_path: Path, autojump_clock: MockClock) -> None:
    """Within no time of its length, retries counted; and all tasks are done in about the time that it takes."""
    begun: dict[str, list[float]] = defaultdict(list)
    queue, by_key = Rate(10, per=10), Rate(4, per=10)

    async def handle(task: Task[int]) -> None:
        assert task.parts.started is not None
        for name in {"queue", key_of(task)}:
            begun[name].append(task.parts.started)
        await trio.sleep(0.5)
        if task.args % 5 == 0 and task.parts.attempt == 1:
            raise RetryAfterError(ValueError("no"), 0.0)

    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(rate=queue, rate_per_key=by_key))
        for n in range(50):
            await storage.push(n, key="a" if n % 4 else "bc"[n % 8 == 0])
        storage.close()
        with trio.fail_after(600):
            await Worker("w", storage, handle, concurrency=20).run()
        assert len(begun["queue"]) == 60
        for name, rate in [("queue", queue), *((key, by_key) for key in "abc")]:
            times = sorted(begun[name])
            for first, last in zip(times, times[rate.n :], strict=False):
                assert last - first >= rate.per * 0.9999
        assert len(begun["a"]) == 44
        assert max(begun["queue"]) - min(begun["queue"]) < 125


@everywhere
async def test_slots_that_wait_for_a_rate_are_woken_by_it(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A rate that allows fewer attempts at once than slots wait is followed by the next one as soon as it allows it."""
    begun: list[float] = []

    async def handle(n: int) -> None:
        begun.append(trio.current_time())
        await trio.sleep(0.3)

    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await storage.set_limits(Limits(rate=Rate(2, per=5)))
        await storage.push_bulk(range(7))
        await nursery.start(Worker("w", storage, handle, concurrency=4).run)
        await trio.sleep(15.5)
        assert len(begun) == 7
        nursery.cancel_scope.cancel()


@everywhere
async def test_no_slot_waits_for_a_limit(opened: Opener, tmp_path: Path, autojump_clock: MockClock) -> None:
    """A key at its limit leaves the other slot to others."""
    ends: dict[int, float] = {}

    async def handle(n: int) -> None:
        await trio.sleep(10)
        ends[n] = trio.current_time()

    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=1))
        await storage.push_bulk(range(5), key="big")
        await storage.push_bulk(range(5, 9))
        storage.close()
        began = trio.current_time()
        await Worker("w", storage, handle, concurrency=2).run()
        assert max(ends[n] for n in range(5, 9)) - began < 45
        assert max(ends.values()) - began < 55


@everywhere
async def test_all_tasks_held_back_can_be_listed_and_cancelled(opened: Opener, tmp_path: Path) -> None:
    """Also those that get a place meanwhile, since the ones before them were cancelled."""
    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=1))
        ids = await storage.push_bulk(range(10), key="big")
        for n in range(600):
            ids.append(await storage.push(n, key=f"k{n % 50}"))
        listed: list[Any] = []
        page = await storage.list_tasks(Status.Pending, limit=7)
        while True:
            listed += [task.parts.id for task in page]
            if page.next is None:
                break
            page = await storage.list_tasks(Status.Pending, limit=100, after=page.next)
        assert sorted(listed) == sorted(ids)
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["held_now"], metrics["delayed"]) == (51, 559, 559)
        assert len(await storage.list_tasks(delayed=True, limit=1000)) == 559
        assert len(await storage.list_tasks(delayed=False, limit=1000)) == 51
        assert await storage.cancel_all() == 610
        assert await storage.audit()


@everywhere
async def test_tasks_held_back_are_changed_like_others(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=1))
        _, second, third = await storage.push_bulk([1, 2, 3], key="a")
        fourth = await storage.push(4, key="a", expires_in=50)
        running = await storage.receive()
        assert running.args == 1
        assert await storage.reschedule(second, 0)
        assert await storage.reschedule(third, 100)
        found = await storage.fetch_by_id(fourth)
        assert found.parts.status is Status.Pending
        assert await storage.update(Task(40, found.parts))
        with pytest.raises(trio.WouldBlock):
            storage.receive_nowait()
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["delayed"], metrics["held_now"]) == (0, 3, 2)
        await trio.sleep(60)
        assert (await storage.fetch_by_id(fourth)).parts.status is Status.Killed
        assert (await storage.metrics())["held_now"] == 1
        await storage.settle(running, Succeeded(None))
        running = await storage.receive()
        assert running.args == 2
        await storage.settle(running, Released("interrupted"))
        running = await storage.receive()
        assert running.args == 2, "what is released goes first"
        await trio.sleep(60)
        with pytest.raises(trio.WouldBlock):
            storage.receive_nowait()
        await storage.settle(running, Retried(ValueError("no"), 10))
        running = await storage.receive()
        assert running.args == 3
        await storage.resume_by_id(fourth)
        await storage.settle(running, Suspended(trio.current_time() + 1000, "later"))
        assert (await storage.receive()).args in (2, 40)
        assert await storage.audit()


@everywhere
async def test_a_task_may_be_given_another_key(opened: Opener, tmp_path: Path) -> None:
    """A push that updates a waiting task gives it its key and its priority, too."""
    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=1))
        await storage.push(1, key="a")
        running = await storage.receive()
        await storage.push(2, key="a", unique="u")
        with pytest.raises(trio.WouldBlock):
            storage.receive_nowait()
        await storage.push(3, key="b", unique="u", on_conflict="update")
        moved = await storage.receive()
        assert (moved.args, moved.parts.terms.key) == (3, "b")
        for task in (running, moved):
            await storage.settle(task, Succeeded(None))
        assert await storage.audit()


@everywhere
async def test_limits_are_raised_and_lowered_under_way(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    running = 0
    seen: list[int] = []

    async def handle(n: int) -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep(10)
        finally:
            running -= 1

    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(concurrency=2))
        await storage.push_bulk(range(200), key="a")
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handle, concurrency=50).run)
            for limits, key in (
                (Limits(concurrency=5), None),
                (Limits(concurrency=5, per_key=1), None),
                (Limits(per_key=7), "a"),
                (None, None),
                (None, "a"),
            ):
                await trio.sleep(13)
                seen.append(running)
                await storage.set_limits(limits, key=key)
            await trio.sleep(13)
            seen.append(running)
            nursery.cancel_scope.cancel()
        assert seen == [2, 5, 1, 5, 7, 50]
        assert await storage.audit()


async def test_the_limits_of_a_queue_in_memory_are_its_own() -> None:
    """They are not those of another queue; a second handle sets them only if there are none."""
    limits, others = Limits(per_key=2), Limits(concurrency=1)
    storage = MemoryStorage[int](limits=limits)
    other = storage.share(queue="other")
    assert await storage.get_limits() == limits
    assert await other.get_limits() is None
    assert await storage.share(queue="default", limits=others).get_limits() == limits
    assert await storage.share(queue="other", limits=others).get_limits() == others
    assert await other.get_limits() == others


@pytest.mark.parametrize("kind", STORED)
async def test_the_limits_of_a_stored_queue_are_written_once(kind: Any, tmp_path: Path) -> None:
    """Those of a constructor count if the store has none; so do those of a queue that is shared later."""
    limits, others = Limits(per_key=2, weight=2), Limits(concurrency=1)
    async with kind(tmp_path / "tasks", int, limits=limits) as storage:
        assert await storage.get_limits() == limits
        shared = storage.share(int, queue="other", limits=others)
        assert await shared.get_limits() == others
        assert await storage.share(int, queue="second", limits=others).list_limits() == {None: others}
        assert await shared.get_limits(key="a") is None
        await shared.push(1)
        assert await shared.get_limits() == others
        assert await shared.list_limits() == {None: others}
        assert await storage.share(int, queue="third").get_limits() is None
    async with kind(tmp_path / "tasks", int, limits=others) as storage:
        assert await storage.get_limits() == limits
        await storage.set_limits(None)
    async with kind(tmp_path / "tasks", int) as storage:
        assert await storage.get_limits() is None


@everywhere
async def test_wrong_limits_are_refused(opened: Opener, tmp_path: Path) -> None:
    """With the name of what would be right; nothing changes."""
    limits: Any
    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=2))
        for limits, key, told in (
            ({"per_key": 2}, None, r"limits must be Limits, such as Limits\(per_key=2\), or None"),
            (2, "a", "limits must be Limits"),
            (Limits(concurrency=2), "a", "concurrency is a limit of a whole queue; for one key give per_key"),
            (Limits(rate=Rate(2, per=1)), "a", "rate is a limit of a whole queue; for one key give rate_per_key"),
            (Limits(), "", "key"),
            (Limits(), 5, "key"),
            (Limits(), "\ud800", "key must be encodable as UTF-8"),
            (Limits(), 1025 * "k", "key must have 1024 bytes or less"),
        ):
            with pytest.raises((TypeError, ValueError), match=told):
                await storage.set_limits(limits, key=key)
        with pytest.raises(TypeError, match="key"):
            await storage.get_limits(key=5)
        assert await storage.get_limits() == Limits(per_key=2)


@everywhere
async def test_a_limit_may_be_larger_than_any_number_of_a_database(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(concurrency=10**30, per_key=10**30, rate_per_key=Rate(10**30, per=60)))
        await storage.push_bulk(range(2), key="a")
        storage.close()
        await Worker("w", storage, key_of).run()
        assert (await storage.metrics())["succeeded"] == 2


def test_wrong_limits_of_a_constructor_are_refused(tmp_path: Path) -> None:
    wrong: Any = {"per_key": 2}
    with pytest.raises(TypeError, match="limits must be Limits"):
        MemoryStorage[int](limits=wrong)
    kind: Any
    for kind in STORED:
        with pytest.raises(TypeError, match="limits must be Limits"):
            kind(tmp_path / "tasks", limits=wrong)


@everywhere
async def test_a_limit_is_explained(opened: Opener, tmp_path: Path, autojump_clock: MockClock) -> None:
    """With the limit, and with the moment of the next attempt where that is known."""

    async def handle(n: int) -> None:
        await trio.sleep(1000)

    async with opened(tmp_path / "tasks") as storage:
        await storage.set_limits(Limits(per_key=2))
        await storage.set_limits(Limits(rate_per_key=Rate(1, per=60)), key="slow")
        big = await storage.push_bulk(range(4), key="big")
        slow = await storage.push_bulk([4, 5], key="slow")
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handle, concurrency=9).run)
            await trio.sleep(20)
            found = await storage.explain(big[2])
            assert (found.kind, found.limit, found.limit_key) == ("held_by_limit", "per_key", "big")
            assert (found.allowed, found.counted, found.until) == (2, 2, None)
            assert "its key 'big' has 2 of 2 attempts running (per_key=2)" in str(found)
            found = await storage.explain(slow[1])
            assert (found.kind, found.limit, found.per) == ("held_by_limit", "rate_per_key", 60.0)
            assert found.until is not None
            assert 39 <= (found.until - found.as_of).total_seconds() <= 41
            assert "its key 'slow' has begun 1 of 1 attempts within 60 s (rate_per_key)" in str(found)
            assert "the next may begin in 4" in str(found)
            await storage.set_limits(Limits(concurrency=3))
            last = await storage.push(6)
            found = await storage.explain(last)
            assert (found.limit, found.limit_key, found.allowed, found.counted) == ("concurrency", None, 3, 3)
            assert "queue 'default' has 3 of 3 attempts running (concurrency=3)" in str(found)
            nursery.cancel_scope.cancel()


@everywhere
async def test_all_attempts_are_told_that_run_beyond_a_lower_limit(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def handle(_: int) -> None:
        await trio.sleep(100)

    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await storage.push_bulk(range(3), key="big")
        await nursery.start(Worker("w", storage, handle, concurrency=4).run)
        await trio.sleep(1)
        await storage.set_limits(Limits(per_key=1))
        explanation = await storage.explain(await storage.push(3, key="big"))
        assert "its key 'big' has 3 of 1 attempts running (per_key=1)" in str(explanation)
        nursery.cancel_scope.cancel()


@everywhere
async def test_a_task_is_not_told_to_be_held_back_once_the_rate_of_its_key_has_a_place(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Even if no slot is free, so that nobody takes it."""

    async def handle(n: int) -> None:
        await trio.sleep(n)

    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await storage.set_limits(Limits(rate_per_key=Rate(1, per=10)))
        await nursery.start(Worker("w", storage, handle, concurrency=1).run)
        await storage.push(1, key="a")
        waits = await storage.push(1, key="a")
        await trio.sleep(0.5)
        await storage.push(100)
        for delayed in (1, 0):
            await trio.sleep(delayed)
            metrics = await storage.metrics()
            assert (metrics["delayed"], metrics["held_now"], metrics["waiting"]) == (delayed, delayed, 1 - delayed)
            assert len(await storage.list_tasks(delayed=True)) == delayed
            assert len(await storage.list_tasks(delayed=False)) == 1 - delayed
            assert (await storage.explain(waits)).kind == ("held_by_limit" if delayed else "waiting")
            await trio.sleep(20)
        nursery.cancel_scope.cancel()


@everywhere
async def test_the_tasks_are_told_that_go_first(opened: Opener, tmp_path: Path, autojump_clock: MockClock) -> None:
    """Tasks of other keys that have the same turn, too."""
    begun: list[str] = []

    async def handle(task: Task[int]) -> None:
        begun.append(task.parts.id)
        await trio.sleep(10)

    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handle, concurrency=1).run)
        await storage.push(0, key="a")
        await trio.sleep(1)
        ids = [each for key in "abc" for each in await storage.push_bulk(range(2), key=key)]
        ids += await storage.push_bulk(range(2))
        ahead = {each: (await storage.explain(each)).ahead for each in ids}
        await trio.sleep(100)
        assert ahead == {each: begun.index(each) - 1 for each in ids}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("per", "told"),
    [(0.25, "0.25 s"), (90, "90 s"), (100.5, "100.5 s"), (600, "10 min"), (86_400, "24 hours"), (604_800, "7 days")],
)
async def test_the_time_of_a_rate_is_explained_in_its_unit(per: float, told: str, autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](limits=Limits(rate=Rate(1, per=per)))
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, print).run)
        first, second = await storage.push_bulk([1, 2])
        await storage.wait_for(first)
        assert f"has begun 1 of 1 attempts within {told} (rate)" in str(await storage.explain(second))
        nursery.cancel_scope.cancel()


async def test_a_rate_of_a_queue_is_explained(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](limits=Limits(rate=Rate(2, per=30)))
    await storage.push_bulk([1, 2])
    done: list[int] = []

    async def handle(n: int) -> None:
        done.append(n)

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handle).run)
        await trio.sleep(10)
        last = await storage.push(3)
        found = await storage.explain(last)
        assert (found.kind, found.limit, found.allowed, found.counted) == ("held_by_limit", "rate", 2, 2)
        assert "queue 'default' has begun 2 of 2 attempts within 30 s (rate); the next may begin in 20 s" in str(found)
        assert done == [1, 2]
        storage.close()
    assert done == [1, 2, 3]


async def test_a_paused_queue_does_not_look_again_and_again(autojump_clock: MockClock) -> None:
    """A rate that has a place again wakes nobody while the queue is paused; after that, all goes on."""
    storage = MemoryStorage[int](limits=Limits(rate=Rate(1, per=5), rate_per_key=Rate(1, per=20)))
    await storage.push_bulk([1, 2, 3], key="a")
    await storage.push(4)
    times: list[float] = []

    async def handle(n: int) -> None:
        times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handle, concurrency=2).run)
        await trio.sleep(1)
        await storage.pause()
        await trio.sleep(1000)
        assert len(times) == 1
        await storage.resume()
        storage.close()
    assert len(times) == 4


def test_rates_in_memory_count_afresh_in_another_run() -> None:
    """The clock of trio starts elsewhere in each run, so what began in the one before is not compared with it."""
    storage = MemoryStorage[int](limits=Limits(rate=Rate(1, per=3600)))

    async def run() -> None:
        await storage.push(1)
        task = storage.receive_nowait()
        await storage.settle(task, Succeeded(None))
        await storage.push(2)
        with pytest.raises(trio.WouldBlock):
            storage.receive_nowait()
        await storage.cancel_all()

    for _ in range(2):
        trio.run(run)


@everywhere
async def test_a_task_whose_delay_is_over_goes_before_one_that_is_pushed_then(
    opened: Opener, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its turn is the earlier one, though nobody has looked for what is due."""
    async with opened(tmp_path / "tasks") as storage:
        await storage.push_bulk([0, 1], key="a")
        for number in range(2):
            task = await storage.receive()
            assert task.args == number
            await storage.settle(task, Succeeded(None))
        await storage.push(2, key="a", delay=5)
        await storage.push(3, delay=5)
        await trio.sleep(10)
        await storage.push_bulk([4], key="a")
        await storage.push_bulk([5])
        received = [await storage.receive() for _ in range(4)]
        assert [task.args for task in received if key_of(task)] == [2, 4]
        assert [task.args for task in received if not key_of(task)] == [3, 5]
