"""A remote service is down for five minutes. After three failures it is not called for a while."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, RetryPolicy, Worker, constant
from trio_tasks.layers import CircuitBreaker


async def call(number: int) -> None:
    up = trio.current_time() >= 300
    print(f"{trio.current_time():4.0f} s  call {number}: {'ok' if up else 'connection refused'}")
    if not up:
        raise ConnectionError("connection refused")


async def main() -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(1, 5))
    storage.close()
    breaker = CircuitBreaker(failure_threshold=3, recovery_timeout=120, half_open_max_calls=1)
    policy = RetryPolicy(attempts=10, backoff=constant(1))
    worker = Worker("caller", storage, call, concurrency=1, layers=[breaker], retry=policy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(60)
        print(f"  60 s  the breaker is {breaker.state}, and {storage.statistics().waiting} tasks wait")
    print(f"{trio.current_time():4.0f} s  the breaker is {breaker.state}")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
