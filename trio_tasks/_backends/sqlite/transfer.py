"""Whole rows of an SQLite file, for another store: read as they are, and inserted as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from ..._contracts.transfer import STATES, StoredTask, rounded
from ..durable.engine import READ_AT_ONCE, RowsRead, State
from ..durable.transfer import OTHER_TASK, key_is_held, terms_of
from .counters import text
from .driver import RowRefusedError
from .task_table import ABORT, KEPT_COUNTER, REPLACED, WITHDRAW, ready_at
from .unique_keys import stored_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .counters import QueueCounters
    from .driver import Connection, Row
    from .task_table import TaskTable

_LAST_ORDER_KEY = 2**63 - 1
_KEPT = "NOT (state > 2 AND due NOTNULL AND due <= ?)"
SIZES = f"""
SELECT seq, length(payload) + coalesce(length(options), 0) + coalesce(length(result), 0) + coalesce(length(history), 0)
+ coalesce(length(progress), 0) FROM trio_tasks_task WHERE +queue = ? AND seq > ? AND {_KEPT} ORDER BY seq LIMIT ?
"""
"""The keys of the next rows, with the bytes that they take. The ``+`` has SQLite go along the rows, not by an index of
the queue, in which they would have to be sorted for each page."""
_COLUMNS = (
    "id, state, attempt, payload, options, due, result, history, progress, worker, start_by, order_key, run_at, name, "
    "pushed, started, suspended, priority, uniq, uniq_until, requested_end, wall, deadline, since, held"
)
WHOLE_ROWS = f"""
SELECT {_COLUMNS} FROM trio_tasks_task WHERE +queue = ? AND seq > ? AND seq <= ? AND {_KEPT} ORDER BY seq
"""
WHOLE_ROW = f"SELECT seq, {_COLUMNS} FROM trio_tasks_task WHERE queue = ? AND id = ?"
TIMED_KEY = """
SELECT until FROM trio_tasks_key WHERE queue = ? AND uniq = ? AND id = ? AND pushed IS ? AND until > ?
"""
_INSERT = """
INSERT INTO trio_tasks_task
(queue, id, state, attempt, payload, options, due, result, history, progress, worker, start_by, order_key, run_at, name,
pushed, started, suspended, priority, uniq, uniq_until, requested_end, wall, deadline, key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_HOLD_UNTIL = "INSERT OR REPLACE INTO trio_tasks_key (queue, uniq, until, id, pushed) VALUES (?, ?, ?, ?, ?)"
_COUNTED = {State.DONE: "succeeded", State.FAILED: "failed", State.KILLED: "killed"}


@final
class TransferSql:
    """The statements that read and insert whole rows; the caller begins and ends the transactions.

    Args:
      connection: a connection to the file.
      table: the table of tasks of this connection.
      counters: the numbers and counts of the queues.
    """

    def __init__(self, connection: Connection, table: TaskTable, counters: QueueCounters) -> None:
        self._connection = connection
        self._table = table
        self._counters = counters

    def read(self, queue: str, after: int, limit: int, now: float) -> RowsRead:
        """Return the rows with the next keys."""
        number = self._counters.known(queue)
        found = self._connection.execute(SIZES, (number, after, now, limit + 1))
        taken, size = 0, 0
        while taken < min(limit, len(found)) and (not taken or size + found[taken][1] <= READ_AT_ONCE):
            size += found[taken][1]
            taken += 1
        if not taken:
            return RowsRead([], None)
        last = found[taken - 1][0]
        rows = self._connection.execute(WHOLE_ROWS, (number, after, last, now))
        return RowsRead([self._task_of(row, number, now) for row in rows], last if taken < len(found) else None)

    def _task_of(self, row: Row, queue: int, now: float) -> StoredTask:
        """Return a row as a task.

        Raises:
          TypeError, ValueError: it is none that we could have written.
        """
        task_id, number, attempt, payload, options, due, result, history, progress, worker, *rest = row
        start_by, order_key, run_at, name, pushed, started, suspended, priority, unique, until, end, *more = rest
        wall, deadline, ready_since, held = more
        state = State.WAITING if held else State(number)  # the limits of the queue that it goes to will hold it back
        order_key = ready_since if order_key < 0 else order_key
        moment = due if state is State.DELAYED or state > State.RUNNING else None
        if state is State.DELAYED and start_by is not None and due == start_by:  # it expires before it is ready
            moment = ready_at(order_key)
        needs_no_key = state > State.RUNNING or (state is State.RUNNING and end is not None)  # but one to be kept
        if unique is None or (needs_no_key and until is None):
            unique, until = self._timed_key(queue, task_id, options, pushed, now)
        is_aborting = end in (ABORT, WITHDRAW) and state is State.RUNNING
        is_replaced = end is not None and state is State.RUNNING and not is_aborting
        return StoredTask(
            id=text(task_id),
            state=STATES[state],
            payload=payload,
            options=options,
            name=name,
            priority=priority,
            attempt=attempt,
            pushed=rounded(pushed),
            started=rounded(started),
            since=None if state is State.DELAYED else rounded(order_key / 1e6),
            due=rounded(moment) if state is State.DELAYED else _finite(rounded(moment)),
            expires=_finite(rounded(start_by)) if state < State.RUNNING and start_by != deadline else None,
            deadline=rounded(deadline),
            run_at=run_at,
            by_wall_clock=state is State.DELAYED and wall is not None and run_at is not None,
            unique=unique,
            unique_until=until or "end",
            suspended=suspended if state is State.DELAYED else None,
            is_aborting=is_aborting,
            replaced_by=text(end).removeprefix(REPLACED) if is_replaced else None,
            worker=worker,
            result=result,
            history=history,
            progress=progress,
        )

    def _timed_key(
        self, queue: int, task_id: str, options: bytes | None, pushed: float | None, now: float
    ) -> tuple[str | None, Any]:
        """Return the unique key that a row holds for a time, and the end of that; None if there is none."""
        terms = terms_of(options)
        if terms.unique is None or terms.unique_for is None:
            return None, None
        held = self._connection.execute(TIMED_KEY, (queue, terms.unique, task_id, pushed, now))
        return (terms.unique, rounded(held[0][0])) if held else (None, None)

    def insert(self, queue: str, tasks: Sequence[StoredTask], now: float) -> list[bool | str]:
        """Insert rows, one by one."""
        number = self._counters.number(queue)
        return [self._insert(queue, number, task, now) for task in tasks]

    def _insert(self, name: str, queue: int, task: StoredTask, now: float) -> bool | str:
        for seq, *row in self._connection.execute(WHOLE_ROW, (queue, task.id)):
            known = self._task_of(tuple(row), queue, now)
            if not known.is_kept_no_longer(now):
                return False if known.is_same_task(task) else OTHER_TASK
            self._table.delete(queue, seq, row[1])
        if task.unique is not None:
            holder = self._table.key_holder(name, queue, task.unique, now)
            if holder is not None and holder.id != task.id:
                return key_is_held(task.unique, holder.id)
            if holder is not None:  # it was forgotten, and its key was held for a time
                self._table.keys.free(queue, task.unique, holder)
        state, key = State(STATES.index(task.state)), terms_of(task.options).key
        if key is not None and state <= State.RUNNING:
            self._table.groups.make_fair(queue)
        if self._connection.changed(_INSERT, (*_values(queue, task, now), key)) < 1:
            raise RowRefusedError("an INSERT of a row was ignored without an error, perhaps by a trigger")
        if task.unique is not None and not isinstance(task.unique_until, str):
            held = queue, task.unique, float(task.unique_until), task.id, task.pushed
            self._connection.execute(_HOLD_UNTIL, held)
        self._count(queue, state, task)
        if state is State.WAITING and self._table.groups.rules.of(queue).is_fair:
            sql = "SELECT seq FROM trio_tasks_task WHERE queue = ? AND id = ?"
            [(seq,)] = self._connection.execute(sql, (queue, task.id))
            self._table.groups.arrange(queue, seq)
        return True

    def _count(self, queue: int, state: State, task: StoredTask) -> None:
        if state > State.RUNNING:
            self._counters.count(queue, pushed=1, **{_COUNTED[state]: 1, KEPT_COUNTER[state]: 1})
            return
        changes = {"delayed": int(state is State.DELAYED), "running": int(state is State.RUNNING)}
        self._counters.count(queue, pushed=1, live=1, **changes, suspended_now=int(task.suspended is not None))


def _finite(seconds: float | None) -> float | None:
    """Return a time, or None for one that never comes."""
    return None if seconds is None or seconds >= _LAST_ORDER_KEY / 1e6 else seconds


def _values(queue: int, task: StoredTask, now: float) -> tuple[Any, ...]:
    """The columns of a task. A running one is an orphan from now on."""
    state = State(STATES.index(task.state))
    due = now if state is State.RUNNING else task.due
    if state < State.RUNNING:  # the clock changes it when it is ready, or expires
        due = min((each for each in (task.due, task.start_by) if each is not None), default=None)
    moment = task.due if state is State.DELAYED else task.since
    assert moment is not None
    order_key = min(round(min(moment, 1e13) * 1e6), _LAST_ORDER_KEY)
    end = ABORT if task.is_aborting else REPLACED + task.replaced_by if task.replaced_by is not None else None
    wall = task.run_at / 1e6 if task.by_wall_clock and task.run_at is not None else None
    unique, until = None, None
    if task.unique is not None and isinstance(task.unique_until, str):
        unique, until = task.unique, stored_until(task.unique_until)
    first = queue, task.id, state.value, task.attempt, task.payload, task.options, due, task.result, task.history
    times = task.start_by, order_key, task.run_at, task.name, task.pushed, task.started
    last = task.suspended, task.priority, unique, until, end, wall, task.deadline
    return *first, task.progress, task.worker, *times, *last
