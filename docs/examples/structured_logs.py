"""The same with structlog, which keeps the fields in context variables."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import structlog
import trio
from trio_tasks import MemoryStorage, Task, Worker
from trio_tasks.layers import Trace

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.KeyValueRenderer(key_order=["event", "task_id", "attempt"]),
    ]
)
log = structlog.get_logger()


def bind_task(task: Task[Any]) -> AbstractContextManager[object]:
    return structlog.contextvars.bound_contextvars(task_id=str(task.parts.id), attempt=int(task.parts.attempt))


async def ship(address: str) -> None:
    log.info("shipped", address=address)
    await trio.lowlevel.checkpoint()


async def main() -> None:
    storage = MemoryStorage[str](queue="orders")
    await storage.push("1 Main Street", id="task-1")
    storage.close()
    await Worker("shipping", storage, ship, layers=[Trace(bind_task)]).run()
    log.info("done")


if __name__ == "__main__":
    trio.run(main)
