"""Tests that cancel opening, closing and feeding at every moment: stored tasks remain, and no lock is left."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, MemoryStorage, Pipe, SqliteStorage, Status, Succeeded
from trio_tasks.testing import Cut, explore_cancellations
from trio_tasks.testing._exploration.steps import StepCounter

from tests.cuts._backends import BACKENDS, GIVE_BACK_SECONDS


def sqlite(path: Path) -> SqliteStorage[str]:
    return SqliteStorage(path, str, synchronous="OFF", poll_interval=50)


def file(path: Path) -> FileStorage[str]:
    return FileStorage(path, str)


STORED: list[Callable[[Path], Any]] = [file, sqlite]


async def contents(open_storage: Callable[[Path], Any], path: Path) -> list[str]:
    """Open the store again, check that it works, and return its tasks."""
    async with open_storage(path) as storage:
        found = [task.args for task in await storage.list_tasks()]
        waiting = await storage.list_tasks(Status.Pending)
        await storage.push("after all")
        for _ in range(len(waiting) + 1):
            task = await storage.receive()
            await storage.settle(task, Succeeded(None))
        metrics = await storage.metrics()
        assert (metrics["waiting"], metrics["delayed"], metrics["running"]) == (0, 0, 0), metrics
        return sorted(found)


@pytest.mark.parametrize("open_storage", STORED)
def test_a_storage_that_is_cut_while_it_is_open_is_closed(open_storage: Callable[[Path], Any]) -> None:
    async def scenario(cut: Cut) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "tasks")
            pushed: list[str] = []
            with cut:
                async with open_storage(path) as storage:
                    for args in ("one", "two"):
                        await storage.push(args)
                        pushed.append(args)
                    await storage.settle(await storage.receive(), Succeeded(None))
            found = await contents(open_storage, path)
            assert found in (pushed, ["one", "two"][: len(pushed) + 1])

    assert explore_cancellations(scenario).cuts > 10


@pytest.mark.parametrize("open_storage", STORED)
def test_opening_and_closing_are_whole_or_nothing(open_storage: Callable[[Path], Any]) -> None:
    async def scenario(cut: Cut) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "tasks")
            was_open = False
            with cut:
                async with open_storage(path) as storage:
                    was_open = True
                    with trio.CancelScope(shield=True):
                        await storage.push("one")
            assert await contents(open_storage, path) == (["one"] if was_open else [])

    explore_cancellations(scenario)


@pytest.mark.parametrize("open_storage", STORED)
def test_closing_does_its_work_though_it_is_cut(open_storage: Callable[[Path], Any]) -> None:
    async def scenario(cut: Cut) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "tasks")
            async with open_storage(path) as storage:
                await storage.push("one", id="one")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait_until_closed, storage)
                    await trio.sleep(1)
                    with cut:
                        await storage.aclose()
                with pytest.raises(trio.ClosedResourceError):
                    await storage.push("two")
            assert await contents(open_storage, path) == ["one"]

    explore_cancellations(scenario)


async def wait_until_closed(storage: Any) -> None:
    """Wait there for a task that does not end."""
    with pytest.raises(trio.ClosedResourceError):
        await storage.wait_for("one")


@pytest.mark.parametrize("kind", [kind for kind in BACKENDS if kind not in ("file", "sqlite")])
def test_closing_a_backend_loses_nothing(kind: str) -> None:
    async def scenario(cut: Cut) -> None:
        async with BACKENDS[kind]() as tested:
            await tested.arrange()
            before = await tested.snapshot()
            with cut:
                async with tested.backend as entered:
                    assert entered is tested.backend
            with cut:
                await tested.backend.aclose()
            await trio.sleep(GIVE_BACK_SECONDS)
            assert await tested.snapshot() == before

    explore_cancellations(scenario)


def test_feeding_loses_nothing() -> None:
    async def scenario(cut: Cut) -> None:
        send, receive = trio.open_memory_channel[str](1)
        storage = MemoryStorage[str](2)
        pipe: Any = Pipe(receive, storage)
        done: list[str] = []

        async def produce() -> None:
            with send:
                for number in range(5):
                    await send.send(str(number))

        async def consume() -> None:
            async for task in storage:
                done.append(task.args)
                await storage.settle(task, Succeeded(None))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            nursery.start_soon(consume)
            with cut:
                await pipe.feed()
            await pipe.feed()
        assert done == ["0", "1", "2", "3", "4"]

    assert explore_cancellations(scenario, seeds=range(3)).cuts > 50


@pytest.mark.real
@pytest.mark.parametrize("open_storage", STORED)
def test_with_real_threads_none_is_left(open_storage: Callable[[Path], Any], tmp_path: Path) -> None:
    """The steps are not the same in each run then; so many are tried that each kind of them comes."""
    before = set(threading.enumerate())
    for step in range(1, 60):
        scope = trio.CancelScope()

        async def main(path: Path, scope: trio.CancelScope) -> None:
            with scope:
                async with open_storage(path) as storage:
                    await storage.push("one")
                    await storage.settle(await storage.receive(), Succeeded(None))
            with trio.fail_after(60):
                await contents(open_storage, path)

        step_counter = StepCounter(step, scope.cancel, lambda task: task is not None)
        trio.run(main, tmp_path / str(step), scope, instruments=[step_counter])
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("Trio thread"):  # trio keeps its own for a while
            thread.join(5)
            assert not thread.is_alive(), thread
