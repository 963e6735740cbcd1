"""Making tasks: fluently, or by keywords."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar, cast, final

from ._checks import check_count, check_moment, check_name, check_seconds, check_several
from ._clock import wall_after
from ._extensions import Extensions, Metadata
from ._printing import quoted, value_shown
from ._task import USUAL_TERMS, OnConflict, Parts, Task
from ._task_id import TaskId

A = TypeVar("A")


class TaskOptions(TypedDict, total=False):
    """The keywords of ``push``: each is the method of :class:`TaskBuilder` of that name (``delay`` is ``run_after``).

    ``metadata`` takes a mapping; ``data`` takes an iterable of values, one of each type.
    """

    id: str
    attempts: int
    timeout: float
    priority: int
    delay: float
    run_at: datetime
    metadata: Mapping[str, Any]
    data: Iterable[object]
    unique: str
    on_conflict: OnConflict
    expires_in: float


@final
class TaskBuilder(Generic[A]):
    """Describe a task, then :meth:`build` it. Each method but the last returns the builder.

    >>> TaskBuilder("my-task").id("task-123").attempts(3).timeout(30).run_in_minutes(10).build()
    <Task task-123 <str>: Pending, attempt 0>

    Every wrong value is refused where it is given. A builder may build several tasks: each has an id of its own,
    unless one was set.
    """

    __slots__ = ("_args", "_data", "_id", "_metadata", "_run_at", "_terms")

    def __init__(self, args: A) -> None:
        self._args = args
        self._id: TaskId | None = None
        self._run_at: datetime | None = None
        self._metadata: dict[str, Any] = {}
        self._data: list[object] = []
        self._terms = USUAL_TERMS

    def _with(self, **terms: Any) -> TaskBuilder[A]:
        self._terms = replace(self._terms, **terms)
        return self

    def id(self, task_id: str) -> TaskBuilder[A]:
        """Name the task. A backend refuses an id that it knows already."""
        self._id = TaskId(task_id)
        return self

    def attempts(self, attempts: int) -> TaskBuilder[A]:
        """How many attempts this task may have, the first included; it goes before the worker's retry policy."""
        return self._with(attempts=check_count(attempts, "attempts"))

    def timeout(self, seconds: float) -> TaskBuilder[A]:
        """How long one attempt may take; then it is cancelled, and counts as failed with ``trio.TooSlowError``."""
        return self._with(timeout=check_seconds(seconds, "timeout", positive=True))

    def priority(self, priority: int) -> TaskBuilder[A]:
        """Higher goes first; 0 is usual, and less than that gives way."""
        return self._with(priority=check_count(priority, "priority", minimum=None))

    def run_in_seconds(self, seconds: float) -> TaskBuilder[A]:
        """Not to be started before so many seconds have passed since it was pushed."""
        self._run_at = None
        return self._with(delay=check_seconds(seconds, "the delay"))

    run_after = run_in_seconds

    def run_in_minutes(self, minutes: float) -> TaskBuilder[A]:
        """Not to be started before so many minutes have passed since it was pushed."""
        return self.run_in_seconds(check_seconds(minutes, "minutes") * 60)

    def run_in_hours(self, hours: float) -> TaskBuilder[A]:
        """Not to be started before so many hours have passed since it was pushed."""
        return self.run_in_seconds(check_seconds(hours, "hours") * 3600)

    def run_at(self, moment: datetime) -> TaskBuilder[A]:
        """Not to be started before this moment, which must have a time zone. One that has passed means at once."""
        self._run_at = check_moment(moment, "run_at")
        return self._with(delay=0.0)

    def metadata(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> TaskBuilder[A]:
        """Notes to travel and be stored with the task."""
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(f"metadata must be a mapping from names to plain values, not {type(values).__name__}")
        self._metadata.update(Metadata(values, **more))
        return self

    def data(self, *values: object) -> TaskBuilder[A]:
        """Values for this process only, found by their type: ``task.parts.extensions[Tracer]``."""
        self._data.extend(values)
        return self

    def unique(self, key: str, *, on_conflict: OnConflict = "skip") -> TaskBuilder[A]:
        """At most one unfinished task of this key at a time.

        Args:
          key: any text.
          on_conflict: what pushing does while another task has the key: ``"skip"`` leaves that one in place and
              returns its id; ``"replace"`` kills that one if it still waits (one that is running goes on, and is killed
              only where it would have to run again); ``"raise"`` raises :exc:`DuplicateTaskError`.
        """
        check_name(key, "unique")
        if on_conflict not in ("skip", "replace", "raise"):
            raise ValueError(f"on_conflict must be 'skip', 'replace' or 'raise', not {quoted(on_conflict)}")
        return self._with(unique=key, on_conflict=on_conflict)

    def expires_in(self, seconds: float) -> TaskBuilder[A]:
        """Do not start it when so many seconds have passed since it was pushed: it is killed in that moment.

        It counts whether the task is delayed or not, so it must be more than the delay. Once started, it does not
        expire any more.
        """
        return self._with(expires_in=check_seconds(seconds, "expires_in", positive=True))

    def build(self) -> Task[A]:
        """The task, which nobody knows of yet: push it."""
        parts = Parts(
            self._id,
            terms=self._terms,
            metadata=Metadata(self._metadata),
            extensions=Extensions(*self._data) if self._data else None,
        )
        parts.run_at = wall_after(self._terms.delay) if self._terms.delay else self._run_at
        return Task(self._args, parts)

    def __copy__(self) -> TaskBuilder[A]:
        other = TaskBuilder(self._args)
        other._id, other._run_at, other._terms = self._id, self._run_at, self._terms
        other._metadata, other._data = self._metadata.copy(), self._data.copy()
        return other

    def __repr__(self) -> str:
        return f"<TaskBuilder for {value_shown(self._args)}>"


_KEYWORDS = frozenset(TaskOptions.__annotations__)


def make_task(args: A, options: TaskOptions) -> Task[A]:
    """A task from the keywords of ``push``.

    Raises:
      TypeError, ValueError: an option is unknown, or its value is none; the message says what would be right.
    """
    if not options:
        return Task(args)
    unknown = options.keys() - _KEYWORDS
    if unknown:
        raise TypeError(f"push has no option {quoted(min(unknown))}; it takes {', '.join(sorted(_KEYWORDS))}")
    if "delay" in options and "run_at" in options:
        raise TypeError("give push a delay or a run_at, not both")
    if "on_conflict" in options and "unique" not in options:
        raise TypeError("on_conflict says what to do about a unique key: give push unique= as well")
    builder = TaskBuilder(args)
    for name, value in options.items():
        if name == "data":
            builder.data(*check_several(cast("Iterable[object]", value), "data", "values, such as [tracer]"))
        elif name == "unique":
            builder.unique(cast("str", value), on_conflict=options.get("on_conflict", "skip"))
        elif name != "on_conflict":
            getattr(builder, "run_after" if name == "delay" else name)(value)
    return builder.build()


def options_for_many(options: TaskOptions) -> TaskOptions:
    """The same options, checked beforehand, to be used for several tasks.

    Raises:
      TypeError, ValueError: an option is wrong, or is one that only a single task can have.
    """
    if "id" in options:
        raise TypeError("several tasks cannot have one id: build them one by one, and push_task them")
    if "data" in options:
        options = {**options, "data": check_several(options["data"], "data", "values, such as [tracer]")}
    make_task(None, options)
    return options
