"""The way of one task through the package: the files that run from its push to its settlement.

``python -m tests.journey`` prints them, and fails if there are more than ``BOUNDS`` says.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import trio
import trio.testing
import trio_tasks
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage, Worker

PACKAGE = Path(trio_tasks.__file__).parent
BOUNDS = {"memory": 12, "sqlite": 24, "file": 24}
TASKS = 5  # the shortest way counts: now and then a session is renewed meanwhile


class Recorder:
    """Records the files of the package in which something is called, in this thread and in those begun later."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self._home = str(PACKAGE) + os.sep

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Called by the interpreter; an await that goes on is a call, too."""
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(self._home):
            self.files[path.removeprefix(self._home)] = None


async def double(number: int) -> int:
    return 2 * number


@asynccontextmanager
async def opened(kind: str, directory: str) -> AsyncGenerator[Any, None]:
    """A storage of this kind."""
    if kind == "memory":
        yield MemoryStorage[int]()
    elif kind == "sqlite":
        async with SqliteStorage(f"{directory}/tasks.db", int) as sqlite:
            yield sqlite
    else:
        async with FileStorage(f"{directory}/tasks.journal", int) as file:
            yield file


async def journey(kind: str) -> list[str]:
    """The files of the shortest way of some tasks, in the order in which they come."""
    recorder, ways = Recorder(), list[list[str]]()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        with tempfile.TemporaryDirectory() as directory:
            async with opened(kind, directory) as storage, trio.open_nursery() as nursery:
                context = await nursery.start(Worker("walker", storage, double, concurrency=2).run)
                for number in range(TASKS + 1):
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    recorder.files.clear()
                    await storage.push(number)
                    while context.tally.succeeded <= number:
                        await trio.lowlevel.checkpoint()
                    ways.append(list(recorder.files))
                context.stop()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return min(ways[1:], key=len)  # at the first task, some things are made once and for all


def main() -> int:
    is_too_long = False
    for kind, bound in BOUNDS.items():
        files = trio.run(journey, kind)
        is_too_long |= len(files) > bound
        print(f"the way of one task, {kind}: {len(files)} files, at most {bound}: {', '.join(files)}")
    return int(is_too_long)


if __name__ == "__main__":
    sys.exit(main())
