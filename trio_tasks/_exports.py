"""Public things say where they are imported from, not where they happen to be written: ``trio_tasks.Worker``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def rename(module: str, namespace: Mapping[str, Any]) -> None:
    """Make the public classes and functions in ``namespace`` belong to ``module``, so that tracebacks, reprs and
    documentation name them as users do. The same is done in trio, for the same reason."""
    for name, each in namespace.items():
        home = getattr(each, "__module__", None)
        if not name.startswith("_") and isinstance(home, str) and "._" in home and home.startswith(f"{__package__}."):
            each.__module__ = module


def part_of(name: str) -> Callable[[C], C]:
    """Give a private base class, and its methods, the name of the public class that it is a part of.

    Users meet the name in errors (``DurableStorage.cancel() got an unexpected keyword argument``), and in `help()`.
    """

    def named(cls: C) -> C:
        for each in vars(cls).values():
            function = getattr(each, "__func__", getattr(each, "fget", each))
            if isinstance(function, FunctionType) and function.__qualname__.startswith(f"{cls.__name__}."):
                function.__qualname__ = f"{name}.{function.__name__}"
        cls.__name__ = cls.__qualname__ = name
        cls.__module__ = __package__ or ""
        return cls

    return named
