"""A count of changes that can be waited for."""

from __future__ import annotations

from typing import final

import trio


@final
class ChangeCount:
    """A count of changes. A change between two waits is not missed, since each names the count that it has seen."""

    __slots__ = ("_event", "number")

    def __init__(self) -> None:
        self.number = 1
        """How often something has changed, counted from 1, so that 0 was never seen."""
        self._event: trio.Event | None = None

    def note(self) -> None:
        """Count a change, and wake all that wait."""
        self.number += 1
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, seen: int) -> int:
        """Wait until the count is another one than that; return it."""
        if self.number != seen:
            await trio.lowlevel.checkpoint()
        while self.number == seen:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()
        return self.number  # noqa: ASYNC910  one of the two above was a checkpoint
