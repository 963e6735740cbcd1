"""The body of every stored backend: a codec, what is in hand, and exchanges with an engine.

A storage of ours is this class with an engine in it, so all of them keep the same promises; what an engine has to do
for that is written at :mod:`trio_tasks._backends.durable.engine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import trio

from ..._clock import wall_after
from ..._concurrency.virtual_time import goes_by_the_wall
from ..._contracts.backend import ListQueues, RegisterWorker, StockedBackend
from ..._contracts.context import WorkerContext
from ..._contracts.sink import BATCH_SIZE, TaskSink, check_task, make_tasks
from ..._exports import part_of
from ..._logging import log
from ..._printing import escaped, quoted
from ..._tasks.errors import BackendError, DuplicateTaskError, LeaseLostError, UnsettledError
from ..._tasks.outcome import Status
from ..._tasks.task import Task
from ..._tasks.task_id import TaskId, stored_id
from .batch import Refused
from .encoding import encode_options
from .engine import Renewal
from .handle import StorageHandle
from .inspection import StorageOperations
from .queue import STALE, Lease
from .settling import STATUS_AFTER, check_length, settlement_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Unpack

    from ..._tasks.outcome import Outcome
    from ..._tasks.task import TaskOptions
    from .engine import NewRow

A = TypeVar("A")


@part_of("DurableStorage")
class DurableStorage(
    StorageHandle[A], StorageOperations[A], TaskSink[A], StockedBackend[A], RegisterWorker, ListQueues
):
    """The base of :class:`SqliteStorage` and :class:`FileStorage`: tasks that outlive the process.

    To be named in annotations and ``isinstance``; open one of the two.
    """

    settles_within_bounds = True

    # Pushing

    async def push_task(self, task: Task[A]) -> TaskId:
        """Put a whole task in.

        Returns:
          its id; or, where it has a unique key and is to be skipped, the id of the one which has the key.

        Raises:
          TypeError, ValueError: its args cannot be encoded. Nothing was stored.
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: this handle is closed.
          BackendError: it could not be stored, as when the disk is full.

        When it returns, the task is stored, as safely as the storage was told to. If it is cancelled, nothing was.
        """
        row = self._row_of(task)
        took_along = self._queue.keep_extensions(task.parts)
        answer: str | DuplicateTaskError | None = None
        try:
            [answer] = await self._loop.push(self._queue, [row])
        finally:
            if took_along and answer != row.id:
                self._queue.extensions.pop(row.id, None)
        if isinstance(answer, DuplicateTaskError):
            raise answer
        return stored_id(str(answer))

    async def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and put them in, in this order.

        Every task is made, and every option checked, before the first is put in; then up to 512 go in one transaction.
        If it is cancelled, those whose transaction was made stay in.
        """
        tasks = await make_tasks(many, options, self)
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

    def _row_of(self, task: Task[A]) -> NewRow:
        check_task(task)
        if self._closed:
            raise trio.ClosedResourceError("this storage is closed: nothing more can be pushed here")
        parts = task.parts
        terms = parts.terms
        delay = parts.seconds_to_wait
        run_at = wall_after(delay) if terms.delay else parts.run_at  # a delay begins now, whenever the task was built
        payload, head = self._queue.codec.encode(task.args), encode_options(terms, parts.metadata, run_at)
        check_length(len(payload) + len(head or b""), self._loop.engine.longest, "the task")
        by_wall_clock = run_at is not None and not terms.delay and goes_by_the_wall()
        row = self._queue.row_of(task, payload, head, delay, run_at, by_wall_clock=by_wall_clock)
        parts.run_at = run_at
        return row

    # Receiving

    async def receive(self) -> Task[A]:
        """The next task, in hand from now on, under a lease; waits for one.

        Raises:
          trio.EndOfChannel: the queue is closed here, and empty.
          BackendError: the store cannot be had any more.

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
        """As :meth:`receive`; raises ``trio.WouldBlock`` if no task has been claimed in advance, and also if it is not
        known whether the queue has ended: somebody else may have pushed since that was last seen."""
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
        """Take note of how the attempt ended; when it returns, that is stored.

        Raises:
          LeaseLostError: the task is not in hand under this claim any more. Nothing changed.
          UnsettledError: the result cannot be stored, or what was to be written with it failed. Nothing changed.
          BackendError: it could not be stored, though it was tried for some seconds.

        It cannot be cancelled, and ends in bounded time.
        """
        if not isinstance(task, Task):
            raise TypeError(f"what is settled is a Task, not {type(task).__name__}")
        parts = task.parts
        lease = parts.context
        if not isinstance(lease, Lease) or lease.queue is not self._queue or lease.settled:
            raise LeaseLostError(f"task {escaped(parts.id)} is not in hand here in its attempt {parts.attempt}")
        settlement = settlement_of(task, lease, outcome, self._loop.engine)
        lease.settled = True
        self._loop.settle(self._queue, settlement, parts)
        answer: Any = await trio.lowlevel.wait_task_rescheduled(_stay)
        if answer is not True and answer is not False:  # an error of user code, which is not asked for its class
            lease.settled = False
            self._queue.leased[parts.id] = parts
            if type(answer) is Refused:
                raise UnsettledError(answer.error, for_good=True)
            raise UnsettledError(answer, for_good=False)
        if not answer:
            raise LeaseLostError(
                f"task {escaped(parts.id)} had its attempt {parts.attempt} taken away: its lease ran out"
            )
        parts.status = STATUS_AFTER[settlement.kind]
        if parts.status is not Status.Pending:
            self._queue.finish(parts.id)

    # Keeping

    async def beat(self, context: WorkerContext) -> None:  # noqa: ASYNC910  something is held, or has changed
        """Renew the leases of what this worker has in hand; end the attempts that lost theirs, or are to be aborted."""
        held = {
            task.parts.context.claim_key: task.parts
            for task in context.in_hand
            if isinstance(task.parts.context, Lease) and not task.parts.context.settled
        }
        has_changed = any(context.is_stopped for context in self._workers())
        if not held and not has_changed:
            await trio.lowlevel.checkpoint()  # there is nothing to renew, and the same run as before
            return
        until = self._loop.engine.now() + self.lease
        try:
            renewal = await self._loop.ask(self._loop.engine.renew, [*held], self.lease) if held else Renewal()
            if has_changed:
                await self._say_who_works()
        except BackendError as error:
            if error.is_final or any(parts.context.until < until - self.lease for parts in held.values()):
                raise
            log.warning("leases could not be renewed, which is tried again: %s", error)
            return  # noqa: ASYNC910  it has waited
        self._queue.note_renewal(held, renewal, until)

    async def register_worker(self, context: WorkerContext) -> None:
        """A worker starts to receive here."""
        if not isinstance(context, WorkerContext):
            raise TypeError(f"what is registered is the WorkerContext of a run, not {quoted(context)}")
        self._queue.set_workers({**self._queue.worker_names, context: context.name})
        await self._say_who_works()

    async def unregister_worker(self, context: WorkerContext) -> None:
        """A worker has ended: when this returns, the tasks that were claimed for it and not begun are back in the
        store, at no cost. Another worker on the queue claims again what it needs.

        Raises:
          BackendError: that could not be stored; they come back when their lease runs out.
        """
        self._queue.set_workers({each: name for each, name in self._queue.worker_names.items() if each is not context})
        if self._loop.failure is not None or self._loop.closed:
            await trio.lowlevel.checkpoint()
            return
        await self._loop.release_prefetched_now(self._queue)
        await self._say_who_works()

    async def _say_who_works(self) -> None:
        queue = self._queue
        queue.set_workers({each: each.name for each in self._workers() if not each.is_stopped})
        await self._loop.ask(self._register)

    def _workers(self) -> list[WorkerContext]:
        return [context for context in self._queue.worker_names if isinstance(context, WorkerContext)]

    async def _register(self) -> None:
        """In its turn, so that the latest word is the last one."""
        await self._loop.engine.register(self._queue.name, list(self._queue.worker_names.values()))


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
