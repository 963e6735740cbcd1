"""Tests of pickle, copy, ``==`` and ``repr`` of every public value."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, timezone
from typing import Any

import pytest
import trio
import trio_tasks as t
import trio_tasks.layers as l
import trio_tasks.testing as testing
from trio_tasks._contracts.minutes import Sums

from tests.test_reference import MODULES, ROOT, public_names

ID = t.TaskId("task-123")
NOON = datetime(2030, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Mail:
    to: str


def is_open(day: date) -> bool:
    return day.weekday() < 5


def made_task() -> t.Task[Mail]:
    task = t.TaskBuilder(Mail("a")).id(ID).priority(3).run_at(NOON).metadata(a=1).data(2.5).build()
    task.parts.context = object()
    return task


TASK = made_task()  # events hold a task, which is equal to itself alone
ERROR = ValueError("no")
"""The same for errors."""

VALUES: dict[str, Callable[[], Any]] = {
    "Attempt": lambda: t.Attempt(3),
    "Call": lambda: t.Call("mail", {"to": "a", "many": [1]}, 2, {"attempts": 3}),
    "CborCodec": lambda: t.CborCodec(Mail, max_depth=5),
    "ChangeReport": lambda: t.ChangeReport((ID,), {"task-124": "it waits"}, "cancelled"),
    "CircuitBreakerStatistics": lambda: l.CircuitBreaker().statistics(),
    "CircuitState": lambda: next(iter(l.CircuitState)),
    "ConcurrencyLimitStatistics": lambda: l.ConcurrencyLimit(2).statistics(),
    "CronSpec": lambda: t.cron("30 2 * * *", zone="Europe/Berlin").on(is_open),
    "Custom": lambda: t.Custom("said"),
    "Engage": lambda: t.Engage(TASK),
    "Error": lambda: t.Error(TASK, ERROR, t.Failed(ERROR)),
    "Exploration": lambda: testing.Exploration(1, {"a.py:3": 2}, (1,), 0.5),
    "Extensions": lambda: t.Extensions(5, "text"),
    "Failed": lambda: t.Failed(ERROR),
    "Fault": lambda: testing.Fault(1.0, "drop", "settle"),
    "Faults": lambda: testing.Faults(drop=0.5),
    "Firing": lambda: t.Firing(NOON, None, "nightly"),
    "HeartBeat": t.HeartBeat,
    "Idle": t.Idle,
    "Interruption": lambda: t.Interruption("w", ID, "a.py:3 in f"),
    "IntervalSpec": lambda: t.every(minutes=5),
    "JsonCodec": lambda: t.JsonCodec(Mail),
    "Cancelled": lambda: t.Cancelled(ID),
    "Expired": lambda: t.Expired(ID),
    "DeadlinePassed": lambda: t.DeadlinePassed(ID),
    "Killed": lambda: t.Killed(ERROR),
    "Missed": lambda: t.Missed(3),
    "Pushed": lambda: t.Pushed(ID, True),
    "Replaced": lambda: t.Replaced(ID, t.TaskId("newer")),
    "MemoryStorageStatistics": lambda: t.MemoryStorage[int]().statistics(),
    "Metadata": lambda: t.Metadata(a=1, b=[2]),
    "Overrun": lambda: t.Overrun("w", ID, 12.0, "a.py:3 in f"),
    "StoredTask": lambda: t.StoredTask(id=ID, state="delayed", payload=b"\0", since=None, due=1.5, attempt=2),
    "ImportReport": lambda: t.ImportReport((ID,), (), (), {"task-124": "another task of this id is there"}),
    "StoreInfo": lambda: t.StoreInfo("tasks.db", "SQLite 3.51.3, by sqlite3", 3, 4096),
    "Balance": lambda: t.Balance("q", {"pushed": 1, "waiting": 1}, {"waiting": 1}),
    "AttemptTotals": lambda: Sums().totals("mail"),
    "Explanation": lambda: t.Explanation(kind="waiting", id=ID, queue="q", as_of=NOON),
    "Minute": lambda: Sums().shown(30_000_000, "mail"),
    "Page": lambda: t.Page([1, 2], next="cursor", is_partial=True),
    "PastAttempt": lambda: t.PastAttempt(1, 2.5, "w", "failed", "ValueError: no", 0.5, "", "1.4"),
    "Pause": lambda: testing.Pause(1.0),
    "PydanticCodec": lambda: t.PydanticCodec(int, name="the result"),
    "RateLimitStatistics": lambda: l.RateLimit(2, per=1).statistics(),  # in a run, as the next one
    "Release": lambda: t.Release(TASK, "why"),
    "Released": lambda: t.Released("why"),
    "Report": lambda: t.Report((t.WorkerReport("w", succeeded=1, drained=(ID,)),)),
    "Retried": lambda: t.Retried(ERROR, 2.5),
    "Limits": lambda: t.Limits(per_key=2, rate=t.Rate(100, per=60), weight=2),
    "Rate": lambda: t.Rate(100, per=60),
    "RetryPolicy": lambda: t.RetryPolicy(attempts=3, backoff=t.linear(1, jitter=0.5)),
    "ScheduleInfo": lambda: t.ScheduleInfo("nightly", "every(hours=6)", "q", NOON, None, False, False, True),
    "Start": t.Start,
    "Status": lambda: t.Status.Failed,
    "StillRunning": lambda: l.StillRunning(TASK, 2.5),
    "Stop": t.Stop,
    "Succeeded": lambda: t.Succeeded(Mail("a")),
    "Success": lambda: t.Success(TASK, 5),
    "Suspended": lambda: t.Suspended(5.0, "why"),
    "TaskId": lambda: t.TaskId("task-123"),
    "TaskResult": lambda: t.TaskResult(ID, t.Status.Done, Mail("a")),
    "RunningTask": lambda: t.RunningTask(ID, "send", 1, NOON, "a.py:3 in f"),
    "WorkerInfo": lambda: t.WorkerInfo("w", "q", "host", 7, None, 8, 0, (), "open", NOON, NOON, NOON, True),
    "WorkerReport": lambda: t.WorkerReport("w", failed=2, interrupted=(t.Interruption("w", ID, "a.py:3"),)),
    "WorkerStatistics": lambda: None,
    "constant": lambda: t.constant(2),
    "exponential": lambda: t.exponential(1, factor=3, maximum=60, jitter=0.5),
    "linear": lambda: t.linear(1, step=2),
}
"""What is equal if it is made alike. For the functions: what they return."""

BY_IDENTITY: dict[str, Callable[[], Any]] = {
    "Task": made_task,
    "Parts": lambda: made_task().parts,
    "TaskBuilder": lambda: t.TaskBuilder(Mail("a")).metadata(a=1).data(5).unique("key"),
    "WorkerBuilder": lambda: t.WorkerBuilder("w").data(5).concurrency(3),
}
"""What is equal to itself alone, and can be copied; what it holds is compared here."""

ERRORS: dict[str, Callable[[], BaseException]] = {
    "BrokenByCut": lambda: testing.BrokenByCut(1, 2, 3),
    "HandlerSignatureError": lambda: t.HandlerSignatureError("no"),
    "ProcessDiedError": lambda: t.ProcessDiedError("shop.resize", -9),
    "RetryAfterError": lambda: t.RetryAfterError(ERROR, 2.5),
    "StoredError": lambda: t.StoredError("shop.Gone", "sold", "Traceback"),
    "SuspendError": lambda: t.SuspendError(2.5, "closed"),
    "UnknownTaskError": lambda: t.UnknownTaskError(ID),
    "UnsettledError": lambda: t.UnsettledError(ERROR, permanent=True),
}
"""Those that are not made of a text alone."""

SERVICES = {
    "trio_tasks": "Cron CustomBackend DurableStorage FileStorage Lease MemoryStorage Monitor Pipe Queues Router "
    "Schedules SqliteStorage SqliteTransaction SyncSqliteStorage TaskFunction Worker WorkerContext Backoff Interval "
    "OnSignal",
    "trio_tasks.layers": "Acknowledge CircuitBreaker ConcurrencyLimit DjangoConnections EventListener Filter InThread "
    "LoadShed Log LongRunning MapArgs MapError MapResult RateLimit Retry Timeout Trace",
    "trio_tasks.observe": "Collector LogFields OpenTelemetry",
    "trio_tasks.testing": "BackendConformance Cut DivergedError FaultyBackend Recorded Recording Redelivery "
    "ScriptedBackend Simulation SimulationFailed SimulationReport TestWorker",
}
"""What does something, rather than being something; and what a test run leaves behind, with all of its events."""


def public_classes() -> dict[str, type]:
    """Every public class that is not an interface, and not the type of a dict or a protocol."""
    found: dict[str, type] = {}
    for module, path in MODULES.items():
        for name in public_names((ROOT / path).read_text("utf-8")):
            each = getattr(importlib.import_module(module), name)
            is_interface = (
                inspect.isabstract(each) or getattr(each, "_is_protocol", False) or module == "trio_tasks.abc"
            )
            if isinstance(each, type) and not is_interface and not hasattr(each, "__total__"):
                found[name] = each
    return found


CLASSES = public_classes()
services = {name for names in SERVICES.values() for name in names.split()}
FUNCTIONS = {"constant", "exponential", "linear"}


def errors() -> list[str]:
    return sorted(name for name, each in CLASSES.items() if issubclass(each, BaseException) and name not in services)


def test_every_public_class_is_looked_at() -> None:
    looked_at = {*VALUES, *BY_IDENTITY, *errors(), *services} - FUNCTIONS
    interfaces = {"TaskSink"}
    assert set(CLASSES) - looked_at - interfaces == set()
    assert looked_at - set(CLASSES) == set()


async def test_statistics_that_need_a_run_are_values() -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    context = t.Worker("w", t.MemoryStorage[int](), handler).prepare()
    check_value(context.statistics, t.WorkerStatistics)
    check_value(l.RateLimit(2, per=1).statistics, l.RateLimitStatistics)


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"WorkerStatistics", "RateLimitStatistics"}))
def test_a_value_is_what_it_is_made_of(name: str) -> None:
    check_value(VALUES[name], CLASSES.get(name, object))


def check_value(make: Callable[[], Any], kind: type) -> None:
    value, alike = make(), make()
    assert isinstance(value, kind)
    assert value == alike
    assert value != object()
    if type(value).__hash__ is not None:
        assert hash(value) == hash(alike)
    check_repr(value)
    for again in copies(value):
        assert type(again) is type(value)
        if not holds_a_reference(value):
            assert again == value
        assert described(again) == described(value)


@pytest.mark.parametrize("name", sorted(BY_IDENTITY))
def test_a_thing_with_an_identity_can_be_copied(name: str) -> None:
    value = BY_IDENTITY[name]()
    assert value == value
    assert value != BY_IDENTITY[name]()
    assert len({value, BY_IDENTITY[name]()}) == 2
    check_repr(value)
    for again in copies(value):
        assert again is not value
        assert again != value
        assert described(again) == described(value)


@pytest.mark.parametrize("name", errors())
def test_an_error_can_be_copied_and_pickled(name: str) -> None:
    kind: Any = CLASSES[name]
    error = ERRORS[name]() if name in ERRORS else kind("no")
    check_repr(error)
    assert str(error)
    for again in copies(error):
        assert type(again) is kind
        assert str(again) == str(error)
        assert described(again) == described(error)
        assert type(again.__cause__) is type(error.__cause__) or name == "UnsettledError"


def copies(value: Any) -> list[Any]:
    pickled = [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    return [copy.copy(value), copy.deepcopy(value), *pickled]


def check_repr(value: Any) -> None:
    text = repr(value)
    assert type(value).__name__.lstrip("_").lower() in text.lower() or isinstance(value, int)
    assert " at 0x" not in text
    assert "\n" not in text


def holds_a_reference(value: Any) -> bool:
    """True if it holds a task or an error, which are equal to themselves alone."""
    held = [getattr(value, each.name) for each in fields(value)] if is_dataclass(value) else []
    return any(isinstance(each, (t.Task, BaseException)) for each in held)


def described(value: Any) -> Any:
    """What can be compared of a value, whatever it is equal to."""
    if isinstance(value, t.Task):
        return described(value.args), described(value.parts)
    if isinstance(value, t.Parts):
        return value.id, value.attempt, value.status, value.run_at, value.terms, value.metadata
    if isinstance(value, (t.TaskBuilder, t.WorkerBuilder)):
        names = {*value.__slots__} - {"_base", "_changed"}  # from which the terms are made when they are needed
        return {name: getattr(value, name) for name in names}, getattr(value, "_terms", None)
    if isinstance(value, BaseException):
        return type(value), str(value), [*map(described, value.args)], {k: described(v) for k, v in vars(value).items()}
    if is_dataclass(value):
        return type(value), [described(getattr(value, each.name)) for each in fields(value)]
    return repr(value)


def test_a_copy_is_on_its_own() -> None:
    builder = t.TaskBuilder(1).metadata(a=1)
    copy.copy(builder).metadata(b=2).data(5).priority(9)
    assert builder.build().parts.metadata == {"a": 1}
    assert not builder.build().parts.has_extensions
    worker: t.WorkerBuilder[Any] = t.WorkerBuilder("w").concurrency(2)
    copy.copy(worker).concurrency(9).data(5)
    assert described(worker) == described(t.WorkerBuilder("w").concurrency(2))
    extensions = t.Extensions(5)
    copy.copy(extensions).insert("text")
    assert len(extensions) == 1


def test_a_copied_task_has_no_holder() -> None:
    task = made_task()
    for again in copies(task):
        assert again.parts.context is not task.parts.context
        assert again.parts.holder is None
        assert again.parts.metadata == {"a": 1}
    assert copy.copy(task).parts.extensions[float] == 2.5
    assert copy.deepcopy(task).args is not task.args
    assert not pickle.loads(pickle.dumps(task)).parts.has_extensions


async def test_a_pickled_task_can_be_pushed() -> None:
    storage = t.MemoryStorage[Mail]()
    again = pickle.loads(pickle.dumps(made_task()))
    assert await storage.push_task(again) == ID


def test_a_retry_policy_says_what_it_does() -> None:
    assert repr(t.RetryPolicy()) == (
        "RetryPolicy(attempts=5, backoff=exponential(1.0, factor=2.0, maximum=3600.0, jitter=0.5))"
    )
    assert repr(t.constant(2)) == "constant(2)"
    assert repr(t.linear(1, maximum=9)) == "linear(1, step=1, maximum=9)"
    assert t.CborCodec(int) != t.CborCodec(str)
    assert t.CborCodec(int) != t.JsonCodec(int)
