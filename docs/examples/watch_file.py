"""Look at a queue from a program that does no work: how much waits, what has failed, and who works."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from trio_tasks import AbortError, SqliteStorage, Status, Worker


async def work(n: int) -> None:
    if n == 2:
        raise AbortError("two is too many")


async def look(path: Path) -> None:
    async with SqliteStorage(path, int, read_only=True) as storage:
        numbers = await storage.metrics()
        print({name: numbers[name] for name in ("pushed", "waiting", "delayed", "running", "succeeded", "killed")})
        for status in (Status.Failed, Status.Killed):
            for task in await storage.list_tasks(status):
                print(f"dead letter {task.args}: {task.parts.context.error!r}")
        print("workers:", await storage.list_workers())


async def main() -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory, "tasks.db")
        async with SqliteStorage(path, int) as storage:
            ids = await storage.push_bulk([1, 2, 3])
            await storage.push(4, delay=3600)
            async with trio.open_nursery() as nursery:
                context = await nursery.start(Worker("ann", storage, work).run)
                for task_id in ids:
                    await storage.wait_for(task_id)
                await look(path)
                context.stop()


if __name__ == "__main__":
    trio.run(main)
