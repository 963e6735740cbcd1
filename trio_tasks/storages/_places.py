"""The file in which a store is kept: its kind and its rights, judged before it is opened, or something made beside."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from .._errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = 0o600
"""The mode of a new file, unless another one is asked for: what tasks are about is nobody else's business."""
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


def may_write(path: str | Path) -> bool:
    """Whether this account may read and write what is at this path."""
    return _may(path, os.R_OK | os.W_OK)


def may_make_in(directory: Path) -> bool:
    """Whether this account may make files in this directory."""
    return _may(directory, os.W_OK | os.X_OK)


def _may(path: str | Path, what: int) -> bool:
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)
