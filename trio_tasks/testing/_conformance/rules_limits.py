"""Rules about keys that share a queue, and about limits: of the queue and of each key."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ..._contracts.backend import Cancel, ListTasks, Metrics, SetLimits
from ..._tasks.limits import Limits, Rate
from ..._tasks.outcome import Failed, Released, Retried, Status, Succeeded, Suspended
from .harness import DELAY, TICK, Stopwatch
from .rule import Feature, expect, expect_that, refused, rule

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..._tasks.outcome import Outcome
    from .harness import Harness

_FAR = 3600.0


@asynccontextmanager
async def _limited(harness: Harness, limits: Limits | None = None, **of_keys: Limits) -> AsyncGenerator[None, None]:
    """Set these limits for the length of the block."""
    await harness.backend.set_limits(limits)
    for key, each in of_keys.items():
        await harness.backend.set_limits(each, key=key)
    yield
    for key in of_keys:
        await harness.backend.set_limits(None, key=key)
    await harness.backend.set_limits(None)


async def _push_keys(  # noqa: ASYNC910  there is one key at least
    harness: Harness, *keys: str | None
) -> None:
    """Push a task of each key, with ascending numbers from 0."""
    for number, key in enumerate(keys):
        await harness.push(number, **({} if key is None else {"key": key}))


async def _receive_all(harness: Harness, number: int) -> list[int]:
    """Receive so many tasks, and finish each; return their numbers."""
    numbers: list[int] = []
    for _ in range(number):
        task = await harness.receive()
        numbers.append(harness.number(task))
        await harness.settle(task, Succeeded(None))
    return numbers  # noqa: ASYNC910  there is one at least


@rule(15, SetLimits)
async def keys_take_turns(harness: Harness) -> None:
    """A task is delayed by one task of another key, however many of that were pushed before; those of a key keep their
    order; tasks without a key count as a key.
    """
    await _push_keys(harness, *["big"] * 6, "small", None, "small", None)
    numbers = await _receive_all(harness, 10)
    expect("the order of the tasks of a key", [each for each in numbers if each < 6], [0, 1, 2, 3, 4, 5])
    places = [numbers.index(each) for each in (6, 7, 8, 9)]  # each key may have had the last turn before
    latest = [2, 3, 5, 6]
    late = any(place > last for place, last in zip(places, latest, strict=True))
    expect_that("the order in which they come", not late, numbers, f"tasks 6 to 9 in the places {latest}, or before")


@rule(15, SetLimits)
async def priority_goes_before_fairness(harness: Harness) -> None:
    """All tasks of a higher priority come first, whatever their keys; turns are taken within a priority."""
    await _push_keys(harness, "a", "a", "b")
    for number, key in ((3, "a"), (4, "a"), (5, "a"), (6, "b")):
        await harness.push(number, key=key, priority=1)
    numbers = await _receive_all(harness, 7)
    expect("the tasks of the higher priority", {*numbers[:4]}, {3, 4, 5, 6})
    expect_that("the order in which they come", numbers.index(6) < numbers.index(5), numbers, "6 before 5")


@rule(15, SetLimits)
async def turns_go_by_weight(harness: Harness) -> None:
    """A key with weight 3 has three turns while one with weight 1 has one."""
    async with _limited(harness, heavy=Limits(weight=3)):
        await _push_keys(harness, *["light"] * 6, *["heavy"] * 12)
        numbers = await _receive_all(harness, 12)
    heavy = sum(each >= 6 for each in numbers)
    expect_that("the tasks of weight 3 among the first twelve", 7 <= heavy <= 11, heavy, "about 9")


@rule(15, SetLimits)
async def a_key_at_its_limit_is_passed_over(harness: Harness) -> None:
    """No more tasks of a key run at once than its limit says; others come meanwhile, and the next one of the key when
    an attempt of it ends, whatever its outcome. Tasks without a key have no such limit.
    """
    ends: list[Outcome] = [Succeeded(None), Retried(ValueError("no"), _FAR), Suspended(trio.current_time() + _FAR, "")]
    async with _limited(harness, Limits(per_key=2)):
        await _push_keys(harness, *["a"] * 6, None, None, None)
        tasks = [await harness.receive() for _ in range(5)]
        running = [each for each in tasks if harness.number(each) < 6]
        expect("the tasks of the key that come", sorted(harness.number(each) for each in running), [0, 1])
        await harness.expect_nothing()
        for number, outcome in enumerate(ends, start=2):
            await harness.settle(running.pop(0), outcome)
            running.append(await harness.receive_number(number))
            await harness.expect_nothing(TICK)
        await harness.settle(running.pop(), Released("interrupted"))
        await harness.receive()
        await harness.expect_nothing(TICK)
        await harness.settle(running.pop(), Failed(ValueError("no")))
        await harness.receive()


@rule(15, SetLimits)
async def a_queue_runs_no_more_than_its_limit(harness: Harness) -> None:
    """No more tasks of a queue run at once than its concurrency, with keys or without."""
    async with _limited(harness, Limits(concurrency=2)):
        await _push_keys(harness, None, None, None, "a")
        first, _ = await harness.receive(), await harness.receive()
        await harness.expect_nothing()
        await harness.settle(first, Succeeded(None))
        second = await harness.receive()
        await harness.expect_nothing(TICK)
        await harness.settle(second, Succeeded(None))
        await harness.receive()


@rule(15, SetLimits)
async def a_rate_of_a_queue_is_kept(harness: Harness) -> None:
    """No more attempts begin within the time of a rate than it says, retries included; the next one comes by itself
    when it may.
    """
    async with _limited(harness, Limits(rate=Rate(2, per=DELAY))):
        await harness.push(0)
        clock = Stopwatch()
        await harness.settle(await harness.receive_number(0), Retried(ValueError("no"), 0.0))
        await harness.settle(await harness.receive_number(0, attempt=2), Succeeded(None))
        await harness.push(1, key="a")
        await harness.receive_number(1)
        clock.expect_at_least(DELAY, "the third attempt of a queue with two in each time")


@rule(15, SetLimits)
async def a_rate_of_a_key_is_kept(harness: Harness) -> None:
    """No more attempts of a key begin within the time of its rate than it says; others come meanwhile."""
    async with _limited(harness, Limits(rate_per_key=Rate(1, per=_FAR)), other=Limits(rate_per_key=Rate(1, per=DELAY))):
        await _push_keys(harness, "a", "a", "b", None, None)
        numbers = await _receive_all(harness, 4)
        expect("the tasks that come at once", {*numbers}, {0, 2, 3, 4})
        await harness.expect_nothing()
        for number in (5, 6):
            await harness.push(number, key="other")
        clock = Stopwatch()
        await harness.receive_number(5)
        await harness.receive_number(6)
        clock.expect_at_least(DELAY, "the second attempt of a key with one in each time")


@rule(15, SetLimits)
async def limits_are_of_a_queue_or_of_a_key(harness: Harness) -> None:
    """Limits can be read back; those of a key replace all that the queue says of keys; None removes them."""
    backend = harness.backend
    limits = Limits(concurrency=9, per_key=2, rate=Rate(9, per=60), rate_per_key=Rate(5, per=1), weight=2)
    own = Limits(per_key=1)
    async with _limited(harness, limits, a=own):
        found = await backend.get_limits(), await backend.get_limits(key="a"), await backend.get_limits(key="b")
        expect("the limits of the queue, of a key with its own, and of another one", found, (limits, own, None))
        listed = await backend.list_limits()
        expect("the same in the list of all limits", tuple(listed.get(key) for key in (None, "a", "b")), found)
        await backend.set_limits(Limits(per_key=1))
        await backend.set_limits(Limits(weight=2), key="a")
        await _push_keys(harness, "a", "a", "b", "b")
        numbers = [harness.number(await harness.receive()) for _ in range(3)]
        expect("the tasks that come", {*numbers}, {0, 1, 2})
        await harness.expect_nothing(TICK)
        await backend.set_limits(None, key="a")
        expect("the limits of a key that has none of its own any more", await backend.get_limits(key="a"), None)
    expect("the limits of a queue that has none any more", await backend.get_limits(), None)
    with refused("a limit of a whole queue, for a key", ValueError):
        await backend.set_limits(Limits(concurrency=1), key="a")
    with refused("limits that are none", TypeError):
        await backend.set_limits({"per_key": 1})
    with refused("an empty key", ValueError):
        await backend.set_limits(own, key="")


@rule(15, SetLimits)
async def a_higher_limit_serves_those_that_wait(harness: Harness) -> None:
    """When a limit is raised, a receiver that waits gets a task at once; when it is lowered, none comes before enough
    attempts have ended.
    """
    backend = harness.backend
    async with _limited(harness, Limits(per_key=1)):
        await _push_keys(harness, *["a"] * 5)
        running = [await harness.receive_number(0)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_raise_later, backend)
            running.append(await harness.receive_number(1))
        running.append(await harness.receive_number(2))
        await backend.set_limits(Limits(per_key=2))
        for left in (2, 1):
            await harness.settle(running.pop(), Succeeded(None))
            if left == 2:
                await harness.expect_nothing(TICK)
        await harness.receive_number(3)


async def _raise_later(backend: SetLimits) -> None:
    await trio.sleep(TICK)
    await backend.set_limits(Limits(per_key=3))


@rule(15, SetLimits, ListTasks, Metrics, Cancel)
async def tasks_held_back_are_counted_as_delayed(harness: Harness) -> None:
    """Tasks for which their key has no place are pending, and counted as delayed, not as waiting; they can be listed
    and cancelled, all of them.
    """
    backend = harness.backend
    async with _limited(harness, Limits(per_key=2)):
        await _push_keys(harness, *["a"] * 5, "b")
        await harness.receive()
        metrics = await backend.metrics()
        seen = {name: metrics[name] for name in ("waiting", "delayed", "running", "held_now")}
        expect("the counts", seen, {"waiting": 2, "delayed": 3, "running": 1, "held_now": 3})
        for delayed, number in ((True, 3), (False, 2), (None, 5)):
            found = await backend.list_tasks(Status.Pending, **({} if delayed is None else {"delayed": delayed}))
            expect(f"the number of tasks that are listed with delayed={delayed}", len(found), number)
        for task in await backend.list_tasks(Status.Pending):
            expect("whether it can be cancelled", await backend.cancel(task.parts.id), True)
        await harness.expect_nothing(TICK)
        metrics = await backend.metrics()
        expect("the number of delayed ones after that", metrics["delayed"], 0)


@rule(15, SetLimits, Feature.LEASE)
async def a_lost_lease_gives_its_place_back(harness: Harness) -> None:
    """The place of an attempt whose lease has run out is free again."""
    async with _limited(harness, Limits(per_key=1)):
        await _push_keys(harness, "a", "a")
        await harness.receive_number(0)
        await harness.pass_time(1.5 * harness.lease)
        await harness.receive_number(0, attempt=2)
        await harness.expect_nothing(TICK)


@rule(15, SetLimits, Feature.LASTING)
async def limits_outlive_the_handle(harness: Harness) -> None:
    """Limits that were set are still there when the queue is opened again, and hold."""
    limits, own = Limits(per_key=1, rate=Rate(10_000, per=_FAR)), Limits(per_key=2)
    async with _limited(harness, limits, a=own):
        await _push_keys(harness, *["a"] * 3, "b", "b")
        await harness.restart()
        found = await harness.backend.get_limits(), await harness.backend.get_limits(key="a")
        expect("the limits after a restart", found, (limits, own))
        numbers = [harness.number(await harness.receive()) for _ in range(3)]
        expect("the tasks that come after a restart", {*numbers}, {0, 1, 3})
        await harness.expect_nothing(TICK)
