"""MemoryStorage: a storage in memory, for one process."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast, final, overload

import trio

from .._checks import check_flag, check_name, check_stored_text
from .._contracts.backend import (
    CallTask,
    Explain,
    ListQueues,
    ListWorkers,
    NowaitBackend,
    Pause,
    RegisterWorker,
    ResumeAbandoned,
    SetLimits,
    StoreSchedules,
    Throughput,
    Watch,
)
from .._contracts.calls import make_call
from .._contracts.minutes import check_span, shown
from .._contracts.result_waits import ResultWait
from .._contracts.schedules import ScheduleResult, TaskTemplate
from .._contracts.sink import BATCH_SIZE, PushHooks, TaskSink, check_task, make_tasks
from .._contracts.storage_events import Pushed, StorageEvent
from .._printing import quoted
from .._tasks.errors import DuplicateTaskError
from .._tasks.limits import check_key, check_limits
from .._tasks.outcome import Released, Status
from .._tasks.task import make_task
from .capabilities import LedgerCapabilities
from .memory_queue import MemoryQueue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from typing_extensions import Unpack

    from .._codecs.codec import Codec
    from .._contracts.context import WorkerContext
    from .._contracts.deadlines import DefaultDeadline
    from .._contracts.explanation import Explanation
    from .._contracts.metrics import AttemptTotals, Minute
    from .._contracts.schedules import ScheduleChange, ScheduleEntry
    from .._contracts.sink import OnPush
    from .._contracts.worker_info import WorkerInfo
    from .._tasks.limits import Limits
    from .._tasks.outcome import Outcome
    from .._tasks.task import Task, TaskOptions
    from .._tasks.task_id import TaskId

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class MemoryStorageStatistics:
    """A snapshot of a memory storage, for tests and to look at the buffer; for counters, as on every storage, use
    ``metrics()``, whose totals the last eight are. ``waiting`` are all that are not running, delayed ones, too."""

    waiting: int
    running: int
    dead: int
    results_kept: int
    receivers_waiting: int
    pushers_waiting: int
    max_buffer_size: float
    open_handles: int
    pushed: int
    resumed: int
    succeeded: int
    failed: int
    killed: int
    retried: int
    released: int
    suspended: int


class MemoryOptions(TypedDict, total=False):
    """The keyword options of a queue in memory; see :class:`MemoryStorage`."""

    max_buffer_size: float
    codec: Codec | Callable[[Any], Codec] | None
    result_type: Any
    keep_results: int
    on_push: OnPush
    deadline: DefaultDeadline | None
    limits: Limits | None


@final
class MemoryStorage(
    LedgerCapabilities[A],
    TaskSink[A],
    CallTask[A],
    NowaitBackend[A],
    RegisterWorker,
    ListWorkers,
    ListQueues,
    ResumeAbandoned,
    Pause,
    SetLimits,
    Explain,
    Throughput,
    Watch,
    StoreSchedules,
):
    """A storage in memory, for one process.

    >>> storage = MemoryStorage[Email]()
    >>> worker = Worker("emails", storage, send_email)
    >>> await storage.push(Email(to="a@example.com"), delay=60)

    It has delays, priorities, unique keys, expiry, results and dead letters. It ends, for its receivers, once it is
    closed *and* empty; a task that is delayed or will be retried keeps it open, and so does one in an attempt, since it
    may come back. (A handler that itself receives from its own worker's storage until the end therefore waits for
    itself.)

    Args and results are any objects, and are handed over by reference. With ``type=``, ``codec=`` or ``result_type=``
    they are encoded and decoded as in a storage that lasts: values that such a storage would refuse are refused here
    too, and each attempt is given a value of its own.

    Args:
      max_buffer_size: the most tasks that may wait; then :meth:`push` waits for room. Retried and released tasks
          always find room. Default: ``math.inf``, no limit.
      type: the type of the args; args that do not fit it are refused when they are pushed. Default: any object, by
          reference.
      queue: the name of the queue. For further queues, see :meth:`share`. Default: ``"default"``.
      codec: the codec of the args: a :class:`Codec`, or a function or class that makes one from the type, such as
          :class:`JsonCodec`. Default: none; with a ``type``, :class:`CborCodec`.
      result_type: the type that handlers return, which is encoded too. Default: any object, by reference.
      keep_results: the number of succeeded tasks that are kept with their results, for :meth:`wait_for`; the oldest are
          forgotten first. Failed and killed tasks are kept until :meth:`vacuum`. Default: 10 000.
      on_push: a sync function, or several, called with each task before it is pushed, in every way of pushing; each
          returns the task to push instead, such as ``task.with_metadata(tenant="acme")``. One with a parameter
          ``queue`` is given the name of the queue, too. Default: none.
      deadline: ``"inherit"`` gives each task that is pushed without a ``deadline`` that of the trio task which pushes
          it, if there is one; so what an attempt pushes ends with the attempt's own deadline. Default: None, none.
      limits: the :class:`Limits` of the queue: how many attempts run at once or begin within a time, in all or for each
          key. Default: none. See :meth:`set_limits`.

    Raises:
      ModuleNotFoundError: a type or a codec needs a library that is not installed.
    """

    @overload
    def __init__(
        self,
        max_buffer_size: float = math.inf,
        *,
        type: type[A],
        queue: str = "default",
        codec: Codec | Callable[[Any], Codec] | None = None,
        result_type: Any = None,
        keep_results: int = 10_000,
        on_push: OnPush = (),
        deadline: DefaultDeadline | None = None,
        limits: Limits | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_buffer_size: float = math.inf,
        *,
        type: Any = None,
        queue: str = "default",
        codec: Codec | Callable[[Any], Codec] | None = None,
        result_type: Any = None,
        keep_results: int = 10_000,
        on_push: OnPush = (),
        deadline: DefaultDeadline | None = None,
        limits: Limits | None = None,
    ) -> None: ...
    def __init__(
        self,
        max_buffer_size: float = math.inf,
        *,
        type: Any = None,
        queue: str = "default",
        codec: Codec | Callable[[Any], Codec] | None = None,
        result_type: Any = None,
        keep_results: int = 10_000,
        on_push: OnPush = (),
        deadline: DefaultDeadline | None = None,
        limits: Limits | None = None,
    ) -> None:
        options = {
            "max_buffer_size": max_buffer_size,
            "codec": codec,
            "result_type": result_type,
            "keep_results": keep_results,
            "on_push": PushHooks(on_push),
            "deadline": deadline,
            "limits": check_limits(limits),
        }
        self._join(MemoryQueue(queue, type, options, {}), is_clone=False)

    def _join(self, queue: MemoryQueue[A], *, is_clone: bool) -> None:
        self._ledger_holder = self._queue = queue
        self.args_type = Any if queue.type is None else queue.type
        self._is_new_clone = is_clone  # it may turn out to be for receiving only
        self._has_pushed = not is_clone
        self._closed = False
        self._encoding = queue.encoding
        self._takes_as_it_is = queue.encoding is None and not queue.on_push
        queue.pushing_handles.add(self)

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._queue.name

    @overload
    def share(self, type: type[B], *, queue: str, **options: Unpack[MemoryOptions]) -> MemoryStorage[B]: ...
    @overload
    def share(self, type: Any = None, *, queue: str, **options: Unpack[MemoryOptions]) -> MemoryStorage[Any]: ...
    def share(self, type: Any = None, *, queue: str, **options: Unpack[MemoryOptions]) -> MemoryStorage[Any]:
        """Make another queue beside this one, or another handle to the queue of this name.

        It is closed on its own. The options are those of the storage (``max_buffer_size``, ``codec``, ``result_type``,
        ``keep_results``, ``on_push``, ``deadline``), and the same as here if not given. Without a type, a queue beside
        one with a type takes anything plain. ``limits`` are for this queue alone; if it is there and has some, they
        stay.

        Raises:
          ValueError: there is a queue of this name, with another type or other options.
        """
        possible = MemoryOptions.__annotations__
        if unknown := options.keys() - possible.keys():
            raise TypeError(f"MemoryStorage.share has no option {unknown.pop()!r}: it has {', '.join(possible)}")
        known = self._queue.siblings.get(check_name(queue, "queue"))
        limits = options["limits"] = check_limits(options.get("limits"))
        if known is not None:
            known.check_same(type, options)
            known.closed = False
            known.set_first_limits(limits)
        other: MemoryStorage[Any] = object.__new__(cast("Any", MemoryStorage))
        other._join(known or self._queue.make_sibling(queue, type, options), is_clone=known is not None)
        return other

    def clone(self) -> MemoryStorage[A]:
        """Make another handle to the same storage, to be closed separately, as with trio's memory channels.

        The storage is closed when every handle is, so each of several producers can close its own. A clone that has
        only ever been received from, such as one given to a worker, does not keep the storage open.

        Raises:
          trio.ClosedResourceError: this handle is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("a closed storage cannot be cloned")
        clone: MemoryStorage[A] = object.__new__(type(self))
        clone._join(self._queue, is_clone=True)
        return clone

    __copy__ = clone

    # Pushing

    @trio.lowlevel.enable_ki_protection
    async def push_task(self, task: Task[A]) -> TaskId:
        """Push a whole task; wait for room where the buffer is bounded.

        Raises:
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: this handle is closed, or was while this waited.

        If it is cancelled, nothing was pushed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._push(check_task(task) if self._takes_as_it_is else self._prepare(task))

    @trio.lowlevel.enable_ki_protection
    async def push_or_get(self, args: A, **options: Unpack[TaskOptions]) -> Pushed:
        """Make a task of ``args``, and push it; see :meth:`TaskSink.push_or_get`."""
        task = make_task(args, options, self)
        await trio.lowlevel.checkpoint_if_cancelled()
        task = self._prepare(task)
        task_id = await self._push(task)
        return Pushed(task_id, task_id == task.parts.id)

    async def _push(self, task: Task[A]) -> TaskId:
        """Push a task that is prepared; wait for room."""
        try:
            task_id = self._push_prepared(task)
        except trio.WouldBlock:
            return await self._queue.push_when_room(task, self)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return task_id

    @trio.lowlevel.enable_ki_protection
    def push_task_nowait(self, task: Task[A]) -> TaskId:
        """Push a whole task, or raise ``trio.WouldBlock`` if there is no room."""
        return self._push_prepared(check_task(task) if self._takes_as_it_is else self._prepare(task))

    def _push_prepared(self, task: Task[A]) -> TaskId:
        if self._closed or self._queue.closed:
            self._check_open()
        if not self._has_pushed:
            self._has_pushed = True
            self._queue.pushing_handles.add(self)
        return self._queue.push_nowait(task)

    def _prepare(self, task: Task[A]) -> Task[A]:
        """The task to be kept in place of this one: what the functions of ``on_push`` make of it, encoded."""
        task = self._queue.on_push(check_task(task))
        return task if self._encoding is None else self._encoding.encode(task)

    def push_nowait(self, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """Make a task and push it without waiting; the keywords are those of :meth:`push`.

        Raises:
          trio.WouldBlock: there is no room.
        """
        return self.push_task_nowait(make_task(args, options, self))

    @trio.lowlevel.enable_ki_protection
    async def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and push them in this order.

        Every task is made, and every option checked, before the first is pushed. If it is cancelled, those that were
        pushed so far stay.

        Raises:
          DuplicateTaskError: one is a duplicate; all others are pushed before it is raised.
        """
        ids: list[TaskId] = []
        duplicate: DuplicateTaskError | None = None
        tasks = await make_tasks(many, options, self)
        if not self._takes_as_it_is:
            tasks = [self._prepare(task) for task in tasks]
        for number, task in enumerate(tasks, start=1):
            try:
                try:
                    ids.append(self._push_prepared(task))
                except trio.WouldBlock:
                    ids.append(await self._queue.push_when_room(task, self))
            except DuplicateTaskError as error:
                duplicate = duplicate or error
            if not number % BATCH_SIZE:
                await trio.lowlevel.checkpoint()
        if duplicate is not None:
            raise duplicate
        return ids

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Refuse further pushes through this handle. Once every handle is closed, receivers get the rest, and then the
        end.
        """
        if self._closed:
            return
        self._closed = True
        self._queue.cancel_pushes(self)
        self._queue.remove_handle(self)
        self._queue.schedules.changes.note()

    async def aclose(self) -> None:
        """Close, as :meth:`close` does, and make a checkpoint. Waiting tasks can still be received."""
        self.close()
        await trio.lowlevel.checkpoint()

    # Calling

    @overload
    async def call(self, args: A, type: type[R], **options: Unpack[TaskOptions]) -> R: ...
    @overload
    async def call(self, args: A, type: None = None, **options: Unpack[TaskOptions]) -> Any: ...
    async def call(self, args: A, type: Any = None, **options: Unpack[TaskOptions]) -> Any:
        """Push a task, wait until it is finished, in this process, and return its result, or raise its error.

        >>> receipt = await storage.call(Email(to="a@example.com"), Receipt)

        Args:
          args: the value that the handler is given.
          type: a class that the result is an instance of, as for :meth:`wait_for`; default any value.
          options: those of :meth:`push`.

        Raises:
          BaseException: the error of the task, if it has failed or was killed; or what :meth:`push` raises.
          TypeError: the result is not an instance of ``type``.
          UnknownTaskError: the task was discarded, or its result is not remembered.

        If it is cancelled, a task that waits is forgotten, and an attempt under way is cancelled. It returns when that
        has ended: then nothing of the task runs any more. If that takes longer than 40 seconds, a warning names the
        task, and it returns all the same. Such an end is logged at level INFO, counted as killed, and not kept as a
        dead letter. A task that this call did not push, but found by its unique key, is left alone.
        """
        return await make_call(self, args, type, options, self._withdraw)

    async def _withdraw(self, task_id: str) -> None:
        """End a task whose call was cancelled, and wait until it has ended."""
        queue = self._queue
        await trio.lowlevel.checkpoint()
        queue.expire()
        with ResultWait(queue.completion, [task_id]) as wait:
            runs = queue.withdraw(task_id)
            queue.match_waiters()
            if runs:
                await wait.wait(trio.current_time())

    # Receiving and settling

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Task[A]:
        """Wait for the next task, and claim it.

        Raises:
          trio.EndOfChannel: the storage is closed and empty.

        If it is cancelled, nothing was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            task = self.receive_nowait()
        except trio.WouldBlock:
            return self._decoded(await self._queue.wait_and_take())
        await trio.lowlevel.cancel_shielded_checkpoint()
        return task

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self) -> Task[A]:
        """Claim the next task, or raise ``trio.WouldBlock`` if none is ready; else as :meth:`receive`."""
        if self._is_new_clone:
            self._is_new_clone = False
            if not self._has_pushed:
                self._queue.remove_handle(self)
        task = self._queue.take_nowait()
        return task if self._encoding is None else self._decoded(task)

    def _decoded(self, task: Task[A]) -> Task[A]:
        """Decode a task that was just claimed; if decoding is interrupted, release the task."""
        if self._encoding is None:
            return task
        is_decoded = False
        try:
            decoded: Task[A] = self._encoding.decode(task)
            is_decoded = True
            return decoded
        finally:
            if not is_decoded:
                self._queue.settle(task, Released("interrupted"))

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome of the attempt, even if this call is cancelled."""
        self.settle_nowait(task, outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome, as :meth:`settle` does, without a checkpoint."""
        self._queue.settle(task, outcome if self._encoding is None else self._encoding.settled(outcome))

    # Changing

    async def update(self, task: Task[A]) -> bool:
        """Replace args and metadata of the waiting task of the same id by this task's; False if no such task waits."""
        return await super().update(
            task if self._encoding is None else self._encoding.encode(check_task(task, "update"))
        )

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
        """
        if self._encoding is not None:
            progress = self._encoding.progress(progress)
        await super().report_progress(task, progress)

    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task, in place of those of the same names.

        Raises:
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
        """
        if self._encoding is not None:
            values = self._encoding.metadata(values)
        await super().set_metadata(task, values)

    async def resume_abandoned(self) -> int:
        """Return 0: there are no orphans without leases."""
        await trio.lowlevel.checkpoint()
        return 0

    @trio.lowlevel.enable_ki_protection
    async def pause(self) -> None:
        """Give out no more tasks of this queue, until :meth:`resume`.

        Attempts under way go on, and are settled as ever; tasks can be pushed. A worker on a queue that is closed ends
        once the queue is empty, so it waits for :meth:`resume` while tasks are left.
        """
        await trio.lowlevel.checkpoint()
        self._queue.is_paused = True

    @trio.lowlevel.enable_ki_protection
    async def resume(self) -> None:
        """Give out tasks again."""
        await trio.lowlevel.checkpoint()
        self._queue.is_paused = False
        self._queue.match_waiters()

    async def is_paused(self) -> bool:
        """Return True if the queue is paused."""
        await trio.lowlevel.checkpoint()
        return self._queue.is_paused

    @trio.lowlevel.enable_ki_protection
    async def set_limits(self, limits: Limits | None, *, key: str | None = None) -> None:
        """Replace the limits of the queue, or of one key in it.

        >>> await storage.set_limits(Limits(concurrency=50, per_key=2))
        >>> await storage.set_limits(Limits(per_key=5, weight=2), key="acme")

        What a key has of its own replaces, as a whole, what the queue says of keys. Attempts under way go on; if more
        of them run than a lower limit says, none begins until enough have ended.

        Args:
          limits: the new limits; None: the queue has none, or the key goes by those of the queue.
          key: the key; default the queue.

        Raises:
          TypeError, ValueError: they are no :class:`Limits`, or a key is given a limit of the whole queue.
        """
        check_limits(limits, of_key=check_key(key) is not None)
        await trio.lowlevel.checkpoint()
        self._queue.ledger.set_limits(limits, key)
        self._queue.match_waiters()

    async def get_limits(self, *, key: str | None = None) -> Limits | None:
        """Return the limits of the queue, or those that one key has of its own; None if there are none."""
        check_key(key)
        await trio.lowlevel.checkpoint()
        return self._queue.ledger.limits.get(key)

    async def list_limits(self) -> dict[str | None, Limits]:
        """Return all limits: those of the queue under None, and then those that keys have of their own by key."""
        await trio.lowlevel.checkpoint()
        return self._queue.ledger.limits.all()

    async def throughput(
        self, since: datetime | None = None, until: datetime | None = None, *, name: str | None = None
    ) -> list[Minute]:
        """Return the attempts at tasks of this queue, added up for each minute and name, in order.

        It is kept for 48 hours, up to 10 000 minutes, times names. More than 100 names in a minute share ``"other"``.

        Args:
          since: the first minute is the one with this moment; default the first that is kept.
          until: the last minute begins before this moment; default the last one.
          name: of the tasks; default all.
        """
        check_span(since, until, name)
        await trio.lowlevel.checkpoint()
        ledger = self._queue.ledger
        ledger.tally.drop_old(ledger.seconds())
        return shown([(*key, sums) for key, sums in ledger.tally.rows.items()], since, until, name)

    def attempt_totals(self) -> list[AttemptTotals]:
        """Return the sums of all attempts at tasks of this queue, for each name, since it was made. They never fall.

        The first hundred names are told apart; all others share ``"other"``.
        """
        return self._queue.ledger.tally.totals()

    # Schedules

    async def list_schedules(self, after: int = 0, *, name: str | None = None) -> list[ScheduleEntry]:
        """Return the schedules whose revision is above ``after``, or the one of a name; see :class:`Schedules`."""
        await trio.lowlevel.checkpoint()
        return self._queue.schedules.after(after, name)

    @trio.lowlevel.enable_ki_protection
    async def set_schedules(self, changes: Sequence[ScheduleChange]) -> list[ScheduleResult]:
        """Change schedules, and push tasks of them to this queue, in one step; see :class:`Schedules`.

        A schedule that has another revision than its change says stays as it is, and no task is pushed for it. The
        tasks of schedules always find room.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        queue, results = self._queue, list[ScheduleResult]()
        for change in changes:
            revision = queue.schedules.set(change)
            ids = [queue.push_for_schedule(each) for each in change.tasks] if revision else ()
            results.append(ScheduleResult(revision, ids))
        queue.match_waiters()
        return results

    def make_template(self, task: Task[A]) -> TaskTemplate:
        """Return what is kept of a task that schedules push to this queue.

        Raises:
          TypeError, ValueError: its args cannot be encoded.
        """
        task = self._prepare(task)
        return TaskTemplate(task.args, task.parts.terms, task.parts.metadata)

    async def wait_for_schedules(self, seen: int = 0) -> int:
        """Wait until a schedule was changed since the call that returned ``seen``.

        Raises:
          trio.ClosedResourceError: the storage is closed.
        """
        changes = await self._queue.schedules.changes.wait(seen)
        self._check_open()
        return changes

    def _check_open(self) -> None:
        if self._closed or self._queue.closed:
            raise trio.ClosedResourceError(f"{type(self).__name__} is closed: nothing more can be pushed here")

    # Looking

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[trio.abc.ReceiveChannel[StorageEvent], None]:
        """Open a channel of the changes of the queue from now on: tasks that are pushed, that expire, and that are
        cancelled or replaced. See :meth:`Watch.events`.

        Raises:
          trio.ClosedResourceError: this handle is closed. The channel ends when all handles are.
        """
        async with self._queue.events.opened(self._check_not_closed) as events:
            yield events

    def _check_not_closed(self) -> None:
        if self._closed or self._queue.closed:
            raise trio.ClosedResourceError(f"{type(self).__name__} is closed: it has no events any more")

    async def register_worker(self, context: WorkerContext) -> None:
        """Add a worker that starts to receive here."""
        from .._contracts.context import WorkerContext  # only a program with a worker has loaded it

        if not isinstance(context, WorkerContext):
            raise TypeError(f"register_worker takes the WorkerContext of a run, not {quoted(context)}")
        await trio.lowlevel.checkpoint()
        self._queue.note_run(trio.lowlevel.current_clock())
        self._queue.workers = {each: since for each, since in self._queue.workers.items() if not each.is_stopped}
        self._queue.workers[context] = self._queue.ledger.seconds()

    async def unregister_worker(self, context: WorkerContext) -> None:
        """Remove a worker that has ended; no task was claimed in advance."""
        self._queue.workers.pop(context, None)
        await trio.lowlevel.checkpoint()

    async def list_workers(self) -> list[str]:
        """Return the names of the workers that run on the storage."""
        await trio.lowlevel.checkpoint()
        return [each.name for each in self._queue.workers if not each.is_stopped]

    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        """Tell of the workers that run on it, as they are now; all of them are in this process."""
        from .._contracts.worker_info import worker_info

        check_flag(fresh, "fresh")
        await trio.lowlevel.checkpoint()
        now, workers = self._queue.ledger.seconds(), self._queue.workers.items()
        return [worker_info(each, self.queue, since=since, now=now) for each, since in workers if not each.is_stopped]

    async def explain(self, task_id: str) -> Explanation:
        """Explain where the task of this id is, and why it does not run now.

        >>> print(await storage.explain(task_id))

        The :class:`Explanation` has the evidence in its fields, and in one sentence as its text. It does not look at
        more tasks than at a thousand that go first.
        """
        from .._contracts.explanation import Evidence, Place, explanation_of  # most programs never ask
        from .._contracts.worker_info import worker_info

        check_stored_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        queue = self._queue
        queue.expire()  # which may make room for those that wait for it
        evidence = Evidence(id=task_id, queue=queue.name, now=queue.ledger.seconds(), is_paused=queue.is_paused)
        now, ledger = trio.current_time(), queue.ledger
        ledger.enter_due(now)
        task = ledger.find(task_id)
        if task is not None:
            evidence.task = ledger.reader.shown(task)
            if (delay := ledger.delay_of(task_id)) is not None:
                evidence.due, evidence.reason = evidence.now + delay[0] - now, delay[1]
            elif task.parts.status is Status.Pending:
                evidence.place = Place.after(ledger.reader.before(task))
                if ledger.keyed is not None:
                    evidence.limit = ledger.keyed.limit_of(task, now, evidence.now)
        if evidence.needs_workers:
            moment, workers = evidence.now, queue.workers.items()
            evidence.workers = [worker_info(each, queue.name, since=since, now=moment) for each, since in workers]
        return explanation_of(evidence)

    async def list_queues(self) -> list[str]:
        """Return the names of all queues that a task was ever pushed to."""
        await trio.lowlevel.checkpoint()
        queues = self._queue.siblings.values()
        return sorted(each.name for each in queues if each.ledger.counts["pushed"])

    def _shown(self, task: Task[A]) -> Task[A]:
        shown = super()._shown(task)
        return shown if self._encoding is None else self._encoding.decode(shown)

    def statistics(self) -> MemoryStorageStatistics:
        """Return the state and the counts of the queue at this moment."""
        ledger = self._queue.ledger
        return MemoryStorageStatistics(
            waiting=ledger.waiting,
            running=ledger.running,
            dead=ledger.dead,
            results_kept=ledger.remembered,
            receivers_waiting=self._queue.receivers_waiting,
            pushers_waiting=self._queue.pushers_waiting,
            max_buffer_size=self._queue.capacity,
            open_handles=len(self._queue.pushing_handles),
            **ledger.counts,
        )

    def __repr__(self) -> str:
        ledger = self._queue.ledger
        state = "closed" if self._queue.closed else "open"
        name = "" if self.queue == "default" else f"{self.queue!r} "
        return f"<MemoryStorage {name}{state}: {ledger.waiting} waiting, {ledger.running} running, {ledger.dead} dead>"
