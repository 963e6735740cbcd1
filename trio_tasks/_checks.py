"""Checks of arguments: each returns the value it was given, or raises an error that says what would be right."""

from __future__ import annotations

import inspect
import math
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from ._printing import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def check_seconds(value: object, name: str, *, positive: bool = False) -> float:
    """Check a number of seconds: finite, and not negative, or positive if asked."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {quoted(value)}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        finite = False
    if not finite:
        shown = repr(value) if isinstance(value, float) else f"a whole number of {value.bit_length()} bits"
        raise ValueError(f"{name} must be a finite number of seconds, not {shown}")
    if value < 0 or (positive and value == 0):
        least = "more than 0" if positive else "0 or more"
        raise ValueError(f"{name} must be {least} seconds, not {quoted(value)}")
    return float(value)


def check_deadline(value: object, name: str) -> float:
    """Check a moment on trio's clock; ``math.inf`` means never."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a moment on trio's clock, in seconds, not {value!r}")
    if value != value or value == -math.inf:
        raise ValueError(f"{name} must be a moment on trio's clock, or math.inf, not {value!r}")
    return float(value)


def check_count(value: object, name: str, *, minimum: int | None = 1) -> int:
    """Check a whole number, at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {quoted(value)}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be {minimum} or more, not {quoted(value)}")
    return value


def check_flag(value: object, name: str) -> bool:
    """Check a bool: no other value, however true, since ``"no"`` is one."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {quoted(value)}")
    return value


def check_flags(**flags: object) -> None:
    """Check several bools, by their names."""
    for name, value in flags.items():
        check_flag(value, name)


def check_error(value: object, name: str) -> None:
    """Check that the value is an exception."""
    if not issubclass(type(value), BaseException):
        raise TypeError(f"{name} must be an exception, such as ValueError('no'), not {quoted(value)}")


def check_fraction(value: object, name: str) -> float:
    """Check a number from 0 to 1, both included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number from 0 to 1, not {quoted(value)}")
    if not 0 <= value <= 1:  # NaN is refused here too
        raise ValueError(f"{name} must be a number from 0 to 1, not {quoted(value)}")
    return float(value)


def check_text(value: object, name: str) -> str:
    """Check a string that must not be empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {quoted(value)}")
    if not value:
        raise ValueError(f"{name} must not be an empty string")
    return value


_LONGEST_NAME = 1024


def check_name(value: object, name: str) -> str:
    """Check a name, an id or a key: a string that is not empty, and has at most 1 KiB in UTF-8."""
    text = check_text(value, name)
    if not text.isascii():
        check_unicode(text, name)
    if len(text) > _LONGEST_NAME // 4 and (size := len(text.encode())) > _LONGEST_NAME:
        raise ValueError(f"{name} must have 1024 bytes or less in UTF-8, not {size}")
    return text


def check_unicode(value: str, name: str) -> str:
    """Check that a string can be encoded as UTF-8: it has no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        what = "it has half of a surrogate pair"
        raise ValueError(f"{name} must be encodable as UTF-8, which {quoted(value)} is not: {what}") from None
    return value


def check_stored_text(value: object, name: str) -> str:
    """Check a text that a storage looks for: a string that is not empty, and can be encoded as UTF-8."""
    return check_unicode(check_text(value, name), name)


def check_callable(value: T, name: str, shape: str) -> T:
    """Check that the value can be called; ``shape`` tells the reader with which arguments."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, as {shape}; got {quoted(value)}")
    return value


def check_sync(value: T, name: str, shape: str) -> T:
    """Check a callable whose result is not awaited."""
    check_callable(value, name, shape)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004  it is callable; what is asked is how
        raise TypeError(
            f"{name} must be a plain function, as {shape}, since nobody awaits it; {quoted(value)} is async"
        )
    return value


def check_moment(value: object, name: str) -> datetime:
    """Check a datetime that must have a time zone."""
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime.datetime, not {quoted(value)}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone, as datetime.now(timezone.utc) has; {quoted(value)} has none")
    return value


def check_several(value: Iterable[T], name: str, of_what: str) -> tuple[T, ...]:
    """Return several values as a tuple; a text does not count as several."""
    try:
        several = tuple(value)
    except TypeError:
        several = None
    if several is None or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a list of {of_what}, not {quoted(value)}")
    return several


def check_plain(value: T, name: str, shape: str) -> T:
    """Check a callable that must return its result without being awaited."""
    check_callable(value, name, shape)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004  its kind is asked about, not whether it is there
        raise TypeError(f"{name} must be a plain function, since nobody awaits it; {value!r} is async")
    return value
