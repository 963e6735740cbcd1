"""A check of the log: it may hold no record of an error that the library did not foresee."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import trio
from trio_tasks import BackendError, OrphanedError, RetryAfterError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

_LOG = logging.getLogger("trio_tasks")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])


@contextmanager
def foreseen() -> Generator[None, None, None]:
    """Suppress the log inside the block, and check at the end that it holds only errors of ours.

    An engine that fails in an unforeseen way is a :class:`BackendError` to whoever asked, with the whole story in the
    log: which is kind to users, and would hide from us what we are looking for. A worker also logs what its handler
    fails with; here that is a :class:`RetryAfterError`, which the library raises nowhere. A row may also say that all
    its attempts were lost: then its task fails with an :class:`OrphanedError`.
    """
    collector = _Collector()
    _LOG.addHandler(collector)
    propagates, _LOG.propagate = _LOG.propagate, False
    try:
        yield
    finally:
        _LOG.removeHandler(collector)
        _LOG.propagate = propagates
    for error in collector.errors:
        for leaf in _leaves(error):
            if not isinstance(leaf, (BackendError, OrphanedError, RetryAfterError, trio.Cancelled)):
                raise AssertionError(f"this was not foreseen: {leaf!r}") from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
