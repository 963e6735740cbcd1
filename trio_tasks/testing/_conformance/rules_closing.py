"""Rules about closing a backend, and about the tasks that are left in its store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..._contracts.backend import WaitForCompletion, Watch
from ..._contracts.storage_events import Pushed
from ..._tasks.errors import RetryAfterError
from ..._tasks.outcome import Retried, Status, Succeeded
from ..._tasks.task import Task
from ..._worker.worker import Worker
from .harness import DELAY, Stopwatch
from .rule import Feature, RuleBroken, expect, refused, rule
from .workers import AT_ONCE, AttemptRecord, finish

if TYPE_CHECKING:
    from .harness import Harness


async def _end_comes(harness: Harness) -> None:
    with harness.limit(harness.max_wait):
        with refused("a receive from a closed and empty backend", trio.EndOfChannel):
            await harness.backend.receive()
        return
    raise RuleBroken("a receive from a closed and empty backend", "it waits", "trio.EndOfChannel")


@rule(12, Feature.CLOSE)
async def a_push_after_close_is_refused(harness: Harness) -> None:
    """After close(), a push raises trio.ClosedResourceError, and nothing is stored."""
    harness.backend.close()
    with refused("a push after close()", trio.ClosedResourceError):
        await harness.push(1)
    with refused("a bulk after close()", trio.ClosedResourceError):
        await harness.backend.push_bulk([harness.args(1)])
    harness.backend.close()
    await _end_comes(harness)


@rule(2, Watch, Feature.CLOSE)
async def the_events_end_with_the_storage(harness: Harness) -> None:
    """After close(), a channel of events() gives those that wait in it, and then trio.EndOfChannel; no other one can be
    opened.
    """
    async with harness.backend.events() as events:
        task_id = await harness.push(1)
        harness.backend.close()
        expect("the event before close()", await events.receive(), Pushed(task_id, True))
        with harness.limit(harness.max_wait):
            with refused("an event after close()", trio.EndOfChannel):
                await events.receive()
    with refused("events() after close()", trio.ClosedResourceError):
        async with harness.backend.events():
            pass


@rule(2, Feature.CLOSE)
async def what_waits_is_given_before_the_end(harness: Harness) -> None:
    """A closed backend gives out the tasks that wait in it, delayed ones too, before it raises trio.EndOfChannel."""
    await harness.push(1, delay=DELAY)
    await harness.push(2)
    harness.backend.close()
    for number in (2, 1):
        await harness.settle(await harness.receive_number(number), Succeeded(None))
    await _end_comes(harness)
    await _end_comes(harness)


@rule(2, Feature.CLOSE)
async def what_is_retried_is_given_before_the_end(harness: Harness) -> None:
    """A closed backend gives out a retried task, once its delay is over, before it raises trio.EndOfChannel."""
    await harness.push(1)
    task = await harness.receive_number(1)
    harness.backend.close()
    await harness.settle(task, Retried(ValueError("again"), DELAY))
    await harness.settle(await harness.receive_number(1, attempt=2), Succeeded(None))
    await _end_comes(harness)


@rule(2, Feature.CLOSE)
async def a_waiting_receiver_is_told_of_the_end(harness: Harness) -> None:
    """A receiver that waits for a task gets trio.EndOfChannel when an empty backend is closed."""
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(_end_comes, harness)
        await harness.pass_time(0.1)
        harness.backend.close()


@rule(2, Feature.CLOSE)
async def a_worker_ends_when_all_is_done(harness: Harness) -> None:
    """A worker on a closed backend ends when all tasks are finished, and not while a task may still be retried."""
    ids = [await harness.push(number) for number in range(3)]
    harness.backend.close()
    record = AttemptRecord()

    async def handle(task: Task[Any]) -> None:
        await harness.pass_time(0.1)
        if task.parts.attempt == 1 and harness.number(task) == 2:
            raise RetryAfterError("again", DELAY)

    worker: Worker[Any, Any] = Worker("closing", harness.backend, handle, on_event=record.listen, retry=AT_ONCE)
    with harness.limit(2 * harness.max_wait) as scope:
        await worker.run()
    if scope.cancelled_caught:
        raise RuleBroken("a worker on a closed and empty backend", "it waits for more tasks", "it ends")
    expect("the tasks that it finished", sorted(map(harness.number_of, record.finished)), [0, 1, 2])
    expect("the attempts of the one that was repeated", record.attempts_of(ids[2]), [1, 2])


@rule(8, Feature.LASTING)
async def a_restart_loses_nothing(harness: Harness) -> None:
    """After a handle was closed with tasks waiting and running, the next handle finds each task in its place."""
    done = await harness.push(0)
    await harness.settle(await harness.receive_number(0), Succeeded(None))
    clock = Stopwatch()
    await harness.push(1, metadata={"note": "kept"})
    await harness.receive_number(1)
    for number in (2, 3):
        await harness.push(number, metadata={"note": "kept"})
    await harness.push(4, delay=DELAY)
    await harness.restart()
    seen: dict[int, int] = {}
    for _ in range(4 if harness.lease else 3):
        task = await harness.receive()
        number = harness.number(task)
        expect("the tasks that came, and this one", number in seen, False)
        seen[number] = int(task.parts.attempt)
        expect(f"the args of task {number}", task.args, harness.args(number))
        if number == 4:
            clock.expect_at_least(DELAY, f"a task delayed by {DELAY} s")
        else:
            expect(f"the metadata of task {number}", dict(task.parts.metadata), {"note": "kept"})
        await harness.settle(task, Succeeded(None))
    await harness.expect_nothing()
    expect("the attempts in which what waited came", {each: seen.get(each) for each in (2, 3, 4)}, {2: 1, 3: 1, 4: 1})
    expect("the attempt in which the running task came", seen.get(1), 2 if harness.lease else seen.get(1))
    if isinstance(harness.backend, WaitForCompletion):
        expect("the status of what was finished", (await harness.backend.wait_for(done)).status, Status.Done)


@rule(8, Feature.LASTING)
async def a_worker_that_is_closed_is_followed(harness: Harness) -> None:
    """After a restart, the next worker finishes the tasks that a cancelled worker had claimed, each once."""
    ids = [await harness.push(number) for number in range(6)]
    record = AttemptRecord()

    async def cut(task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()
        if harness.number(task) >= 2:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        worker: Worker[Any, Any] = Worker("cut", harness.backend, cut, concurrency=2, on_event=record.listen)
        nursery.start_soon(worker.run)
        await harness.wait_until(
            lambda: len(record.attempts) == 4, "a worker of two slots", "in its third and fourth attempt"
        )
        nursery.cancel_scope.cancel()
    expect("the tasks that it finished", sorted(map(harness.number_of, record.finished)), [0, 1])
    await harness.restart()

    async def handle(task: Task[Any]) -> None:
        await trio.lowlevel.checkpoint()

    after = await finish(harness, ids[2:], handle)
    expect("the tasks that the next one finished", sorted(map(harness.number_of, after.finished)), [2, 3, 4, 5])
    expect("the attempts of what was interrupted", [after.attempts_of(each) for each in ids[2:]], [[1]] * 4)
    await harness.expect_nothing()
