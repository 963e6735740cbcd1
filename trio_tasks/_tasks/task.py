"""A task: its args, which the handler is given, and its parts, which are everything else; and a builder of tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar, cast, final, get_args

from .._checks import check_count, check_moment, check_name, check_seconds, check_several
from .._clock import moment_at, seconds_until, wall_after
from .._printing import escaped, quoted, value_shown
from .call import Call
from .extensions import NO_METADATA, Extensions, Metadata
from .outcome import Killed, Status
from .task_id import TaskId
from .task_info import NOTHING_KNOWN, PastAttempt

if TYPE_CHECKING:
    from .errors import AbortError
    from .outcome import Failed, Released, Retried
    from .retry import RetryPolicy

A_co = TypeVar("A_co", covariant=True)
A = TypeVar("A")

OnConflict = Literal["skip", "replace", "update", "raise"]
UniqueUntil = Literal["start", "end", "forgotten"]
Inherit = Literal["inherit"]


@final
class Attempt(int):
    """The number of an attempt, counted from 1; 0 for a task that was never started. It is an ``int``."""

    __slots__ = ()


_FIRST_ATTEMPTS = tuple(map(Attempt, range(32)))


def attempt_number(number: int) -> Attempt:
    """Return ``Attempt(number)``; small numbers share one object each."""
    return _FIRST_ATTEMPTS[number] if 0 <= number < 32 else Attempt(number)


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """The options that a task was made with; they never change. Durations are in seconds.

    A ``deadline`` of ``math.inf`` is none, whatever the storage says of tasks without one.
    """

    attempts: int | None = None
    timeout: float | None = None
    priority: int = 0
    delay: float = 0.0
    unique: str | None = None
    on_conflict: OnConflict = "skip"
    expires_in: float | None = None
    name: str | None = None
    retry_for: float | None = None
    unique_until: UniqueUntil = "end"
    unique_for: float | None = None
    key: str | None = None
    deadline: float | Inherit | None = None


USUAL_TERMS = Terms()


class Holder(Protocol):
    """The holder of a running task: the slot of a worker, whose attempt a backend can cancel."""

    @property
    def worker(self) -> str:
        """The name of the worker."""
        ...

    def revoke(self, outcome: Killed | Released) -> bool:
        """Cancel the attempt that is under way; ``outcome`` becomes its outcome. False if it is over already."""
        ...

    def current_line(self) -> str:
        """The line at which the attempt waits just now."""
        ...


@final
class Parts:
    """Everything that belongs to a task except its args.

    ``id``, ``attempt``, ``status`` and ``run_at`` are kept up to date by the backend; ``context`` is the backend's
    own: a :class:`StoredTaskInfo` for a task that was looked up, a :class:`Lease` in an attempt on a stored storage;
    both have the ``history`` of earlier attempts; ``holder`` is the slot that runs the task; ``is_orphan`` says that
    the attempt before this one was lost, with its worker or its lease; ``unfit`` is why it is not attempted: a
    ``SuspendError`` if another version of the program may be able to read it, else the error with which it fails. To
    read, not to change: use the backend's verbs.

    ``pushed``, ``started`` and ``finished`` are seconds since the epoch, by the storage's clock: when it was pushed,
    when the latest attempt began (its claim, on a stored storage), when it ended for good. Each is None as long as that
    has not happened; :attr:`pushed_at` and the like are the same as datetimes. ``deadline``, by the same clock, is when
    the task is killed unless it is finished by then; None if it has no deadline. In an attempt at a task that has one,
    ``cancel_at`` is the same moment by trio's clock.

    A copy, or a pickled one, says the same of the task, and is in no worker's hands: it has no ``context`` of a backend
    and no ``holder``; a pickled one has no extensions either. Parts, and tasks, are equal to themselves alone.
    """

    __slots__ = (
        "_extensions",
        "attempt",
        "cancel_at",  # the deadline by trio's clock, of a task that has one, in an attempt or in memory
        "context",
        "deadline",
        "finished",
        "holder",
        "id",
        "is_orphan",
        "metadata",
        "policy",
        "position",  # of a task in memory, among those in the same state
        "pushed",
        "run_at",
        "started",
        "status",
        "terms",
        "unfit",
        "waits_since",
    )

    def __init__(
        self,
        id: str | None = None,
        *,
        attempt: Attempt = _FIRST_ATTEMPTS[0],
        terms: Terms = USUAL_TERMS,
        metadata: Metadata = NO_METADATA,
        extensions: Extensions | None = None,
    ) -> None:
        self.id: TaskId = TaskId.new() if id is None else id if type(id) is TaskId else TaskId(id)
        self.attempt: Attempt = attempt
        self.status: Status = Status.Pending
        self.run_at: datetime | None = None
        self.pushed: float | None = None
        self.started: float | None = None
        self.finished: float | None = None
        self.deadline: float | None = None
        self.cancel_at: float
        self.position: int
        self.policy: RetryPolicy  # of the function that the task is for, if it has one
        self.terms: Terms = terms
        self.metadata: Metadata = metadata
        self.context: Any = NOTHING_KNOWN
        self.holder: Holder | None = None
        self.is_orphan = False
        self.unfit: BaseException | None = None
        self.waits_since = 0.0
        self._extensions: Extensions | None = extensions

    @property
    def extensions(self) -> Extensions:
        """Typed values that travel with the task inside this process, and are never stored."""
        if self._extensions is None:
            self._extensions = Extensions()
        return self._extensions

    @property
    def has_extensions(self) -> bool:
        """True if the task has extensions; unlike ``extensions``, this creates no object."""
        return bool(self._extensions)

    @property
    def name(self) -> str | None:
        """The name of the kind of task; None if it has none."""
        return self.terms.name

    @property
    def pushed_at(self) -> datetime | None:
        """The moment at which it was pushed, in UTC; None if it was not yet."""
        return None if self.pushed is None else moment_at(self.pushed)

    @property
    def started_at(self) -> datetime | None:
        """The moment at which the latest attempt began, in UTC; None if there was none."""
        return None if self.started is None else moment_at(self.started)

    @property
    def finished_at(self) -> datetime | None:
        """The moment at which it was done, failed or killed, in UTC; None if it is unfinished."""
        return None if self.finished is None else moment_at(self.finished)

    @property
    def deadline_at(self) -> datetime | None:
        """The moment of its deadline, in UTC; None if it has none."""
        return None if self.deadline is None else moment_at(self.deadline)

    @property
    def attempts(self) -> int | None:
        """The number of attempts that the task may have; None leaves it to the worker's retry policy."""
        return self.terms.attempts

    @property
    def timeout(self) -> float | None:
        """Seconds that one attempt may take; None for no limit."""
        return self.terms.timeout

    @property
    def priority(self) -> int:
        """The priority; tasks with a higher one are received first, 0 is the default."""
        return self.terms.priority

    @property
    def delay(self) -> float:
        """Seconds from the push until the task is ready; 0 if it is ready at once or has a ``run_at``."""
        return self.terms.delay

    @property
    def seconds_to_wait(self) -> float:
        """Seconds until the task is ready if it is pushed now, by its delay or its ``run_at``."""
        if self.run_at is None or self.terms.delay:
            return self.terms.delay
        return seconds_until(self.run_at)

    @property
    def unique(self) -> str | None:
        """The unique key, which no other task may have at the same time; None if there is none."""
        return self.terms.unique

    @property
    def unique_until(self) -> UniqueUntil:
        """The end of the time for which the task holds its unique key, if ``unique_for`` is None."""
        return self.terms.unique_until

    @property
    def unique_for(self) -> float | None:
        """Seconds from the push for which the unique key is held, whatever becomes of the task; None for
        ``unique_until``.
        """
        return self.terms.unique_for

    @property
    def on_conflict(self) -> OnConflict:
        """The rule for a push when another task has the unique key."""
        return self.terms.on_conflict

    @property
    def expires_in(self) -> float | None:
        """Seconds from the push after which the task is not started any more; None for no limit."""
        return self.terms.expires_in

    @property
    def key(self) -> str | None:
        """The key of the group to which the task belongs, such as the name of a tenant; None if it has none."""
        return self.terms.key

    @property
    def retry_for(self) -> float | None:
        """Seconds from the begin of the first attempt after which errors are not retried; None for no limit."""
        return self.terms.retry_for

    def again(self, attempt: int) -> Parts:
        """Make new parts for the next attempt, after this many attempts; the old parts stay as they are."""
        again = Parts(
            self.id,
            attempt=attempt_number(attempt),
            terms=self.terms,
            metadata=self.metadata,
            extensions=self._extensions,
        )
        again.pushed, again.started = self.pushed, self.started
        if self.deadline is not None:
            again.deadline, again.cancel_at = self.deadline, getattr(self, "cancel_at", math.inf)
        return again

    def copy(self) -> Parts:
        """Make a copy that shows the task and cannot be settled."""
        copy = self.again(self.attempt)
        copy.status, copy.run_at, copy.context = self.status, self.run_at, self.context
        copy.is_orphan, copy.unfit, copy.finished = self.is_orphan, self.unfit, self.finished
        return copy

    def __copy__(self) -> Parts:
        extensions = self._extensions and copy(self._extensions)
        return _parts_again(*self._fields(extensions))

    def __deepcopy__(self, memo: dict[int, Any]) -> Parts:
        return copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the parts without what belongs to this process: context, holder and extensions."""
        return _parts_again, self._fields(None)

    def _fields(self, extensions: Extensions | None) -> tuple[Any, ...]:
        """All that is the same in a copy, as arguments of :func:`_parts_again`."""
        times = self.pushed, self.started, self.finished, self.deadline
        return self.id, self.attempt, self.status, self.run_at, self.terms, self.metadata, times, extensions

    def __repr__(self) -> str:
        return f"<Parts of {escaped(self.id)}: {self.status.value}, attempt {self.attempt}>"


def failed_attempt(
    parts: Parts,
    outcome: Retried | Failed | Killed,
    now: float,
    line_of: Callable[[BaseException], str],
    traceback_of: Callable[[BaseException], str],
) -> PastAttempt:
    """Make the entry of the history for an attempt that has failed now."""
    became, error = type(outcome).__name__.lower(), outcome.error
    worker, version = getattr(parts.holder, "worker", None), getattr(parts.holder, "version", None)
    seconds = None if parts.started is None else max(0.0, now - parts.started)
    told = line_of(error), seconds, traceback_of(error), version
    return PastAttempt(int(parts.attempt), now, worker, became, *told)


def end_attempt(parts: Parts, error: AbortError) -> bool:
    """Cancel the attempt under way, which is then settled as killed by this error. One that has not begun is settled so
    without a call of the handler. False if it is over, and only being settled.
    """
    if parts.holder is not None:
        return parts.holder.revoke(Killed(error))
    parts.unfit = error
    return True


def _parts_again(
    task_id: TaskId,
    attempt: Attempt,
    status: Status,
    run_at: datetime | None,
    terms: Terms,
    metadata: Metadata,
    times: tuple[float | None, ...] = (),
    extensions: Extensions | None = None,
) -> Parts:
    """Make parts again from a copy or a pickle."""
    parts = Parts(task_id, attempt=attempt, terms=terms, metadata=metadata, extensions=extensions)
    parts.status, parts.run_at = status, run_at
    parts.pushed, parts.started, parts.finished, parts.deadline = (*times, None, None, None, None)[:4]
    return parts


@final
class Task(Generic[A_co]):
    """A unit of work: args for the handler, and parts.

    Args:
      args: the args that the handler receives.
      parts: everything else; new parts by default.
    """

    __slots__ = ("args", "parts")

    def __init__(self, args: A_co, parts: Parts | None = None) -> None:
        if parts is None:
            parts = _parts_of(args) if type(args) is Call else Parts()
        elif not isinstance(parts, Parts):
            raise TypeError(f"Task(args, parts) takes Parts, not {quoted(parts)}; use TaskBuilder(args) to set options")
        self.args: A_co = args
        self.parts: Parts = parts

    @staticmethod
    def builder(args: A) -> TaskBuilder[A]:
        """Return a :class:`TaskBuilder` for these args."""
        return TaskBuilder(args)

    def with_metadata(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Task[A_co]:
        """A copy of the task with these values added to its metadata: for a function of ``on_push``."""
        task = copy(self)
        task.parts.metadata = Metadata({**self.parts.metadata, **(values or {}), **more})
        return task

    def __copy__(self) -> Task[A_co]:
        return Task(self.args, copy(self.parts))

    def __repr__(self) -> str:
        parts = self.parts
        return f"<Task {escaped(parts.id)} {value_shown(self.args)}: {parts.status.value}, attempt {parts.attempt}>"


class TaskOptions(TypedDict, total=False):
    """The keyword options of ``push``; its docstring describes their types, units and defaults.

    Each is the method of :class:`TaskBuilder` of that name (``delay`` is ``run_after``).
    """

    id: str
    """The name of the task. Default: made, ordered by time."""
    attempts: int
    """The number of attempts that the task may have. Default: what the worker's retry policy says."""
    retry_for: float
    """Seconds from the begin of the first attempt after which errors are not retried. Default: no limit."""
    timeout: float
    """Seconds that an attempt may take. Default: no limit."""
    priority: int
    """Tasks with a higher one are received first. Default: 0."""
    delay: float
    """Seconds from now until the task is ready. Default: 0."""
    run_at: datetime
    """The moment, with a time zone, from which on the task is ready. Default: at once."""
    key: str
    """The key of the group to which the task belongs, such as the name of a tenant. Default: none."""
    metadata: Mapping[str, Any]
    """Plain values, stored with the task. Default: empty."""
    data: Iterable[object]
    """Values for attempts in this process, one of each type; not stored. Default: none."""
    unique: str
    """A key that at most one task holds at a time. Default: no key."""
    unique_until: UniqueUntil
    """How long the task holds the key: until its ``"start"``, its ``"end"`` (the default), or it is ``"forgotten"``."""
    unique_for: float
    """Seconds for which the key is held, instead of ``unique_until``."""
    on_conflict: OnConflict
    """For a key that is taken: ``"skip"`` (the default), ``"replace"``, ``"update"`` or ``"raise"``."""
    expires_in: float
    """Seconds after which a task that has not begun is killed. Default: never."""
    deadline: float | Inherit | None
    """Seconds after which the task is killed, begun or not; ``"inherit"``: the deadline of the caller. Default: None,
    unless the storage says otherwise."""


@final
class TaskBuilder(Generic[A]):
    """A builder of tasks: call its methods to set options, then :meth:`build`. Each method but the last returns the
    builder.

    >>> TaskBuilder("my-task").id("task-123").attempts(3).timeout(30).run_in_minutes(10).build()
    <Task task-123 <str>: Pending, attempt 0>

    Every wrong value is refused where it is given. A builder may build several tasks: each has an id of its own,
    unless one was set.
    """

    __slots__ = ("_args", "_base", "_changed", "_data", "_id", "_metadata", "_run_at")

    def __init__(self, args: A) -> None:
        self._args = args
        self._id: TaskId | None = None
        self._run_at: datetime | None = None
        self._metadata = NO_METADATA
        self._data: list[object] = []
        self._base = USUAL_TERMS
        self._changed: dict[str, Any] = {}  # terms other than those of the base: to make Terms costs as much as a push
        if type(args) is Call:
            self._take(options_of(args))

    def _take(self, other: TaskBuilder[Any]) -> None:
        """Set the options of another builder."""
        self._id, self._run_at, self._base, self._changed = other._id, other._run_at, other._terms, {}
        self._metadata, self._data = other._metadata, other._data.copy()

    @property
    def _terms(self) -> Terms:
        """The terms as they are set now."""
        if self._changed:
            changed, self._changed = self._changed, {}
            self._base = Terms(**changed) if self._base is USUAL_TERMS else replace(self._base, **changed)
        return self._base

    def _with(self, **terms: Any) -> TaskBuilder[A]:
        self._changed.update(terms)
        return self

    def id(self, task_id: str) -> TaskBuilder[A]:
        """Set the id of the task. A backend refuses an id that it knows already."""
        self._id = TaskId(task_id)
        return self

    def attempts(self, attempts: int) -> TaskBuilder[A]:
        """Set how many attempts this task may have, the first included; this overrides the worker's retry policy."""
        return self._with(attempts=check_count(attempts, "attempts"))

    def retry_for(self, seconds: float) -> TaskBuilder[A]:
        """Set the seconds from the begin of the first attempt after which an error is not retried: the task has failed
        then, even if it has attempts left. A running attempt is not cut short by it.
        """
        return self._with(retry_for=check_seconds(seconds, "retry_for", positive=True))

    def timeout(self, seconds: float) -> TaskBuilder[A]:
        """Set the seconds that one attempt may take; after that it is cancelled, and fails with
        ``trio.TooSlowError``.
        """
        return self._with(timeout=check_seconds(seconds, "timeout", positive=True))

    def priority(self, priority: int) -> TaskBuilder[A]:
        """Set the priority: tasks with a higher one are received first; 0 is the default."""
        return self._with(priority=check_count(priority, "priority", minimum=None))

    def run_in_seconds(self, seconds: float) -> TaskBuilder[A]:
        """Delay the task until this many seconds after its push."""
        self._run_at = None
        return self._with(delay=check_seconds(seconds, "the delay"))

    run_after = run_in_seconds

    def run_in_minutes(self, minutes: float) -> TaskBuilder[A]:
        """Delay the task until this many minutes after its push."""
        return self.run_in_seconds(check_seconds(minutes, "minutes") * 60)

    def run_in_hours(self, hours: float) -> TaskBuilder[A]:
        """Delay the task until this many hours after its push."""
        return self.run_in_seconds(check_seconds(hours, "hours") * 3600)

    def run_at(self, moment: datetime) -> TaskBuilder[A]:
        """Delay the task until this moment, a datetime with a time zone. One that has passed means at once."""
        self._run_at = check_moment(moment, "run_at")
        return self._with(delay=0.0)

    def key(self, key: str) -> TaskBuilder[A]:
        """Set the key of the group to which the task belongs, such as the name of a tenant: any text. ``list_tasks``
        and the verbs for many tasks find tasks by it.
        """
        return self._with(key=check_name(key, "key"))

    def metadata(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> TaskBuilder[A]:
        """Add plain values that are stored with the task, by name."""
        if values is not None and not isinstance(values, Mapping):
            raise TypeError(f"metadata must be a mapping from names to plain values, not {type(values).__name__}")
        added = Metadata(values, **more)
        self._metadata = Metadata({**self._metadata, **added}) if self._metadata else added
        return self

    def data(self, *values: object) -> TaskBuilder[A]:
        """Add values that attempts in this process find by their type; they are not stored.
        ``task.parts.extensions[Tracer]``.
        """
        self._data.extend(values)
        return self

    def unique(
        self,
        key: str,
        *,
        on_conflict: OnConflict = "skip",
        until: UniqueUntil | None = None,
        seconds: float | None = None,
    ) -> TaskBuilder[A]:
        """Set a unique key: at most one task holds it at a time.

        Args:
          key: any text.
          on_conflict: the behaviour of a push while another task has the key: ``"skip"`` leaves that one in place and
              returns its id; ``"replace"`` kills that one if it still waits (one that is running goes on, and is killed
              only where it would have to run again); ``"update"`` gives that one, if it still waits, the args, the
              time, the priority and all other options of this task, but ``data``; it keeps its id and its attempts, and
              its place if it stays ready with the same priority (one that is running is left in place, as by
              ``"skip"``); ``"raise"`` raises :exc:`DuplicateTaskError`. A task that is finished, and still holds the
              key, is neither replaced nor updated: that is then the same as ``"skip"``.
          until: the end of the time for which the task holds the key: ``"start"``, when a worker takes it for the
              first time (it does not hold the key again while it is retried, released or suspended); ``"end"``, when it
              is finished; ``"forgotten"``, when it is finished and not remembered any more. Default: ``"end"``.
          seconds: the seconds from the push for which the key is held instead, whatever becomes of the task in that
              time, and not longer, even if the task still waits.
        """
        check_name(key, "unique")
        if on_conflict not in get_args(OnConflict):
            raise ValueError(f"on_conflict must be 'skip', 'replace', 'update' or 'raise', not {quoted(on_conflict)}")
        if until is not None and seconds is not None:
            raise ValueError("give unique() an until or seconds, not both: each says how long the key is held")
        until = "end" if until is None else check_until(until, "until")
        seconds = None if seconds is None else check_seconds(seconds, "seconds", positive=True)
        return self._with(unique=key, on_conflict=on_conflict, unique_until=until, unique_for=seconds)

    def expires_in(self, seconds: float) -> TaskBuilder[A]:
        """Set the seconds after the push at which the task is killed if it has not started.

        It counts whether the task is delayed or not, so it must be more than the delay; :meth:`build` and the push
        refuse it otherwise. Once started, it does not expire any more.
        """
        return self._with(expires_in=check_seconds(seconds, "expires_in", positive=True))

    def deadline(self, seconds: float | Inherit | None) -> TaskBuilder[A]:
        """Set the seconds after the push at which the task is killed, with :exc:`DeadlineError`, unless it is finished.

        Unlike ``expires_in`` it holds for the whole life of the task: while it waits, in whatever attempt, and in each
        attempt, which is cancelled then. It must be more than the delay; :meth:`build` and the push refuse it
        otherwise.

        Args:
          seconds: more than 0; or ``"inherit"`` for what is left until the deadline of the trio task that pushes,
              ``trio.current_effective_deadline()``, if there is one; or None for no deadline, also where the storage
              says ``deadline="inherit"``.
        """
        return self._with(deadline=_check_option_deadline(seconds))

    def _set_options(self, options: TaskOptions, taker: str) -> TaskBuilder[A]:
        """Set options by the keywords of ``push``; errors call what takes them ``taker``."""
        if "delay" in options and "run_at" in options:
            raise TypeError(f"give {taker} a delay or a run_at, not both")
        for name, value in options.items():
            if name == "data":
                self.data(*check_several(cast("Iterable[object]", value), "data", "values, such as [tracer]"))
            elif name != "unique" and name not in _KEY_OPTIONS:
                getattr(self, "run_after" if name == "delay" else name)(value)
        if "unique" in options or not options.keys().isdisjoint(_KEY_OPTIONS):
            self._set_key(options)
        return self

    def _set_key(self, options: TaskOptions) -> None:
        """Set the unique key, and what is about it; what is not given stays as it is."""
        terms = self._terms
        if "unique" not in options and terms.unique is not None:
            options = {**options, "unique": terms.unique}
        _check_key_options(options)
        until, seconds = options.get("unique_until"), options.get("unique_for")
        if until is None and seconds is None:
            until, seconds = (terms.unique_until, None) if terms.unique_for is None else (None, terms.unique_for)
        on_conflict = options.get("on_conflict", terms.on_conflict)
        self.unique(cast("str", options.get("unique")), on_conflict=on_conflict, until=until, seconds=seconds)

    def _with_filled(self, filled: Mapping[str, str]) -> TaskBuilder[A]:
        """Return a copy with this key, and this unique key; how long that is held, and the behaviour on a conflict are
        those of this builder.
        """
        other = copy(self)
        if "unique" in filled:
            other._set_key({"unique": filled["unique"]})
        return other.key(filled["key"]) if "key" in filled else other

    def build(self) -> Task[A]:
        """Make the task; push it to store it.

        Raises:
          ValueError: it would expire, or its deadline be over, before it is ready.
        """
        return Task(self._args, self._make_parts())

    def _make_parts(self) -> Parts:
        """Make the parts of a task with these options."""
        terms = self._terms
        check_ends(terms, terms.delay)
        parts = Parts(
            self._id,
            terms=terms,
            metadata=self._metadata,
            extensions=Extensions(*self._data) if self._data else None,
        )
        parts.run_at = wall_after(terms.delay) if terms.delay else self._run_at
        return parts

    def __copy__(self) -> TaskBuilder[A]:
        other = TaskBuilder(self._args)
        other._take(self)
        return other

    def __repr__(self) -> str:
        return f"<TaskBuilder for {value_shown(self._args)}>"


def check_ends(terms: Terms, delay: float) -> None:
    """Check that a task is ready before it expires, and before a deadline that was given in seconds."""
    if terms.expires_in is not None and delay >= terms.expires_in:
        raise ValueError(
            f"expires_in must be more than the delay, which is {delay:g} s, and not {terms.expires_in:g} s: the task "
            "would expire before it is ready"
        )
    if isinstance(terms.deadline, float) and delay >= terms.deadline:
        raise ValueError(
            f"deadline must be more than the delay, which is {delay:g} s, and not {terms.deadline:g} s: the task would "
            "be killed before it is ready"
        )


def _check_option_deadline(value: object) -> float | Inherit:
    """Check a deadline as it is given, and return it as it is kept in :class:`Terms`."""
    if value is None:
        return math.inf
    if value == "inherit":
        return "inherit"
    if isinstance(value, str):
        raise ValueError(f"deadline must be a number of seconds, 'inherit' or None, not {quoted(value)}")
    if value == math.inf:
        raise ValueError("deadline must be a finite number of seconds, not inf: deadline=None stands for no deadline")
    return check_seconds(value, "deadline", positive=True)


def check_until(value: object, name: str) -> UniqueUntil:
    """Check the end of the time for which a unique key is held."""
    if value not in get_args(UniqueUntil):
        raise ValueError(f"{name} must be 'start', 'end' or 'forgotten', not {quoted(value)}")
    return cast("UniqueUntil", value)


_KEYWORDS = frozenset(TaskOptions.__annotations__)
_KEY_OPTIONS = {
    "on_conflict": "what push does when the unique key is taken",
    "unique_until": "how long the task holds the unique key",
    "unique_for": "for how many seconds the unique key is held",
}
"""The options that belong to a unique key, and what each says."""


def _check_key_options(options: TaskOptions) -> None:
    """Raise if an option of a unique key is wrong, or there is no key."""
    for name, meaning in _KEY_OPTIONS.items():
        if name in options and "unique" not in options:
            raise TypeError(f"{name} needs unique=: it says {meaning}")
    if "unique_until" in options and "unique_for" in options:
        raise ValueError(
            "give push a unique_until or a unique_for, not both: unique_for holds the unique key for so many seconds, "
            "whatever becomes of the task"
        )
    if "unique_until" in options:
        check_until(options["unique_until"], "unique_until")
    if "unique_for" in options:
        check_seconds(options["unique_for"], "unique_for", positive=True)


def builder_for(name: str, options: Any) -> TaskBuilder[None]:
    """Return a builder of tasks of this name, with these options: those of a function.

    Raises:
      TypeError, ValueError: the value of an option is wrong.
    """
    builder = TaskBuilder(None)._set_options(options, "the function")  # pyright: ignore[reportPrivateUsage]  # it is in this module
    return builder._with(name=name)  # pyright: ignore[reportPrivateUsage]  # it is in this module


def options_of(call: Any) -> TaskBuilder[Any]:
    """Return a builder with the options that a Call brings along, the name of the task among them."""
    builder: TaskBuilder[Any] = builder_for(call.name, call.options) if call.builder is None else call.builder
    return builder if call.filled is None else builder._with_filled(call.filled)  # pyright: ignore[reportPrivateUsage]  # it is in this module


def _parts_of(call: Any) -> Parts:
    return options_of(call)._make_parts()  # pyright: ignore[reportPrivateUsage]  # it is in this module


def make_task(args: A, options: TaskOptions, sink: object = None) -> Task[A]:
    """Make a task from the keywords of ``push``.

    Args:
      args: the args of the task.
      options: the keywords.
      sink: the storage on which ``push`` was called: errors give the name of its class.

    Raises:
      TypeError, ValueError: an option is unknown, or its value is none; the message says what would be right.
    """
    if not options:
        return Task(args)
    if not options.keys() <= _KEYWORDS:
        check_options(options, "push" if sink is None else f"{type(sink).__name__}.push")
    builder = TaskBuilder(args)
    builder._set_options(options, "push")  # pyright: ignore[reportPrivateUsage]  # it is in this module
    return builder.build()


def task_maker(options: TaskOptions) -> Callable[[Any], Task[Any]]:
    """Return a function that makes a task from args, as :func:`make_task` does with these options, which
    :func:`options_for_many` has checked. What tasks can share is made once.
    """
    if not options:
        return Task
    builder = TaskBuilder(None)._set_options(options, "push")  # pyright: ignore[reportPrivateUsage]  # it is in this module

    def make(args: Any) -> Task[Any]:
        if type(args) is Call:  # which brings options of its own
            return make_task(args, options)
        return Task(args, builder._make_parts())  # pyright: ignore[reportPrivateUsage]  # the same

    return make


def check_options(options: TaskOptions, taker: str, *, without: Collection[str] = ()) -> None:
    """Raise TypeError if one of the options is unknown, or is among those that ``taker`` does without."""
    known = _KEYWORDS.difference(without)
    if unknown := options.keys() - known:
        raise TypeError(f"{taker} has no option {quoted(min(unknown))}; it takes {', '.join(sorted(known))}")


def options_for_many(options: TaskOptions, sink: object = None) -> TaskOptions:
    """Check options that are to be used for several tasks pushed on ``sink``, and return them.

    Raises:
      TypeError, ValueError: an option is wrong, or is one that only a single task can have.
    """
    if "id" in options:
        raise TypeError(
            "push_bulk and push_stream take no id, which only one task can have: use push or push_task for each"
        )
    if "data" in options:
        options = {**options, "data": check_several(options["data"], "data", "values, such as [tracer]")}
    make_task(None, options, sink)
    return options
