"""The state of one queue in this process: its receivers, its prefetched tasks, its leases, and awaited results."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Any, TypedDict, final

import trio
from outcome import Error, Value

from ..._checks import check_name, check_seconds
from ..._codecs.codec import CborCodec, JsonCodec, PydanticCodec, as_codec
from ..._contracts.calls import USUAL_LEASE
from ..._contracts.deadlines import check_default
from ..._contracts.event_readers import EventReaders
from ..._contracts.lending import SLOTS
from ..._contracts.minutes import Tally
from ..._contracts.result_waits import ResultWaits
from ..._contracts.sink import PushHooks
from ..._logging import catch_errors, line_of, log
from ..._printing import escaped
from ..._tasks.errors import AbortError, BackendError, SuspendError, withdrawn_error
from ..._tasks.limits import check_limits
from ..._tasks.outcome import Released, Status
from ..._tasks.task import Parts, Task, attempt_number, end_attempt
from ..._tasks.task_id import stored_id
from .encoding import decode_history, decode_options, ends_in_loss, moment_of, unreadable_since
from .engine import ClaimKey, Settlement, SettlementKind
from .worker_runs import WorkerRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from ..._codecs.codec import Codec
    from ..._contracts.deadlines import DefaultDeadline
    from ..._contracts.sink import OnPush
    from ..._tasks.extensions import Extensions
    from ..._tasks.limits import Limits
    from ..._tasks.task_info import PastAttempt
    from .engine import ClaimedRow, ClaimRequest, Renewal

_MOST_EXTENSIONS = 10_000
"""Pushed tasks whose extensions are kept, for the case that they are attempted in this process."""

_PUT_OFF = 5.0
"""Seconds for which a task that cannot be decoded is put back the first time; it doubles each time,"""
_PUT_OFF_AT_MOST = 300.0
"""up to this."""

_NOT_DECODED = object()
"""The place of args that are not decoded yet."""

_QUEUED, _TAKEN = Status.Queued, Status.Running
"""The statuses that each task comes to have: to look one up in an Enum costs as much as ten assignments."""

STALE = 0.005
"""Seconds after which a prefetched row that no slot has taken is released,"""
_ROUNDS = 3
"""and rounds of the exchange loop that have to pass before, since a round may take longer than that."""


def aborted() -> AbortError:
    """Make the error of a task that was aborted."""
    return AbortError("aborted while it ran")


def end_attempts(held: Mapping[ClaimKey, Parts], renewal: Renewal) -> None:
    """End those of these attempts that are to be aborted, or whose calls were cancelled."""
    for claim in renewal.aborted:
        if claim in held:
            end_attempt(held[claim], aborted())
    for claim in renewal.withdrawn:
        if claim in held:
            end_attempt(held[claim], withdrawn_error())


@final
class Lease:
    """The time-limited ownership of a running task: the ``parts.context`` of a task received from a stored queue.

    >>> async def handler(task: Task[Email]) -> None:
    ...     if isinstance(task.parts.context, Lease):
    ...         for past in task.parts.context.history:
    ...             print(past.attempt, past.error)

    Users read :attr:`history`; everything else belongs to the storage. A task of :class:`MemoryStorage` has no lease:
    its ``parts.context`` is a :class:`StoredTaskInfo`, which has ``history``, too.
    """

    __slots__ = ("in_delivery", "key", "packed_history", "queue", "settled", "token", "until", "worker", "writes")

    def __init__(
        self, queue: QueueState, key: Any, token: int, history: bytes | None, until: float, worker: str
    ) -> None:
        self.queue = queue
        self.key = key
        self.token = token
        self.packed_history = history
        self.until = until  # the end of the lease by the engine's clock; in the store it may be later
        self.worker = worker  # the name of the worker in the store
        self.settled = False
        self.in_delivery = False  # True while the receiver that it was given to has not run
        self.writes: tuple[Callable[[Any], object], ...] = ()

    @property
    def claim_key(self) -> ClaimKey:
        """The identity of the claim in the engine."""
        return ClaimKey(self.key, self.token)

    @property
    def history(self) -> tuple[PastAttempt, ...]:
        """The attempts before this one that did not succeed, the oldest first."""
        return decode_history(self.packed_history)

    def __repr__(self) -> str:
        return f"<claim {self.token} on row {self.key} of queue {self.queue.name!r}>"


class StorageOptions(TypedDict, total=False):
    """The keyword options of a queue on a stored backend, such as ``SqliteStorage(path, Email, lease=60.0)``.

    Args:
      lease: the seconds after which a running task is an orphan, unless its worker renews the lease, which it does
          every third of this time; default 30.
      codec: encodes args: ``JsonCodec``, ``PydanticCodec``, a codec object, or a function from the type to one; default
          ``CborCodec``.
      result_type: the type of the handler's results; a result of another type fails the task; default any plain value.
      keep_results: the seconds for which a succeeded task and its result are kept; default 3600. ``math.inf`` keeps
          them until vacuumed, 0 not at all.
      keep_dead: the seconds for which a failed or killed task is kept; default ``math.inf``.
      unreadable_after: the seconds for which a task that this program cannot decode is put back, in case another
          version of the program can; after that it is a dead letter; default 86400, a day.
      on_push: a sync function, or several, called with each task before it is pushed, in every way of pushing; each
          returns the task to push instead; default none.
      deadline: ``"inherit"`` gives each task that is pushed without a ``deadline`` that of the trio task which pushes
          it, if there is one; default None.
      limits: the :class:`Limits` of the queue, which are stored if it has none yet; default none.
    """

    lease: float
    """Seconds after which a running task is an orphan, unless its lease is renewed; default 30."""
    codec: Codec | Callable[[Any], Codec] | None
    """Encodes args; default ``CborCodec``."""
    result_type: Any
    """The type that handlers return; default any plain value."""
    keep_results: float
    """Seconds for which succeeded tasks are kept, with their results; default 3600."""
    keep_dead: float
    """Seconds for which failed and killed tasks are kept; default ``math.inf``: until vacuumed."""
    unreadable_after: float
    """Seconds for which a task that cannot be decoded is put back, before it fails; default 86400, a day."""
    on_push: OnPush
    """Called with each task before it is pushed; returns the task to push instead; default none."""
    deadline: DefaultDeadline | None
    """``"inherit"``: a task that is pushed without a deadline has that of the caller, if there is one; default None."""
    limits: Limits | None
    """Limits of the queue, which are stored if it has none yet; default none. They are not those of a shared queue."""


_A_DAY = 86_400.0
_USUAL = StorageOptions(
    lease=USUAL_LEASE,
    codec=None,
    result_type=Any,
    keep_results=3600.0,
    keep_dead=math.inf,
    unreadable_after=_A_DAY,
    on_push=(),
    deadline=None,
    limits=None,
)


@final
class QueueState:
    """The settings of a queue, and its receivers, prefetched tasks and leases in this process.

    Args:
      queue: the name of the queue.
      type: the type of the args.
      options: see :class:`StorageOptions`.
    """

    __slots__ = (
        "_renew_from",
        "_still_ending",
        "ask_again_at",
        "awaited",
        "by_name",
        "changes",
        "codec",
        "endings",
        "events",
        "extensions",
        "handles",
        "inherits",
        "is_drained",
        "is_held_back",
        "keep_dead",
        "keep_results",
        "lease",
        "leased",
        "limits",
        "live",
        "looked_at",
        "metadata_locks",
        "name",
        "next_due",
        "on_push",
        "options",
        "prefetched",
        "prefetched_at",
        "receivers",
        "refused_since",
        "results",
        "rounds",
        "tally",
        "type",
        "unreadable_after",
        "worker_names",
        "workers",
    )

    def __init__(self, queue: str, type: Any, options: StorageOptions) -> None:
        given: dict[str, Any] = {**_USUAL, **options}
        if unknown := given.keys() - _USUAL.keys():
            raise TypeError(f"a storage has no option {unknown.pop()!r}: it has {', '.join(_USUAL)}")
        self.options = given
        self.name = check_name(queue, "queue")
        self.type = type
        self.codec = as_codec(given["codec"], type)
        by_pydantic = isinstance(self.codec, PydanticCodec) and given["result_type"] is not Any
        made: Any = PydanticCodec if by_pydantic else CborCodec
        self.results: Codec = made(given["result_type"], name="the result")
        self.lease = check_seconds(given["lease"], "lease", positive=True)
        self.keep_results = _check_keep(given["keep_results"], "keep_results")
        self.keep_dead = _check_keep(given["keep_dead"], "keep_dead")
        self.unreadable_after = _check_keep(given["unreadable_after"], "unreadable_after")
        self.on_push = PushHooks(given["on_push"], self.name)
        self.inherits = check_default(given["deadline"])
        self.limits = check_limits(given["limits"])
        self.receivers: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self.prefetched: deque[Task[Any]] = deque()  # tasks that are claimed, and given to no slot yet
        self.prefetched_at = 0.0  # the time at which the last of them was claimed
        self.rounds = 0  # the number of rounds of the loop since then
        self.leased: dict[str, Parts] = {}  # tasks that are claimed, and given to a receiver
        self._still_ending: dict[str, Parts] = {}  # attempts that have lost their lease, and have yet to end
        self._renew_from = math.inf  # the time at which the first leased task has half of its lease left
        self.tally = Tally()
        self.handles = 0  # the number of open handles that can push
        self.worker_names: dict[object, str] = {}
        self.workers = WorkerRuns(self.name)
        self.by_name = False
        """True once workers of several names have run on it here: from then on each row is claimed for one worker, and
        given to a slot of this worker only."""
        self.awaited = ResultWaits()  # the calls that wait for results
        self.metadata_locks: dict[str, trio.Lock] = {}  # of the tasks whose metadata is being changed
        self.endings: dict[str, Settlement] = {}  # the ends of awaited tasks, if the store does not keep them
        self.extensions: OrderedDict[str, Extensions] = OrderedDict()
        self.events = EventReaders()
        self.changes = 0  # the number of times that rows may have become ready
        self.is_drained = False  # True if the last claim found fewer rows than its limit
        self.is_held_back = False  # True if limits held rows back from the last claim
        self.next_due: float | None = None  # no delayed row becomes ready before this time
        self.live = -1  # the number of unfinished rows at the time of the last look
        self.looked_at = -math.inf  # the time of that look
        self.refused_since: float | None = None  # by trio's clock; since then the store refuses claims of this queue
        self.ask_again_at = -math.inf  # by the engine's clock; no claim is made before this time

    def sibling(self, queue: str, type: Any, options: StorageOptions) -> QueueState:
        """Make the state of another queue, with these options, and otherwise those of this queue."""
        same = dict(self.options)
        if isinstance(same["codec"], (CborCodec, JsonCodec, PydanticCodec)):  # it was made for this type
            same["codec"] = same["codec"].for_type
        every: Any = {**same, "limits": None, **options}
        return QueueState(queue, type, every)

    # Claiming

    def wanted(self, returning: int) -> int:
        """Return the number of rows to claim, if this many slots will take another task after this exchange."""
        return max(0, len(self.receivers) + returning - len(self.prefetched))

    def is_worth_asking(self, now: float) -> bool:
        """Return True if the queue may have rows that are ready."""
        if self.refused_since is not None and now < self.ask_again_at:
            return False
        return not self.is_drained or (self.next_due is not None and self.next_due <= now)

    def mark_changed(self) -> None:
        """Note that rows may have become ready or finished, so that the next claim must be made."""
        self.changes += 1
        self.is_drained = False
        self.live = -1

    @property
    def worker_list(self) -> str:
        """The name of the only worker that runs on the queue here; empty if there is none."""
        return next(iter(self.worker_names.values()), "")

    def set_workers(self, workers: dict[object, str]) -> None:
        """Set the workers that run on the queue here."""
        before, self.worker_names = set(self.worker_names.values()), workers
        self.workers.keep_only(workers)
        now = set(workers.values())
        self.by_name = self.by_name or len(now) > 1 or (bool(self.prefetched) and now != before)

    @property
    def is_waited_for(self) -> bool:
        """True if a receiver waits for a row that is not prefetched."""
        return bool(self.workers_waiting(()) if self.by_name else self.wanted(0))

    def workers_waiting(self, returning: Iterable[str]) -> list[str]:
        """Return the workers to claim rows for, one name for each row: those of the receivers, in order, then those of
        slots that will return. A prefetched row serves its own worker.
        """
        wanted = [*map(_worker_of, self.receivers), *returning]
        if not self.prefetched:
            return wanted
        prefetched = Counter(task.parts.context.worker for task in self.prefetched)
        waiting: list[str] = []
        for name in wanted:
            if prefetched[name] > 0:
                prefetched[name] -= 1
            else:
                waiting.append(name)
        return waiting

    def mark_drained(self, changes: int, next_due: float | None, live: int) -> None:
        """Note that a claim found fewer rows than its limit; ``changes`` is the count when it was made."""
        if self.changes == changes:
            self.is_drained, self.next_due, self.live, self.looked_at = True, next_due, live, trio.current_time()

    def deliver(self, rows: list[ClaimedRow], claim: ClaimRequest, until: float, now: float) -> None:
        """Give claimed rows to the receivers, and keep the rest prefetched. All of them are kept, and released later,
        if they arrived so late that their lease is over.
        """
        if not rows:
            return
        if now >= until:
            message = "claims from queue %r took %.1f s, which is longer than the lease: give it a longer one than %g s"
            log.warning(message, self.name, now - until + claim.lease, self.lease)
        self._renew_from = min(self._renew_from, until - self.lease / 2)
        self.prefetched_at, self.rounds = trio.current_time(), 0
        worker, workers = claim.worker, claim.workers
        names = [*reversed(workers[: len(rows)])] if workers is not None else None
        rows.reverse()
        args = self._decode_all(rows)
        while rows:  # drop each at once: a hundred more living objects would start the garbage collector
            row = rows.pop()
            if names is not None:
                worker = names.pop()
            task = self._task_of(row, args.pop(), until, now, worker)
            receiver = None
            if self.receivers and now < until and not (self._still_ending and self._still_runs(row.id)):
                receiver = self._pop_receiver(worker) if self.by_name else self.receivers.popitem(last=False)[0]
            if receiver is not None:
                self.leased[row.id] = task.parts
                task.parts.context.in_delivery = True
                trio.lowlevel.reschedule(receiver, Value(task))
            else:
                self.prefetched.append(task)

    def _pop_receiver(self, worker: str) -> trio.lowlevel.Task | None:
        """Remove and return the first receiver of this worker; None if there is none."""
        receiver = next((each for each in self.receivers if _worker_of(each) == worker), None)
        if receiver is not None:
            del self.receivers[receiver]
        return receiver

    def _decode_all(self, rows: list[ClaimedRow]) -> list[Any]:
        """Return the args of these rows; if one cannot be decoded, none is decoded yet."""
        decode = self.codec.decode
        with catch_errors():
            return [decode(row.payload) for row in rows]
        return [_NOT_DECODED] * len(rows)

    def _task_of(self, row: ClaimedRow, args: Any, until: float, now: float, worker: str) -> Task[Any]:
        key, token, task_id, attempt, _, options, history, run_at, name, pushed, started, since, deadline = row
        extensions = self.extensions.get(task_id) if self.extensions else None
        parts = Parts(stored_id(task_id), attempt=attempt_number(attempt), extensions=extensions)
        is_ordinary = options is None and history is None and run_at is None and name is None
        if args is _NOT_DECODED or not is_ordinary:
            args = self._read(row, args, parts, now)
        parts.status = _QUEUED
        parts.pushed = pushed
        parts.started = started
        parts.waits_since = since
        if deadline is not None:
            parts.deadline, parts.cancel_at = deadline, trio.current_time() + deadline - now
        parts.context = Lease(self, key, token, history, until, worker)
        return Task(args, parts)

    def _read(self, row: ClaimedRow, args: Any, parts: Parts, now: float) -> Any:
        """Set the parts of a task that are stored encoded, and return its args.

        If one of these cannot be decoded, the task is marked as unfit, and its args are the payload.
        """
        with catch_errors() as caught:
            if row.options is not None or row.name is not None:
                parts.terms, parts.metadata = decode_options(row.options, row.name)
            if row.run_at is not None:
                parts.run_at = moment_of(row.run_at, row.options)
            if row.history is not None:
                parts.is_orphan = ends_in_loss(row.history)
            return self.codec.decode(row.payload) if args is _NOT_DECODED else args
        assert caught.error is not None
        parts.unfit = self._put_off(caught.error, row, now)
        return row.payload

    def _put_off(self, error: BaseException, row: ClaimedRow, now: float) -> BaseException:
        """Return the error for a task that this process cannot decode: a suspension, or the decoding error.

        Another version of the program may decode the task. So the decoding error is returned only once the task is old
        enough to fail.
        """
        try:
            since = unreadable_since(row.history)
        except BackendError:  # the history cannot be read, and is replaced
            since = None
        age = 0.0 if since is None else max(0.0, now - since)
        if age >= self.unreadable_after:
            return error
        if since is None:
            message = "task %s of queue %r cannot be read here, and is put back for a version that can: %s"
            log.warning(message, escaped(row.id), self.name, line_of(error))
        delay = min(_PUT_OFF + age, _PUT_OFF_AT_MOST, self.unreadable_after - age)  # it doubles each time
        suspension = SuspendError(delay, f"it cannot be read here: {line_of(error)}")
        suspension.__cause__ = error
        return suspension

    def take(self, now: float) -> Task[Any] | None:
        """Remove and return the next prefetched task for the current trio task; None if there is none.

        A task whose lease is over, in a process that was stopped, is not begun: another process may have it by now. It
        stays, and is released.
        """
        if not self.prefetched or now >= self.prefetched[0].parts.context.until:
            return None
        if self.by_name or self._still_ending:
            worker = _worker_of(trio.lowlevel.current_task())
            if self._may_take(self.prefetched[0], worker):  # the usual case: slots come back in this order
                task = self.prefetched.popleft()
            else:
                found = next((each for each in self.prefetched if self._may_take(each, worker)), None)
                if found is None:
                    return None
                self.prefetched.remove(found)
                task = found
        else:
            task = self.prefetched.popleft()
        parts = task.parts
        parts.status = _TAKEN
        self.leased[parts.id] = parts
        return task

    def _may_take(self, task: Task[Any], worker: str) -> bool:
        if self.by_name and task.parts.context.worker != worker:
            return False
        return not (self._still_ending and self._still_runs(task.parts.id))

    def is_stale(self, now: float) -> bool:
        """Return True if no slot took the prefetched tasks though all had time to, or if their lease is over."""
        self.rounds += 1
        if self.prefetched and self.prefetched[0].parts.context.until <= now:
            return True
        return self.rounds > _ROUNDS and trio.current_time() >= self.prefetched_at + STALE

    def unbegun(self) -> set[str]:
        """Return the ids of tasks that are claimed and not begun."""
        in_delivery = {task_id for task_id, parts in self.leased.items() if parts.status is Status.Queued}
        return in_delivery | {str(task.parts.id) for task in self.prefetched}

    def release_prefetched(self) -> list[Settlement]:
        """Remove all prefetched tasks, and return the settlements that release them."""
        releases = [
            Settlement(self.name, lease.key, lease.token, SettlementKind.RELEASED, 0.0, None, None, math.inf)
            for lease in (task.parts.context for task in self.prefetched)
        ]
        self.prefetched.clear()
        return releases

    def forget_lease(self, parts: Parts) -> bool:
        """Forget the lease of an attempt. Returns True if it had been lost, and this was the end of the attempt: only
        now may the task be begun here anew."""
        if self.leased.get(parts.id) is parts:
            del self.leased[parts.id]
        if self._still_ending and self._still_ending.get(parts.id) is parts:
            self._note_end_of(parts.id)
            return True
        return False

    def note_renewal(self, held: dict[ClaimKey, Parts], renewal: Renewal, until: float) -> None:
        """Note the new end of these leases; cancel attempts whose lease is lost or that are to be aborted."""
        for claim in renewal.lost:
            if (parts := held.pop(claim, None)) is not None:
                self.lose_lease(parts)
        end_attempts(held, renewal)
        for parts in held.values():
            parts.context.until = until

    def claimed(self) -> Iterator[Parts]:
        """All tasks that are claimed here, begun or not."""
        yield from self.leased.values()
        yield from (task.parts for task in self.prefetched)

    def prune(self, now: float) -> None:
        """Forget expired leases of tasks that no worker runs."""
        over = [parts for parts in self.leased.values() if parts.context.until <= now and not _is_at_work(parts)]
        for parts in over:
            del self.leased[parts.id]

    def late(self, now: float) -> list[Parts]:
        """Return the running attempts with less than half of their lease left: their heartbeat, which comes every third
        of it, is late.
        """
        if now < self._renew_from:
            return []
        half = self.lease / 2
        late: list[Parts] = []
        first = now + self.lease
        for parts in self.leased.values():
            until = parts.context.until
            if until > now + half:
                first = min(first, until)
            elif _is_at_work(parts) and not parts.context.settled:
                late.append(parts)
        if not late:  # late ones stay late until they are renewed, which may fail
            self._renew_from = first - half
        return late

    def lose_lease(self, parts: Parts) -> None:
        """Cancel an attempt that has lost its lease. Until it has ended, the task is not begun here anew."""
        self.forget_lease(parts)
        if parts.holder is not None and parts.holder.revoke(Released("its lease was lost")):
            self._still_ending[parts.id] = parts

    def _still_runs(self, task_id: str) -> bool:
        """Return True if an attempt at this task that has lost its lease has not ended yet."""
        parts = self._still_ending.get(task_id)
        if parts is not None and parts.holder is None:
            parts = None
            self._note_end_of(task_id)
        return parts is not None

    def _note_end_of(self, task_id: str) -> None:
        del self._still_ending[task_id]
        self.mark_changed()  # it is not left out of the next claim

    def left_out(self) -> Collection[str]:
        """Return the keys of rows not to be claimed here, since an attempt that has lost its lease still runs."""
        if not self._still_ending:
            return ()
        return {task_id for task_id in [*self._still_ending] if self._still_runs(task_id)}

    # Pushing

    def keep_extensions(self, parts: Parts) -> bool:
        """Keep the extensions of a task about to be pushed; False if it has none, or they are kept already."""
        if not parts.has_extensions or parts.id in self.extensions:
            return False
        self.extensions[parts.id] = parts.extensions
        if len(self.extensions) > _MOST_EXTENSIONS:
            self.extensions.popitem(last=False)
        return True

    # Ending

    @property
    def may_have_ended(self) -> bool:
        """True if the queue is closed here, no task is prefetched, and the number of its live rows is known."""
        return not (self.handles or self.live < 0 or self.prefetched)

    def has_ended(self, now: float) -> bool:
        """Return True if the queue is closed here, and was empty at the last claim.

        A task that was received outside of a worker and not settled does not keep it open while its lease lasts.
        """
        if not self.may_have_ended:
            return False
        self.prune(now)
        return self.live <= len(self.leased) and not any(
            parts.holder or parts.context.in_delivery for parts in self.leased.values()
        )

    def finish(self, task_id: str) -> None:
        """Note that a task is finished, and wake those who wait for its result."""
        if self.extensions:
            self.extensions.pop(task_id, None)
        if self.awaited.by_id:
            self.awaited.note(task_id)

    def note_others_finished(self) -> bool:
        """Note that other processes may have finished tasks: results, a place under a limit, the end of the queue.
        Return True if a claim has to be made.
        """
        self.awaited.note_all()
        if self.is_held_back or not self.handles:
            self.mark_changed()
            return True
        return False

    def fail_receivers(self, error: BaseException) -> None:
        """Raise this error in all receivers."""
        while self.receivers:
            receiver, _ = self.receivers.popitem(last=False)
            trio.lowlevel.reschedule(receiver, Error(error))

    def __repr__(self) -> str:
        return (
            f"<queue {self.name!r}: {len(self.receivers)} slots wait, "
            f"{len(self.prefetched)} tasks prefetched, {len(self.leased)} leased>"
        )


def _worker_of(trio_task: trio.lowlevel.Task) -> str:
    """Return the name of the worker whose slot runs in this trio task; empty if none does."""
    slot = SLOTS.get(trio_task)
    return "" if slot is None else slot.worker


def _is_at_work(parts: Parts) -> bool:
    """Return True if a worker has the task, or it is being delivered to one."""
    return parts.holder is not None or bool(parts.context.in_delivery)


def _check_keep(value: float, name: str) -> float:
    return value if value == math.inf else check_seconds(value, name)
