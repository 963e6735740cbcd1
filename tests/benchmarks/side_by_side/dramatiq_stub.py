"""dramatiq's broker for tests, the only one that it has in memory, with a worker of 100 threads."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.stub import StubBroker

from ..measuring import MICRO, CpuTime
from . import LOAD


def no_op(n: int) -> None:
    """An actor that does nothing."""


def measure() -> float:
    broker = StubBroker()
    actor = dramatiq.actor(broker=broker)(no_op)
    worker = dramatiq.Worker(broker, worker_threads=LOAD.concurrency)
    with CpuTime() as cpu:
        for n in range(LOAD.tasks):
            actor.send(n)
        worker.start()
        broker.join(actor.queue_name)
        worker.stop()
    return float(cpu.seconds / LOAD.tasks)


if __name__ == "__main__":
    print(measure() * MICRO)
