"""One process at a time: a lock file beside the journal, freed by the system when its holder dies, in whatever way."""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING, final

from .._errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


@final
class FileLock:
    """Holds the lock from when it is made until :meth:`release`.

    The file stays: removing it would let two processes lock two files of one name. It says the holder's process id.
    A child made by ``os.fork`` has no part in the lock.

    Raises:
      BackendError: somebody has it already, or the file cannot be written.
    """

    def __init__(self, path: Path, guarded: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise BackendError(f"{guarded} cannot be locked: {path}: {error.strerror}") from error
        try:
            _lock(self._fd)
        except OSError as error:
            holder = os.read(self._fd, 20).strip().decode("ascii", "replace")
            os.close(self._fd)
            who = f"the process {holder}" if holder.isdigit() else "another process"
            who = "this process already" if holder == str(os.getpid()) else who
            raise BackendError(f"{guarded} is open in {who}: a journal is for one storage in one process") from error
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            self.release()
            raise BackendError(f"{guarded} cannot be locked: {path}: {error.strerror}") from error
        _held.add(self)

    @property
    def is_held(self) -> bool:
        """Whether it was not released; a forked child has released it."""
        return self._fd >= 0

    def release(self) -> None:
        """Let somebody else have it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            _held.discard(self)


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 2**30, os.SEEK_SET)  # what is locked cannot be read there, so it is not where the id stands
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_go_in_child() -> None:
    """The lock is shared with a forked child, and would outlive the parent in it."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
