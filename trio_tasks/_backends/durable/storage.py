"""The base class of stored storages: a queue, its codec and leases, and exchanges with an engine.

A storage of ours is this class with an engine in it, so all of them keep the same promises; the contract of an engine
is :mod:`trio_tasks._backends.durable.engine`.
"""

# A string is an iterable of strings, and one id all the same: the overload for one id comes first.
# mypy: disable-error-code=overload-overlap

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import trio

from ..._checks import check_flag, check_unicode
from ..._concurrency.background import run_shielded
from ..._concurrency.exception_groups import is_a
from ..._contracts.backend import (
    ActOnMany,
    Audit,
    Cancel,
    Discard,
    Explain,
    FetchById,
    ListQueues,
    ListTasks,
    ListWorkers,
    Metrics,
    Pause,
    Progress,
    ReceiveNowaitBackend,
    RegisterWorker,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    SetMetadata,
    StoreSchedules,
    Throughput,
    TransferTasks,
    Update,
    Vacuum,
    WaitForCompletion,
    Watch,
)
from ..._contracts.bulk import check_ids
from ..._contracts.context import WorkerContext
from ..._contracts.listing import PageRequest
from ..._contracts.minutes import check_span, shown
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
from ..._tasks.outcome import Status, typed
from ..._tasks.task import Task, make_task
from ..._tasks.task_id import TaskId, stored_id
from . import transfer
from .engine import Renewal, RowChange
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
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ..._contracts.bulk import ChangeReport
    from ..._contracts.explanation import Explanation
    from ..._contracts.listing import Page, TaskFilters
    from ..._contracts.metrics import AttemptTotals, Balance, Minute, QueueMetrics
    from ..._contracts.schedules import ScheduleChange, ScheduleEntry, ScheduleResult, TaskTemplate
    from ..._contracts.store_info import StoreInfo
    from ..._contracts.transfer import ImportReport, StoredTask
    from ..._contracts.worker_info import WorkerInfo
    from ..._tasks.outcome import Outcome, TaskResult
    from ..._tasks.task import TaskOptions
    from .engine import Engine, NewRow, WorkerRow
    from .queue import StorageOptions

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")


class DurableStorage(
    TaskSink[A],
    ReceiveNowaitBackend[A],
    RegisterWorker,
    ListQueues,
    FetchById,
    Update,
    Reschedule,
    Cancel,
    Discard,
    Vacuum,
    ResumeById,
    ResumeAbandoned,
    WaitForCompletion,
    Watch,
    ListTasks,
    ActOnMany,
    ListWorkers,
    Metrics,
    Audit,
    Pause,
    Explain,
    Progress,
    SetMetadata,
    Throughput,
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
        ``unreadable_after``), and the same as here if not given.

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
        self._loop.is_open = self._loop.is_usable = True
        self._loop.token = trio.lowlevel.current_trio_token()
        self._loop.pid = os.getpid()
        await self._stack.enter_async_context(run_shielded(self._loop.run))
        await self._stack.enter_async_context(run_shielded(engine.listen, self._loop.on_wakeup, self._loop.on_asked))
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

    def _row_of(self, task: Task[A]) -> NewRow:
        if self._closed:
            self._check_open()
        return row_of(task, self._queue, self._loop.engine.longest)

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

    # Looking up

    @overload
    async def fetch_by_id(self, task_id: str) -> Task[A] | None: ...
    @overload
    async def fetch_by_id(self, ids: Iterable[str], /) -> list[Task[A] | None]: ...
    async def fetch_by_id(self, task_id: str | Iterable[str]) -> Task[A] | list[Task[A] | None] | None:
        """Return the task of this id, unfinished or remembered; or None. Its ``parts.context`` has its history, its
        error, its result and its progress.

        Of several ids in an iterable, it returns a list in the order of the ids, which are read 500 at a time.
        """
        ids = check_ids(task_id, check_unicode)
        if isinstance(ids, list):
            return await self._operations.fetch_each(ids)
        return await self._operations.fetch_by_id(ids)

    async def list_tasks(
        self,
        status: Status | None = None,
        *,
        newest_first: bool = False,
        after: str | None = None,
        limit: int = 100,
        **filters: Unpack[TaskFilters],
    ) -> Page[Task[A]]:
        """Return at most ``limit`` tasks, of this status if one is given, that pass the filters; unfinished ones first.

        Args:
          status: the status of the tasks.
          newest_first: list in the opposite order, so that the task that was finished last comes first.
          after: the ``next`` of the page before, to go on with the list.
          limit: the number of tasks on the page.
          filters: see :class:`TaskFilters`. With any of them but ``delayed``, 20,000 tasks are looked at for a page.

        Raises:
          ValueError: ``after`` is not the cursor of this list.
        """
        request = PageRequest.of(status, filters, newest_first=newest_first, after=after, limit=limit)
        return await self._operations.list_tasks(request)

    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task; None if none was.

        Raises:
          UnknownTaskError: no such task is known.
        """
        return await self._operations.progress_of(task_id)

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task, as plain data; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not leased any more. Nothing changed.
        """
        await self._operations.report_progress(task, progress)

    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task, in place of those of the same names; later attempts and
        :meth:`fetch_by_id` see them.

        Raises:
          EncodeError: they cannot be stored. Nothing changed.
          LeaseLostError: the task is not leased any more. Nothing changed.
        """
        await self._operations.set_metadata(task, values)

    @overload
    async def wait_for(self, task_id: str, type: type[R]) -> TaskResult[R]: ...
    @overload
    async def wait_for(self, task_id: str, type: None = None) -> TaskResult[Any]: ...
    @overload
    async def wait_for(self, ids: Iterable[str], /, type: type[R]) -> list[TaskResult[R]]: ...
    @overload
    async def wait_for(self, ids: Iterable[str], /, type: None = None) -> list[TaskResult[Any]]: ...
    async def wait_for(self, task_id: str | Iterable[str], type: Any = None) -> TaskResult[Any] | list[TaskResult[Any]]:
        """Wait until the task is finished, in any process, and return its :class:`TaskResult`.

        Args:
          task_id: the id of the task; or several in an iterable, to wait until all of them are finished, and get a list
              in the order of the ids.
          type: a class that the result is an instance of, for type checkers: ``wait_for(id, Receipt)`` is a
              ``TaskResult[Receipt]``; default any value. The storage's ``result_type`` is what decodes it.

        Raises:
          TypeError: the result is not an instance of ``type``.
          UnknownTaskError: no such task is known, or it ended and is not remembered any more. A task that ends in this
            process during the call is remembered for it, also with ``keep_results=0``. Of several, it names all that
            are not known, as soon as there is one.

        If it is cancelled, the task goes on.
        """
        ids = check_ids(task_id, check_unicode)
        if isinstance(ids, list):
            return [typed(each, type) for each in await self._operations.wait_for(ids)]
        return typed((await self._operations.wait_for([ids]))[0], type)

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

    async def list_workers(self) -> list[str]:
        """Return the names of the workers that are alive on this queue, in any process."""
        found = await self._loop.ask(self._loop.engine.workers, self._queue.name)
        return [each.name for each in found if each.is_alive]

    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        """Return the workers on this queue, in any process; and, for an hour, those whose process has died. A state
        that cannot be read, as it was damaged, is logged once; what can be read of it is returned.

        Args:
          fresh: True asks workers of other processes for their present state, by a wake-up, and waits for it, for a
              second at most. Otherwise the state is that of their last heartbeat, which they send every third of a
              lease; without a running task, only after a change. ``as_of`` is the time of the state.
        """
        return await self._operations.workers(fresh=check_flag(fresh, "fresh"))

    async def list_queues(self) -> list[str]:
        """Return the names of all queues of the store."""
        return list(await self._loop.ask(self._loop.engine.queues))

    async def metrics(self) -> QueueMetrics:
        """Return the counters of the queue: tasks in all since it was made, by outcome, and at present, by state. They
        are kept as they change, so this costs the same for a million tasks.
        """
        return await self._loop.ask(self._loop.engine.metrics, self._queue.name)

    async def audit(self) -> Balance:
        """Compare the counters of the queue with its tasks, which are counted for this, in one transaction.

        At any moment ``pushed + resumed = finished + waiting + delayed + running`` must hold.

        >>> balance = await storage.audit()
        >>> assert balance, str(balance)
        """
        return await self._loop.ask(self._loop.engine.audit, self._queue.name)

    async def inspect(self) -> StoreInfo:
        """Return the place, the format and the size of the store, and all damage that is found in it.

        It reads the whole file, and other calls on this storage wait for that: use a storage of its own for it, with
        ``read_only=True``.
        """
        return await self._loop.ask(self._loop.engine.inspect)

    async def explain(self, task_id: str) -> Explanation:
        """Explain where the task of this id is, and why it does not run now; in any process.

        >>> print(await storage.explain(task_id))

        The :class:`Explanation` has the evidence in its fields, and in one sentence as its text. It does not look at
        more tasks than at a thousand that go first. If that is of use, workers of other processes are asked for their
        present state, for a second at most.
        """
        return await self._operations.explain(task_id)

    async def throughput(
        self, since: datetime | None = None, until: datetime | None = None, *, name: str | None = None
    ) -> list[Minute]:
        """Return the attempts at tasks of this queue, added up for each minute and name, in order.

        Each process adds up what it settles, and stores that once a second; one that is killed loses that second of it.
        It is kept for 48 hours. More than 100 names in a minute share ``"other"``.

        Args:
          since: the first minute is the one with this moment; default the first that is kept.
          until: the last minute begins before this moment; default the last one.
          name: of the tasks; default all.

        >>> for minute in await storage.throughput(datetime.now(timezone.utc) - timedelta(hours=1)):
        ...     print(minute.at, minute.succeeded, minute.failed, minute.seconds / minute.attempts)
        """
        check_span(since, until, name)
        await self._loop.ask(self._loop.write_minutes)
        return shown(await self._loop.ask(self._loop.engine.minutes, self._queue.name), since, until, name)

    def attempt_totals(self) -> list[AttemptTotals]:
        """Return the sums of all attempts at tasks of this queue that this process has settled, for each name, since it
        opened the storage. They never fall, as the counters of a metrics library must not.

        The first hundred names are told apart; all others share ``"other"``. :meth:`throughput` has the sums of all
        processes, by minute.
        """
        return self._queue.tally.totals()

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

    # Changing

    async def pause(self) -> None:
        """Give out no more tasks of this queue, in any process, until :meth:`resume`.

        It is stored, so it outlives all processes. When it returns, no exchange claims a task any more; a task that was
        claimed just before that may still begin. Attempts under way go on, and are settled as ever; tasks can be
        pushed. A worker waits without polling more than usual. On a queue that is closed it ends once the queue is
        empty, so it waits for :meth:`resume` while tasks are left.
        """
        await self._loop.ask(self._loop.engine.set_paused, self._queue.name, True)

    async def resume(self) -> None:
        """Give out tasks again. Workers in other processes notice at once where wake-ups work, and otherwise within
        ``poll_interval``.
        """
        await self._loop.ask(self._loop.engine.set_paused, self._queue.name, False)
        self._loop.check_queues()

    async def is_paused(self) -> bool:
        """Return True if the queue is paused; as ``metrics()["is_paused"]``."""
        return (await self.metrics())["is_paused"]

    async def update(self, task: Task[A]) -> bool:
        """Replace args and metadata of the waiting task of the same id by this task's; False if no such task waits."""
        return await self._operations.update(task)

    @overload
    async def reschedule(self, task_id: str, delay: float) -> bool: ...
    @overload
    async def reschedule(self, ids: Iterable[str], /, delay: float) -> ChangeReport: ...
    async def reschedule(self, task_id: str | Iterable[str], delay: float) -> bool | ChangeReport:
        """Make the waiting task ready in ``delay`` seconds; False if no task of this id waits.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.
        """
        ids = check_ids(task_id, check_unicode)
        if isinstance(ids, list):
            return await self._operations.reschedule_each(ids, delay)
        return await self._operations.reschedule(ids, delay)

    @overload
    async def cancel(self, task_id: str, *, running: bool = False) -> bool: ...
    @overload
    async def cancel(self, ids: Iterable[str], /, *, running: bool = False) -> ChangeReport: ...
    async def cancel(self, task_id: str | Iterable[str], *, running: bool = False) -> bool | ChangeReport:
        """Kill the waiting task of this id; False if no task of this id waits.

        With ``running=True``, one that runs is aborted, as :meth:`abort` does. Which of the two is decided in one
        transaction.

        Of several ids in an iterable, it returns a :class:`ChangeReport`: which were cancelled, and why the others were
        not, as was found in the same transaction. 500 of them go in one transaction, and other processes have theirs
        in between. If it is cancelled, the transactions that were made stay.

        >>> report = await storage.cancel(ids)
        >>> print(report)
        2 of 3 cancelled; not 01a…: it runs, on worker 'w'
        """
        ids = check_ids(task_id, check_unicode)
        check_flag(running, "running")
        if isinstance(ids, list):
            return await self._operations.change_each("cancelled", RowChange("cancel", running), ids)
        return await self._operations.cancel(ids, running=running)

    @overload
    async def abort(self, task_id: str) -> bool: ...
    @overload
    async def abort(self, ids: Iterable[str], /) -> ChangeReport: ...
    async def abort(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Cancel the attempt under way, in whatever process, which is then settled as killed; False if there is none.

        It returns once that is stored, and the attempt is cancelled, if it is in this process. The worker of another
        process cancels it within moments, or at the latest with its next heartbeat. If the attempt succeeds all the
        same, the task is done; but it is not attempted again after this, even if its worker dies.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.
        """
        ids = check_ids(task_id, check_unicode)
        if isinstance(ids, list):
            return await self._operations.change_each("aborted", RowChange("abort"), ids)
        return await self._operations.abort(ids)

    @overload
    async def resume_by_id(self, task_id: str) -> bool: ...
    @overload
    async def resume_by_id(self, ids: Iterable[str], /) -> ChangeReport: ...
    async def resume_by_id(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Make the finished task of this id wait again, with all of its attempts; False if there is no such task. The
        result of one that has succeeded is forgotten.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.

        Raises:
          DuplicateTaskError: its unique key is taken by now. Of several, the report says so.
        """
        ids = check_ids(task_id, check_unicode)
        if isinstance(ids, list):
            return await self._operations.change_each("resumed", RowChange("resume"), ids)
        return await self._operations.resume(ids)

    async def resume_abandoned(self) -> int:
        """Make orphans wait again at once; return how many there were.

        Many of them take several transactions, and other processes have theirs in between. If it is cancelled, the
        transactions that were made stay.
        """
        return await self._operations.resume_abandoned()

    @overload
    async def discard(self, task_id: str) -> bool: ...
    @overload
    async def discard(self, ids: Iterable[str], /) -> ChangeReport: ...
    async def discard(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Forget the task of this id, finished or waiting; False if there is none, or if it runs.

        One that waited is counted as killed; those that wait for its result get :exc:`UnknownTaskError`.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.
        """
        ids = check_ids(task_id, check_unicode)
        if isinstance(ids, list):
            return await self._operations.change_each("discarded", RowChange("forget"), ids)
        return await self._operations.discard(ids)

    async def retry_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Make all failed and killed tasks wait again that pass the filters, with all of their attempts; or those that
        are done, if that status is given. Return how many there were; one whose unique key is taken stays as it is.
        The number of these is logged; :meth:`resume_by_id` of several ids gives the reason for each.

        500 of them at most go in one transaction, and other processes have theirs in between. A task that has changed
        meanwhile is judged again in its transaction. If it is cancelled, the transactions that were made stay.
        """
        return await self._operations.change_all("retry_all", status, filters)

    async def cancel_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Kill all waiting tasks that pass the filters; return how many there were. It goes in parts as
        :meth:`retry_all` does.
        """
        return await self._operations.change_all("cancel_all", status, filters)

    async def discard_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Forget all finished tasks that pass the filters; return how many there were. It goes in parts as
        :meth:`retry_all` does.
        """
        return await self._operations.change_all("discard_all", status, filters)

    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        """Forget all finished tasks, dead letters included; return how many there were.

        Args:
          older_than: seconds; only tasks that were finished this long ago, or longer.
          status: only tasks that are Done, Failed or Killed.

        Many of them take several transactions, and other processes have theirs in between. If it is cancelled, the
        transactions that were made stay.
        """
        return await self._operations.vacuum(older_than, status)


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
