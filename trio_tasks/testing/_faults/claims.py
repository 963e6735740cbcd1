"""The claims made through a faulty backend: the running ones, and those that are lost."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio

from ..._tasks.errors import BackendError, LeaseLostError
from ..._tasks.outcome import Retried
from .deliveries import has_claim

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from ..._contracts.backend import Backend
    from ..._tasks.task import Parts, Task
    from .injector import FaultInjector

A = TypeVar("A")

_GIVE_BACK_SECONDS = 10.0
"""Seconds that the backend may take to settle the lost claims."""


@final
class Claims(Generic[A]):
    """The claims made through a faulty backend that are not settled yet, or that are lost.

    Where the backend has leases, a lost claim is just forgotten. Where it has none, it is settled as retried, so that
    the task comes back after a while, and its attempt counts.

    Args:
      backend: which has given them.
      injector: records each loss.
    """

    def __init__(self, backend: Backend[A], injector: FaultInjector) -> None:
        self._backend: Any = backend
        self._injector = injector
        self.has_leases = backend.heartbeat_interval is not None
        self._held: dict[Parts, Task[Any]] = {}  # the task as the backend knows it, by the parts of each copy
        self._forfeited: set[Parts] = set()  # parts of tasks whose receiver has died
        self._lost: list[Task[Any]] = []  # lost tasks that are to be given back
        self._given_back: set[str] = set()  # ids of tasks given back, and not claimed again since

    def add(self, task: Task[A], duplicate: Task[A] | None = None) -> None:
        """Add a delivered claim, and its duplicate if there is one."""
        self._held[task.parts] = task
        if duplicate is not None:
            self._held[duplicate.parts] = duplicate if has_claim(task.parts) else task

    def mark_orphan(self, task: Task[A]) -> None:
        """Mark the task as an orphan if an earlier claim of it was lost."""
        if task.parts.id in self._given_back:
            self._given_back.discard(task.parts.id)
            task.parts.is_orphan = True

    @contextmanager
    def settling(self, task: Task[Any]) -> Generator[Task[Any], None, None]:
        """Give the block the task as the backend knows it; when the block ends, this copy is settled."""
        known = self._held.get(task.parts, task)
        try:
            yield known
        except LeaseLostError:
            self._held.pop(task.parts, None)  # another receiver has it, or it is settled
            raise
        self._held.pop(task.parts, None)
        task.parts.status = known.parts.status

    # Losing

    def lose(self, task: Task[Any]) -> None:
        """Lose a claim: its lease runs out; in a backend without leases, the task is given back later."""
        known = self._held.pop(task.parts, task)
        if not self.has_leases:
            self._lost.append(known)

    def lose_all_but(self, kept: Iterable[Task[Any]]) -> None:
        """Lose all claims except these, as if the receiver had died."""
        spared = {task.parts for task in kept}
        for parts, task in [*self._held.items()]:
            if parts not in spared:
                self._forfeited.add(parts)
                self.lose(task)

    def is_forfeited(self, parts: Parts) -> bool:
        """Return True if the receiver of this task has died; only once for each task."""
        was_there = parts in self._forfeited
        self._forfeited.discard(parts)
        return was_there

    async def give_back_lost(self) -> None:  # noqa: ASYNC910  there is seldom anything to give back
        """Give the lost claims back to a backend without leases; shielded, within a time limit."""
        if self._lost:
            with trio.move_on_after(_GIVE_BACK_SECONDS, shield=True):  # noqa: ASYNC912  the same
                while self._lost:
                    task, outcome = self._next_lost()
                    with suppress(LeaseLostError):
                        await self._backend.settle(task, outcome)
                        self._note_lost(task, outcome)

    def give_back_lost_nowait(self) -> None:
        """Give back the lost claims without waiting."""
        while self._lost:
            task, outcome = self._next_lost()
            with suppress(LeaseLostError):
                self._backend.settle_nowait(task, outcome)
                self._note_lost(task, outcome)

    def _next_lost(self) -> tuple[Task[Any], Retried]:
        task = self._lost.pop()
        seconds = self._injector.draw_seconds(self._injector.faults.absence_seconds)
        return task, Retried(BackendError("the delivery was lost, or its receiver died"), seconds)

    def _note_lost(self, task: Task[Any], outcome: Retried) -> None:
        self._injector.record("lost", "settle", task.parts, outcome.after)
        self._given_back.add(task.parts.id)
