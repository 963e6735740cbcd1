"""Three customers share a queue: each has its turn, none runs more than two tasks at once, and one has a rate."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import Limits, MemoryStorage, Rate, Task, Worker


async def convert(task: Task[str]) -> None:
    print(f"{trio.current_time():2.0f} s  {task.parts.key}: {task.args}")
    await trio.sleep(5)


async def main() -> None:
    storage = MemoryStorage[str](limits=Limits(per_key=2))
    await storage.set_limits(Limits(rate_per_key=Rate(1, per=10)), key="trial")
    await storage.push_bulk([f"video {n}" for n in range(1, 6)], key="big")
    await storage.push("video 1", key="small")
    last = (await storage.push_bulk(["video 1", "video 2"], key="trial"))[-1]
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("videos", storage, convert, concurrency=4).run)
        await trio.sleep(1)
        explanation = await storage.explain(last)
        print(f"         {explanation.kind}: {explanation.limit} of key {explanation.limit_key!r}")
        storage.close()


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
