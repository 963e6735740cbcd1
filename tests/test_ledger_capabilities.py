"""Tests of the capabilities of backends in memory: find, update, cancel, wait for and list tasks."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked
from trio_tasks import (
    AbortError,
    DuplicateTaskError,
    Failed,
    Killed,
    LeaseLostError,
    MemoryStorage,
    Parts,
    Released,
    Retried,
    Status,
    StoredTaskInfo,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    TaskResult,
    UnknownTaskError,
    Worker,
)
from trio_tasks._clock import wall_now

ERROR = ValueError("no")


async def finished(storage: MemoryStorage[Any], outcome: Any) -> str:
    """Push one more and settle it so."""
    task_id = await storage.push(1)
    task = await storage.receive()
    await storage.settle(task, outcome)
    return task_id


# wait_for


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Succeeded(5), Status.Done), (Failed(ERROR), Status.Failed), (Killed(ERROR), Status.Killed)],
    ids=["succeeded", "failed", "killed"],
)
async def test_wait_for_gives_the_result_before_and_after(outcome: Any, status: Status, nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](keep_results=1)
    task_id = await storage.push(1)
    results: list[TaskResult[Any]] = []

    async def wait() -> None:
        results.append(await storage.wait_for(task_id))

    for _ in range(2):
        nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    task = await storage.receive()
    await storage.settle(task, outcome)
    await wait_all_tasks_blocked()
    await wait()
    expected: TaskResult[Any] = TaskResult(
        task.parts.id, status, getattr(outcome, "result", None), getattr(outcome, "error", None)
    )
    assert results == [expected] * 3


async def test_wait_for_waits_through_retries_and_releases(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)

    async def work() -> None:
        for outcome in (Retried(ERROR, 5), Released(), Succeeded("at last")):
            await storage.settle(await storage.receive(), outcome)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        assert (await storage.wait_for(task_id)).unwrap() == "at last"


async def test_wait_for_answers_waiters_though_no_result_is_kept(nursery: trio.Nursery) -> None:
    storage = MemoryStorage[int](keep_results=0)
    task_id = await storage.push(1)
    results: list[TaskResult[Any]] = []

    async def wait() -> None:
        results.append(await storage.wait_for(task_id))

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    await storage.settle(await storage.receive(), Succeeded(5))
    await wait_all_tasks_blocked()
    assert [each.result for each in results] == [5]
    with pytest.raises(UnknownTaskError, match="remembered only for a while"):
        await storage.wait_for(task_id)


async def test_a_cancelled_wait_leaves_the_task_and_others_alone() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(storage.wait_for, task_id)
        await wait_all_tasks_blocked()
        waiting.cancel_scope.cancel()
    assert storage.statistics().waiting == 1
    await storage.settle(await storage.receive(), Succeeded(5))
    assert (await storage.wait_for(task_id)).result == 5


async def test_wait_for_an_unknown_task() -> None:
    with pytest.raises(UnknownTaskError, match="no task 'nobody' is known"):
        await MemoryStorage[int]().wait_for("nobody")


async def test_wait_for_one_that_expires_or_is_replaced(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    expires = await storage.push(1, expires_in=1)
    await trio.sleep(2)
    with pytest.raises(trio.WouldBlock):
        storage.receive_nowait()
    assert (await storage.wait_for(expires)).status is Status.Killed
    first = await storage.push(1, unique="key")
    second = await storage.push(2, unique="key", on_conflict="replace")
    result = await storage.wait_for(first)
    assert f"replaced by task {second}" in str(result.error)


@pytest.mark.parametrize("delay", [0.0, 50.0])
async def test_a_waiter_for_a_task_learns_of_its_expiry_at_once(autojump_clock: MockClock, delay: float) -> None:
    """Nobody receives, and nobody looks but the one who waits."""
    storage = MemoryStorage[int]()
    begun = trio.current_time()
    task_id = await storage.push(1, expires_in=7)
    await storage.reschedule(task_id, delay)
    result = await storage.wait_for(task_id)
    assert (result.status, type(result.error)) == (Status.Killed, TaskExpiredError)
    assert trio.current_time() == begun + 7


async def test_a_waiter_for_a_task_that_was_started_in_time_waits_for_its_end(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1, expires_in=7)
    ended: list[Any] = []

    async def wait() -> None:
        ended.append(await storage.wait_for(task_id))

    nursery.start_soon(wait)
    await trio.sleep(5)
    task = await storage.receive()
    await trio.sleep(50)
    assert not ended
    await storage.settle(task, Succeeded(3))
    await wait_all_tasks_blocked()
    assert [each.result for each in ended] == [3]


async def test_every_look_sees_what_has_expired(autojump_clock: MockClock) -> None:
    async def make() -> MemoryStorage[int]:
        storage = MemoryStorage[int]()
        await storage.push(1, id="a", expires_in=7, metadata={"n": 1})
        await trio.sleep(7)
        return storage

    killed = await (await make()).fetch_by_id("a")
    assert killed is not None
    assert killed.parts.status is Status.Killed
    assert await (await make()).list_tasks(Status.Pending) == []
    assert [each.parts.id for each in await (await make()).list_tasks(Status.Killed)] == ["a"]
    counts = await (await make()).metrics()
    assert (counts["waiting"], counts["killed"]) == (0, 1)
    assert not await (await make()).cancel("a")
    assert not await (await make()).reschedule("a", 5)
    assert not await (await make()).update(Task(2, Parts("a")))
    assert await (await make()).resume_by_id("a")
    assert await (await make()).vacuum() == 1


# fetch, list, metrics


async def test_a_task_is_found_wherever_it_is(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    ids = [await storage.push(n) for n in range(3)]
    held = await storage.receive()
    done = await storage.receive()
    await storage.settle(done, Succeeded(5))
    statuses = [each.parts.status for each in [await storage.fetch_by_id(task_id) for task_id in ids] if each]
    assert statuses == [Status.Running, Status.Done, Status.Pending]
    assert held.parts.id == ids[0]
    assert await storage.fetch_by_id("nobody") is None


async def test_lists_can_be_narrowed_and_limited() -> None:
    storage = MemoryStorage[int]()
    await finished(storage, Succeeded(1))
    await finished(storage, Failed(ERROR))
    await finished(storage, Killed(ERROR))
    await storage.push(2)
    held = await storage.receive()
    for n in (3, 4, 5):
        await storage.push(n)
    assert len(await storage.list_tasks()) == 7
    assert [each.args for each in await storage.list_tasks(Status.Pending)] == [3, 4, 5]
    assert [each.args for each in await storage.list_tasks(Status.Pending, limit=2)] == [3, 4]
    assert [each.parts.id for each in await storage.list_tasks(Status.Running)] == [held.parts.id]
    for status in (Status.Done, Status.Failed, Status.Killed):
        assert len(await storage.list_tasks(status)) == 1
    assert await storage.list_tasks(Status.Queued) == []


async def test_metrics_count() -> None:
    storage = MemoryStorage[int]()
    for outcome in (Succeeded(1), Failed(ERROR), Killed(ERROR)):
        await finished(storage, outcome)
    await storage.push(1)
    await storage.settle(await storage.receive(), Retried(ERROR))
    await storage.settle(await storage.receive(), Released())
    await storage.settle(await storage.receive(), Suspended(math.inf))
    await storage.push(2)
    await storage.receive()
    assert await storage.metrics() == {
        "pushed": 5,
        "succeeded": 1,
        "retried": 1,
        "failed": 1,
        "killed": 1,
        "released": 1,
        "suspended": 1,
        "resumed": 0,
        "waiting": 0,
        "delayed": 1,
        "running": 1,
        "suspended_now": 1,
        "held_now": 0,
        "orphans": 0,
        "kept_done": 1,
        "kept_failed": 1,
        "kept_killed": 1,
        "oldest_waiting": 0.0,
        "is_paused": False,
    }
    assert str(await storage.audit()) == (
        "queue 'default' is balanced: 5 pushed + 0 resumed = 3 finished + 0 waiting + 1 delayed + 1 running"
    )


# cancel, abort, reschedule, update, resume, vacuum


async def test_cancel_takes_back_tasks_that_are_ready_or_delayed() -> None:
    storage = MemoryStorage[int]()
    ids = [await storage.push(1), await storage.push(2, delay=10), await storage.push(3)]
    held = await storage.receive()
    assert not await storage.cancel(held.parts.id)
    assert await storage.cancel(ids[1])
    assert await storage.cancel(ids[2])
    assert not await storage.cancel(ids[2])
    assert not await storage.cancel("nobody")
    result = await storage.wait_for(ids[1])
    assert result.status is Status.Killed
    assert isinstance(result.error, AbortError)
    with pytest.raises(trio.WouldBlock):
        storage.receive_nowait()


async def test_abort_reaches_only_what_runs(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    assert not await storage.abort(task_id)
    task = await storage.receive()
    assert await storage.abort(task_id)  # running, though not in a worker
    assert not await storage.abort("nobody")
    await storage.settle(task, Released())
    assert (await storage.wait_for(task_id)).status is Status.Killed


async def test_a_sync_handler_is_aborted_when_it_asks() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def handler(n: int) -> None:
        token.run_sync_soon(begun.set)
        while True:
            trio.from_thread.check_cancelled()

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler).run)
        await begun.wait()
        assert await storage.abort(task_id)
        assert (await storage.wait_for(task_id)).status is Status.Killed
        storage.close()


async def test_reschedule_moves_waiting_tasks_either_way(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    ready, delayed = await storage.push(1), await storage.push(2, delay=100)
    assert await storage.reschedule(ready, 50)
    assert await storage.reschedule(delayed, 10)
    began = trio.current_time()
    assert (await storage.receive()).args == 2
    assert trio.current_time() - began == 10
    assert not await storage.reschedule(delayed, 10)  # running
    assert not await storage.reschedule("nobody", 10)
    assert (await storage.receive()).args == 1
    assert trio.current_time() - began == 50


async def test_update_changes_what_waits_and_nothing_else() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1, priority=3)
    assert await storage.update(Task.builder(2).id(task_id).metadata(a=1).build())
    task = await storage.receive()
    assert (task.args, dict(task.parts.metadata), task.parts.priority) == (2, {"a": 1}, 3)
    assert not await storage.update(Task.builder(3).id(task_id).build())
    assert task.args == 2


@pytest.mark.parametrize("outcome", [Failed(ERROR), Killed(ERROR)], ids=["failed", "killed"])
async def test_a_dead_letter_can_be_resumed_with_all_of_its_attempts(outcome: Any) -> None:
    storage = MemoryStorage[int]()
    task_id = await finished(storage, outcome)
    assert await storage.resume_by_id(task_id)
    assert not await storage.resume_by_id(task_id)
    task = await storage.receive()
    assert (task.parts.id, task.parts.attempt) == (task_id, 1)
    await storage.settle(task, Succeeded(5))
    assert (await storage.wait_for(task_id)).result == 5
    assert not await storage.resume_by_id("nobody")


async def test_a_task_that_is_done_runs_again_and_its_result_is_forgotten() -> None:
    storage = MemoryStorage[int]()
    task_id = await finished(storage, Succeeded(5))
    assert await storage.resume_by_id(task_id)
    with trio.move_on_after(0):
        await storage.wait_for(task_id)
        raise AssertionError("it has a result")
    task = await storage.receive()
    assert (task.parts.id, task.parts.attempt) == (task_id, 1)
    await storage.settle(task, Succeeded(6))
    assert (await storage.wait_for(task_id)).result == 6
    assert (await storage.metrics())["resumed"] == 1


async def test_a_resumed_task_has_its_unique_key_again() -> None:
    storage = MemoryStorage[int]()
    first = await storage.push(1, unique="key")
    await storage.cancel(first)
    assert await storage.resume_by_id(first)
    assert await storage.push(2, unique="key") == first
    await storage.cancel(first)
    second = await storage.push(3, unique="key")
    with pytest.raises(DuplicateTaskError):
        await storage.resume_by_id(first)
    assert (await storage.receive()).parts.id == second
    assert (await storage.wait_for(first)).status is Status.Killed


async def test_a_task_that_was_replaced_while_running_may_still_end_in_any_way() -> None:
    for outcome in (Succeeded(1), Retried(ERROR), Failed(ERROR), Released(), Suspended(5.0)):
        for successor_ends_first in (False, True):
            storage = MemoryStorage[int]()
            await storage.push(1, unique="key")
            running = await storage.receive()
            await storage.push(2, unique="key", on_conflict="replace")
            if successor_ends_first:
                await storage.settle(await storage.receive(), Succeeded(2))
            await storage.settle(running, outcome)
            counts = storage.statistics()
            assert counts.running == 0
            assert counts.pushed == counts.succeeded + counts.failed + counts.killed + counts.waiting


async def test_vacuum_forgets_what_has_ended() -> None:
    storage = MemoryStorage[int]()
    ended = [await finished(storage, each) for each in (Succeeded(1), Failed(ERROR), Killed(ERROR))]
    waits = await storage.push(1)
    assert await storage.vacuum() == 3
    assert await storage.vacuum() == 0
    for task_id in ended:
        with pytest.raises(UnknownTaskError):
            await storage.wait_for(task_id)
    assert await storage.fetch_by_id(waits) is not None


async def test_one_finished_task_is_forgotten() -> None:
    storage = MemoryStorage[int]()
    done, failed = await finished(storage, Succeeded(1)), await finished(storage, Failed(ERROR))
    waits = await storage.push(1)
    discarded = [await storage.discard(each) for each in (done, failed, waits, done, waits, "nobody")]
    assert discarded == [True] * 3 + [False] * 3
    assert await storage.fetch_by_id(failed) is None
    with pytest.raises(UnknownTaskError):
        await storage.wait_for(failed)
    assert await storage.vacuum() == 0


# What is known of a task


def past(task: Task[Any] | None) -> list[tuple[int, str, str | None, str]]:
    assert task is not None
    return [(each.attempt, each.became, each.worker, each.error) for each in task.parts.context.history]


async def test_what_is_looked_up_is_a_copy_as_it_was() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1, metadata={"tenant": "acme"}, delay=60)
    before = await storage.fetch_by_id(task_id)
    assert before is not None
    assert (before.parts.metadata["tenant"], before.parts.run_at is not None) == ("acme", True)
    await storage.reschedule(task_id, 0)
    await storage.settle(await storage.receive(), Failed(ERROR))
    assert (before.parts.status, before.parts.attempt, past(before)) == (Status.Pending, 0, [])
    with pytest.raises(LeaseLostError):
        await storage.settle(before, Succeeded(1))


async def test_attempts_of_workers_are_in_the_history(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1, attempts=3)
    seen: list[Any] = []

    async def handle(task: Task[int]) -> None:
        seen.append(past(task))
        looked_up = await storage.fetch_by_id(task_id)
        assert looked_up is not None
        assert looked_up.parts.context.worker == "w"
        await storage.report_progress(task, {"attempt": int(task.parts.attempt)})
        raise ValueError(f"number {task.parts.attempt}\nand more")

    storage.close()
    begun, clock = wall_now().timestamp(), trio.current_time()
    await Worker("w", storage, handle).run()
    entries = [(number, "retried", "w", f"ValueError: number {number}") for number in (1, 2)]
    assert seen == [entries[:number] for number in range(3)]
    dead = await storage.fetch_by_id(task_id)
    assert dead is not None
    assert past(dead) == [*entries, (3, "failed", "w", "ValueError: number 3")]
    info = dead.parts.context
    assert isinstance(info, StoredTaskInfo)
    assert (str(info.error), info.progress, info.result) == ("number 3\nand more", {"attempt": 3}, None)
    assert info.worker == "w"
    ended = begun + trio.current_time() - clock  # by the wall clock, and the virtual one in between
    assert begun - 1 <= info.history[0].ended_at <= info.history[-1].ended_at <= ended + 60


async def test_the_past_is_forgotten_with_its_task() -> None:
    storage = MemoryStorage[int](keep_results=2)
    infos: dict[str, Any] = storage._queue.ledger._infos
    for outcome in (Failed(ERROR), Killed(ERROR)):
        await storage.discard(await finished(storage, outcome))
    await finished(storage, Failed(ERROR))
    for _ in range(5):
        await storage.push(1)
        await storage.settle(await storage.receive(), Retried(ERROR))
        await storage.settle(await storage.receive(), Succeeded(1))
    assert len(infos) == 3
    await storage.vacuum()
    assert not infos


async def test_the_first_attempt_and_the_latest_ones_are_kept() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    for _ in range(60):
        await storage.settle(await storage.receive(), Retried(ERROR))
    assert [each[0] for each in past(await storage.fetch_by_id(task_id))] == [1, *range(12, 61)]


async def test_an_error_that_cannot_be_shown_is_in_the_history() -> None:
    class WithoutText(Exception):
        def __str__(self) -> str:
            raise SystemExit("no")

    storage = MemoryStorage[int]()
    task_id = await finished(storage, Failed(WithoutText()))
    assert past(await storage.fetch_by_id(task_id))[0][3] == "WithoutText: its text could not be had: SystemExit"


async def test_a_task_that_was_killed_while_it_waited_has_an_error_and_no_attempt() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    await storage.cancel(task_id)
    dead = await storage.fetch_by_id(task_id)
    assert dead is not None
    assert (past(dead), type(dead.parts.context.error)) == ([], AbortError)


# Grammar


VERBS: list[tuple[str, Callable[[MemoryStorage[int], str], Awaitable[object]]]] = [
    ("wait_for", lambda storage, task_id: storage.wait_for(task_id)),
    ("fetch_by_id", lambda storage, task_id: storage.fetch_by_id(task_id)),
    ("update", lambda storage, task_id: storage.update(Task.builder(9).id(task_id).build())),
    ("reschedule", lambda storage, task_id: storage.reschedule(task_id, 10)),
    ("cancel", lambda storage, task_id: storage.cancel(task_id)),
    ("abort", lambda storage, task_id: storage.abort(task_id)),
    ("resume_by_id", lambda storage, task_id: storage.resume_by_id(task_id)),
    ("discard", lambda storage, task_id: storage.discard(task_id)),
    ("progress_of", lambda storage, task_id: storage.progress_of(task_id)),
    ("vacuum", lambda storage, task_id: storage.vacuum()),
    ("list_tasks", lambda storage, task_id: storage.list_tasks()),
    ("metrics", lambda storage, task_id: storage.metrics()),
]
each_verb = pytest.mark.parametrize("verb", [each for _, each in VERBS], ids=[name for name, _ in VERBS])


@each_verb
async def test_every_verb_is_a_checkpoint(verb: Callable[[MemoryStorage[int], str], Awaitable[object]]) -> None:
    storage = MemoryStorage[int]()
    task_id = await finished(storage, Succeeded(1))
    with assert_checkpoints():
        await verb(storage, task_id)


@each_verb
async def test_a_verb_that_is_cancelled_has_changed_nothing(
    verb: Callable[[MemoryStorage[int], str], Awaitable[object]],
) -> None:
    storage = MemoryStorage[int]()
    waits, dead = await storage.push(1), await finished(storage, Failed(ERROR))
    before = storage.statistics()
    for task_id in (waits, dead):
        with trio.CancelScope() as scope:
            scope.cancel()
            await verb(storage, task_id)
        assert scope.cancelled_caught
        assert storage.statistics() == before
    task = await storage.receive()
    assert task.args == 1


@pytest.mark.parametrize("task_id", [5, Task(1)], ids=["int", "task"])
@pytest.mark.parametrize(
    "name", ["wait_for", "fetch_by_id", "cancel", "abort", "resume_by_id", "reschedule", "discard", "progress_of"]
)
async def test_what_is_no_id_is_refused(name: str, task_id: Any) -> None:
    storage = MemoryStorage[int]()
    options = {"delay": 1} if name == "reschedule" else {}
    with pytest.raises(TypeError, match="id"):
        await getattr(storage, name)(task_id, **options)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, "soon", None, True], ids=repr)
async def test_a_wrong_delay_is_refused(delay: Any) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    with pytest.raises((TypeError, ValueError), match="delay must be"):
        await storage.reschedule(task_id, delay)
    assert (await storage.receive()).args == 1


@pytest.mark.parametrize("given", [5, None, "task"], ids=repr)
async def test_only_a_task_updates_a_task(given: Any) -> None:
    with pytest.raises(TypeError, match="Task"):
        await MemoryStorage[int]().update(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"status": "Pending"}, "status must be"), ({"limit": 0}, "limit must be 1"), ({"limit": 1.5}, "limit must be")],
    ids=str,
)
async def test_a_wrong_list_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        await MemoryStorage[int]().list_tasks(**options)
