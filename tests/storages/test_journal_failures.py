"""Tests of a journal on file systems that refuse single steps: only a failure that cannot be repaired ends it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from trio_tasks import BackendError
from trio_tasks._backends.durable.engine import Exchange
from trio_tasks._backends.file import journal as _journal
from trio_tasks._backends.file.engine import FileEngine

from tests.storages._rows import claim, ids, new, push, settle, settled
from tests.storages.test_file_engine import crashed, opened, path

__all__ = ["path"]  # a fixture

ROOT = Path(__file__).parents[2]


async def grow(engine: FileEngine, turns: int = 200) -> int:
    """Push and settle until the journal has been replaced by a shorter one; how often that was."""
    replaced = 0
    for number in range(turns):
        end = _journal_of(engine).end
        await push(engine, new(f"{number}", b"x" * 200))
        [row] = await claim(engine)
        assert await settle(engine, settled(row, keep=0.0)) == [True]
        replaced += _journal_of(engine).end < end
    return replaced


def _journal_of(engine: FileEngine) -> _journal.JournalFile:
    assert engine._transaction_log is not None
    return engine._transaction_log._journal


def _descriptors() -> set[str]:
    """Return the files that this process has open."""
    links = list(Path("/proc/self/fd").iterdir())
    return {str(link.readlink()) for link in links if link.exists()}


def refusing(error: int, times: int, real: Callable[..., None]) -> Callable[..., None]:
    """A call that is refused so many times, and made after that."""
    left = [times]

    def call(*args: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(error, os.strerror(error))
        real(*args)

    return call


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.EACCES], ids=errno.errorcode.get)
async def test_a_directory_that_cannot_be_synced_is_no_failure(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int, synchronous: str
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(error, 10**9, os.fsync))  # files are synced by another call
    async with opened(path, synchronous=synchronous, compact_above=5_000) as engine:
        await push(engine, new("old", priority=-1))
        assert await grow(engine) > 2
        assert not _journal_of(engine).is_broken
    async with opened(path) as engine:
        assert ids(await claim(engine, 9)) == ["old"]


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_disk_that_fails_when_the_directory_is_synced_ends_it_with_the_new_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, synchronous: str
) -> None:
    async with opened(path, synchronous=synchronous, compact_above=5_000) as engine:
        await push(engine, new("old", priority=-1))
        monkeypatch.setattr(os, "fsync", refusing(errno.EIO, 10**9, os.fsync))
        with pytest.raises(BackendError, match="open it again"):
            await grow(engine)
        assert "was compacted, but may not be on the disk" in caplog.text
        monkeypatch.undo()
    async with opened(path) as engine:
        assert ids(await claim(engine, 9))[-1] == "old", "behind the one that was pushed last"


_IN_A_BLIND_DIRECTORY = """
import os, sys, trio
from trio_tasks._clock import machine_now
from trio_tasks._backends.file.engine import FileEngine
from tests.storages.test_journal_failures import grow, new, push, claim, ids
machine_now()  # what it needs of Python may be out of reach later
if not os.geteuid():
    os.setgid(65534), os.setuid(65534)

async def main():
    for opening in range(2):
        engine = FileEngine(sys.argv[1], compact_above=5_000)
        await engine.open()
        if not opening:
            await push(engine, new("old", priority=-1))
            print(await grow(engine) > 2)
        else:
            print(ids(await claim(engine, 9)))
        await engine.aclose()

trio.run(main)
"""


def test_a_directory_that_may_not_be_read() -> None:
    """In a directory of mode 0333, files can be made and replaced, but the directory cannot be opened to sync it."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own may be seen by one user only
        Path(name).chmod(0o333)
        command = [sys.executable, "-c", _IN_A_BLIND_DIRECTORY, f"{name}/tasks.journal"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        Path(name).chmod(0o777)
    assert run.stdout.split("\n")[:2] == ["True", "['old']"], run.stderr


# Where an open file cannot be replaced


@pytest.fixture
def held_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: a file is closed before it is renamed or replaced."""
    monkeypatch.setattr(_journal, "_OPEN_FILES_KEEP_THEIR_NAMES", True)


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_replacement_that_is_refused_for_a_moment_is_made_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, held_names: None, synchronous: str
) -> None:
    async with opened(path, synchronous=synchronous, compact_above=5_000) as engine:
        await push(engine, new("old", priority=-1))
        monkeypatch.setattr(os, "replace", refusing(errno.EACCES, 3, os.replace))
        assert await grow(engine) > 2
    async with opened(path) as engine:
        assert ids(await claim(engine, 9)) == ["old"]


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_replacement_that_is_refused_leaves_the_old_journal_in_use(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    held_names: None,
    synchronous: str,
) -> None:
    monkeypatch.setattr(_journal, "_RETRY_REPLACE_FOR", 0.0)
    async with opened(path, synchronous=synchronous, compact_above=5_000) as engine:
        await push(engine, new("old", priority=-1))
        before = _descriptors()
        real = os.replace
        monkeypatch.setattr(os, "replace", refusing(errno.EACCES, 10**9, real))
        closed: list[int] = []
        close = os.close

        def watched(fd: int) -> None:
            close(fd)
            closed.append(fd)

        monkeypatch.setattr(os, "close", watched)
        await grow(engine, 100)
        assert "could not be compacted" in caplog.text
        assert len(closed) >= 2, "and none of them twice, which would have raised"
        assert _descriptors() == before, "none is closed that was not opened, and none is left open"
        monkeypatch.setattr(os, "replace", real)
        assert await grow(engine, 300) >= 1
        async with opened(crashed(path)) as copy:
            assert ids(await claim(copy, 9)) == ["old"]
    async with opened(path) as engine:
        assert ids(await claim(engine, 9)) == ["old"]


# A file system that can only be read for a while


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_a_record_that_could_not_be_cut_off_is_cut_off_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str
) -> None:
    async with opened(path, synchronous=synchronous) as engine:
        await push(engine, new("a"))
        write, truncate = os.write, os.ftruncate

        def write_half(fd: int, data: bytes) -> int:
            monkeypatch.setattr(os, "write", refusing(errno.EROFS, 10**9, print))
            return write(fd, bytes(data)[: len(data) // 2])

        monkeypatch.setattr(os, "write", write_half)
        monkeypatch.setattr(os, "ftruncate", refusing(errno.EROFS, 10**9, truncate))
        for _ in range(3):
            with pytest.raises(BackendError, match="Read-only") as caught:
                await push(engine, new("b"))
            assert not caught.value.is_final
        async with opened(crashed_now(path, monkeypatch)) as copy:
            assert copy.recovery is not None and copy.recovery.is_torn_tail
            assert ids(await claim(copy, 9)) == ["a"]
        assert await push(engine, new("c")) == ["c"]
        async with opened(crashed(path, "later")) as copy:
            assert copy.recovery is None
            assert ids(await claim(copy, 9)) == ["a", "c"]


def crashed_now(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal as it is found after a crash, on a file system that can be written again."""
    monkeypatch.undo()
    return crashed(path)


async def test_what_a_refused_write_would_have_killed_is_not_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(path) as engine:
        await push(engine, new("a", unique="key"))
        append = _journal_of(engine).append
        monkeypatch.setattr(_journal_of(engine), "append", refusing(errno.ENOSPC, 2, append))
        replacing = new("b", unique="key", on_conflict="replace")
        with pytest.raises(BackendError):
            await push(engine, replacing)
        with pytest.raises(BackendError):
            await engine.cancel("q", "a", b"e")
        assert engine.take_killed() == []
        answer = await engine.exchange(Exchange(pushed=[replacing]))
        assert [(row.id, row.by) for row in answer.killed] == [("a", "b")]
