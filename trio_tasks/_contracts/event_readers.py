"""The readers of the events of a storage, each of which has a bounded channel of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, final

import trio

from .storage_events import Missed, StorageEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

MOST_UNREAD = 10_000
"""Events that may wait for one reader; beyond that, it misses the oldest."""


@final
class EventReader(trio.abc.ReceiveChannel[StorageEvent]):
    """The events of a storage since one ``async with storage.events()``, for one reader or several that share them."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[StorageEvent](MOST_UNREAD)
        self._missed = 0
        self._make_error: Callable[[], Exception] | None = None

    def tell(self, event: StorageEvent) -> None:
        """Add an event; drop the oldest if too many wait."""
        with suppress(trio.BrokenResourceError):  # the reader has closed it
            try:
                self._send.send_nowait(event)
            except trio.WouldBlock:
                self._receive.receive_nowait()
                self._missed += 1
                self._send.send_nowait(event)

    def end(self, make_error: Callable[[], Exception] | None = None) -> None:
        """End the channel after the events that wait; or raise this error then."""
        self._make_error = make_error
        self._send.close()

    async def receive(self) -> StorageEvent:
        """Wait for the next event.

        Raises:
          trio.EndOfChannel: the storage is closed.
          BackendError: the storage has failed.

        If it is cancelled, no event is lost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._missed:
            number, self._missed = self._missed, 0
            await trio.lowlevel.cancel_shielded_checkpoint()
            return Missed(number)
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._make_error is not None:
                raise self._make_error() from None
            raise

    def close(self) -> None:
        """Close it; events are not kept for it any more."""
        self._receive.close()

    async def aclose(self) -> None:
        """Close it as :meth:`close` does, and make a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        return f"<events of a storage, {self._receive.statistics().current_buffer_used} wait>"


@final
class EventReaders:
    """The readers of the events of one queue in this process."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: list[EventReader] = []
        """Those that are open. If there are none, no event need be made."""

    def tell(self, event: StorageEvent) -> None:
        """Give an event to each reader; it never blocks."""
        for reader in self.open:
            reader.tell(event)

    def end(self, make_error: Callable[[], Exception] | None = None) -> None:
        """End all channels, or let them raise this error; of a queue that is used again, others may be opened."""
        ended, self.open = self.open, []
        for reader in ended:
            reader.end(make_error)

    @asynccontextmanager
    async def opened(self, check: Callable[[], object]) -> AsyncGenerator[EventReader, None]:
        """Open a reader for the block; ``check`` raises if none can be."""
        await trio.lowlevel.checkpoint()
        check()
        reader = EventReader()
        self.open.append(reader)
        try:
            yield reader
        finally:
            reader.close()
            if reader in self.open:  # it is not, once the storage is closed
                self.open.remove(reader)
