"""A storage in memory: for this process, as fast as trio allows, and held to every promise but survival."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast, final, overload

import trio

from .._checks import check_count, check_text
from .._contracts.backend import ListQueues, ListWorkers, NowaitBackend, RegisterWorker, ResumeAbandoned
from .._contracts.context import WorkerContext
from .._contracts.sink import BATCH_SIZE, TaskSink, check_task, make_tasks
from .._printing import quoted
from .._tasks.outcome import Released
from .._tasks.task import make_task
from .capabilities import LedgerCapabilities
from .memory_queue import MemoryQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Unpack

    from .._codecs.codec import Codec
    from .._tasks.outcome import Outcome
    from .._tasks.task import Task, TaskOptions
    from .._tasks.task_id import TaskId
    from .encoding import Encoding

A = TypeVar("A")
B = TypeVar("B")


@final
@dataclass(frozen=True, slots=True)
class MemoryStorageStatistics:
    """A memory storage at one moment. The seven counts at the end run from its beginning."""

    waiting: int
    in_hand: int
    dead: int
    results_kept: int
    receivers_waiting: int
    pushers_waiting: int
    max_buffer_size: float
    open_handles: int
    pushed: int
    succeeded: int
    retried: int
    failed: int
    killed: int
    released: int
    suspended: int


class MemoryOptions(TypedDict, total=False):
    """The keywords of a queue in memory, beside its name and the type of its args; see :class:`MemoryStorage`."""

    max_buffer_size: float
    codec: Codec | Callable[[Any], Codec] | None
    result_type: Any
    keep_results: int


@final
class _Queue:
    """The part that all handles of one queue have in common.

    Args:
      name: of the queue.
      type: of the args; None for whatever is pushed.
      options: all of them.
      store: the queues of the storage by name, this one among them from now on.
    """

    __slots__ = ("encoding", "memory_queue", "name", "options", "pushing", "store", "type", "workers")

    def __init__(self, name: str, type: Any, options: dict[str, Any], store: dict[str, _Queue]) -> None:
        capacity, keep_results = options["max_buffer_size"], options["keep_results"]
        if capacity != math.inf:
            check_count(capacity, "max_buffer_size (unless it is math.inf)")
        check_count(keep_results, "keep_results", minimum=0)
        self.name = check_text(name, "queue")
        self.type = type
        self.options = options
        self.encoding = _encoding_of(type, options["codec"], options["result_type"])
        self.memory_queue: MemoryQueue[Any] = MemoryQueue(capacity, keep_results)
        self.pushing: set[object] = set()  # the handles through which something may still be pushed
        self.workers: list[WorkerContext] = []
        self.store = store
        store[name] = self

    def beside(self, name: str, type: Any, options: MemoryOptions) -> _Queue:
        """Make another queue, with the same options where others are not given; the codec is that of its type."""
        same: Any = dict(self.options)
        for_type = getattr(same["codec"], "for_type", None)
        if for_type is not None and not isinstance(same["codec"], _Class):
            same["codec"] = for_type  # it is of the other type
        if type is None and self.encoding is not None:
            type = Any
        return _Queue(name, type, {**same, **options}, self.store)

    def check_same(self, type: Any, options: MemoryOptions) -> None:
        """Refuse another type, or other options, than this queue has."""
        given: Any = {**options} if type is None else {"type": type, **options}
        known: Any = {"type": self.type, **self.options}
        for option, value in given.items():
            if value != known[option]:
                raise ValueError(f"queue {self.name!r} is open here already, with {option}={known[option]!r}")


_Class = type


def _encoding_of(type: Any, codec: Codec | Callable[[Any], Codec] | None, result_type: Any) -> Encoding | None:
    """The codecs, if any of these was asked for."""
    if type is None and codec is None and result_type is None:
        return None
    from .encoding import Encoding  # with cbor2 and msgspec, which nothing else in memory needs

    return Encoding(Any if type is None else type, codec, Any if result_type is None else result_type)


@final
class MemoryStorage(
    LedgerCapabilities[A], TaskSink[A], NowaitBackend[A], RegisterWorker, ListWorkers, ListQueues, ResumeAbandoned
):
    """Tasks in memory, for one process.

    >>> storage = MemoryStorage[Email]()
    >>> worker = Worker("emails", storage, send_email)
    >>> await storage.push(Email(to="a@example.com"), delay=60)

    Delays, priorities, unique keys, expiry, results, dead letters: all that a task can ask for. It ends, for those
    who receive, once it is closed *and* empty; a task that is delayed or will be retried keeps it open, and so does
    one that is in an attempt, since it may come back. (A handler that itself receives from its own worker's storage
    until the end therefore waits for itself.)

    Args and results are any objects, and are handed over by reference. With ``type=``, ``codec=`` or ``result_type=``
    they are encoded and decoded as a storage that lasts does it: what that storage would refuse is refused here too,
    and each attempt is given a value of its own.

    Args:
      max_buffer_size: how many tasks may wait; with so many, :meth:`push` waits for room. What is retried or released
          always finds room. Default: ``math.inf``, no limit.
      type: of the args; what does not fit it is refused when it is pushed. Default: any object, by reference.
      queue: the name of the queue. For further queues, see :meth:`share`. Default: ``"default"``.
      codec: encodes the args: a :class:`Codec`, or what makes one of the type, such as :class:`JsonCodec`. Default:
          none; with a ``type``, :class:`CborCodec`.
      result_type: the type that handlers return, which is encoded too. Default: any object, by reference.
      keep_results: number of succeeded tasks that are kept with their results, for :meth:`wait_for`; the oldest go
          first. Failed and killed tasks are kept until :meth:`vacuum`. Default: 10 000.

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
    ) -> None:
        options = {
            "max_buffer_size": max_buffer_size,
            "codec": codec,
            "result_type": result_type,
            "keep_results": keep_results,
        }
        self._join(_Queue(queue, type, options, {}), is_clone=False)

    def _join(self, queue: _Queue, *, is_clone: bool) -> None:
        self._shared = queue
        self.args_type = Any if queue.type is None else queue.type
        self._ledger_holder = self._memory_queue = cast("MemoryQueue[A]", queue.memory_queue)
        self._is_new_clone = is_clone  # which may turn out to be for receiving only
        self._has_pushed = not is_clone
        self._closed = False
        self._encoding = queue.encoding
        queue.pushing.add(self)

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._shared.name

    @overload
    def share(self, type: type[B], *, queue: str, **options: Unpack[MemoryOptions]) -> MemoryStorage[B]: ...
    @overload
    def share(self, type: Any = None, *, queue: str, **options: Unpack[MemoryOptions]) -> MemoryStorage[Any]: ...
    def share(self, type: Any = None, *, queue: str, **options: Unpack[MemoryOptions]) -> MemoryStorage[Any]:
        """Another queue beside this one, or another handle to it if there is one of this name.

        It is closed on its own. The options are those of the storage (``max_buffer_size``, ``codec``, ``result_type``,
        ``keep_results``), and the same as here if not given. Without a type, a queue beside one with a type takes
        anything plain.

        Raises:
          ValueError: there is a queue of this name, with another type or other options.
        """
        possible = MemoryOptions.__annotations__
        if unknown := options.keys() - possible.keys():
            raise TypeError(f"MemoryStorage.share has no option {unknown.pop()!r}: it has {', '.join(possible)}")
        known = self._shared.store.get(check_text(queue, "queue"))
        if known is not None:
            known.check_same(type, options)
            known.memory_queue.closed = False
        other: MemoryStorage[Any] = object.__new__(cast("Any", MemoryStorage))
        other._join(known or self._shared.beside(queue, type, options), is_clone=known is not None)
        return other

    def clone(self) -> MemoryStorage[A]:
        """Another handle to the same storage, to be closed on its own, as with trio's memory channels.

        The storage is closed when every handle is, so each of several producers can close its own. A clone that has
        only ever been received from, such as one given to a worker, does not keep the storage open.

        Raises:
          trio.ClosedResourceError: this handle is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("a closed storage cannot be cloned")
        clone: MemoryStorage[A] = object.__new__(type(self))
        clone._join(self._shared, is_clone=True)
        return clone

    __copy__ = clone

    # Pushing

    @trio.lowlevel.enable_ki_protection
    async def push_task(self, task: Task[A]) -> TaskId:
        """Put a whole task in; wait for room where the buffer is bounded.

        Raises:
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``.
          trio.ClosedResourceError: this handle is closed, or was while this waited.

        If it is cancelled, nothing was pushed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            task_id = self.push_task_nowait(task)
        except trio.WouldBlock:
            return await self._memory_queue.push_when_room(self._prepare(task), self)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return task_id

    @trio.lowlevel.enable_ki_protection
    def push_task_nowait(self, task: Task[A]) -> TaskId:
        """As :meth:`push_task`, or ``trio.WouldBlock`` if there is no room."""
        task = check_task(task) if self._encoding is None else self._encoding.encode(task)
        if self._closed or self._memory_queue.closed:
            raise trio.ClosedResourceError("this storage is closed: nothing more can be pushed here")
        if not self._has_pushed:
            self._has_pushed = True
            self._shared.pushing.add(self)
        return self._memory_queue.push_nowait(task)

    def _prepare(self, task: Task[A]) -> Task[A]:
        return check_task(task) if self._encoding is None else self._encoding.encode(task)

    def push_nowait(self, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """Make a task and put it in without waiting; the keywords are those of :meth:`push`.

        Raises:
          trio.WouldBlock: there is no room.
        """
        return self.push_task_nowait(make_task(args, options, self))

    @trio.lowlevel.enable_ki_protection
    async def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and put them in, in this order.

        Every task is made, and every option checked, before the first is put in. If it is cancelled, those put in so
        far stay in.
        """
        ids: list[TaskId] = []
        tasks = await make_tasks(many, options, self)
        if self._encoding is not None:
            for task in tasks:
                self._encoding.encode(task)
        for number, task in enumerate(tasks, start=1):
            try:
                ids.append(self.push_task_nowait(task))
            except trio.WouldBlock:
                ids.append(await self._memory_queue.push_when_room(self._prepare(task), self))
            if not number % BATCH_SIZE:
                await trio.lowlevel.checkpoint()
        return ids

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Nothing more is pushed here. Once every handle is closed, who receives gets the rest, and then the end."""
        if self._closed:
            return
        self._closed = True
        self._memory_queue.cancel_pushes(self)
        self._shared.pushing.discard(self)
        self._close_if_last()

    async def aclose(self) -> None:
        """As :meth:`close`; then a checkpoint. What waits stays, and can still be received."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _close_if_last(self) -> None:
        if not self._shared.pushing and not self._memory_queue.closed:
            self._memory_queue.closed = True
            self._memory_queue.match_waiters()

    # Receiving and settling

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Task[A]:
        """The next task, in hand from now on; waits for one.

        Raises:
          trio.EndOfChannel: the storage is closed and empty.

        If it is cancelled, nothing was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            task = self.receive_nowait()
        except trio.WouldBlock:
            return self._decoded(await self._memory_queue.wait_and_take())
        await trio.lowlevel.cancel_shielded_checkpoint()
        return task

    @trio.lowlevel.enable_ki_protection
    def receive_nowait(self) -> Task[A]:
        """As :meth:`receive`, or ``trio.WouldBlock`` if no task is ready."""
        if self._is_new_clone:
            self._is_new_clone = False
            if not self._has_pushed:
                self._shared.pushing.discard(self)
                self._close_if_last()
        task = self._memory_queue.take_nowait()
        return task if self._encoding is None else self._decoded(task)

    def _decoded(self, task: Task[A]) -> Task[A]:
        """The task that was just taken, as it is given out; if decoding is interrupted, it is given back."""
        if self._encoding is None:
            return task
        is_decoded = False
        try:
            decoded: Task[A] = self._encoding.decode(task)
            is_decoded = True
            return decoded
        finally:
            if not is_decoded:
                self._memory_queue.settle(task, Released("interrupted"))

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Take note of how the attempt ended; it takes effect even if it is cancelled."""
        self.settle_nowait(task, outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """As :meth:`settle`, without a checkpoint."""
        self._memory_queue.settle(task, outcome if self._encoding is None else self._encoding.settled(outcome))

    # Changing

    async def update(self, task: Task[A]) -> bool:
        """Give the waiting task of this id the args and metadata of this one; False if none of that id waits."""
        return await super().update(self._prepare(task))

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Keep this as the progress of a task in hand; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not in hand any more. Nothing changed.
        """
        if self._encoding is not None:
            progress = self._encoding.progress(progress)
        await super().report_progress(task, progress)

    async def resume_abandoned(self) -> int:
        """Return 0: nothing is ever abandoned here, since there are no leases, and no process that could die alone."""
        await trio.lowlevel.checkpoint()
        return 0

    # Looking

    async def register_worker(self, context: WorkerContext) -> None:
        """A worker starts to receive here."""
        if not isinstance(context, WorkerContext):
            raise TypeError(f"what is registered is the WorkerContext of a run, not {quoted(context)}")
        await trio.lowlevel.checkpoint()
        self._shared.workers = [each for each in self._shared.workers if not each.is_stopped]
        self._shared.workers.append(context)

    async def unregister_worker(self, context: WorkerContext) -> None:
        """A worker has ended; nothing is claimed in advance here."""
        self._shared.workers = [each for each in self._shared.workers if each is not context]
        await trio.lowlevel.checkpoint()

    async def list_workers(self) -> list[str]:
        """The names of the workers that run on it."""
        await trio.lowlevel.checkpoint()
        return [each.name for each in self._shared.workers if not each.is_stopped]

    async def list_queues(self) -> list[str]:
        """The names of all queues of the storage that there ever was a task in."""
        await trio.lowlevel.checkpoint()
        queues = self._shared.store.values()
        return sorted(each.name for each in queues if each.memory_queue.ledger.counts["pushed"])

    def _shown(self, task: Task[A]) -> Task[A]:
        shown = super()._shown(task)
        return shown if self._encoding is None else self._encoding.decode(shown)

    def statistics(self) -> MemoryStorageStatistics:
        """How things stand, frozen."""
        ledger = self._memory_queue.ledger
        return MemoryStorageStatistics(
            waiting=ledger.waiting,
            in_hand=ledger.in_hand,
            dead=ledger.dead,
            results_kept=ledger.remembered,
            receivers_waiting=self._memory_queue.receivers_waiting,
            pushers_waiting=self._memory_queue.pushers_waiting,
            max_buffer_size=self._memory_queue.capacity,
            open_handles=len(self._shared.pushing),
            **ledger.counts,
        )

    def __repr__(self) -> str:
        ledger = self._memory_queue.ledger
        state = "closed" if self._memory_queue.closed else "open"
        name = "" if self.queue == "default" else f"{self.queue!r} "
        return f"<MemoryStorage {name}{state}: {ledger.waiting} waiting, {ledger.in_hand} in hand, {ledger.dead} dead>"
