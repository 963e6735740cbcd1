"""Move all queues from one store to another one, with results, errors and attempts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from trio_tasks import DurableStorage, FileStorage, SqliteStorage, StoredTaskInfo, Worker


async def move(source: DurableStorage[Any], target: DurableStorage[Any]) -> None:
    """Copy the tasks of each queue, 500 in a transaction. It can be repeated after it was interrupted."""
    for name in await source.list_queues():
        from_queue, to_queue = source.share(queue=name), target.share(queue=name)
        after, is_more = None, True
        while is_more:
            page = await from_queue.export_tasks(after, limit=500)
            report = await to_queue.import_tasks(page)
            print(f"{name}: {report}")
            after, is_more = page.next, page.next is not None


async def send(address: str) -> str:
    if "@" not in address:
        raise ValueError(f"{address} is no address")
    return f"sent to {address}"


async def main() -> None:
    with TemporaryDirectory() as directory:
        old, new = Path(directory, "tasks.db"), Path(directory, "tasks.journal")
        async with SqliteStorage(old, queue="emails") as source:
            for number, address in enumerate(["ann@example.com", "nowhere"]):
                await source.push(address, id=f"email-{number}", attempts=1)
            await Worker("ann", source, send, log=None).run_until_idle()
            await source.share(queue="sms").push("+49 30 1234", id="sms-0", delay=3600)
            async with FileStorage(new, queue="emails") as target:
                await move(source, target)
        async with FileStorage(new, queue="emails") as target:
            print((await target.wait_for("email-0")).result)
            failed = await target.fetch_by_id("email-1")
            if failed is not None and isinstance(failed.parts.context, StoredTaskInfo):
                print([attempt.error for attempt in failed.parts.context.history])
            print(await target.audit())


if __name__ == "__main__":
    trio.run(main)
