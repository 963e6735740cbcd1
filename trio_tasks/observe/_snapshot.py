"""The state of a program's queues, workers and schedules at one moment, read in bounded time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, final

import trio

from .. import Monitor, Queues, Schedules, WorkerContext
from .._logging import log_and_suppress
from .._printing import quoted
from ..abc import Metrics, StoreSchedules, Throughput
from ._log_fields import queue_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .. import AttemptTotals, QueueMetrics, WorkerStatistics

_LONGEST_GAP = 1800.0
"""Seconds without a look at the schedules after which removed ones may have been forgotten in the store."""

_MOST_ENDED = 100
"""Names of ended workers whose totals are kept: each run of a worker may have a name of its own."""


class QueueSnapshot(NamedTuple):
    """The state of a queue, as it was read last."""

    queue: str
    is_up: bool
    """True if the storage has answered in time."""
    metrics: QueueMetrics | None
    """The latest counters; None if there never were any."""
    totals: Sequence[AttemptTotals]
    names: frozenset[str] | None
    """The names of the tasks that are known here; None if any name is."""


class WorkerSnapshot(NamedTuple):
    """The state of a worker of this process."""

    queue: str
    intake: str
    statistics: WorkerStatistics


class WorkerTotals(NamedTuple):
    """What the workers of one name have counted since they were first seen, those that have ended among them."""

    leases_lost: int = 0
    settle_seconds: float = 0.0
    settle_times: Mapping[float, int] = {}

    def plus(self, statistics: WorkerStatistics) -> WorkerTotals:
        """Return the totals with those of one more run."""
        return WorkerTotals(
            self.leases_lost + statistics.leases_lost,
            self.settle_seconds + statistics.settle_seconds,
            Counter(self.settle_times) + Counter(statistics.settle_times),
        )


class ScheduleSnapshot(NamedTuple):
    """The state of a schedule, as it was read last."""

    name: str
    is_in_code: bool
    """False if it was put at run time, so that its name is data."""
    fired: float | None
    """The time that was fired last, in seconds since the epoch; None if none was."""
    missed: int
    """The times that this process has passed over."""


@final
class SnapshotReader:
    """Reads the counters of storages, within a time limit even where a storage hangs.

    A read cannot always be cancelled, since a storage carries an operation to its end. So it is made in a trio task of
    its own, which may go on until the storage answers or is closed; there is at most one for each queue.

    Args:
      monitor: the monitor of the workers; None if there is none.
      queues: the queues of a router, or storages.
      schedules: the schedules that are fired here; None: those of the queues of a router.
      timeout: seconds.
    """

    def __init__(self, monitor: object, queues: object, schedules: object, timeout: float) -> None:
        if not (monitor is None or isinstance(monitor, Monitor)):
            raise TypeError(f"monitor must be a Monitor or None, not {quoted(monitor)}")
        if not (schedules is None or isinstance(schedules, Schedules)):
            raise TypeError(f"schedules must be a Schedules or None, not {quoted(schedules)}")
        self.monitor = monitor
        self._queues = queues if isinstance(queues, Queues) else _listed(queues)
        self._schedules = schedules
        self._timeout = timeout
        self._latest: dict[str, QueueMetrics] = {}
        self._reads: dict[str, trio.Event] = {}
        self._names: dict[str, frozenset[str] | None] = {}
        self._stored: dict[str, _StoredSchedules] = {}
        self._missed: dict[str, int] = {}
        self._runs: dict[WorkerContext, str] = {}  # those that had not ended when they were last seen
        self._ended: dict[tuple[str, str], WorkerTotals] = {}

    def _storages(self) -> dict[str, Any]:
        """Return the storages by the names of their queues; those of a router may become more."""
        queues = self._queues
        return {name: queues[name] for name in queues} if isinstance(queues, Queues) else queues

    # Reading

    async def read_queues(self) -> list[QueueSnapshot]:
        """Ask all storages at once; return what is known of each queue when they have answered, or time is up."""
        storages = self._storages()
        for number, (name, storage) in enumerate(storages.items()):
            has_schedules = isinstance(storage, StoreSchedules) and not (number and isinstance(self._queues, Queues))
            if has_schedules:  # those of a router share one store
                self._stored.setdefault(name, _StoredSchedules())
            if name not in self._reads:
                self._reads[name] = trio.Event()
                trio.lowlevel.spawn_system_task(self._read, name, storage)
        with trio.move_on_after(self._timeout):  # noqa: ASYNC912  if all have answered already
            for name in storages:
                if name in self._reads:
                    await self._reads[name].wait()
        await trio.lowlevel.checkpoint()
        return self.queues()

    async def _read(self, name: str, storage: Any) -> None:  # noqa: ASYNC910  the storage decides
        was_read = False
        try:
            with log_and_suppress("the counters of queue %r cannot be read", name):
                try:
                    self._latest[name] = await storage.metrics()
                    if name in self._stored:
                        await self._stored[name].read(storage)
                    was_read = True
                except trio.ClosedResourceError:
                    pass  # it was closed on purpose, so there is nothing to log
        finally:
            if not was_read:
                self._latest.pop(name, None)
            self._reads.pop(name).set()

    # What is known

    def queues(self) -> list[QueueSnapshot]:
        """Return what is known of each queue, without asking; one that is being asked has not answered."""
        queues = self._queues
        return [
            QueueSnapshot(
                name,
                name not in self._reads and name in self._latest,
                self._latest.get(name),
                storage.attempt_totals() if isinstance(storage, Throughput) else (),
                queues.task_names if isinstance(queues, Queues) else self._names.get(name),
            )
            for name, storage in self._storages().items()
        ]

    def workers(self) -> list[WorkerSnapshot]:
        """Return what is known of the workers that the monitor runs."""
        contexts: Iterable[WorkerContext] = () if self.monitor is None else self.monitor.workers
        found: list[WorkerSnapshot] = []
        for each in contexts:
            queue = self._runs[each] = queue_of(each) or ""
            self._note_names(queue, each)
            found.append(WorkerSnapshot(queue, each.intake, each.statistics()))
        return found

    def worker_totals(self) -> dict[tuple[str, str], WorkerTotals]:
        """Return the totals of each worker, by the names of its queue and its own. They never fall."""
        for run in [run for run in self._runs if run.is_stopped]:
            key = self._runs.pop(run), run.name
            self._ended[key] = self._ended.pop(key, WorkerTotals()).plus(run.statistics())
        while len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        totals = dict(self._ended)
        for run, queue in self._runs.items():
            totals[queue, run.name] = totals.get((queue, run.name), WorkerTotals()).plus(run.statistics())
        return totals

    def _note_names(self, queue: str, context: WorkerContext) -> None:
        """Note which names of tasks a worker knows, for good: its attempts are told of after it has ended."""
        if context.task_names is None:
            self._names[queue] = None
        elif (known := self._names.get(queue, frozenset())) is not None:
            self._names[queue] = known.union(context.task_names)

    def schedules(self) -> list[ScheduleSnapshot]:
        """Return what is known of each schedule."""
        schedules = self._schedules
        if schedules is None and isinstance(self._queues, Queues) and self.monitor is not None:
            # While it does not run, asking could come before all schedules are declared.
            schedules = self._queues.schedules if self.monitor.is_running and self._stored else None
        if schedules is not None:
            self._missed = schedules.missed
        stored: dict[str, tuple[float | None, bool]] = {}
        for each in self._stored.values():
            stored.update(each.known)
        names = dict.fromkeys([*stored, *self._missed])
        return [ScheduleSnapshot(name, *self._shown(stored, name), self._missed.get(name, 0)) for name in names]

    def _shown(self, stored: dict[str, tuple[float | None, bool]], name: str) -> tuple[bool, float | None]:
        fired, is_dynamic = stored.get(name, (None, True))
        return not is_dynamic, fired

    def __repr__(self) -> str:
        return f"<SnapshotReader of {self._queues!r}>"


class _StoredSchedules:
    """The schedules of a store: by name, the time that was fired last, and True if it was put at run time."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[float | None, bool]] = {}
        self._revision = 0
        self._read_at = -math.inf

    async def read(self, storage: StoreSchedules) -> None:
        """Read the changes since the last time."""
        now = trio.current_time()
        is_whole = now > self._read_at + _LONGEST_GAP
        entries = await storage.list_schedules(0 if is_whole else self._revision)
        if is_whole:
            self.known.clear()
        self._read_at = now
        for entry in entries:
            self._revision = max(self._revision, entry.revision)
            if (schedule := entry.schedule) is None:
                self.known.pop(entry.name, None)
            else:
                fired = None if schedule.fired is None else schedule.fired / 1e6
                self.known[entry.name] = fired, schedule.is_dynamic


def _listed(queues: Any) -> dict[str, Any]:
    """Return a storage, or several, by the names of their queues."""
    storages: list[Any] = [queues] if isinstance(queues, Metrics) or not isinstance(queues, Iterable) else [*queues]
    if wrong := [each for each in storages if not isinstance(each, Metrics)]:
        raise TypeError(f"queues must be the queues of a router, a storage, or storages, not {quoted(wrong[0])}")
    listed = {str(getattr(each, "queue", "default")): each for each in storages}
    if any(listed[str(getattr(each, "queue", "default"))] is not each for each in storages):
        raise ValueError("queues must be storages of different queues; two of these have the same")
    return listed
