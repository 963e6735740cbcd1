"""Tasks as a storage keeps them, which can be carried to another storage; and the report of what was taken over."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final, get_args

from .._checks import check_count, check_name, check_text, check_unicode
from .._clock import moment_after
from .._printing import escaped, quoted
from .._tasks.task import check_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._tasks.task import UniqueUntil
    from .._tasks.task_id import TaskId

StoredState = Literal["waiting", "delayed", "running", "done", "failed", "killed"]
STATES: tuple[StoredState, ...] = get_args(StoredState)
"""The states of a stored task, in the order of their numbers in a store."""
_FINISHED = frozenset(STATES[3:])
_NEVER = 2.0**63 / 1e6
"""Seconds from which on a time is ``math.inf``: microseconds have 64 bits where a store counts them."""
_LATEST = 2.0**38
"""Seconds since the epoch that the clock of a store may show, in either direction."""
_BITS = 63
_NAMED = 3
"""Tasks that the text of a report names, of those that were not taken over."""


def rounded(seconds: float | None) -> float | None:
    """Return a time as it is exported, in whole microseconds: so it is the same after it was stored anywhere."""
    if seconds is None:
        return None
    return math.inf if seconds >= _NEVER else round(seconds, 6)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """A task as a stored storage keeps it, complete: what ``export_tasks`` gives, and ``import_tasks`` takes.

    Times are seconds since the epoch by the storage's clock, in whole microseconds.

    Args:
      id: the id.
      state: ``"waiting"``, ``"delayed"``, ``"running"``, ``"done"``, ``"failed"`` or ``"killed"``.
      payload: the args, as the codec of the queue has encoded them.
      options: its options and metadata, encoded; None if they are the default.
      name: the name of the kind of task.
      priority: as in its options.
      attempt: the number of its attempts so far.
      pushed: when it was pushed; None if that is not known.
      started: when its latest attempt began; None if there was none.
      since: since when it waits for an attempt, or is finished. Not of delayed ones.
      due: delayed: when it is ready; ``math.inf``: not before it is rescheduled. Finished: when it is forgotten; None
          if never.
      expires: when it is killed, unless it was started before; None if it does not expire.
      deadline: when it is killed, unless it is finished before; None if it has no deadline.
      run_at: its ``parts.run_at``, in microseconds since the epoch by the wall clock.
      by_wall_clock: True if it is delayed until ``run_at`` by the wall clock.
      unique: the unique key that it holds; None if it has none, or does not hold it any more.
      unique_until: what ends that, as in its options; or the time at which it ends, if it was pushed with one.
      suspended: the reason of the suspension that delays it; None if none does.
      is_aborting: running: True if it is to be aborted.
      replaced_by: running: the id of the task that has its unique key now, so that it is not attempted again.
      worker: the name of the worker that claimed it last.
      result: finished: its result, or its error, encoded; waiting for a retry: its latest error.
      history: its earlier attempts, encoded.
      progress: its latest progress, encoded.

    Raises:
      TypeError, ValueError: one of them is wrong, or they do not go together.
    """

    id: str
    state: StoredState
    payload: bytes = field(repr=False)
    options: bytes | None = field(default=None, repr=False)
    name: str | None = None
    priority: int = 0
    attempt: int = 0
    pushed: float | None = None
    started: float | None = None
    since: float | None = None
    due: float | None = None
    expires: float | None = None
    deadline: float | None = None
    run_at: int | None = None
    by_wall_clock: bool = False
    unique: str | None = None
    unique_until: UniqueUntil | float = "end"
    suspended: str | None = None
    is_aborting: bool = False
    replaced_by: str | None = None
    worker: str | None = None
    result: bytes | None = field(default=None, repr=False)
    history: bytes | None = field(default=None, repr=False)
    progress: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, not {quoted(self.state)}")
        check_name(self.id, "id")
        if type(self.payload) is not bytes:
            raise TypeError(f"payload must be bytes, not {quoted(self.payload)}")
        for name in ("options", "result", "history", "progress"):
            if type(getattr(self, name)) not in (bytes, type(None)):
                raise TypeError(f"{name} must be bytes or None, not {quoted(getattr(self, name))}")
        for name in ("name", "unique", "replaced_by", "worker", "suspended"):
            if (text := getattr(self, name)) is not None:
                check_unicode(check_text(text, name) if text != "" else text, name)
        for name in ("by_wall_clock", "is_aborting"):
            if type(getattr(self, name)) is not bool:
                raise TypeError(f"{name} must be True or False, not {quoted(getattr(self, name))}")
        self._check_numbers()
        self._check_unique()
        self._check_state()

    @property
    def is_finished(self) -> bool:
        """True if it is done, failed or killed."""
        return self.state in _FINISHED

    @property
    def start_by(self) -> float | None:
        """When it is killed if it waits until then, as it expires or its deadline is over; None if it is not so."""
        if self.is_finished or self.state == "running":
            return None
        return min((each for each in (self.expires, self.deadline) if each is not None), default=None)

    @property
    def size(self) -> int:
        """The bytes of its payload and its options, which are limited together."""
        return len(self.payload) + len(self.options or b"")

    def is_kept_no_longer(self, now: float) -> bool:
        """Return True if it is finished, and was kept long enough."""
        return self.is_finished and self.due is not None and self.due <= now

    def is_same_task(self, other: StoredTask) -> bool:
        """Return True if both are one task, whatever has become of it: they were pushed at one time, with the same
        id, args and options.
        """
        ours = self.id, self.pushed, self.name, self.payload, self.options
        return ours == (other.id, other.pushed, other.name, other.payload, other.options)

    def _check_numbers(self) -> None:
        _check_bits(self.priority, "priority", None)
        _check_bits(self.attempt, "attempt", 0)
        for name in ("pushed", "started", "since", "expires", "deadline"):
            if getattr(self, name) is not None:
                _check_time(getattr(self, name), name)
        if self.due is not None:
            _check_time(self.due, "due", never=self.state == "delayed")
        if self.run_at is not None:
            _check_bits(self.run_at, "run_at", None)
            try:
                moment_after(self.run_at)
            except (ValueError, OverflowError):
                raise ValueError(f"run_at must be a time in microseconds, not {self.run_at}") from None

    def _check_unique(self) -> None:
        if isinstance(self.unique_until, (int, float)):
            _check_time(self.unique_until, "unique_until")
        else:
            check_until(self.unique_until, "unique_until")
        if self.unique is None and self.unique_until != "end":
            raise ValueError("unique_until needs a unique key")
        if self.unique is not None and self.is_finished and self.unique_until in ("start", "end"):
            raise ValueError(f"a task that is {self.state} does not hold a unique key until its {self.unique_until}")

    def _check_state(self) -> None:
        """Raise if there is a field that does not go with the state."""
        waits, runs, is_delayed = self.state in STATES[:2], self.state == "running", self.state == "delayed"
        wrong = {
            "since": (self.since is None) is not is_delayed,
            "due": self.due is None if is_delayed else self.due is not None and not self.is_finished,
            "expires": self.expires is not None and not waits,
            "by_wall_clock": self.by_wall_clock and not (is_delayed and self.run_at is not None),
            "suspended": self.suspended is not None and not is_delayed,
            "is_aborting": self.is_aborting and not runs,
            "replaced_by": self.replaced_by is not None and not (runs and not self.is_aborting and self.unique is None),
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"{name} must not be {quoted(getattr(self, name))} where state is {self.state!r}")


def _check_bits(value: object, name: str, minimum: int | None) -> None:
    number = check_count(value, name, minimum=minimum)
    if number.bit_length() > _BITS:
        raise ValueError(f"{name} must fit in 64 bits, not {quoted(number)}")


def _check_time(value: Any, name: str, *, never: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a time in seconds since the epoch, not {quoted(value)}")
    if not -_LATEST <= value <= (math.inf if never else _NEVER):  # NaN is refused here too
        raise ValueError(f"{name} must be a time in seconds since the epoch, not {quoted(value)}")


@final
@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import: which tasks were taken over, and why others were not; true if all are there now.

    Args:
      imported: the ids of the tasks that were stored, in the order in which they were given.
      present: the ids of those that the queue had already, and which stay as they are there.
      forgotten: the ids of those that are kept no longer: the time for which they were to be remembered is over.
      refused: for the id of each other task, why it was not stored.
    """

    imported: tuple[TaskId, ...]
    present: tuple[TaskId, ...]
    forgotten: tuple[TaskId, ...]
    refused: Mapping[str, str] = field(hash=False)

    def __bool__(self) -> bool:
        return not self.refused

    def __str__(self) -> str:
        number = len(self.imported) + len(self.present) + len(self.forgotten) + len(self.refused)
        named = [f"not {escaped(task_id)}: {reason}" for task_id, reason in [*self.refused.items()][:_NAMED]]
        rest = len(self.refused) - len(named)
        parts = [f"{len(self.imported)} of {number} imported"]
        parts += [f"{len(self.present)} there already"] if self.present else []
        parts += [f"{len(self.forgotten)} kept no longer"] if self.forgotten else []
        return "; ".join([*parts, *named, *([f"and {rest} more not"] if rest else [])])
