"""Tests of promise 9: only trio's clock is used inside; the wall clock is read through one function."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Monitor, RetryAfterError, RetryPolicy, TaskBuilder, Worker, constant
from trio_tasks._clock import use_wall_clock

from tests.promises._run_worker import A_MONTH, Open, run_for, run_handler, run_handler_on

PACKAGE = Path(__file__).parents[2] / "trio_tasks"
EDGES = {
    "_clock.py",
    "_worker/blocked_loop.py",  # in a thread, which watches loops of the real clock only
    "_tasks/task_id.py",
    "_backends/sqlite/session.py",  # in a thread, for a lock of another process
    "_backends/sqlite/driver.py",  # likewise, for a statement that has no end
    "_backends/sqlite/schema.py",  # likewise, for a last page that is about to be written
    "_backends/file/journal.py",  # likewise, for a file that somebody else has open for a moment
    "testing/_exploration/explore.py",  # these two tell how long they have taken
    "testing/_simulation/simulate.py",
    "_backends/sqlite/sync_storage.py",  # for code without trio: it blocks
    "_backends/sqlite/wakeup.py",  # a moment in which the system refuses what is sent to a dead process
    "_concurrency/virtual_time.py",  # where virtual time stands still, a wait for another process ends by real time
    "_cli/options.py",  # the commands are programs of their own: these show and read the times of people
    "_cli/output.py",
    "_cli/records.py",
    "_cli/top.py",
}
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
NOW = {"now", "utcnow", "today", "fromtimestamp", "utcfromtimestamp"}
SLEEPS = {"sleep"}
A_DAY = 24 * 3600.0
QUICKLY = 5.0  # seconds of processor time: what others do on the machine does not count


def clocks_read(source: str) -> Iterator[str]:
    """Return the lines of a file that read a clock other than trio's."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "asyncio", "sched"):
            yield f"line {node.lineno} imports from {node.module}"
        if isinstance(node, ast.Import) and any(each.name in ("time", "asyncio", "sched") for each in node.names):
            yield f"line {node.lineno} imports {node.names[0].name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            read = f"{node.value.id}.{node.attr}"
            if node.value.id in ("datetime", "date") and node.attr in NOW:
                yield f"line {node.lineno} reads {read}"
            if node.value.id == "time" and node.attr in CLOCKS | SLEEPS:
                yield f"line {node.lineno} reads {read}"


def test_promise_09_time_is_injectable_the_wall_clock_is_touched_at_the_edges_only() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 20
    found = {
        path.relative_to(PACKAGE).as_posix(): reads
        for path in paths
        if (reads := list(clocks_read(path.read_text("utf-8"))))
    }
    assert set(found) == EDGES, found


def test_promise_09_time_is_injectable_these_tests_see_clocks() -> None:
    source = (
        "import time\nfrom time import monotonic\nx = time.monotonic()\ny = datetime.now(tz)\nz = trio.current_time()\n"
    )
    assert len(list(clocks_read(source))) == 4


async def test_promise_09_time_is_injectable_a_month_of_retries(autojump_clock: MockClock) -> None:
    real, virtual = time.process_time(), trio.current_time()

    async def handler(args: int) -> None:
        raise ValueError("no")

    record = await run_handler(handler, retry=RetryPolicy(31, constant(A_DAY)), seconds=2 * A_MONTH)
    assert len(record.outcomes) == 31
    assert trio.current_time() - virtual == pytest.approx(A_MONTH)
    assert time.process_time() - real < QUICKLY


async def test_promise_09_time_is_injectable_a_month_of_delays_timeouts_and_expiry(autojump_clock: MockClock) -> None:
    real, begun, times = time.process_time(), trio.current_time(), []
    storage = MemoryStorage[int]()

    async def handler(args: int) -> None:
        times.append((trio.current_time() - begun) / A_DAY)
        await trio.sleep(args)

    for day in range(30):
        await storage.push(day, delay=day * A_DAY, timeout=10, attempts=1)
    await storage.reschedule(await storage.push(0, expires_in=A_DAY), 2 * A_DAY)
    storage.close()
    record = await run_handler_on(storage, handler)
    assert times == pytest.approx(range(30))
    assert record.kinds == ["Succeeded"] * 10 + ["Failed"] * 20
    assert storage.statistics().killed == 1
    assert time.process_time() - real < QUICKLY


async def test_promise_09_time_is_injectable_a_month_of_leases(autojump_clock: MockClock) -> None:
    real = time.process_time()
    backend = Open(A_MONTH, heartbeat_interval=3600)
    await run_for(A_MONTH - 1, Worker("leasing", backend, trio.sleep))
    assert len(backend.when("beat")) == 30 * 24
    assert time.process_time() - real < QUICKLY


async def test_promise_09_time_is_injectable_a_month_until_the_terminator(autojump_clock: MockClock) -> None:
    real, begun = time.process_time(), trio.current_time()
    storage = MemoryStorage[float]()
    await storage.push(2 * A_MONTH)
    monitor = Monitor(shutdown_timeout=A_MONTH).register(Worker("long", storage, trio.sleep))
    async with monitor:
        await trio.sleep(1)
        monitor.shutdown()
    assert trio.current_time() - begun == pytest.approx(A_MONTH + 1)
    assert len(monitor.report.interrupted) == 1
    assert time.process_time() - real < QUICKLY


async def test_promise_09_time_is_injectable_a_step_of_the_wall_clock_moves_nothing_that_runs(
    autojump_clock: MockClock,
) -> None:
    """A delay counts on trio's clock from the push, whether the wall clock is set forward or back. A task with a run_at
    waits for the wall clock, and is due at the next look after that time.
    """
    wall = [1_000_000_000.0]
    begun, times = trio.current_time(), []

    async def handler(args: str) -> None:
        times.append((args, trio.current_time() - begun))
        if len(times) < 3:
            raise RetryAfterError("again", 1000)

    with use_wall_clock(lambda: wall[0]):
        storage = MemoryStorage[str]()
        await storage.push("delay", delay=100)
        moment = datetime.fromtimestamp(wall[0], timezone.utc) + timedelta(seconds=5000)
        await storage.push_task(TaskBuilder("moment").run_at(moment).build())
        wall[0] -= 1e6
        storage.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_handler_on, storage, handler)
            await trio.sleep(500)
            wall[0] += 1e8
    assert [args for args, _ in times] == ["delay", "delay", "moment", "delay"]
    assert [time for _, time in times] == pytest.approx([100, 1100, 1100, 2100])


async def test_promise_09_time_is_injectable_without_a_wall_clock_of_its_own_a_moment_is_a_delay(
    autojump_clock: MockClock,
) -> None:
    """The wall clock does not follow virtual time here. So it is read once, to find the delay until run_at."""
    storage, times = MemoryStorage[str](), list[float]()
    begun = trio.current_time()

    async def handler(_: str) -> None:
        times.append(trio.current_time() - begun)

    await storage.push("moment", run_at=datetime.now(timezone.utc) + timedelta(days=20))
    storage.close()
    await run_handler_on(storage, handler)
    assert times == [pytest.approx(20 * A_DAY, abs=60)]


async def test_promise_09_time_is_injectable_what_a_person_reads_is_by_the_wall_clock(
    autojump_clock: MockClock,
) -> None:
    with use_wall_clock(lambda: 1_000_000_000.0):
        task = TaskBuilder(0).run_in_minutes(10).build()
        storage = MemoryStorage[int]()
        await storage.push_task(task)
    assert task.parts.run_at == datetime.fromtimestamp(1_000_000_600, timezone.utc)
