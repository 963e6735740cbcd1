"""An exchange, entered into the books: settle, push, enter what is due, claim."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..._tasks.errors import BackendError, DuplicateTaskError
from ..durable.encoding import replaced_error
from ..durable.engine import ClaimedRow, ExchangeResult, SettlementKind
from .operations import renew
from .rows import (
    DELAYED,
    DONE,
    FAILED,
    FAILURES,
    KILLED,
    KILLS,
    LIVE,
    RELEASED,
    RETRIED,
    RUNNING,
    SUCCEEDED,
    SUSPENDED,
    Row,
)

if TYPE_CHECKING:
    from ..durable.engine import ClaimRequest, Exchange, NewRow, Settlement
    from .state import JournalState

_ENDS = {
    SettlementKind.SUCCEEDED: (DONE, SUCCEEDED),
    SettlementKind.FAILED: (FAILED, FAILURES),
    SettlementKind.KILLED: (KILLED, KILLS),
}


def do_exchange(books: JournalState, exchange: Exchange, now: float) -> ExchangeResult:
    """Change the books; the caller keeps or undoes the change."""
    answer = ExchangeResult()
    if exchange.settled:
        answer.settled = [_settle(books, settlement, now) for settlement in exchange.settled]
    if exchange.pushed:
        answer.pushed = [_push(books, new, now) for new in exchange.pushed]
    if exchange.renewed:
        answer.renewed = [not renew(books, [held], now + lease) for held, lease in exchange.renewed]
    if exchange.claims:
        books.enter_due(now, exchange.as_of)
        for claim in exchange.claims:
            claimed = _claim(books, claim, now)
            queue_rows = books.rows_of(claim.queue)
            is_short = len(claimed) < claim.limit
            answer.claimed.append(claimed)
            answer.next_due.append(due if is_short and (due := queue_rows.next_due) < math.inf else None)
            answer.live.append(queue_rows.counts[LIVE] if is_short else -1)
    answer.finished = books.finished
    books.finished = []
    return answer


def _settle(books: JournalState, settlement: Settlement, now: float) -> bool | BaseException:
    row = books.rows.get(settlement.key)
    if row is None or row.state != RUNNING or row.token != settlement.token:
        return False
    if settlement.write is not None:
        return BackendError("a journal file has no transaction in which something else could be written")
    books.touch(row)
    if settlement.worker is not None:
        row.worker = settlement.worker
    if settlement.history is not None:
        row.history = settlement.history
    if settlement.run_at is not None:
        row.run_at, row.by_wall = settlement.run_at, False
    end = _ENDS.get(settlement.kind)
    if end is not None:
        books.finish(row, *end, settlement.result, settlement.keep, now)
    elif settlement.kind == SettlementKind.RETRIED:
        row.result = settlement.result
        if books.come_back(row, now, settlement.after):
            books.count(row.queue_rows, RETRIED)
    elif settlement.kind == SettlementKind.SUSPENDED:
        row.attempt -= 1
        if books.come_back(row, now, settlement.after):
            books.count(row.queue_rows, SUSPENDED)
    else:
        row.attempt -= 1
        if books.come_back(row, now, None):
            books.count(row.queue_rows, RELEASED)
    return True


def _push(books: JournalState, new: NewRow, now: float) -> str | DuplicateTaskError:
    queue_rows = books.rows_of(new.queue)
    known = books.known(new.queue, new.id, now)
    if known is not None:
        return DuplicateTaskError(f"a task of the id {new.id!r} has been pushed already; ids must be new")
    row = Row(books.next_key, queue_rows, new.id, new.payload, new.options, new.priority, new.unique)
    if new.unique is not None and (holder := books.holder(queue_rows, new.unique, now)) is not None:
        if new.on_conflict == "skip":
            return holder.id
        if new.on_conflict == "raise":
            return DuplicateTaskError(f"the unique key {new.unique!r} is taken by the unfinished task {holder.id!r}")
        if holder.state <= DELAYED:
            books.kill(holder, replaced_error(new.id))
        else:
            books.replace(holder, new.id)
    books.insert(row)
    if new.unique is not None:
        books.hold(row)
    if new.expires_in is not None:
        row.expires = now + new.expires_in
    row.run_at, row.by_wall = new.run_at, new.by_wall_clock and new.delay > 0
    books.wait(row, new.delay, now)
    return row.id


def _claim(books: JournalState, claim: ClaimRequest, now: float) -> list[ClaimedRow]:
    queue_rows, until, worker, workers = books.rows_of(claim.queue), now + claim.lease, claim.worker, claim.workers
    change, running, token = books.change, queue_rows.running, books.next_token
    claimed: list[ClaimedRow] = []
    taken: list[int] = []
    keys = {worker: taken}
    passed_over, left_out = claim.left_out, list[Row]()
    while len(claimed) < claim.limit and (row := queue_rows.pop_ready()) is not None:
        key = row.key
        if passed_over and key in passed_over:
            left_out.append(row)
            continue
        if workers is not None:
            worker = workers[len(claimed)]
            taken = keys.setdefault(worker, [])
        if row.expires is not None:
            books.touch(row)
            row.expires = None  # it was started in time
        if row not in change.rows:
            change.claimed.append((row, row.worker))
            taken.append(key)
        row.state, row.due, row.token, row.worker = RUNNING, until, token, worker
        row.attempt += 1
        running[key] = row
        claimed.append(ClaimedRow(key, token, row.id, row.attempt, row.payload, row.head, row.history, row.run_at))
        token += 1
    for row in left_out:
        queue_rows.enlist(row)
    if claimed:
        books.next_token = token
        for name, taken in keys.items():
            if taken:
                change.claims += (name, taken)
        queue_rows.no_lease_ends_before = min(queue_rows.no_lease_ends_before, until)
        books.look_at(until)
    return claimed
