"""Tests that every parameter which is True or False, of all that is public, refuses other values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_tasks
from trio_tasks import FileStorage, MemoryStorage, Pipe, SqliteStorage, Worker, abc, layers, observe, pipe_to, testing
from trio_tasks._contracts.backend import INTERFACES

from tests._storages import STORAGES

PUBLIC = (trio_tasks, abc, layers, observe, testing)
NOT_BY_USERS = {
    "Page.__init__": "is_partial",
    "UnsettledError.__init__": "permanent",
    "Redelivery.__init__": "twice",
    "SimulationFailed.__init__": "is_repeatable",
}
"""What the library makes, and those who write a backend."""


def functions() -> Iterator[tuple[str, Any]]:
    """All public functions and methods, by name."""
    for module in PUBLIC:
        for name in getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]:
            found = getattr(module, name)
            if not inspect.isclass(found):
                yield name, found
            elif found not in INTERFACES and not is_dataclass(found) and not issubclass(found, tuple):
                for method in dir(found):
                    if method == "__init__" or not method.startswith("_"):
                        static = inspect.getattr_static(found, method)
                        yield f"{name}.{method}", getattr(static, "__func__", static)


def flags() -> dict[str, set[str]]:
    """The parameters that are True or False, by the name of their function."""
    found: dict[str, set[str]] = {}
    for name, function in functions():
        with suppress(TypeError, ValueError):
            for parameter in inspect.signature(function).parameters.values():
                if parameter.annotation in (bool, "bool", "bool | None"):
                    found.setdefault(name, set()).add(parameter.name)
    return found


def source() -> Any:
    return trio.open_memory_channel[int](0)[1]


async def nothing(n: int) -> None: ...


def virtual_clock(value: Any) -> None:
    with testing.virtual_clock(autojump=value):
        pass


def make_page(value: Any) -> None:
    no_tasks: list[Any] = []
    abc.make_page(no_tasks, newest_first=value)


MAKING: dict[str, dict[str, Callable[[Any], object]]] = {
    "FileStorage.__init__": {
        "repair": lambda value: FileStorage("path", repair=value),
        "create": lambda value: FileStorage("path", create=value),
        "read_only": lambda value: FileStorage("path", read_only=value),
    },
    "SqliteStorage.__init__": {
        "join_existing": lambda value: SqliteStorage("path", join_existing=value),
        "create": lambda value: SqliteStorage("path", create=value),
        "read_only": lambda value: SqliteStorage("path", read_only=value),
        "allow_triggers": lambda value: SqliteStorage("path", allow_triggers=value),
    },
    "Pipe.__init__": {"close": lambda value: Pipe(source(), MemoryStorage[int](), close=value)},
    "pipe_to": {"close": lambda value: pipe_to(source(), MemoryStorage[int](), close=value)},
    "OpenTelemetry.__init__": {"parent": lambda value: observe.OpenTelemetry(parent=value)},
    "virtual_clock": {"autojump": virtual_clock},
    "make_page": {"newest_first": make_page},
    "seconds_to_deadline": {"inherits": lambda value: abc.seconds_to_deadline(trio_tasks.Task(1), inherits=value)},
}
VERBS: dict[str, Callable[[Any, Any], Any]] = {
    "cancel running": lambda storage, value: storage.cancel("unknown", running=value),
    "list_tasks newest_first": lambda storage, value: storage.list_tasks(newest_first=value),
    "list_tasks delayed": lambda storage, value: storage.list_tasks(delayed=value),
    "workers fresh": lambda storage, value: storage.workers(fresh=value),
}
"""The verbs, and a filter, which is an option of several."""
BAD: list[Any] = ["no", 1, 0, None, [False]]


def test_every_flag_is_tried() -> None:
    tried = {name: {*calls} for name, calls in MAKING.items()} | {"run_until_idle": {"delayed"}}
    for name in ("MemoryStorage", "SqliteStorage", "FileStorage", "DurableStorage", "Queues"):
        for each in VERBS:
            verb, flag = each.split()
            if flag != "delayed":  # it is an annotation of TaskFilters
                tried[f"{name}.{verb}"] = {flag}
    for name in ("LedgerCapabilities", "DurableCapabilities"):
        tried |= {f"{name}.cancel": {"running"}, f"{name}.list_tasks": {"newest_first"}}
    tried["DurableCapabilities.workers"] = {"fresh"}
    untried = {name: {flag} for name, flag in NOT_BY_USERS.items()}
    assert flags() == tried | untried


@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name, calls in MAKING.items() for flag in calls])
def test_a_flag_of_what_is_made_takes_bools_alone(name: str, flag: str) -> None:
    for value in BAD:
        with pytest.raises(TypeError, match=f"{flag} must be True or False, not "):
            MAKING[name][flag](value)
    MAKING[name][flag](False)


@pytest.mark.parametrize("call", VERBS)
@pytest.mark.parametrize("kind", STORAGES)
async def test_a_flag_of_a_verb_takes_bools_alone(kind: str, call: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage, trio_tasks.Router().open(MemoryStorage[Any]()) as queues:
        for value in BAD:
            if value is None and call == "list_tasks delayed":  # a filter that is not given
                continue
            for one in (storage, queues):
                with pytest.raises(TypeError, match=f"{call.split()[1]} must be True or False, not "):
                    await VERBS[call](one, value)
        await VERBS[call](storage, False)


async def test_run_until_idle_takes_bools_alone() -> None:
    storage = MemoryStorage[int]()
    for value in BAD:
        with pytest.raises(TypeError, match="delayed must be True or False, not "):
            await testing.run_until_idle(Worker("w", storage, nothing), delayed=value)
