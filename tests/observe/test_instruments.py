"""Tests of the metrics by instruments of OpenTelemetry."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from trio.testing import MockClock
from trio_tasks import AbortError, MemoryStorage, Monitor, SqliteStorage, Worker
from trio_tasks.observe import Collector
from trio_tasks.observe._names import METRICS

from tests.observe._hanging import Hanging

Points = dict[str, dict[tuple[str, ...], Any]]
TEXTS = {each.opentelemetry: each for each in METRICS}


class Exporter:
    """A meter whose metrics are kept in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.meter = self._provider.get_meter("test")

    def exported(self) -> Points:
        """By the name of the metric and the values of its own attributes, each point: a number, or a histogram."""
        data = self._reader.get_metrics_data()
        points: Points = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data else []:
            known = TEXTS[metric.name]
            assert (metric.unit, metric.description) == (known.unit, known.text)
            for point in metric.data.data_points:
                attributes = dict(point.attributes or {})
                fixed = {name: attributes.pop(name) for name in known.operation}
                assert fixed == known.operation
                labels = tuple(str(attributes[name]) for name in sorted(attributes))
                points.setdefault(metric.name, {})[labels] = getattr(point, "value", point)
        return points


def histogram(point: Any) -> dict[float, int]:
    """The numbers of a histogram that are not 0, by their upper bounds."""
    bounds = [*point.explicit_bounds, float("inf")]
    return {bound: n for bound, n in zip(bounds, point.bucket_counts, strict=True) if n}


async def work(seconds: float) -> None:
    await trio.sleep(seconds)
    if seconds == 3:
        raise AbortError("no")


async def test_all_that_the_storages_and_workers_count_is_exported(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[float](queue="orders")
    exporter = Exporter()
    async with Monitor() as monitor:
        monitor.register(Worker("w", storage, work, concurrency=10, log=None))
        collector = Collector(monitor, storage)
        collector.opentelemetry(exporter.meter)
        await storage.push_bulk([0.3, 0.4, 1, 3])
        await trio.sleep(10)
        await storage.push_bulk([100, 100])
        await trio.sleep(10)
        await collector.read()
        points = exporter.exported()
        monitor.cancel_scope.cancel()
    assert points["messaging.client.sent.messages"] == {("orders",): 6}
    assert points["messaging.client.consumed.messages"]["orders", "succeeded"] == 3
    assert points["messaging.client.consumed.messages"]["orders", "killed"] == 1
    assert points["trio_tasks.tasks"]["orders", "running"] == 2
    assert points["trio_tasks.slots"] == {("orders", "free", "w"): 8, ("orders", "taken", "w"): 2}
    assert points["trio_tasks.up"] == {("orders",): 1}
    durations = points["messaging.process.duration"]["orders",]
    assert histogram(durations) == {0.5: 2, 2.0: 1, 4.0: 1}
    assert durations.sum == pytest.approx(4.7)


async def test_histograms_go_on_from_the_last_export(autojump_clock: MockClock, tmp_path: Path) -> None:
    exporter = Exporter()
    async with SqliteStorage(tmp_path / "tasks.db", float, queue="orders") as storage:
        monitor = Monitor()
        Collector(monitor, storage).opentelemetry(exporter.meter)
        found: list[tuple[int, int]] = []
        for seconds in (0.3, 0.7, 0.31):
            async with monitor:
                monitor.register(Worker("w", storage, work, log=None))
                await storage.push_bulk([seconds] * 2)
                await storage.wait_for(await storage.push(seconds))
                exporter.exported()
                monitor.shutdown()
            points = exporter.exported()
            duration = points["messaging.process.duration"]["orders",]
            settling = points["messaging.client.operation.duration"]["orders", "w"]
            [totals] = storage.attempt_totals()
            assert histogram(duration) == totals.durations
            assert duration.sum == pytest.approx(totals.seconds)
            found.append((duration.count, settling.count))
        assert found == [(3, 3), (6, 6), (9, 9)], "a run of the worker begins each time"


async def test_an_exporter_in_another_thread_reads_in_the_trio_run() -> None:
    storage = MemoryStorage[float](queue="orders")
    exporter = Exporter()
    Collector(None, storage).opentelemetry(exporter.meter)
    await storage.push(1)
    points = await trio.to_thread.run_sync(exporter.exported)
    assert points["messaging.client.sent.messages"] == {("orders",): 1}


async def test_an_export_ends_in_time_though_a_storage_hangs(autojump_clock: MockClock) -> None:
    exporter = Exporter()
    slow = Hanging()
    collector = Collector(None, [slow, MemoryStorage[float](queue="fast")])
    collector.opentelemetry(exporter.meter)
    began = trio.current_time()
    await collector.read()
    assert trio.current_time() - began == 1
    assert exporter.exported()["trio_tasks.up"] == {("slow",): 0, ("fast",): 1}
    slow.goes_on.set()


def test_after_the_run_the_latest_values_are_exported() -> None:
    exporter = Exporter()

    async def main() -> None:
        storage = MemoryStorage[float](queue="orders")
        await storage.push(1)
        collector = Collector(None, storage)
        collector.opentelemetry(exporter.meter)
        await collector.read()

    trio.run(main)
    found: list[Points] = []
    thread = threading.Thread(target=lambda: found.append(exporter.exported()))
    thread.start()
    thread.join()
    assert found[0]["messaging.client.sent.messages"] == {("orders",): 1}
