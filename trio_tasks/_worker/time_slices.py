"""Whose turn it is, while there is more to do than can be done in one go.

Slots whose handlers never wait could go on taking tasks for ever, and nobody else in the program would run. So they
take them in slices: one slice for each time round of trio's scheduler, however many slots there are. A handler that
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
"""Seconds in which one task after the other may be taken before everybody else in the program gets a turn."""

_TASKS_IN_A_SLICE = 256
"""And no more tasks than this, for the clock may be one that stands still."""


@final
class TimeSlices:
    """The slices of one intake.

    Args:
      door: who is parked leaves when it is shut.
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

    def __init__(self, door: IntakeState) -> None:
        self._state = door
        self._parked = trio.lowlevel.ParkingLot()
        self._on_call = 0
        self._needed = 0  # slots on call that had to step in since the slice began
        self._last_slot: object = None  # who took a task last,
        self._last_is_busy = False  # and whether it has not come back yet
        self._slices = 0
        self._generation = 0
        self._left = 0
        self._ends = 0.0

    def may_take(self, slot: object) -> bool:
        """Whether this slot may take a task at once. It may if the slice is not used up; and also if whoever took one
        last waits in its attempt, since this slot was waiting then too."""
        if slot is self._last_slot:
            self._last_is_busy = False
        elif self._last_is_busy:
            return True
        self._left -= 1
        return self._left >= 0 and trio.current_time() < self._ends

    def note_taken(self, slot: object) -> None:
        """This slot has a task now. Somebody must be there to step in if its attempt has to wait."""
        self._last_slot = slot
        self._last_is_busy = True
        if not self._on_call and self._parked:
            self._wake(1)

    async def wait(self, scope: trio.CancelScope) -> None:  # noqa: ASYNC910  a door that is shut is waited for elsewhere
        """Let everybody else have a turn; return when this slot has one again, or the door is shut."""
        self._on_call += 1
        times_over = self._generation
        try:
            while self._state.is_open and times_over == self._generation:
                slices = self._slices
                await trio.lowlevel.checkpoint()
                if slices == self._slices:  # nobody was quicker in this round
                    self._slices += 1
                    self._needed = 0
                    self._left = _TASKS_IN_A_SLICE
                    self._ends = trio.current_time() + _SLICE
                    return
                if self._last_is_busy:  # who was quicker waits in its attempt
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
            was_called = True  # and counted by who called
        finally:
            self._state.remove_waiter(scope)
            if not was_called:
                self._on_call += 1

    def wake_all(self) -> None:
        """There is nothing left to take turns for: let each see that for itself."""
        if self._on_call or self._parked:
            self._generation += 1
            self._wake(len(self._parked))

    def _wake(self, slots: int) -> None:
        self._on_call += len(self._parked.unpark(count=slots))
