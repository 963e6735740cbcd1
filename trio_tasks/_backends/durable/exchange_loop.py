"""Group commit: exchanges run one after the other, each with all requests that have arrived meanwhile.

Requests are made of :class:`ExchangeLoop`. A :class:`Batch` of them is one exchange, which happens whole or not at
all. So one value that the store cannot take would fail all others in its batch. Where the error is not the store's, the
exchange is made again in halves, until the refused request is alone in one (:func:`exchange_in_parts`).
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, final

import trio
from outcome import Error, Value

from ..._concurrency.changes import ChangeCount
from ..._concurrency.virtual_time import may_stand_still
from ..._contracts.minutes import ADDED_AT_ONCE, VALUES
from ..._contracts.storage_events import Pushed
from ..._logging import catch_errors, log, log_and_suppress, passes_through
from ..._printing import escaped, quoted
from ..._tasks.errors import BackendError
from ..._tasks.task_id import stored_id
from .engine import COMES_BACK, ClaimRequest, Exchange, SettlementKind, new_tuple
from .failures import (
    UnforeseenError,
    as_backend_error,
    closed_error,
    copy_error,
    log_if_unforeseen,
)
from .queue import STALE, end_attempts
from .rows import event_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ..._contracts.minutes import MinuteRow
    from ..._tasks.errors import DuplicateTaskError
    from ..._tasks.limits import Limits
    from ..._tasks.task import Parts
    from .engine import Engine, ExchangeResult, KilledRow, NewRow, Settlement
    from .queue import QueueState

T = TypeVar("T")

_SUCCEEDED = SettlementKind.SUCCEEDED
_PATIENCE = 10.0
"""Seconds for which settling is tried again, and receivers wait, while the engine fails."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
"""Seconds between two tries while the engine fails."""
_ABORT_CHECK_INTERVAL = 0.02
"""Seconds between two checks for attempts to be aborted, however often the engine reports changes."""
_WRITE_INTERVAL = 1.0
"""Seconds between two writings of the sums of attempts. Heartbeats come less often, so they need not write them."""
_LONGEST_DELAY = 10
"""Leases by which a claim may be extended where exchanges take long; the next heartbeat makes it an ordinary one."""


@final
class PushRequest:
    """Rows to be inserted, and the trio task that waits until they are."""

    __slots__ = ("is_under_way", "queue", "rows", "trio_task")

    def __init__(self, queue: QueueState, rows: list[NewRow]) -> None:
        self.queue = queue
        self.rows = rows
        self.trio_task = trio.lowlevel.current_task()
        self.is_under_way = False


class SettleRequest(NamedTuple):
    """A settlement, and the trio task that waits for it; None for the release of a prefetched row.

    ``holder`` is the slot that waits, if it is one. It is asked whether it will take another task only when the claims
    of the exchange are made: by then it may have been cancelled, or its worker stopped.
    """

    queue: QueueState
    settlement: Settlement
    holder: Any = None
    parts: Parts | None = None
    trio_task: trio.lowlevel.Task | None = None


class Refused(NamedTuple):
    """The answer to a settlement that the store refuses."""

    error: BackendError


class BeforeClaims(NamedTuple):
    """The steps of an exchange that come before its claims."""

    late: Sequence[tuple[QueueState, Parts]]
    """Running attempts whose leases are to be renewed,"""
    as_of: float
    """as was found out at this time, by the engine's clock."""
    after_stall: bool
    """True if this process stood still."""


@final
@dataclass(slots=True)
class Batch:
    """Requests for one exchange, in the order in which they are made.

    Args:
      settles: the settlements.
      pushes: the rows to insert.
      claims: the claims, each with its queue, and with the queue's count of changes when the claim was made.
      before_claims: the steps before the claims.
      minutes: the sums of attempts to store.
    """

    settles: Sequence[SettleRequest] = ()
    pushes: Sequence[PushRequest] = ()
    claims: Sequence[tuple[ClaimRequest, QueueState, int]] = ()
    before_claims: BeforeClaims | None = None
    minutes: Sequence[MinuteRow] = ()

    @property
    def size(self) -> int:
        """The number of requests."""
        return len(self.settles) + len(self.pushes) + len(self.claims)

    def exchange(self) -> Exchange:
        """Return the exchange that makes all requests."""
        rows = [row for push in self.pushes for row in push.rows]
        exchange = Exchange([each.settlement for each in self.settles], rows, [claim for claim, _, _ in self.claims])
        exchange.minutes = self.minutes
        if self.before_claims is not None and self.claims:
            exchange.renewed = [(parts.context.claim_key, queue.lease) for queue, parts in self.renewals]
            exchange.as_of = self.before_claims.as_of
            exchange.after_stall = self.before_claims.after_stall
        return exchange

    @property
    def renewals(self) -> Sequence[tuple[QueueState, Parts]]:
        """The attempts whose leases the exchange renews, each with its queue."""
        return self.before_claims.late if self.before_claims is not None and self.claims else ()

    def halves(self) -> tuple[Batch, Batch]:
        """Divide the requests into two halves."""
        in_settles = self.size // 2
        in_pushes = max(0, in_settles - len(self.settles))
        in_claims = max(0, in_pushes - len(self.pushes))
        before = self.before_claims
        return (
            Batch(self.settles[:in_settles], self.pushes[:in_pushes], self.claims[:in_claims], before, self.minutes),
            Batch(self.settles[in_settles:], self.pushes[in_pushes:], self.claims[in_claims:], before),
        )

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            [*self.settles, *other.settles],
            [*self.pushes, *other.pushes],
            [*self.claims, *other.claims],
            self.before_claims,
            [*self.minutes, *other.minutes],
        )


class BatchResult(NamedTuple):
    """A batch, and the result of trying it as one exchange."""

    batch: Batch
    """The requests."""
    began_at: float
    """On the engine's clock."""
    result: ExchangeResult | BackendError
    """The result of the exchange, or the error of the engine."""
    is_refused: bool = False
    """True if the store is well, and the error concerns the one request in the batch."""


@final
class ExchangeLoop:
    """The trio task that makes exchanges with an engine, and the requests that wait for the next exchange.

    While an exchange is under way, pushes and settlements wait for the next one. The rows that an exchange claims are
    for the receivers that wait, and for the slots that it settles for and that then come back for another task. So no
    row is claimed without a free slot for it.

    Args:
      engine: the engine, which stores the rows. It is called from one trio task at a time: by the loop, or by
          :meth:`ask`.
      name: the name of the storage's class, for errors and the log.
      poll_interval: the seconds between two polls of the store while a receiver waits, in case a wake-up was lost.
    """

    def __init__(self, engine: Engine, name: str, poll_interval: float) -> None:
        self.engine = engine
        self._name = name
        self.queues: dict[str, QueueState] = {}
        self.is_open = False
        self.closed = False
        self.is_usable = False
        """True while it is open, and neither closed nor failed."""
        self.failure: BackendError | None = None  # the error that has ended the loop
        self.token: trio.lowlevel.TrioToken | None = None  # the trio run in which it was opened
        self.thread: int | None = None  # the thread of that run, which has no other one meanwhile
        self.pid: int | None = None  # the process in which it was opened
        self.wake_up = trio.Event()
        """Set when the loop has something to do."""
        self.first_limits: dict[str, Limits] = {}
        self._pushes: list[PushRequest] = []
        self._settles: list[SettleRequest] = []
        self._unanswered: dict[trio.lowlevel.Task, None] = {}  # trio tasks that wait for a push or a settlement
        self._engine_lock = trio.Lock()
        self._poll_interval = poll_interval
        self._next_poll = math.inf
        self.schedule_changes = ChangeCount()
        self._is_asked = False  # another process wants to know of the workers here
        self._next_write = math.inf  # the time at which the sums of attempts are written
        self._may_have_aborts = False  # True if another process may have requested an abort
        self._next_abort_check = -math.inf
        self._failing_since: float | None = None
        self._pause = _FIRST_PAUSE
        self._has_stalled = False  # True if the loop has stalled since the last exchange with claims
        self._took = 0.0  # the seconds that the latest exchange took

    # Requests

    @trio.lowlevel.enable_ki_protection
    async def push(self, queue: QueueState, rows: list[NewRow]) -> list[str | DuplicateTaskError]:
        """Insert rows, all in one transaction. If it is cancelled before its exchange begins, nothing was pushed; once
        the exchange is under way, it cannot be cancelled."""
        self.check_open()
        request = PushRequest(queue, rows)
        self._pushes.append(request)
        self._unanswered[request.trio_task] = None
        self.wake_up.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            if request.is_under_way:
                return trio.lowlevel.Abort.FAILED
            self._pushes.remove(request)
            del self._unanswered[request.trio_task]
            return trio.lowlevel.Abort.SUCCEEDED

        answers: list[str | DuplicateTaskError] = await trio.lowlevel.wait_task_rescheduled(leave)
        return answers

    @trio.lowlevel.enable_ki_protection
    def settle(self, queue: QueueState, settlement: Settlement, parts: Parts) -> None:
        """Request a settlement, for which the current trio task waits: it is rescheduled with the answer."""
        self.check_open()
        me = trio.lowlevel.current_task()
        self._settles.append(new_tuple(SettleRequest, (queue, settlement, parts.holder, parts, me)))
        self._unanswered[me] = None
        if not self.wake_up.is_set():
            self.wake_up.set()

    @trio.lowlevel.enable_ki_protection
    async def receive(self, queue: QueueState) -> Any:
        """Wait for a task of this queue; if it is cancelled, nothing was taken."""
        self.check_open()
        me = trio.lowlevel.current_task()
        queue.receivers[me] = None
        self.wake_up.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            del queue.receivers[me]
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(leave)

    @trio.lowlevel.enable_ki_protection
    async def ask(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call another method of the engine when it is free. If it is cancelled before that, nothing was done."""
        self.check_open()
        await trio.lowlevel.checkpoint()
        await self._engine_lock.acquire()
        results: list[T] = []
        with trio.CancelScope(shield=True):
            try:
                results.append(await async_fn(*args))
                self._note_killed(self.engine.take_killed())
            finally:
                self._engine_lock.release()
        return results[0]

    @trio.lowlevel.enable_ki_protection
    async def _with_engine(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the engine while no other trio task does."""
        try:
            self._engine_lock.acquire_nowait()  # a free lock costs no round of the scheduler
        except trio.WouldBlock:
            await self._engine_lock.acquire()
        try:
            return await async_fn(*args)
        finally:
            self._engine_lock.release()

    async def store_first_limits(self) -> None:  # noqa: ASYNC910  there may be none
        """Store the limits with which queues were opened, where there are none."""
        while self.first_limits:
            name, limits = self.first_limits.popitem()
            with log_and_suppress("the limits of queue %s could not be stored", quoted(name)):
                await self._with_engine(partial(self.engine.set_limits, only_if_none=True), name, None, limits)

    # Checks before a request

    def check_open(self) -> None:
        """Raise ``trio.ClosedResourceError``, or the failure of the storage, if it takes no requests any more."""
        if self.is_usable and get_ident() == self.thread:  # at a tenth of the price of the token
            return
        self._check_not_closed()
        if trio.lowlevel.current_trio_token() is not self.token:
            raise RuntimeError(f"{self._name} was opened in another trio run: open one in this run")
        if self.failure is not None:
            raise copy_error(self.failure)

    def check_usable(self) -> None:
        """Do as :meth:`check_open`, without trio: for calls in any thread and any trio run."""
        self.check_process()
        self._check_not_closed()
        if self.failure is not None:
            raise copy_error(self.failure)

    def _check_not_closed(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError(f"{self._name} is closed: make a new one to open the store again")
        if not self.is_open:
            raise trio.ClosedResourceError(f"{self._name} is not open: use it inside `async with storage`")

    def check_process(self) -> None:
        """Raise ``RuntimeError`` in a forked child."""
        if self.pid not in (None, os.getpid()):
            raise RuntimeError(f"this storage was opened by process {self.pid}, and cannot be used after a fork")

    # Changes in the store

    def check_queues(self) -> None:
        """Let the next exchange claim for all receivers, since rows may have become ready."""
        for queue in self.queues.values():
            queue.mark_changed()
        self.wake_up.set()

    def on_wakeup(self) -> None:
        """Check everything that another process may have changed: results, aborts, ready rows."""
        self._may_have_aborts = True
        self.schedule_changes.note()
        for queue in self.queues.values():
            queue.awaited.note_all()
        self.check_queues()

    def on_finish(self) -> None:
        """Check what depends on tasks that others may have finished."""
        if sum(queue.note_others_finished() for queue in self.queues.values()):
            self.wake_up.set()

    def on_asked(self) -> None:
        """Store the states of the workers here, since another process has asked for them."""
        self._is_asked = True
        self.wake_up.set()

    def late_leases(self, now: float) -> list[tuple[QueueState, list[Parts]]]:
        """Return the running attempts whose heartbeat is late, by queue; their leases are to be renewed at once."""
        return [(queue, late) for queue in self.queues.values() if (late := queue.late(now))]

    # The loop

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:  # noqa: ASYNC910  it ends when the storage is closed
        """Make exchanges until the storage is closed, or this is cancelled. Whatever ends it fails all requests and
        receivers.
        """
        with _EndOfLoop(self):
            await self._run()

    async def _run(self) -> None:  # noqa: ASYNC910  the same
        while not self.closed:
            if self._pushes or self._settles:
                await trio.lowlevel.checkpoint()  # so that requests made after the last answers are in this exchange
            else:
                await self._wait_until_needed()
            self.wake_up = trio.Event()
            if self.first_limits:
                await self.store_first_limits()
            now = self.engine.now()
            self._release_prefetched(now)
            claims = self._claims(now)
            if self._pushes or self._settles or claims or trio.current_time() >= self._next_write:
                await self._exchange(claims, now)
            self._end_queues()
            if self._is_asked:
                await self._tell_of_workers()
            if self._may_have_aborts and trio.current_time() >= self._next_abort_check:
                await self._check_aborts()

    async def _wait_until_needed(self) -> None:
        next_time = self._next_time()
        with trio.move_on_at(next_time):  # noqa: ASYNC912  the deadline may have passed
            await self.wake_up.wait()
        shortest = min((queue.lease for queue in self.queues.values()), default=math.inf)
        if trio.current_time() > next_time + shortest / 3:
            self._has_stalled = True
        if trio.current_time() >= self._next_poll:
            self._next_poll = math.inf
            for queue in self.queues.values():
                queue.prune(self.engine.now())
            self.on_wakeup()

    def _next_time(self) -> float:
        """Return the time of the next exchange or poll, if no request or wake-up comes before."""
        now, engine_now = trio.current_time(), self.engine.now()
        queues = self.queues.values()
        if any(queue.receivers or queue.awaited or queue.leased for queue in queues):
            interval = self._poll_interval if self.engine.needs_polling else math.inf
            self._next_poll = min(self._next_poll, now + interval)
        else:
            self._next_poll = math.inf
        next_time = min(self._next_poll, self._next_write)
        if self._may_have_aborts:
            next_time = min(next_time, self._next_abort_check)
        for queue in queues:
            if queue.prefetched:
                next_time = min(next_time, now + STALE)
            if not queue.is_waited_for:  # no claim is made then, so due rows do not matter
                continue
            if queue.refused_since is not None:  # no claim is made before that, though rows may be due
                next_time = min(next_time, now + max(0.0, queue.ask_again_at - engine_now))
            elif queue.next_due is not None:
                next_time = min(next_time, now + max(0.0, queue.next_due - engine_now))
        return next_time

    def _claims(self, now: float) -> list[tuple[ClaimRequest, QueueState, int]]:
        """Return the claims of the next exchange, each with its queue and the queue's count of changes."""
        returning: defaultdict[QueueState, list[Any]] = defaultdict(list)  # slots that will take another task
        changed = {push.queue: None for push in self._pushes}
        for queue, settlement, slot, _, _ in self._settles:
            if slot is not None and getattr(slot, "will_take_more", False):
                returning[queue].append(slot)
            if settlement.kind in COMES_BACK or not queue.handles or queue.is_held_back:
                changed[queue] = None
        for queue in changed:
            queue.mark_changed()
        claims: list[tuple[ClaimRequest, QueueState, int]] = []
        for queue in self.queues.values():
            left_out, slots = queue.left_out(), returning.get(queue, ())
            workers = queue.workers_waiting([slot.worker for slot in slots]) if queue.by_name else None
            wanted = queue.wanted(len(slots)) if workers is None else len(workers)
            if wanted and queue.is_worth_asking(now):
                lease = queue.lease
                if self._took > lease / 2:  # otherwise each lease would be over when its rows arrive
                    lease += min(2 * self._took, _LONGEST_DELAY * lease)
                claim = ClaimRequest(queue.name, wanted, lease, queue.worker_list, workers, left_out)
                claims.append((claim, queue, queue.changes))
        return claims

    # One exchange

    async def _exchange(self, claims: list[tuple[ClaimRequest, QueueState, int]], now: float) -> None:
        """Make one exchange, or several if the engine refuses a part of it, and answer all requests in it."""
        settles, pushes = self._take_requests()
        batch, began = Batch(settles, pushes, claims), trio.current_time()
        if claims:
            # Their rows could be claimed, were they not renewed before.
            late = [(queue, parts) for queue, late in self.late_leases(now) for parts in late]
            batch.before_claims = BeforeClaims(late, now, self._has_stalled)
            self._has_stalled = False
        if began >= self._next_write:
            batch.minutes = self._take_minutes()
        parts = await self._with_engine(exchange_in_parts, self.engine.exchange, batch, self.engine.now)
        now = self.engine.now()
        self._took = now - parts[0].began_at
        for part in parts:
            if not isinstance(part.result, BackendError):
                self._deliver(part, part.result, now)
                continue
            self._give_back(part.batch.minutes)
            if part.is_refused:
                self._refuse(part.batch, part.result)
            else:
                await self._handle_failure(part.result, part.batch.pushes, part.batch.settles, began)
        if settles and self._next_write == math.inf:
            self._next_write = trio.current_time() + _WRITE_INTERVAL

    def _take_minutes(self) -> list[MinuteRow]:
        """Take the sums of the attempts that were settled since this was last called."""
        self._next_write = math.inf
        return [row for queue in self.queues.values() for row in queue.tally.take(queue.name)]

    def _give_back(self, rows: Sequence[MinuteRow]) -> None:
        """Keep sums that could not be written, and write them a second later."""
        for row in rows:
            self.queues[row.queue].tally.give_back([row])
            self._next_write = trio.current_time() + _WRITE_INTERVAL

    async def write_minutes(self) -> None:  # noqa: ASYNC910  there may be none
        """Store the sums of attempts that are not stored yet; the caller has the engine."""
        rows = self._take_minutes()
        if rows:
            is_written = False
            try:
                await self.engine.exchange(Exchange(minutes=rows))
                is_written = True
            finally:
                if not is_written:
                    self._give_back(rows)

    def _take_requests(self) -> tuple[list[SettleRequest], list[PushRequest]]:
        """Take the waiting settlements and pushes; from now on these pushes cannot be cancelled."""
        settles, self._settles = self._settles, []
        pushes, self._pushes = self._pushes, []
        for push in pushes:
            push.is_under_way = True
        return settles, pushes

    def _deliver(self, part: BatchResult, result: ExchangeResult, now: float) -> None:
        """Answer the requests of a finished exchange, and give out the rows that it has claimed."""
        batch = part.batch
        self._failing_since, self._pause = None, _FIRST_PAUSE
        self._answer(result, batch.pushes, batch.settles, part.began_at)
        for (queue, parts), is_kept in zip(batch.renewals, result.renewed, strict=True):
            if is_kept:
                parts.context.until = part.began_at + queue.lease
            else:
                queue.lose_lease(parts)
        for number, (claim, queue, changes) in enumerate(batch.claims):
            claimed = result.claimed[number]
            queue.refused_since = None
            queue.is_held_back = bool(result.held_back) and result.held_back[number]
            if len(claimed) < claim.limit:
                queue.mark_drained(changes, result.next_due[number], result.live[number])
            queue.deliver(claimed, claim, part.began_at + claim.lease, now)

    def _answer(
        self, result: ExchangeResult, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest], now: float
    ) -> None:
        """Answer settlements and pushes with the result of their exchange."""
        unanswered, reschedule = self._unanswered, trio.lowlevel.reschedule
        for (queue, settlement, _, parts, trio_task), settled in zip(settles, result.settled, strict=True):
            if parts is None or trio_task is None:
                continue
            if settled is True and (started := parts.started) is not None:
                if settlement.kind is _SUCCEEDED:
                    queue.tally.succeeded.extend((parts.terms.name, started, parts.waits_since, now))
                else:
                    waited = started - parts.waits_since
                    queue.tally.add(parts.terms.name, settlement.kind, now - started, waited, now)
            if queue.awaited.by_id and settled is True and parts.id in queue.awaited.by_id:
                queue.endings[parts.id] = settlement
            if queue.forget_lease(parts):
                self.wake_up.set()
            if trio_task in unanswered:
                del unanswered[trio_task]
                reschedule(trio_task, Value(settled))
        for queue in self.queues.values():
            if len(queue.tally.succeeded) >= ADDED_AT_ONCE * VALUES:
                queue.tally.add_up()
        position = 0
        new: list[tuple[QueueState, str]] = []  # only where somebody listens
        for push in pushes:
            answers = result.pushed[position : position + len(push.rows)]
            position += len(push.rows)
            if push.queue.events.open:
                rows = zip(push.rows, answers, strict=True)
                new += [(push.queue, row.id) for row, answer in rows if answer == row.id]
            self._reschedule(push.trio_task, Value(answers))
        if new or result.killed:
            self._tell(new, result.killed)

    def _tell(self, new: Sequence[tuple[QueueState, str]], killed: Sequence[KilledRow]) -> None:
        """Tell of the changes of a transaction: of each new row before its end, and after that of the one that it has
        replaced.
        """
        ids = {task_id for _, task_id in new}
        ends = [row for row in killed if row.id in ids]
        replaced = {row.by: row for row in ends if row.by}
        self._note_killed(row for row in killed if row.id not in ids)
        for queue, task_id in new:
            if task_id in replaced:
                self._note_killed([replaced[task_id]])
            queue.events.tell(Pushed(stored_id(task_id), True))
        self._note_killed(row for row in ends if not row.by)

    def _note_killed(self, killed: Iterable[KilledRow]) -> None:
        """Wake those who wait for rows that the engine has killed, and tell of these rows."""
        for row in killed:
            queue = self.queues.get(row.queue)
            if queue is not None:
                queue.finish(row.id)
                if queue.events.open and (event := event_of(row)) is not None:
                    queue.events.tell(event)

    def _refuse(self, batch: Batch, error: BackendError) -> None:
        """Answer a request that the engine refuses while the store itself works. A queue whose claim is refused is
        asked again for a while; the other queues go on.
        """
        log_if_unforeseen(error)
        self._refuse_requests(error, batch.pushes, batch.settles)
        now = trio.current_time()
        for claim, queue, _ in batch.claims:
            if queue.refused_since is None:
                queue.refused_since = now
                log.warning("a storage cannot claim from queue %r: %s", claim.queue, error)
            if error.is_final or now >= queue.refused_since + _PATIENCE:
                queue.refused_since = None
                queue.fail_receivers(copy_error(error))
            else:
                queue.ask_again_at = self.engine.now() + _LONGEST_PAUSE

    def _refuse_requests(
        self, error: BackendError, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest]
    ) -> None:
        """Answer pushes and settlements that the store refuses.

        A worker settles an error in place of a success that is refused. If an error is refused, or a release, nothing
        else can be done: the task comes back when its lease is over.
        """
        for push in pushes:
            self._reschedule(push.trio_task, Error(copy_error(error)))
        for settle in settles:
            if settle.settlement.kind is SettlementKind.SUCCEEDED:
                self._answer_settlement(settle, Value(Refused(copy_error(error))))
                continue
            task_id = "one that was prefetched" if settle.parts is None else settle.parts.id
            log.error(
                "task %s cannot be settled, and comes back when its lease is over", escaped(task_id), exc_info=error
            )
            self._answer_settlement(settle, Value(False))

    async def _handle_failure(  # noqa: ASYNC910  a push ends the pause early
        self, error: BackendError, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest], began: float
    ) -> None:
        """Fail the pushes of an exchange that the store could not make. Settling is tried again, for a while since the
        first exchange that failed was begun; then settlements and receivers fail, too.
        """
        now = trio.current_time()
        log_if_unforeseen(error)
        if self._failing_since is None:
            self._failing_since = began
            log.warning("%s has failed: %s", self._name, error)
        for push in pushes:
            self._reschedule(push.trio_task, Error(copy_error(error)))
        if error.is_final or now >= self._failing_since + _PATIENCE:
            for settle in settles:  # the lease is forgotten here; in the store it runs out, and the task comes back
                self._answer_settlement(settle, Error(copy_error(error)))
            for queue in self.queues.values():
                queue.fail_receivers(copy_error(error))
        else:
            self._settles += settles
        with trio.move_on_after(self._pause):  # noqa: ASYNC912  the same
            while not self._pushes:  # a new push may succeed, or is failed at once
                await self.wake_up.wait()
                self.wake_up = trio.Event()
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self.wake_up.set()

    def _answer_settlement(self, settle: SettleRequest, result: Value[Any] | Error) -> None:
        if settle.trio_task is not None and settle.parts is not None:
            if settle.queue.forget_lease(settle.parts):
                self.wake_up.set()
            self._reschedule(settle.trio_task, result)

    def _reschedule(self, trio_task: trio.lowlevel.Task, result: Value[Any] | Error) -> None:
        """Wake a trio task with this result, unless it was answered already."""
        if trio_task in self._unanswered:
            del self._unanswered[trio_task]
            trio.lowlevel.reschedule(trio_task, result)

    async def _tell_of_workers(self) -> None:  # noqa: ASYNC910  the loop has its checkpoints elsewhere
        """Store the states of the workers here."""
        self._is_asked = False
        now = self.engine.now()
        told = [(queue, queue.workers.rows(queue.worker_names, now)) for queue in self.queues.values()]
        rows = [row for _, each in told for row in each]
        if not rows:
            return  # noqa: ASYNC910  the same
        with log_and_suppress("a storage could not tell of its workers"):
            await self._with_engine(self.engine.renew, (), 0.0, rows)
            for queue, each in told:
                queue.workers.note_told(each)

    async def _check_aborts(self) -> None:  # noqa: ASYNC910  the loop has its checkpoints elsewhere
        """End the attempts that another process has asked to abort."""
        self._may_have_aborts = False
        self._next_abort_check = trio.current_time() + (0.0 if may_stand_still() else _ABORT_CHECK_INTERVAL)
        held = {parts.context.claim_key: parts for queue in self.queues.values() for parts in queue.claimed()}
        if not held:
            return  # noqa: ASYNC910  the same
        with log_and_suppress("a storage could not check whether attempts are to be aborted"):
            end_attempts(held, await self._with_engine(self.engine.renew, (), 0.0))

    # Prefetched rows

    def _release_prefetched(self, now: float = math.inf) -> None:
        """Request the release of prefetched rows that no slot has taken; without a time, of all of them."""
        for queue in self.queues.values():
            if queue.prefetched and queue.is_stale(now):
                self._settles += [SettleRequest(queue, each) for each in queue.release_prefetched()]

    async def release_prefetched_now(self, queue: QueueState) -> None:
        """Release all prefetched rows of this queue; return when that is stored.

        It waits for the engine, so it comes after an exchange that has claimed for slots which are gone by now.
        Releases that were requested and not made yet are made, too.
        """
        await self.ask(self._release_prefetched_now, queue)

    async def _release_prefetched_now(self, queue: QueueState) -> None:  # noqa: ASYNC910  there may be no such rows
        returned = [SettleRequest(queue, each) for each in queue.release_prefetched()]
        returned += [each for each in self._settles if each.queue is queue and each.trio_task is None]
        if not returned:
            return  # noqa: ASYNC910  the same
        self._settles = [each for each in self._settles if each.queue is not queue or each.trio_task is not None]
        await self._settle_at_once(returned)
        queue.mark_changed()
        self.wake_up.set()

    async def _settle_at_once(self, settles: list[SettleRequest]) -> None:  # noqa: ASYNC910  there may be none
        """Make these settlements; the caller has locked the engine. If the store fails, those not made wait for the
        loop.
        """
        if not settles:
            return  # noqa: ASYNC910  the same
        for part in await exchange_in_parts(self.engine.exchange, Batch(settles), self.engine.now):
            if not isinstance(part.result, BackendError):
                self._answer(part.result, (), part.batch.settles, part.began_at)
            elif part.is_refused:
                self._refuse_requests(part.result, (), part.batch.settles)
            else:
                self._settles += part.batch.settles
                self.wake_up.set()
                raise part.result

    # The end

    def _end_queues(self) -> None:
        """Raise ``trio.EndOfChannel`` in the receivers of queues that have ended, and in the readers of the events of
        queues that are closed, once no push waits.
        """
        for queue in self.queues.values():
            if queue.events.open and not queue.handles and not any(push.queue is queue for push in self._pushes):
                queue.events.end()
            if queue.receivers and queue.may_have_ended and queue.has_ended(self.engine.now()):
                queue.fail_receivers(trio.EndOfChannel())

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """Make the waiting settlements, release prefetched rows, and close the engine."""
        for queue in self.queues.values():
            queue.receivers, waiting = OrderedDict(), queue.receivers
            for receiver in waiting:
                trio.lowlevel.reschedule(receiver, Error(closed_error()))
        self._release_prefetched()
        self.closed, self.is_usable = True, False
        self._pushes, late = [], self._pushes
        for push in late:
            self._reschedule(push.trio_task, Error(closed_error()))
        try:
            with log_and_suppress("a storage could not release its prefetched tasks"):
                await self._with_engine(self._make_last_exchange)
        finally:
            self._fail_waiters(closed_error)
            for queue in self.queues.values():
                queue.events.end()
            await self.engine.aclose()  # noqa: ASYNC102  the caller shields it, and an engine is bounded by itself

    async def _make_last_exchange(self) -> None:  # noqa: ASYNC910  there may be nothing to settle
        self._release_prefetched()  # rows that an exchange has claimed meanwhile
        settles, _ = self._take_requests()
        await self._settle_at_once(settles)
        with log_and_suppress("a storage could not write the sums of its last second"):
            await self.write_minutes()

    def fail(self, error: BackendError) -> None:
        """Fail all requests and receivers, now and later: no exchange is made any more."""
        self.failure, self.is_usable = error, False
        for queue in self.queues.values():
            queue.fail_receivers(copy_error(error))
            queue.events.end(lambda: copy_error(error))
        self._fail_waiters(lambda: copy_error(error))

    def _fail_waiters(self, make_error: Callable[[], Exception]) -> None:
        """Fail all unanswered pushes and settlements, and wake those who wait for results."""
        self._pushes, self._settles = [], []
        waiting, self._unanswered = self._unanswered, {}
        for trio_task in waiting:
            trio.lowlevel.reschedule(trio_task, Error(make_error()))
        for queue in self.queues.values():
            queue.awaited.note_all()


@final
class _EndOfLoop:
    """A context manager that fails all requests and receivers when its block ends, for whatever reason."""

    __slots__ = ("_loop",)

    def __init__(self, loop: ExchangeLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._loop.closed:
            return  # `end` fails them
        if error is None or passes_through(error):
            ours = BackendError("the storage has ended: no exchange is made any more")
            ours.is_final = True
        else:
            ours = as_backend_error(error)
            log_if_unforeseen(ours)
        self._loop.fail(ours)


async def exchange_in_parts(
    exchange: Callable[[Exchange], Awaitable[ExchangeResult]], batch: Batch, now: Callable[[], float]
) -> list[BatchResult]:
    """Make these requests in one exchange, or in several if the engine refuses one of them.

    Args:
      exchange: a function that makes one exchange with the engine.
      batch: the requests.
      now: the engine's clock.

    Returns:
      all of the requests, in parts. Of those without a result at most one is not refused: there the store failed.
    """
    began_at = now()
    with catch_errors() as caught:  # as a rule, nothing is refused
        return [BatchResult(batch, began_at, await exchange(batch.exchange()))]
    assert caught.error is not None
    error = as_backend_error(caught.error)
    if error.is_refusal and batch.size > 1:
        return await _exchange_by_halves(exchange, batch, now)
    is_refused = error.is_refusal and not isinstance(error, UnforeseenError)
    return [BatchResult(batch, began_at, error, is_refused)]  # noqa: ASYNC910  an engine is one


async def _exchange_by_halves(
    exchange: Callable[[Exchange], Awaitable[ExchangeResult]], batch: Batch, now: Callable[[], float]
) -> list[BatchResult]:
    """Make requests of which the engine refuses at least one, in ever smaller halves."""
    unasked, answered, refused = [*reversed(batch.halves())], list[BatchResult](), list[BatchResult]()
    failed: BatchResult | None = None
    while unasked and failed is None:
        current, began_at = unasked.pop(), now()
        with catch_errors() as caught:
            answered.append(BatchResult(current, began_at, await exchange(current.exchange())))
        if caught.error is None:
            continue
        error = as_backend_error(caught.error)
        if not error.is_refusal:
            failed = BatchResult(sum(reversed(unasked), current), began_at, error)
        elif current.size > 1:
            unasked += reversed(current.halves())
        else:
            refused.append(BatchResult(current, began_at, error, is_refused=True))
    if not answered and refused and all(isinstance(each.result, UnforeseenError) for each in refused):
        # The engine may be out of order, rather than a request: no other one succeeded.
        last = refused.pop()
        rest = sum([each.batch for each in refused], last.batch)
        failed = BatchResult(rest if failed is None else rest + failed.batch, last.began_at, last.result)
        refused = []
    return [*answered, *refused, *([failed] if failed is not None else ())]  # noqa: ASYNC910  an engine is one
