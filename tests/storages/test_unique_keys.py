"""Unique keys: how long a task holds its key, and what a push does that meets it, on every storage."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    DuplicateTaskError,
    Failed,
    FileStorage,
    MemoryStorage,
    Pushed,
    Released,
    Retried,
    SqliteStorage,
    Status,
    Succeeded,
    Suspended,
    Task,
)
from trio_tasks._backends.durable.engine import ClaimRequest, Exchange, SettlementKind
from trio_tasks._backends.file.exchange import ExchangeSteps
from trio_tasks._backends.file.loading import finish_loading, load_record
from trio_tasks._backends.file.records import encode_change
from trio_tasks._backends.file.state import JournalState

from tests.storages._rows import new, settled

KEEP = 1000.0
FOREVER = 1e9


@asynccontextmanager
async def opened(kind: str, path: Path, **options: Any) -> AsyncGenerator[Any, None]:
    if kind == "memory":
        yield MemoryStorage[int](keep_results=min(options.get("keep_results", 10), 10))
        return
    storage: Any = {"sqlite": SqliteStorage, "file": FileStorage}[kind]
    options = {"keep_results": KEEP, "keep_dead": KEEP, "lease": FOREVER, **options}
    async with storage(path / kind, int, synchronous="OFF" if kind == "sqlite" else "NORMAL", **options) as handle:
        yield handle


pytestmark = pytest.mark.usefixtures("mock_clock")
on_all_storages = pytest.mark.parametrize("kind", ["memory", "sqlite", "file"])
on_stored = pytest.mark.parametrize("kind", ["sqlite", "file"])


async def run(storage: Any, outcome: Any = None) -> str:
    """Run the next task to this outcome; return its id."""
    task = await storage.receive()
    await storage.settle(task, Succeeded(None) if outcome is None else outcome)
    return str(task.parts.id)


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(
            ({"unique": "k", "unique_for": value}, error, f"unique_for must be {message}")
            for value, error, message in [
                (0, ValueError, "more than 0 seconds, not 0"),
                (-1.0, ValueError, "more than 0 seconds, not -1.0"),
                (float("nan"), ValueError, "a finite number of seconds, not nan"),
                (float("inf"), ValueError, "a finite number of seconds, not inf"),
                (10**400, ValueError, "a finite number of seconds"),
                (True, TypeError, "a number of seconds, not True"),
                ("60", TypeError, "a number of seconds, not '60'"),
                (None, TypeError, "a number of seconds, not None"),
            ]
        ),
        *(
            ({"unique": "k", "unique_until": value}, ValueError, "unique_until must be 'start', 'end' or 'forgotten'")
            for value in ["never", "", None, 3, ["end"]]
        ),
        ({"unique_for": 60.0}, TypeError, "unique_for needs unique="),
        ({"unique_until": "start"}, TypeError, "unique_until needs unique="),
        ({"unique": "k", "unique_for": 60.0, "unique_until": "end"}, ValueError, "not both"),
    ],
)
def test_a_wrong_value_is_refused_by_name(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MemoryStorage[int]().push_nowait(1, **options)


def test_a_builder_names_its_own_parameters() -> None:
    builder = Task.builder(1)
    with pytest.raises(ValueError, match="seconds must be more than 0"):
        builder.unique("k", seconds=0)
    with pytest.raises(ValueError, match="until must be 'start'"):
        builder.unique("k", until="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # on purpose
    with pytest.raises(ValueError, match="an until or seconds, not both"):
        builder.unique("k", until="end", seconds=1)
    parts = builder.unique("k", seconds=60).build().parts
    assert (parts.unique, parts.unique_until, parts.unique_for) == ("k", "end", 60.0)
    parts = builder.unique("k", until="forgotten").build().parts
    assert (parts.unique_until, parts.unique_for) == ("forgotten", None)


# For a time


@on_all_storages
async def test_a_key_is_held_for_its_time_and_not_longer(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    """It is held though its task is finished and forgotten, and is free though its task waits."""
    options: Any = {"unique": "key", "unique_for": 60.0}
    async with opened(kind, tmp_path, keep_results=0) as storage:
        first = await storage.push(1, **options)
        assert await run(storage) == first
        await storage.vacuum()
        assert await storage.fetch_by_id(first) is None
        mock_clock.jump(59.0)
        assert await storage.push_or_get(2, **options) == Pushed(first, False)
        assert await storage.push(3, unique="key", on_conflict="replace") == first
        assert await storage.push(4, unique="key", on_conflict="update") == first
        with pytest.raises(DuplicateTaskError, match=f"'key' is still held by the finished task '{first}'"):
            await storage.push(5, unique="key", on_conflict="raise")
        with pytest.raises(DuplicateTaskError):
            await storage.push(6, id=first, unique="key")
        mock_clock.jump(1.5)
        second = await storage.push_or_get(7, delay=1000.0, **options)
        assert second.is_new
        mock_clock.jump(61.0)
        third = await storage.push_or_get(8, unique="key")
        assert third.is_new
        assert {task.parts.id for task in await storage.list_tasks(Status.Pending)} == {second.id, third.id}


@on_all_storages
async def test_a_push_that_updates_begins_the_time_anew(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(kind, tmp_path) as storage:
        options: Any = {"unique": "key", "unique_for": 10.0, "delay": 10.0, "on_conflict": "update"}
        ids = set[str]()
        for number in range(5):
            ids.add(await storage.push(number, **options))
            mock_clock.jump(6.0)
        assert len(ids) == 1
        mock_clock.jump(5.0)
        assert (await storage.receive()).args == 4
        assert await storage.push(5, unique="key") not in ids


@on_all_storages
async def test_the_end_of_the_hold_can_be_updated(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    """An update gives the waiting task all options of the new one, that for its unique key included."""
    async with opened(kind, tmp_path) as storage:
        ends: list[Any] = [{"unique_for": 60.0}, {"unique_until": "start"}, {}, {"unique_until": "forgotten"}]
        ways = [(a, b) for a in ends for b in ends if a != b]
        for number, (before, after) in enumerate(ways):
            task = await storage.push(1, unique=f"{number}", **before)
            assert await storage.push(2, unique=f"{number}", on_conflict="update", **after) == task
            received = await storage.receive()
            assert received.parts.id == task
            is_held = {"while it runs": await storage.push(3, unique=f"{number}") == task}
            await storage.settle(received, Succeeded(None))
            await discard_others(storage, task)
            is_held["when it is done"] = await storage.push(3, unique=f"{number}") == task
            await discard_others(storage, task)
            mock_clock.jump(61.0)
            is_held["after a minute"] = await storage.push(3, unique=f"{number}") == task
            await discard_others(storage, task)
            assert (
                list(is_held.values())
                == {
                    "start": [False] * 3,
                    "end": [True, False, False],
                    "forgotten": [True] * 3,
                    "time": [True, True, False],
                }["time" if "unique_for" in after else after.get("unique_until", "end")]
            ), (before, after)
            await storage.vacuum()


async def discard_others(storage: Any, task: str) -> None:
    for each in await storage.list_tasks(Status.Pending):
        if each.parts.id != task:
            assert await storage.discard(each.parts.id)


@on_all_storages
async def test_a_task_that_is_replaced_hands_its_time_over(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(kind, tmp_path) as storage:
        first = await storage.push(1, unique="key", unique_for=60.0)
        second = await storage.push(2, unique="key", unique_for=10.0, on_conflict="replace")
        assert (await storage.wait_for(first)).status is Status.Killed
        task = await storage.receive()
        third = await storage.push(3, unique="key", on_conflict="replace")
        assert {second, third} != {first} and await storage.push(4, unique="key") == third
        await storage.settle(task, Released())
        assert (await storage.wait_for(second)).status is Status.Killed, "it was replaced while it ran"
        assert await run(storage) == third
        assert await storage.push(5, unique="key") not in (first, second, third), "no time is left over"


@on_all_storages
async def test_a_key_does_not_come_with_an_id_that_is_given_again(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    """The task that holds a key is forgotten, and another one has its id: that one is not replaced nor updated."""
    async with opened(kind, tmp_path, keep_results=0) as storage:
        await storage.push(1, id="a", unique="key", unique_for=60.0)
        await run(storage)
        await storage.vacuum()
        mock_clock.jump(1.0)
        await storage.push(2, id="a", delay=5.0)
        for on_conflict in ("replace", "update"):
            assert await storage.push(3, unique="key", on_conflict=on_conflict) == "a"
        [task] = await storage.list_tasks()
        assert (task.args, task.parts.status) == (2, Status.Pending)


# Until it begins


@on_all_storages
@pytest.mark.parametrize(
    "outcome",
    [lambda: Retried(ValueError("no"), 5.0), Released, lambda: Suspended(trio.current_time() + 5.0)],
    ids=["retried", "released", "suspended"],
)
async def test_a_key_held_until_the_start_is_not_taken_again(
    outcome: Callable[[], Any], kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    options: Any = {"unique": "key", "unique_until": "start"}
    async with opened(kind, tmp_path) as storage:
        first = await storage.push(1, **options)
        assert await storage.push(2, **options) == first
        task = await storage.receive()
        second = await storage.push(3, **options)
        await storage.settle(task, outcome())
        assert await storage.push(4, **options) == second
        third = await storage.push(5, **options, on_conflict="replace")
        assert (await storage.fetch_by_id(first)).parts.status is Status.Pending, "it was not replaced"
        mock_clock.jump(6.0)
        assert {await run(storage), await run(storage)} == {first, third}
        with pytest.raises(DuplicateTaskError):
            await storage.push(6, **options)
            await storage.resume_by_id(first)


# Until it is forgotten


@on_stored
async def test_a_key_held_until_forgotten_is_free_when_the_retention_is_over(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    options: Any = {"unique": "key", "unique_until": "forgotten"}
    async with opened(kind, tmp_path) as storage:
        first = await storage.push(1, **options)
        await run(storage)
        mock_clock.jump(KEEP - 1)
        assert await storage.push(2, **options) == first
        mock_clock.jump(2)
        second = await storage.push_or_get(3, **options)
        assert second.is_new
        assert await storage.audit()
        await storage.cancel(second.id)
        assert await storage.push(4, **options) == second.id
        await storage.discard(second.id)
        assert (await storage.push_or_get(5, **options)).is_new


@on_all_storages
async def test_a_task_that_expires_holds_its_key_by_the_rules(kind: str, tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(kind, tmp_path) as storage:
        ends: list[Any] = [{"unique_for": 60.0}, {"unique_until": "start"}, {}, {"unique_until": "forgotten"}]
        ids = [await storage.push(1, unique=f"{n}", expires_in=5.0, **end) for n, end in enumerate(ends)]
        mock_clock.jump(6.0)
        assert [await storage.push(2, unique=f"{n}") == task_id for n, task_id in enumerate(ids)] == [
            True,
            False,
            False,
            True,
        ]
        assert await storage.audit()


# A task that is resumed


@on_all_storages
@pytest.mark.parametrize("end", [{"unique_for": 60.0}, {"unique_until": "start"}, {}, {"unique_until": "forgotten"}])
async def test_a_resumed_task_holds_its_key_as_one_that_is_pushed(
    end: Any, kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    """A time does not begin again."""
    async with opened(kind, tmp_path) as storage:
        first = await storage.push(1, unique="key", **end)
        await run(storage, Failed(ValueError("no")))
        mock_clock.jump(61.0)
        assert await storage.resume_by_id(first)
        is_held = await storage.push(2, unique="key", delay=FOREVER) == first
        assert is_held is ("unique_for" not in end)
        await run(storage, Failed(ValueError("no")))
        if not is_held:
            with pytest.raises(DuplicateTaskError):
                await storage.resume_by_id(first)
            assert await storage.retry_all() == 0
        assert await storage.audit()


# Every way of pushing


@on_all_storages
async def test_all_ways_of_pushing_keep_to_it(kind: str, tmp_path: Path) -> None:
    options: Any = {"unique": "key", "unique_for": 60.0}
    async with opened(kind, tmp_path) as storage:
        [first, *others] = await storage.push_bulk([1, 2, 3], **options)
        assert others == [first, first]
        await run(storage)
        send, receive = trio.open_memory_channel[int](2)
        send.send_nowait(4)
        send.close()
        assert await storage.push_stream(receive, **options) == 1
        assert await storage.push_task(Task.builder(5).unique("key", seconds=60.0).build()) == first
        assert await storage.push_or_get(6, **options) == Pushed(first, False)
        assert [task.parts.id for task in await storage.list_tasks()] == [first]


async def test_in_a_transaction_and_without_trio_too(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int) as storage:
        with closing(sqlite3.connect(path)) as connection:
            lost = storage.push_in(connection, 1, unique="key", unique_for=60.0)
            connection.rollback()
            first = storage.push_in(connection, 2, unique="key", unique_for=60.0)
            assert storage.push_in(connection, 3, unique="key") == first != lost
            connection.commit()
        await storage.discard(first)
        with SqliteStorage.open_sync(path, int) as sync:
            assert sync.push(4, unique="key") == first
            second = sync.push(5, unique="other", unique_until="forgotten")
        await run(storage)
        assert await storage.push(6, unique="other") == second


# What stands on disk


@on_stored
async def test_what_holds_a_key_holds_it_after_the_storage_is_opened_again(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with opened(kind, tmp_path, keep_results=0) as storage:
        gone = await storage.push(1, unique="timed", unique_for=60.0)
        await run(storage)
        begun = await storage.push(2, unique="begun", unique_until="start")
        await run(storage, Retried(ValueError("no"), FOREVER))
        kept = await storage.push(3, unique="kept", unique_until="forgotten")
        await run(storage, Failed(ValueError("no")))
        waits = await storage.push(4, unique="waits", unique_until="start")
        over = await storage.push(5, unique="over", unique_for=5.0, delay=FOREVER)
        lost = await storage.push(6, unique="lost", unique_until="forgotten")
        await storage.push(7, unique="lost", on_conflict="replace", delay=FOREVER)
        mock_clock.jump(6.0)
    async with opened(kind, tmp_path) as storage:
        assert await storage.push(7, unique="timed") == gone
        assert await storage.push(7, unique="kept") == kept
        assert await storage.push(7, unique="waits") == waits
        assert await storage.push(7, unique="begun") != begun
        assert await storage.push(7, unique="over") != over
        assert await storage.push(7, unique="lost") != lost
        mock_clock.jump(60.0)
        assert await storage.push(7, unique="timed") != gone


def test_a_journal_that_cannot_be_written_leaves_each_key_where_it_was() -> None:
    """What a transaction has done with keys is undone by its rollback, and told by its record."""
    state, copy = JournalState(), JournalState()
    state.time = 1000.0
    steps = ExchangeSteps(state)

    def commit() -> None:
        payload = encode_change(state)
        state.commit()
        if payload is not None:
            load_record(copy, payload)

    ends: list[Any] = [{"unique_for": 60.0}, {"unique_until": "start"}, {}, {"unique_until": "forgotten"}]
    steps.exchange(Exchange(pushed=[new(f"{n}", unique=f"key {n}", **end) for n, end in enumerate(ends)]))
    commit()
    before = keys_of(state)
    again = [
        new(f"{on_conflict} {n}", unique=f"key {n}", on_conflict=on_conflict, **end)
        for n in range(4)
        for end in ends
        for on_conflict in ("update", "replace")
    ]
    for each in again:
        steps.exchange(Exchange(pushed=[each]))
        state.roll_back()
        assert keys_of(state) == before, each
    claims = [ClaimRequest("q", 10, 30.0, "w")]
    steps.exchange(Exchange(claims=claims))
    assert keys_of(state) != before
    state.roll_back()
    assert keys_of(state) == before
    [claimed] = steps.exchange(Exchange(claims=claims)).claimed
    commit()
    del before["key 1"]
    steps.exchange(Exchange(settled=[settled(row, SettlementKind.FAILED, keep=0.0) for row in claimed]))
    assert keys_of(state) == {"key 0": "0"}
    state.roll_back()
    assert keys_of(state) == before
    steps.exchange(Exchange(pushed=again[::3]))
    commit()
    finish_loading(copy)
    assert keys_of(copy) == keys_of(state)


def keys_of(state: JournalState) -> dict[str, Any]:
    [queue] = state.queues.values()
    held = {key: row.id for key, row in queue.holders.items()}
    return {**held, **{key: timed.id for key, timed in queue.timed_keys.items() if timed.end > state.time}}


async def test_keys_whose_time_is_over_are_dropped(tmp_path: Path, mock_clock: MockClock) -> None:
    """They do not pile up, in memory nor on disk."""
    async with (
        opened("sqlite", tmp_path) as stored,
        opened("file", tmp_path) as file,
        opened("memory", tmp_path) as ram,
    ):
        for storage in (stored, file, ram):
            for number in range(100):
                await storage.push(number, unique=f"key {number}", unique_for=1.0, priority=-1)
            mock_clock.jump(2.0)
            await storage.push(0, unique="key", unique_for=1.0, delay=FOREVER)
            while (await storage.metrics())["waiting"]:
                await run(storage)
            await storage.vacuum()
        assert len(ram._queue.ledger._keys._holders) == 1
        [queue] = file._loop.engine._open_transaction_log().state.queues.values()
        assert len(queue.timed_keys) == len(queue.key_ends) == 1
        with closing(sqlite3.connect(tmp_path / "sqlite")) as connection:
            assert connection.execute("SELECT count(*) FROM trio_tasks_key").fetchone() == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trio_tasks_task SET uniq_until = x'ff'",
        "UPDATE trio_tasks_task SET uniq_until = 'never'",
        "UPDATE trio_tasks_task SET uniq = x'ff' WHERE uniq = 'other'",
        *(f"UPDATE trio_tasks_key SET until = {value}" for value in ("'soon'", "x'ff'", "9e999", "-9e999")),
        "UPDATE trio_tasks_key SET pushed = 'then'",
    ],
)
async def test_another_value_in_the_file_is_of_no_harm(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "sqlite"
    async with opened("sqlite", tmp_path) as storage:
        await storage.push(1, unique="key", unique_for=60.0)
        await storage.push(2, unique="other", unique_until="forgotten")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)
        for on_conflict in ("skip", "update", "replace"):
            await storage.push(3, unique="key", on_conflict=on_conflict, unique_for=1.0)
            await storage.push(4, unique="other", on_conflict=on_conflict, unique_until="start")
        while (await storage.metrics())["waiting"]:
            await run(storage)
        assert await storage.audit()
