"""Tests of the conformance kit: sound backends pass, and each rule finds its fault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import CallTask, CustomBackend, MemoryStorage, Pipe, Task, TaskId, TaskSink
from trio_tasks.testing import BackendConformance, check_backend, use_wall_clock
from trio_tasks.testing._conformance.check import RULES
from trio_tasks.testing._conformance.rule import Feature, RuleBroken

from tests.testing._broken_storages import BROKEN, SOMETIMES_SEEN_BY
from tests.testing._leased_storage import LeasedStorage, Store

pytestmark = pytest.mark.once

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

ROOT = Path(__file__).parents[2]


ON_AN_ENGINE = {rule.name for rule in RULES.values() if Feature.ENGINE in rule.needs}
"""The rules that only storages of ours are tried by."""


async def broken_rules(open_backend: Callable[[], Any], **options: Any) -> dict[str, RuleBroken]:
    """The rules that do not hold, by name. The wall clock is trio's here, so that a slow machine hides nothing."""
    errors: tuple[Exception, ...] = ()
    try:
        with use_wall_clock(lambda: 2e9 + trio.current_time()):
            await check_backend(open_backend, **options)
    except ExceptionGroup as group:
        errors = group.exceptions
    broken = {each.rule.name: each for each in errors if isinstance(each, RuleBroken) and each.rule}
    assert len(broken) == len(errors)
    return broken


# What is sound


async def test_memory_passes_all_that_it_claims(autojump_clock: MockClock) -> None:
    report = await check_backend(MemoryStorage)
    assert report.backend == "MemoryStorage"
    assert len(report.passed) >= 75
    assert {*report.passed, *report.skipped} == set(RULES)
    assert report.skipped["settling_is_fenced"] == "has no lease, in seconds, as its `lease`"
    assert report.skipped["a_restart_loses_nothing"] == "has a store that does not outlive a handle"
    others = [reason for reason in report.skipped.values() if "claim" in reason or "share" in reason]
    assert others == ["does not claim TransferTasks"], "since nothing is encoded in memory"
    assert "MemoryStorage passes" in str(report)


async def test_a_storage_with_leases_passes_everything(autojump_clock: MockClock) -> None:
    store = Store()
    report = await check_backend(lambda: LeasedStorage(store))
    assert set(report.skipped) == {
        "settling_without_waiting_is_settling",
        "an_exported_task_can_be_imported",
        *ON_AN_ENGINE,
    }


class Piped(Pipe[Any], TaskSink[Any]):
    """A pipe with a silent source, which passes pushes on."""

    def __init__(self) -> None:
        self.storage = MemoryStorage[Any]()
        self.push_task = self.storage.push_task  # type: ignore[method-assign]  # it is the storage's
        self.push_bulk = self.storage.push_bulk  # type: ignore[method-assign]  # it is the storage's
        self.send, source = trio.open_memory_channel[Any](0)
        super().__init__(source, self.storage, close=False)

    def __new__(cls) -> Any:
        return super().__new__(cls, None, MemoryStorage[Any]())

    async def push_task(self, task: Task[Any]) -> TaskId:
        raise NotImplementedError

    def close(self) -> None:
        self.storage.close()


async def test_a_pipe_is_as_good_as_its_storage(autojump_clock: MockClock) -> None:
    through, bare = await check_backend(Piped), await check_backend(MemoryStorage)
    calls = {rule.name for rule in RULES.values() if CallTask in rule.needs}
    lacks = dict.fromkeys({"queues_are_apart", *calls}, "")  # it carries into one queue, and makes no calls
    assert set(bare.passed) - set(through.passed) == {*lacks}
    assert {**through.skipped, **lacks} == {**bare.skipped, **lacks}


async def test_functions_pass_what_they_can_do(autojump_clock: MockClock) -> None:
    def open_backend() -> CustomBackend[Any]:
        storage = MemoryStorage[Any]()

        async def receive() -> Task[Any]:
            task = await storage.receive()
            given[task.parts.id] = task
            return Task(task.args, task.parts.again(task.parts.attempt - 1))

        async def settle(task: Task[Any], outcome: Any) -> None:
            await storage.settle(given[task.parts.id], outcome)

        given: dict[str, Task[Any]] = {}
        return CustomBackend(receive=receive, push=storage.push_task, settle=settle, close=storage.close)

    # The storage behind the functions does not see that a worker has an attempt under way, from which its task may come
    # back: so it may end too early.
    report = await check_backend(open_backend, skip=["a_worker_ends_when_all_is_done"])
    assert len(report.passed) >= 40


# What is not


@pytest.mark.parametrize("rule", RULES)
async def test_a_fault_is_found_by_its_rule_and_no_other(autojump_clock: MockClock, rule: str) -> None:
    kind, seen_by = BROKEN[rule]
    store = Store()
    broken = await broken_rules(lambda: kind(store))
    assert set(broken) - SOMETIMES_SEEN_BY[rule] == seen_by
    text = str(broken[rule])
    assert text.startswith(f"promise {RULES[rule].promise}, {rule}: {RULES[rule].sentence} Checked: ")
    assert " Expected: " in text


def test_there_is_a_fault_for_each_rule() -> None:
    assert set(BROKEN) == set(RULES)
    assert all(rule.sentence.endswith(".") and 1 <= rule.promise <= 15 for rule in RULES.values())


class Hanging(LeasedStorage):
    async def push_task(self, task: Task[Any]) -> TaskId:
        if task.parts.priority:
            await trio.sleep_forever()
        return await super().push_task(task)


async def test_what_hangs_is_a_failure_with_its_place(autojump_clock: MockClock) -> None:
    store, begun = Store(), trio.current_time()
    broken = await broken_rules(lambda: Hanging(store), only=["higher_priority_goes_first"], time_limit=20)
    assert 20 <= trio.current_time() - begun < 22
    text = str(broken["higher_priority_goes_first"])
    assert "no end after 20 s, stuck" in text
    assert "in higher_priority_goes_first" in text
    assert "test_conformance.py" in text
    assert "in push_task" in text


class NeverEmptied(LeasedStorage):
    async def cancel(self, task_id: str, *, running: bool = False) -> bool:
        await trio.lowlevel.checkpoint()
        return False


async def test_a_store_that_cannot_be_emptied_is_a_failure(autojump_clock: MockClock) -> None:
    store = Store()
    await LeasedStorage(store).push(1, delay=10**6)
    with pytest.RaisesGroup(pytest.RaisesExc(RuleBroken, match="emptying the store before")):
        await check_backend(lambda: NeverEmptied(store))


async def test_what_is_left_in_the_store_is_done_away_with(autojump_clock: MockClock) -> None:
    store = Store()
    left = LeasedStorage(store)
    await left.push_bulk(range(150))
    await left.push(1, delay=10**6)
    await left.receive()
    assert await broken_rules(lambda: LeasedStorage(store), only=["first_come_first_served"]) == {}


# How it is opened


class Exclusive(LeasedStorage):
    """A storage that can be opened only once at a time, and only inside its block."""

    holders: ClassVar[set[int]] = set()

    async def __aenter__(self) -> Exclusive:
        await trio.lowlevel.checkpoint()
        if id(self.store) in self.holders:
            raise RuntimeError("another one has it open")
        self.holders.add(id(self.store))
        return self

    async def aclose(self) -> None:
        self.holders.discard(id(self.store))
        await super().aclose()


async def test_a_store_that_is_opened_once_at_a_time_is_closed_first(autojump_clock: MockClock) -> None:
    store = Store()
    report = await check_backend(lambda: Exclusive(store))
    assert "a_restart_loses_nothing" in report.passed
    assert set(report.skipped) == {
        "settling_without_waiting_is_settling",
        "an_exported_task_can_be_imported",
        *ON_AN_ENGINE,
    }


def in_a_block(storage: Any) -> Any:
    @contextmanager
    def block() -> Generator[Any, None, None]:
        yield storage

    return block()


def in_an_async_block(storage: Any) -> Any:
    @asynccontextmanager
    async def block() -> AsyncGenerator[Any, None]:
        yield storage
        await storage.aclose()

    return block()


async def awaited(storage: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return storage


@pytest.mark.parametrize("opened", [in_a_block, in_an_async_block, awaited], ids=lambda way: way.__name__)
async def test_there_are_several_ways_to_open(autojump_clock: MockClock, opened: Callable[[Any], Any]) -> None:
    report = await check_backend(lambda: opened(MemoryStorage[int]()), only=["first_come_first_served"])
    assert report.passed == ("first_come_first_served",)
    assert report.skipped["metadata_is_kept"] == "left out on request"


async def test_args_are_made_as_told(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    class Noting(LeasedStorage):
        def encode(self, args: Any) -> str:
            seen.append(args)
            return super().encode(args)

    store = Store()
    await check_backend(
        lambda: Noting(store), args=lambda n: {"to": f"{n}@example.com"}, skip=["what_is_no_task_is_refused"]
    )
    assert all(type(args) in (dict, object) for args in seen)


async def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no rule is called 'no_such_rule'; the rules are a_task"):
        await check_backend(MemoryStorage, only=["no_such_rule"])
    with pytest.raises(ValueError, match="no_such_rule"):
        await check_backend(MemoryStorage, skip=["no_such_rule"])
    with pytest.raises(TypeError, match="only must be a list of names of rules"):
        await check_backend(MemoryStorage, only="first_come_first_served")
    with pytest.raises(TypeError, match="open_backend must be callable"):
        await check_backend(MemoryStorage())  # type: ignore[arg-type]  # which is what is wrong
    with pytest.raises(ValueError, match="time_limit"):
        await check_backend(MemoryStorage, time_limit=0)
    with pytest.RaisesGroup(pytest.RaisesExc(RuleBroken, match="a TaskSink too")):
        await check_backend(lambda: trio.open_memory_channel[int](1)[1])


async def test_a_check_can_be_cancelled(autojump_clock: MockClock) -> None:
    store, closed = Store(), []

    class Noting(Hanging):
        async def aclose(self) -> None:
            closed.append(self)
            await super().aclose()

    with trio.move_on_after(5) as scope:
        await check_backend(lambda: Noting(store), only=["higher_priority_goes_first"])
    assert scope.cancelled_caught
    assert len(closed) == 3  # two were opened to find out what the store is like


# For pytest


class TestMemory(BackendConformance):
    def clock(self) -> trio.abc.Clock:
        return MockClock(autojump_threshold=0)

    @pytest.fixture
    def open_backend(self) -> Callable[[], Any]:
        return MemoryStorage


def test_the_class_has_a_test_for_each_rule() -> None:
    assert {f"test_{name}" for name in RULES} == {name for name in dir(BackendConformance) if name.startswith("test_")}
    tests: Any = TestMemory()
    assert tests.test_first_come_first_served(MemoryStorage) is None
    assert tests.test_first_come_first_served.__doc__ == RULES["first_come_first_served"].sentence
    with pytest.raises(SkipTest, match="has no lease, in seconds"):
        tests.test_settling_is_fenced(MemoryStorage)
    store = Store()
    with pytest.raises(RuleBroken, match="promise 8, settling_is_fenced"):
        tests.test_settling_is_fenced(lambda: BROKEN["settling_is_fenced"][0](store))


def test_pytest_is_not_needed() -> None:
    script = "import sys; sys.modules['pytest'] = sys.modules['_pytest'] = None; import trio_tasks.testing"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT).returncode == 0
