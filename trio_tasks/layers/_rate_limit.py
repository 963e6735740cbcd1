"""So many attempts may begin in any stretch of so many seconds.

Think of ``n`` tokens. A token is *free*; then it is *set aside*, for a task that a worker has received; then it is
*used*, as the attempt arrives at the layer, and from that moment on it *cools down* for ``per`` seconds, until it is
free again. One token therefore never serves two attempts less than ``per`` seconds apart, and that is the promise: no
stretch of ``per`` seconds, wherever it begins, sees more than ``n`` of them begin.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from .._checks import check_count, check_seconds
from ._turnstile import OPEN, UNKNOWN, Turnstile

if TYPE_CHECKING:
    from .._abc import Handler
    from .._task import Parts, Task

A = TypeVar("A")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class RateLimitStatistics:
    """A rate limit at one moment: how many of its ``limit`` tokens are ``free``, ``set_aside`` and ``cooling``; and how
    many ``waiting`` trio tasks stand in line for one."""

    limit: int
    per: float
    free: int
    set_aside: int
    cooling: int
    waiting: int


@final
class RateLimit:
    """At most ``n`` attempts begin in any ``per`` seconds; give the same object to several workers, and it counts over
    all of them.

    >>> RateLimit(100, per=60)

    Args:
      n: how many; all of them may begin at once.
      per: seconds, more than 0.

    A worker receives only while a token is free: all other tasks stay in the backend. Those who wait are served in the
    order in which they came, and sleep until the very moment at which the next token is free. An idle worker sets no
    token aside. Each call counts, also when an outer layer calls again within one attempt, as :class:`Retry` does; then
    the further calls wait inside, and hold the seat.

    If it is cancelled while it waits, it has used nothing. An attempt that has begun keeps its token used, however it
    ends; one that was received but never arrived here gives it back.
    """

    __slots__ = ("_clock", "_cooling", "_line", "_set_aside", "_unused", "limit", "per")

    def __init__(self, n: int, *, per: float) -> None:
        self.limit = check_count(n, "n")
        self.per = check_seconds(per, "per", positive=True)
        self._cooling: deque[float] = deque()  # when each of them will be free
        self._unused: dict[Parts, int] = {}  # tokens set aside for each task
        self._set_aside = 0
        self._clock: trio.abc.Clock | None = None
        self._line = Turnstile(self._opens_at)

    def _free(self) -> int:
        """How many tokens are free now. Times of an earlier ``trio.run``, whose clock was another, do not count."""
        clock = trio.lowlevel.current_clock()
        if clock is not self._clock:
            self._clock = clock
            self._cooling.clear()
        now = trio.current_time()
        while self._cooling and self._cooling[0] <= now:
            self._cooling.popleft()
        return self.limit - self._set_aside - len(self._cooling)

    def _opens_at(self) -> float:
        if self._free() > 0:
            return OPEN
        return self._cooling[0] if self._cooling else UNKNOWN

    # For workers

    async def ready(self) -> None:
        """Return once a token is free."""
        await self._line.pass_through()

    def admit(self, task: Task[Any]) -> bool:
        """Set a token aside for this task, if one is free."""
        if self._free() <= 0:
            return False
        self._set_aside += 1
        self._unused[task.parts] = self._unused.get(task.parts, 0) + 1
        return True

    def dismiss(self, task: Task[Any]) -> None:
        """Let the token that was set aside for this task be free, if it was not used."""
        if self._pick_up(task):
            self._line.look_again()

    def _pick_up(self, task: Task[Any]) -> bool:
        """Whether a token was set aside for this task; it is not any more."""
        unused = self._unused.pop(task.parts, 0)
        if not unused:
            return False
        if unused > 1:
            self._unused[task.parts] = unused - 1
        self._set_aside -= 1
        return True

    # The layer

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt on the token that was set aside for it, or else on one that this call waits for."""
        if not self._pick_up(task):
            await self._line.pass_through()
        self._cooling.append(trio.current_time() + self.per)
        self._line.look_again()  # who is first in line may not have known of a moment to wait for
        return await handler(task)

    def statistics(self) -> RateLimitStatistics:
        """How things stand, frozen."""
        free = self._free()
        return RateLimitStatistics(
            limit=self.limit,
            per=self.per,
            free=free,
            set_aside=self._set_aside,
            cooling=len(self._cooling),
            waiting=self._line.waiting,
        )

    def __repr__(self) -> str:
        return f"<RateLimit {self.limit} in {self.per:g} s>"
