"""Processes that are killed at the moment when a worker's ``run()`` has returned, and the state of their stores.

``python -m tests.promises._ended_process KIND WAY TRIALS DIRECTORY`` makes so many trials, and says as JSON what was
wrong in each. This process has no threads, so that each trial can be a fork of it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from trio_tasks import FileStorage, Monitor, SqliteStorage, Status, Worker, WorkerContext

TASKS = 40
SLOTS = 4
KINDS = ("sqlite", "file")


def open_storage(kind: str, path: str) -> Any:
    if kind == "sqlite":
        return SqliteStorage(path, int, synchronous="NORMAL", lease=60.0)
    return FileStorage(path, int, synchronous="NORMAL", lease=60.0)


def make_worker(storage: Any, rng: random.Random) -> Worker[int, None]:
    async def handler(n: int) -> None:  # noqa: ASYNC910  one that does not always wait is the point of it
        if n % 3:
            await trio.sleep(rng.choice([0.0, 0.001, 0.02]))

    return Worker("ended", storage, handler, concurrency=SLOTS)


# The ways in which a run ends


async def cancel(worker: Worker[Any, Any], after: float) -> None:
    with trio.move_on_after(after):
        await worker.run()


async def stop(worker: Worker[Any, Any], after: float) -> None:
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(worker.run)
        await trio.sleep(after)
        context.stop()


async def shut_down(worker: Worker[Any, Any], after: float) -> None:
    async with Monitor(shutdown_timeout=0.005) as monitor:
        monitor.register(worker)
        await trio.sleep(after)
        monitor.shutdown()


async def terminate(worker: Worker[Any, Any], after: float) -> None:
    async def at_once() -> None:
        await trio.lowlevel.checkpoint()

    async with Monitor(terminator=at_once) as monitor:
        monitor.register(worker)
        await trio.sleep(after)
        monitor.shutdown()


async def interrupt(worker: Worker[Any, Any], after: float) -> None:
    """Send Ctrl-C to this process, and once more a millisecond later."""
    presses = 0

    def press(*_: object) -> None:
        nonlocal presses
        presses += 1
        if presses == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, after, 0.001)
    await worker.run()


Way = Callable[[Worker[Any, Any], float], Awaitable[None]]
WAYS: dict[str, Way] = {each.__name__: each for each in (cancel, stop, shut_down, terminate, interrupt)}


@trio.lowlevel.enable_ki_protection  # so that nothing comes between the end of the run and that of the process
async def end_and_die(kind: str, way: Way, path: str, seed: int) -> None:
    rng = random.Random(seed)
    async with open_storage(kind, path) as storage:
        await storage.push_bulk(range(TASKS))
        try:
            await way(make_worker(storage, rng), rng.uniform(0.002, 0.04))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


async def faults_in(kind: str, path: str) -> list[str]:
    """Return the faults in the store of a killed process."""
    async with open_storage(kind, path) as storage:
        tasks = await storage.list_tasks(limit=10 * TASKS)
    return [
        f"task {each.args} is {each.parts.status.name} in attempt {each.parts.attempt}"
        for each in tasks
        if each.parts.status is not Status.Done and (each.parts.status is not Status.Pending or each.parts.attempt)
    ] + ([] if len(tasks) == TASKS else [f"there are {len(tasks)} tasks"])


def in_fork(sync_fn: Callable[[], None]) -> int:
    """Run a function in a fork of this process; return its exit status, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            sync_fn()
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def trial(kind: str, way: str, path: str, seed: int) -> list[str]:
    status = in_fork(lambda: trio.run(end_and_die, kind, WAYS[way], path, seed))
    if status != -signal.SIGKILL:
        return [f"it was not killed, but ended with {status}"]
    told = Path(path + ".faults")

    def look() -> None:
        told.write_text(json.dumps(trio.run(faults_in, kind, path)), "utf-8")
        os._exit(0)

    status = in_fork(look)
    return [f"the store could not be read: {status}"] if status else json.loads(told.read_text("utf-8"))


def main(kind: str, way: str, trials: str, directory: str) -> None:
    found = {}
    for seed in range(int(trials)):
        faults = trial(kind, way, str(Path(directory, f"{seed}.tasks")), seed)
        if faults:
            found[seed] = faults
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
