"""A crash trial: processes push to and work on one file, are killed and suspended at random, and are then audited."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import trio
from trio_tasks import QueueMetrics, Task

from tests._progress import Progress
from tests.crash._audit import Audit, Ledger, Logs
from tests.crash._child import Child
from tests.crash._child_settings import ChildSettings

_CONCURRENCY = 4
_LOAD = 0.7
"""How much of what the workers could do they have to do."""
_PUSHER_KILL_RATE = 1 / 6
_STOP_RATE = 1 / 10
_EARLY_KILL_RATE = 1 / 4
"""How often somebody is killed who may not have come to do anything yet."""


@dataclass(frozen=True)
class Plan:
    """The plan of a trial; ``apart`` is the average number of seconds between two kills."""

    tasks: int
    kills: int
    processes: int = 4
    seed: int = 0
    apart: float = 1.0
    lease: float = 1.0
    driver: Literal["sqlite3", "apsw"] | None = None
    idle_limit: float = (
        60.0  # for which nothing at all may happen; on a busy machine all of it takes as long as it takes
    )

    @property
    def rate(self) -> float:
        """The number of tasks pushed in a second, so that they last as long as the kills."""
        return self.tasks / (self.kills * self.apart)

    def settings(self, directory: Path, name: str, *, with_monitor: bool = False) -> ChildSettings:
        """Return the settings for one child."""
        nap = _LOAD * self.processes * _CONCURRENCY / self.rate
        return ChildSettings(
            directory=str(directory),
            name=name,
            lease=self.lease,
            concurrency=_CONCURRENCY,
            with_monitor=with_monitor,
            nap=min(nap, 0.2 * self.lease),
            rate=self.rate,
            seed=self.seed,
            driver=self.driver,
        )


@dataclass
class TrialResult:
    """The result of a trial."""

    faults: list[str]
    figures: Counter[str] = field(default_factory=Counter[str])


class Trial:
    """A trial in a directory of its own."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.killed_at: dict[str, float] = {}
        self.figures: Counter[str] = Counter()
        self._progress = Progress(plan.idle_limit)
        self._rng = random.Random(plan.seed)
        self._workers = [
            Child("tests.crash._worker_process", plan.settings(directory, f"w{n}", with_monitor=n % 2 == 1))
            for n in range(plan.processes)
        ]
        self._pusher = Child("tests.crash._pusher_process", plan.settings(directory, "p"))

    def run(self) -> TrialResult:
        """Run the whole trial."""
        began = time.monotonic()
        with ExitStack() as stack:
            for child in [*self._workers, self._pusher]:
                stack.callback(child.end_by_force)
                child.start()
            self._wait_until_up()
            for _ in range(self.plan.kills):
                self._kill_one()
            self._finish()
        verdict = self._audit()
        verdict.figures["seconds"] = round(time.monotonic() - began)
        return verdict

    def _kill_one(self) -> None:
        """Kill one process after a while; perhaps suspend another one before."""
        rng, plan = self._rng, self.plan
        time.sleep(min(rng.expovariate(1 / plan.apart), 4 * plan.apart))
        if rng.random() < _STOP_RATE:
            rng.choice(self._workers).stop(1.5 * plan.lease)
            self.figures["stops"] += 1
        child = self._pusher if rng.random() < _PUSHER_KILL_RATE else rng.choice(self._workers)
        if rng.random() >= _EARLY_KILL_RATE:
            self._wait_until(lambda: child.has_begun, f"{child.name} has not begun to do anything")
        self.killed_at[child.name] = child.kill()
        self.figures["kills of the pusher" if child is self._pusher else "kills of workers"] += 1
        time.sleep(rng.random() * 0.2 * plan.apart)
        child.start()
        for each in [*self._workers, self._pusher]:
            each.check()

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        while not is_so():
            self._wait(self._written(), what)

    def _wait_until_up(self) -> None:
        """Wait until all processes handle signals."""
        for child in [*self._workers, self._pusher]:
            self._wait_until(partial(getattr, child, "is_up"), f"{child.name} is not up")

    def _finish(self) -> None:
        """Let the rest be pushed and done, and end all processes."""
        while (acked := len(Ledger.read(self.directory / "ledger").acked)) < self.plan.tasks:
            self._wait(acked, f"{acked} were acknowledged")
        self._wait_until_up()  # so that they end well when they are told to
        self._pusher.end()
        while (metrics := trio.run(self._look)[0])["waiting"] or metrics["delayed"] or metrics["running"]:
            self._wait(metrics, f"tasks were left: {metrics}")
        for worker in self._workers:
            worker.end()

    def _written(self) -> list[float]:
        """Return how much was logged, and the CPU time of those that are not up yet."""
        said = [path for path in sorted(self.directory.iterdir()) if path.suffix in ("", ".log", ".up")]
        starting = [child.processor_time for child in [*self._workers, self._pusher] if not child.is_up]
        return [*(path.stat().st_size for path in said), *starting]

    def _wait(self, state: object, what: str) -> None:
        """Wait a little; fail if a process has ended or nothing has happened for too long."""
        time.sleep(0.1)
        for worker in self._workers:
            worker.check()
        self._progress.note(state, f"{what}, in the end; seed {self.plan.seed}")

    async def _look(self, *, at_all: bool = False) -> tuple[QueueMetrics, list[Task[Any]]]:
        async with self.plan.settings(self.directory, "audit").storage() as storage:
            balance = await storage.audit()
            assert balance, str(balance)
            return await storage.metrics(), await storage.list_tasks(limit=2**31) if at_all else []

    def _audit(self) -> TrialResult:
        async def look() -> tuple[QueueMetrics, list[Task[Any]]]:
            return await self._look(at_all=True)

        metrics, stored = trio.run(look)
        ledger = Ledger.read(self.directory / "ledger")
        logs = Logs.read(sorted(self.directory.glob("*.log")))
        audit = Audit(stored, ledger, logs, self.killed_at, self.plan.lease, self.figures)
        faults = [*audit.faults(metrics), *self._of_the_file()]
        self.figures["tasks"] = len(stored)
        self.figures["acknowledged"] = len(ledger.acked)
        self.figures["pushed twice, taken once"] = len(ledger.known)
        return TrialResult(faults, self.figures)

    def _of_the_file(self) -> Iterator[str]:
        connection = sqlite3.connect(self.directory / "tasks.db")
        try:
            for (verdict,) in connection.execute("PRAGMA integrity_check"):
                if verdict != "ok":
                    yield f"the file is damaged: {verdict}"
        finally:
            connection.close()
