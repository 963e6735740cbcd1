"""Fields of the task in log records: for the standard library's logging."""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, final

from .. import Task, WorkerContext, WorkerError
from .._checks import check_plain

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ..abc import Handler

A = TypeVar("A")
R = TypeVar("R")

_RUNNING: ContextVar[Task[Any] | None] = ContextVar("trio_tasks.running", default=None)
"""The task in whose attempt the present code runs."""


@final
class LogFields:
    """Add the fields of a task to each log record that is made in an attempt at it: a layer, and a logging filter.

    >>> fields = LogFields()
    >>> logging.getLogger().handlers[0].addFilter(fields)
    >>> Worker("orders", storage, ship, layers=[fields])

    The record gets ``worker``, ``queue``, ``task_name``, ``task_id`` and ``attempt``; each is None outside of an
    attempt, so a format such as ``%(task_id)s`` is always right. A field that the record has already stays as it is,
    so the records of the library keep their own. It holds for the handler, the children in its nursery, and its thread.
    The filter lets every record pass. Add it to a handler of logging: a filter of a logger sees no records of the
    loggers below it.

    Args:
      bind: a function that is called with these fields as keywords, and returns a context manager that is entered
          around each attempt, such as ``structlog.contextvars.bound_contextvars``. Default: none.
    """

    __slots__ = ("_bind",)

    def __init__(self, *, bind: Callable[..., AbstractContextManager[object]] | None = None) -> None:
        self._bind = None if bind is None else check_plain(bind, "bind", "bind(**fields) -> a context manager")

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, with its task as the one that log records are about."""
        token = _RUNNING.set(task)
        try:
            with nullcontext() if self._bind is None else self._bind(**_fields(task)):
                return await handler(task)
        finally:
            _RUNNING.reset(token)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields to a record, and let it pass."""
        there = vars(record)
        for name, value in _fields(_RUNNING.get()).items():
            there.setdefault(name, value)
        return True

    def __repr__(self) -> str:
        return "LogFields()" if self._bind is None else f"LogFields(bind={self._bind!r})"


def _fields(task: Task[Any] | None) -> dict[str, Any]:
    """Return the fields for a task, or for none."""
    if task is None:
        return dict.fromkeys(("worker", "queue", "task_name", "task_id", "attempt"))
    worker, queue = worker_and_queue(task)
    parts = task.parts
    return {
        "worker": worker,
        "queue": queue,
        "task_name": parts.name,
        "task_id": str(parts.id),
        "attempt": int(parts.attempt),
    }


def worker_and_queue(task: Task[Any]) -> tuple[str | None, str | None]:
    """Return the names of the worker that runs a task and of its queue; None for each that is not known."""
    try:
        context = WorkerContext.of(task)
    except WorkerError:  # no worker runs it, as in a test of the handler
        return None, None
    return context.name, queue_of(context)


def queue_of(context: WorkerContext) -> str | None:
    """Return the name of the queue of a worker; None if its backend has none."""
    queue = getattr(getattr(context.recipe, "backend", None), "queue", None)
    return queue if isinstance(queue, str) else None
