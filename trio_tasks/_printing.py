"""Texts for logs, errors and reprs: names are escaped, options are shortened, and values of tasks are hidden."""

from __future__ import annotations

import os
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


LONGEST_TEXT = 4_000
"""Characters of an error's text that are kept."""

_LONGEST_OPTION = 100
_LONGEST_NAME = 1024
SHOW_ARGS = "TRIO_TASKS_SHOW_ARGS"
"""The environment variable that shows values, for development, if it is ``1``."""


def escaped(name: object, *, is_text: bool = False) -> str:
    """Return a name, id or key on one line: unprintable characters and backslashes are escaped, as in a string literal.

    Args:
      name: it.
      is_text: whether it is what an error says, or a reason. Then a backslash is left as it is where all prints, as in
          the path of a file.
    """
    text = str(name)
    if not text.isprintable() or ("\\" in text and not is_text):
        text = str.__repr__(text)[1:-1]
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def quoted(option: object) -> str:
    """Return the repr of an option, cut to 100 characters; its type if its repr fails."""
    try:
        text = repr(option)
    except Exception as error:
        return f"a {type(option).__name__}, whose repr raises {type(error).__name__}"
    return text if len(text) <= _LONGEST_OPTION else f"{text[: _LONGEST_OPTION - 1]}…"


def class_name(error: BaseException) -> str:
    """Return the full name of the class of an error; without the module, if it is built in or of the main program."""
    kind = type(error)
    is_plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if is_plain else f"{kind.__module__}.{kind.__qualname__}"


def value_shown(value: Any) -> str:
    """Return the type of args, a result, progress or metadata; the value too if ``TRIO_TASKS_SHOW_ARGS=1`` is set."""
    if value is None or os.environ.get(SHOW_ARGS) == "1":
        return repr(value)
    return f"<{type(value).__name__}>"


def readable(function: F) -> F:
    """Make the function's name its repr, for defaults that `help()` and editors show in signatures."""
    return cast("F", _Readable(function))


@final
class _Readable:
    """A function with a readable repr. It is pickled and copied by its name, as functions are."""

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> str:
        return self._function.__qualname__

    def __repr__(self) -> str:
        return self._function.__name__.strip("_")
