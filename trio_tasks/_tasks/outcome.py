"""The ends of an attempt: six values, and the one function that judges an error.

A group of errors is judged by its leaves. If all of them are suspensions, the task is suspended, for the longest delay.
Of the other leaves, abort beats retry-after beats deferred beats everything else; among several retry-afters the
longest delay wins. The group is kept whole as the recorded error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, cast, final, get_origin

from .._checks import check_deadline, check_error, check_seconds
from .._concurrency.exception_groups import is_a, leaves
from .._printing import escaped, quoted, value_shown
from .errors import AbortError, DeferredError, RetryAfterError, SuspendError

if TYPE_CHECKING:
    from .retry import RetryPolicy
    from .task_id import TaskId

R_co = TypeVar("R_co", covariant=True)


@final
class Status(Enum):
    """The stage of a task's life."""

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
        """True if a task of this status will not run again by itself."""
        return self in _FINAL


_FINAL = frozenset((Status.Done, Status.Failed, Status.Killed))


@final
@dataclass(frozen=True, slots=True)
class Succeeded(Generic[R_co]):
    """The outcome of an attempt whose handler returned ``result``."""

    result: R_co

    def __repr__(self) -> str:
        return f"Succeeded(result={value_shown(self.result)})"


@final
@dataclass(frozen=True, slots=True)
class Retried:
    """The outcome of an attempt that failed with ``error``; the next one follows after ``after`` seconds."""

    error: BaseException
    after: float = 0.0

    def __post_init__(self) -> None:
        check_error(self.error, "Retried.error")
        check_seconds(self.after, "Retried.after")


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """The outcome of a last attempt, which failed with ``error``: the task is a dead letter."""

    error: BaseException

    def __post_init__(self) -> None:
        check_error(self.error, "Failed.error")


@final
@dataclass(frozen=True, slots=True)
class Killed:
    """The outcome of an attempt that ends the task for good, by ``error``: the task is a dead letter."""

    error: BaseException

    def __post_init__(self) -> None:
        check_error(self.error, "Killed.error")


@final
@dataclass(frozen=True, slots=True)
class Released:
    """The outcome of an interruption: the task is put back unchanged, at no attempt. ``reason`` is for people."""

    reason: str = "interrupted"


@final
@dataclass(frozen=True, slots=True)
class Suspended:
    """The outcome of a suspension: the task is put back, at no attempt, and is ready at ``until``, or once rescheduled.

    ``until`` is a moment on trio's clock, as the deadline of a scope is; ``math.inf`` stands for "until rescheduled".
    ``reason`` is for people.
    """

    until: float
    reason: str = ""

    def __post_init__(self) -> None:
        check_deadline(self.until, "Suspended.until")


Ending = Union[Succeeded[Any], Failed, Killed]  # noqa: UP007  evaluated at run time on 3.10
Outcome = Union[Succeeded[Any], Retried, Failed, Killed, Released, Suspended]  # noqa: UP007  evaluated at run time on 3.10
OUTCOMES = (Succeeded, Retried, Failed, Killed, Released, Suspended)
ALL_OUTCOMES = "Succeeded, Retried, Failed, Killed, Released or Suspended"
"""Their names, for errors."""


@final
@dataclass(frozen=True, slots=True)
class TaskResult(Generic[R_co]):
    """The end of a task: ``result`` if its ``status`` is ``Done``, ``error`` if it is ``Failed`` or ``Killed``."""

    id: TaskId
    status: Status
    result: R_co | None = None
    error: BaseException | None = None

    @classmethod
    def of(cls, task_id: TaskId, outcome: Ending) -> TaskResult[Any]:
        """The result that this outcome is."""
        if isinstance(outcome, Succeeded):
            return TaskResult(task_id, Status.Done, outcome.result)
        status = Status.Failed if isinstance(outcome, Failed) else Status.Killed
        return TaskResult(task_id, status, error=outcome.error)

    def __repr__(self) -> str:
        result = value_shown(self.result)
        return f"TaskResult(id={self.id!r}, status={self.status}, result={result}, error={self.error!r})"

    def unwrap(self) -> R_co:
        """The result; or else the error is raised."""
        if self.error is not None:
            raise self.error
        return cast("R_co", self.result)


def typed(result: TaskResult[Any], expected: Any) -> TaskResult[Any]:
    """Return the result of a task, after comparing it with the type that the caller of ``wait_for`` has named.

    Raises:
      TypeError: it is not an instance of that class. The arguments of a generic type are not compared.
    """
    kind: Any = get_origin(expected) or expected
    if kind is None or kind is Any:
        return result
    if not isinstance(kind, type):
        raise TypeError(f"wait_for takes the class of the result, such as int, not {quoted(expected)}")
    if result.status is Status.Done and not isinstance(result.result, kind):
        found = type(result.result).__name__
        raise TypeError(f"the result of task {escaped(result.id)} is of type {found}, not {kind.__name__}")
    return result


def judge(error: BaseException, *, attempt: int, attempts: int | None, policy: RetryPolicy, now: float) -> Outcome:
    """Judge what becomes of a task whose attempt number ``attempt`` raised ``error``.

    Args:
      error: the error that the handler or a layer raised, possibly a group.
      attempt: the number of this attempt, counted from 1.
      attempts: the number of attempts that this task may have; None to leave it to the policy.
      policy: the policy for errors other than ``AbortError``, ``RetryAfterError``, ``DeferredError``, ``SuspendError``.
      now: the present time on trio's clock; a suspension counts from it.
    """
    parts = tuple(leaves(error))
    suspensions = [each for each in parts if is_a(each, SuspendError)]
    if suspensions:
        if len(suspensions) == len(parts):
            longest = max(suspensions, key=_delay_of)
            return Suspended(now + longest.delay, longest.reason)
        parts = tuple(each for each in parts if not is_a(each, SuspendError))  # the others must not go unnoticed
    if any(is_a(each, AbortError) for each in parts):
        return Killed(error)
    if attempt >= (policy.attempts if attempts is None else attempts):
        return Failed(error)
    delays = [each.delay for each in parts if is_a(each, RetryAfterError)]
    if delays:
        return Retried(error, max(delays))
    if any(is_a(each, DeferredError) for each in parts):
        return Retried(error)
    if not all(policy.allows(each) for each in parts):
        return Killed(error)
    return Retried(error, policy.delay_after(attempt))


def _delay_of(error: SuspendError) -> float:
    return error.delay
