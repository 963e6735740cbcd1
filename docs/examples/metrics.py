"""The numbers of queues and workers as metrics of OpenTelemetry, for any exporter that it has."""

from __future__ import annotations

from typing import Any

import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from trio_tasks import MemoryStorage, Monitor, Worker
from trio_tasks.observe import Collector

reader = InMemoryMetricReader()  # in production: a PeriodicExportingMetricReader with your exporter
meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("shop")


async def ship(order: int) -> None:
    if order == 3:
        raise ConnectionError("the label printer is away")


def print_metrics() -> None:
    data: Any = reader.get_metrics_data()
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            number = point.count if hasattr(point, "count") else point.value
            if number and metric.name.startswith("messaging."):
                outcome = point.attributes.get("trio_tasks.outcome", "")
                print(f"{metric.name} {point.attributes['messaging.destination.name']}: {number} {outcome}".rstrip())


async def main() -> None:
    storage = MemoryStorage[int](queue="orders")
    async with Monitor() as monitor:
        monitor.register(Worker("shipping", storage, ship, log=None))
        Collector(monitor, storage).opentelemetry(meter)
        for order in range(3):
            await storage.push(order)
        await storage.wait_for(await storage.push(3, attempts=1))
        await trio.to_thread.run_sync(print_metrics)  # the reader of production has a thread of its own
        monitor.shutdown()


if __name__ == "__main__":
    trio.run(main)
