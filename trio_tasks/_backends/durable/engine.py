"""The contract of an engine, which stores rows for a stored backend; and the clock of a store.

:class:`DurableStorage` has all that is the same everywhere: codecs, receivers, leases, waiting for results. An engine
has rows, in queues, and one method for nearly all of its work, :meth:`Engine.exchange`. The contract:

* **One transaction.** An exchange happens whole or not at all. If it raises, nothing has changed, or (where the
  connection broke at the wrong moment) everything has; repeating it with the same ids and tokens does no harm.
* **One owner.** A row is claimed by one exchange at most until it is settled or its lease has run out. Each claim has a
  token that no other claim of that row ever has, and a settlement counts only under the token of the last claim.
* **Its own time.** The engine has one clock for all processes that share the store, which never goes back
  (:meth:`Engine.now`); setting the wall clock does not move it, and time that the machine was asleep counts.
  After that, the processes that share the store may renew leases before any is taken for lost. Changes that fall due
  by it (delays, leases, expiries, retention) are entered by any exchange with claims, in any process. Expiries and
  retention count from their very moment on, entered or not, delayed or not: a row that has expired is seen as KILLED,
  and one whose retention is over is not seen at all; a row that has expired does not hold its unique key any more. A
  row that waits expires when it was not claimed in time, or when its deadline is over.
* **Order.** Of the rows that wait, the higher priority goes first, then the one that waits longest: a delayed or
  suspended one waits from when it is due, a retried one from when it was settled, a released one or an orphan from
  when it first did.
* **Bounded.** Every method returns or raises in bounded time, cancelled or not. Errors are :class:`BackendError`.

PostgreSQL would claim with ``FOR UPDATE SKIP LOCKED`` and ``RETURNING``, take its time from ``now()``, and be woken by
``LISTEN``; Redis would do an exchange in one script, and be woken by a subscription. An engine whose store has no time
of its own takes it from a :class:`StoreClock`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, final

import trio

from ..._clock import is_machine_clock_replaced, machine_now, machine_seconds
from ..._contracts.listing import Found, Position, Selection
from ..._contracts.states import TABLE, AttemptChange, TaskEvent, TaskState
from ..._tasks.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ..._contracts.bulk import Refusal
    from ..._contracts.explanation import Place
    from ..._contracts.groups import LimitReached
    from ..._contracts.metrics import Balance, QueueMetrics
    from ..._contracts.minutes import MinuteRow, Sums
    from ..._contracts.store_info import StoreInfo
    from ..._contracts.transfer import StoredTask
    from ..._tasks.errors import DuplicateTaskError
    from ..._tasks.limits import Limits
    from ..._tasks.task import OnConflict, UniqueUntil

LATEST = 2.0**38
"""Seconds since the epoch that an engine's clock may show, in either direction: it is beyond the year 9999, and a lease
still counts beside it. A time beyond that was not stored by this library."""


T = TypeVar("T")

_LIST: Any = list
"""A factory of lists. ``list[T]`` as one would cost three times as much, in each exchange."""


def refusal(message: str) -> BackendError:
    """Make a BackendError that refuses one request, while the store itself works."""
    error = BackendError(message)
    error.is_refusal = True
    return error


class State(IntEnum):
    """The state of a row, as it is stored. All below ``DONE`` are live."""

    WAITING = 0
    """Ready to be claimed."""
    DELAYED = 1
    """Waiting for its time."""
    RUNNING = 2
    """Claimed, under a lease."""
    DONE = 3
    FAILED = 4
    KILLED = 5


if TYPE_CHECKING:

    def new_tuple(kind: type[T], fields: tuple[Any, ...], /) -> T: ...

else:
    new_tuple = tuple.__new__
"""Makes a NamedTuple of all its fields, for those that are made for each task: calling the class costs three times as
much, since that calls a function in Python."""


class SettlementKind(IntEnum):
    """The change that a settlement makes to a row."""

    SUCCEEDED = 0
    RETRIED = 1
    FAILED = 2
    KILLED = 3
    RELEASED = 4
    SUSPENDED = 5


CHANGES = {kind: TABLE[TaskState.RUNNING, TaskEvent[kind.name]] for kind in SettlementKind}
"""The change that each kind of settlement makes to a running row."""
ENDS = {kind: State[change.state.name] for kind, change in CHANGES.items() if change.state.is_final}
"""The state of a row after each kind of settlement that finishes it."""
COMES_BACK = frozenset(kind for kind, change in CHANGES.items() if change.state.waits)
"""The kinds of settlements after which a row waits again."""
NOT_COUNTED = frozenset(kind for kind, change in CHANGES.items() if change.attempt is AttemptChange.TAKEN_BACK)
"""The kinds of settlements that take back the attempt that the claim has counted."""


class NewRow(NamedTuple):
    """A row to be inserted for a pushed task."""

    queue: str
    id: str
    payload: bytes
    options: bytes | None
    """Terms and metadata, encoded; the engine stores and returns them."""
    priority: int
    delay: float
    """Seconds from now until it is ready; 0 or less: at once."""
    unique: str | None
    """The key that no other row of the queue may hold at the same time."""
    on_conflict: OnConflict
    expires_in: float | None
    """Seconds from now; a row that was not claimed before is killed then. A row that was claimed once does not expire
    any more."""
    run_at: int | None = None
    """The time at which it is to be ready, in microseconds since the epoch, by the wall clock; stored and returned."""
    by_wall_clock: bool = False
    """True if ``run_at`` goes before ``delay``: each exchange compares it with the wall clock. If that was set forward,
    the row is ready at once; if it was set back, the row waits for longer. A row that is ready stays so."""
    name: str | None = None
    """The name of the kind of task; stored and returned."""
    unique_until: UniqueUntil = "end"
    """The end of the time for which the row holds its unique key, if ``unique_for`` is None."""
    unique_for: float | None = None
    """Seconds from now for which the unique key is held, whatever becomes of the row."""
    key: str | None = None
    """The key of the group to which the row belongs; None if it has none."""
    deadline: float | None = None
    """On the engine's clock: a row that waits then, claimed before or not, is killed; stored and returned."""


class Settlement(NamedTuple):
    """The end of an attempt: it takes effect only if the row is RUNNING under this token."""

    queue: str
    key: Any
    token: int
    kind: SettlementKind
    after: float
    """RETRIED and SUSPENDED: seconds until it is ready again; ``math.inf``: not before it is rescheduled."""
    result: bytes | None
    """The encoded result, or error; kept for finished rows, and for retried ones as their latest error."""
    history: bytes | None
    """The new history of the row; None leaves it."""
    keep: float
    """Seconds for which a finished row is remembered; 0 forgets it at once, ``math.inf`` keeps it until vacuumed."""
    write: Callable[[Any], object] | None = None
    """A function called with the engine's writer, inside the transaction, to write something together with this. If it
    raises, this settlement changes nothing, and its result is the error."""
    run_at: int | None = None
    """RETRIED and SUSPENDED: the new ``run_at`` of the row; None leaves it."""
    worker: str | None = None
    """The worker that made the attempt, where the claim was made for several; None: the one that claimed."""
    reason: str = ""
    """SUSPENDED: why, for people."""


class ClaimRequest(NamedTuple):
    """A claim of up to ``limit`` WAITING rows, which become RUNNING in their next attempt."""

    queue: str
    limit: int
    lease: float
    """Seconds, from now, after which the row is an orphan, unless the lease is renewed."""
    worker: str
    """The name of the worker that claims them."""
    workers: Sequence[str] | None = None
    """For each row, in order, the worker that claims it; None if that is the same for all."""
    left_out: Collection[str] = ()
    """Ids of ready rows that are passed over: an attempt that has lost its lease still runs here. (Not keys: the key of
    a row that was forgotten may be given to another one.)"""

    def split(self, keys: Sequence[Any]) -> Iterable[tuple[str, Sequence[Any]]]:
        """Divide the claimed keys among the workers."""
        if self.workers is None:
            return [(self.worker, keys)]
        by_worker: dict[str, list[Any]] = {}
        for worker, key in zip(self.workers, keys, strict=False):
            by_worker.setdefault(worker, []).append(key)
        return by_worker.items()


class ClaimedRow(NamedTuple):
    """A row that was claimed."""

    key: Any
    """The engine's own key of the row."""
    token: int
    id: str
    attempt: int
    """Counted with this claim."""
    payload: bytes
    options: bytes | None
    history: bytes | None
    run_at: int | None = None
    name: str | None = None
    pushed: float | None = None
    """When it was pushed, on the engine's clock; None if that was not noted."""
    started: float | None = None
    """When it was claimed: the time of the exchange."""
    since: float = 0.0
    """Since when it was ready."""
    deadline: float | None = None
    """As in :class:`NewRow`; None after it was resumed."""


class StoredRow(NamedTuple):
    """A row that was looked up."""

    id: str
    state: State
    attempt: int
    payload: bytes
    options: bytes | None
    due: float | None
    """On the engine's clock: DELAYED: when it is ready. RUNNING: when the lease runs out. Finished: when it is
    forgotten; None if never."""
    result: bytes | None
    history: bytes | None
    progress: bytes | None
    worker: str | None
    """The name of the worker that claimed it last."""
    expires: float | None = None
    """On the engine's clock: when it is killed, by its deadline or otherwise, unless it is claimed before; None if it
    does not wait, or is not killed so."""
    run_at: int | None = None
    """As in :class:`NewRow`, or as it was settled or rescheduled."""
    name: str | None = None
    pushed: float | None = None
    """When it was pushed, on the engine's clock; None if that was not noted."""
    started: float | None = None
    """When it was last claimed; None if it never was."""
    finished: float | None = None
    """When it was finished; of one that has expired, when it did; None if it is unfinished."""
    suspended: str | None = None
    """The reason of the suspension that delays it; None if none does."""
    deadline: float | None = None
    """As in :class:`NewRow`; None after it was resumed."""


class LocatedRow(NamedTuple):
    """A row that was looked up, and its place in the order."""

    row: StoredRow
    place: Place | None
    """Its place, if it is ready by now, entered or not; else None."""
    is_paused: bool
    """True if its queue is paused."""
    limit: LimitReached | None = None
    """The limit that holds it back, if it is ready but for that: one of its key, or else one of its queue."""


class Query(NamedTuple):
    """A question for the rows of a queue in some states, in the order of a list: by state, whatever the order given."""

    states: Sequence[State]
    selection: Selection = Selection()
    """The filters that a row has to pass. Its status is in ``states`` already."""
    newest_first: bool = False
    """True: in the opposite order, that of the states included."""
    after: Position | None = None
    """The position from which the list goes on; None: from its beginning."""
    limit: int = 100
    only: Collection[str] | None = None
    """The ids that are asked about; None: all."""
    left_out: Collection[str] = ()
    """Ids that are left out."""


class Changed(NamedTuple):
    """One step of a change of many rows."""

    ids: Sequence[str]
    """The ids of the rows that were changed."""
    after: Position | None
    """The position from which the next step goes on."""
    is_more: bool
    """True if there may be more to do."""
    taken: Sequence[str] = ()
    """The ids of finished rows that stay as they are, since another row has their unique key."""


@final
@dataclass(frozen=True, slots=True)
class RowChange:
    """A change of a row, which is made as by the method of the engine that has the name of the verb.

    ``withdraw`` has no method: it forgets a row that waits, and requests that the attempt at a RUNNING one ends, which
    is forgotten then, unless the attempt has finished it; one that is to be aborted stays as it is.
    """

    verb: Literal["cancel", "abort", "resume", "forget", "reschedule", "withdraw"]
    running: bool = False
    """``cancel``: as the parameter of the method, and so are the next two."""
    delay: float = 0.0
    run_at: int | None = None


class ClaimKey(NamedTuple):
    """The identity of a claim. Two attempts at a row may run at once under two of them: one that has lost its lease and
    was not cancelled yet, and the one that counts."""

    key: Any
    token: int


@dataclass(slots=True)
class Exchange:
    """The requests of one transaction, made in this order: settle, push, renew, enter due changes, claim."""

    settled: Sequence[Settlement] = ()
    pushed: Sequence[NewRow] = ()
    claims: Sequence[ClaimRequest] = ()
    renewed: Sequence[tuple[ClaimKey, float]] = ()
    """Claims whose lease is to run out so many seconds from now: of running attempts here whose heartbeat is late. A
    lease that has run out is renewed too, if the row was not claimed since."""
    as_of: float = math.inf
    """The time at which that was found out, by the engine's clock. The lease of a row that this engine has claimed
    counts as run out only if it had by then: time spent waiting since, as for a lock, is not counted."""
    minutes: Sequence[MinuteRow] = ()
    """Sums of attempts, to be added to those that are stored."""
    after_stall: bool = False
    """True if this process stood still, as other processes may have, too: leases of others that have run out are left
    alone for as long as a lease, so that they can be renewed."""

    @property
    def has_only_claims(self) -> bool:
        """True if nothing else is asked for."""
        return bool(self.claims) and not (
            self.settled or self.pushed or self.renewed or self.minutes or self.after_stall
        )


class KillReason(IntEnum):
    """The reason for which an engine itself kills a row."""

    EXPIRED = 0
    """It was not claimed in time."""
    REPLACED = 1
    """Its unique key was given to another row."""
    CANCELLED = 2
    """It was cancelled, or forgotten, while it was WAITING or DELAYED."""
    NOT_AGAIN = 3
    """It was RUNNING, and must not wait again: it was to be aborted, or no more attempts can be counted."""
    DEADLINE = 4
    """It waited when its deadline was over."""


class KilledRow(NamedTuple):
    """A row that an engine itself has killed, in a transaction that is committed."""

    queue: str
    id: str
    reason: KillReason
    by: str = ""
    """REPLACED: the id of the row that has its unique key."""


@dataclass(slots=True)
class ExchangeResult:
    """The result of an exchange."""

    settled: list[bool | BaseException] = field(default_factory=_LIST)
    """For each settlement: True; False if the lease was lost; or the error that its ``write`` raised."""
    pushed: list[str | DuplicateTaskError] = field(default_factory=_LIST)
    """For each new row: its id, or that of the row which holds its unique key already (``skip``), or the error."""
    claimed: list[list[ClaimedRow]] = field(default_factory=_LIST)
    """For each claim: the rows, in order. Fewer than the limit means that no more were ready."""
    next_due: list[float | None] = field(default_factory=_LIST)
    """For each claim that got fewer: the time, on the engine's clock, at which the next row falls due; else None."""
    live: list[int] = field(default_factory=_LIST)
    """For each claim that got fewer: the number of live rows of its queue, in whatever state; else -1."""
    held_back: list[bool] = field(default_factory=_LIST)
    """For each claim, in an engine that has limits: True if it got fewer rows, and limits hold others back, so that a
    settlement may make some ready."""
    renewed: list[bool] = field(default_factory=_LIST)
    """For each claim to be renewed: False if the lease was lost."""
    killed: list[KilledRow] = field(default_factory=_LIST)
    """Each row that the engine itself has killed, in order."""


@dataclass(slots=True)
class Renewal:
    """The result of renewing leases."""

    lost: list[ClaimKey] = field(default_factory=list[ClaimKey])
    """Claims whose lease was lost: the rows are not RUNNING under that token any more."""
    aborted: list[ClaimKey] = field(default_factory=list[ClaimKey])
    """Claims that are to be aborted: of all claims that count, at least those made through this engine, whether they
    were to be renewed or not."""
    withdrawn: list[ClaimKey] = field(default_factory=list[ClaimKey])
    """Claims that are to be ended, of the same ones, since the calls that had pushed the rows were cancelled."""


class ScheduleRow(NamedTuple):
    """A schedule, as it is stored."""

    name: str
    revision: int
    """The number of its last change; later changes in the store have larger ones."""
    body: bytes | None
    """What the engine stores and returns; None if it was removed."""


class ScheduleUpdate(NamedTuple):
    """A change of a schedule, and rows that are inserted in the same transaction."""

    name: str
    was: int
    """The revision that it must have; 0: there must be none of this name."""
    body: bytes | None
    """What is to be stored; None removes it."""
    rows: Sequence[NewRow] = ()


class ScheduleOutcome(NamedTuple):
    """The result of a change of a schedule."""

    revision: int
    """The new one; 0 if it had another revision than was said, so that nothing was done."""
    ids: Sequence[str | DuplicateTaskError] = ()
    """For each row, as :attr:`ExchangeResult.pushed`."""


REMOVED_FOR = 3600 * 10**6
"""Microseconds for which the name of a removed schedule is stored, so that other processes find out."""


class RowsRead(NamedTuple):
    """Some rows of a queue, complete, in the order of their keys."""

    rows: list[StoredTask]
    after: int | None
    """The key after which the reading goes on; None if there are no more."""


READ_AT_ONCE = 2**23
"""Bytes of payloads, results and the like in one reading, at most, unless one row has more."""


class WorkerRow(NamedTuple):
    """A worker that runs on this engine."""

    queue: str
    number: int
    """Which of the runs on this engine it is."""
    name: str
    state: bytes
    """What it tells of itself, encoded; the engine stores and returns it."""


class StoredWorker(NamedTuple):
    """A worker that runs on this engine, or another one of the store, or has run there until its process died."""

    name: str
    engine: int
    """The number of its engine."""
    number: int
    """Which of the runs on that engine it is."""
    state: bytes | None
    """What it has told last; None if it was registered by an older version."""
    told_at: float
    """When it did, on the engine's clock; 0 if that was not noted."""
    last_beat: float
    """When its engine was last known to be alive."""
    is_alive: bool
    is_own: bool
    """True if it runs on this engine."""


class Part(NamedTuple):
    """One step of a long operation. Each step is a transaction, and other processes have theirs in between."""

    number: int
    """The number of rows that it changed."""
    is_more: bool
    """True if there may be more to do."""


class Engine(ABC):
    """The interface of an engine: a store of rows. It is called from one trio task at a time, but for :meth:`listen`,
    which runs beside.

    If it refuses a request in an exchange, and the store is well, it raises a :class:`BackendError` whose
    ``is_refusal`` is true. Then the exchange is made again without that request.
    """

    longest = math.inf
    """Bytes that a payload with its options, a result, or a progress may have; known once it is open."""

    knows_workers = True
    """True if :meth:`workers` returns the workers of all processes."""

    needs_polling = True
    """True if :meth:`listen` may miss changes by other processes, so that the store has to be polled as well."""

    @abstractmethod
    async def open(self) -> None:
        """Open the store, and create or migrate it. Raises :class:`BackendError` if it cannot be opened, or is not
        ours.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the store. It does so even if it is cancelled."""

    @abstractmethod
    def now(self) -> float:
        """Return the time by the store's clock, in seconds since the epoch; it never goes back."""

    @abstractmethod
    async def exchange(self, exchange: Exchange) -> ExchangeResult:
        """Make an exchange, in one transaction."""

    def take_killed(self) -> Sequence[KilledRow]:
        """Return the rows that were killed by other methods than :meth:`exchange` since this was last called, in
        order. By default there are none.
        """
        return ()

    @abstractmethod
    async def renew(self, held: Sequence[ClaimKey], lease: float, workers: Sequence[WorkerRow] = ()) -> Renewal:
        """Make these leases run out ``lease`` seconds from now, and store the states of these workers, which are
        registered. With no claims, it renews nothing, and checks for aborts all the same."""

    @abstractmethod
    async def report(self, held: ClaimKey, progress: bytes) -> bool:
        """Store the progress of a RUNNING row; False if the lease is lost."""

    @abstractmethod
    async def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        """Replace the options of a RUNNING row; False if the lease is lost."""

    @abstractmethod
    async def inspect(self) -> StoreInfo:
        """Read the whole store, and return its state."""

    @abstractmethod
    async def find(self, queue: str, task_id: str) -> StoredRow | None:
        """Return the row of this id; or None."""

    @abstractmethod
    async def find_each(self, queue: str, ids: Sequence[str]) -> Sequence[StoredRow | None]:
        """Return the rows of these ids as they are at one moment, in the order of the ids; None for each other id."""

    @abstractmethod
    async def locate(self, queue: str, task_id: str) -> LocatedRow | None:
        """Return the row of this id with its place in the order; or None. It looks at a bounded number of rows that go
        first, if they are in the state that they have by now.
        """

    @abstractmethod
    async def search(self, queue: str, query: Query) -> Found[StoredRow]:
        """Return at most ``limit`` rows in these states, by state, whatever the order of ``states``.

        Waiting rows are in the order in which they would be claimed; delayed rows in the order in which they are due
        (are ready, or expire before that); running rows in the order of their claims; finished rows in the order in
        which they were finished.

        The position of a row stays the same for as long as the row stays in its state. If there is a filter, only
        :data:`~trio_tasks._contracts.listing.WINDOW` rows are looked at.

        Raises:
          ValueError: ``after`` is no position in such a list.
        """

    @abstractmethod
    async def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query) -> Changed:
        """Do what the method of this name does to each row of a page, in one transaction. A row that cannot be resumed,
        since its unique key is taken, stays as it is.
        """

    @abstractmethod
    async def change_each(
        self, queue: str, change: RowChange, ids: Sequence[str]
    ) -> Sequence[ClaimKey | bool | Refusal]:
        """Change the row of each of these ids, in one transaction.

        Returns:
          for each id: the claim that is to be aborted, or True; or the reason for which the row was not changed.
        """

    @abstractmethod
    async def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool | ClaimKey:
        """Kill the row if it is WAITING or DELAYED; ``error`` becomes its result. With ``running``, do what
        :meth:`abort` does if it is RUNNING, and return its claim.
        """

    @abstractmethod
    async def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        """Mark the row, if it is RUNNING, to be aborted, and wake its process, which finds it in
        :attr:`Renewal.aborted`.
        """

    @abstractmethod
    async def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None = None) -> bool:
        """Make the row ready in ``delay`` seconds, if it is WAITING or DELAYED; ``run_at`` is only stored."""

    @abstractmethod
    async def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None) -> bool:
        """Replace payload and options of the row, if it is WAITING or DELAYED, and its options are still ``was``: the
        new ones were made of these.
        """

    @abstractmethod
    async def resume(self, queue: str, task_id: str) -> bool:
        """Make the row WAITING again at attempt 0, if it is DONE, FAILED or KILLED.

        Its history stays, and so does an error. The result of a row that is DONE is removed.

        Raises:
          DuplicateTaskError: its unique key is taken by now.
        """

    @abstractmethod
    async def resume_abandoned(self, queue: str) -> Part:
        """Make RUNNING rows WAITING again whose lease has run out, as many as fit a short transaction."""

    @abstractmethod
    async def forget(self, queue: str, task_id: str | None) -> Part:
        """Forget the row of this id, unless it is RUNNING; or several finished rows, as many as fit a short
        transaction. One that was WAITING or DELAYED counts as killed.
        """

    @abstractmethod
    async def metrics(self, queue: str) -> QueueMetrics:
        """Return the counters of the queue. They are right at any moment: changed in the transactions that change the
        rows, with what is due by now counted as if it were entered.
        """

    @abstractmethod
    async def set_paused(self, queue: str, paused: bool) -> None:
        """Store whether the queue is paused; its claims get no rows then. Wake other processes when it is resumed."""

    @abstractmethod
    async def set_limits(
        self, queue: str, key: str | None, limits: Limits | None, *, only_if_none: bool = False
    ) -> None:
        """Store the limits of the queue, or of one key in it; None removes them.

        Rows that are held back by limits, and no longer are, become ready; other processes are told.

        Args:
          only_if_none: True: leave limits alone that are there.
        """

    @abstractmethod
    async def get_limits(self, queue: str, key: str | None) -> Limits | None:
        """Return the limits that are stored for the queue, or for one key in it; None if none are."""

    @abstractmethod
    async def list_limits(self, queue: str) -> dict[str | None, Limits]:
        """Return all limits that are stored for the queue, under None, and for keys in it, in their order."""

    @abstractmethod
    async def minutes(self, queue: str) -> Sequence[tuple[int, str, Sums]]:
        """Return the stored sums of attempts: minute, name of the tasks, and sums."""

    @abstractmethod
    async def audit(self, queue: str) -> Balance:
        """Compare the stored counters of the queue with its rows, in one transaction."""

    @abstractmethod
    async def schedules(self, after: int, name: str | None = None) -> Sequence[ScheduleRow]:
        """Return the schedules with a revision above ``after``, by revision; or the one of a name, if it has
        one. Those that were removed within :data:`REMOVED_FOR` are among them. A schedule that is changed later has a
        revision above all of these.
        """

    @abstractmethod
    async def set_schedules(self, updates: Sequence[ScheduleUpdate]) -> Sequence[ScheduleOutcome]:
        """Change schedules, in one transaction, and wake other processes.

        A schedule that has another revision than its update says, or is there though it must not be, stays as it is,
        and no row is inserted for it: so of several processes that know the same revision, one makes its update.
        """

    @abstractmethod
    async def read_rows(self, queue: str, after: int, limit: int) -> RowsRead:
        """Return up to ``limit`` rows with keys above ``after``, as they are stored: what is due, and not entered yet,
        is not entered in them. Those that are kept no longer are left out.
        """

    @abstractmethod
    async def insert_rows(self, queue: str, rows: Sequence[StoredTask]) -> Sequence[bool | str]:
        """Insert rows as they are, in one transaction; they count as pushed, and finished ones as finished, too.

        The lease of a row that is RUNNING is over: it is an orphan. A row whose id is known stays as it is.

        Returns:
          for each row: True if it was inserted; False if its task is there; or the reason for which it was refused.
        """

    @abstractmethod
    async def queues(self) -> Sequence[str]:
        """Return the names of all queues that ever had a task."""

    @abstractmethod
    async def register(self, queue: str, workers: Sequence[WorkerRow]) -> None:
        """Store the workers that run on this queue here; called again whenever they change."""

    @abstractmethod
    async def workers(self, queue: str) -> Sequence[StoredWorker]:
        """Return the workers that run on the queue, in any process; and, for an hour, those whose process died."""

    async def ask_workers(self, queue: str) -> None:
        """Ask all other engines with workers on the queue to store the states of these now. By default there is no
        other process."""
        await trio.lowlevel.checkpoint()

    async def listen(
        self, on_change: Callable[[], None], on_finish: Callable[[], None], on_asked: Callable[[], None]
    ) -> None:
        """Listen to other processes until cancelled. By default there is no other process.

        Call ``on_change`` whenever another process may have pushed, put back, finished or aborted a task; where it has
        only finished some, call ``on_finish`` instead, which costs less. Call ``on_asked`` whenever one asks for the
        states of the workers here. Additional calls do no harm; polling makes up for a missing call of the first two.
        """
        await trio.sleep_forever()


JUMP = 0.5
"""Seconds by which the machine's clock is suddenly ahead if the machine was asleep."""
_SLACK = 0.0005
_TRIES = 20

_OFFSETS: trio.lowlevel.RunVar[dict[str, Offset]] = trio.lowlevel.RunVar("trio_tasks clocks of files")


class Reading(NamedTuple):
    """The readings of trio's clock and the machine's clock at one instant."""

    machine: str
    """The name of the machine's clock."""
    seconds: float
    """The reading of the machine's clock."""
    trio: float
    """The reading of trio's clock."""


@final
class Offset:
    """The seconds between trio's clock and the store's; they only grow."""

    __slots__ = ("seconds", "sessions")

    def __init__(self) -> None:
        self.seconds = float("-inf")
        self.sessions: set[int] = set()
        """The numbers of those that go by it, where several processes may have the store open."""

    @classmethod
    def of(cls, path: str) -> Offset:
        """Return the one offset that all storages of this trio run share for this path, so that they agree under a
        virtual clock.
        """
        try:
            offsets = _OFFSETS.get()
        except LookupError:
            offsets = dict[str, Offset]()
            _OFFSETS.set(offsets)
        return offsets.setdefault(path, cls())


@final
class StoreClock:
    """The clock of a store: trio's clock plus an offset, which follows the machine's clock and never goes back.

    All of it may be called from any thread. The two clocks are read at one instant, in the thread that knows the time
    of the store, so it does not matter how long the event loop is busy meanwhile.

    Args:
      trio_time: trio's clock, as a function.
      offset: the seconds to add to it.
      is_virtual: True if a test moves trio's clock; then the machine's clock is not used, unless it was replaced, too.
    """

    __slots__ = ("_anchor", "_began", "_offset", "_trio_time", "is_virtual", "sessions")

    def __init__(self, trio_time: Callable[[], float], offset: Offset, *, is_virtual: bool = False) -> None:
        self.is_virtual = is_virtual
        stands_still = is_virtual and not is_machine_clock_replaced()
        self._began = Reading(*machine_now(), trio_time()) if stands_still else None
        self._trio_time = trio_time
        self._offset = offset
        self._anchor = float("-inf")
        self.sessions = offset.sessions
        """Those that have this very clock."""

    @property
    def is_shared(self) -> bool:
        """True if other processes may use this clock too: not under virtual time."""
        return self._began is None

    def anchor(self) -> tuple[str, float]:
        """The name of the machine's clock, and the seconds from it to the store's clock."""
        reading = self.read()
        return reading.machine, reading.trio + self._offset.seconds - reading.seconds

    def now(self) -> float:
        """Return the time of the store, in seconds since the epoch."""
        return self._trio_time() + self._offset.seconds

    def read(self) -> Reading:
        """Read both clocks at one instant; again if another thread ran in between."""
        if self._began is not None:
            now = self._trio_time()
            return self._began._replace(seconds=self._began.seconds + now - self._began.trio, trio=now)
        best = float("inf")
        reading = Reading("", 0.0, 0.0)
        for _ in range(_TRIES):
            before = self._trio_time()
            machine, seconds = machine_now()
            after = self._trio_time()
            if after - before < best:
                best, reading = after - before, Reading(machine, seconds, after)
            if best <= _SLACK:
                break
        return reading

    def start(self, now: float, reading: Reading) -> None:
        """Set the time of the store at this reading, unless another storage of the run has set a later one."""
        self._anchor = now - reading.seconds
        self._offset.seconds = max(self._offset.seconds, now - reading.trio)

    def tick(self) -> float:
        """Follow the machine's clock.

        Returns:
          the seconds by which it has jumped ahead, as it does when the machine wakes up; else 0.
        """
        if self._began is None and self._anchor + machine_seconds() <= self._trio_time() + self._offset.seconds:
            return 0.0  # trio's clock is read later, so this may be wrong by a moment, which is found the next time
        reading = self.read()
        ahead = self._anchor + reading.seconds - (reading.trio + self._offset.seconds)
        if ahead <= 0.0:
            return 0.0
        self._offset.seconds += ahead
        return ahead if ahead > JUMP else 0.0
