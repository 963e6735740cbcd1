"""Fuzzing of a journal's lock file, whose content is only for people."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from trio_tasks import BackendError
from trio_tasks._backends.file.lock import FileLock

from tests.fuzz._corrupt import corrupted


def fuzz_lock(random: Random) -> None:
    """Damage the lock file, with the lock free or taken."""
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path, guarded = Path(directory, "tasks.journal.lock"), Path(directory, "tasks.journal")
        path.write_bytes(_content(random))
        lock = FileLock(path, guarded)
        assert path.read_bytes() == b"%d\n" % os.getpid()
        path.write_bytes(_content(random))  # whoever does that has not got the lock
        with pytest.raises(BackendError, match="is open in"):
            FileLock(path, guarded)
        assert lock.is_held
        lock.release()
        FileLock(path, guarded).release()


def _content(random: Random) -> bytes:
    return random.choice((b"", b"\0" * 100, b"9" * 5000, "٣²".encode(), corrupted(b"%d\n" % os.getpid(), random)))
