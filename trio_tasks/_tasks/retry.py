"""Retry policies: the number of attempts, and the delays between them.

A backoff is any function from the number of the attempt that failed (1, 2, 3 …) to seconds. Why delays are scattered:
Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from .._checks import check_callable, check_count, check_fraction, check_seconds
from .._printing import quoted, readable

Backoff = Callable[[int], float]


@final
@dataclass(frozen=True, slots=True)
class _Constant:
    seconds: float
    jitter: float

    def __call__(self, attempt: int) -> float:
        return _scattered(self.seconds, self.jitter)

    def __repr__(self) -> str:
        return f"constant({self.seconds}{_shown(jitter=self.jitter)})"


@final
@dataclass(frozen=True, slots=True)
class _Linear:
    first: float
    step: float
    maximum: float
    jitter: float

    def __call__(self, attempt: int) -> float:
        return _scattered(min(self.maximum, self.first + self.step * (attempt - 1)), self.jitter)

    def __repr__(self) -> str:
        more = _shown(step=self.step, maximum=self.maximum, jitter=self.jitter)
        return f"linear({self.first}{more})"


@final
@dataclass(frozen=True, slots=True)
class _Exponential:
    first: float
    factor: float
    maximum: float
    jitter: float

    def __call__(self, attempt: int) -> float:
        try:
            delay = min(self.maximum, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            delay = min(self.maximum, self.first and self.maximum)
        return _scattered(delay, self.jitter)

    def __repr__(self) -> str:
        more = _shown(factor=self.factor, maximum=self.maximum, jitter=self.jitter)
        return f"exponential({self.first}{more})"


def constant(seconds: float, *, jitter: float = 0.0) -> Backoff:
    """Return a backoff that gives the same delay each time.

    Args:
      seconds: the delay, 0 or more.
      jitter: the part of the delay, from 0 to 1, of which a random share is taken off.
    """
    check_seconds(seconds, "seconds")
    return _Constant(seconds, check_fraction(jitter, "jitter"))


def linear(first: float, *, step: float | None = None, maximum: float = 86400.0, jitter: float = 0.0) -> Backoff:
    """Return a backoff that gives ``first`` seconds, and ``step`` seconds more each time.

    Args:
      first: the delay after the first attempt.
      step: the seconds that each further delay is longer; ``first`` if not given.
      maximum: the longest delay, in seconds.
      jitter: the part of the delay, from 0 to 1, of which a random share is taken off.
    """
    check_seconds(first, "first")
    check_seconds(maximum, "maximum")
    growth = first if step is None else check_seconds(step, "step")
    return _Linear(first, growth, maximum, check_fraction(jitter, "jitter"))


def exponential(first: float, *, factor: float = 2.0, maximum: float = 86400.0, jitter: float = 0.0) -> Backoff:
    """Return a backoff that gives ``first`` seconds, and ``factor`` times as many each time.

    Args:
      first: the delay after the first attempt.
      factor: the factor by which each further delay is longer; 1 or more.
      maximum: the longest delay, in seconds.
      jitter: the part of the delay, from 0 to 1, of which a random share is taken off.
    """
    check_seconds(first, "first")
    check_seconds(maximum, "maximum")
    factor = check_seconds(factor, "factor")
    if factor < 1:
        raise ValueError(f"factor must be 1 or more, or delays would shrink; not {quoted(factor)}")
    return _Exponential(first, factor, maximum, check_fraction(jitter, "jitter"))


def _scattered(delay: float, jitter: float) -> float:
    return delay * (1.0 - jitter * random.random()) if jitter else delay


def _shown(**options: float) -> str:
    return "".join(f", {name}={value}" for name, value in options.items() if value != _USUAL.get(name))


_USUAL = {"jitter": 0.0, "maximum": 86400.0}


@readable
def always(error: BaseException) -> bool:
    """Return True, for any error: the default of ``retry_if``."""
    return True


@final
@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of attempts for a task, and the delays between them.

    Args:
      attempts: the number of runs of the handler in all, the first included. A task's own ``attempts`` overrides it.
      backoff: a function from the number of the failed attempt to the seconds to wait. By default exponential from
          one second to an hour, with up to half of each delay taken off at random.
      retry_if: a function from an error (each leaf, if a group was raised) to True if the task should be tried again;
          otherwise the task is killed. It is not called for ``AbortError``, ``RetryAfterError``, ``DeferredError``
          and ``SuspendError``.
    """

    attempts: int = 5
    backoff: Backoff = field(default=exponential(1.0, maximum=3600.0, jitter=0.5))
    retry_if: Callable[[BaseException], bool] = always

    def __post_init__(self) -> None:
        check_count(self.attempts, "attempts")
        check_callable(self.backoff, "backoff", "backoff(attempt) -> seconds, for example exponential(1.0)")
        check_callable(self.retry_if, "retry_if", "retry_if(error) -> bool")

    def __repr__(self) -> str:
        condition = "" if self.retry_if is always else f", retry_if={self.retry_if!r}"
        return f"RetryPolicy(attempts={self.attempts}, backoff={self.backoff!r}{condition})"

    def allows(self, error: BaseException) -> bool:
        """Return True if this error may be tried again."""
        return bool(self.retry_if(error))

    def delay_after(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number ``attempt`` has failed."""
        return check_seconds(self.backoff(attempt), f"the delay that backoff gave after attempt {attempt}")
