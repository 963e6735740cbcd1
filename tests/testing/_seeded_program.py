"""A program that uses everything that could be random.

``python -m tests.testing._seeded_program KIND SEED`` prints its events.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio_tasks import (
    FileStorage,
    MemoryStorage,
    Monitor,
    RetryAfterError,
    RetryPolicy,
    SqliteStorage,
    Worker,
    WorkerContext,
    exponential,
)
from trio_tasks.abc import Backend
from trio_tasks.testing import Recorded, Recording, run_seeded

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

KINDS = ["memory", "file", "file on disk", "sqlite"]

Storage = MemoryStorage[int] | FileStorage[int] | SqliteStorage[int]


@asynccontextmanager
async def open_storage(kind: str, directory: Path) -> AsyncGenerator[Storage, None]:
    """One of each kind."""
    if kind == "memory":
        yield MemoryStorage[int]()
    elif kind == "file":
        async with FileStorage.temporary(int, lease=5) as storage:
            yield storage
    elif kind == "file on disk":
        async with FileStorage(directory / "tasks.journal", int, lease=5) as storage:
            yield storage
    else:
        async with SqliteStorage(directory / "tasks.db", int, lease=5, synchronous="OFF") as storage:
            yield storage


async def handle(n: int, context: WorkerContext) -> int:
    """Take some time, or fail, or have children."""
    fate = random.random()
    if fate < 0.2:
        raise ValueError("no")
    if fate < 0.3:
        raise ExceptionGroup("several", [RetryAfterError("later", fate), KeyError(n)])
    async with trio.open_nursery() as nursery:
        for _ in range(random.randint(0, 3)):
            nursery.start_soon(trio.sleep, random.random())
    if fate > 0.95:
        context.pause()
        context.track(_resume, context)
    return n * 2


async def _resume(context: WorkerContext) -> None:
    await trio.sleep(random.random())
    context.resume()


def handle_in_a_thread(n: int) -> int:
    """A sync handler."""
    if random.random() < 0.3:
        raise OSError("not now")
    return n + random.randrange(3)


async def play(kind: str, recording: Recording) -> None:
    """Push beside several workers, one of which is cut, and a monitor."""
    retry = RetryPolicy(4, exponential(0.5, jitter=0.5))

    def worker(name: str, backend: Backend[int]) -> Worker[int, int]:
        if name == "sync":
            return Worker(name, backend, handle_in_a_thread, concurrency=2, retry=retry, on_event=recording)
        return Worker(name, backend, handle, concurrency=3, retry=retry, on_event=recording)

    with tempfile.TemporaryDirectory() as directory:
        async with open_storage(kind, Path(directory)) as storage, trio.open_nursery() as nursery:
            monitor = Monitor(on_event=recording)
            monitor.register(lambda attempt: worker(f"watched {attempt}", storage))
            for name in ("sync", "async"):
                nursery.start_soon(worker(name, storage).run)
            nursery.start_soon(monitor.run)
            with trio.move_on_after(1):
                async with trio.open_nursery() as cut:
                    cut.start_soon(worker("cut", storage).run)
                    for n in range(15):
                        cut.start_soon(storage.push, n)
                        await trio.sleep(random.random() / 5)
            await storage.push_bulk(range(100, 110), delay=random.random())
            storage.close()


def history(kind: str, seed: int) -> list[Recorded]:
    """All that is told in one run."""
    recording = Recording()
    run_seeded(play, kind, recording, seed=seed)
    return list(recording)


if __name__ == "__main__":
    for each in history(sys.argv[1], int(sys.argv[2])):
        print(repr(each))
