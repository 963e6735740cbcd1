"""Tests of the examples on the design page, as they are written there."""

from __future__ import annotations

import logging
import signal
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    AbortError,
    Attempt,
    Custom,
    Data,
    DeferredError,
    Engage,
    Error,
    Event,
    Failed,
    Idle,
    Injected,
    Killed,
    MemoryStorage,
    Metadata,
    Monitor,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Router,
    Start,
    Status,
    Stop,
    Success,
    Task,
    TaskBuilder,
    TaskId,
    Worker,
    WorkerBuilder,
    WorkerContext,
    exponential,
)
from trio_tasks.abc import Handler
from trio_tasks.layers import Timeout, Trace

log = logging.getLogger("tests")


@dataclass
class Email:
    """A type of args."""

    to: str


@dataclass
class Receipt:
    """A type of results."""

    of: str


@dataclass
class Mailer:
    """A value shared by all attempts."""

    sent: list[str]


@dataclass
class User:
    """An extractor: it is made from the task."""

    name: str

    @classmethod
    async def from_task(cls, task: Task[Any]) -> User:
        await trio.lowlevel.checkpoint()
        return cls(task.parts.metadata.get("user", "nobody"))


class Tracer:
    """A value that travels with a task, and is not stored."""


async def test_hello() -> None:
    events: list[Event] = []

    async def double(n: int) -> int:
        return n * 2

    storage = MemoryStorage[int]()
    worker = Worker("doubler", storage, double, on_event=lambda context, event: events.append(event))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        task_id = await storage.push(21)
        storage.close()
    assert (await storage.wait_for(task_id)).result == 42
    kinds = [type(event) for event in events]
    assert [each for each in kinds if each is not Idle] == [Start, Engage, Success, Stop]


async def test_tasks(autojump_clock: object) -> None:
    tracer = Tracer()
    storage = MemoryStorage[Email]()
    task = (
        Task.builder(Email(to="a@example.com"))
        .id("task-123")
        .attempts(3)
        .timeout(30)
        .priority(5)
        .run_in_minutes(10)
        .metadata(tenant="acme")
        .data(tracer)
        .build()
    )
    assert isinstance(TaskBuilder(Email("x")).build().parts.id, TaskId)
    assert await storage.push_task(task) == "task-123"
    assert isinstance(await storage.push(Email(to="b@example.com"), delay=600, priority=5, attempts=3), TaskId)
    assert len(await storage.push_bulk([Email("c"), Email("d")])) == 2
    send, receive = trio.open_memory_channel[Email](2)
    send.send_nowait(Email("e"))
    send.send_nowait(Email("f"))
    send.close()
    assert await storage.push_stream(receive) == 2
    whole_send, whole_receive = trio.open_memory_channel[Task[Email]](1)
    whole_send.send_nowait(Task(Email("g")))
    whole_send.close()
    assert await storage.push_all(whole_receive) == 1

    assert task.args.to == "a@example.com"
    assert (task.parts.attempt, task.parts.status) == (0, Status.Pending)
    assert task.parts.metadata["tenant"] == "acme"
    assert task.parts.metadata == Metadata(tenant="acme")
    assert task.parts.extensions[Tracer] is tracer
    assert task.parts.run_at is not None
    assert storage.statistics().waiting == 7

    first, second = TaskId.new(), TaskId.new()
    assert str(first) < str(second)
    assert [each.name for each in Status] == ["Pending", "Queued", "Running", "Done", "Failed", "Killed"]
    assert isinstance(Attempt(1), int)

    moment = datetime.now(timezone.utc) + timedelta(days=30)
    later = TaskBuilder(Email("h")).run_at(moment).unique("h", on_conflict="raise").expires_in(3600).build()
    assert later.parts.run_at == moment
    for builder in (TaskBuilder(1).run_in_seconds(1), TaskBuilder(1).run_in_hours(1), TaskBuilder(1).run_after(1)):
        assert builder.build().parts.run_at is not None


async def test_handlers() -> None:
    mailer = Mailer([])
    storage = MemoryStorage[Email]()
    seen: list[object] = []

    async def child() -> None:
        await trio.lowlevel.checkpoint()
        mailer.sent.append("child")

    async def send_email(
        email: Email,
        mailer: Data[Mailer],
        attempt: Attempt,
        task_id: TaskId,
        context: WorkerContext,
        nursery: trio.Nursery,
        user: User,
    ) -> Receipt:
        nursery.start_soon(child)
        mailer.sent.append(email.to)
        seen.extend([attempt, task_id, context.name, user])
        return Receipt(email.to)

    task_id = await storage.push(Email("a@example.com"), metadata={"user": "ann"})
    storage.close()
    await Worker("emails", storage, send_email, data=[mailer]).run()
    assert seen == [1, task_id, "emails", User("ann")]
    assert sorted(mailer.sent) == ["a@example.com", "child"]
    assert (await storage.wait_for(task_id)).result == Receipt("a@example.com")


async def test_a_sync_handler_runs_in_a_thread() -> None:
    storage = MemoryStorage[str]()

    def resize(path: str) -> int:
        trio.from_thread.run_sync(trio.lowlevel.current_trio_token)  # only a thread of trio's may do so
        return len(path)

    task_id = await storage.push("abc")
    storage.close()
    await Worker("resize", storage, resize).run()
    assert (await storage.wait_for(task_id)).result == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AbortError("no"), Killed),
        (RetryAfterError(OSError("busy"), 7.0), Retried),
        (DeferredError("later"), Retried),
        (ValueError("any"), Retried),
    ],
)
async def test_errors(error: Exception, expected: type, autojump_clock: object) -> None:
    storage = MemoryStorage[int]()
    outcomes: list[object] = []

    async def fail(n: int) -> None:
        raise error

    def listen(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Error):
            outcomes.append(event.outcome)

    task_id = await storage.push(1, attempts=2)
    storage.close()
    await Worker("w", storage, fail, on_event=listen).run()
    assert isinstance(outcomes[0], expected)
    if isinstance(error, RetryAfterError):
        assert outcomes[0] == Retried(error, 7.0)
    if not isinstance(error, AbortError):
        assert outcomes[1] == Failed(error)
    result = await storage.wait_for(task_id)
    assert result.error is error
    assert result.status is (Status.Killed if isinstance(error, AbortError) else Status.Failed)


async def test_workers(autojump_clock: object) -> None:
    mailer = Mailer([])
    heard: list[Event] = []

    async def send_email(email: Email, mailer: Data[Mailer]) -> None:
        await trio.sleep(1)
        mailer.sent.append(email.to)

    def log_event(context: WorkerContext, event: Event) -> None:
        heard.append(event)

    storage = MemoryStorage[Email]()
    await storage.push_bulk([Email("a"), Email("b"), Email("c")])
    worker = Worker(
        "emails",
        storage,
        send_email,
        concurrency=8,
        layers=[Trace(), Timeout(30)],
        data=[mailer],
        retry=RetryPolicy(attempts=5, backoff=exponential(1.0, maximum=3600)),
        on_event=log_event,
    )
    fluent = (
        WorkerBuilder("emails")
        .backend(storage)
        .data(mailer)
        .layer(Timeout(30))
        .concurrency(8)
        .on_event(log_event)
        .build(send_email)
    )

    async def two_seconds() -> None:
        await trio.sleep(2)

    await worker.run_until(two_seconds)
    assert sorted(mailer.sent) == ["a", "b", "c"]
    await storage.push(Email("d"))
    async with fluent.stream() as events:
        async for event in events:
            if isinstance(event, Success):
                break
    assert "d" in mailer.sent
    assert any(isinstance(each, Start) for each in heard)


async def test_a_context_is_one_run() -> None:
    storage = MemoryStorage[int]()
    said: list[object] = []
    tracked: list[str] = []

    async def outlive() -> None:
        await trio.lowlevel.checkpoint()
        tracked.append("done")

    async def handler(n: int, context: WorkerContext) -> None:
        assert context.is_running
        assert not context.is_paused
        assert not context.is_shutting_down
        assert context.task_count == 1
        context.track(outlive)
        context.emit(Custom("hello"))
        context.pause()
        assert not context.is_ready
        context.resume()
        context.stop()

    await storage.push(1)
    worker = Worker("w", storage, handler, on_event=lambda context, event: said.append(event))
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(worker.run)
        await context.wait_stopped()
    assert tracked == ["done"]
    assert Custom("hello") in said
    assert context.statistics().succeeded == 1
    assert context.name == "w"


async def test_monitor(autojump_clock: object) -> None:
    storage = MemoryStorage[int]()
    made: list[int] = []
    handled: list[int] = []

    async def handle(n: int) -> None:
        await trio.lowlevel.checkpoint()
        handled.append(n)

    def make(attempt: int) -> Worker[int, None]:
        made.append(attempt)
        return Worker(f"emails-{attempt}", storage, handle)

    heard: list[Event] = []
    monitor = Monitor(
        shutdown_timeout=10,
        on_event=lambda context, event: heard.append(event),
        should_restart=lambda context, error, attempt: attempt < 5,
    )
    monitor.register(make)
    await storage.push_bulk([1, 2])
    storage.close()
    await monitor.run()
    assert made == [1]
    assert sorted(handled) == [1, 2]

    storage = MemoryStorage[int]()
    async with Monitor(shutdown_timeout=10) as monitor:
        monitor.register(Worker("w", storage, handle))
        await storage.push(3)
        await trio.sleep(1)
        monitor.shutdown()
    assert 3 in handled
    assert not monitor.cancel_scope.cancelled_caught


async def test_a_terminator_of_ones_own(autojump_clock: object) -> None:
    storage = MemoryStorage[int]()

    async def too_long(n: int) -> None:
        await trio.sleep(1000)

    async def terminator() -> None:
        await trio.sleep(7)

    task_id = await storage.push(1)
    async with Monitor(terminator=terminator) as monitor:
        monitor.register(Worker("w", storage, too_long))
        await trio.sleep(1)
        monitor.shutdown()
    assert trio.current_time() == pytest.approx(8)
    assert [each.task_id for each in monitor.report.interrupted] == [task_id]
    assert "trio.sleep(1000)" in monitor.report.interrupted[0].where
    assert storage.statistics().waiting == 1


async def test_run_with_signal() -> None:
    storage = MemoryStorage[int]()

    async def handle(n: int) -> None:
        signal.raise_signal(signal.SIGTERM)

    await storage.push(1)
    with trio.fail_after(60):
        report = await Monitor(shutdown_timeout=3).register(Worker("w", storage, handle)).run_with_signal()
    assert report.workers[0].succeeded == 1


async def test_layers(caplog: pytest.LogCaptureFixture) -> None:
    async def log_failures(handler: Handler[int, None], task: Task[int]) -> None:
        try:
            return await handler(task)
        except Exception:
            log.exception("task %s failed", task.parts.id)
            raise

    async def fail(n: int) -> None:
        raise ValueError("no")

    storage = MemoryStorage[int]()
    task_id = await storage.push(1, attempts=1)
    storage.close()
    await Worker("w", storage, fail, layers=[log_failures]).run()
    assert f"task {task_id} failed" in caplog.text


async def test_any_receive_channel_is_a_backend() -> None:
    send, receive = trio.open_memory_channel[int](10)
    seen: list[int] = []

    async def handler(n: int) -> None:
        seen.append(n)

    with send:
        for n in range(5):
            send.send_nowait(n)
    await Worker("w", receive, handler).run()
    assert seen == [0, 1, 2, 3, 4]


def named_tasks(log: list[str]) -> tuple[Router, Any, Any]:
    """The tasks of the page: a router, and its two functions."""
    tasks = Router()

    @tasks.task(queue="emails", attempts=8, timeout=30)
    async def send_email(
        to: str, subject: str = "hello", *, mailer: Data[Mailer] = Injected, attempt: Attempt = Injected
    ) -> int:
        log.append(f"{to} {attempt}")
        await trio.lowlevel.checkpoint()
        return len(subject)

    @tasks.task(
        name="video.resize",
        aliases=["resize"],
        queue="video",
        unique="{path}",
        version=2,
        upgrade={1: lambda args: {**args, "width": 640}},
    )
    def resize(path: Path, owner: str, width: int) -> str:
        return str(path)

    @tasks.resource
    async def mailer() -> AsyncIterator[Mailer]:
        log.append("open")
        yield Mailer([])
        log.append("close")

    return tasks, send_email, resize


async def test_tasks_with_names(tmp_path: Path) -> None:
    log: list[str] = []
    tasks, send_email, resize = named_tasks(log)
    call = send_email.bind("a@example.com", subject="hi")
    assert await send_email("a@example.com", mailer=Mailer([]), attempt=Attempt(1)) == 5
    async with tasks.open(f"sqlite:///{tmp_path}/shop.db") as queues:
        task_id = await queues.push(call, delay=0.01)
        ids = await queues.push_bulk([send_email.bind(a) for a in ("b", "c")])
        connection = sqlite3.connect(tmp_path / "shop.db")
        queues.push_in(connection, resize.bind(Path("/a"), "ada", 320), id="video")
        connection.commit()
        connection.close()
        async with queues.monitor({"emails": 8, "video": 2}, data=["settings"], shutdown_timeout=30) as monitor:
            assert await send_email.result(queues, task_id) == 2
            assert [await send_email.result(queues, each) for each in ids] == [5, 5]
            assert await resize.result(queues, "video") == "/a"
            monitor.shutdown()
    assert (log[1], log[-1]) == ("open", "close")
    assert sorted(log[2:-1]) == ["a@example.com 1", "b 1", "c 1"]
