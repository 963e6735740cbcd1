"""Schedules as a storage keeps them: the times as text, the task to push, and how far they were fired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._tasks.extensions import Metadata
    from .._tasks.task import Terms
    from .._tasks.task_id import TaskId

MissedPolicy = Literal["latest", "skip", "all"]
OverlapPolicy = Literal["skip", "allow"]


@final
@dataclass(frozen=True, slots=True)
class TaskTemplate:
    """A task as a storage would keep it, to be pushed any number of times.

    Args:
      payload: the args as the storage encodes them.
      terms: the options.
      metadata: the metadata.
    """

    payload: Any
    terms: Terms
    metadata: Metadata


@final
@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule as a storage keeps it; moments are microseconds since the epoch, by the wall clock.

    Args:
      times: its times, as text.
      queue: the queue to which its tasks are pushed.
      template: the task.
      done: the moment up to which all times are done with: fired, or passed over.
      fired: the last time that was fired; None if none was.
      missed: what becomes of times that have passed; see ``Schedules.put``.
      within: the seconds after which a time that has passed is passed over; None: never.
      limit: the most tasks pushed at once.
      overlap: ``"skip"`` if at most one task of the schedule may be unfinished.
      jitter: the seconds over which tasks are spread.
      is_paused: True if no time is fired.
      is_dynamic: True if it was put at run time, and does not stand in the code.
      orphaned_from: the moment from which on it is orphaned: a scheduler of its queue runs whose code lacks it. It lies
        ahead while another scheduler runs in whose code it stands. None if all of them have it.
    """

    times: str
    queue: str
    template: TaskTemplate
    done: int
    fired: int | None = None
    missed: MissedPolicy = "latest"
    within: float | None = None
    limit: int = 100
    overlap: OverlapPolicy = "skip"
    jitter: float = 0.0
    is_paused: bool = False
    is_dynamic: bool = False
    orphaned_from: int | None = None


class ScheduleEntry(NamedTuple):
    """A schedule that a storage has, or had."""

    name: str
    revision: int
    """The number of its last change; of two changes in a store, the later one has the larger number."""
    schedule: StoredSchedule | None
    """The schedule; None if it was removed, or cannot be read."""
    is_removed: bool = False
    """True if it was removed."""


class ScheduleChange(NamedTuple):
    """A change of a schedule, with tasks that are pushed in the same step: all of it is done, or nothing."""

    name: str
    was: int
    """The revision that the schedule must have; 0 if there must be none of this name."""
    schedule: StoredSchedule | None
    """The schedule as it is to be; None removes it."""
    tasks: Sequence[TaskTemplate] = ()
    """The tasks to push to the queue of the storage, whose ``terms.delay`` begins with the step."""


class ScheduleResult(NamedTuple):
    """The result of a change."""

    revision: int
    """The new revision of the schedule; 0 if it had another one than was said, so that nothing was done."""
    ids: Sequence[TaskId | None] = ()
    """For each task, its id, or that of the unfinished one with its unique key; None if it could not be pushed, since
    ``on_conflict`` is ``"raise"``."""
