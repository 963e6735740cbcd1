"""The outcome that an error will lead to, as a layer can tell it during the attempt.

Final is only what the worker says, outside of all layers. A layer further out may still make another thing of an error;
so a layer that is to hear what the worker will say takes the place of the outermost one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from .._concurrency.exception_groups import find_within, is_a, leaves
from .._logging import catch_errors, log
from .._printing import escaped, quoted
from .._tasks.errors import SuspendError
from .._tasks.outcome import Failed, judge
from .._tasks.retry import RetryPolicy

if TYPE_CHECKING:
    from .._tasks.outcome import Outcome
    from .._tasks.task import Task

FAILURES = BaseException
"""The errors that an attempt may fail with. Who catches them asks :func:`is_failure`, and raises the others again."""

_USUAL = RetryPolicy()


def is_failure(error: BaseException) -> bool:
    """Return True if an attempt that ends with this error has failed; False if it was interrupted.

    It is judged as the worker does: in a group with a ``KeyboardInterrupt``, or with a cancellation from further out in
    it or behind it (clean-up that fails hides the cancellation), an error does not count.
    """
    if any(is_a(each, KeyboardInterrupt) for each in leaves(error)):
        return False
    return trio.current_effective_deadline() != -math.inf or find_within(error, trio.Cancelled) is None


def is_suspension(error: BaseException) -> bool:
    """Return True if an attempt that ends with this error is suspended."""
    return all(is_a(each, SuspendError) for each in leaves(error))


def check_policy(retry: object) -> RetryPolicy | None:
    """Return the value if it is a retry policy or None."""
    if not (retry is None or isinstance(retry, RetryPolicy)):
        raise TypeError(f"retry must be a RetryPolicy, or None for the worker's own, not {quoted(retry)}")
    return retry


def judge_by_policy(error: BaseException, task: Task[Any], retry: RetryPolicy | None) -> Outcome:
    """The outcome of an attempt that ended with this error, by the policy ``retry``. Without one, by the policy of the
    worker that claimed the task; without a worker, by the default policy.

    A backoff with jitter gives another delay each time that it is asked, so ``after`` may differ from the delay that
    the worker will choose. If the policy itself fails, that is logged, and the attempt has failed for good.
    """
    parts = task.parts
    policy = retry or getattr(parts.holder, "policy", None)
    if not isinstance(policy, RetryPolicy):
        policy = _USUAL
    attempt = max(1, parts.attempt)  # a task without a backend has attempt 0
    with catch_errors() as caught:
        return judge(error, attempt=attempt, attempts=parts.attempts, policy=policy, now=trio.current_time())
    name = type(error).__name__
    log.error(
        "task %s: the retry policy raised an error while judging a %s; the task has failed",
        escaped(parts.id),
        name,
        exc_info=caught.error,
    )
    return Failed(error)
