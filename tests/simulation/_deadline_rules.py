"""Rules about deadlines: nothing begins after one, each attempt has it, and only what is late is killed by it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio
from trio_tasks import DeadlineError, Failed, Killed, Retried, Task

if TYPE_CHECKING:
    from tests.simulation._claim_checker import ClaimChecker


def check_beginning(checker: ClaimChecker, task: Task[Any]) -> None:
    """Check an attempt that begins now."""
    parts, end = task.parts, end_of(task)
    if trio.current_time() >= end:
        checker.fault(f"{parts.id} begins attempt {parts.attempt} after its deadline, {end:g}")
    if trio.current_effective_deadline() > end:
        checker.fault(f"{parts.id} in attempt {parts.attempt} has no scope with its deadline, {end:g}")


def is_late(checker: ClaimChecker, task: Task[Any], outcome: Retried | Failed | Killed) -> bool:
    """Return True if an attempt was killed by the deadline of its task, which has to be over."""
    if not isinstance(outcome.error, DeadlineError):
        return False
    checker.seen["killed at a deadline"] += 1
    if not isinstance(outcome, Killed) or trio.current_time() < end_of(task):
        checker.fault(f"{task.parts.id} is {outcome} at {trio.current_time():g}, its deadline is {end_of(task):g}")
    return True


def end_of(task: Task[Any]) -> float:
    """The deadline of a task that is attempted, by trio's clock."""
    return math.inf if task.parts.deadline is None else task.parts.cancel_at
