"""Tests of the fields of a task in log records."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio_tasks import MemoryStorage, Task, Worker
from trio_tasks.observe import LogFields
from trio_tasks.testing import run_once

FIELDS = ("worker", "queue", "task_name", "task_id", "attempt")


class Kept(logging.Handler):
    """A handler that keeps the fields of its records."""

    def __init__(self, fields: LogFields) -> None:
        super().__init__()
        self.kept: dict[str, tuple[Any, ...]] = {}
        self.addFilter(fields)

    def emit(self, record: logging.LogRecord) -> None:
        self.kept[record.getMessage()] = tuple(getattr(record, name) for name in FIELDS)


@pytest.fixture
def log() -> logging.Logger:
    log = logging.Logger("shop")  # noqa: LOG001  of this test alone
    log.addHandler(Kept(LogFields()))
    return log


def kept_of(log: logging.Logger) -> dict[str, tuple[Any, ...]]:
    [handler] = log.handlers
    assert isinstance(handler, Kept)
    return handler.kept


async def test_the_task_is_known_in_the_handler_its_children_and_its_thread(log: logging.Logger) -> None:
    async def child() -> None:
        log.info("in a child")
        await trio.lowlevel.checkpoint()

    async def ship(task: Task[str], nursery: trio.Nursery) -> None:
        log.info("in the handler")
        nursery.start_soon(child)
        await trio.to_thread.run_sync(log.info, "in a thread")

    storage = MemoryStorage[str](queue="orders")
    await storage.push("book", id="7")
    storage.close()
    await Worker("shipping", storage, ship, layers=[LogFields()]).run()
    log.info("after it")
    inside = ("shipping", "orders", None, "7", 1)
    assert kept_of(log) == {
        "in the handler": inside,
        "in a thread": inside,
        "in a child": inside,
        "after it": (None,) * 5,
    }


async def test_the_fields_are_bound_around_each_attempt_in_children_and_threads_too() -> None:
    bound: ContextVar[dict[str, Any] | None] = ContextVar("bound", default=None)
    seen: list[dict[str, Any] | None] = []

    @contextmanager
    def bind(**fields: Any) -> Generator[None, None, None]:
        token = bound.set(fields)
        try:
            yield
        finally:
            bound.reset(token)

    async def child() -> None:
        seen.append(bound.get())
        await trio.lowlevel.checkpoint()

    async def ship(item: str, nursery: trio.Nursery) -> None:
        nursery.start_soon(child)
        seen.append(await trio.to_thread.run_sync(bound.get))
        raise ValueError

    await run_once(ship, "book", layers=[LogFields(bind=bind)])
    assert [[*(each or {})] for each in seen] == [[*FIELDS]] * 2
    assert [each and each["attempt"] for each in seen] == [1, 1]
    assert bound.get() is None
    with pytest.raises(TypeError, match="bind must be"):
        LogFields(bind=5)  # type: ignore[arg-type]  # on purpose


async def test_attempts_side_by_side_are_told_apart(log: logging.Logger) -> None:
    async def ship(item: str) -> None:
        async with trio.open_nursery() as nursery:  # all have begun before the first one goes on
            nursery.start_soon(trio.sleep, 0)
        begun.append(item)
        while len(begun) < 3:
            await trio.lowlevel.checkpoint()
        log.info(item)

    begun: list[str] = []
    storage = MemoryStorage[str]()
    for item in ("a", "b", "c"):
        await storage.push(item, id=item)
    storage.close()
    await Worker("shipping", storage, ship, layers=[LogFields()], concurrency=3).run()
    assert {said: fields[3] for said, fields in kept_of(log).items()} == {"a": "a", "b": "b", "c": "c"}


async def test_a_field_of_the_record_stays(log: logging.Logger) -> None:
    async def ship(item: str) -> None:
        log.info("of its own", extra={"task_id": "another"})
        await trio.lowlevel.checkpoint()

    await run_once(ship, "book", layers=[LogFields()])
    [(worker, _, _, task_id, _)] = kept_of(log).values()
    assert (worker, task_id) == ("test", "another")


async def test_after_an_attempt_that_failed_the_task_is_not_known(log: logging.Logger) -> None:
    async def ship(item: str) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    await run_once(ship, "book", layers=[LogFields()])
    log.info("after it")
    assert kept_of(log) == {"after it": (None,) * 5}


async def test_a_layer_that_is_called_by_hand_knows_of_no_worker(log: logging.Logger) -> None:
    async def ship(task: Task[str]) -> None:
        log.info("by hand")
        await trio.lowlevel.checkpoint()

    await LogFields()(ship, Task.builder("book").id("7").build())
    assert kept_of(log) == {"by hand": (None, None, None, "7", 0)}
