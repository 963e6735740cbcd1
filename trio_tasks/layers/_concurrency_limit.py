"""A layer that limits how many attempts run at the same time, over all workers that share it.

A permit is taken for an attempt and given back when it is over. Under a worker that is from the moment at which the
task was received to the moment at which it is settled, wherever in the stack the layer stands, so the worker receives
no task that would have to wait. By key, it is from the moment at which the attempt arrives at the layer; one that finds
no permit is suspended, and joins the line of its key (:mod:`._suspended_line`). Where no worker admitted the attempt,
the layer waits for the permit itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_count, check_plain
from .._contracts.backend import Reschedule
from .._contracts.sink import TaskSink
from .._printing import quoted
from ._capacity_queue import OPEN, UNKNOWN, CapacityQueue
from ._suspended_line import SuspendedLine, Waiter, suspension

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.layer import Handler
    from .._tasks.task import Parts, Task

A = TypeVar("A")
R = TypeVar("R")

_EVERYTHING = object()
"""The one key of a limit that does not look at keys."""


@final
@dataclass(frozen=True, slots=True)
class ConcurrencyLimitStatistics:
    """The counts of a limit at one moment.

    There are ``limit`` permits (for each key), of which ``taken`` are in use in all. ``keys`` are those with a permit
    in use, or with tasks that wait for one. ``waiting`` is the number of trio tasks that wait for a permit;
    ``suspended`` is the number of tasks that wait in a storage, to be woken.
    """

    limit: int
    taken: int
    waiting: int
    keys: tuple[Hashable, ...]
    suspended: int = 0


@final
class _Permits:
    """The permits of one key. They may not be forgotten while a task has ``taken`` one, a call is one of the
    ``callers`` that may yet do so, or a suspended task is to be woken for one."""

    __slots__ = ("_forget_if_idle", "callers", "key", "limit", "line", "suspended", "taken")

    def __init__(self, key: Hashable, limit: int, forget_if_idle: Callable[[_Permits], None]) -> None:
        self.key = key
        self.limit = limit
        self.taken = 0
        self.callers = 0
        self.line = CapacityQueue(self._opens_at)
        self.suspended = SuspendedLine(self._free, self._kept_less)
        self._forget_if_idle = forget_if_idle

    def _opens_at(self) -> float:
        return OPEN if self.taken + self.suspended.kept < self.limit else UNKNOWN

    def _free(self) -> int:
        """The number of permits for suspended tasks. Calls that wait go first."""
        return 0 if self.line.waiting else self.limit - self.taken

    def _kept_less(self) -> None:
        self.line.wake_first()
        self._forget_if_idle(self)

    @property
    def is_idle(self) -> bool:
        """True if these permits hold no state, so that they can be dropped."""
        return not (self.taken or self.callers or self.suspended or self.suspended.kept)

    def has_one_for(self, waiter: Waiter | None) -> bool:
        """True if a permit is free, and not kept for a task that came before this one."""
        return self._free() > self.suspended.kept_before(waiter)

    def take_nowait(self) -> bool:
        if self.taken + self.suspended.kept >= self.limit:
            return False
        self.taken += 1
        return True

    async def take(self) -> None:
        await self.line.pass_through()
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1
        self.line.wake_first()
        if self.suspended:
            self.suspended.wake()


@final
class _Admission:
    """The permits that were taken for one task before its attempt, and the number of calls that use one now; by key,
    also the time at which the attempt took its permit."""

    __slots__ = ("began", "calls", "permits")

    def __init__(self) -> None:
        self.permits: list[_Permits] = []
        self.calls = 0
        self.began: float | None = None


@final
class ConcurrencyLimit:
    """Run at most ``n`` attempts at the same time, over all workers that are given the same object.

    >>> uploads = ConcurrencyLimit(4)
    >>> by_tenant = ConcurrencyLimit(2, key=lambda task: task.parts.metadata["tenant"])

    Args:
      n: the number of permits; with a ``key``, the number for each key.
      key: a function from a task to any hashable value. If it raises, the attempt fails with that error.

    Without a key, a worker receives only while a permit is free: all other tasks stay in the backend. Waiting callers
    are served in the order in which they came. An idle worker holds no permit.

    With a key, the layer must see the task before it knows whether a permit is free. So intake is not held back. A task
    that finds no permit is suspended: it waits in the storage, holds no slot, and it costs no attempt. It is made ready
    as soon as a permit is free for it, in the order in which the tasks of its key came. The line is in the memory of
    this process. So a task also comes back by itself: after 30 seconds at first, and later at longer intervals, up to
    five minutes. A task from a channel, or from another backend that is no storage, waits inside, and holds its
    slot; then give the worker more slots than one key may use. So does a call without a worker.

    It counts in this process alone, and each task of a busy key is claimed once to learn that it has to wait. Limits of
    a queue, ``Limits(per_key=2)`` of a storage with ``push(…, key=…)``, hold over all processes, and claim no task that
    has to wait: prefer them where the key is known at the push. This layer is for one process, for a key that is
    computed from the task, and for a limit that several queues share.

    An attempt that waits for another task, in ``wait_for`` or in a push that waits for room, lends its permit
    meanwhile. It goes on at once when its wait is over, so for a while there may be more than ``n``.

    One attempt takes one permit, until it is settled, also if an inner part of it is called several times in turn, as
    by :class:`Retry`; calls at the same time take one each. The same limit twice in one stack takes two. A call that is
    cancelled while it waits has taken none.
    """

    __slots__ = ("_admitted", "_arriving", "_by_key", "_held", "_key", "_put_back", "_turn", "_waiters", "limit")

    def __init__(self, n: int, *, key: Callable[[Task[Any]], Hashable] | None = None) -> None:
        self.limit = check_count(n, "n")
        self._key = None if key is None else check_plain(key, "key", "key(task) -> something hashable")
        self._by_key: dict[Hashable, _Permits] = {}
        self._admitted: dict[Parts, _Admission] = {}
        self._held: dict[Parts, list[_Permits]] = {}  # permits that calls under way have taken themselves
        # With a key alone:
        self._arriving: set[Parts] = set()  # admitted tasks whose attempt has not reached this layer yet
        self._put_back: dict[Parts, Waiter] = {}  # tasks that are being suspended now
        self._waiters: OrderedDict[tuple[int, str], Waiter] = OrderedDict()  # by backend and id of the task
        self._turn = 0

    # For workers

    async def ready(self) -> None:
        """Wait until a permit is free; with a key, return at once."""
        if self._key is None:
            await self._permits_of(_EVERYTHING).line.pass_through()
        else:
            await trio.lowlevel.checkpoint()

    def ready_nowait(self) -> None:
        """Return if a permit is free and no caller waits for one, or with a key; else raise ``trio.WouldBlock``."""
        if self._key is None:
            self._permits_of(_EVERYTHING).line.pass_nowait()

    def admit(self, task: Task[Any]) -> bool:
        """Take a permit for this task; False if none is free. With a key, always return True, since the attempt is
        suspended if it has to wait.
        """
        if self._key is None:
            return self.try_admit(task)
        self._arriving.add(task.parts)
        return True

    def try_admit(self, task: Task[Any]) -> bool:
        """Take a permit for this task, with a key one of the task's key; False if none is free."""
        permits = self._permits_for(task)
        if not permits.take_nowait():
            return False
        self._admitted.setdefault(task.parts, _Admission()).permits.append(permits)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        """Give back the permit that was taken for this task, if any; let a task that was suspended join the line."""
        if self._key is not None:
            self._arriving.discard(task.parts)
            waiter = self._put_back.pop(task.parts, None)
            if waiter is not None:  # it is in its storage by now, where it can be woken
                waiter.line.join(waiter)
        admission = self._admitted.get(task.parts)
        if admission is None:
            return
        permits = admission.permits.pop()
        if not admission.permits:
            del self._admitted[task.parts]
        if admission.began is not None:
            permits.suspended.kept_for = trio.current_time() - admission.began
        permits.give_back()
        self._forget_if_idle(permits)

    def lend(self, task: Task[Any]) -> None:
        """Give back the permits of this attempt while it waits for another task."""
        for permits in self._permits_held_by(task):
            permits.callers += 1
            permits.give_back()

    def reclaim(self, task: Task[Any]) -> None:
        """Take the permits of this attempt again, at once, even if that exceeds the limit for a while."""
        for permits in self._permits_held_by(task):
            permits.callers -= 1
            permits.taken += 1

    def _permits_held_by(self, task: Task[Any]) -> list[_Permits]:
        admission = self._admitted.get(task.parts)
        return [*(admission.permits if admission is not None else ()), *self._held.get(task.parts, ())]

    # The layer

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt under the permit that was taken for it; without one, wait for a permit first.

        Raises:
          SuspendError: its key has no permit now, and a worker on a storage runs it.
        """
        admission = self._admitted.get(task.parts)
        if admission is None and task.parts in self._arriving:
            admission = self._take_or_suspend(task)
        if admission is not None and admission.calls < len(admission.permits):
            admission.calls += 1
            try:
                return await handler(task)
            finally:
                admission.calls -= 1
        permits = self._permits_for(task)
        permits.callers += 1
        try:
            await permits.take()
            held = self._held.setdefault(task.parts, [])
            held.append(permits)
            try:
                return await handler(task)
            finally:
                held.remove(permits)
                if not held:
                    del self._held[task.parts]
                permits.give_back()
        finally:
            permits.callers -= 1
            permits.suspended.wake()

    def _take_or_suspend(self, task: Task[Any]) -> _Admission | None:
        """Take a permit for the first call of an attempt, until it is dismissed; return None if it has to wait inside.

        Raises:
          SuspendError: it has to wait in its storage.
        """
        self._arriving.discard(task.parts)
        permits = self._permits_for(task)
        context: Any = getattr(task.parts.holder, "context", None)
        backend = getattr(getattr(context, "recipe", None), "backend", None)
        waiter = self._waiters.pop((id(backend), task.parts.id), None)
        if waiter is not None and waiter.line is not permits.suspended:  # its key is another one now
            waiter.line.leave(waiter)
            waiter = None
        if permits.has_one_for(waiter):
            permits.taken += 1
            if waiter is not None:
                waiter.line.leave(waiter)
            admission = self._admitted[task.parts] = _Admission()
            admission.permits.append(permits)
            admission.began = trio.current_time()
            return admission
        # A channel takes no task back: if the attempt waits here, the sender feels it.
        if not (isinstance(backend, Reschedule) and isinstance(backend, TaskSink)):
            return None
        taken = f"{permits.taken} of {self.limit} permits taken"
        reason = f"ConcurrencyLimit: its key {quoted(permits.key)} has {taken}; it is woken when it is its turn"
        if waiter is None:
            self._turn += 1
            waiter = Waiter(permits.suspended, self._turn, task.parts.id, backend, context)
        waiter.context = context
        waiter.line.leave(waiter)
        self._remember(waiter)
        self._put_back[task.parts] = waiter
        raise suspension(task, waiter.returns_in, reason)

    def _remember(self, waiter: Waiter) -> None:
        """Remember the turn of a task that is suspended. Look at two others, and forget those that will not come."""
        for _ in range(min(2, len(self._waiters))):
            key, other = self._waiters.popitem(last=False)
            if not other.is_lost:
                self._waiters[key] = other
        self._waiters[id(waiter.backend), waiter.task_id] = waiter

    def _permits_for(self, task: Task[Any]) -> _Permits:
        return self._permits_of(_EVERYTHING if self._key is None else self._key(task))

    def _permits_of(self, key: Hashable) -> _Permits:
        permits = self._by_key.get(key)
        if permits is None:
            permits = self._by_key[key] = _Permits(key, self.limit, self._forget_if_idle)
        return permits

    def _forget_if_idle(self, permits: _Permits) -> None:
        # There may be new ones of this key by now: a task that was woken for these ones has arrived, and was the last.
        if self._key is not None and permits.is_idle and self._by_key.get(permits.key) is permits:
            del self._by_key[permits.key]

    def statistics(self) -> ConcurrencyLimitStatistics:
        """Return the counts of this moment."""
        every = tuple(self._by_key.values())
        return ConcurrencyLimitStatistics(
            limit=self.limit,
            taken=sum(permits.taken for permits in every),
            waiting=sum(permits.line.waiting for permits in every),
            keys=() if self._key is None else tuple(permits.key for permits in every),
            suspended=sum(len(permits.suspended) for permits in every),
        )

    def explain(self) -> str:
        """Return how many permits are taken, in a few words."""
        now = self.statistics()
        if self._key is None:
            return f"ConcurrencyLimit: {now.taken} of {self.limit} permits are taken"
        suspended = f", {now.suspended} tasks are suspended" if now.suspended else ""
        return f"ConcurrencyLimit: {now.taken} permits are taken in all, {self.limit} for each key{suspended}"

    def __repr__(self) -> str:
        taken = self.statistics().taken
        what = f"{taken}/{self.limit} taken" if self._key is None else f"{self.limit} for each key, {taken} taken"
        return f"<ConcurrencyLimit {what}>"
