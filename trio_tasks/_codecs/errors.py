"""The errors of codecs, whose messages name the part of a value that cannot be encoded."""

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
    """An error: a value cannot be encoded. The message names the part that is wrong, and says what would be right.

    It is a ``TypeError`` as well as a ``ValueError``: what is wrong is the type of a value in some cases, and the value
    itself in others.
    """


@final
class DecodeError(ValueError):
    """An error: a payload cannot be decoded, since it is damaged, was written by another codec, or its type has
    changed.
    """


@final
class MismatchError(ValueError):
    """An internal error: a value does not fit; its text completes a sentence that begins with the place in the value.

    Args:
      text: the second half.
      path: the place, from the value that was to be encoded; None if it has yet to be found.
    """

    def __init__(self, text: str, path: str | None = None) -> None:
        super().__init__(text)
        self.path = path


def refuse(value: Any, name: str, error: Exception, attempt: Callable[[Any], object], max_depth: int) -> EncodeError:
    """Make the error for a value that cannot be encoded.

    Args:
      value: the value that cannot be encoded.
      name: the name of the value in the error.
      error: the error that encoding it raised.
      attempt: the same for any part of it; it raises for those that cannot be encoded.
      max_depth: levels that it may have.
    """
    if isinstance(error, MismatchError) and error.path is not None:
        return EncodeError(f"{_short(name + error.path)} {error}")
    try:
        path, error = _find(value, name, error, attempt, max_depth)
    except Exception:  # reading the parts of a value may raise; then name the whole value
        path = name
    if isinstance(error, RecursionError):
        return EncodeError(f"{name} is nested more than {max_depth} levels deep")
    return EncodeError(f"{_short(path)} {_reason(error)}")


def cause_of(error: BaseException | None) -> BaseException | None:
    """Return the error of the user's own code that caused this one. None if there is none, since
    errors of libraries quote values.
    """
    while error is not None:
        library = type(error).__module__.partition(".")[0]
        if library == "cbor2":
            return None
        if library != "msgspec" and not isinstance(error, MismatchError):
            return error
        error = error.__cause__
    return None


def _find(
    value: Any, path: str, error: Exception, attempt: Callable[[Any], object], max_depth: int
) -> tuple[str, Exception]:
    """Find the innermost part that cannot be encoded: its path, and the error."""
    seen = [value]
    while len(seen) <= max_depth + 1:  # enough to find the cycle in a value that contains itself
        for step, part in parts_of(value):
            try:
                attempt(part)
            except Exception as deeper:
                path += step
                if any(part is each for each in seen):
                    return path, MismatchError("contains itself, and such a value has no end")
                error, value = deeper, part
                seen.append(part)
                break
        else:
            return path, error
    return path, error


def _reason(error: Exception) -> str:
    if isinstance(error, MismatchError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return "is a text with half a surrogate pair in it, which UTF-8 does not have"
    if "keys are supported" in str(error):  # the text of msgspec's error
        return "has a key that is no text, number, date or UUID, and other keys cannot be stored: use a list of pairs"
    return f"cannot be stored: {told(error)}"


def told(error: Exception) -> str:
    """Return the text of an error, even if its ``__str__`` raises."""
    try:
        if type(error).__module__.partition(".")[0] == "cbor2":  # the text after the colon quotes keys
            return f"{type(error).__name__}: {str(error).partition(':')[0]}"
        return f"{type(error).__name__}: {error}"
    except Exception as another:
        return f"{type(error).__name__}, whose text cannot be had: {type(another).__name__}"


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """List the parts of a value, each with the step of a path that leads to it."""
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
    """Return a key as a step of a path, if it is a number or looks like a name; otherwise ``...``. Other keys may be
    private data.
    """
    text = repr(key) if key.__class__ in (str, int) else ""
    looks_harmless = len(text) <= _LONGEST_STEP and (key.__class__ is int or str(key).isidentifier())
    return text if looks_harmless else "..."


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]}…{path[-99:]}"
