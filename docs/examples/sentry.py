"""Errors, traces and check-ins of tasks in Sentry: a recipe to copy into your program. It needs sentry-sdk."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import sentry_sdk
import trio
from sentry_sdk.crons import capture_checkin
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.transport import Transport
from trio_tasks import (
    Attempt,
    Call,
    CronSpec,
    Firing,
    Injected,
    IntervalSpec,
    MemoryStorage,
    RetryAfterError,
    Router,
    SuspendError,
    Task,
    WorkerContext,
    cron,
)
from trio_tasks.testing import virtual_clock

if TYPE_CHECKING:
    from sentry_sdk.types import MonitorConfig
    from trio_tasks.abc import Handler

# The recipe


def carry_to_sentry(task: Task[Any], queue: str | None = None) -> Task[Any]:
    """For on_push=: put the trace that is under way into the metadata of the task."""
    with sentry_sdk.start_span(op="queue.publish", name=queue or "a queue"):
        trace = {"sentry-trace": sentry_sdk.get_traceparent(), "baggage": sentry_sdk.get_baggage()}
    return task.with_metadata({name: value for name, value in trace.items() if value})


class Sentry:
    """A layer: a transaction for each attempt, an event for each that fails, and check-ins of schedules."""

    def __init__(self, schedules: Mapping[str, CronSpec | IntervalSpec] | None = None) -> None:
        self._schedules = schedules or {}

    async def __call__(self, handler: Handler[Any, Any], task: Task[Any]) -> Any:
        parts, name = task.parts, task.parts.name or "a task"
        with sentry_sdk.isolation_scope() as scope:
            scope.set_tags({"task": name, "worker": WorkerContext.of(task).name, "attempt": int(parts.attempt)})
            scope.set_context("task", {"id": parts.id})  # not a tag: each has another one
            scope.fingerprint = ["{{ default }}", name]
            transaction = sentry_sdk.continue_trace(dict(parts.metadata), op="queue.process", name=name)
            with sentry_sdk.start_transaction(transaction), await self._check_in(task):
                try:
                    return await handler(task)
                except Exception as error:
                    if is_fault(error):
                        sentry_sdk.capture_exception(error)
                    raise

    async def _check_in(self, task: Task[Any]) -> Any:
        if "firing" not in task.parts.metadata:
            return nullcontext()
        firing = await Firing.from_task(task)
        return checked_in(firing.schedule, task.parts.id, self._schedules.get(firing.schedule))


@contextmanager
def checked_in(schedule: str, task_id: str, spec: CronSpec | IntervalSpec | None) -> Generator[None, None, None]:
    """Tell Sentry's crons of a firing. All attempts at its task share one check-in."""
    check_in, began = uuid.uuid5(uuid.NAMESPACE_OID, task_id).hex, trio.current_time()
    capture_checkin(schedule, check_in, "in_progress", monitor_config=monitor_config(spec))
    try:
        yield
    except Exception as error:
        if is_fault(error):
            capture_checkin(schedule, check_in, "error", trio.current_time() - began)
        raise
    capture_checkin(schedule, check_in, "ok", trio.current_time() - began)


def is_fault(error: BaseException) -> bool:
    """False if the attempt was interrupted, or has only put its task off."""
    if members := getattr(error, "exceptions", ()):  # of an ExceptionGroup
        return any(map(is_fault, members))
    return isinstance(error, Exception) and not isinstance(error, (RetryAfterError, SuspendError, trio.Cancelled))


def monitor_config(spec: CronSpec | IntervalSpec | None) -> MonitorConfig | None:
    """The monitor that Sentry makes of a schedule; None if it is not known, or has parts of a minute."""
    if isinstance(spec, CronSpec):
        return {"schedule": {"type": "crontab", "value": spec.expression}, "timezone": spec.zone}
    if spec is None or spec.seconds % 60:
        return None
    return {"schedule": {"type": "interval", "value": int(spec.seconds // 60), "unit": "minute"}}


# A program that uses it

tasks = Router()
SCHEDULES = {"nightly": cron("30 2 * * *", zone="Europe/Berlin")}


@tasks.task(attempts=2)
async def charge(order: int, *, attempt: Attempt = Injected) -> None:
    await trio.sleep(1)
    if attempt == 1:
        raise ConnectionError("the bank is away")


@tasks.task
async def send_invoices(*, firing: Firing = Injected) -> None:
    await trio.sleep(60)


tasks.schedule("nightly", send_invoices.bind(), SCHEDULES["nightly"])


class Printing(Transport):
    """Prints in place of sending; in production, there is no transport=."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            found: Any = item.payload.json or {}
            if item.type == "event":
                tags = ", ".join(f"{name}={value}" for name, value in sorted(found["tags"].items()))
                print(f"event: {found['exception']['values'][-1]['type']}; {tags}; grouped by {found['fingerprint']}")
            elif item.type == "transaction":
                print(f"transaction: {found['transaction']}, {[span['op'] for span in found['spans']]}")
            elif item.type == "check_in":
                schedule = found.get("monitor_config", {}).get("schedule", {})
                print(f"check-in: {found['monitor_slug']} {found['status']} {schedule.get('value', '')}".rstrip())


async def main() -> None:
    sentry_sdk.init("https://key@sentry.example/1", transport=Printing, traces_sample_rate=1.0)
    ignore_logger("trio_tasks")  # the layer tells of failures already
    storage = MemoryStorage[Call[object]](on_push=carry_to_sentry)
    async with tasks.open(storage) as queues:
        with sentry_sdk.start_transaction(op="http.server", name="POST /orders"):
            task_id = await queues.push(charge.bind(7))
        async with queues.monitor({"default": 1}, layers=[Sentry(SCHEDULES)], log=None) as monitor:
            await queues.wait_for(task_id)
            await trio.sleep(24 * 3600)
            monitor.shutdown()


if __name__ == "__main__":
    # A night in a moment: in your program, it is trio.run(main).
    with virtual_clock(start=datetime(2026, 11, 28, 12, tzinfo=timezone.utc)) as clock:
        trio.run(main, clock=clock)
