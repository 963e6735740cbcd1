"""The explanation of where a task is, and why it does not run now; and how it is made of what a storage knows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

from .._clock import moment_at
from .._logging import catch_errors, line_of
from .._printing import escaped
from .._tasks.outcome import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from .._tasks.task import Task
    from .groups import LimitReached
    from .worker_info import RunningTask, WorkerInfo

ExplanationKind = Literal[
    "unknown",
    "finished",
    "running",
    "suspended",
    "delayed",
    "paused",
    "no_worker",
    "held_by_limit",
    "held_by_gate",
    "waiting",
]

MOST_COUNTED = 1000
"""Tasks that go first, up to which they are counted."""
_NAMED = 3
"""Of these, the first ones, which are named."""
_LONGEST_REASON = 500


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer of :meth:`~trio_tasks.Explain.explain`: where a task is, and why it does not run now.

    ``str()`` of it is one sentence with the evidence. A field that does not apply to its ``kind`` has its default.
    """

    kind: ExplanationKind
    """The first of these that is true: ``"unknown"``, ``"finished"``, ``"running"``, ``"suspended"``, ``"delayed"``
    (waits for its time), ``"paused"`` (its queue is), ``"no_worker"`` (none is alive on the queue, or none that
    knows its name), ``"held_by_limit"`` (a limit of its queue, or of its key, leaves no place), ``"held_by_gate"`` (the
    intake of each worker waits for a layer, or is paused or closed), ``"waiting"`` (for its turn)."""
    id: str
    """The id that was asked for."""
    queue: str
    """The name of the queue."""
    as_of: datetime
    """When the storage answered, by its clock."""
    status: Status | None = None
    """The status of the task; None if it is unknown."""
    attempt: int = 0
    """The number of attempts that were begun, and count."""
    name: str | None = None
    """The name of the kind of task; None if it has none."""
    worker: str | None = None
    """The worker that has it, or had it last; None if none had it, or one that is not a :class:`Worker`."""
    host: str = ""
    """Running: the machine of that worker; empty if it is not known."""
    pid: int = 0
    """Running: the number of its process."""
    line: str = ""
    """Running: the line at which the attempt waited, ``path:line in function: source``, when the worker told it."""
    told_at: datetime | None = None
    """Running: when that was."""
    last_beat: datetime | None = None
    """Running: the last sign of life of its process."""
    is_worker_alive: bool | None = None
    """Running: False if that worker is not alive any more; None if it is not known."""
    started_at: datetime | None = None
    """When its latest attempt began."""
    finished_at: datetime | None = None
    """Finished: when."""
    error: str = ""
    """The error of its latest attempt, in a line."""
    until: datetime | None = None
    """Suspended or delayed: when it is ready; None if not before it is rescheduled. Running: when its lease runs out,
    unless it is renewed. Held by a limit: when a rate lets the next attempt begin."""
    deadline: datetime | None = None
    """When it is killed unless it is finished by then; None if it has no deadline, or is finished."""
    reason: str = ""
    """Suspended: why."""
    workers: tuple[str, ...] | None = ()
    """The names of the workers that are alive on the queue; None if the storage cannot know them, and empty where that
    does not matter, as for a finished task."""
    slots: int = 0
    """The number of their slots."""
    busy: int = 0
    """The number of tasks that they run."""
    gates: tuple[tuple[str, str], ...] = ()
    """Held by gates, or waiting: the name of each worker whose intake is not open, with the state of its intake, such
    as the layer that it waits for."""
    limit: str = ""
    """Held by a limit: the field of :class:`Limits`, such as ``"per_key"``."""
    limit_key: str | None = None
    """The key that is at its limit; None if the queue is."""
    allowed: int = 0
    """The number of attempts that the limit allows."""
    counted: int = 0
    """The number of attempts that run, or that have begun within the time of the rate."""
    per: float | None = None
    """The time of the rate, in seconds."""
    known_names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """No worker knows its name: the name of each worker that is alive, with the names of tasks that it knows."""
    ahead: int = 0
    """Waiting: the number of tasks that go first; it is not counted beyond 1000."""
    first: tuple[str, ...] = ()
    """Waiting: the ids of those that go first of all, up to three."""

    @property
    def is_ahead_bounded(self) -> bool:
        """True if there may be more tasks ahead than ``ahead`` says."""
        return self.ahead >= MOST_COUNTED

    def __str__(self) -> str:
        return f"task {escaped(self.id)} {_SENTENCES[self.kind](self)}{_deadline(self)}"


class Place(NamedTuple):
    """The place of a waiting task in the order."""

    ahead: int
    """The number of tasks that go first, up to :data:`MOST_COUNTED`."""
    first: tuple[str, ...]
    """The ids of the first of them."""

    @classmethod
    def after(cls, ids: Iterable[str]) -> Place:
        """The place behind the tasks of these ids, in order; no more are looked at than are counted."""
        ahead, first = 0, list[str]()
        for task_id in ids:
            ahead += 1
            if ahead <= _NAMED:
                first.append(str(task_id))
            if ahead >= MOST_COUNTED:
                break
        return cls(ahead, tuple(first))


@dataclass(slots=True, kw_only=True)
class Evidence:
    """All that a storage knows of a task and its queue, to explain where the task is."""

    id: str
    queue: str
    now: float
    """The time, by the storage's clock, in seconds since the epoch."""
    task: Task[Any] | None = None
    """The task, as it is looked up; None if it is unknown."""
    due: float | None = None
    """By the same clock: when a task that waits is ready; of a running one, when its lease runs out."""
    reason: str | None = None
    """The reason of its suspension; None if it is not suspended."""
    is_paused: bool = False
    """True if the queue is paused."""
    workers: Sequence[WorkerInfo] | None = ()
    """The workers on the queue, alive or not; None if they cannot be known."""
    place: Place | None = None
    """The place of a task that is ready."""
    limit: LimitReached | None = None
    """The limit that holds back a task that is ready; its place may be left out then."""

    @property
    def needs_workers(self) -> bool:
        """True if the present state of the workers belongs to the explanation."""
        status = None if self.task is None else self.task.parts.status
        is_ready = self.place is not None or self.limit is not None
        return status in (Status.Running, Status.Queued) or (is_ready and not self.is_paused)

    @property
    def alive(self) -> list[WorkerInfo]:
        """The workers that are alive, as far as they are known."""
        return [each for each in self.workers or () if each.is_alive]

    @property
    def takers(self) -> list[WorkerInfo]:
        """The workers that are alive, and know the name of the task."""
        name = None if self.task is None else self.task.parts.name
        return [each for each in self.alive if name is None or each.names is None or name in each.names]

    @property
    def attempt(self) -> tuple[WorkerInfo, RunningTask | None] | None:
        """The worker that runs the task, and what it tells of the attempt, if it has told of it."""
        if self.task is None:
            return None
        parts = self.task.parts
        running = ((worker, each) for worker in self.workers or () for each in worker.running)
        told = next((pair for pair in running if (pair[1].id, pair[1].attempt) == (self.id, parts.attempt)), None)
        named = [each for each in self.workers or () if each.name == parts.context.worker]
        return told or ((named[0], None) if len(named) == 1 else None)


def explanation_of(evidence: Evidence) -> Explanation:
    """Return the explanation that follows from the evidence."""
    task = evidence.task
    if task is None:
        return Explanation(kind="unknown", id=evidence.id, queue=evidence.queue, as_of=moment_at(evidence.now))
    kind, due = _kind_of(evidence, task), evidence.due
    has_end = kind in ("running", "suspended", "delayed") and due is not None and due < math.inf
    workers = evidence.alive if kind == "no_worker" else evidence.takers
    explanation = Explanation(
        kind=kind,
        id=evidence.id,
        queue=evidence.queue,
        as_of=moment_at(evidence.now),
        status=task.parts.status,
        attempt=int(task.parts.attempt),
        name=task.parts.name,
        worker=task.parts.context.worker or None,
        started_at=task.parts.started_at,
        finished_at=task.parts.finished_at,
        error=_error_of(task),
        until=moment_at(due) if has_end and due is not None else None,
        deadline=None if kind == "finished" else task.parts.deadline_at,
        reason=reason_text(evidence.reason) if kind == "suspended" else "",
        workers=None if evidence.workers is None else tuple(each.name for each in workers),
        slots=sum(each.slots for each in workers),
        busy=sum(each.busy for each in workers),
        gates=_gates_of(workers) if kind in ("held_by_gate", "waiting") else (),
        known_names=tuple((each.name, each.names or ()) for each in workers) if kind == "no_worker" else (),
        ahead=0 if evidence.place is None else evidence.place.ahead,
        first=() if evidence.place is None else evidence.place.first,
    )
    if kind == "held_by_limit":
        return _with_limit(explanation, evidence)
    return _with_attempt(explanation, evidence) if kind == "running" else explanation


def _gates_of(workers: list[WorkerInfo]) -> tuple[tuple[str, str], ...]:
    return tuple((each.name, each.intake) for each in workers if each.intake != "open")


def _with_limit(explanation: Explanation, evidence: Evidence) -> Explanation:
    """Add the limit that holds the task back."""
    limit = evidence.limit
    assert limit is not None
    has_end = limit.free_at is not None and math.isfinite(limit.free_at)
    return replace(
        explanation,
        until=moment_at(limit.free_at) if has_end and limit.free_at is not None else None,
        limit=limit.field,
        limit_key=limit.key,
        allowed=limit.limit,
        counted=limit.number,
        per=limit.per,
    )


def _with_attempt(explanation: Explanation, evidence: Evidence) -> Explanation:
    """Add what the worker of a running task tells of it."""
    if evidence.attempt is None:
        return explanation
    worker, attempt = evidence.attempt
    return replace(
        explanation,
        worker=worker.name,
        host=worker.host,
        pid=worker.pid,
        line="" if attempt is None else attempt.line,
        told_at=None if attempt is None else worker.as_of,
        last_beat=worker.last_beat,
        is_worker_alive=worker.is_alive,
    )


def _kind_of(evidence: Evidence, task: Task[Any]) -> ExplanationKind:
    # The order in which the cases are tried: each one would hide those that follow it.
    status = task.parts.status
    # 1. It is finished; or 2. it is in the hands of a worker.
    if status.is_final:
        return "finished"
    if status is not Status.Pending:
        return "running"
    # 3. It is suspended; or 4. it waits for its time.
    if evidence.place is None and evidence.limit is None:
        return "delayed" if evidence.reason is None else "suspended"
    # 5. The queue is paused, so it does not matter if a worker is there.
    if evidence.is_paused:
        return "paused"
    # 6. No worker is there, or none that knows the name of the task.
    takers = evidence.takers
    if evidence.workers is not None and not takers:
        return "no_worker"
    # 7. A limit leaves no place, whatever workers are there.
    if evidence.limit is not None:
        return "held_by_limit"
    # 8. No worker would take it.
    if takers and all(each.intake != "open" for each in takers):
        return "held_by_gate"
    # 9. It waits in line.
    return "waiting"


def reason_text(reason: object) -> str:
    """Return the reason of a suspension on one line, as it is stored."""
    return escaped(reason, is_text=True)[:_LONGEST_REASON] if isinstance(reason, str) else ""


def _error_of(task: Task[Any]) -> str:
    """The latest error of a task; empty if there is none, or if it cannot be read."""
    with catch_errors():
        if (error := task.parts.context.error) is not None:
            return line_of(error)
        history = task.parts.context.history
        return history[-1].error if history and task.parts.status is not Status.Done else ""
    return ""


# Sentences


def _unknown(it: Explanation) -> str:
    return f"is not known on queue {it.queue!r}: it was never pushed there, or is finished and forgotten"


def _finished(it: Explanation) -> str:
    end = {Status.Done: "is done", Status.Failed: "has failed", Status.Killed: "was killed"}[it.status or Status.Done]
    by = f" by worker {it.worker!r}" if it.worker else ""
    attempt = f"in its attempt {it.attempt}{by}" if it.attempt else "before its first attempt"
    since = f", {_ago(it.finished_at, it)}" if it.finished_at is not None else ""
    return f"{end} {attempt}{since}{f': {_error(it)}' if it.error else ''}"


def _running(it: Explanation) -> str:
    by = f" in worker {it.worker!r}" if it.worker else ""
    since = f" {_ago(it.started_at, it)}" if it.started_at is not None else ""
    if it.status is Status.Queued:
        return f"was claimed{since}, and its attempt {it.attempt} is about to begin{by}"
    return f"is running: its attempt {it.attempt} began{since}{by}{_where(it)}{_lease(it)}"


def _where(it: Explanation) -> str:
    """Describe the place of the attempt, and the age of this answer."""
    if it.last_beat is None:
        return ""
    process = f" (process {it.pid}{f' on {it.host}' if it.host else ''})" if it.pid else ""
    line = ""
    if it.told_at is not None:
        line = (
            f", and waited {_ago(it.told_at, it)} at {it.line}" if it.line else f", as it told {_ago(it.told_at, it)}"
        )
    end = "" if it.is_worker_alive else "; that worker is not alive any more"
    return f"{process}{line}{end}; the last sign of life of its process came {_ago(it.last_beat, it)}"


def _lease(it: Explanation) -> str:
    if it.until is None:
        return ""
    if it.until <= it.as_of:
        return f"; its lease ran out {_ago(it.until, it)}, so the next worker that looks takes the task back"
    return f"; its lease holds for {span(it.until, it.as_of)}, unless it is renewed before"


def _suspended(it: Explanation) -> str:
    return f"is suspended {_until(it)}: {it.reason or 'no reason was given'}"


def _delayed(it: Explanation) -> str:
    return f"waits {_until(it)}{_after_failure(it)}"


def _paused(it: Explanation) -> str:
    return f"is ready, but queue {it.queue!r} is paused{_after_failure(it)}"


def _no_worker(it: Explanation) -> str:
    if not it.workers or it.name is None:
        return f"is ready, but no worker is alive on queue {it.queue!r}{_after_failure(it)}"
    known = [f"worker {name!r} knows {_listed(names)}" for name, names in it.known_names[:_NAMED]]
    if len(it.known_names) > _NAMED:
        known.append(f"{len(it.known_names) - _NAMED} more know others")
    return (
        f"is ready, but no worker alive on queue {it.queue!r} knows tasks named {it.name!r}: "
        f"{', '.join(known)}{_after_failure(it)}"
    )


def _listed(names: tuple[str, ...]) -> str:
    """Some of the names, in words."""
    shown = [repr(each) for each in names[:_NAMED]]
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]])) or "none"


def _held_by_limit(it: Explanation) -> str:
    subject = f"queue {it.queue!r}" if it.limit_key is None else f"its key {it.limit_key!r}"
    if it.per is None:
        held = f"has {it.counted} of {it.allowed} attempts running ({it.limit}={it.allowed})"
    else:
        held = f"has begun {it.counted} of {it.allowed} attempts within {_exactly(it.per)} ({it.limit})"
    more = ", and others of its tasks go first" if it.counted < it.allowed else ""
    when = f"; the next may begin in {span(it.until, it.as_of)}" if it.until is not None else ""
    return f"is ready, but {subject} {held}{more}{when}{_after_failure(it)}"


def _held_by_gate(it: Explanation) -> str:
    return f"is ready, but the intake of no worker on queue {it.queue!r} is open: {_held(it)}{_after_failure(it)}"


def _held(it: Explanation) -> str:
    """The workers whose intake is not open, in words."""
    held = [f"worker {name!r} ({state})" for name, state in it.gates[:_NAMED]]
    if len(it.gates) > _NAMED:
        held.append(f"{len(it.gates) - _NAMED} more")
    return ", ".join(held)


def _waiting(it: Explanation) -> str:
    least = "at least " if it.is_ahead_bounded else ""
    tasks = "1 task goes" if it.ahead == 1 else f"{least}{it.ahead} tasks go"
    place = (
        f"is ready, and {tasks} first, the next one {escaped(it.first[0])}," if it.ahead else "is ready, and goes next"
    )
    held = f"; not open is the intake of {_held(it)}" if it.gates else ""
    return f"{place} on queue {it.queue!r}, {_receivers(it)}{held}{_after_failure(it)}"


_SENTENCES = {
    "unknown": _unknown,
    "finished": _finished,
    "running": _running,
    "suspended": _suspended,
    "delayed": _delayed,
    "paused": _paused,
    "no_worker": _no_worker,
    "held_by_limit": _held_by_limit,
    "held_by_gate": _held_by_gate,
    "waiting": _waiting,
}


def _receivers(it: Explanation) -> str:
    """The workers of the queue, in words."""
    if it.workers is None:
        return "whose workers cannot be seen from here"
    names = [repr(name) for name in it.workers[:_NAMED]]
    if len(it.workers) > _NAMED:
        names.append(f"{len(it.workers) - _NAMED} more")
    if len(names) == 1:
        return f"where worker {names[0]} receives, {it.busy} of {it.slots} slots busy"
    return f"where workers {', '.join(names[:-1])} and {names[-1]} receive, {it.busy} of {it.slots} slots busy"


def _deadline(it: Explanation) -> str:
    if it.deadline is None:
        return ""
    if it.deadline <= it.as_of:
        return f"; its deadline was over {_ago(it.deadline, it)}"
    is_first = it.until is not None and it.until > it.deadline and it.kind != "running"
    before = "before that " if is_first else ""
    return f"; {before}it is killed at its deadline, in {span(it.deadline, it.as_of)}, unless it is finished by then"


def _error(it: Explanation) -> str:
    return escaped(it.error, is_text=True)


def _after_failure(it: Explanation) -> str:
    return f"; its attempt {it.attempt} ended with {_error(it)}" if it.error and it.attempt else ""


_UNITS = (("days", 86_400), ("hours", 3600), ("min", 60))
"""Units of time above the second, in seconds."""


def _until(it: Explanation) -> str:
    if it.until is None:
        return "until it is rescheduled"
    return f"for {span(it.until, it.as_of)} more, until {it.until:%Y-%m-%d %H:%M:%S} UTC"


def _ago(moment: datetime, it: Explanation) -> str:
    return f"{span(it.as_of, moment)} ago"


def span(later: datetime, earlier: datetime) -> str:
    """The time between two moments, in the unit that suits it."""
    seconds = max(0.0, (later - earlier).total_seconds())
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _exactly(seconds: float) -> str:
    """A time that was chosen, in the largest unit of which it is a whole number."""
    for unit, size in _UNITS:
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s" if seconds < 1e6 else f"{seconds:.0f} s"
