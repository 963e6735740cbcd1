"""Rules about SqliteStorage and FileStorage when a method of their engine raises."""

from __future__ import annotations

import inspect
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import trio

from ..._concurrency.exception_groups import is_a, leaves
from ..._contracts.schedules import ScheduleChange
from ..._contracts.transfer import StoredTask
from ..._logging import catch_errors
from ..._tasks.errors import BackendError
from ..._tasks.outcome import Succeeded
from .harness import TICK
from .rule import Feature, expect, expect_that, rule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from ..._tasks.task import Task
    from .harness import Harness

_UNKNOWN = "no-such-task"


class _PlainBaseError(BaseException):
    """An error that is a BaseException, but not an Exception."""


def _errors() -> list[BaseException]:
    return [
        BackendError("refused"),
        OSError(5, "an I/O error"),
        SystemExit(3),
        GeneratorExit(),
        _PlainBaseError("refused"),
    ]


def _verbs() -> list[str]:
    """The names of the methods of an engine that are called while it is open."""
    from ..._backends.durable.engine import Engine  # here, so that checks of other backends do not import it

    found = inspect.getmembers(Engine, inspect.iscoroutinefunction)
    return [name for name, _ in found if name not in ("open", "aclose", "listen")]


def _calls(harness: Harness, waiting: Task[Any]) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return, for each method of the engine, an operation of the storage that calls it."""
    storage = harness.backend
    engine, ask = storage._loop.engine, storage._loop.ask
    return {
        "exchange": lambda: harness.push(2),
        "renew": lambda: ask(engine.renew, [], 1.0),
        "set_options": lambda: ask(engine.set_options, None, b""),
        "report": lambda: ask(engine.report, None, b""),
        "find": lambda: storage.fetch_by_id(waiting.parts.id),
        "locate": lambda: storage.explain(waiting.parts.id),
        "search": storage.list_tasks,
        "change": storage.cancel_all,
        "find_each": lambda: storage.fetch_by_id([_UNKNOWN]),
        "change_each": lambda: storage.cancel([_UNKNOWN]),
        "cancel": lambda: storage.cancel(_UNKNOWN),
        "abort": lambda: storage.abort(_UNKNOWN),
        "reschedule": lambda: storage.reschedule(_UNKNOWN, 1),
        "update": lambda: storage.update(waiting),
        "resume": lambda: storage.resume_by_id(_UNKNOWN),
        "resume_abandoned": storage.resume_abandoned,
        "forget": storage.vacuum,
        "metrics": storage.metrics,
        "audit": storage.audit,
        "set_paused": storage.resume,
        "set_limits": lambda: storage.set_limits(None),
        "get_limits": storage.get_limits,
        "list_limits": storage.list_limits,
        "minutes": storage.throughput,
        "inspect": storage.inspect,
        "schedules": storage.list_schedules,
        "set_schedules": lambda: storage.set_schedules([ScheduleChange("a", 1, None)]),
        "read_rows": storage.export_tasks,
        "insert_rows": lambda: storage.import_tasks([StoredTask(id=_UNKNOWN, state="done", payload=b"", since=0.0)]),
        "queues": storage.list_queues,
        "register": lambda: ask(engine.register, storage.queue, []),
        "workers": storage.list_workers,
        "ask_workers": lambda: ask(engine.ask_workers, storage.queue),
    }


@contextmanager
def _replaced(engine: Any, verb: str, method: Callable[..., Any]) -> Generator[None, None, None]:
    setattr(engine, verb, method)
    try:
        yield
    finally:
        if verb in vars(engine):
            delattr(engine, verb)


@contextmanager
def _raising(harness: Harness, verb: str, error: BaseException, *, once: bool = True) -> Generator[None, None, None]:
    """Make this method of the engine raise inside the block: at its first call, or at every call."""
    engine = harness.backend._loop.engine

    async def fail(*_: object, **__: object) -> None:
        if once:
            delattr(engine, verb)
        raise error

    with _replaced(engine, verb, fail):
        yield


def _expect_told(what: str, error: BaseException, caught: BaseException | None) -> None:
    """Check that an error came out, and that it is the one raised by the engine, or a BackendError."""
    is_told = caught is not None and all(each is error or is_a(each, BackendError) for each in leaves(caught))
    expect_that(what, is_told, repr(caught) if caught is not None else "no error", f"{error!r} or a BackendError")


@rule(6, Feature.ENGINE)
async def an_engine_error_reaches_only_its_caller(harness: Harness) -> None:
    """An error of a method of the engine reaches only the operation that called it."""
    await harness.push(1)
    [waiting] = await harness.backend.list_tasks()
    calls = _calls(harness, waiting)
    for verb in _verbs():
        for error in _errors():
            with harness.limit(harness.max_wait), _raising(harness, verb, error), catch_errors() as caught:
                await calls[verb]()
            _expect_told(f"what needs {verb}() of an engine that raises {error!r}", error, caught.error)
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    await harness.expect_nothing()


@rule(2, Feature.ENGINE)
async def a_settlement_outlives_an_engine_that_raises(harness: Harness) -> None:
    """A task that is settled while the engine raises any error is settled as soon as the engine works again."""
    before = (await harness.backend.metrics())["succeeded"]
    for number, error in enumerate(_errors(), 1):
        await harness.push(number)
        task = await harness.receive_number(number)
        with harness.limit(harness.max_wait), _raising(harness, "exchange", error), catch_errors() as caught:
            await harness.settle(task, Succeeded(None))
        expect(f"settling while the engine raises {error!r}", caught.error, None)
        succeeded = (await harness.backend.metrics())["succeeded"] - before
        expect(f"the tasks that have succeeded after {error!r}", succeeded, number)


@rule(2, Feature.ENGINE)
async def a_closing_that_raises_ends_all_the_same(harness: Harness) -> None:
    """A storage whose engine raises during closing still closes the engine, leaves no trio task behind, and does not
    keep the program from going on.
    """
    me = trio.lowlevel.current_task()
    await harness.close()
    alone = len(me.child_nurseries)
    for error in _errors():
        for verb in ("aclose", "exchange"):
            await harness.open()
            await harness.push(1)
            await _close_while_raising(harness, verb, error)
            what = f"the nurseries left open by a storage that was closed while {verb}() of its engine raised {error!r}"
            expect(what, len(me.child_nurseries) - alone, 0)
    await harness.open()


async def _close_while_raising(harness: Harness, verb: str, error: BaseException) -> None:
    """Close the storage while a settlement is under way, and check that both end, and that the engine is closed
    once.
    """
    backend, task, is_settled = harness.backend, await harness.receive(), trio.Event()
    aclose, closed = backend._loop.engine.aclose, 0

    async def close() -> None:
        nonlocal closed
        closed += 1
        await aclose()
        if verb == "aclose":
            raise error

    async def settle() -> None:
        with catch_errors():  # the storage may be closed already
            await backend.settle(task, Succeeded(None))
        is_settled.set()

    with _replaced(backend._loop.engine, "aclose", close):
        with _raising(harness, verb, error, once=False) if verb == "exchange" else nullcontext():
            harness.start_beside(settle)
            await trio.sleep(TICK)
            with catch_errors() as caught:
                await harness.close()
    with harness.limit(harness.max_wait):
        await is_settled.wait()
    if not is_settled.is_set():
        backend._loop.fail(BackendError("it was closed"))  # settling cannot be cancelled
    what = f"closing a storage while {verb}() of its engine raises {error!r}"
    expect(f"{what}: whether a settlement that was under way has ended", is_settled.is_set(), True)
    expect(f"{what}: how often its engine was closed", closed, 1)
    if verb == "aclose" or caught.error is not None:
        _expect_told(what, error, caught.error)
