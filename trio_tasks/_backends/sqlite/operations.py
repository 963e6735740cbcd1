"""Operations on the rows of an SQLite file besides exchanges: look up, cancel, reschedule, resume, forget."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, final

from ..._clock import wall_now
from ..._contracts.bulk import Refusal
from ..._contracts.explanation import MOST_COUNTED, Place
from ..._contracts.fairness import NO_KEY
from ..._contracts.listing import Found, Position
from ..._contracts.metrics import Balance, QueueMetrics, changed, make_metrics
from ..._logging import log
from ..._tasks.errors import AbortError, DuplicateTaskError, not_again
from ..durable.encoding import LONGEST_STATE, deadline_error, decode_options, encode_error, expired_error
from ..durable.engine import (
    LATEST,
    REMOVED_FOR,
    Changed,
    ClaimKey,
    KillReason,
    LocatedRow,
    Part,
    RowChange,
    ScheduleOutcome,
    ScheduleRow,
    State,
    StoredRow,
    StoredWorker,
)
from ..durable.rows import refusal_of
from .counters import text
from .minutes import MinuteTable
from .search import AGAIN, asked_again, rows_by_key, search
from .task_table import ABORT, KEPT_COUNTER, WITHDRAW, ready_at
from .transfer import TransferSql
from .unique_keys import stored_until
from .wakeup import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._contracts.minutes import Sums
    from ..._tasks.limits import Limits
    from ..durable.engine import Query, ScheduleUpdate, WorkerRow
    from .counters import QueueCounters
    from .driver import Connection, Row
    from .exchange import ExchangeSql
    from .turns import Reweighing

_EXPIRED_AT_ONCE = 500
_FORGOTTEN = 500
"""Rows that are forgotten in one transaction."""
_COLUMNS = (
    "id, state, attempt, payload, options, due, result, history, progress, worker, start_by, order_key, run_at, "
    "name, pushed, started, suspended, deadline, held"
)

_KEPT = "(due IS NULL OR due > ?)"
FORGET = """
DELETE FROM trio_tasks_task WHERE seq IN (
    SELECT seq FROM trio_tasks_task INDEXED BY trio_tasks_finished
    WHERE queue = ? AND state = ? AND +state > 2 LIMIT ?)
"""
_ORDER = """
SELECT priority, order_key, seq, state = 0 OR (due <= ? AND (wall IS NULL OR wall <= ?)), key, held
FROM trio_tasks_task WHERE queue = ? AND id = ?
"""
_UNEXPIRED = "(start_by IS NULL OR start_by > ?)"
READY_ABOVE = f"""
SELECT id, priority, order_key, seq FROM trio_tasks_task
WHERE queue = ? AND state = 0 AND priority > ? AND {_UNEXPIRED} ORDER BY priority DESC, order_key LIMIT ?
"""
READY_BEFORE = f"""
SELECT id, priority, order_key, seq FROM trio_tasks_task
WHERE queue = ? AND state = 0 AND priority = ? AND (order_key, seq) < (?, ?) AND {_UNEXPIRED} ORDER BY order_key LIMIT ?
"""
"""The ready rows that go before another one, by their priority, and with the same one: the first of them first. One
statement for both would look at all rows that come after it, too."""
DUE_DELAYED = f"""
SELECT id, priority, order_key, seq FROM trio_tasks_task
WHERE queue = ? AND due <= ? AND due IS NOT NULL AND state < 3 AND +state = 1
AND (wall IS NULL OR wall <= ?) AND {_UNEXPIRED} LIMIT ?
"""
"""Delayed rows that are due, and were not made ready yet."""
_MOST_LEVELS = 1000
"""Priorities, the highest first, of which the oldest waiting row is looked for."""
OLDEST = """
WITH RECURSIVE level (priority) AS (
    SELECT max(priority) FROM trio_tasks_task WHERE queue = ? AND state = 0
    UNION ALL
    SELECT (SELECT max(priority) FROM trio_tasks_task WHERE queue = ? AND state = 0 AND priority < level.priority)
    FROM level WHERE level.priority NOTNULL LIMIT ?)
SELECT min((
    SELECT order_key FROM trio_tasks_task WHERE queue = ? AND state = 0 AND priority = level.priority
    AND (start_by IS NULL OR start_by > ?) ORDER BY order_key LIMIT 1))
FROM level WHERE level.priority NOTNULL
"""
OLDEST_BY_TAG = """
SELECT min(iif(order_key < 0, since, order_key)) FROM (
    SELECT order_key, since FROM trio_tasks_task WHERE queue = ? AND state = 0 AND (start_by IS NULL OR start_by > ?)
    ORDER BY priority DESC, order_key LIMIT ?)
"""
"""The same of a queue in which keys take turns: the oldest row of each key is among the first ones."""
_MOST_BY_TAG = 10_000
"""Ready rows that are looked at for it."""
DUE_NOW = """
SELECT state, start_by NOTNULL AND start_by <= ? AS is_expired, count(*), sum(suspended NOTNULL), min(order_key),
sum(held IS 1)
FROM trio_tasks_task WHERE queue = ? AND due <= ? AND due IS NOT NULL AND state < 3
AND (state != 1 OR wall IS NULL OR wall <= ? OR (start_by NOTNULL AND start_by <= ?)) GROUP BY state, is_expired
"""
"""The rows that are due by both clocks, as an exchange with claims would enter them."""
KEPT_NO_LONGER = """
SELECT state, count(*) FROM trio_tasks_task INDEXED BY trio_tasks_finished
WHERE queue = ? AND state IN (3, 4, 5) AND +state > 2 AND due <= ? GROUP BY state
"""
RECOUNTS = (
    "SELECT 'waiting', count(*) FROM trio_tasks_task WHERE queue = ? AND state = 0",
    "SELECT 'delayed', count(*) FROM trio_tasks_task WHERE queue = ? AND due IS NOT NULL AND state < 3 AND +state = 1 "
    "AND +held IS NOT 1",
    "SELECT 'held_now', count(*) FROM trio_tasks_task WHERE queue = ? AND held = 1 AND +state = 1",
    "SELECT 'suspended_now', count(*) FROM trio_tasks_task "
    "WHERE queue = ? AND due IS NOT NULL AND state < 3 AND +state = 1 AND suspended NOTNULL",
    "SELECT 'running', count(*) FROM trio_tasks_task WHERE queue = ? AND due IS NOT NULL AND state < 3 AND +state = 2",
    *(
        f"SELECT '{name}', count(*) FROM trio_tasks_task WHERE queue = ? AND state = {state.value} AND +state > 2"
        for state, name in KEPT_COUNTER.items()
    ),
)
"""The count of the rows in each state, each along the index that holds it."""
_WORKERS = """
SELECT name, session, trio_tasks_worker.num, CASE WHEN length(state) <= ? THEN state END, told, noted, expires, address,
key, network FROM trio_tasks_worker LEFT JOIN trio_tasks_session ON trio_tasks_session.num = session
WHERE queue = ? ORDER BY expires > ? DESC, name LIMIT ?
"""
_SCHEDULES = "SELECT name, revision, body FROM trio_tasks_schedule WHERE revision > ? ORDER BY revision"
_SCHEDULE = "SELECT name, revision, body FROM trio_tasks_schedule WHERE name = ? AND +revision > ?"
_SET_SCHEDULE = "INSERT OR REPLACE INTO trio_tasks_schedule (name, revision, body) VALUES (?, ?, ?)"
_FORGET_SCHEDULES = "DELETE FROM trio_tasks_schedule WHERE body IS NULL AND revision < ?"
_TO_WITHDRAW = """
SELECT seq, token FROM trio_tasks_task
WHERE queue = ? AND id = ? AND state = 2 AND coalesce(requested_end, '') != ?
"""
_MOST_WORKERS = 1000
"""Workers that are listed at most, dead ones among them."""


@final
class Operations:
    """The operations on rows besides exchanges, each inside a transaction that the caller has begun.

    Args:
      connection: a connection to the file.
      sql: the object that makes the exchanges of this connection.
      counters: the numbers and counts of the queues.
    """

    def __init__(self, connection: Connection, sql: ExchangeSql, counters: QueueCounters) -> None:
        self._connection = connection
        self._sql = sql
        self._table = sql.table
        self._counters = counters
        self.transfer = TransferSql(connection, sql.table, counters)

    def find(self, queue: str, task_id: str, now: float) -> StoredRow | None:
        """Return the row of this id."""
        sql = f"SELECT {_COLUMNS} FROM trio_tasks_task WHERE queue = ? AND id = ?"
        rows = self._connection.execute(sql, (self._counters.known(queue), task_id))
        return _stored(rows[0], now) if rows else None

    def find_each(self, queue: str, ids: Sequence[str], now: float) -> list[StoredRow | None]:
        """Return the rows of these ids."""
        return [self.find(queue, task_id, now) for task_id in ids]

    def locate(self, queue: str, task_id: str, now: float) -> LocatedRow | None:
        """Return the row of this id, and its place in the order if it is ready."""
        stored = self.find(queue, task_id, now)
        if stored is None:
            return None
        number, wall = self._counters.known(queue), wall_now().timestamp()
        is_paused = self._counters.is_paused(number)
        if stored.state > State.DELAYED:
            return LocatedRow(stored, None, is_paused)
        [(priority, order_key, seq, is_ready, key, held)] = self._connection.execute(
            _ORDER, (now, wall, number, task_id)
        )
        limit = None
        if is_ready or held:
            self._counters.refresh_rules(number)
            limit = self._table.groups.places.limit_of(number, key, now, is_held=bool(held) and not is_ready)
        if not is_ready:
            return LocatedRow(stored, None, is_paused, limit)
        ready = [
            *self._connection.execute(READY_ABOVE, (number, priority, now, MOST_COUNTED)),
            *self._connection.execute(READY_BEFORE, (number, priority, order_key, seq, now, MOST_COUNTED)),
        ]
        due = self._connection.execute(DUE_DELAYED, (number, now, wall, now, MOST_COUNTED))
        due = [row for row in due if (-row[1], *row[2:]) < (-priority, order_key, seq)]
        first = sorted((*ready, *due), key=lambda row: (-row[1], *row[2:]))
        return LocatedRow(stored, Place.after(text(row[0]) for row in first), is_paused, limit)

    def search(self, queue: str, query: Query, now: float) -> Found[StoredRow]:
        """Return the rows of a page."""
        keys, found = search(self._connection, self._counters.known(queue), query, now)
        stored = [_stored(row, now) for row in rows_by_key(self._connection, _COLUMNS, keys)]
        return Found([row for row in stored if row is not None], found.next, found.is_partial)

    def metrics(self, queue: str, now: float) -> QueueMetrics:
        """Return the counters of the queue, with what is due by now, entered or not."""
        number = self._counters.known(queue)
        self._counters.refresh_rules(number)
        changes, orphans, since = self._due_changes(number, now)
        counts = changed(self._counters.counts(number), changes)
        if self._table.groups.rules.of(number).is_fair:
            [(oldest,)] = self._connection.execute(OLDEST_BY_TAG, (number, now, _MOST_BY_TAG))
        else:
            [(oldest,)] = self._connection.execute(OLDEST, (number, number, _MOST_LEVELS, number, now))
        if oldest is not None:
            since.append(oldest)
        age = max(0.0, now - min(since) / 1e6) if since else 0.0
        return make_metrics(counts, orphans=orphans, oldest_waiting=age, is_paused=self._counters.is_paused(number))

    def _due_changes(self, number: int, now: float) -> tuple[Counter[str], int, list[int]]:
        """What is due by now and not entered: the changes of the counters, the number of orphans, and since when the
        rows wait that are ready by it.
        """
        changes, orphans, since = Counter[str](), 0, list[int]()
        due_now = self._connection.execute(DUE_NOW, (now, number, now, wall_now().timestamp(), now))
        for state, is_expired, rows, suspended, oldest, held in due_now:
            if state == State.RUNNING:
                orphans = rows
                continue
            if state == State.DELAYED:
                changes.update({"delayed": -rows, "suspended_now": -suspended, "held_now": -held, "waiting": rows})
            if is_expired:
                changes.update({"waiting": -rows, "killed": rows, "kept_killed": rows})
            elif state == State.DELAYED:
                since.append(oldest)
        for state, rows in self._connection.execute(KEPT_NO_LONGER, (number, now)):
            changes[KEPT_COUNTER[State(state)]] -= rows
        return changes, orphans, since

    def set_paused(self, queue: str, paused: bool) -> None:
        """Store whether the queue is paused; it is made if it is not known."""
        self._counters.set_paused(self._counters.number(queue), paused)

    def set_limits(
        self, queue: str, key: str | None, limits: Limits | None, only_if_none: bool, now: float
    ) -> Reweighing | None:
        """Store the limits of the queue, which is made if it is not known, or of a key in it; return what is left."""
        number = self._counters.number(queue)
        rules, group = self._table.groups.rules, NO_KEY if key is None else key
        if (only_if_none and rules.get(number, group) is not None) or rules.get(number, group) == limits:
            return None
        return self._table.groups.set_limits(number, group, limits, now)

    def reweigh(self, queue: str, left: Reweighing) -> Reweighing | None:
        """Do some of what a change of a weight has left to do; return what is left."""
        return self._table.groups.reweigh(self._counters.number(queue), left)

    def get_limits(self, queue: str, key: str | None) -> Limits | None:
        """Return the limits that are stored for the queue, or for a key in it."""
        return self._table.groups.rules.get(self._counters.known(queue), NO_KEY if key is None else key)

    def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return the limits that are stored for the queue, and for keys in it."""
        return {key or None: limits for key, limits in self._table.groups.rules.all(self._counters.known(queue))}

    def minutes(self, queue: str) -> list[tuple[int, str, Sums]]:
        """Return the sums of the attempts in each minute."""
        return MinuteTable(self._connection, self._counters).all(self._counters.known(queue))

    def audit(self, queue: str, now: float) -> Balance:
        """Compare the counters of the queue with its rows, both with what is due by now, entered or not."""
        number = self._counters.known(queue)
        rows: dict[str, int] = dict(self._connection.execute(sql, (number,))[0] for sql in RECOUNTS)
        rows["delayed"] += rows["held_now"]
        changes, _, _ = self._due_changes(number, now)
        return Balance(queue, changed(self._counters.counts(number), changes), changed(rows, changes))

    def schedules(self, after: int, name: str | None) -> list[ScheduleRow]:
        """Return the schedules that were changed after this revision, or the one of a name, if it was."""
        if name is None:
            rows = self._connection.execute(_SCHEDULES, (after,))
        else:
            rows = self._connection.execute(_SCHEDULE, (name, after))
        return [ScheduleRow(text(name), int(revision), body) for name, revision, body in rows]

    def set_schedules(self, updates: Sequence[ScheduleUpdate], now: float) -> list[ScheduleOutcome]:
        """Change those schedules that have the revision that is said."""
        return [self._set_schedule(update, now) for update in updates]

    def _set_schedule(self, update: ScheduleUpdate, now: float) -> ScheduleOutcome:
        found = self._connection.execute(
            "SELECT revision FROM trio_tasks_schedule WHERE name = ? AND body NOTNULL", (update.name,)
        )
        if (found[0][0] if found else 0) != update.was:
            return ScheduleOutcome(0)
        [(last,)] = self._connection.execute("SELECT max(revision) FROM trio_tasks_schedule")
        revision = max(int(now * 1e6), (last or 0) + 1)
        self._connection.execute(_SET_SCHEDULE, (update.name, revision, update.body))
        if update.body is None:
            self._connection.execute(_FORGET_SCHEDULES, (revision - REMOVED_FOR,))
        return ScheduleOutcome(revision, self._sql.insert(update.rows, now))

    def names(self) -> list[str]:
        """Return the names of all queues."""
        return self._counters.names()

    def workers(self, queue: str, own: int, now: float) -> list[tuple[StoredWorker, Address | None]]:
        """Return the workers on the queue, those of sessions that have not expired first; each with the address of its
        session, if it has one. A row that is not one of ours is left out.

        Args:
          queue: the name.
          own: the number of this session.
          now: the time.
        """
        found = self._connection.execute(_WORKERS, (LONGEST_STATE, queue, now, _MOST_WORKERS))
        return [each for row in found if (each := _stored_worker(row, own, now)) is not None]

    def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        """Replace the options of a row that runs under this claim."""
        sql = "UPDATE trio_tasks_task SET options = ? WHERE seq = ? AND token = ? AND state = 2"
        return self._connection.changed(sql, (options, held.key, held.token)) > 0

    def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Store the progress of a row that runs under this claim."""
        sql = "UPDATE trio_tasks_task SET progress = ? WHERE seq = ? AND token = ? AND state = 2"
        return self._connection.changed(sql, (progress, held.key, held.token)) > 0

    def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query, now: float) -> Changed:
        """Change the rows of a page that can be changed so.

        A row that waits may go to a section, or a place in it, that was passed already: it is held back now, or its
        time has come. So after the last page those that wait are looked through again from the beginning, until one
        transaction has seen them all.
        """
        number = self._counters.known(queue)
        if self._table.expire(queue, number, now, _EXPIRED_AT_ONCE) == _EXPIRED_AT_ONCE:
            return Changed([], query.after, is_more=True)
        asked, is_again = asked_again(query)
        _, found = search(self._connection, number, asked, now)
        answers = [(row.id, self._change_row(queue, RowChange(verb), row.id, now)) for row in found.rows]
        ids = [task_id for task_id, answer in answers if answer is True]
        taken = [task_id for task_id, answer in answers if isinstance(answer, Refusal)]
        after = found.next
        if after is None and query.after is not None and not is_again and min(query.states) < State.RUNNING:
            after = AGAIN
        elif is_again and after is not None:
            after = AGAIN if ids and not found.is_partial else Position(AGAIN.section + after.section, after.key)
        return Changed(ids, after, after is not None, taken)

    def change_each(
        self, queue: str, change: RowChange, ids: Sequence[str], now: float
    ) -> list[ClaimKey | bool | Refusal]:
        """Change the row of each of these ids, if it can be changed so."""
        return [
            self._change_row(queue, change, task_id, now) or refusal_of(self.find(queue, task_id, now))
            for task_id in ids
        ]

    def _change_row(self, queue: str, change: RowChange, task_id: str, now: float) -> ClaimKey | bool | Refusal:
        """Change a row; return False if it is not in a state for that."""
        if change.verb == "cancel":
            return self.cancel(queue, task_id, _cancelled_error(), change.running, now)
        if change.verb == "abort":
            return self.abort(queue, task_id) or False
        if change.verb == "withdraw":
            return self.withdraw(queue, task_id, now)
        if change.verb == "forget":
            return self.forget(queue, task_id, now).number > 0
        if change.verb == "reschedule":
            return self.reschedule(queue, task_id, change.delay, change.run_at, now)
        try:
            return self.resume(queue, task_id, now)
        except DuplicateTaskError as error:  # another task has its unique key
            return Refusal(taken_by=error.taken_by)

    def cancel(self, queue: str, task_id: str, error: bytes, running: bool, now: float) -> bool | ClaimKey:
        """Kill the row if it waits; with ``running``, request the end of its attempt if it runs."""
        number = self._counters.known(queue)
        self._expire(queue, number, task_id, now)
        found = self._row_that_waits(number, task_id)
        if found is not None:
            seq, state, suspended = found
            self._table.kill(number, seq, error, now, state, suspended)
            self._table.note_killed(queue, task_id, KillReason.CANCELLED)
            return True
        return (running and self.abort(queue, task_id)) or False

    def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Request that the row's worker ends its attempt."""
        sql = "SELECT seq, token FROM trio_tasks_task WHERE queue = ? AND id = ? AND state = 2"
        rows = self._connection.execute(sql, (self._counters.known(queue), task_id))
        if not rows:
            return None
        held = ClaimKey._make(rows[0])
        self._connection.execute("UPDATE trio_tasks_task SET requested_end = 'abort' WHERE seq = ?", (held.key,))
        return held

    def withdraw(self, queue: str, task_id: str, now: float) -> bool | ClaimKey:
        """Delete the row if it waits, or request the end of its attempt; False if that is requested, or not needed."""
        number = self._counters.known(queue)
        self._expire(queue, number, task_id, now)
        if self._discard_waiting(queue, number, task_id):
            return True
        rows = self._connection.execute(_TO_WITHDRAW, (number, task_id, ABORT))
        if not rows:
            return False
        held = ClaimKey._make(rows[0])
        self._connection.execute("UPDATE trio_tasks_task SET requested_end = ? WHERE seq = ?", (WITHDRAW, held.key))
        return held

    def _discard_waiting(self, queue: str, number: int, task_id: str) -> bool:
        """Delete the row of this id if it waits."""
        waiting = self._row_that_waits(number, task_id)
        if waiting is not None:
            self._table.discard(number, *waiting)
            self._table.note_killed(queue, task_id, KillReason.CANCELLED)
        return waiting is not None

    def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None, now: float) -> bool:
        """Set the time at which the row is ready, if it waits."""
        number = self._counters.known(queue)
        self._expire(queue, number, task_id, now)
        found = self._row_that_waits(number, task_id)
        if found is None:
            return False
        seq, state, suspended = found
        is_delayed, groups = state == State.DELAYED, self._table.groups
        is_fair = groups.rules.of(number).is_fair
        if is_fair and delay <= 0 and groups.is_held(seq):  # it would be ready, and keeps its place as well
            return True
        if is_fair and delay > 0:
            groups.leave(number, seq)
        self._counters.count(number, delayed=(delay > 0) - is_delayed, suspended_now=0 if suspended is None else -1)
        if delay <= 0 and is_delayed and self._table.is_due(seq, now):  # it is ready, and keeps its place as well
            self._table.set_ready(number, seq)
        elif delay > 0:
            self._connection.execute(
                "UPDATE trio_tasks_task SET state = 1, due = min(?, coalesce(start_by, ?)), order_key = ?, run_at = ?, "
                "wall = NULL, suspended = NULL WHERE seq = ?",
                (now + delay, now + delay, self._table.order_key(now + delay, now), run_at, seq),
            )
        else:  # a row that is ready already keeps its order key
            self._connection.execute(
                "UPDATE trio_tasks_task SET state = 0, due = start_by, order_key = ?, run_at = NULL, wall = NULL, "
                "suspended = NULL WHERE seq = ? AND state = 1",
                (self._table.order_key(None, now), seq),
            )
            if is_fair and is_delayed:
                groups.arrange(number, seq)
        return True

    def update(
        self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None, now: float
    ) -> bool:
        """Replace the payload and options of the row, if it waits and has these options still."""
        number = self._counters.known(queue)
        self._expire(queue, number, task_id, now)
        sql = (
            "UPDATE trio_tasks_task SET payload = ?, options = ? "
            "WHERE queue = ? AND id = ? AND state IN (0, 1) AND options IS ?"
        )
        return self._connection.changed(sql, (payload, options, number, task_id, was)) > 0

    def resume(self, queue: str, task_id: str, now: float) -> bool:
        """Make the finished row wait again.

        Raises:
          DuplicateTaskError: its unique key is taken.
        """
        number = self._counters.known(queue)
        self._expire(queue, number, task_id, now)
        rows = self._connection.execute(
            "SELECT seq, state, uniq, uniq_until, options, key FROM trio_tasks_task "
            f"WHERE queue = ? AND id = ? AND state > 2 AND {_KEPT}",
            (number, task_id, now),
        )
        if not rows:
            return False
        [(seq, state, unique, until, options, key)] = rows
        is_timed = False
        if unique is None:  # perhaps because it has begun, or was replaced while it ran
            terms = decode_options(options)[0]
            unique, until, is_timed = terms.unique, stored_until(terms.unique_until), terms.unique_for is not None
        if unique is not None:
            holder = self._table.key_holder(queue, number, unique, now)
            if holder is not None and holder.id != task_id:
                raise not_again(task_id, holder.id)
        held = (None, None) if is_timed else (unique, until)
        self._connection.execute(
            "UPDATE trio_tasks_task SET state = 0, due = NULL, start_by = NULL, deadline = NULL, attempt = 0, "
            "order_key = ?, "
            "run_at = NULL, requested_end = NULL, uniq = ?, uniq_until = ?, result = iif(state = 3, NULL, result) "
            "WHERE seq = ?",
            (self._table.order_key(None, now), *held, seq),
        )
        if key is not None:
            self._table.groups.make_fair(number)
        if self._table.groups.rules.of(number).is_fair:
            self._table.groups.arrange(number, seq, is_last=True)
        self._counters.count(number, live=1, resumed=1, **{KEPT_COUNTER[State(state)]: -1})
        return True

    def resume_abandoned(self, queue: str, now: float) -> Part:
        """Make orphans wait again, as many as one exchange takes back."""
        return Part(*self._sql.enter_due(queue, self._counters.known(queue), now))

    def forget(self, queue: str, task_id: str | None, now: float) -> Part:
        """Delete one row that does not run, or some hundreds of finished ones."""
        number = self._counters.known(queue)
        if task_id is not None:
            self._expire(queue, number, task_id, now)
            sql = f"SELECT seq, state FROM trio_tasks_task WHERE queue = ? AND id = ? AND state >= 3 AND {_KEPT}"
            found = self._connection.execute(sql, (number, task_id, now))
            for seq, state in found:
                self._connection.execute("DELETE FROM trio_tasks_task WHERE seq = ?", (seq,))
                self._counters.count(number, **{KEPT_COUNTER[State(state)]: -1})
            is_discarded = self._discard_waiting(queue, number, task_id)
            return Part(len(found) + is_discarded, is_more=False)
        if self._table.expire(queue, number, now, _EXPIRED_AT_ONCE) == _EXPIRED_AT_ONCE:
            return Part(0, is_more=True)
        swept = self._table.sweep(number, now, _FORGOTTEN)  # their time was up: they are not in the number returned
        if swept == _FORGOTTEN:
            return Part(0, is_more=True)
        forgotten = self._table.forget(FORGET, number, (), _FORGOTTEN)
        return Part(forgotten, is_more=forgotten == _FORGOTTEN)

    def register(self, session: int, queue: str, workers: Sequence[WorkerRow], now: float) -> None:
        """Replace the list of the workers of this session on the queue."""
        self._connection.execute("DELETE FROM trio_tasks_worker WHERE session = ? AND queue = ?", (session, queue))
        rows = [(session, queue, each.name, each.number, each.state, now) for each in workers]
        sql = "INSERT INTO trio_tasks_worker (session, queue, name, num, state, told) VALUES (?, ?, ?, ?, ?, ?)"
        self._connection.executemany(sql, rows)

    def note_workers(self, session: int, workers: Sequence[WorkerRow], now: float) -> None:
        """Store the states of workers of this session."""
        rows = [(each.state, now, session, each.queue, each.number) for each in workers]
        sql = "UPDATE trio_tasks_worker SET state = ?, told = ? WHERE session = ? AND queue = ? AND num = ?"
        self._connection.executemany(sql, rows)

    def _expire(self, queue: str, number: int, task_id: str, now: float) -> None:
        """Kill the row if it has expired."""
        sql = (
            "SELECT seq, state, suspended, start_by FROM trio_tasks_task "
            "WHERE queue = ? AND id = ? AND state IN (0, 1) AND start_by <= ?"
        )
        for seq, state, suspended, start_by in self._connection.execute(sql, (number, task_id, now)):
            self._table.end_late(queue, number, seq, task_id, now, state, suspended, at=start_by)

    def _row_that_waits(self, number: int, task_id: str) -> tuple[int, int, str | None] | None:
        """The key, the state, and the reason of its suspension, of the row of this id, if it waits."""
        sql = "SELECT seq, state, suspended FROM trio_tasks_task WHERE queue = ? AND id = ? AND state IN (0, 1)"
        rows = self._connection.execute(sql, (number, task_id))
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None


def _cancelled_error() -> bytes:
    return encode_error(AbortError("cancelled while it waited"))


def _stored_worker(row: Row, own: int, now: float) -> tuple[StoredWorker, Address | None] | None:
    """A worker that was read; None, with a record in the log, if it is not one of ours."""
    name, session, number, state, told, noted, expires, port, key, network = row
    if not (isinstance(name, str) and isinstance(session, int) and isinstance(number, int)):
        log.warning("a worker is not listed, since its row is damaged: its name is %.50r", name)
        return None
    told_at = told if isinstance(told, float) and abs(told) <= LATEST else 0.0
    beat = noted if isinstance(noted, float) and abs(noted) <= LATEST else 0.0
    is_alive = isinstance(expires, float) and expires > now
    has_address = isinstance(port, str) and isinstance(key, bytes) and isinstance(network, str)
    stored = StoredWorker(name, session, number, state, told_at, max(told_at, beat), is_alive, session == own)
    return stored, Address(port, key, network) if has_address else None


def _stored(row: Any, now: float) -> StoredRow | None:
    """Return the row in the state that it has at this time, stored or not yet; None if it is not kept any more."""
    *fields, start_by, order_key, run_at, name, pushed, started, suspended, deadline, held = row
    reason = None if suspended is None else text(suspended)
    known = text(row[0]), State(row[1]), int(row[2])
    stored = StoredRow._make((*known, *fields[3:], start_by, run_at, name, pushed, started, None, reason, deadline))
    if stored.state > State.RUNNING:
        is_over = stored.due is not None and stored.due <= now
        # The order key has whole microseconds, and may be a little before the claim.
        return None if is_over else stored._replace(finished=max(order_key / 1e6, pushed or 0.0, started or 0.0))
    if stored.state is State.RUNNING or (start_by is None and not held):
        return stored
    if start_by is not None and start_by <= now:
        error = deadline_error() if start_by == deadline else expired_error()
        finished = max(start_by, pushed or 0.0)  # the push may have taken longer than the deadline
        return stored._replace(state=State.KILLED, due=None, result=error, expires=None, finished=finished)
    if held:
        return stored._replace(due=None)
    if stored.state is State.DELAYED and stored.due == start_by:  # it will expire before it is ready
        return stored._replace(due=ready_at(order_key))
    return stored
