"""The interface of codecs, which turn args and results into bytes and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .._exports import rename as _rename
from .._printing import quoted
from .cbor import CborCodec as CborCodec
from .errors import DecodeError as DecodeError, EncodeError as EncodeError
from .json import JsonCodec as JsonCodec
from .pydantic import PydanticCodec as PydanticCodec

if TYPE_CHECKING:
    from collections.abc import Callable


class Codec(Protocol):
    """The interface of a codec: it encodes and decodes values of one type. Both methods are called in trio's thread,
    and must not block.
    """

    def encode(self, value: Any) -> bytes:
        """Encode a value as bytes.

        Raises:
          EncodeError: it is not of the type, or cannot be stored. The push fails with it.
        """
        ...

    def decode(self, payload: bytes) -> Any:
        """Decode the bytes that :meth:`encode` made.

        Raises:
          DecodeError: it is damaged, or is no value of the type. The task fails; its payload stays readable.
        """
        ...


def as_codec(codec: Codec | Callable[[Any], Codec] | None, type: Any) -> Codec:
    """Return the codec to use for a type.

    Args:
      codec: a codec, which is taken as it is; what makes one of a type, such as ``JsonCodec``; or None for a
        :class:`CborCodec`.
      type: the type of the values.

    Raises:
      TypeError: it is neither, or values of this type cannot be stored.
    """
    if codec is None:
        return CborCodec(type)
    made: Any = codec
    if isinstance(codec, _Class) or not _is_codec(codec):
        if not callable(codec):
            raise TypeError(f"{_WANTED}, not {quoted(codec)}")
        made = codec(type)
        if isinstance(made, _Class) or not _is_codec(made):
            raise TypeError(f"{_WANTED}; {codec!r} returned {made!r}")
    codec_made: Codec = made
    return codec_made


_rename("trio_tasks", {"CborCodec": CborCodec, "JsonCodec": JsonCodec, "DecodeError": DecodeError})
_rename("trio_tasks", {"EncodeError": EncodeError, "PydanticCodec": PydanticCodec})

_Class = type
_WANTED = "codec must have encode(value) and decode(payload), or be called with a type and return a codec, as CborCodec"


def _is_codec(value: object) -> bool:
    return callable(getattr(value, "encode", None)) and callable(getattr(value, "decode", None))
