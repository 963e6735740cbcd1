"""Log records that say which task they are about."""

from __future__ import annotations

import logging
import sys

import trio
from trio_tasks import MemoryStorage, Worker
from trio_tasks.observe import LogFields

log = logging.getLogger("shop")


def print_label(address: str) -> None:
    log.info("printing the label for %s", address)  # knows nothing of tasks


async def ship(address: str) -> None:
    await trio.to_thread.run_sync(print_label, address)
    log.info("shipped")


async def main() -> None:
    fields = LogFields()
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(fields)
    logging.basicConfig(
        handlers=[handler], level=logging.INFO, format="%(queue)s %(task_id)s attempt=%(attempt)s %(message)s"
    )
    storage = MemoryStorage[str](queue="orders")
    await storage.push("1 Main Street", id="task-1")
    storage.close()
    await Worker("shipping", storage, ship, layers=[fields]).run()
    log.info("done")


if __name__ == "__main__":
    trio.run(main)
