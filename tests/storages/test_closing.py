"""Tests of closing and opening a storage when a step inside its engine raises: the other steps are made.

What is the same with every engine, when one of its methods raises, is in the conformance kit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import BackendError, FileStorage, SqliteStorage, Succeeded
from trio_tasks._backends.durable.io_thread import WriterThread
from trio_tasks._backends.durable.queue import QueueState
from trio_tasks._backends.file import journal as _journal, lock as _file_lock
from trio_tasks._backends.sqlite import driver as _sqlite_driver, session as _sqlite_session, wakeup as _wakeup_sockets
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.testing import check_backend
from trio_tasks.testing._conformance.check import RULES
from trio_tasks.testing._conformance.rule import Feature

from tests._base_errors import PlainBaseError
from tests.storages._engine import Storage

ERRORS = [BackendError("refused"), OSError(5, "disk I/O error"), SystemExit(3), PlainBaseError(), GeneratorExit()]

STEPS: dict[str, list[tuple[type, str]]] = {
    "sqlite": [
        (_sqlite_driver.StandardConnection, "close"),
        (_sqlite_session.Session, "_unregister"),
        (_wakeup_sockets.WakeupSocket, "close"),
        (WriterThread, "end"),
    ],
    "file": [
        (_journal.JournalFile, "close"),
        (_journal.JournalFile, "sync"),
        (_file_lock.FileLock, "release"),
        (WriterThread, "end"),
    ],
}
"""What closing an engine is made of."""
CASES = [(kind, *step) for kind, steps in STEPS.items() for step in steps]


def make(kind: str, path: Path) -> Any:
    return SqliteStorage(path / "tasks.db", int) if kind == "sqlite" else FileStorage(path / "tasks.journal", int)


def threads_of_ours() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "journal" or each.name.startswith("sqlite ")}


async def all_threads_end(before: set[threading.Thread]) -> None:
    with trio.fail_after(60):
        while threads_of_ours() - before:  # noqa: ASYNC110  a thread tells nobody that it has ended
            await trio.sleep(0.001)


def see_that(error: BaseException, caught: BaseException) -> None:
    """That is what came out, or what an engine makes of it."""
    if not all(type(each) in (type(error), BackendError) for each in leaves(caught)):
        raise AssertionError(f"{caught!r} came out") from caught


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize(("kind", "owner", "method"), CASES)
def test_each_step_of_closing_is_made_whatever_another_raises(
    kind: str, owner: type, method: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trio task, no thread and no lock is left. The error comes out of the block, and can be caught."""
    real: Callable[..., Any] = getattr(owner, method)
    raised: list[BaseException] = []

    def fail(self: Any, *args: Any, **options: Any) -> Any:
        real(self, *args, **options)
        raised.append(error)
        raise error

    async def main() -> None:
        before = threads_of_ours()
        try:
            async with make(kind, tmp_path) as storage:
                await storage.push(1)
                monkeypatch.setattr(owner, method, fail)
        except BaseException as caught:  # noqa: ASYNC103  a program may catch it, and go on
            see_that(error, caught)
        monkeypatch.setattr(owner, method, real)
        assert raised
        await all_threads_end(before)
        async with make(kind, tmp_path) as storage:
            assert [task.args for task in await storage.list_tasks()] == [1]

    trio.run(main)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize(
    ("kind", "owner", "method"),
    [
        ("sqlite", _wakeup_sockets.WakeupSocket, "open"),
        ("sqlite", _sqlite_session.Session, "open"),
        ("sqlite", _sqlite_session.Session, "_register"),
        ("file", _file_lock.FileLock, "__init__"),
    ],
)
def test_an_opening_that_raises_leaves_nothing_behind(
    kind: str, owner: type, method: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = getattr(owner, method)

    def fail(self: Any, *args: Any) -> None:
        real(self, *args)
        raise error

    async def main() -> None:
        before = threads_of_ours()
        monkeypatch.setattr(owner, method, fail)
        try:
            async with make(kind, tmp_path):
                raise AssertionError("it has opened")
        except BaseException as caught:  # noqa: ASYNC103  a program may catch it, and go on
            see_that(error, caught)
        monkeypatch.setattr(owner, method, real)
        await all_threads_end(before)
        if method != "__init__":  # which had the lock by then, in an object that nobody has
            async with make(kind, tmp_path) as storage:
                await storage.push(1)

    trio.run(main)


# An engine that raises


async def test_the_body_of_a_storage_bears_an_engine_that_raises(autojump_clock: MockClock) -> None:
    """The conformance kit makes each method of the engine raise, and closing as well."""
    rules = [rule.name for rule in RULES.values() if Feature.ENGINE in rule.needs]
    report = await check_backend(Storage, only=rules)
    assert len(report.passed) == len(rules) == 3


@pytest.mark.parametrize("error", [*ERRORS, KeyboardInterrupt()], ids=repr)
async def test_any_end_of_the_exchange_loop_is_raised_to_all_waiters(
    error: BaseException, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settlement cannot be cancelled, so it must not wait for ever."""
    told = list[str]()

    async def tell(name: str, async_fn: Callable[..., Any], *args: Any) -> None:
        with trio.CancelScope(shield=True), trio.fail_after(60):
            try:
                await async_fn(*args)
            except BackendError:
                told.append(name)

    def fail(*_: object) -> None:
        raise error

    try:
        async with Storage[int]() as storage:
            await storage.push_bulk([1, 2])
            task = await storage.receive()
            storage.engine.latency = 1.0
            monkeypatch.setattr(QueueState, "deliver", fail)  # as broken as it can be
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell, "receive", storage.receive)
                await trio.sleep(0.5)
                nursery.start_soon(tell, "settle", storage.settle, task, Succeeded(None))
                nursery.start_soon(tell, "push", storage.push, 3)
                await trio.sleep(5)
    except BaseException as caught:  # noqa: ASYNC103  it is looked at
        see_that(error, caught)
    assert sorted(told) == ["push", "receive", "settle"]
