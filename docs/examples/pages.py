"""Dead letters of one tenant, page by page, the newest first."""

from __future__ import annotations

import trio
from trio_tasks import AbortError, MemoryStorage, Status, Task, Worker


async def refuse(number: int) -> None:
    raise AbortError(f"no such order: {number}")


async def main() -> None:
    storage = MemoryStorage[int]()
    for number in range(5):
        await storage.push_task(Task.builder(number).metadata(tenant="acme" if number % 2 else "ajax").build())
    storage.close()
    await Worker("orders", storage, refuse, log=None).run()

    ajax = {"tenant": "ajax"}
    page = await storage.list_tasks(Status.Killed, metadata=ajax, newest_first=True, limit=2)
    print([task.args for task in page])
    while page.next is not None:
        page = await storage.list_tasks(Status.Killed, metadata=ajax, newest_first=True, limit=2, after=page.next)
        print([task.args for task in page])


if __name__ == "__main__":
    trio.run(main)
