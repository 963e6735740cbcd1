"""The table of minutes of an SQLite file: the sums of attempts by queue, minute and name of the tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from ..._contracts.minutes import KEPT_MINUTES, MOST_NAMES, OTHER, Sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._contracts.minutes import MinuteRow
    from .counters import QueueCounters
    from .driver import Connection

_COLUMNS = "succeeded, retried, failed, killed, released, suspended, seconds, waited, durations, waits"
_KEY = "queue = ? AND minute = ? AND name = ?"


@final
class MinuteTable:
    """The table of minutes, as one connection sees it.

    Args:
      connection: to the file; the caller begins and ends its transactions.
      counters: knows the numbers of the queues.
    """

    def __init__(self, connection: Connection, counters: QueueCounters) -> None:
        self._connection = connection
        self._counters = counters
        self._latest: dict[int, int] = {}  # the latest minute of each queue that was written here

    def add(self, rows: Sequence[MinuteRow]) -> None:
        """Add these sums to those that are stored."""
        for name, minute, label, sums in rows:
            queue = self._counters.number(name)
            if minute > self._latest.get(queue, -1):
                self._latest[queue] = minute
                old = queue, minute - KEPT_MINUTES
                self._connection.execute("DELETE FROM trio_tasks_minute WHERE queue = ? AND minute < ?", old)
            self._add(queue, minute, label, sums)

    def _add(self, queue: int, minute: int, name: str, sums: Sums) -> None:
        known = self._sums(queue, minute, name)
        if known is None and name != OTHER:
            sql = "SELECT count(*) FROM trio_tasks_minute WHERE queue = ? AND minute = ?"
            [(names,)] = self._connection.execute(sql, (queue, minute))
            if names >= MOST_NAMES:
                name = OTHER
                known = self._sums(queue, minute, name)
        if known is not None:
            known.merge(sums)
        *numbers, durations, waits = (known or sums).pack()
        self._connection.execute(
            f"INSERT OR REPLACE INTO trio_tasks_minute (queue, minute, name, {_COLUMNS}) "
            f"VALUES ({', '.join('?' * 13)})",
            (queue, minute, name, *numbers, json.dumps(durations), json.dumps(waits)),
        )

    def _sums(self, queue: int, minute: int, name: str) -> Sums | None:
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM trio_tasks_minute WHERE {_KEY}", (queue, minute, name))
        return _sums_of(rows[0]) if rows else None

    def all(self, queue: int) -> list[tuple[int, str, Sums]]:
        """Return all rows of a queue."""
        sql = f"SELECT minute, name, {_COLUMNS} FROM trio_tasks_minute WHERE queue = ? ORDER BY minute, name"
        return [(row[0], row[1], _sums_of(row[2:])) for row in self._connection.execute(sql, (queue,))]


def _sums_of(row: Sequence[Any]) -> Sums:
    *numbers, durations, waits = row
    return Sums.unpack([*numbers, json.loads(durations), json.loads(waits)])
