"""A process of a test that fires schedules: ``python -m tests.schedules._scheduler_process STORE OFFSET``.

Its wall clock is ahead by the seconds that stand in the file OFFSET.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import trio
from trio_tasks import Schedules, SqliteStorage, cron, every
from trio_tasks._clock import use_wall_clock


def declare(schedules: Schedules) -> None:
    schedules.declare("all", 1, every(seconds=1), missed="all", overlap="allow")
    schedules.declare("latest", 2, every(seconds=1), overlap="allow")
    schedules.declare("minutes", 3, cron("* * * * *", zone="Europe/Berlin"), missed="all", overlap="allow")


async def main(store: str) -> None:
    async with SqliteStorage(store, int, synchronous="NORMAL") as storage:
        schedules = Schedules(storage)
        declare(schedules)
        async with trio.open_nursery() as nursery:
            await nursery.start(schedules.run)
            print("runs", flush=True)


if __name__ == "__main__":
    offset = Path(sys.argv[2])
    with use_wall_clock(lambda: time.time() + float(offset.read_text() or 0)):
        trio.run(main, sys.argv[1])
