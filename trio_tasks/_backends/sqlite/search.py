"""Searches in the rows of an SQLite file: each section of a list goes along the index that holds its rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, final

from ..._contracts.listing import WINDOW, Found, Position, find_page, wrong_cursor
from ..durable.engine import State
from ..durable.search import RowFilter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..durable.engine import Query
    from .driver import Connection

_ROWS_AT_ONCE = 2_000
"""Rows that are read by one statement, where they have to be filtered here."""

UNEXPIRED = "(start_by IS NULL OR start_by > ?)"
_TIMED = "due IS NOT NULL AND state < 3"


@final
class Section(NamedTuple):
    """Rows that are listed together.

    A condition repeats that of its index, so that SQLite sees that it may be used; the ``+`` keeps the finished rows
    from being looked up by that index, not by their state."""

    state: State
    condition: str
    """Its parameters are all the time."""
    columns: tuple[str, ...]
    """Their sort key, in ascending order; the priority is the one that descends."""

    def statements(
        self, after: tuple[float, ...] | None, *, newest_first: bool
    ) -> Iterator[tuple[str, tuple[float, ...]]]:
        """Return the conditions and orders that list the rows after a key, and their parameters."""
        descends, follows = (" DESC", "<") if newest_first else ("", ">")
        order = "ORDER BY " + ", ".join(each + descends for each in self.columns)
        if self.state is not State.WAITING:
            if after is None:
                yield order, ()
            else:
                marks = ", ".join("?" * len(self.columns))
                yield f"AND ({', '.join(self.columns)}) {follows} ({marks}) {order}", after
            return
        order = f"ORDER BY priority{' ' if newest_first else ' DESC'}, order_key{descends}, seq{descends}"
        if after is None:
            yield order, ()
        else:
            priority, *others = after
            yield f"AND priority = ? AND (order_key, seq) {follows} (?, ?) {order}", (-priority, *others)
            yield f"AND priority {'>' if newest_first else '<'} ? {order}", (-priority,)


def _finished(state: State) -> tuple[Section, Section]:
    """Return the finished rows of a state: those that are kept for ever, and those that are kept until they are due."""
    condition = f"state = {state.value} AND +state > 2"
    return (
        Section(state, f"{condition} AND due IS NULL AND ? NOTNULL", ("order_key", "seq")),
        Section(state, f"{condition} AND due > ?", ("due", "order_key", "seq")),
    )


SECTIONS = (
    # Rows that are held back come first: they may become ready between two pages, and must be seen.
    Section(State.DELAYED, f"held = 1 AND +state = 1 AND {UNEXPIRED}", ("seq",)),
    Section(State.WAITING, f"state = 0 AND {UNEXPIRED}", ("priority", "order_key", "seq")),
    Section(State.DELAYED, f"state = 1 AND {_TIMED} AND +held IS NOT 1 AND {UNEXPIRED}", ("due", "seq")),
    Section(State.RUNNING, f"+state = 2 AND {_TIMED} AND ? NOTNULL", ("coalesce(started, 0.0)", "seq")),
    *_finished(State.DONE),
    *_finished(State.FAILED),
    *_finished(State.KILLED),
    # Rows that have expired, and are not killed yet.
    Section(State.KILLED, f"due <= ? AND {_TIMED} AND +state < 2 AND start_by <= ?", ("due", "seq")),
)


AGAIN = Position(len(SECTIONS), ())
"""The position of a change of many rows before the first one, once it has come to the last one."""


def asked_again(query: Query) -> tuple[Query, bool]:
    """Return the query for a page of a change; and True if the rows that wait are looked through again."""
    after = query.after
    if after is None or after.section < AGAIN.section:
        return query, False
    position = Position(after.section - AGAIN.section, after.key) if after.key else None
    waiting = [state for state in query.states if state < State.RUNNING]
    return query._replace(states=waiting, after=position), True


class SearchedRow(NamedTuple):
    """The fields of a row by which it is filtered."""

    seq: int
    id: str
    name: str | None
    worker: str | None
    pushed: float | None
    finished: float | None
    options: bytes | None


_DELAYED_OR_NOT = {True: "AND due > ?", False: "AND due <= ?"}
_HELD_OR_NOT = {True: "AND (due IS NULL OR due > ?)", False: "AND due <= ?"}
"""The same of rows that are held back: one that is due waited for the rate of its key, which has a place by now."""


def statement(section: Section, tail: str, *, delayed: bool | None = None, with_options: bool = True) -> str:
    """Return the statement that lists the rows of a section.

    Its parameters: the queue; the time, for each mark in the condition of the section; that again, if it matters
    whether the rows are delayed; those of ``tail``; a limit.
    """
    options = "options" if with_options else "NULL"
    due = "" if delayed is None else (_HELD_OR_NOT if section is SECTIONS[0] else _DELAYED_OR_NOT)[delayed]
    finished = "order_key / 1e6" if section.state > State.RUNNING else "NULL"
    return (
        f"SELECT seq, id, name, worker, pushed, {finished}, {options}, {', '.join(section.columns)} "
        f"FROM trio_tasks_task WHERE queue = ? AND {section.condition} {due} {tail} LIMIT ?"
    )


def check_position(query: Query) -> None:
    """Check that the position from which the list goes on is one in such a list.

    Raises:
      ValueError: it is not.
    """
    after = query.after
    if after is not None and not (
        0 <= after.section < len(SECTIONS) and len(after.key) == len(SECTIONS[after.section].columns)
    ):
        raise wrong_cursor(after)


def search(connection: Connection, queue: int, query: Query, now: float) -> tuple[list[int], Found[SearchedRow]]:
    """Return the keys of the rows of a page, in order; and what else is known of the page."""
    row_filter = RowFilter.of(query)
    at_once = min(query.limit + 1, WINDOW) if row_filter is None else _ROWS_AT_ONCE
    found = find_page(_listed(connection, queue, query, now, at_once), query.limit, row_filter)
    return [row.seq for row in found.rows], found


def _listed(
    connection: Connection, queue: int, query: Query, now: float, at_once: int
) -> Iterator[tuple[Position, SearchedRow]]:
    """Return the rows in the states of a query, after the position from which the list goes on."""
    after, step, delayed = query.after, -1 if query.newest_first else 1, query.selection.delayed
    for number in range(len(SECTIONS))[::step]:
        section = SECTIONS[number]
        if section.state not in query.states or (after is not None and (number - after.section) * step < 0):
            continue  # it is on the pages before, if it is listed at all
        if delayed and section.state is State.WAITING:
            continue
        key = after.key if after is not None and after.section == number else None
        asked = delayed if section.state is State.DELAYED else None
        scope = (queue, *[now] * (section.condition.count("?") + (asked is not None)))
        reader = _Reader(connection, section, scope, at_once, query, asked)
        yield from ((Position(number, key), row) for row, key in reader.rows(key))


@final
class _Reader:
    """Reads the rows of a section, by and by."""

    __slots__ = ("_arguments", "_at_once", "_connection", "_newest_first", "_scope", "_section")

    def __init__(
        self,
        connection: Connection,
        section: Section,
        scope: tuple[float, ...],
        at_once: int,
        query: Query,
        delayed: bool | None,
    ) -> None:
        self._connection = connection
        self._section = section
        self._scope = scope
        self._at_once = at_once
        self._newest_first = query.newest_first
        self._arguments: dict[str, Any] = {"delayed": delayed, "with_options": query.selection.needs_terms}

    def rows(self, after: tuple[float, ...] | None) -> Iterator[tuple[SearchedRow, tuple[float, ...]]]:
        """Return the rows after a key, each with its own."""
        length = len(SearchedRow._fields)
        while True:
            for tail, parameters in self._section.statements(after, newest_first=self._newest_first):
                sql = statement(self._section, tail, **self._arguments)
                rows = self._connection.execute(sql, (*self._scope, *parameters, self._at_once))
                for fields in rows:
                    after = self._key(fields[length:])
                    yield SearchedRow._make(fields[:length]), after
                if len(rows) == self._at_once:
                    break  # it may have more
            else:
                return

    def _key(self, values: tuple[Any, ...]) -> tuple[float, ...]:
        return (-values[0], *values[1:]) if self._section.state is State.WAITING else tuple(values)


ROWS = "SELECT seq, {columns} FROM trio_tasks_task WHERE seq IN (SELECT value FROM json_each(?))"


def rows_by_key(connection: Connection, columns: str, keys: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return these columns of the rows with these keys, in the order of the keys."""
    rows = connection.execute(ROWS.format(columns=columns), (json.dumps([*keys]),))
    by_key = {fields[0]: fields[1:] for fields in rows}
    return [by_key[key] for key in keys]
