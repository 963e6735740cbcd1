"""tinyjobs: its worker on asyncio, with leases and acknowledgements; NORMAL is all it has."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

from tinyjobs import TinyJobs

from ..fresh import answer
from ..stored import new_directory
from ..stored_daily import Both, Seconds


async def push(task: Any, tasks: int, concurrency: int) -> Seconds:
    """Push from several asyncio tasks, each of which awaits each push."""

    async def produce() -> None:
        for n in range(tasks // concurrency):
            await task.aenqueue(n)

    with Both() as both:
        await asyncio.gather(*(produce() for _ in range(concurrency)))
    return both.each(tasks // concurrency * concurrency)


async def measured(kind: str, tasks: int, concurrency: int, path: Path) -> Seconds:
    """Measure from the start of the worker until it has stopped, which it does once the last task has begun."""
    numbers = count(1)

    async def no_op(n: int) -> None:
        if kind == "drain" and next(numbers) == tasks:
            worker.stop()

    async with TinyJobs(f"sqlite:///{path}") as app:
        task = app.task(no_op)
        worker = app.worker(concurrency=concurrency, async_concurrency=concurrency, handle_signals=False)
        pushed = await push(task, tasks, 1 if kind != "push" else concurrency)
        if kind != "drain":
            return pushed
        with Both() as both:
            await worker.start()
        return both.each(tasks)


def measure(kind: str, synchronous: str, tasks: int, concurrency: int) -> dict[str, Any]:
    if synchronous != "NORMAL":
        return {"sorry": "it has NORMAL only"}
    with new_directory() as directory:
        return {**asyncio.run(measured(kind, tasks, concurrency, Path(directory, "tiny.db")))}


if __name__ == "__main__":
    answer(measure)
