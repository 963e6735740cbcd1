"""Rules about the capabilities that change tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import (
    ActOnMany,
    Cancel,
    Discard,
    FetchById,
    ListTasks,
    Pause,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    StoreSchedules,
    TransferTasks,
    Update,
    Vacuum,
    WaitForCompletion,
)
from ..._contracts.schedules import ScheduleChange, ScheduleEntry, StoredSchedule
from ..._logging import catch_errors
from ..._tasks.errors import DuplicateTaskError
from ..._tasks.outcome import Failed, Killed, Status, Succeeded
from ..._tasks.task import Task
from ..._worker.worker import Worker
from .harness import DELAY, TICK, Stopwatch
from .rule import Feature, expect, expect_that, refused, rule
from .workers import AttemptRecord

if TYPE_CHECKING:
    from ..._contracts.listing import Page
    from ..._contracts.transfer import StoredTask
    from ..._tasks.outcome import Outcome
    from .harness import Harness


@rule(4, Pause)
async def a_paused_queue_gives_out_nothing(harness: Harness) -> None:
    """After pause nothing comes, and a running task can be settled; after resume, a waiting receiver is served."""
    backend = harness.backend
    for number in (1, 2):
        await harness.push(number)
    running = await harness.receive_number(1)
    await backend.pause()
    expect("whether it is paused", await backend.is_paused(), True)
    await harness.expect_nothing()
    await harness.push(3)
    await harness.settle(running, Succeeded(None))
    await harness.expect_nothing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_resume_later, backend)
        await harness.receive_number(2)
    expect("whether it is paused", await backend.is_paused(), False)
    await harness.receive_number(3)


async def _resume_later(backend: Any) -> None:
    await trio.sleep(TICK)
    await backend.resume()


@rule(4, Pause, Feature.LASTING)
async def a_pause_outlives_the_handle(harness: Harness) -> None:
    """A queue that was paused is still paused when it is opened again."""
    await harness.push(1)
    await harness.backend.pause()
    await harness.restart()
    is_paused = await harness.backend.is_paused()
    await harness.backend.resume()
    expect("whether it is paused after a restart", is_paused, True)


@rule(7, StoreSchedules)
async def a_time_of_a_schedule_is_fired_once(harness: Harness) -> None:
    """A change of a schedule pushes its tasks if the schedule has the revision that is said; else it does nothing. Of
    all changes, the later one has the larger revision.
    """
    backend = harness.backend
    tasks = [backend.make_template(Task(harness.args(number))) for number in (1, 2)]
    schedule = StoredSchedule("every(days=1)", "default", tasks[0], 1_000_000)
    [made] = await backend.set_schedules([ScheduleChange("a", 0, schedule)])
    [again] = await backend.set_schedules([ScheduleChange("a", 0, schedule, tasks)])
    expect("the revision of a change to a schedule that should not be there", again.revision, 0)
    fired = replace(schedule, done=2_000_000, fired=2_000_000)
    change = ScheduleChange("a", made.revision, fired, tasks)
    first, second = await backend.set_schedules([change, change])
    expect("the revision of a change to a schedule that another one has changed", second.revision, 0)
    expect("the numbers of tasks of the two changes", (len(first.ids), len(second.ids)), (2, 0))
    expect_that("the revisions", 0 < made.revision < first.revision, (made.revision, first.revision), "ascending")
    expect("the schedules", [*await backend.list_schedules()], [ScheduleEntry("a", first.revision, fired)])
    named = await backend.list_schedules(name="a"), await backend.list_schedules(name="b")
    expect("the schedules of two names", [*map(len, named)], [1, 0])
    for task_id in first.ids:
        task = await harness.receive()
        expect("the id of a task that was pushed with a change", task.parts.id, task_id)
        await harness.settle(task, Succeeded(None))
    await harness.expect_nothing()
    [removed] = await backend.set_schedules([ScheduleChange("a", first.revision, None)])
    [entry] = await backend.list_schedules(first.revision)
    expect("a schedule that was removed", entry, ScheduleEntry("a", removed.revision, None, is_removed=True))
    expect("the changes since then", [*await backend.list_schedules(removed.revision)], [])


@rule(12, TransferTasks, Discard, FetchById)
async def an_exported_task_can_be_imported(harness: Harness) -> None:
    """export_tasks gives each task once, and complete. import_tasks stores it as it was, and changes nothing where it
    is there, or where another task has its id.
    """
    backend = harness.backend
    failed = await harness.push(0, metadata={"note": "kept"}, attempts=7)
    await harness.settle(await harness.receive(), Failed(ValueError("no")))
    ids = [failed, *[await harness.push(number, delay=3600.0 * (number % 2)) for number in range(1, 5)]]
    exported = [each for each in await _exported(backend, 2) if each.id in ids]
    expect("the ids of what is exported", sorted(each.id for each in exported), sorted(ids))
    before = await backend.fetch_by_id(failed)
    expect("how many are there already", len((await backend.import_tasks(exported)).present), len(ids))
    await backend.discard(failed)
    report = await backend.import_tasks(exported)
    expect("which were imported, after one was forgotten", report.imported, (failed,))
    after = await backend.fetch_by_id(failed)
    facts = [(dict(each.parts.metadata), each.parts.attempts, each.parts.context.history) for each in (before, after)]
    expect("what was stored of the imported one", facts[1], facts[0])
    again = [each for each in await _exported(backend, 500) if each.id in ids]
    expect("what is exported then", sorted(again, key=_id_of), sorted(exported, key=_id_of))
    report = await backend.import_tasks([replace(exported[0], payload=exported[0].payload + b"\0")])
    expect("which are refused, if another one has their id", [*report.refused], [exported[0].id])
    for number in (2, 4):
        await harness.settle(await harness.receive_number(number), Succeeded(None))


async def _exported(backend: Any, limit: int) -> list[StoredTask]:
    """Return all tasks as they are stored, read in pages."""
    page: Page[StoredTask] = await backend.export_tasks(limit=limit)
    exported = [*page]
    while page.next is not None:
        page = await backend.export_tasks(page.next, limit=limit)
        exported += page
    return exported


def _id_of(task: StoredTask) -> str:
    return task.id


@rule(2, Update)
async def a_waiting_task_can_be_updated(harness: Harness) -> None:
    """update replaces the args and metadata of a waiting task, which keeps its place; it returns False for any other
    task.
    """
    task_id = await harness.push(1, metadata={"note": "old"})
    await harness.push(2)

    def version(number: int, under: str) -> Task[Any]:
        return Task.builder(harness.args(number)).id(under).metadata(note="new").build()

    expect("update of an unknown task", await harness.backend.update(version(9, "unknown")), False)
    expect("update of a task that waits", await harness.backend.update(version(7, task_id)), True)
    task = await harness.receive_number(1)
    expect("its args", task.args, harness.args(7))
    expect("its metadata", dict(task.parts.metadata), {"note": "new"})
    expect("update of a task that runs", await harness.backend.update(version(8, task_id)), False)
    await harness.settle(task, Succeeded(None))
    expect("update of a task that is finished", await harness.backend.update(version(8, task_id)), False)


@rule(9, Reschedule)
async def a_waiting_task_can_be_rescheduled(harness: Harness) -> None:
    """reschedule moves a waiting task to an earlier or a later time; it returns False for any other task."""
    late, early = await harness.push(1, delay=3600.0), await harness.push(2)
    expect("reschedule of an unknown task", await harness.backend.reschedule("unknown", 0.0), False)
    clock = Stopwatch()
    expect("reschedule of a task that is ready", await harness.backend.reschedule(early, DELAY), True)
    await harness.expect_nothing()
    expect("reschedule of a delayed task", await harness.backend.reschedule(late, 0.0), True)
    task = await harness.receive_number(1)
    expect("reschedule of a task that runs", await harness.backend.reschedule(late, 0.0), False)
    await harness.settle(task, Succeeded(None))
    await harness.receive_number(2)
    clock.expect_at_least(DELAY, f"a task rescheduled to in {DELAY} s")
    await harness.expect_nothing()


@rule(3, Reschedule)
async def a_ready_task_keeps_its_place(harness: Harness) -> None:
    """A ready task that is rescheduled to now keeps its place before those that came later; one whose delay is over is
    ready, and waits since then.
    """
    ids = [await harness.push(1), await harness.push(2, delay=0.1)]
    await harness.pass_time(DELAY)
    await harness.push(3)
    await harness.push(4, delay=3600.0)
    for task_id in ids:
        expect("reschedule to now of a task that is ready", await harness.backend.reschedule(task_id, 0.0), True)
    for number in (1, 2, 3):
        await harness.receive_number(number)


@rule(3, Cancel)
async def a_waiting_task_can_be_cancelled(harness: Harness) -> None:
    """cancel kills a waiting task, ready or delayed, so that it is never given out; it returns False for any other
    task.
    """
    ids = [await harness.push(1), await harness.push(2, delay=0.1), await harness.push(3)]
    for task_id in ids[:2]:
        expect("cancel of a task that waits", await harness.backend.cancel(task_id), True)
        expect("cancel once more", await harness.backend.cancel(task_id), False)
    expect("cancel of an unknown task", await harness.backend.cancel("unknown"), False)
    task = await harness.receive_number(3)
    expect("cancel of a task that runs", await harness.backend.cancel(ids[2]), False)
    await harness.settle(task, Succeeded(None))
    await harness.expect_nothing(DELAY)
    if isinstance(harness.backend, WaitForCompletion):
        statuses = [(await harness.backend.wait_for(each)).status for each in ids]
        expect("their statuses", statuses, [Status.Killed, Status.Killed, Status.Done])


@rule(3, Cancel)
async def a_task_can_be_cancelled_wherever_it_is(harness: Harness) -> None:
    """cancel with running=True kills a waiting task, and aborts a running one; it returns False for any other task."""
    ids: list[str] = [await harness.push(number) for number in range(2)]
    record = AttemptRecord()

    async def hang(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("cancelled", harness.backend, hang, concurrency=1, on_event=record.listen)
        context = await nursery.start(worker.run)
        await harness.wait_until(lambda: bool(record.attempts), "the attempt of a worker", "begun")
        context.pause()
        expect("cancel of a task that runs", await other.cancel(ids[0]), False)
        for task_id in reversed(ids):
            expect("cancel of a task with running=True", await other.cancel(task_id, running=True), True)
        await harness.wait_until(lambda: bool(record.outcomes), "the cancelled attempt", "ended")
        expect("how it ended", [type(outcome) for _, outcome in record.outcomes], [Killed])
        for task_id in (*ids, "unknown"):
            expect("cancel with running=True of no task", await other.cancel(task_id, running=True), False)
        nursery.cancel_scope.cancel()
    await harness.expect_nothing()


@rule(3, Cancel)
async def a_running_task_can_be_aborted(harness: Harness) -> None:
    """abort, from any handle, cancels the attempt under way, and the task is killed; it returns False for any other
    task.
    """
    ids = [await harness.push(number) for number in range(2)]
    record = AttemptRecord()

    async def hang(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("aborted", harness.backend, hang, concurrency=1, on_event=record.listen)
        context = await nursery.start(worker.run)
        await harness.wait_until(lambda: bool(record.attempts), "the attempt of a worker", "begun")
        context.pause()
        expect("abort of a task that waits", await other.abort(ids[1]), False)
        expect("abort of an unknown task", await other.abort("unknown"), False)
        expect("abort of a task that runs", await other.abort(ids[0]), True)
        await harness.wait_until(lambda: bool(record.outcomes), "the aborted attempt", "ended")
        expect("how it ended", [type(outcome) for _, outcome in record.outcomes], [Killed])
        expect("abort once more", await other.abort(ids[0]), False)
        nursery.cancel_scope.cancel()
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    await harness.expect_nothing()


@rule(7, ResumeById)
async def a_finished_task_can_be_resumed(harness: Harness) -> None:
    """resume_by_id makes a finished task wait again, from its first attempt and without its result; it returns False
    for any other task.
    """
    resume = harness.backend.resume_by_id
    ids = [await harness.push(number) for number in range(3)]
    expect("resume of a task that waits", await resume(ids[0]), False)
    expect("resume of an unknown task", await resume("unknown"), False)
    outcomes: tuple[Outcome, ...] = (Failed(ValueError("1")), Killed(ValueError("1")), Succeeded(1))
    for number, outcome in enumerate(outcomes):
        await harness.settle(await harness.receive_number(number), outcome)
    for number, task_id in enumerate(ids):
        expect("resume of a finished task", await resume(task_id), True)
        expect("resume once more", await resume(task_id), False)
        if isinstance(harness.backend, FetchById) and (found := await harness.backend.fetch_by_id(task_id)) is not None:
            expect("its result", getattr(found.parts.context, "result", None), None)
        task = await harness.receive_number(number)
        expect("its args", task.args, harness.args(number))
        expect("its attempt", task.parts.attempt, 1)
        await harness.settle(task, Succeeded(None))
    await harness.expect_nothing()


@rule(12, ResumeById)
async def a_dead_letter_keeps_off_a_taken_key(harness: Harness) -> None:
    """resume_by_id raises DuplicateTaskError if another task has the task's unique key by now, and changes nothing."""
    task_id = await harness.push(1, unique="key")
    await harness.settle(await harness.receive_number(1), Failed(ValueError("1")))
    await harness.push(2, unique="key")
    with refused("resume of a task whose unique key is taken", DuplicateTaskError):
        await harness.backend.resume_by_id(task_id)
    await harness.settle(await harness.receive_number(2), Succeeded(None))
    await harness.expect_nothing()
    expect("resume when the key is free again", await harness.backend.resume_by_id(task_id), True)
    await harness.receive_number(1)


@rule(8, ResumeAbandoned)
async def running_tasks_are_not_abandoned(harness: Harness) -> None:
    """resume_abandoned changes no task that is running or waits, and returns the number of tasks that it made wait
    again.
    """
    await harness.push(1)
    await harness.push(2)
    task = await harness.receive_number(1)
    expect("how many tasks were abandoned", await harness.backend.resume_abandoned(), 0)
    await harness.settle(task, Succeeded(None))
    await harness.settle(await harness.receive_number(2), Succeeded(None))


@rule(2, Vacuum)
async def finished_tasks_can_be_forgotten(harness: Harness) -> None:
    """vacuum forgets all finished tasks and no others, and returns how many it forgot."""
    ids = [await harness.push(number) for number in range(5)]
    for outcome in (Succeeded(1), Failed(ValueError("1")), Killed(ValueError("1"))):
        await harness.settle(await harness.receive(), outcome)
    running = await harness.receive_number(3)
    expect("how many were forgotten", await harness.backend.vacuum(), 3)
    expect("how many there are to be forgotten then", await harness.backend.vacuum(), 0)
    if isinstance(harness.backend, FetchById):
        found = [await harness.backend.fetch_by_id(each) is not None for each in ids]
        expect("which are known then", found, [False, False, False, True, True])
    await harness.settle(running, Succeeded(None))
    await harness.receive_number(4)


@rule(2, Vacuum)
async def old_tasks_can_be_forgotten(harness: Harness) -> None:
    """vacuum(older_than=..., status=...) forgets only tasks of this status that were finished as long ago."""
    for number in range(3):
        await harness.push(number)
    for outcome in (Succeeded(1), Failed(ValueError("1")), Killed(ValueError("1"))):
        await harness.settle(await harness.receive(), outcome)
    backend = harness.backend
    expect("how many were forgotten that are an hour old", await backend.vacuum(older_than=3600.0), 0)
    expect("how many failed ones were forgotten", await backend.vacuum(status=Status.Failed), 1)
    expect("how many of any age were forgotten then", await backend.vacuum(older_than=0.0), 2)
    with refused("vacuum of tasks that wait", ValueError):
        await backend.vacuum(status=Status.Pending)


@rule(2, ActOnMany, ListTasks)
async def many_tasks_can_be_changed(harness: Harness) -> None:
    """retry_all, cancel_all and discard_all change all tasks that pass the filters, and no others, and count them."""
    backend = harness.backend
    for number in range(6):
        await harness.push(number, metadata={"even": number % 2 == 0}, delay=3600.0 if number == 5 else 0.0)
    odd, even = {"metadata": {"even": False}}, {"metadata": {"even": True}}
    expect("how many even ones were cancelled", await backend.cancel_all(**even), 3)
    expect("how many were discarded that are done", await backend.discard_all(Status.Done), 0)
    expect("how many odd ones were retried", await backend.retry_all(**odd), 0)
    expect("how many even ones were retried", await backend.retry_all(Status.Killed, **even), 3)
    waiting = [harness.number(each) for each in await backend.list_tasks(Status.Pending)]
    expect("those that wait then", sorted(each for each in waiting if each >= 0), [0, 1, 2, 3, 4, 5])
    expect("how many delayed ones were cancelled", await backend.cancel_all(delayed=True, **odd), 1)
    expect("how many odd ones were discarded", await backend.discard_all(**odd), 1)
    for _ in range(5):
        await harness.settle(await harness.receive(), Succeeded(None))
    with refused("cancel_all of tasks that are done", ValueError):
        await backend.cancel_all(Status.Done)


@rule(2, ActOnMany, Cancel)
async def a_verb_says_which_of_several_tasks_it_changed(harness: Harness) -> None:
    """cancel, resume_by_id, discard and reschedule of several ids, where a backend has them, change all tasks that can
    be changed so, and no others, and give a reason for each other id.
    """
    backend = harness.backend
    ids: list[str] = [await harness.push(number) for number in range(4)]
    running = await harness.receive_number(0)
    asked = [ids[3], running.parts.id, "unknown", ids[1], ids[3]]
    report = await backend.cancel(iter(asked))
    expect("the tasks that were cancelled, in order", report.changed, (ids[3], ids[1]))
    expect("the others, in order", [*report.refused], [running.parts.id, "unknown"])
    expect_that("the reasons", all(report.refused.values()), str(report), "a reason for each")
    expect("whether all were cancelled", report.is_complete, False)
    expect("the report on no ids", (await backend.cancel([])).changed, ())
    with refused("an id that is no string", TypeError):
        await backend.cancel([ids[2], 5])
    if isinstance(harness.backend, Reschedule):
        expect("which were put off", (await backend.reschedule(ids, 0.0)).changed, (ids[2],))
    if isinstance(harness.backend, ResumeById):
        expect("which were resumed", (await backend.resume_by_id(ids)).changed, (ids[1], ids[3]))
        expect("which were cancelled again", (await backend.cancel({ids[1]: 0, ids[3]: 0})).changed, (ids[1], ids[3]))
    if isinstance(harness.backend, Discard):
        expect("which were forgotten", (await backend.discard(tuple(asked))).changed, (ids[3], ids[1]))
    await backend.cancel([ids[2]])
    await harness.settle(running, Succeeded(None))
    await harness.expect_nothing()


@rule(2, ActOnMany, FetchById)
async def several_tasks_are_returned_in_the_order_of_their_ids(harness: Harness) -> None:
    """fetch_by_id of several ids, and wait_for where a backend has it, return lists in the order of the ids;
    UnknownTaskError names all ids that are not known.
    """
    backend = harness.backend
    ids: list[str] = [await harness.push(number) for number in range(3)]
    for number in range(3):
        await harness.settle(await harness.receive_number(number), Failed(ValueError(str(number))))
    asked = [ids[2], ids[0], "unknown", ids[2]]
    found = await backend.fetch_by_id(asked)
    expect("the tasks", [task and task.parts.id for task in found], [ids[2], ids[0], None, ids[2]])
    expect("the tasks of no ids", await backend.fetch_by_id(()), [])
    if isinstance(harness.backend, WaitForCompletion):
        results = await backend.wait_for([ids[1], ids[0], ids[1]])
        expect("whose the results are", [result.id for result in results], [ids[1], ids[0], ids[1]])
        with catch_errors() as caught:
            await backend.wait_for(["none", *ids, "nor this"])
        expect("the ids that wait_for says are unknown", getattr(caught.error, "task_ids", None), ("none", "nor this"))


@rule(2, Discard)
async def one_task_can_be_forgotten(harness: Harness) -> None:
    """discard forgets the finished or waiting task of this id and no other; it returns False if there is none, or if
    it runs.
    """
    discard = harness.backend.discard
    ids: list[str] = [await harness.push(number) for number in range(3)]
    expect("discard of an unknown task", await discard("unknown"), False)
    for delay in (0.0, DELAY):
        waiting = await harness.push(4, unique="key", delay=delay)
        expect("discard of a task that waits", await discard(waiting), True)
        expect("discard once more", await discard(waiting), False)
        if isinstance(harness.backend, FetchById):
            expect("the task that waited", await harness.backend.fetch_by_id(waiting), None)
    for number in (0, 1):
        task = await harness.receive_number(number)
        expect("discard of a task that runs", await discard(task.parts.id), False)
        await harness.settle(task, Failed(ValueError("1")))
    expect("discard of a dead letter", await discard(ids[0]), True)
    expect("discard once more", await discard(ids[0]), False)
    if isinstance(harness.backend, FetchById):
        found = [await harness.backend.fetch_by_id(each) is not None for each in ids]
        expect("which are known then", found, [False, True, True])
    await harness.receive_number(2)
