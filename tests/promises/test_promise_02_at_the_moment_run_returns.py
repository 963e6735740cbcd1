"""When ``run()`` returns, each task is finished or back in the store; and a cancellation is heard in time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage, Status, Worker

from tests._scale import scaled
from tests.promises._ended_process import KINDS, WAYS

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_promise_02_a_process_that_is_killed_when_run_has_returned_has_burnt_no_attempt(
    tmp_path: Path, kind: str, way: str
) -> None:
    command = [sys.executable, "-m", "tests.promises._ended_process", kind, way, str(scaled(200)), str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {}


@asynccontextmanager
async def memory(path: Path) -> AsyncGenerator[Any, None]:
    yield MemoryStorage[int]()


@asynccontextmanager
async def file(path: Path) -> AsyncGenerator[Any, None]:
    async with FileStorage(path, int, synchronous="NORMAL") as storage:
        yield storage


@asynccontextmanager
async def sqlite(path: Path) -> AsyncGenerator[Any, None]:
    async with SqliteStorage(path, int, synchronous="NORMAL") as storage:
        yield storage


STORAGES: dict[str, Callable[[Path], AbstractAsyncContextManager[Any]]] = {
    each.__name__: each for each in (memory, file, sqlite)
}


@pytest.mark.nightly
@pytest.mark.parametrize("slots", [8, 100])
@pytest.mark.parametrize("kind", STORAGES)
async def test_promise_02_a_cancellation_is_heard_by_each_slot_before_its_second_attempt(
    tmp_path: Path, kind: str, slots: int
) -> None:
    """Its handler does not wait, and the queue does not end; the cancellation comes out of an attempt, or beside it."""
    dice = random.Random(slots)
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        pushed = 0
        for number in range(scaled(100)):
            pushed += len(await storage.push_bulk([number] * (6 * slots)))
            last, begun, late = dice.randrange(1, 5 * slots), 0, 0
            scope = trio.CancelScope()

            async def handler(n: int) -> None:  # noqa: ASYNC910  that is the point of it
                nonlocal begun, late
                late += scope.cancel_called  # noqa: B023  it is called in this round only
                begun += 1
                if begun == last and number % 2:  # noqa: B023  the same
                    scope.cancel()  # noqa: B023  the same

            async def cancel_beside() -> None:
                while begun < last:  # noqa: ASYNC110, B023  each attempt counts; it is called in this round only
                    await trio.lowlevel.checkpoint()
                scope.cancel()  # noqa: B023  the same

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_beside)
                with scope:
                    await Worker("cut", storage, handler, concurrency=slots).run()
                nursery.cancel_scope.cancel()
            assert late <= slots
            assert await storage.list_tasks(Status.Running) == []
            books = await storage.metrics()
            assert books["waiting"] + books["succeeded"] == pushed
            assert books["released"] <= (number + 1) * 2 * slots


async def test_promise_02_an_error_of_a_sibling_ends_a_worker_that_always_has_more_to_do(tmp_path: Path) -> None:
    async with sqlite(tmp_path / "tasks") as storage:
        await storage.push_bulk([0] * 200)
        begun = 0

        async def handler(n: int) -> None:  # noqa: ASYNC910  that is the point of it
            nonlocal begun
            begun += 1

        async def fail() -> None:
            while begun < 10:  # noqa: ASYNC110  each attempt counts
                await trio.lowlevel.checkpoint()
            raise OSError("the sibling")

        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Worker("w", storage, handler, concurrency=2).run)
                nursery.start_soon(fail)
        assert begun < 60
        assert (await storage.metrics())["running"] == 0
