"""A first-come, first-served queue of trio tasks that wait for a limited capacity.

Only the first in the queue watches whether there is room; one that leaves wakes the next. None polls, and nothing
runs in the background: the watcher sleeps until the moment that it was told, or until it is told that things have
changed.

To pass is not yet to take. A caller that takes in the same breath, before its next checkpoint, cannot be overtaken.
A worker that passes and then waits for a task takes nothing in the meantime; so it keeps no other from passing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN = float("-inf")
"""The answer of ``opens_at`` if there is room now."""
UNKNOWN = float("inf")
"""The answer of ``opens_at`` if there will be room only when something has been given back."""


@final
class CapacityQueue:
    """A queue of trio tasks that wait for a limited capacity.

    Args:
      opens_at: a function that returns when there will be room, on trio's clock; :data:`OPEN` or :data:`UNKNOWN` as
          well. It must not block.
    """

    __slots__ = ("_first", "_line", "_opens_at")

    def __init__(self, opens_at: Callable[[], float]) -> None:
        self._opens_at = opens_at
        self._line = trio.Lock()
        self._first = trio.lowlevel.ParkingLot()

    @property
    def waiting(self) -> int:
        """The number of trio tasks in the queue, the one that is passing now included."""
        line = self._line.statistics()
        return line.tasks_waiting + line.locked

    @property
    def is_empty(self) -> bool:
        """True if no trio task is in the queue."""
        return not self._line.locked()

    async def pass_through(self) -> None:
        """Wait until there is room; the room is still there when this returns. If it is cancelled, it leaves
        the queue.
        """
        async with self._line:
            while (moment := self._opens_at()) > trio.current_time():
                with trio.move_on_at(moment):
                    await self._first.park()

    def pass_nowait(self) -> None:
        """Return if there is room, and none waits for it; otherwise raise ``trio.WouldBlock``."""
        if self._line.locked() or ((moment := self._opens_at()) != OPEN and moment > trio.current_time()):
            raise trio.WouldBlock

    def wake_first(self) -> None:
        """Make the first trio task in the queue ask ``opens_at`` again, since the answer may have changed."""
        self._first.unpark_all()
