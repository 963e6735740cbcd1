"""Tests of the layer Trace, with the user's spans or with debug messages."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import MemoryStorage, Task, Worker
from trio_tasks.layers import Timeout, Trace

current: ContextVar[str] = ContextVar("current", default="no span")


class Tracer:
    """A tracer that makes spans and notes how they ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    @contextmanager
    def span(self, task: Task[Any]) -> Generator[None, None, None]:
        token = current.set(f"span of {task.args}")
        ended = "cancelled"
        try:
            yield
            ended = "ok"
        except Exception as error:
            ended = repr(error)
            raise
        finally:
            current.reset(token)
            self.ended.append(ended)


async def look(task: Task[str]) -> str:
    await trio.lowlevel.checkpoint()
    return current.get()


async def test_the_handler_and_its_thread_see_the_span() -> None:
    tracer = Tracer()
    layer = Trace(tracer.span)
    assert await layer(look, Task("a")) == "span of a"

    async def look_in_thread(task: Task[str]) -> str:
        return await trio.to_thread.run_sync(current.get)

    assert await layer(look_in_thread, Task("b")) == "span of b"
    assert current.get() == "no span"
    assert tracer.ended == ["ok", "ok"]


async def test_the_span_sees_errors_and_cancellations(autojump_clock: trio.testing.MockClock) -> None:
    tracer = Tracer()
    layer = Trace(tracer.span)
    error = KeyError("x")

    async def fail(task: Task[str]) -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await layer(fail, Task("a"))
    assert caught.value is error

    async def sleep(task: Task[str]) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await layer(sleep, Task("b"))
    assert scope.cancelled_caught
    assert tracer.ended == [repr(error), "cancelled"]
    assert current.get() == "no span"


async def test_a_span_cannot_swallow_anything(autojump_clock: trio.testing.MockClock) -> None:
    def greedy(task: Task[str]) -> AbstractContextManager[None]:
        return suppress(BaseException)

    async def fail(task: Task[str]) -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Trace(greedy)(fail, Task("a"))

    async def sleep(task: Task[str]) -> str:
        await trio.sleep_forever()
        return "never"

    with trio.move_on_after(1) as scope:
        await Trace(greedy)(sleep, Task("a"))
    assert scope.cancelled_caught


async def test_a_span_that_cannot_be_opened_is_the_attempts_error() -> None:
    def broken(task: Task[str]) -> AbstractContextManager[None]:
        raise ConnectionError("no collector")

    with pytest.raises(ConnectionError):
        await Trace(broken)(look, Task("a"))


def fields(record: logging.LogRecord) -> dict[str, Any]:
    names = ("task_id", "attempt", "seconds", "ended", "error")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


async def test_without_a_tracer_the_log_is_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG, "trio_tasks.trace")
    storage = MemoryStorage[str]()

    async def handler(what: str) -> str:
        await trio.sleep(2)
        if what == "fail":
            raise KeyError(what)
        await trio.sleep(0 if what == "succeed" else 100)
        return what

    ids = [await storage.push(what, attempts=1) for what in ("succeed", "fail", "sleep")]
    storage.close()
    layers: list[Any] = [Timeout(5), Trace()]
    await Worker("w", storage, handler, concurrency=1, layers=layers, log=None).run()
    assert {record.name for record in caplog.records} == {"trio_tasks.trace"}
    assert [fields(record) for record in caplog.records] == [
        {"task_id": ids[0], "attempt": 1},
        {"task_id": ids[0], "attempt": 1, "seconds": 2, "ended": "succeeded"},
        {"task_id": ids[1], "attempt": 1},
        {"task_id": ids[1], "attempt": 1, "seconds": 2, "ended": "failed", "error": "KeyError('fail')"},
        {"task_id": ids[2], "attempt": 1},
        {"task_id": ids[2], "attempt": 1, "seconds": 5, "ended": "was cancelled"},
    ]
    assert caplog.messages[:2] == [
        f"attempt 1 of task {ids[0]} begins",
        f"attempt 1 of task {ids[0]} succeeded after 2.000000 s",
    ]


async def test_a_cancellation_that_its_cleanup_hides_is_one(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def clean_up_badly(task: Task[int]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("could not say goodbye")

    caplog.set_level(logging.DEBUG, "trio_tasks.trace")
    with pytest.raises(ConnectionError), trio.move_on_after(2):
        await Trace()(clean_up_badly, Task(1))
    assert fields(caplog.records[1])["ended"] == "was cancelled"


async def test_a_log_that_does_not_want_it_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_tasks.trace")
    assert await Trace()(look, Task("a")) == "no span"
    assert not caplog.records


def test_a_span_that_would_have_to_be_awaited_is_refused() -> None:
    async def span(task: Task[str]) -> AbstractContextManager[None]:
        return nullcontext()

    wrong: Any = span
    with pytest.raises(TypeError, match="span must be a plain function"):
        Trace(wrong)
    wrong = "a name"
    with pytest.raises(TypeError, match="span must be callable, as span"):
        Trace(wrong)


def test_it_shows_itself() -> None:
    assert repr(Trace()) == "<Trace to the log>"
    assert repr(Trace(nullcontext)) == "<Trace by <class 'contextlib.nullcontext'>>"
