"""The base class of stored storages: a queue, its codec and leases, and exchanges with an engine.

A storage of ours is this class with an engine in it, so all of them keep the same promises; the contract of an engine
is :mod:`trio_tasks._backends.durable.engine`.
"""

from __future__ import annotations

import os
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import trio

from ..._concurrency.background import run_shielded
from ..._concurrency.exception_groups import is_a
from ..._contracts.backend import (
    CallTask,
    ReceiveNowaitBackend,
    RegisterWorker,
    StoreSchedules,
    TransferTasks,
    Watch,
)
from ..._contracts.calls import make_call
from ..._contracts.context import WorkerContext
from ..._contracts.open_stores import note_closed, note_open
from ..._contracts.sink import BATCH_SIZE, TaskSink, check_task, make_tasks
from ..._contracts.storage_events import Pushed, StorageEvent
from ..._logging import log
from ..._printing import escaped, quoted
from ..._tasks.errors import (
    BackendError,
    DuplicateTaskError,
    LeaseLostError,
    UnsettledError,
)
from ..._tasks.outcome import Status
from ..._tasks.task import Task, make_task
from ..._tasks.task_id import TaskId, stored_id
from . import transfer
from .capabilities import DurableCapabilities
from .engine import Renewal
from .exchange_loop import ExchangeLoop, Refused
from .operations import QueueOperations
from .queue import STALE, Lease, QueueState
from .rows import (
    STATUS_AFTER,
    ids_of,
    row_of,
    settlement_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ..._contracts.listing import Page
    from ..._contracts.schedules import ScheduleChange, ScheduleEntry, ScheduleResult, TaskTemplate
    from ..._contracts.transfer import ImportReport, StoredTask
    from ..._tasks.outcome import Outcome
    from ..._tasks.task import TaskOptions
    from .engine import Engine, NewRow, WorkerRow
    from .queue import StorageOptions

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")


class DurableStorage(
    TaskSink[A],
    CallTask[A],
    ReceiveNowaitBackend[A],
    RegisterWorker,
    DurableCapabilities[A],
    Watch,
    StoreSchedules,
    TransferTasks,
    Generic[A],
):
    """The base of :class:`SqliteStorage` and :class:`FileStorage`: a queue of tasks that outlive the process.

    Use it in annotations and with ``isinstance``; to open a storage, make one of these two.

    Each call beside pushing, receiving and settling is one operation of the engine. Cancelled while it waits for the
    engine, it has changed nothing; once the operation is under way, it is carried to its end.
    """

    heartbeat_interval: float | None
    args_type: Any
    settles_within_bounds = True

    # Opening and closing

    def _found(self, engine: Engine, queue: QueueState, poll_interval: float) -> None:
        """Set up the first storage of an engine."""
        self._loop = ExchangeLoop(engine, type(self).__name__, poll_interval)
        self._stack: AsyncExitStack | None = AsyncExitStack()
        self._join(queue)

    def _join(self, queue: QueueState) -> None:
        if queue.limits is not None:
            self._loop.first_limits.setdefault(queue.name, queue.limits)
            self._loop.wake_up.set()
        queue = self._queue = self._loop.queues.setdefault(queue.name, queue)
        queue.handles += 1
        self._operations = QueueOperations(self._loop, queue)
        self._closed = False
        self.heartbeat_interval = queue.lease / 3
        self.args_type = queue.type

    @property
    def beats_when_idle(self) -> bool:
        """True if heartbeats are of use while no task is leased: not under a virtual clock."""
        return self._loop.engine.needs_polling

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._queue.name

    @property
    def lease(self) -> float:
        """Seconds after which a running task is an orphan, unless its worker renews its lease."""
        return self._queue.lease

    def share(self, type: Any = Any, *, queue: str, **options: Unpack[StorageOptions]) -> Any:
        """Open another queue over the same connection.

        It is open for as long as this storage is, and is closed on its own. The options are those of the storage
        (``lease``, ``codec``, ``result_type``, ``keep_results``, ``keep_dead``,
        ``unreadable_after``), and the same as here if not given. ``limits`` are for that queue alone.

        Before the storage is opened, another handle to its own queue may be for another type, or have other options:
        this handle then has them, too.

        Raises:
          ValueError: the queue is open here already, for another type.
        """
        sibling = self._queue.sibling(queue, type, options)
        known = self._loop.queues.get(queue)
        if known is self._queue and self._queue.handles == 1 and not (self._loop.is_open or self._closed):
            self._replace_queue(sibling)
            known = sibling
        if known is not None and repr(known.codec) != repr(sibling.codec):
            raise ValueError(
                f"queue {queue!r} is open here already, with {known.codec!r} rather than {sibling.codec!r}"
            )
        other = object.__new__(self.__class__)
        other._loop = self._loop
        other._stack = None
        other._join(sibling)
        return other

    def _replace_queue(self, queue: QueueState) -> None:
        """Give the queue, which nothing has used yet, other options."""
        del self._loop.queues[self._queue.name]
        self._join(queue)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Open the store; raise :class:`BackendError` if that is impossible. A shared queue is open already."""
        if self._stack is None:
            await trio.lowlevel.checkpoint()
            return self
        if self._loop.is_open or self._loop.closed:
            raise RuntimeError(f"{self!r} has been opened already; make a new one to open it again")
        engine = self._loop.engine
        with trio.CancelScope(shield=True):
            await engine.open()
            await self._loop.store_first_limits()
        self._loop.is_open = self._loop.is_usable = True
        self._loop.token = trio.lowlevel.current_trio_token()
        self._loop.thread = threading.get_ident()
        self._loop.pid = os.getpid()
        await self._stack.enter_async_context(run_shielded(self._loop.run))
        # In virtual time nothing is polled, so each news of others is a reason to look.
        on_finish = self._loop.on_finish if engine.needs_polling else self._loop.on_wakeup
        listeners = self._loop.on_wakeup, on_finish, self._loop.on_asked
        await self._stack.enter_async_context(run_shielded(engine.listen, *listeners))
        note_open(self._loop)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with trio.CancelScope(shield=True):
                await self.aclose()  # noqa: ASYNC102  an engine is bounded by itself
        finally:
            await self._end_tasks(error)  # noqa: ASYNC102  it waits for two trio tasks that end now

    async def _end_tasks(  # noqa: ASYNC910  a shared queue has none
        self, error: BaseException | None
    ) -> None:
        """End the background trio tasks: the exchange loop and the listener for wake-ups."""
        if self._stack is not None:
            # What the block raised is not the nursery's to wrap, unless it was the nursery that cancelled the block.
            ours = error if error is not None and is_a(error, trio.Cancelled) else None
            await self._stack.__aexit__(type(ours) if ours else None, ours, ours.__traceback__ if ours else None)

    def close(self) -> None:
        """Refuse further pushes through this handle. Workers on its queue end once that is empty."""
        if self._closed:
            return
        self._closed = True
        self._queue.handles -= 1
        self._loop.check_queues()
        self._loop.schedule_changes.note()

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Close the handle as :meth:`close` does, and the connection, unless this is a shared queue.

        It does not wait for tasks that a worker has: end the workers first. Waiting tasks stay stored. It does its work
        even if it is cancelled.
        """
        self.close()
        if self._stack is not None and self._loop.is_open and not self._loop.closed:
            with trio.CancelScope(shield=True):
                try:
                    await self._loop.end()
                finally:
                    note_closed(self._loop)
        await trio.lowlevel.checkpoint_if_cancelled()

    def __repr__(self) -> str:
        state = "closed" if self._loop.closed else "open" if self._loop.is_open else "not opened yet"
        return f"<{type(self).__name__} {self._loop.engine!r}, queue {self.queue!r}, {state}>"

    # Pushing

    async def push_task(self, task: Task[A]) -> TaskId:
        """Push a whole task.

        Returns:
          its id; or the id of the task that has its unique key, if there is one and ``on_conflict`` is ``"skip"``.

        Raises:
          TypeError, ValueError: its args cannot be encoded. Nothing was stored.
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: this handle is closed.
          BackendError: it could not be stored, as when the disk is full.

        When it returns, the task is stored, as durably as the options of the storage ask. If it is cancelled, nothing
        was stored.
        """
        task_id, _ = await self._push(self._prepare(task))
        return task_id

    async def push_or_get(self, args: A, **options: Unpack[TaskOptions]) -> Pushed:
        """Make a task of ``args``, and push it; see :meth:`TaskSink.push_or_get`."""
        task_id, is_new = await self._push(self._prepare(make_task(args, options, self)))
        return Pushed(task_id, is_new)

    async def _push(self, task: Task[A]) -> tuple[TaskId, bool]:
        """Push a task that is prepared; return the id of the stored one, and True if it is this task."""
        row = self._row_of(task)
        keeps_extensions = self._queue.keep_extensions(task.parts)
        answer: str | DuplicateTaskError | None = None
        try:
            [answer] = await self._loop.push(self._queue, [row])
        finally:
            if keeps_extensions and answer != row.id:
                self._queue.extensions.pop(row.id, None)
        if isinstance(answer, DuplicateTaskError):
            raise answer
        return stored_id(str(answer)), answer == row.id

    async def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and push them in this order.

        Every task is made, and every option checked, before the first is pushed; then up to 512 go in one transaction.
        If it is cancelled, those whose transaction was made stay stored.

        Raises:
          DuplicateTaskError: one is a duplicate; all others are pushed before it is raised.
        """
        tasks = [self._prepare(task) for task in await make_tasks(many, options, self)]
        rows = [self._row_of(task) for task in tasks]
        for task in tasks:  # their ids are new
            self._queue.keep_extensions(task.parts)
        answers: list[str | DuplicateTaskError] = []
        for start in range(0, len(rows), BATCH_SIZE):
            answers += await self._loop.push(self._queue, rows[start : start + BATCH_SIZE])
        return ids_of(answers)

    def _prepare(self, task: Task[A]) -> Task[A]:
        """Return the task to push in place of this one, after the functions of ``on_push``."""
        check_task(task)
        return self._queue.on_push(task) if self._queue.on_push else task

    def _row_of(self, task: Task[A], now: Callable[[], float] | None = None) -> NewRow:
        if self._closed:
            self._check_open()
        engine = self._loop.engine
        return row_of(task, self._queue, engine.longest, now or engine.now)

    # Calling

    @overload
    async def call(self, args: A, type: type[R], **options: Unpack[TaskOptions]) -> R: ...
    @overload
    async def call(self, args: A, type: None = None, **options: Unpack[TaskOptions]) -> Any: ...
    async def call(self, args: A, type: Any = None, **options: Unpack[TaskOptions]) -> Any:
        """Push a task, wait until it is finished, in any process, and return its result, or raise its error.

        >>> receipt = await storage.call(Email(to="a@example.com"), Receipt)

        Args:
          args: the value that the handler is given.
          type: a class that the result is an instance of, as for :meth:`wait_for`; default any value.
          options: those of :meth:`push`.

        Raises:
          BaseException: the error of the task, if it has failed or was killed; or what :meth:`push` raises.
          TypeError: the result is not an instance of ``type``.
          UnknownTaskError: the task was discarded, or its result is not remembered.

        If it is cancelled, a task that waits is forgotten, and an attempt under way is cancelled, in whatever process.
        It returns when that has ended: then nothing of the task runs any more. If that takes longer than one lease and
        10 seconds, a warning names the task, and it returns all the same. Such an end is logged at level INFO, counted
        as killed, and not kept as a dead letter. A task that this call did not push, but found by its unique key, is
        left alone.
        """
        return await make_call(self, args, type, options, self._operations.withdraw, self.lease)

    # Receiving

    async def receive(self) -> Task[A]:
        """Wait for the next task, and return it under a lease.

        Raises:
          trio.EndOfChannel: the queue is closed here, and empty.
          BackendError: the store has failed.

        If it is cancelled, nothing was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            task = self.receive_nowait()
        except trio.WouldBlock:
            received: Task[A] = await self._loop.receive(self._queue)
            received.parts.context.in_delivery = False
            received.parts.status = Status.Running
            return received  # noqa: ASYNC910  it has waited
        await trio.lowlevel.cancel_shielded_checkpoint()
        return task

    def receive_nowait(self) -> Task[A]:
        """Return the next prefetched task, under a lease. Raise ``trio.WouldBlock`` if there is none, even if the queue
        may have ended: another process may have pushed since the last poll.
        """
        self._loop.check_open()
        queue = self._queue
        if queue.prefetched and (task := queue.take(self._loop.engine.now())) is not None:
            return task
        if queue.may_have_ended and queue.has_ended(self._loop.engine.now()):
            if trio.current_time() < self._queue.looked_at + STALE:
                raise trio.EndOfChannel
            queue.mark_changed()
        raise trio.WouldBlock

    # Settling

    @trio.lowlevel.enable_ki_protection
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Store the outcome of an attempt.

        Raises:
          LeaseLostError: the task is not leased under this claim any more. Nothing changed.
          UnsettledError: the result cannot be stored, or a write in the same transaction failed. Nothing changed.
          BackendError: it could not be stored, though it was tried for some seconds.

        It cannot be cancelled, and ends in bounded time.
        """
        if not isinstance(task, Task):
            raise TypeError(f"settle takes a Task, not {type(task).__name__}")
        parts = task.parts
        lease = parts.context
        if not isinstance(lease, Lease) or lease.queue is not self._queue or lease.settled:
            raise LeaseLostError(f"task {escaped(parts.id)} is not running here in its attempt {parts.attempt}")
        settlement = settlement_of(task, lease, outcome, self._loop.engine)
        lease.settled = True
        self._loop.settle(self._queue, settlement, parts)
        answer: Any = await trio.lowlevel.wait_task_rescheduled(_stay)
        if answer is not True and answer is not False:  # an error of user code, which is not asked for its class
            lease.settled = False
            self._queue.leased[parts.id] = parts
            if type(answer) is Refused:
                raise UnsettledError(answer.error, permanent=True)
            raise UnsettledError(answer, permanent=False)
        if not answer:
            raise LeaseLostError(
                f"attempt {parts.attempt} of task {escaped(parts.id)} has lost its lease, which ran out"
            )
        parts.status = STATUS_AFTER[settlement.kind]
        if parts.status is not Status.Pending:
            self._queue.finish(parts.id)

    # Leases and workers

    async def beat(self, context: WorkerContext) -> None:  # noqa: ASYNC910  it waits where a task is held, or a worker changed
        """Renew the leases of the tasks that this worker runs; end attempts that lost theirs, or are to be aborted."""
        held = {
            task.parts.context.claim_key: task.parts
            for task in context.running_tasks
            if isinstance(task.parts.context, Lease) and not task.parts.context.settled
        }
        has_changed = any(context.is_stopped for context in self._workers())
        workers = self._queue.workers
        rows: list[WorkerRow] = []
        if context in self._queue.worker_names:
            rows = workers.rows([context], self._loop.engine.now())
        if not held:
            rows = [*filter(workers.is_news, rows)]
        if not (held or has_changed or rows):
            await trio.lowlevel.checkpoint()  # there is nothing to renew, and the same run as before
            return
        until = self._loop.engine.now() + self.lease
        try:
            renewal = Renewal()
            if held or rows:
                renewal = await self._loop.ask(self._loop.engine.renew, [*held], self.lease, rows)
                workers.note_told(rows)
            if has_changed:
                await self._register_workers()
        except BackendError as error:
            if error.is_final or any(parts.context.until < until - self.lease for parts in held.values()):
                raise
            log.warning("leases could not be renewed; trying again: %s", error)
            return  # noqa: ASYNC910  it has waited
        self._queue.note_renewal(held, renewal, until)

    async def register_worker(self, context: WorkerContext) -> None:
        """Note that this worker starts to receive here."""
        if not isinstance(context, WorkerContext):
            raise TypeError(f"register_worker takes the WorkerContext of a run, not {quoted(context)}")
        self._queue.set_workers({**self._queue.worker_names, context: context.name})
        await self._register_workers()

    async def unregister_worker(self, context: WorkerContext) -> None:
        """Note that this worker has ended, and release tasks that were claimed for it and not begun.

        When it returns, that is stored; it costs no attempt. Another worker on the queue claims again what it needs.

        Raises:
          BackendError: that could not be stored; they come back when their lease runs out.
        """
        self._queue.set_workers({each: name for each, name in self._queue.worker_names.items() if each is not context})
        if self._loop.failure is not None or self._loop.closed:
            await trio.lowlevel.checkpoint()
            return
        await self._loop.release_prefetched_now(self._queue)
        await self._register_workers()

    async def _register_workers(self) -> None:
        queue = self._queue
        queue.set_workers({each: each.name for each in self._workers() if not each.is_stopped})
        await self._loop.ask(self._register_now)

    def _workers(self) -> list[WorkerContext]:
        return [context for context in self._queue.worker_names if isinstance(context, WorkerContext)]

    async def _register_now(self) -> None:
        # It reads the names when the engine is free, so that the latest registration is the last one stored.
        rows = self._queue.workers.rows(self._queue.worker_names, self._loop.engine.now())
        await self._loop.engine.register(self._queue.name, rows)
        self._queue.workers.note_told(rows)

    # Events

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[trio.abc.ReceiveChannel[StorageEvent], None]:
        """Open a channel of the changes of the queue from now on: tasks that are pushed, that expire, and that are
        cancelled or replaced. See :meth:`Watch.events`.

        It has the changes that are made through this storage and those that share its connection, each after its
        commit. Changes by other processes, and tasks pushed by :meth:`push_in`, are not among them.

        Raises:
          trio.ClosedResourceError: this handle is closed. The channel ends when all handles to the queue are.
          BackendError: the storage has failed; also from the channel, after the events before.
        """
        async with self._queue.events.opened(self._check_not_closed) as events:
            yield events

    def _check_not_closed(self) -> None:
        self._loop.check_open()
        if self._closed:
            raise trio.ClosedResourceError(f"{type(self).__name__} is closed: it has no events any more")

    # Schedules

    async def list_schedules(self, after: int = 0, *, name: str | None = None) -> list[ScheduleEntry]:
        """Return the schedules of the store whose revision is above ``after``, or the one of a name, if it is; see
        :class:`Schedules`.
        """
        return await self._operations.list_schedules(after, name)

    async def set_schedules(self, changes: Sequence[ScheduleChange]) -> list[ScheduleResult]:
        """Change schedules, and push tasks of them to this queue, all in one transaction; see :class:`Schedules`.

        A schedule that has another revision than its change says stays as it is, and no task is pushed for it.
        """
        self._check_open()
        return await self._operations.set_schedules(changes)

    def make_template(self, task: Task[A]) -> TaskTemplate:
        """Return what is kept of a task that schedules push to this queue.

        Raises:
          TypeError, ValueError: its args cannot be encoded.
        """
        return self._operations.make_template(self._prepare(task))

    async def wait_for_schedules(self, seen: int = 0) -> int:
        """Wait until a schedule may have been changed since the call that returned ``seen``, for a second at most.

        Raises:
          trio.ClosedResourceError: this handle is closed.
        """
        changes = await self._operations.wait_for_schedules(seen)
        self._check_open()
        return changes

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"{type(self).__name__} is closed: nothing more can be pushed here")

    # To another store, and from one

    async def export_tasks(self, after: str | None = None, *, limit: int = 500) -> Page[StoredTask]:
        """Return a page of the tasks as they are stored; see :meth:`TransferTasks.export_tasks`."""
        return await transfer.export_tasks(self._loop, self._queue, after, limit)

    async def import_tasks(self, tasks: Iterable[StoredTask]) -> ImportReport:
        """Store tasks as they are, in one transaction; see :meth:`TransferTasks.import_tasks`."""
        self._check_not_closed()
        return await transfer.import_tasks(self._loop, self._queue, tasks)


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
