"""Finding, checking and creating an SQLite file, before SQLite opens it; and whether it stays where it is after that.

SQLite makes a write-ahead log and an index of it beside the file, which belong to the account that made them. An
account that may only read the file would so lock out its owner; so it is refused, or only looks.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from ..._tasks.errors import BackendError
from ..durable.store_file import PRIVATE, make_file, may_make_in, may_write, missing, refused, regular_file

_WHAT = "the SQLite file"
_BESIDE = ("-wal", "-shm")


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """The options with which an SQLite file is opened.

    Attributes:
      synchronous: ``"FULL"``, ``"NORMAL"``, …, as SQLite's pragma.
      join_existing: True if our tables may be put beside others.
      create: True if the file is made if there is none.
      read_only: True if the file is only read.
      mode: the mode of the file, if it is made.
      allow_triggers: True if triggers and views of other programs may be on our tables.
    """

    synchronous: str = "FULL"
    join_existing: bool = False
    create: bool = True
    read_only: bool = False
    mode: int = PRIVATE
    allow_triggers: bool = False


def find_file(path: str, opening: Opening) -> Path:
    """Find the file, without symbolic links, and create it if allowed.

    Raises:
      BackendError: it is not there, is no regular file, or may not be used in this way.
    """
    found = regular_file(Path(path), _WHAT)
    file = Path(os.path.realpath(path))
    may_make = opening.create and not opening.read_only
    if found is None and not may_make:
        raise missing(f"{_WHAT} {path!r} does not exist, and create=False or read_only=True forbids making it")
    if found is None:
        _make(path, file, opening.mode)
    elif not found.st_size and not may_make and not any(_is_there(file, suffix) for suffix in _BESIDE):
        raise missing(f"{_WHAT} {path!r} is empty, and create=False or read_only=True forbids making tables in it")
    if not opening.read_only:
        _check_rights(path, file)
    return file


def _make(path: str, file: Path, mode: int) -> None:
    try:
        os.close(make_file(file, mode))  # it is new, so no connection has a lock on it, which closing would free
    except FileExistsError:  # another process was quicker
        regular_file(file, _WHAT)
    except OSError as error:
        raise BackendError(
            f"{_WHAT} {path!r} cannot be made: {error.strerror}; does its directory exist, and is it writable?"
        ) from error


def _check_rights(path: str, file: Path) -> None:
    if not may_write(file):
        raise BackendError(
            f"{_WHAT} {path!r} cannot be written to: it is read-only for this account; read_only=True looks into it"
        )
    for suffix in _BESIDE:
        beside = f"{file}{suffix}"
        if os.path.lexists(beside) and not may_write(beside):
            raise BackendError(
                f"{_WHAT} {path!r} cannot be opened: {beside!r} may not be written to by this account; another one "
                "has made it"
            )
    if not any(_is_there(file, suffix) for suffix in _BESIDE) and not may_make_in(file.parent):
        raise BackendError(f"{_WHAT} {path!r} cannot be written to: its directory is read-only for this account")


def _is_there(file: Path, suffix: str) -> bool:
    return os.path.exists(f"{file}{suffix}")  # noqa: PTH110  a suffix of SQLite's is no suffix of a Path


@final
class View:
    """A way to read a file without creating any file beside it.

    1. There is a write-ahead log: other processes have the file open, or one of them has died. The file is read with
       its log. An account that may not write to the file must not write to the index of the log either.
    2. There is no log, and this account may make one and use it. SQLite opens the file in the usual way.
    3. There is no log, and this account may not make one, or would lock out the owner with it. The file is opened as
       immutable. When it changes, or a log appears, it has to be opened again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[object, ...] | None = None

    def query(self) -> str:
        """Choose the query part of the URI for SQLite."""
        self._seen = None
        is_ours = may_write(self._file)
        if _is_there(self._file, "-wal"):
            return "mode=ro" if is_ours else "mode=ro&readonly_shm=1"
        if is_ours and may_make_in(self._file.parent):
            return "mode=ro"
        self._seen = self._look()
        return "mode=ro&immutable=1"

    @property
    def is_outdated(self) -> bool:
        """Return True if the file was opened as immutable, and has changed."""
        return self._seen is not None and self._seen != self._look()

    def _look(self) -> tuple[object, ...]:
        found = regular_file(self._file, _WHAT)
        if found is None:
            raise refused(f"{_WHAT} {str(self._file)!r} is not there any more")
        return found.st_ino, found.st_size, found.st_mtime_ns, _is_there(self._file, "-wal")


# The file while it is open


@final
class Use:
    """A record that this process uses a file by one driver, until it is closed.

    Each driver has an SQLite of its own, which knows nothing of the other's locks; and the system frees all locks that
    a process has on a file when it closes it once. Connections that are not ours are not seen here.

    Raises:
      BackendError: the other driver has the file open in this process.
    """

    _lock = threading.Lock()
    _all: ClassVar[list[Use]] = []

    def __init__(self, file: Path, driver: str) -> None:
        self._file = _identity(file)
        self._driver = driver
        with self._lock:
            for other in self._all:
                if other._file == self._file and other._driver != driver:
                    raise refused(
                        f"the SQLite file {str(file)!r} is open in this process by {other._driver!r}, and cannot be by "
                        f"{driver!r} as well: two SQLites in a process do not see each other's locks, and damage a file"
                    )
            self._all.append(self)

    def close(self) -> None:
        """Remove the record; a second call does nothing."""
        with self._lock:
            if self in self._all:
                self._all.remove(self)


@final
class Place:
    """The identities of a file and of its write-ahead log, as they are when this object is made.

    Args:
      file: the path, without symbolic links.
    """

    __slots__ = ("_file", "_log", "_was")

    def __init__(self, file: Path) -> None:
        self._file = str(file)  # it is looked at after each transaction, and has to be cheap
        self._log = f"{file}-wal"
        self._was = self._look()

    @property
    def has_changed(self) -> bool:
        """True if one of the two was removed or replaced."""
        return self._was != self._look()

    def _look(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        return _identity(self._file), _identity(self._log)


def _identity(path: str | Path) -> tuple[int, int] | None:
    """The device and inode at this path; None if nothing is there."""
    try:
        found = os.stat(path)  # noqa: PTH116  the same
    except OSError:
        return None
    return found.st_dev, found.st_ino
