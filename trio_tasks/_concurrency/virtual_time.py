"""Tests of trio's clock in this run: if it is a real one, the wall clock counts beside it."""

from __future__ import annotations

import sys

import trio

from .._clock import is_wall_clock_replaced


def is_virtual() -> bool:
    """Return True if trio's clock in this run is one that a test moves: no other process shares it."""
    testing = sys.modules.get("trio.testing")
    if testing is None or not trio.lowlevel.in_trio_run():
        return False
    return isinstance(trio.lowlevel.current_clock(), testing.MockClock)


def goes_by_the_wall() -> bool:
    """Return True if the wall clock tells when a moment has come: not where trio's clock is virtual, and the wall clock
    does not go with it."""
    return is_wall_clock_replaced() or not is_virtual()
