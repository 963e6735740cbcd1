"""Tests of wrappers around backends: they have every capability of the wrapped backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_tasks
from trio_tasks import (
    FileStorage,
    MemoryStorage,
    Outcome,
    Pipe,
    SqliteStorage,
    Task,
    TaskId,
    TaskSink,
    Worker,
    abc as contracts,
)
from trio_tasks._backends.mirroring import CAPABILITIES, capabilities_of, verbs_of
from trio_tasks.abc import Backend, NowaitBackend, ReceiveNowaitBackend
from trio_tasks.testing import Faults, FaultyBackend
from trio_tasks.testing._conformance.check import RULES

ON_THE_WRAPPER = {"push_task", "receive", "receive_nowait", "settle", "settle_nowait", "beat", "aclose", "feed"}
"""What carries tasks itself is not a plain call of the backend inside; it has tests of its own."""


class Plain(TaskSink[Any], Backend[Any]):
    """A storage without further capabilities. It records the calls of all others."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    async def push_task(self, task: Task[Any]) -> TaskId:
        raise NotImplementedError

    async def receive(self) -> Task[Any]:
        raise NotImplementedError

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def with_capability(interface: type) -> Plain:
    """A storage that has this capability too, each verb of which records the call and returns its name."""

    def method(verb: str) -> Any:
        async def run(self: Plain, *args: Any, **kwargs: Any) -> str:
            await trio.lowlevel.checkpoint()
            self.calls.append((verb, args, kwargs))
            return verb

        def run_now(self: Plain, *args: Any, **kwargs: Any) -> str:
            self.calls.append((verb, args, kwargs))
            return verb

        return run if is_async(interface, verb) else run_now

    if interface in (Plain, TaskSink):
        return Plain()
    abstract: frozenset[str] = getattr(interface, "__abstractmethods__", frozenset())
    body = {verb: method(verb) for verb in (verbs_of(interface) | abstract) if not hasattr(Plain, verb)}
    made: Plain = type("Able", (Plain, interface), body)()
    return made


def is_async(interface: type, verb: str) -> bool:
    return inspect.iscoroutinefunction(getattr(interface, verb))


def wrapped(backend: Any, *, kind: str) -> Any:
    if kind == "pipe":
        return Pipe(trio.open_memory_channel[Any](0)[1], backend)
    return FaultyBackend(backend, Faults())


def test_the_list_has_every_contract_of_a_backend() -> None:
    public = {
        each
        for each in vars(contracts).values()
        if issubclass(type(each), type) and inspect.isabstract(each) and each not in (Backend, contracts.PollStrategy)
        if not getattr(each, "_is_protocol", False)  # those are of layers
    }
    assert set(CAPABILITIES) == public
    assert all(verbs_of(each) for each in CAPABILITIES)


@pytest.mark.parametrize("kind", ["pipe", "faulty"])
@pytest.mark.parametrize("interface", CAPABILITIES, ids=lambda each: each.__name__)
async def test_every_capability_is_mirrored_alone(kind: str, interface: type) -> None:
    inside = with_capability(interface)
    outside = wrapped(inside, kind=kind)
    expected = set(capabilities_of(inside))
    if kind == "pipe":
        expected = expected - {TaskSink, contracts.CallTask} | {contracts.Feeder}
    assert set(capabilities_of(outside)) == expected
    missing = verbs_of(contracts.CallTask) if kind == "pipe" else frozenset[str]()
    for verb in verbs_of(interface) - ON_THE_WRAPPER - verbs_of(TaskSink) - missing:
        number = len(inspect.signature(getattr(interface, verb)).parameters) - 1
        got = getattr(outside, verb)(*range(number), more=1)
        assert (await got if is_async(interface, verb) else got) == verb
        assert inside.calls.pop() == (verb, (*range(number),), {"more": 1})
        assert getattr(type(outside), verb).__doc__


@pytest.mark.parametrize("kind", ["pipe", "faulty"])
@pytest.mark.parametrize("storage", ["memory", "sqlite", "file"])
async def test_our_storages_lose_nothing_behind_a_wrapper(storage: str, kind: str, tmp_path: Path) -> None:
    storages: dict[str, Callable[[], Any]] = {
        "memory": MemoryStorage[int],
        "sqlite": lambda: SqliteStorage(tmp_path / "tasks.db", int),
        "file": lambda: FileStorage(tmp_path / "tasks.journal", int),
    }
    inside = storages[storage]()
    outside = wrapped(inside, kind=kind)
    lost = set(capabilities_of(inside)) - set(capabilities_of(outside))
    assert lost == ({TaskSink, contracts.CallTask} if kind == "pipe" else set())
    attributes = [name for name in inspect.get_annotations(Backend) if not name.startswith("_")]
    assert len(attributes) >= 2
    assert [getattr(outside, name) for name in attributes] == [getattr(inside, name) for name in attributes]


async def test_a_verb_is_passed_on_only_where_the_backend_has_its_own() -> None:
    plain: FaultyBackend[Any] = FaultyBackend(Plain(), Faults())
    own: FaultyBackend[Any] = FaultyBackend(MemoryStorage[int](), Faults())
    assert "push_bulk" not in vars(type(plain))
    assert {"push_bulk", "fetch_by_id"} <= vars(type(own)).keys()
    assert "push_stream" not in vars(type(own))


async def test_a_worker_takes_the_fast_path_through_a_pipe(tmp_path: Path) -> None:
    """What was claimed in advance is received without waiting, and settled without a scope around it."""

    class Counting(Pipe[int]):
        waits = 0

        async def receive(self) -> Task[int]:
            type(self).waits += 1
            return await super().receive()

    done: list[int] = []

    async def handle(number: int) -> None:
        done.append(number)

    async with SqliteStorage(tmp_path / "tasks.db", int) as storage:
        await storage.push_bulk(range(100))
        send, source = trio.open_memory_channel[int](0)
        send.close()
        pipe = Counting(source, storage)
        assert isinstance(pipe, ReceiveNowaitBackend)
        assert not isinstance(pipe, NowaitBackend)
        await Worker("w", pipe, handle, concurrency=4).run()
    assert sorted(done) == [*range(100)]
    assert Counting.waits < 50


def test_every_capability_is_asked_for_by_the_conformance_kit() -> None:
    needed = {need for rule in RULES.values() for need in rule.needs}
    assert set(CAPABILITIES) - needed <= {TaskSink, contracts.Feeder}  # all rules push; and a feeder has no verb


def test_every_capability_is_public() -> None:
    for each in CAPABILITIES:
        assert getattr(contracts, each.__name__) is each
    verbs = {contracts.ReceiveNowaitBackend, contracts.NowaitBackend, contracts.Feeder}
    assert all(hasattr(trio_tasks, each.__name__) for each in set(CAPABILITIES) - verbs)
