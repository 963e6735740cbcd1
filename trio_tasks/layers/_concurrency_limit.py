"""A layer that limits how many attempts run at the same time, over all workers that share it.

A permit is taken for an attempt and given back when it is over. Under a worker that is from the moment at which the
task was received to the moment at which it is settled, wherever in the stack the layer stands, so the worker receives
no task that would have to wait. Where no worker admitted the attempt, the layer takes the permit itself.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_count, check_plain
from ._capacity_queue import OPEN, UNKNOWN, CapacityQueue

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
    in use. ``waiting`` is the number of trio tasks that wait for a permit.
    """

    limit: int
    taken: int
    waiting: int
    keys: tuple[Hashable, ...]


@final
class _Permits:
    """The permits of one key. They may not be forgotten while a task has ``taken`` one, or a
    call is one of the ``callers`` that may yet do so."""

    __slots__ = ("callers", "key", "limit", "line", "taken")

    def __init__(self, key: Hashable, limit: int) -> None:
        self.key = key
        self.limit = limit
        self.taken = 0
        self.callers = 0
        self.line = CapacityQueue(self._opens_at)

    def _opens_at(self) -> float:
        return OPEN if self.taken < self.limit else UNKNOWN

    def take_nowait(self) -> bool:
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    async def take(self) -> None:
        await self.line.pass_through()
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1
        self.line.wake_first()


@final
class _Admission:
    """The permits that were taken for one task before its attempt, and the number of calls that use one now."""

    __slots__ = ("calls", "permits")

    def __init__(self) -> None:
        self.permits: list[_Permits] = []
        self.calls = 0


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

    With a key, the layer must see the task before it knows whether a permit is free. So intake is not held back: the
    attempt waits inside, and holds its slot. Give the worker more slots than one key may use.

    An attempt that waits for another task, in ``wait_for`` or in a push that waits for room, lends its permit
    meanwhile. It goes on at once when its wait is over, so for a while there may be more than ``n``.

    One attempt takes one permit, also if an inner part of it is called several times in turn, as by :class:`Retry`;
    calls at the same time take one each. The same limit twice in one stack takes two. A call
    that is cancelled while it waits has taken none.
    """

    __slots__ = ("_admitted", "_by_key", "_held", "_key", "limit")

    def __init__(self, n: int, *, key: Callable[[Task[Any]], Hashable] | None = None) -> None:
        self.limit = check_count(n, "n")
        self._key = None if key is None else check_plain(key, "key", "key(task) -> something hashable")
        self._by_key: dict[Hashable, _Permits] = {}
        self._admitted: dict[Parts, _Admission] = {}
        self._held: dict[Parts, list[_Permits]] = {}  # permits that calls under way have taken themselves

    # For workers

    async def ready(self) -> None:
        """Wait until a permit is free; with a key, return at once."""
        if self._key is None:
            await self._permits_of(_EVERYTHING).line.pass_through()
        else:
            await trio.lowlevel.checkpoint()

    def admit(self, task: Task[Any]) -> bool:
        """Take a permit for this task; False if none is free. With a key, always return True, since the attempt waits
        for its permit itself.
        """
        return self._key is not None or self.try_admit(task)

    def try_admit(self, task: Task[Any]) -> bool:
        """Take a permit for this task, with a key one of the task's key; False if none is free."""
        permits = self._permits_for(task)
        if not permits.take_nowait():
            return False
        self._admitted.setdefault(task.parts, _Admission()).permits.append(permits)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        """Give back the permit that was taken for this task, if any."""
        admission = self._admitted.get(task.parts)
        if admission is None:
            return
        permits = admission.permits.pop()
        if not admission.permits:
            del self._admitted[task.parts]
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
        """Run the attempt under the permit that was taken for it; without one, wait for a permit first."""
        admission = self._admitted.get(task.parts)
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
            self._forget_if_idle(permits)

    def _permits_for(self, task: Task[Any]) -> _Permits:
        return self._permits_of(_EVERYTHING if self._key is None else self._key(task))

    def _permits_of(self, key: Hashable) -> _Permits:
        permits = self._by_key.get(key)
        if permits is None:
            permits = self._by_key[key] = _Permits(key, self.limit)
        return permits

    def _forget_if_idle(self, permits: _Permits) -> None:
        if self._key is not None and not (permits.taken or permits.callers):
            del self._by_key[permits.key]

    def statistics(self) -> ConcurrencyLimitStatistics:
        """Return the counts of this moment."""
        every = tuple(self._by_key.values())
        return ConcurrencyLimitStatistics(
            limit=self.limit,
            taken=sum(permits.taken for permits in every),
            waiting=sum(permits.line.waiting for permits in every),
            keys=() if self._key is None else tuple(permits.key for permits in every),
        )

    def explain(self) -> str:
        """Return how many permits are taken, in a few words."""
        taken = self.statistics().taken
        return f"ConcurrencyLimit: {taken} of {self.limit} permits are taken{'' if self._key is None else ' in all'}"

    def __repr__(self) -> str:
        taken = self.statistics().taken
        what = f"{taken}/{self.limit} taken" if self._key is None else f"{self.limit} for each key, {taken} taken"
        return f"<ConcurrencyLimit {what}>"
