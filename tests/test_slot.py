"""Tests of slots: whatever a handler does, its task is settled once, and the worker goes on."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    Backend,
    DeferredError,
    Engage,
    Error,
    Event,
    Failed,
    Killed,
    LeaseLostError,
    MemoryStorage,
    Outcome,
    Release,
    Released,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Status,
    Succeeded,
    Success,
    Task,
    TaskId,
    Worker,
    WorkerContext,
    WorkerReport,
    constant,
)
from trio_tasks.abc import NowaitBackend

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

ONCE = RetryPolicy(attempts=1)


class Listener:
    """A listener that records events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, context: WorkerContext, event: Event) -> None:
        self.events.append(event)

    def outcomes(self) -> list[Outcome]:
        found: list[Outcome] = []
        for each in self.events:
            if isinstance(each, Success):
                found.append(Succeeded(each.result))
            elif isinstance(each, (Error, Release)):
                found.append(each.outcome)
        return found


async def outcomes_of(handler: Callable[..., Any], **options: Any) -> list[Outcome]:
    """How the attempts at one task end, and that the worker survives them."""
    storage, listener = MemoryStorage[int](), Listener()
    await storage.push(1)
    storage.close()
    options.setdefault("retry", RetryPolicy(attempts=2, backoff=constant(1)))
    await Worker("w", storage, handler, on_event=listener, **options).run()
    return listener.outcomes()


async def interrupt(
    handler: Callable[..., Awaitable[object]], **options: Any
) -> tuple[WorkerReport, MemoryStorage[int]]:
    """Start one attempt, cancel the worker a second later, and see what it says."""
    storage = MemoryStorage[int]()
    await storage.push(1)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler, **options).run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    return context.report(), storage


# What a handler raises is its task's outcome


class Odd(BaseException):
    """An exception that is neither an Exception nor one of Python's own."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        trio.EndOfChannel("not the end of anything"),
        trio.WouldBlock("no"),
        trio.ClosedResourceError("no"),
        trio.TooSlowError("no"),
        SystemExit(3),
        GeneratorExit("no"),
        Odd("no"),
        StopAsyncIteration("no"),
        LeaseLostError("not a backend's"),
        MemoryError("no"),
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
        BaseExceptionGroup("odd", [Odd("a"), SystemExit(1)]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_is_raised_is_an_outcome(error: BaseException, autojump_clock: MockClock) -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    assert await outcomes_of(handler) == [Retried(error, 1), Failed(error)]


async def test_stop_iteration_from_a_layer_is_an_outcome_too(autojump_clock: MockClock) -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    def layer(inner: Any, task: Task[int]) -> Any:
        raise StopIteration("a plain function can raise it")

    (outcome,) = await outcomes_of(handler, layers=[layer], retry=ONCE)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, StopIteration)


async def test_a_layer_that_returns_what_cannot_be_awaited_fails_the_attempt() -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()

    def layer(inner: Any, task: Task[int]) -> Any:
        return 5

    (outcome,) = await outcomes_of(handler, layers=[layer], retry=ONCE)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TypeError)


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (AbortError("enough"), [Killed]),
        (DeferredError("later"), [Retried, Failed]),
        (RetryAfterError("later", 3), [Retried, Failed]),
        (ExceptionGroup("both", [DeferredError("a"), AbortError("b")]), [Killed]),
    ],
    ids=["abort", "deferred", "retry after", "abort beats deferred"],
)
async def test_an_error_says_what_becomes_of_its_task(
    error: Exception, kinds: list[type[Outcome]], autojump_clock: MockClock
) -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    found = await outcomes_of(handler)
    assert [type(each) for each in found] == kinds
    assert all(getattr(each, "error", None) is error for each in found)


def nonsense_backoff(attempt: int) -> float:
    return math.nan


def broken_backoff(attempt: int) -> float:
    raise KeyError(attempt)


def broken_predicate(error: BaseException) -> bool:
    return bool(error.status > 500)  # type: ignore[attr-defined]  # which is what is wrong with it


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(backoff=nonsense_backoff),
        RetryPolicy(backoff=broken_backoff),
        RetryPolicy(retry_if=broken_predicate),
    ],
    ids=["backoff gives NaN", "backoff raises", "retry_if raises"],
)
async def test_a_retry_policy_that_fails_does_not_kill_the_worker(
    policy: RetryPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    error = ValueError("the handler's")
    with caplog.at_level(logging.CRITICAL + 1, "trio_tasks"):
        (outcome,) = await outcomes_of(handler, retry=policy)
    assert isinstance(outcome, (Failed, Killed))
    assert outcome.error is error


# Time limits


async def test_an_attempt_that_takes_too_long_is_cancelled_and_fails(autojump_clock: MockClock) -> None:
    storage, listener = MemoryStorage[int](), Listener()
    await storage.push(1, timeout=5, attempts=1)
    storage.close()
    start = trio.current_time()

    async def handler(n: int) -> None:
        await trio.sleep(100)

    await Worker("w", storage, handler, on_event=listener).run()
    (outcome,) = listener.outcomes()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, trio.TooSlowError)
    assert "longer than its 5.0 seconds" in str(outcome.error)
    assert trio.current_time() - start == 5


async def test_an_attempt_that_finishes_in_spite_of_the_time_limit_has_succeeded(autojump_clock: MockClock) -> None:
    storage, listener = MemoryStorage[int](), Listener()
    await storage.push(1, timeout=5)
    storage.close()

    async def handler(n: int) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        return "done"

    await Worker("w", storage, handler, on_event=listener).run()
    assert listener.outcomes() == [Succeeded("done")]


async def test_a_handlers_own_timeout_is_a_failure_not_an_interruption(autojump_clock: MockClock) -> None:
    async def handler(n: int) -> None:
        with trio.fail_after(1):
            await trio.sleep(5)

    (outcome,) = await outcomes_of(handler, retry=ONCE)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, trio.TooSlowError)


async def test_a_handler_may_cancel_its_own_scopes(autojump_clock: MockClock) -> None:
    async def handler(n: int) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.cancel_scope.cancel()
        return "done"

    assert await outcomes_of(handler) == [Succeeded("done")]


# Interruptions


async def stuck(n: int) -> None:
    await trio.sleep_forever()  # the line at which it is stuck


async def cleans_up_badly(n: int) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("the clean-up failed")


async def translates(n: int) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise RetryAfterError(OSError("gone"), 5)


async def gathers(n: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck, n)
        nursery.start_soon(stuck, n)
        await trio.sleep_forever()


async def gathers_and_cleans_up_badly(n: int) -> None:
    try:
        await gathers(n)
    finally:
        raise ValueError("the clean-up failed")


async def gathers_one_that_cleans_up_badly(n: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cleans_up_badly, n)
        await trio.sleep_forever()


async def everything_fails(n: int) -> None:
    try:
        await gathers_one_that_cleans_up_badly(n)
    finally:
        raise KeyError("and so did this")


@pytest.mark.parametrize(
    "handler",
    [
        stuck,
        cleans_up_badly,
        translates,
        gathers,
        gathers_and_cleans_up_badly,
        gathers_one_that_cleans_up_badly,
        everything_fails,
    ],
    ids=lambda handler: str(handler.__name__),
)
async def test_an_interruption_costs_no_attempt_whatever_the_cleaning_up_raises(
    handler: Callable[..., Awaitable[object]], autojump_clock: MockClock
) -> None:
    report, storage = await interrupt(handler)
    assert report == WorkerReport("w", released=1, interrupted=report.interrupted)
    assert len(report.interrupted) == 1
    task = await storage.receive()
    assert task.parts.attempt == 1
    assert task.parts.holder is None


async def test_an_attempt_that_finishes_in_spite_of_being_cancelled_has_succeeded(autojump_clock: MockClock) -> None:
    async def handler(n: int) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return "done"

    report, storage = await interrupt(handler)
    assert (report.succeeded, report.interrupted) == (1, ())
    assert storage.statistics().succeeded == 1


async def test_an_error_of_its_own_at_the_time_of_the_cancellation_is_a_failure(autojump_clock: MockClock) -> None:
    async def handler(n: int) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        raise ValueError("its own")

    report, _ = await interrupt(handler, retry=ONCE)
    assert (report.failed, report.interrupted) == (1, ())


async def test_a_cancelled_worker_takes_no_further_task(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(10))
    started: list[int] = []

    async def handler(n: int) -> None:
        started.append(n)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, concurrency=2).run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(started) == 2
    assert storage.statistics().waiting == 10


# Where it was stuck


def line_of(text: str) -> str:
    """``path:line`` of the first line of this file that holds the text."""
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123  a test may open itself
        number = next(n for n, line in enumerate(file, 1) if text in line)
    return f"{__file__}:{number}"


async def test_an_interruption_names_worker_task_and_line(autojump_clock: MockClock) -> None:
    report, storage = await interrupt(stuck)
    (found,) = report.interrupted
    task = await storage.receive()
    assert found.worker == "w"
    assert found.task_id == task.parts.id
    where = line_of("the line at which it is stuck")
    assert found.where == f"{where} in stuck: await trio.sleep_forever()  # the line at which it is stuck"


async def test_where_is_found_behind_a_failed_clean_up(autojump_clock: MockClock) -> None:
    report, _ = await interrupt(cleans_up_badly)
    assert " in cleans_up_badly: await trio.sleep_forever()" in report.interrupted[0].where


async def test_where_is_found_in_a_child(autojump_clock: MockClock) -> None:
    async def child_of_ours() -> None:
        await trio.sleep_forever()

    async def handler(n: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(child_of_ours)
        await trio.lowlevel.checkpoint()

    report, _ = await interrupt(handler)
    assert " in child_of_ours: await trio.sleep_forever()" in report.interrupted[0].where


async def parent_of_a_bare_child(n: int) -> None:
    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  the nursery is what the test is about
        nursery.start_soon(trio.sleep_forever)


async def test_a_child_without_code_of_the_user_is_found_where_it_was_waited_for(autojump_clock: MockClock) -> None:
    report, _ = await interrupt(parent_of_a_bare_child)
    assert " in parent_of_a_bare_child: " in report.interrupted[0].where


async def test_where_is_found_under_layers(autojump_clock: MockClock) -> None:
    async def layer(inner: Any, task: Task[int]) -> Any:
        return await inner(task)

    report, _ = await interrupt(stuck, layers=[layer, layer])
    assert line_of("the line at which it is stuck") in report.interrupted[0].where


async def test_where_is_found_in_a_context_manager(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def slow_to_open() -> Any:
        await trio.sleep_forever()  # not yet open
        yield

    async def handler(n: int) -> None:
        async with slow_to_open():
            pass

    report, _ = await interrupt(handler)
    assert line_of("not yet open") in report.interrupted[0].where


async def test_where_is_found_in_a_thread() -> None:
    started = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def handler(n: int) -> None:
        token.run_sync_soon(started.set)
        while True:
            trio.from_thread.check_cancelled()  # asks now and then

    storage = MemoryStorage[int]()
    await storage.push(1)
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, handler).run)
        await started.wait()
        nursery.cancel_scope.cancel()
    (found,) = context.report().interrupted
    assert line_of("asks now and then") in found.where


def test_a_neighbour_whose_name_begins_as_ours_is_not_machinery() -> None:
    from trio_tasks._concurrency import stacks

    ours = __import__("trio_tasks").__file__
    assert ours is not None
    neighbour = ours.replace("trio_tasks/__init__.py", "trio_tasks_of_mine/app.py")
    assert ours.startswith(stacks._MACHINERY)
    assert not neighbour.startswith(stacks._MACHINERY)


# Aborting one attempt


async def test_an_aborted_attempt_is_killed_and_its_slot_goes_on(autojump_clock: MockClock) -> None:
    storage, listener = MemoryStorage[float](), Listener()
    first = await storage.push(1000)
    await storage.push_bulk([1, 2])

    async def handler(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, concurrency=1, on_event=listener).run)
        await trio.sleep(5)
        assert await storage.abort(first)
        storage.close()
        result = await storage.wait_for(first)
    assert result.status is Status.Killed
    assert [type(each) for each in listener.outcomes()] == [Killed, Succeeded, Succeeded]


async def test_an_attempt_that_aborts_itself_does_not_cancel_the_next(autojump_clock: MockClock) -> None:
    storage, listener = MemoryStorage[int](), Listener()
    await storage.push_bulk([1, 2])
    storage.close()

    async def handler(task: Task[int]) -> None:
        if task.args == 1:
            assert await storage.abort(task.parts.id)
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    await Worker("w", storage, handler, concurrency=1, on_event=listener).run()
    assert [type(each) for each in listener.outcomes()] == [Killed, Succeeded]


async def test_an_attempt_that_finishes_in_spite_of_the_abort_has_succeeded(autojump_clock: MockClock) -> None:
    storage, listener = MemoryStorage[int](), Listener()
    ids = await storage.push_bulk([1, 2])

    async def handler(n: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return n

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, handler, concurrency=1, on_event=listener).run)
        await trio.sleep(1)
        assert await storage.abort(ids[0])
        storage.close()
    assert listener.outcomes() == [Succeeded(1), Succeeded(2)]


async def test_no_attempt_is_aborted_twice_or_after_its_end(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    assert not await storage.abort(task_id)  # it waits
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, stuck).run)
        await trio.sleep(1)
        assert await storage.abort(task_id)
        await storage.wait_for(task_id)
        assert not await storage.abort(task_id)
        storage.close()


async def test_an_abort_during_slow_settling_does_not_hit_the_next_attempt(autojump_clock: MockClock) -> None:
    class SlowToSettle(Backend[int]):
        """Settles in five seconds."""

        def __init__(self) -> None:
            self.waiting = [Task(2), Task(1)]
            self.settled: list[tuple[int, Outcome]] = []

        async def receive(self) -> Task[int]:
            await trio.lowlevel.checkpoint()
            if not self.waiting:
                raise trio.EndOfChannel
            return self.waiting.pop()

        async def settle(self, task: Task[Any], outcome: Outcome) -> None:
            await trio.sleep(5)
            self.settled.append((task.args, outcome))

    backend = SlowToSettle()
    first = backend.waiting[-1]

    async def handler(n: int) -> int:
        await trio.sleep(1)
        return n

    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", backend, handler, concurrency=1).run)
        await trio.sleep(3)
        assert first.parts.holder is not None
        first.parts.holder.revoke(Killed(AbortError("too late")))
    assert backend.settled == [(1, Succeeded(1)), (2, Succeeded(2))]


async def test_an_abort_and_a_cancellation_at_once_leave_the_task_killed(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", storage, stuck).run)
        await trio.sleep(1)
        assert await storage.abort(task_id)
        nursery.cancel_scope.cancel()
    assert storage.statistics().killed == 1
    assert storage.statistics().waiting == 0


# Settling


class Scripted(Backend[int]):
    """A backend that gives one task and ends; it settles as it is told."""

    def __init__(self, settle: Callable[[], Awaitable[None]], tasks: int = 1) -> None:
        self.tasks = [Task(n) for n in range(tasks)]
        self.settled: list[Outcome] = []
        self._settle = settle

    async def receive(self) -> Task[int]:
        await trio.lowlevel.checkpoint()
        if not self.tasks:
            raise trio.EndOfChannel
        return self.tasks.pop()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await self._settle()
        self.settled.append(outcome)


async def handle(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n


class AtOnce(Scripted, NowaitBackend[int]):
    """A scripted backend that settles without waiting, and raises LeaseLostError each time."""

    asked = 0

    def receive_nowait(self) -> Task[int]:
        if not self.tasks:
            raise trio.EndOfChannel
        return self.tasks.pop()

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        self.asked += 1
        raise LeaseLostError("somebody else has it")


async def test_a_settlement_that_is_refused_at_once_is_not_asked_for_again() -> None:
    backend = AtOnce(trio.lowlevel.checkpoint)
    report = await Worker("w", backend, handle).run()
    assert (backend.asked, report.released) == (1, 1)


@pytest.mark.parametrize("error", [OSError("gone"), trio.EndOfChannel("not that end")], ids=["error", "end of channel"])
async def test_a_backend_that_cannot_settle_ends_the_worker(error: Exception) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    worker = Worker("w", Scripted(fail), handle)
    context = worker.prepare()
    with pytest.RaisesGroup(type(error)) as caught:
        await worker.run(context)
    assert caught.value.exceptions == (error,)
    assert not context.running_tasks


async def test_a_backend_that_takes_too_long_to_settle_has_failed(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    with pytest.RaisesGroup(trio.TooSlowError):
        await Worker("w", Scripted(trio.sleep_forever), handle, settle_timeout=3).run()
    assert trio.current_time() - start == 3


async def test_a_lost_lease_is_no_failure_of_the_backend() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise LeaseLostError("somebody else has it")

    listener = Listener()
    report = await Worker("w", Scripted(fail, tasks=3), handle, on_event=listener).run()
    assert report == WorkerReport("w", released=3)
    assert listener.outcomes() == [Released("its lease was lost")] * 3


async def test_settling_is_shielded_from_cancellation(autojump_clock: MockClock) -> None:
    async def slowly() -> None:
        await trio.sleep(5)

    backend = Scripted(slowly)
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker("w", backend, stuck).run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert backend.settled == [Released("cancelled")]


async def test_nothing_of_an_attempt_runs_any_more_when_it_is_settled(autojump_clock: MockClock) -> None:
    running = 0

    async def child() -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep(3)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            running -= 1

    async def handler(n: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(child)
        nursery.start_soon(child)
        await trio.sleep(n)
        if n:
            raise ValueError("the children are cancelled")

    async def count() -> None:
        await trio.lowlevel.checkpoint()
        counted.append(running)

    counted: list[int] = []
    await Worker("w", Scripted(count, tasks=2), handler, concurrency=1, retry=ONCE).run()
    assert counted == [0, 0]


# KeyboardInterrupt


async def test_a_keyboard_interrupt_passes_through_and_releases(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await Worker("w", storage, handler).run()
    assert storage.statistics().waiting == 1
    assert (await storage.receive()).parts.attempt == 1


@pytest.mark.parametrize("kind", [Engage, Success])
async def test_a_keyboard_interrupt_in_a_listener_loses_no_task(kind: type[Event]) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2])

    def listener(context: WorkerContext, event: Event) -> None:
        if isinstance(event, kind):
            raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await Worker("w", storage, handle, concurrency=1, on_event=listener).run()
    counts = storage.statistics()
    assert counts.running == 0
    assert counts.waiting + counts.succeeded == 2


# One attempt after the other


variable: ContextVar[object] = ContextVar("variable", default="default")


async def seen_by_each_attempt(values: list[object], *, fails: bool = False) -> list[object]:
    storage = MemoryStorage[object]()
    await storage.push_bulk(values)
    storage.close()
    seen: list[object] = []

    async def handler(value: object) -> None:
        seen.append(variable.get())
        variable.set(value)
        await trio.lowlevel.checkpoint()
        if fails:
            raise ValueError("no")

    await Worker("w", storage, handler, concurrency=1, retry=ONCE).run()
    return seen


@pytest.mark.parametrize("fails", [False, True])
async def test_a_context_variable_does_not_reach_the_next_attempt(fails: bool) -> None:
    assert await seen_by_each_attempt(["a", "b", "c"], fails=fails) == ["default"] * 3


async def test_attempts_see_the_context_in_which_the_worker_was_run() -> None:
    token = variable.set("outside")
    try:
        assert await seen_by_each_attempt(["a", "b"]) == ["outside"] * 2
    finally:
        variable.reset(token)


class NotComparable:
    """An object whose comparison raises."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare me")

    __hash__ = None  # type: ignore[assignment]  # nor hashed


async def test_a_context_variable_that_cannot_be_compared_does_no_harm() -> None:
    token = variable.set(NotComparable())
    try:
        seen = await seen_by_each_attempt([NotComparable(), NotComparable(), 3])
    finally:
        outside = variable.get()
        variable.reset(token)
    assert all(each is outside for each in seen)


async def test_an_equal_value_is_not_the_same_value() -> None:
    outside: list[int] = []
    token = variable.set(outside)
    try:
        seen = await seen_by_each_attempt([[], [], []])
    finally:
        variable.reset(token)
    assert all(each is outside for each in seen)


async def test_a_variable_reaches_the_children_of_its_attempt_and_its_thread() -> None:
    seen: list[object] = []

    async def child() -> None:
        seen.append(variable.get())
        seen.append(await trio.to_thread.run_sync(variable.get))

    async def handler(n: int) -> None:
        variable.set(n)
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  the nursery is what the test is about
            nursery.start_soon(child)

    await outcomes_of(handler)
    assert seen == [1, 1]


async def test_the_holder_is_there_for_the_attempt_and_no_longer() -> None:
    tasks: list[Task[int]] = []
    contexts: list[WorkerContext] = []

    async def handler(task: Task[int]) -> None:
        tasks.append(task)
        contexts.append(WorkerContext.of(task))
        await trio.lowlevel.checkpoint()

    await outcomes_of(handler)
    assert contexts[0].name == "w"
    assert tasks[0].parts.holder is None
    with pytest.raises(Exception, match=f"no worker has claimed task {tasks[0].parts.id}"):
        WorkerContext.of(tasks[0])


async def test_current_lines_name_the_line_of_each_attempt(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    ids: list[TaskId] = [await storage.push(1), await storage.push(2)]
    async with trio.open_nursery() as nursery:
        context: WorkerContext = await nursery.start(Worker("w", storage, stuck).run)
        await trio.sleep(1)
        found = context.current_lines()
        nursery.cancel_scope.cancel()
    assert found.keys() == set(ids)
    assert all(line_of("the line at which it is stuck") in each for each in found.values())
