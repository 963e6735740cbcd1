"""Whole rows of a journal, for another store: read as they are, and inserted as they were."""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, Any, final

from ..._contracts.transfer import STATES, StoredTask, rounded
from ..._printing import escaped
from ..._tasks.errors import BackendError
from ..durable.engine import READ_AT_ONCE, RowsRead
from ..durable.transfer import OTHER_TASK, key_is_held, terms_of
from .rows import (
    ABORTED,
    DELAYED,
    DONE,
    FAILED,
    FAILURES,
    GIVEN_UP,
    KILLED,
    KILLS,
    RUNNING,
    SUCCEEDED,
    TIMED,
    WITHDRAWN,
    Row,
    TimedKey,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rows import QueueRows
    from .state import JournalState

_COUNTED = {DONE: SUCCEEDED, FAILED: FAILURES, KILLED: KILLS}
_NEVER = 2.0**63 / 1e6


@final
class TransferRows:
    """Reads and inserts whole rows; the caller commits or rolls back.

    Args:
      state: the rows and queues of the journal.
    """

    __slots__ = ("_state",)

    def __init__(self, state: JournalState) -> None:
        self._state = state

    def read(self, queue: str, after: int, limit: int, now: float) -> RowsRead:
        """Return the rows with the next keys."""
        queue_rows, size = self._state.queues.get(queue), 0
        rows: list[StoredTask] = []
        if queue_rows is None:
            return RowsRead(rows, None)
        last = after
        for key, row in self._state.rows_after(after):
            if row.queue is not queue_rows or row.is_kept_no_longer(now):
                continue
            size += row.weight + sum(len(each or b"") for each in (row.result, row.history, row.progress))
            if len(rows) >= limit or (rows and size > READ_AT_ONCE):
                return RowsRead(rows, last)
            try:
                rows.append(self._task_of(row, now))
            except (TypeError, ValueError) as error:
                raise BackendError(f"task {escaped(row.id)} of a journal cannot be read: {error}") from error
            last = key
        return RowsRead(rows, None)

    def _task_of(self, row: Row, now: float) -> StoredTask:
        state = row.state
        unique, until = self._held_key(row, now)
        is_aborting = row.requested_end in (ABORTED, WITHDRAWN) and state == RUNNING
        return StoredTask(
            id=row.id,
            state=STATES[state],
            payload=row.payload,
            options=row.options,
            name=row.name,
            priority=row.priority,
            attempt=row.attempt,
            pushed=rounded(row.pushed),
            started=rounded(row.started),
            since=None if state == DELAYED else rounded(row.since),
            due=rounded(row.due) if state == DELAYED else _finite(row.due) if state > RUNNING else None,
            expires=_finite(row.expires) if state < RUNNING and not row.ends_by_deadline else None,
            deadline=rounded(row.deadline),
            run_at=row.run_at,
            by_wall_clock=state == DELAYED and row.by_wall and row.run_at is not None,
            unique=unique,
            unique_until=until,
            suspended=row.suspended if state == DELAYED else None,
            is_aborting=is_aborting,
            replaced_by=row.requested_end if state == RUNNING and isinstance(row.requested_end, str) else None,
            worker=row.worker,
            result=row.result,
            history=row.history,
            progress=row.progress,
        )

    def _held_key(self, row: Row, now: float) -> tuple[str | None, Any]:
        """Return the unique key that a row holds, and what ends that; by its state, since a journal that is only read
        has no index of them.
        """
        key = row.unique
        if key is None or row.unique_until == GIVEN_UP:
            return None, "end"
        if row.unique_until == TIMED:
            timed = row.queue.timed_keys.get(key)
            is_held = timed is not None and timed.row_key == row.key and timed.end > now
            return (key, rounded(timed.end)) if timed is not None and is_held else (None, "end")
        is_held = row.unique_until == "forgotten" or (row.state <= RUNNING and not row.requested_end)
        return (key, row.unique_until) if is_held else (None, "end")

    def insert(self, queue: str, tasks: Sequence[StoredTask]) -> list[bool | str]:
        """Insert rows, one by one."""
        queue_rows = self._state.queue(queue)
        return [self._insert(queue_rows, task) for task in tasks]

    def _insert(self, queue: QueueRows, task: StoredTask) -> bool | str:
        state = self._state
        known = queue.row(task.id)
        if known is not None and self._is_there(known):
            return False if self._task_of(known, state.time).is_same_task(task) else OTHER_TASK
        if task.unique is not None:
            holder = state.key_holder(queue, task.unique)
            if holder is not None and holder[0] != task.id:  # it may be this one, which was forgotten
                return key_is_held(task.unique, holder[0])
        row = self._row_of(queue, task)
        state.insert(row)
        state.touch_in_full(row)  # all of it is recorded, when it was pushed included
        if task.is_finished:
            state.count(queue, _COUNTED[row.state], -1)
        state.place(row)
        if task.unique is not None and isinstance(task.unique_until, str):
            state.take_key(row)
        elif task.unique is not None:
            end = float(task.unique_until)
            state.set_timed_key(queue, task.unique, TimedKey(row.id, row.key, end))
            heappush(queue.key_ends, (end, task.unique))
        return True

    def _is_there(self, row: Row) -> bool:
        """Return True if a row is there; one that is kept no longer is forgotten first."""
        if row.is_kept_no_longer(self._state.time):
            return self._state.current_row(row.queue.name, row.id) is not None
        return row.state <= KILLED

    def _row_of(self, queue: QueueRows, task: StoredTask) -> Row:
        """Make the row of a task. A running one is an orphan from now on."""
        state, terms = self._state, terms_of(task.options)
        row = Row(
            state.next_key,
            queue,
            task.id,
            task.payload,
            task.options,
            task.priority,
            terms.unique,
            task.name,
            task.pushed,
            terms.key,
        )
        if terms.unique is not None:
            until = GIVEN_UP if task.unique is None else terms.unique_until  # it has it again when it is resumed
            row.unique_until = until if terms.unique_for is None else TIMED
        row.state, row.attempt, row.started = STATES.index(task.state), task.attempt, task.started
        moment = task.due if row.state == DELAYED else task.since
        assert moment is not None
        row.since, row.due = moment, task.due
        row.set_ends(task.expires, task.deadline)
        if row.state == RUNNING:
            row.due, row.token = state.time, state.next_token
            state.next_token += 1
        row.result, row.history, row.progress, row.worker = task.result, task.history, task.progress, task.worker
        row.requested_end = task.is_aborting or task.replaced_by or False
        row.run_at, row.by_wall, row.suspended = task.run_at, task.by_wall_clock, task.suspended
        return row


def _finite(seconds: float | None) -> float | None:
    """Return a time in whole microseconds, or None for one that never comes."""
    return None if seconds is None or seconds >= _NEVER else rounded(seconds)
