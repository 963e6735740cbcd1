"""Helpers that cancel a check before its k-th step, for each k."""

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
    """Return True for a step of any trio task except those that keep time for the kit."""
    return task is not None and not task.name.endswith(".watch")


@contextmanager
def cut_before(step: int, cut: Callable[[], object]) -> Generator[StepCounter, None, None]:
    """Call ``cut`` before step number ``step`` of the block, counted from 1; if the block ends before that step, never.
    A ``step`` of 0 calls it at once.
    """
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
    """Call ``async_fn(*args)``, and cancel it before step number ``step``.

    Returns:
      whether it took that many steps; and in a list, if it returned, what it returned.
    """
    answers: list[Any] = []
    scope = trio.CancelScope()
    with cut_before(step, scope.cancel) as step_counter, scope:
        answers.append(await async_fn(*args))
    return step_counter.was_reached, answers


async def at_each_step(attempt: Callable[[int], Awaitable[bool]]) -> None:
    """Call ``attempt(0)``, ``attempt(1)`` and so on, until one returns False: it ended before its step was reached."""
    for step in range(MOST_STEPS):
        try:
            if not await attempt(step):
                return
        except RuleBroken as broken:
            broken.what += f" (cancelled before step {step})"
            raise
    raise RuleBroken("a check that is cancelled at each of its steps", f"no end after {MOST_STEPS} steps", "an end")
