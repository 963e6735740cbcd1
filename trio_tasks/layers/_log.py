"""A line in the log for each attempt, for people."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar, final

import trio

from .._checks import check_count
from .._contained import SafeLogger, log
from ._verdict import FAILURES, is_failure, is_suspension

if TYPE_CHECKING:
    from .._abc import Handler
    from .._task import Task

A = TypeVar("A")
R = TypeVar("R")


def _check_logger(logger: object) -> logging.Logger:
    if not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger, as logging.getLogger(name) gives, not {logger!r}")
    return logger


@final
class Log:
    """Log how each attempt ended, and how long it took.

    Args:
      logger: where to; by default the logger ``"trio_tasks"``.
      level: of an attempt that has succeeded, was suspended or was cancelled. One that raised is logged as a warning,
          or at this level if it is higher, with its traceback.

    The args are not logged: they may be private. The time is that of what is inside of this layer.
    """

    __slots__ = ("_level", "_logger")

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        self._logger = log if logger is None else SafeLogger(_check_logger(logger))
        self._level = check_count(level, "level, such as logging.INFO,", minimum=0)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, and log its end."""
        began = trio.current_time()
        level, ended, error = self._level, "was cancelled", None
        try:
            result = await handler(task)
            ended = "succeeded"
            return result
        except FAILURES as raised:
            if is_failure(raised) and is_suspension(raised):
                ended = "was suspended"
            elif is_failure(raised):
                level, ended, error = max(self._level, logging.WARNING), "failed", raised
            raise
        finally:
            parts, seconds = task.parts, trio.current_time() - began
            self._logger.log(
                level, "task %s %s in attempt %s, after %.3f s", parts.id, ended, parts.attempt, seconds, exc_info=error
            )
            del error  # its traceback leads here

    def __repr__(self) -> str:
        return f"<Log to {self._logger.name!r}>"
