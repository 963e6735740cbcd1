"""A layer that runs only tasks that a predicate accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

from .._checks import check_plain
from .._printing import escaped
from .._tasks.errors import AbortError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


@final
class Filter:
    """Run only the tasks for which ``predicate(task)`` is true; kill the others.

    >>> Filter(lambda task: task.parts.metadata.get("tenant") != "blocked")

    What is filtered out is not dropped in silence: it raises ``AbortError``, is settled as killed, and stays readable
    as a dead letter. A predicate that wants something else for a task raises it: ``DeferredError``, for one, has it
    tried again. What stands inside of this layer, the handler included, sees only the tasks that pass.
    """

    __slots__ = ("_predicate",)

    def __init__(self, predicate: Callable[[Task[Any]], object]) -> None:
        self._predicate = check_plain(predicate, "predicate", "predicate(task) -> bool")

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt if the predicate accepts the task.

        Raises:
          AbortError: it does not.
        """
        if not self._predicate(task):
            raise AbortError(f"Filter rejected task {escaped(task.parts.id)}: {self._predicate!r} is false for it")
        return await handler(task)

    def __repr__(self) -> str:
        return f"<Filter by {self._predicate!r}>"
