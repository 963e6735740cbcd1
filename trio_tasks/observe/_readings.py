"""The values of all metrics at one moment, as they follow from the state of the queues and workers."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from ._names import (
    ATTEMPTS,
    DURATION,
    LAST_FIRING,
    LEASES_LOST,
    MISSED,
    OLDEST_WAITING,
    PUSHED,
    SETTLE,
    SLOTS,
    TASKS,
    UNKNOWN,
    UP,
    WAIT,
    WORKER_UP,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .. import AttemptTotals
    from ._names import Metric
    from ._snapshot import QueueSnapshot, ScheduleSnapshot, SnapshotReader, WorkerSnapshot

_OUTCOMES = ("succeeded", "retried", "failed", "killed", "released", "suspended")


class Histogram(NamedTuple):
    """How many took less than so many seconds, and not less than half of that; and the sum of the seconds."""

    counts: Mapping[float, int]
    total: float


class Reading(NamedTuple):
    """A value of a metric, with its labels in the order of the table."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Histogram


def readings_of(reader: SnapshotReader) -> list[Reading]:
    """Return the values of all metrics, without asking a storage."""
    workers = reader.workers()  # first, since it notes which names of tasks they know
    queues = reader.queues()
    return [
        *_of_queues(queues),
        *_of_attempts(queues),
        *_of_workers(workers),
        *_of_settling(reader),
        *_of_schedules(reader.schedules()),
    ]


def _of_queues(queues: Iterable[QueueSnapshot]) -> Iterator[Reading]:
    for each in queues:
        yield Reading(UP, (each.queue,), float(each.is_up))
        if (metrics := each.metrics) is None:
            continue
        yield Reading(PUSHED, (each.queue,), metrics["pushed"])
        yield Reading(OLDEST_WAITING, (each.queue,), metrics["oldest_waiting"])
        for state, number in (
            ("waiting", metrics["waiting"]),
            ("delayed", metrics["delayed"]),
            ("running", metrics["running"]),
            ("dead", metrics["kept_failed"] + metrics["kept_killed"]),
        ):
            yield Reading(TASKS, (each.queue, state), number)


def _of_attempts(queues: Iterable[QueueSnapshot]) -> Iterator[Reading]:
    for queue in queues:
        by_label: defaultdict[str, list[AttemptTotals]] = defaultdict(list)
        for each in queue.totals:
            is_known = each.name is None or queue.names is None or each.name in queue.names
            by_label[each.name or "" if is_known else UNKNOWN].append(each)
        for task, totals in by_label.items():
            labels = queue.queue, task
            for outcome in _OUTCOMES:
                yield Reading(ATTEMPTS, (*labels, outcome), sum(getattr(each, outcome) for each in totals))
            yield Reading(DURATION, labels, _added((each.durations, each.seconds) for each in totals))
            yield Reading(WAIT, labels, _added((each.waits, each.waited) for each in totals))


def _of_workers(workers: Iterable[WorkerSnapshot]) -> Iterator[Reading]:
    by_name: defaultdict[tuple[str, str], list[WorkerSnapshot]] = defaultdict(list)
    for each in workers:
        by_name[each.queue, each.statistics.name].append(each)
    for labels, several in by_name.items():
        statistics = [each.statistics for each in several]
        taken = sum(each.tasks_running for each in statistics)
        free = sum(max(0, each.concurrency - each.tasks_running) for each in statistics)
        yield Reading(SLOTS, (*labels, "taken"), taken)
        yield Reading(SLOTS, (*labels, "free"), free)
        yield Reading(WORKER_UP, labels, float(all(each.intake != "closed" for each in several)))


def _of_settling(reader: SnapshotReader) -> Iterator[Reading]:
    for labels, totals in reader.worker_totals().items():
        yield Reading(LEASES_LOST, labels, totals.leases_lost)
        yield Reading(SETTLE, labels, Histogram(totals.settle_times, totals.settle_seconds))


def _of_schedules(schedules: Iterable[ScheduleSnapshot]) -> Iterator[Reading]:
    fired: dict[str, float] = {}
    missed: Counter[str] = Counter()
    for each in schedules:
        label = each.name if each.is_in_code else UNKNOWN
        missed[label] += each.missed
        if each.fired is not None:
            fired[label] = max(each.fired, fired.get(label, each.fired))
    yield from (Reading(LAST_FIRING, (label,), moment) for label, moment in fired.items())
    yield from (Reading(MISSED, (label,), number) for label, number in missed.items())


def _added(histograms: Iterable[tuple[Mapping[float, int], float]]) -> Histogram:
    counts: Counter[float] = Counter()
    total = 0.0
    for some, seconds in histograms:
        counts.update(some)
        total += seconds
    return Histogram(counts, total)
