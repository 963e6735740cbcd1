"""Tests of the adapter from a function to a handler: calls, threads and cancellation.

The annotations in this file are evaluated where they stand; those of test_annotations.py are not.
"""

import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks._concurrency.exception_groups import leaves
from trio_tasks._handlers.adapter import HandlerSignatureError, adapt, handler_name
from trio_tasks._tasks.task import Attempt, Task


async def double(n: int) -> int:
    return n * 2


async def double_task(task: Task[int]) -> int:
    return task.args * 2


def double_in_a_thread(n: int) -> int:
    return n * 2


class Doubler:
    async def double(self, n: int) -> int:
        return n * 2

    @classmethod
    async def double_by_class(cls, n: int) -> int:
        return n * 2

    @staticmethod
    async def double_without_self(n: int) -> int:
        return n * 2

    async def __call__(self, n: int) -> int:
        return n * 2


class SubclassOfDoubler(Doubler):
    pass


class DoublerInAThread:
    def __call__(self, n: int) -> int:
        return n * 2


class Gate:
    """An extractor with ``from_task``; making it takes two checkpoints, and is counted."""

    made = 0

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    async def from_task(cls, task: Task[int]) -> "Gate":
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        cls.made += 1
        return cls(task.args)


# The shapes that cost nothing


async def test_a_handler_of_whole_tasks_is_itself() -> None:
    assert adapt(double_task) is double_task


async def test_a_handler_of_bare_tasks_is_itself() -> None:
    async def handler(task: Task) -> int:  # type: ignore[type-arg]  # this is the point
        return task.args * 2  # type: ignore[no-any-return]  # a bare Task has args of any type

    assert adapt(handler) is handler


async def test_args_alone_add_no_coroutine_of_our_own() -> None:
    coroutine = adapt(double)(Task(21))
    assert isinstance(coroutine, Coroutine)
    assert coroutine.cr_code is double.__code__  # type: ignore[attr-defined]  # coroutines of functions have it
    assert await coroutine == 42


async def test_what_is_at_hand_adds_no_coroutine_of_our_own() -> None:
    async def handler(n: int, attempt: Attempt) -> tuple[int, int]:
        return n, attempt

    coroutine = adapt(handler)(Task(21))
    assert coroutine.cr_code is handler.__code__  # type: ignore[attr-defined]  # coroutines of functions have it
    assert await coroutine == (21, 0)


# Everything that can be called


CALLABLES: dict[str, Callable[..., Any]] = {
    "async function": double,
    "async function of tasks": double_task,
    "sync function": double_in_a_thread,
    "method": Doubler().double,
    "classmethod": Doubler.double_by_class,
    "classmethod of an object": Doubler().double_by_class,
    "staticmethod": Doubler.double_without_self,
    "bare staticmethod": vars(Doubler)["double_without_self"],
    "object with async call": Doubler(),
    "object with sync call": DoublerInAThread(),
    "partial": functools.partial(double),
    "partial of a partial of an object": functools.partial(functools.partial(Doubler())),
    "partial that binds args": functools.partial(Doubler.double, Doubler()),
    "cached function": functools.lru_cache(double_in_a_thread),
    "sync lambda": lambda n: n * 2,
    "lambda around an async function": lambda n: double(n),
    "lambda that takes anything": lambda *args: args[0] * 2,
}


@pytest.mark.parametrize("handler", CALLABLES.values(), ids=CALLABLES)
async def test_whatever_can_be_called_is_called(handler: Callable[..., Any]) -> None:
    assert await adapt(handler)(Task(21)) == 42


async def test_a_built_in_function_is_given_the_args() -> None:
    assert await adapt(len)(Task("four")) == 4
    assert await adapt(max)(Task([1, 5, 3])) == 5  # which has no signature


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (double, "{}.double"),
        (Doubler().double, "{}.Doubler.double"),
        (SubclassOfDoubler().double, "{}.SubclassOfDoubler.double"),
        (Doubler.double_by_class, "{}.Doubler.double_by_class"),
        (vars(Doubler)["double_without_self"], "{}.Doubler.double_without_self"),
        (Doubler(), "{}.Doubler object"),
        (functools.partial(double), "partial({}.double)"),
        (len, "len"),
        (3, "int object"),
    ],
)
async def test_a_handler_has_a_name_for_people(handler: object, name: str) -> None:
    assert handler_name(handler) == name.format(__name__)


async def test_a_lambda_is_told_by_its_line() -> None:
    handler = lambda n: n  # noqa: E731  that it is a lambda is the point
    line = handler.__code__.co_firstlineno
    assert handler_name(handler).endswith(f"test_a_lambda_is_told_by_its_line.<locals>.<lambda> in line {line}")


# Nothing that cannot


async def yields(n: int) -> AsyncIterator[int]:  # noqa: ASYNC900  it is to be refused
    yield n


def yields_in_a_thread(n: int) -> Iterator[int]:
    yield n


class Yields:
    async def __call__(self, n: int) -> AsyncIterator[int]:  # noqa: ASYNC900  it is to be refused
        yield n


async def nothing() -> None: ...


async def keyword_only(*, n: int) -> None: ...


async def keywords_only(**options: int) -> None: ...


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (None, "must be a function .* not None"),
        ("double", "must be a function .* not 'double'"),
        (vars(Doubler)["double_by_class"], "must be a function"),
        (Doubler, "Doubler cannot be a handler: it is a class: give a function"),
        (yields, "yields cannot be a handler: it is a generator function"),
        (yields_in_a_thread, "yields_in_a_thread cannot be a handler: it is a generator function"),
        (Yields(), "Yields object cannot be a handler: it is a generator function"),
        (functools.partial(yields), r"partial\(.*yields\) cannot be a handler: it is a generator function"),
        (nothing, "nothing cannot be a handler: it has no positional parameter"),
        (keyword_only, "keyword_only cannot be a handler: it has no positional parameter"),
        (keywords_only, "keywords_only cannot be a handler: it has no positional parameter"),
        (functools.partial(double, n=3), "has no positional parameter"),
        (functools.partial(double, 3), "has no positional parameter"),
    ],
)
async def test_what_cannot_be_a_handler_is_refused(handler: Any, message: str) -> None:
    with pytest.raises(HandlerSignatureError, match=message):
        adapt(handler)


async def test_a_call_in_place_of_a_function_is_refused_without_a_warning() -> None:
    with pytest.raises(HandlerSignatureError, match=r"double cannot be a handler: it is a coroutine"):
        adapt(double(21))  # type: ignore[arg-type]  # this is the point


@pytest.mark.parametrize("data", ["mailer", b"bytes", 3, None, object()])
async def test_data_must_be_a_list(data: Any) -> None:
    with pytest.raises(TypeError, match=r"data must be a list of values, such as \[mailer\], not "):
        adapt(double, data=data)


# Extractors


async def test_extractors_are_awaited_before_the_handler() -> None:
    async def handler(n: int, gate: Gate) -> tuple[int, int]:
        return n, gate.n

    assert await adapt(handler)(Task(3)) == (3, 3)


async def test_extractors_are_awaited_in_trio_for_a_sync_handler() -> None:
    def handler(n: int, gate: Gate) -> tuple[int, int]:
        return n, gate.n

    assert await adapt(handler)(Task(3)) == (3, 3)


class Refuses:
    @classmethod
    async def from_task(cls, task: Task[int]) -> "Refuses":
        raise PermissionError(task.args)


async def test_the_error_of_an_extractor_is_that_of_the_attempt() -> None:
    called = False

    async def handler(n: int, refuses: Refuses) -> None:
        nonlocal called
        called = True

    with pytest.raises(PermissionError, match="3"):
        await adapt(handler)(Task(3))
    assert not called


@pytest.mark.parametrize("in_thread", [False, True])
async def test_cancelled_in_its_extractor_the_handler_is_not_called(in_thread: bool) -> None:
    called: list[int] = []

    async def handler(n: int, gate: Gate) -> None:
        called.append(n)

    def threaded(n: int, gate: Gate) -> None:
        called.append(n)

    before = Gate.made
    with trio.CancelScope() as scope:
        scope.cancel()
        await adapt(threaded if in_thread else handler)(Task(3))
    assert scope.cancelled_caught
    assert not called
    assert Gate.made == before


# An attempt's own nursery


async def test_children_end_before_the_attempt_does(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []

    async def child() -> None:
        await trio.sleep(10)
        ended.append("child")

    async def handler(n: int, nursery: trio.Nursery) -> int:
        nursery.start_soon(child)
        ended.append("handler")
        return n

    assert await adapt(handler)(Task(3)) == 3
    assert ended == ["handler", "child"]


async def test_all_parameters_of_an_attempt_get_the_same_nursery_and_each_attempt_its_own() -> None:
    async def handler(n: int, one: trio.Nursery, *, other: trio.Nursery) -> trio.Nursery:
        assert one is other
        return one

    attempt = adapt(handler)
    assert await attempt(Task(1)) is not await attempt(Task(2))


async def test_the_error_of_a_child_ends_the_handler_and_comes_out_in_a_group() -> None:
    async def child() -> None:
        raise ValueError("of the child")

    async def handler(n: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(child)
        await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="of the child")) as caught:
        await adapt(handler)(Task(3))
    assert [type(each) for each in leaves(caught.value)] == [ValueError]


async def test_the_error_of_the_handler_ends_its_children(autojump_clock: trio.testing.MockClock) -> None:
    ended = False

    async def child() -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended = True

    async def handler(n: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(child)
        await trio.sleep(1)
        raise ValueError("of the handler")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="of the handler")):
        await adapt(handler)(Task(3))
    assert ended


@pytest.mark.parametrize("handler_waits", [True, False])
async def test_cancelled_with_children_all_of_them_end(
    handler_waits: bool, autojump_clock: trio.testing.MockClock
) -> None:
    running = 0

    async def child() -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    async def handler(n: int, nursery: trio.Nursery) -> int:
        nursery.start_soon(child)
        nursery.start_soon(child)
        if handler_waits:
            await trio.sleep_forever()
        return n

    with trio.move_on_after(5) as scope:
        await adapt(handler)(Task(3))
    assert scope.cancelled_caught
    assert running == 0


async def test_a_handler_that_cancels_its_own_nursery_has_the_result_it_returns() -> None:
    async def handler(n: int, nursery: trio.Nursery) -> int:
        nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()
        return n

    assert await adapt(handler)(Task(3)) == 3


async def test_a_handler_cut_short_by_cancelling_its_own_nursery_has_no_result() -> None:
    async def handler(n: int, nursery: trio.Nursery) -> int:
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()
        return n

    assert await adapt(handler)(Task(3)) is None


async def test_a_nursery_is_no_use_in_a_thread() -> None:
    def handler(n: int, children: trio.Nursery) -> None: ...

    with pytest.raises(
        HandlerSignatureError, match=r"'children: .*Nursery' asks for a nursery, .*: make the handler async"
    ):
        adapt(handler)


# Sync handlers


async def test_a_sync_handler_runs_in_another_thread() -> None:
    def handler(n: int) -> threading.Thread:
        return threading.current_thread()

    assert await adapt(handler)(Task(3)) is not threading.current_thread()


async def test_context_variables_travel_into_the_thread() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    assert await adapt(lambda n: variable.get())(Task(3)) == "set"


async def test_what_a_sync_handler_returns_is_awaited_in_trio() -> None:
    async def where() -> tuple[threading.Thread, str]:
        return threading.current_thread(), trio.lowlevel.current_task().name

    here = threading.current_thread(), trio.lowlevel.current_task().name
    assert await adapt(lambda n: where())(Task(3)) == here


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
async def test_what_a_sync_handler_raises_comes_out(error: type[BaseException]) -> None:
    def handler(n: int) -> None:
        raise error("from the thread")

    with pytest.raises(error, match="from the thread"):
        await adapt(handler)(Task(3))


async def test_cancelled_before_it_started_a_sync_handler_does_not() -> None:
    called: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await adapt(called.append)(Task(3))
    assert scope.cancelled_caught
    assert not called


async def test_a_cancelled_sync_handler_is_waited_for() -> None:
    go_on = threading.Event()
    ended = False

    def handler(n: int) -> int:
        nonlocal ended
        trio.from_thread.run_sync(scope.cancel)
        trio.from_thread.run_sync(cancelled.set)
        assert go_on.wait(10)
        ended = True
        return n

    cancelled = trio.Event()
    result = None
    async with trio.open_nursery() as nursery:

        async def let_it_go_on() -> None:
            await cancelled.wait()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not ended
            go_on.set()

        nursery.start_soon(let_it_go_on)
        with trio.CancelScope() as scope:
            result = await adapt(handler)(Task(3))
    assert ended
    assert result == 3, "it ran to its end, so what it did has a result"


async def test_a_sync_handler_may_ask_whether_to_go_on() -> None:
    def handler(n: int) -> int:
        trio.from_thread.run_sync(scope.cancel)
        while True:
            trio.from_thread.check_cancelled()

    with trio.CancelScope() as scope:
        await adapt(handler)(Task(3))
    assert scope.cancelled_caught


async def test_cancelled_in_what_a_sync_handler_returned_that_ends_too() -> None:
    ended = False

    async def long() -> None:
        nonlocal ended
        try:
            scope.cancel()
            await trio.sleep_forever()
        finally:
            ended = True

    with trio.CancelScope() as scope:
        await adapt(lambda n: long())(Task(3))
    assert scope.cancelled_caught
    assert ended


async def test_attempts_in_threads_do_not_wait_for_one_another() -> None:
    together = threading.Barrier(100)

    def handler(n: int) -> None:
        together.wait(30)

    attempt: Callable[[Task[int]], Awaitable[None]] = adapt(handler)
    async with trio.open_nursery() as nursery:
        for n in range(100):  # more than trio's own limiter lets run at once
            nursery.start_soon(attempt, Task(n))
    assert not together.broken
