import trio
from trio_tasks import MemoryStorage, Worker

async def double(n: int) -> int:
    return n * 2

async def main() -> None:
    storage = MemoryStorage[int]()
    worker = Worker("doubler", storage, double, on_event=print)   # on_event(context, event)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await storage.push(21)
        storage.close()              # nothing more will be pushed: the worker finishes and returns

trio.run(main)
