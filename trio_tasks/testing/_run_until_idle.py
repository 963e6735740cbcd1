"""A function that runs a worker until it has nothing left to do."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

import trio
import trio.testing

from .._checks import check_flag, check_seconds
from .._concurrency.background import run_and_cancelling
from .._contracts.backend import ListTasks, Metrics, WaitForCompletion
from .._contracts.events import Idle
from .._contracts.sink import TaskSink
from .._tasks.errors import UnknownTaskError
from .._tasks.outcome import Status
from .._worker.worker import Worker

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from .._contracts.context import WorkerContext
    from .._contracts.events import Event
    from .._contracts.report import WorkerReport

_SOON = 0.01
"""Seconds after which a storage that has ready tasks is asked again."""


async def run_until_idle(worker: Worker[Any, Any], *, delayed: bool = False, cushion: float = 0.0) -> WorkerReport:
    """Run the worker until it has no running task and its backend gives none; then stop it gracefully.

    >>> await storage.push_bulk([1, 2, 3])
    >>> report = await run_until_idle(Worker("test", storage, double))
    >>> report.succeeded
    3

    The worker is idle when it emits :class:`trio_tasks.Idle` *and* every trio task of the program is blocked, as in
    :func:`trio.testing.wait_all_tasks_blocked`. So tasks that other trio tasks are about to push are still done. A
    storage is also asked for its counters, since one in a file looks for tasks in a thread: it must have none that is
    ready. If the backend ends first, so does the worker.

    Args:
      worker: the worker; it runs with its own listeners.
      delayed: the treatment of delayed tasks, and of tasks that will be retried. False leaves them
          in the backend. True waits for them too, which takes no time under an autojumping
          :class:`trio.testing.MockClock`; the backend must be able to list its tasks and to wait for one, as
          ``MemoryStorage`` is.
      cushion: the seconds of the real clock for which all trio tasks must be blocked. It is for backends of your own
          that use threads or sockets, whose work goes on while trio tasks are blocked.

    Raises:
      TypeError, ValueError: an argument is wrong; the message says what would be right.
      ExceptionGroup: the backend failed; the leaves are its errors. Errors of handlers never come out here.

    If it is cancelled, attempts under way are cancelled, and their tasks released. It does not return while the
    worker or its queue is paused and tasks are ready, nor while a gate is shut.
    """
    if not isinstance(worker, Worker):
        raise TypeError(f"run_until_idle runs a Worker, not {worker!r}")
    check_flag(delayed, "delayed")
    if delayed and not (isinstance(worker.backend, ListTasks) and isinstance(worker.backend, WaitForCompletion)):
        raise TypeError(f"delayed=True needs a backend with list_tasks and wait_for, unlike {worker.backend!r}")
    detector = _IdleDetector(check_seconds(cushion, "cushion"), worker.backend, delayed)
    context = worker.prepare(on_event=[detector.listen])
    failure: ExceptionGroup[Exception]
    async with run_and_cancelling(detector.stop_when_idle, context):
        try:
            return await worker.run(context)
        except ExceptionGroup as group:
            failure = group
    raise failure  # outside of the nursery, which would wrap it in one more group


@final
class _IdleDetector:
    """Detects that a worker has nothing left to do.

    Args:
      cushion: the seconds for which all trio tasks must be blocked.
      backend: of the worker.
      delayed: True if its delayed tasks are waited for.
    """

    __slots__ = ("_backend", "_cushion", "_delayed", "_is_idle", "_is_storage")

    def __init__(self, cushion: float, backend: Any, delayed: bool) -> None:
        self._cushion = cushion
        self._delayed = delayed
        self._backend = backend
        self._is_storage = isinstance(backend, TaskSink) and isinstance(backend, Metrics)
        self._is_idle = trio.Event()

    def listen(self, context: WorkerContext, event: Event) -> None:
        if isinstance(event, Idle):
            self._is_idle.set()

    async def stop_when_idle(self, context: WorkerContext) -> None:
        """Wait until the worker is idle, then stop it. It may be cancelled anywhere: it holds nothing."""
        while True:
            await self._is_idle.wait()
            await trio.testing.wait_all_tasks_blocked(self._cushion)
            ready = (await self._backend.metrics())["waiting"] if self._is_storage else 0
            if not context.idle:  # it got a task meanwhile, and will emit Idle again
                self._is_idle = trio.Event()
            elif ready:  # the worker is about to get it, or cannot take it now
                await trio.sleep(_SOON)
            elif self._delayed and (waiting := await self._backend.list_tasks(Status.Pending, limit=1)):
                with suppress(UnknownTaskError):  # it has ended already, and is not remembered
                    await self._backend.wait_for(waiting[0].parts.id)
            else:
                context.stop()
                return
