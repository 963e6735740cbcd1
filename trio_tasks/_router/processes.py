"""Functions in processes: a pool of them for a run, and the adapter from a function to an attempt in one."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from multiprocessing import process
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, final

import trio

from .._concurrency.threads import avoids_processes
from .._handlers.adapter import attempt_by
from .._handlers.annotations import class_of, without_none
from .._handlers.parameters import comes_to, not_a_task, parameter_text
from .._logging import catch_errors, line_of, log
from .._tasks.errors import AbortError, ProcessDiedError
from .._tasks.extensions import Metadata
from .._tasks.outcome import Status
from .._tasks.task import Attempt
from .._tasks.task_id import TaskId
from . import child
from .child import FunctionPlace
from .portable_errors import thaw
from .resources import Resource

if TYPE_CHECKING:
    from .._contracts.layer import Handler
    from .._handlers.parameters import Fill, Plan, Routed
    from .._tasks.task import Task

_IDLE = 60.0
"""Seconds after which a process that has nothing to do ends."""
_GRACE = 5.0
"""Seconds that idle processes have at the end of a run to end by themselves."""
_STARTS = 3
"""Processes that may end, one after the other, while they start for a call."""
_ENDED_AT_START = (-signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a process that was just starting: it does not ignore these signals yet, and has called nothing."""

_CROSSING: tuple[type, ...] = (Attempt, TaskId, Metadata, Status)
"""The classes of values that can be filled in and are sent to a process; and ``Firing``."""


def import_pool() -> Any:
    """Import trio-parallel.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module("trio_parallel")
    except ModuleNotFoundError as error:
        if error.name != "trio_parallel":
            raise
    message = "process=True needs trio-parallel, which is not installed: pip install 'trio_tasks[cpu]'"
    raise ModuleNotFoundError(message, name="trio_parallel")


@final
class ProcessPool:
    """The processes of a run. Each is started when a call needs one, and used again.

    Args:
      context: the worker context of trio-parallel.
      died: the error that it raises when a process has ended.
    """

    def __init__(self, context: Any, died: type[Exception]) -> None:
        self._context = context
        self._died = died
        self._limiter = trio.CapacityLimiter(_cores())

    async def call(self, place: FunctionPlace, arguments: Mapping[str, Any]) -> Any:
        """Call a function in a process; return its result, or raise its error.

        There are as many calls at once as cores; others wait. If it is cancelled, the process is killed, and has ended
        when this returns.

        Raises:
          ProcessDiedError: the process has ended.
          AbortError: an argument, or the result, cannot be pickled.
        """
        pickled = _pickled(place, arguments)
        answer = await self._send(place, pickled)
        starts = 1
        while isinstance(answer, ProcessDiedError):
            if answer.exit_code not in _ENDED_AT_START or starts == _STARTS:
                raise answer
            answer = await self._send(place, pickled)
            starts += 1
        return _result_of(place, answer)

    async def _send(self, place: FunctionPlace, pickled: bytes) -> child.CallEnd | ProcessDiedError:
        sent = _Sent(place, pickled, self._context)
        try:
            answer: child.CallEnd = await self._context.run_sync(
                child.call, place, sent, kill_on_cancel=True, limiter=self._limiter
            )
            return answer
        except self._died as error:
            return ProcessDiedError(str(place), error.args[-1].exitcode)  # noqa: ASYNC910  the call was a checkpoint

    def __repr__(self) -> str:
        return f"<ProcessPool for {self._limiter.total_tokens} processes>"


@final
class _Sent:
    """Pickled arguments on their way to a process, in which they are bytes.

    They are pickled once more for each process that they are sent to. If one ends before it has taken all of them,
    trio-parallel tries another one, without an end: an idle process may end so, since its time is over, but one that
    was started for this call cannot start.
    """

    def __init__(self, place: FunctionPlace, pickled: bytes, context: Any) -> None:
        self._place = place
        self._pickled = pickled
        self._context = context
        self._starts = 0

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        if not self._context.statistics().idle_workers:
            self._starts += 1
        if self._starts > _STARTS:
            raise ProcessDiedError(str(self._place), None)
        return bytes, (self._pickled,)


@asynccontextmanager
async def process_pool() -> AsyncGenerator[ProcessPool, None]:
    """Open the pool of a run.

    Raises:
      RuntimeError: this is a process that a pool has started, which runs the program a second time.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a process that was started for a function with process=True imports the program, which runs its workers "
            "then: put that under `if __name__ == '__main__':`"
        )
    if avoids_processes():
        yield ProcessPool(None, RuntimeError)
        return  # noqa: ASYNC910  there is nothing to close
    trio_parallel = import_pool()
    died = trio_parallel.BrokenWorkerError
    processes = trio_parallel.open_worker_context(idle_timeout=_IDLE, init=child.prepare, grace_period=_GRACE)
    context = await processes.__aenter__()
    try:
        yield ProcessPool(context, died)
    finally:
        try:
            await processes.__aexit__(None, None, None)  # noqa: ASYNC102  it shields itself, within bounds
        except died as error:  # an idle one was killed meanwhile, or had to be now: no attempt depends on it
            log.warning("processes of functions with process=True have not ended by themselves: %s", line_of(error))


def in_process(plan: Plan, place: FunctionPlace, pool_of: Fill) -> Handler[Any, Any]:
    """Turn the function of a plan into a handler that calls it in a process; or as other functions are called, where
    processes are avoided.
    """
    in_place = attempt_by(plan)

    async def attempt(task: Task[Any]) -> Any:
        if avoids_processes():
            return await in_place(task)
        values = await plan.fill_and_extract(task)
        return await pool_of(task).call(place, {**task.args.arguments, **values})

    return attempt


def place_of(function: Callable[..., Any], routed: Routed) -> FunctionPlace:
    """Return the place of a function that is to run in a process.

    Raises:
      HandlerSignatureError: it cannot; the message says why.
    """

    def refuse(why: str) -> NoReturn:
        raise not_a_task(function, why)

    if comes_to(inspect.iscoroutinefunction, function):
        refuse("it is async, and process=True is for sync functions: a process has no trio")
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not (type(module) is str and type(name) is str) or isinstance(function, MethodType) or "<" in name:
        refuse("process=True is for a function at the top level of a module, where a process finds it by its name")
    from .._schedules.schedule import Firing  # few programs have processes and schedules

    for each in routed.injected:
        parameter = routed.annotations.parameters[each]
        kind: Any = None
        with catch_errors():  # evaluating an annotation may raise anything; that is refused later
            kind = class_of(without_none(routed.annotations.resolve(parameter))[0])
        if kind is not None and kind not in (*_CROSSING, Firing):
            refuse(
                f"its parameter '{parameter_text(parameter)}' stays in the process of the worker: with process=True, "
                "Attempt, TaskId, Metadata, Status and Firing can be filled in"
            )
    return FunctionPlace(module, name)


def check_place(function: Callable[..., Any], place: FunctionPlace) -> None:
    """Raise :class:`HandlerSignatureError` if a process would find another function, or none."""
    main = sys.modules["__main__"]
    if place.module == "__main__" and getattr(main, "__spec__", None) is None and not hasattr(main, "__file__"):
        raise not_a_task(
            function, "it was defined in a session, and a process can only import modules: put it in a file"
        )
    with catch_errors():
        if place.find() is function:
            return
    raise not_a_task(
        function,
        f"a process that imports {place.module} does not find it as {place.name}: with process=True, it must keep its "
        "name at the top level of its module",
    )


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pickled(place: FunctionPlace, arguments: Mapping[str, Any]) -> bytes:
    with catch_errors():
        return pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL)
    for name, value in arguments.items():
        with catch_errors() as caught:
            pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if caught.error is not None:
            why = f"the argument {name!r} of {place} cannot be sent to a process: {line_of(caught.error)}"
            raise AbortError(TypeError(why)) from caught.error
    raise AbortError(TypeError(f"the arguments of {place} cannot be sent to a process"))


def _result_of(place: FunctionPlace, answer: child.CallEnd) -> Any:
    if answer.error is not None:
        raise thaw(answer.error)
    assert answer.result is not None
    with catch_errors() as caught:
        return pickle.loads(answer.result)
    why = f"the result of {place} cannot be read: {line_of(caught.error)}" if caught.error is not None else ""
    raise AbortError(TypeError(why)) from caught.error


PROCESSES = Resource(process_pool)
"""The pool, as a resource of the functions that need it."""
