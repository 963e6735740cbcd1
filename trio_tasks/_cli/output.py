"""The answer of a command, as a table or as JSON lines; its exit status; and values as texts."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast, final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

Record: TypeAlias = dict[str, Any]
"""A part of an answer: what is one object of JSON, or one row of a table."""

_DEEPEST = 50
"""Levels of nested values that are shown."""
_LONGEST_CELL = 200
_LONGEST_NOTE = 1000
"""Characters of a line of a remark."""
_PASSWORD = re.compile(r"(//[^\s:/@]*):\S*@")
_SECRET_OPTION = re.compile(r"(?i)([?&][^\s=&]*(?:pass|pwd|secret|token)[^\s=&]*=)[^\s&'\"]+")
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


class ExitStatus(IntEnum):
    """The exit status of a command."""

    DONE = 0
    """All is done."""
    PARTLY = 1
    """It was not done for all ids; or the task that was watched has failed."""
    USAGE = 2
    """The command was called in a wrong way."""
    NOT_FOUND = 3
    """There is no such store, queue or task."""
    UNHEALTHY = 4
    """The store answers, and something in it is not well."""
    OUT_OF_REACH = 5
    """The store cannot be opened, or does not answer."""
    CUT_SHORT = 6
    """``run`` interrupted work when it shut down."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """An error that ends a command, with its exit status."""

    def __init__(self, message: str, status: ExitStatus) -> None:
        super().__init__(message)
        self.status = status


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, and the text of its cell for a record.

    On a narrow terminal, texts are cut and then columns left out, as far as they allow it; ids and numbers are whole.
    """

    heading: str
    cell: Callable[[Record], str]
    is_number: bool = False
    least: int | None = None
    """Characters to which its cells may be cut; None: they are never cut."""
    leaves: int = 0
    """A number if it may be left out: the column with the largest one is the first."""


@final
class Answer:
    """Writes the answer of a command to standard output.

    Once the other end of a pipe is closed, nothing more is written, and the command goes on; one that only looks may
    end then.

    Args:
      as_json: True: a JSON object a line; False: a table or text; None: a table on a terminal, else JSON.
    """

    def __init__(self, as_json: bool | None) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.as_json = not self.is_terminal if as_json is None else as_json
        self.is_closed = False

    def write(self, text: str) -> None:
        """Write a text and the end of a line."""
        if self.is_closed:
            return
        try:
            click.echo(_encodable(text))
        except BrokenPipeError:
            self.is_closed = True
            with open(os.devnull, "wb") as nothing:  # noqa: PTH123  Python flushes the stream when it ends
                os.dup2(nothing.fileno(), sys.stdout.fileno())

    def record(self, record: Record, text: str) -> None:
        """Write a record: as JSON, or as this text."""
        self.write(as_json(record) if self.as_json else text)

    def lines(self, columns: Sequence[Column], records: Iterable[Record]) -> None:
        """Write records as texts in columns, without a heading, and without a cut at the right."""
        rows = [[printable(each.cell(record)) for each in columns] for record in records]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.write("  ".join(map(str.ljust, row, widths)).rstrip())

    def table(self, columns: Sequence[Column], records: Iterable[Record], nothing: str = "") -> None:
        """Write records: each as JSON, or all of them as a table, or a remark that there is nothing."""
        if self.as_json:
            for record in records:
                self.write(as_json(record))
            return
        drawn = draw([*columns], [*records], shutil.get_terminal_size().columns if self.is_terminal else None)
        for number, line in enumerate(drawn.lines):
            self.write(click.style(line, bold=True) if self.is_terminal and not number else line)
        if drawn.left_out:
            note(f"the terminal is too narrow for: {', '.join(drawn.left_out)}")
        if nothing and not drawn.lines:
            note(nothing)


class Drawn(NamedTuple):
    """A table as lines of text: its headings, and its rows. It has no lines if it has no rows."""

    lines: list[str]
    left_out: list[str]
    """The headings of columns for which there was no room."""


def draw(columns: list[Column], records: list[Record], room: int | None) -> Drawn:
    """Return a table of records, without columns that are empty, in so many characters a line, if possible."""
    texts = [[printable(each.cell(record)) for record in records] for each in columns]
    used = {each: cells for each, cells in zip(columns, texts, strict=True) if any(cells)}
    left_out: list[str] = []
    widths = _widths(used, room)
    while room is not None and _length(widths) > room and any(each.leaves for each in used):
        last = max(used, key=lambda each: each.leaves)
        left_out.append(last.heading)
        del used[last]
        widths = _widths(used, room)
    rows = zip(*([each.heading, *cells] for each, cells in used.items()), strict=True)
    lines = ["  ".join(_fit(cell, each, widths[each]) for cell, each in zip(row, used, strict=True)) for row in rows]
    return Drawn([line.rstrip() for line in lines], left_out)


def _widths(used: Mapping[Column, Sequence[str]], room: int | None) -> dict[Column, int]:
    """Return the width of each column: the widest ones that may be cut give way, until all is in the room."""
    from rich.cells import cell_len

    widths = {each: max(map(cell_len, [each.heading, *cells])) for each, cells in used.items()}
    least = {each: max(each.least, cell_len(each.heading)) for each in used if each.least is not None}
    widths |= {each: min(widths[each], _LONGEST_CELL) for each in least}
    while room is not None and _length(widths) > room:
        wide = [each for each in least if widths[each] > least[each]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _length(widths: Mapping[Column, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _fit(cell: str, column: Column, width: int) -> str:
    """Return a cell in this width, cut or filled up."""
    from rich.cells import cell_len, set_cell_size

    length = cell_len(cell)
    if length > width:
        return f"{set_cell_size(cell, width - 1)}…"
    blank = " " * (width - length)
    return blank + cell if column.is_number else cell + blank


def note(text: str) -> None:
    """Write a remark to standard error: without the secrets of URLs in it, and with long lines cut."""
    click.echo(_encodable("\n".join(map(_cut, without_secrets(text).split("\n")))), err=True)


def without_secrets(text: str) -> str:
    """Return a text in which the passwords of URLs are masked, and such options of theirs as ``?token=``."""
    return _SECRET_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_NOTE else f"{line[:_LONGEST_NOTE]}… ({len(line)} characters)"


# Values as JSON


def as_json(record: Record) -> str:
    """Return a record as JSON on one line, in ASCII."""
    return json.dumps(plain(record), allow_nan=False)


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value in the terms of JSON: times in ISO 8601, bytes as ``{"base64": …}``, numbers that are not finite
    and all else as texts.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    if depth >= _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        named = cast("dict[Any, Any]", value)
        return {str(name): plain(each, depth + 1) for name, each in named.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each, depth + 1) for each in cast("Sequence[Any]", value)]
    return str(value)


# Values for people


def printable(text: str) -> str:
    """Return a text on one line, with all that is not printable escaped."""
    return text if text.isprintable() else str.__repr__(text)[1:-1]


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, each of them printable."""
    return [printable(line) for line in text.splitlines()]


def _encodable(text: str) -> str:
    """Return a text that standard output can encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def span(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def leaves(errors: Iterable[Any]) -> list[BaseException]:
    """Return these errors, and in place of each group those in it."""
    found: list[BaseException] = []
    for each in errors:
        inner: Any = getattr(each, "exceptions", None)
        found += [each] if inner is None else leaves(inner)
    return found


def exactly(seconds: float) -> str:
    """Return a time that was chosen, in the largest unit of which it is a whole number."""
    for unit, size in _UNITS:
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s" if seconds < 1e6 else f"{seconds:.0f} s"


def counted(number: int, what: str = "task") -> str:
    """Return a number with the noun that it counts."""
    return f"{number} {what if number == 1 else what + ('es' if what.endswith('s') else 's')}"


def age(moment: datetime | None) -> str:
    """Return how long ago, or in what time, a moment is; empty if there is none."""
    if moment is None:
        return ""
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def moment_shown(moment: datetime) -> str:
    """Return a moment in full, and how long ago it is."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC, {age(moment)}"


def size(number: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
