"""The unique keys of an SQLite file: the row that holds each of them, and for how long.

1. A row that holds its key by its own state has it in ``uniq``. The index of these keys has unfinished rows, and the
   finished ones that hold it until they are forgotten; one that holds it until it begins loses it by its first claim.
2. A key that is held for a time is a row of another table, which stays when the task is forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

from ..durable.engine import State
from .counters import text

if TYPE_CHECKING:
    from ..._tasks.task import UniqueUntil
    from ..durable.engine import NewRow
    from .driver import Connection

HOLDER = """
SELECT seq, id, state, suspended, start_by, due, priority, uniq_until FROM trio_tasks_task
WHERE queue = ? AND uniq = ? AND (state < 3 OR uniq_until = 'forgotten')
UNION ALL
SELECT seq, held.id, coalesce(state, 5), suspended, start_by, NULL, priority, 'time' FROM trio_tasks_key AS held
LEFT JOIN trio_tasks_task AS task ON task.queue = held.queue AND task.id = held.id AND task.pushed = held.pushed
WHERE held.queue = ? AND held.uniq = ? AND until > ? AND until < 9e999
"""
_HOLD = "UPDATE trio_tasks_task SET uniq = ?, uniq_until = ? WHERE queue = ? AND id = ?"
_HOLD_FOR = """
INSERT OR REPLACE INTO trio_tasks_key (queue, uniq, until, id, pushed)
SELECT queue, ?, ?, id, pushed FROM trio_tasks_task WHERE queue = ? AND id = ?
"""
DROP_FREE = """
DELETE FROM trio_tasks_key
WHERE num IN (SELECT num FROM trio_tasks_key WHERE queue = ? AND until <= ? LIMIT ?)
"""
"""Keys whose time is over are not held by anything; this only makes room."""


def stored_until(until: UniqueUntil) -> str | None:
    """The end of the time for which a row holds its key, as it is stored."""
    return None if until == "end" else until


class KeyHolder(NamedTuple):
    """The row that holds a unique key.

    A task that is forgotten, and holds its key for a time, has an id and no row; it counts as killed.
    """

    seq: int
    id: str
    state: int
    suspended: str | None
    start_by: float | None
    due: float | None
    """Of a finished row, the time at which it and its key are forgotten."""
    priority: int
    until: str | None
    """The end of the time for which it holds the key; None: its end; ``"time"``: a certain time."""

    def has_expired(self, now: float) -> bool:
        """Return True if it waits, and was not claimed in time."""
        return self.state < State.RUNNING and self.start_by is not None and self.start_by <= now

    def is_kept_no_longer(self, now: float) -> bool:
        """Return True if it is finished, and was kept long enough."""
        return self.state > State.RUNNING and self.due is not None and self.due <= now


@final
class KeyTable:
    """The unique keys, as one connection sees them.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def holder(self, queue: int, key: str, now: float) -> KeyHolder | None:
        """Return the row that holds a key; it may have expired, or be kept no longer."""
        found = self._connection.execute(HOLDER, (queue, key, queue, key, now))
        return KeyHolder._make(found[0])._replace(id=text(found[0][1])) if found else None

    def hold(self, queue: int, task_id: str, key: str, new: NewRow, now: float) -> None:
        """Give a row its key, for as long as this new row says."""
        if new.unique_for is None:
            self._connection.execute(_HOLD, (key, stored_until(new.unique_until), queue, task_id))
        else:
            self._connection.execute(_HOLD_FOR, (key, now + new.unique_for, queue, task_id))

    def free(self, queue: int, key: str, holder: KeyHolder) -> None:
        """Free the key that a row holds."""
        if holder.until == "time":
            self._connection.execute("DELETE FROM trio_tasks_key WHERE queue = ? AND uniq = ?", (queue, key))
        else:
            self._connection.execute(_HOLD, (None, holder.until, queue, holder.id))

    def drop_free(self, queue: int, now: float, limit: int) -> None:
        """Drop up to so many keys whose time is over."""
        self._connection.execute(DROP_FREE, (queue, now, limit))
