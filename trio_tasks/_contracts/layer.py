"""The types of handlers and layers, and the interfaces of gates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")

Handler = Callable[[Task[A]], Awaitable[R]]
Layer = Callable[[Handler[A, R], Task[A]], Awaitable[R]]


@runtime_checkable
class Gate(Protocol):
    """A layer that can stop the worker from receiving tasks."""

    async def ready(self) -> None:
        """Wait until an attempt would be let through. Called before each receive; it may be cancelled.

        If it raises, that is what the attempt at the next task fails with, as if the layer had raised it.
        """


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
