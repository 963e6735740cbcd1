"""A benchmark of ten thousand schedules: the CPU time of defining, storing and taking them over, and of waiting."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked
from trio_tasks import CronSpec, IntervalSpec, MemoryStorage, Schedules, cron, every

from .fresh import answer, measure_afresh, size
from .measuring import CpuTime, verdict
from .stored import ENGINES, make, new_directory

START = 1.0  # s at most
IDLE = 0.1  # percent of one core at most, beyond that of a scheduler without schedules
ZONES = ("UTC", "Europe/Berlin", "America/New_York")


def times(random: Random, number: int) -> CronSpec | IntervalSpec:
    if number % 2:
        return every(minutes=random.randrange(600, 60_000))
    return cron(f"{random.randrange(60)} {random.randrange(24)} * * *", zone=random.choice(ZONES))


def define(storage: Any, number: int) -> Schedules:
    random, schedules = Random(1), Schedules(storage)
    for n in range(number):
        schedules.declare(f"schedule {n}", n, times(random, n))
    return schedules


@asynccontextmanager
async def opened(engine: Any) -> AsyncGenerator[Any, None]:
    if engine == "memory":
        yield MemoryStorage[int]()
        return
    with new_directory() as directory:
        async with make(directory, engine, "FULL") as storage:
            yield storage


async def measure(engine: str, number: int, seconds: float) -> dict[str, float]:
    """Measure until the scheduler waits: for the first time, and as after a restart, when all of it is stored."""
    found: dict[str, float] = {}
    async with opened(engine) as storage:
        schedules = Schedules(storage)
        found["none"] = await idle(schedules, seconds)
        for start in ("first", "again"):
            with CpuTime() as cpu:
                schedules = define(storage, number)
            found["define"] = cpu.seconds
            async with trio.open_nursery() as nursery:
                with CpuTime() as cpu:
                    await nursery.start(schedules.run)
                    await wait_all_tasks_blocked(0.05)
                found[start] = cpu.seconds
                nursery.cancel_scope.cancel()
        found["idle"] = await idle(schedules, seconds)
    return found


async def idle(schedules: Schedules, seconds: float) -> float:
    """Return the percentage of a core that the process takes while the scheduler waits."""
    async with trio.open_nursery() as nursery:
        await nursery.start(schedules.run)
        await trio.sleep(1)
        with CpuTime() as cpu:
            await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return 100 * cpu.seconds / seconds


def show() -> None:
    number, seconds = size(10_000, 100), size(10, 1)
    print(f"{number:,} schedules, half of them by cron, in a process of its own; CPU seconds")
    print(f"{'':24}{'define':>8}{'first':>8}{'again':>8}{'idle %':>8}{'without':>8}")
    for engine, title in {"memory": "MemoryStorage", **ENGINES}.items():
        found = measure_afresh("schedules", engine=engine, number=number, seconds=seconds)
        if "sorry" in found:
            print(f"  {title:22}{found['sorry']}")
            continue
        start = found["define"] + max(found["first"], found["again"])
        figures = "".join(f"{found[name]:8.2f}" for name in ("define", "first", "again"))
        verdicts = f"{verdict(start, START)} {verdict(found['idle'] - found['none'], IDLE)}"
        print(f"  {title:22}{figures}{found['idle']:8.3f}{found['none']:8.3f}  {verdicts}")


if __name__ == "__main__":
    answer(lambda **terms: trio.run(lambda: measure(**terms)))
