"""huey's storage in memory, with a consumer of 100 threads."""

from __future__ import annotations

import time

from huey import MemoryHuey

from ..measuring import MICRO, CpuTime
from . import LOAD


def no_op(n: int) -> None:
    """A task that does nothing."""


def measure() -> float:
    huey = MemoryHuey()
    task = huey.task()(no_op)
    consumer = huey.create_consumer(workers=LOAD.concurrency, periodic=False)
    with CpuTime() as cpu:
        for n in range(LOAD.tasks):
            task(n)
        consumer.start()
        while huey.pending_count():
            time.sleep(0.01)
        consumer.stop(graceful=True)
    return float(cpu.seconds / LOAD.tasks)


if __name__ == "__main__":
    print(min(measure() for _ in range(3)) * MICRO)
