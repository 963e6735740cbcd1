"""The public async API, found by looking at the classes."""

from __future__ import annotations

import inspect
from typing import Any

import trio
import trio_tasks
import trio_tasks.layers
import trio_tasks.testing
from trio_tasks import CustomBackend, DurableStorage, MemoryStorage, Pipe
from trio_tasks._backends.channel import NowaitChannelBackend

ELSEWHERE = {"__aenter__", "__aexit__", "aclose", "feed"}
"""Verbs of backends that are cut in ``test_opening.py``."""
SIMULATED = {
    "Simulation": "lives inside a seeded run, which a cut run is already",
    "FaultyBackend": "loses and repeats on purpose, so nothing of the sort holds for it",
}
"""Public classes for which nothing is promised about cancellation, and why."""


def is_async(function: Any) -> bool:
    """Return True if a call returns something to await, to iterate or to enter asynchronously."""
    function = getattr(function, "__wrapped__", function)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def verbs_of(cls: type[Any]) -> list[str]:
    """Return the public async methods of a class, inherited and forwarded ones included."""
    found = set[str]()
    for each in cls.__mro__:
        for name, value in vars(each).items():
            is_public = not name.startswith("_") or name.startswith("__")
            if is_public and is_async(getattr(value, "__func__", value)):
                found.add(name)
    return sorted(found)


def public_classes() -> dict[str, type[Any]]:
    """Return the public classes that programs instantiate, by name; shared base classes are left out."""
    modules = (trio_tasks, trio_tasks.layers, trio_tasks.testing)
    classes = {name: getattr(module, name) for module in modules for name in dir(module) if not name.startswith("_")}
    return {
        name: each
        for name, each in classes.items()
        if isinstance(each, type) and each is not DurableStorage and not inspect.isabstract(each) and verbs_of(each)
    }


def public_functions() -> list[str]:
    """Return the public async functions, by name."""
    modules = (trio_tasks, trio_tasks.layers, trio_tasks.testing)
    return [name for module in modules for name, each in vars(module).items() if name[0] != "_" and is_async(each)]


def kinds_of_backends() -> dict[str, type[Any]]:
    """Return the class of each backend that ``_backends.py`` opens."""
    _, receive = trio.open_memory_channel[Any](0)
    return {
        "memory": trio_tasks.MemoryStorage,
        "encoded": trio_tasks.MemoryStorage,
        "file": trio_tasks.FileStorage,
        "sqlite": trio_tasks.SqliteStorage,
        "shared": trio_tasks.FileStorage,
        "pipe": type(Pipe(receive, MemoryStorage[Any]())),
        "custom": trio_tasks.CustomBackend,
        "keeping": type(CustomBackend[Any](receive=receive.receive)),
        "channel": NowaitChannelBackend,
        "scripted": trio_tasks.testing.ScriptedBackend,
    }
