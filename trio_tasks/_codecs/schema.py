"""The schema of a codec's type, which checks values and converts plain values back to the type."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, final, get_origin

from .errors import DecodeError, MismatchError, told
from .plain_values import LEAVES, check_untyped_value
from .round_trip import check_keys, compile_check

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASES: tuple[type, ...] = (str, int, float, bytes)
"""Their subclasses are stored as these."""

_NATIVE_KINDS = {"Bytes", "ByteArray", "MemoryView", "DateTime"}
_KEYS = {"Any", "Str", "Int", "Float", "Enum", "Literal", "UUID", "Date", "Time", "TimeDelta", "Decimal", "Union"}
"""The types of keys that come back, as msgspec calls them."""

_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$(?P<path>.*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"^Expected `(.*)`, got `(.*)`$", re.DOTALL)

_UNION_ADVICE = (
    ". The stored form would not tell the members of the union apart: make them msgspec Structs with tag=True, or use "
    "one dataclass with a field for each"
)


_PYDANTIC_ADVICE = ", which needs codec=PydanticCodec"


class PydanticTypeError(TypeError):
    """An error: a type is one of pydantic's, or has one in it, and another codec is for those."""


@final
class TypeSchema:
    """The type of a codec's values, analysed once.

    Args:
      type: the type of the values; ``Any`` for plain values.
      codec: the name of the codec's class, for errors.
      natives: classes that the format has a form of its own for; of others it has a text.

    Raises:
      TypeError: values of this type could not be told apart, or cannot be stored.
      ModuleNotFoundError: a type is given, other than that of a plain scalar, and msgspec is not installed.
    """

    __slots__ = (
        "_box",
        "_class",
        "_convert",
        "_is_exact",
        "_same",
        "direct",
        "has_datetimes",
        "is_any",
        "label",
        "msgspec",
        "to_plain",
        "type",
    )

    def __init__(self, type: Any, codec: str, natives: tuple[type, ...]) -> None:
        self.type = type
        self.is_any = type is Any
        self.label = label_of(type)
        self.direct: frozenset[Any] = LEAVES if self.is_any else LEAVES & {types.NoneType if type is None else type}
        is_plain = self.is_any or (bool(self.direct) and codec == "CborCodec")  # msgspec is not needed
        library: Any = _msgspec_for(f"{codec}({self.label})", required=not is_plain)
        self.msgspec: Any = library
        self.to_plain: Callable[[Any], Any] = _as_it_is
        self._class, self._is_exact = _class_of(type)
        self._box: Any = None
        self._same: Callable[[Any, Any], None] = _as_given
        self.has_datetimes = False
        if library is None:
            return
        self.to_plain = partial(library.to_builtins, enc_hook=plain_form, builtin_types=natives, str_keys=True)
        if not self.is_any:
            found, kinds = _check_type(library, type, f"{codec}({self.label})")
            # In JSON what is declared as Any comes back without datetimes.
            plainest = self.to_plain if codec == "CborCodec" else partial(self.to_plain, builtin_types=())
            self._same = compile_check(found, plainest)
            self.has_datetimes = "DateTime" in kinds
            # Leave out options that the type does not need: each costs a third of a microsecond.
            needed: dict[str, Any] = {"str_keys": True} if "Dict" in kinds else {}
            needed |= {"dec_hook": made_again} if "Custom" in kinds else {}
            needed |= {"builtin_types": natives} if kinds & _NATIVE_KINDS else {}
            self._convert: Callable[..., Any] = partial(library.convert, **needed)
            # msgspec caches its analysis of a type with a Struct alone; a list or a union it would analyse each time.
            self._box = library.defstruct("Box", [("value", type)], array_like=True)

    def from_plain(self, plain: Any) -> Any:
        """Convert a plain value back to the type.

        Raises:
          Exception: it does not fit; :meth:`mismatch_of` makes an error for the user of it.
        """
        if self._box is not None:
            return self._convert((plain,), self._box).value
        if not self.is_any and plain.__class__ not in self.direct:
            raise MismatchError(f"must be {self.label}, not {type(plain).__name__}", "")
        return plain

    def check(self, value: Any) -> None:
        """Raise if the class of a value is not that of the type.

        Raises:
          MismatchError: it is of another class.
        """
        wanted = self._class
        if wanted is None or value.__class__ is wanted:
            return
        if self._is_exact or not isinstance(value, wanted):
            raise MismatchError(f"must be {self.label}, not {type(value).__name__}", "")

    def check_back(self, value: Any, back: Any) -> None:
        """Raise if decoding does not return the value.

        Raises:
          MismatchError: the decoded value differs.
        """
        if value is not back:
            self._same(value, back)

    def check_plain(self, value: Any, plain: Any) -> None:
        """Raise if the plain form of a value loses more than the types of its parts.

        Raises:
          MismatchError: it loses more.
        """
        if plain != value and self.msgspec is not None:
            check_keys(value, self.to_plain)

    def mismatch_of(self, error: Exception, root: str = "[0]") -> MismatchError:
        """Make a :class:`MismatchError` of the error that a value caused; ``root`` is msgspec's name for the value."""
        if isinstance(error, MismatchError):
            return error
        found = _WHERE.match(str(error)) if self._is_mismatch(error) else None
        if found is None:
            return MismatchError(f"does not fit {self.label}: {told(error)}", "")
        path = (found["path"] or "").removeprefix(root)
        expected = _EXPECTED.match(found["what"])
        if found["what"].startswith(("Invalid enum value", "Invalid value")):  # msgspec quotes the value
            return MismatchError(f"must be one of the values that {'its type' if path else self.label} has", path)
        if expected is None:
            return MismatchError(f"does not fit: {found['what']}".replace("`", ""), path)
        wanted, given = (each.replace("null", "None") for each in expected.groups())
        if found["key"]:
            return MismatchError(f"has a key that must be {wanted}, not {given}", path)
        return MismatchError(f"must be {wanted if path else self.label}, not {given}", path)

    def undecodable(self, name: str, error: Exception, root: str = "[0]") -> DecodeError:
        """Turn the error that a payload caused into a :class:`DecodeError`."""
        if not self._is_mismatch(error):
            reason = error.__cause__ if isinstance(error.__cause__, MismatchError) else error  # cbor2 wraps our errors
            return DecodeError(
                f"{name} cannot be decoded: {reason if isinstance(reason, MismatchError) else told(error)}"
            )
        mismatch = self.mismatch_of(error, root)
        return DecodeError(f"the stored value is not of type {self.label}: {name}{mismatch.path} {mismatch}")

    def _is_mismatch(self, error: Exception) -> bool:
        return self.msgspec is not None and issubclass(type(error), self.msgspec.ValidationError)


def label_of(type: Any) -> str:
    """Return the name of a type as it is written in code."""
    name = type.__name__ if isinstance(type, _Class) and not get_origin(type) else repr(type)
    return re.sub(r"[\w.]+\.(?:<locals>\.)?(\w+)", r"\1", name)


_Class = type


def plain_form(value: Any) -> Any:
    """Return the plain form of a value of a class that msgspec does not know."""
    if isinstance(value, PurePath):
        return str(value)
    for base in _BASES:
        if isinstance(value, base):
            return _stripped(value)
    if hasattr(value, "model_dump_json"):
        return _plain_model(value)
    raise MismatchError(
        f"is of type {type(value).__name__}, which cannot be stored: use plain values, dataclasses, msgspec Structs, "
        "enums, dates and times, or a codec of your own"
    )


def _plain_model(model: Any) -> Any:
    """Return the plain form of a pydantic model.

    Raises:
      MismatchError: it would not come back equal, even by its own class.
    """
    try:
        payload = model.model_dump_json(by_alias=True, round_trip=True, warnings="error")
        is_same: bool = model.__class__.model_validate_json(payload) == model
    except Exception as error:  # leave out its text, which quotes values
        raise MismatchError(f"is no valid {type(model).__name__} ({type(error).__name__})") from None
    if is_same is not True:
        raise MismatchError(f"would not come back equal: decoding gives another {type(model).__name__}")
    return json.loads(payload)


def _stripped(value: Any) -> Any:
    return value.__getnewargs__()[0]  # the value as its builtin class: str, int, float or bytes


def made_again(kind: type, plain: Any) -> Any:
    """Make a value from the plain form that :func:`plain_form` gave."""
    if isinstance(plain, kind):
        return plain
    if isinstance(plain, str):
        return kind(plain)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(plain).__name__}`")


def _as_given(value: Any, back: Any) -> None:
    """Check nothing: without msgspec, typed values are plain scalars, which come back unchanged."""


def _as_it_is(value: Any) -> Any:
    check_untyped_value(value)
    return value


def _msgspec_for(user: str, *, required: bool) -> Any:
    try:
        import msgspec
    except ImportError as error:
        if not required:
            return None
        raise ModuleNotFoundError(
            f"{user} needs msgspec, which is not installed; it comes with trio_tasks[sqlite] and trio_tasks[file]",
            name="msgspec",
        ) from error
    return msgspec


def _class_of(type: Any) -> tuple[Any, bool]:
    """Return the class of a type's values, or None if there is no single one; and True if subclasses are refused.

    Instances of a subclass are refused where the fields that it adds would be lost.
    """
    kind = get_origin(type) or type
    if hasattr(kind, "__total__") and hasattr(kind, "__required_keys__"):  # a TypedDict, of typing_extensions too
        return dict, False
    if not isinstance(kind, _Class) or kind is types.UnionType or kind.__module__ == "typing":
        return None, False
    if kind is float:
        return (float, int), False
    has_fields = hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__struct_fields__")
    return kind, has_fields


def _check_type(msgspec: Any, type: Any, user: str) -> tuple[Any, set[str]]:
    """Raise TypeError if values of this type cannot be stored or distinguished.

    Returns:
      the type as msgspec describes it, and the kinds of values in it.
    """
    kinds: set[str] = set()
    inspect = import_module("msgspec.inspect")  # msgspec does not import it
    try:
        msgspec.json.Decoder(type, dec_hook=made_again)
        found: Any = inspect.type_info(type)
    except Exception as error:
        if hasattr(type, "__pydantic_validator__"):
            raise PydanticTypeError(f"{user} cannot be made: {error}{_PYDANTIC_ADVICE}") from error
        advice = _UNION_ADVICE if "union" in str(error) else ""
        raise TypeError(f"{user} cannot be made: {error}{advice}") from error
    for path, info in _infos(found, "", set()):
        kind = _kind(info)
        kinds.add(kind)
        if kind == "Custom" and hasattr(info.cls, "__pydantic_validator__"):
            raise PydanticTypeError(
                f"{user} cannot be made: {label_of(info.cls)}{_within(path)} is a pydantic type{_PYDANTIC_ADVICE}"
            )
        if kind == "Custom" and not issubclass(info.cls, PurePath):
            raise TypeError(
                f"{user} cannot be made: {label_of(info.cls)}{_within(path)} cannot be stored; use plain values, "
                "dataclasses, msgspec Structs, enums, dates and times, or a codec of your own"
            )
        if kind == "Dict" and _kind(info.key_type) not in _KEYS:
            raise TypeError(
                f"{user} cannot be made: a dict{_within(path)} has keys that cannot be stored; use text, numbers, "
                "enums, dates or UUIDs as keys, or a list of pairs"
            )
    return found, kinds


def _kind(info: object) -> str:
    return type(info).__name__.removesuffix("Type")


def _within(path: str) -> str:
    return f" (its {path[1:]})" if path else ""


def _infos(info: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """List a type and all types inside it, as msgspec describes them, each with its path."""
    if id(info) in seen:
        return
    seen.add(id(info))
    yield path, info
    for name in info.__struct_fields__:
        found: Any = getattr(info, name)
        parts: list[Any] = [*found] if found.__class__ is tuple else [found]
        for part in parts:
            if part.__class__.__module__ != "msgspec.inspect":  # a bound, a default, a class
                continue
            if _kind(part) == "Field":
                yield from _infos(part.type, f"{path}.{part.name}", seen)
            else:
                yield from _infos(part, path, seen)
