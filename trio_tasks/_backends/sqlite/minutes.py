"""The table of minutes of an SQLite file: the sums of attempts by queue, minute and name of the tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from ..._contracts.minutes import KEPT_MINUTES, MOST_NAMES, OTHER, Sums, check_minute
from ..._logging import log
from .driver import code_of, is_of_the_driver, is_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._contracts.minutes import MinuteRow
    from .counters import QueueCounters
    from .driver import Connection

_COLUMNS = "succeeded, retried, failed, killed, released, suspended, seconds, waited, durations, waits"
_WRONG_SQL = 1
"""The code of SQLite for a table or a column that it does not know."""
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
        """Add these sums to those that are stored. If the table does not take them, they are lost, and the rest of the
        transaction is not.
        """
        self._connection.execute("SAVEPOINT trio_tasks_minutes")
        try:
            for row in rows:
                self._add_row(row)
        except Exception as error:
            if not _is_of_the_table(error) or not self._connection.in_transaction:
                raise
            self._connection.execute("ROLLBACK TO trio_tasks_minutes")
            log.warning("the sums of some attempts cannot be stored in an SQLite file, and are lost: %s", error)
        self._connection.execute("RELEASE trio_tasks_minutes")

    def _add_row(self, row: MinuteRow) -> None:
        name, minute, label, sums = row
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
        return _sums_of(minute, name, rows[0]) if rows else None

    def all(self, queue: int) -> list[tuple[int, str, Sums]]:
        """Return all rows of a queue that can be read."""
        sql = f"SELECT minute, name, {_COLUMNS} FROM trio_tasks_minute WHERE queue = ? ORDER BY minute, name"
        try:
            rows = self._connection.execute(sql, (queue,))
        except Exception as error:
            if not _is_of_the_table(error):
                raise
            log.warning("the sums of attempts in an SQLite file cannot be read: %s", error)
            return []
        read = [(minute, name, _sums_of(minute, name, row)) for minute, name, *row in rows]
        return [(minute, name, sums) for minute, name, sums in read if sums is not None]


def _sums_of(minute: object, name: object, row: Sequence[Any]) -> Sums | None:
    """Return the sums of a row; None if they are damaged, which the log tells."""
    try:
        check_minute(minute, name)
        *numbers, durations, waits = row
        return Sums.unpack([*numbers, json.loads(durations), json.loads(waits)])
    except (TypeError, ValueError) as error:
        log.warning("the sums of a minute in an SQLite file are damaged, and are lost: %s", error)
        return None


def _is_of_the_table(error: Exception) -> bool:
    """Return True if the table refuses a statement, or is not there."""
    return is_refusal(error) or (is_of_the_driver(error) and code_of(error) == _WRONG_SQL)
