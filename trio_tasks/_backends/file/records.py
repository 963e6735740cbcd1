"""The records of a journal: encoding of changes, and their frames. :mod:`.loading` reads them.

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
    groups    key, and what a user calls its key, of those rows that are new, or all of which is told, and have one
    limits    number of a queue, a key in it or nothing, and its limits as a map; nothing if it has none any more
    begun     number of a queue, a key in it or nothing, and how many attempts began that count for its rate; or, in a
              snapshot, a list of moments and numbers, which are all that count

The last nine were once left out; their order is moments, facts, minutes, keys, schedules, deadlines, groups, limits,
begun. The unique key of a row is a text, or a list of it and the end of the time for which it is held, where that is
not until the row is finished.

Of a condition the last field was once only whether the row is to be aborted; that it was replaced, and by whom, is a
text there. So older journals can be read, and an older version takes a row that was replaced for one to be aborted.

A record has the present state of rows, not the operations on them. So reading a record twice does no harm, and later
records are valid even if one is missing. Each exchange is one record, so it is there as a whole or not at all.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, final
from zlib import crc32

import cbor2

from ..._tasks.errors import BackendError
from ..durable.engine import ScheduleRow, refusal
from .rows import (
    GONE,
    LIVE,
    MOMENTS,
    NO_TIMED_KEY,
    SUSPENDED,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from .rows import QueueRows
    from .state import JournalState, Transaction

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
    gone = [row.key for row in transaction.gone]
    changes = _Changes(transaction, state.time)
    new, changed, moments, facts = changes.new, changes.changed, changes.moments, changes.facts
    later: _Later | None = None
    if changes.deadlines or changes.groups or transaction.has_more or state.schedules.before:
        begun = [field for (queue, key), number in transaction.begun.items() for field in (queue.number, key, number)]
        schedules = state.schedules.changed if state.schedules.before else ()
        of_rows, of_queues = (changes.deadlines, changes.groups), (transaction.limits, begun)
        later = _Later(transaction.minutes, transaction.timed_keys, schedules, *of_rows, *of_queues)
    return _encode(state, transaction.counts, new, changed, gone, transaction.claims, moments, facts, later)


@final
class _Changes:
    """The rows of a transaction, by the lists of its record in which they are told."""

    __slots__ = ("changed", "deadlines", "facts", "groups", "moments", "new")

    def __init__(self, transaction: Transaction, now: float) -> None:
        self.new: list[Row] = []
        self.changed: list[Any] = []  # the fields of rows
        self.moments: list[Row] = []
        self.facts: list[Row] = []
        self.deadlines: list[Row] = []
        self.groups: list[Row] = []
        in_full = transaction.in_full
        for row, before in transaction.rows.items():
            if row.deadline is not None or (before is not None and before[-1] is not None):
                self.deadlines.append(row)
            if row.state == GONE:
                continue
            is_in_full = row in in_full if in_full else False
            if before is None or is_in_full:
                self.new.append(row)
                if row.group is not None:
                    self.groups.append(row)
            else:
                self.changed.append(row.key)
                self.changed += row.condition[:-MOMENTS]
            if row.run_at is not None or row.suspended is not None:
                self.moments.append(row)
            if row.started == now or is_in_full or (before is None and row.name is not None):
                self.facts.append(row)


def encode_snapshot(state: JournalState, rows: Iterable[Row], *, with_minutes: bool) -> bytes:
    """Encode the record of all these rows and queues, without rows that are not kept any more."""
    present = [row for row in rows if row.state != GONE]
    ending = [row for row in present if row.deadline is not None]
    grouped = [row for row in present if row.group is not None]
    later = _all_later(state, ending, grouped) if with_minutes else _Later((), (), (), ending, grouped, (), [])
    return _encode(state, state.queues.values(), present, [], [], [], present, present, later)


class _Later(NamedTuple):
    """The parts of a record that are about neither queues nor rows, or are seldom there."""

    minutes: Iterable[tuple[QueueRows, int, str]]
    keys: Iterable[tuple[QueueRows, str]]
    schedules: Iterable[ScheduleRow]
    deadlines: Iterable[Row]
    groups: Iterable[Row]
    limits: Iterable[tuple[QueueRows, str | None]]
    begun: list[Any]


def _all_later(state: JournalState, ending: Iterable[Row], grouped: Iterable[Row]) -> _Later:
    """Return all of the state that is about neither queues nor rows."""
    queues = state.queues.values()
    return _Later(
        [(queue, *key) for queue in queues for key in queue.minutes],
        [(queue, key) for queue in queues for key in queue.timed_keys],
        state.schedules.kept(state.time),
        ending,
        grouped,
        [(queue, key) for queue in queues for key in queue.limits.limited()],
        [
            field
            for queue in queues
            for key, window in queue.windows(state.time)
            for field in (queue.number, key, window.state())
        ],
    )


def _encode(
    state: JournalState,
    all_queues: Iterable[QueueRows],
    new: list[Row],
    changed: list[Any],
    gone: list[int],
    claims: list[Any],
    with_moments: Iterable[Row],
    with_facts: Iterable[Row],
    later: _Later | None,
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
    more = () if later is None else _later_lists(later)
    numbers = state.time, state.next_key, state.next_token
    try:
        return cbor2.dumps([*numbers, queues, rows, changed, gone, claims, suspended, moments, facts, *more])
    except (cbor2.CBORError, ValueError, TypeError) as error:  # a name with half a surrogate pair, say
        raise refusal(f"a change cannot be encoded for the journal: {error}") from error


def _later_lists(later: _Later) -> list[list[Any]]:
    """The last lists of a record; those that are empty are left out, if none follows."""
    minutes: list[Any] = []
    for queue, minute, name in later.minutes:
        minutes += (queue.number, minute, name, queue.minutes[minute, name].pack())
    keys: list[Any] = []
    for queue, key in later.keys:
        keys += (queue.number, key, *queue.timed_keys.get(key, NO_TIMED_KEY))
    schedules: list[Any] = [field for row in later.schedules for field in row]
    deadlines: list[Any] = [field for row in later.deadlines if row.state != GONE for field in (row.key, row.deadline)]
    groups: list[Any] = [field for row in later.groups for field in (row.key, row.group)]
    limits: list[Any] = []
    for queue, limited in later.limits:
        found = queue.limits.get(limited)
        limits += (queue.number, limited, None if found is None else found.to_plain())
    lists = [minutes, keys, schedules, deadlines, groups, limits, later.begun]
    while lists and not lists[-1]:
        lists.pop()
    return lists


def _has_moments(row: Row) -> bool:
    return row.run_at is not None or row.is_suspended


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
