"""The state of a program's queues and workers at one moment, read in bounded time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, final

import trio

from .. import Monitor, Queues, WorkerContext
from .._logging import log_and_suppress
from .._printing import quoted
from ..abc import Metrics, Throughput
from ._log_fields import queue_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import AttemptTotals, QueueMetrics, WorkerStatistics


class QueueSnapshot(NamedTuple):
    """The state of a queue, as it was read last."""

    queue: str
    is_up: bool
    """True if the storage has answered in time."""
    metrics: QueueMetrics | None
    """The latest counters; None if there never were any."""
    totals: Sequence[AttemptTotals]


class WorkerSnapshot(NamedTuple):
    """The state of a worker of this process."""

    queue: str
    intake: str
    statistics: WorkerStatistics


@final
class SnapshotReader:
    """Reads the counters of storages, within a time limit even where a storage hangs.

    A read cannot always be cancelled, since a storage carries an operation to its end. So it is made in a trio task of
    its own, which may go on; there is at most one for each queue.

    Args:
      monitor: the monitor of the workers; None if there is none.
      queues: the queues of a router, or storages.
      timeout: seconds.
    """

    def __init__(self, monitor: object, queues: object, timeout: float) -> None:
        if not (monitor is None or isinstance(monitor, Monitor)):
            raise TypeError(f"monitor must be a Monitor or None, not {quoted(monitor)}")
        self.monitor = monitor
        self._queues = queues if isinstance(queues, Queues) else _listed(queues)
        self._timeout = timeout
        self._latest: dict[str, QueueMetrics] = {}
        self._reads: dict[str, trio.Event] = {}

    def _storages(self) -> dict[str, Any]:
        """Return the storages by the names of their queues; those of a router may become more."""
        queues = self._queues
        return {name: queues[name] for name in queues} if isinstance(queues, Queues) else queues

    async def read_queues(self) -> list[QueueSnapshot]:
        """Ask all storages at once; return what is known of each queue when they have answered, or time is up."""
        storages = self._storages()
        for name, storage in storages.items():
            if name not in self._reads:
                self._reads[name] = trio.Event()
                trio.lowlevel.spawn_system_task(self._read, name, storage)
        with trio.move_on_after(self._timeout):  # noqa: ASYNC912  if all have answered already
            for name in storages:
                if name in self._reads:
                    await self._reads[name].wait()
        await trio.lowlevel.checkpoint()
        return self.queues()

    def queues(self) -> list[QueueSnapshot]:
        """Return what is known of each queue, without asking; one that is being asked has not answered."""
        return [
            QueueSnapshot(
                name,
                name not in self._reads and name in self._latest,
                self._latest.get(name),
                storage.attempt_totals() if isinstance(storage, Throughput) else (),
            )
            for name, storage in self._storages().items()
        ]

    async def _read(self, name: str, storage: Metrics) -> None:
        try:
            with log_and_suppress("the counters of queue %r cannot be read", name):
                self._latest[name] = await storage.metrics()
                return
            self._latest.pop(name, None)
        finally:
            self._reads.pop(name).set()

    def workers(self) -> list[WorkerSnapshot]:
        """Return what is known of the workers that the monitor runs."""
        contexts: Iterable[WorkerContext] = () if self.monitor is None else self.monitor.workers
        return [WorkerSnapshot(queue_of(each) or "", each.intake, each.statistics()) for each in contexts]


def _listed(queues: Any) -> dict[str, Any]:
    """Return a storage, or several, by the names of their queues."""
    storages: list[Any] = [queues] if isinstance(queues, Metrics) or not isinstance(queues, Iterable) else [*queues]
    if wrong := [each for each in storages if not isinstance(each, Metrics)]:
        raise TypeError(f"queues must be the queues of a router, a storage, or storages, not {quoted(wrong[0])}")
    return {str(getattr(each, "queue", "default")): each for each in storages}
