"""The append-only file: opened and checked, appended to, synced, and replaced as a whole by a shorter one.

Nothing here depends on the contents of the records, and nothing awaits.

1. A half-written record at the end of the file comes from a crash: it is cut off, kept beside the journal
   (``tasks.journal.torn-1``), and reported.
2. Damage with intact records behind it comes from a bad disk, or from another program: the journal is refused, unless
   it is opened with ``repair``. Then every intact record counts, and the damaged file is kept
   (``tasks.journal.damaged-1``).
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, final

from ..._contracts.store_info import StoreInfo
from ..._tasks.errors import BackendError
from ..durable.engine import refusal
from ..durable.store_file import PRIVATE, follow, make_beside, make_file, open_regular, refused, regular_file
from .lock import abandon_in_child, lock_itself
from .records import (
    FRAME_SIZE,
    HEADER_SIZE,
    LARGEST_PAYLOAD,
    VERSION,
    Damage,
    frame,
    header,
    is_unfinished,
    new_salt,
    read_salt,
    scan,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_RESERVE = 2**20
"""Bytes of the disk that are reserved at a time, so that a sync need not note a new length of the file each time."""
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
"""Errors of a file system that cannot sync a directory: CIFS, some of FUSE, or one that may not be read."""
if sys.platform == "darwin":
    import fcntl

    _FULL_SYNC: int | None = fcntl.F_FULLFSYNC  # fsync alone stops at the drive's own memory there
else:
    _FULL_SYNC: int | None = None
_OPEN_FILES_KEEP_THEIR_NAMES = sys.platform == "win32"
"""True if an open file can be neither renamed nor replaced."""
_RETRY_REPLACE_FOR = 1.0
"""Seconds for which a refused replacement is tried again there: a virus scanner has the file open for a moment."""
_WHAT = "the journal"
_MOST_UNFINISHED = 10
"""Names that are tried for an unfinished journal, if other programs' files have them."""


@final
@dataclass(frozen=True, slots=True)
class Recovery:
    """The damage that was found when a journal was opened, and the number of records that were dropped.

    Attributes:
      path: the journal.
      at: position of the damage, in bytes.
      bytes_dropped: the number of bytes that are no intact record.
      records_dropped: the number of missing records; at the end of the file, the least number.
      is_torn_tail: True if all damage was at the end, where a crash leaves half a record.
      kept_as: the file beside it that has what was cut off, or, after a repair, the damaged journal.
    """

    path: Path
    at: int
    bytes_dropped: int
    records_dropped: int
    is_torn_tail: bool
    kept_as: Path

    def __str__(self) -> str:
        what = "ended in the middle of a record" if self.is_torn_tail else "was damaged"
        least = "at least " if self.is_torn_tail else ""
        return (
            f"the journal {str(self.path)!r} {what} at byte {self.at}: {self.bytes_dropped} bytes and {least}"
            f"{self.records_dropped} record(s) were dropped, and are kept in {self.kept_as.name!r}"
        )


@final
class JournalFile:
    """A journal file that is open for appending.

    Args:
      fd: the descriptor of the file, positioned at ``end``; it is closed with this object.
      salt: the salt in its header.
      end: the end of its last intact record.
      number: the number of the next record.
      ahead: True to reserve room on the disk ahead, which makes syncing cheaper.
    """

    def __init__(self, fd: int, salt: bytes, end: int, number: int, *, ahead: bool) -> None:
        self._fd = fd
        self._salt = salt
        self._number = number
        self._reserved = 0 if ahead and hasattr(os, "posix_fallocate") else sys.maxsize
        self._has_torn_end = False  # True if bytes after the last record could not be cut off
        self.end = end
        self.is_broken = False  # True after a failed sync: the contents on the disk are unknown then
        self._identity: tuple[int, int] | None = None

        abandon_in_child(self)

    @classmethod
    def create(cls, path: Path, *, ahead: bool) -> JournalFile:
        """Make a journal without a record, which counts as unfinished until it replaces a journal.

        It is not synced, and other users cannot read it.
        """
        salt = new_salt()
        made = cls(make_file(path, PRIVATE), salt, 0, 1, ahead=ahead)
        try:
            lock_itself(made._fd, path)
            made._write(header(salt, unfinished=True))
        except OSError:
            made.close()
            raise
        made.end = HEADER_SIZE
        return made

    def append(self, payload: bytes) -> None:
        """Append a record, wholly or not at all.

        Raises:
          OSError: it could not be written. Nothing of it counts: its bytes are cut off, now or before the next
            record is written, or else when the journal is opened again.
        """
        if len(payload) > LARGEST_PAYLOAD:
            raise refusal(f"a record of {len(payload):,} bytes is too long for a journal")
        if self._has_torn_end:
            self.cut()
        data = frame(self._salt, self._number, payload)
        if self.end + len(data) > self._reserved:
            self._reserve(len(data))
        try:
            self._write(data)
        except OSError:
            with suppress(OSError):  # a file system that is read-only for a while: it is cut later
                self.cut()
            raise
        self.end += len(data)
        self._number += 1

    def _reserve(self, needed: int) -> None:
        self._reserved = self.end + needed + _RESERVE
        with suppress(OSError):  # the disk may still have room for this record
            os.posix_fallocate(self._fd, self.end, needed + _RESERVE)

    def _write(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        while written < len(data):
            written += os.write(self._fd, memoryview(data)[written:])

    def cut(self) -> None:
        """Cut off all bytes after the last record.

        Raises:
          OSError: it could not be cut; it has to be before anything is appended.
        """
        self._has_torn_end = True
        if self._reserved != sys.maxsize:
            self._reserved = 0
        os.ftruncate(self._fd, self.end)
        os.lseek(self._fd, self.end, os.SEEK_SET)
        self._has_torn_end = False

    def sync(self) -> None:
        """Sync the file to the disk; if that fails, the journal is broken, since it is unknown what reached the
        disk.
        """
        try:
            _sync(self._fd)
        except OSError:
            self.is_broken = True
            raise

    @property
    def is_open(self) -> bool:
        """True until the file is closed."""
        return self._fd >= 0

    def close(self) -> None:
        """Close the file, and free the reserved space; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                with suppress(OSError):
                    if self._has_torn_end or (self.end and self._reserved not in (0, sys.maxsize)):
                        os.ftruncate(fd, self.end)
            finally:
                os.close(fd)

    def abandon(self) -> None:
        """Close the file in a forked child, without changing it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def check_place(self, path: Path) -> None:
        """Raise if the file at this path is not this one any more.

        Raises:
          BackendError: it was deleted, moved or replaced.
        """
        if _OPEN_FILES_KEEP_THEIR_NAMES:
            return
        if self._identity is None:
            found = os.fstat(self._fd)
            self._identity = found.st_dev, found.st_ino
        try:
            there = os.stat(path)  # noqa: PTH116  Path.stat is slower, and each exchange does this
            is_there = (there.st_dev, there.st_ino) == self._identity
        except OSError:
            is_there = False
        if not is_there:
            self.is_broken = True
            raise refused(f"{_WHAT} {str(path)!r} was deleted, moved or replaced while it was open: open it again")

    def put_in_place_of(self, old: JournalFile | None, own: Path, place: Path, mode: int = PRIVATE) -> None:
        """Replace the journal at ``place``, which is ``old``; once this returns, ``old`` is closed. The new name is on
        the disk after :meth:`sync_name` alone. It takes over owner and mode of the file that was there; if there was
        none, it is of the mode that is given.

        Raises:
          OSError: nothing has changed, and ``old`` is still the journal. If it could not even be opened again, where
            it has to be closed meanwhile, it is closed.
        """
        if old is not None:
            old.check_place(place)
        self._write_final_header()
        model = regular_file(place, _WHAT)
        if model is not None:
            follow(self._fd, model)
        elif sys.platform != "win32":
            os.fchmod(self._fd, mode)
        self.sync()
        if _OPEN_FILES_KEEP_THEIR_NAMES:
            self._replace_while_closed(old, own, place)
        else:
            os.replace(own, place)  # noqa: PTH105  beside the other calls of its kind
        if old is not None:
            old.close()

    def _write_final_header(self) -> None:
        """Write the header of a finished journal."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._write(header(self._salt))
        os.lseek(self._fd, self.end, os.SEEK_SET)

    def _replace_while_closed(self, old: JournalFile | None, own: Path, place: Path) -> None:
        """Replace the file at ``place`` while both journals are closed."""
        self._close_for_now()
        if old is not None:
            old._close_for_now()
        try:
            _replace_with_retries(own, place)
        except OSError:
            if old is not None:
                old._reopen(place)
            raise
        self._reopen(place)

    def _close_for_now(self) -> None:
        fd, self._fd = self._fd, -1  # closed once, even if that fails
        os.close(fd)

    def _reopen(self, place: Path) -> None:
        self._fd = open_regular(place, _WHAT)
        os.lseek(self._fd, self.end, os.SEEK_SET)

    def sync_name(self, directory: Path) -> None:
        """Sync the new name of the file to the disk. If that fails, the journal is broken: after a power cut the old
        one might be back.
        """
        try:
            sync_directory(directory)
        except OSError:
            self.is_broken = True
            raise


def open_journal(
    path: Path, load: Callable[[bytes], object], *, repair: bool, ahead: bool, mode: int = PRIVATE
) -> tuple[JournalFile, Recovery | None]:
    """Open or create the journal, and load each of its records.

    If the recovery says that it is not about a torn tail, records are missing in the middle, and the caller has to put
    a new journal in the place of this one.

    Raises:
      BackendError: it is not a journal of ours, or damaged beyond what may be recovered, or open under another name.
      OSError: it could not be read or written.
    """
    remove_unfinished(path)
    found = regular_file(path, _WHAT)
    if found is None or not found.st_size:
        return _made(path, ahead=ahead, mode=mode), None
    fd = open_regular(path, _WHAT)
    opened: JournalFile | None = None
    is_done = False
    try:
        lock_itself(fd, path)
        with os.fdopen(fd, "r+b", buffering=2**20, closefd=False) as file:
            salt, damages, end, number = _load(path, file, load, repair=repair)
            recovery = _recover(path, file, damages, found) if damages else None
        opened = JournalFile(fd, salt, end, number, ahead=ahead)
        opened.check_place(path)  # it may have been replaced before it was locked
        if not (recovery and not recovery.is_torn_tail):
            _cut(opened, path)
        is_done = True
        return opened, recovery
    finally:
        if opened is None:
            os.close(fd)
        elif not is_done:
            opened.abandon()


def _cut(opened: JournalFile, path: Path) -> None:
    try:
        opened.cut()
    except OSError as error:
        raise BackendError(
            f"{str(path)!r} cannot be cut to its {opened.end} intact bytes: {error.strerror or error}"
        ) from error


def _made(path: Path, *, ahead: bool, mode: int) -> JournalFile:
    new, made = make_new(path, ahead=ahead)
    try:
        made.put_in_place_of(None, new, path, mode)
        made.sync_name(path.parent)
    except OSError:
        made.close()
        with suppress(OSError):
            new.unlink()
        raise
    return made


def make_new(path: Path, *, ahead: bool) -> tuple[Path, JournalFile]:
    """Make an unfinished journal beside the one at this path, under a free name; return both.

    Raises:
      OSError: none can be made.
    """
    remove_unfinished(path)
    for name in _unfinished_names(path):
        with suppress(FileExistsError):
            return name, JournalFile.create(name, ahead=ahead)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(beside(path, "new")))


def remove_unfinished(path: Path) -> None:
    """Remove unfinished journals that a dead process has left. Other files of such names are not ours."""
    for name in _unfinished_names(path):
        try:
            fd = open_regular(name, _WHAT)
        except FileNotFoundError:
            return
        except (OSError, BackendError):
            continue
        try:
            is_ours = is_unfinished(os.read(fd, HEADER_SIZE))
        finally:
            os.close(fd)
        if is_ours:
            name.unlink(missing_ok=True)


def _unfinished_names(path: Path) -> list[Path]:
    return [beside(path, "new"), *(beside(path, f"new-{number}") for number in range(1, _MOST_UNFINISHED))]


def _load(
    path: Path, file: BinaryIO, load: Callable[[bytes], object], *, repair: bool
) -> tuple[bytes, list[Damage], int, int]:
    beginning = file.read(HEADER_SIZE + FRAME_SIZE)
    if repair:
        beginning += file.read()
    salt = read_salt(beginning, str(path), repair=repair)
    damages = [] if beginning[:HEADER_SIZE] == header(salt) else [Damage(0, beginning[:HEADER_SIZE], 0, is_tail=False)]
    del beginning
    end, number = HEADER_SIZE, 1
    for found in scan(file, salt):
        if not isinstance(found, Damage):
            load(found.payload)
            end, number = found.end, found.number + 1
        elif found.is_tail or repair:
            damages.append(found)
        else:
            raise damaged(path, found)
    return salt, damages, end, number


def damaged(path: Path, found: Damage) -> BackendError:
    """Make the error for a journal that is damaged before its end."""
    return BackendError(
        f"the journal {str(path)!r} is damaged at byte {found.at}: {found.lost} record(s) cannot be read, and "
        f"intact ones follow. Nothing was changed. Opening it with repair=True keeps all that are intact"
    )


def _recover(path: Path, file: BinaryIO, damages: list[Damage], model: os.stat_result) -> Recovery:
    """Save the bytes that are about to be dropped."""
    is_torn_tail = len(damages) == 1 and damages[0].is_tail
    kept_as = _free_name(path, "torn" if is_torn_tail else "damaged")
    with os.fdopen(make_beside(kept_as, model, PRIVATE), "w+b") as copy:
        if is_torn_tail:
            copy.write(damages[0].content)
        else:
            file.seek(0)
            shutil.copyfileobj(file, copy)
        copy.flush()
        _sync(copy.fileno())
    sync_directory(path.parent)
    dropped, lost = sum(len(damage.content) for damage in damages), sum(damage.lost for damage in damages)
    return Recovery(path, damages[0].at, dropped, lost, is_torn_tail, kept_as)


def beside(path: Path, suffix: str) -> Path:
    """Return the path with this suffix added."""
    return path.with_name(f"{path.name}.{suffix}")


def _free_name(path: Path, word: str) -> Path:
    number = 1
    while os.path.lexists(name := beside(path, f"{word}-{number}")):
        number += 1
    return name


def _sync(fd: int) -> None:
    if _FULL_SYNC is not None and _sync_fully(fd, _FULL_SYNC):
        return
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def _sync_fully(fd: int, command: int) -> bool:
    """Sync a file through the drive's own cache; False if the file system cannot (SMB, exFAT)."""
    import fcntl

    try:
        fcntl.fcntl(fd, command)
    except OSError as error:
        if error.errno not in _NO_SYNC and error.errno != errno.ENOTTY:
            raise
        return False
    return True


def sync_directory(path: Path) -> None:
    """Sync the names in a directory to the disk, if the file system can do that."""
    if sys.platform == "win32":  # it has no such call
        return
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _replace_with_retries(own: Path, place: Path) -> None:
    """Replace a file, trying again for a moment if another program has it open."""
    give_up_at = time.monotonic() + _RETRY_REPLACE_FOR
    pause = 0.005
    while True:
        try:
            os.replace(own, place)  # noqa: PTH105  beside the other calls of its kind
        except PermissionError:
            if time.monotonic() > give_up_at:
                raise
        else:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def journal_info(path: Path, damage: tuple[str, ...] = ()) -> StoreInfo:
    """Return the state of the journal at this path."""
    return StoreInfo(str(path), "journal", VERSION, path.stat().st_size, damage=damage)
