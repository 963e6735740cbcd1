"""A codec for CBOR, the default format of stored values: msgspec around cbor2, restricted to what it writes itself."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, final

from .._checks import check_count, check_text
from .errors import DecodeError, MismatchError, cause_of, refuse
from .plain_values import DEEPEST, LOOKED_AT, check_plain_value, is_plain
from .schema import TypeSchema

if TYPE_CHECKING:
    from collections.abc import Callable

_NATIVES = (bytes, bytearray, datetime)

# cbor2 ignores bytes that are left over after an item. So a payload is read as the first of two items, and the second
# must be this one. It is random in each process, so that no payload can be made to end with it.
_END = os.urandom(12)
_PAIR = b"\x82"
_TAIL = bytes([0x40 + len(_END)]) + _END

_REFUSED_TAGS = (
    1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip
"""Tags that cbor2 reads and we do not write. Some are dangerous: a few bytes of shared references (25, 28, 29, 256) or
of decimals (4, 5) become gigabytes or minutes, a regular expression (35) may run for ever. We write 0, 2 and 3."""


@final
class CborCodec:
    """A codec that stores values of one type as CBOR.

    Dataclasses, attrs classes and msgspec Structs are stored as maps, by the names of their fields; enums by value;
    dates, durations, UUIDs, Decimals and paths as text; sets and tuples as lists. If the type is given, what is decoded
    is equal to what was encoded, and what would not be is refused. Without one (``Any``) it comes back plain: a
    dataclass or a pydantic model as a dict, a tuple as a list, a UUID as text, every key of a dict as text.

    Args:
      type: the type of the values.
      max_depth: levels of lists, dicts and the like that a value may have: from 1 to 500.
      name: the name of a value in errors.

    Raises:
      TypeError: values of this type cannot be stored, or not be told apart: a union of two dataclasses, for example.
      ModuleNotFoundError: a type is given, other than that of a plain scalar, and msgspec is not installed.
    """

    def __init__(self, type: Any = Any, *, max_depth: int = 64, name: str = "args") -> None:
        import cbor2

        self._max_depth = check_depth(max_depth)
        self._name = check_text(name, "name")
        self._schema = TypeSchema(type, "CborCodec", _NATIVES)
        self._direct = self._schema.direct
        self._dumps: Callable[[Any], bytes] = cbor2.dumps
        self._loads: Callable[..., Any] = cbor2.loads
        self._rules: dict[str, Any] = {
            "max_depth": max_depth + 2,  # the pair around it, and a tag in the innermost one
            "allow_indefinite": False,
            "allow_duplicate_keys": False,
            "strict_hashable_types": True,
            "semantic_decoders": dict.fromkeys(_REFUSED_TAGS, _refuse_known_tag),
            "tag_hook": _refuse_tag,
        }

    def encode(self, value: Any) -> bytes:
        """Encode a value.

        Raises:
          EncodeError: it is not of the type, or cannot be stored.
        """
        try:
            if value.__class__ in self._direct:
                return self._dumps(value)
            schema = self._schema
            plain = schema.to_plain(value)
            if plain.__class__ in LOOKED_AT:
                check_plain_value(plain, self._max_depth, LOOKED_AT)
            payload = self._dumps(plain)  # first, since decoding may change objects in the plain form
            if schema.is_any:
                schema.check_plain(value, plain)
            else:
                self._check(value, plain)
            return payload
        except Exception as error:
            raise refuse(value, self._name, error, self._attempt, self._max_depth) from cause_of(error)

    def decode(self, payload: bytes) -> Any:
        """Decode what :meth:`encode` made.

        Raises:
          DecodeError: it is damaged, or is no value of the type.
        """
        try:
            plain, end = self._loads(_PAIR + payload + _TAIL, **self._rules)
        except Exception as error:
            raise self._schema.undecodable(self._name, error) from cause_of(error)
        if end != _END:
            raise DecodeError(f"{self._name} cannot be decoded: the payload is not exactly one CBOR item")
        return self.from_plain(plain)

    def from_plain(self, plain: Any) -> Any:
        """Make a value of the type from its plain form, which a codec without a type decodes.

        Raises:
          DecodeError: it is no value of the type.
        """
        if plain.__class__ in self._direct:
            return plain
        if self._schema.is_any:
            if not is_plain(plain):
                raise DecodeError(f"{self._name} cannot be decoded: it has a kind of value that CborCodec never writes")
            return plain
        try:
            return self._schema.from_plain(plain)
        except Exception as error:
            raise self._schema.undecodable(self._name, error) from cause_of(error)

    def _check(self, value: Any, plain: Any) -> None:
        """Refuse a value that does not fit the type, or that decoding would not return."""
        self._schema.check(value)
        try:
            back = self._schema.from_plain(plain)
        except Exception as error:
            raise self._schema.mismatch_of(error) from error
        self._schema.check_back(value, back)

    def for_type(self, type: Any) -> CborCodec:
        """Make a codec with the same options for another type."""
        return CborCodec(type, max_depth=self._max_depth, name=self._name)

    def _attempt(self, part: Any) -> None:
        plain = self._schema.to_plain(part)
        if plain.__class__ in LOOKED_AT:
            check_plain_value(plain, self._max_depth, LOOKED_AT)
        self._schema.check_plain(part, plain)
        self._dumps(plain)

    def __eq__(self, other: object) -> bool:
        return self.__reduce__() == other.__reduce__() if isinstance(other, CborCodec) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return codec_again, (CborCodec, self._schema.type, self._max_depth, self._name)

    def __repr__(self) -> str:
        depth = "" if self._max_depth == 64 else f", max_depth={self._max_depth}"
        return f"CborCodec({self._schema.label}{depth})"


def codec_again(kind: Callable[..., Any], type: Any, max_depth: int, name: str) -> Any:
    """Make a codec again when it is unpickled; its options are keywords."""
    return kind(type, max_depth=max_depth, name=name)


def check_depth(value: int) -> int:
    """Return the maximal depth, or raise ValueError if it is too large."""
    if check_count(value, "max_depth") > DEEPEST:
        raise ValueError(f"max_depth must be {DEEPEST} or less, since Python's stack is limited; not {value}")
    return value


def _refuse_known_tag(content: Any, immutable: bool) -> Any:
    raise MismatchError("it has a CBOR tag that CborCodec never writes")


def _refuse_tag(tag: Any, immutable: bool) -> Any:
    raise MismatchError(f"it has the CBOR tag {tag.tag}, which CborCodec never writes")
