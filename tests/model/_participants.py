"""The participants of a history: running tasks in workers, trio tasks that wait or call, and a reader of events."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio
from trio_tasks import (
    AbortError,
    DeadlineError,
    Failed,
    Killed,
    Outcome,
    Released,
    Retried,
    StorageEvent,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    UnknownTaskError,
)

VERDICTS: dict[str, Callable[[float], Outcome]] = {
    "succeeded": lambda after: Succeeded(after),
    "retried": lambda after: Retried(ValueError("trouble"), after),
    "failed": lambda after: Failed(ValueError("trouble")),
    "killed": lambda after: Killed(ValueError("trouble")),
    "released": lambda after: Released(),
    "suspended": lambda after: Suspended(after),
}
CALL_ERRORS = UnknownTaskError, trio.ClosedResourceError, AbortError, ValueError, TaskExpiredError, DeadlineError
"""The errors of a call: those of its task, and of a storage that is closed, or has forgotten it."""


@dataclass(eq=False)
class Held:
    """A running task in a worker, and what the worker was told about it. It is the holder, as a worker's slot would
    be.
    """

    number: int  # of the worker
    storage: Any
    task: Task[Any]
    claim: int
    until: float  # when its lease ends
    is_settled: bool = False
    told: set[str] = field(default_factory=set)
    to_be_told: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.task.parts.id

    @property
    def worker(self) -> str:
        return f"w{self.number}"

    def revoke(self, outcome: Killed | Released) -> bool:
        self.told.add(type(outcome).__name__)
        return True

    def current_line(self) -> str:
        return "nowhere"

    def __repr__(self) -> str:
        return f"<{self.id} by worker {self.number}, claim {self.claim}>"


@dataclass(eq=False)
class Waiter:
    """A trio task that waits for some tasks to be finished."""

    ids: list[str]
    storage: Any
    pending: set[str]
    """Those that were never seen finished."""
    outcome: Any = None


@dataclass(eq=False)
class Caller(Waiter):
    """A trio task that makes a call."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_new: bool = True
    """It has pushed the task that it waits for."""
    cancelled_at: float = math.inf


class ToldEvents:
    """In place of the readers of events: one that never ends."""

    def __init__(self) -> None:
        self.events: list[StorageEvent] = []
        self.open = [self]

    def tell(self, event: StorageEvent) -> None:
        self.events.append(event)

    def end(self, make_error: object = None) -> None:
        """Go on listening."""
