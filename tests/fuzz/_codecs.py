"""Fuzzing of payloads, options, errors and histories: each is read, or refused with an error of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from random import Random
from typing import Any
from uuid import UUID

from trio_tasks import (
    AbortError,
    BackendError,
    CborCodec,
    Codec,
    DecodeError,
    JsonCodec,
    PastAttempt,
    RetryAfterError,
)
from trio_tasks._backends.durable import encoding as record
from trio_tasks._tasks.task import Terms

from tests.fuzz._corrupt import corrupted


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Order:
    number: int
    colour: Colour
    paid: Decimal | None
    at: datetime
    lines: list[tuple[str, float]]
    notes: dict[str, str]


def _order(random: Random) -> Order:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=random.randrange(10**8))
    lines = [(f"thing {n}", random.random()) for n in range(random.randrange(4))]
    return Order(random.randrange(-5, 2**40), random.choice(list(Colour)), Decimal("1.50"), at, lines, {"é": "ü" * 3})


_SAMPLES: list[tuple[Any, Any]] = [
    (int, lambda random: random.randrange(-(2**40), 2**40)),
    (str, lambda random: "ä" * random.randrange(20)),
    (Order, _order),
    (list[Order], lambda random: [_order(random) for _ in range(3)]),
    (dict[str, UUID], lambda random: {"a": UUID(int=random.getrandbits(128))}),
    (Any, lambda random: {"a": [1, None, True, 2.5, {"b": b"bytes"}], "c": "d" * random.randrange(9)}),
]


def fuzz_cbor(random: Random) -> None:
    """Damage and decode a CBOR payload."""
    _fuzz_codec(CborCodec, random)


def fuzz_json(random: Random) -> None:
    """Damage and decode a JSON payload."""
    _fuzz_codec(JsonCodec, random)


def _fuzz_codec(kind: type[CborCodec] | type[JsonCodec], random: Random) -> None:
    type_, make = random.choice(_SAMPLES)
    codec: Codec = kind(type_)
    value = make(random)
    if kind is JsonCodec and type_ is Any:
        value = {"a": [1, None, True, 2.5]}
    read_or_refuse(codec, corrupted(codec.encode(value), random))


def read_or_refuse(codec: Codec, payload: bytes) -> None:
    """Decode the payload; a decoded value must encode and decode to itself. All else is refused."""
    try:
        read = codec.decode(payload)
    except DecodeError:
        return
    again = codec.decode(codec.encode(read))
    assert again == read or again != again or "nan" in repr(read), (payload, read, again)


def fuzz_record(random: Random) -> None:
    """Damage and decode the other stored fields of a task."""
    options = record.encode_options(
        Terms(attempts=3, timeout=1.5, unique="k", expires_in=60.0), {"tenant": "acme", "n": [1]}
    )
    assert options is not None
    error = record.encode_error(
        random.choice((ValueError("é"), AbortError("no"), RetryAfterError("later", 5), OSError(2, "x")))
    )
    history = record.with_loss(None, 1, 5.0, "w")
    for read, stored in (
        (record.decode_options, options),
        (record.decode_error, error),
        (record.decode_history, history),
        (record.ends_in_loss, history),
    ):
        data = corrupted(stored, random)
        try:
            read(data)
        except BackendError:
            continue
    entry = PastAttempt(2, math.pi, None, "retried", "ValueError")
    longer = record.decode_history(record.with_attempt(corrupted(history, random), entry))
    assert longer[-1] == entry
