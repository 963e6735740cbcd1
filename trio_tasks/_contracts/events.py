"""The events of a worker, as its listeners hear them: frozen values, each said after the fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union, final

from .._printing import value_shown
from .._tasks.outcome import Released, Suspended

if TYPE_CHECKING:
    from .._tasks.outcome import Outcome
    from .._tasks.task import Task


@final
@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of a worker's run: its intake is open."""


@final
@dataclass(frozen=True, slots=True)
class Engage:
    """The beginning of an attempt at ``task``."""

    task: Task[Any]


@final
@dataclass(frozen=True, slots=True)
class Idle:
    """The beginning of a wait: the worker has no running task, and waits for the backend; once for each wait.

    A backend that can be asked (``receive_nowait``) has nothing to give then; of others one cannot know it.
    """


@final
@dataclass(frozen=True, slots=True)
class Success:
    """The success of an attempt: ``task`` is settled, and its handler returned ``result``."""

    task: Task[Any]
    result: Any

    def __repr__(self) -> str:
        return f"Success(task={self.task!r}, result={value_shown(self.result)})"


@final
@dataclass(frozen=True, slots=True)
class Error:
    """The failure of an attempt: ``task`` is settled, its attempt raised ``error``, and ``outcome`` was recorded."""

    task: Task[Any]
    error: BaseException
    outcome: Outcome


@final
@dataclass(frozen=True, slots=True)
class Release:
    """The return of ``task`` to the backend, for ``reason``; it costs no attempt.

    ``until`` is None if it was released, and can be had again at once. If it was suspended, it is when the task will be
    ready, on trio's clock.
    """

    task: Task[Any]
    reason: str
    until: float | None = None

    @property
    def outcome(self) -> Released | Suspended:
        """The outcome of the attempt, as the backend was told."""
        return Released(self.reason) if self.until is None else Suspended(self.until, self.reason)


@final
@dataclass(frozen=True, slots=True)
class HeartBeat:
    """A renewal of the worker's leases on the tasks that it has claimed."""


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """The end of a worker's run: no attempt is under way any more."""


@final
@dataclass(frozen=True, slots=True)
class Custom:
    """A value that a handler or layer tells the listeners: ``context.emit(Custom(value))``."""

    value: Any


Event = Union[Start, Engage, Idle, Success, Error, Release, HeartBeat, Stop, Custom]  # noqa: UP007  for 3.10
EVENTS = frozenset((Start, Engage, Idle, Success, Error, Release, HeartBeat, Stop, Custom))
