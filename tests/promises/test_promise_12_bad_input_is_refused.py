"""Tests of promise 12: bad input is refused at once, with a clear error, and nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    BackendError,
    CustomBackend,
    DuplicateTaskError,
    EncodeError,
    Extensions,
    Failed,
    Killed,
    MemoryStorage,
    Metadata,
    Monitor,
    Parts,
    Pipe,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Status,
    Task,
    TaskBuilder,
    TaskId,
    UnknownTaskError,
    Worker,
    WorkerBuilder,
    WorkerContext,
    constant,
    exponential,
    linear,
)

NAN, INF = math.nan, math.inf
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  that it is naive is what is wrong with it
REFUSED = (TypeError, ValueError)

SECONDS = [NAN, INF, -INF, -1, -0.001, "1", None, True, 1j, [1]]
POSITIVE = [*SECONDS, 0]
COUNTS = [0, -1, 1.5, 2.0, "1", None, True, NAN, INF]

OPTIONS: dict[str, list[Any]] = {
    "delay": SECONDS,
    "timeout": POSITIVE,
    "expires_in": POSITIVE,
    "attempts": COUNTS,
    "priority": [1.5, "1", None, True, NAN],
    "run_at": [NAIVE, 0, 1e9, "2030-01-01", None, datetime.now(timezone.utc).date()],
    "unique": ["", None, 1, b"key"],
    "id": ["", None, 1, b"id"],
    "metadata": [1, "text", [("a", 1)], {1: "a"}],
    "data": [None, 1],
    "on_conflict": ["skip"],
    "dealy": [1],
}


async def return_it(args: object) -> object:
    return args


async def no_trace(storage: MemoryStorage[Any]) -> bool:
    """Return True if nothing was stored."""
    counts = storage.statistics()
    return (counts.pushed, counts.waiting, counts.pushers_waiting) == (
        0,
        0,
        0,
    ) and not await storage.list_tasks()


def clear(error: BaseException, name: str) -> bool:
    """Return True if the message says what is wrong and what would be right."""
    said = str(error)
    return len(said.split()) >= 5 and any(word in said for word in (name, name.replace("_", " "), "unique="))


def unrefused(name: str, values: list[Any], give: Callable[[Any], object]) -> list[str]:
    """Return the values that were accepted, or refused by an error that is not clear."""
    found = []
    for value in values:
        shown = f"{name}={value!r:.40}"
        try:
            give(value)
        except REFUSED as error:
            if len(str(error).split()) < 5:
                found.append(f"{shown} is refused without saying what would be right: {error}")
        except Exception as error:
            found.append(f"{shown} raises {error!r:.60}")
        else:
            found.append(f"{shown} is taken")
    return found


@pytest.mark.parametrize("verb", ["push", "push_nowait", "push_bulk", "push_stream"])
@pytest.mark.parametrize("name", OPTIONS)
async def test_promise_12_bad_input_is_refused_on_push(verb: str, name: str) -> None:
    storage, found = MemoryStorage[int](), []
    for value in OPTIONS[name]:
        send, receive = trio.open_memory_channel[int](1)
        send.send_nowait(1)
        send.close()
        options: dict[str, Any] = {name: value}
        given: Any = {"push_bulk": [1, 2], "push_stream": receive}.get(verb, 1)
        error: Exception | None = None
        try:
            answer = getattr(storage, verb)(given, **options)
            if verb != "push_nowait":
                await answer
        except Exception as raised:
            error = raised
        if not isinstance(error, REFUSED) or not clear(error, name):
            found.append(f"{name}={value!r:.40}: {error!r:.80}")
    assert not found
    assert await no_trace(storage)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 1, "run_at": datetime(2030, 1, 1, tzinfo=timezone.utc)},
        {"unique": "key", "on_conflict": "never"},
        {"unique": "key", "on_conflict": None},
        {"on_conflict": "raise"},
    ],
)
async def test_promise_12_bad_input_is_refused_what_does_not_go_together(options: Any) -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(REFUSED, match=r"not both|on_conflict"):
        await storage.push(1, **options)
    assert await no_trace(storage)


BUILDER = {
    "attempts": COUNTS,
    "timeout": POSITIVE,
    "priority": OPTIONS["priority"],
    "run_in_seconds": SECONDS,
    "run_after": SECONDS,
    "run_in_minutes": [*SECONDS, 1e308],
    "run_in_hours": [*SECONDS, 1e308],
    "run_at": OPTIONS["run_at"],
    "unique": OPTIONS["unique"],
    "expires_in": POSITIVE,
    "id": OPTIONS["id"],
    "metadata": OPTIONS["metadata"],
}


@pytest.mark.parametrize("name", BUILDER)
def test_promise_12_bad_input_is_refused_by_the_builder_where_it_is_given(name: str) -> None:
    builder = TaskBuilder(1)
    assert not unrefused(name, BUILDER[name], getattr(builder, name))
    assert builder.build().parts.terms == TaskBuilder(1).build().parts.terms, "the builder is as it was"


@pytest.mark.parametrize("value", [None, 1, "task", object(), Task])
@pytest.mark.parametrize("verb", ["push_task", "push_task_nowait", "update"])
async def test_promise_12_bad_input_is_refused_what_is_no_task(verb: str, value: Any) -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(TypeError, match="takes a Task, not"):
        answer = getattr(storage, verb)(value)
        if verb != "push_task_nowait":
            await answer
    assert await no_trace(storage)


# Duplicates


@pytest.mark.parametrize("now", ["waiting", "delayed", "running", "done", "dead"])
async def test_promise_12_bad_input_is_refused_a_duplicate_id(autojump_clock: MockClock, now: str) -> None:
    """The id is refused in whatever state the other task is."""
    storage = MemoryStorage[str]()
    await storage.push("first", id="task-1", delay=10.0 if now == "delayed" else 0.0)
    if now == "running":
        await storage.receive()
    elif now == "done":
        with trio.move_on_after(5):
            await Worker("doing", storage, return_it).run()
    elif now == "dead":
        await storage.cancel("task-1")
    before = storage.statistics()
    for task in (
        TaskBuilder("second").id("task-1").build(),
        TaskBuilder("second").id("task-1").unique("key").build(),
        Task("second", Parts(TaskId("task-1"))),
    ):
        with pytest.raises(DuplicateTaskError, match="'task-1' has been pushed already"):
            await storage.push_task(task)
    assert storage.statistics() == before
    assert [task.args for task in await storage.list_tasks()] == ["first"]
    assert await storage.push("third", unique="key"), "the refused one has not taken the key"
    assert storage.statistics().pushed == before.pushed + 1


async def test_promise_12_bad_input_is_refused_a_taken_key() -> None:
    storage = MemoryStorage[str]()
    first = await storage.push("first", unique="key")
    before = storage.statistics()
    with pytest.raises(DuplicateTaskError, match=f"'key' is taken by the unfinished task '{first}'"):
        await storage.push("second", unique="key", on_conflict="raise")
    assert storage.statistics() == before


async def test_promise_12_bad_input_is_refused_while_a_push_waits_for_room(autojump_clock: MockClock) -> None:
    """The error goes to the caller of the waiting push, not to the caller that made room."""
    storage = MemoryStorage[str](1)
    await storage.push("first", id="task-1")
    told = []

    async def push_the_second() -> None:
        with pytest.raises(DuplicateTaskError) as raised:
            await storage.push("second", id="task-1")
        told.append(raised.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push_the_second)
        await trio.sleep(1)
        assert (await storage.receive()).args == "first"
    assert len(told) == 1
    assert storage.statistics().pushed == 1


# A bulk is checked as a whole


def args_that_fail() -> Iterator[int]:
    yield 1
    raise ZeroDivisionError("the args")


@pytest.mark.parametrize(
    ("many", "options", "error"),
    [
        (args_that_fail, {}, ZeroDivisionError),
        (lambda: [1, 2], {"id": "task-1"}, TypeError),
        (lambda: [1, 2], {"unique": "key", "on_conflict": "raise"}, DuplicateTaskError),
        (lambda: 5, {}, TypeError),
        (lambda: None, {}, TypeError),
    ],
)
async def test_promise_12_bad_input_is_refused_a_bulk_as_a_whole(
    many: Callable[[], Any], options: Any, error: type[Exception]
) -> None:
    storage = MemoryStorage[int]()
    with pytest.raises(error):
        await storage.push_bulk(many(), **options)
    assert await no_trace(storage)


@pytest.mark.parametrize(
    ("args", "options"),
    [("2", {}), (2.5, {}), (None, {}), (2, {"metadata": {"key": object()}}), (2, {"priority": 2**63})],
    ids=["text", "float", "None", "metadata", "priority"],
)
async def test_promise_12_bad_input_is_refused_by_its_type_in_memory(args: Any, options: dict[str, Any]) -> None:
    """With a type, a queue in memory refuses what a stored queue would refuse. Without one, it accepts any object."""
    for storage in (MemoryStorage(type=int), MemoryStorage[Any]().share(int, queue="numbers")):
        with pytest.raises(EncodeError if "priority" not in options else ValueError):
            await storage.push(args, **options)
        with pytest.raises(EncodeError if "priority" not in options else ValueError):
            await storage.push_bulk([1, args], **options)
        assert await no_trace(storage)
    untyped = MemoryStorage[Any]()
    await untyped.push(args, **options)
    assert (await untyped.receive()).args is args


# Closed


@pytest.mark.parametrize("verb", ["push", "push_nowait", "push_task", "push_bulk", "push_stream", "push_all", "clone"])
async def test_promise_12_bad_input_is_refused_after_closing(verb: str) -> None:
    storage = MemoryStorage[Any]()
    send, receive = trio.open_memory_channel[Any](1)
    send.send_nowait(Task(1))
    given: dict[str, Any] = {"push_task": Task(1), "push_bulk": [1], "push_stream": receive, "push_all": receive}
    storage.close()
    with pytest.raises(trio.ClosedResourceError, match="closed"):
        if verb == "clone":
            storage.clone()
        elif verb == "push_nowait":
            storage.push_nowait(1)
        else:
            await getattr(storage, verb)(given.get(verb, 1))
    assert await no_trace(storage)


async def test_promise_12_bad_input_is_refused_while_it_waits_for_room(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](1)
    await storage.push(1)
    async with trio.open_nursery() as nursery:

        async def push_another() -> None:
            with pytest.raises(trio.ClosedResourceError, match="closed while this push waited for room"):
                await storage.push(2)

        nursery.start_soon(push_another)
        await trio.sleep(1)
        storage.close()
    assert storage.statistics().pushed == 1


@pytest.mark.parametrize("verb", ["wait_for", "fetch_by_id", "cancel", "abort", "reschedule", "resume_by_id"])
async def test_promise_12_bad_input_is_refused_an_unknown_id(verb: str) -> None:
    storage = MemoryStorage[int]()
    more = (1,) if verb == "reschedule" else ()
    if verb == "wait_for":
        with pytest.raises(UnknownTaskError, match="no task 'nobody' is known"):
            await storage.wait_for("nobody")
    else:
        assert not await getattr(storage, verb)("nobody", *more)


async def test_promise_12_bad_input_is_refused_a_moment_to_move_to() -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(1)
    delay: Any
    for delay in SECONDS:
        with pytest.raises(REFUSED, match="delay must be"):
            await storage.reschedule(task_id, delay)
    assert storage.receive_nowait().parts.id == task_id


# What is built


def storage() -> MemoryStorage[int]:
    return MemoryStorage[int]()


async def async_listener(*_: object) -> None: ...


async def no_parameters() -> None: ...


BUILT: dict[str, list[Callable[[Any], object]]] = {
    "no text": [lambda bad: Worker(bad, storage(), return_it), lambda bad: WorkerBuilder(bad), lambda bad: TaskId(bad)],
    "no count": [
        lambda bad: Worker("w", storage(), return_it, concurrency=bad),
        lambda bad: WorkerBuilder("w").backend(storage()).concurrency(bad).build(return_it),
        lambda bad: RetryPolicy(bad),
        lambda bad: WorkerContext("w", concurrency=bad),
    ],
    "no seconds": [
        lambda bad: constant(bad),
        lambda bad: linear(bad),
        lambda bad: exponential(bad),
        lambda bad: linear(1, maximum=bad),
        lambda bad: exponential(1, maximum=bad),
        lambda bad: exponential(1, factor=bad),
        lambda bad: RetryAfterError("later", bad),
        lambda bad: Retried(ValueError(), bad),
    ],
    "no duration": [
        lambda bad: Worker("w", storage(), return_it, settle_timeout=bad),
        lambda bad: Monitor(restart_period=bad),
    ],
    "no fraction": [lambda bad: constant(1, jitter=bad), lambda bad: exponential(1, jitter=bad)],
    "no function": [
        lambda bad: Worker("w", storage(), bad),
        lambda bad: Worker("w", storage(), return_it, layers=[bad]),
        lambda bad: Worker("w", storage(), return_it, on_event=[bad]),
        lambda bad: Monitor(should_restart=bad),
        lambda bad: Monitor(restart_backoff=bad),
        lambda bad: Monitor().register(bad),
        lambda bad: Monitor().on_event(bad),
        lambda bad: RetryPolicy(1, bad),
        lambda bad: RetryPolicy(1, constant(1), bad),
        lambda bad: CustomBackend(receive=bad),
    ],
    "no backend": [
        lambda bad: Worker("w", bad, return_it),
        lambda bad: WorkerBuilder("w").backend(bad).build(return_it),
        lambda bad: Pipe(bad, storage()),
    ],
    "no room": [lambda bad: MemoryStorage[int](bad)],
    "no memory": [lambda bad: MemoryStorage[int](keep_results=bad)],
    "no policy": [lambda bad: Worker("w", storage(), return_it, retry=bad)],
    "no timeout": [lambda bad: Monitor(shutdown_timeout=bad)],
    "no error": [lambda bad: Failed(bad), lambda bad: Killed(bad), lambda bad: Retried(bad)],
    "no source": [lambda bad: AbortError(bad), lambda bad: RetryAfterError(bad, 1)],
    "no parts": [lambda bad: Task(1, bad)],
    "no id": [lambda bad: Parts(bad)],
    "no mapping": [lambda bad: Metadata(bad)],
    "no plain function": [
        lambda bad: Worker("w", storage(), return_it, on_event=bad),
        lambda bad: Monitor(on_event=bad),
        lambda bad: Monitor(on_event=[bad]),
    ],
    "no list": [
        lambda bad: Worker("w", storage(), return_it, layers=bad),
        lambda bad: Worker("w", storage(), return_it, data=bad),
    ],
}
BAD: dict[str, list[Any]] = {
    "no text": ["", None, 1, b"name"],
    "no count": COUNTS,
    "no seconds": SECONDS,
    "no duration": POSITIVE,
    "no fraction": [NAN, -0.1, 1.1, "0.5", None, True],
    "no function": [1, "function", object()],
    "no backend": [None, 1, "storage", MemoryStorage, object()],
    "no room": [0, -1, 1.5, NAN, -INF, "1", None, True],
    "no memory": [-1, 1.5, NAN, INF, "1", None, True],
    "no policy": [None, 5, constant(1)],
    "no timeout": [NAN, INF, -1, "10", True],
    "no error": [None, "error", ValueError],
    "no source": [None, 5],
    "no parts": [1, "id", Metadata()],
    "no id": ["", 1, b"id"],
    "no mapping": [1, "text"],
    "no plain function": [async_listener, 1, [async_listener]],
    "no list": [None, 1],
}


@pytest.mark.parametrize(
    ("what", "number"), [(what, number) for what, built in BUILT.items() for number in range(len(built))]
)
def test_promise_12_bad_input_is_refused_when_an_object_is_built(what: str, number: int) -> None:
    assert not unrefused(what, BAD[what], BUILT[what][number])


def test_promise_12_bad_input_is_refused_a_number_that_no_float_can_hold() -> None:
    for number in (10**400, -(10**400)):
        for build in BUILT["no seconds"] + BUILT["no duration"] + BUILT["no timeout"]:
            with pytest.raises(REFUSED, match="seconds"):
                build(number)
        with pytest.raises(REFUSED, match="seconds"):
            MemoryStorage[int]().push_nowait(1, delay=number)


def test_promise_12_bad_input_is_refused_two_ways_to_say_when_time_is_up() -> None:
    with pytest.raises(TypeError, match="not both"):
        Monitor(shutdown_timeout=1, terminator=no_parameters)


def test_promise_12_bad_input_is_refused_but_not_what_looks_bad_and_is_not() -> None:
    """Unusual values that are correct are accepted."""
    Monitor(shutdown_timeout=0, max_restarts=0)
    MemoryStorage[int](math.inf, keep_results=0)
    Extensions()
    task = TaskBuilder(1).priority(-5).timeout(1e-9).run_in_seconds(0).expires_in(1e300).attempts(10**9).build()
    assert task.parts.status is Status.Pending


async def test_promise_12_bad_input_is_refused_a_storage_that_only_gives() -> None:
    backend: CustomBackend[int] = CustomBackend(receive=no_parameters)  # type: ignore[arg-type]  # it gives nothing
    with pytest.raises(BackendError, match="made without push="):
        await backend.push(1)
