"""Wrapper classes that have the capabilities of the wrapped backend, so that ``isinstance`` gives the same answer for
both.

The list of capabilities is derived from the contracts, so a new interface there is known here without being named.
"""

from __future__ import annotations

from functools import cache
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._contracts.backend import INTERFACES
from .._contracts.sink import TaskSink

if TYPE_CHECKING:
    from collections.abc import Callable

B = TypeVar("B")


CAPABILITIES: tuple[type, ...] = (TaskSink, *INTERFACES)
"""The interfaces that a backend may implement beside :class:`Backend`."""


def capabilities_of(backend: object) -> tuple[type, ...]:
    """Return the interfaces that this backend implements, in the order of :data:`CAPABILITIES`."""
    return tuple(each for each in CAPABILITIES if isinstance(backend, each))


def verbs_of(interface: type) -> frozenset[str]:
    """Return the names of the methods that an interface adds, those with a default implementation included."""
    return frozenset(name for name, each in vars(interface).items() if callable(each) and not name.startswith("_"))


def mirroring(
    wrapper: type[B],
    backend: object,
    make_method: Callable[[str], Callable[..., Any]] | None = None,
    *,
    without: tuple[type, ...] = (),
) -> type[B]:
    """Make a subclass of the wrapper class that has the capabilities of this backend.

    The verbs that are missing are made by ``make_method``. A verb with a default implementation is made only if the
    backend overrides it. Whatever the wrapper defines itself stays as it is.

    Args:
      wrapper: a subclass of :class:`Backend`.
      backend: the backend that will be wrapped.
      make_method: a function that returns the method of this name; by default an async one that awaits
          ``self.pass_on(verb, *args, **kwargs)``, or, for a verb that is not async, one that returns
          ``self.pass_through(verb, *args, **kwargs)``.
      without: the capabilities that are left out.
    """
    interfaces = tuple(each for each in capabilities_of(backend) if each not in without)
    verbs = frozenset(
        verb
        for interface in interfaces
        for verb in verbs_of(interface)
        if not hasattr(wrapper, verb) and _is_overridden(backend, interface, verb)
    )
    return cast("type[B]", _mirror(cast("type", wrapper), interfaces, verbs, make_method or _pass_on))


def _is_overridden(backend: object, interface: type, verb: str) -> bool:
    return getattr(type(backend), verb, None) is not getattr(interface, verb)


@cache
def _mirror(
    wrapper: type, interfaces: tuple[type, ...], verbs: frozenset[str], make_method: Callable[[str], Callable[..., Any]]
) -> type:
    body: dict[str, Any] = {"__module__": wrapper.__module__, "__doc__": wrapper.__doc__}
    for verb in verbs:
        maker = make_method
        if make_method is _pass_on and not any(_is_async(each, verb) for each in interfaces):
            maker = _pass_through
        method = body[verb] = maker(verb)
        method.__name__, method.__qualname__ = verb, f"{wrapper.__name__}.{verb}"
        method.__doc__ = next(getattr(each, verb).__doc__ for each in interfaces if verb in verbs_of(each))
    every = (wrapper, *interfaces)
    bases = [each for each in every if not any(issubclass(other, each) for other in every if other is not each)]
    return type(wrapper)(wrapper.__name__, (*bases,), body)


def _is_async(interface: type, verb: str) -> bool:
    return iscoroutinefunction(vars(interface).get(verb))


def _pass_through(verb: str) -> Callable[..., Any]:
    def pass_through(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.pass_through(verb, *args, **kwargs)

    return pass_through


def _pass_on(verb: str) -> Callable[..., Any]:
    async def pass_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.pass_on(verb, *args, **kwargs)

    return pass_on
