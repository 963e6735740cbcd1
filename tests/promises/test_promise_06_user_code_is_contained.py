"""Tests of promise 6: an error of user code, wherever it is called, affects one task only; on every storage.

Which places there are is derived from the public names: each parameter that takes a function, and each method of a
protocol that users implement. A new one fails the first test here until it has a place below, or a reason to have none.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import re
import sys
import unittest
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import pytest
import trio
import trio_tasks
import trio_tasks.abc
import trio_tasks.layers
from trio_tasks import (
    AbortError,
    BackendError,
    CborCodec,
    DeferredError,
    FileStorage,
    LeaseLostError,
    MemoryStorage,
    OrphanedError,
    RetryAfterError,
    RetryPolicy,
    SqliteStorage,
    SqliteTransaction,
    Status,
    StoredError,
    Task,
    UnsettledError,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.layers import (
    Acknowledge,
    CircuitBreaker,
    ConcurrencyLimit,
    EventListener,
    Filter,
    InThread,
    LoadShed,
    Log,
    LongRunning,
    MapArgs,
    MapError,
    MapResult,
    RateLimit,
    Retry,
    Timeout,
    Trace,
)

from tests._base_errors import PlainBaseError, group
from tests._scale import scaled

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

BAD = 2
ARGS = [1, BAD, 3, 4]


# Errors


class RudeExit(SystemExit):
    pass


class RudeGeneratorExit(GeneratorExit):
    pass


class WithArguments(BaseException):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code)
        self.reason = reason


class WithoutText(BaseException):
    def __str__(self) -> NoReturn:
        raise SystemExit("no text")


class WithoutRepr(Exception):
    def __repr__(self) -> NoReturn:
        raise GeneratorExit("no repr")


class WithoutClass(Exception):
    @property  # type: ignore[misc]  # that it is wrong is the point
    def __class__(self) -> NoReturn:  # type: ignore[override]  # as above
        raise SystemExit("no class")


class HiddenGroup(BaseExceptionGroup[BaseException]):  # noqa: ASYNC126  nobody splits it
    @property
    def exceptions(self) -> NoReturn:
        raise SystemExit("no members")


class WithoutArgs(Exception):
    @property
    def args(self) -> NoReturn:  # type: ignore[override]  # that it is wrong is the point
        raise PlainBaseError("no args")


def deep_group() -> BaseException:
    error: BaseException = SystemExit(3)
    for _ in range(50):
        error = group(error)
    return error


ERRORS: list[Callable[[], BaseException]] = [
    lambda: SystemExit(),
    lambda: SystemExit(0),
    lambda: SystemExit(3),
    lambda: SystemExit("licence expired"),
    lambda: RudeExit(1),
    lambda: GeneratorExit(),
    lambda: RudeGeneratorExit("gone"),
    lambda: asyncio.CancelledError(),
    lambda: concurrent.futures.CancelledError(),
    lambda: BaseException("plain"),
    lambda: PlainBaseError(),
    lambda: WithArguments(1, reason="two arguments"),
    lambda: WithoutText(),
    lambda: WithoutRepr(),
    lambda: WithoutClass(),
    lambda: WithoutArgs(),
    lambda: StopIteration(1),
    lambda: StopAsyncIteration(),
    lambda: MemoryError(),
    lambda: RecursionError("too deep"),
    lambda: OSError(28, "No space left on device"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: unittest.SkipTest("not now"),
    lambda: trio.WouldBlock(),
    lambda: trio.EndOfChannel(),
    lambda: trio.ClosedResourceError(),
    lambda: trio.TooSlowError(),
    lambda: BackendError("not yours"),
    lambda: LeaseLostError("not yours"),
    lambda: UnsettledError(ValueError("not yours"), permanent=False),
    lambda: OrphanedError("not yours"),
    lambda: AbortError(SystemExit(3)),
    lambda: RetryAfterError(PlainBaseError(), 0),
    lambda: DeferredError(GeneratorExit()),
    lambda: group(SystemExit(3)),
    lambda: group(GeneratorExit(), PlainBaseError(), ValueError()),
    lambda: group(asyncio.CancelledError()),
    lambda: HiddenGroup("group", [SystemExit(3)]),
    lambda: ExceptionGroup("group", [ExceptionGroup("inner", [trio.EndOfChannel()])]),
    deep_group,
]
NOT_BY_A_CHILD = {WithoutRepr, WithoutClass}
"""trio itself takes the repr of what a child of a nursery raises, and breaks down if that fails."""


# Places


@dataclass
class Trial:
    """A set-up in which user code raises in one place.

    Args:
      error: what is raised.
      kind: of storage.
    """

    error: Callable[[], BaseException]
    kind: str
    raised: int = 0
    is_running: bool = False
    attempts: int = 1
    handler: Callable[..., Any] | None = None
    worker: dict[str, Any] = field(default_factory=dict[str, Any])
    storage: dict[str, Any] = field(default_factory=dict[str, Any])
    type: Any = Any
    make_args: Callable[[int], Any] = int
    block: Any = field(default_factory=nullcontext)
    is_harmless: bool = False  # nothing becomes of the task
    fails_anyway: bool = False  # the handler fails, and something else on top of that
    may_go_unasked: bool = False  # nothing may look there
    is_wrapped: bool = False  # a codec says in its own words what it is

    def explode(self, *_: object) -> NoReturn:
        self.raised += 1
        raise self.error()

    def explode_once(self, *_: object) -> None:
        """Raise once, in places that do not know for which task they are called."""
        if not self.raised:
            self.explode()

    def explode_at(self, args: object) -> Any:
        if number_of(args) == BAD:
            self.explode()


def number_of(args: Any) -> int:
    args = getattr(args, "args", args)
    return int(getattr(args, "n", args))


@dataclass
class Args:
    n: int

    explode = staticmethod(lambda: None)  # not a field

    def __post_init__(self) -> None:
        if self.n == BAD:
            type(self).explode()


PLACES: dict[str, Callable[[Trial], None]] = {}
ONLY_FAILING = 7  # the handler fails on its own, by this


def place(name: str) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    def enter(arrange: Callable[[Trial], None]) -> Callable[[Trial], None]:
        PLACES[name] = arrange
        return arrange

    return enter


def layer(name: str, make: Callable[[Trial], Any], **facts: bool) -> None:
    """Register a place inside a layer of ours."""

    def arrange(trial: Trial) -> None:
        trial.worker["layers"] = [make(trial)]
        for fact, value in facts.items():
            setattr(trial, fact, value)

    PLACES[name] = arrange


@place("Worker(handler)")
def _(trial: Trial) -> None:
    async def handler(args: Any) -> None:
        trial.explode_at(args)

    trial.handler = handler


@place("Worker(handler), in a thread")
def _(trial: Trial) -> None:
    trial.handler = trial.explode_at


@place("Worker(handler), in a child")
def _(trial: Trial) -> None:
    async def child(args: Any) -> None:
        trial.explode_at(args)

    async def handler(args: Any, nursery: trio.Nursery) -> None:
        nursery.start_soon(child, args)

    trial.handler = handler


@place("Worker(handler), while it is cancelled by its timeout")
def _(trial: Trial) -> None:
    async def handler(args: Any) -> None:
        if number_of(args) == BAD:
            try:
                await trio.sleep_forever()
            finally:
                trial.explode()

    trial.handler, trial.worker["layers"] = handler, [Timeout(0.001)]


@place("Worker(layers)")
def _(trial: Trial) -> None:
    async def around(handler: Any, task: Task[Any]) -> Any:
        await handler(task)
        trial.explode_at(task)

    trial.worker["layers"] = [Log(), around, LongRunning(10)]


@place("Worker(layers), when it is called")
def _(trial: Trial) -> None:
    def around(handler: Any, task: Task[Any]) -> Any:
        trial.explode_at(task)
        return handler(task)

    trial.worker["layers"] = [around]


class AGate:
    def __init__(self, method: str, trial: Trial) -> None:
        self._method, self._trial = method, trial

    async def __call__(self, handler: Any, task: Task[Any]) -> Any:
        return await handler(task)

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._method == "ready":
            self._trial.explode_once()

    def admit(self, task: Task[Any]) -> bool:
        if self._method == "admit":
            self._trial.explode_at(task)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        if self._method == "dismiss":
            self._trial.explode_at(task)


class AQuickGate(AGate):
    def ready_nowait(self) -> None:
        if self._method == "ready_nowait":
            self._trial.explode_once()


layer("Gate.ready", lambda trial: AGate("ready", trial))
layer("NowaitGate.ready", lambda trial: AQuickGate("ready_nowait", trial))
layer("NowaitGate.ready_nowait", lambda trial: AQuickGate("ready_nowait", trial))
layer("Admitting.ready", lambda trial: AGate("ready", trial))
layer("Admitting.admit", lambda trial: AGate("admit", trial))
layer("Admitting.dismiss", lambda trial: AGate("dismiss", trial), is_harmless=True)


@place("RetryPolicy(backoff)")
def _(trial: Trial) -> None:
    trial.worker["retry"] = RetryPolicy(2, backoff=trial.explode)
    trial.fails_anyway, trial.attempts = True, 2


@place("RetryPolicy(retry_if)")
def _(trial: Trial) -> None:
    trial.worker["retry"] = RetryPolicy(2, constant(0), retry_if=trial.explode)
    trial.fails_anyway, trial.attempts = True, 2


@place("Worker(on_event)")
def _(trial: Trial) -> None:
    trial.worker["on_event"] = trial.explode
    trial.is_harmless = True


@place("WorkerContext.track(async_fn)")
def _(trial: Trial) -> None:
    async def tracked() -> None:
        trial.explode()

    async def handler(args: Any, context: WorkerContext) -> None:
        context.track(tracked)

    trial.handler, trial.is_harmless = handler, True


@place("from_task")
def _(trial: Trial) -> None:
    class Extracted:
        @classmethod
        async def from_task(cls, task: Task[Any]) -> Extracted:
            trial.explode_at(task)
            return cls()

    async def handler(args: Any, extracted: Any) -> None: ...

    handler.__annotations__["extracted"] = Extracted
    trial.handler = handler


@place("a result that does not let itself be looked at")
def _(trial: Trial) -> None:
    class Result:
        """msgspec asks what kind of thing it is."""

        @property  # type: ignore[misc]  # that it is wrong is the point
        def __class__(self) -> NoReturn:  # type: ignore[override]  # as above
            trial.explode()

    async def handler(args: Any) -> Any:
        return Result() if number_of(args) == BAD else None

    trial.handler, trial.is_wrapped = handler, True


@place("an error's __str__")
def _(trial: Trial) -> None:
    class Unprintable(Exception):
        __str__ = __repr__ = lambda self: trial.explode()

    async def handler(args: Any) -> None:
        if number_of(args) == BAD:
            raise Unprintable

    trial.handler, trial.fails_anyway = handler, True
    trial.worker["layers"] = [Log()]


@place("an error's __class__")
def _(trial: Trial) -> None:
    class Unreadable(Exception):
        __class__ = __cause__ = __context__ = __traceback__ = property(trial.explode)

    async def handler(args: Any) -> None:
        if number_of(args) == BAD:
            raise Unreadable

    trial.handler, trial.fails_anyway, trial.may_go_unasked = handler, True, True


@contextmanager
def logging_by(logger: str, *, raising: Callable[..., Any], in_filter: bool) -> Iterator[None]:
    handler = logging.Handler()
    handler.emit = raising  # type: ignore[method-assign]  # the shortest handler that fails
    target = logging.getLogger(logger)
    if in_filter:
        target.addFilter(raising)
    else:
        target.addHandler(handler)
    try:
        yield
    finally:
        target.removeFilter(raising)
        target.removeHandler(handler)


@place("a log filter")
def _(trial: Trial) -> None:
    trial.block = logging_by("trio_tasks", raising=trial.explode, in_filter=True)
    trial.worker["layers"] = [Log(level=logging.ERROR)]
    trial.worker["on_event"] = lambda context, event: int("this is logged")
    trial.is_harmless = True


@place("a log handler")
def _(trial: Trial) -> None:
    trial.block = logging_by("trio_tasks", raising=trial.explode, in_filter=False)
    trial.worker["layers"] = [Log(level=logging.ERROR)]
    trial.worker["on_event"] = lambda context, event: int("this is logged")
    trial.is_harmless = True


# In codecs and types: where values are encoded


class ACodec:
    def __init__(self, trial: Trial, method: str) -> None:
        self._trial, self._method, self._codec = trial, method, CborCodec(int)

    def encode(self, value: Any) -> bytes:
        return self._codec.encode(value)

    def decode(self, payload: bytes) -> Any:
        number = self._codec.decode(payload)
        if self._method == "decode":
            self._trial.explode_at(number)
        return number


@place("Codec.decode")
def _(trial: Trial) -> None:
    trial.storage.update(codec=ACodec(trial, "decode"), unreadable_after=0)


@place("__post_init__ of the type of the args")
def _(trial: Trial) -> None:
    class Exploding(Args): ...

    trial.type, trial.make_args, trial.is_wrapped = Exploding, Exploding, True
    trial.storage.update(codec=CborCodec(Exploding), unreadable_after=0)
    Exploding.explode = staticmethod(lambda: trial.explode() if trial.is_running else None)


@place("SqliteTransaction.call(write)")
def _(trial: Trial) -> None:
    async def handler(args: Any, transaction: SqliteTransaction) -> None:
        if number_of(args) == BAD:
            transaction.call(trial.explode)

    trial.handler = handler


STORED = {
    "Codec.decode",
    "__post_init__ of the type of the args",
    "a result that does not let itself be looked at",
}
ON_SQLITE = {"SqliteTransaction.call(write)"}


# In the layers that we ship


class Span:
    def __init__(self, trial: Trial, method: str, task: Task[Any]) -> None:
        self._trial, self._method, self._task = trial, method, task

    def __enter__(self) -> None:
        if self._method == "enter":
            self._trial.explode_at(self._task)

    def __exit__(self, *_: object) -> None:
        if self._method == "exit":
            self._trial.explode_at(self._task)


def async_explode(trial: Trial) -> Callable[..., Any]:
    async def explode(_: object, parts: Any) -> None:
        trial.explode_once()

    return explode


def failing(trial: Trial) -> Callable[..., Any]:
    async def handler(args: Any) -> None:
        if number_of(args) == BAD:
            raise ValueError("on its own")

    trial.handler = handler
    return trial.explode


def opened_once(trial: Trial) -> Callable[[], AbstractContextManager[object]]:
    def open_context() -> AbstractContextManager[object]:
        trial.explode_once()
        return nullcontext()

    trial.handler = lambda args: None
    return open_context


layer("Acknowledge(acknowledge)", lambda trial: Acknowledge(async_explode(trial)))
layer("CircuitBreaker(failure_if)", lambda trial: CircuitBreaker(failure_if=failing(trial)), fails_anyway=True)
layer("ConcurrencyLimit(key)", lambda trial: ConcurrencyLimit(2, key=trial.explode_at))
layer("EventListener(listener)", lambda trial: EventListener(trial.explode), is_harmless=True)
layer("Filter(predicate)", lambda trial: Filter(lambda task: trial.explode_at(task) or True))
layer("InThread(open_context)", lambda trial: InThread(opened_once(trial)))
layer("LoadShed(gate)", lambda trial: LoadShed(ConcurrencyLimit(2, key=trial.explode_at)))
layer("MapArgs(fn)", lambda trial: MapArgs(lambda args: trial.explode_at(args) or args))
layer("MapError(fn)", lambda trial: MapError(failing(trial)), fails_anyway=True)
layer("MapResult(fn)", lambda trial: MapResult(lambda _: trial.explode_once()))
layer("RateLimit(key)", lambda trial: RateLimit(100, per=0.001, key=trial.explode_at))
layer("Retry(backoff)", lambda trial: Retry(2, backoff=failing(trial)), fails_anyway=True)
layer("Retry(retry_if)", lambda trial: Retry(2, backoff=constant(0), retry_if=failing(trial)), fails_anyway=True)
layer("Trace(span)", lambda trial: Trace(lambda task: trial.explode_at(task) or nullcontext()))
layer("Trace(span), on entering", lambda trial: Trace(lambda task: Span(trial, "enter", task)))
layer("Trace(span), on leaving", lambda trial: Trace(lambda task: Span(trial, "exit", task)))


# Which places there are

OF_THE_PROGRAM = "called for the program and not for a task: what it raises comes out where the program waits"
OF_THE_BACKEND = "a part of a backend, whose failure ends the worker"
OF_A_WORKER = "handed to a Monitor and its workers as it is"
BY_A_ROUTER = "tried in tests/router/test_handling.py, as upgrades are in test_versions.py"
ELSEWHERE = "the same function is given at another place too"
NOT_HERE = {
    "Codec.encode": "called in push, whose caller has the error",
    "CronSpec(calendar)": "it stops no other schedule: tests/schedules/test_schedules.py",
    "CronSpec.on(calendar)": "likewise",
    "CustomBackend(receive)": OF_THE_BACKEND,
    "CustomBackend(push)": OF_THE_BACKEND,
    "CustomBackend(settle)": OF_THE_BACKEND,
    "CustomBackend(beat)": OF_THE_BACKEND,
    "CustomBackend(close)": OF_THE_BACKEND,
    "MemoryStorage(codec)": "the methods of a codec are the places",
    "Monitor(around)": OF_THE_PROGRAM,
    "Monitor(terminator)": OF_THE_PROGRAM,
    "Monitor(on_event)": ELSEWHERE,
    "Monitor(should_restart)": OF_THE_PROGRAM,
    "Monitor(restart_backoff)": OF_THE_PROGRAM,
    "Monitor.register(worker)": OF_THE_PROGRAM,
    "Monitor.on_event(listener)": ELSEWHERE,
    "OnSignal(source)": OF_THE_BACKEND,
    "Queues(router)": "made by Router.open, and not by users",
    "Router.task(function)": BY_A_ROUTER,
    "Router.task(layers)": BY_A_ROUTER,
    "Schedules.declare(data)": "values are not called",
    "Schedules.put(data)": "values are not called",
    "Schedules(queue_of)": "called in put, whose caller has the error",
    "SyncSqliteStorage(push_over)": "made by open_sync, and not by users",
    "SyncSqliteStorage(row_of)": "made by open_sync, and not by users",
    "TaskFunction(function)": BY_A_ROUTER,
    "Worker(data)": "values are not called",
    "Worker.prepare(on_event)": ELSEWHERE,
    "Worker.run_until(async_fn)": OF_THE_PROGRAM,
    "WorkerBuilder.layer(layers)": ELSEWHERE,
    "WorkerBuilder.on_event(listeners)": ELSEWHERE,
    "WorkerBuilder.build(handler)": ELSEWHERE,
    "WorkerContext(listeners)": ELSEWHERE,
    "FileStorage(codec)": "the methods of a codec are the places",
    "FileStorage.share(codec)": "the methods of a codec are the places",
    "FileStorage.temporary(codec)": "the methods of a codec are the places",
    "MemoryStorage.share(codec)": "the methods of a codec are the places",
    "Queues.make_workers(data)": OF_A_WORKER,
    "Queues.make_workers(layers)": OF_A_WORKER,
    "Queues.make_workers(on_event)": OF_A_WORKER,
    "Queues.monitor(around)": OF_A_WORKER,
    "Queues.monitor(data)": OF_A_WORKER,
    "Queues.monitor(layers)": OF_A_WORKER,
    "Queues.monitor(on_event)": OF_A_WORKER,
    "Queues.monitor(restart_backoff)": OF_A_WORKER,
    "Queues.monitor(should_restart)": OF_A_WORKER,
    "Queues.monitor(terminator)": OF_A_WORKER,
    "Router.task(data)": "values are not called",
    "SqliteStorage(codec)": "the methods of a codec are the places",
    "SqliteStorage.open_sync(codec)": "the methods of a codec are the places",
    "SqliteStorage.share(codec)": "the methods of a codec are the places",
    "poll(fetch)": OF_THE_BACKEND,
}
TAKES_A_FUNCTION = re.compile(r"Callable|Listener|Backoff|Codec|Layer|Factory|Iterable\[object\]|\bHandler\b")


UNPACKED = re.compile(r"Unpack\[(\w+)\]")


def found_in(module: Any) -> Iterator[str]:
    """Return the public parameters of a module that take user code, and the methods of its protocols."""
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith("_") or inspect.ismodule(value):
            continue
        members = vars(value) if inspect.isclass(value) else {"__init__": value}
        for method, member in members.items():
            function = getattr(member, "__func__", member)
            if not inspect.isfunction(function) or (method.startswith("_") and method != "__init__"):
                continue
            label = name if method == "__init__" else f"{name}.{method}"
            if getattr(value, "_is_protocol", False) and method != "__init__":
                yield label
            for parameter in inspect.signature(function).parameters.values():
                for keyword, annotation in keywords_in(parameter, function):
                    if TAKES_A_FUNCTION.search(annotation):
                        yield f"{label}({keyword})"


def keywords_in(parameter: inspect.Parameter, function: FunctionType) -> Iterator[tuple[str, str]]:
    """Return a parameter and its annotation; or, of ``**options: Unpack[...]``, those of the keywords."""
    unpacked = UNPACKED.fullmatch(str(parameter.annotation))
    options = None if unpacked is None else function.__globals__.get(unpacked[1])
    if options is None:  # it is imported for types only: the same keywords are found elsewhere
        yield parameter.name, str(parameter.annotation)
        return
    for name, annotation in options.__annotations__.items():
        yield name, getattr(annotation, "__forward_arg__", str(annotation))


def test_each_place_where_user_code_is_called_is_tried() -> None:
    public = {each for module in (trio_tasks, trio_tasks.abc, trio_tasks.layers) for each in found_in(module)}
    tried = {name.partition(",")[0] for name in PLACES}
    assert public - tried - NOT_HERE.keys() == set(), "new places: try them here, or say why not"
    assert NOT_HERE.keys() <= public
    assert not NOT_HERE.keys() & tried
    assert len(public & tried) >= 20


# The trials

KINDS = ["memory", "file", "sqlite"]
TRIALS = [
    (name, kind)
    for name in PLACES
    for kind in KINDS
    if not (name in STORED and kind == "memory") and not (name in ON_SQLITE and kind != "sqlite")
]


def opened(kind: str, path: Path, trial: Trial) -> AbstractAsyncContextManager[Any]:
    if kind == "memory":
        return nullcontext(MemoryStorage[Any]())
    if kind == "file":
        return FileStorage(path / "tasks.journal", trial.type, synchronous="NORMAL", **trial.storage)
    return SqliteStorage(path / "tasks.db", trial.type, synchronous="OFF", **trial.storage)


async def run(trial: Trial, path: Path) -> list[Any]:
    """Run a worker over all tasks; return their results."""

    async def handler(args: Any) -> None:
        if trial.fails_anyway and number_of(args) == BAD:
            raise ValueError("on its own")

    with trio.fail_after(60), trial.block:
        async with opened(trial.kind, path, trial) as storage:
            ids = [await storage.push(trial.make_args(number), attempts=trial.attempts) for number in ARGS]
            trial.is_running = True
            storage.close()
            options = {"concurrency": 2, **trial.worker}
            await Worker("w", storage, trial.handler or handler, **options).run()
            return [await storage.wait_for(task_id) for task_id in ids]


REPLACED = {StopIteration, StopAsyncIteration, WithoutClass, HiddenGroup}
"""Python makes a RuntimeError of the first two where they come out of a coroutine; the others raise another error when
trio asks them what they are."""


def kind_of(error: BaseException | None) -> str:
    """Return the name of an error's class, also of an error that was stored."""
    return error.kind.rpartition(".")[2] if type(error) is StoredError else type(error).__name__


def results_of(trial: Trial, path: Path) -> list[Any]:
    """The results. What comes out of the worker must not reach pytest, which would look at it."""
    try:
        return trio.run(run, trial, path)
    except BaseException as error:  # noqa: ASYNC103  it is looked at here
        out = ", ".join(type(each).__name__ for each in leaves(error))
    return pytest.fail(f"out of the worker came {out}", pytrace=False)


def check(trial: Trial, results: list[Any], error: BaseException) -> None:
    """Check that one task has failed with the error, if it should, and that all others are done."""
    assert trial.raised or trial.may_go_unasked, "the error was never raised"
    failed = [number for number, result in zip(ARGS, results, strict=True) if result.status is not Status.Done]
    if trial.is_harmless:
        assert failed == []
        return
    assert len(failed) == 1, failed
    [result] = [result for result in results if result.status is not Status.Done]
    assert result.status in (Status.Failed, Status.Killed)
    if not (trial.fails_anyway or trial.is_wrapped or type(error) in REPLACED):
        assert kind_of(result.error) in (kind_of(error), "ExceptionGroup", "BaseExceptionGroup")


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "kind"), TRIALS, ids=lambda each: each)
def test_user_code_that_raises_costs_one_task(
    name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "sqlite" and find_spec("sqlite3") is None:
        pytest.skip("no SQLite here")
    number = TRIALS.index((name, kind))
    for each in range(scaled(len(ERRORS))):
        make = ERRORS[(7 * number + 20 * each + each // 2) % len(ERRORS)]
        if "child" in name and type(make()) in NOT_BY_A_CHILD:
            continue
        trial = Trial(make, kind)
        PLACES[name](trial)
        folder = tmp_path / str(each)
        folder.mkdir()
        check(trial, results_of(trial, folder), make())
        caplog.clear()
        capsys.readouterr()
