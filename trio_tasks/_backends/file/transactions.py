"""The transaction log: each change of the state is written to the journal before it is committed.

A transaction is one record; if that cannot be written, the transaction is rolled back. Under ``"FULL"`` the record is
synced, in a thread, unless it holds claims alone: if a power cut makes the journal forget that an attempt was begun,
nothing is lost. Under ``"NORMAL"`` there is nothing to wait for, since the operating system takes a few kilobytes at
once.
"""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar, final

import trio

from ..._logging import log
from ..._tasks.errors import BackendError
from ..durable.io_thread import WriterThread
from .compaction import Compaction
from .records import encode_change

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .journal import JournalFile
    from .recovery import Opened

T = TypeVar("T")

_DEAD_WEIGHT = 4
"""A journal is replaced when it is so many times as long as its rows would be,"""
_GROWTH = 2
"""and has grown by so much since the last time."""


def start_thread() -> WriterThread:
    """Start a thread for syncs, which would block the event loop."""
    return WriterThread("journal", lambda: None, threading.TIMEOUT_MAX)


def permanent_error(message: str) -> BackendError:
    """Make a BackendError that retrying cannot cure."""
    error = BackendError(message)
    error.is_final = True
    return error


@final
class TransactionLog:
    """The state of a journal, and the file to which every change of it is written first.

    Args:
      path: the path of the journal.
      opened: the journal, and its state.
      thread: the thread for syncing, if there is one already.
      syncs: True to sync durable transactions to the disk.
      compact_above: the size in bytes up to which the journal is not compacted.
    """

    def __init__(
        self, path: Path, opened: Opened, thread: WriterThread | None, *, syncs: bool, compact_above: int
    ) -> None:
        self._path = path
        self.state = opened.state
        self._journal = opened.journal
        self._thread = thread
        self._syncs = syncs
        self._compact_above = self._worth_from = compact_above
        self._compaction: Compaction | None = None

    async def aclose(self, *, sync: bool) -> None:
        """Sync and close the journal. Each step runs, even if another one raises."""
        async with AsyncExitStack() as closing:
            closing.callback(self._end_thread)
            closing.callback(self._journal.close)
            if sync and not self._journal.is_broken:
                closing.push_async_callback(self._sync)
            closing.callback(self._abandon_compaction)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _sync(self) -> None:  # noqa: ASYNC910  the thread is one
        try:
            await self._in_thread(self._journal.sync)
        except OSError as error:
            log.warning("the journal %r was closed, but may not be on the disk: %s", str(self._path), error)

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._thread.end()

    async def _in_thread(self, fn: Callable[..., T], *args: object) -> T:
        if self._thread is None:
            self._thread = start_thread()
        return await self._thread.call(fn, *args)

    @trio.lowlevel.enable_ki_protection
    async def transact(self, change: Callable[[], T], now: float, *, durable: bool) -> T:
        """Change the state and append a record of the change; if that fails, roll the change back.

        Args:
          change: a function that changes the state.
          now: the time of the transaction.
          durable: True to sync it, if this log syncs at all.

        It cannot be cancelled, and is a checkpoint only if it has to wait for the disk.

        Raises:
          BackendError: it could not be written.
        """
        journal, state = self._journal, self.state
        if journal.is_broken or not journal.is_open:
            raise permanent_error(f"the journal {str(self._path)!r} has failed: open it again")
        payload, is_written = None, False
        try:
            state.time = now
            result = change()
            payload = encode_change(state)
            if payload is not None:
                # An attempt counts for a rate from its beginning on, also after a power failure.
                await self._write(journal, payload, durable=durable or bool(state.transaction.begun))
            is_written = True
        finally:
            if not is_written:
                state.roll_back()
        state.commit()
        if payload is not None and (self._compaction is not None or journal.end > self._worth_from):
            await self._compact(journal, payload)
        return result  # noqa: ASYNC910  the caller has a checkpoint of its own

    async def _write(  # noqa: ASYNC910  what needs no thread is done at once
        self, journal: JournalFile, payload: bytes, *, durable: bool
    ) -> None:
        try:
            if durable and self._syncs:
                await self._in_thread(self._append_and_sync, journal, payload)
            else:
                journal.append(payload)
                journal.check_place(self._path)
        except OSError as error:
            say = permanent_error if journal.is_broken else BackendError
            raise say(f"the journal {str(self._path)!r} could not be written: {error.strerror or error}") from error

    async def _compact(  # noqa: ASYNC910  it seldom has to wait
        self, journal: JournalFile, payload: bytes
    ) -> None:
        """Continue a compaction under way, or begin one if it is worth it."""
        try:
            if self._compaction is None:
                if journal.end > _DEAD_WEIGHT * self.state.weight:
                    self._compaction = Compaction(self._path, self.state, ahead=self._syncs)
                return  # noqa: ASYNC910  it has only been begun
            self._compaction.follow(payload)
            if self._compaction.is_whole:
                await self._replace(self._compaction, journal)
            elif self._compaction.wants_sync:
                await self._in_thread(self._compaction.sync)
        except OSError as error:
            if self._journal is not journal:
                log.error("the journal %r was compacted, but may not be on the disk: %s", str(self._path), error)
                return  # noqa: ASYNC910  the same
            log.warning("the journal %r could not be compacted: %s", str(self._path), error)
            self._abandon_compaction()
            self._worth_from = _GROWTH * journal.end

    async def _replace(self, compaction: Compaction, old: JournalFile) -> None:
        """Put the shorter journal in the place of the old one. From then on it is the journal, whatever fails later:
        the old one is closed.
        """
        await self._in_thread(compaction.replace, old)
        self._journal, self._compaction = compaction.journal, None
        self._worth_from = max(self._compact_above, _GROWTH * self._journal.end)
        await self._in_thread(self._journal.sync_name, self._path.parent)

    def _abandon_compaction(self) -> None:
        if self._compaction is not None:
            self._compaction.abandon()
            self._compaction = None

    def _append_and_sync(self, journal: JournalFile, payload: bytes) -> None:
        journal.append(payload)
        journal.sync()
        journal.check_place(self._path)
