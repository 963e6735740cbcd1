"""A worker process that may be killed: it logs the beginning and the end of each attempt."""

from __future__ import annotations

import random
import signal
import time
from functools import partial

import trio
from trio_tasks import (
    Event,
    Monitor,
    Release,
    RetryAfterError,
    RetryPolicy,
    SqliteStorage,
    Start,
    Success,
    Task,
    Worker,
)

from tests.crash._child_settings import ChildSettings, LogFile


def nap_of(n: int, settings: ChildSettings) -> float:
    """Return how long the handler takes for ``n``: mostly a moment, sometimes longer than the lease."""
    rng = random.Random(n)
    return 1.5 * settings.lease if rng.random() < 0.003 else min(rng.expovariate(1 / settings.nap), 10 * settings.nap)


def fails_at_first(n: int) -> bool:
    """Return True if the first attempt at ``n`` raises."""
    return n % 40 == 7


def worker_of(settings: ChildSettings, storage: SqliteStorage[int]) -> Worker[int, int]:
    """Make the worker."""
    pen = LogFile(settings.log)

    async def handler(task: Task[int]) -> int:
        n, task_id, attempt = task.args, task.parts.id, task.parts.attempt
        since_claimed = storage._engine.now() - (task.parts.context.until - settings.lease)
        pen.note("start", task_id, attempt)
        pen.note("claim", task_id, attempt, time.monotonic() - since_claimed)
        await trio.sleep(nap_of(n, settings))
        if fails_at_first(n) and attempt == 1:
            pen.note("raise", task_id, attempt)
            raise RetryAfterError("as it was told to", 0.2)
        pen.note("end", task_id, attempt)
        return n

    def listen(_: object, event: Event) -> None:
        if isinstance(event, Start) and settings.with_monitor:  # which has opened its signals before
            settings.say_up()
        elif isinstance(event, Success):
            pen.note("settled", event.task.parts.id, event.task.parts.attempt)
        elif isinstance(event, Release):
            kind = "lost" if "lease" in event.reason else "released"
            pen.note(kind, event.task.parts.id, event.task.parts.attempt)

    many = RetryPolicy(attempts=1000)
    return Worker(settings.name, storage, handler, concurrency=settings.concurrency, retry=many, on_event=listen)


async def wait_for_sigterm(settings: ChildSettings) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        settings.say_up()
        async for _ in signals:
            return


async def main(settings: ChildSettings) -> None:
    async with settings.storage() as storage:
        worker = worker_of(settings, storage)
        if settings.with_monitor:
            monitor = Monitor(shutdown_timeout=10)
            monitor.register(worker)
            await monitor.run_with_signal(signal.SIGTERM)
        else:
            await worker.run_until(partial(wait_for_sigterm, settings))


if __name__ == "__main__":
    trio.run(main, ChildSettings.given())
