"""The part of a program from one opening of its storages to their closing: its workers and monitors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio
from trio_tasks import WorkerContext

from tests.simulation._claim_checker import ClaimChecker
from tests.simulation._monitor_model import MonitorModel


@dataclass(eq=False)
class ProgramRun:
    """The storages, workers and monitors between one opening and closing."""

    checker: ClaimChecker
    storages: list[Any]
    contexts: list[WorkerContext] = field(default_factory=list[WorkerContext])  # of workers without a monitor
    scopes: list[trio.CancelScope] = field(default_factory=list[trio.CancelScope])
    monitors: list[MonitorModel] = field(default_factory=list[MonitorModel])
    is_closed: bool = False
    orderly_since: float | None = None

    @property
    def workers(self) -> Iterator[WorkerContext]:
        """Return all workers, those of monitors included."""
        yield from self.contexts
        for monitor_model in self.monitors:
            yield from monitor_model.monitor.workers

    def stop(self, context: WorkerContext) -> None:
        """Tell a worker to stop."""
        self.checker.will_stop(context)
        context.stop()

    def close(self) -> None:
        """Close all storages."""
        for storage in self.storages:
            storage.close()
        self.is_closed = True


def rng(seed: int, *whose: object) -> Random:
    """Those of somebody in the program of this seed."""
    return Random(f"{seed} {whose}")
