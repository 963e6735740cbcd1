"""Lists of tasks: the filters that select tasks, the pages in which they are listed, and the cursors between pages.

Every storage lists in one order, so a cursor says in which section of the list its page ended, and the sort key of the
last task there. A row keeps its section and its key for as long as it stays in its state.
"""

from __future__ import annotations

import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypedDict, TypeVar, cast, final

from .._checks import check_count, check_flag, check_moment, check_stored_text, check_text
from .._clock import seconds_until
from .._printing import quoted
from .._tasks.outcome import Status
from .._tasks.task_info import StoredTaskInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from typing_extensions import Unpack

    from .._tasks.task import Task, Terms

T = TypeVar("T")

WINDOW = 20_000
"""Rows that are looked at for one page, at most, if there is a filter that no index serves."""


class TaskFilters(TypedDict, total=False):
    """The keyword filters of ``list_tasks`` and of the verbs for many tasks; a task has to pass all that are given."""

    name: str
    """The name of the kind of task."""
    key: str
    """The key of the group to which the task belongs."""
    worker: str
    """The name of the worker that runs the task, or ran it last."""
    unique: str
    """The unique key of the task."""
    metadata: Mapping[str, Any]
    """Values that the metadata of the task must have under these names; it may have others besides."""
    pushed_after: datetime
    """The moment, with a time zone, at or after which the task was pushed."""
    pushed_before: datetime
    """The moment, with a time zone, before which the task was pushed."""
    delayed: bool
    """True: only tasks that wait for their time. False: only tasks that are ready."""


@final
class Page(list[T]):
    """A list of tasks, and the cursor of the page that follows it.

    Attributes:
      next: the value of ``after=`` with which the list goes on; None if this is its end.
      is_partial: True if the search was cut short: it has looked at 20,000 tasks for this page, and the page may have
          fewer than ``limit`` although more tasks match. ``next`` goes on from there.
    """

    __slots__ = ("is_partial", "next")

    def __init__(self, tasks: Iterable[T] = (), *, next: str | None = None, is_partial: bool = False) -> None:
        super().__init__(tasks)
        self.next = next
        self.is_partial = is_partial

    def __repr__(self) -> str:
        return f"Page({super().__repr__()}, next={self.next!r}, is_partial={self.is_partial!r})"


class Position(NamedTuple):
    """A place in a list: after the row with this sort key, in this section."""

    section: int
    key: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """The tasks that a list is about: their status, and the filters that they pass. Times are seconds since the epoch.

    ``until`` leaves out tasks that were finished later, or, where they are unfinished, were pushed later: so work on
    many tasks comes to an end while new ones arrive.
    """

    status: Status | None = None
    name: str | None = None
    key: str | None = None
    worker: str | None = None
    unique: str | None = None
    metadata: Mapping[str, Any] | None = None
    pushed_after: float | None = None
    pushed_before: float | None = None
    delayed: bool | None = None
    until: float = math.inf

    @classmethod
    def of(cls, status: Status | None, filters: Mapping[str, Any]) -> Selection:
        """Check a status and keyword filters.

        Raises:
          TypeError, ValueError: one of them is none; the message says what would be right.
        """
        if status is not None and not isinstance(status, Status):
            raise TypeError(f"status must be a Status, such as Status.Pending, not {quoted(status)}")
        checked: dict[str, Any] = {}
        for filter_name, value in filters.items():
            check = _CHECKS.get(filter_name)
            if check is None:
                raise TypeError(f"{filter_name!r} is no filter of tasks; those are {', '.join(_CHECKS)}")
            if value is not None:
                checked[filter_name] = check(value, filter_name)
        if "delayed" in checked and status not in (None, Status.Pending):
            raise ValueError(f"delayed is about tasks that wait, which those of status {status} do not")
        return cls(Status.Pending if "delayed" in checked else status, **checked)

    @property
    def is_filtered(self) -> bool:
        """True if there are filters that no index serves."""
        given = self.name, self.key, self.worker, self.unique, self.metadata, self.pushed_after, self.pushed_before
        return self.until < math.inf or any(each is not None for each in given)

    @property
    def needs_terms(self) -> bool:
        """True if the terms and the metadata of a task have to be known."""
        return self.key is not None or self.unique is not None or self.metadata is not None

    def takes(self, name: str | None, worker: str | None, pushed: float | None, finished: float | None) -> bool:
        """Return True if a task passes the filters by name, worker and times."""
        came = pushed if finished is None else finished
        return (
            (came is None or came <= self.until)
            and (self.name is None or self.name == name)
            and (self.worker is None or self.worker == worker)
            and (self.pushed_after is None or (pushed is not None and pushed >= self.pushed_after))
            and (self.pushed_before is None or (pushed is not None and pushed < self.pushed_before))
        )

    def takes_terms(self, terms: Terms, metadata: Mapping[str, Any]) -> bool:
        """Return True if a task passes the filters by key, unique key and metadata."""
        return (
            (self.key is None or self.key == terms.key)
            and (self.unique is None or self.unique == terms.unique)
            and all(name in metadata and metadata[name] == value for name, value in (self.metadata or {}).items())
        )

    def cursor(self, position: Position, *, newest_first: bool) -> str:
        """Return the text from which :meth:`position` makes this position again."""
        fields = [self._mark(newest_first), position.section, *position.key]
        return urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")

    def position(self, cursor: str, *, newest_first: bool) -> Position:
        """Return the position at which a page of this list ended.

        Raises:
          ValueError: the cursor is not of this list.
        """
        check_text(cursor, "after")
        with suppress(ValueError, UnicodeError):
            fields = cast("list[Any]", json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
            if type(fields) is list and len(fields) > 2:
                mark, section, *key = fields
                if mark == self._mark(newest_first) and type(section) is int and all(map(_is_number, key)):
                    return Position(section, tuple(key))
        raise wrong_cursor(cursor)

    def _mark(self, newest_first: bool) -> str:
        """Return characters that tell this list from those with another status, other filters, or another order."""
        metadata = self.metadata and sorted((name, repr(value)) for name, value in self.metadata.items())
        times = self.pushed_after, self.pushed_before
        texts = self.name, self.key, self.worker, self.unique
        told = self.status, texts, metadata, times, self.delayed, newest_first
        return blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def wrong_cursor(cursor: object) -> ValueError:
    """Return the error for a cursor that is not of the list."""
    return ValueError(
        "after must be the `next` of a page of the same list: of the same storage, with the same status, filters and "
        f"order; {quoted(cursor)} is not"
    )


def _is_number(value: object) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))


def _check_metadata(value: Any, name: str) -> Mapping[str, Any]:
    names: Any = value
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in names):
        raise TypeError(f"{name} must be a mapping from names to values, not {quoted(names)}")
    return dict(names)


def _check_time(value: object, name: str) -> float:
    return check_moment(value, name).timestamp()


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "name": check_stored_text,
    "key": check_stored_text,
    "worker": check_stored_text,
    "unique": check_stored_text,
    "metadata": _check_metadata,
    "pushed_after": _check_time,
    "pushed_before": _check_time,
    "delayed": check_flag,
}
assert _CHECKS.keys() == TaskFilters.__annotations__.keys()


CHANGED_AT_ONCE = 500
"""Tasks that one transaction of a verb for many tasks changes, at most."""
SLACK = 0.002
"""Seconds that the moment at which a stored task was finished may be ahead of the clock: those of one transaction
differ by a microsecond each. More would change tasks that were finished after the call began."""
_DEAD = (Status.Failed, Status.Killed)
_STATUSES: dict[str, tuple[tuple[Status, ...], tuple[Status, ...]]] = {
    "retry_all": (_DEAD, (Status.Done, *_DEAD)),
    "cancel_all": ((Status.Pending,), (Status.Pending,)),
    "discard_all": ((Status.Done, *_DEAD), (Status.Done, *_DEAD)),
    "vacuum": ((Status.Done, *_DEAD), (Status.Done, *_DEAD)),
}
"""For each verb for many tasks: the statuses that it is about, if none is given; and those that may be given."""


def selections(
    verb: str,
    status: Status | None,
    filters: Mapping[str, Any],
    now: float,
    older_than: float = 0.0,
    *,
    slack: float = 0.0,
) -> list[Selection]:
    """Check the arguments of a verb for many tasks; return a selection for each status that it is about.

    Args:
      verb: the name of the method.
      status: of the tasks; None: all that the verb is about.
      filters: as for ``list_tasks``.
      now: the time, by the clock by which tasks are pushed and finished.
      older_than: seconds for which the tasks must have been finished.
      slack: seconds that the moment at which a task was finished may be ahead of the clock.

    Raises:
      TypeError, ValueError: one of them is wrong; the message says what would be right.
    """
    usual, possible = _STATUSES[verb]
    if filters.get("delayed") is not None and Status.Pending not in possible:
        names = ", ".join(each.name for each in possible)
        raise ValueError(f"delayed is about tasks that wait, and {verb} about those of the status {names}")
    selection = Selection.of(status, filters)
    if selection.status is not None and selection.status not in possible:
        names = ", ".join(each.name for each in possible)
        raise ValueError(f"{verb} is about tasks of the status {names}, not {selection.status.name}")
    until = now - older_than if older_than > 0 else now + slack
    statuses = usual if selection.status is None else (selection.status,)
    return [replace(selection, status=each, until=until) for each in statuses]


@final
@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for a page of a list: from where it goes on, and how long it is at most."""

    selection: Selection
    newest_first: bool
    after: Position | None
    limit: int

    @classmethod
    def of(
        cls, status: Status | None, filters: Mapping[str, Any], *, newest_first: bool, after: str | None, limit: int
    ) -> PageRequest:
        """Check the arguments of ``list_tasks``.

        Raises:
          TypeError, ValueError: one of them is wrong; the message says what would be right.
        """
        check_count(limit, "limit")
        check_flag(newest_first, "newest_first")
        selection = Selection.of(status, filters)
        position = None if after is None else selection.position(after, newest_first=newest_first)
        return cls(selection, newest_first, position, limit)

    def page(self, found: Found[T]) -> Page[T]:
        """Return the page of what was found."""
        newest_first = self.newest_first
        cursor = None if found.next is None else self.selection.cursor(found.next, newest_first=newest_first)
        return Page(found.rows, next=cursor, is_partial=found.is_partial)


@final
@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The rows that were found for a page; the position from which the search goes on; and whether it was cut short."""

    rows: list[T]
    next: Position | None = None
    is_partial: bool = False


def find_page(rows: Iterable[tuple[Position, T]], limit: int, takes: Callable[[T], bool] | None) -> Found[T]:
    """Choose the first rows that pass, with a look at :data:`WINDOW` of them at most.

    Args:
      rows: each with its position, in the order of the list.
      limit: the number of rows to choose.
      takes: returns True if a row passes the filters; None: every row does, and any number of them is looked at.
    """
    chosen: list[T] = []
    last: Position | None = None
    for looked, (position, row) in enumerate(rows, start=1):
        if takes is None or takes(row):
            if len(chosen) == limit:
                return Found(chosen, last)
            chosen.append(row)
            last = position
        if takes is not None and looked >= WINDOW:
            return Found(chosen, position, is_partial=True)
    return Found(chosen)


def _is_delayed(task: Task[Any]) -> bool:
    run_at = task.parts.run_at
    return run_at is not None and seconds_until(run_at) > 0


def make_page(
    tasks: Iterable[tuple[Sequence[float], Task[T]]],
    status: Status | None = None,
    *,
    newest_first: bool = False,
    after: str | None = None,
    limit: int = 100,
    **filters: Unpack[TaskFilters],
) -> Page[Task[T]]:
    """Make a page of the tasks of a backend that can afford to go through all of them.

    Args:
      tasks: each with its sort key: numbers, by which they are put in order. Those of a task must stay the same for as
          long as it stays in its state.
      status: as for :meth:`~trio_tasks.ListTasks.list_tasks`, and so are the others.
    """
    request = PageRequest.of(status, filters, newest_first=newest_first, after=after, limit=limit)
    selection, begins_after = request.selection, None if request.after is None else request.after.key

    def takes(task: Task[T]) -> bool:
        parts = task.parts
        worker = parts.context.worker if isinstance(parts.context, StoredTaskInfo) else None
        return selection.takes(parts.name, worker, parts.pushed, parts.finished) and (
            selection.takes_terms(parts.terms, parts.metadata)
        )

    rows = sorted(((tuple(key), task) for key, task in tasks), key=lambda each: each[0], reverse=newest_first)
    listed = (
        (Position(0, key), task)
        for key, task in rows
        if selection.status in (None, task.parts.status)
        and (selection.delayed is None or selection.delayed == _is_delayed(task))
        and (begins_after is None or (key < begins_after if newest_first else key > begins_after))
    )
    return request.page(find_page(listed, limit, takes if selection.is_filtered else None))
