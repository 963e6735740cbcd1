"""The table of tasks: changes of single rows, inside a transaction that the caller has begun."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, final

from ..._clock import wall_seconds
from ..durable.encoding import aborted_error, deadline_error, expired_error, replaced_error, with_loss
from ..durable.engine import CHANGES, ENDS, NOT_COUNTED, KilledRow, KillReason, Settlement, SettlementKind, State
from .driver import RowRefusedError
from .groups import GroupTable
from .unique_keys import KeyTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .counters import QueueCounters
    from .driver import Connection
    from .unique_keys import KeyHolder

_LAST_ORDER_KEY = 2**63 - 1
ABORT = "abort"
WITHDRAW = "withdraw"
REPLACED = "replaced by "
"""Values of ``requested_end``: the attempt is to be aborted; the same, and the row is then forgotten, as its call was
cancelled; or the row has a successor, whose id follows."""
_COUNTERS = {kind: change.counter or "" for kind, change in CHANGES.items()}
KEPT_COUNTER = {State.DONE: "kept_done", State.FAILED: "kept_failed", State.KILLED: "kept_killed"}
"""The counter of the rows that are kept in each final state."""
HELD = "WHERE seq = ? AND token = ? AND state = 2"
_RENEW = f"UPDATE trio_tasks_task SET due = ? {HELD}"
_FINISH = f"""UPDATE trio_tasks_task SET state = ?, due = ?, order_key = ?, result = ?, history = coalesce(?, history),
worker = coalesce(?, worker) {HELD}"""
NO_PLACE = "held = NULL"
"""An assignment for rows that are ready and run no more, in a queue whose keys take turns."""
_FINISH_FAIR = _FINISH.replace("state = ?", f"state = ?, {NO_PLACE}", 1)
DROP = f"DELETE FROM trio_tasks_task {HELD}"
_RETURN = f"""
UPDATE trio_tasks_task SET state = ?, due = coalesce(min(?, deadline), ?, deadline),
order_key = coalesce(?, order_key), attempt = attempt - ?,
result = coalesce(?, result), history = coalesce(?, history), run_at = coalesce(?, run_at),
worker = coalesce(?, worker), suspended = ?, requested_end = NULL, start_by = deadline, wall = NULL
{HELD}
"""
_RETURN_FAIR = _RETURN.replace("state = ?", f"state = ?, {NO_PLACE}", 1)
OVERDUE = "queue = ? AND due <= ? AND due IS NOT NULL AND state < 3 AND +state < 2 AND start_by <= ?"
"""A condition for rows that have expired by a time, given twice, and are not killed yet."""
EXPIRED = f"SELECT seq, id, state, suspended, start_by FROM trio_tasks_task WHERE {OVERDUE} ORDER BY due LIMIT ?"
_UPDATE_BY_PUSH = """
UPDATE trio_tasks_task SET state = ?, priority = ?, order_key = coalesce(?, order_key), due = ?, start_by = ?,
payload = ?, options = ?, run_at = ?, wall = ?, name = ?, deadline = ?, suspended = NULL WHERE seq = ?
"""
_IS_PAST_DEADLINE = "SELECT start_by = deadline FROM trio_tasks_task WHERE seq = ?"
IS_DUE = "SELECT 1 FROM trio_tasks_task WHERE seq = ? AND state = 1 AND iif(wall NOTNULL, wall <= ?, order_key <= ?)"
SWEEP = """
DELETE FROM trio_tasks_task WHERE seq IN (
    SELECT seq FROM trio_tasks_task INDEXED BY trio_tasks_finished
    WHERE queue = ? AND state = ? AND +state > 2 AND due <= ? LIMIT ?)
"""


class Due(NamedTuple):
    """A row that is due, with the change to enter."""

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
    suspended: str | None
    deadline: float | None


def ready_at(order_key: int) -> float:
    """Return the time at which a delayed row is ready; infinity if it is not before it is rescheduled."""
    return math.inf if order_key >= _LAST_ORDER_KEY else order_key / 1e6


@final
class TaskTable:
    """The table of tasks, as one connection sees it.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
      counters: the numbers and counts of the queues.
    """

    def __init__(self, connection: Connection, counters: QueueCounters) -> None:
        self._connection = connection
        self._counters = counters
        self.keys = KeyTable(connection)
        self.groups = GroupTable(connection, counters)
        self._last_order_key = 0
        self._killed: list[KilledRow] = []

    def note_killed(self, queue: str, task_id: str, reason: KillReason, by: str = "") -> None:
        """Note that a row was killed otherwise than by a settlement."""
        self._killed.append(KilledRow(queue, task_id, reason, by))

    def note_end(self, queue: str, task_id: str, requested_end: str) -> None:
        """Note that a row was killed which ran, and must not wait again."""
        if requested_end in (ABORT, WITHDRAW):
            self.note_killed(queue, task_id, KillReason.NOT_AGAIN)
        else:
            self.note_killed(queue, task_id, KillReason.REPLACED, requested_end.removeprefix(REPLACED))

    def take_killed(self) -> list[KilledRow]:
        """Return what was noted since this was last called."""
        killed, self._killed = self._killed, []
        return killed

    def roll_back(self) -> None:
        """Forget what was noted in a transaction that was rolled back."""
        self._killed = []
        self.groups.roll_back()

    def _is_fair(self, queue: int) -> bool:
        return self.groups.rules.of(queue).is_fair

    def order_key(self, due: float | None, now: float) -> int:
        """Return the key that orders waiting rows, in microseconds: the time at which the row is due.

        A row without such a time gets a key above all keys that this session has given so far.
        """
        if due is not None:
            return int(min(due * 1e6, _LAST_ORDER_KEY))
        self._last_order_key = max(self._last_order_key + 1, int(now * 1e6))
        return self._last_order_key

    def held(self, key: Any, token: int) -> tuple[str, str | None] | None:
        """Return the id and ``requested_end`` of a row that runs under this token."""
        rows = self._connection.execute(f"SELECT id, requested_end FROM trio_tasks_task {HELD}", (key, token))
        return (rows[0][0], rows[0][1]) if rows else None

    def renew(self, claims: list[tuple[Any, int, float]]) -> list[bool]:
        """Renew the leases of these claims until the given times; return False for each lost one."""
        rows = [(due, key, token) for key, token, due in claims]
        if self._connection.executemany(_RENEW, rows) == len(rows):
            return [True] * len(rows)
        return [self._connection.changed(_RENEW, row) > 0 for row in rows]

    def put_back(self, each: Settlement, now: float) -> None:
        """Make a running row wait again, as retried, released or suspended."""
        held = each.key, each.token
        queue = self._counters.number(each.queue)
        if each.kind is SettlementKind.RELEASED:
            self._change(_RETURN, (State.WAITING, None, None, None, 1, None, None, None, None, None, *held))
            self._counters.count(queue, running=-1, released=1)
            if self._is_fair(queue):
                self.groups.arrange_returned(queue, each.key)
        else:
            due = now + each.after if each.after > 0 else None
            state = State.WAITING if due is None else State.DELAYED
            order_key = self.order_key(due, now)
            suspended = each.reason if each.kind is SettlementKind.SUSPENDED and due is not None else None
            moved = state, due, due, order_key, each.kind in NOT_COUNTED
            sql = _RETURN_FAIR if self._is_fair(queue) else _RETURN
            self._change(sql, (*moved, each.result, each.history, each.run_at, each.worker, suspended, *held))
            changes = {_COUNTERS[each.kind]: 1}
            if due is not None:
                changes |= {"delayed": 1, "suspended_now": int(suspended is not None)}
            elif self._is_fair(queue):
                self.groups.arrange(queue, each.key)
            self._counters.count(queue, running=-1, **changes)

    def finish(self, each: Settlement, now: float) -> None:
        """Finish a running row, and keep or delete it."""
        queue = self._counters.number(each.queue)
        if each.keep:
            due = None if each.keep == math.inf else now + each.keep
            fields = ENDS[each.kind], due, self.order_key(None, now), each.result, each.history, each.worker
            sql = _FINISH_FAIR if self._is_fair(queue) else _FINISH
            self._change(sql, (*fields, each.key, each.token))
        else:
            self._change(DROP, (each.key, each.token))
        changes = {_COUNTERS[each.kind]: 1, KEPT_COUNTER[ENDS[each.kind]]: int(each.keep > 0)}
        self._counters.count(queue, live=-1, running=-1, **changes)

    def take_off_attempt(self, seq: Any) -> None:
        """Subtract the attempt of a running row that was interrupted, so that it does not count."""
        self._connection.execute("UPDATE trio_tasks_task SET attempt = attempt - 1 WHERE seq = ?", (seq,))

    def kill(
        self,
        queue: int,
        seq: int,
        error: bytes,
        now: float,
        state: int = State.WAITING,
        suspended: str | None = None,
        *,
        at: float | None = None,
    ) -> None:
        """Kill a row that waits in this state: now, or, if it has expired, at that moment."""
        if self._is_fair(queue):
            self.groups.leave(queue, seq)
        self._change(
            "UPDATE trio_tasks_task SET state = 5, due = NULL, wall = NULL, suspended = NULL, order_key = ?, "
            "result = ? WHERE seq = ?",
            (self.order_key(None if at is None else min(at, now), now), error, seq),
        )
        self._counters.count(queue, live=-1, killed=1, kept_killed=1)
        self._count_ready(queue, state, suspended)

    def end_late(
        self,
        name: str,
        queue: int,
        seq: int,
        task_id: str,
        now: float,
        state: int,
        suspended: str | None,
        *,
        at: float | None,
    ) -> None:
        """Kill a row that waits, as it was not claimed in time, or its deadline is over: at that moment."""
        [(is_deadline,)] = self._connection.execute(_IS_PAST_DEADLINE, (seq,))
        self.kill(queue, seq, deadline_error() if is_deadline else expired_error(), now, state, suspended, at=at)
        self.note_killed(name, task_id, KillReason.DEADLINE if is_deadline else KillReason.EXPIRED)

    def discard(self, queue: int, seq: int, state: int, suspended: str | None) -> None:
        """Delete a row that waits in this state, which counts as killed."""
        if self._is_fair(queue):
            self.groups.leave(queue, seq)
        self._change("DELETE FROM trio_tasks_task WHERE seq = ?", (seq,))
        self._counters.count(queue, live=-1, killed=1)
        self._count_ready(queue, state, suspended)

    def _count_ready(self, queue: int, state: int, suspended: str | None) -> None:
        """Count that a row of this state is not delayed any more."""
        if state == State.DELAYED:
            self._counters.count(queue, delayed=-1, suspended_now=0 if suspended is None else -1)

    def expire(self, name: str, queue: int, now: float, limit: int) -> int:
        """Kill rows that were not claimed in time; return how many there were."""
        expired = self._connection.execute(EXPIRED, (queue, now, now, limit))
        for seq, task_id, state, suspended, start_by in expired:
            self.end_late(name, queue, seq, task_id, now, state, suspended, at=start_by)
        return len(expired)

    def sweep(self, queue: int, now: float, limit: int) -> int:
        """Forget up to so many finished rows whose time is up; return how many there were."""
        self.keys.drop_free(queue, now, limit)
        return self.forget(SWEEP, queue, (now,), limit)

    def forget(self, sql: str, queue: int, parameters: tuple[Any, ...], limit: int) -> int:
        """Delete up to so many finished rows by this statement, state by state, so that each is counted."""
        forgotten = 0
        for state, kept in KEPT_COUNTER.items():
            rows = self._connection.changed(sql, (queue, state.value, *parameters, limit - forgotten))
            if rows:
                self._counters.count(queue, **{kept: -rows})
            forgotten += rows
        return forgotten

    def take_back(self, queue: int, row: Due, now: float) -> None:
        """Make an orphan wait again; its attempt stays counted."""
        self._change(
            "UPDATE trio_tasks_task SET state = 0, due = deadline, start_by = deadline, requested_end = NULL, "
            "history = ? WHERE seq = ?",
            (with_loss(row.history, row.attempt, now, row.worker), row.seq),
        )
        self._counters.count(queue, running=-1)
        if self._is_fair(queue):
            self.groups.arrange_returned(queue, row.seq)

    def make_ready(self, queue: int, row: Due) -> None:
        """Make a row ready whose time has come."""
        if self._is_fair(queue) and self.groups.is_held(row.seq):
            self.groups.ask_again(queue, row.seq)
            return
        self.set_ready(queue, row.seq)
        self._count_ready(queue, row.state, row.suspended)

    def set_ready(self, queue: int, seq: int) -> None:
        """Set the columns of a row whose time has come; it waits from then on."""
        sql = "UPDATE trio_tasks_task SET state = 0, due = start_by, wall = NULL, suspended = NULL WHERE seq = ?"
        self._change(sql, (seq,))
        if self._is_fair(queue):
            self.groups.arrange(queue, seq)

    def update_by_push(
        self, queue: int, seq: int, values: tuple[Any, ...], key: str | None, *, keeps_place: bool
    ) -> None:
        """Give a waiting row the columns of another one, which was not inserted."""
        _, _, state, priority, order_key, due, start_by, _, payload, options, run_at, wall, name, _, end = values
        groups, is_arranged = self.groups, False
        if self._is_fair(queue):
            is_same, is_ready = groups.compare(seq, key)
            keeps_place = keeps_place and is_same
            is_arranged = keeps_place and is_ready
            if not is_arranged:
                groups.leave(queue, seq)
        moved = state, priority, None if keeps_place else order_key, due, start_by
        self._change(_UPDATE_BY_PUSH, (*moved, payload, options, run_at, wall, name, end, seq))
        if self._is_fair(queue) and not is_arranged:
            groups.set_key(seq, key)
            if state == State.WAITING:
                groups.arrange(queue, seq)

    def is_due(self, seq: int, now: float) -> bool:
        """Return True if the time of a delayed row has come, by the clock that decides, though that is not entered."""
        return bool(self._connection.execute(IS_DUE, (seq, wall_seconds(), now * 1e6)))

    def put_off(self, row: Due, due: float) -> None:
        """Delay a row until this time."""
        look_at = due if row.start_by is None else min(due, row.start_by)
        sql = "UPDATE trio_tasks_task SET due = ?, order_key = ? WHERE seq = ?"
        self._change(sql, (look_at, self.order_key(due, due), row.seq))

    def _change(self, sql: str, parameters: Sequence[Any]) -> None:
        """Change one row.

        Raises:
          RowRefusedError: a trigger has had the change ignored.
        """
        if self._connection.changed(sql, parameters) < 1:
            raise RowRefusedError("an UPDATE of a row was ignored without an error, perhaps by a trigger")

    def take_over_key(self, seq: int, successor: str) -> None:
        """Give the unique key of a running row to its successor; the row may end, but does not wait again."""
        self._connection.execute(
            "UPDATE trio_tasks_task SET uniq = NULL, requested_end = coalesce(requested_end, ?) WHERE seq = ?",
            (REPLACED + successor, seq),
        )

    def key_holder(self, name: str, queue: int, key: str, now: float) -> KeyHolder | None:
        """Return the row that holds a unique key; first it is killed if it has expired, deleted if it is kept no
        longer. Then it may hold the key no more.
        """
        holder = self.keys.holder(queue, key, now)
        if holder is not None and holder.has_expired(now):
            self.end_late(name, queue, holder.seq, holder.id, now, holder.state, holder.suspended, at=holder.start_by)
            holder = self.keys.holder(queue, key, now)
        if holder is not None and holder.is_kept_no_longer(now):
            self.delete(queue, holder.seq, holder.state)
            return None
        return holder

    def delete(self, queue: int, seq: int, state: int) -> None:
        """Delete a finished row."""
        self._connection.execute("DELETE FROM trio_tasks_task WHERE seq = ?", (seq,))
        self._counters.count(queue, **{KEPT_COUNTER[State(state)]: -1})


def unwanted(requested_end: str) -> bytes:
    """Return the error of a running row that must not wait again: it was aborted, or another row has its unique key."""
    if requested_end in (ABORT, WITHDRAW):
        return aborted_error()
    return replaced_error(requested_end.removeprefix(REPLACED))
