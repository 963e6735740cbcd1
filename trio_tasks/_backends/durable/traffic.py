"""What many trio tasks ask of one engine, lined up for the next exchange.

While an exchange is under way, whoever pushes or settles lines up for the next; the rows that an exchange claims are
for those who wait for a task, and for the slots that are being told of their settlements and will come back for more.
So nothing is claimed that nobody has a free slot for. Who makes the exchanges is the :class:`Pump`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio
from outcome import Error, Value

from ..._logging import log, log_and_suppress
from ..._printing import escaped
from ..._tasks.errors import BackendError
from .batch import Batch, exchange_in_parts
from .engine import COMES_BACK, ClaimRequest, NewRow, Settlement, SettlementKind
from .requests import PushRequest, Refused, SettleRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..._tasks.errors import DuplicateTaskError
    from ..._tasks.task import Parts
    from .engine import Engine, ExchangeResult
    from .queue import QueueState

T = TypeVar("T")

_LONGEST_DELAY = 10
"""Leases that a claim may be made longer, where exchanges take long. With the next heartbeat it is an ordinary one."""


@final
class Traffic:
    """What goes back and forth between the queues of a storage and its engine.

    Args:
      engine: of which :meth:`ask` and the exchange_loop make use in turns.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.queues: dict[str, QueueState] = {}
        self.pushes: list[PushRequest] = []
        self.settles: list[SettleRequest] = []
        self.wake_up = trio.Event()
        """Set when the exchange_loop has something to do."""
        self.may_have_aborts = False
        """Whether somebody else may have asked for an attempt to be aborted."""
        self.took = 0.0  # seconds, the latest exchange
        self.is_open = False
        self.token: trio.lowlevel.TrioToken | None = None  # of the run in which it was opened,
        self.pid: int | None = None  # in this process
        self.closed = False
        self.failure: BackendError | None = None  # which has ended the exchange_loop
        self._engine_lock = trio.Lock()
        self._unanswered: dict[trio.lowlevel.Task, None] = {}  # those who wait for a push or a settlement

    # What the storages ask

    @trio.lowlevel.enable_ki_protection
    async def push(self, queue: QueueState, rows: list[NewRow]) -> list[str | DuplicateTaskError]:
        """Let rows in, all in one transaction. If it is cancelled while it waits for its turn, nothing was pushed; once
        the transaction is under way, it cannot be cancelled."""
        self.check_open()
        request = PushRequest(queue, rows)
        self.pushes.append(request)
        self._unanswered[request.trio_task] = None
        self.wake_up.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            if request.is_under_way:
                return trio.lowlevel.Abort.FAILED
            self.pushes.remove(request)
            del self._unanswered[request.trio_task]
            return trio.lowlevel.Abort.SUCCEEDED

        answers: list[str | DuplicateTaskError] = await trio.lowlevel.wait_task_rescheduled(leave)
        return answers

    @trio.lowlevel.enable_ki_protection
    def settle(self, queue: QueueState, settlement: Settlement, parts: Parts) -> None:
        """Have this settled: the current trio task, which is to wait for that, is rescheduled with the answer (a bool,
        or an exception), within bounds."""
        self.check_open()
        me = trio.lowlevel.current_task()
        self.settles.append(SettleRequest(queue, settlement, parts.holder, parts, me))
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
        """Call one of the engine's other methods, when it is free. If it is cancelled before that, nothing was done."""
        self.check_open()
        await trio.lowlevel.checkpoint()
        await self._engine_lock.acquire()
        results: list[T] = []
        with trio.CancelScope(shield=True):
            try:
                results.append(await async_fn(*args))
            finally:
                self._engine_lock.release()
        return results[0]

    @trio.lowlevel.enable_ki_protection
    async def with_engine(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the engine, when nobody else does."""
        try:
            self._engine_lock.acquire_nowait()  # a turn that is free costs no round of the scheduler
        except trio.WouldBlock:
            await self._engine_lock.acquire()
        try:
            return await async_fn(*args)
        finally:
            self._engine_lock.release()

    # What happens to them

    def check_queues(self) -> None:
        """Something may have changed: see what there is for those who wait."""
        for queue in self.queues.values():
            queue.mark_changed()
        self.wake_up.set()

    def on_wakeup(self) -> None:
        """Somebody else may have changed something."""
        self.may_have_aborts = True
        for queue in self.queues.values():
            for event in queue.awaited.values():
                event.set()
        self.check_queues()

    def check_open(self) -> None:
        """Raise ``trio.ClosedResourceError``, or what has happened, if nothing can be asked any more."""
        if not self.is_open or self.closed:
            raise trio.ClosedResourceError("this storage is not open: use it inside `async with storage`")
        if trio.lowlevel.current_trio_token() is not self.token:
            raise RuntimeError("this storage was opened in another process, or another run: open one here")
        if self.failure is not None:
            raise copy_error(self.failure)

    def check_usable(self) -> None:
        """As :meth:`check_open`, in any thread and any trio run: for what needs nothing of trio."""
        self.check_process()
        if not self.is_open or self.closed:
            raise trio.ClosedResourceError("this storage is not open: use it inside `async with storage`")
        if self.failure is not None:
            raise copy_error(self.failure)

    def check_process(self) -> None:
        """Raise ``RuntimeError`` after a fork."""
        if self.pid not in (None, os.getpid()):
            raise RuntimeError(f"this storage was opened by process {self.pid}, and cannot be used after a fork")

    def claims(self) -> tuple[list[ClaimRequest], list[QueueState]]:
        """What to claim together with what is lined up, and for which queues."""
        now = self.engine.now()
        returning: dict[QueueState, int] = {}
        stirred = {push.queue: None for push in self.pushes}
        for settle in self.settles:
            queue, holder = settle.queue, settle.holder
            if holder is not None and getattr(holder, "will_take_more", False):
                returning[queue] = returning.get(queue, 0) + 1
            if settle.settlement.kind in COMES_BACK or not queue.handles:
                stirred[queue] = None
        for queue in stirred:
            queue.mark_changed()
        claims: list[ClaimRequest] = []
        queues: list[QueueState] = []
        for queue in self.queues.values():
            left_out = queue.left_out()
            workers = queue.workers_waiting(self._workers_returning(queue)) if queue.by_name else None
            wanted = queue.wanted(returning.get(queue, 0)) if workers is None else len(workers)
            if wanted and queue.is_worth_asking(now):
                lease = queue.lease
                if self.took > lease / 2:  # or it would be over when the rows come, again and again
                    lease += min(2 * self.took, _LONGEST_DELAY * lease)
                claims.append(ClaimRequest(queue.name, wanted, lease, queue.worker_list, workers, left_out))
                queues.append(queue)
        return claims, queues

    def _workers_returning(self, queue: QueueState) -> list[str]:
        """The workers of the slots that are being told, and will come back for another task."""
        return [each.holder.worker for each in self.settles if each.queue is queue and each.will_take_more]

    def late_by_queue(self) -> list[tuple[QueueState, list[Parts]]]:
        """The attempts under way whose leases are to be renewed at once, since a heartbeat is late."""
        now = self.engine.now()
        return [(queue, late) for queue in self.queues.values() if (late := queue.late(now))]

    def late(self) -> list[tuple[QueueState, Parts]]:
        """The same, each with its queue."""
        return [(queue, parts) for queue, late in self.late_by_queue() for parts in late]

    def take_requests(self) -> tuple[list[SettleRequest], list[PushRequest]]:
        """Take the settlements and pushes that are lined up; from now on no push of these can be cancelled."""
        settles, self.settles = self.settles, []
        pushes, self.pushes = self.pushes, []
        for push in pushes:
            push.is_under_way = True
        return settles, pushes

    def answer(self, answer: ExchangeResult, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest]) -> None:
        """Those who pushed and settled have their answers."""
        unanswered = self._unanswered
        for settle, settled in zip(settles, answer.settled, strict=True):
            queue, settlement, _, parts, trio_task = settle
            if parts is None or trio_task is None:
                continue
            if settled is True and queue.waiters and parts.id in queue.waiters:
                queue.endings[parts.id] = settlement
            if queue.forget_lease(parts):
                self.wake_up.set()
            if trio_task in unanswered:
                del unanswered[trio_task]
                trio.lowlevel.reschedule(trio_task, Value(settled))
        position = 0
        for push in pushes:
            answers = answer.pushed[position : position + len(push.rows)]
            position += len(push.rows)
            self._answer(push.trio_task, Value(answers))
        for name, task_id in answer.finished:
            if name in self.queues:
                self.queues[name].finish(task_id)

    def refuse(self, error: BackendError, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest]) -> None:
        """The store does not take these: tell those who asked for it.

        A worker settles an error in place of a success. If a mere error is refused, or that a task is put back, nothing
        else can be done: the task comes back when its lease is over.
        """
        for push in pushes:
            self._answer(push.trio_task, Error(copy_error(error)))
        for settle in settles:
            if settle.settlement.kind is SettlementKind.SUCCEEDED:
                self._answer_settlement(settle, Value(Refused(copy_error(error))))
                continue
            task_id = "one at hand" if settle.parts is None else settle.parts.id
            log.error(
                "task %s cannot be settled, and comes back when its lease is over", escaped(task_id), exc_info=error
            )
            self._answer_settlement(settle, Value(False))

    def fail(self, error: BackendError, pushes: Sequence[PushRequest], settles: Sequence[SettleRequest]) -> None:
        """The store has failed: tell those who asked for these."""
        for push in pushes:
            self._answer(push.trio_task, Error(copy_error(error)))
        for settle in settles:  # nobody holds it; but it is live, and comes back with its lease
            self._answer_settlement(settle, Error(copy_error(error)))

    def _answer_settlement(self, settle: SettleRequest, result: Value[Any] | Error) -> None:
        if settle.trio_task is not None and settle.parts is not None:
            if settle.queue.forget_lease(settle.parts):
                self.wake_up.set()
            self._answer(settle.trio_task, result)

    def _answer(self, trio_task: trio.lowlevel.Task, result: Value[Any] | Error) -> None:
        if trio_task in self._unanswered:
            del self._unanswered[trio_task]
            trio.lowlevel.reschedule(trio_task, result)

    def release_prefetched(self, *, only_stale: bool) -> None:
        """Line up what releases the rows at hand that nobody has come for."""
        now = self.engine.now()
        for queue in self.queues.values():
            if queue.prefetched and (not only_stale or queue.is_stale(now)):
                self.settles += [SettleRequest(queue, each) for each in queue.release_prefetched()]

    async def release_prefetched_now(self, queue: QueueState) -> None:
        """Release all rows of this queue that were claimed and that nobody was given, and return when that is stored.

        It waits for its turn, so it comes after any exchange that has claimed for slots that are gone by now. Rows that
        were lined up to be given back, and are not yet, are taken along.
        """
        await self.ask(self._release_prefetched_now, queue)

    async def _release_prefetched_now(self, queue: QueueState) -> None:  # noqa: ASYNC910  there may be nothing to give back
        returned = [SettleRequest(queue, each) for each in queue.release_prefetched()]
        returned += [each for each in self.settles if each.queue is queue and each.trio_task is None]
        if not returned:
            return  # noqa: ASYNC910  the same
        self.settles = [each for each in self.settles if each.queue is not queue or each.trio_task is not None]
        await self._settle_at_once(returned)
        queue.mark_changed()
        self.wake_up.set()

    def end_queues(self) -> None:
        """Who waits for a task of a queue that has ended is told so."""
        now = self.engine.now()
        for queue in self.queues.values():
            if queue.receivers and queue.has_ended(now):
                queue.fail_receivers(trio.EndOfChannel())

    # The end

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """Settle what is to be settled, give back what is at hand, and close the engine."""
        for queue in self.queues.values():
            queue.receivers, waiting = OrderedDict(), queue.receivers
            for receiver in waiting:
                trio.lowlevel.reschedule(receiver, Error(_closed()))
        self.release_prefetched(only_stale=False)
        self.closed = True
        self.pushes, late = [], self.pushes
        for push in late:
            self._answer(push.trio_task, Error(_closed()))
        try:
            with log_and_suppress("a storage could not give back what it had at hand"):
                await self.with_engine(self._exchange_for_the_last_time)
        finally:
            self._fail_waiters(_closed)
            await self.engine.aclose()  # noqa: ASYNC102  who closes shields it, and an engine is bounded by itself

    def fail_all(self, error: BackendError) -> None:
        """Fail all who wait for an exchange, and all who will ask for one: none is made any more."""
        self.failure = error
        for queue in self.queues.values():
            queue.fail_receivers(copy_error(error))
        self._fail_waiters(lambda: copy_error(error))

    async def _exchange_for_the_last_time(self) -> None:  # noqa: ASYNC910  there may be nothing to exchange
        self.release_prefetched(only_stale=False)  # what an exchange has brought in meanwhile
        settles, _ = self.take_requests()
        await self._settle_at_once(settles)

    async def _settle_at_once(self, settles: list[SettleRequest]) -> None:  # noqa: ASYNC910  there may be nothing to settle
        """Settle these, in this turn. If the store fails, those that it has not settled are lined up again."""
        if not settles:
            return  # noqa: ASYNC910  the same
        for part in await exchange_in_parts(self.engine.exchange, Batch(settles), self.engine.now):
            if not isinstance(part.result, BackendError):
                self.answer(part.result, (), part.batch.settles)
            elif part.is_refused:
                self.refuse(part.result, (), part.batch.settles)
            else:
                self.settles += part.batch.settles
                self.wake_up.set()
                raise part.result

    def _fail_waiters(self, why: Callable[[], Exception]) -> None:
        """Fail all pushes and settlements that were not answered, and wake those who wait for results."""
        self.pushes, self.settles = [], []
        waiting, self._unanswered = self._unanswered, {}
        for trio_task in waiting:
            trio.lowlevel.reschedule(trio_task, Error(why()))
        for queue in self.queues.values():
            for event in queue.awaited.values():
                event.set()


def copy_error(error: BackendError) -> BackendError:
    """The same error, for one more who has to be told."""
    copy = BackendError(str(error))
    copy.__cause__ = error
    return copy


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("the storage was closed, with its connection")
