"""Tests of lists of tasks on every storage: pages, cursors, filters, and the bound of a search."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import (
    AbortError,
    Failed,
    FileStorage,
    MemoryStorage,
    Page,
    SqliteStorage,
    Status,
    Succeeded,
    Task,
    TaskFilters,
    Worker,
)
from trio_tasks._contracts import listing
from trio_tasks._contracts.listing import Position, Selection

from tests._scale import seeds

Opener = Callable[[], Any]
STORAGES: dict[str, Callable[[Path], Any]] = {
    "memory": lambda path: MemoryStorage[int](),
    "file": lambda path: FileStorage[int](path / "tasks.journal", int, synchronous="NORMAL"),
    "sqlite": lambda path: SqliteStorage[int](path / "tasks.db", int, synchronous="OFF"),
}


@pytest.fixture(params=STORAGES)
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        storage = STORAGES[request.param](tmp_path)
        if isinstance(storage, MemoryStorage):
            yield storage
        else:
            async with storage:
                yield storage

    return opened


def args_of(tasks: list[Task[int]]) -> list[int]:
    return [task.args for task in tasks]


async def all_pages(storage: Any, status: Status | None = None, **options: Any) -> list[int]:
    """Return the args of all tasks of a list, page by page."""
    page = await storage.list_tasks(status, **options)
    seen = args_of(page)
    while page.next is not None:
        page = await storage.list_tasks(status, after=page.next, **options)
        seen += args_of(page)
    return seen


async def finish(storage: Any, number: int, outcome: Any = None) -> None:
    for _ in range(number):
        await storage.settle(await storage.receive(), Succeeded(None) if outcome is None else outcome)


async def fill(storage: Any) -> int:
    """Push tasks into every state; returns how many there are."""
    for n in range(30):
        await storage.push(n, priority=n % 3)
    await finish(storage, 4)
    await finish(storage, 3, Failed(ValueError("1")))
    for n in range(30, 36):
        await storage.push(n, delay=3600.0 - n)
    for _ in range(3):
        await storage.receive()
    return 36


@pytest.mark.parametrize("limit", [1, 2, 7, 36, 37, 100])
@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_are_the_whole_list(open_storage: Opener, limit: int, newest_first: bool) -> None:
    async with open_storage() as storage:
        number = await fill(storage)
        whole = args_of(await storage.list_tasks(limit=1000))
        assert len(whole) == number
        backwards = args_of(await storage.list_tasks(limit=1000, newest_first=True))
        assert backwards == whole[::-1]
        assert await all_pages(storage, limit=limit, newest_first=newest_first) == (
            backwards if newest_first else whole
        )


async def test_the_last_page_has_no_next(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for n in range(4):
            await storage.push(n)
        first = await storage.list_tasks(limit=2)
        assert isinstance(first, Page)
        second = await storage.list_tasks(limit=2, after=first.next)
        assert (args_of(second), second.next, second.is_partial) == ([2, 3], None, False)
        nothing = await storage.list_tasks(Status.Killed)
        assert (nothing, nothing.next) == ([], None)


@pytest.mark.parametrize("seed", seeds(3))
async def test_a_task_that_stays_is_on_one_page(open_storage: Opener, seed: int) -> None:
    rng = random.Random(seed)
    async with open_storage() as storage:
        for n in range(60):
            await storage.push(n, priority=rng.choice([0, 0, 5]), delay=rng.choice([0.0, 0.0, 1000.0 + n]))
        newest_first, limit = rng.random() < 0.5, rng.randint(1, 9)
        page = await storage.list_tasks(Status.Pending, limit=limit, newest_first=newest_first)
        seen, gone = args_of(page), set[int]()
        while page.next is not None:
            for _ in range(rng.randint(0, 3)):
                await storage.push(100 + rng.randint(0, 10**6), priority=rng.choice([0, 5, 9]))
            if rng.random() < 0.6:
                task = await storage.receive()
                gone.add(task.args)
                await storage.settle(task, Succeeded(None))
            page = await storage.list_tasks(Status.Pending, after=page.next, limit=limit, newest_first=newest_first)
            seen += args_of(page)
        assert len(seen) == len({*seen})
        assert {each for each in seen if each < 100} >= {*range(60)} - gone


async def test_finished_tasks_come_newest_first(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for n in range(9):
            await storage.push(n)
        await finish(storage, 9)
        assert await all_pages(storage, Status.Done, newest_first=True, limit=4) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
        page = await storage.list_tasks(Status.Done, newest_first=True, limit=4)
        await storage.push(9)
        await finish(storage, 1)
        assert args_of(await storage.list_tasks(Status.Done, newest_first=True, limit=4, after=page.next)) == [
            4,
            3,
            2,
            1,
        ]


async def test_filters_choose_by_what_is_stored(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for n in range(20):
            await storage.push(n, metadata={"tenant": "acme" if n % 4 else "bcme", "n": n}, unique=f"key {n}")
        await storage.push(20, delay=50.0)
        [third] = await storage.list_tasks(unique="key 3")
        assert third.args == 3
        assert args_of(await storage.list_tasks(metadata={"tenant": "bcme"})) == [0, 4, 8, 12, 16]
        assert args_of(await storage.list_tasks(metadata={"tenant": "bcme", "n": 8})) == [8]
        assert await storage.list_tasks(metadata={"n": "8"}) == []
        assert await storage.list_tasks(metadata={"tenant": "cme"}) == []
        assert await all_pages(storage, metadata={"tenant": "bcme"}, limit=2) == [0, 4, 8, 12, 16]
        assert args_of(await storage.list_tasks(delayed=True)) == [20]
        assert args_of(await storage.list_tasks(Status.Pending, delayed=False)) == [*range(20)]
        assert len(await storage.list_tasks(name=None, metadata=None)) == 21
        assert await storage.list_tasks(name="send_email") == []


async def test_tasks_of_one_key_are_found_and_changed(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for n in range(6):
            await storage.push(n, key="acme" if n % 2 else "ajax", unique=f"{n}")
        await storage.push(6)
        assert args_of(await storage.list_tasks(key="acme")) == [1, 3, 5]
        assert args_of(await storage.list_tasks(key="acme", unique="3")) == [3]
        assert await storage.list_tasks(key="a") == []
        [found] = await storage.list_tasks(unique="4")
        assert found.parts.key == "ajax"
        assert [task.parts.key for task in await storage.list_tasks() if task.args == 6] == [None]
        assert await storage.cancel_all(key="ajax") == 3
        assert await storage.retry_all(key="acme") == 0
        assert await storage.retry_all(key="ajax") == 3
        received = await storage.receive()
        assert (received.args, received.parts.key) == (1, "acme")


async def test_the_key_goes_with_a_task_that_is_updated_by_a_push(open_storage: Opener) -> None:
    async with open_storage() as storage:
        await storage.push(1, key="acme", unique="u")
        await storage.push(2, key="ajax", unique="u", on_conflict="update")
        [task] = await storage.list_tasks()
        assert (task.args, task.parts.key) == (2, "ajax")


@pytest.mark.parametrize("wrong", [5, "", b"k", "\ud800", None], ids=repr)
@pytest.mark.parametrize("option", ["key", "unique"])
async def test_a_wrong_key_is_refused(open_storage: Opener, option: str, wrong: Any) -> None:
    async with open_storage() as storage:
        with pytest.raises((TypeError, ValueError), match=r"key|unique"):
            await storage.push(1, **{option: wrong})
        assert await storage.list_tasks() == []


async def test_filters_choose_by_time_of_push(open_storage: Opener) -> None:
    async with open_storage() as storage:
        await storage.push(1)
        [first] = await storage.list_tasks()
        moment = first.parts.pushed_at
        assert args_of(await storage.list_tasks(pushed_after=moment - timedelta(seconds=1))) == [1]
        assert await storage.list_tasks(pushed_before=moment - timedelta(seconds=1)) == []
        assert args_of(await storage.list_tasks(pushed_before=moment + timedelta(seconds=1))) == [1]
        assert await storage.list_tasks(pushed_after=moment + timedelta(seconds=1)) == []


async def test_filters_choose_by_worker(open_storage: Opener) -> None:
    from trio_tasks import Worker

    async with open_storage() as storage:
        for n in range(3):
            await storage.push(n)

        async def handle(n: int) -> None:
            if n == 2:
                context.stop()

        worker = Worker("the worker", storage, handle, concurrency=1)
        async with trio.open_nursery() as nursery:
            context = await nursery.start(worker.run)
        await storage.push(3)
        assert args_of(await storage.list_tasks(worker="the worker")) == [0, 1, 2]
        assert await storage.list_tasks(worker="another") == []


async def test_a_search_looks_at_so_many_tasks_and_says_so(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "WINDOW", 10)
    async with open_storage() as storage:
        for n in range(35):
            await storage.push(n, metadata={"odd": n % 2 == 1})
        page = await storage.list_tasks(metadata={"odd": True})
        assert (args_of(page), page.is_partial) == ([1, 3, 5, 7, 9], True)
        page = await storage.list_tasks(metadata={"odd": True}, after=page.next)
        assert (args_of(page), page.is_partial) == ([11, 13, 15, 17, 19], True)
        assert await all_pages(storage, metadata={"odd": True}) == [*range(1, 35, 2)]
        whole = await storage.list_tasks(limit=1000)
        assert (len(whole), whole.is_partial) == (35, False)


@pytest.mark.parametrize("after", ["", "no", "bm8", "e30", "W10", "WzFd", "é", 5, b"x"], ids=repr)
async def test_what_is_no_cursor_is_refused(open_storage: Opener, after: Any) -> None:
    async with open_storage() as storage:
        with pytest.raises((TypeError, ValueError), match="after must"):
            await storage.list_tasks(after=after)


async def test_a_cursor_of_another_list_is_refused(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for n in range(3):
            await storage.push(n)
        cursor = (await storage.list_tasks(limit=1)).next
        others: list[dict[str, Any]] = [{"status": Status.Pending}, {"newest_first": True}, {"unique": "u"}]
        for options in others:
            with pytest.raises(ValueError, match="of the same list"):
                await storage.list_tasks(**options, after=cursor)
        wrong_key = Selection().cursor(Position(0, (1.0, 2.0, 3.0, 4.0, 5.0)), newest_first=False)
        if not isinstance(storage, MemoryStorage):
            with pytest.raises(ValueError, match="of the same list"):
                await storage.list_tasks(after=wrong_key)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "no filter of tasks; those are name, key, worker"),
    ({"name": 5}, "name must be a string"),
    ({"metadata": "x"}, "metadata must be a mapping"),
    ({"pushed_after": datetime(2026, 1, 1)}, "pushed_after must have a time zone"),  # noqa: DTZ001  it is to be refused
    ({"pushed_before": 5}, "pushed_before must be a datetime"),
    ({"delayed": 1}, "delayed must be True or False"),
    ({"delayed": True, "status": Status.Done}, "delayed is about tasks that wait"),
    ({"newest_first": None}, "newest_first must be True or False"),
    ({"limit": 0}, "limit must be"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
async def test_wrong_filters_are_refused(open_storage: Opener, options: dict[str, Any], message: str) -> None:
    async with open_storage() as storage:
        with pytest.raises((TypeError, ValueError), match=message):
            await storage.list_tasks(**options)


def test_a_moment_in_any_zone_is_the_same_filter() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5)))
    filters: list[TaskFilters] = [{"pushed_after": moment}, {"pushed_after": elsewhere}]
    assert len({Selection.of(None, each) for each in filters}) == 1


# Changing many


async def test_many_are_retried_cancelled_and_discarded_in_parts(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_tasks._backends.capabilities.CHANGED_AT_ONCE", 7)
    monkeypatch.setattr("trio_tasks._backends.durable.operations.CHANGED_AT_ONCE", 7)
    async with open_storage() as storage:
        for n in range(40):
            await storage.push(n, metadata={"odd": n % 2 == 1}, delay=60.0 * (n % 3))
        assert await storage.cancel_all(metadata={"odd": True}) == 20
        assert {*args_of(await storage.list_tasks(Status.Killed))} == {*range(1, 40, 2)}
        assert await storage.cancel_all(delayed=True) == 13
        assert await storage.cancel_all() == 7
        assert await storage.retry_all(metadata={"odd": False}) == 20
        assert await storage.retry_all(status=Status.Failed) == 0
        await finish(storage, 20)
        assert await storage.retry_all(status=Status.Done, metadata={"odd": False}) == 20
        await finish(storage, 20, Failed(ValueError("1")))
        assert await storage.discard_all(Status.Failed, metadata={"odd": True}) == 0
        assert await storage.discard_all(Status.Failed) == 20
        assert await storage.discard_all() == 20
        assert await storage.list_tasks() == []
        assert await storage.audit()


async def test_a_task_that_fails_again_meanwhile_is_retried_once(
    open_storage: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_tasks._backends.capabilities.CHANGED_AT_ONCE", 50)
    monkeypatch.setattr("trio_tasks._backends.durable.operations.CHANGED_AT_ONCE", 50)
    runs: dict[int, int] = {}

    async def fail(number: int) -> None:
        runs[number] = runs.get(number, 0) + 1
        await trio.lowlevel.checkpoint()
        raise AbortError("no")

    async with open_storage() as storage:
        await storage.push_bulk(range(150))
        async with trio.open_nursery() as nursery:
            context = await nursery.start(Worker("w", storage, fail, concurrency=50, log=None).run)
            ids = [task.parts.id for task in await storage.list_tasks(limit=150)]
            await storage.wait_for(ids)
            await trio.sleep(0.02)  # until their ends are past, whatever the clocks of one transaction say
            assert await storage.retry_all() == 150
            await storage.wait_for(ids)
            context.stop()
        assert {*runs.values()} == {2}
        assert (await storage.metrics())["resumed"] == 150


async def test_a_filter_goes_through_all_tasks(open_storage: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "WINDOW", 10)
    async with open_storage() as storage:
        for n in range(45):
            await storage.push(n, metadata={"last": n >= 40})
        assert await storage.cancel_all(metadata={"last": True}) == 5
        assert args_of(await storage.list_tasks(Status.Killed)) == [40, 41, 42, 43, 44]


async def test_a_taken_key_keeps_its_dead_letter(open_storage: Opener) -> None:
    async with open_storage() as storage:
        await storage.push(1, unique="a")
        await storage.push(2)
        await storage.cancel_all()
        await storage.push(3, unique="a")
        assert await storage.retry_all() == 1
        assert args_of(await storage.list_tasks(Status.Killed)) == [1]


async def test_waiters_of_cancelled_tasks_are_told(open_storage: Opener) -> None:
    async with open_storage() as storage:
        task_id = await storage.push(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storage.wait_for, task_id)
            await trio.testing.wait_all_tasks_blocked()
            assert await storage.cancel_all() == 1


async def test_old_tasks_are_forgotten(open_storage: Opener) -> None:
    async with open_storage() as storage:
        for n in range(5):
            await storage.push(n)
        await finish(storage, 2)
        await finish(storage, 2, Failed(ValueError("1")))
        assert await storage.vacuum(older_than=3600.0) == 0
        assert await storage.vacuum(status=Status.Failed) == 2
        assert await storage.vacuum(status=Status.Done, older_than=0) == 2
        assert args_of(await storage.list_tasks()) == [4]
        for wrong in (-1, "x", True):
            with pytest.raises((TypeError, ValueError), match="older_than must be"):
                await storage.vacuum(older_than=wrong)


NO_STATUS: list[tuple[str, dict[str, Any], str]] = [
    (
        "retry_all",
        {"status": Status.Pending},
        "of the status Done, Failed, Killed, not Pending",
    ),
    ("cancel_all", {"status": Status.Running}, "cancel_all is about"),
    ("discard_all", {"status": Status.Pending}, "discard_all is about"),
    ("discard_all", {"delayed": True}, "delayed is about"),
    ("vacuum", {"status": Status.Running}, "vacuum is about"),
    ("retry_all", {"nonsense": 1}, "no filter"),
    ("cancel_all", {"status": "Pending"}, "status must be a Status"),
]


@pytest.mark.parametrize(("verb", "options", "message"), NO_STATUS, ids=str)
async def test_a_verb_for_many_refuses_what_it_cannot_do(
    open_storage: Opener, verb: str, options: dict[str, Any], message: str
) -> None:
    async with open_storage() as storage:
        await storage.push(1)
        with pytest.raises((TypeError, ValueError), match=message):
            await getattr(storage, verb)(**options)
        assert args_of(await storage.list_tasks(Status.Pending)) == [1]
