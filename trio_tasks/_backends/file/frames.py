"""The format of a journal: a header, and then records, each in a frame with a checksum.

::

    header   magic 8 · version 2 · state 2 · salt 8 · crc32 4
    frame    salt 8 · number 8 · length 4 · crc32 4 · payload

All numbers are little-endian. The state is 0 in a journal, and 1 in an unfinished one: that is never at the path of a
journal, and so can be told from another program's file of such a name. The salt is drawn anew for each file. It marks
where a frame may begin, so that records behind damaged bytes are found again, and a frame of another journal (inside a
payload, say) is not taken for one of this. Records are numbered from 1 without a gap, so the number of missing ones is
known. The checksum covers the frame from its salt to the end of its payload.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from ..._tasks.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAGIC = b"\x89TTJ\r\n\x1a\n"  # not text, and broken by whatever takes it for text
VERSION = 1
_HEADER = Struct("<8sHH8s")
_FRAME = Struct("<8sQI")
_CRC = Struct("<I")
_IN_THE_MAKING = 1
HEADER_SIZE = _HEADER.size + _CRC.size
FRAME_SIZE = _FRAME.size + _CRC.size
LARGEST_PAYLOAD = 2**31


class Frame(NamedTuple):
    """A record that is intact."""

    number: int
    payload: bytes
    end: int
    """Where the next frame begins."""


class Damage(NamedTuple):
    """Bytes that are no intact record."""

    at: int
    content: bytes
    lost: int
    """Number of records that are missing; at the tail, at least so many."""
    is_tail: bool
    """True if no intact record follows."""


def new_salt() -> bytes:
    """The salt of a new file; without a zero byte, since reserved space reads as zeros."""
    return bytes(each or 1 for each in os.urandom(8))


def header(salt: bytes, *, in_the_making: bool = False) -> bytes:
    """The header of a journal."""
    fields = _HEADER.pack(MAGIC, VERSION, _IN_THE_MAKING if in_the_making else 0, salt)
    return fields + _CRC.pack(crc32(fields))


def is_unfinished(beginning: bytes) -> bool:
    """Return True if a file that begins with these bytes was to become a journal, and has not."""
    if len(beginning) < HEADER_SIZE:
        return False
    fields, rest = beginning[: _HEADER.size], beginning[_HEADER.size :]
    magic, _, state, _ = _HEADER.unpack(fields)
    is_whole = _CRC.unpack_from(rest)[0] == crc32(fields)
    return bool(is_whole and magic == MAGIC and state == _IN_THE_MAKING)


def frame(salt: bytes, number: int, payload: bytes) -> bytes:
    """A record, ready to be appended."""
    fields = _FRAME.pack(salt, number, len(payload))
    return b"".join((fields, _CRC.pack(crc32(payload, crc32(fields))), payload))


def read_salt(beginning: bytes, name: str, *, repair: bool) -> bytes:
    """The salt of the journal that begins with these bytes.

    Args:
      beginning: the header, and what follows it, up to the end of the first record.
      name: of the file, for the error.
      repair: whether a damaged header may be made up for by an intact first record.

    Raises:
      BackendError: it is not a journal, or one of a later version, or its header is damaged.
    """
    fields, rest = beginning[: _HEADER.size], beginning[_HEADER.size :]
    if len(beginning) >= HEADER_SIZE and _CRC.unpack_from(rest)[0] == crc32(fields):
        magic, version, state, salt = _HEADER.unpack(fields)
        if magic == MAGIC and version == VERSION:
            if state == _IN_THE_MAKING:
                raise BackendError(f"{name!r} is not a journal yet: it was to take the place of one")
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
    """All records and damages behind the header, in order, without the reserved space at the end.

    Args:
      file: a journal.
      salt: as in its header.
      position: where to begin.
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
    """The intact records from here on, as long as none is missing."""
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
    """The position of the next intact record, and its number."""
    start = data.find(salt)
    while start >= 0:
        found = _intact(data, start, salt)
        if found is not None and found.number >= at_least:
            return start, found.number
        start = data.find(salt, start + 1)
    return None


def _intact(data: bytes, start: int, salt: bytes) -> Frame | None:
    """The record that begins here, if it is one."""
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
