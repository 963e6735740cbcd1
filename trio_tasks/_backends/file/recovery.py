"""Opening of a journal: lock it, load it, and make its running rows wait again. All of it is sync, so a thread may do
it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..._clock import wall_now
from ..._tasks.errors import BackendError
from ..durable.store_file import missing, regular_file
from .compaction import Compaction
from .journal import JournalFile, Recovery, beside, open_journal
from .loading import finish_loading, load_record
from .lock import FileLock
from .records import encode_change
from .state import JournalState

if TYPE_CHECKING:
    from pathlib import Path

    from ..durable.engine import StoreClock


class Opened(NamedTuple):
    """An open journal, and its state."""

    lock: FileLock
    journal: JournalFile
    state: JournalState
    recovery: Recovery | None


def open_state(path: Path, clock: StoreClock, *, repair: bool, syncs: bool, create: bool, mode: int) -> Opened:
    """Open or create the journal at this path, and set the clock.

    The clock is set to the wall clock's time, or to the time of the latest change in the journal if that is later.

    Raises:
      BackendError: it cannot be had, or is not ours, or damaged. If it is not there, or no regular file, nothing was
        made beside it either.
    """
    found = regular_file(path, "the journal")
    if not create and (found is None or not found.st_size):
        condition = "is empty" if found is not None else "is not there"
        raise missing(f"the journal {str(path)!r} {condition}, and create=False forbids making it")
    if not path.parent.is_dir():
        raise BackendError(f"the journal {str(path)!r} cannot be opened: there is no directory {str(path.parent)!r}")
    lock = FileLock(beside(path, "lock"), path, found, mode)
    opened = False
    try:
        made = _read(path, lock, clock, repair=repair, syncs=syncs, mode=mode)
        opened = True
    except OSError as error:
        raise BackendError(f"the journal {str(path)!r} cannot be opened: {error.strerror or error}") from error
    finally:
        if not opened:
            lock.release()
    return made


def _read(path: Path, lock: FileLock, clock: StoreClock, *, repair: bool, syncs: bool, mode: int) -> Opened:
    state = JournalState()
    journal, recovery = open_journal(
        path, partial(load_record, state, pack=True), repair=repair, ahead=syncs, mode=mode
    )
    is_done = False
    try:
        reading = clock.read()
        state.time = now = max(wall_now().timestamp(), state.time)
        clock.start(now, reading)
        finish_loading(state)
        payload = encode_change(state)
        if recovery is not None and not recovery.is_torn_tail:
            journal = _compacted(path, state, journal, ahead=syncs)
        elif payload is not None:
            journal.append(payload)
            if syncs:
                journal.sync()
        is_done = True
    finally:
        if not is_done:
            journal.close()
    state.commit()
    state.killed.clear()  # no waiter exists yet
    return Opened(lock, journal, state, recovery)


def _compacted(path: Path, state: JournalState, damaged: JournalFile, *, ahead: bool) -> JournalFile:
    """Replace a journal in which records are missing by one of the present rows alone; return the new one."""
    compaction = Compaction(path, state, ahead=ahead)
    is_done = False
    try:
        compaction.carry_over(float("inf"))
        compaction.replace(damaged)
        compaction.journal.sync_name(path.parent)
        is_done = True
    finally:
        if not is_done:
            compaction.abandon()
    return compaction.journal
