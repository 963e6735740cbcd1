"""Rules about workers on the backend: errors, stopping, and several workers that share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import FetchById, Metrics, WaitForCompletion
from ..._tasks.errors import AbortError, LeaseLostError, SuspendError
from ..._tasks.outcome import Failed, Killed, Released, Retried, Status, Succeeded, Suspended
from ..._tasks.retry import RetryPolicy, constant
from ..._tasks.task import Task
from ..._worker.worker import Worker
from .harness import DELAY, Stopwatch
from .rule import Feature, RuleBroken, expect, expect_that, rule
from .workers import AT_ONCE, AttemptRecord, finish

if TYPE_CHECKING:
    from .harness import Harness


@rule(3)
async def an_error_is_retried_and_then_final(harness: Harness) -> None:
    """A task whose handler keeps failing is retried, with its backoff, until no attempt is left; then it fails."""
    task_id = await harness.push(1)

    async def fail(task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError(f"no luck in attempt {task.parts.attempt}")

    clock = Stopwatch()
    record = await finish(harness, [task_id], fail, retry=RetryPolicy(attempts=3, backoff=constant(0.1)))
    clock.expect_at_least(0.2, "a task that was retried twice, after 0.1 s each")
    expect("the attempts", record.attempts_of(task_id), [1, 2, 3])
    expect("the outcomes", [type(outcome) for _, outcome in record.outcomes], [Retried, Retried, Failed])
    await harness.expect_nothing()
    if isinstance(harness.backend, WaitForCompletion):
        result = await harness.backend.wait_for(task_id)
        expect("the status and the error", (result.status, str(result.error)), (Status.Failed, "no luck in attempt 3"))


@rule(3, FetchById, Feature.INFO)
async def errors_are_retried_for_a_limited_time(harness: Harness) -> None:
    """A task with retry_for is retried as long as that is not over, counted from the begin of its first attempt; then
    it fails.
    """
    long, short = await harness.push(1, retry_for=3600.0), await harness.push(2, retry_for=DELAY)

    async def handle(task: Task[Any]) -> None:
        await trio.sleep(0.6 * DELAY if task.parts.id == short else 0.0)
        if task.parts.id == short or task.parts.attempt == 1:
            raise ValueError("no luck")

    record = await finish(harness, [long, short], handle, retry=RetryPolicy(attempts=9, backoff=constant(0.0)))
    expect("the attempts at a task with an hour for it", record.attempts_of(long), [1, 2])
    attempts = record.attempts_of(short)
    expect_that(f"the attempts at one with {DELAY} s for it", len(attempts) <= 2, attempts, "2 at most")
    kinds = {task_id: type(outcome) for task_id, outcome in record.outcomes}
    expect("the last outcomes", (kinds[long], kinds[short]), (Succeeded, Failed))
    await harness.expect_nothing()


@rule(5, Metrics)
async def a_worker_runs_until_it_is_idle(harness: Harness) -> None:
    """run_until_idle returns once no task is ready and none runs; delayed tasks stay in the backend."""
    await harness.push(1, delay=3600.0)
    for number in (2, 3, 4):
        await harness.push(number)

    async def handle(task: Task[Any]) -> None:
        if harness.number(task) == 2:
            await harness.push(5)
        await trio.lowlevel.checkpoint()

    worker: Worker[Any, Any] = Worker("until idle", harness.backend, handle, concurrency=2)
    for succeeded in (4, 0):
        with harness.limit(harness.max_wait) as scope:
            report = await worker.run_until_idle()
            expect("the tasks that it did", report.succeeded, succeeded)
        if scope.cancelled_caught:
            raise RuleBroken("a worker of run_until_idle", "it waits, and no task is ready", "it ends")
    metrics = await harness.backend.metrics()
    expect("what is left, by state", (metrics["waiting"], metrics["delayed"], metrics["running"]), (0, 1, 0))


@rule(7)
async def a_suspension_costs_no_attempt(harness: Harness) -> None:
    """A task that its handler suspends, even in the last attempt, comes again at its time, as the same attempt."""
    task_id = await harness.push(1, attempts=1)

    async def handle(task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()
        if len(record.attempts) < 3:
            raise SuspendError(0.1, "not yet")

    clock, record = Stopwatch(), AttemptRecord()
    await finish(harness, [task_id], handle, record=record)
    clock.expect_at_least(0.2, "a task that was suspended twice, for 0.1 s each")
    expect("the attempts", record.attempts_of(task_id), [1, 1, 1])
    expect("the outcomes", [type(outcome) for _, outcome in record.outcomes], [Suspended, Suspended, Succeeded])


@rule(3)
async def results_and_aborts_are_settled(harness: Harness) -> None:
    """The result that a handler returns, or its AbortError, is settled as the task's outcome."""
    ids = [await harness.push(number) for number in range(2)]

    async def handle(task: Task[Any]) -> int:
        await trio.lowlevel.checkpoint()
        if harness.number(task):
            raise AbortError("not wanted")
        return 42

    record = await finish(harness, ids, handle)
    seen = {each: type(outcome) for each, outcome in record.outcomes}
    expect("the outcomes", seen, {ids[0]: Succeeded, ids[1]: Killed})
    await harness.expect_nothing()
    if isinstance(harness.backend, WaitForCompletion):
        results = [await harness.backend.wait_for(each) for each in ids]
        expect("the statuses", [each.status for each in results], [Status.Done, Status.Killed])
        expect("the result", results[0].result, 42)


@rule(5)
async def a_worker_that_stops_leaves_the_rest(harness: Harness) -> None:
    """A worker that is stopped finishes its running tasks; those that it has not begun stay in the store unchanged."""
    ids = [await harness.push(number) for number in range(3)]
    record = AttemptRecord()
    begun, go_on = trio.Event(), trio.Event()

    async def handle(task: Task[Any]) -> None:
        begun.set()
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("stopping", harness.backend, handle, concurrency=1, on_event=record.listen)
        context = await nursery.start(worker.run)
        await harness.wait_until(begun.is_set, "the attempt of a worker", "begun")
        context.stop()
        go_on.set()
    expect("what it finished", record.finished, ids[:1])
    for number in (1, 2):
        await harness.receive_number(number)


@rule(5)
async def a_cancelled_worker_releases(harness: Harness) -> None:
    """A worker that is cancelled releases its running tasks: they come again at once, as the same attempts."""
    ids = [await harness.push(number) for number in range(3)]
    record = AttemptRecord()

    async def hang(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("cancelled", harness.backend, hang, concurrency=2, on_event=record.listen)
        nursery.start_soon(worker.run)
        await harness.wait_until(lambda: len(record.attempts) == 2, "two attempts of a worker", "begun")
        nursery.cancel_scope.cancel()
    expect("the outcomes", [type(outcome) for _, outcome in record.outcomes], [Released, Released])
    tasks = [await harness.receive() for _ in ids]
    expect("what comes then", sorted(task.parts.id for task in tasks), sorted(ids))
    expect("their attempts", [int(task.parts.attempt) for task in tasks], [1, 1, 1])


@rule(4)
async def a_worker_claims_only_what_it_begins(harness: Harness) -> None:
    """A worker holds no more tasks than it has slots: another receiver gets the rest at once."""
    for number in range(4):
        await harness.push(number)
    record = AttemptRecord()

    async def hang(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("full", harness.backend, hang, concurrency=1, on_event=record.listen)
        nursery.start_soon(worker.run)
        await harness.wait_until(lambda: bool(record.attempts), "the attempt of a worker", "begun")
        for number in (1, 2, 3):
            task = await harness.receive(other)
            expect("the task for the other one", harness.number(task), number)
            expect("its attempt", int(task.parts.attempt), 1)
            await harness.settle(task, Succeeded(None))
        nursery.cancel_scope.cancel()
    expect("how many tasks the full worker has begun", len(record.attempts), 1)
    await harness.receive_number(0)


@rule(2)
async def a_task_goes_to_one_receiver(harness: Harness) -> None:
    """A task goes to one of several receivers, whether they wait for it or look at the same time."""
    taken: list[Task[Any]] = []

    async def receive(backend: Any) -> None:
        taken.append(await backend.receive())

    async with harness.second_handle() as other:
        for number in range(6):
            async with trio.open_nursery() as nursery:
                if number % 2:
                    await harness.push(number)
                for backend in (harness.backend, other) * 2:
                    nursery.start_soon(receive, backend)
                if not number % 2:
                    await trio.sleep(0.01)
                    await harness.push(number)
                await harness.wait_until(lambda: bool(taken), "a task for one of four receivers", "received")
                await harness.pass_time(0.05)
                nursery.cancel_scope.cancel()
            seen = [(harness.number(task), int(task.parts.attempt)) for task in taken]
            expect("what four receivers got of one task, and in which attempt", seen, [(number, 1)])
            await _settle_by_either(harness.backend, other, taken.pop())


async def _settle_by_either(one: Any, other: Any, task: Task[Any]) -> None:
    """Settle the task through the one of two handles that it was received from."""
    try:
        await one.settle(task, Succeeded(None))
    except LeaseLostError:
        if one is other:
            raise
        await other.settle(task, Succeeded(None))


@rule(2)
async def two_workers_share_the_work(harness: Harness) -> None:
    """Of many tasks given out to two workers, each is attempted once and settled once, and none is left."""
    ids = await harness.backend.push_bulk([harness.args(number) for number in range(60)])
    record = AttemptRecord(ids)
    by_worker: dict[str, int] = {}

    async def handle(task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()

    async with harness.second_handle() as other:
        async with trio.open_nursery() as nursery:
            for name, backend in (("one", harness.backend), ("two", other)):
                by_worker[name] = 0
                worker: Worker[Any, Any] = Worker(
                    name, backend, handle, concurrency=3, on_event=record.listen, retry=AT_ONCE
                )
                nursery.start_soon(worker.run)
            await harness.wait_until(lambda: not record.unfinished, "the work of two workers", "done")
            await harness.pass_time(0.05)
            nursery.cancel_scope.cancel()
    wrong = {number: record.attempts_of(each) for number, each in enumerate(ids) if record.attempts_of(each) != [1]}
    expect("the tasks that had other attempts than their first", wrong, {})
    expect("how many tasks were finished, each once", len(record.finished), len(ids))
    await harness.expect_nothing()


@rule(7)
async def a_task_that_waits_holds_no_slot(harness: Harness) -> None:
    """While a task waits to be retried, its worker runs other tasks."""
    ids = [await harness.push(number, priority=-number) for number in range(3)]

    async def handle(task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()
        if harness.number(task) == 0 and task.parts.attempt == 1:
            raise ValueError("again")

    record = await finish(
        harness, ids, handle, concurrency=1, retry=RetryPolicy(attempts=2, backoff=constant(3 * DELAY))
    )
    expect("the order in which they were finished", [harness.number_of(each) for each in record.finished], [1, 2, 0])
