"""Random damage to bytes, decided by a seed."""

from __future__ import annotations

from random import Random

_TELLING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x9f\xff",
    b"\xbf\xff",
    b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xf6",
    b"\xc1",
)
"""What ends, begins or means something in CBOR."""


def corrupted(data: bytes, random: Random) -> bytes:
    """Return nearly the same bytes."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        data = random.choice((_flip, _cut, _cut_out, _repeat, _put_in, _overwrite, _swap))(data, random)
    return data


def _flip(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _piece(data: bytes, random: Random) -> tuple[int, int]:
    begin = random.randint(0, len(data))
    return begin, min(len(data), begin + random.choice((1, 2, 4, 16, 200)))


def _cut_out(data: bytes, random: Random) -> bytes:
    begin, end = _piece(data, random)
    return data[:begin] + data[end:]


def _repeat(data: bytes, random: Random) -> bytes:
    begin, end = _piece(data, random)
    return data[:end] + data[begin:end] * random.choice((1, 1, 3)) + data[end:]


def _put_in(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    new = random.choice(_TELLING) if random.random() < 0.6 else random.randbytes(random.randint(1, 9))
    return data[:at] + new + data[at:]


def _overwrite(data: bytes, random: Random) -> bytes:
    begin, end = _piece(data, random)
    return data[:begin] + random.randbytes(end - begin) + data[end:]


def _swap(data: bytes, random: Random) -> bytes:
    begin, end = _piece(data, random)
    further = random.randint(end, len(data))
    return data[:begin] + data[end:further] + data[begin:end] + data[further:]
