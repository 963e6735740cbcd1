"""Later, at a time, first, only once, or not any more."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Status, Task, Worker


async def run(what: str) -> None:
    print(f"{trio.current_time() / 3600:6.1f} h  {what}")
    await trio.sleep(60)


async def main() -> None:
    storage = MemoryStorage[str]()

    # Later: after some seconds, or at a moment, which must have a time zone.
    await storage.push("in two hours", delay=7200)
    next_month = datetime.now(timezone.utc) + timedelta(days=30)
    await storage.push("next month", run_at=next_month)
    await storage.push_task(Task.builder("in half an hour").run_in_minutes(30).build())

    # First: of those that are ready, the highest priority goes first.
    await storage.push("whenever", priority=-1)
    await storage.push("as usual")
    await storage.push("urgent", priority=10)

    # Only once: while one of this key is unfinished, another is not put in beside it.
    first = await storage.push("report", unique="report")
    second = await storage.push("report again", unique="report")
    print("the same task:", first == second)

    # Not any more: what has not begun in time is killed, and not begun.
    await storage.push("stale news", priority=-2, expires_in=30)

    # Moved, as long as it waits.
    tea = await storage.push("tea", delay=3600)
    await storage.reschedule(tea, 4 * 3600)

    storage.close()  # the worker ends when the last of them is done, in a month
    await Worker("worker", storage, run, concurrency=1).run()
    for task in await storage.list_tasks(Status.Killed):
        print("killed:", task.args)


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
