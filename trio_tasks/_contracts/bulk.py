"""Calls about several tasks by their ids: the check of the ids, and the report of which tasks were changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast, final

from .._checks import check_stored_text
from .._logging import log
from .._printing import escaped
from .._tasks.outcome import Status
from .._tasks.task_id import stored_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .._tasks.task_id import TaskId

_WHOLE: tuple[type, ...] = (str, bytes, bytearray, memoryview)
"""Classes that are iterables, whose values are no list of ids."""
_NAMED = 3
"""Tasks that the text of a report names, of those that were not changed."""


def check_ids(given: object) -> str | list[str]:
    """Return the id that is given; or a list of the ids, if several are given in an iterable. A string is one id.

    Args:
      given: the argument of the call.

    Raises:
      TypeError, ValueError: it is neither, or one of them is no id; the message says at which position.
    """
    if isinstance(given, _WHOLE) or not isinstance(given, Iterable):
        return check_stored_text(given, "a task's id")
    several = cast("Iterable[object]", given)
    return [check_stored_text(each, f"ids[{position}]") for position, each in enumerate(several)]


def in_batches(ids: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    """Divide the ids, each of them once, into batches; into an empty one if there are none."""
    distinct = [*dict.fromkeys(ids)]
    for start in range(0, max(1, len(distinct)), size):
        yield distinct[start : start + size]


@final
@dataclass(frozen=True, slots=True)
class ChangeReport:
    """The result of a verb for several tasks: which were changed, and why the others were not; true if all were.

    >>> report = await storage.cancel(ids)
    >>> print(report)
    2 of 3 cancelled; not 01a…: it runs, on worker 'w'

    Args:
      changed: the ids of the tasks that were changed, in the order in which they were given.
      refused: for the id of each other task, why it was not changed.
      verb: the change that was made, as a participle.
    """

    changed: tuple[TaskId, ...]
    refused: Mapping[str, str] = field(hash=False)
    verb: str = "changed"

    @property
    def is_complete(self) -> bool:
        """True if all tasks were changed."""
        return not self.refused

    def __bool__(self) -> bool:
        return self.is_complete

    def __str__(self) -> str:
        number = len(self.changed) + len(self.refused)
        named = [f"not {escaped(task_id)}: {reason}" for task_id, reason in [*self.refused.items()][:_NAMED]]
        rest = len(self.refused) - len(named)
        more = [f"and {rest} more not"] if rest else []
        return "; ".join([f"{len(self.changed)} of {number} {self.verb}", *named, *more])


class Refusal(NamedTuple):
    """The state of a task that was not changed, as it was found in the same step."""

    status: Status | None = None
    """The status of the task; None if it is not known."""
    worker: str | None = None
    """The name of the worker that runs it."""
    taken_by: str | None = None
    """The id of the task that has its unique key, if it is refused for that."""

    is_ending: bool = False
    """True if it was to be aborted, but its attempt is over."""

    @property
    def reason(self) -> str:
        """The reason, in words."""
        if self.taken_by is not None:
            return f"its unique key is taken by {escaped(self.taken_by)}"
        if self.status is None:
            return "no such task is known"
        if self.is_ending:
            return "its attempt is over, and being settled"
        return _REASONS.get(self.status) or (f"it runs, on worker {self.worker!r}" if self.worker else "it runs")


UNKNOWN = Refusal().reason
"""The reason for a task that the queue does not know."""

_REASONS = {
    Status.Pending: "it waits",
    Status.Done: "it is done",
    Status.Failed: "it has failed",
    Status.Killed: "it was killed",
}


@final
class ReportBuilder:
    """A report that is made in several steps.

    Args:
      verb: the change, as a participle.
    """

    __slots__ = ("_changed", "_refused", "_verb")

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._changed: list[TaskId] = []
        self._refused: dict[str, str] = {}

    def add(self, task_id: str, refusal: Refusal | None) -> None:
        """Add a task that was changed, or was not."""
        if refusal is None:
            self._changed.append(stored_id(task_id))
        else:
            self._refused[task_id] = refusal.reason

    def report(self) -> ChangeReport:
        """Return the report of all steps."""
        return ChangeReport(tuple(self._changed), self._refused, self._verb)


def log_taken(queue: str, taken: Sequence[str]) -> None:
    """Log the finished tasks that a verb for many tasks left as they are, since others have their unique keys."""
    if taken:
        named = ", ".join(map(escaped, taken[:_NAMED])) + (", …" if len(taken) > _NAMED else "")
        message = "%d tasks of queue %r stay finished, since other tasks have their unique keys: %s"
        log.info(message, len(taken), queue, named)
