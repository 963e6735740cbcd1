"""A benchmark of several processes on one SQLite file, each of which has a worker and two pushers."""

from __future__ import annotations

import json
import subprocess
import time
from statistics import quantiles
from typing import Any

import trio
from trio_tasks import SqliteStorage, Worker

from .fresh import answer, command, size
from .measuring import MICRO
from .stored import new_directory

PROCESSES = [1, 4, 16]
PUSHERS = 2
SLOTS = 10
REST = 0.01
"""Seconds between two pushes of a pusher."""


async def no_op(number: int) -> None:
    """Do nothing."""


async def take_part(path: str, seconds: float) -> dict[str, Any]:
    """Run one process of the crowd: say that it is ready, wait for a line, then push and work."""
    took: list[float] = []
    async with SqliteStorage(path, int, synchronous="NORMAL") as storage, trio.open_nursery() as nursery:
        worker = Worker("crowd", storage, no_op, concurrency=SLOTS)
        context = await nursery.start(worker.run)
        print("ready", flush=True)
        await trio.to_thread.run_sync(input)
        began, cpu = time.perf_counter(), time.process_time()

        async def push() -> None:
            while time.perf_counter() < began + seconds:
                before = time.perf_counter()
                await storage.push(1)
                took.append(time.perf_counter() - before)
                await trio.sleep(REST)

        async with trio.open_nursery() as pushers:
            for _ in range(PUSHERS):
                pushers.start_soon(push)
        context.stop()
    return {"took": took, "cpu": time.process_time() - cpu}


def crowd(processes: int, seconds: float) -> dict[str, float]:
    """Run so many processes at once."""
    with new_directory() as directory:
        terms = {"path": f"{directory}/tasks.db", "seconds": seconds}
        run = command("crowd", {"kind": "one", **terms})
        children = [
            subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == "ready"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        found = [json.loads(child.communicate()[0]) for child in children]
    took = [each for one in found for each in one["took"]]
    percent = quantiles(took, n=100)
    cpu = sum(one["cpu"] for one in found)
    return {"p50": percent[49], "p99": percent[98], "cpu": cpu / len(took), "rate": len(took) / seconds}


def show() -> None:
    """Print how long a push takes, beside how many others."""
    seconds = size(10, 1)
    print(f"a file that several processes share; each has {PUSHERS} pushers, {SLOTS} slots")
    print(f"    {'processes':12}{'pushes/s':>10}{'CPU µs':>9}{'push, ms: p50':>15}{'p99':>8}")
    for processes in PROCESSES:
        found = crowd(processes, seconds)
        milliseconds = f"{found['p50'] * 1e3:15.1f}{found['p99'] * 1e3:8.1f}"
        print(f"    {processes:<12}{found['rate']:10.0f}{found['cpu'] * MICRO:9.0f}{milliseconds}", flush=True)


def measure(kind: str, path: str, seconds: float) -> dict[str, Any]:
    assert kind == "one"
    return trio.run(take_part, path, seconds)


if __name__ == "__main__":
    answer(measure)
