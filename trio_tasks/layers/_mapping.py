"""Layers that replace the args, the result or the error of an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

from .._checks import check_plain
from .._printing import quoted
from .._tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.layer import Handler

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
S = TypeVar("S")


@final
class MapArgs(Generic[A, B]):
    """Replace the args by ``fn(args)`` for inner layers and the handler.

    >>> MapArgs(str.strip)

    The parts stay the same object. The backend keeps the args that it had: a further attempt maps them again.
    An error that ``fn`` raises is the attempt's error.

    To a type checker all layers in a list have the types of the backend and of the handler, so there it accepts only a
    ``fn`` that keeps the type. Wrap the handler itself in one that changes it; the handler then takes the whole task:

    >>> async def handle(task: Task[int]) -> None: ...
    >>> Worker("w", strings, partial(MapArgs(int), handle))
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[[A], B]) -> None:
        self._fn = check_plain(fn, "fn", "fn(args) -> new args")

    async def __call__(self, handler: Handler[B, R], task: Task[A]) -> R:
        """Run the attempt with the replaced args."""
        return await handler(Task(self._fn(task.args), task.parts))

    def __repr__(self) -> str:
        return f"<MapArgs by {self._fn!r}>"


@final
class MapResult(Generic[R, S]):
    """Replace the result by ``fn(result)``. An error that ``fn`` raises is the attempt's error.

    To change the type, wrap the handler itself, as with :class:`MapArgs`.
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[[R], S]) -> None:
        self._fn = check_plain(fn, "fn", "fn(result) -> new result")

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> S:
        """Run the attempt, and replace its result."""
        return self._fn(await handler(task))

    def __repr__(self) -> str:
        return f"<MapResult by {self._fn!r}>"


def _check_error(other: object) -> Exception:
    if not isinstance(other, Exception):
        raise TypeError(f"MapError's fn must return an exception, not {quoted(other)}")
    return other


@final
class MapError:
    """Raise ``fn(error)`` in place of an error; ``fn`` may return the same error.

    >>> MapError(lambda error: AbortError(error) if isinstance(error, KeyError) else error)

    ``fn`` is given the error, which may be a group. It becomes the cause of the new error, unless that has a cause of
    its own. Cancellation is no error, and passes through.
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[[Exception], Exception]) -> None:
        self._fn = check_plain(fn, "fn", "fn(error) -> new error")

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt, and replace its error.

        Raises:
          TypeError: ``fn`` gave something that cannot be raised.
        """
        try:
            return await handler(task)
        except Exception as error:
            other = _check_error(self._fn(error))
            if other is error:
                raise
            raise other from other.__cause__ or error

    def __repr__(self) -> str:
        return f"<MapError by {self._fn!r}>"
