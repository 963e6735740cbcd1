"""A shutdown that has ten seconds, and tasks that need four and forty."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import Event, MemoryStorage, Monitor, Release, Success, Worker, WorkerContext


async def work(seconds: float) -> None:
    try:
        await trio.sleep(seconds)
    finally:
        with trio.move_on_after(2, shield=True):  # cleaning up, within bounds
            await trio.sleep(0.9)


def tell(context: WorkerContext, event: Event) -> None:
    if isinstance(event, (Success, Release)):
        print(f"{trio.current_time():4.0f} s  {event.task.args} s of work: {event.task.parts.status}")


async def main() -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([4.0, 40.0, 4.0])
    monitor = Monitor(shutdown_timeout=10, on_event=tell)
    monitor.register(Worker("worker", storage, work, concurrency=2))
    async with trio.open_nursery() as nursery:
        await nursery.start(monitor.run)
        await trio.sleep(1)
        monitor.shutdown()
    print(monitor.report)
    print(storage)


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
