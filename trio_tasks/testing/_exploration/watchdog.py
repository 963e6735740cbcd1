"""The time limit of a run, which also ends runs that no cancellation ends."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import outcome
import trio

from .stacks import below, place_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from .stacks import Place

MOST_STEPS = 200_000
"""Steps after which a run counts as endless."""


class Abandoned(BaseException):
    """An error thrown into a trio task that does not end when it is cancelled, so that its run can end."""


@final
class Watchdog(trio.abc.Instrument):
    """Cancels a block after a time limit, and notes where each trio task was.

    Args:
      seconds: on trio's clock.
    """

    def __init__(self, seconds: float) -> None:
        self._scope = trio.CancelScope()
        self.stuck: list[Place] | None = None
        """The place of each trio task when the time was up; None if it was not."""
        self.reason = ""
        self._seconds = seconds
        self._steps = 0
        self._trio_task: trio.lowlevel.Task | None = None

    @contextmanager
    def around(self) -> Generator[None, None, None]:
        """Limit the time that the block, and the trio tasks started in it, may take."""
        self._trio_task = trio.lowlevel.current_task()
        self._scope.deadline = trio.current_time() + self._seconds
        try:
            with self._scope:  # noqa: ASYNC100  what is in the block is the caller's
                yield
        finally:
            self._trio_task = None

    def after_io_wait(self, timeout: float) -> None:
        """Give up when the time is over; trio calls this before it cancels scopes whose deadline has passed."""
        if self._is_on and trio.current_time() >= self._scope.deadline:
            self._give_up(f"it did not end within {self._seconds:g} seconds of virtual time")

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step; give up after too many."""
        self._steps += 1
        if self._steps == MOST_STEPS and self._is_on:
            self._give_up(f"it did not end within {MOST_STEPS} steps")

    def before_io_wait(self, timeout: float) -> None:
        """Raise :exc:`Abandoned` in the trio tasks that still wait after the block was cancelled."""
        if self.stuck is None or self._trio_task is None or trio.lowlevel.current_statistics().tasks_runnable:
            return
        late = trio.current_time() > self._scope.deadline + self._seconds
        if late or trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf:
            for task in self._leaves():
                trio.lowlevel.reschedule(task, outcome.Error(Abandoned()))

    @property
    def _is_on(self) -> bool:
        return self.stuck is None and self._trio_task is not None

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self.stuck = [place_of(task) for task in self._leaves()]
        self._scope.deadline = trio.current_time()

    def _leaves(self) -> list[trio.lowlevel.Task]:
        assert self._trio_task is not None
        return [task for task in below(self._trio_task) if len([*below(task)]) == 1]

    def forget(self) -> None:
        """Drop all references to a run that broke down."""
        self._trio_task = None
        self._scope = trio.CancelScope()

    def describe(self) -> str:
        """Describe why the run was ended, and where its trio tasks were."""
        waits = "".join(f"\n    {place.task} is at {place}" for place in self.stuck or ())
        return f"{self.reason}:{waits}"
