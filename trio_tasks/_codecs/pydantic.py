"""A codec for pydantic models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final

from .._checks import check_text
from .cbor import CborCodec, check_depth, codec_again
from .errors import DecodeError, EncodeError
from .json import is_deeper
from .schema import label_of

if TYPE_CHECKING:
    from collections.abc import Iterable


@final
class PydanticCodec:
    """A codec that stores values of a pydantic type as JSON: models, unions and lists of them, pydantic dataclasses.

    >>> SqliteStorage("tasks.db", Email, codec=PydanticCodec)  # class Email(pydantic.BaseModel)

    A value is dumped as by ``model_dump_json(by_alias=True, round_trip=True)``, and validated when it is decoded. What
    would not come back equal is refused when it is encoded: an instance of a subclass, for example, or a field that was
    assigned a value of another type.

    Args:
      type: the type of the values: anything that a ``pydantic.TypeAdapter`` takes.
      max_depth: levels of lists and objects that a value may have: from 1 to 500.
      name: the name of a value in errors.

    Raises:
      TypeError: values of this type cannot be validated.
      ModuleNotFoundError: pydantic is not installed; it comes with ``trio_tasks[pydantic]``.
    """

    def __init__(self, type: Any, *, max_depth: int = 64, name: str = "args") -> None:
        self._max_depth = check_depth(max_depth)
        self._name = check_text(name, "name")
        self._type = type
        self._label = label_of(type)
        pydantic = _pydantic_for(f"PydanticCodec({self._label})")
        self._invalid: Any = pydantic.ValidationError
        self._class = type if isinstance(type, _Class) and issubclass(type, pydantic.BaseModel) else None
        try:
            self._adapter: Any = pydantic.TypeAdapter(type)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise TypeError(f"PydanticCodec({self._label}) cannot be made: {reason}") from error

    def encode(self, value: Any) -> bytes:
        """Encode a value.

        Raises:
          EncodeError: it is not of the type, or would not come back equal.
        """
        if self._class is not None and type(value) is not self._class:
            raise EncodeError(f"{self._name} must be {self._label}, not {type(value).__name__}")
        try:
            payload: bytes = self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
        except Exception as error:  # leave out its text, which quotes values
            raise EncodeError(
                f"{self._name} cannot be stored as {self._label}: it has a value of another type, or one that JSON "
                f"does not have ({type(error).__name__})"
            ) from None
        if is_deeper(payload, self._max_depth):
            raise EncodeError(f"{self._name} is nested more than {self._max_depth} levels deep")
        try:
            is_same = self._adapter.validate_json(payload) == value
        except self._invalid as error:
            raise EncodeError(self._refused("", error)) from _cause_of(error)
        if is_same is not True:
            raise EncodeError(
                f"{self._name} would not come back equal: decoding gives another value of type {self._label}"
            )
        return payload

    def decode(self, payload: bytes) -> Any:
        """Decode what :meth:`encode` made.

        Raises:
          DecodeError: it is damaged, or is no value of the type.
        """
        try:
            payload = bytes(payload)
        except TypeError as error:
            raise DecodeError(f"{self._name} cannot be decoded: {error}") from error
        if is_deeper(payload, self._max_depth):
            raise DecodeError(f"{self._name} cannot be decoded: it is nested more than {self._max_depth} levels deep")
        try:
            return self._adapter.validate_json(payload)
        except self._invalid as error:
            raise DecodeError(self._refused(f"the stored value is not of type {self._label}: ", error)) from _cause_of(
                error
            )

    def for_type(self, type: Any) -> PydanticCodec:
        """Make a codec with the same options for another type."""
        return PydanticCodec(type, max_depth=self._max_depth, name=self._name)

    def _refused(self, prefix: str, error: Any) -> str:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{prefix}{self._name}{_path(first['loc'])}: {first['msg']}"

    def __eq__(self, other: object) -> bool:
        return self.__reduce__() == other.__reduce__() if isinstance(other, PydanticCodec) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return codec_again, (PydanticCodec, self._type, self._max_depth, self._name)

    def __repr__(self) -> str:
        depth = "" if self._max_depth == 64 else f", max_depth={self._max_depth}"
        return f"PydanticCodec({self._label}{depth})"


_Class = type


@final
class PydanticArgument:
    """A codec for one value among others that are CBOR: a map of what :class:`PydanticCodec` makes.

    Args:
      type: the type of the values.
      name: the name of a value in errors.
    """

    def __init__(self, type: Any, name: str) -> None:
        self._models = PydanticCodec(type, name=name)
        self._plain = CborCodec(name=name)
        self._name = name

    def encode(self, value: Any) -> bytes:
        """Encode a value.

        Raises:
          EncodeError: it is not of the type, or would not come back equal.
        """
        return self._plain.encode(json.loads(self._models.encode(value)))

    def from_plain(self, plain: Any) -> Any:
        """Make a value of the type from its plain form.

        Raises:
          DecodeError: it is no value of the type.
        """
        try:
            payload = json.dumps(plain).encode()
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{self._name} cannot be decoded: it has a value that JSON does not have") from error
        return self._models.decode(payload)


def _path(steps: Iterable[Any]) -> str:
    return "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" if step.isidentifier() else "[...]" for step in steps
    )


def _cause_of(error: Any) -> BaseException | None:
    """Return the error that the user's own validator raised; None if there is none."""
    cause = error.errors(include_url=False, include_input=False)[0].get("ctx", {}).get("error")
    return cause if isinstance(cause, BaseException) else None


def _pydantic_for(user: str) -> Any:
    try:
        import pydantic
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{user} needs pydantic, which is not installed; it comes with trio_tasks[pydantic]", name="pydantic"
        ) from error
    return pydantic
