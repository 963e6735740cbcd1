"""A queue in an SQLite file for code without trio: WSGI applications, Django, scripts."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

import trio

from ..._checks import check_seconds, check_stored_text
from ..._contracts.sink import BATCH_SIZE
from ..._contracts.storage_events import Pushed
from ..._tasks.errors import UnknownTaskError
from ..._tasks.outcome import typed
from ..._tasks.task import make_task, options_for_many, task_maker
from ..._tasks.task_id import TaskId
from ..durable.engine import Exchange, State
from ..durable.rows import ids_of, result_of, task_of
from .operations import Operations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ..._tasks.errors import DuplicateTaskError
    from ..._tasks.outcome import TaskResult
    from ..._tasks.task import Task, TaskOptions
    from ..durable.engine import NewRow, StoredRow
    from ..durable.queue import QueueState
    from .engine import SqliteEngine

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25
"""Seconds between two looks for the end of a task."""


@final
class SyncSqliteStorage(Generic[A]):
    """An open queue in an SQLite file, for code without trio.

    All methods block, and may be called in any thread; the threads take turns. A transaction waits up to ten seconds
    for a lock that others hold on the file. After a fork it cannot be used: open one in each process.
    """

    def __init__(
        self,
        engine: SqliteEngine,
        queue: QueueState,
        row_of: Callable[[Task[A], Callable[[], float]], NewRow],
        push_over: Callable[[object, A, TaskOptions, Callable[[], float]], tuple[TaskId, bool]],
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._row_of = row_of
        self._push_over = push_over
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._session, self._clock = self._engine.open_here()

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._queue.name

    # Pushing

    def push(self, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """Make a task of ``args``, and push it; the keywords are those of :meth:`SqliteStorage.push`.

        >>> task_id = storage.push(Email(to="b@example.com"), delay=600, attempts=3)

        When it returns, the task is stored, and workers in all processes have been told.

        Raises:
          TypeError, ValueError: the args cannot be encoded, or an option is wrong. Nothing was stored.
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: the storage is closed.
          BackendError: it could not be stored: another connection holds the lock, or the disk is full.
        """
        return self.push_task(make_task(args, options, self))

    def push_task(self, task: Task[A]) -> TaskId:
        """Push a whole task; otherwise as :meth:`push`."""
        [task_id] = ids_of(self._insert([self._row_of(task, self._now)]))
        return task_id

    def push_or_get(self, args: A, **options: Unpack[TaskOptions]) -> Pushed:
        """Make a task of ``args``, and push it; return its id, or the id of the task that has its unique key.

        The result also says which of the two it is. Otherwise it does the same as :meth:`push`.
        """
        row = self._row_of(make_task(args, options, self), self._now)
        [task_id] = ids_of(self._insert([row]))
        return Pushed(task_id, task_id == row.id)

    def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and push them in this order.

        Every task is made, and every option checked, before the first is stored; one transaction takes up to 512.

        Raises:
          DuplicateTaskError: one is a duplicate; all others are pushed before it is raised.
        """
        options = options_for_many(options, self)
        make = task_maker(options)
        rows = [self._row_of(make(args), self._now) for args in many]
        answers: list[str | DuplicateTaskError] = []
        for start in range(0, len(rows), BATCH_SIZE):
            answers += self._insert(rows[start : start + BATCH_SIZE])
        return ids_of(answers)

    def push_in(self, connection: object, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """Push inside a transaction of your own: the task is stored if and only if you commit. See
        :meth:`SqliteStorage.push_in`; call :meth:`wake` after the commit.
        """
        self._check_open()
        task_id, is_committed = self._push_over(connection, args, options, self._now)
        if is_committed:
            self.wake()
        return task_id

    def wake(self) -> None:
        """Tell all workers to look for new tasks now. Call it after committing a transaction that used
        :meth:`push_in`."""
        self._do(self._session.wake_others, self._now())

    def _insert(self, rows: Sequence[NewRow]) -> list[str | DuplicateTaskError]:
        return self._do(self._session.exchange, Exchange([], rows, []), self._now()).pushed

    # Looking

    def fetch_by_id(self, task_id: str) -> Task[A] | None:
        """Return the task of this id, unfinished or remembered; or None. Its ``parts.context`` has its history, its
        error, its result and its progress.
        """
        stored = self._find(task_id)
        return None if stored is None else task_of(stored, self._queue)

    @overload
    def wait_for(self, task_id: str, type: type[R], *, timeout: float | None = None) -> TaskResult[R]: ...
    @overload
    def wait_for(self, task_id: str, type: None = None, *, timeout: float | None = None) -> TaskResult[Any]: ...
    def wait_for(self, task_id: str, type: Any = None, *, timeout: float | None = None) -> TaskResult[Any]:
        """Wait until the task is finished, in any process, and return its :class:`TaskResult`.

        Args:
          task_id: the id of the task.
          type: a class that the result is an instance of, for type checkers; default any value.
          timeout: the seconds to wait; default None, for no limit.

        Raises:
          TypeError: the result is not an instance of ``type``.
          UnknownTaskError: no such task is known, or it ended and is not remembered any more.
          TimeoutError: it has not ended in time. The task goes on.
        """
        end = None if timeout is None else time.monotonic() + check_seconds(timeout, "timeout")
        pause = _FIRST_PAUSE
        while True:
            stored = self._find(task_id)
            if stored is None:
                raise UnknownTaskError(task_id)
            if stored.state >= State.DONE:
                return typed(result_of(stored, self._queue), type)
            left = pause if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"task {str(task_id)!r} has not ended within {timeout} s")
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _find(self, task_id: str) -> StoredRow | None:
        check_stored_text(task_id, "a task's id")
        return self._do(lambda: self._session.read(Operations.find, self.queue, task_id, self._now()))

    # Closing

    def close(self) -> None:
        """Close the file. It may be called again."""
        with self._lock:
            if self._is_closed or os.getpid() != self._pid:
                return
            self._is_closed = True
            self._engine.wakeup_socket.close()
            self._session.close(self._now())

    def __enter__(self) -> Self:
        """Return the storage, which is open already."""
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _now(self) -> float:
        return self._clock.now()

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(f"this storage was opened by process {self._pid}, and cannot be used after a fork")
        if self._is_closed:
            raise trio.ClosedResourceError("SyncSqliteStorage is closed: nothing more can be called on it")

    def _do(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function that uses the session, while no other thread does."""
        self._check_open()
        with self._lock:
            self._check_open()
            return fn(*args)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<SyncSqliteStorage {self._engine!r}, queue {self.queue!r}, {state}>"
