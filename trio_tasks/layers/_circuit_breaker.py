"""A circuit breaker, which holds attempts back while a service that they depend on fails.

The breaker is always in one of three states, and each is an object of its own:

* *closed*: attempts go through. So many failures in a row, and it opens.
* *open*: no attempt goes through, for ``recovery_timeout`` seconds. Then it is half-open.
* *half-open*: a few attempts go through, as trials. As soon as enough of them have succeeded it closes; as soon as
  too many have failed for that, it opens again.

A call reports to the state object in which it began. If the breaker has moved on since, the report is ignored there:
so a slow failure from before cannot spoil a trial, nor can a trial that comes too late.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_count, check_fraction, check_plain, check_seconds
from .._concurrency.exception_groups import leaves
from .._tasks.retry import always
from ._capacity_queue import OPEN, UNKNOWN, CapacityQueue
from ._failures import FAILURES, is_failure, is_suspension

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .._contracts.layer import Handler
    from .._tasks.task import Parts, Task

A = TypeVar("A")
R = TypeVar("R")


@final
class CircuitState(str, Enum):
    """The state of a circuit breaker: closed, open or half-open."""

    Closed = "closed"
    """Attempts go through."""
    Open = "open"
    """Attempts wait."""
    HalfOpen = "half-open"
    """A few attempts go through, as trials."""

    def __str__(self) -> str:
        return self.value


@final
@dataclass(frozen=True, slots=True)
class CircuitBreakerStatistics:
    """The state and the counts of a circuit breaker at one moment.

    ``failures`` counts failures in a row while it is closed, and failed trials while it is half-open. ``successes`` and
    ``under_way`` count trials. ``waiting`` is the number of trio tasks that wait for the breaker.
    """

    state: CircuitState
    failures: int
    successes: int
    under_way: int
    waiting: int


@final
class _Closed:
    name = CircuitState.Closed
    successes = under_way = 0

    def __init__(self) -> None:
        self.failures = 0


@final
class _Open:
    name = CircuitState.Open
    failures = successes = under_way = 0

    def __init__(self, seconds: float) -> None:
        self.clock = trio.lowlevel.current_clock()
        self.until = trio.current_time() + seconds

    def is_over(self) -> bool:
        """True if the recovery time is over. It is over, too, in a later ``trio.run``, which has another clock."""
        return trio.lowlevel.current_clock() is not self.clock or self.until <= trio.current_time()


@final
class _HalfOpen:
    name = CircuitState.HalfOpen

    def __init__(self, places: int) -> None:
        self.places = places
        self.failures = self.successes = self.under_way = 0

    @property
    def has_place(self) -> bool:
        return self.under_way + self.failures + self.successes < self.places


@final
class CircuitBreaker:
    """Hold attempts back after too many failures, and later let a few through as trials.

    Give the same object to several workers, and it counts over all of them.

    Args:
      failure_threshold: the number of failures in a row after which the breaker opens. A success in
          between starts the count again.
      recovery_timeout: the seconds for which it stays open; then it is half-open.
      success_threshold: the part of the trials, from 0 to 1, that must succeed to close it; at least one must.
      half_open_max_calls: the number of trials each time, and the most that run at once.
      failure_if: a function from an error (each leaf, if a group was raised) to True if it counts as a failure of what
          the breaker protects. By default every error does. Other errors count neither as failure nor as success.

    While it is open, and while all trials are under way, a worker receives nothing: the tasks stay in the backend.
    Each call counts, also when an outer layer calls again within one attempt, as :class:`Retry` does; if the breaker
    has opened in between, that call waits inside, and holds the slot.

    An attempt that is cancelled, or suspended, counts neither as a success nor as a failure. If it was a trial, another
    one gets its place.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_timeout: float = 60.0,
        success_threshold: float = 0.5,
        half_open_max_calls: int = 3,
        *,
        failure_if: Callable[[BaseException], bool] = always,
    ) -> None:
        self._failure_threshold = check_count(failure_threshold, "failure_threshold")
        self._recovery_timeout = check_seconds(recovery_timeout, "recovery_timeout")
        self._trials = check_count(half_open_max_calls, "half_open_max_calls")
        fraction = check_fraction(success_threshold, "success_threshold")
        # Subtract a little first: 0.1 × 30 is a little more than 3 in floating point.
        self._successes_needed = max(1, math.ceil(fraction * self._trials - 1e-9))
        self._failure_if = check_plain(failure_if, "failure_if", "failure_if(error) -> bool")
        self._now: _Closed | _Open | _HalfOpen = _Closed()
        self._admitted: dict[
            Parts, list[_Closed | _HalfOpen]
        ] = {}  # the states that the calls of admitted tasks will report to
        self._trials_of: dict[Parts, list[_HalfOpen]] = {}  # calls under way that are trials
        self._line = CapacityQueue(self._opens_at)

    @property
    def state(self) -> CircuitState:
        """The state now; it equals one of the texts ``"closed"``, ``"open"`` and ``"half-open"``."""
        return self.statistics().state

    def statistics(self) -> CircuitBreakerStatistics:
        """Return the state and the counts of this moment."""
        now = self._now
        over = isinstance(now, _Open) and now.is_over()
        return CircuitBreakerStatistics(
            state=CircuitState.HalfOpen if over else now.name,
            failures=now.failures,
            successes=now.successes,
            under_way=now.under_way,
            waiting=self._line.waiting,
        )

    # Counting of calls

    def _opens_at(self) -> float:
        now = self._now
        if isinstance(now, _Open):
            return OPEN if now.is_over() else now.until
        return OPEN if isinstance(now, _Closed) or now.has_place else UNKNOWN

    def _begin(self) -> _Closed | _HalfOpen | None:
        """Return the state that a call which begins now reports to; None if no call may begin."""
        if isinstance(self._now, _Open):
            if not self._now.is_over():
                return None
            self._now = _HalfOpen(self._trials)
        if isinstance(self._now, _HalfOpen):
            if not self._now.has_place:
                return None
            self._now.under_way += 1
        return self._now

    @contextmanager
    def _reported_to(self, state: _Closed | _HalfOpen) -> Generator[None, None, None]:
        """Report the end of the call in the block to ``state``. A call that was cancelled counts as neither success nor
        failure.
        """
        ended = self._withdraw
        try:
            yield
            ended = self._succeed
        except FAILURES as error:
            counts = is_failure(error) and not is_suspension(error)
            if counts and any(self._failure_if(each) for each in leaves(error)):
                ended = self._fail
            raise
        finally:
            ended(state)
            self._line.wake_first()

    def _withdraw(self, state: _Closed | _HalfOpen) -> None:
        if isinstance(state, _HalfOpen):
            state.under_way -= 1

    def _succeed(self, state: _Closed | _HalfOpen) -> None:
        self._withdraw(state)
        if isinstance(state, _Closed):
            state.failures = 0
        else:
            state.successes += 1
            if state is self._now and state.successes >= self._successes_needed:
                self._now = _Closed()

    def _fail(self, state: _Closed | _HalfOpen) -> None:
        self._withdraw(state)
        state.failures += 1
        bearable = self._failure_threshold - 1
        if isinstance(state, _HalfOpen):
            bearable = self._trials - self._successes_needed
        if state is self._now and state.failures > bearable:
            self._now = _Open(self._recovery_timeout)

    # For workers

    async def ready(self) -> None:
        """Wait until an attempt would be let through."""
        await self._line.pass_through()

    def ready_nowait(self) -> None:
        """Return if an attempt would be let through at once; otherwise raise ``trio.WouldBlock``."""
        self._line.pass_nowait()

    def admit(self, task: Task[Any]) -> bool:
        """Let this task through if an attempt may begin now; while half-open, it then counts as a trial."""
        state = self._begin()
        if state is None:
            return False
        self._admitted.setdefault(task.parts, []).append(state)
        return True

    def dismiss(self, task: Task[Any]) -> None:
        """Free the place that was reserved for this task, unless a call has used it."""
        state = self._take_admission(task)
        if state is not None:
            self._withdraw(state)
            self._line.wake_first()

    def _take_admission(self, task: Task[Any]) -> _Closed | _HalfOpen | None:
        states = self._admitted.get(task.parts)
        if states is None:
            return None
        state = states.pop()
        if not states:
            del self._admitted[task.parts]
        return state

    def lend(self, task: Task[Any]) -> None:
        """Let another trial run while this one waits for another task."""
        for state in self._trials_of.get(task.parts, ()):
            state.under_way -= 1
            self._line.wake_first()

    def reclaim(self, task: Task[Any]) -> None:
        """Count the trial as running again, at once."""
        for state in self._trials_of.get(task.parts, ()):
            state.under_way += 1

    # The layer

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, at once if it was admitted and the state has not changed since; otherwise wait until it may
        run.
        """
        state = self._take_admission(task)
        while state is None or state is not self._now:
            await self._line.pass_through()
            state = self._begin()
        with self._reported_to(state):
            if isinstance(state, _HalfOpen):
                with self._marked_as_trial(state, task):
                    return await handler(task)
            return await handler(task)

    @contextmanager
    def _marked_as_trial(self, state: _HalfOpen, task: Task[Any]) -> Generator[None, None, None]:
        """Remember that the call in the block is a trial, so that it can lend its place."""
        trials = self._trials_of.setdefault(task.parts, [])
        trials.append(state)
        try:
            yield
        finally:
            trials.remove(state)
            if not trials:
                del self._trials_of[task.parts]

    def explain(self) -> str:
        """Return the state, and when trials begin, in a few words."""
        now, opens_at = self.statistics(), self._opens_at()
        if opens_at not in (OPEN, UNKNOWN):
            return f"CircuitBreaker: open, trials begin in {opens_at - trio.current_time():.1f} s"
        trials = f", {now.under_way} trials are under way" if now.state is CircuitState.HalfOpen else ""
        return f"CircuitBreaker: {now.state}{trials}"

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._now.name}>"
