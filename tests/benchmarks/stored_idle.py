"""A benchmark of the CPU time that an idle worker on SqliteStorage or FileStorage uses."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import trio
from trio_tasks import Worker

from .fresh import answer
from .idle import Turns
from .load import no_op
from .measuring import CpuTime
from .stored import Engine, make, new_directory

SETTLING_DOWN = 1.0


def open_files() -> int:
    """Return the number of open file descriptors; -1 where it is not known."""
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.is_dir() else -1


async def idle(engine: Engine | None, slots: int, seconds: float) -> dict[str, Any]:
    """Measure the program without a storage, with one timer only."""
    with new_directory() as directory:
        if engine is None:
            return await look_on(seconds)
        async with make(directory, engine, "FULL") as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("idler", storage, no_op, concurrency=slots).run)
            for n in range(slots):
                await storage.push(n)
            found = await look_on(seconds)
            nursery.cancel_scope.cancel()
    return found


async def look_on(seconds: float) -> dict[str, Any]:
    await trio.sleep(SETTLING_DOWN)
    counter = Turns()
    trio.lowlevel.add_instrument(counter)
    with CpuTime() as cpu:
        await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(counter)
    found = {"cpu": cpu.seconds / seconds * 60, "turns": counter.turns / seconds * 60}
    return {**found, "threads": threading.active_count(), "files": open_files()}


def measure(engine: Engine | None, slots: int, seconds: float) -> dict[str, Any]:
    return trio.run(idle, engine, slots, seconds)


if __name__ == "__main__":
    answer(measure)
