"""How long a run may take, and the end of one that has none."""

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
"""A run that takes more does nothing but that."""


class Abandoned(BaseException):
    """Thrown into a trio task that waits in a way that no cancellation ends, so that its run can end all the same."""


@final
class Watchdog(trio.abc.Instrument):
    """Cancels a block when its time is up, having looked where each trio task is; and if that does not end it, throws
    an error into whatever still waits.

    Args:
      seconds: on trio's clock.
    """

    def __init__(self, seconds: float) -> None:
        self._scope = trio.CancelScope()
        self.stuck: list[Place] | None = None
        """Where each trio task was when the time was up; None if it was not."""
        self.reason = ""
        self._seconds = seconds
        self._steps = 0
        self._trio_task: trio.lowlevel.Task | None = None

    @contextmanager
    def around(self) -> Generator[None, None, None]:
        """The time of the current trio task, and of what it starts, is that of the block."""
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
        """Keep nothing of the run alive, which broke down inside the block."""
        self._trio_task = None
        self._scope = trio.CancelScope()

    def describe(self) -> str:
        """What went wrong."""
        waits = "".join(f"\n    {place.task} is at {place}" for place in self.stuck or ())
        return f"{self.reason}:{waits}"
