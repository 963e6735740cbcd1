"""Tests of codecs: a value comes back equal or is refused when it is encoded, and any bytes are safe to decode."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID

import cbor2
import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st
from trio_tasks._codecs.codec import CborCodec, Codec, DecodeError, EncodeError, JsonCodec, as_codec

from tests.fuzz._codecs import read_or_refuse

CODECS: list[Callable[..., CborCodec | JsonCodec]] = [CborCodec, JsonCodec]
both = pytest.mark.parametrize("make", CODECS, ids=["cbor", "json"])

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict, total=False):
    retries: int
    label: str


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Compact(msgspec.Struct, array_like=True, frozen=True):
    a: int
    b: str = "b"


@dataclass
class Email:
    to: str
    subject: str = ""
    copies: int = 0


@dataclass
class SpecialEmail(Email):
    stamp: str = "blue"


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Everything:
    """A dataclass with a field of each kind that can be stored."""

    email: Email
    colour: Colour
    level: Level
    point: Point
    options: Options
    pet: Cat | Dog | None
    when: datetime | None
    day: date
    hour: time
    lasting: timedelta
    id: UUID
    price: Decimal
    raw: bytes
    words: set[str]
    numbers: frozenset[int]
    pair: tuple[int, str]
    row: tuple[float, ...]
    path: PurePosixPath
    by_number: dict[int, str]
    by_id: dict[UUID, int]
    by_day: dict[date, bool]
    by_colour: dict[Colour, int]
    number: int | float
    word_or_number: str | int | None
    kind: Literal["a", "b"]
    anything: Any


def sample(**changes: Any) -> Everything:
    values: dict[str, Any] = {
        "email": Email("a@example.com", "hello"), "colour": Colour.BLUE, "level": Level.HIGH, "point": Point(1, 2.5),
        "options": {"label": "x"}, "pet": Dog("Rex"), "when": NOON, "day": date(2026, 1, 2), "hour": time(3, 4, 5),
        "lasting": timedelta(days=1, microseconds=1), "id": UUID(int=5), "price": Decimal("1.50"), "raw": b"\0\xff",
        "words": {"a", "b"}, "numbers": frozenset({1, 2}), "pair": (1, "x"), "row": (1.0, 2.0),
        "path": PurePosixPath("/tmp/x"), "by_number": {1: "one"}, "by_id": {UUID(int=7): 7},
        "by_day": {date(2026, 1, 2): True}, "by_colour": {Colour.RED: 1}, "number": 2, "word_or_number": "w",
        "kind": "a", "anything": [1, None, {"a": [True, 2.5, "x"]}],
    }  # fmt: skip
    return Everything(**(values | changes))


def comes_back(codec: Codec, value: Any) -> bool:
    back = codec.decode(codec.encode(value))
    return bool(back == value) and type(back) is type(value)


# Round trips


UserId = NewType("UserId", int)

TYPED: list[tuple[Any, Any]] = [
    (int, 0), (int, -(2**70)), (int, 2**64), (float, 1.5), (bool, True), (str, "grüß"), (bytes, b"\0\xff"),
    (None, None), (UserId, 5), (date, date(1, 1, 1)), (time, time(23, 59, 59, 999999)),
    (timedelta, timedelta(-5, 3, 7)), (datetime, NOON),
    (datetime, NOON.astimezone(timezone(timedelta(hours=-5, minutes=-30)))),
    (UUID, UUID(int=2**127)), (Decimal, Decimal("-0.10")), (Decimal, Decimal("Infinity")), (Path, Path("/tmp/x")),
    (bytearray, bytearray(b"xy")), (Colour, Colour.RED), (Level, Level.LOW), (Rights, Rights.READ | Rights.WRITE),
    (Point, Point(1)), (Options, {"retries": 3}), (Compact, Compact(1)), (Cat, Cat("Tom")), (Email, Email("a")),
    (Node, Node(1, [Node(2, [Node(3)]), Node(4)])), (list[Email], [Email("a"), Email("b")]), (set[int], {1, 2}),
    (tuple[int, ...], (1, 2)), (dict[str, Email], {"a": Email("b")}), (dict[int, str], {1: "a"}), (list, [1, "a"]),
    (Cat | Dog, Dog("Rex")), (Email | None, None), (Email | None, Email("x")), (int | str, "5"),
    (Mapping[str, int], {"a": 1}), (Literal["a", 1], 1), (Any, None), (Any, [1, {"a": 2.5}]), (Everything, sample()),
]  # fmt: skip


@both
@pytest.mark.parametrize(("kind", "value"), TYPED, ids=[f"{n} {kind}"[:40] for n, (kind, _) in enumerate(TYPED)])
def test_what_is_encoded_comes_back(make: Callable[..., Codec], kind: Any, value: Any) -> None:
    codec = make(kind)
    assert type(codec.encode(value)) is bytes
    assert comes_back(codec, value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
whole = st.integers(-(2**80), 2**80)
real = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(
    timezones=st.one_of(
        st.just(timezone.utc),
        st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    )
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), whole, real, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
everything = st.builds(
    Everything,
    email=st.builds(Email, texts, texts, whole), colour=st.sampled_from(Colour), level=st.sampled_from(Level),
    point=st.builds(Point, whole, real),
    options=st.fixed_dictionaries({}, optional={"retries": whole, "label": texts}),
    pet=st.one_of(st.none(), st.builds(Cat, texts), st.builds(Dog, texts)), when=st.none() | moments, day=st.dates(),
    hour=st.times(), lasting=st.timedeltas(), id=st.uuids(), price=st.decimals(allow_nan=False),
    raw=st.binary(max_size=9),
    words=st.sets(texts, max_size=4), numbers=st.frozensets(st.integers(-(2**63), 2**63), max_size=4),
    pair=st.tuples(whole, texts), row=st.lists(real, max_size=4).map(tuple), path=texts.map(PurePosixPath),
    by_number=st.dictionaries(st.integers(-(2**63), 2**64 - 1), texts, max_size=4),
    by_id=st.dictionaries(st.uuids(), whole, max_size=4), by_day=st.dictionaries(st.dates(), st.booleans(), max_size=4),
    by_colour=st.dictionaries(st.sampled_from(Colour), whole, max_size=4), number=whole | real,
    word_or_number=st.one_of(st.none(), texts, whole), kind=st.sampled_from(["a", "b"]), anything=plain,
)  # fmt: skip

CBOR_EVERYTHING, JSON_EVERYTHING = CborCodec(Everything), JsonCodec(Everything)


@settings(deadline=None, max_examples=100)
@given(everything)
def test_whatever_is_encoded_comes_back(value: Everything) -> None:
    assert comes_back(CBOR_EVERYTHING, value)
    assert comes_back(JSON_EVERYTHING, value)


@settings(deadline=None)
@given(plain | st.binary() | st.lists(st.binary() | moments | st.floats(allow_nan=False)))
def test_plain_values_come_back_without_a_type(value: Any) -> None:
    assert comes_back(CborCodec(), value)


@both
def test_without_a_type_the_rest_comes_back_plain(make: Callable[..., Codec]) -> None:
    codec = make()
    email, colour = Email("a", "b", 1), Colour.RED
    back = codec.decode(
        codec.encode({"email": email, "t": (1, 2), "id": UUID(int=1), "c": colour, 1: date(2026, 1, 2)})
    )
    fields = {"to": "a", "subject": "b", "copies": 1}
    assert back == {"email": fields, "t": [1, 2], "id": str(UUID(int=1)), "c": "red", "1": "2026-01-02"}


@both
def test_subclasses_of_plain_ones_are_stored_as_these(make: Callable[..., Codec]) -> None:
    class Name(str): ...

    class Number(int): ...

    class Share(float): ...

    codec = make()
    assert codec.decode(codec.encode([Name("x"), Number(3), Share(0.5)])) == ["x", 3, 0.5]
    assert codec.decode(codec.encode(Name("x"))) == "x"
    assert make(int).decode(make(int).encode(Number(3))) == 3


# What is stored stays readable


@both
def test_fields_are_stored_by_name_and_enums_by_value(make: Callable[..., Codec]) -> None:
    assert make().decode(make(Email).encode(Email("a"))) == {"to": "a", "subject": "", "copies": 0}
    assert make().decode(make(Colour).encode(Colour.RED)) == "red"


def test_the_stored_form_does_not_change() -> None:
    email = "a362746f6161677375626a656374606663" + "6f7069657300"
    assert CborCodec(Email).encode(Email("a")).hex() == email
    assert CborCodec(datetime).encode(NOON).hex() == "c074323032362d31312d32335431323a30303a30305a"
    assert CborCodec(Decimal).encode(Decimal("1.50")) == b"\x641.50"
    assert CborCodec(set[int]).encode({1}) == b"\x81\x01"
    assert CborCodec(Cat).encode(Cat("x")) == b"\xa2dtypecCatdnameax"


@both
def test_a_type_may_gain_a_field_with_a_default_lose_one_and_widen_one(make: Callable[..., Codec]) -> None:
    payload = make(Email).encode(Email("a", "b", 3))
    newer = make_dataclass("Email", [("to", str), ("copies", int | None), ("urgent", bool, field(default=False))])
    assert make(newer).decode(payload) == newer("a", 3, False)
    with pytest.raises(
        DecodeError, match=r"^the stored value is not of type Email: args does not fit: .*missing.* field urgent$"
    ):
        make(make_dataclass("Email", [("to", str), ("urgent", bool)])).decode(payload)


# Refused at the door

ENDLESS: list[Any] = [1]
ENDLESS.append({"a": ENDLESS})


def nested(levels: int, innermost: Any = 1) -> Any:
    value = innermost
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


class Nowhere(tzinfo):
    """A time zone without an offset."""

    def utcoffset(self, moment: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        return "nowhere"


class Rude:
    """An object whose every attribute raises."""

    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError("no class")

    @__class__.setter
    def __class__(self, kind: Any) -> None: ...

    def __repr__(self) -> str:
        raise ZeroDivisionError("no repr")


UNFIT: list[tuple[Any, Any, str]] = [
    (int, "x", r"args must be int, not str"),
    (int, True, r"args must be int, not bool"),
    (str, 5, r"args must be str, not int"),
    (Email, {"to": "a"}, r"args must be Email, not dict"),
    (Email, SpecialEmail("a"), r"args must be Email, not SpecialEmail"),
    (Email, Email("a", "b", "c"), r"args.copies must be int, not str"),  # type: ignore[arg-type]  # as users do
    (Node, Node(1, [Node(2), Node(3, [Node("x")])]), r"args.children\[1\].children\[0\].value must be int, not str"),  # type: ignore[arg-type]  # as users do
    (Email | None, 5, r"args must be Email \| None, not int"),
    (list[int], (1, 2), r"args must be list\[int\], not tuple"),
    (dict[int, str], {"x": "y"}, r"args has a key that must be int, not str"),
    (dict[str, int], {"x": "y"}, r"args\[...\] must be int, not str"),
    (Literal["a", "b"], "c", r"args must be one of the values that Literal\['a', 'b'\] has"),
    (Colour, "red", r"args must be Colour, not str"),
    (Path, "x", r"args must be Path, not str"),
    (None, 5, r"args must be None, not int"),
    (Any, object(), r"args is of type object, which cannot be stored: use plain values, .*"),
    (Any, {"items": [1, {"price": 1j}]}, r"args\['items'\]\[1\]\['price'\] is of type complex, which .*"),
    (Any, [Email("a", 1j)], r"args\[0\].subject is of type complex, which .*"),  # type: ignore[arg-type]  # as users do
    (Any, [Point(1j)], r"args\[0\].x is of type complex, which .*"),  # type: ignore[arg-type]  # as users do
    (Any, [Cat(1j)], r"args\[0\].name is of type complex, which .*"),  # type: ignore[arg-type]  # as users do
    (Any, {"a": {(1, 2): 3}}, r"args\['a'\] has a key that is no text, .*: use a list of pairs"),
    (Any, {"a": ["\ud800"]}, r"args\['a'\]\[0\] is a text with half a surrogate pair in it, .*"),
    (str, "\ud800", r"args is a text with half a surrogate pair in it, .*"),
    (Any, datetime(2026, 1, 1), r"args is a datetime without a time zone, .*: make it with .*"),  # noqa: DTZ001  naive is the point
    (Any, {"a": [NOON, NOON.replace(tzinfo=Nowhere())]}, r"args\['a'\]\[1\] is a datetime without a time zone, .*"),
    (datetime, "2026-01-01T00:00:00Z", r"args must be datetime, not str"),
    (Any, ENDLESS, r"args\[1\]\['a'\] contains itself, and such a value has no end"),
    (Any, nested(65), r"args is nested more than 64 levels deep"),
    (Any, nested(100_000), r"args is nested more than 64 levels deep"),
    (list, nested(66)[0], r"args (is nested more than 64 levels deep|must be list, not dict)"),
    (Any, Rude(), r"args .*"),
    (Any, [Rude()], r"args.*"),
]


@both
@pytest.mark.parametrize(("kind", "value", "message"), UNFIT, ids=[f"{n}" for n in range(len(UNFIT))])
def test_what_could_not_come_back_is_refused(make: Callable[..., Codec], kind: Any, value: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=f"^{message}$") as caught:
        make(kind).encode(value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("kind", "text"), [(datetime, "2026-01-01T00:00:00"), (bytes, "aaaa")], ids=["moment", "bytes"]
)
def test_text_does_not_pass_for_what_cbor_has_itself(kind: Any, text: str) -> None:
    with pytest.raises(EncodeError, match=rf"^args\[0\] must be {kind.__name__}, not str$"):
        CborCodec(list[kind]).encode([text])


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=repr)
def test_json_has_no_nan(value: float) -> None:
    with pytest.raises(EncodeError, match=r"^args\['a'\]\[0\] is (nan|inf), which JSON does not have: use a CborCodec"):
        JsonCodec().encode({"a": [value]})
    with pytest.raises(EncodeError, match=r"^args is (nan|inf), which JSON does not have"):
        JsonCodec(float).encode(value)
    assert repr(CborCodec(float).decode(CborCodec(float).encode(value))) == repr(value)


@both
def test_a_type_that_checks_itself_is_asked_at_the_door(make: Callable[..., Codec]) -> None:
    codec = make(Validated)
    fine = Validated("fine")
    assert comes_back(codec, fine)
    for mood, message in (
        ("sad", "args does not fit: no sad ones"),
        ("odd", "args does not fit Validated: KeyError: 'odd'"),
    ):
        fine.mood = mood
        with pytest.raises(EncodeError, match=f"^{message}$"):
            codec.encode(fine)
        with pytest.raises(DecodeError):
            codec.decode(make().encode({"mood": mood}))


@dataclass
class Validated:
    mood: str

    def __post_init__(self) -> None:
        if self.mood == "sad":
            raise ValueError("no sad ones")
        if self.mood == "odd":
            raise KeyError("odd")


@both
def test_depth_is_counted_exactly_and_can_be_chosen(make: Callable[..., Codec]) -> None:
    assert comes_back(make(), nested(64))
    assert comes_back(make(), nested(3, []) if make is JsonCodec else nested(63, [NOON]))
    assert comes_back(make(max_depth=2), [[1]])
    with pytest.raises(EncodeError, match=r"^args is nested more than 2 levels deep$"):
        make(max_depth=2).encode([[[1]]])
    assert comes_back(make(max_depth=500), nested(500))
    assert comes_back(make(), [[]] * 1000)  # wide is not deep
    with pytest.raises(ValueError, match=r"^max_depth must be 500 or less"):
        make(max_depth=501)
    with pytest.raises(ValueError, match=r"^max_depth must be 1 or more"):
        make(max_depth=0)


@both
def test_a_value_may_be_called_something_else(make: Callable[..., Codec]) -> None:
    with pytest.raises(EncodeError, match=r"^the result\.copies must be int, not str$"):
        make(Email, name="the result").encode(Email("a", "b", "c"))  # type: ignore[arg-type]  # as users do
    with pytest.raises(DecodeError, match=r"^the result cannot be decoded: "):
        make(name="the result").decode(b"")


@both
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Email | Node, r"Email \| Node\) cannot be made: .*unions.*make them msgspec Structs with tag=True.*"),
        (str | bytes, r"str \| bytes\) cannot be made: .*unions.*one dataclass with a field for each"),
        (complex, r"complex\) cannot be made: complex cannot be stored; use .*"),
        (make_dataclass("A", [("b", list[complex])]), r"A\) cannot be made: complex \(its b\) cannot be stored.*"),
        (dict[tuple[int, int], str], r"dict\[.*\]\) cannot be made: a dict has keys that cannot be stored.*"),
        (dict[Path, str], r"dict\[Path, str\]\) cannot be made: a dict has keys that cannot be stored.*"),
        (dict[datetime, str], r"dict\[datetime, str\]\) cannot be made: a dict has keys that cannot be stored.*"),
        ("Email", r"'Email'\) cannot be made: .*"),
    ],
    ids=["dataclasses", "texts", "complex", "inside", "tuple keys", "path keys", "moment keys", "name"],
)  # fmt: skip
def test_a_type_that_cannot_be_stored_is_refused_when_the_codec_is_made(
    make: Callable[..., Codec], kind: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=rf"^(Cbor|Json)Codec\({message}$"):
        make(kind)


# Decoding


BOMB = b"\xd8\x1c\x9a\x00\x01\x00\x00" + b"\xd8\x1d\x00" * 50

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "more behind": b"\x05\x05",
    "a forged end": b"\x05" + b"\x4c" + bytes(12),
    "cut": b"\x19\x01",
    "cut text": b"\x62a",
    "cut just before what is put behind it": b"\x4d",
    "no text": b"\x61\xff",
    "no end": b"\x9f\x01\xff",
    "text without end": b"\x7f\x61a\xff",
    "a key twice": b"\xa2\x61a\x01\x61a\x02",
    "a key that is a number": b"\xa1\x01\x02",
    "too deep": b"\x81" * 67 + b"\x01",
    "far too deep": b"\x81" * 100_000 + b"\x01",
    "a huge list": b"\x9b\x00\xff\xff\xff\xff\xff\xff\xff",
    "huge lists": b"\x9a\x00\xff\xff\xff" * 60,
    "huge bytes": b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "shared references": BOMB,
    "no moment": b"\xc0\x61x",
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("kind", [Any, int, Email], ids=["any", "int", "Email"])
def test_what_we_do_not_write_is_not_read(kind: Any, payload: bytes) -> None:
    codec = CborCodec(kind)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            codec.decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_tags_that_are_never_written_are_refused() -> None:
    codec = CborCodec()
    known = [*range(300), 1004, 43000, 55799]
    for tag in [*known, *range(300, 70_000, 101)]:
        for content in (b"\x01", b"\x61a", b"\x41a", b"\x80", b"\x82\x01\x02", b"\x50" + bytes(16), b"\x6a2026-11-23"):
            head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
            if tag in (2, 3) and content[:1] in b"\x41\x50":
                continue  # large integers
            with pytest.raises(DecodeError):
                codec.decode(head + content)
    assert codec.decode(b"\xc2\x41\x05") == 5


@pytest.mark.parametrize("payload", ["text", None, 5, object()], ids=["text", "none", "int", "object"])
@both
def test_a_payload_that_is_none_is_refused(make: Callable[..., Codec], payload: Any) -> None:
    if not (make is JsonCodec and payload == 5):
        with pytest.raises(DecodeError):
            make().decode(payload)


@both
def test_a_payload_may_be_any_buffer(make: Callable[..., Codec]) -> None:
    payload = make(Email).encode(Email("a"))
    buffers: list[Any] = [bytearray(payload), memoryview(payload)]  # as some drivers have it
    assert [make(Email).decode(buffer) for buffer in buffers] == [Email("a")] * 2


@both
def test_what_does_not_fit_the_type_is_told_with_its_place(make: Callable[..., Codec]) -> None:
    payload = make().encode({"value": 1, "children": [{"value": "x"}]})
    with pytest.raises(
        DecodeError, match=r"^the stored value is not of type Node: args\.children\[0\]\.value must be int, not str$"
    ):
        make(Node).decode(payload)
    with pytest.raises(DecodeError, match=r"^the stored value is not of type int: args must be int, not str$"):
        make(int).decode(make().encode("x"))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[1] 2", b"[" * 65 + b"]" * 65, b"[" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70, b"NaN", b'"\xff"',
     b"[1,]"],
    ids=["nothing", "cut", "more", "deep", "far too deep", "deep maps", "nan", "no text", "comma"],
)  # fmt: skip
def test_json_that_we_do_not_write_is_not_read(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        JsonCodec().decode(payload)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (datetime, b'"2026-11-23T12:00:00"'),
        (list[Options] | datetime, b'"2026-11-23T12:00:00"'),
        (list[dict[str, datetime]], b'[{"a": "2026-11-23T12:00:00Z"}, {"a": "2026-11-23T12:00:00"}]'),
        (make_dataclass("Meeting", [("at", datetime)]), b'{"at": "2026-11-23T12:00:00"}'),
    ],
)
def test_a_datetime_without_a_time_zone_is_not_read(kind: Any, payload: bytes) -> None:
    """Bytes of another program; the codec could not write them."""
    with pytest.raises(DecodeError, match="args cannot be decoded: it has a datetime without a time zone, whose"):
        JsonCodec(kind).decode(payload)
    written = JsonCodec(kind).decode(payload.replace(b':00"', b':00Z"'))
    assert "2026" in repr(written)


def test_brackets_in_a_text_are_not_levels() -> None:
    for text in ("[" * 100, '"' + "[" * 100, "\\" + "[{" * 100, "]" * 100 + '\\"'):
        assert comes_back(JsonCodec(), [text, {text: text}])


FUZZED = [CborCodec(), CborCodec(int), CBOR_EVERYTHING, CborCodec(list[Cat | Dog]), CborCodec(Node)]
SEEDS = [
    CBOR_EVERYTHING.encode(sample()),
    CborCodec().encode(nested(5, NOON)),
    CborCodec(Node).encode(Node(1, [Node(2)])),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    payload = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(payload)


@settings(deadline=None, max_examples=600)
@given(st.binary(max_size=200) | mutated())
@example(b"\xf7")
@example(b"\xe1")
def test_any_bytes_decode_or_are_refused(payload: bytes) -> None:
    """No error but DecodeError is raised, and a value that was read can be written: tests/fuzz shows how that fails."""
    for codec in FUZZED:
        read_or_refuse(codec, payload)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100) | st.text('[]{}",:\\\n01e.-ntu', max_size=50).map(str.encode))
def test_any_bytes_decode_as_json_or_are_refused(payload: bytes) -> None:
    """No error but DecodeError is raised, and a value that was read can be written: tests/fuzz shows how that fails."""
    for codec in (JsonCodec(), JSON_EVERYTHING):
        read_or_refuse(codec, payload)


# Making one


class Rot13:
    """A codec of a user."""

    def encode(self, value: Any) -> bytes:
        return str(value).encode()

    def decode(self, payload: bytes) -> Any:
        return payload.decode()


def test_a_codec_is_taken_or_made_for_the_type() -> None:
    own = Rot13()
    assert as_codec(own, Email) is own
    assert repr(as_codec(None, Email)) == "CborCodec(Email)"
    assert repr(as_codec(JsonCodec, Email)) == "JsonCodec(Email)"
    assert repr(as_codec(lambda kind: CborCodec(kind, max_depth=3), Email)) == "CborCodec(Email, max_depth=3)"
    assert isinstance(as_codec(lambda kind: Rot13(), Email), Rot13)


@pytest.mark.parametrize(
    "wrong",
    [5, "json", object(), lambda kind: None, lambda kind: Rot13],
    ids=["int", "str", "object", "makes None", "makes a class"],
)
def test_what_is_no_codec_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^codec must have encode\(value\) and decode\(payload\), or be called"):
        as_codec(wrong, Email)


def test_the_type_of_a_codec_that_is_made_is_checked() -> None:
    with pytest.raises(TypeError, match=r"^CborCodec\(complex\) cannot be made: "):
        as_codec(None, complex)


@pytest.mark.parametrize(
    ("kind", "label"),
    [(Any, "Any"), (int, "int"), (None, "None"), (Email, "Email"), (list[Email], "list[Email]"),
     (Email | None, "Email | None"), (dict[str, Email], "dict[str, Email]")],
)  # fmt: skip
def test_a_codec_names_its_type(kind: Any, label: str) -> None:
    assert repr(CborCodec(kind)) == f"CborCodec({label})"
    assert repr(JsonCodec(kind, max_depth=5)) == f"JsonCodec({label}, max_depth=5)"


# Without msgspec


@pytest.fixture
def no_msgspec(monkeypatch: pytest.MonkeyPatch) -> Iterable[None]:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    return [None]


@both
@pytest.mark.usefixtures("no_msgspec")
def test_plain_values_need_no_msgspec(make: Callable[..., Codec]) -> None:
    value: Any = {"a": [1, 2.5, None, True, "x", {"b": []}]}
    assert comes_back(make(), value)
    assert comes_back(make(), 5)
    assert CborCodec().decode(CborCodec().encode([b"x"])) == [b"x"]
    for unfit, where in (
        ([{1}], r"\[0\] is of type set; without msgspec, only"),
        ({"a": {1: 2}}, r"\['a'\] has a key"),
    ):
        with pytest.raises(EncodeError, match=rf"^args{where}.*install trio_tasks\[sqlite\] or trio_tasks\[file\]"):
            make().encode(unfit)
    for endless in (ENDLESS, nested(100_000), nested(65)):
        with pytest.raises(EncodeError, match=r"contains itself|is nested more than 64 levels deep"):
            make().encode(endless)
    with pytest.raises(EncodeError, match=r"^args is nan, which JSON"):
        JsonCodec().encode(float("nan"))
    for payload in (b"\xff", b"[" * 100_000, b"", b'{"a":NaN}'):
        with pytest.raises(DecodeError):
            make().decode(payload)


@both
@pytest.mark.usefixtures("no_msgspec")
def test_a_type_needs_msgspec_and_it_is_told_where_to_get_it(make: Callable[..., Codec]) -> None:
    with pytest.raises(
        ModuleNotFoundError, match=r"^\w+\(Email\) needs msgspec, .* trio_tasks\[sqlite\] and trio_tasks"
    ):
        make(Email)


def test_nothing_heavy_is_imported_with_the_module() -> None:
    script = "import sys, trio_tasks._codecs.codec; print({'cbor2', 'msgspec'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("payload", [b"\x81\xe0", b"\x81\xf7", b"\xa1\x41\x61\x02"])
def test_without_a_type_only_what_is_written_is_read(payload: bytes) -> None:
    """Simple values of CBOR, and keys that are no text, are valid, and never ours."""
    with pytest.raises(DecodeError, match="kind of value that CborCodec never writes"):
        CborCodec().decode(payload)
