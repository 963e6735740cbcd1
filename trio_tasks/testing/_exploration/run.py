"""One run of a scenario, cancelled at one moment or not at all, within a time limit."""

from __future__ import annotations

import gc
import inspect
import math
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, final

import outcome
import trio

from ..._concurrency.exception_groups import is_a, leaves
from .._simulation.seeded import run_seeded
from .cut import Blocks, Cut
from .stacks import Place, below, place_here, place_of
from .steps import StepCounter

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence


class Scenario(NamedTuple):
    """A scenario, its invariant and its time limit."""

    async_fn: Callable[..., Any]
    takes_cut: bool
    invariant: Callable[[], Any] | None
    time_limit: float


class CutPoint(NamedTuple):
    """A moment at which a run can be cancelled: the trio task of this name enters a part or goes on. Without a name:
    all trio tasks wait.
    """

    task: str
    how: str
    places: tuple[Place, ...]
    parts: tuple[str, ...]

    def __str__(self) -> str:
        if self.task:
            return f"{self.task} {self.how} {self.places[0]}"
        return "all wait: " + "; ".join(f"{place.task} at {place}" for place in self.places)


@final
class ScenarioRun:
    """One run of a scenario.

    Args:
      scenario: the scenario to run.
      seed: the seed of the schedule.
      first_run: the cut points of the run that was not cut; None if this is it.
      at: the number of the moment at which this run is cut; 0 for none.
      part: the name of the part that is cut then.
    """

    def __init__(
        self, scenario: Scenario, seed: int, *, first_run: Sequence[CutPoint] | None = None, at: int = 0, part: str = ""
    ) -> None:
        self.cut_points: list[CutPoint] = []
        self.cancelled_at: Sequence[Place] = ()
        """The places of the trio tasks that were cancelled: of the one about to take a step; or, if it is not inside
        the part, or all waited, of those inside the part."""
        self.differs_at = 0
        """The number of the first moment that was another one than in the first run; 0 if there is none."""
        self.error: BaseException | None = None
        self._scenario = scenario
        self._seed = seed
        self._first_run = first_run
        self._at = at
        self._part = part
        self._blocks = Blocks(self._note_entry)
        self._is_entering = False
        self._watchdog = Watchdog(scenario.time_limit)
        self._step_counter = StepCounter(at, self._cancel_part, self._count)
        self._has_begun = False
        self._abort_error: Exception | None = None
        self._counted = 0
        self._waited_at: list[str] = []
        self._next: trio.lowlevel.Task | None = None

    def run(self) -> None:
        """Run the scenario in a trio run of its own; an error that comes out is kept as :attr:`error`."""
        try:
            run_seeded(self._main, seed=self._seed, instruments=[self._step_counter, self._watchdog])
        except (Exception, trio.Cancelled, Abandoned, BaseExceptionGroup) as error:  # noqa: ASYNC103  its run is over
            if not self._has_begun or any(isinstance(each, (KeyboardInterrupt, SystemExit)) for each in leaves(error)):
                raise
            self.error = error
        if self._watchdog.stuck is not None:
            endless = trio.TooSlowError(self._watchdog.describe())
            endless.__context__, endless.__suppress_context__ = self.error, True
            self.error = endless
        if self._abort_error is not None:
            self.error, self._abort_error = self._abort_error, None
        if self.error is not None and is_a(self.error, trio.TrioInternalError):
            self._discard_broken_run(_without_traceback(self.error))
        if self._first_run is not None and not self._blocks.has_come and not self.differs_at:
            self.differs_at = self._counted + 1

    async def _main(self) -> None:
        scenario, cut = self._scenario, Cut(self._blocks)
        self._has_begun = True
        trio.lowlevel.current_task().name = getattr(scenario.async_fn, "__qualname__", repr(scenario.async_fn))
        with self._watchdog.around():
            if scenario.takes_cut:
                await scenario.async_fn(cut)
            else:
                with cut:
                    await scenario.async_fn()
            if scenario.invariant is not None:
                answer = scenario.invariant()
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer is False:
                    raise AssertionError("the invariant returned False")

    def _count(self, task: trio.lowlevel.Task | None) -> bool:
        """Return True if this moment is one to cancel at, and record it."""
        parts = self._blocks.parts
        if not parts or self._blocks.has_come or self.differs_at:
            return False
        if task is not None and task.name.startswith("<"):
            return False  # trio's own
        self._counted += 1
        self._next = task
        if self._first_run is None:
            self.cut_points.append(self._cut_point(task, parts))
        elif not self._matches_first_run(task, parts):
            self.differs_at = self._counted
            return False
        return True

    def _note_entry(self, task: trio.lowlevel.Task) -> None:
        """Count the entry into a block, so that its first checkpoint can be cancelled."""
        self._is_entering = True
        self._step_counter.count_step(task)
        self._is_entering = False

    def _cut_point(self, task: trio.lowlevel.Task | None, parts: tuple[str, ...]) -> CutPoint:
        if task is None:
            return CutPoint("", "", self._blocks.places(*parts), parts)
        if self._is_entering:
            return CutPoint(task.name, "comes to", (place_here(task),), parts)
        return CutPoint(task.name, "goes on from", (place_of(task),), parts)

    def _matches_first_run(self, task: trio.lowlevel.Task | None, parts: tuple[str, ...]) -> bool:
        """Return True if the first run had the same cut point here, by its names; if this run is cancelled here, by its
        lines too.
        """
        assert self._first_run is not None
        if self._counted > len(self._first_run):
            return False
        expected = self._first_run[self._counted - 1]
        if self._counted == self._at:
            self.cut_points.append(self._cut_point(task, parts))
            return expected == self.cut_points[-1]
        return (expected.task, expected.parts) == (task.name if task is not None else "", parts)

    def _cancel_part(self) -> None:
        goes_on = self._next is not None and self._blocks.contain(self._part, self._next)
        waiting = () if goes_on else self._blocks.places(self._part)
        self.cancelled_at = waiting or self.cut_points[-1].places
        self._waited_at = [place.line for place in waiting]
        try:
            self._blocks.cancel(self._part)
        except Exception as error:  # an abort function has failed; raising here would break trio's loop
            self._abort_error = error

    def _discard_broken_run(self, error: BaseException) -> None:
        """Collect the trio tasks of a run that broke down, which can never end. Each would warn when it is collected,
        in the middle of a later run; here the warnings are suppressed. Of the error, the text is kept.
        """
        hook, sys.unraisablehook = sys.unraisablehook, _ignore
        try:
            self.error = error
            self._next = None
            self._watchdog.forget()
            self._blocks.forget()
            for _ in range(5):  # objects that are collected may leave new garbage behind
                gc.collect()
        finally:
            sys.unraisablehook = hook

    @property
    def lines(self) -> list[str]:
        """The lines at which the cancellation was raised, in order, and those at which the trio tasks waited that
        caught it.
        """
        return list(dict.fromkeys([*map(str, self._blocks.raised_at), *self._waited_at]))


def _without_traceback(error: trio.TrioInternalError) -> trio.TrioInternalError:
    """Copy the error without its traceback, which would keep the trio tasks of the run alive."""
    return trio.TrioInternalError("the scenario has broken trio:\n" + "".join(traceback.format_exception(error)))


def _ignore(_: object) -> None:
    pass


MOST_STEPS = 200_000
"""Steps after which a run counts as endless."""


class Abandoned(BaseException):
    """An error thrown into a trio task that does not end when it is cancelled, so that its run can end."""


@final
class Watchdog(trio.abc.Instrument):
    """Cancels a block after a time limit, and notes where each trio task was.

    Args:
      seconds: the time limit on trio's clock.
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
