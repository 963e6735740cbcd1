"""The parameters of a handler, and where the value of each comes from, decided once by their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from operator import attrgetter
from types import MethodType, UnionType
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar, Union, final, get_args, get_origin

import trio

from .._contracts.context import WorkerContext
from .._contracts.layer import Dispatcher
from .._printing import quoted
from .._tasks.extensions import Extensions, Metadata
from .._tasks.outcome import Status
from .._tasks.task import Attempt, Parts, Task
from .._tasks.task_id import TaskId
from .annotations import Annotations, annotation_text, args_differ, class_of, is_marked, without_none

T = TypeVar("T")


@final
class _FromData:
    """The marker of a parameter whose value comes from the worker's ``data``."""

    def __repr__(self) -> str:
        return "from data"


Data = Annotated[T, _FromData()]
"""``mailer: Data[Mailer]`` asks for the Mailer in the worker's ``data``; to a type checker it is a Mailer."""


@final
class HandlerSignatureError(TypeError):
    """An error: the function given as handler has parameters that cannot be filled in. Raised when the worker is built.

    The message names the handler and the parameter that is in the way, and says what would be right.
    """


@final
class InjectedType:
    """The type of :data:`Injected`."""

    __slots__ = ()
    __module__ = "trio_tasks"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"this parameter has its default Injected, which has no {name!r}: a worker fills it in; whoever calls the "
            "function directly gives a value"
        )

    def __reduce__(self) -> str:
        return "Injected"

    def __repr__(self) -> str:
        return "Injected"


Injected: Any = InjectedType()
"""The default of a parameter that a worker fills in, by its annotation: ``mailer: Data[Mailer] = Injected``."""


Fill = Callable[[Task[Any]], Any]

_BY_TYPE: dict[object, Fill] = {
    Attempt: attrgetter("parts.attempt"),
    TaskId: attrgetter("parts.id"),
    Parts: attrgetter("parts"),
    Metadata: attrgetter("parts.metadata"),
    Extensions: attrgetter("parts.extensions"),
    Status: attrgetter("parts.status"),
    Task: lambda task: task,
    WorkerContext: WorkerContext.of,
}
_FILLABLE = (
    "annotate it as Data[...], Attempt, TaskId, Parts, Metadata, Extensions, Status, Task, WorkerContext, "
    "trio.Nursery or a class with an async classmethod from_task(cls, task), or give it a default"
)

_WANTED = (
    "needs another from_task: `@classmethod async def from_task(cls, task) -> Self`; or, to be closed after the "
    "attempt, `@classmethod @asynccontextmanager async def from_task(cls, task) -> AsyncIterator[Self]`"
)


class Routed(NamedTuple):
    """The parameters of a function that is called with the arguments of a Call.

    Attributes:
      annotations: of the function.
      injected: the names of the parameters that are filled in, rather than taken from the call.
    """

    annotations: Annotations
    injected: tuple[str, ...]


ResourceFor = Callable[[tuple[type[Any], ...]], "Fill | None"]
"""A function that returns, for these classes, how to find the value of one of them that was opened for the run; None if
there is none."""


def is_filled_in(annotation: Any) -> bool:
    """Return True if the annotation of a parameter, or of a member of its union with None, says how to fill it in."""
    plain, _ = without_none(annotation)
    kind = class_of(plain)
    if is_marked(plain, _FromData) or kind is trio.Nursery:
        return True
    return isinstance(kind, type) and (kind in _BY_TYPE or hasattr(kind, "from_task"))


def data_classes(annotation: Any) -> tuple[type, ...]:
    """Return the classes in a ``Data[...]``; none if the annotation is something else."""
    annotation, _ = without_none(annotation)
    if not is_marked(annotation, _FromData):
        return ()
    return _classes_in(without_none(get_args(annotation)[0])[0])


def _classes_in(annotation: Any) -> tuple[Any, ...]:
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(class_of(getattr(each, "__supertype__", each)) for each in members)


@final
class Plan:
    """The plan by which the parameters of a handler are filled in.

    Args:
      handler: the function.
      data: the values for parameters that are annotated ``Data[...]``.
      args_type: the type of the args, as far as it is known.
      extractor_for: a function that makes an extractor from the error of a parameter; it is called with the task.
      routed: for a function that is called with the arguments of a Call, its parameters.
      resource_for: says where a value is that is not among the data.

    Raises:
      HandlerSignatureError: a parameter cannot be filled in.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        data: Sequence[object],
        args_type: Any = Any,
        *,
        extractor_for: Callable[[str], HandlerSignatureError] | None = None,
        routed: Routed | None = None,
        resource_for: ResourceFor | None = None,
    ) -> None:
        self.handler = handler
        self.is_routed = routed is not None
        self._resource_for = resource_for
        self.fills: dict[str, Fill] = {}
        self.extractors: dict[str, Fill] = {}
        """By parameter, what gives an awaitable, or an async context manager, for a task."""
        self.has_contexts = False
        """True if there is an async context manager among the extractors."""
        self.nurseries: list[str] = []
        self._positional: list[str] = []
        self._data = data
        self._error = extractor_for or partial(not_a_handler, handler)
        self._annotations = Annotations(handler) if routed is None else routed.annotations
        if routed is not None:
            self._error = partial(not_a_task, handler)
            self.wants_task = False
            for name in routed.injected:
                self._plan(self._annotations.parameters[name])
            return
        first, *others = self._annotations.parameters.values() or [None]
        if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
            raise self._error("it has no positional parameter for the task's args")
        self.wants_task = extractor_for is not None or self._is_whole_task(first, args_type)
        for each in others:
            if each and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                self._plan(each)

    def call(self, task: Task[Any], values: dict[str, Any]) -> Any:
        """Call the handler with these values, which are removed from the dict."""
        if self.is_routed:
            return self.handler(**task.args.arguments, **values)
        first = task if self.wants_task else task.args
        if self._positional:
            return self.handler(first, *map(values.pop, self._positional), **values)
        return self.handler(first, **values)

    def fill(self, task: Task[Any]) -> dict[str, Any]:
        """Return the values that need no extractor, by parameter."""
        return {name: fill(task) for name, fill in self.fills.items()}

    async def fill_and_extract(self, task: Task[Any], stack: AsyncExitStack | None = None) -> dict[str, Any]:
        """Return all values by parameter, those that a ``from_task`` makes included.

        If that is cancelled or raises, the handler is not called.

        Args:
          task: the task of the attempt.
          stack: the exit stack in which context managers are entered.
        """
        values = self.fill(task)
        for name, extract in self.extractors.items():
            made = extract(task)
            if stack is not None and hasattr(made, "__aenter__"):
                values[name] = await stack.enter_async_context(made)
            else:
                values[name] = await made
        return values  # noqa: ASYNC910  the handler is awaited next

    def refuse(self, name: str, why: str, cause: Exception | None = None) -> NoReturn:
        """Raise an error that names the handler and the parameter."""
        raise self._error(f"its parameter '{parameter_text(self._annotations.parameters[name])}' {why}") from cause

    def _is_whole_task(self, first: inspect.Parameter, args_type: Any) -> bool:
        """Return True if the first parameter takes the whole Task. That the type of the args is not known does no
        harm.
        """
        try:
            annotation = self._annotations.resolve(first)
        except Exception as error:  # evaluating an annotation may raise anything
            annotation = self._annotations.resolve_head(first)
            if annotation == "Task":
                why = "cannot be evaluated, so it may or may not be the task: import Task outside of `if TYPE_CHECKING`"
                self.refuse(first.name, why, error)
        if is_marked(annotation, _FromData) or annotation in (WorkerContext, trio.Nursery):
            self.refuse(
                first.name, "comes first, but the first parameter is for the task's args: put one for them before it"
            )
        is_whole = class_of(annotation) is Task
        wanted: Any = next(iter(get_args(annotation)), Any) if is_whole else annotation
        if first.annotation is not first.empty and args_differ(wanted, args_type):
            why = (
                f"comes first, but the first parameter is for the task's args, which are {args_type.__qualname__} here"
            )
            is_data = any(isinstance(each, wanted) for each in self._data)
            self.refuse(
                first.name,
                f"{why}: if it is meant to come from data, write 'Data[{wanted.__qualname__}]' "
                "and put a parameter for the args first"
                if is_data
                else why,
            )
        return is_whole

    def _plan(self, parameter: inspect.Parameter) -> None:
        if parameter.default is Injected:
            parameter = parameter.replace(default=parameter.empty)
        name, default = parameter.name, parameter.default
        if parameter.kind is parameter.POSITIONAL_ONLY:
            self._positional.append(name)
        if name in self._annotations.bound or self._fill_in(parameter):
            return
        if default is parameter.empty:
            self.refuse(name, f"cannot be filled in: {self._advice_on(parameter)}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            self.fills[name] = lambda task: default

    def _advice_on(self, parameter: inspect.Parameter) -> str:
        """Return advice for a parameter whose annotation does not say how to fill it in."""
        annotation = parameter.annotation
        if annotation is not parameter.empty:
            kind = class_of(without_none(self._annotations.resolve(parameter))[0])
            if isinstance(kind, type) and kind is not object:
                held = next((each for each in self._data if kind in type(each).__mro__), None)
                if held is not None:
                    wanted = annotation.__name__ if annotation is kind else annotation_text(annotation)
                    return f"data has a {type(held).__name__}, so write '{parameter.name}: Data[{wanted}]'"
        return _FILLABLE

    def _fill_in(self, parameter: inspect.Parameter) -> bool:
        """Decide how to fill in this parameter; False if its annotation does not say."""
        name = parameter.name
        if parameter.annotation is parameter.empty:
            return False
        try:
            annotation, optional = without_none(self._annotations.resolve(parameter))
        except Exception as error:  # evaluating an annotation may raise anything
            self.refuse(name, f"cannot be evaluated ({error}): define or import the name at run time", error)
        if is_marked(annotation, _FromData):
            inner, inner_optional = without_none(get_args(annotation)[0])
            optional = (optional or inner_optional) and parameter.default is parameter.empty
            self.fills[name] = self._from_data(name, inner, None if optional else parameter.default)
            return True
        kind = class_of(annotation)
        if kind is trio.Nursery:
            self.nurseries.append(name)
        elif isinstance(kind, type) and kind in _BY_TYPE:
            self.fills[name] = _BY_TYPE[kind]
        elif isinstance(kind, type) and hasattr(kind, "from_task"):
            self.extractors[name] = self._extractor(name, kind)
        else:
            return False
        return True

    def _extractor(self, name: str, kind: type[Any]) -> Fill:
        extract: Callable[..., Any] = kind.from_task
        of_class = isinstance(inspect.getattr_static(kind, "from_task"), (classmethod, staticmethod))
        is_context = of_class and gives_context(extract)
        if not of_class or not (is_context or comes_to(inspect.iscoroutinefunction, extract)):
            self.refuse(name, _WANTED)
        error = partial(self._refuse_extractor, name, kind)
        plan = Plan(extract, self._data, extractor_for=error, resource_for=self._resource_for)
        for each in (*plan.extractors, *plan.nurseries):
            plan.refuse(
                each,
                "cannot be filled in: from_task may ask for Data[...] or WorkerContext, but not for this",
            )
        self.has_contexts = self.has_contexts or is_context
        if not plan.fills:
            return extract
        return lambda task: plan.call(task, plan.fill(task))

    def _refuse_extractor(self, name: str, kind: type[Any], why: str) -> HandlerSignatureError:
        what = f"'{name}: {annotation_text(kind)}' cannot be filled in"
        return self._error(f"its parameter {what}: of {kind.__qualname__}.from_task, {why}")

    def _from_data(self, name: str, annotation: Any, absent: Any) -> Fill:
        """Make the function that finds the value in data; ``absent`` is the value if there is none, unless it is
        ``inspect.Parameter.empty``.
        """
        kinds = self._kinds(name, annotation)
        same = [each for each in self._data if type(each) in kinds]
        found = same or [each for each in self._data if isinstance(each, kinds)]
        other = next((each for each in found if each is not found[0]), None)
        if other is not None:
            self.refuse(name, f"fits both {found[0]!r} and {other!r}: data must hold only one value of the type")
        resource = self._resource_for(kinds) if self._resource_for is not None and not found else None
        if not found and resource is None and absent is inspect.Parameter.empty:
            held = ", ".join(handler_name(type(each)) for each in self._data) or "nothing"
            why = f"is not in data, which holds {held}: give the worker data=[...] with one, or a default"
            self.refuse(name, why)
        usual = found[0] if found else absent

        def fill(task: Task[Any]) -> Any:
            if task.parts.has_extensions:
                for kind in kinds:
                    if (own := task.parts.extensions.get(kind)) is not None:
                        return own
            return usual if resource is None else resource(task)

        return fill

    def _kinds(self, name: str, annotation: Any) -> tuple[type[Any], ...]:
        """Return the classes whose instances fit the annotation."""
        kinds = _classes_in(annotation)
        try:
            isinstance(None, kinds)
        except TypeError as error:
            self.refuse(name, f"must name a class in Data[...] ({error})", error)
        return kinds


def parameter_text(parameter: inspect.Parameter) -> str:
    """Return a parameter about as it was written, without its default."""
    annotation = parameter.annotation
    return parameter.name + ("" if annotation is inspect.Parameter.empty else f": {annotation_text(annotation)}")


def handler_name(handler: object) -> str:
    """Return the qualified name of a handler; without one, the name of the function or class inside."""
    if isinstance(handler, partial):
        return f"partial({handler_name(handler.func)})"
    if isinstance(handler, staticmethod):
        return handler_name(handler.__func__)
    if isinstance(handler, Dispatcher):
        return quoted(handler)
    name = getattr(handler, "__qualname__", None)
    if not isinstance(name, str):
        return f"{handler_name(type(handler))} object"
    if isinstance(handler, MethodType) and not isinstance(handler.__self__, type):
        name = f"{type(handler.__self__).__qualname__}.{handler.__func__.__name__}"  # not that of a base class
    code = getattr(handler, "__code__", None)
    if name.endswith("<lambda>") and code is not None:
        name += f" in line {code.co_firstlineno}"
    module = getattr(handler, "__module__", None)
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


def not_a_handler(handler: object, why: str) -> HandlerSignatureError:
    """Make an error that names the handler."""
    return HandlerSignatureError(f"{handler_name(handler)} cannot be a handler: {why}")


def not_a_task(function: object, why: str) -> HandlerSignatureError:
    """Make an error that names the function of a router."""
    return HandlerSignatureError(f"{handler_name(function)} cannot be a task: {why}")


def gives_context(function: Callable[..., Any]) -> bool:
    """Return True if a call returns an async context manager, by its decorator or its annotation."""
    inner = inspect.unwrap(getattr(function, "__func__", function))
    if inner is not getattr(function, "__func__", function) and inspect.isasyncgenfunction(inner):
        return True
    try:
        returns = class_of(Annotations(function).resolve_return())
    except Exception:  # evaluating an annotation may raise anything
        return False
    return isinstance(returns, type) and hasattr(returns, "__aenter__") and hasattr(returns, "__aexit__")


def comes_to(test: Callable[[object], bool], handler: Any) -> bool:
    """Return True if the test holds for the function that a call of the handler ends up in."""
    while isinstance(handler, (partial, staticmethod)):
        handler = handler.func if isinstance(handler, partial) else handler.__func__
    return test(handler) or test(type(handler).__call__)
