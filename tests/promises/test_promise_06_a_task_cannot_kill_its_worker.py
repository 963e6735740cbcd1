"""Tests of promise 6: an error of a handler is the outcome of its task, and affects no other task."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    Engage,
    Event,
    MemoryStorage,
    Monitor,
    RetryPolicy,
    Start,
    Status,
    Stop,
    Success,
    Task,
    Worker,
    WorkerContext,
    constant,
)
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks.abc import Handler

from tests.promises._run_worker import EventRecord, Open, run_for, run_handler, run_handler_on

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

ONCE = RetryPolicy(1)


class PlainBaseError(BaseException):
    """An error that ``except Exception`` does not catch, as asyncio's CancelledError."""


class UnprintableError(Exception):
    """An error whose text and repr raise."""

    def __str__(self) -> str:
        raise ZeroDivisionError("str")

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("==")

    def __hash__(self) -> int:
        raise ZeroDivisionError("hash")


class UndecidedError(Exception):
    """An error whose ``bool`` and ``len`` raise."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError("bool")

    def __len__(self) -> int:
        raise ZeroDivisionError("len")


class WithoutClassError(Exception):
    """An error whose ``__class__`` raises."""

    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError("class")

    @__class__.setter
    def __class__(self, kind: object) -> None: ...


def deep_group() -> Exception:
    error: Exception = ValueError("deep")
    for _ in range(3 * sys.getrecursionlimit()):
        error = ExceptionGroup("deeper", [error])
    return error


def endless_chain() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    return first


def with_undecided_cause() -> Exception:
    error = ValueError("because of")
    error.__cause__ = UndecidedError()
    return error


def tampered(delay: Any) -> Exception:
    from trio_tasks import RetryAfterError

    error = RetryAfterError("tampered with", 1)
    error.delay = delay
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "PlainBaseError": PlainBaseError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "RecursionError": lambda: RecursionError("too deep"),
    "MemoryError": MemoryError,
    "UnprintableError": UnprintableError,
    "AbortError of a UnprintableError": lambda: AbortError(UnprintableError()),
    "UndecidedError": UndecidedError,
    "an UndecidedError behind it": with_undecided_cause,
    "WithoutClassError": WithoutClassError,
    "a group with SystemExit": lambda: BaseExceptionGroup("group", [SystemExit(3), ValueError()]),
    "a group with GeneratorExit": lambda: BaseExceptionGroup("group", [GeneratorExit(), PlainBaseError()]),
    "a group with UnprintableError": lambda: ExceptionGroup("group", [UnprintableError(), UndecidedError()]),
    "a very deep group": deep_group,
    "an endless chain": endless_chain,
    "a delay that is NaN": lambda: tampered(float("nan")),
    "a delay that is None": lambda: tampered(None),
    "trio.WouldBlock": lambda: trio.WouldBlock(),
    "trio.EndOfChannel": lambda: trio.EndOfChannel(),
    "trio.ClosedResourceError": lambda: trio.ClosedResourceError(),
}


NOT_BY_A_CHILD = {
    "UnprintableError",
    "AbortError of a UnprintableError",
    "a group with UnprintableError",
    "a very deep group",
}
"""trio itself takes the repr of what a child of a nursery raises, and breaks down if that fails."""


@pytest.mark.parametrize("where", ["handler", "child", "layer", "layer, on calling", "sync handler", "from_task"])
@pytest.mark.parametrize("what", RAISED)
def test_promise_06_a_task_cannot_kill_its_worker(what: str, where: str) -> None:
    """The bad task gets all its attempts and an outcome; the good task beside it succeeds."""
    if where == "child" and what in NOT_BY_A_CHILD:
        return
    attempts: list[str] = []

    def misbehave(args: str) -> str:
        attempts.append(args)
        if args == "bad":
            raise RAISED[what]()
        return args

    async def work() -> EventRecord:
        handler, layers = _handler_that(misbehave, where), _layers(misbehave, where)
        return await run_handler(handler, "bad", "good", retry=RetryPolicy(2, constant(0)), layers=layers)

    kinds = _kinds_after(work)
    assert kinds.count("Succeeded") == 1
    assert kinds.count("Succeeded") + kinds.count("Retried") + kinds.count("Failed") + kinds.count("Killed") == len(
        kinds
    )
    assert kinds == ["Retried", "Succeeded", "Failed"] or sorted(kinds) in (
        ["Failed", "Succeeded"],
        ["Killed", "Succeeded"],
    )


def _kinds_after(work: Callable[[], Awaitable[EventRecord]]) -> list[str]:
    """Return the names of the outcomes. What comes out of the worker must not reach pytest, which would look at it."""
    try:
        return trio.run(work).kinds
    except BaseException as error:  # noqa: ASYNC103  it is looked at here, since pytest must not
        out = ", ".join(type(each).__name__ for each in leaves(error))
    return pytest.fail(f"the worker was killed by {out}", pytrace=False)


def _handler_that(misbehave: Callable[[str], str], where: str) -> Callable[..., Any]:
    async def handler(args: str) -> str:
        return misbehave(args)

    async def child(args: str) -> None:
        misbehave(args)

    async def parent(args: str, nursery: trio.Nursery) -> str:
        nursery.start_soon(child, args)
        return args

    class Extracted:
        @classmethod
        async def from_task(cls, task: Task[str]) -> Extracted:
            misbehave(task.args)
            return cls()

    async def with_extracted(args: str, extracted: Any) -> str:
        return args

    async def well_behaved(args: str) -> str:
        return args

    if where == "from_task":
        with_extracted.__annotations__["extracted"] = Extracted
    handlers: dict[str, Callable[..., Any]] = {"handler": handler, "child": parent, "from_task": with_extracted}
    handlers["sync handler"] = misbehave
    return handlers.get(where, well_behaved)


def _layers(misbehave: Callable[[str], str], where: str) -> list[Any]:
    async def layer(handler: Handler[Any, Any], task: Task[Any]) -> Any:
        result = await handler(task)
        misbehave(task.args)
        return result

    def layer_on_calling(handler: Handler[Any, Any], task: Task[Any]) -> Any:
        misbehave(task.args)
        return handler(task)

    return {"layer": [layer], "layer, on calling": [layer_on_calling]}.get(where, [])


class Unprintable:
    """A value whose repr raises."""

    def __init__(self, error: type[BaseException] = ZeroDivisionError) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error("repr")

    def __eq__(self, other: object) -> bool:
        raise self.error("==")

    def __bool__(self) -> bool:
        raise self.error("bool")

    def __hash__(self) -> int:
        raise self.error("hash")


def fail_on_everything(context: WorkerContext, event: Event) -> None:
    raise ValueError(f"a listener fails on {type(event).__name__}")


@pytest.mark.parametrize("listener", [fail_on_everything, lambda context, event: repr(event)])
def test_promise_06_a_task_cannot_kill_its_worker_by_what_it_returns(listener: Any) -> None:
    """The worker survives any result, and any args."""

    async def handler(args: object) -> Any:
        return args

    args = [Unprintable(), Unprintable(SystemExit), 1]
    assert _kinds_after(lambda: run_handler(handler, *args, on_event=[listener])) == ["Succeeded"] * 3


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), PlainBaseError(), BaseExceptionGroup("", [SystemExit()])]
)
def test_promise_06_a_task_cannot_kill_its_worker_by_a_failing_listener(error: BaseException) -> None:
    """A failing listener does not change an outcome, and other listeners get the same events."""
    heard: list[Event] = []

    def fail(context: WorkerContext, event: Event) -> None:
        heard.append(event)
        raise error

    async def handler(args: int) -> int:
        return args

    assert _kinds_after(lambda: run_handler(handler, 1, 2, on_event=[fail])) == ["Succeeded", "Succeeded"]
    assert [type(each) for each in heard] == [Start, *[Engage, Success] * 2, Stop]


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), PlainBaseError(), BaseExceptionGroup("", [SystemExit()])]
)
def test_promise_06_a_task_cannot_kill_its_worker_by_work_that_it_tracks(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async def handler(args: int, context: WorkerContext) -> None:
        context.track(fail)
        await trio.lowlevel.checkpoint()

    assert _kinds_after(lambda: run_handler(handler, 1, 2)) == ["Succeeded", "Succeeded"]


@pytest.mark.parametrize("error", [ValueError, UnprintableError])
def test_promise_06_a_task_cannot_kill_its_worker_by_a_policy_that_does_not_know_its_error(
    error: type[Exception],
) -> None:
    """The policy reads an attribute that this error does not have."""

    async def handler(args: int) -> None:
        if args:
            raise error

    policy = RetryPolicy(3, constant(0), lambda error: bool(error.code == 503))  # type: ignore[attr-defined]  # not all
    assert _kinds_after(lambda: run_handler(handler, 1, 0, retry=policy))[-1] == "Succeeded"


@pytest.mark.parametrize("delay", [float("nan"), -1, float("inf"), None])
async def test_promise_06_a_task_cannot_kill_its_worker_by_a_backoff_that_is_none(delay: Any) -> None:
    async def handler(args: int) -> None:
        if args:
            raise ValueError("no")

    record = await run_handler(handler, 1, 0, retry=RetryPolicy(3, lambda attempt: delay))
    assert record.kinds[-1] == "Succeeded"


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_promise_06_a_task_cannot_kill_its_worker_by_a_context_variable(error: type[BaseException]) -> None:
    """The next task does not see a context variable that the previous one has set."""
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default=None)
    found = []

    async def handler(args: int) -> None:
        found.append(variable.get())
        variable.set(Unprintable(error))

    mine = Unprintable(error)

    async def work() -> EventRecord:
        variable.set(mine)
        return await run_handler(handler, 1, 2, 3)

    assert _kinds_after(work) == ["Succeeded"] * 3
    assert [each is mine for each in found] == [True] * 3


async def test_promise_06_a_task_cannot_kill_its_worker_by_a_cancellation_from_elsewhere() -> None:
    """A Cancelled that was caught in another scope and is raised here counts as an ordinary error."""
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            caught.append(cancelled)
            raise

    async def handler(args: int) -> None:
        if args == 1:
            raise caught[0]
        if args == 2:
            raise BaseExceptionGroup("mixed", [caught[0], ValueError("beside it")])

    record = await run_handler(handler, 1, 2, 3, retry=ONCE)
    assert record.kinds == ["Failed", "Failed", "Succeeded"]


async def test_promise_06_a_task_cannot_kill_its_worker_by_closing_things(autojump_clock: MockClock) -> None:
    """The handler closes the storage. Waiting tasks are still done, and the worker ends normally."""
    storage = MemoryStorage[int]()

    async def handler(args: int, context: WorkerContext, nursery: trio.Nursery) -> None:
        await storage.aclose()
        nursery.cancel_scope.cancel()
        context.pause()
        context.resume()
        if args == 3:
            context.stop()

    await storage.push_bulk(range(5))
    record = await run_handler_on(storage, handler)
    assert record.kinds == ["Succeeded"] * 4
    assert storage.statistics().waiting == 1


async def test_promise_06_a_task_cannot_kill_its_worker_by_real_recursion() -> None:
    async def handler(args: int) -> None:
        if args:
            await handler(args)

    record = await run_handler(handler, 1, 0, retry=ONCE)
    assert record.kinds == ["Failed", "Succeeded"]


# What does pass


@pytest.mark.parametrize("grouped", [False, True])
async def test_promise_06_a_task_cannot_kill_its_worker_but_a_keyboard_interrupt_passes(grouped: bool) -> None:
    """It releases the interrupted task and the tasks beside it."""
    storage, record = MemoryStorage[int](), EventRecord()

    async def handler(args: int) -> None:
        if args == 1:
            error = KeyboardInterrupt()
            raise BaseExceptionGroup("grouped", [error]) if grouped else error
        await trio.sleep_forever()

    await storage.push_bulk([0, 0, 1])
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await run_handler_on(storage, handler, concurrency=3, on_event=[record])
    assert record.kinds == ["Released"] * 3
    for task in await storage.list_tasks():
        assert (task.parts.status, task.parts.attempt) == (Status.Pending, 0)


async def test_promise_06_a_task_cannot_kill_its_worker_but_a_cancellation_passes(autojump_clock: MockClock) -> None:
    """A cancellation in a group with errors passes, too."""
    storage, record = MemoryStorage[int](), EventRecord()

    async def fail_of_it() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("of being cancelled")

    async def handler(args: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(fail_of_it)
        await trio.sleep_forever()

    await storage.push(0)
    await run_for(5, Worker("cancelled", storage, handler, retry=ONCE, on_event=record))
    assert record.kinds == ["Released"]
    assert storage.statistics().waiting == 1


@pytest.mark.parametrize("verb", ["receive", "settle", "beat"])
async def test_promise_06_a_task_cannot_kill_its_worker_but_a_failing_backend_ends_it(
    autojump_clock: MockClock, verb: str
) -> None:
    """The monitor decides what follows. Here it restarts the worker, and all tasks are done."""

    class Failing(Open):
        fails = True

        def note(self, what: str) -> None:
            if what == verb and self.fails:
                self.fails = False
                raise ConnectionError(verb)
            super().note(what)

    async def handler(args: int) -> int:
        return args

    worker = Worker("on it", Failing(1, heartbeat_interval=1), handler)
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match=verb)):
        await run_for(5, worker)

    backend = Failing(1, 2, heartbeat_interval=1)
    monitor = Monitor(should_restart=lambda context, error, attempt: True)
    monitor.register(Worker("restarted", backend, handler))
    with trio.move_on_after(60):
        await monitor.run()
    assert len(monitor.report.errors) == monitor.report.restarts == 1
    assert backend.settled


def test_promise_06_a_task_cannot_kill_its_worker_by_the_error_of_a_listener_to_its_beginning() -> None:
    """The listener raises at the event Engage; the attempt goes on."""

    def fail(context: WorkerContext, event: Event) -> None:
        if isinstance(event, Engage):
            raise PlainBaseError

    async def handler(args: int) -> int:
        return args

    assert _kinds_after(lambda: run_handler(handler, 1, 2, on_event=[fail], retry=ONCE)) == ["Succeeded"] * 2
