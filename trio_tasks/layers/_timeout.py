"""A layer that sets a deadline for each attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, final

import trio

from .._checks import check_seconds
from .._printing import escaped

if TYPE_CHECKING:
    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


@final
class Timeout:
    """Cancel the inner layers and the handler after ``seconds``, and raise :exc:`trio.TooSlowError`.

    Args:
      seconds: the time limit, more than 0.

    The error comes when the attempt has really ended: after its cleanup, and, if it is a sync handler, after its
    thread. What did end by itself is believed, however late: a result that comes out in spite of the deadline, such as
    that of a thread or of a function without checkpoints, which cannot be cancelled, is the result.

    A cancellation from outside passes through as such. Where the layer stands matters: inside of :class:`Retry` each
    try has so many seconds, outside of it all of them together.
    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = check_seconds(seconds, "seconds", positive=True)

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt under a deadline.

        Raises:
          trio.TooSlowError: the attempt was cancelled by it.
        """
        with trio.move_on_after(self.seconds):
            return await handler(task)
        raise trio.TooSlowError(f"task {escaped(task.parts.id)} took longer than {self.seconds:g} s")

    def __repr__(self) -> str:
        return f"<Timeout after {self.seconds:g} s>"
