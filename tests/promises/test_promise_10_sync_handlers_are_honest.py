"""Tests of promise 10: a sync handler runs in a thread, holds its slot until the thread ends, and can be cancelled
cooperatively.

Real threads in real time: each waits for an event that the test sets.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sized
from contextlib import contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_tasks import (
    Attempt,
    Failed,
    MemoryStorage,
    Monitor,
    RetryPolicy,
    Status,
    TaskOptions,
    Worker,
    WorkerContext,
)
from trio_tasks.layers import Timeout

from tests.promises._run_worker import EventRecord, run_handler

LONGEST_WAIT = 60.0  # seconds after which a thread has been waiting for nothing


class Threads:
    """A sync handler whose threads wait until they are released, and a count of those that run."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[int] = []
        self.ended: list[int] = []

    def __call__(self, args: int) -> int:
        self.begun.append(args)
        assert self.go_on.wait(LONGEST_WAIT)
        self.ended.append(args)
        return args

    def cooperate(self, args: int) -> int:
        """Run as the handler does, but check for cancellation."""
        self.begun.append(args)
        try:
            while not self.go_on.wait(0.001):
                trio.from_thread.check_cancelled()
        finally:
            self.ended.append(args)
        return args

    @contextmanager
    def at_large(self) -> Iterator[None]:
        """Release the threads at the end of the block."""
        try:
            yield
        finally:
            self.go_on.set()


async def until(what: Sized, length: int = 1) -> None:
    """Wait until the list has this many items."""
    with trio.fail_after(LONGEST_WAIT):
        while len(what) < length:  # noqa: ASYNC110  a thread fills it
            await trio.sleep(0.001)


async def test_promise_10_sync_handlers_are_honest_in_a_thread_beside_trio() -> None:
    here, threads = threading.get_ident(), []

    def handler(args: int, attempt: Attempt) -> int:
        threads.append(threading.get_ident())
        return args + attempt

    record = await run_handler(handler, 1, 2, concurrency=2)
    assert record.kinds == ["Succeeded"] * 2
    assert here not in threads


async def test_promise_10_sync_handlers_are_honest_as_many_threads_as_slots() -> None:
    threads, storage = Threads(), MemoryStorage[int]()
    await storage.push_bulk(range(10))
    storage.close()
    with threads.at_large():
        async with trio.open_nursery() as nursery:
            context: WorkerContext = await nursery.start(Worker("threads", storage, threads, concurrency=3).run)
            await until(threads.begun, 3)
            await wait_all_tasks_blocked(0.02)
            assert (len(threads.begun), storage.statistics().waiting, context.task_count) == (3, 7, 3)
            threads.go_on.set()
    assert sorted(threads.ended) == [*range(10)]


@pytest.mark.parametrize("by", ["the task", "a layer"])
async def test_promise_10_sync_handlers_are_honest_a_timeout_does_not_free_the_slot(by: str) -> None:
    """The thread goes on, so the slot is taken, and nothing is reported before the thread has ended. A result that it
    returns then is its result.
    """
    threads, storage, record = Threads(), MemoryStorage[int](), EventRecord()
    options: TaskOptions = {"timeout": 0.01} if by == "the task" else {}
    await storage.push_bulk([1, 2], **options)
    storage.close()
    layers = [Timeout(0.01)] if by == "a layer" else []
    with threads.at_large():
        async with trio.open_nursery() as nursery:
            worker = Worker("threads", storage, threads, concurrency=1, layers=layers, on_event=record)
            nursery.start_soon(worker.run)
            await until(threads.begun)
            await trio.sleep(0.05)
            assert (threads.begun, record.outcomes, storage.statistics().waiting) == ([1], [], 1)
            threads.go_on.set()
    assert threads.ended == [1, 2]
    assert record.kinds == ["Succeeded"] * 2


@pytest.mark.parametrize("by", ["the task", "a layer"])
async def test_promise_10_sync_handlers_are_honest_a_timeout_reaches_a_handler_that_asks(by: str) -> None:
    threads, storage, record = Threads(), MemoryStorage[int](), EventRecord()
    options: TaskOptions = {"timeout": 0.01} if by == "the task" else {}
    await storage.push(1, **options)
    storage.close()
    layers = [Timeout(0.01)] if by == "a layer" else []
    with threads.at_large(), trio.fail_after(LONGEST_WAIT):
        await Worker("threads", storage, threads.cooperate, layers=layers, retry=RetryPolicy(1), on_event=record).run()
    (outcome,) = record.outcomes
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, trio.TooSlowError)
    assert threads.ended == [1]


async def test_promise_10_sync_handlers_are_honest_a_cancellation_waits_for_the_thread() -> None:
    """The thread is not abandoned: the worker ends after the thread has ended."""
    threads, storage, over = Threads(), MemoryStorage[int](), trio.Event()
    await storage.push(1)

    async def run() -> None:
        try:
            await Worker("threads", storage, threads).run()
        finally:
            over.set()

    with threads.at_large():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(threads.begun)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
                assert (over.is_set(), threads.ended, storage.statistics().running) == (False, [], 1)
                threads.go_on.set()
                await over.wait()
                assert threads.ended == [1]
    assert storage.statistics().running == 0


async def test_promise_10_sync_handlers_are_honest_a_cancellation_reaches_a_handler_that_asks() -> None:
    threads, storage, record = Threads(), MemoryStorage[int](), EventRecord()
    task_id = await storage.push(1)
    with threads.at_large(), trio.fail_after(LONGEST_WAIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Worker("threads", storage, threads.cooperate, on_event=record).run)
            await until(threads.begun)
            nursery.cancel_scope.cancel()
    assert not threads.go_on.is_set() or threads.ended == [1]
    assert record.kinds == ["Released"]
    task = await storage.fetch_by_id(task_id)
    assert task is not None
    assert (task.parts.status, task.parts.attempt) == (Status.Pending, 0)


async def test_promise_10_sync_handlers_are_honest_an_abort_reaches_a_handler_that_asks() -> None:
    threads, storage, record = Threads(), MemoryStorage[int](), EventRecord()
    task_id = await storage.push(1)
    storage.close()
    with threads.at_large(), trio.fail_after(LONGEST_WAIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Worker("threads", storage, threads.cooperate, on_event=record).run)
            await until(threads.begun)
            assert await storage.abort(task_id)
    assert record.kinds == ["Killed"]
    assert threads.ended == [1]


async def test_promise_10_sync_handlers_are_honest_a_shutdown_names_a_handler_that_does_not_ask(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can stop a thread that never checks for cancellation. The log names it."""
    monkeypatch.setattr("trio_tasks._worker.stuck_attempts.RECORD_INTERVAL", 1)
    threads, storage = Threads(), MemoryStorage[int]()
    task_id = await storage.push(1)
    monitor = Monitor(shutdown_timeout=0.01).register(Worker("threads", storage, threads))
    with threads.at_large(), caplog.at_level(logging.WARNING, "trio_tasks"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.run)
            await until(threads.begun)
            monitor.shutdown()
            await until(caplog.records)
            threads.go_on.set()
    assert any(task_id in message for message in caplog.messages)


async def test_promise_10_sync_handlers_are_honest_a_context_may_be_used_from_the_thread() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2, 3])

    def handler(args: int, context: WorkerContext) -> str:
        context.stop()
        return threading.current_thread().name

    with trio.fail_after(LONGEST_WAIT):
        report = await Worker("threads", storage, handler, concurrency=1).run()
    assert (report.succeeded, storage.statistics().waiting) == (1, 2)


async def test_promise_10_sync_handlers_are_honest_two_runs_have_each_their_threads() -> None:
    """A worker may be run more than once at a time. Each run has as many threads as slots."""
    threads, storage = Threads(), MemoryStorage[int]()
    await storage.push_bulk(range(4))
    storage.close()
    worker = Worker("threads", storage, threads, concurrency=2)
    with threads.at_large():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            nursery.start_soon(worker.run)
            await until(threads.begun, 4)
            threads.go_on.set()
    assert sorted(threads.ended) == [0, 1, 2, 3]
