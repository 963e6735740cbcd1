"""The types of handlers and layers, and the interfaces of gates and dispatchers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from .._logging import catch_errors
from .._printing import escaped, quoted
from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")

Handler = Callable[[Task[A]], Awaitable[R]]
Layer = Callable[[Handler[A, R], Task[A]], Awaitable[R]]

_LONGEST_EXPLANATION = 200


class Dispatch(NamedTuple):
    """The handler that a :class:`Dispatcher` made for one worker.

    Attributes:
      handler: the handler of whole tasks.
      open_resources: opens, for a run, the values that are closed with it; gives them by their class. A handler finds
          them as ``WorkerContext.of(task).resources``.
    """

    handler: Handler[Any, Any]
    open_resources: Callable[[], AbstractAsyncContextManager[Mapping[type, Any]]]


@runtime_checkable
class Dispatcher(Protocol):
    """A handler of tasks by their names; each worker is given one of its own, with the worker's data."""

    @property
    def task_names(self) -> frozenset[str] | None:
        """The names of the tasks that it can handle, former names included; None if it takes any."""
        ...

    def for_worker(self, data: Sequence[object], args_type: Any) -> Dispatch:
        """Make the handler of a worker.

        Args:
          data: the values that the worker was given.
          args_type: the type of the args, as far as it is known.

        Raises:
          HandlerSignatureError: a function has a parameter that cannot be filled in.
        """
        ...


@runtime_checkable
class Gate(Protocol):
    """A layer that can stop the worker from receiving tasks."""

    async def ready(self) -> None:
        """Wait until an attempt would be let through. Called before each receive; it may be cancelled.

        If it raises, that is what the attempt at the next task fails with, as if the layer had raised it.
        A gate may also have a sync method ``explain() -> str``, which tells in a few words for what it waits.
        """


@runtime_checkable
class NowaitGate(Gate, Protocol):
    """A gate that can tell without waiting that it is open, so that passing it costs a worker neither a checkpoint nor
    a lock for each task.

    It is optional. The time of a worker is shared out in slices, so attempts that begin without a checkpoint keep
    nothing else in the program from running. A worker uses it only if all its gates are of this kind.
    """

    def ready_nowait(self) -> None:
        """Return if ``ready`` would have nothing to wait for; raise ``trio.WouldBlock`` otherwise.

        Raise it too while others wait in ``ready``, or this caller would overtake them. The worker then waits in
        ``ready`` itself. Any other error is what the attempt at the next task fails with.
        """
        ...


def explanation_by(gate: object) -> str:
    """Return what a gate's ``explain()`` tells, on one line; its repr if it has none, or if that fails."""
    with catch_errors():
        explain: Any = getattr(gate, "explain", None)
        text = explain() if callable(explain) else None
        if isinstance(text, str) and text:
            return escaped(text, is_text=True)[:_LONGEST_EXPLANATION]
    return quoted(gate)


@runtime_checkable
class Admitting(Gate, Protocol):
    """A gate that counts the attempts it lets through. Between ``ready`` and the attempt another worker may have come
    first; so the worker asks again, without waiting, once it has a task, and gives the task back if the answer is no.
    """

    def admit(self, task: Task[Any]) -> bool:
        """Reserve room for the attempt at this task; return False if there is none.

        If it raises, nothing was reserved, and the attempt fails with the error.
        """
        ...

    def dismiss(self, task: Task[Any]) -> None:
        """Free the room reserved for an attempt, which is over now, whether it reached the layer or not. Called once
        for each admission. If it raises, that is logged.
        """
