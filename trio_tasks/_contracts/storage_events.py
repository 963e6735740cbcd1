"""The events of a storage: frozen values, each told after its change is committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Union, final

if TYPE_CHECKING:
    from .._tasks.task_id import TaskId


@final
@dataclass(frozen=True, slots=True)
class Pushed:
    """The task that a push has put in, or found in place of it; as an event of a storage, a new task.

    Args:
      id: of the task.
      is_new: True if it was put in; False if it has the unique key, and was there before.
    """

    id: TaskId
    is_new: bool


@final
@dataclass(frozen=True, slots=True)
class Expired:
    """The end of a task that was not started in time: ``expires_in`` of its push is over.

    It is told when that is entered, which may be later if no worker waits for a task: the next claim does it.
    """

    id: TaskId


@final
@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The end of a task whose deadline was over while it waited, for its first attempt or another one.

    It is told when that is entered, as :class:`Expired` is. An attempt that is cancelled at the deadline ends with an
    event of its worker instead.
    """

    id: TaskId


@final
@dataclass(frozen=True, slots=True)
class Cancelled:
    """The end of a task that was cancelled, or discarded, while it waited.

    An attempt that is aborted ends with an event of its worker instead.
    """

    id: TaskId


@final
@dataclass(frozen=True, slots=True)
class Replaced:
    """The end of a task whose unique key was given to a newer task, ``by``, with ``on_conflict="replace"``.

    One that runs then is told of when its attempt ends, and only if it would be attempted again.
    """

    id: TaskId
    by: TaskId


@final
@dataclass(frozen=True, slots=True)
class Missed:
    """A gap: so many events, older than the next one, were dropped, since the reader was too slow."""

    number: int


StorageEvent = Union[Pushed, Expired, DeadlinePassed, Cancelled, Replaced, Missed]  # noqa: UP007  for 3.10
