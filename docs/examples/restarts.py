"""A backend that fails twice. The monitor starts the worker again, within limits."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import CustomBackend, Monitor, Worker, WorkerContext, constant

failures = iter(["no route to host", "connection reset"])


async def receive() -> str:
    await trio.sleep(1)
    failure = next(failures, None)
    if failure is not None:
        raise ConnectionError(failure)
    if trio.current_time() > 20:
        raise trio.EndOfChannel
    return "a task"


async def handle(args: str) -> None:
    print(f"{trio.current_time():3.0f} s  {args}")


def should_restart(context: WorkerContext, error: Exception, attempt: int) -> bool:
    print(f"{trio.current_time():3.0f} s  run {attempt} of {context.name} ended: {error!r}")
    return attempt < 5


async def main() -> None:
    monitor = Monitor(
        should_restart=should_restart,
        restart_backoff=constant(8),
        max_restarts=3,  # of one worker within …
        restart_period=60,  # … so many seconds; one more failure ends the monitor
    )
    backend = CustomBackend[str](receive=receive)
    monitor.register(lambda attempt: Worker(f"worker-{attempt}", backend, handle, concurrency=1))
    report = await monitor.run()
    print(f"{report.restarts} restarts, {len(report.errors)} errors, {len(report.workers)} runs")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
