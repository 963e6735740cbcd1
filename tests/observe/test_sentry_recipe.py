"""Tests of the recipe for Sentry, against a transport of Sentry's own kind that keeps what it would send."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
import trio
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from trio.testing import MockClock
from trio_tasks import (
    DeferredError,
    MemoryStorage,
    Monitor,
    RetryAfterError,
    RetryPolicy,
    Schedules,
    SuspendError,
    Task,
    Worker,
    constant,
    cron,
    every,
)
from trio_tasks.testing import virtual_clock

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sentry.py"


def _recipe() -> Any:
    spec = importlib.util.spec_from_file_location("sentry_recipe", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = _recipe()


class Kept(Transport):
    """A transport that keeps what it is to send, by its type."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.items: dict[str, list[Any]] = {}

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            self.items.setdefault(str(item.type), []).append(item.payload.json)

    def __getitem__(self, kind: str) -> list[Any]:
        return self.items.get(kind, [])


@pytest.fixture
def sent() -> Iterator[Kept]:
    kept = Kept()
    sentry_sdk.init("https://key@sentry.example/1", transport=kept, traces_sample_rate=1.0, default_integrations=False)
    yield kept
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


async def run(handler: Any, *args: Any, attempts: int = 1) -> None:
    """Push these in one request, and work on them."""
    storage = MemoryStorage[Any](queue="orders", on_push=RECIPE.carry_to_sentry)
    with sentry_sdk.start_transaction(op="http.server", name="GET /order"):
        await storage.push_bulk(args)
    storage.close()
    retry = RetryPolicy(attempts=attempts, backoff=constant(1))
    await Worker("shipping", storage, handler, layers=[RECIPE.Sentry()], retry=retry, concurrency=5, log=None).run()


async def test_an_event_has_tags_and_is_grouped_by_the_task(sent: Kept, autojump_clock: MockClock) -> None:
    async def ship(task: Task[str], nursery: trio.Nursery) -> None:
        nursery.start_soon(pack, task.args)

    async def pack(item: str) -> None:
        await trio.sleep(1)
        sentry_sdk.set_tag("item", item)
        if item == "unicorn":
            raise ConnectionError("421")

    await run(ship, "book", "unicorn", attempts=2)
    assert [event["tags"]["attempt"] for event in sent["event"]] == [1, 2]
    for event in sent["event"]:
        tags = {name: value for name, value in event["tags"].items() if name != "attempt"}
        assert tags == {"task": "a task", "worker": "shipping", "item": "unicorn"}
        assert event["fingerprint"] == ["{{ default }}", "a task"]
        assert event["contexts"]["task"]["id"]


async def test_the_transaction_of_each_attempt_goes_on_from_the_push(sent: Kept, autojump_clock: MockClock) -> None:
    async def ship(item: str) -> None:
        await trio.sleep(1)
        raise ConnectionError("421")

    await run(ship, "book", attempts=2)
    request, first, second = sent["transaction"]
    [publish] = request["spans"]
    assert (publish["op"], publish["description"]) == ("queue.publish", "orders")
    for attempt in (first, second):
        trace = attempt["contexts"]["trace"]
        assert trace["trace_id"] == request["contexts"]["trace"]["trace_id"]
        assert trace["parent_span_id"] == publish["span_id"]
        assert (trace["op"], trace["status"]) == ("queue.process", "internal_error")
    assert [event["contexts"]["trace"]["span_id"] for event in sent["event"]] == [
        attempt["contexts"]["trace"]["span_id"] for attempt in (first, second)
    ]


@pytest.mark.parametrize(
    ("error", "events"),
    [
        (RetryAfterError(ValueError(), 5), 0),
        (SuspendError(5, "later"), 0),
        (DeferredError(ValueError()), 1),
        (None, 0),
    ],
    ids=["retry after", "suspended", "deferred", "interrupted"],
)
async def test_what_is_no_fault_makes_no_event(
    sent: Kept, autojump_clock: MockClock, error: Exception | None, events: int
) -> None:
    async def ship(item: str) -> None:
        await trio.sleep(1)
        if error is None:
            scope.cancel()
            await trio.sleep_forever()
        elif len(began) < 1:
            began.append(item)
            raise error

    began: list[str] = []
    with trio.CancelScope() as scope:
        await run(ship, "book", attempts=3)
    assert len(sent["event"]) == events


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=datetime(2026, 11, 28, 0, 30, tzinfo=timezone.utc)) as clock:  # no time is due for long
        yield clock


async def test_a_schedule_checks_in(sent: Kept, clock: MockClock) -> None:
    async def send_invoices(task: Task[str]) -> None:
        await trio.sleep(60)
        if task.args == "broken":
            raise ConnectionError("421")
        if task.args == "later" and task.parts.attempt == 1:
            raise RetryAfterError(ConnectionError(), 60)
        if task.args == "interrupted":
            monitor.cancel_scope.cancel()
            await trio.sleep_forever()

    specs = {"sound": every(minutes=90), "broken": every(hours=2), "later": every(seconds=5400.5)}
    storage = MemoryStorage[str]()
    schedules = Schedules(storage)
    for name, spec in specs.items():
        schedules.declare(name, name, spec, attempts=2 if name == "later" else 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(schedules.run)
        async with Monitor() as monitor:
            layers = [RECIPE.Sentry(specs)]
            monitor.register(Worker("w", storage, send_invoices, layers=layers, concurrency=5, log=None))
            for name in specs:
                await schedules.run_now(name)
            await storage.push("sound")  # not by a schedule
            await trio.sleep(200)
            await schedules.put("interrupted", "interrupted", cron("0 0 1 1 *", zone="UTC"))
            await schedules.run_now("interrupted")
            await trio.sleep(200)
        nursery.cancel_scope.cancel()
    by_name: dict[str, list[Any]] = {}
    for each in sent["check_in"]:
        by_name.setdefault(each["monitor_slug"], []).append(each)
    assert {name: [each["status"] for each in several] for name, several in by_name.items()} == {
        "sound": ["in_progress", "ok"],
        "broken": ["in_progress", "error"],
        "later": ["in_progress", "in_progress", "ok"],
        "interrupted": ["in_progress"],
    }
    for several in by_name.values():
        assert len({each["check_in_id"] for each in several}) == 1
    assert by_name["sound"][0]["monitor_config"] == {"schedule": {"type": "interval", "value": 90, "unit": "minute"}}
    assert "monitor_config" not in by_name["later"][0]
    assert by_name["sound"][1]["duration"] == pytest.approx(60)


def test_the_monitor_of_a_cron_expression() -> None:
    assert RECIPE.monitor_config(cron("30 2 * * *", zone="Europe/Berlin")) == {
        "schedule": {"type": "crontab", "value": "30 2 * * *"},
        "timezone": "Europe/Berlin",
    }
    assert RECIPE.monitor_config(None) is None
