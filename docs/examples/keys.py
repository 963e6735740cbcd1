"""Three customers share a queue: each has its turn, none runs more than two tasks at once, and one has a rate."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import Limits, MemoryStorage, Rate, Task, Worker


async def convert(task: Task[int]) -> None:
    print(f"{trio.current_time():4.1f} s  {task.parts.key}: video {task.args}")
    await trio.sleep(5 + task.args / 10)  # no two end at the same moment


async def main() -> None:
    storage = MemoryStorage[int](limits=Limits(per_key=2))
    await storage.set_limits(Limits(rate_per_key=Rate(1, per=10)), key="trial")
    await storage.push_bulk(range(1, 6), key="big")
    await storage.push(1, key="small")
    last = (await storage.push_bulk([1, 2], key="trial"))[-1]
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("videos", storage, convert, concurrency=4).run)
        await trio.sleep(1)
        explanation = await storage.explain(last)
        print(f"          {explanation.kind}: {explanation.limit} of key {explanation.limit_key!r}")
        storage.close()


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
