"""Tests of PydanticCodec."""

from __future__ import annotations

import subprocess
import sys
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
import trio
from trio_tasks import CborCodec, DecodeError, EncodeError, PydanticCodec, SqliteStorage, Status, Worker
from trio_tasks._codecs.codec import as_codec

SECRET = "hunter2"
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


class Address(pydantic.BaseModel):
    city: str
    lines: list[str] = []


class Email(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    to: Annotated[str, pydantic.Field(alias="To", min_length=2)]
    address: Optional[Address] = None  # noqa: UP045  as pydantic reads it on 3.10
    path: Path = Path("/tmp")
    at: datetime = NOON
    tags: frozenset[str] = frozenset()

    @pydantic.field_validator("to")
    @classmethod
    def check_to(cls, to: str) -> str:
        if to == "nobody":
            raise ValueError("nobody is no address")
        return to


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    age: int = 0


class Special(Email):
    stamp: str = "blue"


class SubAddress(Address):
    country: str = "de"


class Counting(pydantic.BaseModel):
    count: int

    @pydantic.model_validator(mode="after")
    def count_up(self) -> Counting:
        object.__setattr__(self, "count", self.count + 1)
        return self


class Node(pydantic.BaseModel):
    inner: Optional[Node] = None  # noqa: UP045  the same


def email(**values: Any) -> Email:
    return Email(**values)


def special(**values: Any) -> Special:
    return Special(**values)


class NoModel: ...


GOOD: list[tuple[Any, Any]] = [
    (Email, email(To="a@example.com")),
    (Email, email(To="bob", address=Address(city="x", lines=["1"]), path=Path("a"), tags=frozenset({"x"}))),
    (Union[Cat, Dog], Dog(age=3)),  # noqa: UP007  the same
    (list[Address], [Address(city="x")]),
    (dict[str, Dog], {"a": Dog()}),
    (int, 5),
    (Node, Node(inner=Node())),
]


@pytest.mark.parametrize(("kind", "value"), GOOD, ids=[str(n) for n in range(len(GOOD))])
def test_what_is_encoded_comes_back(kind: Any, value: Any) -> None:
    codec = PydanticCodec(kind)
    back = codec.decode(codec.encode(value))
    assert back == value
    assert type(back) is type(value)
    buffer: Any = bytearray(codec.encode(value))  # as some drivers have it
    assert codec.decode(buffer) == value


def deep(levels: int) -> Node:
    node = Node()
    for _ in range(levels):
        node = Node(inner=node)
    return node


def assigned(model: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(model, name, value)
    return model


ODD = timezone(timedelta(seconds=17))
BAD: list[tuple[Any, Any, str]] = [
    (Email, {"To": "a"}, "args must be Email, not dict"),
    (Email, special(To="bob"), "args must be Email, not Special"),
    (
        Email,
        email(To="bob", address=SubAddress(city="x")),
        "args would not come back equal: decoding gives another value of type Email",
    ),
    (Email, assigned(email(To="bob"), to=5), "args cannot be stored as Email: it has a value of another type"),
    (Email, assigned(email(To="bob"), to="nobody"), r"args.To: Value error, nobody is no address"),
    (Email, email(To="bob", at=datetime(2026, 1, 1, tzinfo=ODD)), "args"),
    (Counting, Counting(count=1), "args would not come back equal"),
    (list[Address], [Address(city="x"), 5], "args cannot be stored as"),
    (Node, deep(70), "args is nested more than 64 levels deep"),
]


@pytest.mark.parametrize(("kind", "value", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_would_not_come_back_is_refused(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=f"^{message}"):
        PydanticCodec(kind).encode(value)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "the stored value is not of type Email: args: Invalid JSON"),
        (b"{", "the stored value is not of type Email: args: Invalid JSON"),
        (b'{"To": 5}', "the stored value is not of type Email: args.To: Input should be a valid string"),
        (b'{"To": "bob", "hunter2!": "hunter2"}', r"the stored value is not of type Email: args\[...\]: Extra inputs"),
        (b'{"To": "nobody"}', "the stored value is not of type Email: args.To: Value error, nobody is no address"),
        (b"[" * 100, "args cannot be decoded: it is nested more than 64 levels deep"),
        (None, "args cannot be decoded: "),
    ],
    ids=[str(n) for n in range(7)],
)
def test_what_is_no_model_is_not_read(payload: Any, message: str) -> None:
    with pytest.raises(DecodeError, match=f"^{message}") as caught:
        PydanticCodec(Email).decode(payload)
    assert SECRET not in "".join(traceback.format_exception(type(caught.value), caught.value, None))


def test_errors_do_not_quote_values() -> None:
    for value in (assigned(email(To="bob"), to=[SECRET]), assigned(email(To="bob"), path=SECRET), {SECRET: SECRET}):
        with pytest.raises(EncodeError) as caught:
            PydanticCodec(Email).encode(value)
        assert SECRET not in "".join(traceback.format_exception(type(caught.value), caught.value, None))


def test_the_other_codecs_say_which_one_to_take() -> None:
    with pytest.raises(TypeError, match=r"^CborCodec\(Email\) cannot be made: .* needs codec=PydanticCodec"):
        CborCodec(Email)
    assert repr(as_codec(PydanticCodec, Email)) == "PydanticCodec(Email)"
    assert repr(PydanticCodec(Email, max_depth=5).for_type(int)) == "PydanticCodec(int, max_depth=5)"
    with pytest.raises(TypeError, match=r"^PydanticCodec\(NoModel\) cannot be made: "):
        PydanticCodec(NoModel)


async def test_models_as_args_and_results(tmp_path: Path) -> None:
    async def walk(email: Email) -> Dog:
        await trio.lowlevel.checkpoint()
        return Dog(age=len(email.to))

    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, Email, codec=PydanticCodec, result_type=Dog) as storage:
        task_id = await storage.push(email(To="bob"))
        with pytest.raises(EncodeError):
            await storage.push(special(To="bob"))
        cats = storage.share(Cat, queue="cats", result_type=Any)
        assert await cats.push(Cat())
        storage.close()
        await Worker("w", storage, walk).run()
        result = await storage.wait_for(task_id)
        assert (result.status, result.result) == (Status.Done, Dog(age=3))
        assert (await cats.metrics())["pushed"] == 1


def test_pydantic_is_imported_only_if_it_is_used() -> None:
    program = (
        "import sys\n"
        "import trio_tasks\n"
        "from trio_tasks import CborCodec, PydanticCodec\n"
        "CborCodec(int)\n"
        "assert 'pydantic' not in sys.modules\n"
        "sys.modules['pydantic'] = None\n"
        "try:\n"
        "    PydanticCodec(int)\n"
        "except ModuleNotFoundError as error:\n"
        "    assert 'trio_tasks[pydantic]' in str(error)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
