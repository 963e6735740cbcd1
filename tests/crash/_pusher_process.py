"""A pusher process that may be killed: it logs each push before and after it.

It pushes the numbers from 0 on, each once. Those of which its predecessor did not learn whether they were taken are
pushed again if they had an id of their own, which makes them count once; the others are left as they are.
"""

from __future__ import annotations

import random
import signal
from typing import Any

import trio
from trio_tasks import DuplicateTaskError, SqliteStorage, TaskBuilder

from tests.crash._audit import Ledger
from tests.crash._child_settings import ChildSettings, LogFile


def id_of(n: int) -> str:
    """Return the id for a number that is pushed alone."""
    return f"n{n:07}"


async def push_one(storage: SqliteStorage[Any], file: LogFile, n: int, delay: float) -> None:
    task = TaskBuilder(n).id(id_of(n)).run_in_seconds(delay).build() if delay else TaskBuilder(n).id(id_of(n)).build()
    try:
        await storage.push_task(task)
    except DuplicateTaskError:
        file.write(f"known {n}")
    file.write(f"ack {n} {id_of(n)}")


async def push_many(storage: SqliteStorage[Any], file: LogFile, first: int, end: int) -> None:
    ids = await storage.push_bulk(range(first, end))
    file.write(f"ack {first} {' '.join(ids)}")


async def push(settings: ChildSettings) -> None:
    ledger = Ledger.read(settings.ledger)
    rng = random.Random(f"{settings.seed} {settings.name}")
    file = LogFile(settings.ledger)
    file.write("")  # ends a line that was torn
    n = ledger.end
    async with settings.storage() as storage:
        settings.say_up()
        async with trio.open_nursery() as nursery:
            for unsure in ledger.unsure_singles:
                nursery.start_soon(push_one, storage, file, unsure, 0.0)
        async with trio.open_nursery() as nursery:
            while True:
                many = rng.randrange(2, 40) if rng.random() < 0.1 else 1
                file.write(f"try {n} {n + many}")
                if many > 1:
                    nursery.start_soon(push_many, storage, file, n, n + many)
                else:
                    delay = rng.random() if rng.random() < 0.1 else 0.0
                    nursery.start_soon(push_one, storage, file, n, delay)
                n += many
                await trio.sleep(rng.expovariate(settings.rate / many))


async def main(settings: ChildSettings) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, settings)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


if __name__ == "__main__":
    trio.run(main, ChildSettings.given())
