"""The records of a journal: encoding of changes, and loading of the state.

::

    header   magic 8 · version 2 · state 2 · salt 8 · crc32 4
    frame    salt 8 · number 8 · length 4 · crc32 4 · payload

All numbers are little-endian. The state is 0 in a journal, and 1 in an unfinished one: that is never at the path of a
journal, and so can be told from another program's file of such a name. The salt is drawn anew for each file. It marks
where a frame may begin, so that records behind damaged bytes are found again, and a frame of another journal (inside a
payload, say) is not taken for one of this. Records are numbered from 1 without a gap, so the number of missing ones is
known. The checksum covers the frame from its salt to the end of its payload.

The payload of a record is one list in CBOR: the time, the next key and token, and then what has changed, each kind in a
flat list of fields, since that is written twice as fast as lists in lists::

    queues    number, name, and its counts
    rows      all of each row that is new, or copied into a snapshot
    changed   key and condition of each row that has changed otherwise
    gone      keys of the rows that are forgotten
    claims    worker and keys
    suspended number of a queue, how often a task of it was suspended, how often one was resumed, and 1 if it is paused,
              where any of these is not 0
    moments   key, run_at, whether that is waited for by the wall clock, and the reason of the suspension that delays
              it, of those rows that have one of these; and not of a row that has changed if it is none any more
    minutes   number of a queue, minute, name of tasks, and the sums of its attempts, as they are packed
    keys      number of a queue, unique key, id and key of the row that holds it for a time, and the end of that time;
              0 if it is not held so any more
    schedules name, revision, and body of the schedules that were changed; a removed one has no body
    deadlines key and deadline of the rows that have one, or have none any more
    facts     key, name, and when it was pushed and last claimed, of those rows of which the rest does not tell that: a
              row without facts has no name, was pushed at the time of the record in which it is new, and was last
              claimed at that of the record that has its key among the claims

The last six were once left out; their order is moments, facts, minutes, keys, schedules, deadlines. The unique key of
a row is a text, or a list of it and the end of the time for which it is held, where that is not until the row is
finished.

Of a condition the last field was once only whether the row is to be aborted; that it was replaced, and by whom, is a
text there. So older journals can be read, and an older version takes a row that was replaced for one to be aborted.

A record has the present state of rows, not the operations on them. So reading a record twice does no harm, and later
records are valid even if one is missing. Each exchange is one record, so it is there as a whole or not at all.
"""

from __future__ import annotations

import math
import os
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import cbor2

from ..._contracts.minutes import Sums
from ..._logging import log
from ..._tasks.errors import BackendError
from ..durable.engine import LATEST, ScheduleRow, refusal
from .rows import (
    COUNTS,
    DELAYED,
    GIVEN_UP,
    GONE,
    LIVE,
    MOMENTS,
    NO_KEY,
    RUNNING,
    SUSPENDED,
    TIMED,
    WAITING,
    Row,
    TimedKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from .rows import QueueRows
    from .state import JournalState

_UNTIL = ("start", "forgotten", TIMED, GIVEN_UP)
_QUEUE = 2 + COUNTS - 3
_ROW = 18
_CHANGED = 12

MAGIC = b"\x89TTJ\r\n\x1a\n"  # no valid text, so that a program which converts line ends breaks it
VERSION = 1
_HEADER = Struct("<8sHH8s")
_FRAME = Struct("<8sQI")
_CRC = Struct("<I")
_UNFINISHED = 1
HEADER_SIZE = _HEADER.size + _CRC.size
FRAME_SIZE = _FRAME.size + _CRC.size
LARGEST_PAYLOAD = 2**31


# The payload of a record


def encode_change(state: JournalState) -> bytes | None:
    """Encode the record of the current transaction; None if it has changed nothing."""
    transaction = state.transaction
    if transaction.is_empty and not state.schedules.before:
        return None
    new: list[Row] = []
    changed: list[Any] = []
    gone = [row.key for row in transaction.gone]
    for row, before in transaction.rows.items():
        if before is None or row in transaction.in_full:
            if row.state != GONE:
                new.append(row)
        elif row.state != GONE:
            changed.append(row.key)
            changed += row.condition[:-MOMENTS]
    with_moments = [
        row for row in transaction.rows if (row.run_at is not None or row.is_suspended) and row.state != GONE
    ]
    with_facts = [
        row
        for row, before in transaction.rows.items()
        if (row.started == state.time or (before is None and row.name is not None) or row in transaction.in_full)
        and row.state != GONE
    ]
    return _encode(
        state,
        transaction.counts,
        new,
        changed,
        gone,
        transaction.claims,
        with_moments,
        with_facts,
        transaction.minutes,
        transaction.timed_keys,
        state.schedules.changed if state.schedules.before else (),
        [row for row, before in transaction.rows.items() if row.deadline is not None or _had_deadline(before)],
    )


def _had_deadline(condition: tuple[Any, ...] | None) -> bool:
    return condition is not None and condition[-1] is not None


def encode_snapshot(state: JournalState, rows: Iterable[Row], *, with_minutes: bool) -> bytes:
    """Encode the record of all these rows and queues, without rows that are not kept any more."""
    present = [row for row in rows if row.state != GONE]
    all_minutes = [(queue, *key) for queue in state.queues.values() for key in queue.minutes] if with_minutes else []
    all_keys = [(queue, key) for queue in state.queues.values() for key in queue.timed_keys] if with_minutes else []
    schedules: Iterable[ScheduleRow] = state.schedules.kept(state.time) if with_minutes else ()
    more = all_minutes, all_keys, schedules
    ending = [row for row in present if row.deadline is not None]
    return _encode(state, state.queues.values(), present, [], [], [], present, present, *more, ending)


def _encode(
    state: JournalState,
    all_queues: Iterable[QueueRows],
    new: list[Row],
    changed: list[Any],
    gone: list[int],
    claims: list[Any],
    with_moments: Iterable[Row],
    with_facts: Iterable[Row],
    with_minutes: Iterable[tuple[QueueRows, int, str]],
    with_keys: Iterable[tuple[QueueRows, str]],
    with_schedules: Iterable[ScheduleRow],
    with_deadlines: Iterable[Row],
) -> bytes:
    queues: list[Any] = []
    suspended: list[int] = []
    for queue in all_queues:
        queues += (queue.number, queue.name)
        queues += queue.counts[:SUSPENDED]
        queues.append(queue.counts[LIVE])
        if any(queue.counts[SUSPENDED:LIVE]):
            suspended += (queue.number, *queue.counts[SUSPENDED:LIVE])
    rows: list[Any] = []
    for row in new:
        unique = row.unique if row.unique_until == "end" else [row.unique, row.unique_until]
        rows += (row.key, row.queue.number, row.id, row.payload, row.options, row.priority, unique)
        rows += row.condition[:-MOMENTS]
    moments: list[Any] = []
    for row in with_moments:
        if _has_moments(row):
            moments += (row.key, row.run_at, row.by_wall, row.suspended)
    facts: list[Any] = []
    for row in with_facts:
        facts += (row.key, row.name, row.pushed, row.started)
    more = _later_lists(with_minutes, with_keys, with_schedules, with_deadlines)
    numbers = state.time, state.next_key, state.next_token
    try:
        return cbor2.dumps([*numbers, queues, rows, changed, gone, claims, suspended, moments, facts, *more])
    except (cbor2.CBORError, ValueError, TypeError) as error:  # a name with half a surrogate pair, say
        raise refusal(f"a change cannot be encoded for the journal: {error}") from error


def _later_lists(
    with_minutes: Iterable[tuple[QueueRows, int, str]],
    with_keys: Iterable[tuple[QueueRows, str]],
    with_schedules: Iterable[ScheduleRow],
    with_deadlines: Iterable[Row],
) -> list[list[Any]]:
    """The last lists of a record; those that are empty are left out, if none follows."""
    minutes: list[Any] = []
    for queue, minute, name in with_minutes:
        minutes += (queue.number, minute, name, queue.minutes[minute, name].pack())
    keys: list[Any] = []
    for queue, key in with_keys:
        keys += (queue.number, key, *queue.timed_keys.get(key, NO_KEY))
    schedules: list[Any] = [field for row in with_schedules for field in row]
    deadlines: list[Any] = [field for row in with_deadlines if row.state != GONE for field in (row.key, row.deadline)]
    lists = [minutes, keys, schedules, deadlines]
    while lists and not lists[-1]:
        lists.pop()
    return lists


def _has_moments(row: Row) -> bool:
    return row.run_at is not None or row.is_suspended


def load_record(state: JournalState, payload: bytes) -> list[Row]:
    """Load a record into the state, and return its rows; removed ones are ``GONE``. Rows are put into indexes by
    :func:`finish_loading`, when the last record is loaded.

    Raises:
      BackendError: it is intact, and yet does not say what a record says.
    """
    try:
        now, next_key, next_token, queues, rows, changed, gone, claims, *more = cbor2.loads(payload)
        extra: list[Any] = [*more, (), (), (), (), (), (), ()]
        suspended, moments, facts, minutes, keys, schedules, deadlines = extra[:7]
        state.time = max(state.time, now)
        state.next_key = max(state.next_key, next_key)
        state.next_token = max(state.next_token, next_token)
        _load_queues(state, queues, suspended)
        found = _load_rows(state, rows, now if len(more) > 2 else None)
        for start in range(0, len(changed), _CHANGED):
            if (row := state.rows.get(changed[start])) is not None:
                row.condition = *changed[start + 1 : start + _CHANGED], None, False, None, row.started, row.deadline
                found.append(row)
        for start in range(0, len(moments), 4):
            if (row := state.rows.get(moments[start])) is not None:
                row.run_at, row.by_wall, row.suspended = moments[start + 1 : start + 4]
        for key in gone:
            if (row := state.rows.pop(key, None)) is not None:
                row.state = GONE
                found.append(row)
        for start in range(0, len(claims), 2):
            found += _load_claim(state, now, *claims[start : start + 2])
        for start in range(0, len(facts), 4):
            if (row := state.rows.get(facts[start])) is not None:
                row.name, row.pushed, row.started = facts[start + 1 : start + 4]
        if minutes:
            _load_minutes(state, minutes)
        for start in range(0, len(keys), 5):
            number, unique, *timed = keys[start : start + 5]
            state.queues_by_number[number].timed_keys[unique] = TimedKey(*timed)
        for start in range(0, len(schedules), 3):
            state.schedules.load(ScheduleRow._make(schedules[start : start + 3]))
        for start in range(0, len(deadlines), 2):
            if (row := state.rows.get(deadlines[start])) is not None:
                row.deadline = deadlines[start + 1]
    except (cbor2.CBORError, ValueError, TypeError, LookupError, EOFError, AttributeError) as error:
        raise BackendError(f"a record of the journal is intact, but cannot be understood: {error!r}") from error
    return found


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


def _load_rows(state: JournalState, rows: list[Any], pushed: float | None) -> list[Row]:
    found: list[Row] = []
    for start in range(0, len(rows), _ROW):
        key, number, id, payload, options, priority, held = rows[start : start + 7]
        unique, until = (held, "end") if held is None or type(held) is str else held
        row = state.rows.get(key)
        if row is None:
            queue = state.queues_by_number[number]
            row = state.rows[key] = Row(key, queue, id, payload, options, priority, unique, None, pushed)
        else:
            row.payload, row.options, row.priority = payload, options, priority
        row.unique_until = until
        row.condition = *rows[start + 7 : start + _ROW], None, False, None, row.started, row.deadline
        found.append(row)
    return found


def _load_claim(state: JournalState, now: float, worker: str, keys: list[int]) -> list[Row]:
    found = [row for key in keys if (row := state.rows.get(key)) is not None]
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
    if not all(type(each) is int for each in numbers) or max(rows, default=0) >= state.next_key:
        raise BackendError(f"the journal cannot be understood: the next row and claim are numbered {numbers}")


def _is_sound(row: Any) -> bool:
    """Return True if all fields of a row are valid. This runs for each row; a table of types takes twice as long."""
    return bool(
        type(row.key) is type(row.priority) is type(row.attempt) is type(row.token) is type(row.state) is int
        and type(row.id) is str
        and row.id != ""
        and type(row.payload) is bytes
        and type(row.requested_end) in (bool, str)
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
    for queue in state.queues.values():
        queue.load_timed_keys(state.time)
    for queue in state.queues.values():
        queue.counts[LIVE] = len(queue.ids) - sum(map(len, queue.finished.values()))
    state.rows = {key: state.rows[key] for key in sorted(state.rows)}
    for row in reversed(ran):  # if two had the same unique key, the later one keeps it
        state.take_back(row)
    state.enter_due()


def _holds_key(row: Row) -> bool:
    """Return True if a row holds its unique key, by its state; one that ran takes it when it waits again."""
    return row.unique_until == "forgotten" or (row.state < RUNNING and row.unique_until in ("start", "end"))


# Frames


class Frame(NamedTuple):
    """An intact record."""

    number: int
    payload: bytes
    end: int
    """Where the next frame begins."""


class Damage(NamedTuple):
    """A range of bytes that is no intact record."""

    at: int
    content: bytes
    lost: int
    """Number of records that are missing; at the tail, at least so many."""
    is_tail: bool
    """True if no intact record follows."""


def new_salt() -> bytes:
    """Make the salt of a new file, without zero bytes, since reserved space reads as zeros."""
    return bytes(each or 1 for each in os.urandom(8))


def header(salt: bytes, *, unfinished: bool = False) -> bytes:
    """Make the header of a journal."""
    fields = _HEADER.pack(MAGIC, VERSION, _UNFINISHED if unfinished else 0, salt)
    return fields + _CRC.pack(crc32(fields))


def is_unfinished(beginning: bytes) -> bool:
    """Return True if a file that begins with these bytes is a journal that was never finished."""
    if len(beginning) < HEADER_SIZE:
        return False
    fields, rest = beginning[: _HEADER.size], beginning[_HEADER.size :]
    magic, _, state, _ = _HEADER.unpack(fields)
    is_whole = _CRC.unpack_from(rest)[0] == crc32(fields)
    return bool(is_whole and magic == MAGIC and state == _UNFINISHED)


def frame(salt: bytes, number: int, payload: bytes) -> bytes:
    """Frame a record, ready to be appended."""
    fields = _FRAME.pack(salt, number, len(payload))
    return b"".join((fields, _CRC.pack(crc32(payload, crc32(fields))), payload))


def read_salt(beginning: bytes, name: str, *, repair: bool) -> bytes:
    """Return the salt of the journal that begins with these bytes.

    Args:
      beginning: the header, and what follows it, up to the end of the first record.
      name: the name of the file, for the error.
      repair: True if an intact first record may replace a damaged header.

    Raises:
      BackendError: it is not a journal, or one of a later version, or its header is damaged.
    """
    fields, rest = beginning[: _HEADER.size], beginning[_HEADER.size :]
    if len(beginning) >= HEADER_SIZE and _CRC.unpack_from(rest)[0] == crc32(fields):
        magic, version, state, salt = _HEADER.unpack(fields)
        if magic == MAGIC and version == VERSION:
            if state == _UNFINISHED:
                raise BackendError(f"{name!r} is an unfinished journal, which a compaction has left")
            return bytes(salt)
        if magic == MAGIC:
            raise BackendError(
                f"{name!r} was written by another version of trio_tasks: its format is {version}, and this one reads "
                f"format {VERSION}"
            )
    first = beginning[HEADER_SIZE:]
    if repair and (found := _intact(first, 0, first[:8])) is not None and found.number == 1:
        return first[:8]
    if sum(a == b for a, b in zip(beginning, MAGIC, strict=False)) < len(MAGIC) - 1:
        raise BackendError(f"{name!r} is not a journal of trio_tasks")
    hint = "" if repair else "; opening it with repair=True may recover what follows"
    raise BackendError(f"the header of the journal {name!r} is damaged{hint}")


def scan(file: BinaryIO, salt: bytes, position: int = HEADER_SIZE, expected: int = 1) -> Iterator[Frame | Damage]:
    """Find all records and damages after the header, in order, without the reserved space at the end.

    Args:
      file: a journal.
      salt: the salt in its header.
      position: the position at which to begin.
      expected: the number of the record that begins there.
    """
    while True:
        file.seek(position)
        for found in _frames(file, salt, position, expected):
            position, expected = found.end, found.number + 1
            yield found
        file.seek(position)
        rest = file.read()
        if not rest.strip(b"\0"):
            return
        again = _find(rest, salt, expected)
        if again is None:
            yield Damage(position, rest.rstrip(b"\0"), 1, is_tail=True)
            return
        start, number = again
        yield Damage(position, rest[:start], number - expected, is_tail=False)
        position, expected = position + start, number


def _frames(file: BinaryIO, salt: bytes, position: int, expected: int) -> Iterator[Frame]:
    """Read intact records from here on, until one is missing."""
    while len(fields := file.read(FRAME_SIZE)) == FRAME_SIZE:
        found_salt, number, length = _FRAME.unpack_from(fields)
        if found_salt != salt or number != expected or length > LARGEST_PAYLOAD:
            return
        payload = file.read(length)
        if len(payload) != length or not _is_intact(fields, payload):
            return
        position += FRAME_SIZE + length
        expected += 1
        yield Frame(number, payload, position)


def _find(data: bytes, salt: bytes, at_least: int) -> tuple[int, int] | None:
    """Return the position of the next intact record, and its number."""
    start = data.find(salt)
    while start >= 0:
        found = _intact(data, start, salt)
        if found is not None and found.number >= at_least:
            return start, found.number
        start = data.find(salt, start + 1)
    return None


def _intact(data: bytes, start: int, salt: bytes) -> Frame | None:
    """Return the record that begins here, if it is intact."""
    fields = data[start : start + FRAME_SIZE]
    if len(fields) < FRAME_SIZE:
        return None
    found_salt, number, length = _FRAME.unpack_from(fields)
    end = start + FRAME_SIZE + length
    if found_salt != salt or end > len(data) or not _is_intact(fields, payload := data[start + FRAME_SIZE : end]):
        return None
    return Frame(number, payload, end)


def _is_intact(fields: bytes, payload: bytes) -> bool:
    return bool(_CRC.unpack_from(fields, _FRAME.size)[0] == crc32(payload, crc32(fields[: _FRAME.size])))
