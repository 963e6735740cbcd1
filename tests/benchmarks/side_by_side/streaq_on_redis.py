"""streaq on trio, over a Redis on this machine if there is one; what it wrote there is deleted afterwards."""

from __future__ import annotations

import os
import socket
from itertools import count

import trio
from streaq import Worker

from ..measuring import MICRO, CpuTime
from . import LOAD

ADDRESS = ("127.0.0.1", 6379)
TASKS = LOAD.tasks // 10  # each takes long enough

worker = Worker(
    redis_url="redis://{}:{}".format(*ADDRESS),
    concurrency=LOAD.concurrency,
    queue_name=f"trio_tasks_benchmark_{os.getpid()}",
    handle_signals=False,
    anyio_backend="trio",
)


async def measure() -> float:
    handled, all_handled = count(1), trio.Event()

    async def no_op(n: int) -> None:
        if next(handled) == TASKS:
            all_handled.set()

    task = worker.task(silent=True)(no_op)
    with CpuTime() as cpu:
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run_async)
            await worker.enqueue_many([task.enqueue(n) for n in range(TASKS)])
            await all_handled.wait()
            await trio.sleep(0.5)  # while it settles the last of them
            nursery.cancel_scope.cancel()
    await clean_up()
    return cpu.seconds / TASKS


async def clean_up() -> None:
    async with worker:
        keys = [key async for key in worker.redis.scan_iter(match=f"{worker.prefix}*")]
        if keys:
            await worker.redis.delete(keys)


def server_answers() -> bool:
    try:
        socket.create_connection(ADDRESS, timeout=1.0).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if server_answers():
        print(trio.run(measure) * MICRO)
    else:
        print("needs a Redis at {}:{}".format(*ADDRESS))
