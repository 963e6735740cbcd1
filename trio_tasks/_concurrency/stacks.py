"""The line of code at which a trio task waits or runs: the innermost one outside of trio and this package."""

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
    """Return the line at which the cancellation inside this error was raised: ``path:line in function: source``.
    ``path:line in function: source``.

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
    """Return the line at which a trio task waits now; if it waits for its children, that of the first child."""
    frames = list(task.iter_await_frames())
    place = _innermost(frames)
    if any(frame.f_globals.get("__name__") == "trio._threads" for frame, _ in frames):
        return f"a line of the thread that was begun at {place}"
    if any(_is_of_processes(frame) for frame, _ in frames):
        return f"a line of the process that was called at {place}"
    for nursery in reversed(task.child_nurseries):
        for child in nursery.child_tasks:
            if any(not frame.f_code.co_filename.startswith(_MACHINERY) for frame, _ in child.iter_await_frames()):
                return f"{place}, for its child at {current_line(child)}"
    return place


def is_in_thread(task: trio.lowlevel.Task | None) -> bool:
    """Return True if the trio task, or one of its children, waits for a thread now."""
    if task is None:
        return False
    if any(frame.f_globals.get("__name__") == "trio._threads" for frame, _ in task.iter_await_frames()):
        return True
    return any(is_in_thread(child) for nursery in task.child_nurseries for child in nursery.child_tasks)


def runs_in(task: trio.lowlevel.Task | None, frames: Collection[FrameType]) -> bool:
    """Return True if the outermost frame of the trio task, or of one of its children, is among these frames."""
    if task is None:
        return False
    if getattr(task.coro, "cr_frame", None) in frames:
        return True
    return any(runs_in(child, frames) for nursery in task.child_nurseries for child in tuple(nursery.child_tasks))


def _is_of_processes(frame: FrameType) -> bool:
    """Return True for a frame of the library that calls functions in processes, which is not installed everywhere."""
    return str(frame.f_globals.get("__name__")).startswith("trio_parallel.")


def running_line(frames: Iterable[FrameType]) -> str:
    """Return the line that runs now, from frames in order from the outermost to the innermost."""
    return _innermost((frame, frame.f_lineno) for frame in frames)


def _innermost(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the line of the innermost frame that belongs neither to trio nor to this package."""
    found: tuple[FrameType, int] | None = None
    for frame, line in frames:
        is_ours = frame.f_code.co_filename.startswith(_MACHINERY) or _is_of_processes(frame)
        if found is None or not is_ours:
            found = frame, line
    if found is None:
        return "an unknown place"
    code, line = found[0].f_code, found[1]
    source = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_name}" + (f": {source}" if source else "")
