"""The first SIGTERM stops intake and lets attempts finish; a second one ends them now."""

from __future__ import annotations

import os
import signal

import trio
from trio_tasks import MemoryStorage, Monitor, Worker


async def work(seconds: float) -> None:
    if seconds == 0.1:
        os.kill(os.getpid(), signal.SIGTERM)  # as systemd would, in the middle of a task
    await trio.sleep(seconds)


async def main() -> None:
    storage = MemoryStorage[float]()
    await storage.push_bulk([0.1, 3600.0, 0.2])
    monitor = Monitor(shutdown_timeout=2)
    monitor.register(Worker("worker", storage, work, concurrency=2))
    report = await monitor.run_with_signal()
    print(report)
    print(storage)


if __name__ == "__main__":
    trio.run(main)
