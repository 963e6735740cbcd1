"""First come, first served; nobody polls, and to pass is not to take."""

from __future__ import annotations

import trio
import trio.testing
from trio_tasks.layers._capacity_queue import OPEN, UNKNOWN, CapacityQueue


class Sluice:
    """Something with so much room, in front of which there is a line; it counts how often it was looked at."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.opens_at = UNKNOWN
        self.looks = 0
        self.line = CapacityQueue(self.look)
        self.passed: list[str] = []

    def look(self) -> float:
        self.looks += 1
        return OPEN if self.room else self.opens_at

    async def enter(self, name: str) -> None:
        await self.line.pass_through()
        assert self.room, f"{name} passed though there was no room"
        self.room -= 1
        self.passed.append(name)

    async def queue(self, nursery: trio.Nursery, names: str) -> None:
        for name in names:
            nursery.start_soon(self.enter, name)
            await trio.testing.wait_all_tasks_blocked()

    def make_room(self, room: int) -> None:
        self.room += room
        self.line.wake_first()


async def test_who_finds_it_open_passes_and_checkpoints() -> None:
    sluice = Sluice(room=1)
    with trio.testing.assert_checkpoints():
        await sluice.enter("a")
    assert sluice.passed == ["a"]
    assert sluice.line.waiting == 0


async def test_the_first_to_come_is_the_first_to_pass(nursery: trio.Nursery) -> None:
    sluice = Sluice()
    await sluice.queue(nursery, "abcde")
    assert sluice.line.waiting == 5
    for room in (1, 3, 1):
        sluice.make_room(room)
        await trio.testing.wait_all_tasks_blocked()
        assert sluice.room == 0
    assert sluice.passed == list("abcde")
    assert sluice.line.waiting == 0


async def test_who_gives_up_leaves_the_line_to_the_others(nursery: trio.Nursery) -> None:
    sluice = Sluice()
    async with trio.open_nursery() as impatient:
        await sluice.queue(impatient, "a")
        await sluice.queue(nursery, "b")
        await sluice.queue(impatient, "c")
        await sluice.queue(nursery, "d")
        impatient.cancel_scope.cancel()
    assert sluice.line.waiting == 2
    sluice.make_room(2)
    await trio.testing.wait_all_tasks_blocked()
    assert sluice.passed == ["b", "d"]


async def test_it_sleeps_until_the_moment_it_was_told(autojump_clock: trio.testing.MockClock) -> None:
    sluice = Sluice()
    sluice.opens_at = trio.current_time() + 3600
    with trio.move_on_after(3599):
        await sluice.line.pass_through()
        raise AssertionError("an hour is an hour")
    await sluice.line.pass_through()
    assert trio.current_time() == 3600
    assert sluice.looks < 10, "somebody polls"


async def test_the_moment_may_move(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    sluice = Sluice()
    passed_at: list[float] = []

    async def wait() -> None:
        await sluice.line.pass_through()
        passed_at.append(trio.current_time())

    sluice.opens_at = 100
    nursery.start_soon(wait)
    await trio.sleep(1)
    sluice.opens_at = 50
    sluice.line.wake_first()
    await trio.sleep(1)
    sluice.opens_at = 70
    sluice.line.wake_first()
    await trio.sleep(200)
    assert passed_at == [70]


async def test_to_pass_is_not_to_take(nursery: trio.Nursery) -> None:
    """Who passes and takes nothing, such as a worker that finds no task, stands in nobody's way."""
    sluice = Sluice()
    for _ in range(3):
        nursery.start_soon(sluice.line.pass_through)
    await trio.testing.wait_all_tasks_blocked()
    await sluice.queue(nursery, "a")
    sluice.make_room(1)
    await trio.testing.wait_all_tasks_blocked()
    assert sluice.passed == ["a"]
