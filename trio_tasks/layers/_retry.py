"""A layer that retries within one attempt."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, TypeVar, final

import trio

from .._contracts.attempt_log import AttemptLog
from .._tasks.outcome import Retried, judge
from .._tasks.retry import RetryPolicy, always, exponential

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.layer import Handler
    from .._tasks.retry import Backoff
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")

_SHORT = exponential(0.1, maximum=10.0, jitter=0.5)


@final
class Retry:
    """Call the inner layers and the handler again if they raise, within the same attempt.

    Use it for faults that pass within moments. Its delays hold the slot, and are lost with the process. For longer
    delays use the worker's :class:`~trio_tasks.RetryPolicy`: its tasks wait in the backend, and survive the process.

    Args:
      attempts: the number of calls in all, the first included.
      backoff: a function from the number of the failed call to the seconds until the next. By default exponential
          from a tenth of a second to ten, with up to half of each delay taken off at random.
      retry_if: a function from an error (each leaf, if a group was raised) to True if the layer should call again.

    ``AbortError``, ``RetryAfterError`` and ``DeferredError`` mean here what they mean everywhere: no further call, one
    after that delay, one at once; ``SuspendError`` means no further call, either. The error of the last call is raised
    as it is, and then judged as an error of the attempt; so the task may still have further attempts, each with as many
    calls. ``task.parts.attempt`` is the same in all calls of an attempt.

    If it is cancelled, in a call or between two, there is no further call.
    """

    __slots__ = ("_policy",)

    def __init__(
        self,
        attempts: int,
        *,
        backoff: Backoff = _SHORT,
        retry_if: Callable[[BaseException], bool] = always,
    ) -> None:
        self._policy = RetryPolicy(attempts, backoff, retry_if)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Call the handler until it returns or its error is not to be retried."""
        for attempt in count(1):
            try:
                return await handler(task)
            except Exception as error:
                delay = self._delay_after(error, attempt)
                if delay is None:
                    raise
            if (log := AttemptLog.of(task)) is not None:
                log.flush(task)
            await trio.sleep(delay)
        raise AssertionError("unreachable")

    def _delay_after(self, error: Exception, attempt: int) -> float | None:
        """Seconds until the next call; None if there is no further call after this error."""
        outcome = judge(error, attempt=attempt, attempts=None, policy=self._policy, now=0.0)
        return outcome.after if isinstance(outcome, Retried) else None

    def __repr__(self) -> str:
        return f"<Retry: {self._policy.attempts} calls in all>"
