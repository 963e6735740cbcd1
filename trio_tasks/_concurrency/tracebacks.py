"""Tracebacks without local variables, so that a stored error does not keep a handler's objects alive."""

from __future__ import annotations

import linecache
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, NamedTuple

import outcome
import trio

from .._logging import catch_errors, line_of
from .._printing import escaped
from .exception_groups import attribute_of, is_a, members_of

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import CodeType, FrameType


LONGEST_TEXT = 4096
"""Bytes that the text of a traceback has, at most."""
_FIRST_FRAMES, _LAST_FRAMES = 4, 12
_MOST_ERRORS = 8
"""Errors that are told of at most: those behind an error, and those in a group."""
_LONGEST_LINE = 200
_MACHINERY = tuple(
    str(Path(file).parent) + os.sep for file in (trio.__file__, outcome.__file__, str(Path(__file__).parent)) if file
)


class FramePlace(NamedTuple):
    """The place of one frame of a traceback."""

    file: str
    function: str
    first_line: int
    line: int
    module: str | None


def traceback_text(error: BaseException) -> str:
    """The traceback of an error as a text of 4 KiB at most: for each frame its file, line, function and source line.

    Frames of trio and of this library are left out where they come before the first other one. Of the errors behind an
    error, and of those in a group, there are a few; of frames that are too many, the first and the last. An error whose
    attributes raise has none.
    """
    with catch_errors():
        texts: list[str] = []
        _tell(error, "", texts, set())
        text = "".join(texts).encode("utf-8", "backslashreplace")
        if len(text) > LONGEST_TEXT:
            half = LONGEST_TEXT // 2 - 8
            text = text[:half] + b"\n  ...\n" + text[-half:]
        return text.decode("utf-8", "ignore")
    return ""


def _tell(error: BaseException, link: str, texts: list[str], seen: set[int]) -> None:
    """Add the text of an error, after that of the one behind it; ``link`` says what it is to the one before."""
    if id(error) in seen or len(seen) >= _MOST_ERRORS:
        return
    seen.add(id(error))
    cause, context = attribute_of(error, "__cause__"), attribute_of(error, "__context__")
    if cause is not None:
        _tell(cause, "", texts, seen)
        texts.append("\nThe above exception was the direct cause of the following exception:\n\n")
    elif context is not None and not attribute_of(error, "__suppress_context__"):
        _tell(context, "", texts, seen)
        texts.append("\nDuring handling of the above exception, another exception occurred:\n\n")
    texts.append(f"{link}Traceback (most recent call last):\n")
    texts += _lines_of(attribute_of(error, "__traceback__"))
    texts.append(f"{line_of(error)[:_LONGEST_LINE]}\n")
    if is_a(error, BaseExceptionGroup):
        for number, member in enumerate(members_of(error), start=1):
            _tell(member, f"\nIn the group, number {number}: ", texts, seen)


def _lines_of(traceback: TracebackType | None) -> list[str]:
    places: list[tuple[CodeType, int]] = []
    while traceback is not None:
        places.append((traceback.tb_frame.f_code, traceback.tb_lineno or 0))
        traceback = traceback.tb_next
    first = next((i for i, (code, _) in enumerate(places) if not code.co_filename.startswith(_MACHINERY)), 0)
    places = places[first:]
    left_out = len(places) - _FIRST_FRAMES - _LAST_FRAMES
    if left_out <= 0:
        return [_line(*place) for place in places]
    told = [_line(*place) for place in places[:_FIRST_FRAMES]]
    return [*told, f"  ... {left_out} more ...\n", *(_line(*place) for place in places[-_LAST_FRAMES:])]


def _line(code: CodeType, line: int) -> str:
    place = f'  File "{escaped(code.co_filename)}", line {line}, in {escaped(code.co_name)}\n'
    source = linecache.getline(code.co_filename, line).strip()[:_LONGEST_LINE]
    return f"{place}    {source}\n" if source else place


def drop_locals(error: BaseException) -> None:
    """Replace the tracebacks of an error, its group members, causes and contexts by equal ones without live frames.

    ``traceback.clear_frames`` would not do: it closes coroutines that are suspended, such as one that has caught the
    error and goes on.
    """
    seen: set[int] = set()
    unseen = [error]
    while unseen:
        each = unseen.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        with catch_errors():  # an error's class may have its own attributes of these names
            unseen += [behind for behind in (each.__context__, each.__cause__) if behind is not None]
            if is_a(each, BaseExceptionGroup):
                unseen += each.exceptions
            BaseException.with_traceback(each, _bare(each.__traceback__))


def _bare(traceback: TracebackType | None) -> TracebackType | None:
    return traceback_of(places_of(traceback))


def places_of(traceback: TracebackType | None) -> list[FramePlace]:
    """Return the places of the frames of a traceback."""
    places: list[FramePlace] = []
    while traceback is not None:
        frame, line = traceback.tb_frame, traceback.tb_lineno
        code, module = frame.f_code, frame.f_globals.get("__name__")
        known = module if type(module) is str else None
        places.append(
            FramePlace(code.co_filename, code.co_name, code.co_firstlineno, line or code.co_firstlineno, known)
        )
        traceback = traceback.tb_next
    return places


def traceback_of(places: list[FramePlace]) -> TracebackType | None:
    """Make a traceback of these places, whose frames never ran."""
    bare: TracebackType | None = None
    for place in reversed(places):
        frame = _frame_like(place.file, place.function, place.first_line, place.module)
        bare = TracebackType(bare, frame, -1, place.line)  # -1: column marks would belong to other code
    return bare


def _never_run() -> Generator[None, None, None]:
    yield


@lru_cache(maxsize=1024)  # a handler that fails often fails at the same lines
def _frame_like(file: str, name: str, first_line: int, module: str | None) -> FrameType:
    """Make a frame with this name and file that never ran. A generator's frame has no caller, and so keeps no
    others.
    """
    named = _never_run.__code__.replace(co_filename=file, co_name=name, co_firstlineno=first_line)
    frame: FrameType = FunctionType(named, {"__name__": module})().gi_frame
    return frame
