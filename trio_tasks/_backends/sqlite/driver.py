"""Connections to SQLite, by the driver of the standard library or by apsw.

apsw carries its own, newer SQLite. Only what both can do alike is used: statements, rows as tuples, counted changes.
What they raise becomes a :class:`BackendError` with a sentence of ours, behind which the driver's own error stands.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
import time
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

from ..._printing import quoted
from ..._tasks.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

Row = tuple[Any, ...]
Driver = Literal["sqlite3", "apsw"]

_USUAL_LIMIT = 1_000_000_000
_OLDEST = (3, 35, 0)  # RETURNING
_SOUND_BACKPORTS = [(3, 44, 6), (3, 50, 7)]
_SOUND = (3, 51, 3)  # before it, a WAL that several connections share may be reset at the wrong moment, rarely

_BUSY, _LOCKED, _READONLY, _INTERRUPT, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 9, 10, 11, 13, 14, 26
_ERROR, _NOMEM, _TOOBIG, _CONSTRAINT, _MISMATCH, _RANGE = 1, 7, 18, 19, 20, 25
_REFUSALS = {_ERROR, _TOOBIG, _CONSTRAINT, _MISMATCH, _RANGE}
"""Codes of a database that is intact, but refuses what was asked of it."""
_LONGEST = 10.0
"""Seconds after which a statement is interrupted: it holds the lock, and the thread."""
_FOR_EACH = 0.001
"""Seconds more for each time that it is repeated with other parameters."""
_STEPS = 200_000
"""Steps of SQLite's machine between two looks at the clock, some milliseconds."""
_DENY = 1
_ON_TRANSACTIONS = {19, 22, 24, 25, 32}  # PRAGMA, BEGIN and the like, ATTACH, DETACH, SAVEPOINT, for an authorizer

_MEANINGS = {
    _BUSY: "is locked by another connection, and stayed so",
    _LOCKED: "is locked by another connection, and stayed so",
    _READONLY: "cannot be written to: the file, or its directory, is read-only",
    _INTERRUPT: "was in use by one statement for so long that it was broken off; is there a trigger without an end?",
    _IOERR: "could not be read or written: the disk, or its quota, refused",
    _CORRUPT: "is damaged: what is in it contradicts itself",
    _FULL: "has no room: the disk is full",
    _CANTOPEN: "cannot be opened: is its directory there, and may one write to it?",
    _NOTADB: "is not an SQLite database",
    _TOOBIG: "takes no value or row that is so long",
    _CONSTRAINT: "refuses this: a constraint, or a trigger, does not allow it",
}
_MESSAGES = {  # how the standard library names them before Python 3.11
    "locked": _BUSY,
    "readonly": _READONLY,
    "interrupted": _INTERRUPT,
    "disk I/O": _IOERR,
    "image is malformed": _CORRUPT,
    "full": _FULL,
    "unable to open": _CANTOPEN,
    "not a database": _NOTADB,
    "too big": _TOOBIG,
    "out of memory": _NOMEM,
}
_KINDS = (  # the code for each class; the last class is the most general
    (sqlite3.IntegrityError, _CONSTRAINT),
    (sqlite3.DataError, _TOOBIG),
    (sqlite3.InterfaceError, _MISMATCH),
    (sqlite3.ProgrammingError, _MISMATCH),
    (sqlite3.OperationalError, _ERROR),
)


@final
class DamagedError(BackendError):
    """An error: the file is damaged, or is not a task storage."""

    is_final = True


@final
class RowRefusedError(BackendError):
    """An error: the database refuses a row, or a change of one, but is itself intact."""

    is_refusal = True


@final
class Bound:
    """A time limit for SQL statements."""

    __slots__ = ("_ends_at", "_longest", "times")

    def __init__(self) -> None:
        self._longest = _LONGEST
        self._ends_at = 0.0
        self.times = 1
        """The number of times that the next statement is run, set before each one; 0 once its time has begun."""

    def is_over(self) -> bool:
        """Return True if the time is over; SQLite calls this while a statement runs.

        The time begins with the first call, some milliseconds after the statement. Nearly all statements have ended by
        then, and cost no reading of the clock.
        """
        now = time.monotonic()
        if self.times:
            self._ends_at = now + self._longest + self.times * _FOR_EACH
            self.times = 0
        return now > self._ends_at

    @contextmanager
    def of(self, seconds: float) -> Generator[None, None, None]:
        """Set the limit to this many seconds inside the block."""
        before, self._longest = self._longest, seconds
        try:
            yield
        finally:
            self._longest = before


class Connection(Protocol):
    """The interface of a connection to SQLite."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement to its end, and return its rows."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> int:
        """Run one statement with each of these parameters, and return the number of rows changed."""
        ...

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement, and return the number of rows changed."""
        ...

    def patient(self, seconds: float) -> AbstractContextManager[None]:
        """Allow each statement this many seconds inside the block."""
        ...

    @property
    def in_transaction(self) -> bool:
        """True if a transaction is open."""
        ...

    @property
    def implicit_begin(self) -> str | None:
        """The statement by which the connection itself begins a transaction before a write; None if it does not."""
        ...

    def without_transactions(self) -> AbstractContextManager[None]:
        """Refuse statements that begin or end a transaction inside the block."""
        ...

    def longest_value(self) -> int:
        """The largest size of a value or a row, in bytes."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@final
class StandardConnection:
    """A connection by ``sqlite3``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor: sqlite3.Cursor | None = None  # each statement is run to its end, so one will do
        self._bound = Bound()

    @classmethod
    def open(cls, uri: str) -> StandardConnection:
        """Open a connection that begins and commits transactions only when told to."""
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        ours = cls(connection)
        connection.set_progress_handler(ours._bound.is_over, _STEPS)
        return ours

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement to its end, and return its rows."""
        self._bound.times = 1
        if self._cursor is None:
            self._cursor = self._connection.cursor()
            self._cursor.row_factory = None  # a user's connection may turn rows into something else
        return self._cursor.execute(sql, parameters).fetchall()

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> int:
        """Run one statement with each of these parameters, and return the number of rows changed."""
        self._bound.times = len(parameters) or 1 if isinstance(parameters, list) else 1
        return self._connection.executemany(sql, parameters).rowcount

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement, and return the number of rows changed."""
        self._bound.times = 1
        if self._cursor is None:
            self._cursor = self._connection.cursor()
            self._cursor.row_factory = None
        return self._cursor.execute(sql, parameters).rowcount

    def patient(self, seconds: float) -> AbstractContextManager[None]:
        """Allow each statement this many seconds inside the block."""
        return self._bound.of(seconds)

    @property
    def in_transaction(self) -> bool:
        """True if a transaction is open."""
        return self._connection.in_transaction

    @property
    def implicit_begin(self) -> str | None:
        """The statement by which the connection itself begins a transaction before a write; None if it does not."""
        level = self._connection.isolation_level
        # Since Python 3.12, ``autocommit`` decides, unless it is -1.
        is_modern = getattr(self._connection, "autocommit", -1) != -1
        return None if level is None or is_modern else f"BEGIN {level}"

    @contextmanager
    def without_transactions(self) -> Generator[None, None, None]:
        """Refuse statements that begin or end a transaction inside the block."""
        self._connection.set_authorizer(_refuse_transactions)
        try:
            yield
        finally:
            # Before Python 3.11 there is no way to have none.
            none: Any = None if sys.version_info >= (3, 11) else _refuse_nothing
            self._connection.set_authorizer(none)

    def longest_value(self) -> int:
        """The largest size of a value or a row, in bytes."""
        if sys.version_info >= (3, 11):
            return self._connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        return _USUAL_LIMIT

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@final
class ApswConnection:
    """A connection by ``apsw``."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._bound = Bound()

    @classmethod
    def open(cls, uri: str) -> ApswConnection:
        """Open a connection that begins and commits transactions only when told to."""
        import apsw

        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(uri, flags, statementcachesize=256)
        # The one plan for a statement stands: otherwise it is made anew for each new value of its parameters.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        ours = cls(connection)
        connection.set_progress_handler(ours._bound.is_over, _STEPS)
        return ours

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement to its end, and return its rows."""
        self._bound.times = 1
        cursor = self._connection.cursor()
        cursor.row_trace = None  # a user's connection may turn rows into something else
        rows: list[Row] = cursor.execute(sql, parameters).fetchall()
        return rows

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> int:
        """Run one statement with each of these parameters, and return the number of rows changed."""
        self._bound.times = len(parameters) or 1 if isinstance(parameters, list) else 1
        before: int = self._connection.total_changes()
        self._connection.executemany(sql, parameters)
        changes: int = self._connection.total_changes()
        return changes - before

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement, and return the number of rows changed."""
        return self.executemany(sql, [parameters])

    def patient(self, seconds: float) -> AbstractContextManager[None]:
        """Allow each statement this many seconds inside the block."""
        return self._bound.of(seconds)

    @property
    def in_transaction(self) -> bool:
        """True if a transaction is open."""
        return bool(self._connection.in_transaction)

    @property
    def implicit_begin(self) -> str | None:
        """None: apsw begins no transaction by itself."""
        return None

    @contextmanager
    def without_transactions(self) -> Generator[None, None, None]:
        """Refuse statements that begin or end a transaction inside the block."""
        self._connection.authorizer = _refuse_transactions
        try:
            yield
        finally:
            self._connection.authorizer = None

    def longest_value(self) -> int:
        """The largest size of a value or a row, in bytes."""
        import apsw

        return int(self._connection.limit(apsw.SQLITE_LIMIT_LENGTH))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _refuse_transactions(action: int, *_: object) -> int:
    return _DENY if action in _ON_TRANSACTIONS else 0


def _refuse_nothing(*_: object) -> int:  # pyright: ignore[reportUnusedFunction]  before Python 3.11 it is used
    return 0


def is_installed(driver: Driver) -> bool:
    """Return True if this driver is installed, and its SQLite is new enough."""
    return importlib.util.find_spec(driver) is not None and version(driver) >= _OLDEST


def version(driver: Driver) -> tuple[int, ...]:
    """Return the version of the SQLite that a driver uses."""
    if driver == "sqlite3":
        return sqlite3.sqlite_version_info
    import apsw

    return tuple(map(int, apsw.sqlite_lib_version().split(".")))


def choose(driver: Driver | None) -> Driver:
    """Return the driver to use: the given one, or else the standard library's, if its SQLite is new enough.

    apsw has an SQLite of its own. Two of them in one process do not know of each other's locks, and damage a file that
    both have open; so it is used only where the program asks for it.
    """
    if driver is None:
        return "sqlite3" if is_installed("sqlite3") or not is_installed("apsw") else "apsw"
    if driver not in ("sqlite3", "apsw"):
        raise ValueError(f"driver must be 'sqlite3' or 'apsw', not {quoted(driver)}")
    if importlib.util.find_spec(driver) is None:
        raise ModuleNotFoundError(f"driver {driver!r} is not installed: `pip install {driver}`", name=driver)
    return driver


def has_reset_race(driver: Driver) -> bool:
    """Return True if this SQLite may, rarely, damage a file that several connections write to."""
    found = version(driver)
    return found < _SOUND and not any(since <= found < (*since[:2], 1000) for since in _SOUND_BACKPORTS)


def connect(driver: Driver, path: str, query: str = "mode=rw") -> Connection:
    """Open a connection to a file that exists.

    Args:
      driver: the name of the driver.
      path: the absolute path of the file.
      query: the query part of SQLite's URI.
    """
    if version(driver) < _OLDEST:
        found = ".".join(map(str, version(driver)))
        raise BackendError(f"SQLite {found} is too old: 3.35 is needed (`pip install apsw` brings a new one)")
    uri = f"{Path(path).as_uri()}?{query}"
    return ApswConnection.open(uri) if driver == "apsw" else StandardConnection.open(uri)


def is_raw(connection: object) -> bool:
    """Return True for a connection of one of the drivers itself."""
    return isinstance(connection, sqlite3.Connection) or type(connection).__module__.split(".")[0] == "apsw"


def of_the_user(connection: object, driver: Driver) -> Connection:
    """Wrap a connection that the user has opened with the storage's driver.

    Raises:
      TypeError: it is by another one, whose locks ours does not know of, or it is none.
    """
    if isinstance(connection, sqlite3.Connection) and driver == "sqlite3":
        return StandardConnection(connection)
    if type(connection).__module__.split(".")[0] == "apsw" and driver == "apsw":
        return ApswConnection(connection)
    raise TypeError(f"a connection must be by {driver!r}, as the storage's own one is, not {quoted(connection)}")


def is_of_the_driver(error: Exception) -> bool:
    """Return True if a driver of SQLite raised the error."""
    return isinstance(error, (sqlite3.Error, UnicodeDecodeError)) or type(error).__module__.split(".")[0] == "apsw"


def code_of(error: Exception) -> int:
    """Return SQLite's primary result code; 0 if it is not known."""
    code = getattr(error, "sqlite_errorcode", None)  # the standard library's, since 3.11
    if code is None:
        code = getattr(error, "extendedresult", None) or getattr(error, "result", None)  # apsw's
    if code is None:
        code = next((code for words, code in _MESSAGES.items() if words in str(error)), None)
    if code is None:
        code = next((code for kind, code in _KINDS if isinstance(error, kind)), 0)
    return int(code) & 0xFF


def is_busy(error: Exception) -> bool:
    """Return True if the error says that another connection has the lock."""
    return code_of(error) in (_BUSY, _LOCKED)


def is_refusal(error: Exception) -> bool:
    """Return True if the database is intact, but refuses the statement."""
    if isinstance(error, (RowRefusedError, OverflowError)):
        return True
    return is_of_the_driver(error) and not isinstance(error, UnicodeDecodeError) and code_of(error) in _REFUSALS


def translate_error(error: Exception, path: str) -> BackendError:
    """Translate an error of a driver into a BackendError that names the file."""
    code = _CORRUPT if isinstance(error, UnicodeDecodeError) else code_of(error)
    kind: type[BackendError] = RowRefusedError if code in _REFUSALS else BackendError
    if code in (_CORRUPT, _NOTADB):
        kind = DamagedError
    return kind(f"the SQLite file {path!r} {_MEANINGS.get(code, 'could not do what was asked')} ({error})")


@final
class Writer:
    """A connection for the user's writes, which refuses statements about transactions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement, and return its rows."""
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> int:
        """Run one statement with each of these parameters, and return the number of rows changed."""
        return self._connection.executemany(sql, parameters)
