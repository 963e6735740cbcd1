"""Tests of the spans of OpenTelemetry: the trace of a push, of its attempts, and of their children."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from trio_tasks import (
    MemoryStorage,
    RetryPolicy,
    SqliteStorage,
    Succeeded,
    SuspendError,
    Task,
    Worker,
    constant,
    observe,
)
from trio_tasks.observe import OpenTelemetry, carry_trace
from trio_tasks.testing import run_once


class Spans:
    """A tracer provider that keeps its spans; the global one, which carry_trace takes, for the time of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", self.provider)

    def layer(self, **options: Any) -> OpenTelemetry:
        return OpenTelemetry(tracer_provider=self.provider, **options)

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [each for each in self if each.name == name]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    return Spans(monkeypatch)


def span_id(span: Any) -> int:
    return span.get_span_context().span_id  # type: ignore[no-any-return]  # a span of either kind


async def test_one_trace_from_the_request_to_the_children_of_each_attempt(
    spans: Spans, autojump_clock: trio.testing.MockClock
) -> None:
    async def child() -> None:
        with spans.tracer.start_as_current_span("child"):
            await trio.lowlevel.checkpoint()

    async def ship(task: Task[str], nursery: trio.Nursery) -> None:
        nursery.start_soon(child)
        if task.parts.attempt == 1:
            await trio.sleep(1)
            raise ConnectionError("421")

    storage = MemoryStorage[str](on_push=carry_trace)
    with spans.tracer.start_as_current_span("GET /order"):
        await storage.push("book", id="7")
    storage.close()
    retry = RetryPolicy(attempts=2, backoff=constant(1))
    await Worker("shipping", storage, ship, layers=[spans.layer()], retry=retry).run()

    [request], [sent] = spans.named("GET /order"), spans.named("send default")
    first, second = spans.named("process default")
    assert len({each.context.trace_id for each in spans}) == 1, "it is one trace"
    assert sent.parent is not None
    assert sent.parent.span_id == span_id(request)
    assert [each.parent.span_id for each in (first, second) if each.parent] == [span_id(sent)] * 2
    assert [each.parent.span_id for each in spans.named("child") if each.parent] == [span_id(first), span_id(second)]
    assert [each.kind for each in (sent, first)] == [trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER]
    assert [link.context.span_id for link in first.links] == [span_id(sent)]
    assert dict(sent.attributes or {}) == {
        "messaging.system": "trio_tasks",
        "messaging.operation.type": "send",
        "messaging.operation.name": "push",
        "messaging.message.id": "7",
        "messaging.destination.name": "default",
    }
    assert dict(first.attributes or {}) == {
        "messaging.system": "trio_tasks",
        "messaging.operation.type": "process",
        "messaging.operation.name": "attempt",
        "messaging.message.id": "7",
        "trio_tasks.attempt": 1,
        "messaging.destination.name": "default",
        "trio_tasks.worker": "shipping",
        "error.type": "ConnectionError",
    }
    assert first.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.status_code is trace.StatusCode.UNSET
    assert (second.attributes or {})["trio_tasks.ended"] == "succeeded"
    assert (second.attributes or {})["trio_tasks.attempt"] == 2


async def test_without_a_parent_each_attempt_has_a_trace_of_its_own_and_a_link(spans: Spans) -> None:
    async def ship(item: str) -> None: ...

    storage = MemoryStorage[str](on_push=[carry_trace])
    await storage.push("book")
    storage.close()
    await Worker("shipping", storage, ship, layers=[spans.layer(parent=False)]).run()
    [sent], [attempt] = spans.named("send default"), spans.named("process default")
    assert attempt.parent is None
    assert attempt.context.trace_id != sent.context.trace_id
    assert [link.context.span_id for link in attempt.links] == [span_id(sent)]


async def test_a_stored_task_carries_its_trace_and_names_its_queue(spans: Spans, tmp_path: Any) -> None:
    def ship(item: str) -> str:  # in a thread
        with spans.tracer.start_as_current_span("in the thread"):
            return item

    async with SqliteStorage(tmp_path / "tasks.db", str, queue="orders", on_push=carry_trace) as storage:
        task_id = await storage.push("book")
        task = await storage.fetch_by_id(task_id)
        assert task is not None
        assert list(task.parts.metadata) == ["traceparent"]
        storage.close()
        await Worker("shipping", storage, ship, layers=[spans.layer()]).run()
    [attempt], [inside] = spans.named("process orders"), spans.named("in the thread")
    assert (attempt.attributes or {})["messaging.destination.name"] == "orders"
    assert inside.parent is not None
    assert inside.parent.span_id == span_id(attempt)


async def test_a_trace_that_is_not_sampled_has_no_span_and_is_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans(monkeypatch, sampler=ParentBased(ALWAYS_OFF))
    seen: list[trace.SpanContext] = []

    async def ship(item: str) -> None:
        seen.append(trace.get_current_span().get_span_context())

    storage = MemoryStorage[str](on_push=carry_trace)
    with spans.tracer.start_as_current_span("GET /order") as request:
        await storage.push("book")
    storage.close()
    await Worker("shipping", storage, ship, layers=[spans.layer()]).run()
    assert [*spans] == []
    assert [each.trace_id for each in seen] == [request.get_span_context().trace_id], "what it calls is in the trace"
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize(
    ("error", "ended", "kind"),
    [
        (SuspendError(1, "later"), "was suspended", None),
        (trio.Cancelled, "was cancelled", None),
        (SystemExit(1), None, "SystemExit"),
        (trio.TooSlowError(), None, "trio.TooSlowError"),
    ],
    ids=["suspended", "cancelled", "exit", "slow"],
)
async def test_how_an_attempt_ended(spans: Spans, error: Any, ended: str | None, kind: str | None) -> None:
    async def ship(item: str) -> None:
        if error is trio.Cancelled:
            scope.cancel()
            await trio.sleep_forever()
        raise error

    with trio.CancelScope() as scope:
        await run_once(ship, "book", layers=[spans.layer()])
    [attempt] = spans
    attributes = attempt.attributes or {}
    assert (attributes.get("trio_tasks.ended"), attributes.get("error.type")) == (ended, kind)
    assert attempt.status.is_ok == (kind is None)


async def test_errors_of_the_tracer_harm_no_push_and_no_attempt(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.name.startswith("process") and "at start" in broken:
                raise SystemExit("no room")

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("the collector is away")

    class Rude(Exception):
        def __str__(self) -> str:
            raise SystemExit("no text")

    async def ship(item: str) -> str:
        if item == "rude":
            raise Rude
        return item

    broken: set[str] = set()
    spans.provider.add_span_processor(Broken())
    storage = MemoryStorage[str](on_push=carry_trace)
    await storage.push("book")
    await storage.push("rude", attempts=1)
    storage.close()
    with caplog.at_level(logging.ERROR, "trio_tasks"):
        report = await Worker("shipping", storage, ship, layers=[spans.layer()]).run()
    assert (report.succeeded, report.failed) == (1, 1)
    said = [record.getMessage() for record in caplog.records]
    assert len([each for each in said if "trace could not be put" in each]) == 2
    assert "the span of an attempt could not be ended" in said
    broken.add("at start")
    caplog.clear()
    assert await run_once(ship, "book", layers=[spans.layer()]) == Succeeded("book")
    assert ["no span could be begun" in record.getMessage() for record in caplog.records] == [True]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="parent must be True or False, not 'yes'"):
        OpenTelemetry(parent="yes")  # type: ignore[arg-type]  # on purpose
    assert repr(OpenTelemetry(parent=False)) == "OpenTelemetry(parent=False)"


@pytest.mark.parametrize("missing", ["opentelemetry", "elsewhere"])
def test_without_the_library_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(vars(observe), "carry_trace", raising=False)
    monkeypatch.setattr(importlib, "import_module", refuse)
    wanted = r"pip install 'trio_tasks\[otel\]'" if missing == "opentelemetry" else "No module named 'elsewhere'"
    with pytest.raises(ModuleNotFoundError, match=wanted):
        _ = observe.carry_trace
