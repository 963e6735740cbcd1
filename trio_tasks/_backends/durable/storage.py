"""The base class of stored storages: a queue, its codec and leases, and exchanges with an engine.

A storage of ours is this class with an engine in it, so all of them keep the same promises; the contract of an engine
is :mod:`trio_tasks._backends.durable.engine`.
"""

from __future__ import annotations

import math
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import trio

from ..._checks import check_seconds, check_text, check_unicode
from ..._clock import microseconds_of, wall_after
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
    Throughput,
    Update,
    Vacuum,
    WaitForCompletion,
)
from ..._contracts.context import WorkerContext
from ..._contracts.explanation import Evidence, explanation_of
from ..._contracts.lending import Loan
from ..._contracts.listing import CHANGED_AT_ONCE, Found, PageRequest, selections
from ..._contracts.minutes import check_span, shown
from ..._contracts.open_stores import note_closed, note_open
from ..._contracts.sink import BATCH_SIZE, Pushed, TaskSink, check_task, make_tasks
from ..._logging import log
from ..._printing import escaped, quoted
from ..._tasks.errors import (
    AbortError,
    BackendError,
    DuplicateTaskError,
    LeaseLostError,
    UnknownTaskError,
    UnsettledError,
)
from ..._tasks.extensions import Metadata
from ..._tasks.outcome import Status, typed
from ..._tasks.task import Task, make_task
from ..._tasks.task_id import TaskId, stored_id
from .encoding import decode_options, decode_worker, encode_error, encode_options, moment_of
from .engine import ENDS, ClaimKey, Query, Renewal, State
from .exchange_loop import ExchangeLoop, Refused
from .queue import STALE, Lease, QueueState, abort
from .rows import (
    PLAIN,
    STATES,
    STATUS_AFTER,
    check_length,
    result_of,
    result_of_ending,
    row_of,
    settlement_of,
    task_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ..._contracts.explanation import Explanation
    from ..._contracts.listing import Page, Selection, TaskFilters
    from ..._contracts.metrics import Balance, Minute, QueueMetrics
    from ..._contracts.worker_info import WorkerInfo
    from ..._tasks.outcome import Outcome, TaskResult
    from ..._tasks.task import TaskOptions
    from .engine import Changed, Engine, LocatedRow, NewRow, Part, StoredRow, StoredWorker, WorkerRow
    from .queue import StorageOptions

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

_ANSWER_TIME = 1.0
"""Seconds for which workers of other processes are waited for, when they are asked for their state."""
_PARTS_APART = 0.01
"""Seconds between two transactions of one call. A process that waits for the lock polls more often than that."""


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

        Raises:
          ValueError: the queue is open here already, for another type.
        """
        sibling = self._queue.sibling(queue, type, options)
        known = self._loop.queues.get(queue)
        if known is not None and repr(known.codec) != repr(sibling.codec):
            raise ValueError(
                f"queue {queue!r} is open here already, with {known.codec!r} rather than {sibling.codec!r}"
            )
        other = object.__new__(self.__class__)
        other._loop = self._loop
        other._stack = None
        other._join(sibling)
        return other

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
        """
        tasks = [self._prepare(task) for task in await make_tasks(many, options, self)]
        rows = [self._row_of(task) for task in tasks]
        for task in tasks:  # their ids are new
            self._queue.keep_extensions(task.parts)
        ids: list[TaskId] = []
        for start in range(0, len(rows), BATCH_SIZE):
            for answer in await self._loop.push(self._queue, rows[start : start + BATCH_SIZE]):
                if isinstance(answer, DuplicateTaskError):
                    raise answer
                ids.append(stored_id(answer))
        return ids

    def _prepare(self, task: Task[A]) -> Task[A]:
        """Return the task to push in place of this one, after the functions of ``on_push``."""
        check_task(task)
        return self._queue.on_push(task) if self._queue.on_push else task

    def _row_of(self, task: Task[A]) -> NewRow:
        if self._closed:
            raise trio.ClosedResourceError(f"{type(self).__name__} is closed: nothing more can be pushed here")
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

    async def _do(self, verb: str, task_id: str, *args: Any) -> Any:
        """Call this method of the engine for a task."""
        check_unicode(check_text(task_id, "a task's id"), "a task's id")
        return await self._loop.ask(getattr(self._loop.engine, verb), self._queue.name, task_id, *args)

    async def fetch_by_id(self, task_id: str) -> Task[A] | None:
        """Return the task of this id, unfinished or remembered; or None. Its ``parts.context`` has its history, its
        error, its result and its progress.
        """
        stored: StoredRow | None = await self._do("find", task_id)
        return None if stored is None else task_of(stored, self._queue)

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
        query = self._query(request.selection)._replace(newest_first=newest_first, after=request.after, limit=limit)
        found: Found[StoredRow] = await self._loop.ask(self._loop.engine.search, self._queue.name, query)
        tasks = [task_of(stored, self._queue) for stored in found.rows]
        if status is not None:  # one that was claimed meanwhile has another by now
            tasks = [task for task in tasks if task.parts.status is status]
        return request.page(Found(tasks, found.next, found.is_partial))

    def _query(self, selection: Selection) -> Query:
        """Return the question for these tasks.

        In the store, a row that is claimed here and not begun is RUNNING like any other.
        """
        status = selection.status
        query = Query(list(State) if status is None else STATES[status], selection)
        if status is Status.Running:
            return query._replace(left_out=self._queue.unbegun())
        return query if status is not Status.Queued else query._replace(only=self._queue.unbegun())

    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task; None if none was.

        Raises:
          UnknownTaskError: no such task is known.
        """
        stored: StoredRow | None = await self._do("find", task_id)
        if stored is None:
            raise UnknownTaskError(task_id)
        return None if stored.progress is None else PLAIN.decode(stored.progress)

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task, as plain data; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not leased any more. Nothing changed.
        """
        check_task(task)
        lease = task.parts.context
        if not isinstance(lease, Lease) or lease.settled:
            raise LeaseLostError(f"task {escaped(task.parts.id)} is not running here")
        packed = PLAIN.encode(progress)
        check_length(len(packed), self._loop.engine.longest, "the progress")
        is_kept: bool = await self._loop.ask(self._loop.engine.report, lease.claim_key, packed)
        if not is_kept:
            raise LeaseLostError(f"attempt {task.parts.attempt} of task {escaped(task.parts.id)} has lost its lease")

    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task, in place of those of the same names; later attempts and
        :meth:`fetch_by_id` see them.

        Raises:
          EncodeError: they cannot be stored. Nothing changed.
          LeaseLostError: the task is not leased any more. Nothing changed.
        """
        check_task(task)
        parts, lease = task.parts, task.parts.context
        if not isinstance(lease, Lease) or lease.settled:
            raise LeaseLostError(f"task {escaped(parts.id)} is not running here")
        metadata = Metadata({**parts.metadata, **values})
        options = encode_options(parts.terms, metadata, parts.run_at)
        check_length(len(options or b""), self._loop.engine.longest, "the metadata")
        is_kept: bool = await self._loop.ask(self._loop.engine.set_options, lease.claim_key, options)
        if not is_kept:
            raise LeaseLostError(f"attempt {parts.attempt} of task {escaped(parts.id)} has lost its lease")
        parts.metadata = metadata

    @overload
    async def wait_for(self, task_id: str, type: type[R]) -> TaskResult[R]: ...
    @overload
    async def wait_for(self, task_id: str, type: None = None) -> TaskResult[Any]: ...
    async def wait_for(self, task_id: str, type: Any = None) -> TaskResult[Any]:
        """Wait until the task is finished, in any process, and return its :class:`TaskResult`.

        Args:
          task_id: the id of the task.
          type: a class that the result is an instance of, for type checkers: ``wait_for(id, Receipt)`` is a
              ``TaskResult[Receipt]``; default any value. The storage's ``result_type`` is what decodes it.

        Raises:
          TypeError: the result is not an instance of ``type``.
          UnknownTaskError: no such task is known, or it ended and is not remembered any more. A task that ends in this
            process during the call is remembered for it, also with ``keep_results=0``.

        If it is cancelled, the task goes on.
        """
        waiters = self._queue.waiters
        with Loan(check_text(task_id, "a task's id"), f"task {escaped(task_id)}") as loan:
            waiters[task_id] += 1
            try:
                return typed(await self._wait_for(task_id, loan), type)
            finally:
                waiters[task_id] -= 1
                if not waiters[task_id]:
                    del waiters[task_id]
                    self._queue.endings.pop(task_id, None)

    async def _wait_for(self, task_id: str, loan: Loan) -> TaskResult[Any]:
        awaited = self._queue.awaited
        while True:
            event = awaited.setdefault(task_id, trio.Event())
            try:
                stored: StoredRow | None = await self._do("find", task_id)
                if stored is None:
                    ending = self._queue.endings.get(task_id)
                    if ending is None or ending.kind not in ENDS:
                        raise UnknownTaskError(task_id)
                    return result_of_ending(task_id, ending, self._queue)
                if stored.state >= State.DONE:
                    return result_of(stored, self._queue)
                if not event.is_set():
                    event = awaited.setdefault(task_id, event)
                    self._loop.wake_up.set()  # the loop polls while a result is awaited
                    loan.begin()
                    with trio.move_on_after(self._seconds_until(stored.expires)):
                        await event.wait()
            finally:
                if awaited.get(task_id) is event and not event.statistics().tasks_waiting:
                    del awaited[task_id]

    def _seconds_until(self, moment: float | None) -> float:
        """Return the seconds until a moment on the engine's clock; at least a millisecond, since trio's may be ahead of
        it.
        """
        return math.inf if moment is None else max(0.001, moment - self._loop.engine.now())

    async def list_workers(self) -> list[str]:
        """Return the names of the workers that run on this queue, in any process."""
        found = await self._loop.ask(self._loop.engine.workers, self._queue.name)
        return [each.name for each in found if each.is_alive]

    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        """Return the workers on this queue, in any process; and, for an hour, those whose process has died.

        Args:
          fresh: True asks workers of other processes for their present state, by a wake-up, and waits for it, for a
              second at most. Otherwise the state is that of their last heartbeat, which they send every third of a
              lease; without a running task, only after a change. ``as_of`` is the time of the state.
        """
        engine, name = self._loop.engine, self._queue.name
        found: Sequence[StoredWorker] = await self._loop.ask(engine.workers, name)
        told_at = {(each.engine, each.number): each.told_at for each in found if each.is_alive and not each.is_own}
        if fresh and told_at:
            await self._loop.ask(engine.ask_workers, name)
            with trio.move_on_after(_ANSWER_TIME):  # noqa: ASYNC912  if all have answered by now
                while any(told_at.get((each.engine, each.number)) == each.told_at for each in found):
                    await trio.sleep(_ANSWER_TIME / 100)
                    found = await self._loop.ask(engine.workers, name)
        others = [decode_worker(each, name) for each in found if not each.is_own]
        return [*self._queue.workers.infos(self._queue.worker_names, engine.now()), *others]

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

    async def explain(self, task_id: str) -> Explanation:
        """Explain where the task of this id is, and why it does not run now; in any process.

        >>> print(await storage.explain(task_id))

        The :class:`Explanation` has the evidence in its fields, and in one sentence as its text. It does not look at
        more tasks than at a thousand that go first. If that is of use, workers of other processes are asked for their
        present state, for a second at most.
        """
        found: LocatedRow | None = await self._do("locate", task_id)
        evidence = Evidence(id=task_id, queue=self.queue, now=self._loop.engine.now())
        if found is not None:
            evidence.task = task_of(found.row, self._queue)
            evidence.due, evidence.reason, evidence.place = found.row.due, found.row.suspended, found.place
            evidence.is_paused = found.is_paused
            if not self._loop.engine.knows_workers:
                evidence.workers = None
            elif evidence.needs_workers:
                evidence.workers = await self.workers(fresh=True)
        return explanation_of(evidence)

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
        check_task(task)
        payload = self._queue.codec.encode(task.args)
        stored: StoredRow | None = await self._do("find", task.parts.id)
        if stored is None:
            return False
        run_at = moment_of(stored.run_at, stored.options)
        options = encode_options(decode_options(stored.options, stored.name)[0], task.parts.metadata, run_at)
        check_length(len(payload) + len(options or b""), self._loop.engine.longest, "the task")
        changed: bool = await self._do("update", task.parts.id, payload, options)
        return changed

    async def reschedule(self, task_id: str, delay: float) -> bool:
        """Make the waiting task ready in ``delay`` seconds; False if no task of this id waits."""
        run_at = microseconds_of(wall_after(check_seconds(delay, "delay")))
        moved: bool = await self._do("reschedule", task_id, delay, run_at)
        self._loop.check_queues()
        return moved

    async def cancel(self, task_id: str, *, running: bool = False) -> bool:
        """Kill the waiting task of this id; False if no task of this id waits.

        With ``running=True``, one that runs is aborted, as :meth:`abort` does. Which of the two is decided in one
        transaction.
        """
        error = encode_error(AbortError("cancelled while it waited"))
        cancelled: bool | ClaimKey = await self._do("cancel", task_id, error, bool(running))
        if isinstance(cancelled, ClaimKey):
            self._abort_here(task_id, cancelled)
            return True
        if cancelled:
            self._queue.finish(task_id)
            self._loop.check_queues()
        return cancelled

    async def abort(self, task_id: str) -> bool:
        """Cancel the attempt under way, in whatever process, which is then settled as killed; False if there is none.

        It returns once that is stored, and the attempt is cancelled, if it is in this process. The worker of another
        process cancels it within moments, or at the latest with its next heartbeat. If the attempt succeeds all the
        same, the task is done; but it is not attempted again after this, even if its worker dies.
        """
        claim_key: ClaimKey | None = await self._do("abort", task_id)
        if claim_key is not None:
            self._abort_here(task_id, claim_key)
        return claim_key is not None

    def _abort_here(self, task_id: str, claim_key: ClaimKey) -> None:
        """Cancel the attempt under this claim, if it is made in this process."""
        parts = self._queue.leased.get(task_id)
        if parts is not None and parts.context.claim_key == claim_key:
            abort(parts)

    async def resume_by_id(self, task_id: str) -> bool:
        """Make the finished task of this id wait again, with all of its attempts; False if there is no such task. The
        result of one that has succeeded is forgotten.

        Raises:
          DuplicateTaskError: its unique key is taken by now.
        """
        resumed: bool = await self._do("resume", task_id)
        self._loop.check_queues()
        return resumed

    async def resume_abandoned(self) -> int:
        """Make orphans wait again at once; return how many there were.

        Many of them take several transactions, and other processes have theirs in between. If it is cancelled, the
        transactions that were made stay.
        """
        for queue, late in self._loop.late_leases(self._loop.engine.now()):  # tasks that run here are not abandoned
            held, until = {parts.context.claim_key: parts for parts in late}, self._loop.engine.now() + queue.lease
            queue.note_renewal(held, await self._loop.ask(self._loop.engine.renew, [*held], queue.lease), until)
        number = await self._in_parts(self._loop.engine.resume_abandoned)
        self._loop.check_queues()
        return number

    async def discard(self, task_id: str) -> bool:
        """Forget the task of this id, finished or waiting; False if there is none, or if it runs.

        One that waited is counted as killed; those that wait for its result get :exc:`UnknownTaskError`.
        """
        part: Part = await self._do("forget", task_id)
        if part.number:
            self._queue.finish(task_id)
            self._loop.check_queues()
        return part.number > 0

    async def retry_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Make all failed and killed tasks wait again that pass the filters, with all of their attempts; or those that
        are done, if that status is given. Return how many there were; one whose unique key is taken stays as it is.

        500 of them at most go in one transaction, and other processes have theirs in between. A task that has changed
        meanwhile is judged again in its transaction. If it is cancelled, the transactions that were made stay.
        """
        return await self._change_all("resume", selections("retry_all", status, filters, self._loop.engine.now()))

    async def cancel_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Kill all waiting tasks that pass the filters; return how many there were. It goes in parts as
        :meth:`retry_all` does.
        """
        return await self._change_all("cancel", selections("cancel_all", status, filters, self._loop.engine.now()))

    async def discard_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Forget all finished tasks that pass the filters; return how many there were. It goes in parts as
        :meth:`retry_all` does.
        """
        return await self._change_all("forget", selections("discard_all", status, filters, self._loop.engine.now()))

    async def _change_all(self, verb: Literal["cancel", "resume", "forget"], chosen: list[Selection]) -> int:
        """Change all tasks of these selections; return the number of those that were changed."""
        number = 0
        for selection in chosen:
            query, is_more = self._query(selection)._replace(limit=CHANGED_AT_ONCE), True
            while is_more:
                if number:
                    await trio.sleep(_PARTS_APART)
                step: Changed = await self._loop.ask(self._loop.engine.change, self._queue.name, verb, query)
                for task_id in step.ids if verb != "resume" else ():
                    self._queue.finish(task_id)
                self._loop.check_queues()
                number += len(step.ids)
                query, is_more = query._replace(after=step.after), step.is_more
        return number  # noqa: ASYNC910  there is a selection at least

    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        """Forget all finished tasks, dead letters included; return how many there were.

        Args:
          older_than: seconds; only tasks that were finished this long ago, or longer.
          status: only tasks that are Done, Failed or Killed.

        Many of them take several transactions, and other processes have theirs in between. If it is cancelled, the
        transactions that were made stay.
        """
        if older_than is not None or status is not None:
            seconds = 0.0 if older_than is None else check_seconds(older_than, "older_than")
            chosen = selections("vacuum", status, {}, self._loop.engine.now(), seconds)
            return await self._change_all("forget", chosen)
        return await self._in_parts(self._loop.engine.forget, None)

    async def _in_parts(self, step: Callable[..., Awaitable[Part]], *args: Any) -> int:
        """Repeat a step until nothing is left to do; return the number of rows in all steps."""
        number, is_more = await self._loop.ask(step, self._queue.name, *args)
        while is_more:
            await trio.sleep(_PARTS_APART)
            part: Part = await self._loop.ask(step, self._queue.name, *args)
            number, is_more = number + part.number, part.is_more
        return number


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
