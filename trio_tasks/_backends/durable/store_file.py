"""The file of a store and the files beside it: checks of type and permissions, and creation."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from ..._tasks.errors import BackendError

PRIVATE = 0o600
"""The default mode of new files: only the owner can read the tasks."""
_THERE = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Without O_NONBLOCK, opening a FIFO or a device would block; for a regular file it makes no difference."""
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
    """Make a BackendError that retrying cannot cure."""
    error = BackendError(message)
    error.is_final = True
    return error


def missing(message: str) -> BackendError:
    """Make a BackendError for a store that is not there, and may not be made."""
    error = refused(message)
    error.is_missing = True
    return error


def check_path(path: str | os.PathLike[str], hint: str) -> Path:
    """Return the path of a store, or raise if it is invalid.

    Args:
      path: the user's argument.
      hint: an alternative without a file, for the error.

    Raises:
      TypeError, ValueError: it cannot be the path of a file.
    """
    try:
        text: object = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or text in ("", ":memory:"):
        raise TypeError(f"path must be the path of a file, not {path!r}; {hint}")
    if "\0" in text:
        raise ValueError(f"path must not contain a NUL character, as {text!r} does")
    return Path(text)


def check_mode(mode: object) -> int:
    """Return the mode for new files, or raise if it is invalid.

    Raises:
      TypeError, ValueError: it is no mode, or the owner could not read and write the file.
    """
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise TypeError(f"mode must be an int such as 0o600, not {mode!r}")
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise ValueError(f"mode must let the owner read and write, as 0o600 does, not {mode:#o}")
    return mode


def regular_file(path: Path, what: str) -> os.stat_result | None:
    """Return the state of the regular file at this path; None if there is no file.

    Args:
      path: the path; symbolic links are followed.
      what: the purpose of the file, for the error.

    Raises:
      BackendError: there is something else, or it cannot be examined.
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
    """Make a new, empty file of exactly this mode, whatever the umask; return its descriptor. An existing file is not
    touched, and no symbolic link followed.

    Raises:
      OSError: the name exists, or no file can be made there.
    """
    fd = os.open(path, _NEW, mode)
    with suppress(OSError, AttributeError):  # a file system without modes
        os.fchmod(fd, mode)
    return fd


def open_regular(path: Path, what: str, *, read_only: bool = False) -> int:
    """Open the regular file at this path, for reading and, unless ``read_only``, writing; return its descriptor. No
    symbolic link is followed.

    Raises:
      BackendError: it is no regular file any more.
      OSError: it cannot be opened.
    """
    fd = os.open(path, _TO_READ if read_only else _THERE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise refused(f"{what} {str(path)!r} cannot be opened: it is no regular file")
    return fd


def follow(fd: int, model: os.stat_result) -> None:
    """Give a new file the owner, the group and the mode of another file.

    Raises:
      OSError: it cannot be given to that owner.
    """
    if sys.platform == "win32":
        return
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid) != (model.st_uid, model.st_gid):
        os.fchown(fd, model.st_uid, model.st_gid)
    if stat.S_IMODE(found.st_mode) != stat.S_IMODE(model.st_mode):
        os.fchmod(fd, stat.S_IMODE(model.st_mode))


def make_beside(path: Path, model: os.stat_result | None, mode: int) -> int:
    """Make a new file beside a store, with the store's owner and mode, as far as this account may set them.

    If there is no store yet, the file gets ``mode``.
    """
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
