"""The line at which a trio task is stuck: the innermost line of the user's own code, not of trio's or ours."""

from __future__ import annotations

import linecache
import os
from pathlib import Path
from typing import TYPE_CHECKING

import outcome
import trio

from .exception_groups import attribute_of, find_within

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from types import FrameType

_MACHINERY = tuple(
    str(Path(file).parent) + os.sep for file in (trio.__file__, outcome.__file__, str(Path(__file__).parent)) if file
)


def cancelled_line(error: BaseException) -> str:
    """The line at which the cancellation struck that is in this error: ``path:line in function: source``.

    That of a child goes before that of the nursery which gathered its error, if it is in the user's own code.
    """
    cancelled = find_within(error, trio.Cancelled)
    frames = [*_frames_of(error), *(_frames_of(cancelled) if cancelled is not None else ())]
    return _innermost(frames)


def _frames_of(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = attribute_of(error, "__traceback__")
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def current_line(task: trio.lowlevel.Task) -> str:
    """The line at which a trio task waits just now; if it waits for its children, that of the first of them."""
    frames = list(task.iter_await_frames())
    place = _innermost(frames)
    if any(frame.f_globals.get("__name__") == "trio._threads" for frame, _ in frames):
        return f"a line of the thread that was begun at {place}"
    for nursery in reversed(task.child_nurseries):
        for child in nursery.child_tasks:
            if any(not frame.f_code.co_filename.startswith(_MACHINERY) for frame, _ in child.iter_await_frames()):
                return f"{place}, for its child at {current_line(child)}"
    return place


def is_in_thread(task: trio.lowlevel.Task | None) -> bool:
    """Return True if a trio task waits for a thread just now, or one of its children does."""
    if task is None:
        return False
    if any(frame.f_globals.get("__name__") == "trio._threads" for frame, _ in task.iter_await_frames()):
        return True
    return any(is_in_thread(child) for nursery in task.child_nurseries for child in nursery.child_tasks)


def runs_in(task: trio.lowlevel.Task | None, frames: Collection[FrameType]) -> bool:
    """Return True if one of these frames is the outermost of a trio task, or of one of its children."""
    if task is None:
        return False
    if getattr(task.coro, "cr_frame", None) in frames:
        return True
    return any(runs_in(child, frames) for nursery in task.child_nurseries for child in tuple(nursery.child_tasks))


def running_line(frames: Iterable[FrameType]) -> str:
    """The line that runs just now, of frames from the outermost to the innermost."""
    return _innermost((frame, frame.f_lineno) for frame in frames)


def _innermost(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Of frames from the outermost to the innermost, the last that is not of trio's machinery."""
    found: tuple[FrameType, int] | None = None
    for frame, line in frames:
        if found is None or not frame.f_code.co_filename.startswith(_MACHINERY):
            found = frame, line
    if found is None:
        return "an unknown place"
    code, line = found[0].f_code, found[1]
    source = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_name}" + (f": {source}" if source else "")
