"""Four errors, and what becomes of the tasks that met them."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    Attempt,
    DeferredError,
    Error,
    Event,
    MemoryStorage,
    RetryAfterError,
    RetryPolicy,
    Success,
    Worker,
    WorkerContext,
    exponential,
)


async def forecast(city: str, attempt: Attempt) -> str:
    if city == "Atlantis":
        raise AbortError("no such city")  # never again
    if city == "Paris" and attempt == 1:
        raise RetryAfterError("too many requests", delay=30)  # again in half a minute
    if city == "Oslo" and attempt == 1:
        raise DeferredError("no data yet")  # again at once, behind those who wait
    if city == "Rome":
        raise ConnectionError("the line dropped")  # as the policy says
    return "sunny"


def tell(context: WorkerContext, event: Event) -> None:
    if isinstance(event, Success):
        print(f"{trio.current_time():4.0f} s  {event.task.args}: {event.result}")
    if isinstance(event, Error):
        print(f"{trio.current_time():4.0f} s  {event.task.args}: {event.outcome}")


async def main() -> None:
    storage = MemoryStorage[str]()
    policy = RetryPolicy(attempts=4, backoff=exponential(10, maximum=3600))
    worker = Worker("weather", storage, forecast, concurrency=1, retry=policy, on_event=tell)
    await storage.push_bulk(["Atlantis", "Oslo", "Paris", "Rome"])
    storage.close()
    await worker.run()


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))  # a clock that jumps: no waiting for a minute
