"""Functions that tell whether time in this trio run is virtual."""

from __future__ import annotations

import sys

import trio

from .._clock import is_wall_clock_replaced


def is_virtual() -> bool:
    """Return True if trio's clock in this run is a ``MockClock``, which other processes do not share."""
    testing = sys.modules.get("trio.testing")
    if testing is None or not trio.lowlevel.in_trio_run():
        return False
    return isinstance(trio.lowlevel.current_clock(), testing.MockClock)


def uses_wall_clock() -> bool:
    """Return True if the wall clock decides when a moment has come: always, except where trio's clock is virtual and
    the wall clock does not follow it.
    """
    return is_wall_clock_replaced() or not is_virtual()
