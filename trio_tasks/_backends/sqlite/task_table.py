"""Changes of single rows of the table of tasks in an SQLite file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, final

from ..durable.encoding import aborted_error, expired_error, replaced_error, with_loss
from ..durable.engine import ClaimedRow, SettlementKind, State
from .driver import RowRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..durable.engine import Settlement
    from .counters import QueueCounters
    from .driver import Connection, Row

_LAST_ORDER_KEY = 2**63 - 1
ABORT = "abort"
_REPLACED = "replaced by "
"""Values of ``requested_end``: the attempt is to be aborted; or the row has a successor, whose id follows."""
_COUNTER_OF = {State.DONE: "succeeded", State.FAILED: "failed", State.KILLED: "killed"}

HELD = "WHERE seq = ? AND token = ? AND state = 2"
_RENEW = f"UPDATE trio_tasks_task SET due = ? {HELD}"
_FINISH = f"""UPDATE trio_tasks_task SET state = ?, due = ?, order_key = ?, result = ?, history = coalesce(?, history),
worker = coalesce(?, worker) {HELD}"""
DROP = f"DELETE FROM trio_tasks_task {HELD}"
_RETURN = f"""
UPDATE trio_tasks_task SET state = ?, due = ?, order_key = coalesce(?, order_key), attempt = attempt - ?,
result = coalesce(?, result), history = coalesce(?, history), run_at = coalesce(?, run_at),
worker = coalesce(?, worker), requested_end = NULL, start_by = NULL, wall = NULL
{HELD}
"""


OVERDUE = "queue = ? AND due <= ? AND due IS NOT NULL AND state < 3 AND +state < 2 AND start_by <= ?"
"""A condition for rows that have expired by a time, given twice, and are not killed yet."""
EXPIRED = f"SELECT seq, id FROM trio_tasks_task WHERE {OVERDUE} ORDER BY due LIMIT ?"


class Due(NamedTuple):
    """A row that is due."""

    seq: int
    id: str
    state: int
    attempt: int
    start_by: float | None
    history: bytes | None
    worker: str | None
    requested_end: str | None
    token: int
    due: float
    wall: float | None


@final
class TaskTable:
    """The table of tasks, as one connection sees it.

    Args:
      connection: to the file; the caller begins and ends its transactions.
      counters: numbers and counts of the queues.
    """

    def __init__(self, connection: Connection, counters: QueueCounters) -> None:
        self._connection = connection
        self._counters = counters
        self._last_order_key = 0

    def order_key(self, due: float | None, now: float) -> int:
        """The key by which waiting rows are ordered, in microseconds: the time at which the row is due; without one,
        a key above all that this session has given so far."""
        if due is not None:
            return int(min(due * 1e6, _LAST_ORDER_KEY))
        self._last_order_key = max(self._last_order_key + 1, int(now * 1e6))
        return self._last_order_key

    def held(self, key: Any, token: int) -> tuple[str, str | None] | None:
        """The id and ``requested_end`` of a row that runs under this token."""
        rows = self._connection.execute(f"SELECT id, requested_end FROM trio_tasks_task {HELD}", (key, token))
        return (rows[0][0], rows[0][1]) if rows else None

    def renew(self, claims: list[tuple[Any, int, float]]) -> list[bool]:
        """Renew the leases of these claims until the times given; return False for each that was lost."""
        rows = [(due, key, token) for key, token, due in claims]
        if self._connection.executemany(_RENEW, rows) == len(rows):
            return [True] * len(rows)
        return [self._connection.changed(_RENEW, row) > 0 for row in rows]

    def put_back(self, each: Settlement, now: float) -> None:
        """Put a running row back as retried, released or suspended: it waits again."""
        held = each.key, each.token
        queue = self._counters.number(each.queue)
        if each.kind is SettlementKind.RELEASED:
            self._change(_RETURN, (State.WAITING, None, None, 1, None, None, None, None, *held))
            self._counters.count(queue, running=-1, released=1)
        else:
            due = now + each.after if each.after > 0 else None
            state = State.WAITING if due is None else State.DELAYED
            order_key = self.order_key(due, now)
            counted = each.kind is SettlementKind.RETRIED
            fields = state, due, order_key, not counted, each.result, each.history, each.run_at, each.worker
            self._change(_RETURN, (*fields, *held))
            self._counters.count(queue, running=-1, **{"retried" if counted else "suspended": 1})

    def finish(self, each: Settlement, now: float) -> None:
        """Finish a running row, and keep or delete it."""
        state = {SettlementKind.SUCCEEDED: State.DONE, SettlementKind.FAILED: State.FAILED}.get(each.kind, State.KILLED)
        if each.keep:
            due = None if each.keep == math.inf else now + each.keep
            fields = state, due, self.order_key(None, now), each.result, each.history, each.worker
            self._change(_FINISH, (*fields, each.key, each.token))
        else:
            self._change(DROP, (each.key, each.token))
        self._counters.count(self._counters.number(each.queue), live=-1, running=-1, **{_COUNTER_OF[state]: 1})

    def take_off_attempt(self, seq: Any) -> None:
        """Take back the attempt of a running row that was interrupted, so that it does not count."""
        self._connection.execute("UPDATE trio_tasks_task SET attempt = attempt - 1 WHERE seq = ?", (seq,))

    def kill(self, queue: int, seq: int, error: bytes, now: float) -> None:
        """Kill a row that waits."""
        self._change(
            "UPDATE trio_tasks_task SET state = 5, due = NULL, order_key = ?, result = ? WHERE seq = ?",
            (self.order_key(None, now), error, seq),
        )
        self._counters.count(queue, live=-1, killed=1)

    def expire(self, queue: int, now: float, limit: int) -> list[str]:
        """Kill rows that were not claimed in time, and return their ids."""
        expired = self._connection.execute(EXPIRED, (queue, now, now, limit))
        for seq, _ in expired:
            self.kill(queue, seq, expired_error(), now)
        return [task_id for _, task_id in expired]

    def take_back(self, queue: int, row: Due, now: float) -> None:
        """Make an orphan wait again; its attempt stays counted."""
        self._change(
            "UPDATE trio_tasks_task SET state = 0, due = NULL, start_by = NULL, requested_end = NULL, history = ? "
            "WHERE seq = ?",
            (with_loss(row.history, row.attempt, now, row.worker), row.seq),
        )
        self._counters.count(queue, running=-1)

    def make_ready(self, seq: int) -> None:
        """Make a delayed row ready."""
        self._change("UPDATE trio_tasks_task SET state = 0, due = start_by, wall = NULL WHERE seq = ?", (seq,))

    def put_off(self, row: Due, due: float) -> None:
        """Put off a delayed row until this time."""
        look_at = due if row.start_by is None else min(due, row.start_by)
        sql = "UPDATE trio_tasks_task SET due = ?, order_key = ? WHERE seq = ?"
        self._change(sql, (look_at, self.order_key(due, due), row.seq))

    def _change(self, sql: str, parameters: Sequence[Any]) -> None:
        """Change one row.

        Raises:
          RowRefusedError: a trigger has had the change ignored.
        """
        if self._connection.changed(sql, parameters) < 1:
            raise RowRefusedError("a row did not change, though nothing was wrong: a trigger may have had it ignored")

    def take_over_key(self, seq: int, successor: str) -> None:
        """Give the unique key of a running row to its successor: the row may end, but does not come back."""
        self._connection.execute(
            "UPDATE trio_tasks_task SET uniq = NULL, requested_end = coalesce(requested_end, ?) WHERE seq = ?",
            (_REPLACED + successor, seq),
        )


def claimed(row: Row, token: int) -> ClaimedRow:
    """Make the claimed row of what was read before the claim.

    Raises:
      TypeError: it is none that we could have written.
    """
    seq, task_id, attempt, payload, head, history, _, run_at = row
    if type(task_id) is not str or not task_id or type(attempt) is not int or attempt < 0:
        raise TypeError(f"row {seq} has the id {task_id!r:.50} and the attempt {attempt!r:.50}")
    return ClaimedRow(seq, token, task_id, attempt + 1, payload, head, history, run_at)


def unwanted(requested_end: str) -> bytes:
    """The error of a running row that is not to come back: it was to be aborted, or another row has its unique key."""
    if requested_end == ABORT:
        return aborted_error()
    return replaced_error(requested_end.removeprefix(_REPLACED))
