"""One life of a program, from the opening of its storages to their closing: who takes part, and what they were told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio
from trio_tasks import WorkerContext

from tests.simulation._books import Books
from tests.simulation._boss import Boss


@dataclass(eq=False)
class Life:
    """Who takes part in it."""

    books: Books
    storages: list[Any]
    contexts: list[WorkerContext] = field(default_factory=list[WorkerContext])  # of workers without a monitor
    scopes: list[trio.CancelScope] = field(default_factory=list[trio.CancelScope])
    bosses: list[Boss] = field(default_factory=list[Boss])
    is_closed: bool = False
    calm_since: float | None = None

    @property
    def workers(self) -> Iterator[WorkerContext]:
        """All of them."""
        yield from self.contexts
        for boss in self.bosses:
            yield from boss.monitor.workers

    def stop(self, context: WorkerContext) -> None:
        """Tell a worker to stop."""
        self.books.will_stop(context)
        context.stop()

    def close(self) -> None:
        """Close all storages."""
        for storage in self.storages:
            storage.close()
        self.is_closed = True


def rng(seed: int, *whose: object) -> Random:
    """Those of somebody in the program of this seed."""
    return Random(f"{seed} {whose}")
