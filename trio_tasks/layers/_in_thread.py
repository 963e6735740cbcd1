"""Layers that open something in the thread of each sync handler: any context manager, or Django's connections."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, final

from .._checks import check_sync
from .._concurrency.threads import opened_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


@final
class InThread:
    """Open a context manager around each sync handler, in the thread that runs it.

    >>> InThread(session_factory.begin)  # for what belongs to one thread

    Args:
      open_context: a function that returns the context manager. It is called in the thread, for each attempt.

    The handler sees the context variables that are set there. A context manager that raises is the error of the
    attempt; one that suppresses the error of the handler makes the attempt succeed, with the result None. Async
    handlers run in trio's thread, and are not affected; nor are threads that they start, nor functions in processes.
    """

    __slots__ = ("_open_context",)

    def __init__(self, open_context: Callable[[], AbstractContextManager[object]]) -> None:
        self._open_context = check_sync(open_context, "open_context", "open_context() -> a context manager")

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt; its thread opens the context manager."""
        with opened_in_threads(self._open_context):
            return await handler(task)

    def __repr__(self) -> str:
        return f"<InThread {self._open_context!r}>"


@final
class DjangoConnections:
    """Close Django's connections that are too old or broken, before and after each sync handler, in its thread.

    Django does so around each request. A sync handler runs outside of any, in a thread of its own connections.
    ``CONN_MAX_AGE`` should be 0, Django's default, so that none is left open when the thread ends.

    Raises:
      ModuleNotFoundError: Django is not installed.
    """

    __slots__ = ("_close",)

    def __init__(self) -> None:
        from django.db import close_old_connections

        self._close: Callable[[], object] = close_old_connections

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt; its thread closes its connections."""
        with opened_in_threads(self._closing):
            return await handler(task)

    @contextmanager
    def _closing(self) -> Generator[None, None, None]:
        self._close()
        try:
            yield
        finally:
            self._close()

    def __repr__(self) -> str:
        return "<DjangoConnections>"
