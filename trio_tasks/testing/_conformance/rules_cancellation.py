"""Rules about cancellation: an operation that is cancelled at any step leaves each task either done or untouched."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import CallTask, FetchById, ListTasks, Metrics
from ..._tasks.errors import AbortError, DuplicateTaskError, LeaseLostError, RetryAfterError
from ..._tasks.outcome import Released, Status, Succeeded
from ..._tasks.task import Task
from ..._worker.worker import Worker
from .._exploration.steps import StepCounter
from .rule import RuleBroken, expect, expect_that, rule
from .workers import AT_ONCE, AttemptRecord, finish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from ..._tasks.outcome import Outcome
    from .harness import Harness

MOST_STEPS = 1000
_SENTINEL = 10**6


async def _until_sentinel(harness: Harness) -> list[Task[Any]]:
    """Push a last task, then receive and settle all tasks that come before it; return those."""
    await harness.push(_SENTINEL)
    tasks: list[Task[Any]] = []
    while True:
        task = await harness.receive()
        await harness.settle(task, Succeeded(None))
        if harness.number(task) == _SENTINEL:
            return tasks
        tasks.append(task)


@rule(2)
async def a_cancelled_push_is_whole_or_nothing(harness: Harness) -> None:
    """A push that is cancelled at any step has stored its task or has not; after pushing again, the task is there
    once.
    """

    async def cut_at(step: int) -> bool:
        task = Task.builder(harness.args(step)).metadata(note="whole").build()
        was_cut, answers = await cancelled_before(step, harness.backend.push_task, task)
        if not answers:
            with suppress(DuplicateTaskError):
                await harness.backend.push_task(Task(task.args, task.parts.again(0)))
        harness.note_pushed(step, task.parts.id)
        came = await _until_sentinel(harness)
        expect("what is in the store", [harness.number(each) for each in came], [step])
        expect("its args", came[0].args, harness.args(step))
        expect("its metadata", dict(came[0].parts.metadata), {"note": "whole"})
        return was_cut

    await at_each_step(cut_at)


@rule(2)
async def a_cancelled_bulk_is_a_beginning(harness: Harness) -> None:
    """A bulk push that is cancelled at any step has stored the first tasks of the bulk, each once."""
    bulk = [harness.args(number) for number in range(4)]

    async def cut_at(step: int) -> bool:
        was_cut, answers = await cancelled_before(step, harness.backend.push_bulk, bulk)
        came = [task.args for task in await _until_sentinel(harness)]
        expect("what is in the store", came, bulk if answers else bulk[: len(came)])
        return was_cut

    await at_each_step(cut_at)


@rule(2)
async def a_cancelled_receive_takes_nothing(harness: Harness) -> None:
    """A receive that is cancelled at any step has taken nothing, or returns the task that it has taken."""

    async def cut_at(step: int) -> bool:
        await harness.push(step)
        was_cut, answers = await cancelled_before(step, harness.backend.receive)
        task = answers[0] if answers else await harness.receive()
        expect("the task that comes, and its attempt", (harness.number(task), int(task.parts.attempt)), (step, 1))
        await harness.settle(task, Succeeded(None))
        return was_cut

    await at_each_step(cut_at)
    expect("what is left", [harness.number(each) for each in await _until_sentinel(harness)], [])


@rule(2)
async def a_receive_cancelled_while_it_waits_takes_nothing(harness: Harness) -> None:
    """A waiting receive that is cancelled at any step of a push leaves the task, or returns it."""

    async def cut_at(step: int) -> bool:
        taken: list[Task[Any]] = []
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                taken.append(await harness.backend.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.01)
            with cut_before(step, scope.cancel) as step_counter:
                await harness.push(step)
                await trio.sleep(0.01)
            scope.cancel()
        task = taken[0] if taken else await harness.receive()
        expect("the task that comes, and its attempt", (harness.number(task), int(task.parts.attempt)), (step, 1))
        await harness.settle(task, Succeeded(None))
        return step_counter.was_reached

    await at_each_step(cut_at)
    expect("what is left", [harness.number(each) for each in await _until_sentinel(harness)], [])


async def _settle_cut_before(harness: Harness, step: int, outcome: Outcome) -> tuple[bool, list[Task[Any]]]:
    """Settle a task, cancelled before this step, and then settle it again. Returns whether it was cancelled, and the
    tasks that come afterwards.
    """
    await harness.push(step)
    task = await harness.receive_number(step)
    was_cut, answers = await cancelled_before(step, harness.settle, task, outcome)
    is_settled = False
    try:
        await harness.settle(task, outcome)
    except LeaseLostError:
        is_settled = True
    expect_that(
        "a settle that returned",
        is_settled or not answers,
        "the task running still",
        "it settled, so that settling once more is a LeaseLostError",
    )
    return was_cut, await _until_sentinel(harness)


@rule(2)
async def a_cancelled_settle_is_whole_or_nothing(harness: Harness) -> None:
    """A settle that is cancelled at any step has either taken effect, or left the task running."""

    async def succeed(step: int) -> bool:
        was_cut, came = await _settle_cut_before(harness, step, Succeeded(None))
        expect("what comes after it succeeded", [harness.number(each) for each in came], [])
        return was_cut

    async def release(step: int) -> bool:
        was_cut, came = await _settle_cut_before(harness, step, Released("cut"))
        seen = [(harness.number(each), int(each.parts.attempt)) for each in came]
        expect("what comes after it was released, and in which attempt", seen, [(step, 1)])
        return was_cut

    await at_each_step(succeed)
    await at_each_step(release)


@rule(2)
async def a_cancelled_worker_loses_nothing(harness: Harness) -> None:
    """A worker that is cancelled at any step of its run leaves each task settled or in the store; an interruption costs
    no attempt.
    """

    async def handle(task: Task[Any]) -> int:
        await trio.lowlevel.checkpoint()
        number = harness.number(task)
        if number == 1 and task.parts.attempt == 1:
            raise RetryAfterError("again", 0)
        return number

    async def cut_at(step: int) -> bool:
        ids = [await harness.push(number) for number in range(3)]
        record = AttemptRecord(ids)
        worker: Worker[Any, Any] = Worker(
            "cut", harness.backend, handle, concurrency=2, on_event=record.listen, retry=AT_ONCE
        )
        was_cut, _ = await cancelled_before(step, worker.run)
        await finish(harness, ids, handle, record=record, name="successor")
        expect("the tasks that were finished", sorted(map(harness.number_of, record.finished)), [0, 1, 2])
        expect("the last attempt of each", [record.attempts_of(each)[-1] for each in ids], [1, 2, 1])
        expect("what is left", [harness.number(each) for each in await _until_sentinel(harness)], [])
        return was_cut

    await at_each_step(cut_at)


@rule(2, ListTasks)
async def a_worker_that_ends_is_quick_and_leaves_nothing_running(harness: Harness) -> None:
    """After a worker was cancelled or stopped, at most one more attempt begins in each slot, even if no handler ever
    waits. When the worker has ended, no task is running, not even one claimed in advance.
    """
    for number in range(80):
        await harness.push(number)
    for concurrency in (1, 8):
        for way in ("cancelled", "stopped"):
            await _end_while_busy(harness, concurrency, way)


async def _end_while_busy(harness: Harness, concurrency: int, way: str) -> None:
    """Cancel or stop a worker in its 5th attempt, and check how many attempts follow and what is left in the store."""
    begun = 0
    scope = trio.CancelScope()

    async def handle(task: Task[Any]) -> None:  # noqa: ASYNC910  that is the point of it
        nonlocal begun
        begun += 1
        if begun == 5:
            if way == "stopped":
                context.stop()
            else:
                scope.cancel()

    worker: Worker[Any, Any] = Worker("busy", harness.backend, handle, concurrency=concurrency)
    context = worker.prepare()
    with harness.limit(harness.max_wait), scope:
        await worker.run(context)
    expect_that(
        f"a worker of {concurrency} slots that was {way} in its 5th attempt",
        begun - 5 <= concurrency,
        f"{begun - 5} more attempts",
        f"{concurrency} more at most",
    )
    running = [harness.number(each) for each in await harness.backend.list_tasks(Status.Running)]
    expect(f"the tasks that are running when a worker that was {way} has ended", running, [])
    counted = [each for each in await harness.backend.list_tasks(Status.Pending) if each.parts.attempt]
    expect(f"the tasks that wait with an attempt counted when a worker that was {way} has ended", counted, [])


# Helpers that cancel a check before its k-th step, for each k


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


# Calls


@rule(3, CallTask)
async def a_call_returns_the_result_of_its_task(harness: Harness) -> None:
    """call pushes a task, and returns its result, or raises its error."""

    async def fail_or_count(task: Task[Any]) -> int:
        await trio.lowlevel.checkpoint()
        if task.args == harness.args(0):
            raise AbortError("no")
        return int(task.parts.attempt)

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("called", harness.backend, fail_or_count, concurrency=1)
        await nursery.start(worker.run)
        expect("the result of a call", await other.call(harness.args(1)), 1)
        error: object = None
        try:
            await other.call(harness.args(0))
        except AbortError as caught:
            error = caught
        expect("the error of a call whose task was killed", str(error), "no")
        nursery.cancel_scope.cancel()


@rule(1, CallTask)
async def a_cancelled_call_ends_its_task(harness: Harness) -> None:
    """A call that is cancelled returns when its task has ended, whether that waited or ran, and nothing is left of it;
    it counts as killed.
    """
    begun, ended = list[int](), list[int]()

    async def hang(task: Task[Any]) -> None:
        begun.append(1)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(1)

    async def call(other: Any, **options: Any) -> None:
        with calling:
            await other.call(harness.args(1), id=task_id, **options)
        expect("attempts that go on when a cancelled call returns", len(begun) - len(ended), 0)

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("called", harness.backend, hang, concurrency=1)
        await nursery.start(worker.run)
        for task_id, options in (("running", {}), ("waiting", {"delay": 3600.0})):
            async with trio.open_nursery() as callers:
                calling = trio.CancelScope()
                harness.note_pushed(1, task_id)
                callers.start_soon(partial(call, other, **options))
                if not options:
                    await harness.wait_until(lambda: bool(begun), "the attempt of a call", "begun")
                elif isinstance(other, FetchById):
                    await _until_known(harness, other, task_id)
                calling.cancel()
            if isinstance(other, FetchById):
                expect(f"what is left of a task that was {task_id}", await other.fetch_by_id(task_id), None)
        nursery.cancel_scope.cancel()
    if isinstance(harness.backend, Metrics):
        metrics = await harness.backend.metrics()
        expect("the numbers of those that run and wait", (metrics["running"], metrics["waiting"]), (0, 0))
    await harness.expect_nothing()


async def _until_known(harness: Harness, backend: FetchById, task_id: str) -> None:
    """Wait until the task of a call is there."""
    with harness.limit(harness.max_wait):
        while await backend.fetch_by_id(task_id) is None:  # noqa: ASYNC110  a call tells of its push to nobody
            await trio.sleep(0.01)


@rule(2, CallTask)
async def a_cancelled_call_leaves_the_holder_of_its_key_alone(harness: Harness) -> None:
    """A call whose unique key is taken waits for the task that has it, which goes on if the call is cancelled."""
    await harness.push(1, unique="key")
    with harness.limit(0.1) as scope:
        await harness.backend.call(harness.args(2), unique="key")
    expect("whether the call was cancelled", scope.cancelled_caught, True)
    await harness.receive_number(1)
