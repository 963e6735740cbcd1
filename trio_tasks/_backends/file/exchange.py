"""An exchange, carried out on the state of a journal: settle, push, enter what is due, claim."""

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


def do_exchange(state: JournalState, exchange: Exchange, now: float) -> ExchangeResult:
    """Carry out the exchange; the caller commits it or rolls it back."""
    answer = ExchangeResult()
    if exchange.settled:
        answer.settled = [_settle(state, settlement, now) for settlement in exchange.settled]
    if exchange.pushed:
        answer.pushed = [_push(state, new, now) for new in exchange.pushed]
    if exchange.renewed:
        answer.renewed = [not renew(state, [held], now + lease) for held, lease in exchange.renewed]
    if exchange.claims:
        state.enter_due(now, exchange.as_of)
        for claim in exchange.claims:
            claimed = _claim(state, claim, now)
            queue = state.queue(claim.queue)
            is_short = len(claimed) < claim.limit
            answer.claimed.append(claimed)
            answer.next_due.append(due if is_short and (due := queue.next_due) < math.inf else None)
            answer.live.append(queue.counts[LIVE] if is_short else -1)
    answer.finished = state.finished
    state.finished = []
    return answer


def _settle(state: JournalState, settlement: Settlement, now: float) -> bool | BaseException:
    row = state.rows.get(settlement.key)
    if row is None or row.state != RUNNING or row.token != settlement.token:
        return False
    if settlement.write is not None:
        return BackendError("a journal file has no transaction in which something else could be written")
    state.touch(row)
    if settlement.worker is not None:
        row.worker = settlement.worker
    if settlement.history is not None:
        row.history = settlement.history
    if settlement.run_at is not None:
        row.run_at, row.by_wall = settlement.run_at, False
    end = _ENDS.get(settlement.kind)
    if end is not None:
        state.finish(row, *end, settlement.result, settlement.keep, now)
    elif settlement.kind == SettlementKind.RETRIED:
        row.result = settlement.result
        if state.come_back(row, now, settlement.after):
            state.count(row.queue, RETRIED)
    elif settlement.kind == SettlementKind.SUSPENDED:
        row.attempt -= 1
        if state.come_back(row, now, settlement.after):
            state.count(row.queue, SUSPENDED)
    else:
        row.attempt -= 1
        if state.come_back(row, now, None):
            state.count(row.queue, RELEASED)
    return True


def _push(state: JournalState, new: NewRow, now: float) -> str | DuplicateTaskError:
    queue = state.queue(new.queue)
    known = state.known(new.queue, new.id, now)
    if known is not None:
        return DuplicateTaskError(f"a task of the id {new.id!r} has been pushed already; ids must be new")
    row = Row(state.next_key, queue, new.id, new.payload, new.options, new.priority, new.unique)
    if new.unique is not None and (holder := state.holder(queue, new.unique, now)) is not None:
        if new.on_conflict == "skip":
            return holder.id
        if new.on_conflict == "raise":
            return DuplicateTaskError(f"the unique key {new.unique!r} is taken by the unfinished task {holder.id!r}")
        if holder.state <= DELAYED:
            state.kill(holder, replaced_error(new.id))
        else:
            state.replace(holder, new.id)
    state.insert(row)
    if new.unique is not None:
        state.hold(row)
    if new.expires_in is not None:
        row.expires = now + new.expires_in
    row.run_at, row.by_wall = new.run_at, new.by_wall_clock and new.delay > 0
    state.wait(row, new.delay, now)
    return row.id


def _claim(state: JournalState, claim: ClaimRequest, now: float) -> list[ClaimedRow]:
    queue, until, worker, workers = state.queue(claim.queue), now + claim.lease, claim.worker, claim.workers
    transaction, running, token = state.transaction, queue.running, state.next_token
    claimed: list[ClaimedRow] = []
    taken: list[int] = []
    keys = {worker: taken}
    passed_over, left_out = claim.left_out, list[Row]()
    while len(claimed) < claim.limit and (row := queue.pop_ready()) is not None:
        key = row.key
        if passed_over and key in passed_over:
            left_out.append(row)
            continue
        if workers is not None:
            worker = workers[len(claimed)]
            taken = keys.setdefault(worker, [])
        if row.expires is not None:
            state.touch(row)
            row.expires = None  # it was started in time
        if row not in transaction.rows:
            transaction.claimed.append((row, row.worker))
            taken.append(key)
        row.state, row.due, row.token, row.worker = RUNNING, until, token, worker
        row.attempt += 1
        running[key] = row
        claimed.append(ClaimedRow(key, token, row.id, row.attempt, row.payload, row.head, row.history, row.run_at))
        token += 1
    for row in left_out:
        queue.place(row)
    if claimed:
        state.next_token = token
        for name, taken in keys.items():
            if taken:
                transaction.claims += (name, taken)
        queue.no_lease_ends_before = min(queue.no_lease_ends_before, until)
        state.look_at(until)
    return claimed
