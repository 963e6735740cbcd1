"""Reports of runs of workers and monitors: counts of outcomes, and the attempts that were interrupted or went on too
long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from .._printing import escaped

if TYPE_CHECKING:
    from .._tasks.task_id import TaskId


@final
@dataclass(frozen=True, slots=True)
class Interruption:
    """An attempt that was cancelled from outside, so that its task was released."""

    worker: str
    """The name of the worker that ran it."""
    task_id: TaskId
    where: str
    """The line at which it was stuck: ``path:line in function``."""


@final
@dataclass(frozen=True, slots=True)
class Overrun:
    """An attempt that went on for a second or more after its worker was cancelled, for example by the terminator.

    It cleaned up for a long time, or was in a thread, which cannot be cancelled.
    """

    worker: str
    """The name of the worker that ran it."""
    task_id: TaskId
    seconds: float
    """The time for which it went on, in whole seconds."""
    where: str
    """The line at which it was after that time: ``path:line in function``."""


@final
@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The report of one run of a worker.

    The six counts are of attempts, by outcome. ``drained`` are the tasks that were running when the worker was told
    to stop, and came to an end of their own; ``interrupted`` those which did not. ``overrun`` are the attempts that
    went on for a second or more after the worker was cancelled, whichever way they ended then.
    """

    worker: str
    succeeded: int = 0
    retried: int = 0
    failed: int = 0
    killed: int = 0
    released: int = 0
    suspended: int = 0
    drained: tuple[TaskId, ...] = ()
    interrupted: tuple[Interruption, ...] = ()
    overrun: tuple[Overrun, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Report:
    """The report of one run of a monitor.

    ``workers`` has the reports of their runs, in the order in which the runs ended. Each restart is a run of its own.
    """

    workers: tuple[WorkerReport, ...] = ()
    restarts: int = 0
    errors: tuple[Exception, ...] = ()
    """The errors that ended workers, those that were restarted included, in order; a group only where there were
    several."""

    @property
    def drained(self) -> tuple[TaskId, ...]:
        """The tasks that were running when their worker was told to stop, and then ended by themselves."""
        return tuple(task_id for each in self.workers for task_id in each.drained)

    @property
    def interrupted(self) -> tuple[Interruption, ...]:
        """The attempts that were cancelled by the terminator, each with the line at which it was stuck."""
        return tuple(interruption for each in self.workers for interruption in each.interrupted)

    @property
    def overrun(self) -> tuple[Overrun, ...]:
        """The attempts that went on for a second or more after they were cancelled, each with its line at that time.
        Empty if the terminator was not overrun.
        """
        return tuple(overrun for each in self.workers for overrun in each.overrun)

    def __str__(self) -> str:
        counts = [
            _counted(len(self.workers), "worker run"),
            _counted(self.restarts, "restart"),
            _counted(len(self.drained), "task drained", "tasks drained"),
            f"{len(self.interrupted)} interrupted",
            _counted(len(self.errors), "error"),
        ]
        lines = [", ".join(counts)]
        lines += [
            f"interrupted: {escaped(each.task_id)} of {escaped(each.worker)}, at {each.where}"
            for each in self.interrupted
        ]
        lines += [
            f"overrun: {escaped(each.task_id)} of {escaped(each.worker)} went on for {each.seconds:g} s, "
            f"at {each.where}"
            for each in self.overrun
        ]
        lines += [f"error: {error!r}" for error in self.errors]
        return "\n".join(lines)


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
