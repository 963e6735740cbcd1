"""The schedules of a journal, and their part of a transaction."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, final

from ..durable.engine import REMOVED_FOR, ScheduleRow

if TYPE_CHECKING:
    from collections.abc import Iterable


@final
class JournalSchedules:
    """The schedules of a journal. What is changed is rolled back, unless it is committed."""

    def __init__(self) -> None:
        self._rows: dict[str, ScheduleRow] = {}
        """By name, in the order of their revisions."""
        self.before: dict[str, ScheduleRow | None] = {}
        """What those schedules were that this transaction has changed; None: there was none."""
        self._last_revision = 0

    def after(self, revision: int, name: str | None = None) -> list[ScheduleRow]:
        """Return those that were changed after a revision, in this order; or the one of a name, if it was."""
        if name is not None:
            return [each for each in filter(None, [self._rows.get(name)]) if each.revision > revision]
        return [*takewhile(lambda each: each.revision > revision, reversed(self._rows.values()))][::-1]

    def kept(self, time: float) -> Iterable[ScheduleRow]:
        """Return all that belongs into a snapshot: not those that were removed long ago."""
        first = int(time * 1e6) - REMOVED_FOR
        return [each for each in self._rows.values() if each.body is not None or each.revision >= first]

    @property
    def changed(self) -> list[ScheduleRow]:
        """The schedules that this transaction has changed."""
        return [self._rows[name] for name in self.before]

    def set(self, name: str, was: int, body: bytes | None, time: float) -> int:
        """Change a schedule if it has the revision ``was``; return the new one, or 0."""
        known = self._rows.get(name)
        if (known.revision if known is not None and known.body is not None else 0) != was:
            return 0
        revision = max(int(time * 1e6), self._last_revision + 1)
        self.before.setdefault(name, known)
        self.load(ScheduleRow(name, revision, body))
        return revision

    def load(self, row: ScheduleRow) -> None:
        """Set a schedule, as it was recorded.

        Raises:
          TypeError: it is none.
        """
        if type(row.name) is not str or type(row.revision) is not int or type(row.body) not in (bytes, type(None)):
            raise TypeError(f"{row!r:.100} is no schedule")
        self._rows.pop(row.name, None)
        self._rows[row.name] = row
        self._last_revision = max(self._last_revision, row.revision)

    def commit(self) -> None:
        """Keep what was changed."""
        self.before = {}

    def roll_back(self) -> None:
        """Restore what was changed."""
        for name, row in self.before.items():
            if row is None:
                del self._rows[name]
            else:
                self._rows[name] = row
        if self.before:
            self._rows = dict(sorted(self._rows.items(), key=lambda item: item[1].revision))
        self.before = {}
