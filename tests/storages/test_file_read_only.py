"""Tests of FileStorage with ``read_only=True``: it sees what the writer has committed, and makes, changes and locks
nothing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import BackendError, DuplicateTaskError, FileStorage, Status, Worker
from trio_tasks._backends.durable.engine import Exchange, Query, SettlementKind, State
from trio_tasks._backends.file import read_only as _file_read_only
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.file.journal import beside
from trio_tasks._backends.file.read_only import FollowedJournal, ReadOnlyFileEngine
from trio_tasks._backends.file.records import FRAME_SIZE
from trio_tasks._concurrency.exception_groups import leaves

from tests._scale import scaled, seeds
from tests.storages._child import Child
from tests.storages._rows import QUEUE, claim, new, push, settle, settled, stored_counts
from tests.storages._store_files import (
    NO_FILES,
    ROOT,
    as_another_account,
    command_of_another_account,
    contents,
    delete,
    names,
    needs_root,
    owners,
    public_directory,
    set_mode,
    write,
)

pytestmark = pytest.mark.once


@pytest.fixture
def place() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory / "tasks.journal"


@pytest.fixture(params=[2**21, 0], ids=["at once", "in a thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_file_read_only, "_READ_AT_ONCE", request.param)


async def fill(path: Path) -> None:
    async with FileStorage(path, str) as storage:
        await storage.push_bulk(["a", "b"])
    delete(beside(path, "lock"))


async def args_in(storage: FileStorage[Any]) -> list[Any]:
    return sorted(task.args for task in await storage.list_tasks(limit=10_000))


# Nothing is changed, and nothing made


async def test_looking_changes_nothing(place: Path, way: None) -> None:
    await fill(place)
    before = contents(place)
    async with FileStorage(place, str, read_only=True) as storage:
        tasks = await storage.list_tasks()
        assert sorted(task.args for task in tasks) == ["a", "b"]
        assert (await storage.metrics())["waiting"] == 2
        assert (await storage.list_queues(), await storage.list_workers()) == (["default"], [])
        assert storage.recovery is None
        task_id = tasks[0].parts.id
        found = await storage.fetch_by_id(task_id)
        assert found is not None and found.parts.status is Status.Pending
        assert await storage.fetch_by_id("no such task") is None
        assert await storage.progress_of(task_id) is None
        changes: list[Callable[[], Any]] = [
            lambda: storage.push("c"),
            lambda: storage.push_bulk(["c"]),
            storage.receive,
            storage.vacuum,
            storage.resume_abandoned,
            lambda: storage.update(tasks[0]),
            lambda: storage.cancel(task_id),
            lambda: storage.abort(task_id),
            lambda: storage.discard(task_id),
            lambda: storage.resume_by_id(task_id),
            lambda: storage.reschedule(task_id, 1.0),
            Worker("w", storage, to_upper).run,
        ]
        for change in changes:
            with trio.fail_after(60):
                await see_refused(change)
    assert contents(place) == before


async def see_refused(change: Callable[[], Any]) -> None:
    try:
        await change()
    except Exception as error:
        for each in leaves(error):
            assert isinstance(each, BackendError) and "read_only=True, and is not changed" in str(each)
    else:
        raise AssertionError("it was not refused")


async def test_where_there_is_none_none_is_made(place: Path) -> None:
    for complaint in ("is not there, and read_only=True forbids", "is empty, and read_only=True forbids"):
        with pytest.raises(BackendError, match=complaint) as caught:
            await FileStorage(place, str, read_only=True).__aenter__()
        assert caught.value.is_final and caught.value.is_missing
        assert names(place) <= {place.name}
        write(place)
    with pytest.raises(BackendError, match="is not there"):
        await FileStorage(place.parent / "nowhere" / "tasks.journal", str, read_only=True).__aenter__()
    with pytest.raises(ValueError, match="repair=True"):
        FileStorage(place, str, read_only=True, repair=True)


@pytest.mark.parametrize("make", NO_FILES)
async def test_what_is_no_journal_is_refused_and_left_alone(place: Path, make: Callable[[Path], None]) -> None:
    make(place)
    before, lstat = names(place), os.lstat(place)
    with trio.fail_after(60), pytest.raises(BackendError, match="cannot be opened"):
        async with FileStorage(place, str, read_only=True):
            raise AssertionError("it has opened")
    assert names(place) == before
    assert os.path.samestat(os.lstat(place), lstat)


@needs_root
@pytest.mark.parametrize("directory", [0o555, 0o777])
async def test_an_account_that_may_only_read_looks_and_makes_nothing(place: Path, directory: int) -> None:
    """This holds while no process has the journal open, and while one has."""
    await fill(place)
    set_mode(place, 0o444)
    set_mode(place.parent, directory)
    assert as_another_account(FileStorage, place, read_only=True) == "['a', 'b']"
    assert names(place) == {place.name}
    async with running(command_of_another_account(FileStorage, place, read_only=True)) as looker:
        assert await looker.hear() == "['a', 'b']"
        async with FileStorage(place, str) as storage:
            await storage.push("c")
            await looker.tell("look")
            assert await looker.hear() == "['a', 'b', 'c']"
    assert owners(place) == {(os.geteuid(), os.getegid())}, names(place)
    set_mode(place, 0o000)
    assert "cannot be read: Permission denied" in as_another_account(FileStorage, place, read_only=True)


# Another process writes

_WRITER = """
import os, signal, sys, trio
from trio_tasks import FileStorage, Succeeded
kind, path, compact_above = sys.argv[1:]

async def main():
    storage = FileStorage(path, str, synchronous=kind, keep_results=0)
    storage._engine._compact_above = storage._engine._worth_from = int(compact_above)
    async with storage:
        print("open", flush=True)
        for line in sys.stdin:
            word, *rest = line.split()
            if word == "push":
                await storage.push(rest[0], priority=-1)
            elif word == "work":
                for _ in range(int(rest[0])):
                    await storage.push("x" * 500)
                    await storage.settle(await storage.receive(), Succeeded("done"))
            elif word == "take":
                await storage.receive()
            elif word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            print("did", line.strip(), flush=True)

trio.run(main)
"""


@asynccontextmanager
async def running(command: list[str]) -> AsyncGenerator[Child, None]:
    with trio.fail_after(120):
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


@asynccontextmanager
async def writer(
    path: Path, synchronous: str = "NORMAL", compact_above: int = 4 * 2**20
) -> AsyncGenerator[Child, None]:
    async with running([sys.executable, "-c", _WRITER, synchronous, str(path), str(compact_above)]) as process:
        assert await process.hear() == "open"
        yield process


async def do(process: Child, *words: object) -> None:
    line = " ".join(map(str, words))
    await process.tell(line)
    assert await process.hear() == f"did {line}"


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_what_another_process_has_committed_is_seen(place: Path, synchronous: str, way: None) -> None:
    async with writer(place, synchronous) as process, FileStorage(place, str, read_only=True) as storage:
        assert await args_in(storage) == []
        for number in range(3):
            await do(process, "push", number)
            assert await args_in(storage) == list(map(str, range(number + 1)))
        await do(process, "take")
        [taken] = await storage.list_tasks(Status.Running)
        assert (taken.args, taken.parts.attempt) == ("0", 1)
        await process.tell("die")
        await process.process.wait()
        assert process.process.returncode == -signal.SIGKILL
        assert await args_in(storage) == ["0", "1", "2"]
        counts = await storage.metrics()
        assert (counts["running"], counts["waiting"]) == (1, 2), "nobody has opened it since"
    async with FileStorage(place, str, read_only=True) as storage, writer(place, synchronous):
        counts = await storage.metrics()
        assert (counts["running"], counts["waiting"]) == (0, 3)


ROUNDS, TASKS = scaled(100), 20


async def test_a_journal_that_is_replaced_again_and_again_is_followed(place: Path) -> None:
    """Each look sees one consistent state, and later looks see later states."""
    async with writer(place, compact_above=2000) as process, FileStorage(place, str, read_only=True) as storage:
        await do(process, "push", "kept")
        journal = storage._engine._journal  # type: ignore[union-attr]  # it is the one that only looks
        assert isinstance(journal, FollowedJournal)
        salts = {journal._salt}
        pushed, counts = 1, await storage.metrics()
        for _ in range(ROUNDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(do, process, "work", TASKS)
                while nursery.child_tasks:
                    counts = await storage.metrics()
                    salts.add(journal._salt)
                    assert counts["pushed"] == counts["succeeded"] + counts["running"] + counts["waiting"]
                    assert counts["pushed"] >= pushed
                    pushed = counts["pushed"]
                    assert "kept" in await args_in(storage)
            counts = await storage.metrics()
            salts.add(journal._salt)
            assert await args_in(storage) == ["kept"]
        assert (counts["pushed"], counts["succeeded"], counts["waiting"]) == (ROUNDS * TASKS + 1, ROUNDS * TASKS, 1)
        assert len(salts) > ROUNDS / 2, "it was never replaced"


async def test_a_result_of_another_process_is_waited_for(place: Path) -> None:
    async with (
        FileStorage(place, str) as busy,
        FileStorage(place, str, read_only=True) as looker,
    ):
        task_id = await busy.push("a")
        async with trio.open_nursery() as nursery:
            worker = Worker("w", busy, to_upper)
            context = await nursery.start(worker.run)
            with trio.fail_after(60):
                assert (await looker.wait_for(task_id)).result == "A"
            context.stop()


async def to_upper(text: str) -> str:
    return text.upper()


# The end of the file


async def test_a_record_that_is_being_written_is_not_there_yet(place: Path) -> None:
    """The record is cut at each of its bytes. The reader changes nothing, and sees it as soon as it is whole."""
    engine = FileEngine(place, synchronous="NORMAL")
    await engine.open()
    await push(engine, new("a"))
    before = contents(place)[place.name]
    await push(engine, new("b"))
    after = contents(place)[place.name]
    await engine.aclose()
    looker = ReadOnlyFileEngine(place)
    write(place, before)
    await looker.open()
    for end in range(len(before), len(after)):
        for torn in (after[:end], after[:end] + bytes(len(after))):
            write(place, torn)
            assert [row.id for row in (await looker.search(QUEUE, Query([State.WAITING], limit=10))).rows] == ["a"]
            assert contents(place)[place.name] == torn
    write(place, after)
    assert [row.id for row in (await looker.search(QUEUE, Query([State.WAITING], limit=10))).rows] == ["a", "b"]
    write(place, before)  # as after a power cut, on a network disk
    assert [row.id for row in (await looker.search(QUEUE, Query([State.WAITING], limit=10))).rows] == ["a"]
    await looker.aclose()


async def test_damage_with_intact_records_behind_it_is_told(place: Path) -> None:
    engine = FileEngine(place, synchronous="NORMAL")
    await engine.open()
    await push(engine, new("a"))
    end = len(contents(place)[place.name])
    looker = ReadOnlyFileEngine(place)
    await looker.open()
    await push(engine, new("b"))
    await push(engine, new("c"))
    await engine.aclose()
    whole = contents(place)[place.name]
    broken = whole[: end + FRAME_SIZE] + b"?" + whole[end + FRAME_SIZE + 1 :]
    write(place, broken)
    for _ in range(2):
        with pytest.raises(BackendError, match=f"damaged at byte {end}"):
            await looker.queues()
    with pytest.raises(BackendError, match=f"damaged at byte {end}"):
        await ReadOnlyFileEngine(place).open()
    assert contents(place)[place.name] == broken
    write(place, whole)
    assert [row.id for row in (await looker.search(QUEUE, Query([State.WAITING], limit=10))).rows] == ["a", "b", "c"]
    delete(place)
    with pytest.raises(BackendError, match="is not there"):
        await looker.queues()
    await looker.aclose()


# All that may happen to rows


async def seen(engine: FileEngine | ReadOnlyFileEngine, names: list[str]) -> Any:
    """The tasks that a reader sees; a ready one counts as delayed, since no record says that it became ready, and that
    no suspension delays it any more.
    """
    rows = [row for name in names if (row := await engine.find(QUEUE, name)) is not None]
    for states in ([State.WAITING, State.DELAYED], [State.RUNNING], [State.DONE], [State.FAILED], [State.KILLED]):
        rows += sorted((await engine.search(QUEUE, Query(states, limit=1000))).rows, key=lambda row: row.id)
    now = engine.now()
    told = [
        row._replace(
            state=max(row.state, State.DELAYED), due=None, suspended=row.suspended if (row.due or 0.0) > now else None
        )
        for row in rows
    ]
    counts = await stored_counts(engine, QUEUE)
    del counts["orphans"]  # leases are not in the journal
    return told, counts, await engine.queues()


async def do_something(engine: FileEngine, rng: random.Random, name: str, names: list[str], held: list[Any]) -> None:
    other = rng.choice(names)
    kind = rng.randrange(12)
    if kind == 0:
        held += await claim(engine, rng.randrange(1, 4), lease=rng.choice([5.0, 1e6]))
    elif kind == 1 and held:
        row = held.pop(rng.randrange(len(held)))
        verdict, keep = rng.choice(list(SettlementKind)), rng.choice([0.0, 20.0, 1e6])
        await settle(engine, settled(row, verdict, keep=keep, result=b"r", after=rng.choice([0.0, 20.0])))
    elif kind == 2:
        stored = await engine.find(QUEUE, other)
        await engine.update(QUEUE, other, b"updated", None, stored and stored.options)
    elif kind == 3:
        await engine.cancel(QUEUE, other, b"cancelled")
    elif kind == 4:
        await engine.reschedule(QUEUE, other, rng.choice([0.0, 20.0]), 7)
    elif kind == 5:
        with suppress(DuplicateTaskError):
            await engine.resume(QUEUE, other)
    elif kind == 6:
        await engine.forget(QUEUE, rng.choice([None, other, other]))
    elif kind == 7 and held:
        await engine.report(rng.choice(held)._replace(), b"half")
    elif kind == 8:
        await trio.sleep(7.0)
        await engine.exchange(Exchange())
    else:
        unique = rng.choice([None, "key"])
        conflict: Any = rng.choice(["skip", "replace", "update"])
        expires = rng.choice([None, None, 20.0])
        row = new(name, delay=rng.choice([0.0, 20.0]), unique=unique, on_conflict=conflict, expires_in=expires)
        await push(engine, row)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", seeds(100))
async def test_whatever_happens_is_seen_as_its_writer_sees_it(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A reader that follows from the beginning and one that opens the journal at the end see the same as the writer."""
    rng = random.Random(seed)
    path = tmp_path / "tasks.journal"
    engine = FileEngine(path, synchronous="NORMAL", compact_above=rng.choice([2_000, 2**22]))
    await engine.open()
    looker = ReadOnlyFileEngine(path)
    await looker.open()
    names, held = ["0"], list[Any]()
    for number in range(1, 150):
        await do_something(engine, rng, str(number), names, held)
        names.append(str(number))
        if rng.random() < 0.3:
            assert await seen(looker, names) == await seen(engine, names)
    await push(engine, new("last"))  # which tells the time, as the clock of a test is known to this run alone
    late = ReadOnlyFileEngine(path)
    await late.open()
    assert await seen(looker, names) == await seen(late, names) == await seen(engine, names)
    assert looker._journal is not None
    state = looker._journal.state
    assert not any(row.is_kept_no_longer(state.time) for row in state.rows.values()), "memory is not held for these"
    assert set(state.rows.values()) == {row for queue in state.queues.values() for row in queue.ids.values()}
    finished = {key for key, row in state.rows.items() if row.state > State.RUNNING}
    assert finished == {key for queue in state.queues.values() for rows in queue.finished.values() for key in rows}
    for each in (looker, late, engine):
        await each.aclose()
