"""Functions that tell whether time in this trio run is virtual."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from .._clock import is_wall_clock_replaced, wall_seconds

if TYPE_CHECKING:
    from collections.abc import Callable


def is_virtual() -> bool:
    """Return True if trio's clock in this run is a ``MockClock``, which other processes do not share."""
    testing = sys.modules.get("trio.testing")
    if testing is None or not trio.lowlevel.in_trio_run():
        return False
    return isinstance(trio.lowlevel.current_clock(), testing.MockClock)


def uses_wall_clock() -> bool:
    """Return True if the wall clock decides when a moment has come.

    It always does, except where trio's clock is virtual and the wall clock does not follow it.
    """
    return is_wall_clock_replaced() or not is_virtual()


def epoch_clock() -> Callable[[], float]:
    """Return the function that gives the seconds since the epoch in this run.

    It reads the wall clock. In virtual time it reads trio's clock, which is set by the wall clock once, unless the wall
    clock was replaced, too.
    """
    if not is_virtual():
        return wall_seconds
    clock = trio.lowlevel.current_clock()
    ahead = wall_seconds() - clock.current_time()

    def virtual_seconds() -> float:
        return wall_seconds() if is_wall_clock_replaced() else clock.current_time() + ahead

    return virtual_seconds
