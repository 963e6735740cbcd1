"""The adapter from a plain typed function to a handler of whole tasks.

The first parameter is the args, or the whole task if it is annotated ``Task[...]``. Each further one is
filled in by its annotation. Everything is decided beforehand, so an attempt pays only for what its handler
asked for: one that takes the whole task is called as it is, and one that takes its args alone by a lambda.
"""

from __future__ import annotations

import contextvars
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, final

import trio

from .._checks import check_several
from .._concurrency.threads import call_in_contexts, pause_instead
from .._contracts.layer import Handler
from .._printing import quoted
from .._tasks.task import Task
from .parameters import (
    Data as Data,
    HandlerSignatureError as HandlerSignatureError,
    Plan,
    comes_to,
    handler_name as handler_name,
    not_a_handler,
)

Prepared = Callable[[Task[Any], "AsyncExitStack | None"], Awaitable[Any]]
"""An attempt, and where what its extractors open is to be closed."""


def adapt(handler: Callable[..., Any], *, data: Iterable[object] = (), args_type: Any = Any) -> Handler[Any, Any]:
    """Turn a user's function into an ``async (Task[A]) -> R``, with all its parameters filled in.

    Args:
      handler: an async function, or a sync one, which runs in a thread; a method, partial, callable object.
      data: the values for parameters that are annotated ``Data[...]``, found by their type. A value of that
          type among a task's own extensions goes before them.
      args_type: the type of the args, as far as it is known; a first parameter that cannot be of it is refused.

    Raises:
      HandlerSignatureError: a parameter cannot be filled in, or this is no function at all.

    What extractors open is closed when the attempt ends, before it is settled.

    If an attempt is cancelled, so are its extractors, its async handler and the children in its nursery. A
    thread is not: the attempt ends when the thread does, which may end early by asking, now and then,
    ``trio.from_thread.check_cancelled()``.
    """
    check_function(handler)
    return attempt_by(Plan(handler, check_several(data, "data", "values, such as [mailer]"), args_type))


def attempt_by(plan: Plan) -> Handler[Any, Any]:
    """Turn the function of a plan into a handler of whole tasks."""
    handler = plan.handler
    if not comes_to(inspect.iscoroutinefunction, handler):
        return _closing(plan, _in_thread(plan))
    if plan.extractors or plan.nurseries:
        return _closing(plan, _prepared(plan))
    if plan.fills:
        return lambda task: plan.call(task, plan.fill(task))
    if plan.is_routed:
        return lambda task: handler(**task.args.arguments)
    return handler if plan.wants_task else lambda task: handler(task.args)


def _closing(plan: Plan, attempt: Prepared) -> Handler[Any, Any]:
    """Run the attempt, and then close what its extractors have opened, before the outcome is settled.

    Extractors see the error of the attempt, but cannot suppress it.
    """
    if not plan.has_contexts:
        return lambda task: attempt(task, None)

    async def attempt_and_close(task: Task[Any]) -> Any:
        raised = _Raised()
        result = None
        async with AsyncExitStack() as stack:
            with raised:
                result = await attempt(task, stack)
        if raised.error is not None:
            raise raised.error
        return result

    return attempt_and_close


@final
class _Raised:
    """A context manager that remembers the exception raised in its block, and lets it pass."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.error = error


def _prepared(plan: Plan) -> Prepared:
    """Make the attempt of an async handler that needs an extractor or a nursery.

    A handler that is cut short because its own nursery was cancelled has the result None.
    """

    async def attempt(task: Task[Any], stack: AsyncExitStack | None) -> Any:
        values = await plan.fill_and_extract(task, stack)
        if not plan.nurseries:
            return await plan.call(task, values)
        result = None
        async with trio.open_nursery() as nursery:
            values.update(dict.fromkeys(plan.nurseries, nursery))
            result = await plan.call(task, values)
        return result  # noqa: RET504  not from inside: there, it would hide that the children come first

    return attempt


def _in_thread(plan: Plan) -> Prepared:
    """Make the attempt of a sync handler, which runs in a thread. A slot has one thread at a time, so there are never
    more of them than slots.

    If it returns an awaitable, as a lambda around an async function does, that is awaited in trio.
    """
    for name in plan.nurseries:
        plan.refuse(name, "asks for a nursery, which the thread of a sync handler cannot use: make the handler async")
    limiter = trio.CapacityLimiter(math.inf)

    async def attempt(task: Task[Any], stack: AsyncExitStack | None) -> Any:
        values = await plan.fill_and_extract(task, stack)
        pause = pause_instead()
        if pause is None:
            # In a list, because trio refuses a thread that returns a coroutine.
            (result,) = await trio.to_thread.run_sync(
                lambda: [call_in_contexts(plan.call, task, values)], abandon_on_cancel=False, limiter=limiter
            )
        else:
            await pause()
            result = contextvars.copy_context().run(call_in_contexts, plan.call, task, values)
        return await result if inspect.isawaitable(result) else result

    return attempt


def check_function(handler: object) -> None:
    """Raise if this cannot be a handler, whatever its parameters are."""
    if inspect.iscoroutine(handler):
        handler.close()  # or Python would warn that it was never awaited
        raise not_a_handler(handler, "it is a coroutine: give the function itself, without calling it")
    if isinstance(handler, type):
        raise not_a_handler(handler, "it is a class: give a function, a method, or an object with __call__")
    if not callable(handler):
        raise HandlerSignatureError(f"a handler must be a function from args to a result, not {quoted(handler)}")
    if comes_to(inspect.isasyncgenfunction, handler) or comes_to(inspect.isgeneratorfunction, handler):
        raise not_a_handler(
            handler, "it is a generator function, which returns no result: give a function that returns one"
        )
