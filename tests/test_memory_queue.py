"""Tests of the queue in memory: no wake-up is lost, one receiver keeps time, and each task goes to one receiver."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    DuplicateTaskError,
    Failed,
    Killed,
    MemoryStorage,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Task,
)

FOREVER = 10**6


async def receive_into(storage: MemoryStorage[int], received: list[tuple[float, int]]) -> None:
    """Receive for as long as there is something, and write down when what came."""
    while True:
        try:
            task = await storage.receive()
        except trio.EndOfChannel:
            return
        received.append((trio.current_time(), task.args))
        storage.settle_nowait(task, Succeeded(None))


# Waiting for a task


async def test_a_task_is_handed_over_in_the_step_in_which_it_is_pushed(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    storage.push_nowait(1)
    with pytest.raises(trio.WouldBlock):
        storage.receive_nowait()  # it is the waiting one's already
    assert storage.statistics().running == 1
    await wait_all_tasks_blocked()
    assert [args for _, args in received] == [1]
    nursery.cancel_scope.cancel()


async def test_the_longest_waiting_receiver_is_served_first(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    served: list[tuple[int, int]] = []

    async def receive_one(number: int) -> None:
        served.append((number, (await storage.receive()).args))

    for number in range(5):
        nursery.start_soon(receive_one, number)
        await wait_all_tasks_blocked()
    for args in range(5):
        storage.push_nowait(args)
    await wait_all_tasks_blocked()
    assert sorted(served) == [(n, n) for n in range(5)]


async def test_a_cancelled_receiver_is_not_handed_anything(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    with trio.CancelScope() as scope:
        nursery.start_soon(receive_into, storage, received)
        await wait_all_tasks_blocked()

        async def leave() -> None:
            await wait_all_tasks_blocked()
            scope.cancel()
            storage.push_nowait(1)

        nursery.start_soon(leave)
        await storage.receive()
        raise AssertionError("a cancelled receive gave a task")
    await wait_all_tasks_blocked()
    assert [args for _, args in received] == [1]
    assert storage.statistics().receivers_waiting == 1
    nursery.cancel_scope.cancel()


async def test_a_receiver_that_is_cancelled_after_having_been_given_a_task_has_it(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    scope = trio.CancelScope()

    async def push_and_cancel() -> None:
        await wait_all_tasks_blocked()
        storage.push_nowait(1)
        scope.cancel()

    nursery.start_soon(push_and_cancel)
    task = None
    with scope:
        task = await storage.receive()
    assert task is not None
    assert storage.statistics().running == 1


# Keeping time


async def test_several_tasks_due_at_one_instant_go_to_several_receivers(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []

    async def receive_and_stay() -> None:
        received.append((trio.current_time(), (await storage.receive()).args))
        received[-1] = (trio.current_time(), received[-1][1])
        await trio.sleep(100)

    for _ in range(5):
        nursery.start_soon(receive_and_stay)
    start = trio.current_time()
    await storage.push_bulk(range(5), delay=10)
    await trio.sleep(50)
    assert sorted(args for _, args in received) == list(range(5))
    assert {when - start for when, _ in received} == {10.0}


async def test_of_several_receivers_one_keeps_time_and_passes_it_on_when_cancelled(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    scopes = [trio.CancelScope() for _ in range(4)]

    async def receive_inside(scope: trio.CancelScope) -> None:
        with scope:
            await receive_into(storage, received)

    start = trio.current_time()
    await storage.push(1, delay=10)
    for scope in scopes:
        nursery.start_soon(receive_inside, scope)
        await wait_all_tasks_blocked()
    for scope in scopes[:-1]:  # any of them may keep time
        scope.cancel()
        await wait_all_tasks_blocked()
    assert storage.statistics().receivers_waiting == 1
    await trio.sleep(20)
    assert received == [(start + 10, 1)]
    nursery.cancel_scope.cancel()


async def test_a_time_keeper_that_is_given_a_task_passes_timekeeping_on(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []

    async def receive_one() -> None:
        task = await storage.receive()
        received.append((trio.current_time(), task.args))
        await trio.sleep_forever()

    start = trio.current_time()
    await storage.push(1, delay=10)
    nursery.start_soon(receive_one)
    await wait_all_tasks_blocked()
    nursery.start_soon(receive_one)
    await wait_all_tasks_blocked()
    await storage.push(2)  # goes to the first, who kept time
    await trio.sleep(20)
    assert received == [(start, 2), (start + 10, 1)]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("delay", [1.0, 0.0])
async def test_a_nearer_task_brings_the_alarm_forward(
    delay: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    start = trio.current_time()
    far = await storage.push(1, delay=100)
    nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    await storage.push(2, delay=5)
    await wait_all_tasks_blocked()
    assert await storage.reschedule(far, delay)
    await trio.sleep(20)
    assert received == [(start + delay, 1), (start + 5, 2)]
    nursery.cancel_scope.cancel()


async def test_the_alarm_is_put_off_when_the_nearest_task_is_taken_back(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    start = trio.current_time()
    near = await storage.push(1, delay=5)
    await storage.push(2, delay=50)
    nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    assert await storage.cancel(near)
    await trio.sleep(100)
    assert received == [(start + 50, 2)]
    nursery.cancel_scope.cancel()


async def test_the_first_delayed_task_makes_a_waiting_receiver_the_time_keeper(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    for _ in range(3):
        nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    start = trio.current_time()
    await storage.push(1, delay=3)
    await trio.sleep(10)
    assert received == [(start + 3, 1)]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("after", [0.0, 7.0])
async def test_a_retried_task_is_given_to_waiting_receivers(
    after: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    await storage.push(1)
    task = await storage.receive()
    for _ in range(2):
        nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    start = trio.current_time()
    await storage.settle(task, Retried(ValueError("again"), after))
    await trio.sleep(10)
    assert received == [(start + after, 1)]
    nursery.cancel_scope.cancel()


async def test_time_that_passes_before_the_time_keeper_has_woken_up_is_not_lost(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []

    async def receive_one() -> None:
        received.append((trio.current_time(), (await storage.receive()).args))
        await trio.sleep_forever()

    for _ in range(3):
        nursery.start_soon(receive_one)
    await wait_all_tasks_blocked()
    for number in range(3):
        storage.push_nowait(number, delay=5)
    mock_clock.jump(10)
    await wait_all_tasks_blocked()
    assert sorted(args for _, args in received) == [0, 1, 2]
    nursery.cancel_scope.cancel()


async def test_the_end_that_comes_before_the_time_keeper_has_woken_up_is_told_to_all(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[int] = []

    async def receive_one() -> None:
        with suppress(trio.EndOfChannel):
            received.append((await storage.receive()).args)

    for _ in range(5):
        nursery.start_soon(receive_one)
    await wait_all_tasks_blocked()
    storage.push_nowait(1, delay=5)
    storage.close()
    mock_clock.jump(10)
    await wait_all_tasks_blocked()
    assert received == [1]
    assert storage.statistics().receivers_waiting == 0
    nursery.cancel_scope.cancel()


async def test_an_idle_storage_sets_no_alarm(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    for _ in range(3):
        nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
    await storage.push(1, delay=3)
    await wait_all_tasks_blocked()
    deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
    assert 0 < deadline <= 3
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(150))
async def test_a_task_starts_at_the_very_instant_at_which_it_is_due(seed: int, autojump_clock: MockClock) -> None:
    """With a receiver idle at any time, whichever others are cancelled, served or put off in between."""
    chance = random.Random(seed)
    storage = MemoryStorage[int]()
    due: dict[int, float] = {}
    ids: dict[int, str] = {}
    received: dict[int, float] = {}

    async def receive_for_ever() -> None:
        while True:
            with trio.move_on_after(chance.choice([0, 1, 1, 2, 3, FOREVER])):
                while True:
                    task = await storage.receive()
                    received[task.args] = trio.current_time()
                    storage.settle_nowait(task, Succeeded(None))
                    if chance.random() < 0.3:
                        await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    async def take_at_once() -> None:
        while True:
            await trio.sleep(chance.randint(0, 2) or 0.5)
            try:
                task = storage.receive_nowait()
            except trio.WouldBlock:
                continue
            received[task.args] = trio.current_time()
            storage.settle_nowait(task, Succeeded(None))

    async with trio.open_nursery() as nursery:
        for _ in range(chance.randint(1, 4)):
            nursery.start_soon(receive_for_ever)
        if chance.random() < 0.3:
            nursery.start_soon(take_at_once)
        nursery.start_soon(storage_keeper, storage)
        for number in range(chance.randint(1, 25)):
            delay = chance.choice([0, 0, 1, 1, 2, 3, 5])
            due[number] = trio.current_time() + delay
            ids[number] = storage.push_nowait(number, delay=delay)
            if chance.random() < 0.4:
                await trio.sleep(chance.choice([0, 1, 2]))
            if chance.random() < 0.3:
                other = chance.randint(0, number)
                await trio.lowlevel.checkpoint()
                if other not in received:
                    again = chance.choice([0, 1, 4])
                    now = trio.current_time()
                    if await storage.reschedule(ids[other], again):
                        due[other] = now + again
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert received == due


async def storage_keeper(storage: MemoryStorage[Any]) -> None:
    """A receiver that always waits, so that one keeps time while the others come and go."""
    await trio.sleep(FOREVER)
    await storage.receive()


# Closing


async def test_closing_wakes_all_waiters(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    ended = 0

    async def wait_for_the_end() -> None:
        nonlocal ended
        with pytest.raises(trio.EndOfChannel):
            await storage.receive()
        ended += 1

    for _ in range(3):
        nursery.start_soon(wait_for_the_end)
    await wait_all_tasks_blocked()
    storage.close()
    await wait_all_tasks_blocked()
    assert ended == 3


async def test_a_closed_storage_with_delayed_tasks_ends_after_the_last_of_them(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    ended: list[float] = []

    async def receive_all() -> None:
        await receive_into(storage, received)
        ended.append(trio.current_time())

    start = trio.current_time()
    await storage.push(1, delay=5)
    await storage.push(2, delay=9)
    await storage.push(3, delay=9)
    for _ in range(4):
        nursery.start_soon(receive_all)
    await wait_all_tasks_blocked()
    storage.close()
    await trio.sleep(20)
    assert sorted(received) == [(start + 5, 1), (start + 9, 2), (start + 9, 3)]
    assert ended == [start + 9] * 4


@pytest.mark.parametrize("expiry", [1.0, 5.0, 8.0])
async def test_a_closed_storage_ends_when_its_last_task_expires_unstarted(
    expiry: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    await storage.reschedule(await storage.push(1, expires_in=expiry), 5)
    for _ in range(3):
        nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    storage.close()
    await trio.sleep(10)
    assert len(received) == (expiry > 5)
    assert storage.statistics().receivers_waiting == 0
    assert storage.statistics().dead == (expiry <= 5)


async def test_a_closed_storage_ends_when_its_last_task_is_taken_back(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    received: list[tuple[float, int]] = []
    task_id = await storage.push(1, delay=5)
    for _ in range(3):
        nursery.start_soon(receive_into, storage, received)
    await wait_all_tasks_blocked()
    storage.close()
    assert await storage.cancel(task_id)
    await wait_all_tasks_blocked()
    assert storage.statistics().receivers_waiting == 0
    assert not received


# Waiting for room


async def test_pushers_that_wait_for_room_are_served_first_come_first_served(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](2)
    await storage.push_bulk([0, 1])
    for number in range(2, 6):
        nursery.start_soon(storage.push, number)
        await wait_all_tasks_blocked()
    assert storage.statistics().pushers_waiting == 4
    with pytest.raises(trio.WouldBlock):
        storage.push_nowait(9)
    assert [(await storage.receive()).args for _ in range(6)] == list(range(6))
    assert storage.statistics().pushers_waiting == 0


async def test_no_push_overtakes_pushers_that_wait_for_room(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](1)
    await storage.push(0)
    nursery.start_soon(storage.push, 1)
    await wait_all_tasks_blocked()
    assert storage.receive_nowait().args == 0
    with pytest.raises(trio.WouldBlock):
        storage.push_nowait(2)  # 1 is in, in the same step
    assert storage.receive_nowait().args == 1


async def test_a_cancelled_push_is_not_in_and_blocks_no_other_push(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](1)
    await storage.push(0)
    scope = trio.CancelScope()

    async def push_in_vain() -> None:
        with scope:
            await storage.push(1)
            raise AssertionError("there was no room")

    nursery.start_soon(push_in_vain)
    await wait_all_tasks_blocked()
    nursery.start_soon(storage.push, 2)
    await wait_all_tasks_blocked()
    scope.cancel()
    await wait_all_tasks_blocked()
    assert [(await storage.receive()).args for _ in range(2)] == [0, 2]
    assert storage.statistics().pushed == 2


async def test_a_task_is_queued_from_when_it_is_handed_over_until_the_receiver_goes_on(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    received: list[Task[int]] = []

    async def receive() -> None:
        received.append(await storage.receive())

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    task: Task[int] = Task(1)
    storage.push_task_nowait(task)
    seen = [task.parts.status]
    await wait_all_tasks_blocked()
    seen.append(task.parts.status)
    assert (received, seen) == ([task], [Status.Queued, Status.Running])


@pytest.mark.parametrize("how", ["received", "cancelled", "expired, and somebody waits", "expired, and somebody looks"])
async def test_room_is_room_however_it_came_about(how: str, autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](1)
    task_id = await storage.push(0, expires_in=5)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.push, 1)
            await wait_all_tasks_blocked()
            if how == "received":
                assert (await storage.receive()).args == 0
            elif how == "cancelled":
                await storage.cancel(task_id)
            else:
                await trio.sleep(6)
            if how == "expired, and somebody looks":
                assert storage.receive_nowait().args == 1
            else:
                assert (await storage.receive()).args == 1


async def test_a_refused_push_is_the_pushers_affair_not_the_receivers(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](1)
    await storage.push(0, unique="key")
    refused: list[DuplicateTaskError] = []

    async def push_twice(task: Task[int]) -> None:
        try:
            await storage.push_task(task)
        except DuplicateTaskError as error:
            refused.append(error)

    await storage.receive()  # running, so that there is room for the next and the key is still taken
    await storage.push(1)
    nursery.start_soon(push_twice, Task.builder(2).unique("key", on_conflict="raise").build())
    await wait_all_tasks_blocked()
    nursery.start_soon(push_twice, Task.builder(3).build())
    await wait_all_tasks_blocked()
    assert (await storage.receive()).args == 1
    assert (await storage.receive()).args == 3
    assert "unique key 'key'" in str(refused[0])
    assert len(refused) == 1


async def test_a_push_that_is_skipped_takes_no_room_from_the_next(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](1)
    first = await storage.push(0, unique="key")
    held = await storage.receive()
    await storage.push(1)
    ids: list[str] = []

    async def push_unique() -> None:
        ids.append(await storage.push(2, unique="key"))

    nursery.start_soon(push_unique)
    await wait_all_tasks_blocked()
    nursery.start_soon(storage.push, 3)
    await wait_all_tasks_blocked()
    assert (await storage.receive()).args == 1
    assert (await storage.receive()).args == 3
    await wait_all_tasks_blocked()
    assert ids == [first]
    assert held.args == 0


async def test_what_comes_back_always_finds_room() -> None:
    storage = MemoryStorage[int](1)
    await storage.push(0)
    task = await storage.receive()
    await storage.push(1)
    await storage.settle(task, Released())
    assert storage.statistics().waiting == 2
    with pytest.raises(trio.WouldBlock):
        storage.push_nowait(2)
    assert (await storage.receive()).args == 0  # first again: it has waited its turn already
    with pytest.raises(trio.WouldBlock):
        storage.push_nowait(2)


async def test_pushers_that_wait_for_room_fail_if_their_handle_closes_and_others_stay(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](1)
    other = storage.clone()
    await other.push(0)
    sent_away = trio.Event()

    async def push_too_late() -> None:
        with pytest.raises(trio.ClosedResourceError, match="closed while this push waited"):
            await storage.push(1)
        sent_away.set()

    nursery.start_soon(push_too_late)
    await wait_all_tasks_blocked()
    nursery.start_soon(other.push, 2)
    await wait_all_tasks_blocked()
    storage.close()
    await sent_away.wait()
    assert storage.statistics().pushers_waiting == 1
    assert [(await storage.receive()).args for _ in range(2)] == [0, 2]
    other.close()
    with pytest.raises(trio.EndOfChannel):
        await storage.receive()


# All at once


@pytest.mark.parametrize("seed", range(150))
async def test_cancellations_at_any_moment_lose_no_task_and_forget_no_waiter(
    seed: int, autojump_clock: MockClock
) -> None:
    chance = random.Random(seed)
    capacity = chance.choice([1, 2, 3, float("inf")])
    storage = MemoryStorage[int](capacity)
    handles = [storage] + [storage.clone() for _ in range(chance.randint(0, 2))]
    numbers = iter(range(FOREVER))
    pushed: set[str] = set()
    ended: dict[str, type[Outcome]] = {}
    running: set[str] = set()

    def outcome() -> Outcome:
        kinds: list[Callable[[], Outcome]] = [
            lambda: Succeeded(None),
            lambda: Failed(ValueError("no")),
            lambda: Killed(ValueError("no")),
            lambda: Released(),
            lambda: Retried(ValueError("again"), chance.choice([0, 1, 2])),
        ]
        return chance.choice(kinds)()

    async def receive(handle: MemoryStorage[int]) -> None:
        while True:
            task = None
            try:
                with trio.move_on_after(chance.choice([0, 1, 2, 10])):
                    task = await handle.receive()
            except trio.EndOfChannel:
                return
            if task is None:
                await trio.lowlevel.checkpoint()
                continue
            assert task.parts.id not in running, "one task, two receivers"
            assert task.parts.id not in ended, "it had ended"
            running.add(task.parts.id)
            await trio.sleep(chance.choice([0, 0, 1]))
            how = outcome()
            running.remove(task.parts.id)
            if isinstance(how, (Succeeded, Failed, Killed)):
                ended[task.parts.id] = type(how)
            handle.settle_nowait(task, how)

    async def push(handle: MemoryStorage[int]) -> None:
        for _ in range(chance.randint(1, 12)):
            options: dict[str, Any] = chance.choice([{}, {}, {"delay": 1}, {"delay": 2, "expires_in": 3}])
            if chance.random() < 0.2:
                options = {**options, "unique": chance.choice("ab"), "on_conflict": "skip"}
            with trio.move_on_after(chance.choice([0, 1, 5])):
                pushed.add(await handle.push(next(numbers), **options))
            if chance.random() < 0.2 and pushed:
                await handle.cancel(chance.choice(sorted(pushed)))
            if chance.random() < 0.2 and pushed:
                await handle.reschedule(chance.choice(sorted(pushed)), chance.choice([0, 1]))
            await trio.sleep(chance.choice([0, 0, 1]))
        handle.close()

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(push, handle)
            for _ in range(chance.randint(1, 4)):
                nursery.start_soon(receive, storage)
    counts = storage.statistics()
    assert counts.waiting == counts.running == counts.receivers_waiting == counts.pushers_waiting == 0
    assert counts.pushed == counts.succeeded + counts.failed + counts.killed
    assert counts.pushed == len(pushed)
    assert ended.keys() <= pushed
