"""A wrapper that has exactly the interfaces of what it wraps, so that asking it with ``isinstance`` tells the truth."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._abc import (
    Cancel,
    Discard,
    Feeder,
    FetchById,
    ListQueues,
    ListTasks,
    ListWorkers,
    Metrics,
    NowaitBackend,
    Progress,
    RegisterWorker,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    StockedBackend,
    Update,
    Vacuum,
    WaitForCompletion,
)
from .._sink import TaskSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._abc import Backend

B = TypeVar("B")

_CAPABILITIES: tuple[type, ...] = (
    TaskSink,
    Feeder,
    FetchById,
    Update,
    Reschedule,
    Cancel,
    Progress,
    Discard,
    Vacuum,
    ResumeById,
    ResumeAbandoned,
    RegisterWorker,
    WaitForCompletion,
    ListTasks,
    ListWorkers,
    ListQueues,
    Metrics,
)
_VERBS_OF_A_SINK = frozenset({"push_task", "push_bulk"})
"""All others follow from the first; a bulk may be more than one after the other."""


def shaped_like(wrapper: type[B], backend: Backend[Any], *, can_settle_nowait: bool = True) -> type[B]:
    """The wrapper class, with the interfaces of this backend: each of their verbs becomes a call of
    ``wrapper.pass_on(verb, *args, **kwargs)``. What the wrapper has itself stays as it is.

    Args:
      wrapper: a backend.
      backend: what it will wrap.
      can_settle_nowait: whether the result may be a ``NowaitBackend`` if the backend is.
    """
    shape: list[type] = [each for each in _CAPABILITIES if isinstance(backend, each)]
    if isinstance(backend, NowaitBackend) and can_settle_nowait:
        shape.insert(0, NowaitBackend)
    elif isinstance(backend, StockedBackend):
        shape.insert(0, StockedBackend)
    return cast("type[B]", _class_of(cast("type", wrapper), tuple(shape)))


@cache
def _class_of(wrapper: type, interfaces: tuple[type, ...]) -> type:
    namespace: dict[str, Any] = {"__module__": wrapper.__module__, "__doc__": wrapper.__doc__}
    for interface in interfaces:
        abstract: Iterable[str] = getattr(interface, "__abstractmethods__", ())
        for verb in frozenset(abstract) | (_VERBS_OF_A_SINK if interface is TaskSink else frozenset[str]()):
            if not hasattr(wrapper, verb):
                namespace[verb] = _passing_on(verb)
    return type(wrapper)(wrapper.__name__, (wrapper, *interfaces), namespace)


def _passing_on(verb: str) -> Callable[..., Any]:
    async def pass_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.pass_on(verb, *args, **kwargs)

    pass_on.__name__ = pass_on.__qualname__ = verb
    return pass_on
