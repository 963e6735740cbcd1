"""A storage in memory: for this process, as fast as trio allows, and held to every promise but survival."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

import trio

from ._abc import ListWorkers, NowaitBackend, RegisterWorker
from ._bookkeeping import Bookkeeping
from ._checks import check_count
from ._context import WorkerContext
from ._handover import Handover
from ._sink import STRETCH, TaskSink, check_task, make_tasks
from ._task_builder import make_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Unpack

    from ._outcome import Outcome
    from ._task import Task
    from ._task_builder import TaskOptions
    from ._task_id import TaskId

A = TypeVar("A")


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


@final
class _Shared:
    """What all handles of one storage have in common."""

    __slots__ = ("desk", "pushing", "workers")

    def __init__(self, desk: Handover[Any]) -> None:
        self.desk = desk
        self.pushing: set[object] = set()  # the handles through which something may still be pushed
        self.workers: list[WorkerContext] = []


@final
class MemoryStorage(Bookkeeping[A], TaskSink[A], NowaitBackend[A], RegisterWorker, ListWorkers):
    """Tasks in memory: ``MemoryStorage[int]()``.

    Delays, priorities, unique keys, expiry, results, dead letters: all that a task can ask for. It ends, for those
    who receive, once it is closed *and* empty; a task that is delayed or will be retried keeps it open, and so does
    one that is in an attempt, since it may come back. (A handler that itself receives from its own worker's storage
    until the end therefore waits for itself.)

    Args:
      max_buffer_size: how many tasks may wait before :meth:`push` does; ``math.inf`` by default. What is retried or
          released always finds room.
      keep_results: of how many succeeded tasks the results are remembered, for :meth:`wait_for`; the oldest go first.
          Failed and killed tasks are remembered until :meth:`vacuum`.
    """

    def __init__(self, max_buffer_size: float = math.inf, *, keep_results: int = 10_000) -> None:
        if max_buffer_size != math.inf:
            check_count(max_buffer_size, "max_buffer_size (unless it is math.inf)")
        check_count(keep_results, "keep_results", minimum=0)
        self._join(_Shared(Handover(max_buffer_size, keep_results)), is_clone=False)

    def _join(self, shared: _Shared, *, is_clone: bool) -> None:
        self._shared = shared
        self._bookkeeper = self._desk = cast("Handover[A]", shared.desk)
        self._is_new_clone = is_clone  # which may turn out to be for receiving only
        self._has_pushed = not is_clone
        self._closed = False
        shared.pushing.add(self)

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
            return await self._desk.push_when_room(task, self)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return task_id

    @trio.lowlevel.enable_ki_protection
    def push_task_nowait(self, task: Task[A]) -> TaskId:
        """As :meth:`push_task`, or ``trio.WouldBlock`` if there is no room."""
        check_task(task)
        if self._closed or self._desk.closed:
            raise trio.ClosedResourceError("this storage is closed: nothing more can be pushed here")
        if not self._has_pushed:
            self._has_pushed = True
            self._shared.pushing.add(self)
        return self._desk.push_nowait(task)

    def push_nowait(self, args: A, **options: Unpack[TaskOptions]) -> TaskId:
        """As :meth:`push`, or ``trio.WouldBlock`` if there is no room."""
        return self.push_task_nowait(make_task(args, options))

    @trio.lowlevel.enable_ki_protection
    async def push_bulk(self, many: Iterable[A], **options: Unpack[TaskOptions]) -> list[TaskId]:
        """Make a task of each of ``many`` args, with the same options, and put them in, in this order.

        Every task is made, and every option checked, before the first is put in. If it is cancelled, those put in so
        far stay in.
        """
        ids: list[TaskId] = []
        for number, task in enumerate(await make_tasks(many, options), start=1):
            try:
                ids.append(self.push_task_nowait(task))
            except trio.WouldBlock:
                ids.append(await self._desk.push_when_room(task, self))
            if not number % STRETCH:
                await trio.lowlevel.checkpoint()
        return ids

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Nothing more is pushed here. Once every handle is closed, who receives gets the rest, and then the end."""
        if self._closed:
            return
        self._closed = True
        self._desk.send_away(self)
        self._shared.pushing.discard(self)
        self._close_if_last()

    async def aclose(self) -> None:
        """As :meth:`close`; then a checkpoint. What waits stays, and can still be received."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _close_if_last(self) -> None:
        if not self._shared.pushing and not self._desk.closed:
            self._desk.closed = True
            self._desk.tend()

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
            return await self._desk.wait_and_take()
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
        return self._desk.take_nowait()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Take note of how the attempt ended; it takes effect even if it is cancelled."""
        self.settle_nowait(task, outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """As :meth:`settle`, without a checkpoint."""
        self._desk.settle(task, outcome)

    # Looking

    async def register_worker(self, context: WorkerContext) -> None:
        """A worker starts to receive here."""
        if not isinstance(context, WorkerContext):
            raise TypeError(f"what is registered is the WorkerContext of a run, not {context!r}")
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

    def statistics(self) -> MemoryStorageStatistics:
        """How things stand, frozen."""
        ledger = self._desk.ledger
        return MemoryStorageStatistics(
            waiting=ledger.waiting,
            in_hand=ledger.in_hand,
            dead=ledger.dead,
            results_kept=ledger.remembered,
            receivers_waiting=self._desk.receivers_waiting,
            pushers_waiting=self._desk.pushers_waiting,
            max_buffer_size=self._desk.capacity,
            open_handles=len(self._shared.pushing),
            **ledger.counts,
        )

    def __repr__(self) -> str:
        ledger = self._desk.ledger
        state = "closed" if self._desk.closed else "open"
        return f"<MemoryStorage {state}: {ledger.waiting} waiting, {ledger.in_hand} in hand, {ledger.dead} dead>"
