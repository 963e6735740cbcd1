"""Calls of a storage: push a task, and wait for its result. A call that is cancelled ends its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from .._logging import log, log_and_suppress
from .._printing import escaped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Unpack

    from .._tasks.outcome import TaskResult
    from .._tasks.task import TaskOptions
    from .storage_events import Pushed

A_contra = TypeVar("A_contra", contravariant=True)

SETTLE_TIMEOUT = 10.0
"""Seconds that a backend may take to settle, unless a worker is told otherwise."""
USUAL_LEASE = 30.0
"""Seconds of a lease, unless a storage is told otherwise; in memory, where there are none, calls wait as long."""


class Callee(Protocol[A_contra]):
    """The interface of a storage that a call pushes to."""

    async def push_or_get(self, args: A_contra, **options: Unpack[TaskOptions]) -> Pushed:
        """Push a task, or find the one that has its unique key. If it is cancelled, nothing was pushed."""
        ...

    async def wait_for(self, task_id: str, type: Any = None) -> TaskResult[Any]:
        """Wait for the result of a task."""
        ...


@trio.lowlevel.enable_ki_protection
async def make_call(
    storage: Callee[A_contra],
    args: A_contra,
    type: Any,
    options: TaskOptions,
    withdraw: Callable[[str], Awaitable[None]],
    lease: float = USUAL_LEASE,
) -> Any:
    """Push a task, wait for it, and return its result or raise its error.

    If this is cancelled, or interrupted, the task is ended first, if this call has pushed it: ``withdraw`` does that,
    and returns once it has ended. That has a lease, and the time to settle. Between a push that has succeeded and the
    wait for it there is no checkpoint, so it is known here whether a task was pushed.
    """
    pushed = await storage.push_or_get(args, **options)
    try:
        result = await storage.wait_for(pushed.id, type)
    except (trio.Cancelled, KeyboardInterrupt):
        if pushed.is_new:
            await _end(pushed.id, withdraw, lease + SETTLE_TIMEOUT)  # noqa: ASYNC102  it shields itself, within bounds
        raise
    return result.unwrap()


async def _end(task_id: str, withdraw: Callable[[str], Awaitable[None]], seconds: float) -> None:
    """End a task within so many seconds, whatever cancels this; if it does not end, a warning names it."""
    with log_and_suppress("task %s could not be ended, though its call was cancelled", escaped(task_id)):
        with trio.move_on_after(seconds, shield=True) as scope:
            await withdraw(task_id)
        if scope.cancelled_caught:
            log.warning("task %s still runs, %g s after its call was cancelled", escaped(task_id), seconds)
