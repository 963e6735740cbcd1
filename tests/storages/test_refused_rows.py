"""Tests of rows that the store refuses: each fails alone, without other requests, its worker, or other queues."""

from __future__ import annotations

import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    BackendError,
    EncodeError,
    Failed,
    FileStorage,
    MemoryStorage,
    RetryPolicy,
    SqliteStorage,
    Status,
    Succeeded,
    Task,
    UnsettledError,
    Worker,
    WorkerContext,
)
from trio_tasks._backends.durable.engine import Exchange, ExchangeResult, State
from trio_tasks._backends.file import journal as _journal
from trio_tasks._backends.sqlite import driver as _sqlite_driver

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

from tests._scale import seeds
from tests.storages._engine import Storage, TroubledEngine

pytestmark = pytest.mark.once

# Splitting, on an engine in memory


def refusal() -> BackendError:
    error = BackendError("one of these is not for me")
    error.is_refusal = True
    return error


class RefusingEngine:
    """An engine that refuses exchanges with certain ids, and counts requests."""

    def __init__(self, engine: TroubledEngine, bad: set[str], error: Callable[[], BaseException]) -> None:
        self._exchange = engine.exchange
        self._error = error
        self.bad = bad
        self.keys: set[Any] = set()
        self.queues: set[str] = set()
        self.refused = 0

    async def exchange(self, exchange: Exchange) -> ExchangeResult:
        if (
            any(row.id in self.bad for row in exchange.pushed)
            or any(each.key in self.keys and each.kind.name == "SUCCEEDED" for each in exchange.settled)
            or any(claim.queue in self.queues for claim in exchange.claims)
        ):
            self.refused += 1
            raise self._error()
        return await self._exchange(exchange)


REFUSALS: dict[str, Callable[[], BaseException]] = {
    "said to be one": refusal,
    "OverflowError": lambda: OverflowError("too large"),
    "MemoryError": MemoryError,
    "SystemExit": lambda: SystemExit(3),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", REFUSALS)
async def test_in_one_exchange_only_bad_requests_fail(name: str, autojump_clock: MockClock) -> None:
    failed = [await failed_together(random.Random(seed), REFUSALS[name]) for seed in seeds(400)]
    assert max(failed) > min(failed), "it was tried with different numbers of them"


async def failed_together(rng: random.Random, error: Callable[[], BaseException]) -> int:
    """Push and settle many at once, some of which the engine refuses: exactly those fail. Returns their number."""
    told: dict[str, str] = {}
    async with Storage[int]() as storage:
        refusing = RefusingEngine(storage.engine, {f"new-{n}" for n in range(10) if rng.random() < 0.3}, error)
        await storage.push_bulk(range(rng.randrange(1, 12)))
        running = [await storage.receive() for _ in range(len(await storage.list_tasks()))]
        refusing.keys = {task.parts.context.key for task in running if rng.random() < 0.3}
        storage.engine.exchange = refusing.exchange  # type: ignore[method-assign]  # it asks that for the rest

        async def note(name: str, async_fn: Callable[..., Any], *args: Any) -> None:
            try:
                await async_fn(*args)
                told[name] = "done"
            except (BackendError, UnsettledError) as refused:
                told[name] = type(refused).__name__

        async with trio.open_nursery() as nursery:
            for task in running:
                nursery.start_soon(note, task.parts.id, storage.settle, task, Succeeded(1))
            for number in range(10):
                new = Task.builder(number).id(f"new-{number}").build()
                nursery.start_soon(note, f"new-{number}", storage.push_task, new)
            nursery.start_soon(note, "innocent", storage.push, 99)
        bad = {task.parts.id for task in running if task.parts.context.key in refusing.keys} | refusing.bad
        assert {name for name, what in told.items() if what != "done"} == bad, told
        if error is refusal:  # where it is not said, a bad one that is asked for alone looks like an engine that fails
            assert {told[name] for name in bad & refusing.bad} <= {"BackendError"}, told
            assert {told[name] for name in bad - refusing.bad} <= {"UnsettledError"}, told
            assert refusing.refused <= 8 * len(bad), "it is split in halves"
    return len(bad)


async def test_a_queue_whose_claims_are_refused_fails_alone(autojump_clock: MockClock) -> None:
    done: list[int] = []

    async def handler(number: int) -> None:
        done.append(number)

    async with Storage[int]() as storage:
        bad = storage.share(int, queue="bad")
        refusing = RefusingEngine(storage.engine, set(), refusal)
        refusing.queues = {"bad"}
        storage.engine.exchange = refusing.exchange  # type: ignore[method-assign]  # it asks that for the rest
        with pytest.raises(ExceptionGroup, match="Trio nursery"):  # noqa: ASYNC401  how often it comes does not matter
            async with trio.open_nursery() as nursery:
                context = await nursery.start(Worker("good", storage, handler).run)
                nursery.start_soon(Worker("bad", bad, handler).run)
                for number in range(5):
                    await storage.push(number)
                    await trio.sleep(1)
                assert done == [0, 1, 2, 3, 4]
                assert refusing.refused < 50, "it is not asked all the time"
                assert context.is_running
                await trio.sleep(60)
        assert 5 < trio.current_time() < 20, "its worker is told after some patience"


async def test_an_engine_that_refuses_everything_has_failed(autojump_clock: MockClock) -> None:
    """If every request fails alone, too, the engine counts as failed, unless it says that the store works."""
    async with Storage[int]() as storage:
        await storage.push_bulk([1, 2])
        tasks = [await storage.receive(), await storage.receive()]
        storage.engine.trouble = OverflowError("a bug")
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(storage.settle, task, Succeeded(None))
            await trio.sleep(3)
            storage.engine.trouble = None
        assert len(await storage.rows(State.DONE)) == 2


async def test_an_outcome_that_is_refused_in_every_form_costs_a_lease_and_not_the_worker(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Storage[int](lease=3.0) as storage:
        ids = await storage.push_bulk([0, 1, 2, 3])
        real, bad = storage.engine.exchange, {1}

        async def exchange(exchange: Exchange) -> ExchangeResult:
            if any(each.key in keys and bad for each in exchange.settled):
                raise refusal()
            return await real(exchange)

        keys: set[Any] = set()

        async def handler(task: Task[int]) -> None:
            if task.args == 1:
                keys.add(task.parts.context.key)
                if task.parts.attempt == 2:
                    bad.clear()

        storage.engine.exchange = exchange  # type: ignore[method-assign]  # it asks that for the rest
        storage.close()
        with trio.fail_after(60):
            await Worker("w", storage, handler).run()
        assert [(await storage.wait_for(task_id)).status for task_id in ids] == [Status.Done] * 4
    assert f"task {ids[1]} cannot be settled, and comes back when its lease is over" in caplog.text


# What SQLite refuses

DRIVERS = [
    pytest.param("sqlite3", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="it cannot set a limit")),
    pytest.param("apsw", marks=pytest.mark.skipif(find_spec("apsw") is None, reason="apsw is not installed")),
]
LIMIT = 1_000_000


def with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on connections take values and rows of a million bytes at most, and not of a thousand millions."""
    standard, apsw_open = _sqlite_driver.StandardConnection.open, _sqlite_driver.ApswConnection.open

    def open_standard(path: str) -> Any:
        connection = standard(path)
        if sys.version_info >= (3, 11):  # others are left out above
            connection._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LIMIT)
        return connection

    def open_apsw(path: str) -> Any:
        import apsw

        connection = apsw_open(path)
        connection._connection.limit(apsw.SQLITE_LIMIT_LENGTH, LIMIT)
        return connection

    monkeypatch.setattr(_sqlite_driver.StandardConnection, "open", staticmethod(open_standard))
    monkeypatch.setattr(_sqlite_driver.ApswConnection, "open", staticmethod(open_apsw))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("size", [LIMIT // 2 - 10, LIMIT, 2 * LIMIT])
async def test_a_result_that_is_too_long_is_the_failure_of_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Any, size: int
) -> None:
    """The result may fit alone, but not together with the other values of its row."""
    with_a_limit(monkeypatch)
    async with SqliteStorage(tmp_path / "tasks.db", driver=driver, synchronous="OFF") as storage:

        async def handler(args: bytes) -> bytes | None:
            await trio.sleep(0.01)
            return bytes(size) if len(args) > 5 else None

        ids = [await storage.push(b"small") for _ in range(4)]
        bad = await storage.push(bytes(LIMIT // 2 - 10))
        ids += [await storage.push(b"small") for _ in range(4)]
        storage.close()
        report = await Worker("w", storage, handler, concurrency=4).run()
        assert (report.succeeded, report.failed) == (8, 1)
        assert [(await storage.wait_for(task_id)).status for task_id in ids] == [Status.Done] * 8
        result = await storage.wait_for(bad)
        assert result.status is Status.Failed
        assert isinstance(result.error, (EncodeError, BackendError))
        task = await storage.fetch_by_id(bad)
        assert task is not None
        assert task.parts.attempt == 1


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_is_too_long_is_refused_where_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Any
) -> None:
    with_a_limit(monkeypatch)
    async with SqliteStorage(tmp_path / "tasks.db", driver=driver, synchronous="OFF") as storage:
        refused: list[str] = []

        async def push(size: int) -> None:
            try:
                await storage.push(bytes(size))
            except EncodeError as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            for size in (1, 2, 3, LIMIT, 4, 5):
                nursery.start_soon(push, size)
        assert len(refused) == 1
        assert "the task has 1,000,0" in refused[0]
        assert "this store takes 500,000 at most" in refused[0]
        assert len(await storage.list_tasks()) == 5
        task = await storage.receive()
        with pytest.raises(EncodeError, match="the progress has"):
            await storage.report_progress(task, bytes(LIMIT))
        with pytest.raises(EncodeError, match="the task has"):
            await storage.update(Task(bytes(LIMIT), task.parts))
        with pytest.raises(UnsettledError, match="the result has"):
            await storage.settle(task, Succeeded(bytes(LIMIT)))
        await storage.settle(task, Failed(ValueError()))


async def test_a_record_that_is_too_long_for_a_journal_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many values may be too long together, though none is too long alone."""
    async with FileStorage(tmp_path / "tasks.journal", synchronous="NORMAL") as storage:
        monkeypatch.setattr(_journal, "LARGEST_PAYLOAD", 100_000)
        pushed: list[int] = []

        async def push(size: int) -> None:
            with suppress(BackendError):
                await storage.push(bytes(size))
                pushed.append(size)

        sizes = [60_000, 1, 2, 99_000, 3, 200_000, 4, 50_000]
        async with trio.open_nursery() as nursery:
            for size in sizes:
                nursery.start_soon(push, size)
        assert sorted(pushed) == sorted(set(sizes) - {200_000})
        assert len(await storage.list_tasks()) == len(sizes) - 1


# Triggers that refuse one row

BAD = "the-bad-one"
MOMENTS = {
    "push": ("INSERT", "true"),
    "claim": ("UPDATE", "new.state = 2 AND old.state = 0"),
    "success": ("UPDATE", "new.state = 3"),
    "failure": ("UPDATE", "new.state = 4"),
    "any end": ("UPDATE", "new.state > 2"),
    "falling due": ("UPDATE", "old.state = 1"),
}
REFUSING = {
    "abort": "SELECT RAISE(ABORT, 'not this one')",
    "fail": "SELECT RAISE(FAIL, 'not this one')",
    "roll back": "SELECT RAISE(ROLLBACK, 'not this one')",
    "ignore": "SELECT RAISE(IGNORE)",
    "error": "SELECT abs(-9223372036854775807 - 1)",
}


@pytest.mark.parametrize("action", REFUSING)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("driver", [None, *DRIVERS[1:]])
async def test_a_row_that_a_trigger_refuses_harms_no_other(
    tmp_path: Path, moment: str, action: str, driver: Any
) -> None:
    done: list[int] = []

    async def handler(number: int) -> None:
        if number == 13 and moment == "failure":
            raise ValueError
        done.append(number)

    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int, synchronous="OFF", driver=driver) as storage:
        other = storage.share(int, queue="other")
        verb, condition = MOMENTS[moment]
        await storage.push(0)
        await execute(
            path,
            driver,
            f"CREATE TRIGGER t BEFORE {verb} ON trio_tasks_task WHEN new.id = '{BAD}' AND {condition} "
            f"BEGIN {REFUSING[action]}; END",
        )
        bad = Task.builder(13).id(BAD)
        if moment == "falling due":
            bad = bad.run_after(0.05)
        refused: list[Exception] = []

        async def push_bad() -> None:
            try:
                await storage.push_task(bad.build())
            except BackendError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push_bad)
            for number in range(1, 6):
                nursery.start_soon(storage.push, number)
        assert bool(refused) == (moment == "push")
        if moment == "falling due":
            await trio.sleep(0.06)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                worker = Worker("w", storage, handler, concurrency=3, retry=RetryPolicy(1))
                context: WorkerContext = await nursery.start(worker.run)
                others: WorkerContext = await nursery.start(Worker("o", other, handler).run)
                for number in range(6, 12):
                    await storage.push(number)
                    await other.push(100 + number)
                while len(set(done) - {13}) < 18:  # noqa: ASYNC110  they are not tasks of this test's making
                    await trio.sleep(0.005)
                assert context.is_running
                assert others.is_running
                context.stop()
                others.stop()
        assert sorted(set(done) - {13}) == [*range(12), *range(106, 112)]
        if moment == "success":
            result = await storage.wait_for(BAD)
            assert result.status is Status.Failed


async def execute(path: Path, driver: Any, sql: str) -> None:
    """Run a statement on a connection of one's own."""
    connection: Any
    if driver == "apsw":
        import apsw

        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(60_000)
    else:
        connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    with closing(connection):
        connection.execute(sql)


async def test_an_attempt_that_cannot_be_counted_ends_its_task_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    done: list[int] = []

    async def handler(number: int) -> None:
        done.append(number)

    async with SqliteStorage(path, int, synchronous="OFF") as storage:
        bad = await storage.push(13)
        await execute(path, None, f"UPDATE trio_tasks_task SET attempt = {2**63 - 1}")
        await storage.push_bulk(range(5))
        storage.close()
        with trio.fail_after(60):
            await Worker("w", storage, handler).run()
            assert (await storage.wait_for(bad)).status is Status.Killed
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_a_worker_name_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="a worker's name must be encodable as UTF-8"):
        Worker("w\ud800", MemoryStorage[int](), trio.sleep)
    with pytest.raises(ValueError, match="a worker's name must be encodable as UTF-8"):
        WorkerContext("w\ud800")
