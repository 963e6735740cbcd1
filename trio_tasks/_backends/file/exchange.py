"""The steps of an exchange on the state of a journal: settle, push, renew, enter due changes, claim."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from ..._contracts.states import COUNTERS, KeyChange
from ..._tasks.errors import BackendError, DuplicateTaskError, id_taken, key_taken
from ..durable.encoding import replaced_error
from ..durable.engine import CHANGES, ENDS, ClaimedRow, ExchangeResult, KillReason, SettlementKind, new_tuple
from .rows import DELAYED, LIVE, PAUSED, RELEASED, RETRIED, RUNNING, SUSPENDED, TIMED, WAITING, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..durable.engine import ClaimRequest, Exchange, NewRow, Settlement
    from .rows import QueueRows
    from .state import JournalState

_ENDS = {kind: (int(state), COUNTERS.index(CHANGES[kind].counter or "")) for kind, state in ENDS.items()}
"""The state and the counter of each end, as numbers."""


@final
class ExchangeSteps:
    """The steps of an exchange; the caller sets the time of the state, and commits or rolls back.

    Args:
      state: the rows and queues of the journal.
    """

    __slots__ = ("_state",)

    def __init__(self, state: JournalState) -> None:
        self._state = state

    def exchange(self, exchange: Exchange) -> ExchangeResult:
        """Settle, push, renew and claim, in this order."""
        state = self._state
        answer = ExchangeResult()
        if exchange.settled:
            answer.settled = [self._settle(settlement) for settlement in exchange.settled]
        if exchange.pushed:
            answer.pushed = [self._push(new) for new in exchange.pushed]
        if exchange.renewed:
            answer.renewed = [state.renew(held, state.time + lease) for held, lease in exchange.renewed]
        for name, minute, label, sums in exchange.minutes:
            state.add_minute(state.queue(name), minute, label, sums)
        if exchange.claims:
            state.enter_due(exchange.as_of)
            for claim in exchange.claims:
                queue = state.queue(claim.queue)
                claimed, due = self._claim(claim, queue)
                is_short = len(claimed) < claim.limit
                answer.claimed.append(claimed)
                answer.next_due.append(due if is_short and (due := min(due, queue.next_due)) < math.inf else None)
                answer.live.append(queue.counts[LIVE] if is_short else -1)
                answer.held_back.append(is_short and queue.holds_back)
        answer.killed = state.take_killed()
        return answer

    def insert(self, rows: Sequence[NewRow]) -> list[str | DuplicateTaskError]:
        """Insert new rows."""
        return [self._push(row) for row in rows]

    def _settle(self, settlement: Settlement) -> bool | BaseException:
        state = self._state
        row = state.leased_row(settlement.key, settlement.token)
        if row is None:
            return False
        if settlement.write is not None:
            return BackendError("a journal file has no transaction in which something else could be written")
        state.touch(row)
        if settlement.worker is not None:
            row.worker = settlement.worker
        if settlement.history is not None:
            row.history = settlement.history
        if settlement.run_at is not None and not row.requested_end:  # else it does not come back
            row.run_at, row.by_wall = settlement.run_at, False
        end = _ENDS.get(settlement.kind)
        if end is not None:
            state.finish(row, *end, settlement.result, settlement.keep)
        elif settlement.kind == SettlementKind.RETRIED:
            row.result = settlement.result
            if state.put_back(row, settlement.after):
                state.count(row.queue, RETRIED)
        elif settlement.kind == SettlementKind.SUSPENDED:
            row.attempt -= 1
            if state.put_back(row, settlement.after, suspended=settlement.reason):
                state.count(row.queue, SUSPENDED)
        else:
            row.attempt -= 1
            if state.put_back(row, None):
                state.count(row.queue, RELEASED)
        return True

    def _push(self, new: NewRow) -> str | DuplicateTaskError:
        state = self._state
        queue = state.queue(new.queue)
        if state.current_row(new.queue, new.id) is not None:
            return id_taken(new.id)
        terms = new.options, new.priority, new.unique, new.name
        row = Row(state.next_key, queue, new.id, new.payload, *terms, state.time, new.key)
        if new.unique is not None:
            other = self._claim_key(queue, new, new.unique)
            if other is not None:
                return other
            row.unique_until = new.unique_until if new.unique_for is None else TIMED
        state.insert(row)
        if new.unique is not None:
            state.take_key(row, new.unique_for)
        if new.expires_in is not None or new.deadline is not None:
            row.set_ends(None if new.expires_in is None else state.time + new.expires_in, new.deadline)
        row.run_at, row.by_wall = new.run_at, new.by_wall_clock and new.delay > 0
        state.make_wait(row, new.delay)
        return row.id

    def _claim_key(self, queue: QueueRows, new: NewRow, key: str) -> str | DuplicateTaskError | None:
        """Free the unique key for this row, and return None; or return the id of the row that keeps it."""
        state = self._state
        holder = state.key_holder(queue, key)
        if holder is None:
            return None
        holder_id, row = holder
        live = row if row is not None and row.state <= RUNNING else None
        if new.on_conflict == "raise" or holder_id == new.id:
            return key_taken(key, holder_id, is_finished=live is None)
        if new.on_conflict == "update" and live is not None and live.state <= DELAYED:
            self._update_by_push(live, new)
        if new.on_conflict != "replace" or live is None:
            return holder_id
        if live.state <= DELAYED:
            state.kill(live, replaced_error(new.id), KillReason.REPLACED, new.id)
        else:  # it runs: it may finish, but not run again
            state.touch(live)
            live.requested_end = live.requested_end or new.id
        state.hand_over_key(live)
        return None

    def _update_by_push(self, row: Row, new: NewRow) -> None:
        """Give a waiting row the payload, options and time of another one."""
        state = self._state
        state.enter_due(-math.inf)  # but not leases that ran out, since their attempts may run here
        state.touch_in_full(row)
        is_same = row.priority == new.priority and row.group == new.key
        keeps_place = new.delay <= 0 and row.state == WAITING and is_same
        row.queue.leave_ready(row)
        state.weight -= row.weight
        row.payload, row.options, row.priority, row.name = new.payload, new.options, new.priority, new.name
        state.set_group(row, new.key)
        state.weight += row.weight
        row.set_ends(None if new.expires_in is None else state.time + new.expires_in, new.deadline)
        row.run_at, row.by_wall = new.run_at, new.by_wall_clock and new.delay > 0
        state.free_key(row, KeyChange.HANDED_OVER)  # to itself
        row.unique_until = new.unique_until if new.unique_for is None else TIMED
        state.take_key(row, new.unique_for)
        if not keeps_place:
            state.make_wait(row, new.delay)
            return
        row.queue.join_ready(row)
        if row.expires is not None:
            row.queue.expiring.add(row.expires, row)
            state.note_due(row.expires)

    def _claim(self, claim: ClaimRequest, queue: QueueRows) -> tuple[list[ClaimedRow], float]:
        """Claim rows. Return them and, if limits hold others back, the moment from which a rate lets another begin."""
        state = self._state
        now = state.time
        until = now + claim.lease
        if queue.counts[PAUSED]:
            return [], math.inf
        limits = queue.limits
        limit = claim.limit if limits.of_queue is None else min(claim.limit, limits.free(len(queue.running), now))
        worker, workers = claim.worker, claim.workers
        transaction, running, token = state.transaction, queue.running, state.next_token
        claimed: list[ClaimedRow] = []
        taken: list[int] = []
        keys = {worker: taken}
        passed_over, left_out = claim.left_out, list[Row]()
        while len(claimed) < limit and (row := queue.pop_ready(now)) is not None:
            if passed_over and row.id in passed_over:
                left_out.append(row)
                continue
            key = row.key
            if workers is not None:
                worker = workers[len(claimed)]
                taken = keys.setdefault(worker, [])
            if row.expires is not None:
                state.touch(row)
                row.expires = None  # it was started in time
            if row.unique_until == "start":
                state.begin(row)
            if row not in transaction.rows:
                transaction.claimed.append((row, row.worker, row.started))
                taken.append(key)
            row.state, row.due, row.token, row.worker = RUNNING, until, token, worker
            row.attempt += 1
            row.started = now
            running[key] = row
            claimed.append(_claimed_row(row, token, now))
            token += 1
        for row in reversed(left_out):
            queue.give_back(row, begun=False)
        if claimed:
            state.next_token = token
            for name, taken in keys.items():
                if taken:
                    transaction.claims += (name, taken)
            queue.no_lease_ends_before = min(queue.no_lease_ends_before, until)
            state.note_due(until)
            if limits.of_queue is not None or limits.of_keys:
                state.note_begun(queue, [state.rows[row.key] for row in claimed])
        return claimed, queue.free_at(now) if len(claimed) < claim.limit else math.inf


def _claimed_row(row: Row, token: int, now: float) -> ClaimedRow:
    """Make a claimed row of a row that was claimed now."""
    first = row.key, token, row.id, row.attempt, row.payload, row.options, row.history, row.run_at
    return new_tuple(ClaimedRow, (*first, row.name, row.pushed, now, row.since, row.deadline))
