"""A benchmark of what tracing adds to an attempt, beside a worker without it and one with a layer that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from trio_tasks import MemoryStorage, Task, Worker
from trio_tasks.observe import OpenTelemetry, carry_trace

from .measuring import MICRO, CpuTime, in_turns, verdict

TASKS = 5_000
ROUNDS = 7
TARGET = 25.0
"""Microseconds that an attempt may cost more in a trace that is not sampled."""


def show() -> None:
    sampled, unsampled = TracerProvider(), TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    layers: dict[str, Sequence[Any]] = {
        "no layer": [],
        "a layer that does nothing": [_nothing],
        "not sampled": [OpenTelemetry(tracer_provider=unsampled)],
        "sampled, no exporter": [OpenTelemetry(tracer_provider=sampled)],
    }
    print(f"OpenTelemetry: CPU for each of {TASKS:,} attempts in µs, c=10, least of {ROUNDS} rounds in turns")
    turns = {
        title: partial(_measure, each, unsampled if title == "not sampled" else sampled)
        for title, each in layers.items()
    }
    cpu = in_turns(turns, rounds=ROUNDS)
    bare = cpu["no layer"]
    for title, each in cpu.items():
        mark = f"  {verdict(each - bare, TARGET)}" if title == "not sampled" else ""
        print(f"  {title:30}{each:8.2f}{each - bare:+9.2f}{mark}")


async def _nothing(handler: Callable[..., Any], task: Task[Any]) -> Any:
    return await handler(task)


def _measure(layers: Sequence[Any], provider: TracerProvider) -> float:
    return trio.run(_drain, layers, provider)


async def _drain(layers: Sequence[Any], provider: TracerProvider) -> float:
    async def handler(number: int) -> None: ...

    storage = MemoryStorage[int]()
    with trace.use_span(provider.get_tracer("bench").start_span("request")):
        carried = carry_trace(Task.builder(0).build()).parts.metadata
    await storage.push_bulk(range(TASKS), metadata=carried)
    storage.close()
    with CpuTime() as cpu:
        await Worker("bench", storage, handler, concurrency=10, layers=layers).run()
    return cpu.seconds / TASKS * MICRO
