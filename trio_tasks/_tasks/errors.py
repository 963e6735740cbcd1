"""The errors of the library: those that a handler raises to decide its outcome, and those that callers catch."""

from __future__ import annotations

import math
from contextlib import suppress
from signal import Signals
from typing import TYPE_CHECKING, Any, final

from .._checks import check_seconds
from .._concurrency.exception_groups import is_a
from .._printing import escaped, quoted

if TYPE_CHECKING:
    from .task_id import TaskId


class OutcomeError(Exception):
    """The base of `AbortError`, `RetryAfterError` and `DeferredError`, by which a handler decides its outcome.

    Raise one of the three; catch this one, for example in a layer that lets all of them through. ``source`` is the
    reason: an exception, which is also its cause, or a text.
    """

    def __init__(self, source: BaseException | str) -> None:
        if not isinstance(source, (BaseException, str)):
            raise TypeError(f"{type(self).__name__}'s source must be an exception or a text, not {quoted(source)}")
        super().__init__(source)
        self.source = source
        if isinstance(source, BaseException):
            self.__cause__ = source

    def __str__(self) -> str:
        return str(self.source) or repr(self.source)


@final
class AbortError(OutcomeError):
    """Raise it from a handler to make no more attempts. The task is settled as ``Killed``.

    Args:
      source: the reason, an exception (which becomes the cause) or a text.

    Attributes:
      by_caller: True if the library has made it, since the ``call`` that had pushed the task was cancelled. The task is
        then logged at level INFO, and forgotten.
    """

    by_caller: bool = False


def withdrawn_error() -> AbortError:
    """Make the error of a task whose call was cancelled."""
    error = AbortError("its call was cancelled")
    error.by_caller = True
    return error


def is_by_caller(error: BaseException) -> bool:
    """Return True if the error is that of a task whose call was cancelled."""
    return is_a(error, AbortError) and error.by_caller


@final
class RetryAfterError(OutcomeError):
    """Raise it from a handler to try again after ``delay`` seconds, if there are attempts left.

    Args:
      source: the reason, an exception (which becomes the cause) or a text.
      delay: the seconds to wait, finite, 0 or more.
    """

    def __init__(self, source: BaseException | str, delay: float) -> None:
        super().__init__(source)
        self.delay = check_seconds(delay, "RetryAfterError's delay")

    def __reduce__(self) -> tuple[type[RetryAfterError], tuple[BaseException | str, float]]:
        return RetryAfterError, (self.source, self.delay)


@final
class DeferredError(OutcomeError):
    """Raise it from a handler to try again at once, after other waiting tasks, if there are attempts left.

    Args:
      source: the reason, an exception (which becomes the cause) or a text.
    """


@final
class SuspendError(Exception):
    """Raise it from a handler to put the task back, and to get it again after ``delay`` seconds. It costs no attempt.

    The outcome is ``Suspended``, also in the last attempt. In a group it counts only if all leaves are of its kind; the
    longest delay is taken. If something else failed beside it, that is judged as if it had failed alone.

    Args:
      delay: the seconds to wait, 0 or more; ``math.inf`` suspends the task until it is rescheduled.
      reason: a text for people. Listeners get it with the event ``Release``.
    """

    def __init__(self, delay: float, reason: str = "") -> None:
        if not isinstance(reason, str):
            raise TypeError(f"SuspendError's reason must be a text, not {reason!r}")
        self.delay = delay if delay == math.inf else check_seconds(delay, "SuspendError's delay")
        self.reason = reason
        super().__init__(delay, reason)

    def __str__(self) -> str:
        return self.reason or f"suspended for {self.delay:g} s"


class WorkerError(Exception):
    """An error: a worker cannot do this in its present state, such as track work after it has stopped."""


class MonitorError(Exception):
    """An error: a monitor cannot do this in its present state, such as run twice at the same time."""


class BackendError(Exception):
    """The base of the errors that our backends raise if they cannot do what was asked."""

    is_final = False
    """True if asking again cannot help: what is stored is damaged, or the backend has to be opened anew."""

    is_refusal = False
    """True if the store is well, and refuses something in what was asked: asked apart, all the rest is done."""

    is_missing = False
    """True if the storage could not be opened since there is no store at its place, and its options forbid making one.
    """

    is_outdated = False
    """True if the storage could not be opened since an earlier version of this library has written it, and
    ``read_only=True`` forbids its migration."""

    is_in_use = False
    """True if the storage could not be opened since another one has it open, and it is for one storage in one process.
    """


@final
class DuplicateTaskError(BackendError):
    """An error: a task was pushed under an id, or a unique key, that another task has.

    Attributes:
      taken_by: the id of the task that has the unique key, if a finished task cannot wait again for that; else None.
    """

    taken_by: str | None = None


def id_taken(task_id: str) -> DuplicateTaskError:
    """Make the error for a push under an id that is known."""
    return DuplicateTaskError(f"a task with the id {str(task_id)!r} has been pushed already; ids must be new")


def key_taken(key: str, holder: str, *, is_finished: bool) -> DuplicateTaskError:
    """Make the error for a push under a unique key that a task holds."""
    holds = "is still held by the finished task" if is_finished else "is taken by the unfinished task"
    return DuplicateTaskError(f"the unique key {key!r} {holds} {str(holder)!r}")


def not_again(task_id: str, holder: str) -> DuplicateTaskError:
    """Make the error for a finished task that cannot wait again, since another task has its unique key."""
    error = DuplicateTaskError(f"task {escaped(task_id)} cannot wait again: task {escaped(holder)} has its unique key")
    error.taken_by = holder
    return error


_NAMED = 100
"""Ids that the text of an error names, at most."""


@final
class UnknownTaskError(BackendError, LookupError):
    """An error: no task of this id is known, or it is no longer remembered.

    Attributes:
      task_id: the id; the first one if there are several.
      task_ids: all ids, of a call that was about several tasks.
    """

    def __init__(self, task_id: TaskId | str, *others: TaskId | str) -> None:
        super().__init__(task_id, *others)
        self.task_id = task_id
        self.task_ids = (task_id, *others)

    def __str__(self) -> str:
        named = ", ".join(repr(str(each)) for each in self.task_ids[:_NAMED])
        more = f" and {rest} others" if (rest := len(self.task_ids) - _NAMED) > 0 else ""
        noun, verb = ("task", "is") if len(self.task_ids) == 1 else ("tasks", "are")
        return f"no {noun} {named}{more} {verb} known; finished tasks are remembered only for a while"


@final
class LeaseLostError(BackendError):
    """An error: this attempt cannot settle its task, since another worker has the task, or it is settled already."""


@final
class UnsettledError(BackendError):
    """An error of :meth:`Backend.settle`: the outcome cannot be stored, and the worker settles ``error`` in its place.

    The result cannot be stored, or what was to be written together with it failed.

    Args:
      error: the error that is settled instead.
      permanent: True if another attempt is of no use, since the handler has done its work already.
    """

    def __init__(self, error: BaseException, *, permanent: bool) -> None:
        super().__init__(error)
        self.error = error
        self.permanent = permanent

    def __str__(self) -> str:
        return f"the outcome could not be settled: {self.error}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unsettled, (self.error, self.permanent)


def _unsettled(error: Exception, permanent: bool) -> UnsettledError:
    """Make an ``UnsettledError`` again when it is unpickled; its arguments are keywords."""
    return UnsettledError(error, permanent=permanent)


@final
class StoredError(Exception):
    """Stands for a stored error whose class cannot be imported or made again here.

    Attributes:
      kind: its class, by name: ``"shop.OutOfStock"``.
      text: the text of the original error.
      traceback: the traceback of the original error, as Python prints it.
    """

    def __init__(self, kind: str, text: str, traceback: str) -> None:
        super().__init__(kind, text, traceback)
        self.kind = kind
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" if self.text else self.kind

    def __repr__(self) -> str:
        return f"StoredError({self.kind!r}, {self.text!r})"


@final
class ProcessDiedError(Exception):
    """An error: the process in which a function with ``process=True`` ran has ended before the function returned.

    Attributes:
      function: the name of the function, with that of its module.
      exit_code: the exit code of the process; the number of a signal that has ended it is negative: -11 for SIGSEGV.
        None if several processes, one after the other, have ended before they had taken the arguments.
    """

    def __init__(self, function: str, exit_code: int | None) -> None:
        super().__init__(function, exit_code)
        self.function = function
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"the process of {self.function} {_end_of(self.exit_code)}, and the function has not returned"


def _end_of(exit_code: int | None) -> str:
    """Tell how a process has ended."""
    if exit_code is None:
        return "has ended while it started"
    if exit_code >= 0:
        return f"has ended with exit code {exit_code}"
    with suppress(ValueError):
        return f"was ended by {Signals(-exit_code).name}"
    return f"was ended by signal {-exit_code}"


@final
class OrphanedError(Exception):
    """An error: the last attempts of the task ended with the death of their worker or the loss of their lease. They
    count, and no attempt is left, so the task has failed.
    """


@final
class TaskExpiredError(Exception):
    """An error: the task was not started within ``expires_in`` seconds, so it was killed."""


@final
class DeadlineError(Exception):
    """An error: the deadline of the task was over before the task was finished, so it was killed. Its attempt, if there
    was one, was cancelled; the error may have a cause, with which that has ended.
    """


@final
class OverloadedError(Exception):
    """An error: a layer refused this attempt, since there was no room for it."""
