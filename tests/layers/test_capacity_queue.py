"""Tests of the queue in front of a limited capacity: first come, first served, without polling."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio_tasks.layers._capacity_queue import OPEN, UNKNOWN, CapacityQueue


class Capacity:
    """A capacity with a queue in front of it; it counts how often it was asked for room."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.opens_at = UNKNOWN
        self.looks = 0
        self.queue = CapacityQueue(self.look)
        self.passed: list[str] = []

    def look(self) -> float:
        self.looks += 1
        return OPEN if self.room else self.opens_at

    async def enter(self, name: str) -> None:
        await self.queue.pass_through()
        assert self.room, f"{name} passed though there was no room"
        self.room -= 1
        self.passed.append(name)

    async def enter_all(self, nursery: trio.Nursery, names: str) -> None:
        for name in names:
            nursery.start_soon(self.enter, name)
            await trio.testing.wait_all_tasks_blocked()

    def make_room(self, room: int) -> None:
        self.room += room
        self.queue.wake_first()


async def test_a_worker_that_finds_it_open_passes_and_checkpoints() -> None:
    capacity = Capacity(room=1)
    with trio.testing.assert_checkpoints():
        await capacity.enter("a")
    assert capacity.passed == ["a"]
    assert capacity.queue.waiting == 0


async def test_the_first_to_come_is_the_first_to_pass(nursery: trio.Nursery) -> None:
    capacity = Capacity()
    await capacity.enter_all(nursery, "abcde")
    assert capacity.queue.waiting == 5
    for room in (1, 3, 1):
        capacity.make_room(room)
        await trio.testing.wait_all_tasks_blocked()
        assert capacity.room == 0
    assert capacity.passed == list("abcde")
    assert capacity.queue.waiting == 0


async def test_one_that_does_not_wait_overtakes_none(nursery: trio.Nursery) -> None:
    capacity = Capacity()
    with pytest.raises(trio.WouldBlock):
        capacity.queue.pass_nowait()
    await capacity.enter_all(nursery, "a")
    capacity.make_room(2)
    with pytest.raises(trio.WouldBlock):  # a has not run yet
        capacity.queue.pass_nowait()
    await trio.testing.wait_all_tasks_blocked()
    capacity.queue.pass_nowait()
    assert (capacity.passed, capacity.room, capacity.queue.waiting) == (["a"], 1, 0)


async def test_one_that_does_not_wait_passes_from_the_moment_it_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    capacity = Capacity()
    capacity.opens_at = trio.current_time() + 5
    with pytest.raises(trio.WouldBlock):
        capacity.queue.pass_nowait()
    await trio.sleep(5)
    capacity.queue.pass_nowait()


async def test_one_that_gives_up_leaves_the_queue_to_the_others(nursery: trio.Nursery) -> None:
    capacity = Capacity()
    async with trio.open_nursery() as impatient:
        await capacity.enter_all(impatient, "a")
        await capacity.enter_all(nursery, "b")
        await capacity.enter_all(impatient, "c")
        await capacity.enter_all(nursery, "d")
        impatient.cancel_scope.cancel()
    assert capacity.queue.waiting == 2
    capacity.make_room(2)
    await trio.testing.wait_all_tasks_blocked()
    assert capacity.passed == ["b", "d"]


async def test_it_sleeps_until_the_moment_it_was_told(autojump_clock: trio.testing.MockClock) -> None:
    capacity = Capacity()
    capacity.opens_at = trio.current_time() + 3600
    with trio.move_on_after(3599):
        await capacity.queue.pass_through()
        raise AssertionError("an hour is an hour")
    await capacity.queue.pass_through()
    assert trio.current_time() == 3600
    assert capacity.looks < 10, "it polls"


async def test_the_moment_may_move(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    capacity = Capacity()
    passed_at: list[float] = []

    async def wait() -> None:
        await capacity.queue.pass_through()
        passed_at.append(trio.current_time())

    capacity.opens_at = 100
    nursery.start_soon(wait)
    await trio.sleep(1)
    capacity.opens_at = 50
    capacity.queue.wake_first()
    await trio.sleep(1)
    capacity.opens_at = 70
    capacity.queue.wake_first()
    await trio.sleep(200)
    assert passed_at == [70]


async def test_to_pass_is_not_to_take(nursery: trio.Nursery) -> None:
    """A worker that passes and takes nothing, since it finds no task, keeps no other from passing."""
    capacity = Capacity()
    for _ in range(3):
        nursery.start_soon(capacity.queue.pass_through)
    await trio.testing.wait_all_tasks_blocked()
    await capacity.enter_all(nursery, "a")
    capacity.make_room(1)
    await trio.testing.wait_all_tasks_blocked()
    assert capacity.passed == ["a"]
