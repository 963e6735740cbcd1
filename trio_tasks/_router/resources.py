"""The resources of a router: values that are opened with a run, and closed after its last attempt."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import UnionType
from typing import Any, NoReturn, final, get_args

from .._contracts.context import WorkerContext
from .._handlers.annotations import Annotations, class_of
from .._handlers.parameters import HandlerSignatureError, data_classes, handler_name, parameter_text
from .._printing import quoted
from .._tasks.task import Task

Open = Callable[..., AbstractAsyncContextManager[Any]]


def fits(kind: type, classes: tuple[type, ...]) -> bool:
    """Return True if values of this class are instances of one of the others."""
    try:
        return issubclass(kind, classes)
    except TypeError:  # a protocol with attributes knows instances only
        return False


@final
class Resource:
    """A value that a router opens for a run.

    Args:
      function: an async generator function that yields once, or a function that returns an async context manager.

    Raises:
      HandlerSignatureError: its annotations do not say what it gives, or what it needs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        given: object = function
        if not callable(given):
            self._refuse("it is no function")
        annotations = Annotations(function)
        inner = inspect.unwrap(function)
        self._open: Open = function
        if inspect.isasyncgenfunction(function):
            self._open = asynccontextmanager(function)
        elif not inspect.isasyncgenfunction(inner) and inspect.iscoroutinefunction(function):
            self._refuse("it is no async generator: it must `yield` the value once, and close it after that")
        self.kind = self._kind_of(annotations)
        """The class of the value, by which ``Data[...]`` finds it."""
        self._needs: dict[str, tuple[type, ...]] = {}
        for name, parameter in annotations.parameters.items():
            self._needs[name] = self._classes(annotations, parameter)

    def _refuse(self, why: str, cause: Exception | None = None) -> NoReturn:
        raise HandlerSignatureError(f"{handler_name(self._function)} cannot be a resource: {why}") from cause

    def _kind_of(self, annotations: Annotations) -> type:
        try:
            returns = annotations.resolve_return()
        except Exception as error:  # evaluating an annotation may raise anything, and there may be none
            self._refuse("annotate what it yields, as in `-> AsyncIterator[Mailer]`", error)
        kind = class_of(next(iter(get_args(returns)), None))
        if not isinstance(kind, type) or kind is UnionType:
            self._refuse(f"it must yield a value of a class, as in `-> AsyncIterator[Mailer]`, not {quoted(returns)}")
        return kind

    def _classes(self, annotations: Annotations, parameter: inspect.Parameter) -> tuple[type, ...]:
        try:
            classes = data_classes(annotations.resolve(parameter))
        except Exception as error:  # evaluating an annotation may raise anything
            self._refuse(f"its parameter '{parameter_text(parameter)}' cannot be evaluated ({error})", error)
        if not classes:
            self._refuse(f"its parameter '{parameter_text(parameter)}' cannot be filled in: annotate it as Data[...]")
        return classes

    def check(self, data: Sequence[object], earlier: Iterable[type]) -> None:
        """Raise :class:`HandlerSignatureError` if a parameter is neither among the data nor opened earlier."""
        kinds = tuple(earlier)
        for name, classes in self._needs.items():
            is_there = any(isinstance(each, classes) for each in data) or any(fits(each, classes) for each in kinds)
            if not is_there:
                self._refuse(f"its parameter {name!r} is neither in data nor a resource that was defined before it")

    def needs_of(self, data: Sequence[object], defined: Iterable[type]) -> set[type]:
        """Return the classes of the resources that it needs, since the data lacks a value."""
        return {
            kind
            for classes in self._needs.values()
            if not any(isinstance(each, classes) for each in data)
            for kind in [next((each for each in defined if fits(each, classes)), None)]
            if kind is not None
        }

    @asynccontextmanager
    async def opened(self, data: Sequence[object], earlier: Mapping[type, Any]) -> AsyncGenerator[Any, None]:
        """Open it for the block."""
        there = [*data, *earlier.values()]
        values = {
            name: next(each for each in there if isinstance(each, classes)) for name, classes in self._needs.items()
        }
        async with self._open(**values) as value:
            if not isinstance(value, self.kind):
                wanted = self.kind.__qualname__
                raise TypeError(f"{handler_name(self._function)} gave {quoted(value)}, which is no {wanted}")
            yield value

    def of(self, task: Task[Any]) -> Any:
        """Return the value that was opened for the run of this task."""
        return WorkerContext.of(task).resources[self.kind]

    def __repr__(self) -> str:
        return f"<resource {handler_name(self._function)}>"


@asynccontextmanager
async def opened(resources: Iterable[Resource], data: Sequence[object]) -> AsyncGenerator[Mapping[type, Any], None]:
    """Open these resources in order, and close them in the opposite order when the block ends."""
    values: dict[type, Any] = {}
    async with AsyncExitStack() as stack:
        for each in resources:
            values[each.kind] = await stack.enter_async_context(each.opened(data, values))
        yield values
