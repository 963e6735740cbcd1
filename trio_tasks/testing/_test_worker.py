"""A worker for tests, which runs one task for each call and returns its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

import trio

from .._contracts.events import Error, Release, Success
from .._tasks.outcome import Succeeded
from .._worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Unpack

    from .._contracts.backend import Backend
    from .._contracts.context import WorkerContext
    from .._contracts.events import Event
    from .._contracts.layer import Layer
    from .._tasks.outcome import Outcome
    from .._tasks.task_id import TaskId
    from .._worker.options import AsyncHandler, P, SyncHandler, WholeTaskHandler, WorkerOptions

A = TypeVar("A")
R = TypeVar("R")


@final
class TestWorker(Generic[A, R]):
    """Runs the tasks of a backend one at a time, one for each call of :meth:`execute_next`.

    >>> storage = MemoryStorage[int]()
    >>> worker = TestWorker(storage, double)
    >>> await storage.push(21, id="a")
    >>> await worker.execute_next()
    (TaskId('a'), Succeeded(result=<int>))

    Inside is a :class:`trio_tasks.Worker` of one slot, so layers, gates, injected parameters, events, heartbeats and
    settling are the real ones. It needs no nursery and no closing, and leaves nothing running between two calls.

    Args:
      backend: a backend, or any ``trio.abc.ReceiveChannel``, of args or of whole tasks.
      handler: the function to run, as for a worker.
      options: options of a worker: ``layers``, ``data``, ``retry``, ``on_event``, ``settle_timeout``. Its name is
          ``"test"``, and it takes no ``concurrency``.

    Raises:
      TypeError, ValueError: an argument is wrong; the message says which one, and what would be right.
    """

    __test__ = False  # its name begins with Test, but pytest has nothing to collect here

    @overload
    def __init__(
        self,
        backend: Backend[A],
        handler: WholeTaskHandler[A, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        backend: Backend[A],
        handler: AsyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        backend: Backend[A],
        handler: SyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        backend: trio.abc.ReceiveChannel[A],
        handler: WholeTaskHandler[A, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        backend: trio.abc.ReceiveChannel[A],
        handler: AsyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        backend: trio.abc.ReceiveChannel[A],
        handler: SyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    def __init__(
        self,
        backend: trio.abc.ReceiveChannel[Any],
        handler: Callable[..., Any],
        *,
        layers: Iterable[Layer[Any, Any]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None:
        if "concurrency" in options:
            raise TypeError("a TestWorker has one slot, and takes no concurrency: execute_next() runs one task")
        make: Any = Worker  # all of this was checked by type where it was given
        self._worker: Worker[A, R] = make("test", backend, handler, layers=layers, **{**options, "concurrency": 1})

    async def execute_next(self) -> tuple[TaskId, Outcome]:
        """Wait for the next task, attempt it and settle it; return its id and its outcome.

        Each call is a run of its own: it emits ``Start`` and ``Stop``, and functions that the handler tracked
        (:meth:`~trio_tasks.WorkerContext.track`) have ended before it returns. Errors of the handler are in the
        outcome, never raised.

        Raises:
          trio.EndOfChannel: no more tasks will come, or the run was stopped before one came.
          ExceptionGroup: the backend failed; the leaves are its errors.

        If it is cancelled, the attempt is cancelled too, and its task released. If the task was settled already, the
        backend knows the outcome.
        """
        settled: list[tuple[TaskId, Outcome]] = []

        def stop_after_one(context: WorkerContext, event: Event) -> None:
            if isinstance(event, Success):
                settled.append((event.task.parts.id, Succeeded(event.result)))
            elif isinstance(event, (Error, Release)):
                settled.append((event.task.parts.id, event.outcome))
            if settled:
                context.stop()

        await self._worker.run(self._worker.prepare(on_event=[stop_after_one]))
        if not settled:
            raise trio.EndOfChannel
        return settled[0]

    def __repr__(self) -> str:
        return f"<TestWorker: {self._worker.handler_name} on {self._worker.backend!r}>"
