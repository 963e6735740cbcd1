"""The attempts of each minute are added up, on every storage, and a process that dies loses a second of that."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    BackendError,
    FileStorage,
    MemoryStorage,
    Minute,
    Parts,
    Retried,
    SqliteStorage,
    Succeeded,
    Suspended,
    Task,
    Worker,
)
from trio_tasks._backends.durable.engine import refusal
from trio_tasks._backends.file import records
from trio_tasks._contracts.minutes import (
    ADDED_AT_ONCE,
    KEPT_MINUTES,
    MOST_IN_MEMORY,
    MOST_NAMES,
    OTHER,
    VALUES,
    MinuteRow,
    Sums,
    Tally,
)
from trio_tasks._tasks.task import Terms

from tests._storages import STORAGES

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)
stored = pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])


def add_up(minutes: list[Minute]) -> dict[str, int]:
    """The attempts of all minutes, by outcome."""
    names = ("succeeded", "retried", "failed", "killed", "released", "suspended")
    return {name: number for name in names if (number := sum(getattr(each, name) for each in minutes))}


@everywhere
async def test_each_attempt_is_counted_with_its_time(opened: Opener, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        assert await storage.throughput() == []
        await storage.push_bulk(range(3))
        mock_clock.jump(4.0)
        for outcome, seconds in ((Succeeded(None), 1.0), (Retried(ValueError(), 5.0), 2.0), (Suspended(1e9), 0.3)):
            task = await storage.receive()
            mock_clock.jump(seconds)
            await storage.settle(task, outcome)
        mock_clock.jump(5.0)
        task = await storage.receive()
        mock_clock.jump(100.0)
        await storage.settle(task, Succeeded(None))
        minutes = await storage.throughput()
        assert add_up(minutes) == {"succeeded": 2, "retried": 1, "suspended": 1}
        assert sum(each.attempts for each in minutes) == 4
        assert sum(each.seconds for each in minutes) == pytest.approx(103.3, abs=0.5)
        durations = {bound: number for each in minutes for bound, number in each.durations.items() if bound > 0.5}
        assert durations == {2.0: 1, 4.0: 1, 128.0: 1}
        assert sum(number for each in minutes for number in each.waits.values()) == 4
        assert sum(each.waited for each in minutes) == pytest.approx(4 + 5 + 7, abs=3)
        assert {each.name for each in minutes} == {None}
        assert len(minutes) >= 2
        assert minutes == sorted(minutes, key=lambda each: each.at)
        assert all(each.at.second == 0 and each.at.tzinfo is timezone.utc for each in minutes)
        last = minutes[-1].at
        assert await storage.throughput(last) == minutes[-1:]
        assert await storage.throughput(last + timedelta(seconds=59)) == minutes[-1:]
        assert await storage.throughput(until=last) == minutes[:-1]
        assert await storage.throughput(last + timedelta(minutes=1)) == []
        assert await storage.throughput(name="other") == []


@everywhere
async def test_moments_without_a_zone_are_refused(opened: Opener, tmp_path: Path) -> None:
    async with opened(tmp_path / "tasks") as storage:
        with pytest.raises(ValueError, match="time zone"):
            await storage.throughput(datetime(2026, 1, 1))  # noqa: DTZ001  that is what is refused
        with pytest.raises(TypeError, match="datetime"):
            await storage.throughput(1.0)
        with pytest.raises(TypeError, match="str"):
            await storage.throughput(name=1)


@stored
async def test_it_is_there_after_a_restart(kind: Any, tmp_path: Path) -> None:
    async def no_op(n: int) -> None:
        await trio.lowlevel.checkpoint()

    for number in range(2):
        async with kind(tmp_path / "tasks", int) as storage:
            assert add_up(await storage.throughput()) == ({"succeeded": 5 * number} if number else {})
            await storage.push_bulk(range(5))
            storage.close()
            await Worker("w", storage, no_op).run()
    async with kind(tmp_path / "tasks", int, read_only=True) as storage:
        assert add_up(await storage.throughput()) == {"succeeded": 10}


@stored
async def test_it_is_written_within_a_second_and_then_not_again(
    kind: Any, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        engine, written = storage._loop.engine, list[tuple[float, int]]()
        exchange = engine.exchange

        async def note(request: Any) -> Any:
            if request.minutes:
                written.append((trio.current_time(), sum(sum(row.sums.counts) for row in request.minutes)))
            return await exchange(request)

        engine.exchange = note
        await storage.push_bulk(range(2))
        began = trio.current_time()
        await storage.settle(await storage.receive(), Succeeded(None))
        await trio.sleep(100)
        assert [number for _, number in written] == [1]
        assert written[0][0] <= began + 2
        await storage.settle(await storage.receive(), Succeeded(None))
        await trio.sleep(100)
        assert [number for _, number in written] == [1, 1]


@stored
async def test_sums_that_could_not_be_written_are_kept(kind: Any, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        await storage.push(1)
        await storage.settle(await storage.receive(), Succeeded(None))
        engine = storage._loop.engine

        async def fail(_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError("no")

        engine.exchange = fail
        with pytest.raises(OSError, match="no"):
            await storage.throughput()
        del engine.exchange
        assert add_up(await storage.throughput()) == {"succeeded": 1}


async def test_two_processes_add_to_the_same_minute(tmp_path: Path, mock_clock: MockClock) -> None:
    async with (
        SqliteStorage(tmp_path / "tasks.db", int) as one,
        SqliteStorage(tmp_path / "tasks.db", int) as two,
    ):
        await one.push_bulk(range(2))
        for storage in (one, two):
            await storage.settle(await storage.receive(), Succeeded(None))
        await two.throughput()
        minutes = await one.throughput()
        assert add_up(minutes) == {"succeeded": 2}
        assert len(minutes) == len({each.at for each in minutes})


def sums(number: int = 1) -> Sums:
    found = Sums()
    for _ in range(number):
        found.add(0, 1.0, 2.0)
    return found


def test_names_beyond_a_hundred_share_one() -> None:
    tally = Tally()
    for number in range(MOST_NAMES + 50):
        for _ in range(2):
            tally.add(f"name {number}", 0, 1.0, 1.0, 60.0)
    rows = tally.take("q")
    assert len(rows) == MOST_NAMES + 1
    assert {row.name: sum(row.sums.counts) for row in rows}[OTHER] == 100
    assert tally.take("q") == []
    tally.give_back(rows)
    assert tally.take("q") == rows
    totals = {each.name: each.succeeded for each in tally.totals()}
    assert (len(totals), totals[OTHER], sum(totals.values())) == (MOST_NAMES + 1, 100, 2 * (MOST_NAMES + 50)), "once"


@pytest.mark.parametrize("minutes", [1, 3])
@pytest.mark.parametrize("names", [1, 5])
def test_many_are_added_as_one_is(minutes: int, names: int) -> None:
    one, many = Tally(), Tally()
    for number in range(1000):
        name, ended = f"{number % names}", 60.0 * (number * minutes // 1000) + number / 1e4
        started, ready = ended - 2.0 ** (number % 5) / 7, ended - 2.0 ** (number % 7) / 3
        one.add(name, 0, ended - started, started - ready, ended)
        many.succeeded.extend((name, started, ready, ended))
        if len(many.succeeded) >= ADDED_AT_ONCE * VALUES:
            many.add_up()
    expected, found = ({row[:3]: row.sums for row in tally.take("q")} for tally in (one, many))
    assert found.keys() == expected.keys()
    for key, sums in found.items():
        assert sums.counts == expected[key].counts
        assert (sums.durations, sums.waits) == (expected[key].durations, expected[key].waits)
        assert sums.seconds == pytest.approx(expected[key].seconds)
        assert sums.waited == pytest.approx(expected[key].waited, abs=1e-3)


def test_a_tally_in_memory_is_bounded() -> None:
    tally = Tally(MOST_IN_MEMORY)
    for minute in range(KEPT_MINUTES + 100):
        tally.add(None, 0, 1.0, 1.0, 60.0 * minute)
    assert len(tally.rows) == KEPT_MINUTES + 1
    for minute in range(200):
        for number in range(90):
            tally.add(str(number), 0, 1.0, 1.0, 60.0 * (KEPT_MINUTES + 100 + minute))
    assert len(tally.rows) <= MOST_IN_MEMORY + MOST_NAMES


def test_sums_are_packed_and_read_again() -> None:
    found = sums(3)
    found.add(5, -1.0, float("inf"))
    packed = json.loads(json.dumps(found.pack()))
    assert Sums.unpack(packed).pack() == found.pack()
    for wrong in ([], packed[1:], [*packed[:-1], [1]], ["x", *packed[1:]], [*packed[:-1], [1.5, 2]]):
        with pytest.raises((TypeError, ValueError)):
            Sums.unpack(wrong)


@stored
async def test_it_is_kept_for_two_days(kind: Any, tmp_path: Path) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        await storage.push(1)
        engine, queue = storage._loop.engine, storage.queue
        for minute in (1, KEPT_MINUTES, KEPT_MINUTES + 10):
            await storage._loop.ask(_write, engine, [MinuteRow(queue, minute, "", sums())])
        assert [row[0] for row in await engine.minutes(queue)] == [KEPT_MINUTES, KEPT_MINUTES + 10]
        rows = [MinuteRow(queue, KEPT_MINUTES + 11, f"{n}", sums()) for n in range(MOST_NAMES + 5)]
        await storage._loop.ask(_write, engine, rows)
        assert len(await engine.minutes(queue)) == 2 + MOST_NAMES + 1
    async with kind(tmp_path / "tasks", int) as storage:
        found = {name: sum(each.counts) for _, name, each in await storage._loop.engine.minutes(queue)}
        assert found[OTHER] == 5


async def _write(engine: Any, rows: list[MinuteRow]) -> None:
    from trio_tasks._backends.durable.engine import Exchange

    await engine.exchange(Exchange(minutes=rows))


# Damage: sums may be lost, which the log tells, and never a task

DAMAGES = {
    "no number": "UPDATE trio_tasks_minute SET succeeded = 'many'",
    "negative": "UPDATE trio_tasks_minute SET failed = -3",
    "huge": "UPDATE trio_tasks_minute SET retried = 9223372036854775807, succeeded = 9223372036854775807",
    "infinite": "UPDATE trio_tasks_minute SET seconds = 9e999",
    "no histogram": "UPDATE trio_tasks_minute SET durations = '[1'",
    "bytes": "UPDATE trio_tasks_minute SET waits = x'00ff'",
    "exponent": "UPDATE trio_tasks_minute SET waits = '[90000, 1]'",
    "no minute": "UPDATE trio_tasks_minute SET minute = 'noon'",
    "minute": "UPDATE trio_tasks_minute SET minute = 9000000000000",
    "name": "UPDATE trio_tasks_minute SET name = x'ff'",
    "refused": "CREATE TRIGGER no BEFORE INSERT ON trio_tasks_minute BEGIN SELECT RAISE(ABORT, 'no'); END",
    "missing": "DROP TABLE trio_tasks_minute",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damaged_sums_do_no_harm_in_an_sqlite_file(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        await storage.push_bulk(range(3))
        await storage.settle(await storage.receive(), Succeeded(None))
        await storage.throughput()
        with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection, connection:
            connection.execute(damage)
        await storage.throughput()
        await storage.settle(await storage.receive(), Succeeded(None))
        assert add_up(await storage.throughput()).get("succeeded", 0) <= 1
        await storage.settle(await storage.receive(), Succeeded(None))
        assert (await storage.metrics())["succeeded"] == 3
        assert await storage.audit()
    assert "sums" in caplog.text
    assert {record.levelname for record in caplog.records} == {"WARNING"}


WRONG_MINUTES: list[Any] = [
    5,
    ["x"],
    [1, 7, "", 3],
    [99, 7, "", Sums().pack()],
    [1, "noon", "", Sums().pack()],
    [1, 2**70, "", Sums().pack()],
    [1, 7, "", [-1] * 10],
    [1, 7, "", [0, 0, 0, 0, 0, 0, math.nan, 0, [], []]],
    [1, 7, "", [0, 0, 0, 0, 0, 0, 0, 0, [90_000, 1], []]],
]


@pytest.mark.parametrize("wrong", WRONG_MINUTES, ids=str)
async def test_damaged_sums_do_no_harm_in_a_journal(
    wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    later_lists: Callable[..., list[Any]] = records._later_lists

    def damaged(*args: Any) -> list[Any]:
        return [wrong, *later_lists(*args)[1:]]

    async with FileStorage(tmp_path / "tasks", int) as storage:
        await storage.push_bulk(range(3))
        await storage.settle(await storage.receive(), Succeeded(None))
        monkeypatch.setattr(records, "_later_lists", damaged)
        await storage.throughput()
        monkeypatch.undo()
    async with FileStorage(tmp_path / "tasks", int) as storage:
        assert await storage.throughput() == []
        assert (await storage.metrics())["succeeded"] == 1
        await storage.settle(await storage.receive(), Succeeded(None))
        assert add_up(await storage.throughput()) == {"succeeded": 1}
        assert await storage.audit()
    assert "sums" in caplog.text


# When they are written


@stored
async def test_sums_are_written_once_a_second_however_many_there_are(
    kind: Any, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        engine, written = storage._loop.engine, list[float]()
        exchange = engine.exchange

        async def note(request: Any) -> Any:
            if request.minutes:
                written.append(trio.current_time())
            return await exchange(request)

        engine.exchange = note
        await storage.push_bulk(range(100))
        for _ in range(100):
            await storage.settle(await storage.receive(), Succeeded(None))
            await trio.sleep(0.05)
        await trio.sleep(2)
        assert len(written) >= 4
        assert all(later - earlier >= 0.99 for earlier, later in pairwise(written))
        del engine.exchange
        minutes: list[Minute] = [sums.shown(minute, name) for minute, name, sums in await engine.minutes(storage.queue)]
        assert add_up(minutes) == {"succeeded": 100}


@stored
async def test_a_write_that_failed_is_made_again(kind: Any, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        engine = storage._loop.engine
        exchange, failures = engine.exchange, [BackendError("a disk that is full") for _ in range(3)]

        async def fail(request: Any) -> Any:
            if request.minutes and failures:
                await trio.lowlevel.checkpoint()
                raise failures.pop()
            return await exchange(request)

        engine.exchange = fail
        await storage.push(1)
        await storage.settle(await storage.receive(), Succeeded(None))
        await trio.sleep(20)
        assert not failures
        assert [sums.counts[0] for _, _, sums in await engine.minutes(storage.queue)] == [1]


@stored
async def test_sums_are_written_beside_a_value_that_is_refused(
    kind: Any, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kind(tmp_path / "tasks", int) as storage:
        engine = storage._loop.engine
        exchange = engine.exchange

        async def refuse(request: Any) -> Any:
            if any(each.id == "no" for each in request.pushed):
                await trio.lowlevel.checkpoint()
                raise refusal("not this one")
            return await exchange(request)

        await storage.push(1)
        await storage.settle(await storage.receive(), Succeeded(None))
        engine.exchange = refuse
        storage._loop._next_write = trio.current_time()
        with pytest.raises(BackendError, match="not this one"):
            await storage.push(2, id="no")
        await trio.sleep(5)
        assert [sums.counts[0] for _, _, sums in await engine.minutes(storage.queue)] == [1]


CHILD = """
import sys
import trio
from trio_tasks import FileStorage, SqliteStorage, Worker
from trio_tasks._backends.durable import exchange_loop

exchange_loop._WRITE_INTERVAL = 0.02  # a second is too long for a test

async def no_op(n):
    await trio.lowlevel.checkpoint()

async def main():
    async with {"sqlite": SqliteStorage, "file": FileStorage}[sys.argv[1]](sys.argv[2], int) as storage:
        engine, exchange = storage._loop.engine, storage._loop.engine.exchange
        written = 0

        async def note(request):
            nonlocal written
            result = await exchange(request)
            if request.minutes:
                written += sum(sum(row.sums.counts) for row in request.minutes)
                print(written, flush=True)
            return result

        engine.exchange = note
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, no_op, concurrency=3).run)
            while True:
                await storage.push_bulk(range(20))

trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("name", ["sqlite", "file"])
async def test_a_process_that_is_killed_loses_what_was_not_written(name: str, tmp_path: Path) -> None:
    kind: Any = {"sqlite": SqliteStorage, "file": FileStorage}[name]
    path = str(tmp_path / "tasks")
    command = [sys.executable, "-c", CHILD, name, path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220  nothing runs beside it
    with process:
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(5)]
        process.kill()
        written += map(int, process.stdout.read().split())
    assert written == sorted(written)
    async with kind(path, int) as storage:
        metrics, found = await storage.metrics(), add_up(await storage.throughput())
        assert await storage.audit()
        assert written[-1] <= found["succeeded"] <= metrics["succeeded"]
        assert metrics["succeeded"] + metrics["waiting"] + metrics["running"] == metrics["pushed"]


# In memory


async def test_memory_keeps_two_days_and_a_hundred_names(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    names = [None, *(f"name {number}" for number in range(MOST_NAMES + 5))]
    for name in names:
        await storage.push_task(Task(1, Parts(terms=Terms(name=name))))
        await storage.settle(await storage.receive(), Succeeded(None))
    found = {each.name: each.attempts for each in await storage.throughput()}
    assert len(found) <= 2 * (MOST_NAMES + 1)
    assert found[OTHER] >= 5
    assert sum(found.values()) == len(names)
    await trio.sleep(KEPT_MINUTES * 60 - 120)
    assert add_up(await storage.throughput()) == {"succeeded": len(names)}
    await trio.sleep(240)
    assert await storage.throughput() == []
