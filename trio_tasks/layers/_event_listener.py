"""A layer that calls a listener with the events of each attempt, as they are at its place among the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, final

from .._checks import check_plain
from .._contracts.context import WorkerContext
from .._contracts.events import Engage, Error, Release, Success
from .._logging import log_and_suppress
from .._tasks.outcome import Suspended
from ._failures import FAILURES, check_policy, is_failure, judge_by_policy

if TYPE_CHECKING:
    from .._contracts.context import Listener
    from .._contracts.events import Event
    from .._contracts.layer import Handler
    from .._tasks.retry import RetryPolicy
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


@final
class EventListener:
    """Call ``listener(context, event)`` with the events of each attempt, as seen from this place in the stack of
    layers.

    Args:
      listener: a plain function, as a worker's ``on_event`` is.
      retry: the policy that judges errors, if it is not the worker's.

    It hears ``Engage(task)`` before each call of what is inside of this layer, and ``Success(task, result)`` or
    ``Error(task, error, outcome)`` after it; or ``Release(task, reason, until)``, if the handler suspends its task.
    Listed last, it hears each single call that an outer :class:`Retry` makes, and the args and results as the handler
    has them. Nothing is settled yet when it hears of an end: layers further out, and the worker, come later. After a
    cancellation it hears nothing: how that ends is decided further out.

    A listener that raises is logged, and changes nothing.
    """

    __slots__ = ("_listener", "_retry")

    def __init__(self, listener: Listener, *, retry: RetryPolicy | None = None) -> None:
        self._listener = check_plain(listener, "listener", "listener(context, event)")
        self._retry = check_policy(retry)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, and call the listener before and after it.

        Raises:
          WorkerError: no worker runs the task, so there is no context to tell of.
        """
        context = WorkerContext.of(task)
        self._notify(context, Engage(task))
        try:
            result = await handler(task)
        except FAILURES as error:
            if is_failure(error):
                outcome = judge_by_policy(error, task, self._retry)
                if isinstance(outcome, Suspended):
                    self._notify(context, Release(task, outcome.reason, outcome.until))
                else:
                    self._notify(context, Error(task, error, outcome))
            raise
        self._notify(context, Success(task, result))
        return result

    def _notify(self, context: WorkerContext, event: Event) -> None:
        with log_and_suppress("worker %r: listener %r failed on %r", context.name, self._listener, event):
            self._listener(context, event)

    def __repr__(self) -> str:
        return f"<EventListener {self._listener!r}>"
