"""Tests of promise 7: the backend counts the attempts that were begun and not interrupted, each once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    Attempt,
    DeferredError,
    MemoryStorage,
    Released,
    Retried,
    RetryAfterError,
    RetryPolicy,
    Status,
    Success,
    SuspendError,
    Task,
    TaskId,
    Worker,
    constant,
)
from trio_tasks.layers import Retry

from tests.promises._run_worker import EventRecord, run_for, run_handler, run_handler_on

A_DAY = 24 * 3600.0


async def fail(args: object) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("attempts", [1, 2, 7])
async def test_promise_07_attempts_are_counted_once(autojump_clock: MockClock, attempts: int) -> None:
    """Each failure counts as one attempt, and the task gets as many as it may have."""
    seen: list[int] = []

    async def handler(args: int, attempt: Attempt) -> None:
        seen.append(attempt)
        raise ValueError("no")

    record = await run_handler(handler, retry=RetryPolicy(attempts))
    assert seen == record.attempts == [*range(1, attempts + 1)]
    assert record.kinds == ["Retried"] * (attempts - 1) + ["Failed"]


@pytest.mark.parametrize("error", [RetryAfterError("later", 5), DeferredError("again"), ValueError("no"), SystemExit()])
async def test_promise_07_attempts_are_counted_once_whatever_was_raised(
    autojump_clock: MockClock, error: BaseException
) -> None:
    async def handler(args: int) -> None:
        raise error

    assert (await run_handler(handler, retry=RetryPolicy(3, constant(1)))).attempts == [1, 2, 3]


async def test_promise_07_attempts_are_counted_once_and_the_task_s_own_number_goes_first(
    autojump_clock: MockClock,
) -> None:
    for own, policy, expected in ((2, 5, 2), (5, 2, 5), (None, 3, 3)):
        storage = MemoryStorage[int]()
        await (storage.push(0) if own is None else storage.push(0, attempts=own))
        storage.close()
        record = await run_handler_on(storage, fail, retry=RetryPolicy(policy))
        assert len(record.attempts) == expected


async def test_promise_07_attempts_are_counted_once_when_they_begin(autojump_clock: MockClock) -> None:
    """A worker that dies while it runs a task has used up an attempt: it was counted before."""
    storage = MemoryStorage[int]()
    await storage.push(0)
    during: list[tuple[int, Status]] = []

    async def handler(args: int, task_id: TaskId) -> None:
        task = await storage.fetch_by_id(task_id)
        assert task is not None
        during.append((task.parts.attempt, task.parts.status))

    await run_for(5, Worker("looking", storage, handler))
    assert during == [(1, Status.Running)]

    await storage.push(1)
    assert (await storage.receive()).parts.attempt == 1


async def test_promise_07_attempts_are_counted_once_an_interruption_costs_none(autojump_clock: MockClock) -> None:
    """Interruptions and failures, one after the other: three failures are three attempts."""
    storage, seen = MemoryStorage[int](), []
    await storage.push(0)

    async def handler(args: int, attempt: Attempt) -> None:
        seen.append(int(attempt))
        if len(seen) % 2:
            await trio.sleep_forever()
        raise ValueError("no")

    for _ in range(10):
        await run_for(A_DAY, Worker("interrupted", storage, handler, retry=RetryPolicy(3, constant(1))))
    assert seen == [1, 1, 2, 2, 3, 3]


async def test_promise_07_attempts_are_counted_once_a_suspension_costs_none(autojump_clock: MockClock) -> None:
    """Suspensions and failures, one after the other: three failures are three attempts."""
    seen: list[int] = []

    async def handler(args: int, attempt: Attempt) -> None:
        seen.append(int(attempt))
        if len(seen) % 2:
            raise SuspendError(60)
        raise ValueError("no")

    record = await run_handler(handler, retry=RetryPolicy(3, constant(1)))
    assert seen == [1, 1, 2, 2, 3, 3]
    assert record.kinds == ["Suspended", "Retried", "Suspended", "Retried", "Suspended", "Failed"]


async def test_promise_07_attempts_are_counted_once_in_the_backend_not_in_a_worker(autojump_clock: MockClock) -> None:
    """Each attempt is made by another worker; the backend counts them together."""
    storage, records = MemoryStorage[int](), [EventRecord() for _ in range(4)]
    await storage.push(0)
    for record in records:
        await run_for(A_DAY, Worker("once", storage, fail, retry=RetryPolicy(4, constant(A_DAY)), on_event=record))
    await run_for(A_DAY, Worker("once", storage, fail, retry=RetryPolicy(4, constant(A_DAY)), on_event=records[3]))
    assert [attempt for record in records for attempt in record.attempts] == [1, 2, 3, 4]
    assert records[3].kinds == ["Failed"]


async def test_promise_07_attempts_are_counted_once_a_waiting_task_holds_no_slot(autojump_clock: MockClock) -> None:
    """A task that waits for its retry waits in the backend; the only slot does other work."""
    storage, begun = MemoryStorage[str](), trio.current_time()
    done: list[tuple[str, float]] = []

    async def handler(args: str, attempt: Attempt) -> None:
        done.append((args, trio.current_time() - begun))
        if args == "again" and attempt == 1:
            raise RetryAfterError("later", 100)
        await trio.sleep(1)

    await storage.push_bulk(["again", "a", "b"])
    storage.close()
    record = await run_handler_on(storage, handler)
    assert [args for args, _ in done] == ["again", "a", "b", "again"]
    assert [time for _, time in done] == [0, 0, pytest.approx(1), pytest.approx(100)]
    assert record.kinds == ["Retried", "Succeeded", "Succeeded", "Succeeded"]


async def test_promise_07_attempts_are_counted_once_not_by_layers(autojump_clock: MockClock) -> None:
    """Calls that a layer repeats within an attempt are not counted."""
    seen: list[int] = []

    async def handler(args: int, attempt: Attempt) -> None:
        seen.append(attempt)
        raise ValueError("no")

    record = await run_handler(handler, layers=[Retry(3)], retry=RetryPolicy(2))
    assert seen == [1, 1, 1, 2, 2, 2]
    assert record.kinds == ["Retried", "Failed"]


async def test_promise_07_attempts_are_counted_once_and_an_older_task_keeps_its_number(
    autojump_clock: MockClock,
) -> None:
    """A task that a listener received keeps the number of its attempt, also after later attempts."""
    record = await run_handler(fail, retry=RetryPolicy(3, constant(1)))
    assert record.attempts == [1, 2, 3]
    tasks = [each.task for each in record.events if hasattr(each, "task")]
    assert [task.parts.attempt for task in tasks] == [1, 1, 2, 2, 3, 3]


async def test_promise_07_attempts_are_counted_once_a_dead_letter_that_is_resumed_has_them_all(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[int]()
    task_id = await storage.push(0)
    policy, record = RetryPolicy(2, constant(1)), EventRecord()
    await run_for(A_DAY, Worker("failing", storage, fail, retry=policy, on_event=record))
    assert await storage.resume_by_id(task_id)
    await run_for(A_DAY, Worker("failing", storage, fail, retry=policy, on_event=record))
    assert record.kinds == ["Retried", "Failed"] * 2
    assert record.attempts == [1, 2] * 2


async def test_promise_07_attempts_are_counted_once_also_if_settled_by_hand() -> None:
    storage = MemoryStorage[int]()
    await storage.push(0)
    counted = []
    for outcome in (Released(), Retried(ValueError()), Released(), Released(), Retried(ValueError()), Released()):
        task: Task[int] = await storage.receive()
        counted.append(int(task.parts.attempt))
        await storage.settle(task, outcome)
    assert counted == [1, 1, 2, 2, 2, 3]
    (waiting,) = await storage.list_tasks()
    assert waiting.parts.attempt == 2


async def test_promise_07_attempts_are_counted_once_and_stay_readable(autojump_clock: MockClock) -> None:
    """Each failed attempt is in the history. A look-up and the handler itself can read it."""
    storage, seen = MemoryStorage[int](), []

    async def handler(task: Task[int]) -> None:
        seen.append([entry.attempt for entry in task.parts.context.history])
        raise ValueError(f"number {task.parts.attempt}")

    task_id = await storage.push(1)
    storage.close()
    await Worker("w", storage, handler, retry=RetryPolicy(3, constant(1))).run()
    assert seen == [[], [1], [1, 2]]
    found = await storage.fetch_by_id(task_id)
    assert found is not None
    told = [(entry.attempt, entry.became, entry.worker, entry.error) for entry in found.parts.context.history]
    assert told == [
        (1, "retried", "w", "ValueError: number 1"),
        (2, "retried", "w", "ValueError: number 2"),
        (3, "failed", "w", "ValueError: number 3"),
    ]


async def test_promise_07_attempts_are_counted_once_and_reach_success(autojump_clock: MockClock) -> None:
    async def third_time_lucky(args: int, attempt: Attempt) -> int:
        if attempt < 3:
            raise ValueError("no")
        return attempt

    record = await run_handler(third_time_lucky)
    assert record.kinds == ["Retried", "Retried", "Succeeded"]
    assert [each.result for each in record.of(Success)] == [3]
