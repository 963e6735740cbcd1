"""SqliteStorage: tasks in an SQLite file, for any number of processes on one machine."""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final, overload

import trio

from ..._checks import check_flags, check_seconds, check_unicode
from ..._concurrency.threads import call_in_trio_thread
from ..._printing import quoted
from ..._tasks.errors import DuplicateTaskError
from ..._tasks.task import Task, make_task
from ..._tasks.task_id import TaskId, stored_id
from ..durable.queue import Lease, QueueState, StorageOptions
from ..durable.storage import DurableStorage
from ..durable.store_file import PRIVATE, check_mode, check_path, refused
from .counters import QueueCounters
from .driver import is_raw, of_the_user
from .engine import SqliteEngine
from .exchange import ExchangeSql
from .opening import Opening

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import Self, Unpack

    from ..._tasks.task import TaskOptions
    from ..durable.engine import NewRow
    from .driver import Connection, Driver, Writer
    from .sync_storage import SyncSqliteStorage


A = TypeVar("A")
B = TypeVar("B")

Synchronous = Literal["FULL", "NORMAL", "OFF"]

_MOST_WRAPPERS = 4
"""A SQLAlchemy Session has a Connection, which has one of its pool, which has the driver's."""


class SqliteOptions(StorageOptions, total=False):
    """The keyword options of :class:`SqliteStorage`."""

    queue: str
    synchronous: Synchronous
    driver: Driver | None
    join_existing: bool
    create: bool
    read_only: bool
    mode: int
    allow_triggers: bool
    poll_interval: float


@final
class SqliteStorage(DurableStorage[A]):
    """A storage in an SQLite file, for any number of processes on one machine.

    >>> async with SqliteStorage("tasks.db", Email, queue="emails") as storage:
    ...     await storage.push(Email(to="a@example.com"), delay=60)
    ...     storage.close()  # nothing more is pushed: the worker ends when all is done
    ...     await Worker("emails", storage, send_email).run()

    It is open within the block. One thread has the connection, and one transaction serves the requests of many trio
    tasks. Any number of processes may use the file, and wake one another.

    Args:
      path: the path of the file, on a disk of this machine.
      type: the type of the args. Args that do not fit it are refused when they are pushed. A stored task that does not
          fit it is put back for another version of the program, and fails after ``unreadable_after`` seconds. Default:
          any plain value.
      queue: the name of the queue in the file. Default: ``"default"``.
      synchronous: the moment at which a transaction counts as done. ``"FULL"``: when it is on the disk, so it survives
          a power failure. ``"NORMAL"``: when the operating system has it, so it survives the death of the process, and
          a power failure may undo the latest transactions. ``"OFF"``: the same, and a power failure may damage the
          file. Default: ``"FULL"``.
      driver: ``"sqlite3"``, the standard library's, which is the default (None); or ``"apsw"``, which has a newer
          SQLite of its own. All connections of a process to a file must use the same driver, your own connections
          included: two SQLites in one process do not see each other's locks, and damage a file. A second storage with
          the other driver is refused. A connection of yours is refused by :meth:`push_in`, and not noticed otherwise.
      join_existing: True puts the tables into a database that has other tables, and none of ours yet. Default:
          False, so that a wrong path is noticed.
      create: True, the default, makes the file if there is none. False refuses a path without a file, or an empty
          file.
      read_only: True changes and makes nothing, in the file or beside it. Use it to look at a file that other
          processes work on, or that you may only read. Methods that would change something raise
          :class:`BackendError`. Default: False.
      mode: the mode of the file, if it is made; SQLite gives the same mode to the files beside it. Default: 0o600, for
          its owner alone.
      allow_triggers: True allows triggers and views of other programs on the tables. A trigger runs with each of our
          statements, so by default a file that has any is refused. Default: False.
      poll_interval: the seconds between two looks at the file, in case a wake-up was lost. Default: 1.
      lease: the seconds after which a running task is an orphan, unless its worker renews the lease; it does so after
          each third of this time. Default: 30.
      codec: the codec of the args; see :class:`StorageOptions`. Default: :class:`CborCodec`.
      result_type: the type that handlers return. Default: any plain value.
      keep_results: the seconds for which succeeded tasks are kept, with their results. Default: 3600.
      keep_dead: the seconds for which failed and killed tasks are kept. Default: ``math.inf``, until :meth:`vacuum`.
      unreadable_after: the seconds for which a task that cannot be decoded is put back, before it fails. Default: a
          day.
      on_push: a sync function, or several, called with each task before it is pushed, in every way of pushing; each
          returns the task to push instead, such as ``task.with_metadata(tenant="acme")``. One with a parameter
          ``queue`` is given the name of the queue, too. Default: none.
      deadline: ``"inherit"`` gives each task that is pushed without a ``deadline`` that of the trio task which pushes
          it, if there is one; so what an attempt pushes ends with the attempt's own deadline. Default: None, none.
      limits: the :class:`Limits` of the queue, which are stored if it has none yet; see :meth:`set_limits`. Default:
          none.
    """

    @overload
    def __init__(self, path: str | os.PathLike[str], type: type[A], **options: Unpack[SqliteOptions]) -> None: ...
    @overload
    def __init__(
        self: SqliteStorage[Any], path: str | os.PathLike[str], type: Any = Any, **options: Unpack[SqliteOptions]
    ) -> None: ...
    def __init__(
        self,
        path: str | os.PathLike[str],
        type: Any = Any,
        *,
        queue: str = "default",
        synchronous: Synchronous = "FULL",
        driver: Driver | None = None,
        join_existing: bool = False,
        create: bool = True,
        read_only: bool = False,
        mode: int = PRIVATE,
        allow_triggers: bool = False,
        poll_interval: float = 1.0,
        **options: Unpack[StorageOptions],
    ) -> None:
        place = check_path(path, "tasks in memory are a MemoryStorage")
        check_unicode(str(place), "the path of an SQLite file")
        if synchronous not in ("FULL", "NORMAL", "OFF"):
            raise ValueError(f"synchronous must be 'FULL', 'NORMAL' or 'OFF', not {quoted(synchronous)}")
        check_flags(join_existing=join_existing, create=create, read_only=read_only, allow_triggers=allow_triggers)
        opening = Opening(synchronous, join_existing, create, read_only, check_mode(mode), allow_triggers)
        engine = SqliteEngine(place, driver, opening)
        self._engine = engine
        self._found(
            engine, QueueState(queue, type, options), check_seconds(poll_interval, "poll_interval", positive=True)
        )

    @overload
    def share(self, type: type[B], *, queue: str, **options: Unpack[StorageOptions]) -> SqliteStorage[B]: ...
    @overload
    def share(self, type: Any = Any, *, queue: str, **options: Unpack[StorageOptions]) -> SqliteStorage[Any]: ...
    def share(self, type: Any = Any, *, queue: str, **options: Unpack[StorageOptions]) -> SqliteStorage[Any]:
        """Make another queue in the same file, over the same connection.

        It is open for as long as this storage is, and is closed on its own. Options that are not given are the same.
        """
        other: SqliteStorage[Any] = super().share(type, queue=queue, **options)
        other._engine = self._engine
        return other

    def push_in(self, connection: object, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """Push inside a transaction of your own: the task is stored if and only if you commit.

        Args:
          connection: a connection to the same file, used in this thread: a ``sqlite3.Connection`` (of apsw, if the
              storage uses that driver), a SQLAlchemy ``Connection`` or ``Session``, or Django's ``connection``.
          args: the args of the task; the options are those of :meth:`push`.

        Raises:
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: the storage is not open.
          TypeError, ValueError: the connection is by another driver, or to another file.

        It may be called in any thread, with trio or without. It is done when it returns, but for the commit, which is
        yours. Call :meth:`wake` after that, so that workers look at once rather than within ``poll_interval``.
        """
        self._loop.check_usable()
        task_id, is_committed = self._push_over(connection, args, options, self._engine.now)
        if is_committed:
            self.wake()
        return task_id

    def _push_over(
        self, connection: object, args: A, options: TaskOptions, now: Callable[[], float]
    ) -> tuple[TaskId, bool]:
        if self._engine.opening.read_only:
            raise refused(f"{self!r} was opened with read_only=True")
        row = self._prepare_row(make_task(args, options, self), now)
        return push_over(connection, self._engine.driver, self._engine.place, row, now)

    def _prepare_row(self, task: Task[A], now: Callable[[], float]) -> NewRow:
        return self._row_of(self._prepare(task), now)

    def wake(self) -> None:
        """Tell all workers to look for new tasks now. Call it after committing a transaction that used :meth:`push_in`.

        It may be called in any thread. On a storage that is closed it does nothing.
        """
        self._loop.check_process()
        call_in_trio_thread(self._loop.token, self._loop.on_wakeup)
        self._engine.wake_soon()

    @overload
    @classmethod
    def open_sync(
        cls, path: str | os.PathLike[str], type: type[B], **options: Unpack[SqliteOptions]
    ) -> SyncSqliteStorage[B]: ...
    @overload
    @classmethod
    def open_sync(
        cls, path: str | os.PathLike[str], type: Any = Any, **options: Unpack[SqliteOptions]
    ) -> SyncSqliteStorage[Any]: ...
    @classmethod
    def open_sync(
        cls, path: str | os.PathLike[str], type: Any = Any, **options: Unpack[SqliteOptions]
    ) -> SyncSqliteStorage[Any]:
        """Open a queue for code without trio, to push, fetch and wait: in a WSGI application, in Django, in a script.

        >>> with SqliteStorage.open_sync("tasks.db", Email, queue="emails") as storage:
        ...     task_id = storage.push(Email(to="a@example.com"))

        The arguments are those of :class:`SqliteStorage`. It is open when this returns; close it by ``with`` or
        ``close()``. It may be used in any thread, and not after a fork: open it in each process.
        """
        from .sync_storage import SyncSqliteStorage

        storage: SqliteStorage[Any] = cls(path, type, **options)
        return SyncSqliteStorage(storage._engine, storage._queue, storage._prepare_row, storage._push_over)


@final
class SqliteTransaction:
    """Writes of a handler that are committed together with the settlement, exactly once.

    A handler that has a parameter of this type, and whose tasks come from a :class:`SqliteStorage`, may say what is to
    be written beside the queue. It is written if the handler returns, after its children have ended, in the transaction
    that settles the task as done; so either both are there, or none. If writing raises, the attempt has failed with
    that error. If the lease was lost, nothing is written.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    @classmethod
    async def from_task(cls, task: Task[Any]) -> Self:
        """Make the transaction of the task's attempt; a worker calls it.

        Raises:
          TypeError: the task does not come from a :class:`SqliteStorage`.
        """
        await trio.lowlevel.checkpoint()
        lease = task.parts.context
        if not isinstance(lease, Lease):
            raise TypeError(f"SqliteTransaction needs a task from a SqliteStorage, not {quoted(task)}")
        return cls(lease)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> None:
        """Run this statement in the transaction that settles the task."""

        def write(writer: Writer) -> object:
            return writer.execute(sql, parameters)

        self._lease.writes += (write,)

    def call(self, write: Callable[[Writer], object]) -> None:
        """Call ``write(writer)`` in the transaction that settles the task, in the thread that owns the connection.

        ``writer.execute(sql, parameters)`` returns the rows as a list. ``write`` must not begin or end
        transactions, nor take long: all other tasks wait.
        """
        self._lease.writes += (write,)


# Pushes inside a transaction of the user's own, over the user's connection; nothing of trio is needed for them


def push_over(
    connection: object, driver: Driver, path: str | os.PathLike[str], row: NewRow, now: Callable[[], float]
) -> tuple[TaskId, bool]:
    """Insert a row over the user's connection.

    Args:
      connection: a connection of the driver, or a wrapper of one: a SQLAlchemy Connection or Session, Django's
          ``connection``.
      driver: the driver of the storage.
      path: the path of the storage's file.
      row: the task.
      now: the clock of the file.

    Returns:
      the id of the task that has the row, or the unique key; and True if it is committed, since no transaction was open
      and the connection opens none by itself.

    Raises:
      DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
      TypeError: the connection is by another driver, or is none.
      ValueError: the connection is to another file.
    """
    users = of_the_user(unwrapped(connection), driver)
    _check_file(users, path)
    with _transaction(users) as is_committed_at_once:
        counters = QueueCounters(users)
        moment, sql = now(), ExchangeSql(users, counters, 0)
        [answer] = sql.insert([row], moment)
        sql.finish(moment)
        if isinstance(answer, DuplicateTaskError):
            raise answer
    return stored_id(answer), is_committed_at_once


def unwrapped(connection: object) -> object:
    """Return the driver's connection inside a wrapper, which is recognized by its attributes, so nothing is imported.

    1. A SQLAlchemy Session has a method ``connection``, which begins its transaction.
    2. A SQLAlchemy Connection has ``begin``, ``in_transaction`` and ``commit``. As before each statement, its
       transaction is begun, or its own ``commit`` would not know that there is something to commit.
    3. What a pool hands out has a ``driver_connection``.
    4. Django's has ``ensure_connection``, and then the driver's as ``connection``.
    """
    found: Any = connection
    for _ in range(_MOST_WRAPPERS):
        if is_raw(found):
            return found
        if callable(ensure := getattr(found, "ensure_connection", None)):
            ensure()
        elif not hasattr(found, "driver_connection") and hasattr(found, "exec_driver_sql") and hasattr(found, "commit"):
            if not found.in_transaction():
                found.begin()
        inner: Any = getattr(found, "driver_connection", None) or getattr(found, "connection", None)
        if inner is None:
            break
        found = inner() if callable(inner) and not is_raw(inner) else inner
        if inspect.iscoroutine(found):
            found.close()
            raise TypeError(
                f"push_in takes a connection with sync methods, not {type(connection).__name__}: "
                "call it by run_sync, with the session or connection that this gives"
            )
    return found


def _check_file(users: Connection, path: str | os.PathLike[str]) -> None:
    files = [str(file) for _, name, file in users.execute("PRAGMA database_list") if name == "main"]
    if not files or not files[0] or not os.path.samefile(files[0], path):  # noqa: PTH121  as SQLite says
        raise ValueError(f"the connection must be to {str(path)!r}, not to {files}")


@contextmanager
def _transaction(users: Connection) -> Generator[bool, None, None]:
    """Begin a transaction for the block; yields True if it is committed at the end. A failure leaves nothing behind.

    1. In a transaction: in a savepoint of it.
    2. Otherwise, if the connection opens one by itself before it writes, as ``sqlite3`` does unless told otherwise:
       in such a one, which stays open, to be committed by the user.
    3. Otherwise in a transaction of its own.
    """
    if users.in_transaction:
        begin, commit, roll_back = "SAVEPOINT trio_tasks_push", "RELEASE trio_tasks_push", "ROLLBACK TO trio_tasks_push"
    elif users.implicit_begin is not None:
        begin, commit, roll_back = users.implicit_begin, "", "ROLLBACK"
    else:
        begin, commit, roll_back = "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"
    users.execute(begin)
    is_done = False
    try:
        yield commit == "COMMIT"
        if commit:
            users.execute(commit)
        is_done = True
    finally:
        if not is_done and users.in_transaction:  # a full disk, for one, rolls everything back
            users.execute(roll_back)
            if roll_back != "ROLLBACK":
                users.execute(commit)
