"""Tests of WorkerBuilder: it gives the same worker as the keywords of Worker."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio_tasks import (
    Data,
    Event,
    MemoryStorage,
    RetryPolicy,
    Task,
    Worker,
    WorkerBuilder,
    WorkerContext,
)


class Mailer:
    """A value that a handler asks for as data."""


async def no_op(n: int) -> None:
    pass


async def test_everything_that_a_worker_takes_can_be_said() -> None:
    storage, mailer, policy = MemoryStorage[int](), Mailer(), RetryPolicy(attempts=1)
    log: list[str] = []

    async def send(n: int, mailer: Data[Mailer], text: Data[str]) -> None:
        log.append(f"{n} {text}")
        mailers.append(mailer)

    async def outer(handler: Any, task: Task[Any]) -> Any:
        log.append("outer")
        return await handler(task)

    async def inner(handler: Any, task: Task[Any]) -> Any:
        log.append("inner")
        return await handler(task)

    def first(context: WorkerContext, event: Event) -> None:
        heard.append(f"first {type(event).__name__}")

    def second(context: WorkerContext, event: Event) -> None:
        heard.append(f"second {type(event).__name__}")

    mailers: list[Mailer] = []
    heard: list[str] = []
    worker = (
        WorkerBuilder("emails")
        .backend(storage)
        .data(mailer)
        .data("text")
        .layer(outer)
        .layer(inner)
        .concurrency(3)
        .retry(policy)
        .settle_timeout(7)
        .version("1.4")
        .on_event(first)
        .on_event(second)
        .build(send)
    )
    assert isinstance(worker, Worker)
    assert (worker.name, worker.backend, worker.concurrency) == ("emails", storage, 3)
    assert (worker.retry, worker.settle_timeout, worker.version) == (policy, 7.0, "1.4")
    await storage.push(5)
    storage.close()
    assert (await worker.run()).succeeded == 1
    assert log == ["outer", "inner", "5 text"]
    assert mailers == [mailer]
    assert heard[:2] == ["first Start", "second Start"]


async def test_several_can_be_given_at_once() -> None:
    storage = MemoryStorage[int]()
    storage.close()
    heard: list[int] = []
    worker = (
        WorkerBuilder("w")
        .backend(storage)
        .on_event(lambda _, __: heard.append(1), lambda _, __: heard.append(2))
        .build(no_op)
    )
    await worker.run()
    assert heard[:2] == [1, 2]


async def test_any_channel_is_a_backend() -> None:
    send, receive = trio.open_memory_channel[int](3)
    with send:
        send.send_nowait(1)
    assert (await WorkerBuilder("w").backend(receive).build(no_op).run()).succeeded == 1


def test_a_builder_may_build_again_and_earlier_workers_stay_as_they_are() -> None:
    builder = WorkerBuilder("w").backend(MemoryStorage[int]()).concurrency(1)
    one = builder.build(no_op)
    other = builder.concurrency(2).on_event(lambda _, __: None).build(no_op)
    assert one is not other
    assert (one.concurrency, other.concurrency) == (1, 2)
    assert (len(one.listeners), len(other.listeners)) == (0, 1)


def test_a_backend_must_be_given() -> None:
    with pytest.raises(TypeError, match=r"'emails' has no backend: call \.backend\(storage\)"):
        WorkerBuilder("emails").build(no_op)


@pytest.mark.parametrize("name", [5, None, ""], ids=repr)
def test_a_wrong_name_is_refused(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="a worker's name must"):
        WorkerBuilder(name)


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("backend", 5, "from a backend"),
        ("concurrency", 0, "concurrency must be 1 or more"),
        ("layer", 5, "each of layers must be callable"),
        ("retry", 5, "retry must be a RetryPolicy"),
        ("on_event", 5, "on_event must be callable"),
        ("settle_timeout", -1, "settle_timeout must be more than 0"),
    ],
)
def test_a_wrong_value_is_refused_when_the_worker_is_built(method: str, value: Any, message: str) -> None:
    builder = WorkerBuilder("w").backend(MemoryStorage[int]())
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(builder, method)(value).build(no_op)


def test_its_repr_is_for_people() -> None:
    assert repr(WorkerBuilder("w")) == "<WorkerBuilder 'w' on None>"
