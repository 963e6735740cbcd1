"""Tests of promise 13: failed attempts, and whatever stalls a worker, are logged without any configuration."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    FileStorage,
    MemoryStorage,
    Release,
    Released,
    RetryAfterError,
    RetryPolicy,
    Router,
    SqliteStorage,
    SuspendError,
    Worker,
    WorkerBuilder,
    WorkerContext,
    constant,
)
from trio_tasks.layers import Log, MapError, Retry, Trace

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

ROOT = Path(__file__).parents[2]
LOST = [Released("its lease was lost"), Released("its lease was lost: the backend gave the task out again")]
SECRET = "correct horse battery staple"
THRICE = RetryPolicy(3, constant(0.01))


@asynccontextmanager
async def opened() -> AsyncGenerator[MemoryStorage[Any], None]:
    yield MemoryStorage[Any]()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Any]]] = {
    "memory": lambda path: opened(),
    "sqlite": lambda path: SqliteStorage(path / "tasks.db", queue="mail"),
    "file": lambda path: FileStorage(path / "tasks.journal", queue="mail"),
}


async def send(what: str) -> str:
    if what == "abort":
        raise AbortError("no such address")
    if what == "later":
        raise RetryAfterError("mailbox busy", 0.02)
    if what == "exit":
        raise SystemExit("the end")
    if what == "group":
        raise ExceptionGroup("several", [KeyError("a"), ValueError("b")])
    if what != "fine":
        raise ConnectionError("refused")
    return SECRET


def of_library(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "trio_tasks"]


@pytest.mark.parametrize("store", STORES)
async def test_promise_13_nothing_fails_silently_each_failed_attempt_is_one_record(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_tasks")
    async with STORES[store](tmp_path) as storage:
        task_id = await storage.push("fail")
        storage.close()
        await Worker("w-1", storage, send, retry=THRICE).run()
    records: list[Any] = of_library(caplog)
    assert [record.levelname for record in records] == ["WARNING", "WARNING", "ERROR"]
    name = f"{__name__}.send"
    queue = "default" if store == "memory" else "mail"
    for n, record in enumerate(records, 1):
        told = f"{name}, task {task_id}, attempt {n} of 3 failed, {'dead letter' if n == 3 else 'next in 0.01 s'}: "
        assert record.getMessage().startswith(f"worker 'w-1', queue {queue!r}: ")
        assert f"{told}ConnectionError: refused" in record.getMessage()
        fields = (record.worker, record.queue, record.task_name, record.task_id, record.attempt, record.attempts)
        assert fields == ("w-1", queue, name, task_id, n, 3)
    assert [record.outcome for record in records] == ["Retried", "Retried", "Failed"]
    assert [record.exc_info is not None for record in records] == [False, False, True], (
        "a dead letter has its traceback"
    )
    assert "raise ConnectionError" in caplog.text


async def test_promise_13_nothing_fails_silently_a_task_with_a_name_is_called_by_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Router()

    @tasks.task(name="mail.send", attempts=1)
    async def send_mail(to: str) -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionError("refused")

    storage = MemoryStorage[Any]()
    await storage.push(send_mail.bind("a"), id="7")
    storage.close()
    await Worker("w-1", storage, tasks).run()
    [record] = records = of_library(caplog)
    assert "queue 'default': mail.send, task 7, attempt 1 of 1 failed" in record.getMessage()
    assert vars(record)["task_name"] == "mail.send", records


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("abort", "attempt 1 of 3 killed, dead letter: trio_tasks.AbortError: no such address"),
        ("later", "attempt 1 of 3 failed, next in 0.02 s: trio_tasks.RetryAfterError: mailbox busy"),
        ("exit", "attempt 1 of 3 failed, next in 0.01 s: SystemExit: the end"),
        ("group", "attempt 1 of 3 failed, next in 0.01 s: ExceptionGroup of 2: KeyError: 'a'; ValueError: b"),
    ],
)
async def test_promise_13_nothing_fails_silently_the_record_says_what_follows(
    what: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage[str]()
    await storage.push(what)
    storage.close()
    await Worker("w", storage, send, retry=THRICE).run()
    assert of_library(caplog)[0].getMessage().endswith(told)


async def test_promise_13_nothing_fails_silently_what_is_no_failure_is_no_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A success leaves no record; nor does an interruption, which is in the report."""
    caplog.set_level(logging.DEBUG, "trio_tasks")
    storage = MemoryStorage[str]()
    await storage.push("fine")

    begun = trio.Event()

    async def last(what: str) -> str:
        if what == "more":
            begun.set()
            await trio.sleep_forever()
        await storage.push("more")
        return await send(what)

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, last, concurrency=1).run)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert not of_library(caplog)


@pytest.mark.parametrize("lost", LOST, ids=["by a storage", "by a backend of one's own"])
async def test_promise_13_nothing_fails_silently_a_lost_lease_is_a_record(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, lost: Released
) -> None:
    async with SqliteStorage(tmp_path / "tasks.db") as storage:
        task_id = await storage.push("a")

        async def lose(what: str, context: WorkerContext) -> None:
            [task] = context.running_tasks
            assert task.parts.holder is not None
            context.stop()
            task.parts.holder.revoke(lost)
            await trio.sleep_forever()

        heard: list[object] = []
        await Worker("w", storage, lose, on_event=lambda _, event: heard.append(event)).run()
    assert [each.reason for each in heard if isinstance(each, Release)] == [lost.reason]
    [record] = of_library(caplog)
    assert f"task {task_id}, attempt 1 of 5 has lost its lease" in record.getMessage()


async def test_promise_13_nothing_fails_silently_a_payload_that_cannot_be_read_is_a_record(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The record is written although the task waits for a version that can read it. A suspension by the handler leaves
    no warning.
    """
    async with SqliteStorage(tmp_path / "tasks.db") as newer:
        task_id = await newer.push({"new": 1})

    async def wait(n: int) -> None:
        raise SuspendError(1000, "later\nplease")

    async with SqliteStorage(tmp_path / "tasks.db", int) as older:
        asked = await older.push(1)
        caplog.set_level(logging.INFO, "trio_tasks")

        def stop_after_two(context: WorkerContext, event: object) -> None:
            if context.report().suspended == 2:
                context.stop()

        await Worker("old", older, wait, concurrency=1, on_event=stop_after_two).run()
    told: dict[str, list[str]] = {record.levelname: [] for record in of_library(caplog)}
    for record in of_library(caplog):
        told[record.levelname].append(record.getMessage())
    assert [str(task_id) in text and "cannot be read here" in text for text in told["WARNING"]] == [True]
    assert any(f"task {asked}, attempt 1 of 5 suspended: later\\nplease" in text for text in told["INFO"])


@pytest.mark.parametrize("layers", [[Log()], [Trace(), Log()], [Log(), Log()], [MapError(ValueError), Log()]], ids=str)
async def test_promise_13_nothing_fails_silently_with_the_log_layer_it_is_still_one_record(
    layers: list[Any], caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def slow(what: str) -> str:
        await trio.sleep(1.5)
        return await send(what)

    caplog.set_level(logging.INFO, "trio_tasks")
    storage = MemoryStorage[str]()
    await storage.push_bulk(["fine", "fail"])
    storage.close()
    await Worker("w", storage, slow, layers=layers, concurrency=1, retry=RetryPolicy(2, constant(1))).run()
    first, second = [record for record in of_library(caplog) if record.levelno >= logging.WARNING]
    assert second.levelno == logging.ERROR
    assert "attempt 1 of 2 failed after 1.500 s, next in 1 s" in first.getMessage()


async def test_promise_13_nothing_fails_silently_calls_within_one_attempt_are_records_of_the_log_layer(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    calls = 0

    async def third_time_lucky(what: str) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError(calls)

    storage = MemoryStorage[str]()
    await storage.push("a")
    storage.close()
    layers: list[Any] = [Retry(3, backoff=constant(100)), Log()]
    await Worker("w", storage, third_time_lucky, layers=layers).run()
    times = [(record.levelname, "failed in attempt 1" in record.getMessage()) for record in of_library(caplog)]
    assert times == [("WARNING", True)] * 2


async def test_promise_13_nothing_fails_silently_not_even_where_a_layer_swallows_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def swallow(handler: Any, task: Any) -> Any:
        with suppress(ConnectionError):
            await handler(task)

    storage = MemoryStorage[str]()
    await storage.push("fail")
    storage.close()
    report = await Worker("w", storage, send, layers=[swallow, Log()]).run()
    assert report.succeeded == 1
    assert ["failed in attempt 1" in record.getMessage() for record in of_library(caplog)] == [True]


async def test_promise_13_nothing_fails_silently_unless_one_asks_for_silence(caplog: pytest.LogCaptureFixture) -> None:
    chosen: list[tuple[logging.Logger | None, list[str]]] = [(None, []), (logging.getLogger("mine"), ["mine"])]
    for log, names in chosen:
        storage = MemoryStorage[str]()
        await storage.push("abort")
        storage.close()
        report = await Worker("w", storage, send, log=log).run()
        assert report.killed == 1
        assert [record.name for record in caplog.records] == names


async def test_promise_13_nothing_fails_silently_a_builder_can_ask_for_silence_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = MemoryStorage[str]()
    await storage.push("abort")
    storage.close()
    await WorkerBuilder("w").backend(storage).log(None).build(send).run()
    assert not caplog.records


def test_promise_13_nothing_fails_silently_what_is_no_logger_is_refused() -> None:
    wrong: Any = "trio_tasks"
    with pytest.raises(TypeError, match=r"log must be a logging.Logger, as logging.getLogger\(name\) gives, or None"):
        Worker("w", MemoryStorage[str](), send, log=wrong)


async def test_promise_13_nothing_fails_silently_and_no_args_or_results_are_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    storage = MemoryStorage[str]()
    await storage.push_bulk([SECRET, "fine"], attempts=2)
    await storage.push(SECRET, metadata={"note": SECRET})
    storage.close()
    await Worker("w", storage, send, layers=[Log()], retry=RetryPolicy(2, constant(0))).run()
    assert len(caplog.records) >= 4
    assert SECRET not in caplog.text


async def test_promise_13_nothing_fails_silently_whatever_the_text_it_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class WithoutText(Exception):
        def __str__(self) -> str:
            raise SystemExit("not even this")

    async def fail(what: str) -> None:
        raise WithoutText if what == "mute" else ValueError("one\n\x1b[31mtwo" + "x" * 10_000)

    storage = MemoryStorage[str]()
    await storage.push("long", attempts=2, id="a\nb\x1b")
    await storage.push("mute", attempts=2, id="c")
    storage.close()
    await Worker("evil\nname", storage, fail, retry=RetryPolicy(2, constant(0))).run()
    records = of_library(caplog)
    assert len(records) == 4
    assert all(record.getMessage().isprintable() and len(record.getMessage()) < 1000 for record in records)
    assert any(r"task a\nb\x1b, attempt 1" in record.getMessage() for record in records)


def test_promise_13_nothing_fails_silently_in_a_program_that_configures_nothing() -> None:
    script = """
import trio
from trio_tasks import AbortError, MemoryStorage, Worker
async def send(to):
    raise AbortError("no such address")
async def main():
    storage = MemoryStorage()
    await storage.push("a@example.com")
    storage.close()
    await Worker("mails", storage, send).run()
trio.run(main)
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    first, *rest = run.stderr.splitlines()
    assert first.startswith("worker 'mails', queue 'default': send, task ")
    assert first.endswith("attempt 1 of 5 killed, dead letter: trio_tasks.AbortError: no such address")
    assert any("line 5, in send" in line for line in rest), "the traceback"
    assert "a@example.com" not in run.stderr


async def test_promise_13_nothing_fails_silently_though_the_text_cannot_be_written(
    tmp_path: Path,
) -> None:
    """A lone surrogate in the text of an error does not prevent its record, in a file in UTF-8."""

    async def fail(what: str) -> None:
        raise ValueError("\ud800") from KeyError("behind it")

    logger = logging.getLogger("to a file")
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    logger.addHandler(handler)
    try:
        storage = MemoryStorage[str]()
        await storage.push("a")
        storage.close()
        await Worker("w", storage, fail, retry=RetryPolicy(2, constant(0)), log=logger).run()
    finally:
        logger.removeHandler(handler)
        handler.close()
    text = (tmp_path / "log").read_text("utf-8")
    assert text.count(r"ValueError: \ud800") == 3, "twice in a line, once in a traceback"
    assert "KeyError: 'behind it'" in text


# Handlers that block the event loop


def block_until(caplog: pytest.LogCaptureFixture, told: str) -> None:
    """Block the thread until the log has a record with this text."""
    deadline = time.monotonic() + 40
    while not any(told in record.getMessage() for record in tuple(caplog.records)) and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["handler", "child"])
async def test_promise_13_nothing_fails_silently_a_handler_that_blocks_the_loop_is_named_while_it_does(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def block(role: str, nursery: trio.Nursery) -> None:
        async def child() -> None:
            block_until(caplog, f"task {role}")

        if role == "guilty" and where == "child":
            nursery.start_soon(child)
        elif role == "guilty":
            block_until(caplog, f"task {role}")
        else:
            await trio.lowlevel.checkpoint()

    storage = MemoryStorage[str]()
    for who in ("innocent", "guilty", "bystander"):
        await storage.push(who, id=who)
    storage.close()
    await Worker("w", storage, block, concurrency=3).run()
    records = [record for record in of_library(caplog) if "event loop" in record.getMessage()]
    assert "task guilty, attempt 1 of 5 blocks the event loop, for " in records[0].getMessage()
    assert f"{__file__}:" in records[0].getMessage()
    assert "in block_until: " in records[0].getMessage()
    assert all("task guilty" in record.getMessage() and record.levelname == "WARNING" for record in records)
    assert "stood still for " in records[-1].getMessage()


async def test_promise_13_nothing_fails_silently_what_does_not_block_is_not_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A busy thread and a waiting attempt are not named, though both last longer than the limit of the watcher."""

    def in_thread(n: int) -> None:
        deadline = time.monotonic() + 1.7
        while time.monotonic() < deadline:
            time.sleep(0.05)

    storage = MemoryStorage[int]()
    await storage.push(1)
    storage.close()
    await Worker("w", storage, in_thread).run()
    assert not of_library(caplog)
