"""The errors that are told where an engine refuses a request, or fails."""

from __future__ import annotations

import trio

from ..._concurrency.exception_groups import is_a
from ..._logging import catch_errors, log
from ..._tasks.errors import BackendError


class UnforeseenError(BackendError):
    """An error: an engine raised something else than a :class:`BackendError`."""

    is_refusal = True  # this is assumed, since the cause is unknown


def copy_error(error: BackendError) -> BackendError:
    """Copy an error, to be raised in another trio task; the original is the cause."""
    copy = BackendError(str(error))
    copy.__cause__ = error
    return copy


def closed_error() -> trio.ClosedResourceError:
    """Make the error for whoever waits when the storage is closed."""
    return trio.ClosedResourceError("the storage was closed, with its connection")


def log_if_unforeseen(error: BackendError) -> None:
    """Log the traceback of an error that an engine should not have raised."""
    if isinstance(error, UnforeseenError):
        log.error("a storage's engine raised an unexpected error", exc_info=error.__cause__)


def as_backend_error(error: BaseException) -> BackendError:
    """Return the error if it is a BackendError, or an :class:`UnforeseenError` caused by it."""
    if is_a(error, BackendError):
        return error
    ours = UnforeseenError(f"the engine failed: {_describe(error)}")
    ours.__cause__ = error
    return ours


def _describe(error: BaseException) -> str:
    """Return the repr of an error, or its class if the repr fails."""
    with catch_errors():
        return repr(error)
    return type(error).__name__
