"""Metrics for Prometheus: names and labels in one table, read from the storages and workers at each scrape.

A label is never an id, an argument or the text of an error, so there are as many time series as there are queues,
workers and names of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from .._checks import check_seconds
from .._concurrency.threads import is_in_trio_thread
from ._snapshot import SnapshotReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from .. import Monitor
    from ._snapshot import QueueSnapshot, WorkerSnapshot

NAMES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "trio_tasks_up": ("1 if the storage of the queue has answered in time, else 0", ("queue",)),
    "trio_tasks_pushed": ("Tasks pushed to the queue, by all processes", ("queue",)),
    "trio_tasks_tasks": ("Tasks in the queue, by state: waiting, delayed, running, dead", ("queue", "state")),
    "trio_tasks_oldest_waiting_seconds": ("Age of the oldest task that is ready and waits", ("queue",)),
    "trio_tasks_attempts": ("Attempts settled by this process, by outcome", ("queue", "task", "outcome")),
    "trio_tasks_attempt_duration_seconds": ("Time from claim to settlement, by this process", ("queue", "task")),
    "trio_tasks_wait_seconds": ("Time from ready to claimed, of attempts by this process", ("queue", "task")),
    "trio_tasks_slots": ("Slots of a worker of this process, by state: free, taken", ("queue", "worker", "state")),
    "trio_tasks_worker_up": ("1 while a worker of this process takes tasks, else 0", ("queue", "worker")),
}
"""The names of the metrics, with their texts and their labels. Those of counters get ``_total`` at the end."""

_OUTCOMES = ("succeeded", "retried", "failed", "killed", "released", "suspended")
_BUCKETS = tuple(2.0**exponent for exponent in range(-10, 13))
"""The upper bounds of the histograms in seconds: from a millisecond to an hour."""


@final
class Collector:
    """The metrics of a program's queues and workers, for Prometheus.

    >>> collector = Collector(monitor, queues)
    >>> collector.prometheus()  # registers with prometheus_client; its start_http_server, say, serves it

    Nothing is counted twice for it: a scrape reads what storages and workers count anyway.

    Args:
      monitor: the monitor whose workers are told of; None: no workers.
      queues: the queues of a router, a storage, or a list of storages.
      timeout: seconds for which a scrape waits for the storages. Of a storage that has not answered,
          ``trio_tasks_up`` is 0, and the latest counters are told. Default: 1.

    Raises:
      TypeError: an argument is of the wrong type.
    """

    def __init__(self, monitor: Monitor | None, queues: object, *, timeout: float = 1.0) -> None:
        self.reader = SnapshotReader(monitor, queues, check_seconds(timeout, "timeout", positive=True))
        self._token: trio.lowlevel.TrioToken | None = None

    def prometheus(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register with ``prometheus_client``, inside the trio run whose storages are read.

        Its scrapes may come from another thread, as those of ``start_http_server`` do; they read in the trio run. One
        that comes when the run is over tells the latest counters.
        """
        self._token = trio.lowlevel.current_trio_token()
        registry.register(self)

    async def read(self) -> None:
        """Ask the storages for their counters, so that the next :meth:`collect` tells them."""
        await self.reader.read_queues()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics: what ``prometheus_client`` calls for a scrape."""
        token = self._token
        if token is None or is_in_trio_thread(token):
            return [*self._metrics()]
        try:
            return trio.from_thread.run(self._read_and_collect, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled):  # noqa: ASYNC103  the run ends; this thread is not in it
            return [*self._metrics()]  # noqa: ASYNC104  as above

    async def _read_and_collect(self) -> list[Metric]:
        await self.read()
        return [*self._metrics()]

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering asks no storage."""
        return []

    def _metrics(self) -> Iterator[Metric]:
        queues, workers = self.reader.queues(), self.reader.workers()
        yield from _of_queues(queues)
        yield from _of_attempts(queues)
        yield from _of_workers(workers)


def _gauge(name: str) -> GaugeMetricFamily:
    text, labels = NAMES[name]
    return GaugeMetricFamily(name, text, labels=labels)


def _counter(name: str) -> CounterMetricFamily:
    text, labels = NAMES[name]
    return CounterMetricFamily(name, text, labels=labels)


def _of_queues(queues: Iterable[QueueSnapshot]) -> Iterator[Metric]:
    up, pushed = _gauge("trio_tasks_up"), _counter("trio_tasks_pushed")
    tasks, oldest = _gauge("trio_tasks_tasks"), _gauge("trio_tasks_oldest_waiting_seconds")
    for each in queues:
        up.add_metric([each.queue], float(each.is_up))
        if (metrics := each.metrics) is None:
            continue
        pushed.add_metric([each.queue], metrics["pushed"])
        dead = metrics["kept_failed"] + metrics["kept_killed"]
        for state, number in (
            ("waiting", metrics["waiting"]),
            ("delayed", metrics["delayed"]),
            ("running", metrics["running"]),
            ("dead", dead),
        ):
            tasks.add_metric([each.queue, state], number)
        oldest.add_metric([each.queue], metrics["oldest_waiting"])
    yield from (up, pushed, tasks, oldest)


def _of_attempts(queues: Iterable[QueueSnapshot]) -> Iterator[Metric]:
    attempts = _counter("trio_tasks_attempts")
    durations, waits = _histogram("trio_tasks_attempt_duration_seconds"), _histogram("trio_tasks_wait_seconds")
    for queue in queues:
        for each in queue.totals:
            labels = [queue.queue, each.name or ""]
            for outcome in _OUTCOMES:
                attempts.add_metric([*labels, outcome], getattr(each, outcome))
            durations.add_metric(labels, _cumulated(each.durations), each.seconds)
            waits.add_metric(labels, _cumulated(each.waits), each.waited)
    yield from (attempts, durations, waits)


def _histogram(name: str) -> HistogramMetricFamily:
    text, labels = NAMES[name]
    return HistogramMetricFamily(name, text, labels=labels)


def _cumulated(histogram: Mapping[float, int]) -> list[tuple[str, float]]:
    """Return how many took less than each bound. A key of the histogram is a bound, too."""
    counts = [(str(bound), sum(n for limit, n in histogram.items() if limit <= bound)) for bound in _BUCKETS]
    return [*counts, ("+Inf", sum(histogram.values()))]


def _of_workers(workers: Iterable[WorkerSnapshot]) -> Iterator[Metric]:
    slots, up = _gauge("trio_tasks_slots"), _gauge("trio_tasks_worker_up")
    for each in workers:
        labels, statistics = [each.queue, each.statistics.name], each.statistics
        slots.add_metric([*labels, "taken"], statistics.tasks_running)
        slots.add_metric([*labels, "free"], max(0, statistics.concurrency - statistics.tasks_running))
        up.add_metric(labels, float(each.intake != "closed"))
    yield from (slots, up)
