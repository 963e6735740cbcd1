"""A benchmark that compares the cost of a stored task with few and with many tasks stored, and their size on disk."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from trio_tasks import Worker, WorkerContext
from trio_tasks._backends.sqlite.exchange import CLAIM, DUE, NEXT_DUE

from .fresh import answer
from .load import no_op
from .stored import Engine, make, new_directory
from .stored_daily import Both

if TYPE_CHECKING:
    from trio_tasks._backends.durable.storage import DurableStorage

SLOTS = 100
IN_ONE_GO = 50_000
A_DAY = 86_400.0


async def measure_beside(engine: Engine, kind: str, stored: int, drained: int, rounds: int) -> dict[str, Any]:
    """Run some tasks while ``stored`` others are in the same queue: waiting, delayed, or finished."""
    with new_directory() as directory:
        async with make(directory, engine, "NORMAL") as storage:
            await fill(storage, kind, stored)
        size = bytes_in(directory)
        began = time.perf_counter()
        async with make(directory, engine, "NORMAL") as storage:
            opening = time.perf_counter() - began
            turns = [await drain_some(storage, drained) for _ in range(rounds)]
        plans = [] if engine == "file" else list(query_plans(Path(directory, "tasks.db")))
    best = {clock: min(turn[clock] for turn in turns) for clock in ("wall", "cpu")}
    return {**best, "size": size / stored, "opening": opening, "plans": plans}


def bytes_in(directory: str) -> int:
    """Return the size of all files of a storage."""
    return sum(file.stat().st_size for file in Path(directory).iterdir())


async def fill(storage: DurableStorage[Any], kind: str, stored: int) -> None:
    for first in range(0, stored, IN_ONE_GO):
        numbers = range(first, min(first + IN_ONE_GO, stored))
        if kind == "delayed":
            await storage.push_bulk(numbers, delay=A_DAY)
        else:
            await storage.push_bulk(numbers)
    if kind == "finished":
        storage.close()
        await Worker("before", storage, no_op, concurrency=SLOTS).run()


async def drain_some(storage: DurableStorage[Any], drained: int) -> dict[str, float]:
    """Push this many tasks, and run the first that wait."""
    numbers = count(1)

    async def handle(n: int, context: WorkerContext) -> None:
        if next(numbers) == drained:
            context.stop()

    await storage.push_bulk(range(drained))
    with Both() as both:
        await Worker("w", storage, handle, concurrency=SLOTS).run()
    return both.each(next(numbers) - 1)


def query_plans(path: Path) -> list[tuple[str, list[str]]]:
    """Return SQLite's query plans of the most frequent statements."""
    plans: list[tuple[str, list[str]]] = []
    with closing(sqlite3.connect(path)) as connection:
        for name, sql in {"CLAIM": CLAIM, "DUE": DUE, "NEXT_DUE": NEXT_DUE}.items():
            steps = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * sql.count("?")).fetchall()
            plans.append((name, [str(step[3]) for step in steps]))
    return plans


def measure(engine: Engine, kind: str, stored: int, drained: int, rounds: int) -> dict[str, Any]:
    return trio.run(measure_beside, engine, kind, stored, drained, rounds)


if __name__ == "__main__":
    answer(measure)
