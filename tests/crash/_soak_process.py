"""A process of the soak test: it runs workers, or pushes and calls controls, until it is ended.

It opens and closes nothing but at its beginning and end, so what it holds must stay the same; once in a while it writes
down how much that is.
"""

from __future__ import annotations

import gc
import math
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from trio_tasks import Attempt, Monitor, RetryPolicy, SqliteStorage, Status, Task, TaskId, Worker, constant

from tests.crash._child_settings import ChildSettings, LogFile

QUEUES = ("soak", "aside")
_KEEP = 20.0
_SAMPLED_EVERY = 1.0


def storage_of(settings: ChildSettings) -> SqliteStorage[Any]:
    return SqliteStorage(
        Path(settings.directory, "tasks.db"),
        queue=QUEUES[0],
        synchronous="NORMAL",
        driver=settings.driver,
        lease=settings.lease,
        keep_results=_KEEP,
        keep_dead=_KEEP,
    )


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def sample(settings: ChildSettings) -> None:
    """Log the memory and files that this process holds."""
    pen = LogFile(Path(settings.directory, f"{settings.name}.samples"))
    await trio.sleep(3.0)  # what is imported late is there by then
    while True:
        gc.collect()
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  a Path would open one more meanwhile
        pen.write(f"{time.monotonic():.1f} {resident():.2f} {files} {threading.active_count()}")
        await trio.sleep(_SAMPLED_EVERY)


async def work(settings: ChildSettings, storage: SqliteStorage[Any]) -> None:
    """Run two workers, on two queues; some tasks fail, some take long, all report progress."""

    async def handler(task: Task[Any], task_id: TaskId, attempt: Attempt) -> Any:
        kind = task.args["kind"]
        if kind == "failing" and attempt < 3:
            raise ValueError(f"{task_id} fails in its attempt {attempt}")
        if kind == "dead":
            raise ValueError("for good")
        if kind == "long":
            await storage.report_progress(task, {"part": 0.5})
            await trio.sleep(2 * settings.lease)
        else:
            await trio.sleep(0.005)
        return task.args

    retry = RetryPolicy(attempts=4, backoff=constant(0.1))
    monitor = Monitor(shutdown_timeout=0.5, should_restart=lambda *_: True)
    for queue, each in (("main", storage), ("aside", storage.share(queue=QUEUES[1]))):
        queue_rows = Worker(f"{settings.name} {queue}", each, handler, concurrency=32, retry=retry)
        monitor.register(queue_rows)
    await monitor.run_with_signal(signal.SIGTERM)


async def push(settings: ChildSettings, storage: SqliteStorage[Any]) -> None:
    """Call everything that a storage offers to other processes, chosen at random."""
    rng = random.Random(f"{settings.seed} {settings.name}")
    aside = storage.share(queue=QUEUES[1])

    async def wait_for_one() -> None:
        task_id = await storage.push({"kind": "plain"})
        assert (await storage.wait_for(task_id)).status is Status.Done

    async def abort_one() -> None:
        task_id = await storage.push({"kind": "long"}, attempts=1)
        await trio.sleep(1.0)
        await storage.progress_of(task_id)
        await storage.abort(task_id)

    async def cancel_one() -> None:
        task_id = await storage.push({"kind": "plain"}, delay=30.0)
        assert await storage.cancel(task_id)
        await storage.discard(task_id)

    async def look() -> None:
        await storage.metrics()
        await storage.list_tasks(limit=20)
        await storage.list_workers()

    deeds: list[Callable[[], Awaitable[object]]] = [
        lambda: storage.push({"kind": "plain", "filling": "x" * 200}),
        lambda: storage.push_bulk([{"kind": "plain"}] * 50),
        lambda: aside.push_bulk([{"kind": "plain"}] * 20, priority=rng.randrange(3)),
        lambda: storage.push({"kind": "plain"}, delay=rng.random() * 5),
        lambda: storage.push({"kind": "plain"}, unique=f"key {rng.randrange(5)}", on_conflict="replace"),
        lambda: storage.push({"kind": "failing"}),
        lambda: storage.push({"kind": "dead"}, attempts=2),
        lambda: storage.push({"kind": "plain"}, expires_in=1.0),
        lambda: storage.push({"kind": "long"}),
        wait_for_one,
        abort_one,
        cancel_one,
        look,
    ]
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(rng.choice(deeds))
            await trio.sleep(rng.expovariate(settings.rate))


async def main(settings: ChildSettings) -> None:
    async with storage_of(settings) as storage, trio.open_nursery() as nursery:
        nursery.start_soon(sample, settings)
        if settings.rate == math.inf:
            await work(settings, storage)
        else:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                nursery.start_soon(push, settings, storage)
                async for _ in signals:
                    break
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, ChildSettings.given())
