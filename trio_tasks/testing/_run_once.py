"""A function that makes one attempt at a task, without a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from .._checks import check_count
from .._concurrency.virtual_time import epoch_clock
from .._contracts.deadlines import seconds_to_deadline
from .._tasks.task import Task, attempt_number
from ._scripted_backend import ScriptedBackend, is_task
from ._test_worker import TestWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Unpack

    from .._contracts.layer import Layer
    from .._tasks.outcome import Outcome
    from .._worker.options import AsyncHandler, P, SyncHandler, WholeTaskHandler, WorkerOptions

A = TypeVar("A")
R = TypeVar("R")


@overload
async def run_once(
    handler: WholeTaskHandler[A, R],
    args: A | Task[A],
    *,
    attempt: int | None = None,
    layers: Iterable[Layer[A, R]] = (),
    **options: Unpack[WorkerOptions],
) -> Outcome: ...
@overload
async def run_once(
    handler: AsyncHandler[A, P, R],
    args: A | Task[A],
    *,
    attempt: int | None = None,
    layers: Iterable[Layer[A, R]] = (),
    **options: Unpack[WorkerOptions],
) -> Outcome: ...
@overload
async def run_once(
    handler: SyncHandler[A, P, R],
    args: A | Task[A],
    *,
    attempt: int | None = None,
    layers: Iterable[Layer[A, R]] = (),
    **options: Unpack[WorkerOptions],
) -> Outcome: ...
async def run_once(
    handler: Callable[..., Any],
    args: Any,
    *,
    attempt: int | None = None,
    layers: Iterable[Layer[Any, Any]] = (),
    **options: Unpack[WorkerOptions],
) -> Outcome:
    """Make one attempt at a task, with all layers, and return its outcome. There is no backend: nothing is stored or
    retried.

    >>> await run_once(double, 21)
    Succeeded(result=<int>)
    >>> await run_once(fetch, Task.builder(url).timeout(5).build(), layers=[Log()], attempt=5)
    Failed(error=TooSlowError(...))

    Args:
      handler: the function to run, as for a worker.
      args: the handler's args; or a whole :class:`Task`, which is attempted at once whatever its delay, and stays as
          it is: the handler gets a copy.
      attempt: the number of this attempt, counted from 1; if not given, the one after the last that the task had.
      options: options of a worker: ``layers``, ``data``, ``retry``, ``on_event``, ``settle_timeout``.

    Raises:
      TypeError, ValueError: an argument is wrong; the message says which one, and what would be right.

    Errors of the handler are in the outcome, never raised. If it is cancelled, so is the attempt.
    """
    task = Task(args.args, args.parts.again(args.parts.attempt)) if is_task(args) else Task(args)
    if attempt is not None:
        task.parts.attempt = attempt_number(check_count(attempt, "attempt") - 1)
    left = seconds_to_deadline(task) if task.parts.deadline is None else None
    if left is not None:  # as if it were pushed now
        task.parts.deadline, task.parts.cancel_at = epoch_clock().read() + left, trio.current_time() + left
    worker = TestWorker(ScriptedBackend([task]), handler, layers=layers, **options)
    _, outcome = await worker.execute_next()
    return outcome
