"""Schedules that are stored: each time is fired once, over all processes, also after a while without any."""

from __future__ import annotations

import tempfile
from datetime import datetime, timezone
from pathlib import Path

import trio
from trio_tasks import Firing, Schedules, SqliteStorage, Worker, cron, every
from trio_tasks.testing import virtual_clock

HOUR = 3600


async def report(about: str, firing: Firing) -> None:
    print(f"{firing.time:%a %H:%M}  {about}, by {firing.schedule!r}")


async def run(path: Path, hours: float) -> None:
    """A process: a worker, and beside it the scheduler. There may be several of them."""
    async with SqliteStorage(path, str) as storage, trio.open_nursery() as nursery:
        schedules = Schedules(storage)
        # In the code: stored, and kept as it stands here, whenever a process starts.
        schedules.declare("nightly", "the day", cron("30 2 * * *", zone="Europe/Berlin"))
        nursery.start_soon(Worker("reports", storage, report, concurrency=1).run)
        nursery.start_soon(schedules.run)
        await trio.sleep(hours * HOUR)
        nursery.cancel_scope.cancel()


async def main() -> None:
    path = Path(tempfile.mkdtemp(), "tasks.db")

    # At run time: stored, from whatever process.
    async with SqliteStorage(path, str) as storage:
        schedules = Schedules(storage)
        await schedules.put("customer-42", "their orders", every(hours=12), attempts=3)

    await run(path, 24)
    print("nobody runs for two days")
    await trio.sleep(48 * HOUR)
    await run(path, 6)

    async with SqliteStorage(path, str) as storage:
        schedules = Schedules(storage)
        await schedules.pause("customer-42")
        await schedules.run_now("nightly")
        for each in await schedules.list():
            print(each.name, each.spec, "is paused" if each.is_paused else "")
    await run(path, 1)


if __name__ == "__main__":
    # Some days in a moment: in your program, it is trio.run(main).
    with virtual_clock(start=datetime(2026, 3, 26, 11, tzinfo=timezone.utc)) as clock:
        trio.run(main, clock=clock)
