"""The check that decoding returns the value that was encoded, compiled once for each type.

msgspec validates the plain form of a value, and converts what it can: a text where a path is declared, an int where a
float is. So a value that passes may still come back as another one. The comparison finds that out when the value is
pushed. It accepts these differences alone:

1. An instance of a subclass of a builtin or standard class (``str``, ``int``, ``list``, ``datetime``, …) comes back as
   that class, if the two are equal.
2. An int where a float is declared comes back as the equal float, if there is one.
3. NaN counts as equal to NaN.
4. A datetime comes back with the same wall time and offset, and without the rules of its time zone.
5. Where ``Any`` is declared, the plain form comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime, time
from decimal import Decimal
from operator import is_
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, get_origin

from .errors import MismatchError, parts_of, shown_key
from .plain_values import OFFSET_ADVICE, has_odd_offset

Check = Callable[[Any, Any], None]
"""Compare a value with what came back; raises :class:`MismatchError`."""

_BY_MAKING = "would not come back equal: decoding changes it, for example in a __post_init__"
COLLISION = "has two keys that are stored as the same text, so that one of them would be lost: use a list of pairs"


def compile_check(info: Any, plain_of: Callable[[Any], Any]) -> Check:
    """Compile the check for a type.

    Args:
      info: the type, as ``msgspec.inspect.type_info`` describes it.
      plain_of: a function that makes the plain form of a value, as it comes back where ``Any`` is declared.
    """
    return _Compiler(plain_of).check_for(info)


class _Compiler:
    def __init__(self, plain_of: Callable[[Any], Any]) -> None:
        self._plain_of = plain_of
        self._known: dict[int, Check] = {}

    def check_for(self, info: Any) -> Check:
        kind = type(info).__name__.removesuffix("Type")
        if kind == "Metadata":
            return self.check_for(info.type)
        if kind == "Any":
            return self._check_any
        if kind == "Union":
            return self._union(info)
        if kind in ("Dataclass", "Struct"):
            return self._record(info)
        if kind in ("TypedDict", "NamedTuple"):
            return self._named(info, kind)
        if kind in ("Dict", "FrozenDict"):
            return self._mapping(info)
        if kind in ("Set", "FrozenSet"):
            return self._set(info)
        if kind == "Tuple":
            return _sequence([self.check_for(each) for each in info.item_types])
        if kind in ("List", "VarTuple", "Collection"):
            return _sequence(self.check_for(info.item_type))
        return same_leaf

    def _check_any(self, value: Any, back: Any) -> None:
        if value != back:
            check_keys(value, self._plain_of)
            if self._plain_of(value) != back:
                raise MismatchError(_BY_MAKING, "")

    def _union(self, info: Any) -> Check:
        by_class: dict[Any, Check] = {}
        for each in info.types:
            check = self.check_for(each)
            if check == self._check_any:
                return check
            if check is not same_leaf:
                by_class[_class_made(each)] = check
        if not by_class:
            return same_leaf
        return lambda value, back: by_class.get(back.__class__, same_leaf)(value, back)

    def _record(self, info: Any) -> Check:
        if id(info) in self._known:
            return self._known[id(info)]
        left_out = _left_out(_class_made(info))
        named: list[tuple[str, Check]] = []  # filled below, since a type may contain itself

        def check(value: Any, back: Any) -> None:
            if value.__class__ is not back.__class__:
                raise _other_class(value, back)
            for name, check_field in named:
                one, other = getattr(value, name), getattr(back, name)
                if one is not other:
                    try:
                        check_field(one, other)
                    except MismatchError as error:
                        raise _within(f".{name}", error) from None

        self._known[id(info)] = check
        named += [(each.name, self.check_for(each.type)) for each in info.fields if each.name not in left_out]
        return check

    def _named(self, info: Any, kind: str) -> Check:
        if id(info) in self._known:
            return self._known[id(info)]
        checks: dict[str, Check] = {}
        is_dict = kind == "TypedDict"

        def check(value: Any, back: Any) -> None:
            if is_dict:
                _check_declared(value, back, info.cls.__name__)
            elif value.__class__ is not back.__class__:
                raise _other_class(value, back)
            for name, check_item in checks.items():
                if is_dict and name not in back:
                    continue
                one, other = (value[name], back[name]) if is_dict else (getattr(value, name), getattr(back, name))
                if one is not other:
                    try:
                        check_item(one, other)
                    except MismatchError as error:
                        raise _within(f"[{name!r}]" if is_dict else f".{name}", error) from None

        self._known[id(info)] = check
        checks.update({each.name: self.check_for(each.type) for each in info.fields})
        return check

    def _mapping(self, info: Any) -> Check:
        plain_key = self._check_any
        check_key, check_item = self.check_for(info.key_type), self.check_for(info.value_type)
        is_plain = check_key == plain_key

        def check(value: Any, back: Any) -> None:
            _check_class(value, back)
            if len(value) != len(back):
                raise MismatchError(COLLISION, "")
            for (key, one), (other_key, other) in zip(value.items(), back.items(), strict=True):
                if key is not other_key and not is_plain:
                    try:
                        check_key(key, other_key)
                    except MismatchError as error:
                        raise MismatchError(f"has a key that {error}", "") from None
                if one is not other:
                    try:
                        check_item(one, other)
                    except MismatchError as error:
                        raise _within(f"[{shown_key(key)}]", error) from None

        return check

    def _set(self, info: Any) -> Check:
        check_item = self.check_for(info.item_type)

        def check(value: Any, back: Any) -> None:
            _check_class(value, back)
            found = {each: each for each in back}
            for one in value:
                if one not in found:
                    wanted = next(iter(back), None)
                    check_item(one, wanted)
                    raise MismatchError(_BY_MAKING, "")
                if one is not found[one]:
                    check_item(one, found[one])
            if len(value) != len(back):
                raise MismatchError("has two members with the same stored form", "")

        return check


def _sequence(checks: Check | list[Check]) -> Check:

    def check(value: Any, back: Any) -> None:
        _check_class(value, back)
        if len(value) == len(back) and all(map(is_, value, back)):
            return
        for index, (one, other) in enumerate(zip(value, back, strict=True)):
            if one is not other:
                try:
                    (checks[index] if isinstance(checks, list) else checks)(one, other)
                except MismatchError as error:
                    raise _within(f"[{index}]", error) from None

    return check


# Leaves


def same_leaf(value: Any, back: Any) -> None:
    """Raise if two values that have no parts are not the same.

    Raises:
      MismatchError: they differ, or the class of the value is another one.
    """
    kind = back.__class__
    if value.__class__ is kind and kind in _SIMPLE and value == back:
        return
    if issubclass(type(value), kind):
        special = _SPECIAL.get(kind)
        if special is not None:
            if not special(value, back):
                raise MismatchError(_ADVICE.get(kind, _BY_MAKING), "")
        elif kind.__eq__(back, value) is not True:
            raise MismatchError(_BY_MAKING, "")
    elif kind is float and isinstance(value, int) and value.__class__ is not bool:
        if value != back:
            raise MismatchError("is a whole number that no float equals: use a float, or declare the type as int", "")
    else:
        raise _other_class(value, back)


def _same_moment(value: datetime, back: datetime) -> bool:
    # When the clocks are set back, a datetime is equal to none of another time zone: then compare the wall times.
    return value.utcoffset() == back.utcoffset() and (
        value == back or value.replace(tzinfo=None) == back.replace(tzinfo=None)
    )


def _same_time(value: time, back: time) -> bool:
    return (
        (value.tzinfo is None) == (back.tzinfo is None)
        and value.utcoffset() == back.utcoffset()
        and value.replace(tzinfo=None) == back.replace(tzinfo=None)
    )


def _same_text(value: Any, back: Any) -> bool:
    return str(value) == str(back)


_SIMPLE = frozenset((str, int, bool, bytes))
_SPECIAL: dict[type, Callable[[Any, Any], bool]] = {
    datetime: _same_moment,
    time: _same_time,
    Decimal: _same_text,  # `==` says that 1.0 equals 1.00, and raises for a signaling NaN
    **dict.fromkeys((PosixPath, PurePosixPath, WindowsPath, PureWindowsPath), _same_text),
    float: lambda value, back: float.__eq__(back, value) is True or (value != value and back != back),
}
_ADVICE: dict[type, str] = {
    datetime: OFFSET_ADVICE,
    time: "has a time zone whose offset from UTC is unknown or not a whole number of minutes: use another one, or none",
}


# Keys


def check_keys(value: Any, plain_of: Callable[[Any], Any]) -> None:
    """Raise if the plain form of a value loses an entry of a dict or the seconds of a UTC offset.

    The value contains no cycle, since its plain form could be made.

    Raises:
      MismatchError: it loses one.
    """
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if issubclass(part.__class__, dict):
            if any(key.__class__ is not str for key in part) and len(plain_of(dict.fromkeys(part))) != len(part):
                raise MismatchError(COLLISION)
        elif isinstance(part, (datetime, time)):
            if has_odd_offset(part):
                raise MismatchError(OFFSET_ADVICE)
            continue
        waiting += [each for _, each in parts_of(part)]


def _class_made(info: Any) -> Any:
    kind = type(info).__name__.removesuffix("Type")
    if kind == "Metadata":
        return _class_made(info.type)
    if kind in ("Dataclass", "Struct", "NamedTuple"):
        return get_origin(info.cls) or info.cls
    return {"Dict": dict, "TypedDict": dict, "Tuple": tuple, "VarTuple": tuple, "Set": set, "FrozenSet": frozenset}.get(
        kind, list
    )


def _left_out(kind: Any) -> set[str]:
    """The names of the fields that ``==`` does not compare."""
    if is_dataclass(kind):
        return {each.name for each in fields(kind) if not each.compare}
    return {each.name for each in getattr(kind, "__attrs_attrs__", ()) if not each.eq}


def _check_class(value: Any, back: Any) -> None:
    if value.__class__ is not back.__class__ and not issubclass(type(value), back.__class__):
        raise _other_class(value, back)


def _check_declared(value: Any, back: Any, label: str) -> None:
    """Raise if a TypedDict has keys that its type does not declare."""
    _check_class(value, back)
    if len(value) != len(back):
        key = next((each for each in value if each not in back), "")
        raise MismatchError(f"has a key that {label} does not declare: {shown_key(key)}", "")


def _other_class(value: Any, back: Any) -> MismatchError:
    wanted = "None" if back is None else type(back).__name__
    return MismatchError(f"must be {wanted}, not {'None' if value is None else type(value).__name__}", "")


def _within(step: str, error: MismatchError) -> MismatchError:
    return MismatchError(str(error), None if error.path is None else step + error.path)
