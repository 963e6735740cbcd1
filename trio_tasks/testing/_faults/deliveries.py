"""Pending deliveries: late ones, ones that come after the next one, and duplicates."""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, final

import trio

from ..._tasks.task import Task
from ..._tasks.task_info import StoredTaskInfo

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..._tasks.task import Parts

A = TypeVar("A")


@final
@dataclass(eq=False, slots=True)
class Delivery(Generic[A]):
    """A task that the backend has given out, and that no receiver has got yet.

    Attributes:
      guard: cancelled as soon as the task is delivered.
    """

    task: Task[A]
    kind: Literal["delay", "reorder", "duplicate"]
    due: float
    timer: trio.CancelScope = field(default_factory=trio.CancelScope)


@final
class Deliveries(Generic[A]):
    """The pending deliveries, and the receivers that wait for one."""

    def __init__(self) -> None:
        self.pending: list[Delivery[A]] = []
        self._waiting: set[trio.CancelScope] = set()
        self._claiming = 0

    @property
    def next_due(self) -> float:
        """The time at which the next delivery is due; infinity if none is pending."""
        return min((delivery.due for delivery in self.pending), default=float("inf"))

    @property
    def has_room(self) -> bool:
        """True if a waiting receiver may claim another task: fewer deliveries are late than receivers wait."""
        return self._late + self._claiming < len(self._waiting)

    @property
    def has_room_for_one_more(self) -> bool:
        """True if a caller that does not wait may claim another task."""
        return self._late + self._claiming <= len(self._waiting)

    @property
    def _late(self) -> int:
        return sum(delivery.kind == "delay" for delivery in self.pending)

    @property
    def holds_back(self) -> bool:
        """True if a delivery is held back until the next task has been delivered."""
        return any(delivery.kind == "reorder" for delivery in self.pending)

    def add(self, delivery: Delivery[A]) -> None:
        """Add a pending delivery."""
        self.pending.append(delivery)
        self._set_deadlines()

    def pop_due(self) -> Task[A] | None:
        """Remove and return the task that has been due for the longest time; None if none is due."""
        delivery = min(self.pending, key=lambda each: each.due, default=None)
        if delivery is None or delivery.due > trio.current_time():
            return None
        self.remove(delivery)
        return delivery.task

    def remove(self, delivery: Delivery[A]) -> bool:
        """Remove a pending delivery; False if it was not pending."""
        if delivery not in self.pending:
            return False
        self.pending.remove(delivery)
        delivery.timer.cancel()
        self.wake_all()  # the next one is due at another time, and there is room for one more
        return True

    def release_held_back(self) -> None:
        """Make deliveries due that were held back until another task was delivered."""
        for delivery in self.pending:
            if delivery.kind == "reorder":
                delivery.due = trio.current_time()
        self._set_deadlines()

    @contextmanager
    def waiting(self) -> Generator[trio.CancelScope, None, None]:
        """Give the block a cancel scope, which is cancelled when a delivery is due."""
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            self._set_deadlines()
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    @contextmanager
    def claiming(self) -> Generator[None, None, None]:
        """Count a claim that is being made in the block, since its delivery may turn out to be late."""
        self._claiming += 1
        try:
            yield
        finally:
            self._claiming -= 1

    def wake_all(self) -> None:
        """Wake all receivers that wait."""
        for scope in self._waiting:
            scope.cancel()

    def _set_deadlines(self) -> None:
        due = self.next_due
        for scope in self._waiting:
            scope.deadline = due


def duplicate_of(task: Task[A]) -> Task[A]:
    """Make a duplicate of a delivery: the same claim, in parts of its own."""
    parts, duplicate = task.parts, task.parts.again(task.parts.attempt)
    duplicate.status, duplicate.run_at = parts.status, parts.run_at
    duplicate.is_orphan, duplicate.unfit = parts.is_orphan, parts.unfit
    duplicate.context = _own_copy(parts.context)
    return Task(task.args, duplicate)


def has_claim(parts: Parts) -> bool:
    """Return True if the backend keeps its claim in ``parts.context``; otherwise it knows the claim by the parts."""
    return parts.context is not None and not isinstance(parts.context, StoredTaskInfo)


def _own_copy(context: Any) -> Any:
    """Copy the backend's context of a claim. The writes that an attempt has gathered there are its own: one list for
    both copies would be written twice.
    """
    if context is None or isinstance(context, StoredTaskInfo):
        return context
    from ..._backends.durable.queue import Lease  # it imports cbor2, which tests of MemoryStorage need not have

    if not isinstance(context, Lease):
        return context
    own = copy(context)
    own.writes = context.writes
    return own
