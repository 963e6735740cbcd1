"""Encode and decode args: values that come back, values that are refused, and a type that has changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec
from trio_tasks import CborCodec, DecodeError, EncodeError, JsonCodec


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Item:
    name: str
    price: Decimal
    size: Size = Size.SMALL


@dataclass
class Order:
    items: list[Item]
    placed: datetime


def stored_and_back() -> None:
    codec = CborCodec(Order)
    order = Order([Item("cup", Decimal("4.50"), Size.LARGE)], datetime(2026, 11, 23, 12, tzinfo=timezone.utc))
    payload = codec.encode(order)
    print(codec, len(payload), "bytes, equal:", codec.decode(payload) == order)
    print(JsonCodec(Order).encode(order).decode())


def refused() -> None:
    codec = CborCodec(Order)
    noon = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    too_dear: Any = "a lot"  # a mistake that type checkers do not see
    for order in [
        Order([Item("cup", Decimal(4)), Item("pot", too_dear)], noon),
        Order([], noon.replace(tzinfo=None)),
        "cup",
    ]:
        try:
            codec.encode(order)
        except EncodeError as error:
            print("refused:", error)


@dataclass
class NewItem:
    """A later version of Item: it has a new field with a default, and one field less."""

    name: str
    price: Decimal
    label: str | None = None


def a_type_that_changes() -> None:
    payload = CborCodec(Item).encode(Item("cup", Decimal("4.50")))
    print(CborCodec(NewItem).decode(payload))
    try:
        CborCodec(Order).decode(payload)
    except DecodeError as error:
        print("not decoded:", error)


class Created(msgspec.Struct, tag=True):  # the tag says in the stored form which of the two it is
    order: int


class Cancelled(msgspec.Struct, tag=True):
    order: int
    reason: str


def one_of_several() -> None:
    codec = CborCodec(Created | Cancelled)
    for event in (Created(7), Cancelled(7, "too late")):
        print(codec.decode(codec.encode(event)))


if __name__ == "__main__":
    stored_and_back()
    refused()
    a_type_that_changes()
    one_of_several()
