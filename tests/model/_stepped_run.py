"""A trio run that goes on only when it is told to, so that a sync test can drive it step by step. Errors of a step are
raised by the call that makes the step.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import outcome
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks.testing import run_seeded

T = TypeVar("T")

TICK = 1 / 32
"""Seconds: what is told to others has reached them after two of these."""
_STEP_TIMEOUT = 100.0
"""Seconds of real time, after which a step hangs."""


class SteppedRun:
    """A trio run that is driven step by step. Its time passes only when :meth:`pass_time` says so."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self.nursery: trio.Nursery
        self._steps: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[outcome.Outcome[Any]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def do(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run ``await async_fn(*args)`` in the run; raise its error here."""
        self._steps.put((async_fn, *args))
        result: T = self._outcomes.get(timeout=_STEP_TIMEOUT).unwrap()
        return result

    def end(self) -> None:
        """Cancel what is left, and end the run."""
        self._steps.put(None)
        self._outcomes.get(timeout=_STEP_TIMEOUT).unwrap()
        self._thread.join(_STEP_TIMEOUT)

    def _run(self) -> None:
        self._outcomes.put(outcome.capture(lambda: run_seeded(self._main, seed=1, clock=self.clock)))

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            while (step := self._steps.get()) is not None:
                self._outcomes.put(await outcome.acapture(*step))
            self.nursery.cancel_scope.cancel()

    async def wait_until_blocked(self) -> None:
        """Wait until all trio tasks wait for time to pass or for the next step."""
        await wait_all_tasks_blocked()

    async def pass_time(self, seconds: float) -> None:
        """Move the time forward in one jump, and let all trio tasks react."""
        await self.wait_until_blocked()
        self.clock.jump(seconds)
        await self.wait_until_blocked()
