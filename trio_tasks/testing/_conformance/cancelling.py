"""Cutting a check before its k-th step, so that it can be cut before each of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from .._exploration.steps import StepCounter
from .rule import RuleBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

MOST_STEPS = 1000


def _counts(task: trio.lowlevel.Task | None) -> bool:
    """Count the steps of all trio tasks but those that keep time for the kit."""
    return task is not None and not task.name.endswith(".watch")


@contextmanager
def cut_before(step: int, cut: Callable[[], object]) -> Generator[StepCounter, None, None]:
    """Call ``cut`` before the step of this number, counted from 1 when the block begins, if the block lasts so long;
    0 calls it at once."""
    step_counter = StepCounter(step, cut, _counts)
    if not step:
        step_counter.was_reached = True
        cut()
    trio.lowlevel.add_instrument(step_counter)
    try:
        yield step_counter
    finally:
        trio.lowlevel.remove_instrument(step_counter)


async def cancelled_before(step: int, async_fn: Callable[..., Awaitable[Any]], *args: Any) -> tuple[bool, list[Any]]:
    """Call it, and cancel it before this step of it.

    Returns:
      whether it took that many steps; and in a list, if it returned, what it returned.
    """
    answers: list[Any] = []
    scope = trio.CancelScope()
    with cut_before(step, scope.cancel) as step_counter, scope:
        answers.append(await async_fn(*args))
    return step_counter.was_reached, answers


async def at_each_step(attempt: Callable[[int], Awaitable[bool]]) -> None:
    """Call ``attempt(0)``, ``attempt(1)`` and so on, until it says that it was not cut any more."""
    for step in range(MOST_STEPS):
        try:
            if not await attempt(step):
                return
        except RuleBroken as broken:
            broken.what += f" (cut before step {step})"
            raise
    raise RuleBroken("a check that is cut at each of its steps", f"{MOST_STEPS} steps and no end", "an end")
