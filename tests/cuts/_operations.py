"""Every operation of a backend: how it is called, and which states are allowed after it was cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from trio_tasks import (
    CborCodec,
    Failed,
    Killed,
    Limits,
    Outcome,
    Pushed,
    Released,
    Retried,
    StoredTask,
    Succeeded,
    Task,
    TaskBuilder,
    TaskId,
    Worker,
)
from trio_tasks.abc import ScheduleChange, StoredSchedule
from trio_tasks.testing import Cut

from tests.cuts._backends import LATER, LEASE, BackendUnderTest


@dataclass(frozen=True)
class Seen:
    """The state before and after an operation that was cancelled, and the state after a whole one."""

    before: dict[str, Any]
    after: dict[str, Any]
    uncut: dict[str, Any]
    returned: bool

    def either(self) -> None:
        """Allow all or nothing; all, if the operation returned."""
        assert self.after in (self.before, self.uncut), f"half done: {self.before} became {self.after}"
        if self.returned:
            assert self.after == self.uncut, f"it returned, but {self.after} is not {self.uncut}"

    def done(self) -> None:
        """Allow only the whole operation: it cannot be cancelled."""
        assert self.after == self.uncut

    def each(self) -> None:
        """Allow each task to be as it was before, or as it is after a whole operation: it makes several steps."""
        for task_id in {**self.before, **self.uncut}:
            ends = self.before.get(task_id), self.uncut.get(task_id)
            assert self.after.get(task_id) in ends, f"half done: {task_id} became {self.after.get(task_id)}"
        if self.returned:
            assert self.after == self.uncut

    def untouched(self) -> None:
        """Allow no change: the operation only reads."""
        assert self.after == self.before

    def beginning(self) -> None:
        """Allow the first of several steps."""
        new = [each for each in self.uncut if each not in self.before]
        there = [each for each in self.after if each not in self.before]
        assert there == new[: len(there)]
        assert {each: row for each, row in self.after.items() if each not in new} == self.before
        if self.returned:
            assert self.after == self.uncut


@dataclass(frozen=True)
class Operation:
    """An operation of a backend.

    Args:
      act: does it, with the part that is to be cut inside ``with cut``; returns whether that returned.
      check: what must be true of what is seen then.
    """

    act: Callable[[BackendUnderTest, Cut], Awaitable[bool]]
    check: Callable[[Seen], None] = Seen.either


def calling(verb: str, *args: Any) -> Callable[[BackendUnderTest, Cut], Awaitable[bool]]:
    """Make an operation that calls a method with these arguments; functions among them are called first."""

    async def act(tested: BackendUnderTest, cut: Cut) -> bool:
        arguments = [each(tested) if callable(each) else each for each in args]
        with cut:
            await getattr(tested.backend, verb)(*arguments)
            return True
        return False

    return act


def looking(verb: str, *args: Any) -> Operation:
    """Make an operation that only reads."""
    return Operation(calling(verb, *args), Seen.untouched)


def several(verb: str, task_id: str, *args: Any) -> list[Operation]:
    """Make an operation that changes one task, and one that changes it among several."""
    ids = [task_id, "unknown", "held"]
    return [Operation(calling(verb, task_id, *args)), Operation(calling(verb, ids, *args), Seen.each)]


def channel_of(*items: Any) -> trio.MemoryReceiveChannel[Any]:
    send, receive = trio.open_memory_channel[Any](len(items))
    for each in items:
        send.send_nowait(each)
    send.close()
    return receive


def stored_task(args: str) -> StoredTask:
    return StoredTask(id=args, state="waiting", payload=CborCodec().encode(args), since=1.0)


def task(args: str) -> Task[str]:
    return TaskBuilder(args).id(args).metadata(note="whole").build()


# Receiving


def receiving(verb: str) -> list[Operation]:
    async def take(tested: BackendUnderTest) -> None:
        received: Task[str] = await getattr(tested.backend, verb)()
        tested.leased[received.parts.id] = received

    async def at_once(tested: BackendUnderTest, cut: Cut) -> bool:
        with cut:
            await take(tested)
            return True
        return False

    async def waiting(tested: BackendUnderTest, cut: Cut) -> bool:
        """What waits is taken already; so it waits until another one is pushed."""
        await take(tested)
        returned = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push_later, tested)
            with cut:
                await take(tested)
                returned = True
        return returned

    def taken_or_there(seen: Seen) -> None:
        without = {each: row for each, row in seen.before.items() if each not in ("new", "waiting")}
        assert {each: seen.after[each] for each in without} == without
        if seen.returned:
            assert seen.after == seen.uncut

    return [Operation(at_once), Operation(waiting, taken_or_there)]


async def push_later(tested: BackendUnderTest) -> None:
    await trio.sleep(1)
    await tested.push("new")


# Settling


def settling(outcome: Callable[[], Outcome], check: Callable[[Seen], None]) -> Operation:
    async def act(tested: BackendUnderTest, cut: Cut) -> bool:
        with cut:
            await tested.backend.settle(tested.held, outcome())
            return True
        return False

    return Operation(act, check)


def settles(check: Callable[[Seen], None]) -> list[Operation]:
    outcomes: list[Callable[[], Outcome]] = [
        lambda: Succeeded("result"),
        lambda: Failed(ValueError("no")),
        lambda: Killed(ValueError("no")),
        lambda: Retried(ValueError("no"), LATER),
        lambda: Released("cut"),
    ]
    return [settling(each, check) for each in outcomes]


# With a worker


async def hold(args: str) -> str:
    await trio.sleep(10)
    return args


async def beat(tested: BackendUnderTest, cut: Cut) -> bool:
    returned = False
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", tested.backend, hold, concurrency=1).run)
        await trio.sleep(1)
        with cut:
            await tested.backend.beat(context)
            returned = True
        context.stop()
    return returned


async def register(tested: BackendUnderTest, cut: Cut) -> bool:
    context = Worker("w", tested.backend, hold).prepare()
    with cut:
        await tested.backend.register_worker(context)
        return True
    return False


async def unregister(tested: BackendUnderTest, cut: Cut) -> bool:
    context = Worker("w", tested.backend, hold).prepare()
    await tested.backend.register_worker(context)
    with cut:
        await tested.backend.unregister_worker(context)
        return True
    return False


async def abort(tested: BackendUnderTest, cut: Cut) -> bool:
    returned = False
    async with trio.open_nursery() as nursery:
        context = await nursery.start(Worker("w", tested.backend, hold, concurrency=1).run)
        await trio.sleep(1)
        with cut:
            returned = bool(await tested.backend.abort("waiting"))
        context.stop()
    return returned


def killed_or_done(seen: Seen) -> None:
    assert seen.uncut["waiting"][0] == "Killed"
    assert seen.after.get("waiting", ("Done",))[0] in (("Killed",) if seen.returned else ("Killed", "Done"))
    assert {**seen.after, "waiting": None} == {**seen.uncut, "waiting": None}


async def call(tested: BackendUnderTest, cut: Cut) -> bool:
    """Call, with a worker that runs the task; what the arrangement left waiting comes first."""
    returned = False
    async with trio.open_nursery() as nursery:
        await tested.backend.cancel("waiting")
        context = await nursery.start(Worker("w", tested.backend, hold, concurrency=1).run)
        with cut:
            returned = bool(await tested.backend.call("new") == "new")
        context.stop()
    return returned


def done_or_gone(seen: Seen) -> None:
    assert seen.uncut["new"][0] == "Done"
    assert seen.after.get("new", ("Done",))[0] == "Done", "it goes on, or is a dead letter"
    assert {**seen.after, "new": None} == {**seen.uncut, "new": None}


async def wait_for(tested: BackendUnderTest, cut: Cut, ids: Any) -> bool:
    async def finish() -> None:
        await trio.sleep(1)
        await tested.backend.settle(tested.held, Succeeded("result"))

    returned = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish)
        with cut:
            await tested.backend.wait_for(ids)
            returned = True
    return returned


async def events(tested: BackendUnderTest, cut: Cut) -> bool:
    returned = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push_later, tested)
        with cut:
            async with tested.backend.events() as channel:
                assert await channel.receive() == Pushed(TaskId("new"), True)
            returned = True
    return returned


async def resume_abandoned(tested: BackendUnderTest, cut: Cut) -> bool:
    await trio.sleep(2 * LEASE)
    with cut:
        await tested.backend.resume_abandoned()
        return True
    return False


def orphaned(seen: Seen) -> None:
    assert seen.after["held"][0] in ("Pending", "Running")
    assert seen.after["held"][1] == 1, "an orphan's attempt counts"
    if seen.returned:
        assert seen.after == seen.uncut


async def set_schedules(tested: BackendUnderTest, cut: Cut) -> bool:
    template = tested.backend.make_template(task("new"))
    schedule = StoredSchedule("every(days=1)", "default", template, 0)
    with cut:
        await tested.backend.set_schedules([ScheduleChange("name", 0, schedule, [template])])
        return True
    return False


async def push_with_deadline(tested: BackendUnderTest, cut: Cut) -> bool:
    returned = False
    with trio.move_on_after(100 * LATER):
        with cut:
            await tested.backend.push("new", deadline="inherit")
            returned = True
    return returned


PUSHES = {
    "push": [Operation(calling("push", "new")), Operation(push_with_deadline)],
    "push_or_get": [Operation(calling("push_or_get", "new"))],
    "push_task": [Operation(calling("push_task", lambda tested: task("new")))],
    "push_bulk": [Operation(calling("push_bulk", ["new 1", "new 2", "new 3"]), Seen.beginning)],
    "push_stream": [Operation(calling("push_stream", lambda _: channel_of("new 1", "new 2")), Seen.beginning)],
    "push_all": [Operation(calling("push_all", lambda _: channel_of(task("new 1"), task("new 2"))), Seen.beginning)],
}
LOOKS = {
    "fetch_by_id": [looking("fetch_by_id", "waiting"), looking("fetch_by_id", ["waiting", "dead"])],
    "list_tasks": [looking("list_tasks")],
    "list_workers": [looking("list_workers")],
    "workers": [looking("workers")],
    "list_queues": [looking("list_queues")],
    "metrics": [looking("metrics")],
    "audit": [looking("audit")],
    "throughput": [looking("throughput")],
    "inspect": [looking("inspect")],
    "explain": [looking("explain", "waiting")],
    "list_schedules": [looking("list_schedules")],
    "wait_for_schedules": [looking("wait_for_schedules")],
    "export_tasks": [looking("export_tasks")],
    "progress_of": [looking("progress_of", "held")],
}
CHANGES = {
    "update": [Operation(calling("update", lambda _: Task("waiting", task("waiting").parts)))],
    "reschedule": several("reschedule", "waiting", LATER),
    "cancel": several("cancel", "waiting"),
    "pause": [Operation(calling("pause"), Seen.untouched)],
    "resume": [Operation(calling("resume"), Seen.untouched)],
    "is_paused": [looking("is_paused")],
    "set_limits": [Operation(calling("set_limits", Limits(per_key=1)), Seen.untouched)],
    "get_limits": [looking("get_limits")],
    "list_limits": [looking("list_limits")],
    "discard": several("discard", "dead"),
    "vacuum": [Operation(calling("vacuum"))],
    "resume_by_id": several("resume_by_id", "dead"),
    "retry_all": [Operation(calling("retry_all"), Seen.each)],
    "cancel_all": [Operation(calling("cancel_all"), Seen.each)],
    "discard_all": [Operation(calling("discard_all"), Seen.each)],
    "report_progress": [Operation(calling("report_progress", lambda tested: tested.held, 50))],
    "set_metadata": [Operation(calling("set_metadata", lambda tested: tested.held, {"a": 1}))],
    "resume_abandoned": [Operation(resume_abandoned, orphaned)],
    "set_schedules": [Operation(set_schedules)],
    "import_tasks": [Operation(calling("import_tasks", lambda _: [stored_task("new 1"), stored_task("new 2")]))],
}
OPERATIONS: dict[str, list[Operation]] = {
    **PUSHES,
    **LOOKS,
    **CHANGES,
    "receive": receiving("receive"),
    "__anext__": receiving("__anext__"),
    "settle": settles(Seen.done),
    "beat": [Operation(beat, Seen.done)],
    "register_worker": [Operation(register, Seen.untouched)],
    "unregister_worker": [Operation(unregister, Seen.untouched)],
    "abort": [Operation(abort, killed_or_done), Operation(calling("abort", ["dead", "unknown"]), Seen.untouched)],
    "wait_for": [
        looking("wait_for", "dead"),
        looking("wait_for", ["dead", "dead"]),
        *(Operation(partial(wait_for, ids=ids), Seen.done) for ids in ("held", ["dead", "held"])),
    ],
    "call": [Operation(call, done_or_gone)],
    "events": [Operation(events, Seen.done)],
}
"""By the name of the method. Opening and closing, and what is run, have files of their own."""


def operations_of(kind: str, verb: str) -> list[Operation]:
    """Return the operations to try on this kind of backend."""
    if verb == "settle" and kind == "custom":
        return settles(Seen.either)  # what a cancellation means, its function decides
    return OPERATIONS[verb]
