"""Tests of round trips: a value comes back equal and of the same type, or is refused when it is encoded."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
import typing_extensions
from trio_tasks import CborCodec, EncodeError, JsonCodec

from tests._generated_types import Generator, differs
from tests._scale import scaled, seeds

both = pytest.mark.parametrize("make", [CborCodec, JsonCodec], ids=["cbor", "json"])
ODD = timezone(timedelta(hours=1, seconds=17))
BERLIN = ZoneInfo("Europe/Berlin")
KEY = UUID(int=5)


class Colour(Enum):
    RED = "red"


class Mixed(str, Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    label: str


class Extended(typing_extensions.TypedDict, total=False):
    label: typing_extensions.Required[str]
    size: typing_extensions.NotRequired[int]


@dataclass
class Animal:
    name: str


@dataclass
class Dog(Animal):
    tricks: int = 0


class Cat(msgspec.Struct):
    name: str


class Kitten(Cat):
    weight: float = 0.1


@dataclass
class Kennel:
    animal: Animal
    anything: Any = None


@dataclass
class Counting:
    count: int = 0

    def __post_init__(self) -> None:
        self.count += 1


@dataclass
class Trimmed:
    text: str
    made_at: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        self.text = self.text.strip()
        self.made_at = random.random()


@attrs.define
class Order:
    number: int
    lines: list[str] = attrs.field(factory=list)
    _note: str | None = None


def doubled(number: int) -> int:
    return number * 2


@attrs.define
class Doubling:
    number: int = attrs.field(converter=doubled)


LOST: list[tuple[Any, Any, str]] = [
    (Any, {1: "a", "1": "b"}, "args has two keys that are stored as the same text"),
    (Any, [{"x": {KEY: 1, str(KEY): 2}}], r"args\[0\]\['x'\] has two keys that are stored as the same text"),
    (dict, {1: "a", "1": "b"}, "args has two keys that are stored as the same text"),
    (Kennel, Kennel(Animal("a"), [{1: 2, "1": 3}]), r"args.anything\[0\] has two keys that are stored as the"),
    (dict[int | str, str], {1: "a", "1": "b"}, "args has two keys that are stored as the same text"),
    (dict[int | str, str], {1: "a"}, "args has a key that must be str, not int"),
    (datetime, datetime(2026, 1, 1, tzinfo=ODD), "args has an offset from UTC that is not a whole number"),
    (Any, [datetime(2026, 1, 1, tzinfo=ODD)], r"args\[0\] has an offset from UTC that is not a whole number"),
    (Any, [time(12, tzinfo=ODD)], r"args\[0\] has an offset from UTC that is not a whole number"),
    (time, time(12, tzinfo=ODD), "args has a time zone whose offset"),
    (list[time], [time(12, tzinfo=BERLIN)], r"args\[0\] has a time zone whose offset"),
    (list[Path], ["x"], r"args\[0\] must be \w*Path, not str"),
    (list[UUID], [str(KEY)], r"args\[0\] must be UUID, not str"),
    (dict[UUID, int], {str(KEY): 1}, "args has a key that must be UUID, not str"),
    (list[Decimal], ["1.5"], r"args\[0\] must be Decimal, not str"),
    (list[str], [KEY], r"args\[0\] must be str, not UUID"),
    (list[str], [Colour.RED], r"args\[0\] must be str, not Colour"),
    (list[Colour], ["red"], r"args\[0\] must be Colour, not str"),
    (set[Mixed], {"red"}, "args must be Mixed, not str"),
    (dict[Colour, int], {"red": 1}, "args has a key that must be Colour, not str"),
    (float, 2**60 + 1, "args is a whole number that no float equals"),
    (list[float], [1, 2**60 + 1], r"args\[1\] is a whole number that no float equals"),
    (Kennel, Kennel(Dog("Rex")), "args.animal must be Animal, not Dog"),
    (list[Cat], [Kitten("Tom")], r"args\[0\] must be Cat, not Kitten"),
    (list[set[int]], [[1]], r"args\[0\] must be set, not list"),
    (list[set[int]], [frozenset({1})], r"args\[0\] must be set, not frozenset"),
    (list[tuple[int, int]], [[1, 2]], r"args\[0\] must be tuple, not list"),
    (list[Point], [(1, 2)], r"args\[0\] must be Point, not tuple"),
    (Options, {"label": "a", "size": 1}, "args has a key that Options does not declare: 'size'"),
    (Counting, Counting(), "args.count would not come back equal: decoding changes it"),
    (Order, Order(1, [], "b"), "args._note must be None, not str"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("kind", "value", "message"), LOST, ids=[f"{n}" for n in range(len(LOST))])
def test_what_would_come_back_as_another_value_is_refused(
    make: Callable[..., Any], kind: Any, value: Any, message: str
) -> None:
    with pytest.raises(EncodeError, match=f"^{message}"):
        make(kind).encode(value)


class Word(str):
    __slots__ = ()


NAN_FREE: list[tuple[Any, Any]] = [
    (str, Word("a")), (list[str], [Word("a"), Mixed.RED]), (int, True + 1), (float, 2), (list[float], [2**60, 0.5]),
    (dict[str, int], OrderedDict(a=1)), (dict[str, list[int]], defaultdict(list, a=[1])), (float, True + 1),
    (tuple[int, ...], Point(1, 2)),
    (Trimmed, Trimmed(" a ")), (Extended, {"label": "a"}), (Extended, {"label": "a", "size": 2}),
    (list[Extended] | None, [{"label": "a"}]), (Order, Order(1, ["a"])), (list[Order], [Order(2)]),
    (Doubling, Doubling(1)),
    (Counting | None, None), (dict[int, str], {1: "a", 2: "b"}), (dict[int | str, int], {"a": 1}),
    (Kennel, Kennel(Animal("a"), {"x": [1, None]})), (list[Decimal], [Decimal("1.50"), Decimal("Infinity")]),
]  # fmt: skip


@both
@pytest.mark.parametrize(("kind", "value"), NAN_FREE, ids=[f"{n}" for n in range(len(NAN_FREE))])
def test_what_comes_back_equal_is_accepted(make: Callable[..., Any], kind: Any, value: Any) -> None:
    codec = make(kind)
    back = codec.decode(codec.encode(value))
    assert back == value
    assert isinstance(value, type(back)) or type(back) is float


@both
def test_what_is_equal_to_nothing_comes_back_all_the_same(make: Callable[..., Any]) -> None:
    codec = make(Decimal)
    assert [str(codec.decode(codec.encode(Decimal(text)))) for text in ("NaN", "sNaN", "-0.10")] == [
        "NaN",
        "sNaN",
        "-0.10",
    ]
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)  # once in summer time, and once after it
    back = make(datetime).decode(make(datetime).encode(twice))
    assert back.utcoffset() == timedelta(hours=1) == twice.utcoffset()
    assert back.timestamp() == twice.timestamp()
    if make is CborCodec:
        assert repr(make(list[float]).decode(make(list[float]).encode([float("nan")]))) == "[nan]"


@both
def test_an_attrs_class_without_a_type_comes_back_as_a_dict(make: Callable[..., Any]) -> None:
    codec = make()
    assert codec.decode(codec.encode([Order(1)])) == [{"number": 1, "lines": []}]
    with pytest.raises(EncodeError, match=r"^args\[0\].number is of type complex, which cannot be stored"):
        codec.encode([Order(1j)])  # type: ignore[arg-type]  # as users do


@both
@pytest.mark.nightly
def test_generated_values_of_generated_types_come_back_or_are_refused(make: Callable[..., Any]) -> None:
    """Each type with five values, of which some do not quite fit."""
    made = accepted = refused = 0
    for seed in seeds(10_000):
        rng = random.Random(seed)
        kind, make_value = Generator(rng).some()
        try:
            codec = make(kind)
        except TypeError:  # a union of two classes, for example
            continue
        made += 1
        for _ in range(5):
            value = make_value()
            try:
                payload = codec.encode(value)
            except EncodeError:
                refused += 1
                continue
            accepted += 1
            difference = differs(value, codec.decode(payload))
            assert not difference, f"seed {seed}: {kind}, {value!r}: {difference}"
    assert made > scaled(10_000) / 3, "most types cannot be stored"
    assert accepted > refused, "most values do not fit"
    assert refused > made / 20, "hardly any value is refused"
