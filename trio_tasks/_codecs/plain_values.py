"""Checks of plain values, which every encoder can write. Values are checked before the encoder runs, since
cbor2 crashes the interpreter on a value that is nested too deeply.
"""

from __future__ import annotations

from datetime import datetime, time
from math import isfinite
from typing import Any

from .errors import MismatchError

LEAVES = frozenset({type(None), bool, int, float, str, bytes})
"""Classes without parts, whose values are written as they are."""

CONTAINERS = frozenset({dict, list, tuple})

LOOKED_AT = CONTAINERS | {datetime}
"""The classes that :func:`check_plain_value` checks,"""

LOOKED_AT_FOR_JSON = LOOKED_AT | {float}
"""and those if floats have to be finite."""

DEEPEST = 500
"""Levels that a codec may be told to allow: Python itself gives up at a thousand, and cbor2's encoder at some thousands
more."""


OFFSET_ADVICE = (
    "has an offset from UTC that is not a whole number of minutes, which cannot be stored: "
    "use .astimezone(timezone.utc), for example"
)


def has_odd_offset(value: datetime | time) -> bool:
    """Return True if the value's offset from UTC is not a whole number of minutes."""
    offset = value.utcoffset()
    return offset is not None and bool(offset.seconds % 60 or offset.microseconds)


def is_plain(value: Any) -> bool:
    """Return True if all parts of a decoded value are of the classes that we write; dicts have text keys only."""
    parts = [value]
    while parts:
        part = parts.pop()
        kind = part.__class__
        if kind is dict:
            if not all(key.__class__ is str for key in part):
                return False
            parts += part.values()
        elif kind in CONTAINERS:
            parts += part
        elif kind not in LEAVES and kind is not datetime:
            return False
    return True


def has_naive_datetime(value: Any) -> bool:
    """Return True if a plain value contains a datetime without a time zone."""
    parts = [value]
    while parts:
        part = parts.pop()
        kind = part.__class__
        if kind is datetime:
            if part.utcoffset() is None:
                return True
        elif kind in CONTAINERS:
            parts += part.values() if kind is dict else part
    return False


def check_plain_value(value: Any, levels: int, looked_at: frozenset[type]) -> None:
    """Raise if a plain value of a class in ``looked_at`` cannot be written.

    Raises:
      RecursionError: it has more levels than this, or no end.
      MismatchError: a datetime in it has no time zone, or a float is not finite.
    """
    kind = value.__class__
    if kind is datetime:
        if value.utcoffset() is None:
            raise MismatchError(
                "is a datetime without a time zone, whose moment depends on the machine: "
                "make it with datetime.now(timezone.utc), for example"
            )
        if has_odd_offset(value):
            raise MismatchError(OFFSET_ADVICE)
    elif kind is float:
        if not isfinite(value):
            raise MismatchError(f"is {value}, which JSON does not have: use a CborCodec, or None")
    else:
        if not levels:
            raise RecursionError("too many levels")  # the error that Python raises itself at great depths
        for each in value.values() if kind is dict else value:
            if each.__class__ in looked_at:
                check_plain_value(each, levels - 1, looked_at)


def check_untyped_value(value: Any) -> None:
    """Raise if a value contains anything but plain values; for codecs without msgspec.

    Raises:
      MismatchError: it is not.
      RecursionError: it has no end, or is nested far too deeply.
    """
    kind = value.__class__
    if kind in LEAVES:
        return
    if kind not in (dict, list):
        raise MismatchError(
            f"is of type {type(value).__name__}; without msgspec, only None, bool, int, float, str, bytes, and lists "
            "and dicts of them can be stored: install trio_tasks[sqlite] or trio_tasks[file], and give the type"
        )
    if kind is dict and any(key.__class__ is not str for key in value):
        raise MismatchError(
            "has a key that is not a string: install trio_tasks[sqlite] or trio_tasks[file], and give the type"
        )
    for each in value.values() if kind is dict else value:
        check_untyped_value(each)
