"""Rules about the order in which tasks are given out, and about the time."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from ..._clock import wall_now
from ..._contracts.backend import (
    Cancel,
    Discard,
    FetchById,
    ListTasks,
    Metrics,
    Reschedule,
    ResumeById,
    WaitForCompletion,
)
from ..._contracts.storage_events import Pushed
from ..._tasks.errors import DuplicateTaskError
from ..._tasks.outcome import Failed, Killed, Retried, Status, Succeeded
from ..._tasks.task_id import TaskId
from .harness import DELAY, EARLY, Stopwatch
from .rule import expect, expect_that, refused, rule

if TYPE_CHECKING:
    from ..._tasks.outcome import Outcome
    from ..._tasks.task import OnConflict, TaskOptions
    from .harness import Harness

_NEVER_REFUSED: tuple[OnConflict, ...] = ("skip", "replace", "update")


@rule(3)
async def first_come_first_served(harness: Harness) -> None:  # noqa: ASYNC910  the list is not empty
    """Tasks of the same priority come in the order in which they were pushed."""
    numbers = list(range(20))
    for number in numbers:
        await harness.push(number)
    expect("the order in which they come", [harness.number(await harness.receive()) for _ in numbers], numbers)


@rule(3)
async def higher_priority_goes_first(harness: Harness) -> None:
    """The task of the highest priority comes first, whenever it was pushed; a priority below 0 comes last."""
    for number, priority in enumerate((0, -5, 10, 0, 10)):
        await harness.push(number, priority=priority)
    expect("the order in which they come", [harness.number(await harness.receive()) for _ in range(5)], [2, 4, 0, 3, 1])


@rule(9)
async def a_delay_is_waited_for(harness: Harness) -> None:
    """A delayed task does not come before its delay is over; then a waiting receiver gets it."""
    clock = Stopwatch()
    await harness.push(1, delay=DELAY)
    await harness.receive_number(1)
    clock.expect_at_least(DELAY, f"a task delayed by {DELAY} s")


@rule(9)
async def a_moment_is_waited_for(harness: Harness) -> None:
    """A task with a run_at does not come before that moment; one whose moment has passed comes at once."""
    clock = Stopwatch()
    await harness.push(1, run_at=wall_now() + timedelta(seconds=DELAY))
    late = clock.wall_seconds  # seconds that the push took, by which the wait is shorter
    await harness.push(2, run_at=wall_now() - timedelta(days=400))
    await harness.receive_number(2)
    await harness.receive_number(1)
    clock.expect_at_least(DELAY - late, f"a task to be run {DELAY} s from now")


@rule(9)
async def a_delayed_task_lets_ready_ones_pass(harness: Harness) -> None:
    """Ready tasks come before delayed ones; of the delayed ones, the earliest due comes first."""
    for number, delay in enumerate((2 * DELAY, DELAY, 0.0)):
        await harness.push(number, **({"delay": delay} if delay else {}), priority=-number)
    expect("the order in which they come", [harness.number(await harness.receive()) for _ in range(3)], [2, 1, 0])


@rule(9)
async def what_has_expired_is_not_started(harness: Harness) -> None:
    """A task that was not started within its expires_in is not given out any more, and is killed."""
    task_id = await harness.push(1, expires_in=0.1)
    await harness.push(2, expires_in=3600.0)
    await harness.pass_time(0.25)
    await harness.receive_number(2)
    if isinstance(harness.backend, WaitForCompletion):
        expect("the status of the expired task", (await harness.backend.wait_for(task_id)).status, Status.Killed)


async def _push_delayed(harness: Harness, number: int, *, expires_in: float) -> TaskId:
    """Push a task that expires before it is ready, which a push with such a delay refuses; if that can be had."""
    task_id = await harness.push(number, expires_in=expires_in)
    if isinstance(harness.backend, Reschedule):
        await harness.backend.reschedule(task_id, 3600.0)
    return task_id


@rule(9, FetchById)
async def what_has_expired_is_seen_as_killed(harness: Harness) -> None:
    """A task that has expired, delayed or not, shows as killed, even if no receive is under way."""
    backend = harness.backend
    ids = [await harness.push(1, expires_in=0.1), await _push_delayed(harness, 2, expires_in=0.1)]
    await harness.pass_time(0.25)
    found = [await backend.fetch_by_id(each) for each in ids]
    expect("the statuses", [each and each.parts.status for each in found], [Status.Killed] * 2)
    if isinstance(backend, ListTasks):
        expect("those that are listed as pending", await backend.list_tasks(Status.Pending), [])
        killed = {each.parts.id for each in await backend.list_tasks(Status.Killed)}
        expect_that("those that are listed as killed", killed >= set(ids), killed, f"{ids} among them")
    if isinstance(backend, Metrics):
        expect("how many are counted as waiting", (await backend.metrics())["waiting"], 0)
    if isinstance(backend, Cancel):
        expect("whether one can be cancelled", await backend.cancel(ids[0]), False)
    if isinstance(backend, ResumeById):
        expect("whether one can be resumed", await backend.resume_by_id(ids[1]), True)
        await harness.receive_number(2)


@rule(9, WaitForCompletion)
async def an_expiry_is_waited_for(harness: Harness) -> None:
    """A wait for the result of a task ends when the task expires, even if no receive is under way."""
    ids = [await harness.push(1, expires_in=DELAY), await _push_delayed(harness, 2, expires_in=DELAY)]
    clock = Stopwatch()
    for number, each in enumerate(ids, start=1):
        status: object = None
        with harness.limit(harness.max_wait):
            status = (await harness.backend.wait_for(each)).status
        expect(f"the status of task {number}, as it is waited for", status, Status.Killed)
    clock.expect_at_least(DELAY - EARLY, f"a task that expires after {DELAY} s")


@rule(12, WaitForCompletion)
async def a_replaced_task_names_its_successor(harness: Harness) -> None:
    """The error of a task that was replaced names the one that has replaced it, whether it waited or ran."""
    ids = [await harness.push(1, unique="key"), await harness.push(2, unique="key", on_conflict="replace")]
    running = await harness.receive_number(2)
    ids.append(await harness.push(3, unique="key", on_conflict="replace"))
    await harness.receive_number(3)
    await harness.settle(running, Retried(ValueError("again"), 3600.0))
    for old, new in pairwise(ids):
        result = await harness.backend.wait_for(old)
        expect_that("its error", new in str(result.error), str(result.error), f"{new} in it")


@rule(12)
async def what_has_expired_gives_up_its_key(harness: Harness) -> None:
    """A push under the unique key of a task that has expired gets the key, even if no receive is under way."""
    task_id = await harness.push(1, unique="key", expires_in=0.1)
    await harness.pass_time(0.25)
    pushed = await harness.push(2, unique="key", on_conflict="raise")
    expect_that("what push returns", pushed != task_id, pushed, "the id of the new task")
    await harness.receive_number(2)
    await harness.expect_nothing()
    if isinstance(harness.backend, WaitForCompletion):
        expect("the status of the expired task", (await harness.backend.wait_for(task_id)).status, Status.Killed)


@rule(9)
async def what_was_started_in_time_does_not_expire(harness: Harness) -> None:
    """A task that was started within its expires_in is given out again when it is retried, even after that time."""
    await harness.push(1, expires_in=DELAY)
    await harness.settle(await harness.receive_number(1), Retried(ValueError("again"), 2 * DELAY))
    await harness.receive_number(1, attempt=2)


@rule(12)
async def a_taken_key_is_skipped(harness: Harness) -> None:
    """Pushing under a unique key that is taken leaves the first task in place and returns its id."""
    task_id = await harness.push(1, unique="key")
    expect("what push returns", await harness.backend.push(harness.args(2), unique="key"), task_id)
    await harness.push(3, unique="other key")
    task = await harness.receive_number(1)
    expect("what push returns while the first runs", await harness.backend.push(harness.args(2), unique="key"), task_id)
    await harness.settle(task, Retried(ValueError("again"), DELAY))
    expect("what push returns while it waits", await harness.backend.push(harness.args(2), unique="key"), task_id)
    await harness.receive_number(3)
    await harness.receive_number(1, attempt=2)
    await harness.expect_nothing()


@rule(12)
async def a_task_is_pushed_or_got(harness: Harness) -> None:
    """push_or_get returns the id of the task that has the unique key, and says whether it has put that in."""
    first = await harness.backend.push_or_get(harness.args(1), unique="key")
    expect("whether the first task is new", first.is_new, True)
    expect("the second push", await harness.backend.push_or_get(harness.args(2), unique="key"), Pushed(first.id, False))
    third = await harness.backend.push_or_get(harness.args(3))
    expect("whether a task without a key is new", third.is_new, True)
    expect("the first task", (await harness.receive()).parts.id, first.id)
    expect("the third task", (await harness.receive()).parts.id, third.id)
    await harness.expect_nothing()


@rule(12)
async def a_taken_key_is_replaced(harness: Harness) -> None:
    """With on_conflict="replace", the waiting task of the same unique key is killed, and the new one waits instead."""
    old = await harness.push(1, unique="key")
    await harness.push(2, unique="key", on_conflict="replace")
    await harness.settle(await harness.receive_number(2), Succeeded(None))
    await harness.expect_nothing()
    if isinstance(harness.backend, WaitForCompletion):
        expect("the status of the replaced task", (await harness.backend.wait_for(old)).status, Status.Killed)


@rule(12)
async def the_holder_of_a_key_is_updated(harness: Harness) -> None:
    """With on_conflict="update", the waiting task of the same unique key gets the args, the time and the priority of
    the new one; a running one is left alone.
    """
    held = await harness.push(1, unique="key", delay=3600.0)
    options: TaskOptions = {"unique": "key", "on_conflict": "update"}
    changes: TaskOptions = {**options, "priority": 1, "metadata": {"note": "new"}, "attempts": 7}
    await harness.push(2)
    new = await harness.backend.push(harness.args(3), **changes)
    expect("what push returns while the first waits", new, held)
    task = await harness.receive_number(1)
    expect("its args", task.args, harness.args(3))
    expect("its metadata", dict(task.parts.metadata), {"note": "new"})
    expect("its options", (task.parts.priority, task.parts.attempts), (1, 7))
    expect("what push returns while it runs", await harness.backend.push(harness.args(4), **options), held)
    await harness.settle(task, Retried(ValueError("again"), 0.0))
    await harness.receive_number(1, attempt=2)
    await harness.receive_number(2)
    await harness.expect_nothing()


@rule(12)
async def a_taken_key_is_refused(harness: Harness) -> None:
    """With on_conflict="raise", a second task of the same unique key is refused with DuplicateTaskError."""
    await harness.push(1, unique="key")
    with refused("a second task of the same unique key", DuplicateTaskError):
        await harness.push(2, unique="key", on_conflict="raise")
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    await harness.expect_nothing()


@rule(12)
async def a_key_is_free_after_the_end(harness: Harness) -> None:
    """A unique key is free again as soon as its task is finished, with whatever outcome."""
    outcomes: tuple[Outcome, ...] = (Succeeded(None), Failed(ValueError("failed")), Killed(ValueError("killed")))
    for number, outcome in enumerate(outcomes):
        await harness.push(number, unique="key", on_conflict="raise")
        await harness.settle(await harness.receive_number(number), outcome)
    await harness.push(7, unique="key", on_conflict="raise")
    await harness.receive_number(7)


@rule(12)
async def a_key_is_free_after_the_start(harness: Harness) -> None:
    """With unique_until="start", a unique key is free again when its task has been received for the first time, and is
    not taken again when that is retried.
    """
    options: TaskOptions = {"unique": "key", "unique_until": "start"}
    refused_if_taken: TaskOptions = {**options, "on_conflict": "raise"}
    first = await harness.push(1, **options)
    expect("what push returns while the first waits", await harness.backend.push(harness.args(2), **options), first)
    task = await harness.receive_number(1)
    await harness.push(3, **refused_if_taken)
    await harness.settle(task, Retried(ValueError("again"), DELAY))
    await harness.receive_number(3)
    await harness.push(4, **refused_if_taken)
    await harness.receive_number(4)
    await harness.receive_number(1, attempt=2)
    await harness.expect_nothing()


@rule(12, Discard)
async def a_key_is_held_until_it_is_forgotten(harness: Harness) -> None:
    """With unique_until="forgotten", a finished task that is remembered still holds its unique key; it is neither
    replaced nor updated.
    """
    options: TaskOptions = {"unique": f"of {TaskId.new()}", "unique_until": "forgotten"}
    refused_if_taken: TaskOptions = {**options, "on_conflict": "raise"}
    first = await harness.push(1, **options)
    await harness.settle(await harness.receive_number(1), Failed(ValueError("failed")))
    for number, on_conflict in enumerate(_NEVER_REFUSED, 2):
        again: TaskOptions = {**options, "on_conflict": on_conflict}
        pushed = await harness.backend.push(harness.args(number), **again)
        expect(f"what push returns with on_conflict={on_conflict!r}", pushed, first)
    with refused("another task of its unique key", DuplicateTaskError):
        await harness.push(5, **refused_if_taken)
    await harness.backend.discard(first)
    await harness.push(6, **refused_if_taken)
    await harness.receive_number(6)
    await harness.expect_nothing()


@rule(12)
async def a_key_is_held_for_its_time(harness: Harness) -> None:
    """With unique_for, a unique key is held for so many seconds from the push, though its task is finished and
    forgotten, and not longer, though its task waits.
    """
    key = f"of {TaskId.new()}"  # it is still held when the rule is over, and the next ones may use the same store
    first = await harness.push(1, unique=key, unique_for=3600.0)
    short = await harness.push(2, unique="key", unique_for=DELAY, priority=-1)
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    backend: object = harness.backend
    if isinstance(backend, Discard):
        await backend.discard(first)
    for number, on_conflict in enumerate(_NEVER_REFUSED, 3):
        pushed = await harness.backend.push(harness.args(number), unique=key, on_conflict=on_conflict)
        expect(f"what push returns with on_conflict={on_conflict!r}", pushed, first)
    await harness.pass_time(2 * DELAY)
    pushed = await harness.push(6, unique="key", on_conflict="raise", priority=-2)
    expect_that("what push returns when the time is over", pushed != short, pushed, "the id of the new task")
    await harness.receive_number(2)
    await harness.receive_number(6)
    await harness.expect_nothing()
