"""Tests of events: plain, frozen values."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from trio_tasks import (
    Custom,
    Engage,
    Error,
    Event,
    Failed,
    HeartBeat,
    Idle,
    MemoryStorage,
    Release,
    RetryPolicy,
    Start,
    Stop,
    Success,
    Task,
    Worker,
    WorkerContext,
)

TASK = Task(1)
ERROR = ValueError("no")
ALL: list[tuple[Event, str]] = [
    (Start(), "Start()"),
    (Engage(TASK), f"Engage(task={TASK!r})"),
    (Idle(), "Idle()"),
    (Success(TASK, 5), f"Success(task={TASK!r}, result=<int>)"),
    (Error(TASK, ERROR, Failed(ERROR)), f"Error(task={TASK!r}, error={ERROR!r}, outcome=Failed(error={ERROR!r}))"),
    (Release(TASK, "why"), f"Release(task={TASK!r}, reason='why', until=None)"),
    (HeartBeat(), "HeartBeat()"),
    (Stop(), "Stop()"),
    (Custom("said"), "Custom(value='said')"),
]
each_event = pytest.mark.parametrize(("event", "shown"), ALL, ids=[type(each).__name__ for each, _ in ALL])


@each_event
def test_an_event_is_shown_as_it_is_made(event: Event, shown: str) -> None:
    assert repr(event) == shown


@each_event
def test_an_event_is_a_value_and_frozen(event: Event, shown: str) -> None:
    assert dataclasses.is_dataclass(event)
    again = type(event)(**{each.name: getattr(event, each.name) for each in dataclasses.fields(event)})
    assert again == event
    assert hash(again) == hash(event)
    for field in dataclasses.fields(event):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, None)
    assert not hasattr(event, "__dict__")


async def test_the_events_of_a_life() -> None:
    storage = MemoryStorage[int]()
    good = await storage.push(0)
    bad = await storage.push(1)
    storage.close()
    heard: list[tuple[WorkerContext, Event]] = []

    async def handler(n: int, context: WorkerContext) -> str:
        context.emit(Custom(n))
        if n:
            raise error
        return "done"

    error = ValueError("no")
    worker = Worker(
        "w",
        storage,
        handler,
        concurrency=1,
        retry=RetryPolicy(attempts=1),
        on_event=lambda context, event: heard.append((context, event)),
    )
    context = worker.prepare()
    await worker.run(context)
    assert {each for each, _ in heard} == {context}
    shown: list[Any] = [
        (type(event).__name__, event.task.parts.id if isinstance(event, (Engage, Success, Error)) else None)
        for _, event in heard
    ]
    assert shown == [
        ("Start", None),
        ("Engage", good),
        ("Custom", None),
        ("Success", good),
        ("Engage", bad),
        ("Custom", None),
        ("Error", bad),
        ("Stop", None),
    ]
    success, failure = heard[3][1], heard[6][1]
    assert isinstance(success, Success)
    assert isinstance(failure, Error)
    assert success.result == "done"
    assert failure.error is error
    assert failure.outcome == Failed(error)
