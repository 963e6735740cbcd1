"""The handler of a router's tasks for one worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union, final

from .._concurrency.threads import avoids_processes
from .._contracts.layer import Handler
from .._handlers.adapter import attempt_by
from .._handlers.annotations import args_differ
from .._handlers.parameters import HandlerSignatureError, Plan, not_a_task
from .._logging import log
from .._printing import escaped, quoted
from .._tasks.call import Call
from .._tasks.errors import AbortError, SuspendError
from .._tasks.task import Task
from .function import TaskFunction
from .resources import Resource, fits, opened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._handlers.parameters import Fill
    from .._tasks.retry import RetryPolicy
    from .child import FunctionPlace
    from .table import FunctionTable

Unknown = Union[Literal["suspend", "fail"], Callable[[Call[Any]], Awaitable[object]]]  # noqa: UP007  read on 3.10

_PUT_OFF = 5.0
"""Seconds for which a task is put back the first time that no function here can run it; it doubles each time,"""
_PUT_OFF_AT_MOST = 300.0
"""up to this."""


@final
class Routes:
    """The functions of a router, with the data of one worker.

    Args:
      table: the functions and resources; more may be added to it.
      unknown: as for the router.
      data: the values that the worker was given.
      args_type: the type of the args, as far as it is known.
      queues: the queues whose functions must all be able to run; None: all of them. A function of another queue that
          lacks data, or would need a resource that no function of these queues needs, is left to other workers.
    """

    def __init__(
        self,
        table: FunctionTable,
        unknown: Unknown,
        data: Sequence[object],
        args_type: Any,
        queues: Collection[str] | None = None,
    ) -> None:
        if args_differ(Call, args_type):
            raise HandlerSignatureError(
                f"a Router handles Calls, and the args are {args_type.__qualname__} here: give the storage the type "
                "Call and codec=, the router"
            )
        self.data = data
        """The values that the worker was given."""
        self._table = table
        self._unknown: Unknown = unknown
        self.needed: dict[type, Resource] = {}
        """The resources that the functions need, in the order in which they were defined."""
        self._attempts: dict[str, tuple[int, Handler[Any, Any]]] = {}  # by name, each with its version
        each_once = {each.name: each for each in table.functions.values()}.values()
        must = [each for each in each_once if queues is None or each.queue in queues]
        for function in must:
            self._add(function, self._find)
        self._add_needs()
        for function in each_once:
            if function not in must:
                self._add_if_possible(function)

    def open_resources(self) -> AbstractAsyncContextManager[Mapping[type, Any]]:
        """Open the resources that the functions need."""
        return opened(self.needed.values(), self.data)

    def __call__(self, task: Task[Any]) -> Awaitable[Any]:
        """Run the function of the task."""
        call = task.args
        if call.__class__ is Call and call.problem is None:
            found = self._attempts.get(call.name)
            if found is not None and found[0] == call.version:
                return found[1](task)
        return self._run_otherwise(task, call)

    # Made once

    def _add(self, function: TaskFunction[..., Any, Any], find: Callable[[tuple[type[Any], ...]], Fill | None]) -> None:
        plan = Plan(function.__wrapped__, self.data, routed=function.routed, resource_for=find)
        attempt = attempt_by(plan) if function.place is None else self._in_process(plan, function.place, find)
        for layer in reversed(function.layers):
            attempt = partial(layer, attempt)
        self._set(function, attempt if function.retry is None else _with_policy(attempt, function.retry))

    def _in_process(
        self, plan: Plan, place: FunctionPlace, find: Callable[[tuple[type[Any], ...]], Fill | None]
    ) -> Handler[Any, Any]:
        from .processes import ProcessPool, check_place, import_pool, in_process  # most programs have none

        check_place(plan.handler, place)
        pool_of = find((ProcessPool,))
        if pool_of is None:
            raise not_a_task(plan.handler, "no function of the queues of this worker runs in a process, as it does")
        if not avoids_processes():
            import_pool()
        return in_process(plan, place, pool_of)

    def _set(self, function: TaskFunction[..., Any, Any], attempt: Handler[Any, Any]) -> None:
        self._attempts.update(dict.fromkeys((function.name, *function.aliases), (function.version, attempt)))

    def _find(self, classes: tuple[type[Any], ...]) -> Fill | None:
        """Find a resource of one of these classes; it is needed from now on."""
        for kind, resource in self._table.resources.items():
            if fits(kind, classes):
                self.needed[kind] = resource
                return resource.of
        return None

    def _find_needed(self, classes: tuple[type[Any], ...]) -> Fill | None:
        """Find a resource of one of these classes among those that are opened anyway."""
        return next((each.of for kind, each in self.needed.items() if fits(kind, classes)), None)

    def _add_needs(self) -> None:
        """Add the resources that other ones need, and put all of them in the order in which they were defined."""
        defined, needed = self._table.resources, {*self.needed}
        for kind in reversed([*defined]):
            if kind in needed:
                needed |= defined[kind].needs_of(self.data, defined)
        self.needed = {kind: each for kind, each in defined.items() if kind in needed}
        earlier: list[type] = []
        for kind, each in self.needed.items():
            each.check(self.data, earlier)
            earlier.append(kind)

    # Tasks that no function here can run

    def _run_otherwise(self, task: Task[Any], call: Any) -> Awaitable[Any]:
        if call.__class__ is not Call:
            raise AbortError(TypeError(f"a Router handles Calls, which bind() makes, not {type(call).__name__}"))
        problem, function = call.problem, self._table.functions.get(call.name)
        if isinstance(problem, AbortError):
            raise problem
        if problem is None and function is not None and function.name not in self._attempts:
            self._add_if_possible(function)  # it was defined after the worker was made
            return self(task)
        why = str(problem) if problem is not None else why_unknown(call.name, call.version, function)
        if self._unknown == "fail":
            raise AbortError(why)
        if self._unknown == "suspend":
            self._leave_to_others(why, task)
        return self._unknown(call)

    def _add_if_possible(self, function: TaskFunction[..., Any, Any]) -> None:
        """Add a function with what there is anyway; if that is not enough, leave its tasks to other workers."""
        try:
            self._add(function, self._find_needed)
        except HandlerSignatureError as error:
            self._set(function, partial(self._leave_to_others, str(error)))

    def _leave_to_others(self, why: str, task: Task[Any]) -> NoReturn:
        """Suspend a task that this worker cannot run, for twice as long as the last time."""
        extensions = task.parts.extensions
        last = extensions.get(_PutOff)
        if last is None:
            log.warning("task %s is put back for a worker that can run it: %s", escaped(task.parts.id), why)
        delay = _PUT_OFF if last is None else min(2 * last.delay, _PUT_OFF_AT_MOST)
        extensions.insert(_PutOff(delay))
        raise SuspendError(delay, f"no function for it here: {why}")


@final
class _PutOff:
    """The seconds for which a task was put back last."""

    __slots__ = ("delay",)

    def __init__(self, delay: float) -> None:
        self.delay = delay


def _with_policy(attempt: Handler[Any, Any], policy: RetryPolicy) -> Handler[Any, Any]:
    def attempt_under_policy(task: Task[Any]) -> Awaitable[Any]:
        task.parts.policy = policy
        return attempt(task)

    return attempt_under_policy


def why_unknown(name: str, version: int, function: TaskFunction[..., Any, Any] | None) -> str:
    """Say why tasks of this name and version cannot be run."""
    if function is None:
        return f"this program has no function for tasks of the name {quoted(name)}"
    return f"{name} has version {function.version} in this program, which cannot read version {version}"
