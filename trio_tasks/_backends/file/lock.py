"""The locks that keep a journal to one process: one on a file beside it, and one on the journal itself.

The second lock is needed since a journal may have several names. The system frees both when their holder dies, in
whatever way.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, final

from ..._printing import escaped
from ..._tasks.errors import BackendError
from ..durable.store_file import PRIVATE, make_beside, open_regular

if TYPE_CHECKING:
    from pathlib import Path

_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""The numbers of errors by which the system says that another process has a lock."""


class Held(Protocol):
    """The interface of a resource that is locked by this process."""

    def abandon(self) -> None:
        """Close the resource in a forked child, and leave everything as it is."""
        ...


_held: weakref.WeakSet[Held] = weakref.WeakSet()


@final
class FileLock:
    """A lock on a file, from its construction until :meth:`release`.

    The file stays: removing it would let two processes lock two files of one name. It contains the holder's process
    id. A child made by ``os.fork`` does not hold the lock.

    Args:
      path: the path of the lock file.
      guarded: the path of the journal.
      model: the state of the journal, whose owner and mode a new lock file has; None if there is none yet.
      mode: the mode of a new lock file, if there is no journal yet.

    Attributes:
      is_held: True until the lock is released; a forked child has released it.

    Raises:
      BackendError: another storage has it, or the file cannot be written.
    """

    def __init__(self, path: Path, guarded: Path, model: os.stat_result | None = None, mode: int = PRIVATE) -> None:
        try:
            self._fd = _open(path, model, mode)
        except OSError as error:
            raise BackendError(f"{str(guarded)!r} cannot be locked: {str(path)!r}: {error.strerror}") from error
        try:
            _lock(self._fd)
        except OSError as error:
            if error.errno not in _TAKEN:
                os.close(self._fd)
                raise BackendError(f"{str(guarded)!r} cannot be locked: {str(path)!r}: {error.strerror}") from error
            holder = os.read(self._fd, 20).strip().decode("ascii", "replace")
            os.close(self._fd)
            who = f"the process {escaped(holder)}" if holder.isdigit() else "another process"
            who = "this process already" if holder == str(os.getpid()) else who
            raise _in_use(f"{str(guarded)!r} is open in {who}: a journal is for one storage in one process") from error
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            self.release()
            raise BackendError(f"{str(guarded)!r} cannot be locked: {str(path)!r}: {error.strerror}") from error
        self.is_held = True
        _held.add(self)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        fd, self._fd = self._fd, -1
        self.is_held = False
        if fd >= 0:
            os.close(fd)
            _held.discard(self)

    def abandon(self) -> None:
        """Release the lock in a forked child."""
        self.release()


def _open(path: Path, model: os.stat_result | None, mode: int) -> int:
    with suppress(FileNotFoundError):
        return open_regular(path, "the lock")
    with suppress(FileExistsError):  # another process made the file first
        return make_beside(path, model, mode)
    return open_regular(path, "the lock")


def lock_itself(fd: int, path: Path) -> None:
    """Lock the journal by its own descriptor, on systems where an open file can be removed or renamed.

    Raises:
      BackendError: it is open already, perhaps by another name.
    """
    if sys.platform == "win32":  # an open file cannot be removed there, and a locked part of it not be read
        return
    try:
        _lock(fd)
    except OSError as error:
        if error.errno in _TAKEN:
            told = "is open already, under another name perhaps: a journal is for one storage in one process"
            raise _in_use(f"{str(path)!r} {told}") from error
        raise


def _in_use(text: str) -> BackendError:
    error = BackendError(text)
    error.is_in_use = True
    return error


def abandon_in_child(held: Held) -> None:
    """Abandon this resource in each forked child."""
    _held.add(held)


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 2**30, os.SEEK_SET)  # what is locked cannot be read there, so it is not the place of the id
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _abandon_all() -> None:
    """Abandon all locks in a forked child, which shares them and may outlive its parent."""
    for each in list(_held):
        each.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
