"""Rules about leases: heartbeats renew them, and tasks whose lease has run out come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio

from ..._contracts.backend import Backend, FetchById, ResumeAbandoned
from ..._tasks.errors import LeaseLostError
from ..._tasks.outcome import Failed, Killed, Released, Retried, Status, Succeeded
from ..._tasks.task import Task
from ..._worker.worker import Worker
from .harness import Stopwatch
from .rule import Feature, expect, expect_that, refused, rule
from .workers import AttemptRecord

if TYPE_CHECKING:
    from ..._contracts.context import WorkerContext
    from ..._tasks.outcome import Outcome
    from .harness import Harness


@rule(8, Feature.LEASE)
async def an_orphan_comes_back(harness: Harness) -> None:
    """A task whose lease ran out comes back by itself, not before, as its next attempt: a crash costs one."""
    clock = Stopwatch()
    await harness.push(1)
    task = await harness.receive_number(1)
    orphan = await harness.receive_number(1, attempt=2)
    clock.expect_at_least(0.9 * harness.lease, f"an orphan under a lease of {harness.lease:g} s")
    expect("the id of the orphan", orphan.parts.id, task.parts.id)


@rule(8, Feature.LEASE)
async def settling_is_fenced(harness: Harness) -> None:
    """Settling without the lease raises LeaseLostError, for each outcome, and the new holder keeps the task."""
    await harness.push(1)
    stale = await harness.receive_number(1)
    task = await harness.receive_number(1, attempt=2)
    for outcome in (Released(), Retried(ValueError("late")), Killed(ValueError("late")), Failed(ValueError("late"))):
        with refused(f"{type(outcome).__name__} without the lease", LeaseLostError):
            await harness.settle(stale, outcome)
    with refused("Succeeded without the lease", LeaseLostError):
        await harness.settle(stale, Succeeded("late"))
    if isinstance(harness.backend, FetchById):
        found = await harness.backend.fetch_by_id(task.parts.id)
        expect("the status of the task", found and found.parts.status, Status.Running)
    await harness.settle(task, Succeeded("in time"))


@rule(8, Feature.LEASE)
async def a_heartbeat_is_in_time(harness: Harness) -> None:
    """A backend with a lease has a heartbeat_interval, shorter than that lease."""
    interval = harness.backend.heartbeat_interval
    holds = isinstance(interval, (int, float)) and 0 < interval < harness.lease
    expect_that("heartbeat_interval", holds, interval, f"seconds, less than the lease of {harness.lease:g} s")
    await trio.lowlevel.checkpoint()


@rule(8, Feature.LEASE, Feature.WORKABLE)
async def a_heartbeat_keeps_the_lease(harness: Harness) -> None:
    """No other receiver gets a task that a worker has claimed, for as long as the worker sends heartbeats."""
    task_id = await harness.push(1)
    record, is_over = AttemptRecord([task_id]), trio.Event()

    async def last(task: Task[Any]) -> None:
        await is_over.wait()

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("beating", harness.backend, last, concurrency=1, on_event=record.listen)
        nursery.start_soon(worker.run)
        await harness.wait_until(lambda: bool(record.attempts), "the attempt of a worker", "begun")
        intruder: list[Task[Any]] = []
        with harness.limit(2.5 * harness.lease):
            intruder.append(await other.receive())
        expect("what another receiver got meanwhile", len(intruder), 0)
        is_over.set()
        await harness.wait_until(lambda: not record.unfinished, "the attempt of a worker", "ended")
        nursery.cancel_scope.cancel()
    expect("the outcomes", record.outcomes, [(task_id, Succeeded(None))])
    expect("the attempts", record.attempts_of(task_id), [1])


@final
class _Muted(Backend[Any]):
    """A backend whose heartbeats can be suppressed, as on a machine that is asleep."""

    def __init__(self, backend: Any) -> None:
        self.is_muted = True
        self.heartbeat_interval = backend.heartbeat_interval
        self._backend = backend

    async def receive(self) -> Task[Any]:
        task: Task[Any] = await self._backend.receive()
        return task

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await self._backend.settle(task, outcome)

    async def beat(self, context: WorkerContext) -> None:
        if self.is_muted:
            await trio.lowlevel.checkpoint()
        else:
            await self._backend.beat(context)


@rule(8, Feature.LEASE, Feature.WORKABLE)
async def a_lost_lease_ends_the_attempt(harness: Harness) -> None:
    """A worker that lost a lease learns of it at its next heartbeat: the attempt is cancelled, and not settled. If
    receiving renews the leases of its own process, none is lost.
    """
    task_id = await harness.push(1)
    record, muted, is_over = AttemptRecord(), _Muted(harness.backend), trio.Event()

    async def last(task: Task[Any]) -> None:
        await is_over.wait()

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("muted", muted, last, concurrency=1, on_event=record.listen)
        context: WorkerContext = await nursery.start(worker.run)
        await harness.wait_until(lambda: bool(record.attempts), "the attempt of a worker", "begun")
        context.pause()  # so that this worker does not receive the orphan
        orphans: list[Task[Any]] = []
        with harness.limit(2.5 * harness.lease):
            orphans.append(await other.receive())
        muted.is_muted = False
        for orphan in orphans:
            expect("the orphan, and its attempt", (orphan.parts.id, int(orphan.parts.attempt)), (task_id, 2))
        if not orphans:
            is_over.set()
        await harness.wait_until(
            lambda: bool(record.outcomes), "the attempt that lost its lease", "cancelled by a heartbeat"
        )
        for orphan in orphans:
            await other.settle(orphan, Succeeded(None))
        nursery.cancel_scope.cancel()
    ended = "Released" if orphans else "Succeeded"
    expect("how it ended", [type(outcome).__name__ for _, outcome in record.outcomes], [ended])


@rule(8, Feature.LEASE, ResumeAbandoned)
async def orphans_can_be_resumed_at_once(harness: Harness) -> None:
    """resume_abandoned makes orphans wait again, and changes no task that is under a lease."""
    await harness.push(1)
    task = await harness.receive_number(1)
    expect("how many were resumed while the lease lasts", await harness.backend.resume_abandoned(), 0)
    await harness.expect_nothing()
    await harness.settle(task, Released())
    await harness.receive_number(1)
    await harness.pass_time(1.3 * harness.lease)
    resumed = await harness.backend.resume_abandoned()
    expect_that("how many were resumed", resumed in (0, 1), resumed, "1, or 0 if it waits again already")
    await harness.receive_number(1, attempt=2)
