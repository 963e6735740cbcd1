"""The same with structlog, which keeps the fields in context variables."""

from __future__ import annotations

import structlog
import trio
from trio_tasks import MemoryStorage, Worker
from trio_tasks.observe import LogFields

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.KeyValueRenderer(sort_keys=True, key_order=["event", "queue", "task_id", "attempt"]),
    ]
)
log = structlog.get_logger()
fields = LogFields(bind=structlog.contextvars.bound_contextvars)


async def ship(address: str) -> None:
    log.info("shipped", address=address)
    await trio.lowlevel.checkpoint()


async def main() -> None:
    storage = MemoryStorage[str](queue="orders")
    await storage.push("1 Main Street", id="task-1")
    storage.close()
    await Worker("shipping", storage, ship, layers=[fields]).run()
    log.info("done")


if __name__ == "__main__":
    trio.run(main)
