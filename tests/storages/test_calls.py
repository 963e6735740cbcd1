"""Tests of calls in one process: their results, and what a cancellation ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    AbortError,
    FileStorage,
    MemoryStorage,
    RetryPolicy,
    SqliteStorage,
    Status,
    SuspendError,
    Task,
    UnknownTaskError,
    Worker,
)
from trio_tasks._contracts.calls import SETTLE_TIMEOUT, USUAL_LEASE
from trio_tasks.testing import Cut, explore_cancellations

LEASE = 20.0
ONE_ATTEMPT = RetryPolicy(attempts=1)


@asynccontextmanager
async def memory() -> AsyncGenerator[Any, None]:
    yield MemoryStorage[int]()


@asynccontextmanager
async def stored(kind: Any, **options: Any) -> AsyncGenerator[Any, None]:
    with TemporaryDirectory() as directory:
        async with kind(Path(directory, "tasks"), int, lease=LEASE, **options) as storage:
            yield storage


STORAGES: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {
    "memory": memory,
    "sqlite": lambda: stored(SqliteStorage, synchronous="OFF"),
    "file": lambda: stored(FileStorage, synchronous="NORMAL"),
}
each_storage = pytest.mark.parametrize("kind", STORAGES)


class Handler:
    """A handler that takes some steps, and cleans up when it is cancelled."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = 0

    async def __call__(self, task: Task[int]) -> int:
        self.running += 1
        self.begun += 1
        try:
            await trio.sleep(task.args)
            return task.args
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            self.running -= 1


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest) -> None:
    """Let time stand still while a thread of a storage works."""
    if "autojump_clock" in request.fixturenames:
        request.getfixturevalue("autojump_clock").autojump_threshold = 0.02


async def nothing_is_left(storage: Any) -> None:
    assert [str(task.parts.status) for task in await storage.list_tasks() if not task.parts.status.is_final] == []
    metrics = await storage.metrics()
    assert (metrics["kept_failed"], metrics["kept_killed"]) == (0, 0)
    balance = await storage.audit()
    assert balance, str(balance)


@each_storage
async def test_a_call_returns_the_result_or_raises_the_error(kind: str, autojump_clock: MockClock) -> None:
    async def handler(task: Task[int]) -> str:
        if task.args == 0:
            raise ValueError("none")
        if task.parts.attempt == 1 and task.args == 2:
            raise SuspendError(10)
        if task.parts.attempt < task.args:
            raise LookupError("again")
        return "x" * task.args

    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, retry=RetryPolicy(attempts=3)).run)
        assert await storage.call(1) == "x"
        assert await storage.call(3, str) == "xxx"
        with pytest.raises(ValueError, match="none"):
            await storage.call(0, attempts=1)
        with pytest.raises(TypeError, match="is of type str, not int"):
            await storage.call(1, int)
        with pytest.raises(TypeError, match="has no option 'wrong'"):
            await storage.call(1, wrong=1)
        nursery.cancel_scope.cancel()


@pytest.mark.searching
@each_storage
@pytest.mark.parametrize("is_busy", [False, True], ids=["free", "busy"])
def test_a_call_that_is_cancelled_at_any_moment_leaves_nothing(kind: str, is_busy: bool) -> None:
    async def scenario(cut: Cut) -> None:
        handler = Handler()
        async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
            worker = Worker("w", storage, handler, concurrency=1, log=None)
            await nursery.start(worker.run)
            others = [await storage.push(3)] if is_busy else []
            await trio.sleep(1)
            with trio.fail_after(LEASE + SETTLE_TIMEOUT):
                with cut:
                    assert await storage.call(5, id="called") == 5
            assert handler.running <= is_busy
            found = await storage.fetch_by_id("called")
            assert found is None or found.parts.status.is_final
            assert [each.result for each in await storage.wait_for(others)] == [3] * is_busy
            await nothing_is_left(storage)
            nursery.cancel_scope.cancel()

    assert explore_cancellations(scenario).cuts > 5


@each_storage
async def test_a_cancelled_call_is_told_at_info_and_is_no_dead_letter(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Handler()
    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler).run)
        with caplog.at_level(logging.INFO, "trio_tasks"), trio.move_on_after(1):
            await storage.call(100)
        assert (handler.begun, handler.running) == (1, 0)
        [record] = [each for each in caplog.records if "its call was cancelled" in each.getMessage()]
        assert record.levelno == logging.INFO
        assert (await storage.metrics())["killed"] == 1
        await nothing_is_left(storage)
        nursery.cancel_scope.cancel()


@each_storage
async def test_a_call_whose_key_is_taken_leaves_the_holder_alone(kind: str, autojump_clock: MockClock) -> None:
    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
        holder = await storage.push(5, unique="key")
        await nursery.start(Worker("w", storage, Handler()).run)
        with trio.move_on_after(1):
            await storage.call(6, unique="key")
        assert await storage.call(7, unique="key") == 5
        assert (await storage.wait_for(holder)).result == 5
        nursery.cancel_scope.cancel()


@each_storage
async def test_others_may_end_the_task_of_a_call(kind: str, autojump_clock: MockClock) -> None:
    """It is a dead letter then, or forgotten; and those who wait for a task whose call is cancelled are told."""
    async with STORAGES[kind]() as storage:

        async def expect_error(error: type[Exception], task_id: str) -> None:
            with pytest.raises(error):
                await storage.call(1, id=task_id, delay=50)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_error, AbortError, "killed")
            nursery.start_soon(expect_error, UnknownTaskError, "discarded")
            await trio.sleep(1)
            assert await storage.cancel("killed")
            assert await storage.discard("discarded")

        async def wait() -> None:
            with pytest.raises(UnknownTaskError):
                await storage.wait_for("withdrawn")

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(2):
                nursery.start_soon(storage.push, 1)
                async with trio.open_nursery() as callers:
                    callers.start_soon(lambda: storage.call(1, id="withdrawn", delay=50))
                    await trio.sleep(1)
                    nursery.start_soon(wait)


@each_storage
async def test_an_aborted_task_stays_a_dead_letter_though_its_call_is_cancelled(
    kind: str, autojump_clock: MockClock
) -> None:
    handler = Handler()
    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, log=None).run)
        async with trio.open_nursery() as callers:
            callers.start_soon(lambda: storage.call(100, id="called"))
            await trio.sleep(1)
            assert await storage.abort("called")
            callers.cancel_scope.cancel()
        assert handler.running == 0
        assert (await storage.fetch_by_id("called")).parts.status.name == "Killed"
        nursery.cancel_scope.cancel()


@each_storage
async def test_a_handler_that_calls_lends_its_slot_and_takes_its_call_along(
    kind: str, autojump_clock: MockClock
) -> None:
    inner = Handler()
    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:

        async def handler(task: Task[int]) -> Any:
            if task.args < 50:
                return await inner(task)
            return await storage.call(task.args - 50) + 1

        await nursery.start(Worker("w", storage, handler, concurrency=1).run)
        assert await storage.call(51) == 2
        with trio.move_on_after(1):
            await storage.call(70)
        assert (inner.begun, inner.running) == (2, 0)
        await nothing_is_left(storage)
        nursery.cancel_scope.cancel()


@each_storage
async def test_a_stall_of_calls_is_named(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:

        async def handler(task: Task[int]) -> Any:
            return await storage.call(1, id="child")

        await nursery.start(Worker("w", storage, handler, concurrency=1, lend=0).run)
        with trio.move_on_after(30):
            await storage.call(51)
        assert "all wait for tasks that no slot attempts" in caplog.text
        assert "waits for task child" in caplog.text
        await nothing_is_left(storage)
        nursery.cancel_scope.cancel()


def test_a_thread_that_goes_on_is_named_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    """In memory, where no lease ends."""
    clock = MockClock(rate=0)
    go_on, begun = threading.Event(), threading.Event()

    def block(task: Task[int]) -> None:
        begun.set()
        go_on.wait(60)

    async def let_time_pass() -> None:
        await wait_all_tasks_blocked()
        clock.jump(USUAL_LEASE + SETTLE_TIMEOUT + 1)

    async def main() -> None:
        storage = MemoryStorage[int]()
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, block, log=None).run)
            async with trio.open_nursery() as callers:
                callers.start_soon(lambda: storage.call(1, id="called"))
                await trio.to_thread.run_sync(begun.wait)
                callers.cancel_scope.cancel()
                nursery.start_soon(let_time_pass)
            assert storage.statistics().running == 1
            go_on.set()
            nursery.cancel_scope.cancel()
        assert [task.parts.status for task in await storage.list_tasks()] == [Status.Done]  # it ended by itself

    trio.run(main, clock=clock)
    assert "task called still runs, 40 s after its call was cancelled" in caplog.text


async def test_a_call_ends_when_the_lease_of_a_dead_worker_is_over(autojump_clock: MockClock) -> None:
    for kind in ("sqlite", "file"):
        async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
            async with trio.open_nursery() as callers:
                callers.start_soon(storage.call, 1)
                await storage.receive()  # and never settled, as by a worker that has died
                callers.cancel_scope.cancel()
                began = trio.current_time()
            assert trio.current_time() - began <= LEASE + SETTLE_TIMEOUT
            await nothing_is_left(storage)
            nursery.cancel_scope.cancel()


@each_storage
async def test_a_storage_that_is_closed_takes_no_call_and_keeps_those_under_way(
    kind: str, autojump_clock: MockClock
) -> None:
    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
        results: list[int] = []

        async def call() -> None:
            results.append(await storage.call(5))

        nursery.start_soon(call)
        await trio.sleep(1)
        storage.close()
        with pytest.raises(trio.ClosedResourceError):
            await storage.call(1)
        await Worker("w", storage, Handler()).run()
        await trio.sleep(1)
        assert results == [5]


@pytest.mark.parametrize("kind", ["sqlite", "file"])
async def test_a_call_on_a_storage_that_is_closed_whole_raises(kind: str, autojump_clock: MockClock) -> None:
    async def call() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await storage.call(5)

    async with STORAGES[kind]() as storage, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.sleep(1)
        await storage.aclose()
