"""A listener that passes the beginnings and ends of attempts on to a checker, and keeps what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import trio
from trio_tasks import (
    Engage,
    Error,
    Event,
    Outcome,
    Release,
    Start,
    Stop,
    Succeeded,
    Success,
    Task,
    WorkerContext,
)


def outcome_of(event: Event) -> Outcome | None:
    """The outcome of the attempt whose end this event tells of; None if it tells of something else."""
    if isinstance(event, Success):
        return Succeeded(event.result)
    if isinstance(event, Error):
        return event.outcome
    return event.outcome if isinstance(event, Release) else None


class EventChecker(ABC):
    """A checker of the events of workers: give :meth:`on_event` to each of them as a listener.

    A listener's error would be logged and forgotten, so faults are kept, to be looked at in the end.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.history: list[str] = []
        self.event_counts: Counter[WorkerContext] = Counter()
        self.runs: dict[WorkerContext, Counter[type[Any]]] = {}  # for each the attempts, by how they ended

    def fault(self, what: str) -> None:
        self.faults.append(f"{what}, at {trio.current_time():g}")

    def note(self, what: object) -> None:
        self.history.append(f"{trio.current_time():12.3f} {what}")

    def on_event(self, context: WorkerContext, event: Event) -> None:
        """Compare what a worker says with what may happen."""
        self.note(f"{context.name} {event!r:.300}")
        self.event_counts[context] += 1
        outcome = outcome_of(event)
        if isinstance(event, Start):
            self.runs[context] = Counter()
        elif isinstance(event, Engage):
            self.attempt_begun(context, event.task)
        elif isinstance(event, Stop) and context.running_tasks:
            self.fault(f"{context!r} has stopped while {context.running_tasks} are running")
        elif outcome is not None:
            assert isinstance(event, (Success, Error, Release))
            self.runs[context][type(outcome)] += 1
            self.attempt_ended(context, event.task, outcome)

    @abstractmethod
    def attempt_begun(self, context: WorkerContext, task: Task[Any]) -> None:
        """Check the beginning of an attempt."""

    @abstractmethod
    def attempt_ended(self, context: WorkerContext, task: Task[Any], outcome: Outcome) -> None:
        """Check the end of an attempt."""
