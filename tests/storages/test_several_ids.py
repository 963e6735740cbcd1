"""Tests of calls about several ids: their order, their reports and reasons, waiting, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    ChangeReport,
    Failed,
    MemoryStorage,
    Pipe,
    Status,
    Succeeded,
    TaskId,
    UnknownTaskError,
    Worker,
    WorkerContext,
)

from tests._storages import STORAGES
from tests.storages._engine import Storage, TroubledEngine

Opener = Callable[[], AbstractAsyncContextManager[Any]]


@pytest.fixture(params=[*STORAGES, "pipe"])
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Any, None]:
        if request.param != "pipe":
            async with STORAGES[request.param](tmp_path / "tasks") as storage:
                yield storage
            return
        storage = MemoryStorage[int]()
        send, receive = trio.open_memory_channel[int](0)
        with send, receive:
            piped: Any = Pipe(receive, storage)
            piped.push = storage.push  # a pipe has no push of its own
            yield piped

    return opened


async def finished(storage: Any, outcome: Any, **options: Any) -> TaskId:
    """Push a task, and finish it; return its id."""
    task_id: TaskId = await storage.push(1, **options)
    await storage.settle(await storage.receive(), outcome)
    return task_id


@asynccontextmanager
async def running(storage: Any) -> AsyncGenerator[TaskId, None]:
    """Push a task that a worker named "w" runs inside the block; it ends with it."""
    begun = trio.Event()

    async def run(number: int) -> None:
        begun.set()
        await trio.sleep_forever()

    task_id = await storage.push(1)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, run, concurrency=1).run)
        await begun.wait()
        context.pause()
        try:
            yield task_id
        finally:
            nursery.cancel_scope.cancel()


UNKNOWN, WAITS, RUNS = "no such task is known", "it waits", "it runs, on worker 'w'"
DONE, FAILED = "it is done", "it has failed"
VERBS: dict[str, tuple[Callable[[Any, Any], Any], str, dict[str, str]]] = {
    "cancel": (
        lambda storage, ids: storage.cancel(ids),
        "cancelled",
        {"running": RUNS, "done": DONE, "failed": FAILED},
    ),
    "cancel running": (
        lambda storage, ids: storage.cancel(ids, running=True),
        "cancelled",
        {"done": DONE, "failed": FAILED},
    ),
    "abort": (
        lambda storage, ids: storage.abort(ids),
        "aborted",
        {"waiting": WAITS, "delayed": WAITS, "done": DONE, "failed": FAILED},
    ),
    "discard": (lambda storage, ids: storage.discard(ids), "discarded", {"running": RUNS}),
    "resume_by_id": (
        lambda storage, ids: storage.resume_by_id(ids),
        "resumed",
        {"waiting": WAITS, "delayed": WAITS, "running": RUNS},
    ),
    "reschedule": (
        lambda storage, ids: storage.reschedule(ids, 60),
        "rescheduled",
        {"running": RUNS, "done": DONE, "failed": FAILED},
    ),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_says_which_tasks_it_changed_and_why_not_the_others(open_storage: Opener, verb: str) -> None:
    call, participle, refused = VERBS[verb]
    async with open_storage() as storage:
        ids = {"done": await finished(storage, Succeeded(1)), "failed": await finished(storage, Failed(ValueError()))}
        async with running(storage) as ids["running"]:
            ids["waiting"] = await storage.push(1)
            ids["delayed"] = await storage.push(1, delay=1000)
            report = await call(storage, [*ids.values(), "unknown", *ids.values()])
            expected = {ids[state]: reason for state, reason in refused.items()} | {"unknown": UNKNOWN}
            changed = tuple(task_id for state, task_id in ids.items() if state not in refused)
            assert report.refused == expected
            assert report == ChangeReport(changed, expected, participle)
            assert all(type(task_id) is TaskId for task_id in report.changed)
            assert not report.is_complete
        assert await storage.audit()


async def test_nothing_is_changed_by_no_ids(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for call, participle, _ in VERBS.values():
            assert await call(storage, []) == ChangeReport((), {}, participle)
        assert await storage.fetch_by_id(()) == []
        assert await storage.wait_for(iter(())) == []


async def test_a_unique_key_that_is_taken_is_the_reason(open_storage: Opener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    async with open_storage() as storage:
        dead = [await finished(storage, Failed(ValueError()), unique=f"key {n}") for n in range(5)]
        holder = await storage.push(1, unique="key 0")
        report = await storage.resume_by_id([dead[0], dead[4]])
        assert report.refused == {dead[0]: f"its unique key is taken by {holder}"}
        assert report.changed == (dead[4],)
        for n in range(1, 4):
            await storage.push(1, unique=f"key {n}")
        assert not caplog.records
        assert await storage.retry_all() == 0
        [record] = caplog.records
        assert record.levelno == logging.INFO
        assert record.getMessage() == (
            f"4 tasks of queue {getattr(storage, 'queue', 'default')!r} stay finished, since other tasks have "
            f"their unique keys: {dead[0]}, {dead[1]}, {dead[2]}, …"
        )
        assert await storage.audit()


async def test_one_id_of_two_that_have_the_same_key_is_resumed(open_storage: Opener) -> None:
    async with open_storage() as storage:
        first, second = [await finished(storage, Failed(ValueError()), unique="key") for _ in range(2)]
        report = await storage.resume_by_id({first: None, second: None})
        assert report == ChangeReport((first,), {second: f"its unique key is taken by {first}"}, "resumed")


async def test_tasks_are_fetched_in_the_order_of_the_ids(open_storage: Opener) -> None:
    async with open_storage() as storage:
        ids = [await storage.push(n) for n in range(3)]
        asked = [ids[2], "unknown", ids[0], ids[2]]
        found = await storage.fetch_by_id(each for each in asked)
        assert [task and (task.parts.id, task.args) for task in found] == [(ids[2], 2), None, (ids[0], 0), (ids[2], 2)]


async def test_more_ids_than_fit_one_transaction(open_storage: Opener) -> None:
    async with open_storage() as storage:
        ids = [await storage.push(n) for n in range(1001)]
        assert [task.args for task in await storage.fetch_by_id(ids)] == [*range(1001)]
        report = await storage.cancel([*ids, "unknown"])
        assert report.changed == tuple(ids)
        assert report.refused == {"unknown": UNKNOWN}
        assert {result.status for result in await storage.wait_for(ids)} == {Status.Killed}
        assert (await storage.discard(set(ids))).is_complete
        assert await storage.metrics() == await storage.metrics() | {"killed": 1001, "kept_killed": 0}


async def results_of(storage: Any, ids: list[Any], worker: Worker[Any, Any]) -> list[Any]:
    """Wait for the results of these tasks while the worker runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        results: list[Any] = await storage.wait_for(ids)
        nursery.cancel_scope.cancel()
    return results


async def test_results_come_in_the_order_of_the_ids(open_storage: Opener) -> None:
    async with open_storage() as storage:

        async def handler(number: int) -> int:
            if number == 3:
                raise ValueError("3")
            return number * 10

        ids = [await storage.push(n, attempts=1) for n in range(4)]
        results = await results_of(storage, [ids[3], ids[0], ids[3], ids[2], ids[1]], Worker("w", storage, handler))
        assert [(result.id, result.status) for result in results] == [
            (ids[3], Status.Failed),
            (ids[0], Status.Done),
            (ids[3], Status.Failed),
            (ids[2], Status.Done),
            (ids[1], Status.Done),
        ]
        assert [result.result for result in results] == [None, 0, None, 20, 10]
        assert await storage.wait_for(ids[:3], int) == [results[1], results[4], results[3]]
        with pytest.raises(TypeError, match="int"):
            await storage.wait_for([ids[1], ids[0]], str)


async def test_all_unknown_ids_are_named(open_storage: Opener) -> None:
    async with open_storage() as storage:
        known = await storage.push(1)
        with pytest.raises(UnknownTaskError, match=r"^no tasks 'a', 'b' are known; ") as caught:
            await storage.wait_for(["a", known, "b", "a"])
        assert caught.value.task_ids == ("a", "b")
        assert caught.value.task_id == "a"


async def test_a_task_that_is_discarded_ends_the_wait_for_all(open_storage: Opener) -> None:
    async with open_storage() as storage:
        ids = [await storage.push(n) for n in range(3)]
        ended: list[UnknownTaskError] = []

        async def wait() -> None:
            with pytest.raises(UnknownTaskError) as caught:
                await storage.wait_for(ids)
            ended.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await storage.discard(ids[1])
        assert [error.task_ids for error in ended] == [(ids[1],)]


async def test_a_cancelled_wait_leaves_nothing_behind(open_storage: Opener) -> None:
    async with open_storage() as storage:
        ids = [await storage.push(n) for n in range(3)]
        held: Any = getattr(storage, "_storage", storage)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(storage.wait_for, ids)
            nursery.start_soon(storage.wait_for, ids[0])
            await trio.testing.wait_all_tasks_blocked()
            waits = held._queue.completion if isinstance(held, MemoryStorage) else held._queue.awaited
            assert {task_id: len(calls) for task_id, calls in waits.by_id.items()} == {ids[0]: 3, ids[1]: 2, ids[2]: 2}
            nursery.cancel_scope.cancel()
        assert not waits.by_id


async def test_each_task_that_is_waited_for_is_looked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """A thousand tasks finish one by one, and each is read when it may have finished, in batches."""
    number = 1000
    async with Storage[int](keep_results=0) as storage:
        looked: list[int] = []
        find_each = storage.engine.find_each

        async def count(queue: str, ids: Any) -> Any:
            looked.append(len(ids))
            return await find_each(queue, ids)

        storage.engine.find_each = count  # type: ignore[method-assign]  # to see what is read

        async def handler(n: int) -> int:
            await trio.sleep(0.01)
            return n

        ids = await storage.push_bulk(range(number))
        results = await results_of(storage, ids, Worker("w", storage, handler, concurrency=10))
        assert [result.result for result in results] == [*range(number)]
        assert sum(looked) <= 2 * number + 10
        assert 0 not in looked
        assert not storage._queue.awaited
        assert not storage._queue.endings


async def test_another_process_ends_a_wait(autojump_clock: trio.testing.MockClock) -> None:
    engine = TroubledEngine()
    async with Storage[int](engine) as storage, Storage[int](TroubledEngine(engine.store)) as other:
        ids = await storage.push_bulk(range(5))
        results = await results_of(storage, ids, Worker("w", other, nothing))
        assert {result.status for result in results} == {Status.Done}


async def nothing(number: int) -> None:
    await trio.sleep(1)


async def test_a_task_that_expires_ends_a_wait(open_storage: Opener, autojump_clock: trio.testing.MockClock) -> None:
    async with open_storage() as storage:
        ids = [await storage.push(1, expires_in=seconds) for seconds in (20, 10, 30)]
        await storage.reschedule(ids, 1000)
        began = trio.current_time()
        results = await storage.wait_for(ids)
        assert {result.status for result in results} == {Status.Killed}
        assert 30 <= trio.current_time() - began < 31


@pytest.mark.parametrize("wrong", [b"id", 5, None, [b"id"], ["a", 5], ["a", ["b"]], [""], ""], ids=repr)
async def test_what_is_no_id_is_refused_with_its_position(open_storage: Opener, wrong: Any) -> None:
    async with open_storage() as storage:
        task_id = await storage.push(1)
        given = [task_id, *wrong] if isinstance(wrong, list) else wrong
        where = rf"^ids\[{len(given) - 1}\] must" if isinstance(wrong, list) else "^a task's id must"
        calls = [storage.fetch_by_id, storage.wait_for, storage.cancel, storage.abort, storage.discard]
        calls += [storage.resume_by_id, lambda ids: storage.reschedule(ids, 1)]
        for call in calls:
            with pytest.raises(ValueError if wrong in ("", [""]) else TypeError, match=where):
                await call(given)
        assert (await storage.fetch_by_id(task_id)).parts.status is Status.Pending


async def test_a_string_is_always_one_id(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for each in "abc":
            await storage.push(1, id=each)
        assert await storage.cancel("abc") is False
        assert await storage.cancel("a") is True


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_what_cannot_be_stored_is_refused_with_its_position(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        with pytest.raises(ValueError, match=r"^ids\[1\] must be encodable as UTF-8"):
            await storage.cancel(["a", "\ud800"])


def test_a_report_is_a_plain_sentence() -> None:
    ids = [TaskId(f"0{n}") for n in range(6)]
    assert str(ChangeReport(tuple(ids[:3]), {}, "cancelled")) == "3 of 3 cancelled"
    assert bool(ChangeReport((), {}))
    one = ChangeReport((ids[0], ids[1]), {"02": RUNS}, "cancelled")
    assert str(one) == "2 of 3 cancelled; not 02: it runs, on worker 'w'"
    assert not one
    many = ChangeReport((), dict.fromkeys(ids, WAITS), "resumed")
    assert str(many) == "0 of 6 resumed; not 00: it waits; not 01: it waits; not 02: it waits; and 3 more not"


async def test_a_handler_that_waits_for_several_lends_its_slot(
    open_storage: Opener, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_storage() as storage:

        async def handler(number: int) -> int:
            if number:
                return number
            results = await storage.wait_for([await storage.push(n) for n in (1, 2, 3)])
            return sum(result.result for result in results)

        task_id = await storage.push(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Worker("w", storage, handler, concurrency=1).run)
            assert (await storage.wait_for(task_id)).result == 6
            nursery.cancel_scope.cancel()


class Over:
    """The slot of an attempt that is over, and only being settled."""

    worker = "w"

    def revoke(self, outcome: Any) -> bool:
        return False


async def test_an_attempt_that_is_over_cannot_be_aborted() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    task = await storage.receive()
    task.parts.holder = Over()  # type: ignore[assignment]  # it has what is asked of a holder here
    over = "its attempt is over, and being settled"
    assert (await storage.abort([task_id])).refused == {task_id: over}
    assert (await storage.cancel([task_id], running=True)).refused == {task_id: over}
    assert (await storage.cancel([task_id])).refused == {task_id: RUNS}
