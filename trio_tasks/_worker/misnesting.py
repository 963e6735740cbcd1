"""Handling of cancel scopes and nurseries that a handler leaves open.

An async generator that is abandoned at a ``yield`` inside a scope or nursery leaves it open, and so does a scope that
is entered and never left. trio keeps the open ones of a trio task as a stack, and raises ``RuntimeError`` when an outer
one is left before an inner one. What was left open is abandoned then, and the trio task should not be used any more.

trio has no public way to ask for the innermost open scope of a trio task, nor to forget a nursery. The two attributes
that are read here have had their names since 2019; without them, a handler that leaves a scope open ends its worker.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.context import WorkerContext

_STATUS = "_cancel_status"
_NURSERIES = "_child_nurseries"
_PAUSE = 0.01
"""Seconds between two looks whether the children of an abandoned nursery have ended."""


def _nothing(trio_task: trio.lowlevel.Task) -> None:
    return None


innermost_scope: Callable[[trio.lowlevel.Task], object] = (
    attrgetter(_STATUS) if hasattr(trio.lowlevel.Task, _STATUS) else _nothing
)
"""Something that stands for the innermost scope that this trio task has open."""


def left_open_error(
    context: WorkerContext, trio_task: trio.lowlevel.Task, error: BaseException | None
) -> BaseException:
    """Make the error for an attempt that left a scope or nursery open; its cause is the error that the attempt raised,
    if any.
    """
    what = "a nursery" if trio_task.child_nurseries else "a cancel scope"
    name = getattr(context.recipe, "handler_name", "a handler")
    found = RuntimeError(
        f"{name} left {what} open when it ended. Perhaps it abandoned an async generator that yields inside of one: "
        "have trio.as_safe_channel make a channel of it, or close it with contextlib.aclosing"
    )
    found.__cause__ = error
    return found


async def end_nurseries(trio_task: trio.lowlevel.Task) -> None:
    """Cancel all nurseries that this trio task has open, and wait until their children have ended."""
    nurseries = trio_task.child_nurseries
    for nursery in nurseries:
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        while any(nursery.child_tasks for nursery in nurseries):  # noqa: ASYNC110  trio has no event for the end of one
            await trio.sleep(_PAUSE)
        await trio.lowlevel.checkpoint()


def forget_nurseries(trio_task: trio.lowlevel.Task) -> None:
    """Let the trio task end as if it had no open nurseries."""
    left: list[Any] = getattr(trio_task, _NURSERIES, [])
    left.clear()
