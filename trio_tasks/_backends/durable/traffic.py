"""What many trio tasks ask of one engine, lined up for the next exchange.

While an exchange is under way, whoever pushes or settles lines up for the next; the rows that an exchange claims are
for those who wait for a task, and for the seats that are being told of their settlements and will come back for more.
So nothing is claimed that nobody has a free seat for. Who makes the exchanges is the :class:`Pump`.
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
from .engine import COMES_BACK, Claim, NewRow, Settlement, Verdict
from .requests import Push, Refused, Settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..._tasks.errors import DuplicateTaskError
    from ..._tasks.task import Parts
    from .engine import Answer, Engine
    from .queue import Lane

T = TypeVar("T")

_LONGEST_DELAY = 10
"""Leases that a claim may be made longer, where exchanges take long. With the next heartbeat it is an ordinary one."""


@final
class Traffic:
    """What goes back and forth between the lanes of a storage and its engine.

    Args:
      engine: of which :meth:`ask` and the pump make use in turns.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lanes: dict[str, Lane] = {}
        self.pushes: list[Push] = []
        self.settles: list[Settle] = []
        self.needed = trio.Event()
        """Set when the pump has something to do."""
        self.has_news = False
        """Whether somebody else may have asked for an attempt to be aborted."""
        self.took = 0.0  # seconds, the latest exchange
        self.is_open = False
        self.token: trio.lowlevel.TrioToken | None = None  # of the run in which it was opened,
        self.pid: int | None = None  # in this process
        self.closed = False
        self.failure: BackendError | None = None  # which has ended the pump
        self._turn = trio.Lock()
        self._unanswered: dict[trio.lowlevel.Task, None] = {}  # those who wait for a push or a settlement

    # What the storages ask

    @trio.lowlevel.enable_ki_protection
    async def push(self, lane: Lane, rows: list[NewRow]) -> list[str | DuplicateTaskError]:
        """Let rows in, all in one transaction. If it is cancelled while it waits for its turn, nothing was pushed; once
        the transaction is under way, it cannot be cancelled."""
        self.check_open()
        request = Push(lane, rows)
        self.pushes.append(request)
        self._unanswered[request.trio_task] = None
        self.needed.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            if request.is_under_way:
                return trio.lowlevel.Abort.FAILED
            self.pushes.remove(request)
            del self._unanswered[request.trio_task]
            return trio.lowlevel.Abort.SUCCEEDED

        answers: list[str | DuplicateTaskError] = await trio.lowlevel.wait_task_rescheduled(leave)
        return answers

    @trio.lowlevel.enable_ki_protection
    def settle(self, lane: Lane, settlement: Settlement, parts: Parts) -> None:
        """Have this settled: the current trio task, which is to wait for that, is rescheduled with the answer (a bool,
        or an exception), within bounds."""
        self.check_open()
        me = trio.lowlevel.current_task()
        self.settles.append(Settle(lane, settlement, parts.holder, parts, me))
        self._unanswered[me] = None
        if not self.needed.is_set():
            self.needed.set()

    @trio.lowlevel.enable_ki_protection
    async def receive(self, lane: Lane) -> Any:
        """Wait for a task of this lane; if it is cancelled, nothing was taken."""
        self.check_open()
        me = trio.lowlevel.current_task()
        lane.receivers[me] = None
        self.needed.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            del lane.receivers[me]
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(leave)

    @trio.lowlevel.enable_ki_protection
    async def ask(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call one of the engine's other methods, when it is free. If it is cancelled before that, nothing was done."""
        self.check_open()
        await trio.lowlevel.checkpoint()
        await self._turn.acquire()
        results: list[T] = []
        with trio.CancelScope(shield=True):
            try:
                results.append(await async_fn(*args))
            finally:
                self._turn.release()
        return results[0]

    @trio.lowlevel.enable_ki_protection
    async def in_turn(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the engine, when nobody else does."""
        try:
            self._turn.acquire_nowait()  # a turn that is free costs no round of the scheduler
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            return await async_fn(*args)
        finally:
            self._turn.release()

    # What happens to them

    def look(self) -> None:
        """Something may have changed: see what there is for those who wait."""
        for lane in self.lanes.values():
            lane.stir()
        self.needed.set()

    def hear(self) -> None:
        """Somebody else may have changed something."""
        self.has_news = True
        for lane in self.lanes.values():
            for event in lane.awaited.values():
                event.set()
        self.look()

    def check_open(self) -> None:
        """Raise ``trio.ClosedResourceError``, or what has happened, if nothing can be asked any more."""
        if not self.is_open or self.closed:
            raise trio.ClosedResourceError("this storage is not open: use it inside `async with storage`")
        if trio.lowlevel.current_trio_token() is not self.token:
            raise RuntimeError("this storage was opened in another process, or another run: open one here")
        if self.failure is not None:
            raise again(self.failure)

    def check_usable(self) -> None:
        """As :meth:`check_open`, in any thread and any trio run: for what needs nothing of trio."""
        self.check_process()
        if not self.is_open or self.closed:
            raise trio.ClosedResourceError("this storage is not open: use it inside `async with storage`")
        if self.failure is not None:
            raise again(self.failure)

    def check_process(self) -> None:
        """Raise ``RuntimeError`` after a fork."""
        if self.pid not in (None, os.getpid()):
            raise RuntimeError(f"this storage was opened by process {self.pid}, and cannot be used after a fork")

    def claims(self) -> tuple[list[Claim], list[Lane]]:
        """What to claim together with what is lined up, and for which lanes."""
        now = self.engine.now()
        returning: dict[Lane, int] = {}
        stirred = {push.lane: None for push in self.pushes}
        for settle in self.settles:
            lane, holder = settle.lane, settle.holder
            if holder is not None and getattr(holder, "will_take_more", False):
                returning[lane] = returning.get(lane, 0) + 1
            if settle.settlement.verdict in COMES_BACK or not lane.handles:
                stirred[lane] = None
        for lane in stirred:
            lane.stir()
        claims: list[Claim] = []
        lanes: list[Lane] = []
        for lane in self.lanes.values():
            left_out = lane.left_out()
            workers = lane.workers_waiting(self._workers_returning(lane)) if lane.by_name else None
            wanted = lane.wanted(returning.get(lane, 0)) if workers is None else len(workers)
            if wanted and lane.is_worth_asking(now):
                lease = lane.lease
                if self.took > lease / 2:  # or it would be over when the rows come, again and again
                    lease += min(2 * self.took, _LONGEST_DELAY * lease)
                claims.append(Claim(lane.queue, wanted, lease, lane.claimant, workers, left_out))
                lanes.append(lane)
        return claims, lanes

    def _workers_returning(self, lane: Lane) -> list[str]:
        """The workers of the slots that are being told, and will come back for another task."""
        return [each.holder.worker for each in self.settles if each.lane is lane and each.will_take_more]

    def late_by_lane(self) -> list[tuple[Lane, list[Parts]]]:
        """The attempts under way whose leases are to be renewed at once, since a heartbeat is late."""
        now = self.engine.now()
        return [(lane, late) for lane in self.lanes.values() if (late := lane.late(now))]

    def late(self) -> list[tuple[Lane, Parts]]:
        """The same, each with its lane."""
        return [(lane, parts) for lane, late in self.late_by_lane() for parts in late]

    def take_requests(self) -> tuple[list[Settle], list[Push]]:
        """Take the settlements and pushes that are lined up; from now on no push of these can be cancelled."""
        settles, self.settles = self.settles, []
        pushes, self.pushes = self.pushes, []
        for push in pushes:
            push.is_under_way = True
        return settles, pushes

    def tell(self, answer: Answer, pushes: Sequence[Push], settles: Sequence[Settle]) -> None:
        """Those who pushed and settled have their answers."""
        unanswered = self._unanswered
        for settle, settled in zip(settles, answer.settled, strict=True):
            lane, settlement, _, parts, trio_task = settle
            if parts is None or trio_task is None:
                continue
            if settled is True and lane.waiters and parts.id in lane.waiters:
                lane.endings[parts.id] = settlement
            lane.let_go(parts)
            if trio_task in unanswered:
                del unanswered[trio_task]
                trio.lowlevel.reschedule(trio_task, Value(settled))
        position = 0
        for push in pushes:
            answers = answer.pushed[position : position + len(push.rows)]
            position += len(push.rows)
            self._answer(push.trio_task, Value(answers))
        for queue, task_id in answer.finished:
            if queue in self.lanes:
                self.lanes[queue].finish(task_id)

    def refuse(self, error: BackendError, pushes: Sequence[Push], settles: Sequence[Settle]) -> None:
        """The store does not take these: tell those who asked for it.

        A worker settles an error in place of a success. If a mere error is refused, or that a task is put back, nothing
        else can be done: the task comes back when its lease is over.
        """
        for push in pushes:
            self._answer(push.trio_task, Error(again(error)))
        for settle in settles:
            if settle.settlement.verdict is Verdict.SUCCEEDED:
                self._end(settle, Value(Refused(again(error))))
                continue
            task_id = "one at hand" if settle.parts is None else settle.parts.id
            log.error(
                "task %s cannot be settled, and comes back when its lease is over", escaped(task_id), exc_info=error
            )
            self._end(settle, Value(False))

    def fail(self, error: BackendError, pushes: Sequence[Push], settles: Sequence[Settle]) -> None:
        """The store has failed: tell those who asked for these."""
        for push in pushes:
            self._answer(push.trio_task, Error(again(error)))
        for settle in settles:  # nobody holds it; but it is live, and comes back with its lease
            self._end(settle, Error(again(error)))

    def _end(self, settle: Settle, result: Value[Any] | Error) -> None:
        if settle.trio_task is not None and settle.parts is not None:
            if settle.lane.let_go(settle.parts):
                self.needed.set()
            self._answer(settle.trio_task, result)

    def _answer(self, trio_task: trio.lowlevel.Task, result: Value[Any] | Error) -> None:
        if trio_task in self._unanswered:
            del self._unanswered[trio_task]
            trio.lowlevel.reschedule(trio_task, result)

    def give_back(self, *, only_stale: bool) -> None:
        """Line up what releases the rows at hand that nobody has come for."""
        now = self.engine.now()
        for lane in self.lanes.values():
            if lane.stock and (not only_stale or lane.is_stale(now)):
                self.settles += [Settle(lane, each) for each in lane.give_back()]

    async def give_back_now(self, lane: Lane) -> None:
        """Release all rows of this lane that were claimed and that nobody was given, and return when that is stored.

        It waits for its turn, so it comes after any exchange that has claimed for slots that are gone by now. Rows that
        were lined up to be given back, and are not yet, are taken along.
        """
        await self.ask(self._give_back_now, lane)

    async def _give_back_now(self, lane: Lane) -> None:  # noqa: ASYNC910  there may be nothing to give back
        returned = [Settle(lane, each) for each in lane.give_back()]
        returned += [each for each in self.settles if each.lane is lane and each.trio_task is None]
        if not returned:
            return  # noqa: ASYNC910  the same
        self.settles = [each for each in self.settles if each.lane is not lane or each.trio_task is not None]
        await self._settle_at_once(returned)
        lane.stir()
        self.needed.set()

    def end_lanes(self) -> None:
        """Who waits for a task of a queue that has ended is told so."""
        now = self.engine.now()
        for lane in self.lanes.values():
            if lane.receivers and lane.has_ended(now):
                lane.send_away(trio.EndOfChannel())

    # The end

    @trio.lowlevel.enable_ki_protection
    async def end(self) -> None:
        """Settle what is to be settled, give back what is at hand, and close the engine."""
        for lane in self.lanes.values():
            lane.receivers, waiting = OrderedDict(), lane.receivers
            for receiver in waiting:
                trio.lowlevel.reschedule(receiver, Error(_closed()))
        self.give_back(only_stale=False)
        self.closed = True
        self.pushes, late = [], self.pushes
        for push in late:
            self._answer(push.trio_task, Error(_closed()))
        try:
            with log_and_suppress("a storage could not give back what it had at hand"):
                await self.in_turn(self._exchange_for_the_last_time)
        finally:
            self._fail_waiters(_closed)
            await self.engine.aclose()  # noqa: ASYNC102  who closes shields it, and an engine is bounded by itself

    def break_off(self, error: BackendError) -> None:
        """Fail all who wait for an exchange, and all who will ask for one: none is made any more."""
        self.failure = error
        for lane in self.lanes.values():
            lane.send_away(again(error))
        self._fail_waiters(lambda: again(error))

    async def _exchange_for_the_last_time(self) -> None:  # noqa: ASYNC910  there may be nothing to exchange
        self.give_back(only_stale=False)  # what an exchange has brought in meanwhile
        settles, _ = self.take_requests()
        await self._settle_at_once(settles)

    async def _settle_at_once(self, settles: list[Settle]) -> None:  # noqa: ASYNC910  there may be nothing to settle
        """Settle these, in this turn. If the store fails, those that it has not settled are lined up again."""
        if not settles:
            return  # noqa: ASYNC910  the same
        for part in await exchange_in_parts(self.engine.exchange, Batch(settles), self.engine.now):
            if not isinstance(part.result, BackendError):
                self.tell(part.result, (), part.batch.settles)
            elif part.is_refused:
                self.refuse(part.result, (), part.batch.settles)
            else:
                self.settles += part.batch.settles
                self.needed.set()
                raise part.result

    def _fail_waiters(self, why: Callable[[], Exception]) -> None:
        """Fail all pushes and settlements that were not answered, and wake those who wait for results."""
        self.pushes, self.settles = [], []
        waiting, self._unanswered = self._unanswered, {}
        for trio_task in waiting:
            trio.lowlevel.reschedule(trio_task, Error(why()))
        for lane in self.lanes.values():
            for event in lane.awaited.values():
                event.set()


def again(error: BackendError) -> BackendError:
    """The same error, for one more who has to be told."""
    copy = BackendError(str(error))
    copy.__cause__ = error
    return copy


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("the storage was closed, with its connection")
