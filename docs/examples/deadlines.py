"""Deadlines that travel: an order has 10 s, and so has all that it pushes."""

from __future__ import annotations

import trio
from trio_tasks import DeadlineError, MemoryStorage, Worker
from trio_tasks.testing import virtual_clock

storage = MemoryStorage[str](deadline="inherit")  # what is pushed has the deadline of its caller


def left() -> str:
    return f"{trio.current_effective_deadline() - trio.current_time():g} s left"


async def handle(step: str) -> None:
    print(f"{trio.current_time():4.1f} s  {step}: {left()}")
    if step == "order":
        await trio.sleep(2)
        await storage.push("payment")
        await storage.push("newsletter", delay=1, deadline=None)  # nobody waits for it
    elif step == "payment":
        await trio.sleep(3)
        await storage.push("invoice")
    elif step == "invoice":
        await trio.sleep(60)  # cut short


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("shop", storage, handle, log=None).run)
        await storage.push("order", deadline=10)
        await trio.sleep(20)
        for task in await storage.list_tasks():
            late = isinstance(task.parts.context.error, DeadlineError)
            print(f"{task.args}: {task.parts.status.value}{', at its deadline' if late else ''}")

        with trio.fail_after(1.5):  # a request that its client gives up by then
            reminder = await storage.push("reminder", delay=5)
        result = await storage.wait_for(reminder)
        print(f"{trio.current_time():4.1f} s  reminder: {result.error}")
        storage.close()


if __name__ == "__main__":
    with virtual_clock() as clock:
        trio.run(main, clock=clock)
