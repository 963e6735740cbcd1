"""A benchmark of what watching adds to an attempt: tracing, metrics, and the counts that the worker keeps anyway.

All are measured in turns with a bare worker, by CPU time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from prometheus_client import CollectorRegistry, generate_latest
from trio_tasks import MemoryStorage, Succeeded, Task, Worker
from trio_tasks._contracts.context import Tally
from trio_tasks._contracts.minutes import ADDED_AT_ONCE, VALUES, Tally as MinuteTally
from trio_tasks.observe import Collector, OpenTelemetry, carry_trace

from .fresh import size
from .measuring import MICRO, CpuTime, in_turns, verdict

SCRAPED_EACH = 1_000
"""Attempts between two scrapes: at a thousand attempts a second, one each second."""
TARGETS = {"not sampled": 25.0, "scraped by Prometheus": 3.0, "counts and histograms": 1.0}
"""Microseconds that each may add to an attempt."""

Scrape = Callable[[], Awaitable[object]]
NOTHING = TracerProvider(sampler=ParentBased(ALWAYS_OFF))


def show() -> None:
    tasks, rounds = size(5_000, 300), size(7, 1)
    sampled = TracerProvider()
    turns: dict[str, Callable[[], float]] = {
        "bare": partial(_measure, tasks),
        "a layer that does nothing": partial(_measure, tasks, layers=[_pass_on]),
        "not sampled": partial(_measure, tasks, layers=[OpenTelemetry(tracer_provider=NOTHING)]),
        "sampled, no exporter": partial(
            _measure, tasks, layers=[OpenTelemetry(tracer_provider=sampled)], provider=sampled
        ),
        "scraped by Prometheus": partial(_measure, tasks, collects=_prometheus),
        "exported by OpenTelemetry": partial(_measure, tasks, collects=_meter),
        "counts and histograms": partial(_count, tasks),
    }
    print(f"CPU for each of {tasks:,} attempts in µs, c=10, in memory, least of {rounds} rounds in turns")
    cpu = in_turns(turns, rounds=rounds)
    bare = cpu["bare"]
    for title, each in cpu.items():
        added = each if title == "counts and histograms" else each - bare
        mark = f"  {verdict(added, TARGETS[title])}" if title in TARGETS else ""
        shown = " " * 8 if title == "counts and histograms" else f"{each:8.2f}"
        print(f"  {title:30}{shown}{added:+9.2f}{mark}")
    print("  (counts and histograms are part of the bare worker too; they are measured by themselves)")


async def _pass_on(handler: Callable[..., Any], task: Task[Any]) -> Any:
    return await handler(task)


async def _no_scrape() -> None:
    await trio.lowlevel.checkpoint()


def _prometheus(storage: Any) -> Scrape:
    collector, registry = Collector(None, storage), CollectorRegistry()
    collector.prometheus(registry)

    async def scrape() -> None:
        await collector.read()
        generate_latest(registry)

    return scrape


def _meter(storage: Any) -> Scrape:
    collector, reader = Collector(None, storage), InMemoryMetricReader()
    collector.opentelemetry(MeterProvider([reader], shutdown_on_exit=False).get_meter("bench"))

    async def export() -> None:
        await collector.read()
        reader.get_metrics_data()

    return export


def _measure(
    tasks: int,
    layers: Sequence[Any] = (),
    provider: TracerProvider = NOTHING,
    collects: Callable[[Any], Scrape] = lambda storage: _no_scrape,
) -> float:
    return trio.run(_drain, tasks, layers, provider, collects)


async def _drain(
    tasks: int, layers: Sequence[Any], provider: TracerProvider, collects: Callable[[Any], Scrape]
) -> float:
    async def handler(number: int) -> None:
        if not number % SCRAPED_EACH:
            await scrape()

    storage = MemoryStorage[int]()
    scrape = collects(storage)
    with trace.use_span(provider.get_tracer("bench").start_span("request")):
        carried = carry_trace(Task.builder(0).build()).parts.metadata
    await storage.push_bulk(range(tasks), metadata=carried)
    storage.close()
    with CpuTime() as cpu:
        await Worker("bench", storage, handler, concurrency=10, layers=layers).run()
    return cpu.seconds / tasks * MICRO


def _count(tasks: int) -> float:
    """Do what a worker and a storage do for the numbers of an attempt, the time of its settlement included."""
    return trio.run(_do_count, tasks)


async def _do_count(tasks: int) -> float:
    await trio.lowlevel.checkpoint()
    tally, minutes, outcome = Tally(), MinuteTally(), Succeeded(None)
    now = trio.lowlevel.current_clock().current_time
    with CpuTime() as cpu:
        for _ in range(tasks):
            began = now()
            succeeded = minutes.succeeded
            succeeded.extend(("ship", began, began - 0.5, began + 1e-4))
            if len(succeeded) >= ADDED_AT_ONCE * VALUES:
                minutes.add_up()
            tally.count(outcome)
            tally.note_settling(now() - began)
    return cpu.seconds / tasks * MICRO
