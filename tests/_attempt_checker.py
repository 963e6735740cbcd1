"""A listener that checks the order of all attempts and compares them with the storage's own counts.

The law that they hold a program to is that of the second promise: what was pushed is settled, released or still there,
each task in one place, each attempt ended once, each number counted once.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    Failed,
    Killed,
    MemoryStorage,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    WorkerContext,
)

from tests._event_checker import EventChecker

ALL = 10**9
"""More tasks than any test has."""
_KINDS = (Succeeded, Retried, Failed, Killed, Released, Suspended)
_STATUS = {Succeeded: Status.Done, Failed: Status.Failed, Killed: Status.Killed}
_CLOSE = 1e-6  # seconds: a moment is a sum of floats


def run_isolated(name: str, main: Callable[[], Awaitable[None]], *instruments: trio.abc.Instrument) -> None:
    """Run a program in a trio run of its own, in virtual time. What comes out of it is an AssertionError, and a short
    one.
    """
    try:
        trio.run(main, instruments=instruments, clock=MockClock(autojump_threshold=0))
        return
    except Exception as error:
        trouble = f"{name} has ended by {error!r:.300}"
    gc.collect()  # trio tasks of a run that broke down warn when they are collected: do it now
    raise AssertionError(trouble)


class AttemptChecker(EventChecker):
    """Checks attempts: add :meth:`hear` to every worker as a listener, report each control call, and call :meth:`audit`
    at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pushed: set[str] = set()
        self.refused: set[str] = set()
        self.running: dict[str, str] = {}  # by task, the worker
        self.children: Counter[str] = Counter()  # by task, those of the attempt under way
        self.cancelled: set[str] = set()  # whose attempt has seen a cancellation come from outside of it
        self.aborted: set[str] = set()
        self.counts: Counter[type[Any]] = Counter()  # attempts, by how they ended
        self.not_admitted = 0  # given back by a gate, so without an attempt
        self._attempts: Counter[str] = Counter()  # that count
        self._not_before: dict[str, float] = {}
        self._final: dict[str, Outcome] = {}
        self._killed_waiting = 0  # of those that were resumed since

    # What is done from outside

    def will_push(self, task: Task[Any]) -> None:
        """Note a push: the task may start once its delay is over."""
        self._not_before[task.parts.id] = trio.current_time() + task.parts.terms.delay

    def was_rescheduled(self, task_id: str, delay: float) -> None:
        """Note that the task was rescheduled: it waits this long from now."""
        self._not_before[task_id] = trio.current_time() + delay

    def was_resumed(self, task_id: str) -> None:
        """Note that the task was resumed: its attempts are counted anew."""
        if self._final.pop(task_id, None) is None:
            self._killed_waiting += 1
        self._attempts[task_id] = 0
        self._not_before[task_id] = 0.0

    @property
    def unfinished(self) -> set[str]:
        """The ids of the tasks whose end no event has reported."""
        return self.pushed - set(self._final)

    # What a worker says

    def attempt_begun(self, context: WorkerContext, task: Task[Any]) -> None:
        task_id, attempt = task.parts.id, task.parts.attempt
        if task_id in self.running:
            self.fault(f"{task_id} is begun by {context.name} while {self.running[task_id]} runs it")
        if task_id in self._final:
            self.fault(f"{task_id} is begun after it was {self._final[task_id]}")
        if attempt != self._attempts[task_id] + 1:
            self.fault(f"{task_id} begins attempt {attempt} after {self._attempts[task_id]} that count")
        if trio.current_time() < self._not_before.get(task_id, 0.0) - _CLOSE:
            self.fault(f"{task_id} is begun before {self._not_before[task_id]:g}")
        if task.parts.status is not Status.Running:
            self.fault(f"{task_id} is running and {task.parts.status}")
        self.running[task_id] = context.name

    def attempt_ended(self, context: WorkerContext, task: Task[Any], outcome: Outcome) -> None:
        task_id = task.parts.id
        self.counts[type(outcome)] += 1
        if self.running.pop(task_id, None) != context.name:
            self.fault(f"{context.name} has settled {task_id}, which it had not claimed")
        if self.children.pop(task_id, 0):
            self.fault(f"{task_id} is settled while children of its attempt are running")
        self._check_kind(task, outcome)
        self.cancelled.discard(task_id)
        self.aborted.discard(task_id)
        if isinstance(outcome, Retried):
            self._attempts[task_id] += 1
            self._not_before[task_id] = trio.current_time() + outcome.after
        elif isinstance(outcome, Suspended):
            self._not_before[task_id] = outcome.until
        elif not isinstance(outcome, Released):
            self._attempts[task_id] += 1
            self._final[task_id] = outcome

    def _check_kind(self, task: Task[Any], outcome: Outcome) -> None:
        """Check that an interrupted attempt is released, unless it was aborted, and that no other is."""
        task_id = task.parts.id
        if task_id in self.aborted:
            if not isinstance(outcome, (Killed, Succeeded)):
                self.fault(f"{task_id} was aborted, and is settled as {outcome}")
        elif isinstance(outcome, Released) and task_id not in self.cancelled:
            self.fault(f"{task_id} is released, but was not interrupted")
        elif task_id in self.cancelled and not isinstance(outcome, (Released, Succeeded)):
            if task.parts.terms.timeout is None:
                self.fault(f"{task_id} was interrupted, and is settled as {outcome}")

    # What is true in the end

    async def audit(self, storage: MemoryStorage[Any]) -> None:
        """Check, when no worker runs any more, that each task is in one place, and that the storage's counts are
        right.
        """
        tasks = await storage.list_tasks(limit=ALL)
        places = Counter(str(task.parts.id) for task in tasks)
        for faulty, what in (
            (set(self.running), "claimed by a worker that has ended"),
            ({each for each, n in places.items() if n > 1}, "in more than one place"),
            (self.pushed - set(places), "lost"),
            (set(places) & self.refused, "stored, though its push did not succeed"),
        ):
            self.faults += [f"{task_id} is {what}" for task_id in sorted(faulty)]
        keys = Counter(task.parts.terms.unique for task in tasks if not task.parts.status.is_final)
        self.faults += [f"{n} tasks that wait have the unique key {key!r}" for key, n in keys.items() if key and n > 1]
        for task in tasks:
            await self._audit_task(storage, task)
        self._audit_counts(storage, tasks)

    async def _audit_task(self, storage: MemoryStorage[Any], task: Task[Any]) -> None:
        task_id, status = task.parts.id, task.parts.status
        outcome = self._final.get(task_id)
        if not status.is_final:
            if outcome is not None or status is not Status.Pending:
                self.fault(f"{task_id} is {status}, after {outcome}")
            if task.parts.attempt != self._attempts[task_id]:
                self.fault(f"{task_id} waits with {task.parts.attempt} attempts, not {self._attempts[task_id]}")
            return
        result = await storage.wait_for(task_id)
        if outcome is None:
            if status is not Status.Killed or not isinstance(result.error, (AbortError, TaskExpiredError)):
                self.fault(f"{task_id} is {status}, and nobody said so")
        elif status is not _STATUS[type(outcome)] or result.status is not status:
            self.fault(f"{task_id} is {status}, its result {result}, after {outcome}")
        elif isinstance(outcome, Succeeded):
            if result.result != outcome.result or result.error is not None:
                self.fault(f"{task_id} has {result}, after {outcome}")
        elif isinstance(outcome, (Failed, Killed)) and result.error is not outcome.error:
            self.fault(f"{task_id} has {result}, after {outcome}")

    def _audit_counts(self, storage: MemoryStorage[Any], tasks: list[Task[Any]]) -> None:
        killed = [task for task in tasks if task.parts.status is Status.Killed]
        in_silence = self._killed_waiting + sum(task.parts.id not in self._final for task in killed)
        waiting = sum(not task.parts.status.is_final for task in tasks)
        statistics = storage.statistics()
        for name, theirs, ours in (
            ("pushed", statistics.pushed, len(tasks)),
            ("waiting", statistics.waiting, waiting),
            ("running", statistics.running, 0),
            ("succeeded", statistics.succeeded, self.counts[Succeeded]),
            ("retried", statistics.retried, self.counts[Retried]),
            ("failed", statistics.failed, self.counts[Failed]),
            ("killed", statistics.killed, self.counts[Killed] + in_silence),
            ("released", statistics.released, self.counts[Released] + self.not_admitted),
            ("suspended", statistics.suspended, self.counts[Suspended]),
        ):
            if theirs != ours:
                self.fault(f"the storage says {theirs} {name}, the events {ours}")
        for context, counts in self.runs.items():
            report = context.report()
            told = (report.succeeded, report.retried, report.failed, report.killed, report.released, report.suspended)
            if told != tuple(counts[kind] for kind in _KINDS):
                self.fault(f"{context.name} reports {report}, its events were {counts}")
            if context.is_running or not context.is_stopped:
                self.fault(f"{context!r} has not ended")
