"""At most three attempts in any ten seconds, over two workers; and one at a time for each tenant."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Metadata, Worker
from trio_tasks.layers import ConcurrencyLimit, RateLimit


async def call_api(number: int) -> None:
    print(f"{trio.current_time():3.0f} s  call {number}")


async def import_file(name: str, metadata: Metadata) -> None:
    print(f"{trio.current_time():3.0f} s  {metadata['tenant']}: {name}")
    await trio.sleep(5)


async def limit_the_rate() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(1, 8))
    storage.close()
    api_limit = RateLimit(3, per=10)  # one object for both workers: it counts over all that share it
    async with trio.open_nursery() as nursery:
        for name in ("left", "right"):
            nursery.start_soon(Worker(name, storage, call_api, layers=[api_limit]).run)


async def limit_by_key() -> None:
    storage = MemoryStorage[str]()
    for tenant, name in (("acme", "a.csv"), ("acme", "b.csv"), ("zeta", "z.csv")):
        await storage.push(name, metadata={"tenant": tenant})
    storage.close()
    by_tenant = ConcurrencyLimit(1, key=lambda task: task.parts.metadata["tenant"])
    await Worker("imports", storage, import_file, layers=[by_tenant]).run()


async def main() -> None:
    await limit_the_rate()
    await limit_by_key()


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
