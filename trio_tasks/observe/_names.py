"""The names of metrics, spans and attributes, which dashboards, alerts and queries refer to: all in this file.

They are not stable. Those of OpenTelemetry follow its conventions for messaging, which are still marked "Development",
and change here as they change there; those for Prometheus may change with a minor version, which the changelog tells.

No label is ever an id, an argument, or the text of an error, so there are as many time series as there are queues,
workers, names of tasks, and schedules in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

SYSTEM: Final = "messaging.system"
OPERATION_TYPE: Final = "messaging.operation.type"
OPERATION_NAME: Final = "messaging.operation.name"
QUEUE: Final = "messaging.destination.name"
TASK_ID: Final = "messaging.message.id"
TASK_NAME: Final = "trio_tasks.task"
ATTEMPT: Final = "trio_tasks.attempt"
WORKER: Final = "trio_tasks.worker"
ENDED: Final = "trio_tasks.ended"
"""The end of an attempt that did not fail: ``"succeeded"``, ``"was suspended"`` or ``"was cancelled"``."""
ERROR_TYPE: Final = "error.type"

SEND_SPAN: Final = "send %s"
"""The name of the span of a push; the value is the name of the queue."""
PROCESS_SPAN: Final = "process %s"
"""The name of the span of an attempt; the value is the name of the queue."""


def _operation(kind: str, name: str) -> dict[str, str]:
    return {SYSTEM: "trio_tasks", OPERATION_TYPE: kind, OPERATION_NAME: name}


SENT: Final = _operation("send", "push")
PROCESSED: Final = _operation("process", "attempt")
SETTLED: Final = _operation("settle", "settle")

ATTRIBUTES: Final[Mapping[str, str]] = {
    "queue": QUEUE,
    "task": TASK_NAME,
    "worker": WORKER,
    "outcome": "trio_tasks.outcome",
    "state": "trio_tasks.state",
    "schedule": "trio_tasks.schedule",
}
"""The attribute of OpenTelemetry for each label of Prometheus."""


class Metric(NamedTuple):
    """A metric, with its names and its labels."""

    prometheus: str
    """The name for Prometheus; a counter gets ``_total`` at the end."""
    opentelemetry: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    """The unit for OpenTelemetry."""
    labels: tuple[str, ...]
    text: str
    operation: Mapping[str, str] = {}
    """Attributes that are the same for all series, for OpenTelemetry."""


def _metric(
    prometheus: str,
    opentelemetry: str,
    kind: Literal["gauge", "counter", "histogram"],
    unit: str,
    labels: str,
    text: str,
    operation: Mapping[str, str] = {},
) -> Metric:
    return Metric(prometheus, opentelemetry, kind, unit, tuple(labels.split()), text, operation)


UP: Final = _metric(
    "trio_tasks_up",
    "trio_tasks.up",
    "gauge",
    "1",
    "queue",
    "1 if the storage of the queue has answered in time, else 0",
)
PUSHED: Final = _metric(
    "trio_tasks_pushed", "messaging.client.sent.messages", "counter", "{message}", "queue",
    "Tasks pushed to the queue, by all processes", SENT,
)  # fmt: skip
TASKS: Final = _metric(
    "trio_tasks_tasks", "trio_tasks.tasks", "gauge", "{task}", "queue state",
    "Tasks in the queue, by state: waiting, delayed, running, dead",
)  # fmt: skip
OLDEST_WAITING: Final = _metric(
    "trio_tasks_oldest_waiting_seconds", "trio_tasks.oldest_waiting", "gauge", "s", "queue",
    "Age of the oldest task that is ready and waits",
)  # fmt: skip
ATTEMPTS: Final = _metric(
    "trio_tasks_attempts", "messaging.client.consumed.messages", "counter", "{message}", "queue task outcome",
    "Attempts settled by this process, by outcome", PROCESSED,
)  # fmt: skip
DURATION: Final = _metric(
    "trio_tasks_attempt_duration_seconds", "messaging.process.duration", "histogram", "s", "queue task",
    "Time from claim to settlement, by this process", PROCESSED,
)  # fmt: skip
WAIT: Final = _metric(
    "trio_tasks_wait_seconds", "trio_tasks.wait.duration", "histogram", "s", "queue task",
    "Time from ready to claimed, of attempts by this process",
)  # fmt: skip
SLOTS: Final = _metric(
    "trio_tasks_slots", "trio_tasks.slots", "gauge", "{slot}", "queue worker state",
    "Slots of a worker of this process, by state: free, taken",
)  # fmt: skip
WORKER_UP: Final = _metric(
    "trio_tasks_worker_up", "trio_tasks.worker.up", "gauge", "1", "queue worker",
    "1 while a worker of this process takes tasks, else 0",
)  # fmt: skip
LEASES_LOST: Final = _metric(
    "trio_tasks_leases_lost", "trio_tasks.leases_lost", "counter", "{attempt}", "queue worker",
    "Attempts of a worker of this process that have lost their lease",
)  # fmt: skip
SETTLE: Final = _metric(
    "trio_tasks_settle_seconds", "messaging.client.operation.duration", "histogram", "s", "queue worker",
    "Time from the end of an attempt to its settlement, by a worker of this process; in memory, none is measured",
    SETTLED,
)  # fmt: skip
LAST_FIRING: Final = _metric(
    "trio_tasks_schedule_last_firing_timestamp", "trio_tasks.schedule.last_firing", "gauge", "s", "schedule",
    "Time for which a schedule was fired last, in seconds since the epoch",
)  # fmt: skip
MISSED: Final = _metric(
    "trio_tasks_schedule_missed", "trio_tasks.schedule.missed", "counter", "{firing}", "schedule",
    "Times of a schedule that the scheduler of this process has passed over",
)  # fmt: skip

METRICS: Final = (
    UP, PUSHED, TASKS, OLDEST_WAITING, ATTEMPTS, DURATION, WAIT, SLOTS, WORKER_UP, LEASES_LOST, SETTLE, LAST_FIRING,
    MISSED,
)  # fmt: skip
"""All metrics."""

UNKNOWN: Final = "?"
"""The label of all tasks whose name no handler here knows, and of all schedules that do not stand in the code."""

BUCKETS: Final = tuple(2.0**exponent for exponent in range(-10, 13))
"""The upper bounds of the histograms in seconds: from a millisecond to an hour."""
