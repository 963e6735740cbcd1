"""The engine of a read-only :class:`FileStorage`, whose journal another process may be writing."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import trio

from ..._clock import wall_now
from ..._concurrency.virtual_time import is_virtual
from ..._tasks.errors import BackendError
from ..durable.engine import Engine, Offset, StoreClock
from ..durable.store_file import missing, open_regular, refused, regular_file
from .journal import damaged, journal_info
from .loading import check, find_fair_queues, load_record
from .operations import Operations
from .records import FRAME_SIZE, HEADER_SIZE, Damage, read_salt, scan
from .rows import GONE, RUNNING
from .state import JournalState
from .transactions import permanent_error, start_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from ..._contracts.bulk import Refusal
    from ..._contracts.listing import Found
    from ..._contracts.metrics import Balance, QueueMetrics
    from ..._contracts.minutes import Sums
    from ..._contracts.store_info import StoreInfo
    from ..._contracts.transfer import StoredTask
    from ..._tasks.limits import Limits
    from ..durable.engine import (
        Changed,
        ClaimKey,
        Exchange,
        ExchangeResult,
        LocatedRow,
        Part,
        Query,
        Renewal,
        RowChange,
        RowsRead,
        ScheduleOutcome,
        ScheduleRow,
        ScheduleUpdate,
        StoredRow,
        StoredWorker,
        WorkerRow,
    )
    from .rows import Row

_WHAT = "the journal"
_READ_AT_ONCE = 2 * 2**20
"""Bytes that are read without a thread. The writer reserves half of that at the end of its journal."""


@final
class FollowedJournal:
    """The rows of a journal that another process writes, as far as they were read. The file is not kept open, and
    nothing is written.

    Args:
      path: the path of the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self._identity: tuple[int, int] | None = None
        self._reset(b"")

    def _reset(self, salt: bytes) -> None:
        self._salt = salt  # it changes if the journal was replaced by a shorter one
        self._end, self._number = HEADER_SIZE, 1
        self.state = JournalState()
        self.operations = Operations(self.state)

    @property
    def has_much_to_read(self) -> bool:
        """True if reading the new records would block the event loop for long."""
        found = regular_file(self._path, _WHAT)
        if found is None:
            return False
        known = self._end if (found.st_dev, found.st_ino) == self._identity else 0
        return found.st_size - known > _READ_AT_ONCE

    def read_on(self) -> None:
        """Read the records written since the last time; all records, if the journal was replaced.

        A record at the end that is not whole is left alone: it is still being written, or was torn by a crash, which is
        for the next writer to judge.

        Raises:
          BackendError: the journal is not there, cannot be read, is not ours, or is damaged in its middle.
        """
        stuck_at = None
        try:
            while (damage := self._read_to_damage()) is not None:
                # An intact record follows, so this one is whole by now, unless it is damaged.
                if stuck_at == (self._salt, damage.at):
                    raise damaged(self._path, damage)
                stuck_at = self._salt, damage.at
        except OSError as error:
            raise BackendError(f"{_WHAT} {str(self._path)!r} cannot be read: {error.strerror or error}") from error
        self._drop_expired(self.state.time)

    def _read_to_damage(self) -> Damage | None:
        """Read to the end, or to a damage that an intact record follows."""
        self._check_there()
        with os.fdopen(open_regular(self._path, _WHAT, read_only=True), "rb") as file:
            salt = read_salt(file.read(HEADER_SIZE + FRAME_SIZE), str(self._path), repair=False)
            found = os.fstat(file.fileno())
            self._identity = found.st_dev, found.st_ino
            if salt != self._salt or found.st_size < self._end:
                self._reset(salt)
            file.seek(self._end)
            if not file.read(FRAME_SIZE).strip(b"\0"):
                return None
            is_done = False
            try:
                damage = self._load(file)
                is_done = True
            finally:
                if not is_done:
                    self._reset(b"")  # only a part of a record was entered
        return damage

    def _check_there(self) -> None:
        found = regular_file(self._path, _WHAT)
        if found is None or not found.st_size:
            condition = "is empty" if found is not None else "is not there"
            raise missing(f"{_WHAT} {str(self._path)!r} {condition}, and read_only=True forbids making it")

    def _load(self, file: BinaryIO) -> Damage | None:
        damage: Damage | None = None
        rows: dict[int, Row] = {}
        for found in scan(file, self._salt, self._end, self._number):
            if isinstance(found, Damage):
                damage = found
                break
            rows.update((row.key, row) for row in load_record(self.state, found.payload))
            self._end, self._number = found.end, found.number + 1
        check(self.state, {key: row for key, row in rows.items() if row.state != GONE})
        for row in rows.values():
            self._place(row)
        for queue in find_fair_queues(self.state, self.state.rows.values()):
            queue.use_groups()
        return None if damage is None or damage.is_tail else damage

    def _place(self, row: Row) -> None:
        """Put a row into the indexes that are used here."""
        queue = row.queue
        queue.take_out(row)
        if row.state == GONE:
            if queue.ids.get(row.id) is row:
                del queue.ids[row.id]
            return
        queue.ids[row.id] = row
        if row.state == RUNNING:
            row.due = math.inf  # its lease is known to the writer alone
            queue.running[row.key] = row
        elif row.state > RUNNING:
            queue.finished[row.state][row.key] = row
            if row.due is not None:
                self.state.retained.add(row.due, row)
        else:
            queue.place(row)
            if row.expires is not None:
                queue.expiring.add(row.expires, row)

    def _drop_expired(self, time: float) -> None:
        """Drop rows that are not kept any more; the writer drops them without a record.

        Args:
          time: the time of the latest change, by the writer's clock: the writer does not know these rows any more
              either.
        """
        while (first := self.state.retained.first) is not None and first[0] <= time:
            self.state.retained.pop()
            row = first[2]
            if RUNNING < row.state < GONE and row.due == first[0]:
                del self.state.rows[row.key]
                row.state = GONE
                self._place(row)
        for queue in self.state.queues.values():
            queue.drop_stale()


@final
class ReadOnlyFileEngine(Engine):
    """An engine that reads a journal before each answer, and refuses every change.

    It has no lock, and creates no file. The names of the workers are known to the writer alone.

    Args:
      path: the path of the journal.
    """

    knows_workers = False
    recovery = None
    """None: nothing is dropped when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()  # wherever the process goes
        self._journal: FollowedJournal | None = None
        self._clock: StoreClock

    async def open(self) -> None:
        """Read the journal; see :meth:`Engine.open`."""
        self._clock = StoreClock(trio.lowlevel.current_clock().current_time, Offset(), is_virtual=is_virtual())
        self._clock.start(wall_now().timestamp(), self._clock.read())
        self._journal = FollowedJournal(self.path)
        is_read = False
        try:
            await self._read_on()
            is_read = True
        finally:
            if not is_read:
                self._journal = None

    async def aclose(self) -> None:
        """Drop the rows that were read."""
        self._journal = None
        await trio.lowlevel.cancel_shielded_checkpoint()

    def now(self) -> float:
        """Return the time by the wall clock when this was opened, or the journal's, if that was ahead."""
        return self._clock.now()

    async def _read_on(self) -> Operations:
        """Read the new records; return the operations on the rows."""
        await trio.lowlevel.checkpoint()
        journal = self._journal
        if journal is None:
            raise permanent_error(f"{_WHAT} {str(self.path)!r} is not open")
        if journal.has_much_to_read:
            thread = start_thread()
            try:
                await thread.call(journal.read_on)
            finally:
                thread.end()
        else:
            journal.read_on()
        self._clock.tick()
        if journal.state.time > self._clock.now():
            self._clock.start(journal.state.time, self._clock.read())
        return journal.operations

    # Methods that read

    async def inspect(self) -> StoreInfo:
        """Read on, which raises if a record is damaged, and return the state of the journal."""
        await self._read_on()
        return journal_info(self.path)

    async def find(self, queue: str, task_id: str) -> StoredRow | None:
        """Return the row of this id."""
        return (await self._read_on()).find(queue, task_id, self.now())

    async def find_each(self, queue: str, ids: Sequence[str]) -> Sequence[StoredRow | None]:
        """Return the rows of these ids."""
        return (await self._read_on()).find_each(queue, ids, self.now())

    async def locate(self, queue: str, task_id: str) -> LocatedRow | None:
        """Return the row of this id, and its place."""
        return (await self._read_on()).locate(queue, task_id, self.now())

    async def search(self, queue: str, query: Query) -> Found[StoredRow]:
        """Return the rows of a page that pass the filters of a query."""
        return (await self._read_on()).search(queue, query, self.now())

    async def metrics(self, queue: str) -> QueueMetrics:
        """Return the counters of a queue."""
        return (await self._read_on()).metrics(queue, self.now())

    async def get_limits(self, queue: str, key: str | None) -> Limits | None:
        """Return the limits of the queue, or of one key in it."""
        return (await self._read_on()).get_limits(queue, key)

    async def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return the limits of the queue, and of keys in it."""
        return (await self._read_on()).list_limits(queue)

    async def minutes(self, queue: str) -> Sequence[tuple[int, str, Sums]]:
        """Return the sums of the attempts in each minute."""
        return (await self._read_on()).minutes(queue)

    async def audit(self, queue: str) -> Balance:
        """Compare the counters of a queue with its rows."""
        return (await self._read_on()).audit(queue, self.now())

    async def schedules(self, after: int, name: str | None = None) -> list[ScheduleRow]:
        """Return the schedules that were changed after a revision."""
        return (await self._read_on()).schedules(after, name)

    async def read_rows(self, queue: str, after: int, limit: int) -> RowsRead:
        """Return whole rows."""
        return (await self._read_on()).transfer.read(queue, after, limit, self.now())

    async def queues(self) -> list[str]:
        """Return the names of the queues."""
        return (await self._read_on()).names()

    async def workers(self, queue: str) -> list[StoredWorker]:
        """Return an empty list: workers are not in the journal."""
        await self._read_on()
        return []

    # Methods that would change something

    def _refusal(self) -> BackendError:
        return refused(f"{_WHAT} {str(self.path)!r} was opened with read_only=True, and is not changed through it")

    async def exchange(self, exchange: Exchange) -> ExchangeResult:
        """Raise, as for every change."""
        raise self._refusal()

    async def renew(self, held: Sequence[ClaimKey], lease: float, workers: Sequence[WorkerRow] = ()) -> Renewal:
        """Raise, as for every change."""
        raise self._refusal()

    async def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Raise, as for every change."""
        raise self._refusal()

    async def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        """Raise, as for every change."""
        raise self._refusal()

    async def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query) -> Changed:
        """Refused."""
        raise self._refusal()

    async def change_each(
        self, queue: str, change: RowChange, ids: Sequence[str]
    ) -> Sequence[ClaimKey | bool | Refusal]:
        """Raise, as for every change."""
        raise self._refusal()

    async def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool:
        """Raise, as for every change."""
        raise self._refusal()

    async def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Raise, as for every change."""
        raise self._refusal()

    async def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None = None) -> bool:
        """Raise, as for every change."""
        raise self._refusal()

    async def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None) -> bool:
        """Raise, as for every change."""
        raise self._refusal()

    async def resume(self, queue: str, task_id: str) -> bool:
        """Raise, as for every change."""
        raise self._refusal()

    async def resume_abandoned(self, queue: str) -> Part:
        """Raise, as for every change."""
        raise self._refusal()

    async def forget(self, queue: str, task_id: str | None) -> Part:
        """Raise, as for every change."""
        raise self._refusal()

    async def set_paused(self, queue: str, paused: bool) -> None:
        """Refused."""
        raise self._refusal()

    async def set_limits(
        self, queue: str, key: str | None, limits: Limits | None, *, only_if_none: bool = False
    ) -> None:
        """Raise, as for every change."""
        raise self._refusal()

    async def insert_rows(self, queue: str, rows: Sequence[StoredTask]) -> list[bool | str]:
        """Raise, as for every change."""
        raise self._refusal()

    async def set_schedules(self, updates: Sequence[ScheduleUpdate]) -> list[ScheduleOutcome]:
        """Raise, as for every change."""
        raise self._refusal()

    async def register(self, queue: str, workers: Sequence[WorkerRow]) -> None:
        """Raise, as for every change."""
        raise self._refusal()

    def __repr__(self) -> str:
        return f"at {str(self.path)!r}"
