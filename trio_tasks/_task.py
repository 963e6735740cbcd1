"""A task: what the handler is given (args), and all the rest (parts)."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, final

from ._clock import seconds_until
from ._extensions import NO_METADATA, Extensions, Metadata
from ._printing import escaped, quoted, value_shown
from ._task_id import TaskId
from ._task_info import NOTHING_KNOWN

if TYPE_CHECKING:
    from datetime import datetime

    from ._outcome import Killed, Released
    from ._task_builder import TaskBuilder

A_co = TypeVar("A_co", covariant=True)
A = TypeVar("A")

OnConflict = Literal["skip", "replace", "raise"]


@final
class Status(Enum):
    """Where a task is in its life."""

    Pending = "Pending"
    """Waiting in the backend: ready, delayed, to be retried, or suspended."""
    Queued = "Queued"
    """Claimed for a slot, and not begun. This lasts until the event loop comes to the slot, and is seen in the process
    of that worker only. Other processes see ``Running`` from the claim on: a note of the beginning would be a second
    write for each task."""
    Running = "Running"
    """In an attempt."""
    Done = "Done"
    """Finished with a result."""
    Failed = "Failed"
    """Its attempts are used up. Readable until vacuumed."""
    Killed = "Killed"
    """Aborted for good. Readable until vacuumed."""

    @property
    def is_final(self) -> bool:
        """Whether a task of this status will not run again by itself."""
        return self in _FINAL


_FINAL = frozenset((Status.Done, Status.Failed, Status.Killed))


@final
class Attempt(int):
    """Which run of the handler this is, counted from 1; 0 for a task that was never started. It is an ``int``."""

    __slots__ = ()


_FIRST_ATTEMPTS = tuple(map(Attempt, range(32)))


def attempt_number(number: int) -> Attempt:
    """``Attempt(number)``, made once for each small number."""
    return _FIRST_ATTEMPTS[number] if 0 <= number < 32 else Attempt(number)


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What was asked for when the task was made; it never changes. Durations are in seconds."""

    attempts: int | None = None
    timeout: float | None = None
    priority: int = 0
    delay: float = 0.0
    unique: str | None = None
    on_conflict: OnConflict = "skip"
    expires_in: float | None = None


USUAL_TERMS = Terms()


class Holder(Protocol):
    """Whoever has a task in hand: the seat of a worker, to which a backend can say that the attempt must end."""

    @property
    def worker(self) -> str:
        """The name of the worker."""
        ...

    def revoke(self, outcome: Killed | Released) -> bool:
        """Cancel the attempt that is under way; ``outcome`` becomes its outcome. False if it is over already."""
        ...

    def whereabouts(self) -> str:
        """The line at which the attempt waits just now."""
        ...


@final
class Parts:
    """All of a task but its args.

    ``id``, ``attempt``, ``status`` and ``run_at`` are kept up to date by the backend; ``context`` is the backend's
    own, and of a task that our storages gave out it has the ``history`` of earlier attempts; ``holder`` is who has the
    task in hand; ``is_orphan`` says that the attempt before this one was lost, with its worker or its lease; ``unfit``
    is why it is not attempted: a ``SuspendError`` if another version of the program may be able to read it, else the
    error with which it fails. To read, not to change: use the backend's verbs.

    A copy, or a pickled one, says the same of the task, and is in nobody's hands: it has no ``context`` of a backend
    and no ``holder``; a pickled one has no extensions either. Parts, and tasks, are equal to themselves alone.
    """

    __slots__ = (
        "_extensions",
        "attempt",
        "context",
        "holder",
        "id",
        "is_orphan",
        "metadata",
        "run_at",
        "status",
        "terms",
        "unfit",
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
        self.terms: Terms = terms
        self.metadata: Metadata = metadata
        self.context: Any = NOTHING_KNOWN
        self.holder: Holder | None = None
        self.is_orphan = False
        self.unfit: BaseException | None = None
        self._extensions: Extensions | None = extensions

    @property
    def extensions(self) -> Extensions:
        """Typed values that travel with the task inside this process, and are never stored."""
        if self._extensions is None:
            self._extensions = Extensions()
        return self._extensions

    @property
    def has_extensions(self) -> bool:
        """Whether there are any; asking does not make the container."""
        return bool(self._extensions)

    @property
    def attempts(self) -> int | None:
        """How many attempts the task may have; None leaves it to the worker's retry policy."""
        return self.terms.attempts

    @property
    def timeout(self) -> float | None:
        """How long one attempt may take, in seconds; None for no limit."""
        return self.terms.timeout

    @property
    def priority(self) -> int:
        """Higher goes first; 0 unless asked for."""
        return self.terms.priority

    @property
    def delay(self) -> float:
        """Seconds that it is to wait from when it is pushed; 0 if it is to be ready at once, or by ``run_at``."""
        return self.terms.delay

    @property
    def seconds_to_wait(self) -> float:
        """Seconds from now until it is to be ready, if it is pushed now: by its delay, or else by ``run_at``."""
        if self.run_at is None or self.terms.delay:
            return self.terms.delay
        return seconds_until(self.run_at)

    @property
    def unique(self) -> str | None:
        """The key that no other unfinished task may have; None for no such claim."""
        return self.terms.unique

    @property
    def on_conflict(self) -> OnConflict:
        """What pushing does while another task has the unique key."""
        return self.terms.on_conflict

    @property
    def expires_in(self) -> float | None:
        """Seconds from when it is pushed, after which it is not to be started any more; None for never."""
        return self.terms.expires_in

    def again(self, attempt: int) -> Parts:
        """Fresh parts, after so many attempts: those of the last one stay as they were, for who still holds them."""
        return Parts(
            self.id,
            attempt=attempt_number(attempt),
            terms=self.terms,
            metadata=self.metadata,
            extensions=self._extensions,
        )

    def copy(self) -> Parts:
        """The same once more, in nobody's hands: to be shown, and not to be settled."""
        copy = self.again(self.attempt)
        copy.status, copy.run_at, copy.context = self.status, self.run_at, self.context
        copy.is_orphan, copy.unfit = self.is_orphan, self.unfit
        return copy

    def __copy__(self) -> Parts:
        extensions = self._extensions and copy(self._extensions)
        return _parts_again(self.id, self.attempt, self.status, self.run_at, self.terms, self.metadata, extensions)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parts:
        return copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what belongs to this process: context, holder and extensions."""
        return _parts_again, (self.id, self.attempt, self.status, self.run_at, self.terms, self.metadata)

    def __repr__(self) -> str:
        return f"<Parts of {escaped(self.id)}: {self.status.value}, attempt {self.attempt}>"


def _parts_again(
    task_id: TaskId,
    attempt: Attempt,
    status: Status,
    run_at: datetime | None,
    terms: Terms,
    metadata: Metadata,
    extensions: Extensions | None = None,
) -> Parts:
    """Make a copy, or a pickled one, again."""
    parts = Parts(task_id, attempt=attempt, terms=terms, metadata=metadata, extensions=extensions)
    parts.status, parts.run_at = status, run_at
    return parts


@final
class Task(Generic[A_co]):
    """A unit of work.

    Args:
      args: what the handler is given.
      parts: all the rest; made afresh if not given.
    """

    __slots__ = ("args", "parts")

    def __init__(self, args: A_co, parts: Parts | None = None) -> None:
        if parts is None:
            parts = Parts()
        elif not isinstance(parts, Parts):
            raise TypeError(f"a task's parts must be Parts, not {quoted(parts)}; TaskBuilder(args) makes both")
        self.args = args
        self.parts: Parts = parts

    @staticmethod
    def builder(args: A) -> TaskBuilder[A]:
        """A :class:`TaskBuilder` for these args."""
        from ._task_builder import TaskBuilder

        return TaskBuilder(args)

    def __copy__(self) -> Task[A_co]:
        return Task(self.args, copy(self.parts))

    def __repr__(self) -> str:
        parts = self.parts
        return f"<Task {escaped(parts.id)} {value_shown(self.args)}: {parts.status.value}, attempt {parts.attempt}>"
