"""The errors of codecs, which name the part of a value that cannot be encoded."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SEQUENCES: tuple[type, ...] = (list, tuple, set, frozenset)
_LONGEST_STEP = 40
"""Characters of a key that are shown in a path."""


@final
class EncodeError(TypeError, ValueError):
    """A value cannot be encoded; the message names the place inside of it, and says what would be right.

    It is a ``TypeError`` as well as a ``ValueError``: what is wrong is the type of a value in some cases, and the value
    itself in others.
    """


@final
class DecodeError(ValueError):
    """A payload cannot be decoded: it is damaged, it was not written by this codec, or its type has changed since."""


@final
class Unfit(ValueError):
    """Internal: a fault of a value, as the second half of a sentence that begins with the value's place.

    Args:
      text: the second half.
      path: the place, from the value that was to be encoded; None if it has yet to be found.
    """

    def __init__(self, text: str, path: str | None = None) -> None:
        super().__init__(text)
        self.path = path


def refuse(value: Any, name: str, error: Exception, attempt: Callable[[Any], object], max_depth: int) -> EncodeError:
    """The error for a value that cannot be encoded.

    Args:
      value: what was to be encoded.
      name: what it is called.
      error: what went wrong with it.
      attempt: the same for any part of it; it raises for those that cannot be encoded.
      max_depth: levels that it may have.
    """
    if isinstance(error, Unfit) and error.path is not None:
        return EncodeError(f"{_short(name + error.path)} {error}")
    try:
        path, error = _find(value, name, error, attempt, max_depth)
    except Exception:  # a value may raise when its parts are read; then only its place is known
        path = name
    if isinstance(error, RecursionError):
        return EncodeError(f"{name} is nested more than {max_depth} levels deep")
    return EncodeError(f"{_short(path)} {_reason(error)}")


def cause_of(error: BaseException | None) -> BaseException | None:
    """The error of the user's own code behind this one. None if there is none: the libraries' errors quote values."""
    while error is not None:
        library = type(error).__module__.partition(".")[0]
        if library == "cbor2":
            return None
        if library != "msgspec" and not isinstance(error, Unfit):
            return error
        error = error.__cause__
    return None


def _find(
    value: Any, path: str, error: Exception, attempt: Callable[[Any], object], max_depth: int
) -> tuple[str, Exception]:
    """The innermost part that cannot be encoded by itself: its place, and what is wrong with it."""
    seen = [value]
    while len(seen) <= max_depth + 1:  # enough to find the cycle in a value that contains itself
        for step, part in parts_of(value):
            try:
                attempt(part)
            except Exception as deeper:
                path += step
                if any(part is each for each in seen):
                    return path, Unfit("contains itself, and such a value has no end")
                error, value = deeper, part
                seen.append(part)
                break
        else:
            return path, error
    return path, error


def _reason(error: Exception) -> str:
    if isinstance(error, Unfit):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return "is a text with half a surrogate pair in it, which UTF-8 does not have"
    if "keys are supported" in str(error):  # so says msgspec
        return "has a key that is no text, number, date or UUID, and other keys cannot be stored: use a list of pairs"
    return f"cannot be stored: {told(error)}"


def told(error: Exception) -> str:
    """The text of an error, even if its ``__str__`` raises."""
    try:
        if type(error).__module__.partition(".")[0] == "cbor2":  # it quotes keys behind the colon
            return f"{type(error).__name__}: {str(error).partition(':')[0]}"
        return f"{type(error).__name__}: {error}"
    except Exception as another:
        return f"{type(error).__name__}, whose text cannot be had: {type(another).__name__}"


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, each with the step that leads to it."""
    kind = value.__class__
    names: Any
    if issubclass(kind, dict):
        yield from ((f"[{shown_key(key)}]", part) for key, part in value.items())
    elif issubclass(kind, _SEQUENCES):
        names = getattr(kind, "_fields", None)  # of a named tuple
        for index, part in enumerate(value):
            yield (f".{names[index]}" if names else f"[{index}]"), part
    else:
        names = getattr(kind, "__struct_fields__", None)  # of a msgspec Struct
        if names is None and dataclasses.is_dataclass(kind):
            names = [field.name for field in dataclasses.fields(kind)]
        if names is None:
            names = [field.name for field in getattr(kind, "__attrs_attrs__", ())]
        yield from ((f".{name}", getattr(value, name)) for name in names or () if hasattr(value, name))


def shown_key(key: object) -> str:
    """A key as a step of a path: a number, or a text that looks like a name. Others may be private data."""
    text = repr(key) if key.__class__ in (str, int) else ""
    looks_harmless = len(text) <= _LONGEST_STEP and (key.__class__ is int or str(key).isidentifier())
    return text if looks_harmless else "..."


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}…{path[-99:]}"
