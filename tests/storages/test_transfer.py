"""Tests of the export of whole tasks from a storage, and of their import into another one."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    CborCodec,
    DurableStorage,
    Failed,
    FileStorage,
    Killed,
    Outcome,
    Parts,
    Released,
    Retried,
    SqliteStorage,
    Status,
    StoredTask,
    Succeeded,
    Suspended,
    Task,
    TaskId,
)
from trio_tasks._tasks.task import Terms

KINDS = ["sqlite", "file"]
BOTH = [(source, target) for source in KINDS for target in KINDS]
each_pair = pytest.mark.parametrize(("source", "target"), BOTH)
everywhere = pytest.mark.parametrize("kind", KINDS)
Storage = DurableStorage[Any]


def storage_in(folder: Path, kind: str, name: str = "a", **options: Any) -> Storage:
    if kind == "sqlite":
        return SqliteStorage(folder / f"{name}.db", synchronous="OFF", **options)
    return FileStorage(folder / f"{name}.journal", synchronous="NORMAL", **options)


async def fill(storage: Storage) -> None:
    """Push and settle tasks until one is there in each state, in each of the ways in which it can get there."""
    outcomes: list[Outcome] = [
        Succeeded({"n": 1}),
        Succeeded(None),
        Failed(ValueError("no")),
        Killed(ValueError("never")),
        Released(),
        Retried(ConnectionError("421"), 0.0),
        Retried(ConnectionError("421"), 3600.0),
        Suspended(trio.current_time() + 1000.0, "the provider is down"),
        Suspended(math.inf),
    ]
    for number, outcome in enumerate(outcomes):
        await storage.push({"n": number}, id=f"settled-{number}", attempts=9, metadata={"é": b"\0"}, priority=number)
        await storage.settle(await storage.receive(), outcome)
    for number in range(2):  # the released and the retried one among them
        await storage.push({"n": number}, id=f"held-{number}", unique=f"held-{number}", priority=50)
        task = await storage.receive()
        await storage.report_progress(task, {"done": number})
    await storage.abort("held-1")
    await storage.push({}, id="replacing", unique="held-0", on_conflict="replace", delay=60)
    for until in ("start", "end", "forgotten"):
        await storage.push([until], id=until, unique=until, unique_until=until)
        await storage.push([until], id=f"done-{until}", unique=f"done-{until}", unique_until=until, priority=99)
        await storage.settle(await storage.receive(), Succeeded(None))
    await storage.push(1.5, id="timed", unique="timed", unique_for=1e6)
    terms = Terms(name="mail", key="acme", expires_in=50.0, priority=-3)
    await storage.push_task(Task("", Parts(TaskId("named"), terms=terms)))
    await storage.reschedule(await storage.push(None, id="expires first", expires_in=20.5), 100)
    await storage.push("x" * 3000, id="plain")
    await storage.cancel("plain")
    await storage.push(2**40, id="\u202eevil\n")


async def exported(storage: Storage, limit: int = 7) -> list[StoredTask]:
    tasks: list[StoredTask] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = await storage.export_tasks(after, limit=limit)
        assert len(page) <= limit
        tasks += page
        after, pages = page.next, pages + 1
    return tasks


@asynccontextmanager
async def filled(folder: Path, kind: str) -> AsyncGenerator[Storage, None]:
    async with storage_in(folder, kind, keep_dead=7200.0) as storage:
        await fill(storage)
        yield storage


async def shown(storage: Storage) -> dict[str, Any]:
    """Return what users see of each task."""
    found: dict[str, Any] = {}
    for task in await storage.list_tasks(limit=1000):
        parts, info = task.parts, task.parts.context
        facts = parts.status, int(parts.attempt), parts.terms, dict(parts.metadata), info.history, info.worker
        found[parts.id] = task.args, facts, repr(info.error), info.result, info.progress
    return found


@each_pair
async def test_all_that_is_stored_of_tasks_comes_along(
    source: str, target: str, tmp_path: Path, autojump_clock: object
) -> None:
    async with filled(tmp_path, source) as storage:
        tasks, before = await exported(storage), await shown(storage)
        assert {each.id for each in tasks} == before.keys()
        assert {each.state for each in tasks} == {"waiting", "delayed", "running", "done", "failed", "killed"}
    async with storage_in(tmp_path, target, "b") as other:
        report = await other.import_tasks(tasks)
        assert (report.refused, [*report.imported]) == ({}, [each.id for each in tasks])
        assert await exported(other) == tasks
        assert await exported(other, 1000) == tasks
        assert await shown(other) == before
        balance = await other.audit()
        assert balance, str(balance)
        metrics = await other.metrics()
        assert metrics["pushed"] == len(tasks)
        assert metrics["succeeded"] == sum(each.state == "done" for each in tasks)
        assert metrics["suspended_now"] == 2
        again = await other.import_tasks(tasks)
        assert (len(again.present), again.imported, again.refused) == (len(tasks), (), {})
        assert await other.audit()


@each_pair
async def test_it_outlives_the_process(source: str, target: str, tmp_path: Path, autojump_clock: object) -> None:
    async with filled(tmp_path, source) as storage:
        tasks = await exported(storage)
    async with storage_in(tmp_path, target, "b") as other:
        await other.import_tasks(tasks)
    async with storage_in(tmp_path, target, "b", read_only=True) as other:
        assert await exported(other) == tasks
    async with storage_in(tmp_path, target, "b") as other:
        running = {each.id for each in tasks if each.state == "running"}
        now = [each for each in await exported(other) if each.id not in running]
        assert now == [each for each in tasks if each.id not in running]
        assert await other.audit()


async def run_all(storage: Storage, clock: MockClock) -> dict[str, Any]:
    """Let all tasks succeed that are ready within two hours; return them, in order."""
    ran: dict[str, Any] = {}
    for _ in range(8):
        metrics = await storage.metrics()
        while metrics["waiting"] or metrics["orphans"]:
            task = await storage.receive()
            assert task.parts.id not in ran, "it runs once"
            ran[task.parts.id] = task
            await storage.settle(task, Succeeded(None))
            metrics = await storage.metrics()
        clock.jump(900.0)
    return ran


@each_pair
async def test_imported_tasks_go_on(source: str, target: str, tmp_path: Path, mock_clock: MockClock) -> None:
    async with filled(tmp_path, source) as storage:
        await storage.push("lost", id="lost", priority=1000)
        lost = await storage.receive()
        tasks = await exported(storage)
    async with storage_in(tmp_path, target, "b") as other:
        await other.import_tasks(tasks)
        assert (await other.metrics())["orphans"] == 3
        mock_clock.jump(1.0)
        ran = await run_all(other, mock_clock)
        assert ran["lost"].parts.attempt == lost.parts.attempt + 1, "the attempt that was under way counts"
        assert ran["lost"].parts.context.history[-1].became == "lost"
        ended = {"held-0": Status.Killed, "held-1": Status.Killed, "expires first": Status.Killed}
        ended["settled-8"] = Status.Pending  # not ready before it is rescheduled
        assert {*ran} == {each.id for each in tasks if not each.is_finished} - ended.keys()
        for task_id, status in ended.items():
            task = await other.fetch_by_id(task_id)
            assert task is not None
            assert task.parts.status is status, task_id
        ready = [each for each in ran if each in {"settled-4", "settled-5", "start", "end", "forgotten", "timed"}]
        assert ready == ["settled-5", "settled-4", "start", "end", "forgotten", "timed"]
        assert await other.audit()


@each_pair
async def test_unique_keys_are_held_on(source: str, target: str, tmp_path: Path, autojump_clock: object) -> None:
    async with filled(tmp_path, source) as storage:
        tasks = await exported(storage)
    held = {each.unique: each.id for each in tasks if each.unique is not None}
    assert held == {
        "held-0": "replacing",
        "start": "start",
        "end": "end",
        "forgotten": "forgotten",
        "done-forgotten": "done-forgotten",
        "timed": "timed",
    }
    async with storage_in(tmp_path, target, "b") as other:
        await other.import_tasks(tasks)
        for key, task_id in held.items():
            assert await other.push(None, unique=key) == task_id
        for key in ("done-start", "done-end", "held-1"):
            assert (await other.push_or_get(None, unique=key)).is_new
        for _ in range(40):  # twice as long, since the clock of the other store may be behind
            await trio.sleep(50_000)
        assert (await other.push_or_get(None, unique="timed")).is_new


@everywhere
async def test_nothing_is_overwritten(kind: str, tmp_path: Path, autojump_clock: object) -> None:
    async with storage_in(tmp_path, kind) as storage:
        await storage.push("first", id="a")
        await storage.push("second", id="b", unique="key")
        [a, b] = await exported(storage)
        other_a = replace(a, payload=CborCodec().encode("other"))
        other_key = replace(b, id="c")
        report = await storage.import_tasks([other_a, a, other_key, b])
        assert not report
        assert report.present == ("a", "b")
        assert report.refused == {
            "a": "another task of this id is there",
            "c": "its unique key 'key' is held by task b",
        }
        assert await exported(storage) == [a, b]
        await storage.settle(await storage.receive(), Succeeded(None))
        assert (await storage.import_tasks([a, b])).present == ("a", "b"), "whatever has become of them"
        assert (
            str(report) == "0 of 4 imported; 2 there already; not a: another task of this id is there; not c: its "
            "unique key 'key' is held by task b"
        )


@everywhere
async def test_a_task_that_is_kept_no_longer_is_left_out(kind: str, tmp_path: Path, autojump_clock: object) -> None:
    async with storage_in(tmp_path, kind, keep_results=10.0) as storage:
        await storage.push("a", id="a", unique="a", unique_until="forgotten")
        await storage.settle(await storage.receive(), Succeeded(None))
        [task] = await exported(storage)
        await trio.sleep(11)
        assert await exported(storage) == []
        report = await storage.import_tasks([task])
        assert (report.forgotten, report.imported, bool(report)) == (("a",), (), True)
        longer = replace(task, due=task.due and task.due + 100)
        assert (await storage.import_tasks([longer])).imported == ("a",), "the one that is over gives way"
        assert await exported(storage) == [longer]
        assert await storage.audit()


@everywhere
async def test_wrong_tasks_are_refused(kind: str, tmp_path: Path, autojump_clock: object) -> None:
    async with storage_in(tmp_path, kind) as storage:
        good = StoredTask(id="good", state="waiting", payload=b"\0", since=1.0)
        damaged = replace(good, id="damaged", options=b"\xff")
        foreign = replace(good, id="foreign", unique="key")
        report = await storage.import_tasks([good, damaged, foreign])
        assert report.imported == ("good",)
        assert report.refused.keys() == {"damaged", "foreign"}
        assert "the options of a task cannot be read" in report.refused["damaged"]
        with pytest.raises(TypeError, match=r"tasks\[1\] must be a StoredTask"):
            wrong: Any = {"id": "c"}
            await storage.import_tasks([replace(good, id="b"), wrong])
        assert [each.id for each in await exported(storage)] == ["good"]
        cursors: list[Any] = ["x", "", "-1", "9" * 30, 3]
        for cursor in cursors:
            with pytest.raises(ValueError, match="after must be the `next` of a page"):
                await storage.export_tasks(cursor)
        with pytest.raises(ValueError, match="limit must be 1 or more"):
            await storage.export_tasks(limit=0)


@everywhere
async def test_a_task_that_is_too_large_is_refused(
    kind: str, tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage_in(tmp_path, kind) as storage:
        anything: Any = storage
        anything._loop.engine.longest = 10
        large = StoredTask(id="a", state="done", payload=bytes(11), since=1.0)
        report = await storage.import_tasks([large, replace(large, id="b", payload=b"", result=bytes(11))])
        assert report.refused == {
            "a": "it has 11 bytes, and this store takes 10 at most",
            "b": "its result has 11 bytes, and this store takes 10 at most",
        }


@everywhere
async def test_large_tasks_make_short_pages(kind: str, tmp_path: Path, autojump_clock: object) -> None:
    async with storage_in(tmp_path, kind) as storage:
        await storage.push_bulk([bytes(3 * 2**20)] * 5)
        first = await storage.export_tasks()
        assert (len(first), first.next is not None) == (2, True)
        assert len(await exported(storage)) == 5


WRONG: dict[str, tuple[Callable[[StoredTask], StoredTask], str]] = {
    "state": (lambda task: replace(task, state="dead"), "state must be one of waiting, delayed"),  # type: ignore[arg-type]  # on purpose
    "id": (lambda task: replace(task, id=""), "id must not be an empty string"),
    "id of halves": (lambda task: replace(task, id="\ud800"), "encodable as UTF-8"),
    "payload": (lambda task: replace(task, payload="text"), "payload must be bytes"),  # type: ignore[arg-type]  # on purpose
    "history": (lambda task: replace(task, history=[]), "history must be bytes or None"),  # type: ignore[arg-type]  # on purpose
    "attempt": (lambda task: replace(task, attempt=-1), "attempt must be 0 or more"),
    "large attempt": (lambda task: replace(task, attempt=2**63), "attempt must fit in 64 bits"),
    "priority": (lambda task: replace(task, priority=True), "priority must be a whole number"),
    "NaN": (lambda task: replace(task, pushed=math.nan), "pushed must be a time"),
    "never": (lambda task: replace(task, since=math.inf), "since must be a time"),
    "run_at": (lambda task: replace(task, run_at=2**62), "run_at must be a time in microseconds"),
    "no since": (lambda task: replace(task, since=None), "since must not be None where state is 'waiting'"),
    "due": (lambda task: replace(task, due=1.0), "due must not be 1.0 where state is 'waiting'"),
    "suspended": (lambda task: replace(task, suspended="x"), "suspended must not be 'x'"),
    "aborting": (lambda task: replace(task, is_aborting=True), "is_aborting must not be True"),
    "until": (lambda task: replace(task, unique_until="forgotten"), "unique_until needs a unique key"),
    "wrong until": (lambda task: replace(task, unique="k", unique_until="x"), "unique_until must be 'start'"),  # type: ignore[arg-type]  # on purpose
    "finished": (lambda task: replace(task, state="done", unique="k"), "does not hold a unique key until its end"),
    "worker": (lambda task: replace(task, worker=3), "worker must be a string"),  # type: ignore[arg-type]  # on purpose
    "flag": (lambda task: replace(task, by_wall_clock=1), "by_wall_clock must be True or False"),  # type: ignore[arg-type]  # on purpose
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_refused(name: str) -> None:
    task = StoredTask(id="a", state="waiting", payload=b"\0", since=1.0)
    make, text = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=text):
        make(task)
