"""A monitor, beside books of what it was told: whom it may restart, who listens, and when time is up."""

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

from tests.simulation._books import Books

if sys.version_info < (3, 11):
    pass

Make = Callable[..., Worker[Any, int]]


class Audience:
    """A listener who counts. Whoever listens beside it has heard as much.

    Args:
      monitor: whose workers it listens to from now on.
    """

    def __init__(self, books: Books, monitor: Monitor) -> None:
        self._books = books
        self._heard: Counter[WorkerContext] = Counter()
        self._before = {context: books.heard[context] for context in monitor.workers}

    def hear(self, context: WorkerContext, event: Event) -> None:
        self._heard[context] += 1

    def audit(self) -> None:
        for context, n in self._heard.items():
            others = self._books.heard[context] - self._before.get(context, 0)
            if n != others:
                self._books.fault(f"of {context.name} one listener has heard {n} events, another one {others}")


class Boss:
    """A monitor, and what it ought to do.

    Args:
      random: decides what it did before there were books of it; ``more``: the rest.
    """

    def __init__(self, books: Books, faults: Faults, random: Random, more: Random) -> None:
        self._books = books
        self._faults = faults
        self._most_runs = more.choice((6, 6, 3, 2, 1))
        self._granted: set[str] = set()
        self._refused: set[str] = set()
        self._shutdown_timeout = random.choice((None, 0, random.random() * 3))
        self.time_is_up_at: float | None = None
        self.monitor = Monitor(
            shutdown_timeout=self._shutdown_timeout,
            should_restart=self._should_restart,
            restart_backoff=linear(random.random()),
        )
        self._audience: list[Audience] = []
        self.invite_listener()

    def employ(self, make: Make, name: str) -> None:
        """Have it keep a worker running."""
        self.monitor.register(partial(self._make, make, name))

    def _make(self, make: Make, name: str, attempt: int) -> Worker[Any, int]:
        if attempt > 1 and f"{name}.{attempt - 1}" not in self._granted:
            self._books.fault(f"{name} runs for the {attempt}th time, which nobody has granted")
        return make(name=f"{name}.{attempt}")

    def _should_restart(self, context: WorkerContext, error: Exception, attempt: int) -> bool:
        may = attempt < self._most_runs
        (self._granted if may else self._refused).add(context.name)
        return may

    def invite_listener(self) -> None:
        """One more, from now on."""
        audience = Audience(self._books, self.monitor)
        self.monitor.on_event(audience.hear)
        self._audience.append(audience)

    def shut_down(self) -> None:
        """Tell it to shut down; its workers are told at once."""
        if not self.monitor.is_shutting_down and self._shutdown_timeout is not None and self.monitor.is_running:
            self.time_is_up_at = trio.current_time() + self._shutdown_timeout
        for context in self.monitor.workers:
            self._books.will_stop(context)
        self.monitor.shutdown()

    async def run(self) -> None:
        """Run it, and compare how that ends with what it was told."""
        try:
            await self.monitor.run()
            for name in self._refused:
                self._books.fault(f"{name} has failed, and was not to be restarted; and nobody is told")
        finally:
            for audience in self._audience:
                audience.audit()
            report = self.monitor.report
            released = sum(each.released for each in report.workers)
            if len(report.interrupted) > released and self._faults == Faults.none():
                self._books.fault(f"{len(report.interrupted)} were interrupted, {released} released")

    def look(self) -> None:
        """At a moment when everybody waits: what was to be cancelled has been."""
        late = self.time_is_up_at is not None and self.time_is_up_at < trio.current_time()
        if late and self.monitor.is_running and not self.monitor.cancel_scope.cancel_called:
            self._books.fault(f"{self.monitor!r} was to end its workers at {self.time_is_up_at:g}")
            self.time_is_up_at = None  # once is enough
