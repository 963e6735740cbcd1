"""Time slices in which slots take tasks, while there is more to do than can be done in one go.

Slots whose handlers never wait could go on taking tasks for ever, and nothing else in the program would run. So they
take them in slices: one slice for each round of trio's scheduler, however many slots there are. A handler that
does wait lets another slot take a task meanwhile. One slot stays on call to notice that; all others are parked, and
cost nothing, until they are needed; and those that were needed call twice as many, so that a thousand handlers that
wait are begun in ten rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from .._contracts.context import IntakeState

_SLICE = 0.001
"""Seconds in which one task after the other may be taken before everything else in the program runs."""

_TASKS_IN_A_SLICE = 256
"""And no more tasks than this, for the clock may be one that stands still."""


@final
class TimeSlices:
    """The slices of one intake.

    Args:
      state: of intake; when it is not open, parked slots leave.
    """

    __slots__ = (
        "_ends",
        "_generation",
        "_last_is_busy",
        "_last_slot",
        "_left",
        "_needed",
        "_on_call",
        "_parked",
        "_slices",
        "_state",
    )

    def __init__(self, state: IntakeState) -> None:
        self._state = state
        self._parked = trio.lowlevel.ParkingLot()
        self._on_call = 0
        self._needed = 0  # slots on call that had to step in since the slice began
        self._last_slot: object = None  # the one that took a task last,
        self._last_is_busy = False  # and whether it has not come back yet
        self._slices = 0
        self._generation = 0
        self._left = 0
        self._ends = 0.0

    def may_take(self, slot: object) -> bool:
        """Return True if this slot may take a task at once: the slice is not used up, or the slot that took one
        last waits in its attempt, since this slot was waiting then too."""
        if slot is self._last_slot:
            self._last_is_busy = False
        elif self._last_is_busy:
            return True
        self._left -= 1
        return self._left >= 0 and trio.current_time() < self._ends

    def note_taken(self, slot: object) -> None:
        """Take note that this slot has a task now. Another slot must be on call to step in if its attempt has to
        wait."""
        self._last_slot = slot
        self._last_is_busy = True
        if not self._on_call and self._parked:
            self._wake(1)

    async def wait(self, scope: trio.CancelScope) -> None:  # noqa: ASYNC910  the intake waits while it is not open
        """Let everything else in the program run; return when this slot has a slice again, or intake is not open."""
        self._on_call += 1
        times_over = self._generation
        try:
            while self._state.is_open and times_over == self._generation:
                slices = self._slices
                await trio.lowlevel.checkpoint()
                if slices == self._slices:  # no slot was quicker in this round
                    self._slices += 1
                    self._needed = 0
                    self._left = _TASKS_IN_A_SLICE
                    self._ends = trio.current_time() + _SLICE
                    return
                if self._last_is_busy:  # the slot that was quicker waits in its attempt
                    self._needed += 1
                    if self._on_call == 1:
                        self._wake(2 * self._needed)
                    return
                if self._on_call > 1:
                    await self._park(scope)
        finally:
            self._on_call -= 1

    async def _park(self, scope: trio.CancelScope) -> None:
        self._on_call -= 1
        self._state.add_waiter(scope)
        was_called = False
        try:
            await self._parked.park()
            was_called = True  # and counted by the slot that called
        finally:
            self._state.remove_waiter(scope)
            if not was_called:
                self._on_call += 1

    def wake_all(self) -> None:
        """Wake all slots: there is nothing left to take, and each is to see that for itself."""
        if self._on_call or self._parked:
            self._generation += 1
            self._wake(len(self._parked))

    def _wake(self, slots: int) -> None:
        self._on_call += len(self._parked.unpark(count=slots))
