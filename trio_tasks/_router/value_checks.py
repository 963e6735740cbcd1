"""Checks of values against the annotation of a parameter, by their classes alone: no library is needed.

They refuse early what a codec would refuse when the call is stored, and know less than a codec does: what they cannot
judge, such as a constraint on a number, passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, is_typeddict

Check = Callable[[Any], bool]

_ALSO: dict[type, tuple[type, ...]] = {
    float: (float, int),
    complex: (complex, float, int),
    bytes: (bytes, bytearray, memoryview),
}
"""Classes that type checkers take for another one."""


def compile_check(annotation: Any) -> Check | None:
    """Return a function that says whether a value fits the annotation; None if any value may."""
    while hasattr(annotation, "__value__"):  # an alias made by a `type` statement
        annotation = annotation.__value__
    if hasattr(annotation, "__supertype__"):
        return compile_check(annotation.__supertype__)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return compile_check(arguments[0])
    if origin in (Union, UnionType):
        return _any_of(arguments)
    if origin is Literal:
        return lambda value: any(value == each and type(value) is type(each) for each in arguments)
    if annotation is None or annotation is NoneType:
        return lambda value: value is None
    kind = origin or annotation
    if is_typeddict(kind):
        return lambda value: isinstance(value, dict)
    if not isinstance(kind, type) or kind is object or isinstance(annotation, TypeVar) or _is_protocol(kind):
        return None
    return _of_class(kind, arguments)


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) or kind is cast("Any", Any)  # a class, from Python 3.11 on


def _any_of(members: tuple[Any, ...]) -> Check | None:
    checks: list[Check] = []
    for each in members:
        check = compile_check(each)
        if check is None:
            return None
        checks.append(check)
    if len(checks) == 2:
        first, second = checks
        return lambda value: first(value) or second(value)
    return lambda value: any(check(value) for check in checks)


def _of_class(kind: type, arguments: tuple[Any, ...]) -> Check:
    if kind in (int, float, complex):
        kinds = _ALSO.get(kind, (kind,))
        return lambda value: isinstance(value, kinds) and not isinstance(value, bool)
    kinds = _ALSO.get(kind, (kind,))
    inside = _inside(kind, arguments) if arguments else None
    if inside is None:
        return lambda value: isinstance(value, kinds)
    check = inside
    return lambda value: isinstance(value, kinds) and check(value)


def _inside(kind: type, arguments: tuple[Any, ...]) -> Check | None:
    """Return the check of the parts of a container; None if they may be anything."""
    if kind is tuple and not (len(arguments) == 2 and arguments[1] is ...):
        checks = [compile_check(each) for each in arguments]
        return lambda value: len(value) == len(checks) and all(map(_fits, checks, value))
    if kind in (list, set, frozenset, tuple):
        each = compile_check(arguments[0])
        return None if each is None else lambda value: all(map(each, value))
    if issubclass(kind, Mapping) and len(arguments) == 2:
        keys, values = map(compile_check, arguments)
        if keys is None and values is None:
            return None
        return lambda value: all(_fits(keys, key) and _fits(values, part) for key, part in value.items())
    return None


def _fits(check: Check | None, value: Any) -> bool:
    return check is None or check(value)
