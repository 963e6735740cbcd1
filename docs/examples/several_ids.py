"""Change several tasks by their ids, and see which could not be changed, and why."""

from __future__ import annotations

import trio
from trio_tasks import AbortError, MemoryStorage, Status, Worker


async def refuse(order: str) -> None:
    raise AbortError(f"no such order: {order}")


async def main() -> None:
    storage = MemoryStorage[str]()
    for order in ("tea", "milk", "bread"):
        await storage.push(order, id=order, unique=order)
    await Worker("orders", storage, refuse, log=None).run_until_idle()

    killed = await storage.list_tasks(Status.Killed)
    await storage.push("milk", id="milk again", unique="milk")
    report = await storage.resume_by_id(task.parts.id for task in killed)
    print(report)
    print([str(each) for each in report.changed], report.is_complete)
    for task_id, reason in report.refused.items():
        print(f"not {task_id}: {reason}")


if __name__ == "__main__":
    trio.run(main)
