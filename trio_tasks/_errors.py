"""The errors that have a meaning here: what a handler raises to steer its task, and what a caller would catch."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from ._checks import check_seconds

if TYPE_CHECKING:
    from ._task_id import TaskId


class _Verdict(Exception):
    """What the three steering errors share: the trouble behind them, kept as their cause."""

    def __init__(self, source: BaseException | str) -> None:
        if not isinstance(source, (BaseException, str)):
            raise TypeError(f"{type(self).__name__}'s source must be an exception or a text, not {source!r}")
        super().__init__(source)
        self.source = source
        if isinstance(source, BaseException):
            self.__cause__ = source

    def __str__(self) -> str:
        return str(self.source) or repr(self.source)


@final
class AbortError(_Verdict):
    """Raise it from a handler: no more attempts. The task is settled as ``Killed``.

    Args:
      source: the trouble behind it, an exception (which becomes the cause) or a text.
    """


@final
class RetryAfterError(_Verdict):
    """Raise it from a handler: try again after ``delay`` seconds, if there are attempts left.

    Args:
      source: the trouble behind it, an exception (which becomes the cause) or a text.
      delay: seconds, finite, 0 or more.
    """

    def __init__(self, source: BaseException | str, delay: float) -> None:
        super().__init__(source)
        self.delay = check_seconds(delay, "RetryAfterError's delay")

    def __reduce__(self) -> tuple[type[RetryAfterError], tuple[BaseException | str, float]]:
        return RetryAfterError, (self.source, self.delay)


@final
class DeferredError(_Verdict):
    """Raise it from a handler: try again at once, if there are attempts left; other tasks that wait go first.

    Args:
      source: the trouble behind it, an exception (which becomes the cause) or a text.
    """


class WorkerError(Exception):
    """A worker was asked for something that it cannot do now, such as tracking work after it has stopped."""


class MonitorError(Exception):
    """A monitor was asked for something that it cannot do now, such as being run twice at once."""


class BackendError(Exception):
    """What a backend of ours answers when it cannot do what was asked; the others below are kinds of it."""


@final
class DuplicateTaskError(BackendError):
    """A task was pushed under an id, or a unique key, that another unfinished or remembered task has."""


@final
class UnknownTaskError(BackendError, LookupError):
    """There is no task of this id, or it is no longer remembered."""

    def __init__(self, task_id: TaskId | str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return f"no task {str(self.task_id)!r} is known here; finished ones are remembered for a while only"


@final
class LeaseLostError(BackendError):
    """This attempt may not settle its task any more: somebody else has it, or it is settled already."""


@final
class TaskExpiredError(Exception):
    """The task was not started by the time that it had to be (``expires_in``), so it was killed unstarted."""


@final
class OverloadedError(Exception):
    """A layer shed this attempt, because what it guards has no room for it now."""
