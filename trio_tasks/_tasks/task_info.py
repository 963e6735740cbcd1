"""The information about a task that is looked up: its past attempts, its latest error, its result."""

# pyright: reportIncompatibleMethodOverride=false
# (A field of a frozen dataclass is as good as a property that can only be read.)

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, final

from .._printing import value_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

E = TypeVar("E")

TRACEBACKS = 5
"""Entries, the latest, that have a traceback."""
LONGEST_HISTORY = 50
"""Entries: a task that is retried for ever keeps the latest."""


@final
@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that did not succeed.

    The history of a task has the latest fifty, or the first and the latest 49, and a traceback in the latest five.
    """

    attempt: int
    """Its number, counted from 1."""
    ended_at: float
    """When it ended, in seconds since the epoch, by the storage's clock."""
    worker: str | None
    """The name of the worker that made it; None if that is not known."""
    became: str
    """What became of it: ``"retried"``, ``"failed"``, ``"killed"``, ``"lost"`` with its worker or its lease, or
    ``"unreadable"``, which did not count."""
    error: str
    """The error, in a line."""
    seconds: float | None = None
    """How long it took; None if that is not known, as of one that was lost."""
    traceback: str = ""
    """Where the error was raised: file, line, function and source line of each frame, and no values of variables; at
    most 4 KiB. Empty if there is none, or not any more."""
    version: str | None = None
    """The ``version`` of the worker that made it."""


def first_began(history: Sequence[PastAttempt], attempt: int) -> float | None:
    """Return the begin of the first attempt, by the storage's clock, since the task was pushed or last resumed; None if
    the present one, of this number, is the first.
    """
    began: float | None = None
    for past in reversed(history):
        if past.became == "unreadable":  # which did not count
            continue
        if past.attempt >= attempt or past.became in ("failed", "killed"):  # before it was resumed
            break
        began, attempt = past.ended_at - (past.seconds or 0.0), past.attempt
    return began


def latest(entries: Sequence[E], numbers: Sequence[int]) -> list[E]:
    """Return the latest fifty of these attempts, and in place of the oldest of them the first one since the task was
    pushed or last resumed. ``numbers`` are the numbers of the attempts.
    """
    kept = [*entries[-LONGEST_HISTORY:]]
    if len(entries) > LONGEST_HISTORY and 1 in numbers and 1 not in numbers[1 - LONGEST_HISTORY :]:
        kept[0] = entries[len(numbers) - 1 - numbers[::-1].index(1)]
    return kept


class StoredTaskInfo(ABC):
    """All that a storage knows of a task besides its args and parts: the ``parts.context`` of a task that was looked
    up.

    :meth:`~trio_tasks.FetchById.fetch_by_id` and :meth:`~trio_tasks.ListTasks.list_tasks` of our storages give it. It
    shows the task as it was at that moment.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def history(self) -> tuple[PastAttempt, ...]:
        """The attempts that did not succeed, the oldest first: the latest fifty, or the first and the latest 49."""

    @property
    @abstractmethod
    def error(self) -> BaseException | None:
        """The error of the latest attempt; None if the task succeeded."""

    @property
    @abstractmethod
    def result(self) -> Any:
        """The result of the task; None if it has not succeeded."""

    @property
    @abstractmethod
    def progress(self) -> Any:
        """The progress last reported by the latest attempt."""

    @property
    @abstractmethod
    def worker(self) -> str | None:
        """The name of the worker that runs the task, or ran it last."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class KnownTaskInfo(StoredTaskInfo):
    """The information about a task as plain values in memory."""

    history: tuple[PastAttempt, ...] = ()
    error: BaseException | None = None
    result: Any = None
    progress: Any = None
    worker: str | None = None

    def with_attempt(self, entry: PastAttempt, error: BaseException) -> KnownTaskInfo:
        """Return the information after one more attempt, which failed with this error."""
        past = [*self.history]
        if len(past) >= TRACEBACKS and past[-TRACEBACKS].traceback:
            past[-TRACEBACKS] = replace(past[-TRACEBACKS], traceback="")
        past.append(entry)
        if len(past) > LONGEST_HISTORY:
            past = latest(past, [each.attempt for each in past])
        history = (*past,)
        return KnownTaskInfo(history, error, None, self.progress, entry.worker)

    def __repr__(self) -> str:
        shown = f"result={value_shown(self.result)}, progress={value_shown(self.progress)}"
        return f"KnownTaskInfo(history={self.history!r}, error={self.error!r}, {shown}, worker={self.worker!r})"


NOTHING_KNOWN = KnownTaskInfo()
"""Of a task that was never attempted."""
