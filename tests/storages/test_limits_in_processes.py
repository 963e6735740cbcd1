"""Limits of keys and queues hold over real processes on one SQLite file, however these end; and they wake one another.

``python -m tests.storages.test_limits_in_processes [TASKS]`` takes 10^5 tasks through limits, and prints what it saw.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio_tasks import Limits, SqliteStorage, Status, Succeeded

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

from tests._scale import scaled
from tests.storages import _child as programs
from tests.storages._child import NEVER, Child, child, open_storage

pytestmark = pytest.mark.real

PROCESSES, MOST = 4, 3
SOON = 60.0
"""Seconds: well under NEVER, and patient with a busy machine."""
STUCK = 120.0
"""Seconds without a task that is finished, after which a trial has failed."""


def most_at_once(log: Path) -> Counter[str]:
    """Return the largest number of attempts at once for each key.

    An attempt whose process was killed counts until the next attempt at its task begins.
    """
    running: defaultdict[str, set[str]] = defaultdict(set)
    most = Counter[str]()
    for line in log.read_bytes().splitlines():
        kind, key, task_id = line.decode().split()
        (running[key].add if kind == "begin" else running[key].discard)(task_id)
        most[key] = max(most[key], len(running[key]))
    return most


async def work_and_kill(directory: Path, tasks: int, kills: int, nap: float) -> tuple[Counter[str], int]:
    """Let processes do so many tasks of a dozen keys, and kill one of them now and then.

    Returns:
      the largest number of attempts at once for each key, and the number of attempts.
    """
    path, log, random_ = directory / "tasks.db", directory / "log", random.Random(1)
    keys = [f"k{min(int(random_.expovariate(0.5)), 11)}" for _ in range(tasks)]
    async with open_storage(path) as storage, AsyncExitStack() as stack:
        await storage.set_limits(Limits(per_key=MOST))
        for key in sorted(set(keys)):
            await storage.push_bulk([nap] * keys.count(key), key=key)
        workers = [await start(stack, path, log) for _ in range(PROCESSES)]
        for number in range(1, kills + 1):
            await wait_until_finished(storage, number * tasks // (kills + 1))
            workers.pop(random_.randrange(PROCESSES)).process.kill()
            workers.append(await start(stack, path, log))
        await wait_until_finished(storage, tasks)
        assert await storage.audit()
        metrics = await storage.metrics()
        assert (metrics["succeeded"], metrics["held_now"]) == (tasks, 0)
    return most_at_once(log), log.read_bytes().count(b"begin")


async def start(stack: AsyncExitStack, path: Path, log: Path) -> Child:
    return await stack.enter_async_context(child(programs.work_within_limits, path, str(log), patience=3600.0))


async def wait_until_finished(storage: SqliteStorage[float], number: int) -> None:
    """Wait until so many tasks have succeeded, as long as there is progress."""
    succeeded, until = -1, trio.current_time() + STUCK
    while True:
        before, succeeded = succeeded, (await storage.metrics())["succeeded"]
        if succeeded >= number:
            return
        if succeeded > before:
            until = trio.current_time() + STUCK
        assert trio.current_time() < until, await storage.metrics()
        await trio.sleep(0.02)


async def test_a_limit_holds_over_processes_that_are_killed(tmp_path: Path) -> None:
    most, _ = await work_and_kill(tmp_path, scaled(6_000), kills=scaled(60), nap=0.01)
    assert max(most.values()) == MOST


async def test_a_place_that_is_free_here_is_taken_there(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with child(programs.work_without_a_net, path) as worker, open_storage(path, poll_interval=NEVER) as storage:
        await storage.set_limits(Limits(per_key=1))
        assert await worker.hear_of("works")
        held = [await storage.push(0.0, key="a", delay=3600.0) for _ in range(3)]
        with trio.fail_after(SOON):
            await storage.reschedule(held[0], 0)
            assert await worker.hear_of("begins") == f"begins {held[0]}"
            assert (await storage.wait_for(held[0])).status is Status.Done
            await storage.pause()
            await storage.reschedule(held[1], 0)
            await storage.reschedule(held[2], 0)
            await storage.set_limits(Limits(per_key=1, concurrency=1))
            await storage.resume()
            assert await worker.hear_of("begins") == f"begins {held[1]}"
            assert await worker.hear_of("begins") == f"begins {held[2]}"


async def test_the_settlement_of_a_task_here_begins_the_next_of_its_key_there(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_storage(path, lease=NEVER, poll_interval=NEVER) as storage:
        for limits in (Limits(per_key=1), Limits(concurrency=1)):
            await storage.set_limits(limits)
            await storage.push(0.0, key="a")
            mine = await storage.receive()
            async with child(programs.work_without_a_net, path) as worker:
                assert await worker.hear_of("works")
                with trio.fail_after(SOON):
                    task_id = await storage.push(0.0, key="a")
                    await storage.settle(mine, Succeeded(None))
                    assert await worker.hear_of("begins") == f"begins {task_id}"
                    await storage.wait_for(task_id)


async def test_more_places_are_taken_there_as_soon_as_they_are_given_here(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with open_storage(path, lease=NEVER, poll_interval=NEVER) as storage:
        await storage.set_limits(Limits(per_key=1))
        await storage.push(0.0, key="a")
        await storage.receive()
        task_id = await storage.push(0.0, key="a")
        async with child(programs.work_without_a_net, path) as worker:
            assert await worker.hear_of("works")
            with trio.fail_after(SOON):
                await storage.set_limits(Limits(per_key=2), key="a")
                assert await worker.hear_of("begins") == f"begins {task_id}"


async def show(tasks: int) -> None:
    """Take so many tasks through limits, with a kill every 2500 tasks, and print what was seen."""
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        most, attempts = await work_and_kill(Path(name), tasks, kills=tasks // 2_500, nap=0.001)
        seconds = time.perf_counter() - began
    print(f"{tasks} tasks in {seconds:.0f} s, {attempts} attempts; at once, by key: {dict(sorted(most.items()))}")
    assert max(most.values()) == MOST


if __name__ == "__main__":
    trio.run(show, int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
