"""The engine of :class:`FileStorage`: all rows in memory, and a journal from which they are loaded at the next
start.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeVar, final

import trio

from ..._concurrency.virtual_time import is_virtual
from ..._logging import log
from ..._printing import quoted
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
    StoreClock,
    StoredRow,
    StoredWorker,
)
from ..durable.store_file import PRIVATE
from .exchange import ExchangeSteps
from .journal import journal_info
from .operations import Operations
from .records import LARGEST_PAYLOAD
from .recovery import open_state
from .transactions import TransactionLog, permanent_error, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._contracts.bulk import Refusal
    from ..._contracts.listing import Found
    from ..._contracts.metrics import Balance, QueueMetrics
    from ..._contracts.minutes import Sums
    from ..._contracts.store_info import StoreInfo
    from ..._contracts.transfer import StoredTask
    from ..._tasks.limits import Limits
    from ..durable.engine import KilledRow, RowChange, ScheduleRow, ScheduleUpdate, WorkerRow
    from ..durable.io_thread import WriterThread
    from .journal import Recovery
    from .lock import FileLock
    from .recovery import Opened

T = TypeVar("T")
P = ParamSpec("P")

_COMPACT_ABOVE = 4 * 2**20
"""Bytes below which a journal is never worth replacing."""
_LONGEST_VALUE = LARGEST_PAYLOAD - 4 * 2**20
"""Bytes that a value may have: its record holds more than that."""
_READ_AT_ONCE = 2**20
"""Bytes of a journal that are read without a thread, in some milliseconds."""
_WALL_CLOCK_INTERVAL = 1.0
"""Seconds between two looks at the wall clock, which may be set, while a row waits for a moment by it."""


@final
class FileEngine(Engine):
    """An engine with rows in memory and in a journal.

    Args:
      path: the path of the journal; None: in a temporary directory, which is removed at the end.
      synchronous: ``"FULL"``: a pushed or settled task is on the disk when the call returns. ``"NORMAL"``: the
          operating
        system has it.
      repair: True to open a journal that is damaged in its middle, and to keep the intact records.
      create: True to make a journal if there is none.
      mode: the mode of the journal, if it is made.
      compact_above: the size in bytes up to which the journal is never replaced by a shorter one.

    Attributes:
      recovery: the damage that was found when the journal was opened; None if there was none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        repair: bool = False,
        create: bool = True,
        mode: int = PRIVATE,
        compact_above: int = _COMPACT_ABOVE,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous must be 'FULL' or 'NORMAL', not {quoted(synchronous)}")
        self.path = Path(path).absolute() if path is not None else None  # wherever the process goes
        self.recovery: Recovery | None = None
        self._is_temporary = path is None
        self._syncs = synchronous == "FULL"
        self._repair = repair
        self._create = create
        self._mode = mode
        self._compact_above = compact_above
        self._lock: FileLock | None = None
        self._transaction_log: TransactionLog | None = None
        self._operations: Operations
        self._steps: ExchangeSteps
        self._clock: StoreClock
        self._is_virtual = False
        self._listeners: list[Callable[[], None]] = []

    @classmethod
    def temporary(cls) -> FileEngine:
        """Make an engine for tests, whose journal is removed when it is closed; it has no thread, and never syncs."""
        return cls(None, synchronous="NORMAL")

    longest = _LONGEST_VALUE

    # Opening and closing

    async def open(self) -> None:
        """Open or create the journal; see :meth:`Engine.open`. It cannot be cancelled once begun."""
        await trio.lowlevel.checkpoint()
        if self._transaction_log is not None:
            raise permanent_error(f"the journal {str(self.path)!r} is open already")
        if self._is_temporary:
            self.path = Path(tempfile.mkdtemp(prefix="trio_tasks-"), "tasks.journal")
        assert self.path is not None
        path, is_large = _path_and_size(self.path)
        self._is_virtual = is_virtual()
        self.needs_polling = not self._is_virtual
        self._clock = StoreClock(trio.lowlevel.current_clock().current_time, Offset(), is_virtual=self._is_virtual)
        read = partial(
            open_state,
            path,
            self._clock,
            repair=self._repair,
            syncs=self._syncs,
            create=self._create,
            mode=self._mode,
        )
        thread: WriterThread | None = None
        opened: Opened | None = None
        try:
            if self._syncs or is_large:
                thread = start_thread()
                opened = await thread.call(read)
            else:
                opened = read()
        finally:
            if opened is None:  # it raises
                self._remove_directory()
                if thread is not None:
                    thread.end()
        assert opened is not None
        self.path, self._lock, self.recovery = path, opened.lock, opened.recovery
        self._operations, self._steps = Operations(opened.state), ExchangeSteps(opened.state)
        self._transaction_log = TransactionLog(
            path, opened, thread, syncs=self._syncs, compact_above=self._compact_above
        )
        if self.recovery is not None:
            log.warning("%s", self.recovery)

    async def aclose(self) -> None:
        """Sync and close the journal; see :meth:`Engine.aclose`."""
        transaction_log, self._transaction_log = self._transaction_log, None
        lock, self._lock = self._lock, None
        async with AsyncExitStack() as closing:  # each step runs, even if another one raises
            closing.callback(self._remove_directory)
            if lock is not None:
                closing.callback(lock.release)
            if transaction_log is not None:
                closing.push_async_callback(transaction_log.aclose, sync=not self._is_temporary)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _remove_directory(self) -> None:
        if self._is_temporary and self.path is not None:
            shutil.rmtree(self.path.parent, ignore_errors=True)
            self.path = None

    def now(self) -> float:
        """Return the time by the journal's clock: the wall clock when it was opened, or the journal's, if that was
        ahead.
        """
        return self._clock.now()

    def _open_transaction_log(self) -> TransactionLog:
        if self._transaction_log is None or self._lock is None:
            raise permanent_error(f"the journal {str(self.path)!r} is not open")
        if not self._lock.is_held:
            raise permanent_error(f"the journal {str(self.path)!r} is open in the parent of this process, and not here")
        return self._transaction_log

    # The methods of an engine

    async def exchange(self, exchange: Exchange) -> ExchangeResult:
        """Settle, push and claim, in one transaction; it cannot be cancelled."""
        durable = bool(exchange.settled or exchange.pushed)
        transact = self._open_transaction_log().transact
        if exchange.claims:
            self._clock.tick()
        answer = await transact(lambda: self._steps.exchange(exchange), self.now(), durable=durable)
        if exchange.claims and self._open_transaction_log().state.has_wall_clock_rows and not self._is_virtual:
            soon = self.now() + _WALL_CLOCK_INTERVAL
            for number, due in enumerate(answer.next_due):
                if answer.live[number] >= 0:  # fewer rows than were asked for, so the storage waits
                    answer.next_due[number] = soon if due is None else min(due, soon)
        return answer

    def take_killed(self) -> Sequence[KilledRow]:
        """Return the rows that were killed since the last exchange."""
        return () if self._transaction_log is None else self._transaction_log.state.take_killed()

    async def renew(self, held: Sequence[ClaimKey], lease: float, workers: Sequence[WorkerRow] = ()) -> Renewal:
        """Renew leases, which are in memory only, and return the rows that are to be aborted."""
        self._open_transaction_log()
        renewal = self._operations.renew(held, self.now() + lease)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return renewal

    async def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Store the progress of a row; it may be lost in a power cut."""
        return await self._transact(lambda: self._operations.report(held, progress), durable=False)

    async def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        """Replace the options of a running row."""
        return await self._transact(lambda: self._operations.set_options(held, options), durable=True)

    async def inspect(self) -> StoreInfo:
        """Return the state of the journal; what was damaged was found when it was opened."""
        await trio.lowlevel.checkpoint()
        assert self.path is not None
        damage = () if self.recovery is None else (str(self.recovery),)
        return journal_info(self.path, damage)

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
        return await self._read(Operations.search, queue, query, self.now())

    async def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query) -> Changed:
        """Change the rows of a page in one transaction."""
        return await self._write(Operations.change, queue, verb, query)

    async def change_each(
        self, queue: str, change: RowChange, ids: Sequence[str]
    ) -> Sequence[ClaimKey | bool | Refusal]:
        """Change the row of each of these ids in one transaction."""
        answers = await self._write(Operations.change_each, queue, change, ids)
        self._tell_of_abort(next((answer for answer in answers if isinstance(answer, ClaimKey)), None))
        return answers

    async def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool | ClaimKey:
        """Kill a waiting row, or request the end of the attempt at a running one."""
        cancelled = await self._write(Operations.cancel, queue, task_id, error, running)
        self._tell_of_abort(cancelled)
        return cancelled

    async def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Request the end of the attempt at a row.

        If the process dies before that end, the row is killed as soon as it would wait again.
        """
        held = await self._write(Operations.abort, queue, task_id)
        self._tell_of_abort(held)
        return held

    def _tell_of_abort(self, held: object) -> None:
        for on_change in self._listeners if isinstance(held, ClaimKey) else ():
            on_change()

    async def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None = None) -> bool:
        """Set the time at which a waiting row is ready."""
        return await self._write(Operations.reschedule, queue, task_id, delay, run_at)

    async def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None) -> bool:
        """Replace the payload and options of a waiting row that has these options still."""
        return await self._write(Operations.update, queue, task_id, payload, options, was)

    async def resume(self, queue: str, task_id: str) -> bool:
        """Make a finished row wait again."""
        return await self._write(Operations.resume, queue, task_id)

    async def resume_abandoned(self, queue: str) -> Part:
        """Make orphans wait again."""
        return await self._write(Operations.resume_abandoned, queue)

    async def forget(self, queue: str, task_id: str | None) -> Part:
        """Forget a row that does not run, or finished rows."""
        return await self._write(Operations.forget, queue, task_id)

    async def metrics(self, queue: str) -> QueueMetrics:
        """Return the counters of a queue."""
        return await self._read(Operations.metrics, queue, self.now())

    async def set_paused(self, queue: str, paused: bool) -> None:
        """Store whether a queue is paused."""
        await self._write(Operations.set_paused, queue, paused)

    async def set_limits(
        self, queue: str, key: str | None, limits: Limits | None, *, only_if_none: bool = False
    ) -> None:
        """Store the limits of the queue, or of one key in it."""
        await self._write(Operations.set_limits, queue, key, limits, only_if_none=only_if_none)

    async def get_limits(self, queue: str, key: str | None) -> Limits | None:
        """Return the limits of the queue, or of one key in it."""
        return await self._read(Operations.get_limits, queue, key)

    async def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return the limits of the queue, and of keys in it."""
        return await self._read(Operations.list_limits, queue)

    async def minutes(self, queue: str) -> Sequence[tuple[int, str, Sums]]:
        """Return the sums of the attempts in each minute."""
        return await self._read(Operations.minutes, queue)

    async def audit(self, queue: str) -> Balance:
        """Compare the counters of a queue with its rows."""
        return await self._read(Operations.audit, queue, self.now())

    async def schedules(self, after: int, name: str | None = None) -> list[ScheduleRow]:
        """Return the schedules that were changed after a revision."""
        return await self._read(Operations.schedules, after, name)

    async def set_schedules(self, updates: Sequence[ScheduleUpdate]) -> list[ScheduleOutcome]:
        """Change schedules, and insert rows with them."""
        return await self._transact(lambda: self._set_schedules(updates), durable=True)

    def _set_schedules(self, updates: Sequence[ScheduleUpdate]) -> list[ScheduleOutcome]:
        outcomes: list[ScheduleOutcome] = []
        for update in updates:
            revision = self._operations.set_schedule(update)
            outcomes.append(ScheduleOutcome(revision, self._steps.insert(update.rows) if revision else ()))
        return outcomes

    async def read_rows(self, queue: str, after: int, limit: int) -> RowsRead:
        """Return whole rows."""
        return await self._read(lambda operations: operations.transfer.read(queue, after, limit, self.now()))

    async def insert_rows(self, queue: str, rows: Sequence[StoredTask]) -> list[bool | str]:
        """Insert whole rows."""
        return await self._write(lambda operations: operations.transfer.insert(queue, rows))

    async def queues(self) -> list[str]:
        """Return the names of the queues."""
        return await self._read(Operations.names)

    async def register(self, queue: str, workers: Sequence[WorkerRow]) -> None:
        """Set the workers of a queue, which are in memory only."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._open_transaction_log().state.queue(queue).workers = [*workers]

    async def workers(self, queue: str) -> list[StoredWorker]:
        """Return the workers of a queue."""
        await trio.lowlevel.checkpoint()
        now, workers = self.now(), self._open_transaction_log().state.queue(queue).workers
        return [StoredWorker(each.name, 0, each.number, each.state, now, now, True, True) for each in workers]

    async def listen(
        self, on_change: Callable[[], None], on_finish: Callable[[], None], on_asked: Callable[[], None]
    ) -> None:
        """Call ``on_change`` when an abort is requested; no other process can change anything, or ask."""
        self._listeners.append(on_change)
        try:
            await trio.sleep_forever()
        finally:
            self._listeners.remove(on_change)

    async def _read(self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        self._open_transaction_log()
        return operation(self._operations, *args, **kwargs)

    async def _write(self, operation: Callable[Concatenate[Operations, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transact(lambda: operation(self._operations, *args, **kwargs), durable=True)

    async def _transact(self, change: Callable[[], T], *, durable: bool) -> T:
        result = await self._open_transaction_log().transact(change, self.now(), durable=durable)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    def __repr__(self) -> str:
        return f"at {str(self.path)!r}"


def _path_and_size(path: Path) -> tuple[Path, bool]:
    """Return the path of the journal without symbolic links; and True if it is too large to be read without a
    thread.
    """
    place = Path(os.path.realpath(path))
    return place, place.is_file() and place.stat().st_size > _READ_AT_ONCE
