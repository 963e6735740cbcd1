"""Books that are kept beside a storage's own, of what it was seen to do and of what its workers say.

The law that they hold a program to is that of the second promise: what was pushed is settled, released or still
there, each task in one place, each claim settled once, each attempt counted once. What happened is what came through to
the storage (:class:`Watched`), whatever a faulty line has made of it on the way. A fault is written down, to be looked
at in the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import trio
from trio_tasks import (
    AbortError,
    BackendError,
    Engage,
    Error,
    Event,
    Failed,
    Killed,
    LeaseLostError,
    Outcome,
    Parts,
    Release,
    Released,
    Retried,
    Start,
    Status,
    Stop,
    Succeeded,
    Success,
    Task,
    TaskExpiredError,
    TaskResult,
    WorkerContext,
)
from trio_tasks.testing import Fault

from tests._books import ALL as ALL, ending

_KINDS = (Succeeded, Retried, Failed, Killed, Released)
_STATUS = {Succeeded: Status.Done, Failed: Status.Failed, Killed: Status.Killed}
_CLOSE = 1e-4  # seconds: a moment is a sum of floats, some of them since 1970
_LOST = "its lease was lost"


@dataclass(eq=False)
class Claim:
    """One attempt's right to a task: of all that carry it, one may settle it, once."""

    parts: Parts
    until: float  # on the storage's clock; the lease may have been renewed since
    settled: Outcome | None = None
    under_way: list[tuple[float, Outcome]] = field(default_factory=list[tuple[float, Outcome]])
    is_overtaken: bool = False  # somebody has the task by now, and how this one was settled is not known yet
    is_resumed: bool = False  # the task was, after this one was settled, which is not known yet
    is_void: bool = False  # its storage was closed
    moved_to: float = math.inf  # by somebody who came before it was known how this one was settled
    is_told: bool = False  # by a worker

    @property
    def lease_until(self) -> float:
        return max(self.until, getattr(self.parts.context, "until", self.until))


class Books:
    """An observer of storages and a listener to workers; :meth:`audit` them in the end."""

    def __init__(self, *, has_leases: bool, may_oversleep: bool) -> None:
        self.has_leases = has_leases
        self.may_oversleep = may_oversleep  # so that what was claimed in advance may be lost on its way
        self.storage_now: Callable[[], float] = trio.current_time
        self.faults: list[str] = []
        self.history: list[str] = []
        self.pushed: set[str] = set()
        self.refused: set[str] = set()
        self.children: Counter[Parts] = Counter()
        self.struck: set[Parts] = set()  # whose attempt has seen a cancellation come from outside of it
        self.may_be_struck: set[Parts] = set()
        self.to_abort: set[str] = set()  # by somebody who has not been answered yet, perhaps
        self._aborted: set[Claim | None] = set()
        self.seen: Counter[str] = Counter()  # what programs are there to bring about
        self.lost: set[str] = set()  # that came back without a lease, or were handed out twice
        self.counts: Counter[type[Any]] = Counter()  # claims, by how they were settled
        self._claims: dict[object, Claim] = {}
        self._latest: dict[str, Claim] = {}
        self._by_attempt: dict[tuple[str, int], list[Claim]] = {}
        self._runs: dict[WorkerContext, Counter[type[Any]]] = {}
        self._attempts: Counter[str] = Counter()  # that count
        self._not_before: dict[str, float] = {}
        self._moving: dict[str, float] = {}  # as somebody has asked who has not been answered yet
        self._final: dict[str, Outcome] = {}
        self._killed_waiting = 0  # of those that were resumed since
        self._resuming: set[str] = set()

    def fault(self, what: str) -> None:
        self.faults.append(f"{what}, at {trio.current_time():g}")

    def note(self, what: object) -> None:
        self.history.append(f"{trio.current_time():12.3f} {what}")

    def went_wrong(self, fault: Fault) -> None:
        """A line has done something."""
        self.seen[fault.kind] += 1
        self.history.append(f"{fault} <<<")
        if fault.kind in ("lost", "duplicate") and fault.task_id is not None:
            self.lost.add(fault.task_id)

    # What is done from outside

    def will_push(self, task: Task[Any]) -> None:
        """It may be started once its delay is over, counted from now at the earliest."""
        self._not_before[task.parts.id] = trio.current_time() + task.parts.terms.delay
        self.note(f"push {task} {task.parts.terms}")

    def will_reschedule(self, task_id: str, delay: float) -> None:
        """It may wait for so long from now, if it waits."""
        moment = trio.current_time() + delay
        self._not_before[task_id] = min(moment, self._not_before.get(task_id, 0.0))
        self._moving[task_id] = moment
        self._move(task_id)

    def was_rescheduled(self, task_id: str) -> None:
        """That has been answered."""
        self._move(task_id)
        self._moving.pop(task_id, None)

    def _move(self, task_id: str) -> None:
        """If it has come back just now, and that is not known yet, it may be moved already."""
        last = self._latest.get(task_id)
        if last is not None and last.under_way:
            last.moved_to = min(last.moved_to, self._moving.get(task_id, math.inf))

    def was_aborted(self, task_id: str) -> None:
        """The attempt under way has been told."""
        self._aborted.add(self._latest.get(task_id))

    def will_resume(self, task_id: str) -> None:
        """It may begin another life."""
        self._resuming.add(task_id)

    def was_resumed(self, task_id: str, *, really: bool) -> None:
        if task_id in self._resuming:
            self._resuming.discard(task_id)
            if really:
                self._begin_again(task_id)

    def _begin_again(self, task_id: str) -> None:
        last = self._latest.pop(task_id, None)
        if last is not None and last.under_way:
            last.is_resumed = True
        elif self._final.pop(task_id, None) is None:
            self._killed_waiting += 1
        self._attempts[task_id] = 0
        self._not_before[task_id] = 0.0

    def closed(self) -> None:
        """The storages were closed: leases may be over. What is in hand stays in the hands of nobody."""
        for claim in self._latest.values():
            claim.is_void = True

    @property
    def unfinished(self) -> set[str]:
        return self.pushed - set(self._final)

    # What a storage does

    def claimed(self, task: Task[Any]) -> None:
        parts = task.parts
        task_id, attempt = parts.id, parts.attempt
        self.note(f"claim {task} {parts.context}")
        if task_id in self._resuming and (task_id in self._final or attempt <= self._attempts[task_id]):
            self._resuming.discard(task_id)
            self._begin_again(task_id)
        if task_id in self._final:
            self.fault(f"{task_id} is claimed after it was {self._final[task_id]}")
        claim = Claim(parts, getattr(parts.context, "until", 0.0))
        allowed = self._overtake(task_id, claim)
        if attempt not in allowed and not (self.may_oversleep and attempt > min(allowed)):
            self.fault(f"{task_id} begins attempt {attempt}, not one of {sorted(allowed)}")
        if trio.current_time() < self._not_before.get(task_id, 0.0) - _CLOSE:
            self.fault(f"{task_id} is claimed before {self._not_before[task_id]:g}")
        if parts.status is not Status.Running:
            self.fault(f"{task_id} is in hand and {parts.status}")
        self._attempts[task_id] = attempt
        self._latest[task_id] = self._claims[_key(parts)] = claim
        self._by_attempt.setdefault((task_id, attempt), []).append(claim)

    def _overtake(self, task_id: str, claim: Claim) -> set[int]:
        """Which attempt this may be, given the claim before it."""
        counted, last = self._attempts[task_id], self._latest.get(task_id)
        if last is None or last.settled is not None:
            return {counted + 1}
        self.seen["claimed again before it was settled"] += 1
        if last.under_way:
            last.is_overtaken = True
            return {counted, counted + 1}
        if not self.has_leases:
            self.fault(f"{task_id} is claimed while somebody has it in hand")
        elif not last.is_void:
            lane = claim.parts.context.lane
            began_at = claim.until - lane.lease
            if began_at < last.lease_until - _CLOSE:
                self.fault(f"{task_id} is claimed at {began_at:f}, under a lease until {last.lease_until:f}")
        return {counted + 1}

    def settling(self, task: Task[Any], outcome: Outcome) -> None:
        claim = self._claims.get(_key(task.parts))
        self.note(f"settling {task} as {outcome!r:.100}")
        if claim is None:
            self.fault(f"{task} is settled, and was not claimed")
        else:
            claim.under_way.append((trio.current_time(), outcome))
            claim.moved_to = self._moving.get(task.parts.id, math.inf)

    def settled(self, task: Task[Any], outcome: Outcome) -> None:
        task_id = task.parts.id
        claim = self._claims[_key(task.parts)]
        began_at = self._ended(claim, outcome)
        self.note(f"settled {task} as {outcome!r:.100}")
        if claim.settled is not None:
            self.fault(f"{task_id} is settled as {outcome}, and was as {claim.settled}, in one attempt")
        if self._latest.get(task_id) is not claim and not (claim.is_overtaken or claim.is_resumed):
            self.fault(f"{task_id} is settled by somebody who had lost it")
        claim.settled = outcome
        self.counts[type(outcome)] += 1
        if claim.is_resumed:
            self._killed_waiting += isinstance(outcome, (Retried, Released))
        elif isinstance(outcome, (Retried, Released)):
            if claim.is_overtaken:
                return
            if isinstance(outcome, Released):
                self._attempts[task_id] -= 1
            else:
                self._not_before[task_id] = min(began_at + outcome.after, claim.moved_to)
        elif claim.is_overtaken or task_id in self._final:
            self.fault(f"{task_id} is settled as {outcome}, and goes on")
        else:
            self._final[task_id] = outcome

    def unsettled(self, task: Task[Any], outcome: Outcome, error: BackendError) -> None:
        claim = self._claims.get(_key(task.parts))
        self.note(f"not settled {task} as {outcome!r:.100}: {error}")
        if claim is None:
            return
        self._ended(claim, outcome)
        if not isinstance(error, LeaseLostError):
            self.fault(f"{task} cannot be settled: {error!r}")
        elif claim.settled is None and not claim.under_way and self._latest.get(task.parts.id) is claim:
            if not (self.has_leases and (claim.is_void or self.storage_now() >= claim.lease_until - _CLOSE)):
                self.fault(f"{task} could not be settled, and nobody has taken it away")

    @staticmethod
    def _ended(claim: Claim, outcome: Outcome) -> float:
        index = next(index for index, each in enumerate(claim.under_way) if each[1] is outcome)
        return claim.under_way.pop(index)[0]

    # What a worker says

    def hear(self, context: WorkerContext, event: Event) -> None:
        """Compare what it says with what happened."""
        self.note(f"{context.name} {event!r:.300}")
        outcome = ending(event)
        if isinstance(event, Start):
            self._runs[context] = Counter()
        elif isinstance(event, Engage):
            if not self._claims_of(event.task):
                self.fault(f"{event.task} is begun, and was not claimed")
        elif isinstance(event, Stop) and context.in_hand:
            self.fault(f"{context!r} has stopped with {context.in_hand} in hand")
        elif outcome is not None:
            assert isinstance(event, (Success, Error, Release))
            self._runs[context][type(outcome)] += 1
            self._end(context, event.task, outcome)

    def _claims_of(self, task: Task[Any]) -> list[Claim]:
        """The claim that this is a copy of. Of a second copy the number of the attempt is all that is known, and what
        was released has the same one again."""
        parts = task.parts
        claim = self._claims.get(_key(parts))
        return [claim] if claim is not None else self._by_attempt.get((parts.id, parts.attempt), [])

    def _end(self, context: WorkerContext, task: Task[Any], outcome: Outcome) -> None:
        self.check_children(task)
        if outcome == Released(_LOST):
            self.seen["told that a lease was lost"] += 1
            return
        for claim in self._claims_of(task):
            if type(claim.settled) is type(outcome) and not claim.is_told:
                claim.is_told = True
                self._check_kind(task, claim, outcome)
                return
        self.fault(f"{context.name} says {outcome} of {task}, which is not so, or was said before")

    def check_children(self, task: Task[Any]) -> None:
        """It is about to be settled, or was just now."""
        if self.children[task.parts]:
            self.fault(f"{task} is settled while children of its attempt are running")

    def _check_kind(self, task: Task[Any], claim: Claim, outcome: Outcome) -> None:
        """An attempt that was cut is released, unless it was aborted; and no other is."""
        parts = task.parts
        if claim in self._aborted:
            if not self.has_leases and parts.id not in self.lost and isinstance(outcome, (Retried, Failed)):
                self.fault(f"{parts.id} was aborted, and is settled as {outcome}")
        elif outcome == Released("cancelled") and parts not in self.struck | self.may_be_struck:
            self.fault(f"{parts.id} is released, but was not interrupted")
        elif (
            parts in self.struck - self.may_be_struck
            and not isinstance(outcome, (Released, Succeeded))
            and parts.terms.timeout is None
        ):
            if not (isinstance(outcome, Killed) and parts.id in self.to_abort):
                self.fault(f"{parts.id} was interrupted, and is settled as {outcome}")

    # What is true in the end

    async def audit(self, storage: Any) -> None:
        """No worker runs any more: is every task in one place, and does the storage say the same as these books?"""
        tasks: list[Task[Any]] = await storage.list_tasks(limit=ALL)
        places = Counter(str(task.parts.id) for task in tasks)
        for faulty, what in (
            ({each for each, n in places.items() if n > 1}, "in more than one place"),
            (self.pushed - set(places), "lost"),
            (set(places) & self.refused, "stored, though its push did not succeed"),
            (set(places) - self.pushed, "stored, and nobody has pushed it"),
            ({str(parts.id) for parts, n in self.children.items() if n}, "over, and has children"),
        ):
            self.faults += [f"{task_id} is {what}" for task_id in sorted(faulty)]
        waiting = [
            task for task in tasks if task.parts.status is Status.Pending
        ]  # one that runs may have been replaced
        keys = Counter(task.parts.terms.unique for task in waiting)
        self.faults += [f"{n} tasks that wait have the unique key {key!r}" for key, n in keys.items() if key and n > 1]
        for task in tasks:
            await self._audit_task(storage, task)
        self._audit_counts(await storage.metrics(), tasks)
        self._audit_runs()

    async def _audit_task(self, storage: Any, task: Task[Any]) -> None:
        task_id, status = task.parts.id, task.parts.status
        outcome = self._final.get(task_id)
        if not status.is_final:
            claim = self._latest.get(task_id)
            if outcome is not None:
                self.fault(f"{task_id} is {status}, after {outcome}")
            if status is Status.Running and not self.has_leases and (claim is None or claim.settled is not None):
                self.fault(f"{task_id} is {status}, and nobody has it in hand")
            ahead = task.parts.attempt - self._attempts[task_id]  # what is claimed in advance has not arrived
            if not (ahead == 0 or (self.has_leases and ahead == 1) or (self.may_oversleep and ahead > 0)):
                self.fault(f"{task_id} waits with {task.parts.attempt} attempts, not {self._attempts[task_id]}")
            return
        result = await storage.wait_for(task_id)
        if outcome is None:
            if status is not Status.Killed or not isinstance(result.error, (AbortError, TaskExpiredError)):
                self.fault(f"{task_id} is {status}, and nobody said so")
        elif not isinstance(outcome, (Succeeded, Failed, Killed)) or status is not _STATUS[type(outcome)]:
            self.fault(f"{task_id} is {status}, after {outcome}")
        elif result.status is not status or not _is_of(result, outcome):
            self.fault(f"{task_id} has {result}, after {outcome}")

    def _audit_counts(self, theirs: dict[str, int], tasks: Iterable[Task[Any]]) -> None:
        status = Counter(task.parts.status for task in tasks)
        killed = [task for task in tasks if task.parts.status is Status.Killed]
        in_silence = self._killed_waiting + sum(task.parts.id not in self._final for task in killed)
        ours = {
            "pushed": sum(status.values()),
            "waiting": status[Status.Pending],
            "running": status[Status.Running],
            "succeeded": self.counts[Succeeded],
            "failed": self.counts[Failed],
            "killed": self.counts[Killed] + in_silence,
        }
        # What was replaced or aborted while it ran is killed when it comes back, and not counted as coming back.
        came_back = theirs["retried"] + theirs["released"]
        sent_back = self.counts[Retried] + self.counts[Released]
        most = math.inf if self.has_leases else sent_back  # others have released what lay at hand, too
        if theirs["retried"] > self.counts[Retried] or not sent_back - in_silence <= came_back <= most:
            self.fault(f"the storage says {theirs}, it was told {self.counts}")
        if ours != {name: theirs[name] for name in ours}:
            self.fault(f"the storage says {theirs}, these books {ours}")

    def _audit_runs(self) -> None:
        for context, counts in self._runs.items():
            report = context.report()
            told = (report.succeeded, report.retried, report.failed, report.killed, report.released)
            if told != tuple(counts[kind] for kind in _KINDS):
                self.fault(f"{context.name} reports {report}, its events were {counts}")
            if context.is_running or not context.is_stopped:
                self.fault(f"{context!r} has not ended")


def _key(parts: Parts) -> object:
    """What tells a claim from all others."""
    grip = parts.context
    return parts if grip is None else (parts.id, grip.token)


def _is_of(result: TaskResult[Any], outcome: Succeeded[Any] | Failed | Killed) -> bool:
    """Whether this is the outcome, or what is left of it once it was stored."""
    if isinstance(outcome, Succeeded):
        return bool(result.result == outcome.result) and result.error is None
    names = (type(result.error).__name__, getattr(result.error, "kind", "").split(".")[-1])
    return result.error is outcome.error or type(outcome.error).__name__ in names
