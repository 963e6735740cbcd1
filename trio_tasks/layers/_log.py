"""A layer that logs the end of each attempt in one line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_count
from .._contracts.attempt_log import AttemptLog, log_failure
from .._logging import SafeLogger, log
from .._printing import escaped, quoted
from ._failures import FAILURES, is_failure, is_suspension

if TYPE_CHECKING:
    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


def _check_logger(logger: object) -> logging.Logger:
    if not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger, as logging.getLogger(name) gives, not {quoted(logger)}")
    return logger


@final
class Log:
    """Log how each attempt ended and how long it took.

    Args:
      logger: the logger; by default the one named ``"trio_tasks"``.
      level: the level for an attempt that has succeeded, was suspended or was cancelled. An attempt that raised is
          logged as a warning, or at this level if it is higher, with its traceback.

    The args are not logged: they may be private. The time is that of the inner layers and the handler.

    A worker logs its failed attempts by itself. If it does so to the same logger, this layer adds no second record for
    an error that ends the attempt; the worker's record then has the time as well.
    """

    __slots__ = ("_level", "_logger")

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        self._logger = log if logger is None else SafeLogger(_check_logger(logger))
        self._level = check_count(level, "level, such as logging.INFO,", minimum=0)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, and log its end."""
        began = trio.current_time()
        attempts = AttemptLog.of(task)
        if attempts is not None and attempts.noted:
            attempts.flush(task)
        try:
            result = await handler(task)
        except FAILURES as error:
            if is_failure(error) and is_suspension(error):
                self._log_end(task, "was suspended", began)
            elif is_failure(error):
                self._log_failure(task, error, trio.current_time() - began, attempts)
            else:
                self._log_end(task, "was cancelled", began)
            raise
        self._log_end(task, "succeeded", began)
        return result

    def _log_end(self, task: Task[Any], how: str, began: float) -> None:
        if not self._logger.is_enabled_for(self._level):
            return
        parts, seconds = task.parts, trio.current_time() - began
        self._logger.log(
            self._level, "task %s %s in attempt %s, after %.3f s", escaped(parts.id), how, parts.attempt, seconds
        )

    def _log_failure(self, task: Task[Any], error: BaseException, seconds: float, attempts: AttemptLog | None) -> None:
        level = max(self._level, logging.WARNING)
        if attempts is not None and attempts.logger.name == self._logger.name:
            attempts.note(task, error, seconds, level)
        else:
            log_failure(self._logger, level, task, error, seconds)

    def __repr__(self) -> str:
        return f"<Log to {self._logger.name!r}>"
