"""The call of a function with a name: what is pushed."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, final

from .._checks import check_count, check_name, check_text
from .._printing import escaped, value_shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import TypeVar

    from .errors import AbortError

    R_co = TypeVar("R_co", covariant=True, default=Any)  # so that a bare Call is one of any result
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

_set = object.__setattr__


@final
class Call(Generic[R_co]):
    """A call of a function of a :class:`Router`, with its arguments: the value that is pushed. It never changes.

    ``fn.bind(...)`` makes one, and checks the arguments. Two calls are equal if name, version and arguments are.

    Args:
      name: the name of the function.
      args: the arguments, by the names of the parameters.
      version: the version of the function that they are for.
      options: the options of the task, those of ``push``. A keyword at the push goes before them.
    """

    __slots__ = ("arguments", "builder", "filled", "name", "options", "problem", "version")

    name: str
    """The name of the function."""
    version: int
    """The version of the function that the arguments are for."""
    options: Mapping[str, Any]
    """The options of the task."""
    arguments: dict[str, Any]
    """The dict behind :attr:`args`, for the call of the function."""
    problem: AbortError | str | None
    """Why no function here can be called with it, for a call that was read from a storage; None if one can."""
    builder: Any
    """A builder with the options, the name of the task among them, but for :attr:`filled`; None if none was made."""
    filled: Mapping[str, str] | None
    """The options for which the function has templates, filled in by the arguments; None if there are none."""

    def __init__(
        self, name: str, args: Mapping[str, Any], version: int = 1, options: Mapping[str, Any] | None = None
    ) -> None:
        check_name(name, "the name of a function")
        for each in args:
            check_text(each, "the name of an argument")
        self._fill(name, dict(args), check_count(version, "version"), MappingProxyType(dict(options or {})))

    @classmethod
    def of(cls, *fields: Any) -> Call[Any]:
        """Make a call of fields that were checked: see :func:`make_call`."""
        call: Call[Any] = cls.__new__(cls)
        call._fill(*fields)
        return call

    def _fill(
        self,
        name: str,
        args: dict[str, Any],
        version: int,
        options: Mapping[str, Any],
        builder: Any = None,
        filled: Mapping[str, str] | None = None,
        problem: AbortError | str | None = None,
    ) -> None:
        _set(self, "name", name)
        _set(self, "arguments", args)
        _set(self, "version", version)
        _set(self, "options", options)
        _set(self, "builder", builder)
        _set(self, "filled", filled)
        _set(self, "problem", problem)

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments, by the names of the parameters."""
        return MappingProxyType(self.arguments)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Call never changes: {name} cannot be set; make another one with bind()")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Call never changes: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        return (self.name, self.version, self.arguments) == (other.name, other.version, other.arguments)

    def __hash__(self) -> int:
        return hash((self.name, self.version, frozenset(self.arguments)))  # the arguments themselves may have no hash

    def __reduce__(self) -> tuple[Any, ...]:
        return _call_again, (self.name, self.arguments, self.version, dict(self.options), self.problem)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value_shown(value)}" for name, value in self.arguments.items())
        return f"<Call {escaped(self.name)}({shown})>"


def make_call(
    name: str,
    args: dict[str, Any],
    version: int,
    options: Mapping[str, Any] = MappingProxyType({}),
    builder: Any = None,
    filled: Mapping[str, str] | None = None,
    problem: AbortError | str | None = None,
) -> Call[Any]:
    """Make a call of parts that were checked.

    Args:
      name: the name of the function.
      args: the arguments, which are not copied.
      version: the version of the function that they are for.
      options: the options of the task.
      builder: the same options, the name of the task among them, but for ``filled``.
      filled: the options that are not the builder's.
      problem: why no function can be called with it.
    """
    return Call.of(name, args, version, options, builder, filled, problem)


def _call_again(
    name: str, args: dict[str, Any], version: int, options: dict[str, Any], problem: AbortError | str | None
) -> Call[Any]:
    return make_call(name, args, version, MappingProxyType(options), problem=problem)
