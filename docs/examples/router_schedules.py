"""Schedules of a router's functions: a monitor fires them beside its workers."""

from __future__ import annotations

from datetime import datetime, timezone

import trio
from trio_tasks import Call, Firing, Injected, MemoryStorage, Router, cron, every
from trio_tasks.testing import virtual_clock

tasks = Router()


@tasks.task
async def report(customer: str = "all", *, firing: Firing = Injected) -> None:
    print(f"{firing.time:%a %H:%M}  report for {customer}, by {firing.schedule!r}")


@tasks.task(queue="checks")
async def check(host: str) -> None:
    print("check", host)


tasks.schedule("nightly", report.bind(), cron("30 2 * * *", zone="Europe/Berlin"), missed="latest")
tasks.schedule("hosts", check.bind("example.com"), every(hours=8), overlap="skip")


async def main() -> None:
    # In your program: tasks.open("sqlite:///shop.db")
    async with tasks.open(MemoryStorage[Call[object]]()) as queues:
        async with queues.monitor({"default": 1, "checks": 1}) as monitor:
            await queues.schedules.put("report-42", report.bind("42"), cron("0 9 * * MON", zone="UTC"))
            await trio.sleep(24 * 3600)
            await queues.schedules.pause("hosts")
            await queues.schedules.run_now("report-42")
            await trio.sleep(24 * 3600)
            for each in await queues.schedules.list():
                print(f"{each.name}: next {each.next:%a %H:%M}" if each.next else f"{each.name}: paused")
            monitor.shutdown()


if __name__ == "__main__":
    # Two days in a moment: in your program, it is trio.run(main).
    with virtual_clock(start=datetime(2026, 11, 28, 12, tzinfo=timezone.utc)) as clock:
        trio.run(main, clock=clock)
