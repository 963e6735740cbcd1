"""The SQL of an exchange and of changes to single rows, inside a transaction that the caller has begun.

Everything common goes by ``executemany``, whose count of changed rows tells whether all went as expected. Where it does
not (a lease was lost, an id is known), :class:`FastPathFailed` is raised, the transaction is rolled back, and the same
exchange is done again row by row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

from ..._clock import wall_seconds
from ..._logging import catch_errors, log
from ..._tasks.errors import DuplicateTaskError, id_taken, key_taken
from ..durable.encoding import deadline_error, expired_error, overflow_error, replaced_error
from ..durable.engine import (
    COMES_BACK,
    NOT_COUNTED,
    ClaimedRow,
    ExchangeResult,
    KillReason,
    Settlement,
    SettlementKind,
    State,
    new_tuple,
)
from .counters import FastPathFailed
from .driver import RowRefusedError, Writer, is_refusal
from .groups import MOST_MOVED
from .minutes import MinuteTable
from .orphan_watch import OrphanWatch
from .task_table import DROP, HELD, NO_PLACE, WITHDRAW, Due, TaskTable, unwanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from ..durable.engine import ClaimRequest, Exchange, NewRow
    from .counters import QueueCounters
    from .driver import Connection, Row
    from .unique_keys import KeyHolder

_MOST_DUE = 500
"""Due rows that one exchange enters; the next one enters more."""
_SWEPT = 500
"""Finished rows whose time is up that are forgotten in one go."""
_SWEEP_EVERY = 1.0
"""Seconds between two such goes."""
_REFUSED_FOR = 60.0
"""Seconds for which a row is left alone that the database does not allow to be changed."""
_LAST_ATTEMPT = 2**63 - 1
_MANY = 3
"""Rows for which one statement with a list of them is cheaper than one statement for each."""

_WALL_MOVED = 0.01
"""Seconds by which the wall clock has to have been set for it to be noticed."""

_INSERT = """
INSERT INTO trio_tasks_task
(queue, id, state, priority, order_key, due, start_by, uniq, payload, options, run_at, wall, name, pushed, deadline)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (queue, id) DO NOTHING
"""
_INSERT_FAIR = """
INSERT INTO trio_tasks_task
(queue, id, state, priority, order_key, due, start_by, uniq, payload, options, run_at, wall, name, pushed, deadline,
key, since, held)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (queue, id) DO NOTHING
"""
_INSERT_ORDINARY = """
INSERT INTO trio_tasks_task (queue, id, state, priority, order_key, payload, pushed)
VALUES (?, ?, 0, ?, ?, ?, ?) ON CONFLICT (queue, id) DO NOTHING
"""
"""The same for rows that are ready at once and have no options: a NULL costs more than any other value."""
_READY = """
SELECT seq, id, attempt, payload, options, history, start_by, run_at, name, pushed, {}
FROM trio_tasks_task WHERE queue = ? AND state = 0 AND NOT (SELECT paused FROM trio_tasks_queue WHERE num = ?)
ORDER BY priority DESC, order_key LIMIT ?
"""
READY = _READY.format("order_key, deadline")
"""The rows to claim; none of a queue that is paused."""
_IS_ANY_READY = "SELECT 1 FROM trio_tasks_task WHERE queue = ? AND state = 0 LIMIT 1"
READY_FAIR = _READY.format("iif(order_key < 0, since, order_key), deadline, order_key, key, priority, held")
"""The same of a queue in which keys take turns; their order is in the order key."""
CLAIM = """
UPDATE trio_tasks_task SET state = 2, attempt = attempt + 1, token = ?, due = ?, worker = ?, started = ?,
uniq = iif(uniq_until = 'start', NULL, uniq)
WHERE seq IN (SELECT value FROM json_each(?))
"""
_KNOWN = "SELECT seq, state, due FROM trio_tasks_task WHERE queue = ? AND id = ?"
SUCCEED = (
    f"UPDATE trio_tasks_task SET state = 3, due = ?, order_key = ?, result = ?, worker = coalesce(?, worker) {HELD}"
)
SUCCEED_FAIR = SUCCEED.replace("state = 3", f"state = 3, {NO_PLACE}")
"""The same of a row that may have a place among those of its key."""
_SUCCEED_ALL = """
UPDATE trio_tasks_task SET state = 3, due = ?, order_key = ?, result = NULL
WHERE seq IN (SELECT value FROM json_each(?)) AND token = ? AND state = 2
"""
SUCCEED_ALL_FAIR = _SUCCEED_ALL.replace("state = 3", f"state = 3, {NO_PLACE}")
DUE = """
SELECT seq, id, state, attempt, start_by, history, worker, requested_end, token, due, wall, suspended, deadline
FROM trio_tasks_task WHERE queue = ? AND due <= ? AND due IS NOT NULL AND state < 3 {} ORDER BY due LIMIT ?
"""
_DUE = DUE.format("")
WALL_DUE = """
SELECT seq, id, state, attempt, start_by, history, worker, requested_end, token, due, wall, suspended, deadline
FROM trio_tasks_task WHERE queue = ? AND wall <= ? AND wall IS NOT NULL AND state = 1 ORDER BY wall LIMIT ?
"""
"""The rows that are due by the wall clock, which may have been set forward."""
NEXT_WALL = "SELECT min(wall) FROM trio_tasks_task WHERE queue = ? AND wall > ? AND wall IS NOT NULL AND state = 1"
"""The moment at which a row is due next by it."""
ONLY_OWN_CLAIMS = "AND (state < 2 OR token BETWEEN ? AND ?)"
"""A condition that leaves out the rows that other sessions have claimed."""
_DUE_BUT_ORPHANS = DUE.format(ONLY_OWN_CLAIMS)
NEXT_DUE = """
SELECT min(due) FROM trio_tasks_task WHERE queue = ? AND due IS NOT NULL AND state < 3 AND due < 9e999
"""  # no text compares as below that, if one stands there
NEXT_DUE_BUT_ORPHANS = f"{NEXT_DUE} AND (state < 2 OR due > ?)"
_BUT_THESE = "AND seq NOT IN (SELECT value FROM json_each(?))"


@final
class ExchangeSql:
    """The SQL statements of exchanges, over one connection.

    Args:
      connection: a connection to the file; the caller begins and ends its transactions.
      counters: the numbers and counts of the queues.
      session: the number of this connection; the tokens of its claims begin with it.
      out_of_step: a function that returns the sessions whose clocks may show another time, and their stored times.
    """

    def __init__(
        self,
        connection: Connection,
        counters: QueueCounters,
        session: int,
        out_of_step: Callable[[Connection], dict[int, float]] = lambda _: {},
    ) -> None:
        self._connection = connection
        self._counters = counters
        self.table = TaskTable(connection, counters)
        self._minutes = MinuteTable(connection, counters)
        self._first_token = self._token = session << 32
        self.orphans_held_since = -1e300
        """The time at which the machine or this process woke up: for one lease, claims of others are left alone."""
        self._lease = 30.0  # the lease of the latest claim
        self._watch = OrphanWatch(connection, out_of_step)
        self._swept: dict[int, float] = {}
        self._walls: dict[int, tuple[float, float | None]] = {}
        """By how much the wall clock was ahead when that was last looked at, and what was due next by it then. As long
        as it runs on, what is pushed is due by the file's clock at the right time."""
        self._refused: dict[int, float] = {}  # rows that cannot be changed, and until when they are left alone
        self._failed_writes: dict[tuple[Any, int], BaseException] = {}  # errors in earlier tries of the same exchange

    def exchange(self, exchange: Exchange, now: float, *, row_by_row: bool) -> ExchangeResult:
        """Settle, push, renew and claim, in this order.

        Raises:
          FastPathFailed: it has to be called again with ``row_by_row``, in a new transaction.
        """
        answer = ExchangeResult()
        if exchange.settled:
            answer.settled = self._settle(exchange.settled, now, row_by_row)
        if exchange.pushed:
            self._enter_due_before(exchange.pushed, now)
            answer.pushed = self._push(exchange.pushed, now, row_by_row)
        if exchange.renewed:
            answer.renewed = self.table.renew([(held.key, held.token, now + lease) for held, lease in exchange.renewed])
        if exchange.minutes:
            self._minutes.add(exchange.minutes)
        if exchange.after_stall:
            self.hold_back_orphans(now)
        for claim in exchange.claims:
            self._claim(claim, now, answer, exchange.as_of, row_by_row)
        self.finish(now)
        self._failed_writes.clear()
        answer.killed = self.table.take_killed()
        return answer

    def finish(self, now: float) -> None:
        """Store what was only noted; called before the end of a transaction.

        Raises:
          FastPathFailed: the transaction has to be made again, since the rules of a queue are not those that are known.
        """
        if self.table.groups.is_used:
            self.table.groups.store(now)
        self._counters.enter_counts()

    def look(self, claims: Sequence[ClaimRequest], now: float) -> ExchangeResult | None:
        """Answer claims for which there is nothing, without any change; None if there may be something to do.

        Raises:
          FastPathFailed: the same.
        """
        answer, wall = ExchangeResult(), wall_seconds()
        for claim in claims:
            queue = self._counters.known(claim.queue)
            if (
                claim.queue not in self._counters.without_rules
                or self._refused
                or queue in self._watch.rows
                or self._orphans_are_held_back(now)
                or now >= self._swept.get(queue, 0.0)
                or self._concerns_wall_clock(queue, now, wall)
                or self._connection.execute(_IS_ANY_READY, (queue,))
            ):
                return None
            due = self._next_due(queue, now, [])
            if due is not None and due <= now:
                return None
            live, _, _ = self._counters.present(queue)
            answer.claimed.append([])
            answer.next_due.append(due)
            answer.live.append(live)
            answer.held_back.append(False)
        return answer

    def insert(self, rows: Sequence[NewRow], now: float) -> list[str | DuplicateTaskError]:
        """Insert new rows, one by one."""
        return self._push(rows, now, row_by_row=True)

    # Settling

    def _settle(self, settled: Sequence[Settlement], now: float, row_by_row: bool) -> list[bool | BaseException]:
        is_fair = self._touch_groups(settled)
        succeed, succeed_all = (SUCCEED_FAIR, SUCCEED_ALL_FAIR) if is_fair else (SUCCEED, _SUCCEED_ALL)
        answers: list[bool | BaseException] = [True] * len(settled)
        alike: dict[tuple[float | None, int], list[Any]] = {}  # without a result: by when they are forgotten, and claim
        kept: list[tuple[Any, ...]] = []
        dropped: list[tuple[Any, int]] = []
        succeeded: dict[str, int] = {}
        forgotten: dict[str, int] = {}  # the number of succeeded tasks that are not kept, by queue
        order_key = self.table.order_key(None, now)
        for number, each in enumerate(settled):
            if each.kind is SettlementKind.SUCCEEDED and each.write is None and each.history is None and not row_by_row:
                succeeded[each.queue] = succeeded.get(each.queue, 0) + 1
                due = None if each.keep == math.inf else now + each.keep
                if not each.keep:
                    forgotten[each.queue] = forgotten.get(each.queue, 0) + 1
                    dropped.append((each.key, each.token))
                elif each.result is None and each.worker is None:
                    alike.setdefault((due, each.token), []).append(each.key)
                else:
                    kept.append((due, order_key, each.result, each.worker, each.key, each.token))
            else:
                answers[number] = self._settle_one(each, now)
        for (due, token), keys in alike.items():
            if len(keys) < _MANY:
                kept += [(due, order_key, None, None, key, token) for key in keys]
            elif self._connection.changed(succeed_all, (due, order_key, _json_of(keys), token)) != len(keys):
                raise FastPathFailed
        if kept and self._connection.executemany(succeed, kept) != len(kept):
            raise FastPathFailed
        if dropped and self._connection.executemany(DROP, dropped) != len(dropped):
            raise FastPathFailed
        for queue, number in succeeded.items():
            changes = {"live": -number, "running": -number, "succeeded": number}
            changes["kept_done"] = number - forgotten.get(queue, 0) if forgotten else number
            self._counters.count(self._counters.number(queue), **changes)
        return answers

    def _touch_groups(self, settled: Sequence[Settlement]) -> bool:
        """Note that places are free for rows of the same keys, where these may have limits; return True if there are
        queues whose keys take turns.
        """
        names = {each.queue for each in settled}
        if names <= self._counters.without_rules:
            return False
        groups, is_fair = self.table.groups, False
        for name in names:
            queue = self._counters.number(name)
            rules = groups.rules.of(queue)
            is_fair = is_fair or rules.is_fair
            if rules.limits_keys:
                groups.touch_rows(queue, [each.key for each in settled if each.queue == name])
        return is_fair

    def _settle_one(self, each: Settlement, now: float) -> bool | BaseException:
        held = self.table.held(each.key, each.token)
        if held is None:
            return False
        task_id, requested_end = held
        if each.kind in COMES_BACK and requested_end is None:
            self.table.put_back(each, now)
            return True
        if each.write is not None and (error := self._write(each)) is not None:
            return error
        if requested_end is not None and each.kind in COMES_BACK:
            if each.kind in NOT_COUNTED:
                self.table.take_off_attempt(each.key)
            self.table.note_end(each.queue, task_id, requested_end)
            keep = 0.0 if requested_end == WITHDRAW else math.inf
            each = each._replace(kind=SettlementKind.KILLED, result=unwanted(requested_end), keep=keep)
        self.table.finish(each, now)
        return True

    def _write(self, each: Settlement) -> BaseException | None:
        """Run the user's writes that are committed with a settlement, in a savepoint; return their error, or None.

        Raises:
          FastPathFailed: it has ended the transaction, as ``INSERT OR ROLLBACK`` does.
        """
        held = each.key, each.token
        if each.write is None or held in self._failed_writes:
            return self._failed_writes.get(held)
        self._connection.execute("SAVEPOINT trio_tasks_write")
        with catch_errors() as caught, self._connection.without_transactions():
            each.write(Writer(self._connection))
        failure = caught.error
        if not self._connection.in_transaction:
            self._failed_writes[held] = failure or RuntimeError("it has ended the transaction")
            raise FastPathFailed
        if failure is not None:
            self._connection.execute("ROLLBACK TO trio_tasks_write")
        self._connection.execute("RELEASE trio_tasks_write")
        return failure

    # Pushing

    def _push(self, rows: Sequence[NewRow], now: float, row_by_row: bool) -> list[str | DuplicateTaskError]:
        pushed: dict[str, int] = {}
        for row in rows:
            pushed[row.queue] = pushed.get(row.queue, 0) + 1
            if row.unique is not None:
                row_by_row = True
            if row.key is not None:
                self.table.groups.make_fair(self._counters.number(row.queue))
        if row_by_row:
            return [self._push_one(row, now) for row in rows]
        if self._insert_all(rows, pushed.keys(), now) != len(rows):
            raise FastPathFailed
        for row in rows:
            if row.delay > 0:
                self._counters.count(self._counters.number(row.queue), delayed=1)
        for queue, number in pushed.items():
            self._counters.count(self._counters.number(queue), live=number, pushed=number)
        return [row.id for row in rows]

    def _enter_due_before(self, rows: Sequence[NewRow], now: float) -> None:
        """Enter what is due in queues whose keys take turns, since a row that is due has waited for longer than
        one that is pushed, and turns are given when rows become ready. Claims of this session are left alone.
        """
        for name in {row.queue for row in rows} - self._counters.without_rules:
            queue = self._counters.number(name)
            if self.table.groups.rules.of(queue).is_fair:
                self.enter_due(name, queue, now, -math.inf)

    def _insert_all(self, rows: Sequence[NewRow], queues: Set[str], now: float) -> int:
        """Insert rows without unique keys into these queues; return how many were."""
        number = self._counters.number
        is_plain = queues <= self._counters.without_rules
        if not is_plain and any(self.table.groups.rules.of(number(queue)).is_fair for queue in queues):
            self._expect(rows)
            return self._connection.executemany(_INSERT_FAIR, [self._fair_values(row, now) for row in rows])
        if not all(map(_is_ordinary, rows)):
            return self._connection.executemany(_INSERT, [self._values(row, now) for row in rows])
        order_key = self.table.order_key
        values = [(number(row.queue), row.id, row.priority, order_key(None, now), row.payload, now) for row in rows]
        return self._connection.executemany(_INSERT_ORDINARY, values)

    def _expect(self, rows: Sequence[NewRow]) -> None:
        """Read at once what is known of the keys of new rows."""
        groups, by_queue = self.table.groups, dict[str, list[tuple[int, str | None]]]()
        for row in rows:
            if row.delay <= 0:
                by_queue.setdefault(row.queue, []).append((row.priority, row.key))
        for name, keys in by_queue.items():
            queue = self._counters.number(name)
            if groups.rules.of(queue).is_fair:
                groups.expect(queue, keys)

    def _push_one(self, row: NewRow, now: float) -> str | DuplicateTaskError:
        queue = self._counters.number(row.queue)
        known = self._connection.execute(_KNOWN, (queue, row.id))
        if known and known[0][1] > State.RUNNING and known[0][2] is not None and known[0][2] <= now:
            self.table.delete(queue, *known[0][:2])  # kept no longer
        elif known:
            return id_taken(row.id)
        if row.unique is not None:
            other = self._claim_key(queue, row, row.unique, now)
            if other is not None:
                return other
        is_fair = self.table.groups.rules.of(queue).is_fair
        sql, values = (_INSERT_FAIR, self._fair_values) if is_fair else (_INSERT, self._values)
        if self._connection.changed(sql, values(row, now)) < 1:
            raise RowRefusedError("an INSERT of a row was ignored without an error, perhaps by a trigger")
        if row.unique is not None and not _is_held_to_the_end(row):
            self.table.keys.hold(queue, row.id, row.unique, row, now)
        self._counters.count(queue, live=1, pushed=1, delayed=int(row.delay > 0))
        return row.id

    def _claim_key(self, queue: int, row: NewRow, key: str, now: float) -> str | DuplicateTaskError | None:
        """Free the unique key for this row, and return None; or return the id of the row that keeps it."""
        holder = self.table.key_holder(row.queue, queue, key, now)
        if holder is None:
            return None
        if row.on_conflict == "raise" or holder.id == row.id:
            return key_taken(key, holder.id, is_finished=holder.state > State.RUNNING)
        if row.on_conflict == "update" and holder.state < State.RUNNING:
            self._update_by_push(queue, holder, row, key, now)
        if row.on_conflict != "replace" or holder.state > State.RUNNING:
            return holder.id
        if holder.state == State.RUNNING:
            self.table.take_over_key(holder.seq, row.id)
        else:
            self.table.kill(queue, holder.seq, replaced_error(row.id), now, holder.state, holder.suspended)
            self.table.note_killed(row.queue, holder.id, KillReason.REPLACED, row.id)
        if holder.until is not None:
            self.table.keys.free(queue, key, holder)
        return None

    def _update_by_push(self, queue: int, holder: KeyHolder, row: NewRow, key: str, now: float) -> None:
        """Give a row that waits the columns of another one, and the time for which that would hold the key."""
        is_ready = holder.state == State.WAITING or self.table.is_due(holder.seq, now)
        keeps_place = row.delay <= 0 and is_ready and row.priority == holder.priority
        values = self._values(row, now)
        self.table.update_by_push(queue, holder.seq, values, row.key, keeps_place=keeps_place)
        changes = {"delayed": int(row.delay > 0) - int(holder.state == State.DELAYED)}
        self._counters.count(queue, **changes, suspended_now=0 if holder.suspended is None else -1)
        if holder.until is not None or not _is_held_to_the_end(row):
            self.table.keys.free(queue, key, holder)
            self.table.keys.hold(queue, holder.id, key, row, now)

    def _fair_values(self, row: NewRow, now: float) -> tuple[Any, ...]:
        """The values of a new row that has its place among those of other keys, if it is ready."""
        queue, task_id, state, priority, order_key, *others = self._values(row, now)
        fields: tuple[Any, ...] = (state, order_key, None, None)
        if state == State.WAITING and self.table.groups.rules.of(queue).is_fair:
            fields = self.table.groups.place(queue, row.key, priority, order_key, now)
        state, order_key, since, held = fields
        return queue, task_id, state, priority, order_key, *others, row.key, since, held

    def _values(self, row: NewRow, now: float) -> tuple[Any, ...]:
        start_by = None if row.expires_in is None else now + row.expires_in
        if row.deadline is not None:
            start_by = row.deadline if start_by is None else min(start_by, row.deadline)
        state = State.DELAYED if row.delay > 0 else State.WAITING
        ready_at = now + row.delay if row.delay > 0 else None
        due = min((each for each in (ready_at, start_by) if each is not None), default=None)
        order_key = self.table.order_key(ready_at, now)
        queue = self._counters.number(row.queue)
        wall = row.run_at / 1e6 if row.run_at is not None and row.by_wall_clock and state is State.DELAYED else None
        key = row.unique if row.unique_for is None else None
        first = queue, row.id, state.value, row.priority, order_key, due, start_by, key, row.payload, row.options
        return *first, row.run_at, wall, row.name, now, row.deadline

    # Claiming

    def _claim(self, claim: ClaimRequest, now: float, answer: ExchangeResult, as_of: float, row_by_row: bool) -> None:
        queue = self._counters.known(claim.queue)
        self._lease = claim.lease
        self._forget_refused(now)
        self.enter_due(claim.queue, queue, now, as_of)
        groups = self.table.groups
        moments: list[float] = []
        is_plain = claim.queue in self._counters.without_rules or groups.rules.of(queue).is_plain
        if is_plain:
            rows = self._ready(READY, claim, queue, now)
        else:
            rows = self._ready_by_rules(claim, queue, now, moments)
        self._token += 1
        rows = self._take_each(rows, claim, queue, now) if row_by_row else self._take(rows, claim, now)
        if rows:
            self._counters.count(queue, running=len(rows))
        token = self._token
        if not is_plain:
            groups.note_claimed(queue, rows, now)
            groups.promote(now)
            moments += groups.rate_moments(queue, now)
            rows = [row[:12] for row in rows]
        answer.claimed.append([claimed(row, token, now) for row in rows])
        if len(rows) < claim.limit:
            self._counters.enter_counts()
            live, running, held = self._counters.present(queue)
            if not (live or is_plain):
                groups.make_plain(queue, now)
            answer.next_due.append(self._next_due(queue, now, moments))
            answer.live.append(live)
            answer.held_back.append(held > 0 or (not is_plain and groups.is_at_limit(queue, running)))
            self._sweep(queue, now)
        else:
            answer.next_due.append(None)
            answer.live.append(-1)
            answer.held_back.append(False)

    def _ready_by_rules(self, claim: ClaimRequest, queue: int, now: float, moments: list[float]) -> list[Row]:
        """Return the rows to claim from a queue that has keys or limits; note the moments at which there may be more.

        A row that is ready and must not begin is held back, and others are looked for.
        """
        groups, moved = self.table.groups, 0
        is_fair = groups.rules.of(queue).is_fair
        if groups.prepare_claim(queue, claim.limit, now):
            moments.append(now)
        room = groups.room(queue, claim.limit, now)
        while room > 0:
            rows = self._ready(READY_FAIR if is_fair else READY, claim._replace(limit=room), queue, now)
            held = groups.hold_excess(queue, rows, now)
            if not held:
                if is_fair and len(rows) < room:
                    groups.note_drained(queue)
                return rows
            moved += held
            if moved >= MOST_MOVED:
                moments.append(now)
                break
        return []

    def _take(self, rows: list[Row], claim: ClaimRequest, now: float) -> list[Row]:
        """Claim these rows, and return them.

        Raises:
          FastPathFailed: the database does not allow that for one of them at least.
        """
        if not rows:
            return rows
        until, taken = now + claim.lease, 0
        try:
            for worker, keys in claim.split([row[0] for row in rows]):
                taken += self._connection.changed(CLAIM, (self._token, until, worker, now, _json_of(keys)))
        except Exception as error:
            if not is_refusal(error):
                raise
            raise FastPathFailed from error
        if taken < len(rows):
            raise FastPathFailed
        return rows

    def _take_each(self, rows: list[Row], claim: ClaimRequest, queue: int, now: float) -> list[Row]:
        """Claim these rows one by one, and return those that the database does not refuse."""
        taken: list[Row] = []
        for row in rows:
            worker = claim.worker if claim.workers is None else claim.workers[len(taken)]
            if self._take_one(row, worker, claim, queue, now):
                taken.append(row)
        return taken

    def _take_one(self, row: Row, worker: str, claim: ClaimRequest, queue: int, now: float) -> bool:
        """Claim this row for this worker; return False if the database refuses that."""
        if row[2] == _LAST_ATTEMPT:  # one more attempt cannot be counted
            self._kill(row, overflow_error(), KillReason.NOT_AGAIN, claim.queue, queue, now)
            return False
        try:
            until = now + claim.lease
            if self._connection.changed(CLAIM, (self._token, until, worker, now, _json_of([row[0]]))) < 1:
                raise RowRefusedError("the claim was ignored without an error, perhaps by a trigger")
        except Exception as error:
            self._skip_refused(row[0], error, now)
            return False
        return True

    def _kill(self, row: Row, error: bytes, reason: KillReason, name: str, queue: int, now: float) -> None:
        """Finish a row that is not to be claimed; the database may refuse that."""
        try:
            self.table.kill(queue, row[0], error, now, at=row[6])
        except Exception as refused:
            self._skip_refused(row[0], refused, now)
        else:
            self.table.note_killed(name, row[1], reason)

    def _skip_refused(self, seq: int, error: Exception, now: float) -> None:
        """Exclude a row from claims for a while, since the database refuses changes of it.

        Raises:
          Exception: the error is not a refusal; it is raised as it is.
          FastPathFailed: the refusal has ended the transaction.
        """
        if not is_refusal(error):
            raise error
        log.error("row %s of a queue cannot be changed; it is not claimed for %s s: %s", seq, _REFUSED_FOR, error)
        self._refused[seq] = now + _REFUSED_FOR
        if not self._connection.in_transaction:
            raise FastPathFailed from error

    def _forget_refused(self, now: float) -> None:
        if self._refused:
            self._refused = {seq: until for seq, until in self._refused.items() if until > now}

    def _ready(self, sql: str, claim: ClaimRequest, queue: int, now: float) -> list[Row]:
        """Return the rows to claim, in order."""
        refused, left_out = self._refused, claim.left_out
        rows = self._connection.execute(sql, (queue, queue, claim.limit + len(refused) + len(left_out)))
        if refused or left_out:
            rows = [row for row in rows if row[0] not in refused and row[1] not in left_out][: claim.limit]
        expired = [row for row in rows if row[6] is not None and row[6] <= now]
        for row in expired:  # more rows were due than one exchange enters
            is_deadline = row[6] == row[11]
            error = deadline_error() if is_deadline else expired_error()
            reason = KillReason.DEADLINE if is_deadline else KillReason.EXPIRED
            self._kill(row, error, reason, claim.queue, queue, now)
        return [row for row in rows if row not in expired] if expired else rows

    def _next_due(self, queue: int, now: float, moments: list[float]) -> float | None:
        """Return the next time at which a row of the queue is due, or a refused row may be tried again, or the first of
        these moments.
        """
        sql, parameters = NEXT_DUE, list[Any]([queue])
        if self._orphans_are_held_back(now):
            sql, parameters = NEXT_DUE_BUT_ORPHANS, [queue, now]
            moments.append(self.orphans_held_since + self._lease)
        watched = self._watch.rows.get(queue, ())
        if self._refused or watched:
            sql, parameters = sql + _BUT_THESE, [*parameters, _json_of([*self._refused, *watched])]
        if self._refused:
            moments.append(min(self._refused.values()))
        if watched:
            moments.append(self._watch.next_end(queue))
        ahead, first = self._walls[queue]
        if first is not None:
            moments.append(first - ahead)
        [(due,)] = self._connection.execute(sql, parameters)
        if not moments:
            return due  # type: ignore[no-any-return]  # its type is checked where it is compared
        return min(moments if due is None else [due, *moments])

    def hold_back_orphans(self, now: float) -> None:
        """Leave the claims of other sessions alone for the length of a lease, as they may be about to renew them.

        This is not repeated before three leases have passed. Otherwise a machine that is always slow would never take
        orphans back.
        """
        if now >= self.orphans_held_since + 3 * self._lease:
            self.orphans_held_since = now
            self._watch.begin_anew()

    def _orphans_are_held_back(self, now: float) -> bool:
        return now < self.orphans_held_since + self._lease

    def enter_due(self, name: str, queue: int, now: float, as_of: float = math.inf) -> tuple[int, bool]:
        """Enter all changes that are due: delayed rows are ready, rows not started in time expire, orphans come back.

        Orphans of this session come back only if their lease had run out by ``as_of``.

        Returns:
          the number of orphans, and True if more changes are due than one exchange enters.
        """
        orphans = 0
        own = self._first_token, self._first_token + 2**32 - 1
        watched = self._watch.rows.get(queue, ())
        limit = _MOST_DUE + len(self._refused) + len(watched)
        if self._orphans_are_held_back(now):
            found = self._connection.execute(_DUE_BUT_ORPHANS, (queue, now, *own, limit))
        else:
            found = self._connection.execute(_DUE, (queue, now, limit))
        due = list(map(Due._make, found))
        wall = wall_seconds()
        if self._concerns_wall_clock(queue, now, wall):
            known = {row.seq for row in due}
            walled = map(Due._make, self._connection.execute(WALL_DUE, (queue, wall, _MOST_DUE)))
            due += [row for row in walled if row.seq not in known]
            [(first,)] = self._connection.execute(NEXT_WALL, (queue, wall))
            self._walls[queue] = wall - now, first if len(due) < _MOST_DUE else wall
        if not due and not watched:  # the usual case
            return 0, False
        others = [row for row in due if row.state == State.RUNNING and not own[0] <= row.token <= own[1]]
        self._watch.see(queue, [(row.seq, row.token, row.due) for row in others], now, self._lease)
        left_alone = {*self._refused, *self._watch.rows.get(queue, ())}
        for row in due:
            if row.seq in left_alone:
                continue
            if row.state == State.RUNNING and row.due > as_of and own[0] <= row.token <= own[1]:
                continue
            try:
                if _waits_for_wall_clock(row, now, wall):
                    self.table.put_off(row, now + (row.wall or wall) - wall)
                    continue
                self._enter(row, name, queue, now)
                orphans += row.state == State.RUNNING
            except Exception as error:
                self._skip_refused(row.seq, error, now)
        return orphans, len(due) >= limit

    def _concerns_wall_clock(self, queue: int, now: float, wall: float) -> bool:
        """Return True if a row may be due by the wall clock, or that was set, or not looked at yet."""
        ahead, first = self._walls.get(queue, (math.inf, None))
        return abs(ahead - (wall - now)) > _WALL_MOVED or (first is not None and first <= wall)

    def _enter(self, row: Due, name: str, queue: int, now: float) -> None:
        """Make a due row ready, take it back or expire it."""
        if row.state == State.RUNNING:
            self.table.take_back(queue, row, now)
            if row.requested_end == WITHDRAW:
                self.table.discard(queue, row.seq, State.WAITING, row.suspended)
            elif row.requested_end is not None:
                self.table.kill(queue, row.seq, unwanted(row.requested_end), now, State.WAITING, row.suspended)
            if row.requested_end is not None:
                self.table.note_end(name, row.id, row.requested_end)
            elif row.deadline is not None and row.deadline <= now:
                self.table.end_late(name, queue, row.seq, row.id, now, State.WAITING, None, at=row.deadline)
        elif row.start_by is not None and row.start_by <= now:
            self.table.end_late(name, queue, row.seq, row.id, now, row.state, row.suspended, at=row.start_by)
        else:
            self.table.make_ready(queue, row)

    def _sweep(self, queue: int, now: float) -> None:
        """Delete finished rows that were kept long enough."""
        if now >= self._swept.get(queue, 0.0):
            self._swept[queue] = now + _REFUSED_FOR
            try:
                swept = self.table.sweep(queue, now, _SWEPT)
            except Exception as error:
                if not is_refusal(error):
                    raise
                log.error("finished tasks cannot be deleted; trying again in %s s: %s", _REFUSED_FOR, error)
                if not self._connection.in_transaction:
                    raise FastPathFailed from error
            else:
                self._swept[queue] = now + (_SWEEP_EVERY if swept < _SWEPT else 0.0)


def _json_of(keys: Sequence[Any]) -> str:
    """The keys of rows as JSON; they are whole numbers, of which Python writes a list in the same way."""
    return str([*keys])


def _is_ordinary(row: NewRow) -> bool:
    """True if a row is ready at once, and has no name and no options that could be stored."""
    is_at_once = row.delay <= 0 and row.run_at is None and row.expires_in is None
    return is_at_once and row.options is None and row.name is None and row.deadline is None


def _is_held_to_the_end(row: NewRow) -> bool:
    """True if a row holds its unique key until it is finished, as usual."""
    return row.unique_until == "end" and row.unique_for is None


def _waits_for_wall_clock(row: Due, now: float, wall: float) -> bool:
    """True if a row that is due by the file's clock is not by the wall clock, which was set back, nor has expired."""
    is_early = row.state == State.DELAYED and row.wall is not None and row.wall > wall
    return is_early and (row.start_by is None or row.start_by > now)


def claimed(row: Row, token: int, now: float) -> ClaimedRow:
    """Make a claimed row from the columns that were read before the claim, which was made at this time.

    Raises:
      TypeError: it is none that we could have written.
    """
    seq, task_id, attempt, payload, options, history, _, run_at, name, pushed, order_key, deadline = row
    if type(task_id) is not str or not task_id or type(attempt) is not int or attempt < 0:
        raise TypeError(f"row {seq} has the id {task_id!r:.50} and the attempt {attempt!r:.50}")
    if type(pushed) is not float and pushed is not None:
        raise TypeError(f"row {seq} was pushed at {pushed!r:.50}")
    if deadline is not None and type(deadline) is not float:
        raise TypeError(f"row {seq} has the deadline {deadline!r:.50}")
    since = order_key / 1e6
    fields = seq, token, task_id, attempt + 1, payload, options, history, run_at, name, pushed, now, since, deadline
    return new_tuple(ClaimedRow, fields)
