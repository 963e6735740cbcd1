"""The state of a worker that runs on a storage, in this or another process."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, final

from .._clock import moment_at
from .._logging import catch_errors

if TYPE_CHECKING:
    from datetime import datetime

    from .._tasks.task import Task
    from .context import WorkerContext

MOST_RUNNING = 100
"""Running tasks that are told of, for each worker; those that were begun first."""
_LONGEST_LINE = 500


@final
@dataclass(frozen=True, slots=True)
class RunningTask:
    """An attempt that a worker has under way."""

    id: str
    """The id of the task."""
    name: str | None
    """The name of the kind of task; None if it has none."""
    attempt: int
    """The number of the attempt."""
    since: datetime | None
    """When it began."""
    line: str
    """The line at which it waited: ``path:line in function: source``."""


@final
@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The state of one worker of a queue, as :meth:`~trio_tasks.ListWorkers.workers` returns it."""

    name: str
    queue: str
    """The queue that it receives from."""
    host: str
    """The name of its machine."""
    pid: int
    """The number of its process."""
    version: str | None
    """The version of the program, from ``Worker(version=...)``."""
    slots: int
    """Its concurrency."""
    busy: int
    """The number of its running tasks."""
    running: tuple[RunningTask, ...]
    """Its running tasks, those that were begun first; up to a hundred of them."""
    intake: str
    """The state of its intake: ``"open"``, ``"paused"``, ``"closed"``, or the layer that it waits for, in its words."""
    since: datetime
    """When it started to receive."""
    as_of: datetime
    """The time of this state; ``fresh=True`` asks the worker for its present state."""
    last_beat: datetime
    """The latest heartbeat of its process, which may be later."""
    is_alive: bool
    """False if its process is gone. Where that cannot be seen, as of a process in another container, False if the
    process has sent no heartbeat for a minute."""
    names: tuple[str, ...] | None = None
    """The names of the kinds of tasks that it knows, in order; None if it takes tasks of any name, or knows more
    than a thousand."""


def worker_info(context: WorkerContext, queue: str, *, since: float, now: float) -> WorkerInfo:
    """Describe a run in this process.

    Args:
      context: the run.
      queue: that it receives from.
      since: when it was registered, by the storage's clock.
      now: the time by that clock.
    """
    moment = moment_at(now)
    return WorkerInfo(
        name=context.name,
        queue=queue,
        host=_host(),
        pid=os.getpid(),
        version=context.version,
        slots=context.concurrency,
        busy=len(context.running_tasks),
        running=tuple(map(_running_task, islice(context.running_tasks, MOST_RUNNING))),
        intake=context.intake,
        since=moment_at(since),
        as_of=moment,
        last_beat=moment,
        is_alive=not context.is_stopped,
        names=context.task_names,
    )


def _running_task(task: Task[Any]) -> RunningTask:
    parts, line = task.parts, ""
    with catch_errors():
        line = "" if parts.holder is None else parts.holder.current_line()[:_LONGEST_LINE]
    return RunningTask(str(parts.id), parts.name, int(parts.attempt), parts.started_at, line)


@cache
def _host() -> str:
    try:
        return socket.gethostname()
    except OSError:
        return "unknown"
