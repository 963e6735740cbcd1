"""A session with an SQLite file: each call is one transaction, in the thread that owns the connection.

While it is open, no other driver of this process may have the file open; and whenever something was committed, the file
has to be where it was.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, final

from ..._clock import machine_now
from ..._tasks.errors import BackendError
from ..durable.engine import COMES_BACK, ClaimKey, Exchange, ExchangeResult, Offset, Renewal, StoreClock
from ..durable.store_file import refused
from .clock import SESSION, SqliteClock, keep
from .counters import FastPathFailed, QueueCounters
from .driver import (
    Connection,
    DamagedError,
    RowRefusedError,
    connect,
    has_reset_race,
    is_busy,
    is_of_the_driver,
    translate_error,
)
from .exchange import ExchangeSql
from .opening import Place, Use, View, find_file
from .operations import Operations
from .schema import check_current, check_foreign, check_whole, log_size, next_session, prepare, store_info
from .task_table import ABORT, WITHDRAW
from .wakeup import KEY_SIZE, News, is_answered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..._contracts.store_info import StoreInfo
    from ..durable.engine import KilledRow, StoredWorker, WorkerRow
    from .driver import Driver, Row
    from .opening import Opening
    from .wakeup import WakeupSocket

T = TypeVar("T")
P = ParamSpec("P")

_LOCK_PATIENCE = 10.0
"""Seconds for which to wait for a lock that others hold, over all transactions that wait for it."""
_LAST_TRY = 0.1
"""Seconds for which each transaction waits at least."""
_ONE_OUTAGE = 2.0
"""Seconds after the latest try when a lock that is held counts as a new outage."""
_LONGEST_MIGRATION = 3600.0
"""Seconds that a statement of a migration may take."""
_MOST_WOKEN = 500
"""Sessions that are woken at most: a file that names more was not made by us."""
_MOST_ASKED = 10
"""Sessions that are asked whether they are alive."""
_LOG_LIMIT = 16 * 2**20
"""Bytes of the write-ahead log that are left on the disk when all of it is in the file."""
_WAKEUPS_APART = 0.02
"""Seconds between two wake-ups that only say that something is finished."""

_ADDED = 2 * 2**20
"""Bytes that are left for the errors and the history of a row."""
_SESSIONS_TO_WAKE = """
SELECT address, key FROM trio_tasks_session WHERE num != ? AND expires > ? AND address IS NOT NULL
AND typeof(key) = 'blob' AND length(key) = ? ORDER BY num DESC LIMIT ?
"""
_SESSIONS_TO_ASK = """
SELECT address, key FROM trio_tasks_session WHERE num != ? AND expires > ? AND address IS NOT NULL
AND typeof(key) = 'blob' AND length(key) = ? AND num IN (SELECT session FROM trio_tasks_worker WHERE queue = ?) LIMIT ?
"""
_DEAD_WORKERS = 3600.0
"""Seconds for which a worker stays listed that has told nothing, and whose session is gone."""
_OTHER_SESSIONS = """
SELECT address, key FROM trio_tasks_session WHERE num != ? AND expires > ? AND typeof(key) = 'blob' AND length(key) = ?
ORDER BY num DESC LIMIT ?
"""
_SYNCHRONOUS = {"OFF": 0, "NORMAL": 1, "FULL": 2, "EXTRA": 3}


@final
class Session:
    """A connection to an SQLite file, registered in the file under a number.

    Args:
      path: the path of the file.
      driver: the name of the driver.
      opening: the options with which the file is opened.
      wakeup_socket: the socket by which sessions wake one another.
      clock: the clock of this process; by default the machine's.
    """

    def __init__(
        self, path: str, driver: Driver, opening: Opening, wakeup_socket: WakeupSocket, clock: StoreClock | None = None
    ) -> None:
        self._path = path
        self._driver: Driver = driver
        self._opening = opening
        self._wakeup_socket = wakeup_socket
        self._file: Path
        self._view: View
        self._use: Use
        self._place: Place | None = None  # the place, where the file can be removed while it is open
        self._clock = clock or StoreClock(lambda: machine_now()[1], Offset())
        self._file_clock = SqliteClock(self._clock, path)
        self._workers: dict[str, list[WorkerRow]] = {}  # the rows of its workers, by queue
        self._connection: Connection
        self._counters: QueueCounters
        self._sql: ExchangeSql
        self._operations: Operations
        self._session = 0
        self._renew_at = 0.0
        self._wakeup_is_due = False
        self._next_wakeup = 0.0
        self._locked_since: float | None = None
        self._locked_until = 0.0
        self.longest = 0  # the most bytes of a value; a row needs room for later additions

    # Transactions

    def open(self) -> tuple[float, bool]:
        """Open the file.

        Returns:
          the time by its clock; and True if a fault of this SQLite may damage the file, since other processes that
          live have it open as well.
        """
        file = self._file = find_file(self._path, self._opening)
        self._use = Use(file, self._driver)
        if self._opening.read_only:
            self._view = View(file)
            return self._connect(self._view.query(), self._look_in), False
        return self._connect("mode=rw", self._set_up)

    def _connect(self, query: str, set_up: Callable[[], T]) -> T:
        try:
            self._connection = connect(self._driver, str(self._file), query)
        except Exception as error:
            self._use.close()
            raise self._translate_error(error) from error
        with ExitStack() as undoing:
            undoing.callback(self._use.close)
            undoing.callback(self._connection.close)
            try:
                found = set_up()
            except Exception as error:
                raise self._translate_error(error) from error
            undoing.pop_all()
        return found

    def _harden(self) -> None:
        """Protect the connection from a file made by an attacker: check its integrity and its triggers."""
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute(f"PRAGMA busy_timeout = {int(_LOCK_PATIENCE * 1000)}")
        limit = self._connection.longest_value()
        self.longest = max(limit - _ADDED, limit // 2)
        if not self._opening.allow_triggers:
            check_foreign(self._connection, self._path)
        check_whole(self._connection, self._path)

    def _look_in(self) -> float:
        """Prepare to read, without creating or changing anything."""
        connection = self._connection
        self._harden()
        check_current(connection, self._path)
        self._counters = QueueCounters(connection)
        self._use_tables(0)
        self._file_clock.open(connection, read_only=True)
        return self._clock.now()

    def _set_up(self) -> tuple[float, bool]:
        connection = self._connection
        self._harden()
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trio_tasks_meta'"):
            with connection.patient(_LONGEST_MIGRATION):
                self._in_transaction(lambda: prepare(connection, self._path, join_existing=self._opening.join_existing))
        if connection.execute("PRAGMA journal_mode = WAL") != [("wal",)]:
            raise BackendError(
                f"the SQLite file {self._path!r} cannot have a write-ahead log: is it on a network disk?"
            )
        connection.execute(f"PRAGMA synchronous = {self._opening.synchronous}")
        if connection.execute("PRAGMA synchronous") != [(_SYNCHRONOUS[self._opening.synchronous],)]:
            raise BackendError(f"SQLite refused synchronous={self._opening.synchronous}")
        if self._opening.synchronous == "FULL":  # on macOS a full sync takes this; elsewhere it does nothing
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("PRAGMA busy_timeout = 0")
        self._counters = QueueCounters(connection)
        now, others = self._in_transaction(self._register)
        # For pages that a statement keeps, so that it can be undone; a file is slow. (A migration may sort more.)
        connection.execute("PRAGMA temp_store = MEMORY")
        if sys.platform != "win32":
            self._place = Place(self._file)
        return now, has_reset_race(self._driver) and any(is_answered(*each) is not False for each in others)

    def _use_tables(self, session: int) -> None:
        """Prepare the objects that use the tables, for the session of this number."""
        self._sql = ExchangeSql(self._connection, self._counters, session, self._file_clock.out_of_step)
        self._operations = Operations(self._connection, self._sql, self._counters)

    def _register(self) -> tuple[float, list[Row]]:
        connection = self._connection
        with connection.patient(_LONGEST_MIGRATION):
            prepare(connection, self._path, join_existing=self._opening.join_existing)
        if not self._opening.allow_triggers:
            check_foreign(connection, self._path)  # the lock is held, so none can be added any more
        was_asleep = self._file_clock.open(connection)
        now = self._clock.now()
        self._session = next_session(connection, self._path)
        self._clock.sessions.add(self._session)
        self._use_tables(self._session)
        if was_asleep:
            self._sql.hold_back_orphans(now)
        self._renew_session(now)
        return now, connection.execute(_OTHER_SESSIONS, (self._session, now, KEY_SIZE, _MOST_ASKED))

    def _in_transaction(self, fn: Callable[[], T], begin: str = "BEGIN IMMEDIATE") -> T:
        self._begin(begin)
        committed = False
        try:
            result = fn()
            self._connection.execute("COMMIT")
            committed = True
        finally:
            if not committed:
                self._roll_back()
        return result

    def _begin(self, begin: str) -> None:
        """Begin a transaction, waiting for the lock if it needs one.

        SQLite's own way of waiting sleeps for up to a tenth of a second; this one for some milliseconds. If a
        transaction has waited in vain, those that wait behind it for the same outage do not wait as long again.
        """
        began_at = time.monotonic()
        if began_at - self._locked_until > _ONE_OUTAGE:
            self._locked_since = None
        pause = 0.0002
        while True:
            try:
                self._connection.execute(begin)
                self._locked_since = None
                return
            except Exception as error:
                if not is_busy(error):
                    raise
                now = self._locked_until = time.monotonic()
                self._locked_since = began_at if self._locked_since is None else self._locked_since
                if now > max(self._locked_since + _LOCK_PATIENCE, began_at + _LAST_TRY):
                    raise
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, 0.005)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if hasattr(self, "_counters"):
            self._counters.roll_back()
        if hasattr(self, "_sql"):
            self._sql.table.roll_back()

    def _translate_error(self, error: Exception) -> Exception:
        """Translate an error of the driver, or of a damaged value, into a BackendError that names the file.

        A damaged value is one that we would not have written, so Python cannot compare, count or convert it. Any other
        error is returned as it is.
        """
        if is_of_the_driver(error):
            return translate_error(error, self._path)
        if isinstance(error, OverflowError):
            return RowRefusedError(f"the SQLite file {self._path!r} takes no number that is so large ({error})")
        if isinstance(error, (TypeError, ValueError)):
            damaged = DamagedError(
                f"the SQLite file {self._path!r} is damaged: what is in it cannot be used ({error!r})"
            )
            damaged.is_refusal = True  # or else it is what was asked that cannot be used
            return damaged
        return error

    def _do(self, fn: Callable[[], T]) -> T:
        if self._opening.read_only:
            raise refused(
                f"the SQLite file {self._path!r} was opened with read_only=True, and is not changed through it"
            )
        try:
            result = self._in_transaction(fn)
        except Exception as error:
            ours = self._translate_error(error)
            if ours is error:
                raise
            raise ours from error
        self._check_place()
        return result

    def _check_place(self) -> None:
        """Raise if the file or its log was replaced or removed, so that a commit to it is not acknowledged."""
        if self._place is not None and self._place.has_changed:
            raise refused(
                f"the SQLite file {self._path!r}, or its write-ahead log, was deleted, moved or replaced while it was "
                "open: open it again"
            )

    # The daily work

    def exchange(self, exchange: Exchange, now: float) -> ExchangeResult:
        """Make one exchange, and wake the other sessions if it may concern them."""
        if (found := self._look(exchange, now)) is not None:
            return found
        made = self._try_exchange(exchange, now, row_by_row=False)
        while made is None:  # each round finds one more write that ends the transaction
            made = self._try_exchange(exchange, now, row_by_row=True)
        result, news, others = made
        if news is not None:
            self._send_wakeups(others, now, news)
        elif exchange.settled:
            self._wakeup_is_due = True
        return result

    def _look(self, exchange: Exchange, now: float) -> ExchangeResult | None:
        """Answer an exchange that has only claims, if there is nothing to claim, without the lock of a writer: all
        sessions look after a push, and one of them finds the task. Return None if the exchange has to be made.
        """
        if not exchange.has_only_claims or self._opening.read_only or self._clock.is_virtual:
            return None  # in virtual time no other process has the file, and time goes on while a thread looks
        jump = self._clock.tick()  # by hours if the machine has been asleep: then rows are due, and leases have run out
        now = max(now, self._clock.now())
        if jump:
            self._sql.hold_back_orphans(now)
        if now >= self._renew_at:
            return None
        try:
            return self._in_transaction(lambda: self._sql.look(exchange.claims, now), "BEGIN")
        except Exception:  # the exchange raises it again, or finds a way
            return None

    def _try_exchange(
        self, exchange: Exchange, now: float, *, row_by_row: bool
    ) -> tuple[ExchangeResult, News | None, list[Row]] | None:
        try:
            return self._do(lambda: self._exchange(exchange, now, row_by_row=row_by_row))
        except FastPathFailed:
            return None

    def _exchange(
        self, exchange: Exchange, now: float, *, row_by_row: bool
    ) -> tuple[ExchangeResult, News | None, list[Row]]:
        now = self._now(now)
        result = self._sql.exchange(exchange, now, row_by_row=row_by_row)
        news: News | None = None
        if self._sql.table.groups.has_promoted or _leaves_tasks(exchange, result):
            news = News.CHANGED
        elif exchange.settled and now >= self._next_wakeup:
            news = News.FINISHED
        # A session that is registered after this transaction sees what is in it. To ask afterwards would take the
        # locks of one more transaction.
        return result, news, self._sessions_to_wake(now) if news is not None else []

    def wake_others(self, now: float, news: News = News.CHANGED) -> None:
        """Send a wake-up to all other sessions."""
        self._send_wakeups([] if self._opening.read_only else self._sessions_to_wake(now), now, news)

    def _sessions_to_wake(self, now: float) -> list[Row]:
        try:
            return self._connection.execute(_SESSIONS_TO_WAKE, (self._session, now, KEY_SIZE, _MOST_WOKEN))
        except Exception as error:
            if not is_of_the_driver(error):
                raise
            return []  # the others find out by polling

    def _send_wakeups(self, sessions: list[Row], now: float, news: News) -> None:
        self._wakeup_is_due = self._sql.table.groups.has_promoted = False
        self._next_wakeup = now + _WAKEUPS_APART
        if sessions:
            self._wakeup_socket.send([(address, key) for address, key in sessions], news)

    def on_idle(self) -> None:
        """Send deferred wake-ups, and shorten the log; called when nothing was requested for a moment."""
        if self._wakeup_is_due:
            self.wake_others(self._next_wakeup, News.FINISHED)
        if self._place is not None:  # it is open, and not only to look
            self._shorten_log()

    def _shorten_log(self) -> None:
        """Truncate a large write-ahead log, once no reader needs it any more."""
        if log_size(self._file) <= _LOG_LIMIT:
            return
        try:
            # Other processes may write meanwhile.
            [(_, written, copied)] = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if written == copied:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except Exception as error:
            if not is_of_the_driver(error):
                raise  # an error of the driver is ignored: the next call tries again

    def _now(self, now: float, beats: float | None = None) -> float:
        """Return the time inside a transaction, no earlier than ``now``. If it is time for that, or if this is a
        heartbeat, which comes again in ``beats`` seconds, renew the session.
        """
        jump = self._clock.tick()
        now = max(now, self._clock.now())
        if beats is not None or now >= self._renew_at:
            jump += self._file_clock.follow(self._connection, self._session)
            now = max(now, self._clock.now())
            if jump:
                self._sql.hold_back_orphans(now)
            self._renew_session(now, beats)
        elif jump:
            self._sql.hold_back_orphans(now)
        return now

    def _renew_session(self, now: float, beats: float | None = None) -> None:
        """Store that this session is alive, and remove sessions that have not done so for long."""
        interval = self._file_clock.note_interval
        self._renew_at = now + interval
        # Not right after a sleep, when other sessions may be waking up.
        if now > self._sql.orphans_held_since + SESSION:
            self._connection.execute(
                "DELETE FROM trio_tasks_session WHERE expires < ? AND num != ?", (now, self._session)
            )
            self._connection.execute(
                "DELETE FROM trio_tasks_worker WHERE session NOT IN (SELECT num FROM trio_tasks_session) "
                "AND (told IS NULL OR told < ?)",
                (now - _DEAD_WORKERS,),
            )
        socket = self._wakeup_socket
        is_new = self._connection.changed(
            "INSERT INTO trio_tasks_session (num, address, key, network, expires) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (self._session, socket.address, socket.key, socket.network, now + self._file_clock.session),
        )
        if is_new:  # the session is new, or another session has removed it
            for queue, workers in self._workers.items():
                self._operations.register(self._session, queue, workers, now)
        self._file_clock.note(self._connection, self._session, now, interval if beats is None else beats)

    def close(self, now: float) -> None:
        """Remove the session from the file, and close the connection."""
        with closing(self._use):
            try:
                if not self._opening.read_only:
                    with suppress(BackendError):  # other sessions notice the missing heartbeats
                        self._do(lambda: self._unregister(now))
            finally:
                self._close_connection()

    def _close_connection(self) -> None:
        try:
            self._connection.close()
        except Exception as error:
            raise self._translate_error(error) from error

    def _unregister(self, now: float) -> None:
        self._clock.sessions.discard(self._session)
        self._connection.execute("DELETE FROM trio_tasks_session WHERE num = ?", (self._session,))
        self._connection.execute("DELETE FROM trio_tasks_worker WHERE session = ?", (self._session,))
        keep(self._connection, latest=max(now, self._clock.now()))

    def renew(self, held: Sequence[ClaimKey], now: float, lease: float, workers: Sequence[WorkerRow] = ()) -> Renewal:
        """See :meth:`Engine.renew`."""
        for row in workers:
            others = [each for each in self._workers.get(row.queue, ()) if each.number != row.number]
            self._workers[row.queue] = [*others, row]
        if not held and not workers and max(now, self._clock.now()) < self._renew_at:  # it is only asked what is to end
            return self.read(lambda _: self._to_end([]))
        return self._do(lambda: self._renew(held, now, lease, workers))

    def _renew(self, held: Sequence[ClaimKey], now: float, lease: float, workers: Sequence[WorkerRow]) -> Renewal:
        now = self._now(now, lease / 2 if held else None)
        if workers:
            self._operations.note_workers(self._session, workers, now)
        kept = self._sql.table.renew([(each.key, each.token, now + lease) for each in held]) if held else []
        return self._to_end([each for each, is_kept in zip(held, kept, strict=True) if not is_kept])

    def _to_end(self, lost: list[ClaimKey]) -> Renewal:
        """Return these lost claims, and those of this session that are to be ended."""
        first = self._session << 32
        to_end = self._connection.execute(
            "SELECT seq, token, requested_end FROM trio_tasks_task "
            "WHERE token BETWEEN ? AND ? AND requested_end IN ('abort', 'withdraw') AND state = 2",
            (first, first + 2**32),
        )
        aborted, withdrawn = (
            [ClaimKey(row[0], row[1]) for row in to_end if row[2] == end] for end in (ABORT, WITHDRAW)
        )
        return Renewal(lost, aborted, withdrawn)

    def register(self, queue: str, workers: Sequence[WorkerRow], now: float) -> None:
        """See :meth:`Engine.register`."""
        self._workers[queue] = [*workers]
        self.write(Operations.register, self._session, queue, workers, now)

    def take_killed(self) -> list[KilledRow]:
        """See :meth:`Engine.take_killed`. It is called while no transaction is under way."""
        return self._sql.table.take_killed()

    def ask_workers(self, queue: str, now: float) -> None:
        """Ask the other sessions that have workers on the queue for the states of these."""
        found = self._connection.execute(_SESSIONS_TO_ASK, (self._session, now, KEY_SIZE, queue, _MOST_WOKEN))
        self._wakeup_socket.send([(address, key) for address, key in found], News.ASKED)

    def workers(self, queue: str, now: float) -> list[StoredWorker]:
        """Return the workers on the queue. Those whose process has died here are dead, though their session has not
        expired.
        """
        found = self.read(Operations.workers, queue, self._session, now)
        others = {address for each, address in found if each.is_alive and not each.is_own and address is not None}
        gone = self._wakeup_socket.unanswered(others)
        return [each._replace(is_alive=False) if address in gone else each for each, address in found]

    def write(self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of :class:`Operations` in a transaction of its own."""

        def write() -> T:
            result = operation(self._operations, *args, **kwargs)
            self._sql.finish(self._clock.now())
            return result

        while True:  # each round finds one more row that cannot be changed
            with suppress(FastPathFailed):
                result = self._do(write)
                if self._sql.table.groups.has_promoted:
                    self.wake_others(self._clock.now())
                return result

    def read(self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of :class:`Operations` that only reads; it does not wait for locks of others."""

        def read() -> T:
            return operation(self._operations, *args, **kwargs)

        if self._opening.read_only and self._view.is_outdated:
            self._connection.close()
            self._connect(self._view.query(), self._look_in)
        try:
            return self._in_transaction(read, "BEGIN")
        except Exception as error:
            ours = self._translate_error(error)
            if ours is error:
                raise
            if self._opening.read_only:
                raise ours from error
        return self._do(read)  # after a crash reading needs the lock as well: wait for it, or raise our own error

    def inspect(self) -> StoreInfo:
        """Check all pages and indexes of the file, and return its state."""
        return self.read(lambda _: store_info(self._connection, self._file, self._driver))


def _leaves_tasks(exchange: Exchange, result: ExchangeResult) -> bool:
    """Return True if tasks that were pushed or come back may be left for other sessions. Those that are ready are not,
    where this session has claimed them, or all that were there.
    """
    if any(each.kind in COMES_BACK for each in exchange.settled):
        return True
    if not exchange.pushed:
        return False
    emptied: set[str] = set()
    claimed: set[tuple[str, str]] = set()
    for claim, rows in zip(exchange.claims, result.claimed, strict=True):
        claimed.update((claim.queue, row.id) for row in rows)
        if len(rows) < claim.limit and not claim.left_out:
            emptied.add(claim.queue)
    return any(
        row.delay > 0 or (row.queue not in emptied and (row.queue, row.id) not in claimed) for row in exchange.pushed
    )
