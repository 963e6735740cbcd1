"""Evaluation of the annotations of a callable, one by one, with all names that are known at run time.

``typing.get_type_hints`` reads all or none: a name that only type checkers see, or one of a local scope,
spoils the lot. Here each is read when it is asked for, and the functions around this one are looked at too.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType, MethodType, NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, ForwardRef, Union, final, get_args, get_origin, get_type_hints, is_typeddict


@final
class Annotations:
    """The parameters of a callable, and the types in their annotations."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.parameters = _parameters(handler)
        self.bound: set[str] = set()
        """The parameters that a partial has bound by name."""
        function: Any = handler
        while (inner := _inside(function)) is not None:
            if isinstance(function, partial):
                self.bound.update(function.keywords)
            function = inner
        self._returns: dict[str, Any] = getattr(function, "__annotations__", {})
        self._globals: dict[str, Any] = getattr(function, "__globals__", {})
        self._locals = _local_names(function) if isinstance(function, FunctionType) else {}

    def resolve(self, parameter: inspect.Parameter) -> Any:
        """Return the type in a parameter's annotation. Raises whatever evaluating it raises, such as ``NameError``."""
        return self._resolve(parameter.annotation)

    def resolve_return(self) -> Any:
        """Return the type of the results; raises as :meth:`resolve`, or ``KeyError`` without an annotation."""
        return self._resolve(self._returns["return"])

    def resolve_head(self, parameter: inspect.Parameter) -> Any:
        """Return the part of the annotation before the brackets; its bare name if that cannot be evaluated."""
        annotation = parameter.annotation
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        if not isinstance(annotation, str):
            return get_origin(annotation) or annotation
        try:
            head = ast.parse(annotation.strip(), mode="eval").body
        except SyntaxError:
            return annotation
        while isinstance(head, ast.Subscript):
            head = head.value
        name = ast.unparse(head)
        try:
            return self._resolve(name)
        except Exception:  # evaluating a name may raise anything; then return the bare name
            return name.rpartition(".")[2]

    def _resolve(self, annotation: Any) -> Any:
        holder = SimpleNamespace(__annotations__={"it": annotation})
        resolved = get_type_hints(holder, self._globals, self._locals, include_extras=True)["it"]
        while hasattr(resolved, "__value__"):  # an alias made by a `type` statement
            resolved = resolved.__value__
        return resolved


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Return the annotation without its ``| None``, and whether it had one."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    members = tuple(each for each in get_args(annotation) if each is not NoneType)
    return Union[members], len(members) < len(get_args(annotation))  # noqa: UP007  members is a tuple


def is_marked(annotation: Any, marker: type) -> bool:
    """Return True if the annotation is ``Annotated`` with a marker of this class."""
    marks = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
    return any(isinstance(each, marker) for each in marks)


def class_of(annotation: Any) -> Any:
    """Return the annotation without its brackets and ``Annotated``, which is usually a class."""
    if get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    return get_origin(annotation) or annotation


def annotation_text(annotation: Any) -> str:
    """Return the annotation about as it was written."""
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, str):
        return annotation
    return _DATA.sub(r"Data[\1]", inspect.formatannotation(annotation))


_DATA = re.compile(r"(?:typing\.)?Annotated\[(.+?), from data\]")
"""``Data[...]`` as Python prints it."""


def args_differ(first: Any, args_type: Any) -> bool:
    """Return True if no value of one type is of the other: both are plain classes, and neither is a subclass of the
    other. Of anything else, such as a union or a protocol, this is not known.
    """
    if not (_is_plain_class(first) and _is_plain_class(args_type)):
        return False
    if args_type in _ALSO_TAKEN_FOR.get(first, ()):
        return False
    return not (issubclass(first, args_type) or issubclass(args_type, first))


_ALSO_TAKEN_FOR: dict[type, tuple[type, ...]] = {
    float: (int,),
    complex: (int, float),
    bytes: (bytearray, memoryview),
    bytearray: (bytes,),  # a codec may read the one back as the other
    memoryview: (bytes,),
}
"""The classes whose values pass for those of another one without being a subclass."""


def _is_plain_class(annotation: Any) -> bool:
    if get_origin(annotation) is not None or not isinstance(annotation, type) or annotation is Any:
        return False
    return not (is_typeddict(annotation) or getattr(annotation, "_is_protocol", False))


def _parameters(handler: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            signature = inspect.signature(handler, annotation_format=Format.FORWARDREF)
        else:
            signature = inspect.signature(handler)
    except ValueError:  # some built-in functions have no signature: assume one argument
        return {"args": inspect.Parameter("args", inspect.Parameter.POSITIONAL_ONLY)}
    return dict(signature.parameters)


def _inside(handler: Any) -> Any:
    """Return the callable inside a partial, a method, a decorated function or a callable object; None for a
    function.
    """
    if isinstance(handler, partial):
        return handler.func
    if isinstance(handler, (MethodType, staticmethod)):
        return handler.__func__
    if hasattr(handler, "__signature__"):
        return None
    if hasattr(handler, "__wrapped__"):
        return handler.__wrapped__
    if isinstance(handler, FunctionType):
        return None
    call = type(handler).__call__
    return call if isinstance(call, FunctionType) else None


def _local_names(function: FunctionType) -> dict[str, Any]:
    """Return the names in the function's closure, and those of the functions around it that are running now.

    When a worker is built where its handler was defined, that is all of them.
    """
    names: dict[str, Any] = {}
    frame = inspect.currentframe() if "<locals>" in function.__qualname__ else None
    while frame is not None:
        if frame.f_locals is not frame.f_globals and _is_around(frame.f_code, function.__code__):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    return names


def _is_around(outer: CodeType, inner: CodeType) -> bool:
    return any(each is inner or _is_around(each, inner) for each in outer.co_consts if isinstance(each, CodeType))
