"""Operations on the rows of a journal besides exchanges: look up, cancel, reschedule, resume, forget."""

from __future__ import annotations

import math
from collections import Counter
from heapq import merge, nlargest, nsmallest
from itertools import chain, islice, takewhile
from typing import TYPE_CHECKING, Literal, final

from ..._clock import wall_now
from ..._contracts.bulk import Refusal
from ..._contracts.explanation import MOST_COUNTED, Place
from ..._contracts.listing import WINDOW, Found, Position, find_page, wrong_cursor
from ..._contracts.metrics import STORED_STATES, Balance, QueueMetrics, changed, make_metrics
from ..._contracts.states import COUNTERS
from ..._tasks.errors import AbortError, BackendError, DuplicateTaskError, not_again
from ..durable.encoding import deadline_error, decode_options, encode_error, expired_error
from ..durable.engine import (
    Changed,
    ClaimKey,
    KillReason,
    LocatedRow,
    Part,
    Renewal,
    RowChange,
    State,
    StoredRow,
)
from ..durable.rows import refusal_of
from ..durable.search import RowFilter
from .rows import (
    ABORTED,
    DELAYED,
    DONE,
    FAILED,
    GIVEN_UP,
    GONE,
    KILLED,
    PAUSED,
    PUSHED,
    RESUMED,
    RUNNING,
    WAITING,
    WITHDRAWN,
    QueueRows,
    Row,
)
from .state import JournalState
from .transfer import TransferRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..._contracts.minutes import Sums
    from ..._tasks.limits import Limits
    from ..durable.engine import Query, ScheduleRow, ScheduleUpdate
    from .packed import PackedRows

_KEPT = {DONE: "kept_done", FAILED: "kept_failed", KILLED: "kept_killed"}
_NAMES = {WAITING: "waiting", DELAYED: "delayed", RUNNING: "running", **_KEPT}

_BATCH_SIZE = 2_000
"""Rows that one transaction changes at most, in operations on any number of them."""


@final
class Operations:
    """The operations on rows besides exchanges; the caller commits each one or rolls it back.

    Those that append a record are called in a transaction, which has set the time of the state.

    Args:
      state: the rows and queues of the journal.
    """

    def __init__(self, state: JournalState) -> None:
        self._state = state
        self.transfer = TransferRows(state)

    # Operations that append no record

    def renew(self, held: Sequence[ClaimKey], until: float) -> Renewal:
        """Set the end of these leases, and return the rows that are to be aborted."""
        lost = [each for each in held if not self._state.renew(each, until)]
        running = [row for queue_rows in self._state.queues.values() for row in queue_rows.running.values()]
        return Renewal(lost, _claims(running, ABORTED), _claims(running, WITHDRAWN))

    def find(self, queue: str, task_id: str, now: float) -> StoredRow | None:
        """Return the row of this id."""
        row = self._row(queue, task_id)
        return None if row is None or row.is_kept_no_longer(now) else _stored(row, now)

    def find_each(self, queue: str, ids: Sequence[str], now: float) -> list[StoredRow | None]:
        """Return the rows of these ids."""
        return [self.find(queue, task_id, now) for task_id in ids]

    def locate(self, queue: str, task_id: str, now: float) -> LocatedRow | None:
        """Return the row of this id, and its place in the order if it is ready."""
        row = self._row(queue, task_id)
        if row is not None:
            self._enter_delays(row.queue, now)
        stored = self.find(queue, task_id, now)
        if stored is None or row is None:
            return None
        queue_rows, wall = row.queue, wall_now().timestamp()
        is_paused = bool(queue_rows.counts[PAUSED])
        if stored.state > DELAYED or (row.state == DELAYED and not _is_due(row, now, wall)):
            return LocatedRow(stored, None, is_paused)
        if queue_rows.groups is not None:
            queue_rows.fill_groups(queue_rows.groups, MOST_COUNTED)
            in_turn = takewhile(lambda each: each is not row, queue_rows.ready(now))
            place = Place.after(each.id for each in in_turn)
            return LocatedRow(stored, place, is_paused, queue_rows.limit_of(row, now))
        due = queue_rows.delayed_rows.values() if queue_rows.next_due <= now else ()
        first = sorted((each for each in due if _is_due(each, now, wall) and not each.has_expired(now)), key=_turn)
        before = takewhile(lambda each: _turn(each) < _turn(row), merge(queue_rows.ready(now), first, key=_turn))
        place = Place.after(each.id for each in before)
        return LocatedRow(stored, place, is_paused, queue_rows.limit_of(row, now))

    def search(self, queue: str, query: Query, now: float) -> Found[StoredRow]:
        """Return the rows of a page."""
        queue_rows = self._state.queues.get(queue)
        if queue_rows is None:
            return Found([])
        self._enter_delays(queue_rows, now)
        found = self._page(queue_rows, query, now)
        return Found([_stored(row, now) for row in found.rows], found.next, found.is_partial)

    def _page(self, queue: QueueRows, query: Query, now: float) -> Found[Row]:
        return find_page(_listed(self._state.packed, queue, query, now), query.limit, RowFilter.of(query))

    def metrics(self, queue: str, now: float) -> QueueMetrics:
        """Return the counters of the queue, with what is due by now, entered or not."""
        queue_rows = self._state.queues.get(queue) or QueueRows(-1, queue)
        self._enter_delays(queue_rows, now)
        changes, since = self._due_changes(queue_rows, now)
        counts = changed(changed(_counts(queue_rows), changes), _as_delayed(_held_now(queue_rows, now)))
        if (moment := queue_rows.oldest_waiting(now)) is not None:
            since.append(moment)
        running = queue_rows.running.values() if queue_rows.no_lease_ends_before <= now else ()
        orphans = sum(row.due is not None and row.due <= now for row in running)
        age = max(0.0, now - min(since)) if since else 0.0
        return make_metrics(counts, orphans=orphans, oldest_waiting=age, is_paused=bool(queue_rows.counts[PAUSED]))

    def _due_changes(self, queue_rows: QueueRows, now: float) -> tuple[Counter[str], list[float]]:
        """What is due by now and not entered: the changes of the counters, and since when the rows wait that are ready
        by it.
        """
        changes, since, wall = Counter[str](), list[float](), wall_now().timestamp()
        expired = {row.key: row for row in queue_rows.expiring.until(now) if row.has_expired(now)}
        for row in expired.values():
            changes["delayed" if row.state == DELAYED else "waiting"] -= 1
            changes.update({"suspended_now": -row.is_suspended, "killed": 1, "kept_killed": 1})
        for row in queue_rows.delayed_rows.values() if queue_rows.next_due <= now else ():
            if row.key not in expired and _is_due(row, now, wall):
                changes.update({"delayed": -1, "suspended_now": -row.is_suspended, "waiting": 1})
                since.append(row.since)
        for row in {row.key: row for row in self._state.retained.until(now)}.values():
            if row.queue is queue_rows and row.is_kept_no_longer(now):
                changes[_KEPT[row.state]] -= 1
        return changes, since

    def set_paused(self, queue: str, paused: bool) -> None:
        """Store whether the queue is paused."""
        queue_rows = self._state.queue(queue)
        if queue_rows.counts[PAUSED] != paused:
            self._state.count(queue_rows, PAUSED)
            queue_rows.counts[PAUSED] = int(paused)

    def set_limits(self, queue: str, key: str | None, limits: Limits | None, *, only_if_none: bool) -> None:
        """Store the limits of the queue, or of a key in it."""
        queue_rows = self._state.queue(queue)
        known = queue_rows.limits.get(key)
        if known != limits and not (only_if_none and known is not None):
            self._state.set_limits(queue_rows, limits, key)

    def get_limits(self, queue: str, key: str | None) -> Limits | None:
        """Return the limits of the queue, or of a key in it."""
        queue_rows = self._state.queues.get(queue)
        return None if queue_rows is None else queue_rows.limits.get(key)

    def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return the limits of the queue, and of keys in it."""
        queue_rows = self._state.queues.get(queue)
        return {} if queue_rows is None else queue_rows.limits.all()

    def minutes(self, queue: str) -> list[tuple[int, str, Sums]]:
        """Return the sums of the attempts in each minute."""
        queue_rows = self._state.queues.get(queue)
        return [] if queue_rows is None else [(*key, sums) for key, sums in queue_rows.minutes.items()]

    def audit(self, queue: str, now: float) -> Balance:
        """Compare the counters of the queue with its rows, both with what is due by now, entered or not."""
        queue_rows = self._state.queues.get(queue) or QueueRows(-1, queue)
        rows = [row for row in self._state.rows.values() if row.queue is queue_rows]
        there: dict[str, int] = dict.fromkeys((*STORED_STATES, "held_now"), 0)
        there["waiting"] = sum(segment.number for segment in self._state.packed.of(queue_rows))
        for row in rows:
            there[_NAMES[row.state]] += 1
            there["suspended_now"] += row.state == DELAYED and row.is_suspended
        changes, _ = self._due_changes(queue_rows, now)
        counts, there = changed(_counts(queue_rows), changes), changed(there, changes)
        held_there = _held_of(queue_rows, rows, now)
        return Balance(
            queue,
            changed(counts, _as_delayed(_held_now(queue_rows, now))),
            changed(there, _as_delayed(held_there)),
        )

    def _enter_delays(self, queue_rows: QueueRows, now: float) -> None:
        """Make the delayed rows ready that are due, where limits of keys may hold them back: which ones are held back
        is told of rows that are ready.
        """
        if queue_rows.groups is not None and queue_rows.next_due <= now:
            self._state.enter_delays(queue_rows, now)

    def schedules(self, after: int, name: str | None) -> list[ScheduleRow]:
        """Return the schedules that were changed after this revision, or the one of a name, if it was."""
        return self._state.schedules.after(after, name)

    def names(self) -> list[str]:
        """Return the names of the queues that a task was ever pushed to."""
        return [queue_rows.name for queue_rows in self._state.queues.values() if queue_rows.counts[PUSHED]]

    # Operations that append a record

    def set_schedule(self, update: ScheduleUpdate) -> int:
        """Change a schedule if it has the revision that is said; return its new revision, or 0."""
        return self._state.schedules.set(update.name, update.was, update.body, self._state.time)

    def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        """Replace the options of a running row."""
        state = self._state
        row = state.leased_row(held.key, held.token)
        if row is not None:
            state.touch_in_full(row)
            state.weight -= row.weight
            row.options = options
            state.weight += row.weight
        return row is not None

    def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Store the progress of a running row."""
        row = self._state.leased_row(held.key, held.token)
        if row is not None:
            self._state.touch(row)
            row.progress = progress
        return row is not None

    def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query) -> Changed:
        """Change the rows of a page that can be changed so."""
        queue_rows = self._state.queues.get(queue)
        if queue_rows is None:
            return Changed([], None, is_more=False)
        self._state.enter_due(-math.inf)  # but not leases that ran out, since their attempts may run here
        found = self._page(queue_rows, query, self._state.time)
        answers = [(row.id, self._change_row(queue, RowChange(verb), row.id)) for row in found.rows]
        ids = [task_id for task_id, answer in answers if answer is True]
        taken = [task_id for task_id, answer in answers if isinstance(answer, Refusal)]
        return Changed(ids, found.next, found.next is not None, taken)

    def change_each(self, queue: str, change: RowChange, ids: Sequence[str]) -> list[ClaimKey | bool | Refusal]:
        """Change the row of each of these ids, if it can be changed so."""
        return [
            self._change_row(queue, change, task_id) or refusal_of(self.find(queue, task_id, self._state.time))
            for task_id in ids
        ]

    def _change_row(self, queue: str, change: RowChange, task_id: str) -> ClaimKey | bool | Refusal:
        """Change a row; return False if it is not in a state for that."""
        if change.verb == "cancel":
            return self.cancel(queue, task_id, _cancelled_error(), change.running)
        if change.verb == "abort":
            return self.abort(queue, task_id) or False
        if change.verb == "withdraw":
            return self.withdraw(queue, task_id)
        if change.verb == "forget":
            return self.forget(queue, task_id).number > 0
        if change.verb == "reschedule":
            return self.reschedule(queue, task_id, change.delay, change.run_at)
        try:
            return self.resume(queue, task_id)
        except DuplicateTaskError as error:  # another task has its unique key
            return Refusal(taken_by=error.taken_by)

    def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool | ClaimKey:
        """Kill the row if it waits; with ``running``, note that it is to be aborted, if it runs."""
        row = self._waiting_row(queue, task_id)
        if row is not None:
            self._state.kill(row, error, KillReason.CANCELLED)
            return True
        return (running and self.abort(queue, task_id)) or False

    def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Note that the row is to be aborted, if it runs."""
        row = self._row(queue, task_id)
        if row is None or row.state != RUNNING:
            return None
        self._state.touch(row)
        row.requested_end = ABORTED
        return ClaimKey(row.key, row.token)

    def withdraw(self, queue: str, task_id: str) -> bool | ClaimKey:
        """Remove the row if it waits, or note that it is to end; False if that is noted, or not needed."""
        state = self._state
        row = state.current_row(queue, task_id)
        if row is None or row.state > RUNNING or (row.state == RUNNING and row.requested_end is ABORTED):
            return False
        state.touch(row)
        if row.state != RUNNING:
            state.discard(row)
            return True
        row.requested_end = WITHDRAWN
        return ClaimKey(row.key, row.token)

    def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None) -> bool:
        """Make the row ready in this many seconds, if it waits."""
        state = self._state
        state.enter_due(-math.inf)  # but not leases that ran out, since their attempts may run here
        row = self._waiting_row(queue, task_id)
        if row is not None and (delay > 0 or row.state == DELAYED):  # a ready row keeps its place
            state.touch(row)
            row.run_at, row.by_wall = run_at if delay > 0 else None, False
            state.make_wait(row, delay)
        return row is not None

    def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None) -> bool:
        """Replace the payload and options of the row, if it waits and has these options still."""
        state = self._state
        row = self._waiting_row(queue, task_id)
        if row is None or row.options != was:
            return False
        state.touch_in_full(row)
        row.queue.leave_ready(row)
        state.weight -= row.weight
        row.payload, row.options = payload, options
        state.weight += row.weight
        state.set_group(row, _group_of(options, row.group))
        row.queue.join_ready(row)
        return True

    def resume(self, queue: str, task_id: str) -> bool:
        """Make the row wait again, if it is finished.

        Raises:
          DuplicateTaskError: its unique key is taken.
        """
        state = self._state
        row = state.current_row(queue, task_id)
        if row is None or row.state <= RUNNING:
            return False
        if row.unique is not None:
            holder = state.key_holder(row.queue, row.unique)
            if holder is not None and holder[0] != row.id:
                raise not_again(task_id, holder[0])
        state.touch(row)
        if row.unique is not None:
            if row.unique_until == GIVEN_UP:
                state.touch_in_full(row)
                row.unique_until = decode_options(row.options)[0].unique_until
            state.take_key(row)
        row.queue.take_out(row)
        if row.state == DONE:
            row.result = None
        row.set_ends(None, None)
        row.attempt, row.requested_end = 0, False
        row.run_at, row.by_wall = None, False
        state.count(row.queue, RESUMED, live=1)
        state.make_wait(row, 0.0)
        return True

    def resume_abandoned(self, queue: str) -> Part:
        """Make up to this many running rows wait again whose lease has run out."""
        state = self._state
        queue_rows = state.queues.get(queue)
        lapsed = queue_rows.lapsed(state.time) if queue_rows is not None else []
        for row in lapsed[:_BATCH_SIZE]:
            state.take_back(row)
        if queue_rows is not None and len(lapsed) > _BATCH_SIZE:
            queue_rows.no_lease_ends_before = state.time  # the others are still to be found
        return Part(min(len(lapsed), _BATCH_SIZE), is_more=len(lapsed) > _BATCH_SIZE)

    def forget(self, queue: str, task_id: str | None) -> Part:
        """Remove the row of this id, unless it runs, or up to so many finished ones."""
        state = self._state
        queue_rows = state.queues.get(queue)
        if queue_rows is None:
            return Part(0, is_more=False)
        if task_id is None:
            state.enter_due(-math.inf)  # leave leases that ran out, since their attempts may run here
            finished = chain.from_iterable(rows.values() for rows in queue_rows.finished.values())
            rows = list(islice(finished, _BATCH_SIZE))
        else:
            row = state.current_row(queue, task_id)
            rows = [row] if row is not None and row.state != RUNNING else []
        for row in rows:
            state.touch(row)
            if row.state <= DELAYED:
                state.discard(row)
            else:
                state.forget(row)
        return Part(len(rows), is_more=len(rows) == _BATCH_SIZE)

    def _row(self, queue: str, task_id: str) -> Row | None:
        queue_rows = self._state.queues.get(queue)
        return queue_rows.row(task_id) if queue_rows is not None else None

    def _waiting_row(self, queue: str, task_id: str) -> Row | None:
        row = self._state.current_row(queue, task_id)
        return row if row is not None and row.state <= DELAYED else None


def _claims(rows: Iterable[Row], end: int) -> list[ClaimKey]:
    """Return the claims of those of these rows for which this end is requested."""
    return [ClaimKey(row.key, row.token) for row in rows if row.requested_end == end]


def _counts(queue: QueueRows) -> dict[str, int]:
    """All counters of a queue, as they are stored."""
    return {
        **dict(zip(COUNTERS, queue.counts, strict=False)),
        "waiting": queue.waiting,
        "delayed": len(queue.delayed_rows),
        "running": len(queue.running),
        "suspended_now": len(queue.suspended_rows),
        "held_now": 0,
        **{name: len(queue.finished[state]) for state, name in _KEPT.items()},
    }


def _held_now(queue: QueueRows, now: float) -> int:
    """The number of rows that limits of their keys hold back, as it was counted while they came and went."""
    if queue.groups is None or not queue.limits.by_key:
        return 0
    expired = {row.key: row for row in queue.expiring.until(now) if row.has_expired(now) and row.state == WAITING}
    return queue.groups.held_now(now, Counter(row.group for row in expired.values() if row.group is not None))


def _held_of(queue: QueueRows, rows: Iterable[Row], now: float) -> int:
    """Count the rows that limits of their keys hold back."""
    ready, running = Counter[str](), Counter[str]()
    for row in rows:
        if row.group is not None and row.state in (WAITING, RUNNING) and not row.has_expired(now):
            (ready if row.state == WAITING else running)[row.group] += 1
    free = {key: queue.free_of(key, running[key], now) for key in ready}
    return sum(int(max(0, number - free[key])) for key, number in ready.items())


def _as_delayed(held: int) -> dict[str, int]:
    """The changes of the counters for rows that are held back: they count as delayed."""
    return {"waiting": -held, "delayed": held, "held_now": held}


def _is_due(row: Row, now: float, wall: float) -> bool:
    """Return True if a delayed row is due by now, though no transaction has entered that yet."""
    return row.due is not None and row.due <= now and not _is_early(row, wall)


def _is_early(row: Row, wall: float) -> bool:
    """Return True if a delayed row is not due by the wall clock, which was set back."""
    return row.by_wall and row.run_at is not None and row.run_at / 1e6 > wall


# The sections of a list: one for each state, and then those that have expired, though no transaction has entered that.
_EXPIRED = GONE


def _listed(packed: PackedRows, queue: QueueRows, query: Query, now: float) -> Iterator[tuple[Position, Row]]:
    """Return the rows in the states of a query, after the position from which the list goes on."""
    after, step = query.after, -1 if query.newest_first else 1
    states = sorted(int(state) for state in query.states)
    if KILLED in states and queue.next_due <= now:
        states.insert(states.index(KILLED) + 1, _EXPIRED)
    choose = nlargest if query.newest_first else nsmallest
    most = WINDOW if RowFilter.of(query) is not None else query.limit + 1
    delayed = query.selection.delayed
    is_held = queue.held_test(now) if delayed is not None and WAITING in states else None
    for section in states[::step]:
        if after is not None and (section - after.section) * step < 0:
            continue  # it is on the pages before
        begins_after = after.key if after is not None and after.section == section else None
        if begins_after is not None and len(begins_after) != (3 if section == WAITING else 2):
            raise wrong_cursor(after)
        rows: Iterable[tuple[tuple[float, ...], Row]] = (
            (_order_key(row, section), row)
            for row in chain(
                _rows_of(queue, section),
                packed.first_rows(queue, begins_after, most, newest_first=step < 0) if section == WAITING else (),
            )
            if _section_of(row, now) == section and _is_as_delayed(row, delayed, now, is_held)
        )
        if begins_after is not None:
            rows = (each for each in rows if (each[0] > begins_after if step > 0 else each[0] < begins_after))
        for key, row in choose(most, rows, key=_key_of_pair):
            yield Position(section, key), row


def _key_of_pair(pair: tuple[tuple[float, ...], Row]) -> tuple[float, ...]:
    return pair[0]


def _rows_of(queue: QueueRows, section: int) -> Iterable[Row]:
    """Return the rows among which those of a section are, without those that are packed."""
    if section == RUNNING:
        return queue.running.values()
    if RUNNING < section < _EXPIRED:
        return queue.finished[section].values()
    return (row for row in queue.ids.values() if isinstance(row, Row))


def _section_of(row: Row, now: float) -> int | None:
    """Return the section of a row in a list; None if it is kept no longer."""
    return _EXPIRED if row.has_expired(now) else None if row.is_kept_no_longer(now) else row.state


def _is_as_delayed(row: Row, delayed: bool | None, now: float, is_held: Callable[[Row], bool] | None) -> bool:
    """Return True if the row is delayed, or held back by a limit of its key, or is not, as was asked for."""
    if delayed is None:
        return True
    waits_for_time = row.state == DELAYED and row.due is not None and row.due > now
    return delayed == (waits_for_time or (is_held is not None and is_held(row)))


def _turn(row: Row) -> tuple[float, float, int]:
    """Return the sort key for rows that are ready."""
    return -row.priority, row.since, row.key


def _order_key(row: Row, section: int) -> tuple[float, ...]:
    """Return a sort key for rows of one section: as they would be claimed, fall due, were claimed, were finished, or
    have expired.
    """
    if section == _EXPIRED:
        return row.late_since, row.key
    if row.state == WAITING:
        return _turn(row)
    if row.state == DELAYED:
        assert row.due is not None
        return row.due if row.expires is None else min(row.due, row.expires), row.key
    return (row.started or 0.0) if row.state == RUNNING else row.since, row.key


def _group_of(options: bytes | None, known: str | None) -> str | None:
    """Return the key in the options of a task, or the one that was known if they cannot be read here."""
    try:
        return None if options is None else decode_options(options)[0].key
    except BackendError:
        return known


def _cancelled_error() -> bytes:
    return encode_error(AbortError("cancelled while it waited"))


def _stored(row: Row, now: float) -> StoredRow:
    has_expired = row.has_expired(now)
    error = (deadline_error() if row.ends_by_deadline else expired_error()) if has_expired else None
    return StoredRow(
        row.id,
        State.KILLED if has_expired else State(row.state),
        row.attempt,
        row.payload,
        row.options,
        None if has_expired else row.due,
        error if has_expired else row.result,
        row.history,
        row.progress,
        row.worker,
        None if has_expired or row.state > DELAYED else row.expires,
        row.run_at,
        row.name,
        row.pushed,
        row.started,
        row.late_since if has_expired else row.since if row.state > RUNNING else None,
        row.suspended,
        row.deadline,
    )
