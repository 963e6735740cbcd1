"""Rules about deadlines: a task is killed at its own, whether it waits or runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import FetchById, ResumeById, WaitForCompletion, Watch
from ..._contracts.storage_events import DeadlinePassed, Pushed
from ..._tasks.errors import DeadlineError
from ..._tasks.outcome import Released, Retried, Status
from .harness import DELAY, EARLY, Stopwatch
from .rule import expect, expect_that, rule

if TYPE_CHECKING:
    from ..._tasks.task import Task
    from .harness import Harness

_LONG = 3600.0


@rule(9)
async def what_is_past_its_deadline_is_not_started(harness: Harness) -> None:
    """A task whose deadline is over is not given out any more, and is killed."""
    task_id = await harness.push(1, deadline=0.1)
    await harness.push(2, deadline=_LONG)
    await harness.pass_time(0.25)
    await harness.receive_number(2)
    await _expect_killed(harness, task_id)


@rule(9)
async def a_deadline_holds_for_what_comes_back(harness: Harness) -> None:
    """A task that was retried or released is killed at its deadline, if it waits then."""
    ids = [await harness.push(number, deadline=DELAY) for number in (1, 2)]
    retried, released = await harness.receive_number(1), await harness.receive_number(2)
    await harness.settle(retried, Retried(ValueError("again"), 2 * DELAY))
    await harness.settle(released, Released())
    await harness.pass_time(3 * DELAY)
    await harness.expect_nothing()
    for task_id in ids:
        await _expect_killed(harness, task_id)


async def _expect_killed(harness: Harness, task_id: str) -> None:
    if not isinstance(harness.backend, WaitForCompletion):
        await trio.lowlevel.checkpoint()
        return
    result = await harness.backend.wait_for(task_id)
    expect("the status of the task", result.status, Status.Killed)
    expect_that("its error", isinstance(result.error, DeadlineError), repr(result.error), "a DeadlineError")


@rule(9)
async def an_attempt_has_the_deadline_of_its_task(harness: Harness) -> None:
    """A task that is received has its deadline as ``parts.cancel_at``, by trio's clock, in each attempt; a push that
    says so inherits that of its caller.
    """
    await harness.push(1, deadline=_LONG)
    with trio.fail_after(_LONG):
        await harness.push(2, deadline="inherit")
    await harness.push(3, deadline="inherit")
    end = trio.current_time() + _LONG
    first = await harness.receive_number(1)
    _expect_end(first, end, harness)
    await harness.settle(first, Retried(ValueError("again"), 0.0))
    _expect_end(await harness.receive_number(2), end, harness)
    _expect_end(await harness.receive_number(3), math.inf, harness)
    _expect_end(await harness.receive_number(1, attempt=2), end, harness)


def _expect_end(task: Task[Any], end: float, harness: Harness) -> None:
    seen = math.inf if task.parts.deadline is None else task.parts.cancel_at
    about = seen == end or end - harness.max_wait - EARLY <= seen <= end + EARLY
    expect_that(f"the deadline of task {harness.number(task)}, by trio's clock", about, seen, f"about {end:g}")


@rule(9, FetchById)
async def what_is_past_its_deadline_is_seen_as_killed(harness: Harness) -> None:
    """A task whose deadline is over shows as killed, even if no receive is under way, and also after an attempt; one
    that is resumed has no deadline.
    """
    backend = harness.backend
    ids = [await harness.push(number, deadline=DELAY) for number in (1, 2)]
    await harness.settle(await harness.receive_number(1), Retried(ValueError("again"), _LONG))
    await harness.pass_time(2 * DELAY)
    found = [await backend.fetch_by_id(each) for each in ids]
    expect("the statuses", [each and each.parts.status for each in found], [Status.Killed] * 2)
    if isinstance(backend, ResumeById):
        expect("whether one can be resumed", await backend.resume_by_id(ids[1]), True)
        _expect_end(await harness.receive_number(2), math.inf, harness)


@rule(9, WaitForCompletion)
async def a_deadline_is_waited_for(harness: Harness) -> None:
    """A wait for the result of a task ends at its deadline, even if no receive is under way."""
    clock = Stopwatch()
    task_id = await harness.push(1, deadline=DELAY)
    has_ended = False
    with harness.limit(harness.max_wait):
        await _expect_killed(harness, task_id)
        has_ended = True
    expect("whether the wait has ended", has_ended, True)
    clock.expect_at_least(DELAY - EARLY, f"a task with a deadline of {DELAY} s")


@rule(13, Watch)
async def the_end_at_a_deadline_is_told(harness: Harness) -> None:
    """events() gives DeadlinePassed for a task that is killed at its deadline while it waits."""
    async with harness.backend.events() as events:
        late = await harness.push(1, deadline=0.1)
        await harness.pass_time(0.25)
        await harness.expect_nothing()
        told = [await events.receive() for _ in range(2)]
        expect("the events", told, [Pushed(late, True), DeadlinePassed(late)])
