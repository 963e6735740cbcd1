"""Workers for checks: they run until given tasks are finished, and their attempts are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from ..._contracts.events import Engage, Error, Release, Success
from ..._tasks.outcome import Failed, Killed, Succeeded
from ..._tasks.retry import RetryPolicy, constant
from ..._worker.worker import Worker
from .rule import RuleBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ..._contracts.context import WorkerContext
    from ..._contracts.events import Event
    from ..._tasks.outcome import Outcome
    from ..._tasks.task import Task
    from .harness import Harness

AT_ONCE = RetryPolicy(attempts=3, backoff=constant(0))
"""Three attempts, without a pause between them."""


@final
class AttemptRecord:
    """A listener that records attempts and outcomes, and stops the worker once the wanted tasks are finished."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.wanted = set(ids)
        self.attempts: list[tuple[str, int]] = []
        """The id and the number of each attempt, in order."""
        self.outcomes: list[tuple[str, Outcome]] = []
        """The id and the outcome of each attempt, in order."""

    def listen(self, context: WorkerContext, event: Event) -> None:
        """Record the start or the end of an attempt."""
        if isinstance(event, Engage):
            self.attempts.append((event.task.parts.id, int(event.task.parts.attempt)))
        elif isinstance(event, Success):
            self.outcomes.append((event.task.parts.id, Succeeded(event.result)))
        elif isinstance(event, (Error, Release)):
            self.outcomes.append((event.task.parts.id, event.outcome))
        if self.wanted and not self.unfinished:
            context.stop()

    @property
    def finished(self) -> list[str]:
        """The ids of finished tasks, in order; an id is there twice if the task was finished twice."""
        return [task_id for task_id, outcome in self.outcomes if isinstance(outcome, (Succeeded, Failed, Killed))]

    @property
    def unfinished(self) -> set[str]:
        """The ids of the wanted tasks that are not finished."""
        return self.wanted - set(self.finished)

    def attempts_of(self, task_id: str) -> list[int]:
        """The numbers of the attempts at this task."""
        return [attempt for each, attempt in self.attempts if each == task_id]


async def finish(
    harness: Harness, ids: Iterable[str], handler: Callable[[Task[Any]], Awaitable[Any]], **options: Any
) -> AttemptRecord:
    """Run a worker until these tasks are finished, and return the record of its attempts.

    Raises:
      RuleBroken: they are not, in time.
    """
    record = options.pop("record", None) or AttemptRecord()
    record.wanted = set(ids)
    if not record.unfinished:
        return record  # noqa: ASYNC910  there is nothing to do
    backend = options.pop("backend", harness.backend)
    name = options.pop("name", "conformance")
    options.setdefault("retry", AT_ONCE)
    worker: Worker[Any, Any] = Worker(name, backend, handler, on_event=record.listen, **options)
    with harness.limit(harness.max_wait):
        await worker.run()
        if not record.unfinished:
            return record
    left = [f"task {number}" for number in sorted(harness.number_of(each) for each in record.unfinished)]
    raise RuleBroken(
        "a worker that was to finish its tasks",
        f"{', '.join(left)} not finished within {harness.max_wait:g} s",
        "all of them finished",
    )
