"""The file in which a store is kept: its kind and its rights, judged before it is opened, or something made beside."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from ..._tasks.errors import BackendError

PRIVATE = 0o600
"""The mode of a new file, unless another one is asked for: what tasks are about is nobody else's business."""
_THERE = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A FIFO or a device that has come there would be waited for without O_NONBLOCK; a regular file does not mind it."""
_TO_READ = (_THERE & ~os.O_RDWR) | os.O_RDONLY
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def refused(message: str) -> BackendError:
    """An error that asking again does not help against."""
    error = BackendError(message)
    error.is_final = True
    return error


def check_path(path: str | os.PathLike[str], hint: str) -> Path:
    """The path of a store, if it may be one.

    Args:
      path: what was given.
      hint: what to use where no file is wanted.

    Raises:
      TypeError, ValueError: it is none.
    """
    try:
        text: object = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or text in ("", ":memory:"):
        raise TypeError(f"path must be that of a file, not {path!r}; {hint}")
    if "\0" in text:
        raise ValueError(f"path must not have a NUL in it, as {text!r} has")
    return Path(text)


def check_mode(mode: object) -> int:
    """The mode of new files, if it is one.

    Raises:
      TypeError, ValueError: it is none, or one by which not even the owner could use the file.
    """
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise TypeError(f"mode must be an int such as 0o600, not {mode!r}")
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise ValueError(f"mode must let the owner read and write, as 0o600 does, not {mode:#o}")
    return mode


def regular_file(path: Path, what: str) -> os.stat_result | None:
    """The state of the regular file at this path; None if there is nothing.

    Args:
      path: symbolic links are followed.
      what: for the error: what the file is to be.

    Raises:
      BackendError: there is something else, or nobody can tell.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  a missing file is not an error here
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused(f"{what} {str(path)!r} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise refused(f"{what} {str(path)!r} cannot be opened: that is {kind}, and not a regular file")
    return found


def make_file(path: Path, mode: int) -> int:
    """A new, empty file of exactly this mode, whatever the umask; its descriptor. Nothing that is there is touched, and
    no symbolic link followed.

    Raises:
      OSError: there is something of that name, or nothing can be made there.
    """
    fd = os.open(path, _NEW, mode)
    with suppress(OSError, AttributeError):  # a file system without modes
        os.fchmod(fd, mode)
    return fd


def open_regular(path: Path, what: str, *, read_only: bool = False) -> int:
    """A descriptor of the regular file at this path, for reading and, unless it is read-only, writing; no symbolic link
    is followed.

    Raises:
      BackendError: there is something else by now.
      OSError: it cannot be opened.
    """
    fd = os.open(path, _TO_READ if read_only else _THERE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise refused(f"{what} {str(path)!r} cannot be opened: it is no regular file")
    return fd


def follow(fd: int, model: os.stat_result) -> None:
    """Have a new file belong to the account that a model belongs to, and be of its mode.

    Raises:
      OSError: it cannot be given to that account.
    """
    if sys.platform == "win32":
        return
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid) != (model.st_uid, model.st_gid):
        os.fchown(fd, model.st_uid, model.st_gid)
    if stat.S_IMODE(found.st_mode) != stat.S_IMODE(model.st_mode):
        os.fchmod(fd, stat.S_IMODE(model.st_mode))


def make_beside(path: Path, model: os.stat_result | None, mode: int) -> int:
    """A new file beside a store: as the store is, as far as this account can have it so; or of this mode, if there is
    no store yet. Raises as :func:`make_file`."""
    fd = make_file(path, mode if model is None else stat.S_IMODE(model.st_mode) | 0o600)
    if model is not None:
        with suppress(OSError):
            follow(fd, model)
    return fd


def may_write(path: str | Path) -> bool:
    """Return True if this account may read and write what is at this path."""
    return _may(path, os.R_OK | os.W_OK)


def may_make_in(directory: Path) -> bool:
    """Return True if this account may make files in this directory."""
    return _may(directory, os.W_OK | os.X_OK)


def _may(path: str | Path, what: int) -> bool:
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)
