"""Two versions of the library side by side: ``python -m tests.benchmarks.versions OLD_CHECKOUT [ROUNDS [NAME ...]]``.

Each drain runs in a process of its own, first on the old checkout, then on this one, round after round; the best round
of each counts, by CPU time and by wall time. Only public names are used, so that old versions run it as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_tasks
from trio_tasks import MemoryStorage, Worker

HERE = Path(__file__).parents[2]
Open = Callable[[str], "AbstractAsyncContextManager[Any]"]


async def no_op(n: int) -> None:
    """Do nothing."""


@asynccontextmanager
async def memory(_: str) -> AsyncGenerator[Any, None]:
    """A storage in memory."""
    yield MemoryStorage[int]()


def sqlite(directory: str) -> AbstractAsyncContextManager[Any]:
    """A storage in a new SQLite file."""
    return trio_tasks.SqliteStorage(f"{directory}/tasks.db", int)


def file(directory: str) -> AbstractAsyncContextManager[Any]:
    """A storage in a new journal."""
    return trio_tasks.FileStorage(f"{directory}/tasks.journal", int)


CASES: dict[str, tuple[Open, str, int, int]] = {
    "memory, drain, 8": (memory, "drain", 100_000, 8),
    "memory, drain, 100": (memory, "drain", 100_000, 100),
    "memory, one by one": (memory, "singly", 20_000, 8),
    "sqlite, drain, 10": (sqlite, "drain", 10_000, 10),
    "sqlite, drain, 100": (sqlite, "drain", 20_000, 100),
    "sqlite, push": (sqlite, "push", 2_000, 1),
    "file, drain, 10": (file, "drain", 20_000, 10),
    "file, drain, 100": (file, "drain", 20_000, 100),
}


async def measure(name: str, directory: str) -> tuple[float, float]:
    """CPU and wall time of one task, in seconds."""
    open_storage, kind, tasks, concurrency = CASES[name]
    async with open_storage(directory) as storage:
        if kind == "drain":
            await storage.push_bulk(range(tasks))
            storage.close()
        cpu, wall = time.process_time(), time.perf_counter()
        if kind == "drain":
            await Worker("w", storage, no_op, concurrency=concurrency).run()
        else:
            await produce(storage, tasks, concurrency, with_worker=kind == "singly")
        return (time.process_time() - cpu) / tasks, (time.perf_counter() - wall) / tasks


async def produce(storage: Any, tasks: int, concurrency: int, *, with_worker: bool) -> None:
    """Push one task after the other, with or without a worker beside."""
    async with trio.open_nursery() as nursery:
        if with_worker:
            await nursery.start(Worker("w", storage, no_op, concurrency=concurrency).run)
        for n in range(tasks):
            await storage.push(n)
        storage.close()


def measure_here(name: str) -> None:
    """Measure in this process, and print the result."""
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(trio.run(measure, name, directory)))


def measure_there(name: str, checkout: Path) -> tuple[float, float]:
    """Measure in a new process, with the library of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--here", name]
    run = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    cpu, wall = json.loads(run.stdout.splitlines()[-1])
    return cpu, wall


def import_time(checkout: Path) -> float:
    """CPU seconds of ``import trio_tasks`` beyond ``import trio``."""
    script = "import time, trio; t = time.process_time(); import trio_tasks; print(time.process_time() - t)"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, cwd=checkout, capture_output=True, check=True)
    return float(run.stdout)


def show(old: Path, rounds: int, names: list[str]) -> None:
    """Print each case: µs of one task before and after, and the ratios."""
    print(f"{'':22}{'CPU before':>12}{'after':>9}{'ratio':>8}{'wall before':>13}{'after':>9}{'ratio':>8}   µs a task")
    for name in names or CASES:
        before, after = [], []
        for _ in range(rounds):
            before.append(measure_there(name, old))
            after.append(measure_there(name, HERE))
        row = f"{name:22}"
        for clock, width in ((0, 12), (1, 13)):
            least, now = min(each[clock] for each in before) * 1e6, min(each[clock] for each in after) * 1e6
            row += f"{least:{width}.1f}{now:9.1f}{now / least:8.2f}"
        print(row, flush=True)
    before_ms, after_ms = (min(import_time(each) for _ in range(rounds)) * 1e3 for each in (old, HERE))
    print(f"import beyond trio: {before_ms:.1f} ms before, {after_ms:.1f} ms after, ratio {after_ms / before_ms:.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--here":
        measure_here(sys.argv[2])
    else:
        show(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 5, sys.argv[3:])
