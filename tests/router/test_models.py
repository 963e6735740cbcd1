"""Tests of a router's functions whose arguments or results are pydantic models or attrs classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import pydantic
import pytest
from trio_tasks import Call, CborCodec, DecodeError, EncodeError, RetryPolicy, Router, SqliteStorage, Worker
from trio_tasks._cli.output import CommandError
from trio_tasks._cli.pushing import _bound

tasks = Router()


class Address(pydantic.BaseModel):
    street: str
    zone: int = 1


class Email(pydantic.BaseModel):
    to: str = pydantic.Field(min_length=2)
    address: Address | None = None
    secret: pydantic.SecretStr | None = None


class Urgent(Email):
    by: str


@attrs.frozen
class Point:
    x: int
    y: int = 2


@dataclass
class Envelope:
    email: Email
    weight: float


@tasks.task
async def send(email: Email, copies: list[Email] | None = None, *, at: Point = Point(0)) -> Email:
    return copies[0] if copies else email


@tasks.task
async def move(point: Point) -> Point:
    return attrs.evolve(point, y=point.y + 1)


@tasks.task
async def weigh(envelope: Envelope) -> float:
    return envelope.weight


ADA = Email(to="ada", address=Address(street="Main Street"))
CALLS: dict[str, tuple[Call[Any], object]] = {
    "a model": (send.bind(ADA), ADA),
    "models in a union, and in a list": (send.bind(ADA, [Email(to="bob")]), Email(to="bob")),
    "with an attrs class beside it": (send.bind(ADA, at=Point(5)), ADA),
    "an attrs class": (move.bind(Point(1)), Point(1, 3)),
    "a dataclass with a model": (weigh.bind(Envelope(ADA, 2.5)), 2.5),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/a.db", "file:///{}/a.journal"])
async def test_models_are_arguments_and_results(url: str, name: str, tmp_path: Path) -> None:
    call, result = CALLS[name]
    async with tasks.open(url.format(tmp_path)) as queues:
        task_id = await queues.push(call)
        task = await queues.fetch_by_id(task_id)
        assert task is not None
        assert task.args.arguments == call.arguments
        queues.close()
        [worker] = queues.make_workers({"default": 1})
        await worker.run()
        assert await tasks.functions[call.name].result(queues, task_id) == result


def test_a_model_is_stored_as_a_map_that_upgrades_can_read() -> None:
    plain = CborCodec().decode(tasks.encode(send.bind(ADA)))
    address = {"street": "Main Street", "zone": 1}
    assert plain["args"] == {"email": {"to": "ada", "address": address, "secret": None}}


def wrong(**values: Any) -> Email:
    return Email.model_construct(**values)


def test_what_does_not_fit_a_model_is_refused_and_named() -> None:
    not_a_model: Any = {"to": "ada"}
    with pytest.raises(EncodeError, match=r"^args of send\.email must be Email, not dict$"):
        send.bind(not_a_model)
    for email, message in {
        "short": (wrong(to="x", address=None, secret=None), r"args of send\.email\.to: String should have at least 2"),
        "subclass": (Urgent(to="ada", by="noon"), r"args of send\.email must be Email, not Urgent"),
        "lost": (Email(to="ada", secret=pydantic.SecretStr("x")), r"args of send\.email would not come back equal"),
    }.values():
        with pytest.raises(EncodeError, match=message):
            tasks.encode(send.bind(email))


def test_what_is_stored_is_validated_when_it_is_read() -> None:
    def stored(email: object) -> bytes:
        return CborCodec().encode({"task": "send", "v": 1, "args": {"email": email}})

    assert tasks.decode(stored({"to": "ada"})).arguments == {"email": Email(to="ada")}
    with pytest.raises(DecodeError, match=r"args of send\.email\.to: String should have at least 2"):
        tasks.decode(stored({"to": "x"}))
    with pytest.raises(DecodeError, match=r"args of send\.email cannot be decoded: it has a value that JSON does not"):
        tasks.decode(stored({"to": b"ada"}))


async def test_a_result_that_would_not_come_back_is_the_error_of_the_task(tmp_path: Path) -> None:
    """In a storage that is not told the type of results, a model comes back as a dict, as a dataclass does."""

    async def make(secret: bool) -> Email:
        return Email(to="ada", secret=pydantic.SecretStr("x") if secret else None)

    async with SqliteStorage(tmp_path / "a.db") as storage:
        good, bad = await storage.push_bulk([False, True])
        storage.close()
        await Worker("w", storage, make, retry=RetryPolicy(attempts=1)).run()
        assert (await storage.wait_for(good)).unwrap() == json.loads(Email(to="ada").model_dump_json())
        with pytest.raises(EncodeError, match="would not come back equal"):
            (await storage.wait_for(bad)).unwrap()


def test_the_command_line_makes_models_of_json() -> None:
    call = _bound(send, ('email={"to": "ada", "address": {"street": "Main Street"}}', 'copies=[{"to": "bob"}]'))
    assert call == send.bind(ADA, [Email(to="bob")])
    with pytest.raises(CommandError, match=r"args of send\.email must be Email, not dict"):
        _bound(send, ('email={"to": "x"}',))
