"""A benchmark of the time from a push to the start of the task on an idle worker, in one process or two."""

from __future__ import annotations

import json
import subprocess
import time
from statistics import quantiles
from typing import IO, TYPE_CHECKING, Any

import trio
from trio_tasks import Worker, WorkerContext

from .fresh import answer, command
from .stored import Engine, Synchronous, make, new_directory

if TYPE_CHECKING:
    from trio_tasks._backends.durable.storage import DurableStorage

REST = 0.03
"""Seconds between two pushes, in which everybody goes to sleep, the thread that has the connection too."""
SLOTS = 10


def percentiles(nanoseconds: list[int]) -> dict[str, float]:
    """Return percentiles in seconds, without the first tenth, in which caches are cold."""
    found = quantiles(nanoseconds[len(nanoseconds) // 10 :], n=100)
    return {"p50": found[49] / 1e9, "p99": found[98] / 1e9}


async def push_now_and_then(storage: DurableStorage[Any], samples: int) -> None:
    for _ in range(samples):
        await trio.sleep(REST)
        await storage.push(time.monotonic_ns())


async def work(storage: DurableStorage[Any], samples: int, task_status: trio.TaskStatus[None]) -> list[int]:
    """Run a worker that notes how long ago each task was pushed, by a clock that all processes share."""
    found: list[int] = []

    async def note(pushed: int, context: WorkerContext) -> None:
        found.append(time.monotonic_ns() - pushed)
        if len(found) == samples:
            context.stop()

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("notes", storage, note, concurrency=SLOTS).run)
        task_status.started()
    return found


async def within(engine: Engine, synchronous: Synchronous, samples: int) -> dict[str, float]:
    """Measure with pusher and worker in one process."""
    found: list[int] = []

    async def run(task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  it is handed on
        found.extend(await work(storage, samples, task_status))

    with new_directory() as directory:
        async with make(directory, engine, synchronous) as storage, trio.open_nursery() as nursery:
            await nursery.start(run)
            await push_now_and_then(storage, samples)
    return percentiles(found)


class SaysReady:
    """A ``task_status`` that prints a line when the worker has started."""

    def started(self, value: object = None) -> None:
        print("ready", flush=True)


async def receive(engine: Engine, synchronous: Synchronous, samples: int, directory: str) -> dict[str, float]:
    """Run the side of the worker."""
    async with make(directory, engine, synchronous) as storage:
        return percentiles(await work(storage, samples, SaysReady()))


async def across(engine: Engine, synchronous: Synchronous, samples: int) -> dict[str, float]:
    """Run the side that pushes to a worker in another process."""
    terms = {"kind": "receive", "engine": engine, "synchronous": synchronous, "samples": samples}
    with new_directory() as directory:
        async with make(directory, engine, synchronous) as storage:
            child = start_child("stored_latency", {**terms, "directory": directory})
            await trio.to_thread.run_sync(hear_ready, child)
            await push_now_and_then(storage, samples)
            return await trio.to_thread.run_sync(last_words, child)


def start_child(module: str, terms: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(command(module, terms), stdout=subprocess.PIPE, text=True)


def hear_ready(child: subprocess.Popen[str]) -> None:
    assert _output(child).readline().strip() == "ready"


def last_words(child: subprocess.Popen[str]) -> dict[str, float]:
    """Return the figures of the child, once it has ended."""
    words = _output(child).read()
    child.wait()
    found: dict[str, float] = json.loads(words)
    return found


def _output(child: subprocess.Popen[str]) -> IO[str]:
    assert child.stdout is not None
    return child.stdout


def measure(kind: str, engine: Engine, synchronous: Synchronous, samples: int, **more: Any) -> dict[str, float]:
    if kind == "receive":
        return trio.run(receive, engine, synchronous, samples, more["directory"])
    return trio.run(within if kind == "within" else across, engine, synchronous, samples)


if __name__ == "__main__":
    answer(measure)
