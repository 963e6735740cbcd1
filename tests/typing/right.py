"""Code that type checkers must accept, with the types that they must infer. Checked by mypy and pyright; never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import trio
from trio_tasks import (
    Attempt,
    Call,
    ChangeReport,
    Cron,
    CronSpec,
    Data,
    Firing,
    Injected,
    IntervalSpec,
    Lease,
    MemoryStorage,
    Monitor,
    PastAttempt,
    Queues,
    RetryPolicy,
    Router,
    ScheduleInfo,
    Schedules,
    SqliteStorage,
    StorageOptions,
    StoredTaskInfo,
    Task,
    TaskBuilder,
    TaskId,
    TaskResult,
    Worker,
    WorkerBuilder,
    WorkerContext,
    cron,
    every,
)
from trio_tasks.abc import Handler
from trio_tasks.testing import TestWorker, run_once
from typing_extensions import assert_type

A = TypeVar("A")
R = TypeVar("R")


@dataclass
class Mailer:
    """A value given as data."""

    host: str


@dataclass
class User:
    """An extractor that is made from the task."""

    name: str

    @classmethod
    async def from_task(cls, task: Task[Any]) -> User:
        """Make it from the task."""
        return cls(task.parts.metadata["user"])


class Session:
    """An extractor that is opened for an attempt, and closed after it."""

    @classmethod
    @asynccontextmanager
    async def from_task(cls, task: Task[Any], mailer: Data[Mailer]) -> AsyncGenerator[Session, None]:
        """Open it for the task."""
        yield cls()


async def plain(n: int) -> str:
    """Args alone."""
    return str(n)


async def whole(task: Task[int]) -> str:
    """The whole task."""
    return str(task.args)


def in_thread(n: int) -> str:
    """Sync."""
    return str(n)


async def injected(
    n: int,
    mailer: Data[Mailer],
    attempt: Attempt,
    task_id: TaskId,
    context: WorkerContext,
    nursery: trio.Nursery,
    user: User,
    session: Session,
) -> str:
    """Everything that can be asked for."""
    assert_type(mailer, Mailer)
    assert_type(session, Session)
    return f"{mailer.host}{attempt + 1}{task_id.upper()}{context.name}{nursery.cancel_scope.deadline}{user.name}{n}"


async def generic_layer(handler: Handler[A, R], task: Task[A]) -> R:
    """A layer for anything."""
    return await handler(task)


async def exact_layer(handler: Handler[int, str], task: Task[int]) -> str:
    """A layer for this handler."""
    return (await handler(task)).upper()


async def accepted(channel: trio.MemoryReceiveChannel[int]) -> None:
    """Each handler gives the worker its two types."""
    storage = MemoryStorage[int]()
    assert_type(Worker("w", storage, plain), Worker[int, str])
    assert_type(Worker("w", storage, whole), Worker[int, str])
    assert_type(Worker("w", storage, in_thread), Worker[int, str])
    assert_type(Worker("w", storage, injected, data=[Mailer("here")]), Worker[int, str])
    assert_type(Worker("w", storage, plain, layers=[generic_layer, exact_layer], concurrency=3), Worker[int, str])
    assert_type(WorkerBuilder("w").backend(storage).layer(exact_layer).build(plain), Worker[int, str])
    assert_type(WorkerBuilder("w").backend(storage).build(injected), Worker[int, str])

    assert_type(Worker("w", channel, plain), Worker[int, str])
    assert_type(Worker("w", channel, whole), Worker[int, str])

    assert_type(TaskBuilder(3).attempts(2).build(), Task[int])
    assert_type(Task.builder("x").priority(2).build(), Task[str])
    assert_type(await storage.push(3, delay=2.0, metadata={"a": 1}), TaskId)
    assert_type(await storage.push_bulk([1, 2]), list[TaskId])
    assert_type(await storage.receive(), Task[int])

    monitor = Monitor(shutdown_timeout=1.0)
    factory: Callable[[int], Worker[int, str]] = lambda attempt: Worker(f"w-{attempt}", storage, plain)  # noqa: E731  its type is what is tried
    monitor.register(factory).register(Worker("w", storage, plain))


async def results(storage: SqliteStorage[int], task_id: TaskId) -> None:
    """The type of a result is that which is named; none is any."""
    memory = MemoryStorage[int]()
    assert_type(await storage.wait_for(task_id, str), TaskResult[str])
    assert_type(await storage.wait_for(task_id), TaskResult[Any])
    assert_type((await memory.wait_for(task_id, Mailer)).unwrap(), Mailer)
    assert_type(await memory.wait_for(task_id, type=None), TaskResult[Any])
    options: StorageOptions = {"lease": 5.0, "keep_results": 0.0}
    storage.share(str, queue="other", **options)


tasks = Router()


@tasks.task(queue="emails", attempts=8, timeout=30, retry=RetryPolicy(attempts=3), unique="{to}")
async def send_email(
    to: str, subject: str = "hello", *, mailer: Data[Mailer] = Injected, attempt: Attempt = Injected
) -> int:
    """An async function of a router."""
    assert_type(mailer, Mailer)
    return len(to)


@tasks.task(name="video.resize", aliases=["resize"], version=2, upgrade={1: lambda args: {**args, "width": 640}})
def resize(path: Path, width: int) -> str:
    """A sync one."""
    return str(path)


@tasks.task(process=True, queue="cpu")
def compute(n: int, *, attempt: Attempt = Injected) -> float:
    """One that runs in a process."""
    return n / attempt


@tasks.task
async def bare(n: int) -> None:
    """One without options."""


@tasks.task
def bare_sync(n: int) -> int:
    """A sync one without options."""
    return n


@tasks.resource
async def open_mailer() -> AsyncGenerator[Mailer, None]:
    """A resource."""
    yield Mailer("here")


async def named_tasks(mailer: Mailer) -> None:
    """Calls, results and queues have the types of their functions."""
    assert_type(send_email.bind("a@example.com", subject="hi"), Call[int])
    assert_type(resize.bind(Path("a"), width=3), Call[str])
    assert_type(compute.bind(3), Call[float])
    assert_type(compute(3, attempt=Attempt(1)), float)
    assert_type(bare.bind(3), Call[None])
    assert_type(bare_sync.bind(3), Call[int])
    assert_type(await send_email("a@example.com", mailer=mailer, attempt=Attempt(1)), int)
    assert_type(resize(Path("a"), 3), str)
    async with tasks.open("sqlite:///tasks.db", lease=60) as queues:
        assert_type(queues, Queues)
        task_id = await queues.push(send_email.bind("a@example.com"), delay=60, priority=3)
        assert_type(await queues.call(send_email.bind("a@example.com"), priority=3), int)
        assert_type(await queues.call(resize.bind(Path("a"), 3)), str)
        assert_type(task_id, TaskId)
        assert_type(await queues.push_bulk([send_email.bind("a"), resize.bind(Path("a"), 3)]), list[TaskId])
        assert_type(await send_email.result(queues, task_id), int)
        assert_type(await resize.result(queues, task_id), str)
        assert_type(await queues.wait_for(task_id, int), TaskResult[int])
        async with queues.monitor({"emails": 8}, data=[mailer], shutdown_timeout=30) as monitor:
            assert_type(monitor, Monitor)
        for worker in queues.make_workers({"emails": 8}, data=[mailer], layers=[generic_layer]):
            monitor.register(worker)
    memory = MemoryStorage[Call[object]]()
    await memory.push(resize.bind(Path("a"), 3))
    Worker("w", memory, tasks, data=[mailer], layers=[generic_layer])
    Worker("w", SqliteStorage("tasks.db", Call, codec=tasks), tasks)
    TestWorker(memory, tasks)
    await run_once(tasks, bare.bind(3))


def is_workday(day: date) -> bool:
    """A calendar."""
    return day.weekday() < 5


async def by_cron(n: int, firing: Firing) -> None:
    """A handler that is told the time that its task is for."""
    assert_type(firing.time, datetime)
    assert_type(firing.previous, datetime | None)


async def at_times(firing: Firing) -> None:
    """A handler of the times of a channel."""


@tasks.task
async def report(customer: str, *, firing: Firing = Injected) -> None:
    """A function that is told the time that its call is for."""
    assert_type(firing, Firing)


async def scheduled() -> None:
    """Schedules take what cron() and every() return, and the options of push."""
    assert_type(every(minutes=5), IntervalSpec)
    weekdays = cron("0 18 * * *", zone=ZoneInfo("America/New_York")).on(is_workday)
    assert_type(weekdays, CronSpec)
    assert_type(weekdays.next_after(datetime.now(timezone.utc)), datetime | None)
    tasks.schedule("nightly", report.bind("all"), cron("@daily", zone="UTC"), missed="latest", jitter=300, attempts=3)
    async with tasks.open("sqlite:///tasks.db") as queues:
        schedules = queues.schedules
        assert_type(schedules, Schedules)
        await schedules.put("report-42", report.bind("42"), every(hours=6), missed="all", overlap="allow", within=60)
        assert_type(await schedules.pause("nightly"), bool)
        assert_type(await schedules.run_now("nightly"), TaskId | None)
        assert_type(await schedules.list(), list[ScheduleInfo])
        assert_type((await schedules.list())[0].next, datetime | None)
        assert_type(await schedules.prune(), list[str])
    memory = MemoryStorage[int]()
    plain = Schedules(memory, memory.share(queue="second"), queue_of=lambda args: "second")
    plain.declare("each", 5, every(seconds=1), queue="second", limit=3, priority=2)
    Worker("w", memory, by_cron)
    Worker("w", Cron("0 3 * * *", zone="UTC"), at_times)
    Worker("w", Cron(weekdays), at_times)


async def contexts(task: Task[int], storage: SqliteStorage[int]) -> None:
    """The context in an attempt, and that of a task that was looked up."""
    if isinstance(task.parts.context, Lease):
        assert_type(task.parts.context.history, tuple[PastAttempt, ...])
    for found in await storage.list_tasks():
        if isinstance(found.parts.context, StoredTaskInfo):
            assert_type(found.parts.context.worker, str | None)


async def several(storage: SqliteStorage[int], ids: list[TaskId]) -> None:
    """A string is one id; a list, a tuple, a set or a generator has several."""
    memory = MemoryStorage[int]()
    assert_type(await storage.cancel(ids[0]), bool)
    assert_type(await memory.cancel("id", running=True), bool)
    assert_type(await storage.cancel(ids, running=True), ChangeReport)
    assert_type(await memory.abort((ids[0], "id")), ChangeReport)
    assert_type(await storage.resume_by_id(task.parts.id for task in await storage.list_tasks()), ChangeReport)
    assert_type(await storage.discard([task.parts.id for task in await memory.list_tasks()]), ChangeReport)
    assert_type(await memory.reschedule({*ids}, 5.0), ChangeReport)
    assert_type(await memory.reschedule("id", delay=5.0), bool)
    assert_type(await storage.fetch_by_id(ids[0]), Task[int] | None)
    assert_type(await memory.fetch_by_id(ids), list[Task[int] | None])
    assert_type(await storage.wait_for(ids), list[TaskResult[Any]])
    assert_type(await memory.wait_for(ids, str), list[TaskResult[str]])
