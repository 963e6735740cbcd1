"""A trio run that does one thing when it is told to, and stands still otherwise: so a test that is not async can drive
it step by step, and what goes wrong in a step is raised there and then."""

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
    """The run. Its time passes only when :meth:`pass_time` says so."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self.nursery: trio.Nursery
        self._steps: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[outcome.Outcome[Any]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def do(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """``await async_fn(*args)``, in the run; what it raises is raised here."""
        self._steps.put((async_fn, *args))
        result: T = self._outcomes.get(timeout=_STEP_TIMEOUT).unwrap()
        return result

    def end(self) -> None:
        """Cancel what is left, and have the run over."""
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
        """Return when everybody waits for something that only time, or the next step, can bring."""
        await wait_all_tasks_blocked()

    async def pass_time(self, seconds: float) -> None:
        """Have so much time pass, in one jump, and everybody see to what that means."""
        await self.wait_until_blocked()
        self.clock.jump(seconds)
        await self.wait_until_blocked()
