"""A child process of a test: it runs one of the programs below, and exchanges lines with the test.

``python -m tests.storages._child PROGRAM PATH [ARGUMENT ...]``.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio
from trio_tasks import (
    AbortError,
    BackendError,
    FileStorage,
    Monitor,
    RetryPolicy,
    SqliteStorage,
    SuspendError,
    Task,
    Worker,
    WorkerContext,
)
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.layers import CircuitBreaker, ConcurrencyLimit, RateLimit

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

ROOT = Path(__file__).parents[2]
LEASE = 1.0
NEVER = 3600.0
"""Seconds between two looks at the file: so long that only the wakeup_socket can have woken anybody."""
UNPRIVILEGED = 65534
INTERRUPTED = 7


def say(*words: object) -> None:
    print(*words, flush=True)


async def hear() -> str:
    """The next line that this process is told."""
    line: str = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return line.strip()


def open_storage(path: Path, *, lease: float = LEASE, poll_interval: float = 1.0) -> SqliteStorage[float]:
    return SqliteStorage[float](path, float, lease=lease, poll_interval=poll_interval)


def worker_that_tells(storage: SqliteStorage[float], *, concurrency: int = 2) -> Worker[float, str]:
    """Its handler sleeps for its args; each of its steps is said."""

    async def handler(task: Task[float]) -> str:
        say("begins", task.parts.id, int(task.parts.attempt))
        try:
            await trio.sleep(task.args)
        except trio.Cancelled:
            say("cancelled", task.parts.id)
            raise
        return "slept"

    def listen(_: object, event: object) -> None:
        task = getattr(event, "task", None)
        say(type(event).__name__.lower(), *([task.parts.id] if task else []), getattr(event, "reason", ""))

    return Worker("told", storage, handler, concurrency=concurrency, on_event=listen)


async def push_once(path: Path, driver: Any) -> None:
    """Open it, by this driver, push, and close it again."""
    async with SqliteStorage[float](path, float, driver=driver or None) as storage:
        await storage.push(0.0)


async def work(path: Path) -> None:
    """Work until told to stop."""
    async with open_storage(path) as storage:
        await worker_that_tells(storage).run_until(hear)


async def be_busy(path: Path) -> None:
    """Push and work as fast as may be, until something ends it."""
    async with open_storage(path) as storage:

        async def handler(seconds: float) -> None:
            await trio.sleep(seconds)

        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("busy", storage, handler).run)
            say("busy")
            while True:
                await storage.push(0.001)


async def work_for_calls(path: Path, lease: str) -> None:
    """Work; say when an attempt begins, and append to a file beside the store when it does, and when it has ended."""

    def note(word: str, task: Task[float]) -> None:
        with path.with_suffix(".notes").open("a") as file:
            file.write(f"{word} {task.parts.id} {time.monotonic()}\n")

    async def handler(task: Task[float]) -> str:
        note("begins", task)
        say("begins", task.parts.id)
        try:
            await trio.sleep(task.args)
            return "slept"
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.002)
            note("ended", task)

    async def hear_meanwhile() -> str:
        say("works")
        return await hear()

    async with open_storage(path, lease=float(lease), poll_interval=NEVER) as storage:
        await Worker("called", storage, handler, concurrency=1).run_until(hear_meanwhile)


async def work_without_a_net(path: Path) -> None:
    """The same; only the wakeup_socket can wake it."""
    async with open_storage(path, lease=NEVER, poll_interval=NEVER) as storage:

        async def handler(task: Task[float]) -> str:
            say("begins", task.parts.id)
            await storage.report_progress(task, {"half": True})
            say("reported")
            await trio.sleep(task.args)
            return "slept"

        async def hear_meanwhile() -> str:
            say("works")
            return await hear()

        await Worker("alone", storage, handler).run_until(hear_meanwhile)


async def work_within_limits(path: Path, log: str) -> None:
    """Work until something ends it; write the beginning and the end of each attempt into a file that many share."""
    with open(log, "ab", buffering=0) as file:  # noqa: PTH123, ASYNC230  each line is one write, at the end of the file

        async def handler(task: Task[float]) -> None:
            file.write(f"begin {task.parts.key} {task.parts.id}\n".encode())  # noqa: ASYNC232  a short line
            await trio.sleep(task.args)
            file.write(f"end {task.parts.key} {task.parts.id}\n".encode())  # noqa: ASYNC232  a short line

        async with open_storage(path) as storage:
            await Worker("limited", storage, handler, concurrency=8, retry=RetryPolicy(attempts=1000)).run()


async def work_in_monitor(path: Path) -> None:
    """Work until SIGTERM, and not much longer."""
    monitor = Monitor(shutdown_timeout=0.1)
    async with open_storage(path) as storage:
        monitor.register(worker_that_tells(storage))
        await monitor.run_with_signal(signal.SIGTERM)


async def work_by_two(path: Path) -> None:
    """Two workers on one queue, each with two slots; each attempt is said with the worker that makes it."""
    async with open_storage(path) as storage:

        async def handler(task: Task[float], context: WorkerContext) -> None:
            say("begins", task.parts.id, context.name)
            await trio.sleep(task.args)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                await nursery.start(Worker(name, storage, handler, concurrency=2).run)
            say("works")


async def unprivileged(path: Path) -> None:
    """Open it, and push, without the right to write there."""
    if os.geteuid() == 0:
        with TemporaryDirectory() as name:  # whatever is imported on the way may be out of reach for nobody
            async with open_storage(Path(name, "tasks.db")) as storage:
                await storage.push(0.0)
        os.setuid(UNPRIVILEGED)
    try:
        async with open_storage(path) as storage:
            await storage.push(0.0)
    except BackendError as error:
        say("refused", error)
    else:
        say("pushed")


async def run_out_of_room(path: Path) -> None:
    """A disk that is full for longer than a lease, while a worker runs a task."""
    lost = 0
    async with open_storage(path) as storage:
        worker = worker_that_tells(storage)
        async with trio.open_nursery() as nursery:
            context = await nursery.start(worker.run)
            for _ in range(20):
                await storage.push(0.0)
            running = await storage.push(0.5)
            await trio.sleep(0.1)
            log = os.stat(f"{path}-wal").st_size  # noqa: PTH116  a Path is not to be used in an async function
            resource.setrlimit(resource.RLIMIT_FSIZE, (log, resource.RLIM_INFINITY))
            for _ in range(10):
                try:
                    await storage.push(0.0)
                except BackendError as error:
                    lost += 1
                    say("refused", error)
                await trio.sleep(0.15)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            with trio.fail_after(60):
                say("ended", (await storage.wait_for(running)).status.value)
                last = await storage.push(0.0)
                say("ended", (await storage.wait_for(last)).status.value)
            context.stop()
        metrics = await storage.metrics()
        say("books", metrics["pushed"] + lost, metrics["succeeded"] + lost, metrics["waiting"] + metrics["running"])


def fork_and_push(storage: SqliteStorage[float]) -> int:
    """Fork, outside of any run, and push in a run of the forked process's own; returns its number to the parent."""
    child = os.fork()
    if not child:
        signal.alarm(5)
        code = 1
        try:
            trio.run(storage.push, 2.0)
        except (RuntimeError, BackendError, trio.ClosedResourceError) as error:
            say("refused", error)
            code = 0
        finally:
            os._exit(code)
    return child


async def fork(path: Path) -> None:
    """A forked process that uses its parent's storage."""
    async with open_storage(path) as storage:
        await storage.push(1.0)
        sys.stdout.flush()
        child = await trio.to_thread.run_sync(fork_and_push, storage)
        _, status = await trio.to_thread.run_sync(os.waitpid, child, 0)
        say("child", status)
        await storage.push(3.0)
        say("books", (await storage.metrics())["pushed"])


class Gate:
    """A layer that lets no task in, and says why."""

    async def __call__(self, handler: Any, task: Task[float]) -> Any:
        return await handler(task)

    async def ready(self) -> None:
        await trio.sleep_forever()

    def explain(self) -> str:
        return "the tide is low"


class Resizer:
    """A handler that knows one kind of task."""

    task_names = frozenset({"resize"})

    async def __call__(self, task: Task[float]) -> None:
        await trio.sleep_forever()


async def sleep_or_end(seconds: float) -> None:
    """Sleep; or, for a negative number, end by an error, or a suspension."""
    if seconds == -1:
        raise AbortError("no luck")
    if seconds == -2:
        raise SuspendError(3600, "the server rests")
    await trio.sleep(seconds)


def workers_to_be_explained(storage: SqliteStorage[float]) -> list[Worker[float, None]]:
    """A worker for each reason not to take a task, each on a queue of its own."""
    layers: dict[str, list[Any]] = {
        "slot": [],
        "paused": [],
        "limit": [ConcurrencyLimit(1)],
        "rate": [RateLimit(1, per=3600)],
        "breaker": [CircuitBreaker(1, recovery_timeout=3600)],
        "own": [Gate()],
    }
    made: list[Any] = [
        Worker(name, storage.share(queue=name), sleep_or_end, concurrency=1 if name == "slot" else 2, layers=each)
        for name, each in layers.items()
    ]
    return [*made, Worker("names", storage.share(queue="names"), Resizer())]


async def be_explained(path: Path) -> None:
    """Run workers that do not take each task. They tell of themselves only if they are asked, but for one that cannot
    be woken, and polls."""
    async with (
        open_storage(path, lease=NEVER, poll_interval=NEVER) as storage,
        open_storage(path, lease=NEVER, poll_interval=0.02) as polling,
        trio.open_nursery() as nursery,
    ):
        contexts = [await nursery.start(each.run) for each in workers_to_be_explained(storage)]
        await nursery.start(Worker("polling", polling.share(queue="polling"), sleep_or_end).run)
        say("works")
        while (line := await hear()) != "end":
            for context in contexts:
                if context.name == line:
                    context.pause()
            say("done", line)
        nursery.cancel_scope.cancel()


async def fill_journal(path: Path) -> None:
    """Put a task in each state into a journal, one of them under an attempt; say their ids."""
    async with FileStorage[float](path, float) as storage, trio.open_nursery() as nursery:
        tasks = {"running": 3600.0, "waiting": 0.0, "suspended": -2.0, "killed": -1.0, "done": 0.0, "delayed": 0.0}
        ids: dict[str, str] = {}
        for name in ("done", "killed", "suspended", "running"):
            ids[name] = await storage.push(tasks[name], priority=1)
        ids["delayed"] = await storage.push(0.0, delay=3600.0)
        context = await nursery.start(Worker("writer", storage, sleep_or_end, concurrency=1).run)
        while context.statistics().suspended < 1 or not context.running_tasks:  # noqa: ASYNC110  it is told nowhere else
            await trio.sleep(0.001)
        ids["waiting"] = await storage.push(0.0)
        other = storage.share(queue="other")
        ids["paused"] = await other.push(0.0)
        await other.pause()
        for name, task_id in ids.items():
            say(name, task_id)
        say("end")
        await hear()
        nursery.cancel_scope.cancel()


PROGRAMS: dict[str, Callable[..., Awaitable[None]]] = {
    program.__name__: program
    for program in (
        be_explained,
        fill_journal,
        push_once,
        work,
        be_busy,
        work_for_calls,
        work_without_a_net,
        work_within_limits,
        work_in_monitor,
        work_by_two,
        unprivileged,
        run_out_of_room,
        fork,
    )
}


class Child:
    """The test's end of a child process."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._heard = b""

    async def hear(self) -> str:
        """Return the next line that the child prints; empty at its end."""
        assert self.process.stdout is not None
        while b"\n" not in self._heard:
            more = await self.process.stdout.receive_some()
            if not more:
                break
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().strip()

    async def hear_of(self, word: str) -> str:
        """Return the next line that begins with this word."""
        while line := await self.hear():
            if line.split()[0] == word:
                return line
        raise AssertionError(f"it ended, and never said {word!r}")

    async def hear_all(self) -> list[str]:
        """Return all lines that are left; the child ends."""
        lines: list[str] = []
        while line := await self.hear():
            lines.append(line)
        await self.process.wait()
        return lines

    async def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{line}\n".encode())


@asynccontextmanager
async def child(
    program: Callable[..., Any], path: Path, *args: str, patience: float = 120.0
) -> AsyncGenerator[Child, None]:
    """Run one of the programs beside the block."""
    command = [sys.executable, "-m", "tests.storages._child", program.__name__, str(path), *args]
    with trio.fail_after(patience):
        process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, cwd=ROOT)
        try:
            yield Child(process)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        await pipe.aclose()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
    try:
        trio.run(PROGRAMS[sys.argv[1]], Path(sys.argv[2]), *sys.argv[3:])
    except (KeyboardInterrupt, BaseExceptionGroup) as interrupt:
        if not any(isinstance(each, KeyboardInterrupt) for each in leaves(interrupt)):
            raise
        say("interrupted")
        sys.exit(INTERRUPTED)
