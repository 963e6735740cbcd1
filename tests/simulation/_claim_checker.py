"""A checker that observes a storage, listens to its workers, and compares the two.

The law that they hold a program to is that of the second promise: what was pushed is settled, released or still
there, each task in one place, each claim settled once, each attempt counted once. What happened is what came through to
the storage (:class:`ObservedBackend`), whatever a :class:`FaultyBackend` has made of it on the way. A fault is written
down, to be looked at in the end.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import trio
from trio_tasks import (
    BackendError,
    Failed,
    Killed,
    LeaseLostError,
    Outcome,
    Parts,
    Rate,
    Released,
    Retried,
    Status,
    StorageEvent,
    Suspended,
    Task,
    WorkerContext,
)
from trio_tasks.testing import Fault

from tests._event_checker import EventChecker
from tests.simulation._claim import Claim, key_of
from tests.simulation._outcome_rules import check_error_outcome, check_interruption
from tests.simulation._rate_rules import RateRule

_CLOSE = 1e-4  # seconds: a moment is a sum of floats, some of them since 1970
_LOST = "its lease was lost"
_A_WHILE = 0.05  # seconds: what lies at hand, and nobody comes for, is given back sooner than that
_SETTLE_SECONDS = 10.0  # seconds that a worker gives its backend to settle


class ClaimChecker(EventChecker):
    """Observes storages and listens to workers; call ``audit`` at the end.

    Attributes:
      quiet: how many moments there were at which everybody waited. What happens between two of them may have crossed.
    """

    def __init__(self, *, has_leases: bool, may_oversleep: bool) -> None:
        super().__init__()
        self.has_leases = has_leases
        self.may_oversleep = may_oversleep  # so that what was claimed in advance may be lost on its way
        self.quiet = 0
        self.per_key: int | None = None  # the limit of each key
        self.rate_rules: dict[str | None, RateRule] = {}  # of each key; under None of the queue
        self.rate: Rate | None = None
        self.rate_per_key: Rate | None = None
        self.storage_now: Callable[[], float] = trio.current_time
        self.pushed: set[str] = set()
        self.refused: set[str] = set()
        self.children: Counter[Parts] = Counter()
        self.cancelled: set[Parts] = set()  # whose attempt has seen a cancellation come from outside of it
        self.may_be_cancelled: set[Parts] = set()
        self.failed: set[Parts] = set()  # in whose attempt something was raised that suspends nothing
        self.to_abort: set[str] = set()  # by somebody who has not been answered yet, perhaps
        self.aborted: set[Claim | None] = set()
        self.stopped: dict[WorkerContext, int] = {}  # when, as a number of quiet moments
        self.engaged: dict[Parts, float] = {}
        self.settling_since: dict[Parts, float] = {}  # that a worker has begun to settle
        self._withdrawals: deque[float] = deque()  # when somebody who may have been counted on went away from a storage
        self.seen: Counter[str] = Counter()  # what programs are there to bring about
        self.lost: set[str] = set()  # that came back without a lease, or were handed out twice
        self.counts: Counter[type[Any]] = Counter()  # claims, by how they were settled
        self._claims: dict[object, Claim] = {}
        self.latest: dict[str, Claim] = {}
        self._by_attempt: dict[tuple[str, int], list[Claim]] = {}
        self.attempts: Counter[str] = Counter()  # that count
        self._not_before: dict[str, float] = {}
        self._moving: dict[str, float] = {}  # as somebody has asked who has not been answered yet
        self.final: dict[str, Outcome] = {}
        self.killed_waiting = 0  # of those that were resumed since
        self._resuming: set[str] = set()
        self.registered: dict[WorkerContext, object] = {}  # workers, each with the state of the queue it is known to
        self.ever_registered: set[WorkerContext] = set()  # as a storage was told, perhaps without an answer
        # By worker, task and number of the attempt: how many are under way, and when the last one ended.
        self.begun: Counter[tuple[str, str, int]] = Counter()
        self.ended: dict[tuple[str, str, int], float] = {}
        self.forgotten: set[str] = set()  # tasks that were discarded, or vacuumed
        self.forgotten_pasts: Counter[str] = Counter()  # the failed attempts in their histories
        self.resumed: Counter[str] = Counter()
        self.told: list[StorageEvent] = []  # by all storages of this process

    def tell(self, event: StorageEvent) -> None:
        """Note an event of a storage."""
        self.told.append(event)

    def end(self, make_error: object = None) -> None:
        """Note that a storage tells of nothing any more."""

    def add_fault(self, fault: Fault) -> None:
        """Note a fault that a faulty backend has injected."""
        self.seen[fault.kind] += 1
        self.history.append(f"{fault} <<<")
        if fault.kind in ("lost", "duplicate") and fault.task_id is not None:
            self.lost.add(fault.task_id)

    # What is done from outside

    def will_push(self, task: Task[Any]) -> None:
        """Note a push that is about to be made: the task may start once its delay is over."""
        self._not_before[task.parts.id] = trio.current_time() + task.parts.terms.delay
        self.note(f"push {task} {task.parts.terms}")

    def will_reschedule(self, task_id: str, delay: float) -> None:
        """Note that a task is about to be rescheduled: it may wait this long from now."""
        moment = trio.current_time() + delay
        self._not_before[task_id] = min(moment, self._not_before.get(task_id, 0.0))
        self._moving[task_id] = moment
        self._move(task_id)

    def was_rescheduled(self, task_id: str) -> None:
        """Note the answer of a reschedule."""
        self._move(task_id)
        self._moving.pop(task_id, None)

    def _move(self, task_id: str) -> None:
        """Allow that a task which has just come back is moved already."""
        last = self.latest.get(task_id)
        if last is not None and last.under_way:
            last.moved_to = min(last.moved_to, self._moving.get(task_id, math.inf))

    def was_aborted(self, task_id: str) -> None:
        """Note that the attempt under way was aborted."""
        self.aborted.add(self.latest.get(task_id))

    def will_resume(self, task_id: str) -> None:
        """Note that a dead letter is about to be resumed."""
        self._resuming.add(task_id)

    def was_resumed(self, task_id: str, *, really: bool) -> None:
        if task_id in self._resuming:
            self._resuming.discard(task_id)
            if really:
                self._begin_again(task_id)

    def _begin_again(self, task_id: str) -> None:
        self.resumed[task_id] += 1
        last = self.latest.pop(task_id, None)
        if last is not None and last.under_way:
            last.is_resumed = True
        elif self.final.pop(task_id, None) is None:
            self.killed_waiting += 1
        self.attempts[task_id] = 0
        self._not_before[task_id] = 0.0

    def was_forgotten(self, task: Task[Any]) -> None:
        """Note that a task which is finished, or waits, is not known any more."""
        task_id = task.parts.id
        self.pushed.discard(task_id)
        self.forgotten.add(task_id)
        self.forgotten_pasts.update(entry.became for entry in task.parts.context.history)
        is_in_silence = task.parts.status is Status.Killed and task_id not in self.final
        self.killed_waiting += is_in_silence or task.parts.status is Status.Pending

    def was_withdrawn(self, task_id: str) -> None:
        """Note that a task is not known any more, since its call was cancelled."""
        self.pushed.discard(task_id)
        self.forgotten.add(task_id)
        outcome = self.final.get(task_id)
        if outcome is None:
            self.killed_waiting += 1
        elif not isinstance(outcome, Killed):
            self.fault(f"{task_id} was {outcome}, and is forgotten")
        kinds = (type(claim.settled).__name__.lower() for claim in self.claims_of_task(task_id))
        self.forgotten_pasts.update(kind for kind in kinds if kind in ("retried", "failed", "killed"))

    def will_stop(self, context: WorkerContext) -> None:
        """Note that a worker is told to stop: it takes no task from now on."""
        self.stopped.setdefault(context, self.quiet)

    def closed(self) -> None:
        """Note that the storages were closed, so that leases may end. Running tasks belong to no worker any more."""
        for claim in self.latest.values():
            claim.is_void = True

    @property
    def unfinished(self) -> set[str]:
        return self.pushed - set(self.final)

    # What a storage does

    def claimed(self, task: Task[Any]) -> None:
        parts = task.parts
        task_id, attempt = parts.id, parts.attempt
        self.note(f"claim {task} {parts.context}")
        if task_id in self._resuming and (task_id in self.final or self._lives_again(task_id, attempt)):
            self._resuming.discard(task_id)
            self._begin_again(task_id)
        if task_id in self.final:
            self.fault(f"{task_id} is claimed after it was {self.final[task_id]}")
        claim = Claim(parts, getattr(parts.context, "until", 0.0), quiet=self.quiet)
        allowed = self._overtake(task_id, claim)
        if attempt not in allowed and not (self.may_oversleep and attempt > min(allowed)):
            self.fault(f"{task_id} begins attempt {attempt}, not one of {sorted(allowed)}")
        if trio.current_time() < self._not_before.get(task_id, 0.0) - _CLOSE:
            self.fault(f"{task_id} is claimed before {self._not_before[task_id]:g}")
        if parts.status is not Status.Running:
            self.fault(f"{task_id} is running and {parts.status}")
        self._check_limit(task)
        self._check_rates(parts)
        self.attempts[task_id] = attempt
        self.latest[task_id] = self._claims[key_of(parts)] = claim
        self._by_attempt.setdefault((task_id, attempt), []).append(claim)

    def _check_limit(self, task: Task[Any]) -> None:
        """Check that no more attempts of a key are under way than its limit says, without this one."""
        key = task.parts.terms.key
        if key is None or self.per_key is None:
            return
        running = [
            claim
            for task_id, claim in self.latest.items()
            if claim.parts.terms.key == key
            and task_id != task.parts.id
            and not (claim.is_over or claim.under_way)
            and (not self.has_leases or self.storage_now() < claim.lease_until)
        ]
        self.seen["a key at its limit"] += len(running) == self.per_key - 1
        if len(running) >= self.per_key:
            self.fault(f"{task} is claimed, and {len(running)} of its key {key!r} are running")

    def _check_rates(self, parts: Parts) -> None:
        """Check that no more attempts begin within the time of a rate than it says."""
        for key, rate in {parts.terms.key: self.rate_per_key, None: self.rate}.items():
            if rate is not None:
                self.rate_rules.setdefault(key, RateRule(rate)).begin(self, parts)

    def _lives_again(self, task_id: str, attempt: int) -> bool:
        """Return True if an attempt of this number comes after a resume: the same number was there before, and no
        release under way gives it back.
        """
        last = self.latest.get(task_id)
        is_released = last is not None and any(
            isinstance(outcome, (Released, Suspended)) for _, outcome in last.under_way
        )
        return attempt < self.attempts[task_id] + (not is_released)

    def _overtake(self, task_id: str, claim: Claim) -> set[int]:
        """Return the number that this attempt may have, given the claim before it."""
        counted, last = self.attempts[task_id], self.latest.get(task_id)
        if last is None or last.settled is not None:
            return {counted + 1}
        self.seen["claimed again before it was settled"] += 1
        last.overtaken_at = trio.current_time()
        if last.under_way:
            last.is_overtaken = True
            return {counted, counted + 1}
        if not self.has_leases:
            self.fault(f"{task_id} is claimed while somebody runs it")
        elif not last.is_void:
            options = claim.parts.context.queue
            began_at = claim.until - options.lease
            if began_at < last.lease_until - _CLOSE:
                self.fault(f"{task_id} is claimed at {began_at:f}, under a lease until {last.lease_until:f}")
        return {counted + 1}

    def settling(self, task: Task[Any], outcome: Outcome) -> None:
        claim = self._claims.get(key_of(task.parts))
        self.note(f"settling {task} as {outcome!r:.100}")
        if claim is None:
            self.fault(f"{task} is settled, and was not claimed")
        else:
            claim.under_way.append((trio.current_time(), outcome))
            claim.moved_to = self._moving.get(task.parts.id, math.inf)
            if isinstance(outcome, Retried) and str(outcome.error).startswith("the delivery was lost"):
                self.lost.add(task.parts.id)  # by a line, which says so later: somebody may have it by then

    def settled(self, task: Task[Any], outcome: Outcome) -> None:
        task_id = task.parts.id
        claim = self._claims[key_of(task.parts)]
        began_at = self._ended(claim, outcome)
        self.note(f"settled {task} as {outcome!r:.100}")
        if claim.settled is not None:
            self.fault(f"{task_id} is settled as {outcome}, and was as {claim.settled}, in one attempt")
        if self.latest.get(task_id) is not claim and not (claim.is_overtaken or claim.is_resumed):
            self.fault(f"{task_id} is settled by somebody who had lost it")
        claim.settled = outcome
        self.withdrew()
        self.counts[type(outcome)] += 1
        if claim.is_resumed:
            self.killed_waiting += isinstance(outcome, (Retried, Released, Suspended))
        elif isinstance(outcome, (Retried, Released, Suspended)):
            if claim.is_overtaken:
                return
            if not isinstance(outcome, Retried):
                self.attempts[task_id] -= 1
            if not isinstance(outcome, Released):
                until = began_at + outcome.after if isinstance(outcome, Retried) else outcome.until
                self._not_before[task_id] = min(until, claim.moved_to)
        elif claim.is_overtaken or task_id in self.final:
            self.fault(f"{task_id} is settled as {outcome}, and goes on")
        else:
            self.final[task_id] = outcome

    def unsettled(self, task: Task[Any], outcome: Outcome, error: BackendError) -> None:
        claim = self._claims.get(key_of(task.parts))
        self.note(f"not settled {task} as {outcome!r:.100}: {error}")
        if claim is None:
            return
        self._ended(claim, outcome)
        self.withdrew()
        if not isinstance(error, LeaseLostError):
            self.fault(f"{task} cannot be settled: {error!r}")
        elif claim.settled is None and not claim.under_way and self.latest.get(task.parts.id) is claim:
            if not (self.has_leases and (claim.is_void or self.storage_now() >= claim.lease_until - _CLOSE)):
                self.fault(f"{task} could not be settled, and nobody has taken it away")

    def will_register(self, context: WorkerContext) -> None:
        """Note that a worker is about to be registered."""
        self.ever_registered.add(context)

    def was_registered(self, context: WorkerContext, storage: Any) -> None:
        self.registered[context] = storage._queue

    def will_unregister(self, context: WorkerContext) -> None:
        self.registered.pop(context, None)

    def withdrew(self) -> None:
        """Note that a receiver was cancelled, or that a slot returns from settling: a task may be on its way to it."""
        self._withdrawals.append(trio.current_time())

    def cut(self, task: Task[Any]) -> None:
        """Note that settling a task was cancelled."""
        began_at = self.settling_since.get(task.parts, trio.current_time())
        if trio.current_time() < began_at + _SETTLE_SECONDS - _CLOSE:
            self.fault(f"{task} was being settled, and that was cut short")

    @property
    def most_running(self) -> int:
        """So many tasks may be running, to their storage, at a moment when everybody waits: those that are
        claimed, or whose claim was lost; and one for each slot that went away just now, and was counted on."""
        while self._withdrawals and self._withdrawals[0] < trio.current_time() - _A_WHILE:
            self._withdrawals.popleft()
        return sum(claim.settled is None for claim in self.latest.values()) + len(self._withdrawals)

    @staticmethod
    def _ended(claim: Claim, outcome: Outcome) -> float:
        index = next(index for index, each in enumerate(claim.under_way) if each[1] is outcome)
        return claim.under_way.pop(index)[0]

    # What a worker says

    def attempt_begun(self, context: WorkerContext, task: Task[Any]) -> None:
        claims = self.claims_of(task)
        if not claims:
            self.fault(f"{task} is begun, and was not claimed")
        for claim in claims:
            claim.came_at_once |= claim.quiet == self.quiet
        if self.stopped.get(context, self.quiet) < self.quiet:
            self.fault(f"{task} is begun by {context.name}, which was told to stop before")
        self.engaged[task.parts] = trio.current_time()
        key = context.name, task.parts.id, int(task.parts.attempt)  # one that was released has the same number again
        self.begun[key] += 1  # one that was handed out twice, too
        self.ended.pop(key, None)

    def claims_of(self, task: Task[Any]) -> list[Claim]:
        """Return the claims that this may be a copy of. Of a second copy the number of the attempt is all that is
        known, and what was released has the same one again.
        """
        parts = task.parts
        claim = self._claims.get(key_of(parts))
        return [claim] if claim is not None else self._by_attempt.get((parts.id, parts.attempt), [])

    def claims_of_task(self, task_id: str) -> list[Claim]:
        """Return all claims of a task."""
        return [claim for claim in self._claims.values() if claim.parts.id == task_id]

    def attempt_ended(self, context: WorkerContext, task: Task[Any], outcome: Outcome) -> None:
        self.check_children(task)
        key = context.name, task.parts.id, int(task.parts.attempt)
        self.begun[key] -= 1
        if self.begun[key] == 0:
            self.ended[key] = trio.current_time()
        self.settling_since.pop(task.parts, None)
        if isinstance(outcome, (Retried, Failed, Killed)):
            check_error_outcome(self, context, task, outcome)
        if isinstance(outcome, Suspended) and task.parts in self.failed:
            self.fault(f"{task} is {outcome}, though something failed in it")
        if outcome == Released(_LOST):
            self.seen["told that a lease was lost"] += 1
            return
        for claim in self.claims_of(task):
            if type(claim.settled) is type(outcome) and not claim.is_told:
                claim.is_told = True
                check_interruption(self, task, claim, outcome)
                return
        self.fault(f"{context.name} says {outcome} of {task}, which is not so, or was said before")

    def will_settle(self, task: Task[Any]) -> None:
        """Note that a worker is about to settle a task."""
        self.settling_since[task.parts] = trio.current_time()
        self.check_children(task)

    def check_children(self, task: Task[Any]) -> None:
        """Check that no child of the attempt runs when its task is settled."""
        if self.children[task.parts]:
            self.fault(f"{task} is settled while children of its attempt are running")
