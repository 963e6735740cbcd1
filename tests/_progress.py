"""Waiting that fails if nothing happens for a while, not after a fixed time, since a machine may be slow."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio


class Progress:
    """Notes whether anything has changed since the last look.

    Args:
      patience: seconds for which nothing may happen. Those count for which this process ran as well, so that a machine
          that stood still as a whole shows nothing.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._state: object = None
        self._idle = 0.0
        self._looked_at = time.monotonic()

    def note(self, state: object, what: str) -> None:
        """Note the present state.

        Raises:
          AssertionError: nothing has changed for too long; it says ``what``.
        """
        now = time.monotonic()
        if state != self._state:
            self._state, self._idle = state, 0.0
        else:
            self._idle += min(now - self._looked_at, 1.0)
        self._looked_at = now
        assert self._idle < self._patience, f"nothing has happened for {self._idle:.0f} seconds: {what}"


async def until(condition: Callable[[], bool], patience: float = 60.0) -> None:
    """Wait for a condition in real time, even if trio's clock in the test stands still."""
    progress = Progress(patience)
    while not condition():
        progress.note(None, "a condition is waited for")
        await trio.to_thread.run_sync(time.sleep, 0.002)
