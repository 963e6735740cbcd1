"""Tracebacks without local variables, so that a stored error does not keep a handler's objects alive."""

from __future__ import annotations

import sys
from functools import lru_cache
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING

from .._logging import catch_errors
from .exception_groups import is_a

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import CodeType, FrameType


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
    places: list[tuple[CodeType, int, str | None]] = []
    while traceback is not None:
        frame = traceback.tb_frame
        module = frame.f_globals.get("__name__")
        places.append((frame.f_code, traceback.tb_lineno, module if type(module) is str else None))
        traceback = traceback.tb_next
    bare: TracebackType | None = None
    for code, line, module in reversed(places):
        # Instruction -1 gives no column marks: those would belong to other code.
        frame = _frame_like(code.co_filename, code.co_name, code.co_firstlineno, module)
        bare = TracebackType(bare, frame, -1, line or code.co_firstlineno)
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
