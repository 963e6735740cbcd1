"""Tests of the functions that find the line at which a trio task is stuck."""

from __future__ import annotations

import threading

import trio
from trio.testing import wait_all_tasks_blocked
from trio_tasks import MemoryStorage, Worker, WorkerContext
from trio_tasks._concurrency.stacks import cancelled_line, current_line

from tests._progress import until


async def test_a_task_that_waits_is_at_its_own_line(nursery: trio.Nursery) -> None:
    async def wait() -> None:
        await trio.sleep_forever()  # here it waits

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    (task,) = nursery.child_tasks
    assert current_line(task).endswith("in wait: await trio.sleep_forever()  # here it waits")
    assert f"{__file__}:" in current_line(task)
    nursery.cancel_scope.cancel()


async def test_a_task_that_waits_for_a_child_is_where_that_is(nursery: trio.Nursery) -> None:
    async def child() -> None:
        await trio.sleep_forever()  # the child waits

    async def parent() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            inner.start_soon(child)

    nursery.start_soon(parent)
    await wait_all_tasks_blocked()
    (task,) = nursery.child_tasks
    assert " in parent: " in current_line(task)
    assert current_line(task).endswith("# the child waits")
    nursery.cancel_scope.cancel()


async def test_a_thread_is_named_as_one() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(n: int) -> None:
        begun.set()
        go_on.wait(60)

    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    storage.close()
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler).run)
        await until(begun.is_set)
        assert context.current_lines()[task_id].startswith("a line of the thread that was begun at ")
        go_on.set()


async def test_an_error_without_a_line_of_its_own() -> None:
    assert cancelled_line(ValueError("never raised")) == "an unknown place"
