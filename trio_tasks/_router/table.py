"""The functions and resources of a router, by their names and types, and those of routers that it includes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, final

from .._handlers.parameters import handler_name
from .._printing import quoted
from .._tasks.call import Call
from .function import TaskFunction

if TYPE_CHECKING:
    from collections.abc import Collection

    from .._schedules.schedules import Definition
    from .resources import Resource


@final
class FunctionTable:
    """The functions of a router, and its resources."""

    def __init__(self) -> None:
        self.functions: dict[str, TaskFunction[..., Any, Any]] = {}
        """The functions, by their names and former names."""
        self.resources: dict[type, Resource] = {}
        """The resources by the class of the value, in the order in which they were defined."""
        self.schedules: dict[str, Definition] = {}
        """The schedules by their names."""
        self._includers: list[FunctionTable] = []

    def include(self, other: FunctionTable) -> None:
        """Add all of another table, also what is added to it later.

        Raises:
          ValueError: a name is taken, or the other table includes this one.
        """
        if other in self._all_includers():
            raise ValueError("a router cannot include itself, nor one that includes it")
        for name in other.schedules:
            self._check_schedule(name)
        self.add(list(other.functions.values()), list(other.resources.values()))
        for name, definition in other.schedules.items():
            self.add_schedule(name, definition)
        other._includers.append(self)

    def add_schedule(self, name: str, definition: Definition) -> None:
        """Add a schedule to this table and all that include it.

        Raises:
          ValueError: its name is taken.
        """
        self._check_schedule(name)
        for table in self._all_includers():
            table.schedules[name] = definition

    def _check_schedule(self, name: str) -> None:
        if any(name in table.schedules for table in self._all_includers()):
            raise ValueError(f"two schedules have the name {quoted(name)}")

    def _all_includers(self) -> list[FunctionTable]:
        """Return this table, and all that include it."""
        found: list[FunctionTable] = []
        to_do = [self]
        while to_do:
            each = to_do.pop()
            if each not in found:
                found.append(each)
                to_do += each._includers
        return found

    def add(self, functions: Collection[TaskFunction[..., Any, Any]], resources: Collection[Resource]) -> None:
        """Add these to this table and all that include it; to none if one of them refuses.

        Raises:
          ValueError: a name is taken, or there is a resource of the type.
        """
        tables = self._all_includers()
        for table in tables:
            for function in functions:
                table._check_free(function)
            for resource in resources:
                if table.resources.get(resource.kind, resource) is not resource:
                    other = table.resources[resource.kind]
                    raise ValueError(f"two resources are a {resource.kind.__qualname__}: {other!r} and {resource!r}")
        for table in tables:
            for function in functions:
                table.functions.update(dict.fromkeys((function.name, *function.aliases), function))
            table.resources.update((resource.kind, resource) for resource in resources)

    def _check_free(self, function: TaskFunction[..., Any, Any]) -> None:
        for name in (function.name, *function.aliases):
            other = self.functions.get(name, function)
            if other is not function:
                raise ValueError(f"two functions have the name {name!r}: {_place_of(other)} and {_place_of(function)}")
        if function.unique is None:
            return
        for other in self.functions.values():
            if other is not function and (other.queue, other.unique) == (function.queue, function.unique):
                raise ValueError(
                    f"{_place_of(other)} and {_place_of(function)} have the same unique={function.unique!r} in one "
                    "queue, so a task of one would stand for a task of the other: put a name into it, such as "
                    f"'{function.name} {function.unique}'"
                )

    def function_of(self, call: Call[Any]) -> TaskFunction[..., Any, Any]:
        """Return the function of a call.

        Raises:
          TypeError: it is no call.
          ValueError: there is no function of its name.
        """
        if not isinstance(call, Call):
            hint = f": write {call.name}.bind(...)" if isinstance(call, TaskFunction) else ", which bind() makes"
            raise TypeError(f"what is pushed must be a Call{hint}; not {quoted(call)}")
        function = self.functions.get(call.name)
        if function is None:
            raise ValueError(f"this router has no function {call.name!r}")
        return function

    @property
    def queues(self) -> list[str]:
        """The queues of the functions, in order; the default one if there is no function yet."""
        return sorted({each.queue for each in self.functions.values()}) or ["default"]


def _place_of(function: TaskFunction[..., Any, Any]) -> str:
    """Return the module and the name of a function, and the line where it begins."""
    wrapped: Any = function.__wrapped__
    module, name = getattr(wrapped, "__module__", None), handler_name(wrapped)
    code = getattr(inspect.unwrap(wrapped), "__code__", None)
    in_main = f"{module}.{name}" if module == "__main__" else name
    return in_main if code is None or " in line " in name else f"{in_main} in line {code.co_firstlineno}"
