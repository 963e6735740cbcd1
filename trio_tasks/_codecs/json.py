"""A codec for JSON, which other programs can read: by msgspec, or for plain values by Python's own ``json``."""

from __future__ import annotations

import re
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, final

from .._checks import check_text
from .cbor import check_depth, codec_again
from .errors import MismatchError, cause_of, refuse
from .plain_values import LOOKED_AT_FOR_JSON, check_plain_value, has_naive_datetime
from .schema import TypeSchema, made_again

if TYPE_CHECKING:
    from collections.abc import Callable

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


@final
class JsonCodec:
    """A codec that stores values of one type as JSON. It is like :class:`CborCodec`, but larger, and other programs can
    read it.

    Bytes are stored as text (base64), so they come back only if the type is given. NaN and the infinities cannot be
    stored.

    Args:
      type: the type of the values.
      max_depth: levels of lists, dicts and the like that a value may have: from 1 to 500.
      name: the name of a value in errors.

    Raises:
      TypeError: values of this type cannot be stored, or not be told apart: a union of two dataclasses, for example.
      ModuleNotFoundError: a type is given, and msgspec is not installed.
    """

    def __init__(self, type: Any = Any, *, max_depth: int = 64, name: str = "args") -> None:
        self._max_depth = check_depth(max_depth)
        self._name = check_text(name, "name")
        self._schema = TypeSchema(type, "JsonCodec", (datetime,))
        self._direct = self._schema.direct - {float, bytes}
        self._dumps, self._loads = _json_for(self._schema)

    def encode(self, value: Any) -> bytes:
        """Encode a value.

        Raises:
          EncodeError: it is not of the type, or cannot be stored.
        """
        try:
            if value.__class__ in self._direct:
                return self._dumps(value)
            if self._schema.is_any:
                return self._attempt(value)
            payload = self._dumps(self._plain_of(value))
            self._check(value, payload)
            return payload
        except Exception as error:
            raise refuse(value, self._name, error, self._attempt, self._max_depth) from cause_of(error)

    def decode(self, payload: bytes) -> Any:
        """Decode what :meth:`encode` made.

        Raises:
          DecodeError: it is damaged, or is no value of the type.
        """
        try:
            payload = bytes(payload)
            if is_deeper(payload, self._max_depth):
                raise MismatchError(
                    f"it is nested more than {self._max_depth} levels deep, or its brackets do not match"
                )
            value = self._loads(payload)
            if self._schema.has_datetimes and has_naive_datetime(self._schema.to_plain(value)):
                raise MismatchError("it has a datetime without a time zone, whose moment depends on the machine")
            return value
        except Exception as error:
            raise self._schema.undecodable(self._name, error, "") from cause_of(error)

    def _check(self, value: Any, payload: bytes) -> None:
        """Refuse a value that does not fit the type, or that decoding would not return."""
        self._schema.check(value)
        try:
            back = self._loads(payload)
        except Exception as error:
            raise self._schema.mismatch_of(error, "") from error
        self._schema.check_back(value, back)

    def for_type(self, type: Any) -> JsonCodec:
        """Make a codec with the same options for another type."""
        return JsonCodec(type, max_depth=self._max_depth, name=self._name)

    def _attempt(self, part: Any) -> bytes:
        plain = self._plain_of(part)
        self._schema.check_plain(part, plain)
        return self._dumps(plain)

    def _plain_of(self, part: Any) -> Any:
        plain = self._schema.to_plain(part)
        if plain.__class__ in LOOKED_AT_FOR_JSON:
            check_plain_value(plain, self._max_depth, LOOKED_AT_FOR_JSON)
        return plain

    def __eq__(self, other: object) -> bool:
        return self.__reduce__() == other.__reduce__() if isinstance(other, JsonCodec) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return codec_again, (JsonCodec, self._schema.type, self._max_depth, self._name)

    def __repr__(self) -> str:
        depth = "" if self._max_depth == 64 else f", max_depth={self._max_depth}"
        return f"JsonCodec({self._schema.label}{depth})"


def _json_for(schema: TypeSchema) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    if schema.msgspec is not None:
        decoder = schema.msgspec.json.Decoder(schema.type, dec_hook=made_again)
        return schema.msgspec.json.Encoder().encode, decoder.decode
    import json

    write = partial(json.dumps, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return lambda value: write(value).encode(), partial(json.loads, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise MismatchError(f"{name} is not JSON")


def is_deeper(payload: bytes, levels: int) -> bool:
    """Return True if the JSON is nested deeper than ``levels``. The answer is undefined for bytes that are not JSON.

    Innermost pairs of brackets are removed, level by level, until none is left: in C, all of one level at once.
    """
    if payload.count(b"[") + payload.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", payload).translate(None, _NO_BRACKETS)
    for _ in range(levels):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return bool(brackets)
