"""The text of an error, which is user code: its ``__str__`` may raise anything."""

from __future__ import annotations

from ._contained import catch_errors
from ._task_info import LONGEST_TEXT


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, or a text that says what its ``__str__`` raised."""
    with catch_errors() as caught:
        return str(error)
    return f"its text could not be had: {type(caught.error).__name__}"


def line_of(error: BaseException) -> str:
    """Return the class of an error and the first line of its text, cut at 4,000 characters."""
    text = text_of(error).partition("\n")[0][:LONGEST_TEXT]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
