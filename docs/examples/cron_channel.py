"""A handler that is called by a schedule, in one process."""

from __future__ import annotations

from datetime import datetime, timezone

import trio
from trio_tasks import Cron, Firing, Worker, WorkerContext, cron
from trio_tasks.testing import virtual_clock


async def write_report(firing: Firing, context: WorkerContext) -> None:
    since = firing.previous and f"{firing.previous:%a %H:%M %z}"
    print(f"{firing.time:%a %H:%M %z}, since {since}")
    if firing.time.day == 31:
        context.stop()


async def main() -> None:
    on_weekdays = cron("30 2 * * *", zone="Europe/Berlin").on(lambda day: day.weekday() < 5)
    await Worker("reports", Cron(on_weekdays), write_report).run()


if __name__ == "__main__":
    # Some days in a moment: in your program, it is trio.run(main).
    with virtual_clock(start=datetime(2026, 3, 26, 12, tzinfo=timezone.utc)) as clock:
        trio.run(main, clock=clock)
