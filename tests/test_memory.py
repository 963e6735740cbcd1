"""Tests of MemoryStorage: options of tasks, handles, results, and trio's conventions."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    DuplicateTaskError,
    Failed,
    LeaseLostError,
    MemoryStorage,
    MemoryStorageStatistics,
    Released,
    Retried,
    Status,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    Worker,
)
from trio_tasks._backends.mirroring import CAPABILITIES, capabilities_of
from trio_tasks.abc import Feeder, TransferTasks

ERROR = ValueError("no")


async def no_op(n: int) -> None:
    pass


async def receive_all(storage: MemoryStorage[Any]) -> list[Any]:
    """The args of all that are ready."""
    found = []
    while True:
        await trio.lowlevel.checkpoint()
        try:
            found.append(storage.receive_nowait().args)
        except trio.WouldBlock:
            return found


# What a task can ask for


async def test_first_in_first_out_within_a_priority() -> None:
    storage = MemoryStorage[str]()
    for args, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]:
        await storage.push(args, priority=priority)
    assert await receive_all(storage) == ["b", "d", "a", "e", "c"]


async def test_a_running_task_counts_its_attempts(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    seen: list[tuple[str, int, Status]] = []
    for outcome in (Retried(ERROR, 5), Released(), Suspended(0), Retried(ERROR), Failed(ERROR)):
        task = await storage.receive()
        seen.append((task.parts.id, task.parts.attempt, task.parts.status))
        await storage.settle(task, outcome)
    assert seen == [(task_id, n, Status.Running) for n in (1, 2, 2, 2, 3)]


async def test_a_delay_and_a_moment(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[str]()
    began = trio.current_time()
    await storage.push("later", delay=10)
    await storage.push("at five", run_at=datetime.now(timezone.utc) + timedelta(seconds=5))
    await storage.push("past", run_at=datetime.now(timezone.utc) - timedelta(days=1))
    assert (await storage.receive()).args == "past"
    assert (await storage.receive()).args == "at five"
    assert trio.current_time() - began == pytest.approx(5, abs=1)
    assert (await storage.receive()).args == "later"
    assert trio.current_time() - began == 10


async def test_an_expired_task_is_killed_unstarted(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    late, early = await storage.push(1, expires_in=5), await storage.push(2, expires_in=20)
    await trio.sleep(10)
    assert (await storage.receive()).parts.id == early
    result = await storage.wait_for(late)
    assert result.status is Status.Killed
    assert isinstance(result.error, TaskExpiredError)


async def test_a_task_that_was_started_in_time_does_not_expire(autojump_clock: MockClock) -> None:
    for outcome in (Retried(ERROR), Released(), Suspended(0)):
        storage = MemoryStorage[int]()
        await storage.push(1, expires_in=5)
        task = await storage.receive()
        await trio.sleep(10)
        await storage.settle(task, outcome)
        assert storage.receive_nowait().args == 1


async def test_a_unique_key_is_taken_until_the_end() -> None:
    storage = MemoryStorage[int]()
    first = await storage.push(1, unique="key")
    assert await storage.push(2, unique="key") == first
    with pytest.raises(DuplicateTaskError, match="unique key 'key' is taken"):
        await storage.push(3, unique="key", on_conflict="raise")
    await storage.push(4, unique="other")
    task = await storage.receive()
    assert await storage.push(5, unique="key") == first
    await storage.settle(task, Retried(ERROR))
    assert await storage.push(6, unique="key") == first
    assert (await storage.receive()).args == 4
    await storage.settle(await storage.receive(), Succeeded(None))
    assert await storage.push(7, unique="key") != first
    assert storage.statistics().pushed == 3


async def test_a_unique_key_can_be_taken_over_from_a_waiting_task() -> None:
    storage = MemoryStorage[int]()
    first = await storage.push(1, unique="key", delay=100)
    second = await storage.push(2, unique="key", on_conflict="replace")
    assert second != first
    assert (await storage.wait_for(first)).status is Status.Killed
    assert await receive_all(storage) == [2]


async def test_an_id_is_known_for_as_long_as_its_task_is_remembered() -> None:
    storage = MemoryStorage[int]()
    for outcome in (Succeeded(None), Failed(ERROR)):
        await storage.push(1, id="one")
        with pytest.raises(DuplicateTaskError, match="id 'one' has been pushed already"):
            await storage.push(2, id="one")
        task = await storage.receive()
        with pytest.raises(DuplicateTaskError):
            await storage.push(2, id="one")
        await storage.settle(task, outcome)
        with pytest.raises(DuplicateTaskError):
            await storage.push(2, id="one")
        await storage.vacuum()
    assert storage.statistics().pushed == 2


async def test_the_oldest_results_are_forgotten_first() -> None:
    storage = MemoryStorage[int](keep_results=2)
    ids = await storage.push_bulk(range(3))
    for _ in ids:
        await storage.settle(await storage.receive(), Succeeded(None))
    assert await storage.fetch_by_id(ids[0]) is None
    assert await storage.fetch_by_id(ids[1]) is not None
    assert storage.statistics().results_kept == 2


# Settling


async def test_a_task_is_settled_once() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    task = await storage.receive()
    await storage.settle(task, Retried(ERROR))
    with pytest.raises(LeaseLostError, match="nothing to settle"):
        await storage.settle(task, Succeeded(None))
    again = await storage.receive()
    with pytest.raises(LeaseLostError):
        await storage.settle(task, Succeeded(None))  # another attempt has it
    await storage.settle(again, Succeeded(None))
    with pytest.raises(LeaseLostError):
        await storage.settle(again, Succeeded(None))
    with pytest.raises(LeaseLostError):
        await storage.settle(Task(1), Succeeded(None))
    counts = storage.statistics()
    assert (counts.succeeded, counts.retried) == (1, 1)


async def test_settling_takes_effect_even_if_it_is_cancelled() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    task = await storage.receive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await storage.settle(task, Succeeded(None))
    assert storage.statistics().succeeded == 1


@pytest.mark.parametrize("outcome", [None, 5, "Succeeded", Succeeded], ids=repr)
async def test_what_is_no_outcome_is_refused(outcome: Any) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    task = await storage.receive()
    with pytest.raises(TypeError, match="Succeeded"):
        storage.settle_nowait(task, outcome)
    assert storage.statistics().running == 1


@pytest.mark.parametrize("task", [None, 5], ids=repr)
async def test_only_a_task_is_settled(task: Any) -> None:
    with pytest.raises(TypeError, match="Task"):
        MemoryStorage[int]().settle_nowait(task, Succeeded(None))


# Cancelling


async def test_a_cancelled_push_has_pushed_nothing() -> None:
    storage = MemoryStorage[int]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await storage.push(1)
    assert scope.cancelled_caught
    assert storage.statistics().pushed == 0


async def test_a_cancelled_receive_has_taken_nothing() -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await storage.receive()
    assert scope.cancelled_caught
    assert storage.statistics().waiting == 1


async def test_a_cancelled_bulk_leaves_in_what_was_put_in(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](5)
    with trio.move_on_after(0.01) as scope:
        await storage.push_bulk(range(10))
    assert scope.cancelled_caught
    assert await receive_all(storage) == [0, 1, 2, 3, 4]
    assert storage.statistics().pushers_waiting == 0


# Bulk


async def test_a_bulk_waits_for_room_and_keeps_its_order(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](3)
    nursery.start_soon(storage.push_bulk, range(10))
    assert [(await storage.receive()).args for _ in range(10)] == list(range(10))


async def test_a_great_bulk_leaves_a_turn_to_others() -> None:
    storage = MemoryStorage[int]()
    given, seen = 0, list[tuple[int, int]]()

    def many() -> Iterator[int]:
        nonlocal given
        while given < 20_000:
            given += 1
            yield given

    async def take_turns() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            seen.append((given, storage.statistics().pushed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await trio.sleep(0.01)
        await storage.push_bulk(many())
        nursery.cancel_scope.cancel()
    for column in (0, 1):
        steps = [later[column] - earlier[column] for earlier, later in pairwise(seen)]
        assert max(steps) <= 2000


# Handles


async def test_a_storage_is_closed_when_every_handle_is() -> None:
    storage = MemoryStorage[int]()
    clone = storage.clone()
    other = copy.copy(clone)
    await other.push(1)
    storage.close()
    storage.close()
    with pytest.raises(trio.ClosedResourceError, match="MemoryStorage is closed"):
        await storage.push(2)
    with pytest.raises(trio.ClosedResourceError, match="cannot be cloned"):
        storage.clone()
    assert storage.statistics().open_handles == 2
    await clone.push(2)
    clone.close()
    await other.aclose()
    assert [(await storage.receive()).args for _ in range(2)] == [1, 2]  # also through a closed handle
    with pytest.raises(trio.EndOfChannel):
        await storage.receive()
    with pytest.raises(trio.EndOfChannel):
        storage.receive_nowait()


async def test_a_clone_that_is_only_received_from_does_not_keep_it_open() -> None:
    storage = MemoryStorage[int]()
    for_the_worker = storage.clone()
    await storage.push(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Worker("w", for_the_worker, no_op).run)
        await wait_all_tasks_blocked()
        storage.close()
    assert storage.statistics().succeeded == 1


async def test_a_clone_that_is_received_from_and_pushed_to_keeps_it_open_in_whichever_order() -> None:
    for push_first in (True, False):
        storage = MemoryStorage[int]()
        clone = storage.clone()
        await storage.push(0)
        if push_first:
            await clone.push(1)
            await clone.receive()
        else:
            await clone.receive()
            await clone.push(1)
        storage.close()
        await clone.push(2)
        clone.close()
        assert storage.statistics().pushed == 3


async def test_a_closed_storage_can_still_be_asked() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    storage.close()
    assert await storage.fetch_by_id(task_id) is not None
    assert repr(storage) == "<MemoryStorage closed: 1 waiting, 0 running, 0 dead>"


async def test_a_storage_closes_with_its_block() -> None:
    async with MemoryStorage[int]() as storage:
        await storage.push(1)
    with pytest.raises(trio.ClosedResourceError):
        storage.push_nowait(2)


# Looking


async def test_it_knows_its_workers(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int]()
    contexts = [await nursery.start(Worker(name, storage, no_op).run) for name in ("a", "b")]
    assert await storage.list_workers() == ["a", "b"]
    contexts[0].stop()
    await contexts[0].wait_stopped()
    assert await storage.list_workers() == ["b"]
    contexts[1].stop()


async def test_statistics_are_frozen_and_whole(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](3)
    assert storage.statistics() == MemoryStorageStatistics(0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    nursery.start_soon(storage.receive)
    await wait_all_tasks_blocked()
    assert storage.statistics().receivers_waiting == 1
    for n in range(4):
        await storage.push(n)
    nursery.start_soon(storage.push, 5)
    await wait_all_tasks_blocked()
    found = storage.statistics()
    assert (found.waiting, found.running, found.pushers_waiting, found.receivers_waiting) == (3, 1, 1, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.waiting = 0  # type: ignore[misc]  # which is what must not work
    nursery.cancel_scope.cancel()


def test_its_capabilities() -> None:
    storage = MemoryStorage[int]()
    assert set(CAPABILITIES) - set(capabilities_of(storage)) == {Feeder, TransferTasks}
    assert isinstance(storage, Backend)
    assert isinstance(storage, trio.abc.ReceiveChannel)


async def test_a_handle_can_be_iterated_over() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(3))
    storage.close()
    assert [task.args async for task in storage] == [0, 1, 2]


# Several queues


async def test_queues_have_their_own_tasks_workers_and_ends() -> None:
    mail = MemoryStorage[str](queue="mail")
    sms = mail.share(int, queue="sms", keep_results=1)
    assert (mail.queue, sms.queue) == ("mail", "sms")
    assert repr(sms) == "<MemoryStorage 'sms' open: 0 waiting, 0 running, 0 dead>"
    assert await mail.list_queues() == []
    await sms.push(1)
    await mail.push("a", id="same")
    await sms.push(2, id="same")
    assert await mail.list_queues() == await sms.list_queues() == ["mail", "sms"]
    assert (mail.statistics().waiting, sms.statistics().waiting) == (1, 2)
    sms.close()
    await mail.push("b")
    done: list[int] = []

    async def handle(number: int) -> None:
        done.append(number)
        assert (await sms.list_workers(), await mail.list_workers()) == (["w"], [])

    await Worker("w", sms, handle).run()
    assert done == [1, 2]
    with pytest.raises(trio.ClosedResourceError):
        await sms.push(3)
    assert await receive_all(mail) == ["a", "b"]


async def test_the_same_queue_once_more_is_another_handle() -> None:
    storage = MemoryStorage[int](keep_results=5)
    sms = storage.share(int, queue="sms")
    again = sms.share(queue="sms")
    await again.push(1)
    sms.close()
    await again.push(2)
    again.close()
    assert [task.args async for task in sms] == [1, 2]
    storage.close()
    reopened = storage.share(int, queue="sms", keep_results=5)
    await reopened.push(3)
    assert (await sms.receive()).args == 3


@pytest.mark.parametrize(
    ("args", "options", "kind", "message"),
    [
        (str, {"queue": "sms"}, ValueError, "'sms' is open here already, with type=<class 'int'>"),
        (int, {"queue": "sms", "keep_results": 7}, ValueError, "already, with keep_results=10000"),
        (int, {"queue": "new", "keep_results": -1}, ValueError, "keep_results must be 0 or more"),
        (
            int,
            {"queue": "new", "lease": 30},
            TypeError,
            "no option 'lease': it has max_buffer_size, codec, ",
        ),
        (int, {"queue": 5}, TypeError, "queue"),
        (int, {"queue": ""}, ValueError, "queue"),
    ],
    ids=str,
)
async def test_a_wrong_queue_is_refused(args: Any, options: Any, kind: type[Exception], message: str) -> None:
    storage = MemoryStorage[int]()
    storage.share(int, queue="sms")
    with pytest.raises(kind, match=message):
        storage.share(args, **options)
    await storage.push(1)
    assert await storage.list_queues() == ["default"]


async def test_nothing_is_abandoned_in_memory() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(2))
    task = await storage.receive()
    assert await storage.resume_abandoned() == 0
    await storage.settle(task, Succeeded(None))


# Manners


async def test_every_async_method_is_a_checkpoint() -> None:
    storage = MemoryStorage[int]()
    with assert_checkpoints():
        await storage.push(1)
    with assert_checkpoints():
        await storage.push_task(Task(2))
    with assert_checkpoints():
        await storage.push_bulk([3, 4])
    with assert_checkpoints():
        await storage.push_bulk([])
    with assert_checkpoints():
        task = await storage.receive()
    await storage.settle(task, Succeeded(None))  # it lets others run, but is not cancelled: what is settled is settled
    with assert_checkpoints():
        await storage.list_workers()
    with assert_checkpoints():
        await storage.register_worker(Worker("w", storage, no_op).prepare())
    with assert_checkpoints():
        await storage.aclose()


async def test_nowait_never_blocks() -> None:
    storage = MemoryStorage[int](1)
    with pytest.raises(trio.WouldBlock):
        storage.receive_nowait()
    task_id = storage.push_nowait(1, priority=3)
    with pytest.raises(trio.WouldBlock):
        storage.push_nowait(2)
    with pytest.raises(trio.WouldBlock):
        storage.push_task_nowait(Task(2))
    assert storage.receive_nowait().parts.id == task_id
    assert storage.push_task_nowait(Task(2))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"max_buffer_size": 0}, ValueError, "max_buffer_size .* must be 1 or more"),
        ({"max_buffer_size": 1.5}, TypeError, "max_buffer_size .* must be a whole number"),
        ({"max_buffer_size": math.nan}, TypeError, "max_buffer_size .* must be a whole number"),
        ({"max_buffer_size": -math.inf}, TypeError, "max_buffer_size .* must be a whole number"),
        ({"max_buffer_size": None}, TypeError, "max_buffer_size .* must be a whole number"),
        ({"keep_results": -1}, ValueError, "keep_results must be 0 or more"),
        ({"keep_results": "all"}, TypeError, "keep_results must be a whole number"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MemoryStorage(**given)


@pytest.mark.parametrize("given", [None, 5, "task"], ids=repr)
async def test_only_a_whole_task_is_pushed_as_one(given: Any) -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(TypeError, match=r"takes a Task, .*push\(args\)"):
        await storage.push_task(given)
    with pytest.raises(TypeError, match=r"takes a Task, .*push\(args\)"):
        storage.push_task_nowait(given)


@pytest.mark.parametrize("given", [None, 5], ids=repr)
async def test_a_bulk_is_of_many(given: Any) -> None:
    with pytest.raises(TypeError, match="push_bulk takes"):
        await MemoryStorage[int]().push_bulk(given)


@pytest.mark.parametrize("given", [None, 5, "worker"], ids=repr)
async def test_only_a_worker_is_registered(given: Any) -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(TypeError, match="WorkerContext"):
        await storage.register_worker(given)
    assert await storage.list_workers() == []
