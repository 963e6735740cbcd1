"""Comparison of a storage's own counts with the checker's, when no worker runs any more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from trio_tasks import (
    AbortError,
    Cancelled,
    DeadlineError,
    DeadlinePassed,
    Expired,
    Failed,
    Killed,
    Minute,
    Missed,
    Pushed,
    Released,
    Replaced,
    Retried,
    Status,
    StorageEvent,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    TaskResult,
)

from tests._attempt_checker import ALL
from tests.simulation._claim_checker import ClaimChecker

_KINDS = (Succeeded, Retried, Failed, Killed, Released, Suspended)
_STATUS = {Succeeded: Status.Done, Failed: Status.Failed, Killed: Status.Killed}


async def audit(checker: ClaimChecker, storages: list[Any]) -> None:
    """Check, when no worker runs any more, that each task is in one place, and that the counts of the first storage are
    those of the checker.
    """
    storage = storages[0]
    tasks: list[Task[Any]] = await storage.list_tasks(limit=ALL)
    places = Counter(str(task.parts.id) for task in tasks)
    for faulty, what in (
        ({each for each, n in places.items() if n > 1}, "in more than one place"),
        (checker.pushed - set(places), "lost"),
        (set(places) & checker.refused, "stored, though its push did not succeed"),
        (set(places) - checker.pushed, "stored, and nobody has pushed it"),
        ({str(parts.id) for parts, n in checker.children.items() if n}, "over, and has children"),
    ):
        checker.faults += [f"{task_id} is {what}" for task_id in sorted(faulty)]
    waiting = [task for task in tasks if task.parts.status is Status.Pending]  # one that runs may have been replaced
    keys = Counter(task.parts.unique for task in waiting if _holds_key(task))
    checker.faults += [f"{n} tasks that wait have the unique key {key!r}" for key, n in keys.items() if key and n > 1]
    for task in tasks:
        await _audit_task(checker, storage, task)
        _audit_times(checker, task)
    metrics: Any = await storage.metrics()
    _audit_counts(checker, {**metrics, "unfinished": metrics["waiting"] + metrics["delayed"]}, tasks)
    balance = await storage.audit()
    checker.faults += [] if balance else [str(balance)]
    await _audit_minutes(checker, storages)
    _audit_pasts(checker, tasks)
    _audit_events(checker, tasks)
    _audit_runs(checker)


def _holds_key(task: Task[Any]) -> bool:
    """Return True if a task that waits holds its key, whatever the time."""
    parts = task.parts
    return parts.unique_for is None and (parts.unique_until != "start" or (parts.started is None and not parts.attempt))


async def _audit_task(checker: ClaimChecker, storage: Any, task: Task[Any]) -> None:
    task_id, status = task.parts.id, task.parts.status
    outcome = checker.final.get(task_id)
    if not status.is_final:
        claim = checker.latest.get(task_id)
        if outcome is not None:
            checker.fault(f"{task_id} is {status}, after {outcome}")
        if status is Status.Running and not checker.has_leases and (claim is None or claim.settled is not None):
            checker.fault(f"{task_id} is {status}, and nobody runs it")
        ahead = task.parts.attempt - checker.attempts[task_id]  # what is claimed in advance has not arrived
        if not (ahead == 0 or (checker.has_leases and ahead == 1) or (checker.may_oversleep and ahead > 0)):
            checker.fault(f"{task_id} waits with {task.parts.attempt} attempts, not {checker.attempts[task_id]}")
        return
    result = await storage.wait_for(task_id)
    if outcome is None:
        if status is not Status.Killed or not isinstance(result.error, (AbortError, DeadlineError, TaskExpiredError)):
            checker.fault(f"{task_id} is {status}, and nobody said so")
    elif not isinstance(outcome, (Succeeded, Failed, Killed)) or status is not _STATUS[type(outcome)]:
        checker.fault(f"{task_id} is {status}, after {outcome}")
    elif result.status is not status or not _is_of(result, outcome):
        checker.fault(f"{task_id} has {result}, after {outcome}")


def _audit_times(checker: ClaimChecker, task: Task[Any]) -> None:
    """A task was pushed, begun and finished in this order."""
    parts = task.parts
    known = [each for each in (parts.pushed, parts.started, parts.finished) if each is not None]
    has_begun, is_over = parts.started is not None, parts.finished is not None
    if parts.pushed is None or is_over != parts.status.is_final or (parts.attempt > 0 and not has_begun):
        checker.fault(f"{parts.id} is {parts.status}, and tells the times {known}")
    if known != sorted(known):
        checker.fault(f"{parts.id} tells the times {known}, which are not in order")


def _audit_pasts(checker: ClaimChecker, tasks: Iterable[Task[Any]]) -> None:
    """Check that each failed attempt is in the history of its task, once."""
    became = Counter(entry.became for task in tasks for entry in task.parts.context.history)
    for entry in (entry for task in tasks for entry in task.parts.context.history):
        is_timed = entry.seconds is not None and 0 <= entry.seconds < math.inf
        if entry.became in ("retried", "failed", "killed") and not is_timed:
            checker.fault(f"{entry} does not tell how long it took")
    for kind in (Retried, Failed, Killed):
        name = kind.__name__.lower()
        ours, theirs = checker.counts[kind], became[name] + checker.forgotten_pasts[name]
        if ours != theirs:
            checker.fault(f"{theirs} attempts have {kind.__name__} in the histories, not {ours}")


def _audit_events(checker: ClaimChecker, tasks: Iterable[Task[Any]]) -> None:
    """Check that each push was told of once, and each end by which a task was killed while it waited; nothing else."""
    pushed = Counter(event.id for event in checker.told if isinstance(event, Pushed))
    if pushed != Counter([*(task.parts.id for task in tasks), *checker.forgotten]):
        missing = {task.parts.id for task in tasks} - set(pushed)
        checker.fault(f"{sorted(missing)} were pushed and not told, or others were told: {pushed - Counter(missing)}")
    ends: dict[str, list[StorageEvent]] = {}
    for event in checker.told:
        if not isinstance(event, (Pushed, Missed)):
            ends.setdefault(event.id, []).append(event)
    for task in tasks:
        told, resumed = ends.pop(task.parts.id, []), checker.resumed[task.parts.id]
        if len(told) > resumed + 1:
            checker.fault(f"{task.parts.id} was resumed {resumed} times, and told are {told}")
        elif told and not resumed and (task.parts.status, type(told[0])) != (Status.Killed, _event_for(task)):
            checker.fault(f"{task.parts.id} has {task.parts.context.error!r}, and told is {told}")
    for task_id in checker.forgotten:
        told, resumed = ends.pop(task_id, []), checker.resumed[task_id]
        if len(told) > resumed + 1:
            checker.fault(f"{task_id} was resumed {resumed} times, and told are {told}")
    if ends:
        checker.fault(f"ends of unknown tasks are told: {ends}")


def _event_for(task: Task[Any]) -> type | None:
    """Return the kind of the event that tells of the end of a task that was killed."""
    error, text = task.parts.context.error, str(task.parts.context.error)
    if isinstance(error, (TaskExpiredError, DeadlineError)):
        return Expired if isinstance(error, TaskExpiredError) else DeadlinePassed
    return Replaced if "replaced by" in text else Cancelled if "cancelled while it waited" in text else None


def _audit_counts(checker: ClaimChecker, theirs: dict[str, int], tasks: Iterable[Task[Any]]) -> None:
    status = Counter(task.parts.status for task in tasks)
    killed = [task for task in tasks if task.parts.status is Status.Killed]
    in_silence = checker.killed_waiting + sum(task.parts.id not in checker.final for task in killed)
    ours = {
        "pushed": sum(status.values()) + len(checker.forgotten),
        "unfinished": status[Status.Pending],
        "running": status[Status.Running],
        "succeeded": checker.counts[Succeeded],
        "failed": checker.counts[Failed],
        "killed": checker.counts[Killed] + in_silence,
    }
    # What was replaced or aborted while it ran is killed when it comes back, and not counted as coming back.
    came_back = theirs["retried"] + theirs["released"] + theirs["suspended"]
    sent_back = checker.counts[Retried] + checker.counts[Released] + checker.counts[Suspended]
    most = math.inf if checker.has_leases else sent_back  # others have released what lay at hand, too
    if theirs["suspended"] > checker.counts[Suspended]:
        checker.fault(f"the storage says {theirs}, it was told {checker.counts}")
    if theirs["retried"] > checker.counts[Retried] or not sent_back - in_silence <= came_back <= most:
        checker.fault(f"the storage says {theirs}, it was told {checker.counts}")
    if ours != {name: theirs[name] for name in ours}:
        checker.fault(f"the storage says {theirs}, these checker {ours}")


async def _audit_minutes(checker: ClaimChecker, storages: list[Any]) -> None:
    """Check that the sums of all minutes are those of the attempts that were settled. Each process writes its own at
    most a second later, or when it is asked.
    """
    minutes: list[Minute] = []
    for storage in storages:
        minutes = await storage.throughput()
    theirs = {kind: sum(getattr(each, kind.__name__.lower()) for each in minutes) for kind in _KINDS}
    ours = {kind: checker.counts[kind] for kind in _KINDS}
    if theirs != ours:
        checker.fault(f"the sums of all minutes are {theirs}, the storage was told {ours}")


def _audit_runs(checker: ClaimChecker) -> None:
    for context, counts in checker.runs.items():
        report = context.report()
        told = (report.succeeded, report.retried, report.failed, report.killed, report.released, report.suspended)
        if told != tuple(counts[kind] for kind in _KINDS):
            checker.fault(f"{context.name} reports {report}, its events were {counts}")
        if context.is_running or not context.is_stopped:
            checker.fault(f"{context!r} has not ended")


def _is_of(result: TaskResult[Any], outcome: Succeeded[Any] | Failed | Killed) -> bool:
    """Return True if this is the outcome, or the stored form of it."""
    if isinstance(outcome, Succeeded):
        return bool(result.result == outcome.result) and result.error is None
    names = (type(result.error).__name__, getattr(result.error, "kind", "").split(".")[-1])
    expected = type(outcome.error).__name__
    # What is read back are mere exceptions, so a group of them is no BaseExceptionGroup any more.
    return result.error is outcome.error or expected in names or expected.removeprefix("Base") in names
