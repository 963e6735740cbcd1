"""Rules about what is told of tasks beside their args: the times, the workers, explanations, and events."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import (
    Cancel,
    Discard,
    Explain,
    FetchById,
    ListWorkers,
    Pause,
    RegisterWorker,
    ResumeById,
    Watch,
)
from ..._contracts.events import Error
from ..._contracts.explanation import Explanation
from ..._contracts.storage_events import Cancelled, Expired, Pushed, Replaced
from ..._tasks.errors import DuplicateTaskError
from ..._tasks.outcome import Failed, Released, Retried, Status, Succeeded, Suspended
from ..._tasks.retry import RetryPolicy, constant
from ..._tasks.task import Parts, Task, Terms
from ..._tasks.task_info import TRACEBACKS, StoredTaskInfo
from ..._worker.worker import Worker
from .harness import TICK
from .rule import Feature, RuleBroken, expect, expect_that, refused, rule

if TYPE_CHECKING:
    from ..._contracts.context import WorkerContext
    from ..._contracts.events import Event
    from ..._contracts.storage_events import StorageEvent
    from ..._contracts.worker_info import WorkerInfo
    from .harness import Harness

_APART = 0.01
"""Seconds between two steps, so that their times differ."""


@rule(3, FetchById, Feature.TIMES)
async def the_times_of_a_task_are_shown(harness: Harness) -> None:
    """A task tells when it was pushed, when its latest attempt began, and when it ended, in this order; in an attempt,
    the first two.
    """
    task_id = await harness.push(1)
    pushed = await _expect_times(harness, task_id, started=None, finished=False)
    task = await _receive_later(harness)
    first = await _expect_times(harness, task_id, started=pushed.pushed, finished=False)
    seen = (task.parts.pushed, task.parts.started, task.parts.finished)
    expect("the times in the attempt", seen, (first.pushed, first.started, None))
    await harness.settle(task, Retried(ValueError("again"), 0.0))
    task = await _receive_later(harness)
    second = await _expect_times(harness, task_id, started=first.started, finished=False)
    expect("when it was pushed, in the second attempt", (task.parts.pushed, second.pushed), (pushed.pushed,) * 2)
    await trio.sleep(_APART)
    await harness.settle(task, Failed(ValueError("over")))
    third = await _expect_times(harness, task_id, started=first.started, finished=True)
    expect("when the latest attempt began, of a finished one", third.started, second.started)
    if isinstance(harness.backend, ResumeById):
        await harness.backend.resume_by_id(task_id)
        await _expect_times(harness, task_id, started=first.started, finished=False)
        task = await _receive_later(harness)
        await _expect_times(harness, task_id, started=second.started, finished=False)
        await harness.settle(task, Released())


async def _receive_later(harness: Harness) -> Task[Any]:
    await trio.sleep(_APART)
    return await harness.receive()


async def _expect_times(harness: Harness, task_id: str, *, started: float | None, finished: bool) -> Parts:
    """Check the times of a task: the latest attempt began after this time, or there was none."""
    found = await harness.backend.fetch_by_id(task_id)
    if found is None:
        raise RuleBroken("a task that is looked up", "None", "the task")
    parts: Parts = found.parts
    times = parts.pushed, parts.started, parts.finished
    expect_that("its times", parts.pushed is not None and math.isfinite(parts.pushed), times, "when it was pushed")
    begun = parts.started is not None and started is not None and parts.started > started
    expect_that(
        "when its latest attempt began", begun if started is not None else parts.started is None, times, started
    )
    expect_that("its times", (parts.finished is not None) == finished, times, "the end exactly if it is finished")
    known = [each for each in times if each is not None]
    expect("the order of its times", known, sorted(known))
    return parts


@rule(3, FetchById, Cancel, Feature.TIMES)
async def one_that_was_cancelled_tells_when(harness: Harness) -> None:
    """A task that was cancelled while it waited tells when that was, and of no attempt."""
    task_id = await harness.push(1, delay=3600.0)
    await trio.sleep(_APART)
    await harness.backend.cancel(task_id)
    await _expect_times(harness, task_id, started=None, finished=True)


@rule(3, FetchById, Feature.TIMES)
async def the_name_of_a_task_is_kept(harness: Harness) -> None:  # noqa: ASYNC910  there are three tasks
    """The name of a task is there when it is received and when it is looked up, whatever other options it has."""
    names = {0: "mail.send", 1: "mail.retry", 2: None}
    for number, name in names.items():
        terms = Terms(name=name, attempts=3) if number else Terms(name=name)
        task: Task[Any] = Task(harness.args(number), Parts(terms=terms))
        harness.note_pushed(number, await harness.backend.push_task(task))
    for number, name in names.items():
        task = await harness.receive_number(number)
        expect("the name of a received task", task.parts.name, name)
        expect("how many attempts it may have", task.parts.attempts, 3 if number else None)
        found = await harness.backend.fetch_by_id(task.parts.id)
        expect("the name of one that is looked up", found and found.parts.name, name)
        await harness.settle(task, Succeeded(None))


@rule(3, FetchById, Feature.INFO, Feature.TIMES)
async def a_failed_attempt_tells_all(harness: Harness) -> None:
    """Each failed attempt in the history has its duration and the version of the program. The latest five have the
    traceback, without values of variables.
    """

    async def fail(task: Task[Any]) -> None:
        secret = f"in attempt {int(task.parts.attempt)}"
        await trio.sleep(_APART)
        raise ValueError(secret[:2])

    is_over = trio.Event()

    def hear(_: WorkerContext, event: Event) -> None:
        if isinstance(event, Error) and isinstance(event.outcome, Failed):
            is_over.set()

    task_id = await harness.push(1, attempts=TRACEBACKS + 2)
    async with trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker(
            "failing",
            harness.backend,
            fail,
            concurrency=1,
            retry=RetryPolicy(backoff=constant(0.0)),
            version="1.4",
            on_event=hear,
        )
        nursery.start_soon(worker.run)
        await is_over.wait()
        nursery.cancel_scope.cancel()
    found = await harness.backend.fetch_by_id(task_id)
    info = None if found is None else found.parts.context
    if not isinstance(info, StoredTaskInfo):
        raise RuleBroken("a task that is looked up", found, "the task, with a StoredTaskInfo as its context")
    attempts = TRACEBACKS + 2
    expect("the attempts", [each.attempt for each in info.history], [*range(1, attempts + 1)])
    expect("their versions", {each.version for each in info.history}, {"1.4"})
    seconds = [each.seconds for each in info.history]
    took_time = all(each is not None and _APART / 2 < each < 10 for each in seconds)
    expect_that("how long they took", took_time, seconds, "the seconds of each")
    have = [bool(each.traceback) for each in info.history]
    expect("which have a traceback", have, [False] * 2 + [True] * TRACEBACKS)
    last = info.history[-1].traceback
    says_where = all(each in last for each in ("rules_facts.py", ", in fail", "raise ValueError(secret[:2])"))
    expect_that("the traceback", says_where, last, "the file, the function and the source line")
    expect_that(
        "the traceback", "in attempt" not in last.replace("in attempt {int", ""), last, "no value of a variable"
    )
    expect_that("the length of the traceback", len(last.encode()) <= 4096, len(last.encode()), "4096 bytes at most")


@rule(11, RegisterWorker, ListWorkers)
async def workers_tell_of_themselves(harness: Harness) -> None:
    """workers(fresh=True) lists each worker that runs, in any process, and none that has ended. It has the name, the
    running tasks, the line at which each of them waits, the state of the intake, and the names of tasks that its
    handler knows.
    """
    may_end = trio.Event()
    task_id = await harness.push(1)
    async with harness.second_handle() as other, trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("teller", harness.backend, _Waiting(may_end), concurrency=3, version="1.4")
        context = await nursery.start(worker.run)
        await harness.wait_until(lambda: bool(context.running_tasks), "the attempt of a worker", "begun")
        for backend in (harness.backend, other):
            info = await _expect_info(backend)
            known = (info.pid, info.version, info.slots, info.busy, info.intake, info.is_alive)
            expect("what it tells of itself", known, (os.getpid(), "1.4", 3, 1, "open", True))
            expect("the names of tasks that it knows", info.names, ("a kind", "another"))
            expect_that("its machine", bool(info.host), info.host, "a name")
            times = [info.since, info.as_of, info.last_beat]
            expect("the order of its times", times, sorted(times))
            expect("the tasks that it runs", [(each.id, each.attempt) for each in info.running], [(task_id, 1)])
            line = info.running[0].line
            expect_that("the line at which one waits", ".py:" in line, line, "a line in a file")
        context.pause()
        expect("its intake, when it is paused", (await _expect_info(other)).intake, "paused")
        may_end.set()
        await harness.wait_until(lambda: not context.running_tasks, "the attempt of a worker", "ended")
        expect("how many tasks it runs when all are settled", (await _expect_info(other)).busy, 0)
        context.stop()
        await context.wait_stopped()
        names = [each.name for each in await other.workers(fresh=True)]
        expect("the workers when it has ended", names, [])
        nursery.cancel_scope.cancel()


class _Waiting:
    """A handler that knows the names of some tasks."""

    task_names = frozenset({"another", "a kind"})

    def __init__(self, may_end: trio.Event) -> None:
        self._may_end = may_end

    async def __call__(self, task: Task[Any]) -> None:
        await self._may_end.wait()


async def _expect_info(backend: Any) -> WorkerInfo:
    """The one worker that the backend tells of, as it is now."""
    found = await backend.workers(fresh=True)
    expect("the workers", [each.name for each in found], ["teller"])
    info: WorkerInfo = found[0]
    return info


@rule(13, Explain)
async def every_task_is_explained(harness: Harness) -> None:
    """explain tells where a task is: unknown, ready, running, suspended and why, delayed until when, or finished."""
    await _expect_kind(harness, "unknown", "unknown")
    task_id = await harness.push(1)
    await _expect_kind(harness, task_id, "no_worker", "waiting")
    task = await harness.receive()
    found = await _expect_kind(harness, task_id, "running")
    expect("its status and attempt", (found.status, found.attempt), (Status.Running, 1))
    await harness.settle(task, Suspended(trio.current_time() + 3600.0, "the mail server rests"))
    found = await _expect_kind(harness, task_id, "suspended")
    expect("the reason and the attempts", (found.reason, found.attempt), ("the mail server rests", 0))
    _expect_wait(found, 3600.0)
    expect_that("its sentence", "the mail server rests" in str(found), str(found), "it has the reason")
    task_id = await harness.push(2)
    await harness.settle(await harness.receive(), Suspended(math.inf))
    expect("until when", (await _expect_kind(harness, task_id, "suspended")).until, None)
    task_id = await harness.push(3)
    await harness.settle(await harness.receive(), Retried(ValueError("first"), 3600.0))
    found = await _expect_kind(harness, task_id, "delayed")
    expect("its error", found.error, "ValueError: first")
    _expect_wait(found, 3600.0)
    task_id = await harness.push(4)
    await harness.settle(await harness.receive(), Failed(ValueError("last")))
    found = await _expect_kind(harness, task_id, "finished")
    expect("how it ended", (found.status, found.error), (Status.Failed, "ValueError: last"))


@rule(13, Explain, RegisterWorker, ListWorkers)
async def the_place_of_a_task_is_explained(harness: Harness) -> None:
    """explain tells which tasks go before one that waits for its turn; or that its queue is paused, or that no worker
    is there, or takes tasks.
    """
    first, second, third = [await harness.push(number) for number in (1, 2, 3)]
    urgent = await harness.push(4, priority=1)
    await _expect_kind(harness, third, "no_worker")

    async def wait(task: Task[Any]) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("busy", harness.backend, wait, concurrency=1)
        context = await nursery.start(worker.run)
        await harness.wait_until(lambda: bool(context.running_tasks), "the attempt of a worker", "begun")
        await _expect_kind(harness, urgent, "running")
        for task_id, before in ((first, ()), (second, (first,)), (third, (first, second))):
            found = await _expect_kind(harness, task_id, "waiting")
            expect("which tasks go first", (found.ahead, found.first), (len(before), before))
            expect("the workers", found.workers, ("busy",))
        if isinstance(harness.backend, Pause):
            await harness.backend.pause()
            await _expect_kind(harness, third, "paused")
            await harness.backend.resume()
        context.pause()
        found = await _expect_kind(harness, third, "held_by_gate")
        expect("what holds the workers", found.gates, (("busy", "paused"),))
        nursery.cancel_scope.cancel()


async def _expect_kind(harness: Harness, task_id: str, *kinds: str) -> Explanation:
    found = await harness.backend.explain(task_id)
    if not isinstance(found, Explanation):
        raise RuleBroken("the explanation of a task", found, "an Explanation")
    expect_that("the kind of the explanation", found.kind in kinds, found.kind, " or ".join(kinds))
    expect_that("its sentence", task_id in str(found) and "\n" not in str(found), str(found), "a line with the id")
    return found


def _expect_wait(found: Explanation, seconds: float) -> None:
    left = -1.0 if found.until is None else (found.until - found.as_of).total_seconds()
    expect_that(
        "the seconds until it is ready", seconds - 60.0 <= left <= seconds, left, f"{seconds}, or a little less"
    )


@rule(13, Watch)
async def changes_are_told(harness: Harness) -> None:
    """events() gives Pushed for each new task, and for no other; Expired, Cancelled and Replaced for each task that
    ends so; in the order of the changes.
    """
    backend = harness.backend
    told: list[StorageEvent] = []
    await harness.push(0, unique="before")
    async with backend.events() as events:
        first = await harness.push(1, unique="key")
        await backend.push(harness.args(2), unique="key")
        with refused("a task of a known id", DuplicateTaskError):
            await backend.push(harness.args(2), id=first)
        second = await harness.push(3, unique="key", on_conflict="replace")
        told += [Pushed(first, True), Replaced(first, second), Pushed(second, True)]
        await harness.settle(await harness.receive_number(0), Succeeded(None))
        running = await harness.receive_number(3)
        third = await harness.push(4, unique="key", on_conflict="replace")
        await harness.settle(running, Retried(ValueError("again"), 0.0))
        told += [Pushed(third, True), Replaced(second, third)]
        await harness.settle(await harness.receive_number(4), Failed(ValueError("over")))
        late = await harness.push(5, expires_in=0.1)
        await harness.pass_time(0.25)
        await harness.expect_nothing()
        told += [Pushed(late, True), Expired(late)]
        for interface, verb in ((Cancel, "cancel"), (Discard, "discard")):
            if isinstance(backend, interface):
                task_id = await harness.push(6, delay=3600.0)
                expect(f"{verb} of a task that waits", await getattr(backend, verb)(task_id), True)
                expect(f"{verb} of an unknown task", await getattr(backend, verb)("unknown"), False)
                told += [Pushed(task_id, True), Cancelled(task_id)]
        expect("the events", [await events.receive() for _ in told], told)
        with trio.move_on_after(TICK):
            raise RuleBroken("a further event", await events.receive(), "none")


@rule(6, Watch)
async def each_reader_gets_all_changes(harness: Harness) -> None:
    """Each reader of events() gets all of them, whatever others do: one that never reads, and one that is cancelled
    while it waits, which loses none by that.
    """
    backend = harness.backend
    async with backend.events() as events:
        with trio.move_on_after(TICK):
            raise RuleBroken("an event, before anything has changed", await events.receive(), "none")
        async with backend.events():
            task_ids = [await harness.push(number) for number in range(3)]
            seen = [await events.receive() for _ in task_ids]
            expect("the events", seen, [Pushed(task_id, True) for task_id in task_ids])
        last = await harness.push(3)
        expect("the event after another reader has left", await events.receive(), Pushed(last, True))
