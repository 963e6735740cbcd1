"""A worker in a process of its own, there to be killed: it writes down how each attempt begins and ends."""

from __future__ import annotations

import random
import signal

import trio
from trio_tasks import (
    Attempt,
    Event,
    Monitor,
    Release,
    RetryAfterError,
    RetryPolicy,
    SqliteStorage,
    Success,
    TaskId,
    Worker,
)

from tests.crash._orders import Orders, Pen


def nap_of(n: int, orders: Orders) -> float:
    """How long the handler takes for ``n``: mostly a moment, sometimes longer than the lease."""
    dice = random.Random(n)
    return 1.5 * orders.lease if dice.random() < 0.003 else min(dice.expovariate(1 / orders.nap), 10 * orders.nap)


def fails_at_first(n: int) -> bool:
    """Whether the first attempt at ``n`` raises."""
    return n % 40 == 7


def worker_of(orders: Orders, storage: SqliteStorage[int]) -> Worker[int, int]:
    """The worker."""
    pen = Pen(orders.log)

    async def handler(n: int, task_id: TaskId, attempt: Attempt) -> int:
        pen.note("start", task_id, attempt)
        await trio.sleep(nap_of(n, orders))
        if fails_at_first(n) and attempt == 1:
            pen.note("raise", task_id, attempt)
            raise RetryAfterError("as it was told to", 0.2)
        pen.note("end", task_id, attempt)
        return n

    def listen(_: object, event: Event) -> None:
        if isinstance(event, Success):
            pen.note("settled", event.task.parts.id, event.task.parts.attempt)
        elif isinstance(event, Release):
            kind = "lost" if "lease" in event.reason else "released"
            pen.note(kind, event.task.parts.id, event.task.parts.attempt)

    many = RetryPolicy(attempts=1000)
    return Worker(orders.name, storage, handler, concurrency=orders.concurrency, retry=many, on_event=listen)


async def wait_for_sigterm() -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return


async def main(orders: Orders) -> None:
    async with orders.storage() as storage:
        worker = worker_of(orders, storage)
        if orders.with_monitor:
            monitor = Monitor(shutdown_timeout=10)
            monitor.register(worker)
            await monitor.run_with_signal(signal.SIGTERM)
        else:
            await worker.run_until(wait_for_sigterm)


if __name__ == "__main__":
    trio.run(main, Orders.given())
