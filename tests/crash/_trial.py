"""One trial: processes that push and work on one file, killed and stopped by the dice; then the audit."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import trio
from trio_tasks import Task

from tests.crash._audit import Audit, Ledger, Logs
from tests.crash._crew import Child, ChildError
from tests.crash._orders import Orders

_CONCURRENCY = 4
_LOAD = 0.7
"""How much of what the workers could do they have to do."""
_PUSHER_DIES = 1 / 6
_STANDS_STILL = 1 / 10


@dataclass(frozen=True)
class Plan:
    """What is to be done; ``apart`` is how many seconds there are between two kills, on average."""

    tasks: int
    kills: int
    processes: int = 4
    seed: int = 0
    apart: float = 1.0
    lease: float = 1.0
    driver: Literal["sqlite3", "apsw"] | None = None
    patience: float = 120.0  # until all is done, after the last kill

    @property
    def rate(self) -> float:
        """Tasks a second, so that they last for as long as the kills do."""
        return self.tasks / (self.kills * self.apart)

    def orders(self, directory: Path, name: str, *, with_monitor: bool = False) -> Orders:
        """For one child."""
        nap = _LOAD * self.processes * _CONCURRENCY / self.rate
        return Orders(
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
class Verdict:
    """What has come of a trial."""

    faults: list[str]
    figures: Counter[str] = field(default_factory=Counter[str])


class Trial:
    """A trial in a directory of its own."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.killed_at: dict[str, float] = {}
        self.figures: Counter[str] = Counter()
        self._dice = random.Random(plan.seed)
        self._workers = [
            Child("tests.crash._worker_process", plan.orders(directory, f"w{n}", with_monitor=n % 2 == 1))
            for n in range(plan.processes)
        ]
        self._pusher = Child("tests.crash._pusher_process", plan.orders(directory, "p"))

    def run(self) -> Verdict:
        """Do it all."""
        began = time.monotonic()
        with ExitStack() as stack:
            for child in [*self._workers, self._pusher]:
                stack.callback(child.clear_away)
                child.start()
            time.sleep(1.0)  # the first ones are there when the killing begins
            for _ in range(self.plan.kills):
                self._strike()
            self._let_it_come_to_rest()
        verdict = self._judge()
        verdict.figures["seconds"] = round(time.monotonic() - began)
        return verdict

    def _strike(self) -> None:
        """Kill one of them after a while; perhaps stop another one before."""
        dice, plan = self._dice, self.plan
        time.sleep(min(dice.expovariate(1 / plan.apart), 4 * plan.apart))
        if dice.random() < _STANDS_STILL:
            dice.choice(self._workers).stop(1.5 * plan.lease)
            self.figures["stops"] += 1
        child = self._pusher if dice.random() < _PUSHER_DIES else dice.choice(self._workers)
        self.killed_at[child.name] = child.kill()
        self.figures["kills of the pusher" if child is self._pusher else "kills of workers"] += 1
        time.sleep(dice.random() * 0.2 * plan.apart)
        child.start()
        for each in [*self._workers, self._pusher]:
            each.check()

    def _let_it_come_to_rest(self) -> None:
        """Everything that is to be pushed is pushed, and everything is done; then all end, well."""
        deadline = time.monotonic() + self.plan.patience
        while len(Ledger.read(self.directory / "ledger").acked) < self.plan.tasks:
            self._wait(deadline, "there were too few acknowledged")
        time.sleep(1.0)  # so that whoever was just started has begun
        self._pusher.end()
        while (metrics := trio.run(self._look)[0])["waiting"] or metrics["running"]:
            self._wait(deadline, f"tasks were left: {metrics}")
        for worker in self._workers:
            worker.end()

    def _wait(self, deadline: float, what: str) -> None:
        time.sleep(0.2)
        for worker in self._workers:
            worker.check()
        if time.monotonic() > deadline:
            raise ChildError(f"{what}, in the end; seed {self.plan.seed}")

    async def _look(self, *, at_all: bool = False) -> tuple[dict[str, int], list[Task[Any]]]:
        async with self.plan.orders(self.directory, "audit").storage() as storage:
            return await storage.metrics(), await storage.list_tasks(limit=2**31) if at_all else []

    def _judge(self) -> Verdict:
        async def look() -> tuple[dict[str, int], list[Task[Any]]]:
            return await self._look(at_all=True)

        metrics, stored = trio.run(look)
        ledger = Ledger.read(self.directory / "ledger")
        logs = Logs.read(sorted(self.directory.glob("*.log")))
        audit = Audit(stored, ledger, logs, self.killed_at, self.plan.lease, self.figures)
        faults = [*audit.faults(metrics), *self._of_the_file()]
        self.figures["tasks"] = len(stored)
        self.figures["acknowledged"] = len(ledger.acked)
        self.figures["pushed twice, taken once"] = len(ledger.known)
        return Verdict(faults, self.figures)

    def _of_the_file(self) -> Iterator[str]:
        connection = sqlite3.connect(self.directory / "tasks.db")
        try:
            for (verdict,) in connection.execute("PRAGMA integrity_check"):
                if verdict != "ok":
                    yield f"the file is damaged: {verdict}"
        finally:
            connection.close()
