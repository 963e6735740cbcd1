"""Tests of promise 3: an attempt ends in exactly one of six ways, with the same meaning on every backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    CustomBackend,
    DeferredError,
    Failed,
    Killed,
    MemoryStorage,
    Outcome,
    Pipe,
    Release,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Status,
    Succeeded,
    Suspended,
    SuspendError,
    Task,
    Worker,
    constant,
)

from tests.promises._run_worker import EventRecord, run_for, run_handler, run_handler_on

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

POLICY = RetryPolicy(3, constant(7))
ABORT, LATER, LONG, DEFER, OTHER = "abort", "later", "long", "defer", "other"
PAUSE, REST = "pause", "rest"
ERRORS: dict[str, Callable[[], Exception]] = {
    ABORT: lambda: AbortError("never"),
    LATER: lambda: RetryAfterError("later", 60),
    LONG: lambda: RetryAfterError("much later", 3600),
    DEFER: lambda: DeferredError("again"),
    OTHER: lambda: ValueError("no"),
    PAUSE: lambda: SuspendError(20, "a pause"),
    REST: lambda: SuspendError(200, "a rest"),
}
WINNERS = [
    ([ABORT], Killed, None),
    ([LATER], Retried, 60),
    ([DEFER], Retried, 0),
    ([OTHER], Retried, 7),
    ([OTHER, OTHER], Retried, 7),
    ([OTHER, ABORT], Killed, None),
    ([LONG, ABORT, DEFER], Killed, None),
    ([LATER, DEFER], Retried, 60),
    ([DEFER, LATER], Retried, 60),
    ([OTHER, LATER], Retried, 60),
    ([LATER, LONG], Retried, 3600),
    ([LONG, LATER, OTHER], Retried, 3600),
    ([OTHER, DEFER], Retried, 0),
    ([PAUSE, ABORT], Killed, None),
    ([REST, LATER], Retried, 60),
    ([DEFER, PAUSE], Retried, 0),
    ([REST, OTHER, PAUSE], Retried, 7),
]


def nested(errors: list[Exception]) -> Exception:
    """Return a group in a group in a group, with the last error innermost."""
    *first, last = errors
    deep = ExceptionGroup("deep", [ExceptionGroup("deeper", [last])])
    return ExceptionGroup("outer", [*first, deep])


@pytest.mark.parametrize("how", ["alone", "in a group", "deep", "by children"])
@pytest.mark.parametrize(("names", "kind", "after"), WINNERS)
async def test_promise_03_one_outcome_algebra(
    autojump_clock: MockClock, how: str, names: list[str], kind: type[Outcome], after: float | None
) -> None:
    if how == "alone" and len(names) > 1:
        return
    raised: list[BaseException] = []

    async def child(error: Exception) -> None:
        raise error

    async def handler(args: object) -> None:
        errors = [ERRORS[name]() for name in names]
        try:
            if how == "by children":
                async with trio.open_nursery() as nursery:
                    for error in errors:
                        nursery.start_soon(child, error)
            if how == "alone":
                raise errors[0]
            raise nested(errors) if how == "deep" else ExceptionGroup("several", errors)
        except Exception as error:
            raised.append(error)
            raise

    outcome = (await run_handler(handler, retry=POLICY)).outcomes[0]
    assert isinstance(outcome, (Killed, Retried))
    assert type(outcome) is kind
    assert after is None or (isinstance(outcome, Retried) and outcome.after == after)
    assert outcome.error is raised[0], "the recorded error is the whole of it"


@pytest.mark.parametrize("names", [[PAUSE], [PAUSE, PAUSE], [PAUSE, REST, PAUSE]])
async def test_promise_03_one_outcome_algebra_a_suspension_if_all_leaves_are(
    autojump_clock: MockClock, names: list[str]
) -> None:
    """The longest delay counts. A suspension uses up no attempt, and is possible in the last one."""

    async def handler(args: object) -> None:
        if len(record.attempts) < 3:
            raise nested([ERRORS[name]() for name in names])

    record, begun = EventRecord(), trio.current_time()
    await run_handler(handler, retry=RetryPolicy(1), on_event=[record])
    longest, reason = (200, "a rest") if REST in names else (20, "a pause")
    first, second, last = record.outcomes
    assert (first, second) == (Suspended(begun + longest, reason), Suspended(begun + 2 * longest, reason))
    assert type(last) is Succeeded
    assert record.attempts == [1, 1, 1]
    assert [each.reason for each in record.of(Release)] == [reason, reason]


@pytest.mark.parametrize("name", [LATER, DEFER, OTHER])
async def test_promise_03_one_outcome_algebra_no_attempt_is_left(autojump_clock: MockClock, name: str) -> None:
    async def handler(args: object) -> None:
        raise ERRORS[name]()

    assert (await run_handler(handler, retry=POLICY)).kinds == ["Retried", "Retried", "Failed"]


async def test_promise_03_one_outcome_algebra_abort_goes_before_the_last_attempt(autojump_clock: MockClock) -> None:
    async def handler(args: object) -> None:
        raise AbortError("never")

    assert (await run_handler(handler, retry=RetryPolicy(1))).kinds == ["Killed"]


@pytest.mark.parametrize("error", [ValueError("bare"), BaseExceptionGroup("rude", [SystemExit(), ValueError("leaf")])])
async def test_promise_03_one_outcome_algebra_the_policy_is_asked_about_leaves(
    autojump_clock: MockClock, error: BaseException
) -> None:
    asked: list[BaseException] = []

    def only_system_exit(error: BaseException) -> bool:
        asked.append(error)
        return isinstance(error, SystemExit)

    async def handler(args: object) -> None:
        raise error

    record = await run_handler(handler, retry=RetryPolicy(3, constant(0), only_system_exit))
    assert record.kinds == ["Killed"]
    assert not any(isinstance(each, BaseExceptionGroup) for each in asked)


async def test_promise_03_one_outcome_algebra_errors_of_layers_count_the_same(autojump_clock: MockClock) -> None:
    async def impatient(handler: Any, task: Task[Any]) -> Any:
        await handler(task)
        raise RetryAfterError("the layer", 90)

    async def handler(args: object) -> str:
        return "lost"

    outcome = (await run_handler(handler, layers=[impatient], retry=POLICY)).outcomes[0]
    assert isinstance(outcome, Retried)
    assert outcome.after == 90


OVER = ["memory", "channel", "pipe", "custom"]


def open_over(over: str, *args: str) -> trio.abc.ReceiveChannel[Any]:
    """Make a backend that gives out these tasks, and ends."""
    storage = MemoryStorage[str]()
    send, receive = trio.open_memory_channel[str](10)
    for each in args:
        if over == "memory":
            storage.push_nowait(each)
        else:
            send.send_nowait(each)
    send.close()
    if over == "memory":
        storage.close()
        return storage
    if over == "pipe":
        return Pipe(receive, storage)
    return CustomBackend(receive=receive.receive) if over == "custom" else receive


@pytest.mark.parametrize("over", OVER)
async def test_promise_03_one_outcome_algebra_is_the_same_everywhere(autojump_clock: MockClock, over: str) -> None:
    times: dict[str, list[float]] = {}
    begun = trio.current_time()

    async def handler(args: str) -> str:
        times.setdefault(args, []).append(trio.current_time() - begun)
        if args in ERRORS and len(times[args]) < 3:
            raise ERRORS[args]()
        return args

    record = await run_handler_on(open_over(over, *ERRORS, "well"), handler, retry=POLICY, concurrency=3)
    kinds = sorted(record.kinds)
    assert kinds == ["Killed"] + ["Retried"] * 8 + ["Succeeded"] * 7 + ["Suspended"] * 4
    assert times == {
        ABORT: [0],
        LATER: pytest.approx([0, 60, 120]),
        LONG: pytest.approx([0, 3600, 7200]),
        DEFER: [0, 0, 0],
        OTHER: pytest.approx([0, 7, 14]),
        PAUSE: pytest.approx([0, 20, 40]),
        REST: pytest.approx([0, 200, 400]),
        "well": [0],
    }


@pytest.mark.parametrize("over", OVER)
async def test_promise_03_one_outcome_algebra_released_everywhere(autojump_clock: MockClock, over: str) -> None:
    """A release gives the task back untouched, to be run next."""
    backend = open_over(over, "first", "second")
    record, seen = EventRecord(), []

    async def handler(args: str, task: Any = None) -> str:
        seen.append(args)
        if len(seen) == 1:
            await trio.sleep_forever()
        return args

    worker = Worker("released", backend, handler, concurrency=1, on_event=record)
    await run_for(10, worker)
    await worker.run()
    assert record.kinds == ["Released", "Succeeded", "Succeeded"]
    assert record.attempts == [1, 1, 1]
    assert seen == ["first", "first", "second"]


async def test_promise_03_one_outcome_algebra_what_a_task_is_then(autojump_clock: MockClock) -> None:
    """The storage shows the statuses that the table of the page names."""
    storage = MemoryStorage[str]()
    ids = {
        name: await storage.push(name, attempts=1 if name == "fail" else 2)
        for name in ("well", "fail", ABORT, OTHER, REST)
    }

    async def handler(args: str) -> str:
        if args != "well":
            raise ERRORS.get(args, ERRORS[OTHER])()
        return args

    await run_for(1, Worker("table", storage, handler, retry=POLICY))
    status = {name: (await storage.fetch_by_id(task_id)) for name, task_id in ids.items()}
    assert {name: task and task.parts.status for name, task in status.items()} == {
        "well": Status.Done,
        "fail": Status.Failed,
        ABORT: Status.Killed,
        OTHER: Status.Pending,
        REST: Status.Pending,
    }
    assert (await storage.wait_for(ids["well"])).result == "well"
    assert [type((await storage.wait_for(ids[name])).error) for name in ("fail", ABORT)] == [ValueError, AbortError]


def test_promise_03_one_outcome_algebra_outcomes_are_values() -> None:
    error = ValueError()
    assert Succeeded(1) == Succeeded(1) != Succeeded(2)
    assert (Failed(error), Killed(error)) == (Failed(error), Killed(error))
    assert Retried(error, 1) != Retried(error, 2)
    with pytest.raises(AttributeError):
        Retried(error, 1).after = 2  # type: ignore[misc]  # it is frozen, which is the point
