"""Values that travel with a task beside its args: typed values that stay in this process, and metadata that is
stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast, final

from .._checks import check_name
from .._printing import quoted, value_shown

T = TypeVar("T")


@final
class Extensions:
    """Values that stay in this process and are never stored: at most one for each class, found by its class.

    >>> extensions = Extensions()
    >>> extensions.insert(3.5)
    >>> extensions[float]
    3.5

    A value is found under its own class and under every base of it; its own class comes first.
    """

    __slots__ = ("_values",)

    def __init__(self, *values: object) -> None:
        self._values: dict[type, object] = {}
        for value in values:
            self.insert(value)

    def insert(self, value: object) -> None:
        """Keep ``value``; it replaces an earlier value of the same class."""
        self._values[type(value)] = value

    def get(self, kind: type[T]) -> T | None:
        """The value of this type, or None."""
        if kind in self._values:
            return cast("T", self._values[kind])
        return next((value for value in self._values.values() if isinstance(value, kind)), None)

    def __getitem__(self, kind: type[T]) -> T:
        if not isinstance(kind, type):
            raise TypeError(f"extensions[...] takes a class, not {quoted(kind)}")
        if kind not in self:
            held = ", ".join(each.__qualname__ for each in self._values) or "nothing"
            raise KeyError(f"no {kind.__qualname__} among these extensions, which hold {held}")
        return cast("T", self.get(kind))

    def __contains__(self, kind: type) -> bool:
        return kind in self._values or any(isinstance(value, kind) for value in self._values.values())

    def __iter__(self) -> Iterator[object]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Extensions) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # more may be inserted

    def __copy__(self) -> Extensions:
        return Extensions(*self)

    def __repr__(self) -> str:
        return f"Extensions({', '.join(map(repr, self._values.values()))})"


@final
class Metadata(Mapping[str, Any]):
    """Values that are stored with a task, by name; they never change. Plain data only, if they are to be stored."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        self._values: dict[str, Any] = {**(values or {}), **more}
        for name in self._values:
            if not isinstance(name, str):
                raise TypeError(f"names in metadata must be strings, not {quoted(name)}")
            if name:
                check_name(name, "a name in metadata")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name!r}: {value_shown(value)}" for name, value in self._values.items())
        return f"Metadata({{{shown}}})"


NO_METADATA = Metadata()
