"""The time limit of a run, and the end of a run that exceeds it."""

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
    """Thrown into a trio task that waits in a way that no cancellation ends, so that its run can end all the same."""


@final
class Watchdog(trio.abc.Instrument):
    """Cancels a block when its time is up, and notes where each trio task was; if that does not end it, raises an error
    in the trio tasks that still wait.

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
        """Limit the time of the current trio task, and of those that it starts, in the block."""
        self._trio_task = trio.lowlevel.current_task()
        self._scope.deadline = trio.current_time() + self._seconds
        try:
            with self._scope:  # noqa: ASYNC100  what is in the block is the caller's
                yield
        finally:
            self._trio_task = None

    def after_io_wait(self, timeout: float) -> None:
        """Called by trio, before it cancels what has a deadline."""
        if self._is_on and trio.current_time() >= self._scope.deadline:
            self._give_up(f"it did not end within {self._seconds:g} seconds of virtual time")

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by trio."""
        self._steps += 1
        if self._steps == MOST_STEPS and self._is_on:
            self._give_up(f"it took {MOST_STEPS} steps, and no end")

    def before_io_wait(self, timeout: float) -> None:
        """Called by trio."""
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
        """Drop all references to a run that broke down inside the block."""
        self._trio_task = None
        self._scope = trio.CancelScope()

    def describe(self) -> str:
        """Describe why the run was ended, and where its trio tasks were."""
        waits = "".join(f"\n    {place.task} is at {place}" for place in self.stuck or ())
        return f"{self.reason}:{waits}"
