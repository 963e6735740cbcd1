"""What a worker says, to a log and to a counter."""

from __future__ import annotations

import logging
import sys
from collections import Counter

import trio
from trio_tasks import (
    AbortError,
    Custom,
    Error,
    Event,
    MemoryStorage,
    Release,
    Success,
    Worker,
    WorkerContext,
)

log = logging.getLogger("shop")
counts: Counter[str] = Counter()


def write_to_log(context: WorkerContext, event: Event) -> None:
    match event:
        case Success(task, result):
            log.info("%s: task %s gave %r", context.name, task.parts.id, result)
        case Error(task, error, outcome):
            log.warning("%s: task %s: %s, and so %s", context.name, task.parts.id, error, type(outcome).__name__)
        case Release(task, reason):
            log.info("%s: task %s was given back: %s", context.name, task.parts.id, reason)
        case Custom(value):
            log.info("%s: %s", context.name, value)
        case _:
            log.debug("%s: %s", context.name, event)


def count(context: WorkerContext, event: Event) -> None:
    counts[type(event).__name__] += 1


async def sell(item: str, context: WorkerContext) -> str:
    if item == "unicorn":
        raise AbortError("out of stock")
    context.emit(Custom(f"{item} is being packed"))
    return f"one {item}"


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)-7s %(message)s")
    storage = MemoryStorage[str]()
    await storage.push("apple", id="1")
    await storage.push("unicorn", id="2")
    storage.close()
    # log=None, since write_to_log tells of what fails.
    worker = Worker("shop", storage, sell, concurrency=1, on_event=[write_to_log, count], log=None)
    report = await worker.run()
    print(f"counted: {counts['Engage']} begun, {counts['Success']} sold; reported: {report.killed} killed")
    print(f"in the storage: {storage.statistics().waiting} waiting, {storage.statistics().dead} dead letters")


if __name__ == "__main__":
    trio.run(main)
