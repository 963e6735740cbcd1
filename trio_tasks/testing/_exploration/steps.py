"""A trio instrument that counts the moments of a run, and acts at one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class StepCounter(trio.abc.Instrument):
    """Counts the moments of a run, and calls a function at one of them.

    A moment is either before a step of a trio task, which is ready then and will go on from where it waited; or when
    all trio tasks wait, so that only time can go on. A cancellation can come at no third kind of moment, unless a trio
    task cancels itself while it takes a step: for that there is :meth:`pass_by`.

    Args:
      at: the number of the moment, counted from 1; 0 for none.
      cut: a function that is called at that moment, inside trio's own loop; it must not raise.
      counts: a function that returns True if a moment counts. It is called at each moment, with the trio task that is
          about to take a step, or with None when all wait. Under a clock that is not virtual, do not cut at a moment
          of the second kind: trio has already decided how long it sleeps.
    """

    def __init__(self, at: int, cut: Callable[[], object], counts: Callable[[trio.lowlevel.Task | None], bool]) -> None:
        self.count = 0
        self.was_reached = False
        self._at = at
        self._cut = cut
        self._counts = counts
        self._all_wait = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the step that trio is about to run."""
        self._all_wait = False
        self.count_step(task)

    def before_io_wait(self, timeout: float) -> None:
        """Count a moment if trio is about to wait because no trio task can run."""
        if not self._all_wait and not trio.lowlevel.current_statistics().tasks_runnable:
            self._all_wait = True
            self.count_step(None)

    def count_step(self, task: trio.lowlevel.Task | None) -> None:
        """Count one moment; called at each moment that trio reports, and by others that define moments of their own."""
        if self._counts(task):
            self.count += 1
            if self.count == self._at:
                self.was_reached = True
                self._cut()
