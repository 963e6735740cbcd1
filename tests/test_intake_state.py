"""Tests of the intake's state: closing and pausing end the waiting of slots, and nothing else."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks._contracts.context import IntakeState


async def wait_inside(state: IntakeState, log: list[str], name: str = "") -> None:
    """Wait as a slot does, and tell how it ended."""
    try:
        with trio.CancelScope() as scope:
            state.add_waiter(scope)
            try:
                await trio.sleep_forever()
            finally:
                state.remove_waiter(scope)
        log.append(f"sent away {name}".strip())
    except trio.Cancelled:
        log.append(f"cancelled {name}".strip())
        raise


async def test_it_starts_open() -> None:
    state = IntakeState()
    assert state.is_open
    assert not state.closed
    assert not state.paused
    assert state.waiting == 0
    await state.wait_open()


async def test_closing_cancels_waiters_and_is_permanent(nursery: trio.Nursery) -> None:
    state, log = IntakeState(), list[str]()
    nursery.start_soon(wait_inside, state, log)
    nursery.start_soon(wait_inside, state, log)
    await wait_all_tasks_blocked()
    assert state.waiting == 2
    state.close()
    await wait_all_tasks_blocked()
    assert log == ["sent away", "sent away"]
    assert state.waiting == 0
    state.close()
    state.resume()
    assert not state.is_open


async def test_pausing_sends_away_and_resuming_opens_again(nursery: trio.Nursery) -> None:
    state, log = IntakeState(), list[str]()
    nursery.start_soon(wait_inside, state, log)
    await wait_all_tasks_blocked()
    state.pause()
    assert not state.is_open
    opened = trio.Event()

    async def wait_for_it() -> None:
        await state.wait_open()
        opened.set()

    nursery.start_soon(wait_for_it)
    await wait_all_tasks_blocked()
    assert log == ["sent away"]
    assert not opened.is_set()
    state.pause()
    await wait_all_tasks_blocked()
    assert not opened.is_set()
    state.resume()
    await opened.wait()
    assert state.is_open


async def test_resuming_what_was_not_paused_does_nothing() -> None:
    state = IntakeState()
    state.resume()
    assert state.is_open
    await state.wait_open()


async def test_a_state_that_was_closed_before_is_no_reason_not_to_wait() -> None:
    """A slot looks before it waits; the state cancels nothing that comes late."""
    state = IntakeState()
    state.close()
    with state.interruptible():
        await trio.lowlevel.checkpoint()
    assert state.waiting == 0


async def test_a_cancellation_from_outside_passes_through() -> None:
    state, log = IntakeState(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_inside, state, log)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert log == ["cancelled"]
    assert state.waiting == 0


async def test_of_a_close_and_a_cancellation_at_once_the_cancellation_is_not_lost() -> None:
    for close_first in (True, False):
        state, log = IntakeState(), list[str]()
        passed = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_inside, state, log)
                await wait_all_tasks_blocked()
                if close_first:
                    state.close()
                scope.cancel()
                state.close()
            await trio.lowlevel.checkpoint()
            passed = True
        assert not passed
        assert scope.cancelled_caught
        assert state.waiting == 0


async def test_an_error_inside_passes_through_and_leaves_no_slot_waiting() -> None:
    state = IntakeState()
    try:
        with state.interruptible():
            raise KeyError("inside")
    except KeyError:
        pass
    assert state.waiting == 0
    state.close()


async def test_a_slot_that_has_what_it_waited_for_keeps_it_though_intake_closes() -> None:
    state = IntakeState()
    send, receive = trio.open_memory_channel[int](0)
    got: list[int] = []

    async def receive_inside() -> None:
        with state.interruptible():
            got.append(await receive.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_inside)
        await wait_all_tasks_blocked()
        send.send_nowait(1)
        state.close()
    assert got == [1]


async def test_waiting_inside_is_not_limited_in_time(autojump_clock: MockClock) -> None:
    state, log = IntakeState(), list[str]()
    with trio.move_on_after(1000):
        await wait_inside(state, log)
    assert log == ["cancelled"]
