"""The door: closing and pausing cut short the waiting behind it, and nothing else."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks._contracts.context import IntakeState


async def wait_inside(door: IntakeState, log: list[str], name: str = "") -> None:
    """Wait as a slot does, and tell how it ended."""
    try:
        with trio.CancelScope() as scope:
            door.add_waiter(scope)
            try:
                await trio.sleep_forever()
            finally:
                door.remove_waiter(scope)
        log.append(f"sent away {name}".strip())
    except trio.Cancelled:
        log.append(f"cancelled {name}".strip())
        raise


async def test_it_starts_open() -> None:
    door = IntakeState()
    assert door.is_open
    assert not door.closed
    assert not door.paused
    assert door.waiting == 0
    await door.wait_open()


async def test_closing_sends_away_who_waits_and_is_for_good(nursery: trio.Nursery) -> None:
    door, log = IntakeState(), list[str]()
    nursery.start_soon(wait_inside, door, log)
    nursery.start_soon(wait_inside, door, log)
    await wait_all_tasks_blocked()
    assert door.waiting == 2
    door.close()
    await wait_all_tasks_blocked()
    assert log == ["sent away", "sent away"]
    assert door.waiting == 0
    door.close()
    door.resume()
    assert not door.is_open


async def test_pausing_sends_away_and_resuming_opens_again(nursery: trio.Nursery) -> None:
    door, log = IntakeState(), list[str]()
    nursery.start_soon(wait_inside, door, log)
    await wait_all_tasks_blocked()
    door.pause()
    assert not door.is_open
    opened = trio.Event()

    async def wait_for_it() -> None:
        await door.wait_open()
        opened.set()

    nursery.start_soon(wait_for_it)
    await wait_all_tasks_blocked()
    assert log == ["sent away"]
    assert not opened.is_set()
    door.pause()
    await wait_all_tasks_blocked()
    assert not opened.is_set()
    door.resume()
    await opened.wait()
    assert door.is_open


async def test_resuming_what_was_not_paused_does_nothing() -> None:
    door = IntakeState()
    door.resume()
    assert door.is_open
    await door.wait_open()


async def test_a_door_that_was_closed_before_is_no_reason_not_to_wait() -> None:
    """Who waits looks first; the door has no memory for those who come late."""
    door = IntakeState()
    door.close()
    with door.interruptible():
        await trio.lowlevel.checkpoint()
    assert door.waiting == 0


async def test_a_cancellation_from_outside_passes_through() -> None:
    door, log = IntakeState(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_inside, door, log)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert log == ["cancelled"]
    assert door.waiting == 0


async def test_of_a_close_and_a_cancellation_at_once_the_cancellation_is_not_lost() -> None:
    for close_first in (True, False):
        door, log = IntakeState(), list[str]()
        passed = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_inside, door, log)
                await wait_all_tasks_blocked()
                if close_first:
                    door.close()
                scope.cancel()
                door.close()
            await trio.lowlevel.checkpoint()
            passed = True
        assert not passed
        assert scope.cancelled_caught
        assert door.waiting == 0


async def test_an_error_inside_passes_through_and_leaves_nobody_waiting() -> None:
    door = IntakeState()
    try:
        with door.interruptible():
            raise KeyError("inside")
    except KeyError:
        pass
    assert door.waiting == 0
    door.close()


async def test_who_has_what_it_waited_for_keeps_it_though_the_door_closes() -> None:
    door = IntakeState()
    send, receive = trio.open_memory_channel[int](0)
    got: list[int] = []

    async def receive_inside() -> None:
        with door.interruptible():
            got.append(await receive.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_inside)
        await wait_all_tasks_blocked()
        send.send_nowait(1)
        door.close()
    assert got == [1]


async def test_waiting_inside_is_not_limited_in_time(autojump_clock: MockClock) -> None:
    door, log = IntakeState(), list[str]()
    with trio.move_on_after(1000):
        await wait_inside(door, log)
    assert log == ["cancelled"]
