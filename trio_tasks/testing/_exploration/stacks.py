"""Functions that find the trio tasks inside a block, and the line of code at which each of them is."""

from __future__ import annotations

import contextlib
import inspect
import linecache
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import outcome
import trio

from ..._concurrency.exception_groups import is_a

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import CodeType

_TRIO = tuple(str(Path(file).parent) + os.sep for file in (trio.__file__, outcome.__file__) if file)
_OURS = str(Path(__file__).parents[2]) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_IN_BETWEEN = (contextlib.__file__,)


class Line(NamedTuple):
    """A line of code; as text, ``path:number in function: source``."""

    code: CodeType
    number: int

    def __str__(self) -> str:
        path = self.code.co_filename
        source = linecache.getline(path, self.number).strip()
        return f"{path}:{self.number} in {self.code.co_name}" + (f": {source}" if source else "")


class Place(NamedTuple):
    """The place of a trio task in the code: its name and two lines, each of which may be None.

    ``innermost`` is the innermost line outside of trio. ``own`` is the innermost line of the user's own code, which may
    be in the trio task that started this one.
    """

    task: str
    innermost: Line | None
    own: Line | None

    @property
    def line(self) -> str:
        """The line of the user's own code, or the innermost line if there is none."""
        found = self.own or self.innermost
        return "no line of Python" if found is None else str(found)

    def __str__(self) -> str:
        inside = self.innermost is not None and self.innermost != self.own and self.own is not None
        return f"{self.line}" + (f" (inside, at {self.innermost})" if inside else "")


def place_of(task: trio.lowlevel.Task) -> Place:
    """Find the place of a trio task that waits or is about to go on."""
    innermost = own = None
    for line in _lines_of(task):
        if not line.code.co_filename.startswith(_TRIO):
            innermost = line
            own = line if _is_users(line) else own
    parent: trio.lowlevel.Task | None = task
    while own is None and (parent := _parent_of(parent)) is not None:
        own = next(filter(_is_users, reversed([*_lines_of(parent)])), None)
    return Place(task.name, innermost, own)


def place_here(task: trio.lowlevel.Task) -> Place:
    """Find the place of the trio task that is taking a step now."""
    frame = inspect.currentframe()
    lines: list[Line] = []
    while frame is not None and not frame.f_code.co_filename.startswith(_TRIO):
        if lines or not frame.f_code.co_filename.startswith((_HERE, *_IN_BETWEEN)):
            lines.append(Line(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return Place(task.name, lines[0] if lines else None, next(filter(_is_users, lines), None))


def places_of_cancellation(error: BaseException) -> list[Line]:
    """The lines at which the cancellations in this error, its causes and its contexts were raised, in order.

    They are lines of the user's own code where there are any.
    """
    found: list[Line] = []
    seen: set[int] = set()

    def visit(each: BaseException | None) -> None:
        if each is None or id(each) in seen:
            return
        seen.add(id(each))
        visit(each.__context__)
        visit(each.__cause__)
        for child in each.exceptions if is_a(each, BaseExceptionGroup) else ():
            visit(child)
        if is_a(each, trio.Cancelled):
            lines = [Line(frame.f_code, number) for frame, number in traceback.walk_tb(each.__traceback__)]
            lines = [line for line in lines if not line.code.co_filename.startswith((*_TRIO, _HERE))]
            own = [*filter(_is_users, lines)]
            found.extend(own[-1:] or lines[-1:])

    visit(error)
    return list(dict.fromkeys(found))


def _lines_of(task: trio.lowlevel.Task) -> Iterator[Line]:
    """List the lines of a trio task from the outermost to the innermost."""
    if getattr(task.coro, "cr_frame", True) is None:
        return  # it has ended
    with contextlib.suppress(TypeError):  # trio does not know the innermost awaitable
        for frame, number in task.iter_await_frames():
            yield Line(frame.f_code, number)


def _is_users(line: Line) -> bool:
    path = line.code.co_filename
    machinery = [*_TRIO, _OURS, *_IN_BETWEEN]
    if (util := sys.modules.get("trio_util")) is not None and util.__file__:
        machinery.append(str(Path(util.__file__).parent) + os.sep)
    return not path.startswith(tuple(machinery))


def _parent_of(task: trio.lowlevel.Task | None) -> trio.lowlevel.Task | None:
    nursery = None if task is None else task.parent_nursery
    return None if nursery is None else nursery.parent_task


def below(task: trio.lowlevel.Task, older: Collection[trio.Nursery] = ()) -> Iterator[trio.lowlevel.Task]:
    """A trio task and all its descendants, except those in ``older`` nurseries."""
    yield task
    for nursery in task.child_nurseries:
        if nursery not in older:
            for child in nursery.child_tasks:
                yield from below(child)
