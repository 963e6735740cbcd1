"""The worker: a nursery whose children are slots, fed by a backend."""

from __future__ import annotations

import math
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

import trio

from .._backends.channel import as_backend
from .._checks import check_callable, check_count, check_name, check_seconds, check_several
from .._concurrency.background import open_background, run_and_cancelling, run_shielded
from .._concurrency.exception_groups import leaves, unnested
from .._contracts.attempt_log import LOGGER, AttemptLog, check_logger
from .._contracts.backend import Feeder, Metrics, RegisterWorker
from .._contracts.calls import SETTLE_TIMEOUT
from .._contracts.context import WorkerContext, check_listeners
from .._contracts.events import Engage, HeartBeat, Idle, Stop
from .._contracts.layer import Dispatcher, Gate
from .._contracts.lending import LendingGate
from .._contracts.sink import TaskSink
from .._handlers.adapter import adapt, handler_name
from .._logging import log, log_and_suppress
from .._printing import quoted
from .._tasks.errors import WorkerError
from .._tasks.retry import RetryPolicy
from .blocked_loop import watching_the_loop
from .intake import Intake
from .slot import Slot, Slots
from .stuck_attempts import log_stuck_attempts

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from typing_extensions import Unpack

    from .._contracts.backend import Backend
    from .._contracts.context import Listener
    from .._contracts.events import Event
    from .._contracts.layer import Handler, Layer
    from .._contracts.report import WorkerReport
    from .options import AsyncHandler, P, SyncHandler, WholeTaskHandler, WorkerOptions
    from .slot import TaskSource

A = TypeVar("A")
R = TypeVar("R")

_LATE_BEAT = (
    "worker %r: a heartbeat was %.1f s late, and one is due every %.1f s: the event loop was busy for %.1f s, and the "
    "storage took %.1f s; leases may have run out"
)
_QUIET = 0.05
"""Seconds for which a backend that is no storage gives nothing before it counts as idle; and between two looks at the
counters of a storage."""
_MOST_NAMES = 1000
_LONGEST_NAMES = 100_000
"""Names of tasks, and characters in them, up to which a worker tells them."""
_LAYER = "layers, each an async layer(handler, task) -> result"


@final
class Worker(Generic[A, R]):
    """A recipe for running a handler on the tasks of a backend. It may be run again, and more than once at a time.

    >>> worker = Worker(
    ...     "emails", storage, send_email, concurrency=8, layers=[Timeout(30)], data=[mailer]
    ... )
    >>> async with trio.open_nursery() as nursery:
    ...     context = await nursery.start(worker.run)
    ...     await storage.push(Email(to="a@example.com"))
    ...     context.stop()  # gracefully: attempts under way are finished

    Args:
      name: the worker's name, for people and for the backend.
      backend: a :class:`Backend`, or any ``trio.abc.ReceiveChannel``, of args or of whole tasks.
      handler: the function to run; its first parameter is the args (or the whole ``Task[Args]``), all others are
          filled in by their annotations. A sync function runs in a thread. Or a :class:`Router`, which runs the
          function that a task names. A callable object may have an attribute ``task_names``, a set of the names of the
          kinds of tasks that it knows, which
          :meth:`~trio_tasks.ListWorkers.workers` and ``explain`` tell; None, as if it had none, says that it takes any.
      concurrency: the most attempts that may run at once. Default: 8.
      lend: the most extra attempts that may begin while attempts wait for other tasks, in ``wait_for`` or in a push
          that waits for room. Default: ``concurrency``. Such an attempt lends its slot, and its places in
          gates; it goes on at once when its wait is over. So up to ``concurrency + lend`` handlers may run at a time.
      layers: middleware, the outermost first; see :data:`Layer`. Default: none.
      data: values that the handler may ask for as ``Data[T]``, one of each type. Default: none.
      retry: the policy for errors other than ``AbortError``, ``RetryAfterError``, ``DeferredError`` and
          ``SuspendError``. Default: 5 attempts, with delays that double from 1 second to an hour.
      on_event: a function, or several, called as ``on_event(context, event)``. Default: none.
      version: the version of the program, such as ``"1.4"``: the history of a task has it with each failed attempt.
          Default: none.
      settle_timeout: the seconds that the backend may take to settle; if it takes longer, it has failed. Default: 10.
      log: the logger for failed attempts and stalls; None for none. Default: ``logging.getLogger("trio_tasks")``.

    Raises:
      TypeError, ValueError: an argument is wrong, or a parameter of the handler cannot be filled in; the message says
          which one, and what would be right.
    """

    # Backends and channels have an overload each: with one for their union, mypy takes a backend, which is a channel of
    # tasks, for a channel of args, and refuses handlers that are right.

    @overload
    def __init__(
        self,
        name: str,
        backend: Backend[A],
        handler: WholeTaskHandler[A, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        backend: Backend[A],
        handler: AsyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        backend: Backend[A],
        handler: SyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        backend: trio.abc.ReceiveChannel[A],
        handler: WholeTaskHandler[A, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        backend: trio.abc.ReceiveChannel[A],
        handler: AsyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        backend: trio.abc.ReceiveChannel[A],
        handler: SyncHandler[A, P, R],
        *,
        layers: Iterable[Layer[A, R]] = (),
        **options: Unpack[WorkerOptions],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        backend: trio.abc.ReceiveChannel[Any],
        handler: Callable[..., Any],
        *,
        concurrency: int = 8,
        lend: int | None = None,
        layers: Iterable[Layer[Any, Any]] = (),
        data: Iterable[object] = (),
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008  it is frozen
        on_event: Listener | Iterable[Listener] | None = None,
        version: str | None = None,
        settle_timeout: float = SETTLE_TIMEOUT,
        log: logging.Logger | None = LOGGER,
    ) -> None:
        self.name = check_name(name, "a worker's name")
        self.backend: Backend[A] = as_backend(backend)
        self.concurrency = check_count(concurrency, "concurrency")
        self.lend = self.concurrency if lend is None else check_count(lend, "lend", minimum=0)
        self.layers = tuple(map(_check_layer, check_several(layers, "layers", _LAYER)))
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {quoted(retry)}")
        self.retry = retry
        self.listeners = check_listeners(on_event)
        self.version = None if version is None else check_name(version, "version")
        self.settle_timeout = check_seconds(settle_timeout, "settle_timeout", positive=True)
        self.log = check_logger(log)
        self.handler_name = handler_name(handler)
        self._handler = handler
        _task_names(handler)  # to refuse it here
        args_type = Any if any(map(_may_change_args, self.layers)) else self.backend.args_type
        values = check_several(data, "data", "values, such as [mailer]")
        given: object = handler
        self._dispatch = given.for_worker(values, args_type) if isinstance(given, Dispatcher) else None
        stack: Handler[A, R]
        if self._dispatch is not None:
            stack = self._dispatch.handler
        else:
            stack = adapt(handler, data=values, args_type=args_type)
        for layer in reversed(self.layers):
            stack = partial(layer, stack)
        self._stack = stack
        stages: tuple[object, ...] = self.layers
        self._gates = [layer for layer in stages if isinstance(layer, Gate)]
        self._lending_gates = [layer for layer in stages if isinstance(layer, LendingGate)]
        if len(set(map(id, self._gates))) < len(self._gates):
            raise ValueError("layers must not contain the same gate twice: an attempt would wait for itself")

    def prepare(self, *, on_event: Listener | Iterable[Listener] | None = None) -> WorkerContext:
        """Make the context of a run that has not begun, with additional listeners; give it to :meth:`run`."""
        queue = getattr(self.backend, "queue", None)
        attempt_log = None
        if self.log is not None:
            name = queue if isinstance(queue, str) else None
            attempt_log = AttemptLog(self.log, self.name, name, self.handler_name, self.retry.attempts)
        return WorkerContext(
            self.name,
            concurrency=self.concurrency,
            listeners=(*self.listeners, *check_listeners(on_event)),
            recipe=self,
            version=self.version,
            task_names=_task_names(self._handler),
            attempt_log=attempt_log,
        )

    @trio.lowlevel.enable_ki_protection
    async def run(  # noqa: ASYNC128  it is handed on
        self,
        context: WorkerContext | None = None,
        *,
        task_status: trio.TaskStatus[WorkerContext] = trio.TASK_STATUS_IGNORED,
    ) -> WorkerReport:
        """Run until the backend ends or the worker is told to stop; return the report.

        With ``context = await nursery.start(worker.run)``, ``context`` is this run's :class:`WorkerContext`.

        Args:
          context: a context that :meth:`prepare` made, for code that needs it before the run.

        Raises:
          ExceptionGroup: the backend failed; the leaves are its errors. Errors of handlers never come out here.
          WorkerError: the context was used already.

        If it is cancelled, attempts under way are cancelled, their tasks are released, and they cost no attempt.
        """
        context = self.prepare() if context is None else context
        if not isinstance(context, WorkerContext):
            raise TypeError(f"run takes a WorkerContext that prepare() made, not {quoted(context)}")
        if context.recipe is not self:
            raise WorkerError(
                f"{context!r} belongs to another worker than {self!r}: use a context from this worker's prepare()"
            )
        if context.is_running or context.is_stopped:
            raise WorkerError(f"{context!r} was used for another run: call prepare() for each run")
        try:
            with unnested(), watching_the_loop(context):
                await self._run(context, task_status)
        except ExceptionGroup as group:
            errors = [each for each in leaves(group) if isinstance(each, Exception)]
            raise ExceptionGroup(f"worker {self.name!r} has ended", errors) from None
        finally:
            context.ended()
            context.emit(Stop())
        return context.report()

    async def _run(  # noqa: ASYNC128  it is handed on
        self, context: WorkerContext, task_status: trio.TaskStatus[WorkerContext]
    ) -> None:
        backend = self.backend
        intake = Intake(context, backend, self._gates, self.settle_timeout)

        def make_slot(source: TaskSource) -> Slot:
            return Slot(context, source, backend, self._stack, self.retry, self.settle_timeout)

        async with self._resources(context), run_shielded(self._beat, context), log_stuck_attempts(context):
            # Tracked: what handlers started to outlive their attempts.
            async with open_background() as background, trio.open_nursery() as tracked:
                context.opened(tracked, background)
                async with self._registered(context), run_and_cancelling(self._feed, context):
                    await Slots(context, intake, make_slot, self.lend, self._lending_gates).run(task_status)

    @asynccontextmanager
    async def _resources(self, context: WorkerContext) -> AsyncGenerator[None, None]:
        """Open what the handler needs for a run, before the first attempt, and close it after the last one."""
        if self._dispatch is None:
            yield
            return  # noqa: ASYNC910  there is nothing to open
        async with AsyncExitStack() as stack:
            try:
                context.resources = await stack.enter_async_context(self._dispatch.open_resources())
            except Exception as error:
                raise ExceptionGroup("its resources could not be opened", [error]) from None
            yield

    @asynccontextmanager
    async def _registered(self, context: WorkerContext) -> AsyncGenerator[None, None]:
        """Register the worker with the backend for the block. However that ends: when it has, no task stays claimed for
        the worker that it was not given.
        """
        backend = self.backend
        if not isinstance(backend, RegisterWorker):
            yield
            return  # noqa: ASYNC910  there is nothing to tell
        await backend.register_worker(context)
        try:
            yield
        finally:
            # In a trio task of its own: trio raises KeyboardInterrupt in the main task, which this one may be.
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112  see above
                nursery.start_soon(self._unregister, backend, context)

    @trio.lowlevel.enable_ki_protection
    async def _unregister(self, backend: RegisterWorker, context: WorkerContext) -> None:
        with (
            log_and_suppress("worker %r has ended, but could not be unregistered from its backend", self.name),
            trio.fail_after(self.settle_timeout, shield=True),
        ):
            await backend.unregister_worker(context)

    async def _beat(self, context: WorkerContext) -> None:  # noqa: ASYNC910  with nothing to renew it ends at once
        """Send heartbeats at fixed times, however long each takes, and log late ones."""
        interval = self.backend.heartbeat_interval
        if interval is None:
            return  # noqa: ASYNC910  the same
        due = trio.current_time()
        at_work = _AtWork(context) if not self.backend.beats_when_idle else None
        while True:
            if at_work is not None and not context.running_tasks:
                await at_work.wait()
                due = trio.current_time() + interval  # the lease has just begun
                await trio.sleep_until(due)
                continue
            began = trio.current_time()
            await self.backend.beat(context)
            context.emit(HeartBeat())
            ended = trio.current_time()
            if ended > due + interval:
                log.warning(_LATE_BEAT, self.name, ended - due, interval, began - due, ended - began)
            due += interval * max(1, math.ceil((ended - due) / interval))
            await trio.sleep_until(due)

    async def _feed(self, context: WorkerContext) -> None:  # noqa: ASYNC910  it runs beside the slots, which wait
        while isinstance(self.backend, Feeder) and not context.intake_state.closed:
            with context.intake_state.interruptible():
                await context.intake_state.wait_open()
                await self.backend.feed()
                return

    async def run_until(
        self,
        async_fn: Callable[[], Awaitable[object]],
        *,
        task_status: trio.TaskStatus[WorkerContext] = trio.TASK_STATUS_IGNORED,
    ) -> WorkerReport:
        """Run, and stop gracefully when ``async_fn()`` returns. If the worker ends first, ``async_fn`` is cancelled.

        If ``async_fn`` raises, the worker is cancelled, and the error comes out in a group, as out of a nursery.
        """
        check_callable(async_fn, "run_until's argument", "an async function without parameters")
        reports: list[WorkerReport] = []

        async def work(task_status: trio.TaskStatus[WorkerContext]) -> None:  # noqa: ASYNC128  it is handed on
            reports.append(await self.run(task_status=task_status))
            nursery.cancel_scope.cancel()

        with unnested():
            async with trio.open_nursery() as nursery:
                context: WorkerContext = await nursery.start(work)
                task_status.started(context)
                await async_fn()
                context.stop()
        return reports[0]

    async def run_until_idle(  # noqa: ASYNC128  it is handed on
        self, *, task_status: trio.TaskStatus[WorkerContext] = trio.TASK_STATUS_IGNORED
    ) -> WorkerReport:
        """Run until no attempt is under way and the backend has no task that is ready; then stop gracefully.

        >>> report = await worker.run_until_idle()
        >>> print(report.succeeded, "done; the delayed ones are left")

        Tasks that wait for their time, also for a retry, stay in the backend, and so do those that other workers run.
        A storage is asked for its counters; a channel, and any other backend, is idle if it has given nothing for
        0.05 seconds. If the backend ends first, so does the worker. It does not return while tasks are ready and this
        worker takes none, as while it is paused.

        Raises:
          ExceptionGroup: the backend failed; the leaves are its errors. Errors of handlers never come out here.

        If it is cancelled: as :meth:`run`.
        """
        idleness = _Idleness(self.backend)
        context = self.prepare(on_event=idleness.listen)
        failure: ExceptionGroup[Exception]
        async with run_and_cancelling(idleness.stop_when_idle, context):
            try:
                return await self.run(context, task_status=task_status)
            except ExceptionGroup as group:
                failure = group
        raise failure  # outside of the nursery, which would wrap it in one more group

    @asynccontextmanager
    async def stream(self) -> AsyncGenerator[trio.MemoryReceiveChannel[Event], None]:
        """Run the worker in the background of the block, and give its events as a channel.

        Leaving the block early stops the worker gracefully; an error in the block cancels it. Events wait unboundedly
        for a reader who is slow.
        """
        send, receive = trio.open_memory_channel[Any](math.inf)

        def tell(_: WorkerContext, event: Event) -> None:
            with suppress(trio.BrokenResourceError):  # the reader has left
                send.send_nowait(event)

        context = self.prepare(on_event=tell)

        async def work(task_status: trio.TaskStatus[WorkerContext]) -> None:  # noqa: ASYNC128  it is handed on
            with send:
                await self.run(context, task_status=task_status)

        with receive, unnested():
            async with trio.open_nursery() as nursery:
                await nursery.start(work)
                yield receive
                context.stop()

    def __repr__(self) -> str:
        return f"<Worker {self.name!r}: {self.handler_name}, {self.concurrency} slots on {self.backend!r}>"


def _may_change_args(layer: object) -> bool:
    """Return True if a layer may replace the args: any layer of the user's own; of ours, only MapArgs."""
    kind = type(layer)
    return kind.__module__ != "trio_tasks.layers" or kind.__name__ == "MapArgs"


@final
class _Idleness:
    """Stops a worker that has nothing left to do.

    Args:
      backend: of the worker.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._is_storage = isinstance(backend, TaskSink) and isinstance(backend, Metrics)
        self._said_so = trio.Event()
        self._quiet_from = 0.0

    def listen(self, _: WorkerContext, event: Event) -> None:
        if isinstance(event, Idle):
            self._quiet_from = trio.current_time() + (0.0 if self._is_storage else _QUIET)
            self._said_so.set()

    async def stop_when_idle(self, context: WorkerContext) -> None:
        """Wait until the worker is idle, then stop it. It may be cancelled anywhere: it holds nothing."""
        while True:
            await self._said_so.wait()
            if trio.current_time() < self._quiet_from:
                await trio.sleep_until(self._quiet_from)
                continue
            ready = (await self._backend.metrics())["waiting"] if isinstance(self._backend, Metrics) else 0
            if not context.idle:  # it got a task meanwhile, and will say so again
                self._said_so = trio.Event()
            elif ready:  # the worker is about to get it, or cannot take it now
                await trio.sleep(_QUIET)
            else:
                context.stop()
                return


@final
class _AtWork:
    """A poll signal for the next beginning of an attempt."""

    def __init__(self, context: WorkerContext) -> None:
        self._begun = trio.Event()
        context.listeners += (self._hear,)

    def _hear(self, _: WorkerContext, event: Event) -> None:
        if isinstance(event, Engage):
            self._begun.set()

    async def wait(self) -> None:
        """Wait until an attempt begins."""
        self._begun = trio.Event()
        await self._begun.wait()


def _task_names(handler: object) -> tuple[str, ...] | None:
    """Return the names of tasks that a handler knows, in order; None if it takes any, or knows very many."""
    names: Any = getattr(handler, "task_names", None)
    if names is None:
        return None
    if not issubclass(type(names), (set, frozenset)) or not all(isinstance(each, str) for each in names):
        raise TypeError(f"task_names of the handler must be a set of names, or None for any, not {quoted(names)}")
    known: list[str] = sorted(names)
    return tuple(known) if len(known) <= _MOST_NAMES and sum(map(len, known)) <= _LONGEST_NAMES else None


def _check_layer(layer: Layer[Any, Any]) -> Layer[Any, Any]:
    if isinstance(layer, type):
        raise TypeError(f"each of layers must be {_LAYER}; {layer.__name__} is a class: give an instance of it")
    return check_callable(layer, "each of layers", "async layer(handler, task) -> result")
