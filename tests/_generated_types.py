"""Generators of random types and values, valid and nearly valid, for tests of the round trip through a codec."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import field, make_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Optional, TypedDict, Union
from uuid import UUID

import attrs
import msgspec
import typing_extensions

Values = Any
"""A function of no arguments that makes a value."""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Mixed(str, Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Name(str):
    __slots__ = ()


class Number(int): ...


class Row(list):  # type: ignore[type-arg]  # one of anything
    ...


class Generator:
    """A random type, and a function that makes values of it.

    Args:
      rng: the random numbers.
      slips: the share of values that are made for another type, or by another class.
    """

    def __init__(self, rng: random.Random, slips: float = 0.04) -> None:
        self.rng = rng
        self.slips = slips

    def some(self, depth: int = 3) -> tuple[Any, Values]:
        """Return a random type and a function that makes values of it."""
        if depth <= 0 or self.rng.random() < 0.3:
            return self._slipping(*self.rng.choice(self._leaves()))
        return self._slipping(*self.rng.choice(self._makers())(depth - 1))

    def _slipping(self, kind: Any, make: Values) -> tuple[Any, Values]:
        if kind is Any:  # anything fits, and comes back plain
            return kind, make
        leaves = self._leaves()

        def slip() -> Any:
            if self.rng.random() >= self.slips:
                return make()
            value = make()
            nearly = {str: Name, int: Number, list: Row, dict: OrderedDict, set: frozenset, tuple: list}
            if type(value) in nearly and self.rng.random() < 0.6:
                return nearly[type(value)](value)
            return self.rng.choice([str(value), float(2**60 + 1), 2**60 + 1, self.rng.choice(leaves)[1]()])

        return kind, slip

    def _leaves(self) -> list[tuple[Any, Values]]:
        rng = self.rng
        offsets = [0, 60, -90, 90.5, 17 / 60] if rng.random() < 0.2 else [0, 60, -90]

        def zone() -> timezone:
            return timezone(timedelta(minutes=rng.choice(offsets)))

        return [
            (None, lambda: None),
            (bool, lambda: rng.random() < 0.5),
            (int, lambda: rng.choice([0, -1, rng.randrange(-(2**70), 2**70)])),
            (float, lambda: rng.choice([0.0, -0.5, 1, 2**60 + 1, rng.gauss(0, 1e9), float("inf")])),
            (str, lambda: "".join(rng.choices("ab1 é\n", k=rng.randrange(4)))),
            (bytes, lambda: rng.randbytes(rng.randrange(4))),
            (bytearray, lambda: bytearray(rng.randbytes(2))),
            (date, lambda: date.fromordinal(rng.randrange(1, 3_000_000))),
            (time, lambda: time(rng.randrange(24), 1, 2, rng.randrange(10**6), rng.choice([None, zone()]))),
            (datetime, lambda: datetime(rng.randrange(2, 9998), 3, 4, 5, 6, 7, rng.randrange(10**6), zone())),
            (timedelta, lambda: timedelta(rng.randrange(-999, 999), rng.randrange(86400), rng.randrange(10**6))),
            (UUID, lambda: UUID(int=rng.getrandbits(128))),
            (Decimal, lambda: Decimal(rng.choice(["0", "-1.50", "1E+5", "Infinity", "NaN", "0.10"]))),
            (Path, lambda: Path(rng.choice(["/tmp/a", ".", "a/b"]))),
            (PurePosixPath, lambda: PurePosixPath(rng.choice(["/tmp/a", "é"]))),
            (Colour, lambda: rng.choice([*Colour])),
            (Mixed, lambda: rng.choice([*Mixed, "red"])),
            (Level, lambda: rng.choice([*Level])),
            (Literal["a", 1], lambda: rng.choice(["a", 1])),
            (Any, lambda: rng.choice([None, 1, "x", [1, {"a": [True, 0.5]}], {}])),
        ]  # fmt: skip

    def _makers(self) -> list[Any]:
        return [
            self._list, self._set, self._tuple, self._dict, self._optional, self._union, self._dataclass, self._struct,
            self._named_tuple, self._typed_dict, self._attrs,
        ]  # fmt: skip

    def _several(self) -> range:
        return range(self.rng.randrange(4))

    def _list(self, depth: int) -> tuple[Any, Values]:
        kind, make = self.some(depth)
        return list[kind], lambda: [make() for _ in self._several()]  # type: ignore[valid-type]  # made at run time

    def _set(self, depth: int) -> tuple[Any, Values]:
        kind, make = self.rng.choice(self._leaves())
        outer: Any = self.rng.choice([set, frozenset])

        def made() -> Any:
            members = [make() for _ in self._several()]
            return outer(each for each in members if getattr(each, "__hash__", None) and each == each)

        return outer[kind], made

    def _tuple(self, depth: int) -> tuple[Any, Values]:
        (one, make_one), (other, make_other) = self.some(depth), self.some(depth)
        if self.rng.random() < 0.5:
            return tuple[one, ...], lambda: tuple(make_one() for _ in self._several())  # type: ignore[valid-type]  # made at run time
        return tuple[one, other], lambda: (make_one(), make_other())  # type: ignore[valid-type]  # made at run time

    def _dict(self, depth: int) -> tuple[Any, Values]:
        key, make_key = self.rng.choice(self._leaves()[:-1])  # not Any, as which keys come back as text
        kind, make = self.some(depth)
        if self.rng.random() < 0.2:
            key, make_key = Union[int, str], lambda: self.rng.choice([1, "1", "a"])  # noqa: UP007  as users of 3.9 wrote it

        def made() -> Any:
            keys = [make_key() for _ in self._several()]
            return {each: make() for each in keys if getattr(each, "__hash__", None) and each == each}

        return dict[key, kind], made  # type: ignore[valid-type]  # made at run time

    def _optional(self, depth: int) -> tuple[Any, Values]:
        kind, make = self.some(depth)
        if kind is Any:
            return kind, make
        return Optional[kind], lambda: None if self.rng.random() < 0.3 else make()  # noqa: UP045  as users of 3.9 wrote it

    def _union(self, depth: int) -> tuple[Any, Values]:
        (one, make_one), (other, make_other) = self.some(depth), self.some(depth)
        if Any in (one, other):  # the union is Any, too
            return Any, lambda: None
        return Union[one, other], lambda: self.rng.choice([make_one, make_other])()  # noqa: UP007  made at run time

    def _fields(self, depth: int) -> tuple[list[tuple[str, Any]], Values]:
        made = [(f"f{n}", *self.some(depth)) for n in range(self.rng.randrange(1, 4))]
        return [(name, kind) for name, kind, _ in made], lambda: {name: make() for name, _, make in made}

    def _dataclass(self, depth: int) -> tuple[Any, Values]:
        fields, make = self._fields(depth)
        namespace: dict[str, Any] = {}
        if self.rng.random() < 0.1:

            def count_up(self: Any) -> None:
                self.count = getattr(self, "count", 0) + 1

            namespace["__post_init__"] = count_up
        extra: list[Any] = [("count", int, field(default=0))] if namespace else []
        kind = make_dataclass("Made", [*fields, *extra], namespace=namespace)
        lesser = make_dataclass("Lesser", [("more", int, field(default=1))], bases=(kind,))
        return kind, lambda: (lesser if self.rng.random() < self.slips else kind)(**make())

    def _struct(self, depth: int) -> tuple[Any, Values]:
        fields, make = self._fields(depth)
        kind: Any = msgspec.defstruct(
            "Made",
            fields,
            tag=self.rng.choice([True, None]),
            array_like=self.rng.random() < 0.3,
            rename=self.rng.choice([None, "camel"]),
        )
        return kind, lambda: kind(**make())

    def _attrs(self, depth: int) -> tuple[Any, Values]:
        fields, make = self._fields(depth)
        kind: Any = attrs.make_class("Made", {name: attrs.field(type=each) for name, each in fields})
        return kind, lambda: kind(**make())

    def _named_tuple(self, depth: int) -> tuple[Any, Values]:
        fields, make = self._fields(depth)
        kind: Any = NamedTuple("Made", fields)  # type: ignore[misc]  # made at run time
        return kind, lambda: kind(**make()) if self.rng.random() >= self.slips else tuple(make().values())

    def _typed_dict(self, depth: int) -> tuple[Any, Values]:
        fields, make = self._fields(depth)
        maker: Any = self.rng.choice([TypedDict, typing_extensions.TypedDict])
        kind = maker("Made", dict(fields), total=self.rng.random() < 0.7)
        return kind, lambda: {**make(), **({"more": 1} if self.rng.random() < self.slips else {})}


_BUILTIN = (
    str,
    int,
    float,
    bytes,
    list,
    dict,
    set,
    frozenset,
    tuple,
    date,
    time,
    datetime,
    timedelta,
    Path,
    PurePosixPath,
)


def differs(value: Any, back: Any) -> str:
    """Return the first undocumented difference between a value and its decoded copy; empty if there is none."""
    if type(value) is not type(back):
        if type(back) is float and type(value) in (int, Number, Level):
            return "" if value == back else f"{value!r} became {back!r}"
        base = next((each for each in _BUILTIN if type(back) is each or type(back) is type(Path())), None)
        if base is None or not isinstance(value, type(back)):
            return f"a {type(value).__name__} became a {type(back).__name__}"
    if isinstance(back, dict):
        if len(value) != len(back):
            return f"the keys {[*value]} became {[*back]}"
        keys = next(filter(None, map(differs, value, back)), "")
        return keys or next(filter(None, map(differs, value.values(), back.values())), "")
    if isinstance(back, (list, tuple)):
        if len(value) != len(back):
            return "another length"
        return next(filter(None, map(differs, value, back)), "")
    if isinstance(back, (set, frozenset)):
        if value != back:
            return f"{value!r} became {back!r}"
        twins = {each: each for each in back}
        return next(filter(None, (differs(each, twins[each]) for each in value)), "")
    names = getattr(back, "__struct_fields__", None) or getattr(back, "__dataclass_fields__", None)
    names = names or [each.name for each in getattr(back, "__attrs_attrs__", ())]
    if names:
        return next(filter(None, (differs(getattr(value, each), getattr(back, each)) for each in names)), "")
    if isinstance(back, (datetime, time)) and (value.utcoffset(), str(value)) != (back.utcoffset(), str(back)):
        return f"{value!r} became {back!r}"
    return "" if value == back or (value != value and back != back) else f"{value!r} became {back!r}"
