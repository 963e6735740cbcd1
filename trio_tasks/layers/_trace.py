"""A layer that puts a span around each attempt, for any tracing library."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_plain
from .._logging import SafeLogger
from .._printing import escaped
from ._failures import FAILURES, is_failure, is_suspension

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")

log = SafeLogger(logging.getLogger("trio_tasks.trace"))


@contextmanager
def _logged_span(task: Task[Any]) -> Generator[None, None, None]:
    about: dict[str, object] = {"task_id": escaped(task.parts.id), "attempt": int(task.parts.attempt)}
    log.debug("attempt %s of task %s begins", about["attempt"], about["task_id"], extra=about)
    began = trio.current_time()
    ended = "was cancelled"
    try:
        yield
        ended = "succeeded"
    except FAILURES as error:
        if is_failure(error) and is_suspension(error):
            ended = "was suspended"
        elif is_failure(error):
            ended = "failed"
            about["error"] = repr(error)
        raise
    finally:
        about.update(seconds=trio.current_time() - began, ended=ended)
        message = "attempt %s of task %s %s after %.6f s"
        log.debug(message, about["attempt"], about["task_id"], ended, about["seconds"], extra=about)


@final
class _Within:
    """A context manager that enters another one, passes exceptions to it, and suppresses none."""

    __slots__ = ("_span",)

    def __init__(self, span: AbstractContextManager[object]) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, trace)


@final
class Trace:
    """Put a span around each attempt.

    >>> Trace(lambda task: tracer.start_as_current_span("send_email"))  # OpenTelemetry
    >>> Trace()  # without a tracer: debug messages to the logger "trio_tasks.trace"

    Args:
      span: a function from a task to a context manager, which is entered before the inner layers and left after
          them, in the same trio task. So the handler, its children and its thread see a context variable that it sets.
          If the attempt raises or is cancelled, the context manager sees that exception, and cannot suppress it.

    Without ``span``, two debug messages tell the beginning and the end of each attempt, with the fields ``task_id`` and
    ``attempt``, and the second one also ``seconds``, ``ended`` (``"succeeded"``, ``"failed"``, ``"was suspended"``,
    ``"was cancelled"``) and ``error``, for a formatter that writes them out. If the logger does not want them, that
    costs next to nothing.
    """

    __slots__ = ("_span",)

    def __init__(self, span: Callable[[Task[Any]], AbstractContextManager[object]] | None = None) -> None:
        self._span = None if span is None else check_plain(span, "span", "span(task) -> a context manager")

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt within a span."""
        if self._span is not None:
            span = self._span(task)
        elif log.is_enabled_for(logging.DEBUG):
            span = _logged_span(task)
        else:
            return await handler(task)
        with _Within(span):
            return await handler(task)

    def __repr__(self) -> str:
        return f"<Trace by {self._span!r}>" if self._span else "<Trace to the log>"
