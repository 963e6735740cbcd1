"""Capabilities that change what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import (
    Cancel,
    Discard,
    FetchById,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    Update,
    Vacuum,
    WaitForCompletion,
)
from ..._tasks.errors import DuplicateTaskError
from ..._tasks.outcome import Failed, Killed, Status, Succeeded
from ..._tasks.task import Task
from ..._worker.worker import Worker
from .harness import DELAY, Stopwatch
from .rule import expect, refused, rule
from .workers import Record

if TYPE_CHECKING:
    from ..._tasks.outcome import Outcome
    from .harness import Bench


@rule(2, Update)
async def a_waiting_task_can_be_updated(bench: Bench) -> None:
    """update gives a task that waits other args and metadata, in its place; it is False for any other."""
    task_id = await bench.push(1, metadata={"note": "old"})
    await bench.push(2)

    def version(number: int, under: str) -> Task[Any]:
        return Task.builder(bench.args(number)).id(under).metadata(note="new").build()

    expect("update of an unknown task", await bench.backend.update(version(9, "unknown")), False)
    expect("update of a task that waits", await bench.backend.update(version(7, task_id)), True)
    task = await bench.take_number(1)
    expect("its args", task.args, bench.args(7))
    expect("its metadata", dict(task.parts.metadata), {"note": "new"})
    expect("update of a task that runs", await bench.backend.update(version(8, task_id)), False)
    await bench.settle(task, Succeeded(None))
    expect("update of a task that is finished", await bench.backend.update(version(8, task_id)), False)


@rule(9, Reschedule)
async def a_waiting_task_can_be_rescheduled(bench: Bench) -> None:
    """reschedule moves a task that waits, to earlier and to later; it is False for any other."""
    late, early = await bench.push(1, delay=3600.0), await bench.push(2)
    expect("reschedule of an unknown task", await bench.backend.reschedule("unknown", 0.0), False)
    clock = Stopwatch()
    expect("reschedule of a task that is ready", await bench.backend.reschedule(early, DELAY), True)
    await bench.nothing_comes()
    expect("reschedule of a delayed task", await bench.backend.reschedule(late, 0.0), True)
    task = await bench.take_number(1)
    expect("reschedule of a task that runs", await bench.backend.reschedule(late, 0.0), False)
    await bench.settle(task, Succeeded(None))
    await bench.take_number(2)
    clock.expect_at_least(DELAY, f"a task rescheduled to in {DELAY} s")
    await bench.nothing_comes()


@rule(3, Reschedule)
async def a_ready_task_keeps_its_place(bench: Bench) -> None:
    """A task that is ready, and is rescheduled to now, keeps its place before those that came later."""
    first = await bench.push(1)
    await bench.push(2)
    await bench.push(3, delay=3600.0)
    expect("reschedule to now of a task that is ready", await bench.backend.reschedule(first, 0.0), True)
    await bench.take_number(1)
    await bench.take_number(2)


@rule(3, Cancel)
async def a_waiting_task_can_be_cancelled(bench: Bench) -> None:
    """cancel kills a task that waits, delayed ones too, so that it does not come; it is False for any other."""
    ids = [await bench.push(1), await bench.push(2, delay=0.1), await bench.push(3)]
    for task_id in ids[:2]:
        expect("cancel of a task that waits", await bench.backend.cancel(task_id), True)
        expect("cancel once more", await bench.backend.cancel(task_id), False)
    expect("cancel of an unknown task", await bench.backend.cancel("unknown"), False)
    task = await bench.take_number(3)
    expect("cancel of a task that runs", await bench.backend.cancel(ids[2]), False)
    await bench.settle(task, Succeeded(None))
    await bench.nothing_comes(DELAY)
    if isinstance(bench.backend, WaitForCompletion):
        statuses = [(await bench.backend.wait_for(each)).status for each in ids]
        expect("their statuses", statuses, [Status.Killed, Status.Killed, Status.Done])


@rule(3, Cancel)
async def a_running_task_can_be_aborted(bench: Bench) -> None:
    """abort, from whichever handle, cancels the attempt under way, and the task is killed; else it is False."""
    ids = [await bench.push(number) for number in range(2)]
    record = Record()

    async def hang(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with bench.another() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("aborted", bench.backend, hang, concurrency=1, on_event=record.hear)
        context = await nursery.start(worker.run)
        await bench.until(lambda: bool(record.attempts), "the attempt of a worker", "begun")
        context.pause()
        expect("abort of a task that waits", await other.abort(ids[1]), False)
        expect("abort of an unknown task", await other.abort("unknown"), False)
        expect("abort of a task that runs", await other.abort(ids[0]), True)
        await bench.until(lambda: bool(record.outcomes), "the aborted attempt", "ended")
        expect("how it ended", [type(outcome) for _, outcome in record.outcomes], [Killed])
        expect("abort once more", await other.abort(ids[0]), False)
        nursery.cancel_scope.cancel()
    await bench.settle(await bench.take_number(1), Succeeded(None))
    await bench.nothing_comes()


@rule(7, ResumeById)
async def a_dead_letter_can_be_resumed(bench: Bench) -> None:
    """resume_by_id lets a failed or killed task wait again, from its first attempt; it is False for any other."""
    ids = [await bench.push(number) for number in range(3)]
    expect("resume of a task that waits", await bench.backend.resume_by_id(ids[0]), False)
    expect("resume of an unknown task", await bench.backend.resume_by_id("unknown"), False)
    outcomes: tuple[Outcome, ...] = (Failed(ValueError("1")), Killed(ValueError("1")), Succeeded(None))
    for number, outcome in enumerate(outcomes):
        await bench.settle(await bench.take_number(number), outcome)
    expect("resume of a task that is done", await bench.backend.resume_by_id(ids[2]), False)
    for number in (0, 1):
        expect("resume of a dead letter", await bench.backend.resume_by_id(ids[number]), True)
        expect("resume once more", await bench.backend.resume_by_id(ids[number]), False)
        task = await bench.take_number(number)
        expect("its args", task.args, bench.args(number))
        await bench.settle(task, Succeeded(None))
    await bench.nothing_comes()


@rule(12, ResumeById)
async def a_dead_letter_keeps_off_a_taken_key(bench: Bench) -> None:
    """resume_by_id is a DuplicateTaskError if the task's unique key is taken by now, and changes nothing."""
    task_id = await bench.push(1, unique="key")
    await bench.settle(await bench.take_number(1), Failed(ValueError("1")))
    await bench.push(2, unique="key")
    with refused("resume of a task whose unique key is taken", DuplicateTaskError):
        await bench.backend.resume_by_id(task_id)
    await bench.settle(await bench.take_number(2), Succeeded(None))
    await bench.nothing_comes()
    expect("resume when the key is free again", await bench.backend.resume_by_id(task_id), True)
    await bench.take_number(1)


@rule(8, ResumeAbandoned)
async def what_is_in_hand_is_not_abandoned(bench: Bench) -> None:
    """resume_abandoned leaves alone what somebody has in hand, and what waits; it says how many it let wait again."""
    await bench.push(1)
    await bench.push(2)
    task = await bench.take_number(1)
    expect("how many tasks were abandoned", await bench.backend.resume_abandoned(), 0)
    await bench.settle(task, Succeeded(None))
    await bench.settle(await bench.take_number(2), Succeeded(None))


@rule(2, Vacuum)
async def finished_tasks_can_be_forgotten(bench: Bench) -> None:
    """vacuum forgets the finished tasks, says how many there were, and leaves all others alone."""
    ids = [await bench.push(number) for number in range(5)]
    for outcome in (Succeeded(1), Failed(ValueError("1")), Killed(ValueError("1"))):
        await bench.settle(await bench.take(), outcome)
    running = await bench.take_number(3)
    expect("how many were forgotten", await bench.backend.vacuum(), 3)
    expect("how many there are to be forgotten then", await bench.backend.vacuum(), 0)
    if isinstance(bench.backend, FetchById):
        found = [await bench.backend.fetch_by_id(each) is not None for each in ids]
        expect("which are known then", found, [False, False, False, True, True])
    await bench.settle(running, Succeeded(None))
    await bench.take_number(4)


@rule(2, Discard)
async def one_finished_task_can_be_forgotten(bench: Bench) -> None:
    """discard forgets the finished task of an id, and no other; it is False where there is none."""
    ids = [await bench.push(number) for number in range(3)]
    expect("discard of a task that waits", await bench.backend.discard(ids[0]), False)
    expect("discard of an unknown task", await bench.backend.discard("unknown"), False)
    for number in (0, 1):
        await bench.settle(await bench.take_number(number), Failed(ValueError("1")))
    expect("discard of a dead letter", await bench.backend.discard(ids[0]), True)
    expect("discard once more", await bench.backend.discard(ids[0]), False)
    if isinstance(bench.backend, FetchById):
        found = [await bench.backend.fetch_by_id(each) is not None for each in ids]
        expect("which are known then", found, [False, True, True])
    await bench.take_number(2)
