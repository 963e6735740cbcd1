"""A layer that reports how each attempt ended, and waits until the report is acknowledged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar, final

from .._checks import check_callable
from .._printing import escaped
from .._tasks.outcome import Succeeded
from ._failures import FAILURES, check_policy, is_failure, judge_by_policy

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._contracts.layer import Handler
    from .._tasks.outcome import Outcome
    from .._tasks.retry import RetryPolicy
    from .._tasks.task import Parts, Task

A = TypeVar("A")
R = TypeVar("R")


@final
class Acknowledge:
    """Await ``acknowledge(outcome, parts)`` after each attempt, as a part of the attempt.

    >>> async def confirm(outcome, parts):
    ...     await broker.confirm(parts.metadata["delivery"], ok=isinstance(outcome, Succeeded))
    >>> Acknowledge(confirm)

    Args:
      acknowledge: an async function; its result is ignored.
      retry: the policy that judges errors, if it is not the worker's.

    ``outcome`` is what will be settled if nothing further out changes it: ``Succeeded(result)``, and for an error
    ``Retried``, ``Failed``, ``Killed`` or ``Suspended``. The first layer of the list sees the outcome after all
    other layers.

    The acknowledgement is a part of the attempt. If it fails after a success, its error is the attempt's error, and the
    task will be tried again. If it fails after an error, both are raised, in a group, and judged together.

    A cancelled attempt is not acknowledged: code outside this layer decides whether it timed out, was aborted, or is
    released. The acknowledgement is not shielded; if it is cancelled, so is the attempt. Then it may have arrived or
    not, and a released task will be acknowledged again. So let repeated acknowledgements be harmless.
    """

    __slots__ = ("_acknowledge", "_retry")

    def __init__(
        self, acknowledge: Callable[[Outcome, Parts], Awaitable[object]], *, retry: RetryPolicy | None = None
    ) -> None:
        self._acknowledge = check_callable(acknowledge, "acknowledge", "async acknowledge(outcome, parts)")
        self._retry = check_policy(retry)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, then await the acknowledgement of its outcome."""
        try:
            result = await handler(task)
        except FAILURES as error:
            if is_failure(error):
                await self._acknowledge_error(error, task)  # noqa: ASYNC120  if cancelled, it is the attempt that is
            raise
        await self._acknowledge(Succeeded(result), task.parts)
        return result

    async def _acknowledge_error(self, error: BaseException, task: Task[A]) -> None:
        try:
            await self._acknowledge(judge_by_policy(error, task, self._retry), task.parts)
        except FAILURES as another:
            if not is_failure(another):
                raise
            message = f"task {escaped(task.parts.id)} failed, and so did its acknowledgement"
            raise BaseExceptionGroup(message, [error, another]) from None

    def __repr__(self) -> str:
        return f"<Acknowledge by {self._acknowledge!r}>"
