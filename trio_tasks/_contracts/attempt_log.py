"""The log of failed attempts: one record for each attempt, without any configuration.

A failed attempt that is followed by another one is a warning. A dead letter is an error, with its traceback. What a
handler was given, and what it returned, is in no record.
"""

from __future__ import annotations

import logging
import traceback
from itertools import islice
from typing import TYPE_CHECKING, Any, final

from .._concurrency.exception_groups import attribute_of, is_a, leaves, within
from .._logging import SafeLogger, catch_errors, log_and_suppress
from .._printing import class_name, escaped
from .._tasks.errors import SuspendError, is_by_caller
from .._tasks.outcome import Failed, Killed, Released, Retried, Suspended

if TYPE_CHECKING:
    from types import TracebackType

    from .._tasks.outcome import Outcome
    from .._tasks.task import Parts, Task

LOGGER = logging.getLogger("trio_tasks")
LEASE_LOST = "its lease was lost"
"""The reason for which an attempt is released that has lost its lease; a backend may say more after it."""
_LONGEST_ERROR = 500  # characters of an error's text in a record; a dead letter has its traceback as well

_MOST_ERRORS = 50  # errors, causes and contexts included, of which logging may print the traceback


@final
class AttemptLog:
    """Writes the log records of the failed attempts of one run of a worker.

    Each record has, beside its text, the attributes ``worker``, ``queue``, ``task_name``, ``task_id``, ``attempt``,
    ``attempts`` and ``outcome``.

    Args:
      logger: the logger for the records.
      worker: the name of the worker.
      queue: the name of its queue; None if it has none.
      task_name: the name of those of its tasks that have none.
      attempts: the number of attempts of a task that has no number of its own.
    """

    __slots__ = ("_attempts", "_task_name", "_worker", "log", "logger", "noted", "queue")

    def __init__(self, logger: logging.Logger, worker: str, queue: str | None, task_name: str, attempts: int) -> None:
        self.logger = logger
        self.queue = queue
        self.noted: dict[Parts, tuple[BaseException, float, int]] = {}
        """Errors of attempts under way that a layer left to this log, with the seconds that passed and a level."""
        self.log = SafeLogger(logger)
        self._worker = worker
        self._task_name = task_name
        self._attempts = attempts

    @staticmethod
    def of(task: Task[Any]) -> AttemptLog | None:
        """Return the log of the run that claimed this task; None if there is none."""
        found = getattr(getattr(task.parts.holder, "context", None), "attempt_log", None)
        return found if isinstance(found, AttemptLog) else None

    # Errors that a layer has seen

    def note(self, task: Task[Any], error: BaseException, seconds: float, level: int) -> None:
        """Remember an error that a layer has seen, so that the record of the attempt includes it. If the attempt ends
        with another outcome, the error is logged on its own.
        """
        if not self._is_noted(task, error):
            self.flush(task)
        self.noted[task.parts] = error, seconds, level

    def flush(self, task: Task[Any]) -> None:
        """Log the error that was noted for this task, since the attempt goes on after it."""
        noted = self.noted.pop(task.parts, None)
        if noted is not None:
            error, seconds, level = noted
            log_failure(self.log, level, task, error, seconds)

    # Attempts

    def ended(self, task: Task[Any], outcome: Outcome) -> None:
        """Log how an attempt ended, unless it succeeded or was interrupted."""
        with log_and_suppress("worker %r: an attempt could not be logged", self._worker):
            self._ended(task, outcome)

    def _ended(self, task: Task[Any], outcome: Outcome) -> None:
        if isinstance(outcome, (Retried, Failed, Killed)):
            seconds, level = None, logging.NOTSET
            if self.noted:
                if not self._is_noted(task, outcome.error):
                    self.flush(task)
                _, seconds, level = self.noted.pop(task.parts, (None, None, logging.NOTSET))
            self._failed(task, outcome, seconds, level)
        elif isinstance(outcome, Suspended):
            level = self._level_of_suspension(task)
            self._write(level, task, f"suspended: {escaped(outcome.reason, is_text=True)}", None, outcome)
        else:
            self.flush(task)
            if isinstance(outcome, Released) and outcome.reason.startswith(LEASE_LOST):
                self.warn(task, "has lost its lease: the task may be attempted by another worker as well")

    def _level_of_suspension(self, task: Task[Any]) -> int:
        """The level for a suspension: that of the error, if a layer has noted it, else INFO."""
        noted = self.noted.get(task.parts)
        if noted is None or not is_a(noted[0], SuspendError):
            self.flush(task)
            return logging.INFO
        del self.noted[task.parts]
        return noted[2]

    def warn(self, task: Task[Any], text: str) -> None:
        """Log a warning about an attempt under way."""
        self._write(logging.WARNING, task, text)

    def _is_noted(self, task: Task[Any], error: BaseException) -> bool:
        """Return True if this error is the one that was noted for the task, or was caused by it."""
        noted = self.noted.get(task.parts)
        return noted is not None and any(each is noted[0] for each in within(error))

    def _failed(
        self, task: Task[Any], outcome: Retried | Failed | Killed, seconds: float | None, least_level: int
    ) -> None:
        if isinstance(outcome, Killed) and is_by_caller(outcome.error):
            self._write(logging.INFO, task, "ended, since its call was cancelled", None, outcome)
            return
        level = max(least_level, logging.WARNING if isinstance(outcome, Retried) else logging.ERROR)
        if not self.log.is_enabled_for(level):
            return
        ended = "killed" if isinstance(outcome, Killed) else "failed"
        if seconds is not None:
            ended += f" after {seconds:.3f} s"
        if not isinstance(outcome, Retried):
            follows = "dead letter"
        else:
            follows = f"next in {outcome.after:.3g} s" if outcome.after > 0 else "next at once"
        text = f"{ended}, {follows}: {error_summary(outcome.error)}"
        error = None if isinstance(outcome, Retried) else outcome.error
        if error is not None and (trace := _traceback_in_text(error)) is not None:
            text, error = f"{text}\n{trace}", None
        self._write(level, task, text, error, outcome)

    def _write(
        self,
        level: int,
        task: Task[Any],
        text: str,
        error: BaseException | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        parts = task.parts
        attempts = self._attempts if parts.terms.attempts is None else parts.terms.attempts
        task_name = self._task_name if parts.terms.name is None else escaped(parts.terms.name)
        fields = {
            "worker": self._worker,
            "queue": self.queue,
            "task_name": task_name,
            "task_id": str(parts.id),
            "attempt": int(parts.attempt),
            "attempts": attempts,
            "outcome": None if outcome is None else type(outcome).__name__,
        }
        self.log.log(
            level,
            "worker %r%s: %s, task %s, attempt %s of %s %s",
            self._worker,
            "" if self.queue is None else f", queue {self.queue!r}",
            task_name,
            escaped(parts.id),
            parts.attempt,
            attempts,
            text,
            exc_info=None if error is None else _exc_info(error),
            extra=fields,
        )


def check_logger(logger: object) -> logging.Logger | None:
    """Return the value if it is a logger of the standard library or None."""
    if not (logger is None or isinstance(logger, logging.Logger)):
        raise TypeError(f"log must be a logging.Logger, as logging.getLogger(name) gives, or None, not {logger!r}")
    return logger


def log_failure(log: SafeLogger, level: int, task: Task[Any], error: BaseException, seconds: float) -> None:
    """Log an error that came out of the inner layers or the handler."""
    if not log.is_enabled_for(level):
        return
    log.log(
        level,
        "task %s failed in attempt %s, after %.3f s",
        escaped(task.parts.id),
        task.parts.attempt,
        seconds,
        exc_info=_exc_info(error),
    )


def error_summary(error: BaseException) -> str:
    """Return the class and the text of an error in one line; for a group, those of its members."""
    inner = list(leaves(error))
    if inner[0] is not error:
        told = "; ".join(map(error_summary, inner[:3])) + ("; …" if len(inner) > 3 else "")
        return f"{type(error).__name__} of {len(inner)}: {told}"
    text = _text_of(error).partition("\n")[0]
    return escaped(text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…", is_text=True)


def _text_of(error: BaseException) -> str:
    """Return the class and the text of an error. The standard library would format all causes and
    contexts as well.
    """
    name = class_name(error)
    with catch_errors() as caught:
        said = str(error)
        return f"{name}: {said}" if said else name
    return f"{name}: its __str__ raised {type(caught.error).__name__}"


def _exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return ``exc_info`` for logging, so that logging reads no attribute of the error itself."""
    return type(error), error, attribute_of(error, "__traceback__")


def _traceback_in_text(error: BaseException) -> str | None:
    """Return the traceback as text if logging cannot write it itself, else None.

    1. With half of a surrogate pair in its text, a log file would refuse the whole record.
    2. Of thousands of errors, one in the other, the standard library takes minutes to print the traceback.
    """
    errors = list(islice(within(error), _MOST_ERRORS + 1))
    if len(errors) > _MOST_ERRORS:
        innermost = next(leaves(error))
        lines = [*traceback.format_tb(attribute_of(innermost, "__traceback__")), _text_of(innermost)]
    elif all(map(_can_be_written, errors)):
        return None
    else:
        lines = traceback.format_exception(*_exc_info(error))
    return "".join(lines).rstrip().encode("utf-8", "backslashreplace").decode()


def _can_be_written(error: BaseException) -> bool:
    try:
        _text_of(error).encode()
    except UnicodeEncodeError:
        return False
    return True
