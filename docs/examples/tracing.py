"""One trace from a request over a push to each attempt, and to what the attempts do."""

from __future__ import annotations

import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from trio_tasks import MemoryStorage, RetryPolicy, Task, Worker, constant
from trio_tasks.observe import OpenTelemetry, carry_trace

spans = InMemorySpanExporter()  # in production: a BatchSpanProcessor with the exporter of your collector
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")


async def call_the_carrier() -> None:
    with tracer.start_as_current_span("call the carrier"):
        await trio.sleep(0.01)


async def ship(task: Task[str], nursery: trio.Nursery) -> None:
    nursery.start_soon(call_the_carrier)
    if task.parts.attempt == 1:
        await trio.sleep(0.05)
        raise ConnectionError("the label printer is away")


def print_tree(parent: int | None = None, depth: int = 0) -> None:
    for span in spans.get_finished_spans():
        if (span.parent.span_id if span.parent else None) == parent and span.context:
            print("    " * depth + described(span))
            print_tree(span.context.span_id, depth + 1)


def described(span: ReadableSpan) -> str:
    attempt = (span.attributes or {}).get("trio_tasks.attempt")
    number = f", attempt {attempt}" if attempt else ""
    return f"{span.name}{number}{'' if span.status.is_ok else ': error'}"


async def main() -> None:
    storage = MemoryStorage[str](queue="orders", on_push=carry_trace)
    worker = Worker(
        "shipping", storage, ship, layers=[OpenTelemetry()], retry=RetryPolicy(backoff=constant(0.01)), log=None
    )
    with tracer.start_as_current_span("POST /orders"):
        await storage.push("a book")
    storage.close()
    await worker.run()
    print_tree()


if __name__ == "__main__":
    trio.run(main)
