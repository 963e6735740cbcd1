"""Rules about the capabilities that read and change nothing."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import (
    Audit,
    Cancel,
    Discard,
    FetchById,
    ListQueues,
    ListTasks,
    ListWorkers,
    Metrics,
    Progress,
    RegisterWorker,
    Reschedule,
    ResumeById,
    SetMetadata,
    Throughput,
    Vacuum,
    WaitForCompletion,
)
from ..._contracts.events import Engage
from ..._contracts.metrics import QueueMetrics
from ..._contracts.states import COUNTERS
from ..._tasks.errors import LeaseLostError, UnknownTaskError
from ..._tasks.outcome import Failed, Killed, Released, Retried, Status, Succeeded, Suspended, TaskResult
from ..._tasks.task import Parts, Task, Terms
from ..._tasks.task_info import StoredTaskInfo
from ..._worker.worker import Worker
from .harness import DELAY, EARLY, TICK
from .rule import Feature, RuleBroken, expect, expect_that, refused, rule
from .workers import finish

if TYPE_CHECKING:
    from ..._contracts.context import WorkerContext
    from ..._contracts.events import Event
    from ..._contracts.metrics import Balance, Minute
    from .harness import Harness

_OUTCOMES = (
    Succeeded(None),
    Retried(ValueError("again"), 3600.0),
    Failed(ValueError("over")),
    Killed(ValueError("over")),
    Suspended(math.inf),
    Released(),
)
"""An outcome of each kind; the last one puts a task back that is ready."""
_NAMES = tuple(type(outcome).__name__.lower() for outcome in _OUTCOMES)


@rule(2, FetchById)
async def a_task_is_found_by_its_id(harness: Harness) -> None:
    """fetch_by_id shows a task that waits, runs or is delayed, and returns None for an unknown id."""
    task_id = await harness.push(1, metadata={"note": "kept"})
    later = await harness.push(2, delay=3600.0)
    expect("what is found under an unknown id", await harness.backend.fetch_by_id("unknown"), None)
    found = await harness.backend.fetch_by_id(task_id)
    if found is None:
        raise RuleBroken("a task that waits", "None", "the task")
    expect("its args and id", (found.args, found.parts.id), (harness.args(1), task_id))
    expect("its metadata", dict(found.parts.metadata), {"note": "kept"})
    expect("its status and attempt", (found.parts.status, int(found.parts.attempt)), (Status.Pending, 0))
    task = await harness.receive_number(1)
    found = await harness.backend.fetch_by_id(task_id)
    status = found and (found.parts.status, int(found.parts.attempt))
    expect("the status and attempt of one that runs", status, (Status.Running, 1))
    await harness.settle(task, Retried(ValueError("again"), 3600.0))
    found = await harness.backend.fetch_by_id(task_id)
    status = found and (found.parts.status, int(found.parts.attempt))
    expect("the status and attempt of one that waits for its retry", status, (Status.Pending, 1))
    found = await harness.backend.fetch_by_id(later)
    expect("the status of a delayed one", found and found.parts.status, Status.Pending)


@rule(3, FetchById, Feature.INFO)
async def the_past_of_a_task_is_shown(harness: Harness) -> None:
    """The context of a task that is looked up has its past attempts, its latest error, its result and its progress."""
    task_id = await harness.push(1)
    await _expect_past(harness, task_id, [], None)
    task = await harness.receive()
    if isinstance(harness.backend, Progress):
        await harness.backend.report_progress(task, 50)
    await harness.settle(task, Retried(ValueError("first"), 0.0))
    first, second = ("retried", "ValueError: first"), ("failed", "ValueError: second")
    await _expect_past(harness, task_id, [first], "first")
    await harness.settle(await harness.receive(), Failed(ValueError("second")))
    await _expect_past(harness, task_id, [first, second], "second")
    if isinstance(harness.backend, ResumeById):
        await harness.backend.resume_by_id(task_id)
        await harness.settle(await harness.receive(), Succeeded("done"))
        await _expect_past(harness, task_id, [first, second], None, result="done")


async def _expect_past(
    harness: Harness, task_id: str, history: list[tuple[str, str]], error: str | None, result: object = None
) -> None:
    found = await harness.backend.fetch_by_id(task_id)
    if found is None or not isinstance(found.parts.context, StoredTaskInfo):
        raise RuleBroken("a task that is looked up", found, "the task, with a StoredTaskInfo as its context")
    info = found.parts.context
    expect("its attempts, each with its error", [(each.became, each.error) for each in info.history], history)
    moments = [each.ended_at for each in info.history]
    expect("when they ended", moments, sorted(moments))
    expect("its latest error", None if info.error is None else str(info.error), error)
    expect("its result", info.result, result)
    if isinstance(harness.backend, Progress) and history:
        expect("its progress", info.progress, 50)


@rule(3, FetchById, Feature.INFO)
async def the_worker_of_an_attempt_is_named(harness: Harness) -> None:
    """The context of a task that is looked up names its worker, and so does its history."""

    async def fail(task: Task[Any]) -> None:
        raise ValueError("of the handler")

    task_id = await harness.push(1, attempts=1)
    await finish(harness, [task_id], fail, name="the worker")
    found = await harness.backend.fetch_by_id(task_id)
    info = None if found is None else found.parts.context
    if not isinstance(info, StoredTaskInfo):
        raise RuleBroken("a task that is looked up", found, "the task, with a StoredTaskInfo as its context")
    expect("who had it last", info.worker, "the worker")
    expect("who made each attempt", [each.worker for each in info.history], ["the worker"])


@rule(3, FetchById, Feature.INFO)
async def one_worker_of_several_is_named(harness: Harness) -> None:
    """If several workers run on a backend, the context of a task that is looked up names the one that runs it."""
    ids = [await harness.push(number) for number in range(12)]
    begun: dict[str, str] = {}

    def hear(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Engage):
            begun[event.task.parts.id] = context.name

    async def handle(task: Task[Any]) -> None:
        if harness.number(task) >= 8:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        for name in ("one", "two"):
            worker: Worker[Any, Any] = Worker(name, harness.backend, handle, concurrency=2, on_event=hear)
            nursery.start_soon(worker.run)
        await harness.wait_until(lambda: len(begun) == len(ids), "the attempts of two workers", "begun")
        seen: dict[str, str | None] = {}
        for task_id in ids[8:]:
            found = await other.fetch_by_id(task_id)
            seen[task_id] = None if found is None else getattr(found.parts.context, "worker", None)
        nursery.cancel_scope.cancel()
    expect("the worker of each task that runs", seen, {task_id: begun[task_id] for task_id in ids[8:]})


@rule(2, WaitForCompletion)
async def an_end_can_be_waited_for(harness: Harness) -> None:
    """wait_for returns the result of a task as soon as it is finished, on any handle, and after any number of
    retries.
    """
    ids = [await harness.push(number) for number in range(3)]
    results: dict[str, TaskResult[Any]] = {}

    async def wait(backend: Any, task_id: str) -> None:
        results[task_id] = await backend.wait_for(task_id)

    outcomes = (Succeeded(42), Failed(ValueError("no stock left")), Killed(ValueError("not wanted")))
    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        for task_id in ids:
            nursery.start_soon(wait, other, task_id)
        await harness.settle(await harness.receive_number(0), Retried(ValueError("again"), 0.1))
        await harness.settle(await harness.receive_number(1), Released())
        await harness.pass_time(0.1)
        expect("how many ends there were before any", len(results), 0)
        for _ in ids:
            task = await harness.receive()
            await harness.settle(task, outcomes[harness.number(task)])
        await harness.wait_until(lambda: len(results) == 3, "who waits for the ends of three tasks", "told")
    statuses = [results[each].status for each in ids]
    expect("the statuses", statuses, [Status.Done, Status.Failed, Status.Killed])
    expect("the result", results[ids[0]].result, 42)


@rule(2, WaitForCompletion)
async def an_end_is_remembered(harness: Harness) -> None:
    """wait_for returns the result of a finished task at once, however often it is called."""
    task_id = await harness.push(1)
    await harness.settle(await harness.receive_number(1), Succeeded("done"))
    for _ in range(2):
        with harness.limit(harness.max_wait) as scope:
            result = await harness.backend.wait_for(task_id)
            expect(
                "its id, status and result", (result.id, result.status, result.result), (task_id, Status.Done, "done")
            )
        expect("whether wait_for returned", scope.cancelled_caught, False)


@rule(12, WaitForCompletion)
async def an_unknown_end_is_not_waited_for(harness: Harness) -> None:
    """wait_for of an unknown id raises UnknownTaskError at once."""
    with harness.limit(harness.max_wait):
        with refused("wait_for an unknown id", UnknownTaskError):
            await harness.backend.wait_for("unknown")
        return
    raise RuleBroken("wait_for an unknown id", "it waits", "UnknownTaskError")


@rule(2, WaitForCompletion)
async def a_wait_for_an_end_can_be_cancelled(harness: Harness) -> None:
    """A wait_for that is cancelled leaves the task as it is."""
    task_id = await harness.push(1)
    with harness.limit(0.1) as scope:
        await harness.backend.wait_for(task_id)
    expect("whether wait_for was cancelled", scope.cancelled_caught, True)
    task = await harness.receive_number(1)
    with harness.limit(0.1):
        await harness.backend.wait_for(task_id)
    await harness.settle(task, Succeeded(None))
    expect("its status", (await harness.backend.wait_for(task_id)).status, Status.Done)


@rule(2, ListTasks)
async def tasks_are_listed_by_status(harness: Harness) -> None:
    """list_tasks returns the tasks of one status, or of all, and never more than the limit."""
    ids = [await harness.push(number, **({"delay": 3600.0} if number == 6 else {})) for number in range(7)]
    for outcome in (Succeeded(None), Failed(ValueError("1")), Killed(ValueError("1")), None):
        task = await harness.receive()
        if outcome is not None:
            await harness.settle(task, outcome)
    for status, expected in (
        (Status.Pending, ids[4:]),
        (Status.Running, ids[3:4]),
        (Status.Failed, ids[1:2]),
        (Status.Killed, ids[2:3]),
    ):
        seen = await harness.backend.list_tasks(status, limit=10_000)
        ours = sorted(each.parts.id for each in seen if harness.number(each) >= 0)
        expect(f"the ids of those that are {status.name}", ours, sorted(expected))
        expect("their statuses", {each.parts.status for each in seen}, {status})
    everything = {str(each.parts.id) for each in await harness.backend.list_tasks(limit=10_000)}
    missing = [each for each in ids[1:] if each not in everything]
    expect("which unfinished ones and dead letters are missing from all", missing, [])
    expect(
        "how many there are of 3 that wait, with limit=2",
        len(await harness.backend.list_tasks(Status.Pending, limit=2)),
        2,
    )


@rule(2, ListTasks)
async def what_waits_is_listed_in_order(harness: Harness) -> None:
    """list_tasks returns ready tasks in the order in which they would be given out, then delayed ones by their due
    time.
    """
    options: list[dict[str, Any]] = [{}, {"delay": 7200.0}, {"priority": 5}, {"delay": 3600.0}, {}, {"priority": -5}]
    for number, each in enumerate(options):
        await harness.push(number, **each)
    await harness.settle(await harness.receive_number(2), Released())
    await harness.settle(await harness.receive_number(2), Retried(ValueError("again"), 5400.0))
    numbers = [0, 4, 5, 3, 2, 1]
    for status in (Status.Pending, None):
        seen = [harness.number(each) for each in await harness.backend.list_tasks(status, limit=10_000)]
        expect("those that wait, as they are listed", [each for each in seen if each >= 0], numbers)
    expect("those that come", [harness.number(await harness.receive()) for _ in range(3)], numbers[:3])


@rule(2, ListTasks)
async def a_list_goes_on_page_by_page(harness: Harness) -> None:
    """The pages of a list have each task that stays in its state once, even if other tasks come and go in between.
    ``newest_first`` gives the opposite order. A cursor of another list is refused.
    """
    for number in range(8):
        await harness.push(number, delay=3600.0 if number > 4 else 0.0)
    whole = await _listed(harness, Status.Pending, limit=10_000)
    expect(
        "the list, newest first", await _listed(harness, Status.Pending, newest_first=True, limit=10_000), whole[::-1]
    )
    page = await harness.backend.list_tasks(Status.Pending, limit=3)
    first = page.next
    seen = [harness.number(each) for each in page]
    for number in whole[:2]:
        await harness.settle(await harness.receive_number(number), Failed(ValueError("1")))
    await harness.push(8)
    while page.next is not None:
        page = await harness.backend.list_tasks(Status.Pending, after=page.next, limit=2)
        expect_that("the length of a page", len(page) <= 2, len(page), "at most the limit")
        seen += [harness.number(each) for each in page]
    expect("the tasks that were there from the first page on", [each for each in seen if 0 <= each < 8], whole)
    for status, after in ((Status.Failed, first), (Status.Pending, "no cursor"), (Status.Pending, 5)):
        with refused("a cursor of another list", TypeError, ValueError):
            await harness.backend.list_tasks(status, after=after)
    expect("those that failed, newest first", await _listed(harness, Status.Failed, newest_first=True), whole[1::-1])


async def _listed(harness: Harness, status: Status, **options: Any) -> list[int]:
    """Return the numbers of the tasks of a list, without those of others."""
    numbers = [harness.number(each) for each in await harness.backend.list_tasks(status, **options)]
    return [each for each in numbers if each >= 0]


@rule(2, ListTasks)
async def lists_can_be_filtered(harness: Harness) -> None:
    """list_tasks returns only tasks that pass all filters: by key, unique key, metadata, time of push, and delay."""
    options: list[dict[str, Any]] = [
        {"metadata": {"tenant": "acme", "n": 1}, "key": "k"},
        {"metadata": {"tenant": "acme", "n": 2}, "unique": "u"},
        {"metadata": {"tenant": "other", "n": 1}, "delay": 3600.0, "key": "k"},
        {},
    ]
    for number, each in enumerate(options):
        await harness.push(number, **each)
    [pushed] = [each.parts.pushed_at for each in await harness.backend.list_tasks(unique="u")]
    after, before = (None, None) if pushed is None else (pushed - timedelta(days=1), pushed + timedelta(days=1))
    filters: list[tuple[dict[str, Any], list[int]]] = [
        ({"metadata": {"tenant": "acme"}}, [0, 1]),
        ({"metadata": {"tenant": "acme", "n": 2}}, [1]),
        ({"metadata": {"tenant": "acme"}, "unique": "u"}, [1]),
        ({"metadata": {"missing": None}}, []),
        ({"unique": "u"}, [1]),
        ({"key": "k"}, [0, 2]),
        ({"key": "k", "delayed": True}, [2]),
        ({"key": "u"}, []),
        ({"delayed": True}, [2]),
        ({"delayed": False}, [0, 1, 3]),
        ({"name": "nothing has this name"}, []),
        ({"worker": "nobody has run anything"}, []),
    ]
    if after is not None and before is not None:
        filters += [({"pushed_after": after, "pushed_before": before}, [0, 1, 2, 3]), ({"pushed_after": before}, [])]
        filters += [({"pushed_before": after}, [])]
    for chosen, expected in filters:
        expect(f"those with {chosen}", sorted(await _listed(harness, Status.Pending, **chosen)), expected)
    with refused("a filter that there is not", TypeError):
        await harness.backend.list_tasks(nonsense="x")
    with refused("delayed=True among those that run", ValueError):
        await harness.backend.list_tasks(Status.Running, delayed=True)


@rule(11, RegisterWorker, ListWorkers)
async def workers_are_listed(harness: Harness) -> None:
    """list_workers names each worker that runs here, and none that has ended."""

    async def idle(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with harness.second_handle() as other:
        async with trio.open_nursery() as nursery:
            for name, backend in (("one", harness.backend), ("two", other)):
                worker: Worker[Any, Any] = Worker(name, backend, idle, concurrency=1)
                await nursery.start(worker.run)
            expect("the workers that run", sorted(await harness.backend.list_workers()), ["one", "two"])
            nursery.cancel_scope.cancel()
        expect("the workers when they have ended", await harness.backend.list_workers(), [])


@rule(2, ListQueues)
async def queues_are_listed(harness: Harness) -> None:
    """list_queues names the queues that have tasks, this one among them."""
    await harness.push(1)
    queues: list[object] = await harness.backend.list_queues()
    are_names = bool(queues) and all(isinstance(each, str) for each in queues)
    expect_that("the queues", are_names, queues, "names, one at least")
    own: object = getattr(harness.backend, "queue", queues[0])
    expect_that("the queues", own in queues, queues, f"{own!r} among them")


@rule(2, ListQueues, Feature.SHARE, Feature.CLOSE)
async def queues_are_apart(harness: Harness) -> None:
    """A queue from share(queue=...) is separate: it has its own tasks, is closed on its own, and is listed."""
    other: Any = harness.backend.share(queue="another")
    expect("the name of the other queue", other.queue, "another")
    await harness.push(1)
    there: str = await other.push(harness.args(2))
    harness.note_pushed(2, there)
    queues = await harness.backend.list_queues()
    expect_that("the queues", {"another", harness.backend.queue} <= {*queues}, queues, "both")
    expect("whose task the other queue has", harness.number(task := await harness.receive(other)), 2)
    await other.settle(task, Succeeded(None))
    other.close()
    with refused("a push into a queue that was closed", trio.ClosedResourceError):
        await other.push(harness.args(3))
    await harness.push(4)
    for number in (1, 4):
        await harness.settle(await harness.receive_number(number), Succeeded(None))
    if isinstance(other, Vacuum):
        await other.vacuum()


@rule(11, Metrics)
async def metrics_count(harness: Harness) -> None:
    """metrics counts each push and each outcome once, and the tasks that are in each state now."""
    before: Any = await harness.backend.metrics()
    expect("the names of what is counted", sorted(before), sorted(QueueMetrics.__annotations__))
    for number in range(7):
        await harness.push(number)
    await harness.push(7, delay=3600.0)
    outcomes = (
        Released(),
        Retried(ValueError("again"), 3600.0),
        Suspended(math.inf),
        Succeeded(None),
        Failed(ValueError("1")),
        Killed(ValueError("1")),
        None,
    )
    for outcome in outcomes:
        task = await harness.receive()
        if outcome is not None:
            await harness.settle(task, outcome)
    after: Any = await harness.backend.metrics()
    counted = {name: after[name] - before[name] for name in COUNTERS}
    expect("what was counted", counted, dict.fromkeys(COUNTERS, 1) | {"pushed": 8, "resumed": 0})
    there = {"waiting": 1, "delayed": 3, "running": 1, "suspended_now": 1, "orphans": 0}
    expect("the tasks in each state", {name: after[name] for name in there}, there)


@rule(11, Metrics)
async def metrics_know_the_oldest(harness: Harness) -> None:
    """metrics gives the age of the oldest task that is ready, whatever its priority, and of none that is not."""
    await harness.push(3, delay=3600.0)
    expect("the age of the oldest of no ready tasks", (await harness.backend.metrics())["oldest_waiting"], 0.0)
    await harness.push(1, priority=-1)
    await harness.pass_time(DELAY)
    await harness.push(2)
    age = (await harness.backend.metrics())["oldest_waiting"]
    expect_that("the age of the oldest", age >= DELAY - EARLY, age, f"{DELAY} s or a little more")


@rule(13, Throughput)
async def attempts_are_added_up(harness: Harness) -> None:
    """throughput adds up each attempt that was settled, by its outcome and the name of its task, with the time that it
    took and that its task had waited.
    """
    backend = harness.backend
    before, named_before = await backend.throughput(), await backend.throughput(name="mail")
    for number in range(len(_OUTCOMES)):
        parts = None if number else Parts(terms=Terms(name="mail"))
        harness.note_pushed(number, await backend.push_task(Task(harness.args(number), parts)))
    for outcome in _OUTCOMES:
        task = await harness.receive()
        await trio.sleep(TICK)
        await harness.settle(task, outcome)
    minutes: list[Minute] = await backend.throughput()
    found = _added(before, minutes)
    expect("the attempts, by outcome", {name: found[name] for name in _NAMES}, dict.fromkeys(_NAMES, 1))
    expect("the attempts that took, and had waited, a time", (found["durations"], found["waits"]), (len(_NAMES),) * 2)
    least, took = len(_NAMES) * TICK - EARLY, found["seconds"]
    expect_that("the seconds that they took", took >= least, took, f"{least} or more")
    expect_that("the seconds that they had waited", found["waited"] >= 0, found["waited"], "not negative")
    of_one_name = _added(named_before, await backend.throughput(name="mail"))
    expect("the attempts at tasks of one name", sum(of_one_name[name] for name in _NAMES), 1)
    expect("the minutes after the last one", await backend.throughput(minutes[-1].at + timedelta(minutes=1)), [])


def _added(before: list[Minute], after: list[Minute]) -> dict[str, float]:
    """Return the sums that were added to these minutes."""

    def total(minutes: list[Minute], name: str) -> float:
        values: list[float | dict[float, int]] = [getattr(minute, name) for minute in minutes]
        return sum(sum(each.values()) if isinstance(each, dict) else each for each in values)

    names = (*_NAMES, "seconds", "waited", "durations", "waits")
    return {name: total(after, name) - total(before, name) for name in names}


@rule(2, Audit)
async def an_audit_is_true_at_any_moment(harness: Harness) -> None:
    """audit finds that all tasks are there, and all counters right, after whatever was done."""
    backend = harness.backend

    async def balances(after: str) -> Balance:
        balance: Balance = await backend.audit()
        expect_that(
            f"the audit after {after}", balance.is_balanced and bool(balance), str(balance), "one that balances"
        )
        return balance

    before = await balances("nothing")
    for number in range(9):
        await harness.push(number)
    await harness.push(9, delay=3600.0)
    await harness.push(10, delay=DELAY)
    await harness.push(11, expires_in=DELAY, delay=DELAY / 2, priority=-1)
    await balances("a push")
    outcomes = (Released(), Retried(ValueError("again"), DELAY), Suspended(math.inf), Succeeded(None))
    for outcome in (*outcomes, Failed(ValueError("1")), Killed(ValueError("1")), None):
        task = await harness.receive()
        await balances("a receive")
        if outcome is not None:
            await harness.settle(task, outcome)
            await balances(f"{type(outcome).__name__}")
    await harness.pass_time(2 * DELAY)
    await balances("time in which tasks were ready, and one expired")
    await harness.receive()
    balance = await balances("one more receive")
    expect("the number of tasks that came", balance.came - before.came, 12)
    if isinstance(backend, ListTasks):
        for task in await backend.list_tasks():
            await _change(backend, task)
            await balances(f"a change of task {task.parts.id}, {task.parts.status}")
    if isinstance(backend, Vacuum):
        await backend.vacuum()
        await balances("vacuum")


async def _change(backend: Any, task: Task[Any]) -> None:
    """Use the verbs of the backend on a task, whatever its status."""
    if isinstance(backend, Reschedule):
        await backend.reschedule(task.parts.id, DELAY)
    if isinstance(backend, Cancel):
        await backend.cancel(task.parts.id)
    if isinstance(backend, ResumeById) and task.parts.terms.priority == 0:
        await backend.resume_by_id(task.parts.id)
    if isinstance(backend, Cancel) and isinstance(backend, Discard):
        await backend.cancel(task.parts.id)
        await backend.discard(task.parts.id)
    await trio.lowlevel.checkpoint()


@rule(12, SetMetadata)
async def metadata_of_a_running_task_is_set(harness: Harness) -> None:
    """set_metadata adds values to a running task, which later attempts have; it is refused if the task does not run."""
    task_id = await harness.push(1, metadata={"note": "old", "kept": 1}, attempts=7)
    task = await harness.receive_number(1)
    set_metadata = harness.backend.set_metadata
    await set_metadata(task, {"note": "new", "more": [1, 2]})
    expected = {"note": "new", "kept": 1, "more": [1, 2]}
    expect("the metadata in the attempt", dict(task.parts.metadata), expected)
    if isinstance(harness.backend, FetchById) and (found := await harness.backend.fetch_by_id(task_id)) is not None:
        expect("the metadata that is looked up", dict(found.parts.metadata), expected)
        expect("the other options", found.parts.attempts, 7)
    await harness.settle(task, Retried(ValueError("again"), 0.0))
    with refused("metadata when the task is not running any more", LeaseLostError):
        await set_metadata(task, {"note": "late"})
    again = await harness.receive_number(1, attempt=2)
    expect("the metadata in the next attempt", dict(again.parts.metadata), expected)


@rule(8, Progress)
async def progress_is_shown(harness: Harness) -> None:
    """The progress last reported for a running task can be read; a report for a task that is not running is refused."""
    task_id = await harness.push(1)
    with refused("the progress of an unknown task", UnknownTaskError):
        await harness.backend.progress_of("unknown")
    expect("the progress of one that waits", await harness.backend.progress_of(task_id), None)
    task = await harness.receive_number(1)
    for progress in ({"done": 1, "of": 3}, {"done": 2, "of": 3}):
        await harness.backend.report_progress(task, progress)
        expect("the progress", await harness.backend.progress_of(task_id), progress)
    await harness.settle(task, Retried(ValueError("again"), DELAY))
    with refused("a report when the task is not running any more", LeaseLostError):
        await harness.backend.report_progress(task, {"done": 3, "of": 3})
