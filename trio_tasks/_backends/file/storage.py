"""FileStorage: tasks in a journal file, for one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, final, overload

from ..._checks import check_flags
from ..durable.queue import QueueState, StorageOptions
from ..durable.storage import DurableStorage
from ..durable.store_file import PRIVATE, check_mode, check_path
from .engine import FileEngine
from .read_only import ReadOnlyFileEngine

if TYPE_CHECKING:
    import os

    from typing_extensions import Unpack

    from .journal import Recovery

A = TypeVar("A")
B = TypeVar("B")


class FileOptions(StorageOptions, total=False):
    """The keyword options of :class:`FileStorage`."""

    queue: str
    synchronous: Literal["FULL", "NORMAL"]
    repair: bool
    create: bool
    read_only: bool
    mode: int


_POLL_INTERVAL = 60.0
"""Seconds between two looks for new tasks; long, since no other process writes to the file."""
_LOOK_INTERVAL = 1.0
"""Seconds between two looks at a file that another process writes, while a result is waited for."""


@final
class FileStorage(DurableStorage[A]):
    """A storage in a journal file, for one process.

    >>> async with FileStorage("tasks.journal", Email) as storage:
    ...     await storage.push(Email(to="a@example.com"), delay=60)
    ...     storage.close()  # nothing more is pushed: the worker ends when all is done
    ...     await Worker("emails", storage, send_email).run()

    All tasks are in memory, and every change is appended to one file: simultaneous changes in one record, with one
    ``fsync``. When it is opened, the file is read; a task that was running when the last process died waits again, its
    attempt counted. A second process is refused.

    Args:
      path: the path of the file.
      type: the type of the args. Args that do not fit it are refused when they are pushed. A stored task that does not
          fit it is put back for another version of the program, and fails after ``unreadable_after`` seconds. Default:
          any plain value.
      queue: the name of the queue in the file. Default: ``"default"``.
      synchronous: the moment at which a change counts as done. ``"FULL"``: when it is on the disk, so it survives a
          power failure. ``"NORMAL"``: when the operating system has it, so it survives the death of the process.
          Default: ``"FULL"``.
      repair: True opens a file that is damaged in the middle, with the records that are intact; the
          original is kept beside it. A torn end, which a crash may leave, needs no repair. Default: False.
      create: True, the default, makes the file if there is none. False refuses a path without a file, or an empty
          file.
      read_only: True changes and makes nothing, in the file or beside it. Use it to look at a file that another
          process works on, or that you may only read. Methods that would change something raise
          :class:`BackendError`. Default: False.
      mode: the mode of the file, if it is made. Files beside it get the same mode, and so does a shorter journal that
          replaces it. Default: 0o600, for its owner alone.
      lease: the seconds after which a running task is an orphan, unless its worker renews the lease; it does so after
          each third of this time. Default: 30.
      codec: the codec of the args; see :class:`StorageOptions`. Default: :class:`CborCodec`.
      result_type: the type that handlers return. Default: any plain value.
      keep_results: the seconds for which succeeded tasks are kept, with their results. Default: 3600.
      keep_dead: the seconds for which failed and killed tasks are kept. Default: ``math.inf``, until ``vacuum()``.
      unreadable_after: the seconds for which a task that cannot be decoded is put back, before it fails. Default: a
          day.
      on_push: a sync function, or several, called with each task before it is pushed, in every way of pushing; each
          returns the task to push instead, such as ``task.with_metadata(tenant="acme")``. One with a parameter
          ``queue`` is given the name of the queue, too. Default: none.
      deadline: ``"inherit"`` gives each task that is pushed without a ``deadline`` that of the trio task which pushes
          it, if there is one; so what an attempt pushes ends with the attempt's own deadline. Default: None, none.
      limits: the :class:`Limits` of the queue, which are stored if it has none yet; see ``set_limits()``. Default:
          none.
    """

    @overload
    def __init__(self, path: str | os.PathLike[str], type: type[A], **options: Unpack[FileOptions]) -> None: ...
    @overload
    def __init__(
        self: FileStorage[Any], path: str | os.PathLike[str], type: Any = Any, **options: Unpack[FileOptions]
    ) -> None: ...
    def __init__(
        self,
        path: str | os.PathLike[str],
        type: Any = Any,
        *,
        queue: str = "default",
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        repair: bool = False,
        create: bool = True,
        read_only: bool = False,
        mode: int = PRIVATE,
        **options: Unpack[StorageOptions],
    ) -> None:
        place = check_path(path, "FileStorage.temporary() needs none")
        check_flags(repair=repair, create=create, read_only=read_only)
        if repair and read_only:
            raise ValueError("repair=True writes to the file, and read_only=True does not: choose one of them")
        engine = FileEngine(place, synchronous=synchronous, repair=repair, create=create, mode=check_mode(mode))
        self._use_engine(ReadOnlyFileEngine(place) if read_only else engine, type, queue, options)

    @overload
    @classmethod
    def temporary(
        cls, type: type[B], *, queue: str = "default", **options: Unpack[StorageOptions]
    ) -> FileStorage[B]: ...
    @overload
    @classmethod
    def temporary(
        cls, type: Any = Any, *, queue: str = "default", **options: Unpack[StorageOptions]
    ) -> FileStorage[Any]: ...
    @classmethod
    def temporary(
        cls, type: Any = Any, *, queue: str = "default", **options: Unpack[StorageOptions]
    ) -> FileStorage[Any]:
        """Make a storage for tests, whose file is removed when it is closed."""
        storage: FileStorage[Any] = object.__new__(cls)
        storage._use_engine(FileEngine.temporary(), type, queue, options)
        return storage

    def _use_engine(
        self, engine: FileEngine | ReadOnlyFileEngine, type: Any, queue: str, options: StorageOptions
    ) -> None:
        self._engine = engine
        poll_interval = _POLL_INTERVAL if isinstance(engine, FileEngine) else _LOOK_INTERVAL
        self._found(engine, QueueState(queue, type, options), poll_interval)

    @property
    def recovery(self) -> Recovery | None:
        """The damage that was found when the file was opened; None if it was intact."""
        return self._engine.recovery

    @overload
    def share(self, type: type[B], *, queue: str, **options: Unpack[StorageOptions]) -> FileStorage[B]: ...
    @overload
    def share(self, type: Any = Any, *, queue: str, **options: Unpack[StorageOptions]) -> FileStorage[Any]: ...
    def share(self, type: Any = Any, *, queue: str, **options: Unpack[StorageOptions]) -> FileStorage[Any]:
        """Make another queue in the same file, over the same connection.

        It is open for as long as this storage is, and is closed on its own. Options that are not given are the same.
        """
        other: FileStorage[Any] = super().share(type, queue=queue, **options)
        other._engine = self._engine
        return other
