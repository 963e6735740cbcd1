"""The numbers of a queue: its counters, and the check that they add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, cast, final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class QueueMetrics(TypedDict):
    """The counters of a queue: what :meth:`Metrics.metrics` returns.

    Totals count from when the queue was made, and never fall. Present counts say what is in the queue now:
    ``waiting``, ``delayed`` and ``running`` are all tasks that are not finished, each in one of the three.
    """

    pushed: int
    """Total: tasks that were pushed."""
    resumed: int
    """Total: finished tasks that were made to wait again."""
    succeeded: int
    """Total: tasks that ended in success."""
    failed: int
    """Total: tasks that ended in failure, with no attempt left."""
    killed: int
    """Total: tasks that were ended otherwise: aborted, cancelled, expired, replaced."""
    retried: int
    """Total: attempts that failed and were to be made again."""
    released: int
    """Total: attempts that were interrupted, and did not count."""
    suspended: int
    """Total: attempts that put their task off, and did not count."""
    waiting: int
    """Present: tasks that are ready, and wait for a worker."""
    delayed: int
    """Present: tasks that wait for their time, suspended ones among them, or for a limit of their key."""
    running: int
    """Present: tasks in an attempt, orphans among them."""
    suspended_now: int
    """Present: of the delayed tasks, those that are put off by a suspension."""
    held_now: int
    """Present: of the delayed tasks, those that are ready but for a limit of their key."""
    orphans: int
    """Present: of the running tasks, those whose lease has run out; 0 in a journal that is only read."""
    kept_done: int
    """Present: tasks that succeeded, and are still kept."""
    kept_failed: int
    """Present: tasks that failed, and are still kept."""
    kept_killed: int
    """Present: tasks that were killed, and are still kept."""
    oldest_waiting: float
    """Seconds since when the oldest of the waiting tasks waits; 0.0 if none does."""
    is_paused: bool
    """True if the queue is paused: it gives out no tasks."""


EMPTY_METRICS = QueueMetrics(
    pushed=0,
    resumed=0,
    succeeded=0,
    failed=0,
    killed=0,
    retried=0,
    released=0,
    suspended=0,
    waiting=0,
    delayed=0,
    running=0,
    suspended_now=0,
    held_now=0,
    orphans=0,
    kept_done=0,
    kept_failed=0,
    kept_killed=0,
    oldest_waiting=0.0,
    is_paused=False,
)
"""The metrics of a queue that never had a task; for a backend of one's own that counts less than these."""


def make_metrics(counts: Mapping[str, int], *, orphans: int, oldest_waiting: float, is_paused: bool) -> QueueMetrics:
    """Make the metrics of a queue of all its counters, and of what is no counter."""
    metrics: Any = {
        "held_now": 0,
        **counts,
        "orphans": orphans,
        "oldest_waiting": oldest_waiting,
        "is_paused": is_paused,
    }
    return cast("QueueMetrics", metrics)


@final
@dataclass(frozen=True, slots=True)
class Minute:
    """The attempts at tasks of one name that ended in one minute.

    The sums of the histograms are the number of attempts: a key ``0.5`` with ``7`` says that seven took less than half
    a second, and at least a quarter of one.

    Args:
      at: the beginning of the minute, in UTC.
      name: of the tasks; None for tasks without a name, ``"other"`` for those of names beyond the first hundred.
      succeeded: attempts that ended in success; likewise the five that follow.
      retried: failed, to be made again.
      failed: failed, with no attempt left.
      killed: ended otherwise.
      released: interrupted.
      suspended: put off.
      seconds: that all of them took together, from the claim to the end.
      waited: seconds that their tasks had been ready together, before they were claimed.
      durations: how many took less than so many seconds, and not less than half of that.
      waits: the same of the seconds that their tasks had waited.
    """

    at: datetime
    name: str | None
    succeeded: int
    retried: int
    failed: int
    killed: int
    released: int
    suspended: int
    seconds: float
    waited: float
    durations: Mapping[float, int] = field(hash=False)
    waits: Mapping[float, int] = field(hash=False)

    @property
    def attempts(self) -> int:
        """The number of all attempts."""
        return self.succeeded + self.retried + self.failed + self.killed + self.released + self.suspended


@final
@dataclass(frozen=True, slots=True)
class AttemptTotals:
    """The attempts at tasks of one name that one process has settled in a queue, since it began to.

    Args:
      name: of the tasks; None for tasks without a name, ``"other"`` for those of names beyond the first hundred.
      succeeded: attempts that ended in success; this and all that follows is as in a :class:`Minute`.
      retried: failed, to be made again.
      failed: failed, with no attempt left.
      killed: ended otherwise.
      released: interrupted.
      suspended: put off.
      seconds: that all of them took together.
      waited: seconds that their tasks had been ready together.
      durations: how many took less than so many seconds, and not less than half of that.
      waits: the same of the seconds that their tasks had waited.
    """

    name: str | None
    succeeded: int
    retried: int
    failed: int
    killed: int
    released: int
    suspended: int
    seconds: float
    waited: float
    durations: Mapping[float, int] = field(hash=False)
    waits: Mapping[float, int] = field(hash=False)


STORED_STATES = ("waiting", "delayed", "running", "suspended_now", "kept_done", "kept_failed", "kept_killed")
"""The keys that count the tasks in one state."""


def changed(counts: Mapping[str, int], changes: Mapping[str, int]) -> dict[str, int]:
    """Return these counts with the changes added to them."""
    return {name: number + changes.get(name, 0) for name, number in counts.items()}


@final
@dataclass(frozen=True, slots=True)
class Balance:
    """The result of an audit: true if no task is missing, none is there twice, and all counters are right.

    >>> balance = await storage.audit()
    >>> assert balance, str(balance)

    Args:
      queue: the name of the queue.
      counters: the totals and the present counts by name, as they were counted while they changed.
      tasks: the present counts by name, as the tasks in the queue were counted now.
    """

    queue: str
    counters: Mapping[str, int] = field(hash=False)
    tasks: Mapping[str, int] = field(hash=False)

    @property
    def came(self) -> int:
        """The tasks that came into the queue: pushed, and resumed."""
        return self.counters["pushed"] + self.counters["resumed"]

    @property
    def finished(self) -> int:
        """The tasks that were finished: each success, failure and kill."""
        return self.counters["succeeded"] + self.counters["failed"] + self.counters["killed"]

    @property
    def unfinished(self) -> int:
        """The tasks that wait, are delayed, or run."""
        return self.tasks["waiting"] + self.tasks["delayed"] + self.tasks["running"]

    @property
    def wrong_counters(self) -> dict[str, int]:
        """The counters that differ from the tasks, by name, with what they say."""
        return {name: self.counters[name] for name, number in self.tasks.items() if self.counters[name] != number}

    @property
    def is_balanced(self) -> bool:
        """True if the tasks that came are those that are finished and those that are there, and the counters agree."""
        return self.came == self.finished + self.unfinished and not self.wrong_counters

    def __bool__(self) -> bool:
        return self.is_balanced

    def __str__(self) -> str:
        counted, there = self.counters, self.tasks
        sides = (
            f"{counted['pushed']} pushed + {counted['resumed']} resumed",
            f"{self.finished} finished + {there['waiting']} waiting + {there['delayed']} delayed + "
            f"{there['running']} running",
        )
        sign = "=" if self.came == self.finished + self.unfinished else "≠"
        verdict = "balanced" if self.is_balanced else "not balanced"
        wrong = [f"{name} is {number}, not {there[name]}" for name, number in self.wrong_counters.items()]
        errors = f"; counters are wrong: {', '.join(wrong)}" if wrong else ""
        return f"queue {self.queue!r} is {verdict}: {f' {sign} '.join(sides)}{errors}"
