"""A push inside a transaction of the user's own, over the user's connection; nothing of trio is needed for it."""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..._tasks.errors import DuplicateTaskError
from ..._tasks.task_id import TaskId, stored_id
from .counters import QueueCounters
from .driver import is_raw, of_the_user
from .exchange import ExchangeSql

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..durable.engine import NewRow
    from .driver import Connection, Driver

_MOST_WRAPPERS = 4
"""A SQLAlchemy Session has a Connection, which has one of its pool, which has the driver's."""


def push_over(
    connection: object, driver: Driver, path: str | os.PathLike[str], row: NewRow, now: Callable[[], float]
) -> tuple[TaskId, bool]:
    """Insert a row over a connection of the user's.

    Args:
      connection: the driver's, or what wraps it: a SQLAlchemy Connection or Session, Django's ``connection``.
      driver: of the storage.
      path: of the storage's file.
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
        [answer] = ExchangeSql(users, counters, 0).insert([row], now())
        counters.enter_counts()
        if isinstance(answer, DuplicateTaskError):
            raise answer
    return stored_id(answer), is_committed_at_once


def unwrapped(connection: object) -> object:
    """The driver's connection, out of what wraps it; it is recognized by its shape, so nothing is imported.

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
                f"push_in takes a connection that blocks, not {type(connection).__name__}, whose methods are async: "
                "call it by run_sync, with the session or connection that this gives"
            )
    return found


def _check_file(users: Connection, path: str | os.PathLike[str]) -> None:
    files = [str(file) for _, name, file in users.execute("PRAGMA database_list") if name == "main"]
    if not files or not files[0] or not os.path.samefile(files[0], path):  # noqa: PTH121  as SQLite says
        raise ValueError(f"the connection must be to {str(path)!r}, not to {files}")


@contextmanager
def _transaction(users: Connection) -> Generator[bool, None, None]:
    """Begin a transaction for the block; it yields True if it is committed at the end. A failure leaves nothing behind.

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
