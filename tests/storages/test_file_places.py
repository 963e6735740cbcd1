"""Tests of a journal's path: only a regular file is used, two processes never share a journal, and nothing is
acknowledged that is written to a removed file.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import BackendError, FileStorage, SqliteStorage
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._backends.file.journal import JournalFile, beside

from tests.storages._rows import QUEUE, claim, ids, new, push, settle, settled
from tests.storages._store_files import (
    LOSSES,
    NO_FILES,
    ROOT,
    delete,
    make_directory,
    modes,
    names,
    needs_root,
    owners,
    replace,
    set_mode,
    write,
)

pytestmark = pytest.mark.once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.journal"


@pytest.fixture(params=[0o022, 0o077, 0o000], ids="umask_{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def cut_off(path: Path) -> None:
    """The last byte of it, as after a crash."""
    os.truncate(path, path.stat().st_size - 1)


async def push_one(path: Path, name: str = "a", **options: Any) -> None:
    engine = FileEngine(path, **{"synchronous": "NORMAL", **options})
    await engine.open()
    await push(engine, new(name))
    await engine.aclose()


async def waiting(path: Path) -> list[str]:
    engine = FileEngine(path, synchronous="NORMAL")
    await engine.open()
    found = ids(await claim(engine, 1000))
    await engine.aclose()
    return found


async def compact(engine: FileEngine) -> None:
    """Push and settle until the journal has been replaced by a shorter one."""
    assert engine._transaction_log is not None
    before = engine._transaction_log._journal
    for number in range(1000):
        await push(engine, new(f"{number}", b"x" * 500))
        [row] = await claim(engine)
        await settle(engine, settled(row, keep=0.0))
        if engine._transaction_log._journal is not before:
            return
    raise AssertionError("it was never replaced")


# What is no regular file


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_what_is_no_regular_file_is_refused_before_anything_is_made(
    path: Path, make: Callable[[Path], None], synchronous: Any
) -> None:
    make(path)
    before, lstat = names(path), os.lstat(path)
    with trio.fail_after(60), pytest.raises(BackendError, match="cannot be opened"):
        async with FileStorage(path, str, synchronous=synchronous):
            raise AssertionError("it has opened")
    assert names(path) == before
    assert os.path.samestat(os.lstat(path), lstat)


async def test_a_device_is_refused_before_anything_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says here that a plain file is a device, so the library treats it as one."""
    write(path, b"")
    real = os.stat

    def say(place: Any, **options: Any) -> os.stat_result:
        found = real(place, **options)
        if str(place) != str(path):
            return found
        return os.stat_result((stat.S_IFBLK | 0o660, *found[1:]))

    monkeypatch.setattr(os, "stat", say)
    for storage in (FileStorage(path, str), SqliteStorage(path, str)):
        with pytest.raises(BackendError, match="that is a device"):
            async with storage:
                raise AssertionError("it has opened")
    monkeypatch.undo()
    assert names(path) == {path.name}


async def test_no_journal_is_made_where_none_is_to_be(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(BackendError, match=r"is not there|is empty") as caught:
            async with FileStorage(path, str, create=False):
                raise AssertionError("it has opened")
        assert caught.value.is_missing
        assert names(path) <= {path.name}
        write(path, b"")
    await push_one(path)
    async with FileStorage(path, str, create=False) as storage:
        assert await storage.list_queues() == [QUEUE]


@pytest.mark.parametrize("make", NO_FILES)
async def test_a_lock_that_is_no_regular_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(beside(path, "lock"))
    with trio.fail_after(60), pytest.raises(BackendError):
        await push_one(path)
    assert path.name not in names(path)


def link_to(target: Path, name: Path) -> None:
    name.symlink_to(target)


async def test_no_symbolic_link_beside_it_is_followed(path: Path, tmp_path: Path) -> None:
    """A user who may make files in that directory must not be able to redirect our writes to other files."""
    target = tmp_path / "precious"
    write(target, b"precious")
    await push_one(path)
    cut_off(path)
    for suffix in ("new", "torn-1", "damaged-1"):
        link_to(target, beside(path, suffix))
    await push_one(path, "b")
    assert {"tasks.journal.torn-1", "tasks.journal.torn-2"} < names(path)
    delete(beside(path, "lock"))
    link_to(target, beside(path, "lock"))
    with pytest.raises(BackendError, match="cannot be locked"):
        await push_one(path)
    assert target.read_bytes() == b"precious"


# What is somebody else's


@pytest.mark.parametrize("content", [b"", b"a draft", bytes(3000)])
async def test_a_file_of_the_users_with_such_a_name_is_kept(path: Path, content: bytes) -> None:
    other = beside(path, "new")
    write(other, content)
    engine = FileEngine(path, synchronous="NORMAL", compact_above=2_000)
    await engine.open()
    await compact(engine)
    await engine.aclose()
    assert other.read_bytes() == content
    assert names(path) == {path.name, f"{path.name}.new", f"{path.name}.lock"}


async def test_another_journal_of_such_a_name_is_kept(path: Path) -> None:
    await push_one(beside(path, "new"), "other")
    delete(beside(path, "new.lock"))
    await push_one(path)
    assert await waiting(beside(path, "new")) == ["other"]


async def test_what_was_in_the_making_when_a_process_died_is_removed(path: Path) -> None:
    for name in ("new", "new-1"):
        JournalFile.create(beside(path, name), ahead=False).abandon()
    await push_one(path)
    assert names(path) == {path.name, f"{path.name}.lock"}


async def test_what_was_in_the_making_is_no_journal(path: Path) -> None:
    JournalFile.create(path, ahead=False).abandon()
    with pytest.raises(BackendError, match="an unfinished journal"):
        await push_one(path)


# Owner and mode


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o640, 0o640), (0o666, 0o666)])
async def test_a_new_journal_and_its_lock_have_the_mode_that_is_asked_for(
    path: Path, umask: None, mode: int | None, expected: int
) -> None:
    options: dict[str, Any] = {} if mode is None else {"mode": mode}
    await push_one(path, **options)
    assert modes(path) == dict.fromkeys([path.name, f"{path.name}.lock"], expected)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
async def test_what_replaces_a_journal_is_of_its_mode_and_so_is_what_stands_beside_it(
    path: Path, umask: None, mode: int
) -> None:
    await push_one(path)
    delete(beside(path, "lock"))
    set_mode(path, mode)
    cut_off(path)
    engine = FileEngine(path, synchronous="NORMAL", compact_above=2_000)
    await engine.open()
    await compact(engine)
    await engine.aclose()
    assert modes(path) == dict.fromkeys([path.name, f"{path.name}.lock", f"{path.name}.torn-1"], mode)


@needs_root
async def test_what_replaces_a_journal_belongs_to_its_owner(path: Path) -> None:
    await push_one(path)
    delete(beside(path, "lock"))
    os.chown(path, 1, 2)
    engine = FileEngine(path, synchronous="NORMAL", compact_above=2_000)
    await engine.open()
    await compact(engine)
    await engine.aclose()
    assert owners(path) == {(1, 2)}


@pytest.mark.parametrize("mode", [0o400, 0, 0o10600, -1, True, "600"])
def test_a_mode_that_is_none_is_refused(path: Path, mode: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="mode must"):
        FileStorage(path, str, mode=mode)


# One process, by whatever name

_SECOND = """
import sys, trio
from trio_tasks import BackendError, FileStorage

async def main():
    try:
        async with FileStorage(sys.argv[1], int) as storage:
            print("opened", await storage.push(1))
    except BackendError as error:
        print("refused", error)

trio.run(main)
"""


def in_another_process(path: Path) -> str:
    command = [sys.executable, "-c", _SECOND, str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("way", ["the lock was removed", "by a hard link"])
@pytest.mark.parametrize("compacted", [False, True])
async def test_the_journal_itself_is_locked(path: Path, way: str, compacted: bool) -> None:
    engine = FileEngine(path, synchronous="NORMAL", compact_above=2_000)
    await engine.open()
    await push(engine, new("kept", priority=-1))
    if compacted:
        await compact(engine)
    name = path
    if way == "the lock was removed":
        delete(beside(path, "lock"))
    else:
        name = path.parent / "alias"
        os.link(path, name)
    assert "open already" in in_another_process(name)
    with pytest.raises(BackendError, match="open already"):
        await push_one(name)
    await push(engine, new("later"))
    await engine.aclose()
    assert await waiting(path) == ["later", "kept"]
    assert "opened" in in_another_process(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_forked_child_does_not_keep_the_journal_locked(path: Path) -> None:
    engine = FileEngine(path, synchronous="NORMAL")
    await engine.open()
    await push(engine, new("a"))
    reading, writing = os.pipe()
    ready_reading, ready_writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(writing)
            os.write(ready_writing, b"!")  # it runs, and so has let go of what is not its own
            os.read(reading, 1)  # until the parent has gone on
        finally:
            os._exit(0)
    os.read(ready_reading, 1)
    await engine.aclose()
    assert await waiting(path) == ["a"]
    for fd in (reading, writing, ready_reading, ready_writing):
        os.close(fd)
    await trio.to_thread.run_sync(os.waitpid, child, 0)


# A file that is not there any more


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_what_goes_into_a_journal_that_is_not_there_is_not_acknowledged(
    tmp_path: Path, lose: Callable[[Path], None], synchronous: Any
) -> None:
    path = tmp_path / "here" / "tasks.journal"
    make_directory(path.parent)
    engine = FileEngine(path, synchronous=synchronous)
    await engine.open()
    await push(engine, new("a"))
    lose(path)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"deleted, moved or replaced|open it again") as caught:
            await push(engine, new("b"))
        assert caught.value.is_final
    await engine.aclose()


@pytest.mark.parametrize("lose", LOSSES)
async def test_a_shorter_journal_does_not_replace_a_file_of_another_program(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "here" / "tasks.journal"
    make_directory(path.parent)
    engine = FileEngine(path, synchronous="NORMAL", compact_above=2_000)
    await engine.open()
    await compact(engine)
    lose(path)
    with pytest.raises(BackendError, match="deleted, moved or replaced"):
        await compact(engine)
    await engine.aclose()
    if lose is replace:
        assert await waiting(path) == []
    else:
        assert not path.exists()  # noqa: ASYNC240  nobody waits
