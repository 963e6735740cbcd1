"""Tests of the layer CircuitBreaker: closed, open and half-open; a cancellation counts as nothing."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio_tasks import AbortError, MemoryStorage, RetryPolicy, Status, Task, Worker, constant
from trio_tasks.abc import Admitting
from trio_tasks.layers import CircuitBreaker, CircuitBreakerStatistics, CircuitState, MapArgs, Retry

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Service:
    """A handler that fails while it is down."""

    def __init__(self, *, down: bool = False, seconds: float = 0.0) -> None:
        self.down = down
        self.seconds = seconds
        self.calls: list[float] = []

    async def __call__(self, task: Task[Any]) -> str:
        return await self.ask(task.args)

    async def ask(self, args: Any) -> str:
        self.calls.append(trio.current_time())
        await trio.sleep(self.seconds)
        if self.down:
            raise ConnectionError(args)
        return "up"


UP, DOWN = Service(), Service(down=True)


async def call(breaker: CircuitBreaker, service: Service, times: int = 1) -> None:
    """Make this many calls, one after the other; errors are expected."""
    for _ in range(times):
        with suppress(ConnectionError):
            await breaker(service, Task("a"))


async def half_open(**options: Any) -> CircuitBreaker:
    """Make a breaker that has opened, and whose recovery time has just passed."""
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=60, **options)
    await call(breaker, DOWN)
    assert breaker.state == "open"
    await trio.sleep(60)
    assert breaker.state == "half-open"
    return breaker


class Trial:
    """A call that is under way until it is told how to end."""

    def __init__(self, breaker: CircuitBreaker, nursery: trio.Nursery) -> None:
        self.breaker = breaker
        self.began_at: float | None = None
        self.scope = trio.CancelScope()
        self._end = trio.Event()
        self._error: BaseException | None = None
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            with suppress(ConnectionError, BaseExceptionGroup):
                await self.breaker(self._handle, Task("a"))

    async def _handle(self, task: Task[str]) -> None:
        self.began_at = trio.current_time()
        await self._end.wait()
        if self._error is not None:
            raise self._error

    async def end(self, error: BaseException | None = None) -> None:
        self._error = error
        self._end.set()
        await trio.testing.wait_all_tasks_blocked()

    async def cancel(self) -> None:
        self.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()


async def trials(breaker: CircuitBreaker, nursery: trio.Nursery, number: int) -> list[Trial]:
    made: list[Trial] = []
    for _ in range(number):
        made.append(Trial(breaker, nursery))
        await trio.testing.wait_all_tasks_blocked()
    return made


# Closed


async def test_so_many_failures_in_a_row_open_it(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=3)
    await call(breaker, DOWN, 2)
    assert breaker.state == "closed"
    await call(breaker, DOWN)
    assert breaker.state == "open"


async def test_a_success_starts_the_count_again(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=3)
    for _ in range(5):
        await call(breaker, DOWN, 2)
        await call(breaker, UP)
    assert breaker.state == "closed"


async def test_errors_and_results_pass_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    breaker, error = CircuitBreaker(), ExceptionGroup("two", [KeyError(1), ValueError(2)])

    async def fail(task: Task[str]) -> None:
        raise error

    assert await breaker(UP, Task("a")) == "up"
    with pytest.RaisesGroup(KeyError, ValueError) as caught:
        await breaker(fail, Task("a"))
    assert caught.value is error


async def test_a_handler_that_exits_has_failed() -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    async def leave(task: Task[str]) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await breaker(leave, Task("a"))
    assert breaker.state == "open"


async def test_only_errors_that_speak_against_the_service_count(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, failure_if=lambda error: not isinstance(error, AbortError))

    async def fail_with(error: Exception) -> None:
        async def fail(task: Task[str]) -> None:
            raise error

        with pytest.raises(type(error)):
            await breaker(fail, Task("a"))

    await fail_with(AbortError("not the service's fault"))
    await fail_with(ExceptionGroup("", [AbortError("nor"), AbortError("these")]))
    assert breaker.state == "closed"
    await fail_with(ExceptionGroup("", [AbortError("but this:"), ConnectionError()]))
    assert breaker.state == "open"


async def test_what_it_does_unless_told_otherwise(autojump_clock: trio.testing.MockClock) -> None:
    """Five failures; sixty seconds; two successes in three trials."""
    breaker = CircuitBreaker()
    closed = CircuitBreakerStatistics(state=CircuitState.Closed, failures=0, successes=0, under_way=0, waiting=0)
    assert breaker.statistics() == closed
    await call(breaker, DOWN, 4)
    assert breaker.state == "closed"
    await call(breaker, DOWN)
    assert breaker.statistics() == CircuitBreakerStatistics(
        state=CircuitState.Open, failures=0, successes=0, under_way=0, waiting=0
    )
    await call(breaker, UP)
    assert trio.current_time() == 60
    await call(breaker, DOWN)
    assert breaker.state == "half-open"
    await call(breaker, UP)
    assert breaker.statistics() == closed


# Open


async def test_while_open_nothing_goes_through(autojump_clock: trio.testing.MockClock) -> None:
    breaker, service = CircuitBreaker(failure_threshold=2, recovery_timeout=60), Service(down=True)
    await call(breaker, service, 2)
    assert not breaker.admit(Task("a"))
    with trio.move_on_after(59) as scope:
        await breaker.ready()
    assert scope.cancelled_caught
    await breaker.ready()
    assert trio.current_time() == 60
    assert service.calls == [0, 0]


async def test_while_open_a_call_that_was_not_admitted_waits(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=60)
    await call(breaker, DOWN)
    with trio.move_on_after(30) as scope:
        await breaker(UP, Task("gave up"))
    assert scope.cancelled_caught
    assert await breaker(UP, Task("a")) == "up"
    assert trio.current_time() == 60


async def test_a_failure_from_before_changes_nothing_any_more(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It began while closed; it neither prolongs the recovery, nor spoils a trial, nor counts when closed again."""
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=60, half_open_max_calls=1)
    slow = await trials(breaker, nursery, 3)
    await call(breaker, DOWN)
    await trio.sleep(30)
    await slow[0].end(ConnectionError())
    await trio.sleep(30)
    assert breaker.state == "half-open"
    [trial] = await trials(breaker, nursery, 1)
    await slow[1].end(ConnectionError())
    assert breaker.state == "half-open"
    await trial.end()
    assert breaker.state == "closed"
    await slow[2].end(ConnectionError())
    assert breaker.state == "closed"


# Half-open


@pytest.mark.parametrize(
    ("threshold", "calls", "needed", "bearable"),
    [(0.5, 3, 2, 1), (0.5, 1, 1, 0), (1.0, 3, 3, 0), (0.0, 3, 1, 2), (0.1, 30, 3, 27), (0.34, 3, 2, 1), (0.5, 4, 2, 2)],
)
async def test_enough_successes_close_it_and_too_many_failures_open_it(
    threshold: float,
    calls: int,
    needed: int,
    bearable: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    options = {"success_threshold": threshold, "half_open_max_calls": calls}
    lucky = await half_open(**options)
    await call(lucky, DOWN, bearable)
    await call(lucky, UP, needed - 1)
    assert lucky.state == "half-open"
    await call(lucky, UP)
    assert lucky.state == "closed"

    unlucky = await half_open(**options)
    await call(unlucky, UP, needed - 1)
    await call(unlucky, DOWN, bearable)
    assert unlucky.state == "half-open"
    opened = trio.current_time()
    await call(unlucky, DOWN)
    assert unlucky.state == "open"
    await unlucky.ready()
    assert trio.current_time() == opened + 60, "it recovers from the beginning"


async def test_no_more_trials_than_so_many(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    breaker = await half_open(half_open_max_calls=3, success_threshold=1.0)
    calls = await trials(breaker, nursery, 5)
    assert [trial.began_at for trial in calls] == [60, 60, 60, None, None]
    assert not breaker.admit(Task("a"))
    assert breaker.statistics() == CircuitBreakerStatistics(
        state=CircuitState.HalfOpen, failures=0, successes=0, under_way=3, waiting=2
    )
    await calls[0].end()
    assert calls[3].began_at is None, "a trial that is over gives no place to another"
    await calls[1].end()
    await calls[2].end()
    assert breaker.state == "closed"
    assert [trial.began_at for trial in calls[3:]] == [60, 60]
    for trial in calls[3:]:
        await trial.end()


async def test_a_trial_that_failed_gives_no_place_to_another(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(half_open_max_calls=3, success_threshold=0.5)
    await call(breaker, DOWN)
    calls = await trials(breaker, nursery, 3)
    assert [trial.began_at for trial in calls] == [60, 60, None]
    nursery.cancel_scope.cancel()


async def test_a_success_that_comes_late_does_not_close_it_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(half_open_max_calls=3, success_threshold=0.5)
    late, *others = await trials(breaker, nursery, 3)
    for trial in others:
        await trial.end()
    assert breaker.state == "closed"
    await call(breaker, DOWN)
    await late.end()
    assert breaker.state == "open"


async def test_a_call_that_waits_for_the_trials_waits_on_if_they_fail(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(half_open_max_calls=1)
    trial, other = await trials(breaker, nursery, 2)
    await trial.end(ConnectionError())
    assert breaker.state == "open"
    await trio.sleep(59)
    assert other.began_at is None
    await trio.sleep(1)
    await trio.testing.wait_all_tasks_blocked()
    assert other.began_at == 120
    await other.end()


async def test_a_cancelled_trial_gives_its_place_back(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(half_open_max_calls=1)
    trial, other, third = await trials(breaker, nursery, 3)
    await trial.cancel()
    assert (trial.began_at, other.began_at, third.began_at) == (60, 60, None)
    await other.cancel()
    assert third.began_at == 60
    await third.end()
    assert breaker.state == "closed"


async def test_a_cancellation_counts_neither_way(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=2)
    await call(breaker, DOWN)
    for _ in range(5):
        [trial] = await trials(breaker, nursery, 1)
        await trial.cancel()
    assert breaker.statistics().failures == 1, "neither one more, nor none"


async def test_a_cancellation_that_its_cleanup_hides_counts_neither_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    async def clean_up_badly(task: Task[str]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("could not say goodbye")

    with pytest.raises(ConnectionError), trio.move_on_after(1):
        await breaker(clean_up_badly, Task("a"))
    assert breaker.state == "closed"

    async def time_out(task: Task[str]) -> None:
        with trio.move_on_after(1):
            await clean_up_badly(task)

    with pytest.raises(ConnectionError):
        await breaker(time_out, Task("b"))
    assert breaker.state == "open", "a timeout of its own is the handler's"


async def test_a_group_that_is_no_exception_is_a_failure_as_well(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    async def fail(task: Task[str]) -> None:
        raise BaseExceptionGroup("", [SystemExit(1), KeyError()])

    with pytest.RaisesGroup(SystemExit, KeyError):
        await breaker(fail, Task("a"))
    assert breaker.state == "open"


async def test_an_error_in_a_group_with_an_interrupt_counts_neither_way(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(half_open_max_calls=1)
    [trial] = await trials(breaker, nursery, 1)
    await trial.end(BaseExceptionGroup("both", [KeyError(), KeyboardInterrupt()]))
    assert breaker.statistics() == CircuitBreakerStatistics(
        state=CircuitState.HalfOpen, failures=0, successes=0, under_way=0, waiting=0
    )


async def test_a_trial_of_an_earlier_time_is_not_listened_to(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    breaker = await half_open(half_open_max_calls=3, success_threshold=1.0)
    late, failing = await trials(breaker, nursery, 2)
    await failing.end(ConnectionError())
    await trio.sleep(60)
    await trials(breaker, nursery, 1)
    assert breaker.statistics().under_way == 1
    await late.end()
    assert breaker.statistics().successes == 0
    assert breaker.statistics().under_way == 1
    nursery.cancel_scope.cancel()


# What a worker does


async def test_an_admitted_trial_has_its_place_until_it_is_used_or_dismissed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker = await half_open(half_open_max_calls=1)
    task = Task("a")
    with trio.testing.assert_checkpoints():
        await breaker.ready()
    assert breaker.admit(task)
    assert not breaker.admit(Task("b"))
    breaker.dismiss(task)
    breaker.dismiss(task)
    breaker.dismiss(Task("never seen"))
    assert breaker.statistics().under_way == 0
    again = Task("a")
    assert breaker.admit(again)
    assert not breaker.admit(Task("b"))
    await breaker(UP, Task("other args", again.parts))
    breaker.dismiss(again)
    assert breaker.state == "closed"


async def test_a_task_admitted_twice_has_two_places(autojump_clock: trio.testing.MockClock) -> None:
    breaker = await half_open(half_open_max_calls=3)
    task = Task("a")
    assert breaker.admit(task)
    assert breaker.admit(task)
    assert breaker.statistics().under_way == 2
    await breaker(UP, task)
    assert breaker.statistics().under_way == 1
    breaker.dismiss(task)
    breaker.dismiss(task)
    assert breaker.statistics() == CircuitBreakerStatistics(
        state=CircuitState.HalfOpen, failures=0, successes=1, under_way=0, waiting=0
    )


async def test_a_waiting_call_learns_of_a_trial_that_is_given_back(autojump_clock: trio.testing.MockClock) -> None:
    breaker = await half_open(half_open_max_calls=1)
    task = Task("a")
    assert breaker.admit(task)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(breaker.ready)
        await trio.sleep(5)
        breaker.dismiss(task)
    assert trio.current_time() == 65


async def test_an_attempt_admitted_before_it_opened_waits_with_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    breaker, service = CircuitBreaker(failure_threshold=1, recovery_timeout=60), Service()
    task = Task("admitted, but not arrived yet")
    assert breaker.admit(task)
    await call(breaker, DOWN)
    await breaker(service, task)
    breaker.dismiss(task)
    assert service.calls == [60]


def test_an_open_time_of_another_run_is_over() -> None:
    """A breaker at the top of a module lives through several runs, whose clocks have nothing to do with each other."""
    breaker, service = CircuitBreaker(failure_threshold=1, recovery_timeout=60, half_open_max_calls=1), Service()

    async def break_it() -> None:
        await trio.sleep(1000)
        await call(breaker, DOWN)

    async def try_it() -> None:
        await call(breaker, service)

    trio.run(break_it, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(try_it, clock=trio.testing.MockClock(autojump_threshold=0))
    assert service.calls == [0]


# Through workers


async def test_promise_4_while_open_tasks_stay_in_the_backend(autojump_clock: trio.testing.MockClock) -> None:
    """An open breaker stops the intake of its worker, and another worker takes what is left."""
    breaker, broken, other = CircuitBreaker(failure_threshold=2, recovery_timeout=60), Service(down=True), Service()
    storage = MemoryStorage[str]()
    ids = await storage.push_bulk(list("abcd"), attempts=1)
    async with trio.open_nursery() as nursery:
        worker = Worker("broken", storage, broken.ask, concurrency=1, layers=[breaker])
        context = await nursery.start(worker.run)
        await trio.sleep(30)
        assert breaker.state == "open"
        assert len(broken.calls) == 2
        assert context.task_count == 0
        waiting = [await storage.fetch_by_id(task_id) for task_id in ids[2:]]
        assert [task and (task.parts.status, task.parts.attempt) for task in waiting] == [(Status.Pending, 0)] * 2
        storage.close()
        nursery.start_soon(Worker("healthy", storage, other.ask, concurrency=1).run)
    assert len(other.calls) == 2
    assert (await storage.metrics())["released"] == 0, "nothing was even taken and given back"


async def test_a_worker_recovers_with_its_service(autojump_clock: trio.testing.MockClock) -> None:
    breaker = CircuitBreaker(failure_threshold=3, recovery_timeout=60, half_open_max_calls=2, success_threshold=1.0)
    service = Service(down=True, seconds=1)
    storage = MemoryStorage[int]()
    await storage.push_bulk(range(20))
    storage.close()
    layers: list[Any] = [MapArgs(str), breaker]
    worker = Worker(
        "w", storage, service.ask, concurrency=3, layers=layers, retry=RetryPolicy(attempts=9, backoff=constant(0))
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(150)
        service.down = False
    # Three failures; a trial of two, of which one is one too many; and again; then a trial that succeeds.
    assert [service.calls.count(at) for at in (0, 61, 122, 183)] == [3, 2, 2, 2]
    assert (await storage.metrics())["succeeded"] == 20
    assert breaker.state == "closed"


async def test_a_released_trial_is_no_failure(autojump_clock: trio.testing.MockClock) -> None:
    breaker = await half_open(half_open_max_calls=1)
    storage = MemoryStorage[str]()
    await storage.push("a")
    with trio.move_on_after(1):
        await Worker("w", storage, Service(seconds=10).ask, layers=[breaker]).run()
    assert breaker.statistics() == CircuitBreakerStatistics(
        state=CircuitState.HalfOpen, failures=0, successes=0, under_way=0, waiting=0
    )


async def test_in_a_retry_each_call_counts_and_waits_while_open(autojump_clock: trio.testing.MockClock) -> None:
    breaker, service = CircuitBreaker(failure_threshold=2, recovery_timeout=60), Service(down=True)
    storage = MemoryStorage[str]()
    await storage.push("a")
    storage.close()
    layers: list[Any] = [Retry(3, backoff=constant(1)), breaker]
    report = await Worker("w", storage, service.ask, layers=layers, retry=RetryPolicy(attempts=1)).run()
    assert service.calls == [0, 1, 61]
    assert report.failed == 1


# Arguments

WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: CircuitBreaker(failure_threshold=0), ValueError, "failure_threshold must be 1 or more, not 0"),
    (lambda: CircuitBreaker(recovery_timeout=-1), ValueError, "recovery_timeout must be 0 or more seconds"),
    (lambda: CircuitBreaker(recovery_timeout=math.inf), ValueError, "recovery_timeout must be a finite number"),
    (lambda: CircuitBreaker(success_threshold=1.5), ValueError, "success_threshold must be a number from 0 to 1"),
    (lambda: CircuitBreaker(half_open_max_calls=0), ValueError, "half_open_max_calls must be 1 or more"),
    (lambda: CircuitBreaker(failure_if=1), TypeError, "failure_if must be callable"),  # type: ignore[arg-type]  # it is refused
]


@pytest.mark.parametrize(("make", "kind", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_arguments_are_refused(make: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_it_is_a_gate_that_counts_and_shows_itself() -> None:
    assert isinstance(CircuitBreaker(), Admitting)
    assert repr(CircuitBreaker()) == "<CircuitBreaker closed>"
    assert CircuitBreaker().state == "closed"
