"""What becomes of an attempt, as far as that can be said at a place within the layers.

Final is only what the worker says, outside of all layers. A layer further out may still make another thing of an error;
so whoever wants to hear what the worker will say takes the place of the outermost layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._backoff import RetryPolicy
from .._outcome import judge

if TYPE_CHECKING:
    from .._outcome import Outcome
    from .._task import Task

_USUAL = RetryPolicy()


def check_policy(retry: object) -> RetryPolicy | None:
    """A retry policy, or None for that of the worker."""
    if not (retry is None or isinstance(retry, RetryPolicy)):
        raise TypeError(f"retry must be a RetryPolicy, or None for the worker's own, not {retry!r}")
    return retry


def verdict_on(error: BaseException, task: Task[Any], retry: RetryPolicy | None) -> Outcome:
    """The outcome, if the attempt ended with this error: judged by ``retry``; else by the policy of the worker that has
    the task in hand; else, without a worker, by the usual one.

    A backoff with jitter gives another delay each time that it is asked, so ``after`` may differ from the delay that
    the worker will choose.
    """
    policy = retry or getattr(task.parts.holder, "policy", None)
    parts = task.parts
    return judge(
        error,
        attempt=max(1, parts.attempt),  # a task that no backend gave out was not counted
        attempts=parts.attempts,
        policy=policy if isinstance(policy, RetryPolicy) else _USUAL,
    )
