"""A monitor and a model of it: allowed restarts, listeners, and the deadline of a shutdown."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import trio
from trio_tasks import Event, Monitor, Worker, WorkerContext, linear
from trio_tasks.testing import Faults

from tests.simulation._claim_checker import ClaimChecker

if sys.version_info < (3, 11):
    pass

Make = Callable[..., Worker[Any, int]]


class CountingListener:
    """A listener that counts events. Whoever listens beside it has heard as much.

    Args:
      monitor: whose workers it listens to from now on.
    """

    def __init__(self, checker: ClaimChecker, monitor: Monitor) -> None:
        self._checker = checker
        self._heard: Counter[WorkerContext] = Counter()
        self._before = {context: checker.event_counts[context] for context in monitor.workers}

    def hear(self, context: WorkerContext, event: Event) -> None:
        self._heard[context] += 1

    def audit(self) -> None:
        for context, n in self._heard.items():
            others = self._checker.event_counts[context] - self._before.get(context, 0)
            if n != others:
                self._checker.fault(f"of {context.name} one listener has heard {n} events, another one {others}")


class MonitorModel:
    """A monitor, and the behaviour expected of it.

    Args:
      random: decides what the monitor is made of; ``more``: the rest.
    """

    def __init__(self, checker: ClaimChecker, faults: Faults, random: Random, more: Random) -> None:
        self._checker = checker
        self._faults = faults
        self._most_runs = more.choice((6, 6, 3, 2, 1))
        self._granted: set[str] = set()
        self._refused: set[str] = set()
        self._shutdown_timeout = random.choice((None, 0, random.random() * 3))
        self.shutdown_deadline: float | None = None
        self.monitor = Monitor(
            shutdown_timeout=self._shutdown_timeout,
            should_restart=self._should_restart,
            restart_backoff=linear(random.random()),
        )
        self._listeners: list[CountingListener] = []
        self.add_listener()

    def add_worker(self, make: Make, name: str) -> None:
        """Register a worker."""
        self.monitor.register(partial(self._make, make, name))

    def _make(self, make: Make, name: str, attempt: int) -> Worker[Any, int]:
        if attempt > 1 and f"{name}.{attempt - 1}" not in self._granted:
            self._checker.fault(f"{name} runs for the {attempt}th time, which nobody has granted")
        return make(name=f"{name}.{attempt}")

    def _should_restart(self, context: WorkerContext, error: Exception, attempt: int) -> bool:
        may = attempt < self._most_runs
        (self._granted if may else self._refused).add(context.name)
        return may

    def add_listener(self) -> None:
        """Add a listener."""
        listener = CountingListener(self._checker, self.monitor)
        self.monitor.on_event(listener.hear)
        self._listeners.append(listener)

    def shut_down(self) -> None:
        """Shut the monitor down; its workers are told at once."""
        if not self.monitor.is_shutting_down and self._shutdown_timeout is not None and self.monitor.is_running:
            self.shutdown_deadline = trio.current_time() + self._shutdown_timeout
        for context in self.monitor.workers:
            self._checker.will_stop(context)
        self.monitor.shutdown()

    async def run(self) -> None:
        """Run the monitor, and compare its end with the model."""
        try:
            await self.monitor.run()
            for name in self._refused:
                self._checker.fault(f"{name} has failed, and was not to be restarted; and nobody is told")
        finally:
            for listener in self._listeners:
                listener.audit()
            report = self.monitor.report
            released = sum(each.released for each in report.workers)
            if len(report.interrupted) > released and self._faults == Faults.none():
                self._checker.fault(f"{len(report.interrupted)} were interrupted, {released} released")

    def check(self) -> None:
        """Check, while all trio tasks wait, that what was to be cancelled is cancelled."""
        late = self.shutdown_deadline is not None and self.shutdown_deadline < trio.current_time()
        if late and self.monitor.is_running and not self.monitor.cancel_scope.cancel_called:
            self._checker.fault(f"{self.monitor!r} was to end its workers at {self.shutdown_deadline:g}")
            self.shutdown_deadline = None  # once is enough
