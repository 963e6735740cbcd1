"""Loading of a journal: the state that its records tell, checked, and put into the indexes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cbor2

from ..._contracts.fairness import RateWindow
from ..._contracts.minutes import Sums
from ..._logging import log
from ..._tasks.errors import BackendError
from ..._tasks.limits import Limits, check_limits
from ..durable.engine import LATEST, ScheduleRow
from .packed import ROW
from .rows import COUNTS, DELAYED, GIVEN_UP, GONE, LIVE, RUNNING, SUSPENDED, TIMED, WAITING, WITHDRAWN, Row, TimedKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .packed import Segment
    from .rows import QueueRows
    from .state import JournalState

_UNTIL = ("start", "forgotten", TIMED, GIVEN_UP)
_QUEUE = 2 + COUNTS - 3
_CHANGED = 12


def load_record(state: JournalState, payload: bytes, *, pack: bool = False) -> list[Row]:
    """Load a record into the state, and return its rows; removed ones are ``GONE``. Rows are put into indexes by
    :func:`finish_loading`, when the last record is loaded.

    Args:
      state: the state to change.
      payload: the payload of the record.
      pack: True to keep rows packed if all of the record just wait; they are not returned then.

    Raises:
      BackendError: it is intact, and yet does not say what a record says.
    """
    try:
        now, next_key, next_token, queues, rows, changed, gone, claims, *more = cbor2.loads(payload)
        extra: list[Any] = [*more, *[()] * 10]
        suspended, moments, facts, minutes, keys, schedules, deadlines, groups, limits, begun = extra[:10]
        state.time = max(state.time, now)
        state.next_key = max(state.next_key, next_key)
        state.next_token = max(state.next_token, next_token)
        _load_queues(state, queues, suspended)
        pushed = now if len(more) > 2 else None
        if pack and state.packed.add(payload, rows, facts, state.queues_by_number, pushed):
            rows, facts = (), ()
        found = _load_rows(state, rows, pushed)
        for start in range(0, len(changed), _CHANGED):
            if (row := state.row(changed[start])) is not None:
                row.condition = *changed[start + 1 : start + _CHANGED], None, False, None, row.started, row.deadline
                found.append(row)
        for start in range(0, len(moments), 4):
            if (row := state.row(moments[start])) is not None:
                row.run_at, row.by_wall, row.suspended = moments[start + 1 : start + 4]
        for key in gone:
            if (row := state.row(key)) is not None:
                del state.rows[key]
                row.state = GONE
                found.append(row)
        for start in range(0, len(claims), 2):
            found += _load_claim(state, now, *claims[start : start + 2])
        _load_facts(state, facts, deadlines)
        if minutes:
            _load_minutes(state, minutes)
        for start in range(0, len(keys), 5):
            number, unique, *timed = keys[start : start + 5]
            state.queues_by_number[number].timed_keys[unique] = TimedKey(*timed)
        for start in range(0, len(schedules), 3):
            state.schedules.load(ScheduleRow._make(schedules[start : start + 3]))
        if groups or limits or begun:
            _load_sharing(state, now, groups, limits, begun)
    except (cbor2.CBORError, ValueError, TypeError, LookupError, EOFError, AttributeError) as error:
        raise BackendError(f"a record of the journal is intact, but cannot be understood: {error!r}") from error
    return found


def _load_facts(state: JournalState, facts: Any, deadlines: Any) -> None:
    """Load what is recorded of some rows apart from the others."""
    for start in range(0, len(facts), 4):
        if (row := state.row(facts[start])) is not None:
            row.name, row.pushed, row.started = facts[start + 1 : start + 4]
    for start in range(0, len(deadlines), 2):
        if (row := state.row(deadlines[start])) is not None:
            row.deadline = deadlines[start + 1]


def _load_sharing(state: JournalState, now: float, groups: Any, limits: Any, begun: Any) -> None:
    """Load all that is about keys and limits."""
    for start in range(0, len(groups), 2):
        if (row := state.row(groups[start])) is not None:
            row.group, row.queue.has_keys = groups[start + 1], True
    for start in range(0, len(limits), 3):
        _load_limits(state, *limits[start : start + 3])
    for start in range(0, len(begun), 3):
        _load_begun(state, now, *begun[start : start + 3])


def _load_limits(state: JournalState, number: int, key: Any, plain: Any) -> None:
    """Set the limits of a queue, or of a key in it."""
    _check_limited(key)
    limits = None if plain is None else Limits.from_plain(plain)
    state.queues_by_number[number].set_limits(check_limits(limits, of_key=key is not None), key)


def _load_begun(state: JournalState, now: float, number: int, key: Any, begun: Any) -> None:
    """Count attempts that began, or set all that count."""
    _check_limited(key)
    queue = state.queues_by_number[number]
    if not isinstance(begun, int):
        queue.load_window(key, _window_of(begun))
    elif (rate := queue.limits.rate(key)) is not None:  # else a snapshot follows that has both
        window = queue.window(key)
        window.free(rate, now)  # forget those that count no more
        window.begin(rate, now, begun)


def _check_limited(key: Any) -> None:
    if key is not None and (type(key) is not str or not key):
        raise TypeError(f"{key!r:.50} is no key")


def _window_of(begun: Any) -> RateWindow:
    if not all(_is_moment(moment) and type(number) is int and number > 0 for moment, number in begun):
        raise ValueError(f"{begun!r:.99} are no attempts that began")
    return RateWindow(sorted((moment, number) for moment, number in begun))


def _load_minutes(state: JournalState, minutes: Any) -> None:
    """Load the sums of minutes; those that are damaged are lost, which the log tells."""
    try:
        for start in range(0, len(minutes), 4):
            number, minute, name, packed = minutes[start : start + 4]
            state.queues_by_number[number].load_minute(minute, name, Sums.unpack(packed))
    except (TypeError, ValueError, LookupError) as error:
        log.warning("the sums of a minute in a journal are damaged, and are lost: %s", error)


def _load_queues(state: JournalState, queues: list[Any], suspended: Sequence[int] = ()) -> None:
    for start in range(0, len(queues), _QUEUE):
        number, name, *counts, live = queues[start : start + _QUEUE]
        queue = state.queue(name)
        state.queues_by_number[number] = queue
        queue.number, queue.counts = number, [*counts, 0, 0, 0, live]
    for start in range(0, len(suspended), 4):
        state.queues_by_number[suspended[start]].counts[SUSPENDED:LIVE] = suspended[start + 1 : start + 4]


def _load_rows(state: JournalState, rows: Sequence[Any], pushed: float | None) -> list[Row]:
    found: list[Row] = []
    for start in range(0, len(rows), ROW):
        key, number, id, payload, options, priority, held = rows[start : start + 7]
        unique, until = (held, "end") if held is None or type(held) is str else held
        row = state.row(key)
        if row is None:
            queue = state.queues_by_number[number]
            row = state.rows[key] = Row(key, queue, id, payload, options, priority, unique, None, pushed)
        else:
            row.queue.take_out(row)  # it is in an index, under its key, where a journal is only read
            row.payload, row.options, row.priority, row.group = payload, options, priority, None
        row.unique_until = until
        row.condition = *rows[start + 7 : start + ROW], None, False, None, row.started, row.deadline
        found.append(row)
    return found


def _load_claim(state: JournalState, now: float, worker: str, keys: list[int]) -> list[Row]:
    found = [row for key in keys if (row := state.row(key)) is not None]
    for row in found:
        row.state, row.worker, row.due, row.suspended, row.started = RUNNING, worker, None, None, now
        row.attempt += 1
    return found


def check(state: JournalState, rows: Mapping[int, Row]) -> None:
    """Raise if rows or counts of a record are invalid. Their records are intact, but perhaps not written by us. All
    fields that are compared and counted later, without further checks, are checked here once.

    Args:
      state: the state that was loaded from records.
      rows: the rows to check.

    Raises:
      BackendError: something is not valid.
    """
    if not -LATEST <= state.time <= LATEST:
        raise BackendError(f"the journal cannot be understood: its clock is at {state.time!r}")
    for queue in state.queues.values():
        counts = queue.counts
        if tuple(map(type, (queue.name, *counts))) != (str, *[int] * COUNTS):
            raise BackendError(f"the journal cannot be understood: it has a queue {queue.name!r} with counts {counts}")
        for key, timed in queue.timed_keys.items():
            if (type(key), *map(type, timed[:2])) != (str, str, int) or not _is_moment(timed.end):
                raise BackendError(
                    f"the journal cannot be understood: it has a unique key {key!r:.50} of {timed!r:.99}"
                )
    for row in rows.values():
        if not _is_sound(row):
            raise BackendError(f"the journal cannot be understood: it has a row {row.key!r}, {row.condition}")
    numbers = state.next_key, state.next_token
    last_key = max(max(rows, default=0), state.packed.last_key)
    if not all(type(each) is int for each in numbers) or last_key >= state.next_key:
        raise BackendError(f"the journal cannot be understood: the next row and claim are numbered {numbers}")


def _is_sound(row: Any) -> bool:
    """Return True if all fields of a row are valid. This runs for each row; a table of types takes twice as long."""
    return bool(
        type(row.key) is type(row.priority) is type(row.attempt) is type(row.token) is type(row.state) is int
        and type(row.id) is str
        and row.id != ""
        and type(row.payload) is bytes
        and (type(row.requested_end) in (bool, str) or row.requested_end is WITHDRAWN)
        and WAITING <= row.state < GONE
        and row.attempt >= 0
        and (_is_moment(row.since) or (row.since == math.inf and row.state == DELAYED))
        and (row.due is None or _is_moment(row.due) or (row.due == math.inf and row.state == DELAYED))
        and (row.due is not None or row.state != DELAYED)
        and (row.expires is None or _is_moment(row.expires))
        and (row.deadline is None or _is_moment(row.deadline))
        and (row.unique is None or type(row.unique) is str)
        and (row.unique_until == "end" or (row.unique is not None and row.unique_until in _UNTIL))
        and (row.worker is None or type(row.worker) is str)
        and (row.options is None or type(row.options) is bytes)
        and (row.result is None or type(row.result) is bytes)
        and (row.history is None or type(row.history) is bytes)
        and (row.progress is None or type(row.progress) is bytes)
        and (row.run_at is None or (type(row.run_at) is int and -(2**63) <= row.run_at < 2**63))
        and type(row.by_wall) is bool
        and (row.suspended is None or type(row.suspended) is str)
        and (row.name is None or type(row.name) is str)
        and (row.pushed is None or _is_moment(row.pushed))
        and (row.started is None or _is_moment(row.started))
        and (row.group is None or type(row.group) is str)
    )


def _is_moment(value: object) -> bool:
    return isinstance(value, (float, int)) and -math.inf < value < math.inf


def finish_loading(state: JournalState) -> None:
    """Put every row into its index after the last record was loaded, and make running rows wait again, in a
    transaction.

    Their process is dead, or it would still hold the lock.

    Raises:
      BackendError: something in the records is not valid.
    """
    check(state, state.rows)
    for queue in find_fair_queues(state, state.rows.values()):
        queue.use_groups()
        for segment in state.packed.of(queue):
            state.packed.unpack(segment)
    lines = state.packed.arrange()
    ran: list[Row] = []
    for key in sorted(state.rows):
        row = state.rows[key]
        if row.state > RUNNING and row.due is not None and row.due <= state.time:
            del state.rows[key]
            continue
        row.queue.ids[row.id] = row
        state.weight += row.weight
        if row.state == RUNNING:
            ran.append(row)
        else:
            state.place(row)
        if row.unique is not None and _holds_key(row):
            row.queue.holders[row.unique] = row
    for line in lines:
        _join(state, line)
    for queue in state.queues.values():
        queue.load_timed_keys(state.time)
    for queue in state.queues.values():
        queue.counts[LIVE] = len(queue.ids) - sum(map(len, queue.finished.values()))
    in_order = [(key, state.rows[key]) for key in sorted(state.rows)]
    state.rows.clear()
    state.rows.update(in_order)
    for row in reversed(ran):  # if two had the same unique key, the later one keeps it
        state.take_back(row)
    state.enter_due()


def _join(state: JournalState, line: list[Segment]) -> None:
    """Put segments of one queue and priority into the indexes."""
    queue = line[0].queue
    queue.join_segments(line)
    for segment in line:
        segment.enter_ids()
        state.weight += segment.weight


def find_fair_queues(state: JournalState, rows: Iterable[Row]) -> list[QueueRows]:
    """Return the queues that are to keep their ready rows by keys, and do not yet: those in which an unfinished row has
    a key, or a key a limit.
    """
    keyed = {queue for queue in state.queues.values() if queue.has_keys and queue.groups is None}
    unfinished = (row for row in (rows if keyed else ()) if row.state <= RUNNING)
    found = {row.queue for row in unfinished if row.group is not None}
    return [
        queue for queue in state.queues.values() if queue.groups is None and (queue in found or queue.limits.by_key)
    ]


def _holds_key(row: Row) -> bool:
    """Return True if a row holds its unique key, by its state; one that ran takes it when it waits again."""
    return row.unique_until == "forgotten" or (row.state < RUNNING and row.unique_until in ("start", "end"))
