"""Tests of a handler, from one attempt to a week of retries."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from trio_tasks import (
    AbortError,
    Attempt,
    Data,
    Killed,
    MemoryStorage,
    Retried,
    RetryPolicy,
    Succeeded,
    Task,
    Worker,
    exponential,
)
from trio_tasks.testing import Pause, ScriptedBackend, TestWorker, run_once, run_until_idle


class Mailer:
    """A fake that is down for a while."""

    def __init__(self, *, up_at: float = 0.0) -> None:
        self.up_at = up_at
        self.sent: list[str] = []

    async def send(self, address: str) -> None:
        await trio.sleep(1)
        if trio.current_time() < self.up_at:
            raise ConnectionError("mail server is down")
        self.sent.append(address)


async def send_email(address: str, mailer: Data[Mailer], attempt: Attempt) -> int:
    """The handler to be tested; in a program of your own it is imported."""
    if "@" not in address:
        raise AbortError(f"{address!r} is no address")
    await mailer.send(address)
    return attempt


# A handler is a function.


async def test_the_handler_alone(autojump_clock: MockClock) -> None:
    mailer = Mailer()
    assert await send_email("ada@example.com", mailer, Attempt(1)) == 1
    assert mailer.sent == ["ada@example.com"]


# One attempt as a worker makes it: with its parameters, layers and retry policy.


async def test_one_attempt(autojump_clock: MockClock) -> None:
    assert await run_once(send_email, "ada@example.com", data=[Mailer()]) == Succeeded(1)
    assert isinstance(await run_once(send_email, "nobody", data=[Mailer()]), Killed)


async def test_an_attempt_that_takes_too_long(autojump_clock: MockClock) -> None:
    task = Task.builder("ada@example.com").timeout(0.5).build()
    outcome = await run_once(send_email, task, data=[Mailer()])
    assert isinstance(outcome, Retried)
    assert isinstance(outcome.error, trio.TooSlowError)


# Attempt by attempt, on a real storage.


async def test_step_by_step(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[str]()
    worker = TestWorker(storage, send_email, data=[Mailer(up_at=10)], retry=RetryPolicy(backoff=exponential(20)))
    pushed = await storage.push("ada@example.com")
    task_id, outcome = await worker.execute_next()
    assert task_id == pushed
    assert isinstance(outcome, Retried)
    assert outcome.after == 20
    assert await worker.execute_next() == (task_id, Succeeded(2))


# A whole worker, until there is nothing left to do. A week passes in no time.


async def test_a_week(autojump_clock: MockClock) -> None:
    week = 7 * 86400
    mailer = Mailer(up_at=week)
    policy = RetryPolicy(attempts=100, backoff=exponential(60, maximum=6 * 3600))
    storage = MemoryStorage[str]()
    await storage.push("ada@example.com")
    worker = Worker("emails", storage, send_email, data=[mailer], retry=policy)
    report = await run_until_idle(worker, delayed=True)
    assert report.succeeded == 1
    assert mailer.sent == ["ada@example.com"]
    assert week < trio.current_time() < week + 6 * 3600 + 60


# A backend that does what you write down, failing included.


async def test_a_backend_that_comes_and_goes(autojump_clock: MockClock) -> None:
    backend = ScriptedBackend[str](["ada@example.com", Pause(60), "nobody"])
    report = await Worker("emails", backend, send_email, data=[Mailer()]).run()
    assert (report.succeeded, report.killed) == (1, 1)
    assert [task.args for task, _ in backend.settled] == ["ada@example.com", "nobody"]
