"""The fault injector: it draws faults from a seeded generator, logs them, and simulates a lost connection."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, final

import trio
from trio.testing import MockClock

from ..._checks import check_count, check_sync
from ..._logging import log_and_suppress
from ..._tasks.errors import BackendError
from .rates import Fault, Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._tasks.task import Parts
    from .rates import FaultKind


@final
class FaultInjector:
    """Decides which faults happen, from a seed, and keeps a log of them.

    Args:
      faults: the rates.
      seed: a whole number.
      on_fault: called with each fault as it happens; or None.
      on_down: called when the connection goes down.
    """

    def __init__(
        self,
        faults: Faults,
        seed: int,
        on_fault: Callable[[Fault], object] | None,
        on_down: Callable[[], None],
    ) -> None:
        self.faults = faults
        self.log: list[Fault] = []
        self._rng = Random(f"faults {check_count(seed, 'seed', minimum=None)}")
        self._on_fault = None if on_fault is None else check_sync(on_fault, "on_fault", "on_fault(fault) -> object")
        self._on_down = on_down
        self._down_until = -float("inf")

    def occurs(self, rate: float) -> bool:
        """Return True if a fault of this rate happens now, drawn at random."""
        return rate > 0 and self._rng.random() < rate

    def draw_seconds(self, span: tuple[float, float]) -> float:
        """Draw a duration between two limits."""
        return self._rng.uniform(*span)

    def record(
        self, kind: FaultKind, operation: str, parts: Parts | None = None, seconds: float | None = None
    ) -> float:
        """Record a fault; return its seconds."""
        task_id, attempt = (None, None) if parts is None else (parts.id, int(parts.attempt))
        fault = Fault(trio.current_time(), kind, operation, task_id, attempt, seconds)
        self.log.append(fault)
        if self._on_fault is not None:
            with log_and_suppress("on_fault failed"):
                self._on_fault(fault)
        return seconds or 0.0

    @property
    def is_down(self) -> bool:
        """True while the connection is down."""
        return trio.current_time() < self._down_until

    def check(self, operation: str, parts: Parts | None = None) -> None:
        """Raise BackendError if the connection is down or goes down now; otherwise the clock may jump."""
        faults = self.faults
        if self.is_down:
            self.record("refused", operation, parts)
            raise BackendError(f"{operation} failed: the connection is down")
        if faults.jump:
            self._may_jump(operation, parts)
        if self.occurs(faults.disconnect):
            seconds = self.record("disconnect", operation, parts, self.draw_seconds(faults.outage_seconds))
            self._down_until = trio.current_time() + seconds
            self._on_down()
            raise BackendError(f"{operation} failed: the connection went down, for {seconds:.3f} s")

    def _may_jump(self, operation: str, parts: Parts | None) -> None:
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, MockClock):
            raise RuntimeError(
                f"Faults(jump=...) moves trio's clock, which must be a MockClock for that, not {clock!r}"
            )
        if self.occurs(self.faults.jump):
            clock.jump(self.record("jump", operation, parts, self.draw_seconds(self.faults.jump_seconds)))

    async def stall(  # noqa: ASYNC910  it seldom does
        self, operation: str, parts: Parts | None = None
    ) -> None:
        """Sleep for a while, if a stall happens now."""
        if self.occurs(self.faults.stall):
            await trio.sleep(self.record("stall", operation, parts, self.draw_seconds(self.faults.stall_seconds)))
