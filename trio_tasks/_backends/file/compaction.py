"""Compaction of a journal: a shorter one is written beside it, and replaces it when complete.

It is written a little at a time: each exchange that appends a record carries a few rows over as well, a few times as
many bytes as it has written itself, and its record is appended to both. So the event loop is never held up by a million
rows, no thread has to read state that changes meanwhile, and the work ends before the journal has grown much.
A row that is carried over is as it is at that moment, and what happens to it later comes behind it: since records say
how rows are, and not what was done to them, reading both from the start gives the present state.

Until the new file is whole, synced and renamed, the old one is the journal; a crash at any instant leaves one of
them, with all that was promised.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, final

from .journal import make_new
from .records import encode_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from .journal import JournalFile
    from .rows import Row
    from .state import JournalState

_PACE = 4
"""Bytes to carry over for each byte that was appended."""
_STEP = 2**14
"""Bytes to carry over at least each time."""
_UNSYNCED = 2**23
"""Bytes after which to sync, so that the last sync is not a long one."""


@final
class Compaction:
    """A shorter journal that is to replace another; its methods raise ``OSError`` if it cannot be written.

    Args:
      path: the path of the journal.
      state: the rows and queues that the journal holds.
      ahead: as for :class:`JournalFile`.
    """

    def __init__(self, path: Path, state: JournalState, *, ahead: bool) -> None:
        self._path = path
        self._state = state
        # The records that follow have the rows that are added later.
        packed, rows = [*state.packed], [*state.rows.values()]
        self._rows = chain(chain.from_iterable(segment.rows() for segment in packed), rows)
        self._own_path, self.journal = make_new(path, ahead=ahead)
        self._synced = 0
        self.is_whole = False
        self._is_in_place = False

    def follow(self, payload: bytes) -> None:
        """Append a record that was appended to the old journal, and copy some more rows."""
        self.journal.append(payload)
        self.carry_over(max(_STEP, len(payload) * _PACE))

    def carry_over(self, amount: float) -> None:
        """Copy rows of about this many bytes."""
        enough = self.journal.end + amount
        while not self.is_whole and self.journal.end < enough:
            rows: list[Row] = []
            weight = 0
            for row in self._rows:
                rows.append(row)
                weight += row.weight
                if weight >= _STEP:
                    break
            self.journal.append(encode_snapshot(self._state, rows, with_minutes=not rows))
            self.is_whole = not rows

    @property
    def wants_sync(self) -> bool:
        """True if so many bytes are not on the disk yet that it is time to call :meth:`sync`."""
        return self.journal.end - self._synced > _UNSYNCED

    def sync(self) -> None:
        """Sync to the disk what was written so far."""
        self.journal.sync()
        self._synced = self.journal.end

    def replace(self, old: JournalFile) -> None:
        """Put the new journal in the place of the old one, which is closed; :attr:`journal` is in use from now on.

        If it raises, the old one is still the journal, unless it is closed.
        """
        assert self.is_whole
        self.journal.put_in_place_of(old, self._own_path, self._path)
        self._is_in_place = True

    def abandon(self) -> None:
        """Close the new journal and remove it, unless it is in place already."""
        self.journal.close()
        if self._is_in_place:
            return
        with suppress(OSError):
            os.unlink(self._own_path)  # noqa: PTH108  beside the other calls of its kind
