"""Functions that tell whether time in this trio run is virtual, and waits that end though it stands still."""

from __future__ import annotations

import sys
import time
from typing import final

import trio

from .._clock import WALL_CLOCK, EpochClock, is_wall_clock_replaced, wall_seconds
from .threads import pause_instead


def is_virtual() -> bool:
    """Return True if trio's clock in this run is a ``MockClock``, which other processes do not share."""
    testing = sys.modules.get("trio.testing")
    if testing is None or not trio.lowlevel.in_trio_run():
        return False
    return isinstance(trio.lowlevel.current_clock(), testing.MockClock)


def may_stand_still() -> bool:
    """Return True if time in this run may pass only when a test says so: if trio's clock is neither trio's usual one,
    nor one that runs or jumps by itself.
    """
    clock = trio.lowlevel.current_clock()
    if is_virtual():
        return not getattr(clock, "rate", 0) and getattr(clock, "autojump_threshold", 0) > _LONGEST_JUMP
    return not type(clock).__module__.startswith("trio.")


async def rest(seconds: float) -> None:
    """Let the rest of the program, or other processes, go on for so long; for one step where time may stand still.

    It is for pauses that end by themselves, one after another, not for a loop that waits for time to pass.
    """
    if may_stand_still():
        await trio.lowlevel.checkpoint()
    else:
        await trio.sleep(seconds)


@final
class Rounds:
    """A bound on a wait for other threads or processes, which have to be looked at again and again.

    >>> rounds = Rounds(1.0, 100)
    >>> while not is_done() and await rounds.another():
    ...     await look()

    It ends after so many seconds, by trio's clock; where that may stand still, by the machine's; and where threads are
    simulated, so that nothing depends on the machine, after so many rounds.

    Args:
      seconds: the longest time.
      number: the number of rounds in it.
    """

    __slots__ = ("_interval", "_left", "_real_end", "_until")

    def __init__(self, seconds: float, number: int) -> None:
        self._interval = seconds / number
        self._left = number
        self._until = trio.current_time() + seconds
        self._real_end = time.monotonic() + seconds

    async def another(self) -> bool:
        """Pause; then return True, or False if the time is over."""
        if trio.current_time() >= self._until:
            await trio.lowlevel.checkpoint()
            return False
        if not may_stand_still():
            await trio.sleep(self._interval)
            return True
        if pause_instead() is not None:
            self._left -= 1
            await trio.lowlevel.checkpoint()
            return self._left > 0
        await trio.to_thread.run_sync(time.sleep, self._interval / 10)
        return time.monotonic() < self._real_end


_LONGEST_JUMP = 0.1
"""Seconds, of the machine's; a clock that jumps only after a longer rest is taken for one that stands still."""


def uses_wall_clock() -> bool:
    """Return True if the wall clock decides when a moment has come.

    It always does, except where trio's clock is virtual and the wall clock does not follow it.
    """
    return is_wall_clock_replaced() or not is_virtual()


def epoch_clock() -> EpochClock:
    """Return the clock that gives the seconds since the epoch in this run.

    It is the wall clock. In virtual time it reads trio's clock, which is set by the wall clock once, unless the wall
    clock was replaced, too.
    """
    if not is_virtual():
        return WALL_CLOCK
    clock = trio.lowlevel.current_clock()
    ahead = wall_seconds() - clock.current_time()

    def virtual_seconds() -> float:
        return wall_seconds() if is_wall_clock_replaced() else clock.current_time() + ahead

    return EpochClock(virtual_seconds)
