"""Types of a worker's arguments, for type checkers: handlers, and the keywords that all overloads share."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypedDict, TypeVar

from .._contracts.context import Listener
from .._tasks.retry import RetryPolicy

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    from .._tasks.task import Task

    A = TypeVar("A")
    R = TypeVar("R")
    P = ParamSpec("P")

    WholeTaskHandler = Callable[[Task[A]], Awaitable[R]]
    AsyncHandler = Callable[Concatenate[A, P], Awaitable[R]]
    SyncHandler = Callable[Concatenate[A, P], R]


class WorkerOptions(TypedDict, total=False):
    """The keyword options of :class:`Worker`, except ``layers``, whose type depends on the handler's."""

    concurrency: int
    lend: int
    data: Iterable[object]
    retry: RetryPolicy
    on_event: Listener | Iterable[Listener] | None
    version: str | None
    settle_timeout: float
    log: logging.Logger | None
