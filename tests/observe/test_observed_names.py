"""Tests of the names of metrics and spans: golden files of all that is exported, and the dashboard that refers to it.

The files are in ``golden/``. After a change that is meant, ``TRIO_TASKS_WRITE_GOLDEN=1`` writes them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from trio.testing import MockClock
from trio_tasks import Attempt, Injected, RetryPolicy, Router, SqliteStorage, constant, every
from trio_tasks.observe import Collector, OpenTelemetry, carry_trace
from trio_tasks.observe._names import METRICS
from trio_tasks.testing import virtual_clock

GOLDEN = Path(__file__).with_name("golden")
DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "trio_tasks.json"
SECRETS = ("7f3d-id", "jane@example.com", "421 by the carrier", "acme")


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=datetime(2026, 11, 28, 12, tzinfo=timezone.utc)) as clock:
        yield clock


class Observed:
    """A program with all that is observed: its spans, and its metrics in both forms."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._tracer = self.provider.get_tracer("test")
        self._reader = InMemoryMetricReader()
        self._meter = MeterProvider([self._reader], shutdown_on_exit=False).get_meter("test")
        self.families: list[Family] = []
        self.instruments: list[Any] = []

    async def run(self, path: Path) -> None:
        """One order, whose first attempt fails, and a schedule; then the metrics are read."""
        tasks = Router()

        @tasks.task(queue="orders")
        async def ship(to: str, *, nursery: trio.Nursery = Injected, attempt: Attempt = Injected) -> None:
            nursery.start_soon(self._child)
            await trio.sleep(1)
            if attempt == 1:
                raise ConnectionError(SECRETS[2])

        @tasks.task(queue="reports")
        async def report() -> None:
            await trio.lowlevel.checkpoint()

        tasks.schedule("hourly", report.bind(), every(hours=1))
        layers, retry = [OpenTelemetry(tracer_provider=self.provider)], RetryPolicy(backoff=constant(1))
        async with tasks.open(SqliteStorage(path, queue="orders", codec=tasks, on_push=carry_trace)) as queues:
            monitor = queues.monitor({"orders": 1, "reports": 1}, layers=layers, retry=retry, log=None)
            collector = Collector(monitor, queues)
            registry = CollectorRegistry()
            collector.prometheus(registry)
            collector.opentelemetry(self._meter)
            async with monitor:
                with self._tracer.start_as_current_span("GET /order"):
                    task_id = await queues.push(ship.bind(SECRETS[1]), id=SECRETS[0], key=SECRETS[3])
                await queues.wait_for(task_id)
                await trio.sleep(3700)
                await collector.read()
                self.families = [*registry.collect()]
                data = self._reader.get_metrics_data()
                self.instruments = [*data.resource_metrics[0].scope_metrics[0].metrics] if data else []
                monitor.shutdown()

    async def _child(self) -> None:
        with self._tracer.start_as_current_span("child"):
            await trio.lowlevel.checkpoint()

    def trace(self) -> Iterator[str]:
        """The spans of the order, as a tree, each with its attributes."""
        spans = [*self._exporter.get_finished_spans()]
        [root] = [each for each in spans if each.name == "GET /order"]
        names = {each.context.span_id: each.name for each in spans if each.context}
        yield from self._tree(root, spans, names, 0)

    def _tree(self, span: ReadableSpan, spans: list[ReadableSpan], names: dict[int, str], depth: int) -> Iterator[str]:
        indent = "    " * depth
        yield f"{indent}{span.name} ({span.kind.name}, {span.status.status_code.name})"
        attributes: dict[str, Any] = dict(span.attributes or {})
        for name, value in sorted(attributes.items()):
            yield f"{indent}  - {name} = {value}"
        yield from (f"{indent}  - linked to {names[link.context.span_id]}" for link in span.links)
        yield from (f"{indent}  - event {event.name}" for event in span.events)
        for child in spans:
            if child.parent and span.context and child.parent.span_id == span.context.span_id:
                yield from self._tree(child, spans, names, depth + 1)

    def prometheus(self) -> Iterator[str]:
        """Each name that is written, with its labels."""
        for family in self.families:
            yield f"{family.name} ({family.type}): {family.documentation}"
            yield from dict.fromkeys(f"  {each.name}{{{', '.join(each.labels)}}}" for each in family.samples)

    def opentelemetry(self) -> Iterator[str]:
        """Each instrument, with its attributes."""
        for each in sorted(self.instruments, key=lambda each: each.name):
            kind, unit = type(each.data).__name__, each.unit
            yield f"{each.name} ({kind}, {unit}): {each.description}"
            attributes = [", ".join(sorted(point.attributes)) for point in each.data.data_points]
            yield from dict.fromkeys(f"  {{{one}}}" for one in attributes)

    def label_values(self) -> set[str]:
        """All values of labels and attributes of metrics."""
        points = [point.attributes for each in self.instruments for point in each.data.data_points]
        labels = [sample.labels for family in self.families for sample in family.samples]
        return {str(value) for each in [*points, *labels] for value in each.values()}


def check_golden(name: str, lines: Iterator[str]) -> None:
    text = "\n".join(lines) + "\n"
    path = GOLDEN / name
    if os.environ.get("TRIO_TASKS_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


async def test_names_of_metrics_and_spans(tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = Observed()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", observed.provider)
    await observed.run(tmp_path / "tasks.db")
    check_golden("trace.txt", observed.trace())
    check_golden("prometheus.txt", observed.prometheus())
    check_golden("opentelemetry.txt", observed.opentelemetry())
    for value in observed.label_values():
        assert not any(secret in value for secret in SECRETS), "no id, key, argument or error is in a label"


def test_names_are_told_apart_and_follow_the_conventions() -> None:
    for names in ([each.prometheus for each in METRICS], [each.opentelemetry for each in METRICS]):
        assert len({*names}) == len(names)
    for each in METRICS:
        assert each.prometheus.startswith("trio_tasks_")
        assert not each.prometheus.endswith("_total"), "it is added"
        assert each.text
        assert (each.unit == "s") == any(part in each.prometheus for part in ("seconds", "timestamp"))


# The dashboard


def exported() -> dict[str, set[str]]:
    """The labels of each name that Prometheus stores."""
    suffixes = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        each.prometheus + suffix: {*each.labels} | ({"le"} if suffix == "_bucket" else set())
        for each in METRICS
        for suffix in suffixes[each.kind]
    }


def names_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each name that an expression of Prometheus selects, with the labels by which it is chosen and grouped."""
    selected: list[Any] = []
    grouped: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            selected.append(node)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "5m")), visit)
    for each in selected:
        yield each.name, grouped | {matcher.name for matcher in each.matchers.matchers}


def test_each_expression_of_the_dashboard_names_what_is_exported() -> None:
    labels = exported()
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    used: set[str] = set()
    for expression in [target["expr"] for panel in panels for target in panel["targets"]]:
        names = [*names_of(expression)]
        assert names, expression
        for name, by in names:
            assert by <= labels[name], expression
            used.add(name.removesuffix("_total").removesuffix("_bucket"))
    assert used == {each.prometheus for each in METRICS}, "each metric has its place"
    assert len(panels) == 12


def test_the_panels_of_the_dashboard_are_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
