"""The engine of :class:`SqliteStorage`, which makes each call in the thread that owns the connection."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, final

import trio

from ..._clock import machine_now
from ..._concurrency.virtual_time import is_virtual
from ..._contracts.bulk import Refusal
from ..._logging import log
from ..._tasks.errors import BackendError
from ..durable.engine import (
    Changed,
    ClaimKey,
    Engine,
    Exchange,
    ExchangeResult,
    LocatedRow,
    Offset,
    Part,
    Query,
    Renewal,
    RowsRead,
    ScheduleOutcome,
    ScheduleRow,
    ScheduleUpdate,
    StoreClock,
    StoredRow,
    StoredWorker,
    WorkerRow,
)
from ..durable.io_thread import WriterThread
from .driver import choose, version
from .operations import Operations
from .search import check_position
from .session import Session
from .wakeup import WakeupSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._contracts.listing import Found
    from ..._contracts.metrics import Balance, QueueMetrics
    from ..._contracts.minutes import Sums
    from ..._contracts.store_info import StoreInfo
    from ..._contracts.transfer import StoredTask
    from ..._tasks.limits import Limits
    from ..durable.engine import KilledRow, RowChange
    from .driver import Driver
    from .opening import Opening

T = TypeVar("T")
P = ParamSpec("P")

_WARNED: set[str] = set()
"""The drivers about whose SQLite this process has logged a warning."""
_RESET_RACE = (
    "%r is open in another process as well, and SQLite %s (driver %r) has a fault: very rarely, if two connections "
    "commit and take the log over into the file at the same instant, the file is damaged. SQLite 3.51.3 does not have "
    "it, nor has driver='apsw'; see https://sqlite.org/wal.html#walresetbug"
)
_IDLE_AFTER = 0.02
"""Seconds without anything to do, after which the thread sends wake-ups that were put off."""


def _file_of(path: Path) -> str:
    """Return the one path to use for a file that has several names. A path that cannot be one is refused later, by
    ``open``.
    """
    try:
        return os.path.realpath(path)
    except ValueError:
        return str(path)


@final
class SqliteEngine(Engine):
    """An engine whose rows are in an SQLite file.

    Args:
      path: the path of the file.
      driver: ``"sqlite3"``, ``"apsw"``, or None for the first of them.
      opening: the options with which the file is opened.
    """

    def __init__(self, path: Path, driver: Driver | None, opening: Opening) -> None:
        self.path = path
        self.place = path.absolute()  # wherever the process goes
        self.driver: Driver = choose(driver)
        self.opening = opening
        self.wakeup_socket = WakeupSocket()
        self._session: Session
        self._clock: StoreClock
        self._thread: WriterThread | None = None
        self._pid = os.getpid()

    async def open(self) -> None:
        """Open the file; see :meth:`Engine.open`."""
        async with AsyncExitStack() as undoing:
            undoing.callback(self.wakeup_socket.close)
            self.wakeup_socket.open()  # one that only reads asks workers for their state, and is not woken itself
            self.needs_polling = self.opening.read_only or not is_virtual()  # no other process shares virtual time
            trio_time, offset = trio.lowlevel.current_clock().current_time, Offset.of(_file_of(self.place))
            self._clock = StoreClock(trio_time, offset, is_virtual=is_virtual())
            self._session = Session(str(self.place), self.driver, self.opening, self.wakeup_socket, self._clock)
            self._thread = WriterThread(f"sqlite {self.path.name}", self._session.on_idle, _IDLE_AFTER)
            undoing.callback(self._thread.end)
            _, is_in_danger = await self._thread.call(self._session.open)
            self.longest = self._session.longest
            undoing.pop_all()
        if is_in_danger and self.driver not in _WARNED:
            _WARNED.add(self.driver)
            found = ".".join(map(str, version(self.driver)))
            log.warning(_RESET_RACE, str(self.path), found, self.driver)

    async def aclose(self) -> None:
        """Remove the session from the file, and close the file."""
        thread, self._thread = self._thread, None
        async with AsyncExitStack() as closing:  # each step is made, whatever the others raise
            if thread is not None:
                closing.callback(thread.end)
                closing.push_async_callback(thread.call, self._session.close, self.now())
            closing.callback(self.wakeup_socket.close)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def now(self) -> float:
        """Return the time by the file's clock; may be called in any thread."""
        return self._clock.now()

    async def _call(self, fn: Callable[..., T], *args: Any) -> T:
        if self._thread is None:
            raise BackendError(f"the SQLite file {str(self.path)!r} is not open")
        if os.getpid() != self._pid:
            raise BackendError(f"{str(self.path)!r} was opened by process {self._pid}, and cannot be used after a fork")
        return await self._thread.call(fn, *args)

    async def exchange(self, exchange: Exchange) -> ExchangeResult:
        """Make one exchange."""
        return await self._call(self._session.exchange, exchange, self.now())

    def take_killed(self) -> Sequence[KilledRow]:
        """Return the rows that were killed since the last exchange."""
        return () if self._thread is None else self._session.take_killed()

    async def renew(self, held: Sequence[ClaimKey], lease: float, workers: Sequence[WorkerRow] = ()) -> Renewal:
        """Renew leases, store the states of workers, and return the rows that are to be aborted."""
        return await self._call(self._session.renew, held, self.now(), lease, workers)

    async def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Store the progress of a running row."""
        return await self._write(Operations.report, held, progress)

    async def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        """Replace the options of a running row."""
        return await self._write(Operations.set_options, held, options)

    async def inspect(self) -> StoreInfo:
        """Check all pages and indexes of the file, and return its state."""
        return await self._call(self._session.inspect)

    async def find(self, queue: str, task_id: str) -> StoredRow | None:
        """Return the row of this id."""
        return await self._read(Operations.find, queue, task_id, self.now())

    async def find_each(self, queue: str, ids: Sequence[str]) -> Sequence[StoredRow | None]:
        """Return the rows of these ids."""
        return await self._read(Operations.find_each, queue, ids, self.now())

    async def locate(self, queue: str, task_id: str) -> LocatedRow | None:
        """Return the row of this id, and its place."""
        return await self._read(Operations.locate, queue, task_id, self.now())

    async def search(self, queue: str, query: Query) -> Found[StoredRow]:
        """Return the rows of a page that pass the filters of a query."""
        check_position(query)
        return await self._read(Operations.search, queue, query, self.now())

    async def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query) -> Changed:
        """Change the rows of a page in one transaction."""
        changed = await self._write(Operations.change, queue, verb, query, self.now())
        if changed.ids and verb != "forget":
            await self._call(self._session.wake_others, self.now())
        return changed

    async def change_each(
        self, queue: str, change: RowChange, ids: Sequence[str]
    ) -> Sequence[ClaimKey | bool | Refusal]:
        """Change the row of each of these ids in one transaction."""
        answers = await self._write(Operations.change_each, queue, change, ids, self.now())
        if not all(isinstance(answer, Refusal) for answer in answers):
            await self._call(self._session.wake_others, self.now())
        return answers

    async def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool | ClaimKey:
        """Kill a waiting row, or request the end of the attempt at a running one."""
        return await self._write_and_wake(Operations.cancel, queue, task_id, error, running, self.now())

    async def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Request the end of the attempt at a row."""
        return await self._write_and_wake(Operations.abort, queue, task_id)

    async def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None = None) -> bool:
        """Set the time at which a waiting row is ready."""
        return await self._write_and_wake(Operations.reschedule, queue, task_id, delay, run_at, self.now())

    async def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None) -> bool:
        """Replace the payload and options of a waiting row that has these options still."""
        return await self._write(Operations.update, queue, task_id, payload, options, was, self.now())

    async def resume(self, queue: str, task_id: str) -> bool:
        """Make a finished row wait again."""
        return await self._write_and_wake(Operations.resume, queue, task_id, self.now())

    async def resume_abandoned(self, queue: str) -> Part:
        """Make orphans wait again."""
        part = await self._write(Operations.resume_abandoned, queue, self.now())
        if part.number:
            await self._call(self._session.wake_others, self.now())
        return part

    async def forget(self, queue: str, task_id: str | None) -> Part:
        """Forget a row that does not run, or finished rows."""
        part = await self._write(Operations.forget, queue, task_id, self.now())
        if task_id is not None and part.number:  # its result may be waited for, and the queue may be empty now
            await self._call(self._session.wake_others, self.now())
        return part

    async def metrics(self, queue: str) -> QueueMetrics:
        """Return the counters of a queue."""
        return await self._read(Operations.metrics, queue, self.now())

    async def set_paused(self, queue: str, paused: bool) -> None:
        """Store whether a queue is paused, and wake the other sessions."""
        await self._write(Operations.set_paused, queue, paused)
        await self._call(self._session.wake_others, self.now())

    async def set_limits(
        self, queue: str, key: str | None, limits: Limits | None, *, only_if_none: bool = False
    ) -> None:
        """Store the limits of a queue, or of a key in it, and wake the other sessions."""
        left = await self._write(Operations.set_limits, queue, key, limits, only_if_none, self.now())
        while left is not None:  # other requests come in between
            left = await self._write(Operations.reweigh, queue, left)
        await self._call(self._session.wake_others, self.now())

    async def get_limits(self, queue: str, key: str | None) -> Limits | None:
        """Return the limits that are stored for a queue, or for a key in it."""
        return await self._read(Operations.get_limits, queue, key)

    async def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return the limits that are stored for a queue, and for keys in it."""
        return await self._read(Operations.list_limits, queue)

    async def minutes(self, queue: str) -> Sequence[tuple[int, str, Sums]]:
        """Return the sums of the attempts in each minute."""
        return await self._read(Operations.minutes, queue)

    async def audit(self, queue: str) -> Balance:
        """Compare the counters of a queue with its rows."""
        return await self._read(Operations.audit, queue, self.now())

    async def schedules(self, after: int, name: str | None = None) -> Sequence[ScheduleRow]:
        """Return the schedules that were changed after a revision."""
        return await self._read(Operations.schedules, after, name)

    async def set_schedules(self, updates: Sequence[ScheduleUpdate]) -> Sequence[ScheduleOutcome]:
        """Change schedules, and insert rows with them."""
        return await self._write_and_wake(Operations.set_schedules, updates, self.now())

    async def read_rows(self, queue: str, after: int, limit: int) -> RowsRead:
        """Return whole rows."""
        return await self._read(lambda operations: operations.transfer.read(queue, after, limit, self.now()))

    async def insert_rows(self, queue: str, rows: Sequence[StoredTask]) -> Sequence[bool | str]:
        """Insert whole rows."""
        return await self._write_and_wake(lambda operations: operations.transfer.insert(queue, rows, self.now()))

    async def queues(self) -> Sequence[str]:
        """Return the names of the queues."""
        return await self._read(Operations.names)

    async def register(self, queue: str, workers: Sequence[WorkerRow]) -> None:
        """Store the workers of this session."""
        await self._call(self._session.register, queue, workers, self.now())

    async def workers(self, queue: str) -> Sequence[StoredWorker]:
        """Return the workers of all sessions."""
        return await self._call(self._session.workers, queue, self.now())

    async def ask_workers(self, queue: str) -> None:
        """Ask other sessions for the states of their workers, by a wake-up."""
        await self._call(self._session.ask_workers, queue, self.now())

    def open_here(self) -> tuple[Session, StoreClock]:
        """Open the file in this thread, without trio; return the session and the clock of the file."""
        if not self.opening.read_only:
            self.wakeup_socket.open()
            self.wakeup_socket.address = None  # no loop reads from the socket
        clock = StoreClock(lambda: machine_now()[1], Offset())
        session = Session(str(self.place), self.driver, self.opening, self.wakeup_socket, clock)
        try:
            session.open()
        except Exception:
            self.wakeup_socket.close()
            raise
        return session, clock

    def wake_soon(self) -> None:
        """Send a wake-up to all other sessions, without waiting until it is sent."""
        thread = self._thread  # this may be another thread than trio's, where the engine is closed
        if thread is not None:
            thread.do_soon(self._session.wake_others, self.now())

    async def listen(
        self, on_change: Callable[[], None], on_finish: Callable[[], None], on_asked: Callable[[], None]
    ) -> None:
        """Receive wake-ups, until cancelled."""
        await self.wakeup_socket.listen(on_change, on_finish, on_asked)

    async def _read(self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(lambda: self._session.read(operation, *args, **kwargs))

    async def _write(self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(lambda: self._session.write(operation, *args, **kwargs))

    async def _write_and_wake(
        self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Make an operation, and wake the other sessions if it changed something."""
        result = await self._write(operation, *args, **kwargs)
        if result:
            await self._call(self._session.wake_others, self.now())
        return result

    def __repr__(self) -> str:
        return f"at {str(self.path)!r}"
