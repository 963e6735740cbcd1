"""A handler that pushes tasks into its own queue and waits for them: it lends its slot while it waits."""

import trio
from trio_tasks import MemoryStorage, Worker

storage = MemoryStorage[list[int]]()


async def total(numbers: list[int]) -> int:
    if len(numbers) == 1:
        return numbers[0]
    middle = len(numbers) // 2
    ids = await storage.push_bulk([numbers[:middle], numbers[middle:]])
    halves = [(await storage.wait_for(each)).unwrap() for each in ids]
    return sum(halves)


async def main() -> None:
    worker = Worker("adder", storage, total, concurrency=4)
    async with trio.open_nursery() as nursery:
        context = await nursery.start(worker.run)
        with trio.fail_after(10):
            result = await storage.wait_for(await storage.push([1, 2, 3, 4, 5, 6, 7, 8]))
        print(result.unwrap(), "by", context.statistics().succeeded, "tasks")
        context.stop()


trio.run(main)
