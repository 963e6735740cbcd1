"""Tests of the layer RateLimit: in any period, at most so many attempts begin."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import Attempt, MemoryStorage, SqliteStorage, Status, Task, Worker
from trio_tasks.abc import Admitting
from trio_tasks.layers import ConcurrencyLimit, Filter, RateLimit, RateLimitStatistics, Retry


class Starts:
    """A handler that notes when each attempt began."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.at: list[float] = []
        self.names: list[Any] = []

    async def __call__(self, task: Task[Any]) -> str:
        return await self.begin(task.args)

    async def begin(self, args: Any) -> str:
        self.at.append(trio.current_time())
        self.names.append(args)
        await trio.sleep(self.seconds)
        return "done"

    def most_in(self, seconds: float) -> int:
        """Return the highest number of attempts that began within a period of this length."""
        return max(sum(first <= each < first + seconds for each in self.at) for first in self.at)


# Without a worker


async def test_all_of_them_may_begin_at_once_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(3, per=10), Starts()
    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(limit, starts, Task(n))
            await trio.testing.wait_all_tasks_blocked()
    assert starts.at == [0, 0, 0, 10, 10, 10, 20, 20]
    assert starts.names == list(range(8)), "first come, first served"


async def test_what_began_apart_comes_back_apart(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(2, per=10), Starts()
    await limit(starts, Task("a"))
    await trio.sleep(4)
    await limit(starts, Task("b"))
    async with trio.open_nursery() as nursery:
        for name in "cdef":
            nursery.start_soon(limit, starts, Task(name))
    assert starts.at == [0, 4, 10, 14, 20, 24]


@pytest.mark.parametrize("seed", range(20))
async def test_no_stretch_sees_more(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Calls, admissions, dismissals and cancellations at random moments."""
    chance = random.Random(seed)
    limit, starts = RateLimit(chance.randint(1, 4), per=chance.choice([0.1, 1.0, 3.7])), Starts(0.2)

    async def one() -> None:
        task = Task("a")
        await trio.sleep(chance.uniform(0, 10 * limit.per))
        with trio.move_on_after(chance.choice([math.inf, limit.per])):
            if chance.random() < 0.5:
                await limit(starts, task)
                return
            await limit.ready()
            if not limit.admit(task):
                return
            try:
                if chance.random() < 0.7:
                    await trio.sleep(chance.choice([0, 0, limit.per / 2, limit.per * 2]))
                    await limit(starts, task)
            finally:
                limit.dismiss(task)

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(one)
    assert starts.most_in(limit.per - 1e-9) <= limit.limit
    await trio.sleep(limit.per)
    assert limit.statistics() == RateLimitStatistics(
        limit=limit.limit, per=limit.per, free=limit.limit, reserved=0, cooling=0, waiting=0
    )


async def test_a_call_that_is_cancelled_while_it_waits_has_used_no_token(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit, starts = RateLimit(1, per=10), Starts()
    await limit(starts, Task("a"))
    with trio.move_on_after(5) as scope:
        await limit(starts, Task("gave up"))
    assert scope.cancelled_caught
    await limit(starts, Task("b"))
    assert starts.at == [0, 10]


async def test_an_attempt_that_was_cancelled_has_begun_all_the_same(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(1, per=10), Starts(5)
    with trio.move_on_after(1) as scope:
        await limit(starts, Task("a"))
    assert scope.cancelled_caught
    await limit(starts, Task("b"))
    assert starts.at == [0, 10]


async def test_it_sleeps_until_the_very_moment(autojump_clock: trio.testing.MockClock) -> None:
    class Counting(trio.abc.Instrument):
        turns = 0

        def after_io_wait(self, timeout: float) -> None:
            self.turns += 1

    limit, counting = RateLimit(1, per=86400), Counting()
    await limit(Starts(), Task("a"))
    trio.lowlevel.add_instrument(counting)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(limit.ready)
    finally:
        trio.lowlevel.remove_instrument(counting)
    assert trio.current_time() == 86400
    assert counting.turns < 20, "somebody polls"


def test_times_of_another_run_do_not_count() -> None:
    """A limit at the top of a module lives through several runs, whose clocks have nothing to do with each other."""
    limit, starts = RateLimit(1, per=10), Starts()

    async def once() -> None:
        await limit(starts, Task("a"))

    for _ in range(3):
        trio.run(once, clock=trio.testing.MockClock(autojump_threshold=0))
    assert starts.at == [0, 0, 0]


# What a worker does


async def test_a_token_is_reserved_used_and_free_again(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(2, per=10), Starts()
    task = Task("a")

    def tokens() -> tuple[int, int, int]:
        statistics = limit.statistics()
        return statistics.free, statistics.reserved, statistics.cooling

    with trio.testing.assert_checkpoints():
        await limit.ready()
    assert limit.admit(task)
    assert tokens() == (1, 1, 0)
    await limit(starts, Task("other args", task.parts))
    assert tokens() == (1, 0, 1)
    limit.dismiss(task)
    assert tokens() == (1, 0, 1)
    await trio.sleep(10)
    assert tokens() == (2, 0, 0)


async def test_what_never_arrived_gives_its_token_back(autojump_clock: trio.testing.MockClock) -> None:
    limit = RateLimit(1, per=10)
    task = Task("a")
    assert limit.admit(task)
    assert not limit.admit(Task("b"))
    limit.dismiss(task)
    limit.dismiss(task)
    limit.dismiss(Task("never seen"))
    assert limit.admit(Task("b"))
    assert not limit.admit(Task("c")), "what was never reserved cannot be given back"


async def test_a_task_admitted_twice_has_two_tokens(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(3, per=10), Starts()
    task = Task("a")
    assert limit.admit(task)
    assert limit.admit(task)
    await limit(starts, task)
    assert limit.statistics().reserved == 1
    limit.dismiss(task)
    limit.dismiss(task)
    statistics = limit.statistics()
    assert (statistics.free, statistics.reserved, statistics.cooling) == (2, 0, 1)


async def test_a_waiting_call_learns_of_a_token_that_comes_back_early(autojump_clock: trio.testing.MockClock) -> None:
    limit = RateLimit(1, per=10)
    task = Task("a")
    assert limit.admit(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit.ready)
        await trio.sleep(3)
        limit.dismiss(task)
    assert trio.current_time() == 3


async def test_a_waiting_call_learns_when_a_token_begins_to_cool(autojump_clock: trio.testing.MockClock) -> None:
    """At first nobody can say when the token will be free, for the attempt has yet to arrive."""
    limit = RateLimit(1, per=10)
    task = Task("a")
    assert limit.admit(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limit.ready)
        await trio.sleep(3)
        await limit(Starts(), task)
        limit.dismiss(task)
    assert trio.current_time() == 13


async def test_a_second_call_in_the_same_attempt_needs_a_second_token(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit, starts = RateLimit(1, per=10), Starts()
    task = Task("a")
    assert limit.admit(task)
    await limit(starts, task)
    await limit(starts, task)
    assert starts.at == [0, 10]


# Through workers


async def test_promise_4_what_it_has_no_room_for_stays_in_the_backend(autojump_clock: trio.testing.MockClock) -> None:
    """Between two tokens its worker takes nothing, and another worker takes what is left."""
    limit, starts, other = RateLimit(2, per=100), Starts(), Starts(1)
    storage = MemoryStorage[str]()
    ids = await storage.push_bulk(["a", "b", "c", "d"])
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("limited", storage, starts.begin, layers=[limit]).run)
        await trio.sleep(5)
        assert starts.names == ["a", "b"]
        assert context.task_count == 0
        waiting = [await storage.fetch_by_id(task_id) for task_id in ids[2:]]
        assert [task and (task.parts.status, task.parts.attempt) for task in waiting] == [(Status.Pending, 0)] * 2
        storage.close()
        nursery.start_soon(Worker("free", storage, other.begin, concurrency=1).run)
        await trio.sleep(3)
        assert other.names == ["c", "d"]
    assert (await storage.metrics())["released"] == 0, "nothing was even taken and given back"


async def test_workers_that_share_it_share_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(3, per=10), Starts()
    async with trio.open_nursery() as nursery:
        for n in range(3):
            storage = MemoryStorage[int]()
            await storage.push_bulk(range(4))
            storage.close()
            nursery.start_soon(Worker(f"w{n}", storage, starts.begin, layers=[limit]).run)
    assert starts.at == [0, 0, 0, 10, 10, 10, 20, 20, 20, 30, 30, 30]


async def test_what_another_gate_or_layer_turns_away_uses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(1, per=100), Starts(3)
    storage = MemoryStorage[str]()
    await storage.push_bulk(["no", "no", "yes"])
    storage.close()
    layers: list[Any] = [Filter(lambda task: task.args == "yes"), ConcurrencyLimit(1), limit]
    report = await Worker("w", storage, starts.begin, layers=layers).run()
    assert (report.killed, report.succeeded) == (2, 1)
    assert starts.at == [0]


async def test_in_a_retry_each_call_counts(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(1, per=10), Starts()

    async def flaky(name: str) -> None:
        await starts.begin(name)
        if len(starts.at) < 3:
            raise KeyError(name)

    storage = MemoryStorage[str]()
    await storage.push("a")
    storage.close()
    layers: list[Any] = [Retry(5, backoff=lambda attempt: 0.0), limit]
    report = await Worker("w", storage, flaky, layers=layers).run()
    assert report.succeeded == 1
    assert starts.at == [0, 10, 20]


# By key


def by_args(task: Task[Any]) -> Any:
    return task.args


async def test_by_key_each_key_has_so_many(autojump_clock: trio.testing.MockClock) -> None:
    limit, starts = RateLimit(2, per=10, key=by_args), Starts()
    async with trio.open_nursery() as nursery:
        for name in "aaaabbbc":
            nursery.start_soon(limit, starts, Task(name))
            await trio.testing.wait_all_tasks_blocked()
        assert limit.statistics() == RateLimitStatistics(
            limit=2, per=10, free=1, reserved=0, cooling=5, waiting=3, keys=("a", "b", "c")
        )
    assert sorted(zip(starts.at, starts.names, strict=True)) == [
        *((0, name) for name in "aabbc"),
        *((10, name) for name in "aab"),
    ]


@pytest.mark.parametrize("seed", range(10))
async def test_by_key_no_stretch_sees_more(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Calls and admissions that come, wait and give up, so that keys are forgotten and come back."""
    chance = random.Random(seed)
    limit = RateLimit(chance.randint(1, 3), per=1, key=by_args)
    starts = {name: Starts() for name in "abc"}

    async def visit() -> None:
        for _ in range(10):
            await trio.sleep(chance.choice([0, 0, 0.5, 3]))
            task = Task(chance.choice("abc"))
            with trio.move_on_after(chance.choice([0, 0.3, math.inf])):
                admitted = chance.random() < 0.3 and limit.try_admit(task)
                try:
                    await trio.sleep(chance.choice([0, 0.2]))
                    await limit(starts[task.args], task)
                finally:
                    if admitted:
                        limit.dismiss(task)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(visit)
    assert all(each.most_in(1 - 1e-9) <= limit.limit for each in starts.values())
    await trio.sleep(1)
    assert limit.statistics() == RateLimitStatistics(
        limit=limit.limit, per=1, free=0, reserved=0, cooling=0, waiting=0, keys=()
    )


async def test_by_key_those_that_are_unused_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """Also while others are in use, and though nobody asks for statistics."""
    limit, starts = RateLimit(1, per=5, key=by_args), Starts()
    held = [Task(f"held {n}") for n in range(20)]
    assert all(map(limit.try_admit, held))
    for n in range(3000):
        await limit(starts, Task(n))
        await trio.sleep(0.1)  # so 50 are used within any 5 seconds
        assert len(limit._by_key) <= 2 * (50 + 20)
    assert all(map(limit._by_key.__contains__, (task.args for task in held)))


async def test_by_key_through_a_worker_the_others_go_on(autojump_clock: trio.testing.MockClock) -> None:
    starts = Starts()
    storage = MemoryStorage[str]()
    await storage.push_bulk("aaabbc")
    storage.close()
    limit = RateLimit(1, per=10, key=by_args)
    report = await Worker("w", storage, starts.begin, layers=[limit], concurrency=1).run()
    assert (report.succeeded, report.suspended) == (6, 3), "each that has to wait is put back once"
    assert limit.statistics().keys == ("a",), "which was used a moment ago"
    assert sorted(zip(starts.names, starts.at, strict=True)) == [
        ("a", 0), ("a", 10), ("a", 20), ("b", 0), ("b", 10), ("c", 0)
    ]  # fmt: skip


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_promise_4_by_key_what_has_to_wait_holds_no_slot(store: str, tmp_path: Path) -> None:
    """It waits in the backend, at no attempt; and all that wait begin as soon as the rate allows."""
    starts, numbers, limit = Starts(), list[int](), RateLimit(2, per=0.5, key=by_args)

    async def handler(name: str, attempt: Attempt) -> None:
        numbers.append(attempt)
        await starts.begin(name)

    storage: Any = MemoryStorage[str]() if store == "memory" else SqliteStorage(tmp_path / "tasks.db", str)
    async with storage:
        await storage.push_bulk("aaaaaaab")
        storage.close()
        report = await Worker("w", storage, handler, layers=[limit], concurrency=1).run()
    assert report.succeeded == 8
    assert numbers == [1] * 8
    assert starts.names[-1] == "a", "b did not wait for all the others"
    a = Starts()
    a.at = [at for at, name in zip(starts.at, starts.names, strict=True) if name == "a"]
    assert a.most_in(0.4) <= 2


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_by_key_a_crowd_is_told_as_many_moments_as_the_rate_allows(
    limit: int, autojump_clock: trio.testing.MockClock
) -> None:
    starts, by_key = Starts(), RateLimit(limit, per=10, key=by_args)
    storage = MemoryStorage[str]()
    await storage.push_bulk("a" * 30)
    storage.close()
    report = await Worker("w", storage, starts.begin, layers=[by_key], concurrency=5).run()
    assert starts.at == [10 * (n // limit) for n in range(30)]
    assert report.suspended == 30 - limit


@pytest.mark.parametrize("answer", [KeyError("tenant"), ["not hashable"]], ids=["raises", "not hashable"])
async def test_a_key_that_cannot_be_had_is_the_error_of_the_attempt(answer: Any) -> None:
    def key(task: Task[Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    storage = MemoryStorage[str]()
    await storage.push("a", attempts=1)
    storage.close()
    report = await Worker("w", storage, Starts().begin, layers=[RateLimit(1, per=10, key=key)]).run()
    assert report.failed == 1


# Arguments

WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: RateLimit(0, per=1), ValueError, "n must be 1 or more, not 0"),
    (lambda: RateLimit(1.5, per=1), TypeError, "n must be a whole number"),  # type: ignore[arg-type]  # it is refused
    (lambda: RateLimit(1, per=0), ValueError, "per must be more than 0 seconds"),
    (lambda: RateLimit(1, per=1, key="tenant"), TypeError, "key must be callable"),  # type: ignore[arg-type]  # it is refused
    (lambda: RateLimit(1, per=1, key=Starts()), TypeError, "key must be a plain function"),  # type: ignore[arg-type]  # it is refused
    (lambda: RateLimit(1, per=math.nan), ValueError, "per must be a finite number of seconds"),
]


@pytest.mark.parametrize(("make", "kind", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_arguments_are_refused(make: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_it_is_a_gate_that_counts_and_shows_itself() -> None:
    assert isinstance(RateLimit(1, per=1), Admitting)
    assert repr(RateLimit(100, per=60)) == "<RateLimit 100 in 60 s>"
    assert repr(RateLimit(1, per=0.5, key=by_args)) == "<RateLimit 1 in 0.5 s for each key>"
