"""Containment of errors: context managers around calls of user code, and a logger that never raises.

User code may raise anything: ``SystemExit``, ``GeneratorExit``, a group of them. What it raises concerns the one task
for which it was called, and is kept or logged there. Only ``KeyboardInterrupt`` and cancellation pass through. A group
is judged by its leaves: one ``KeyboardInterrupt`` makes it an interruption; it is a cancellation if nothing but
``Cancelled`` is in it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any, final

import trio

from ._concurrency.exception_groups import is_a, leaves
from ._printing import LONGEST_TEXT

if TYPE_CHECKING:
    from typing_extensions import Self


def passes_through(error: BaseException) -> bool:
    """Return True for errors that no user code may stop: a ``KeyboardInterrupt``, or a cancellation."""
    found = tuple(leaves(error))
    if any(is_a(each, KeyboardInterrupt) for each in found):
        return True
    return all(is_a(each, trio.Cancelled) for each in found)


@final
class catch_errors:  # noqa: N801  it is used as contextlib.suppress is
    """Catch the error that the block raises, and keep it as :attr:`error`; see :func:`passes_through` for exceptions.

    >>> with catch_errors() as caught:
    ...     args = codec.decode(payload)
    >>> if caught.error is not None:
    ...     ...
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or passes_through(error):
            return False
        self.error = error
        return True


@final
class log_and_suppress:  # noqa: N801  it is used as contextlib.suppress is
    """Log the error that the block raises, and suppress it; see :func:`passes_through` for exceptions.

    Args:
      message: the message for the log, in the style of ``%``.
      values: the values for the message.
    """

    __slots__ = ("_message", "_values")

    def __init__(self, message: str, *values: Any) -> None:
        self._message = message
        self._values = values

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None or passes_through(error):
            return False
        log.error(self._message, *self._values, exc_info=error)
        return True


@final
class SafeLogger:
    """A logger that never raises, even if its filters, handlers, formatters or values do.

    What they raise goes to standard error, as it does where a handler of the standard library fails.

    Args:
      logger: the standard library's logger behind it.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    @property
    def name(self) -> str:
        """The name of the wrapped logger."""
        return self._logger.name

    def debug(self, message: str, *values: Any, **options: Any) -> None:
        """Log at level DEBUG; see ``logging.Logger.debug``."""
        self._log(logging.DEBUG, message, values, options)

    def info(self, message: str, *values: Any, **options: Any) -> None:
        """Log at level INFO; see ``logging.Logger.info``."""
        self._log(logging.INFO, message, values, options)

    def warning(self, message: str, *values: Any, **options: Any) -> None:
        """Log at level WARNING; see ``logging.Logger.warning``."""
        self._log(logging.WARNING, message, values, options)

    def error(self, message: str, *values: Any, **options: Any) -> None:
        """Log at level ERROR; see ``logging.Logger.error``."""
        self._log(logging.ERROR, message, values, options)

    def log(self, level: int, message: str, *values: Any, **options: Any) -> None:
        """Log at this level; see ``logging.Logger.log``."""
        self._log(level, message, values, options)

    def _log(self, level: int, message: str, values: tuple[Any, ...], options: dict[str, Any]) -> None:
        with catch_errors() as caught:
            self._logger.log(level, message, *values, stacklevel=3, **options)
        if caught.error is not None:
            _print_logging_error(message, caught.error)

    def is_enabled_for(self, level: int) -> bool:
        """Return True if records of this level are logged."""
        with catch_errors():
            return self._logger.isEnabledFor(level)
        return True


def _print_logging_error(message: str, error: BaseException) -> None:
    """Print to standard error, if there is one, that a record could not be logged."""
    if not logging.raiseExceptions:
        return
    with catch_errors():
        sys.stderr.write(f"--- Logging error ---\nlost: {message!r}\n")
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)


log = SafeLogger(logging.getLogger("trio_tasks"))


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, or a text that says what its ``__str__`` raised."""
    with catch_errors() as caught:
        return str(error)
    return f"its text could not be had: {type(caught.error).__name__}"


def line_of(error: BaseException) -> str:
    """Return the class of an error and the first line of its text, cut at 4,000 characters."""
    text = text_of(error).partition("\n")[0][:LONGEST_TEXT]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
