"""Who waits for a task, and who waits for room: the trio side of a queue whose books a :class:`Ledger` keeps.

As in trio's own memory channels a task is handed to a waiting receiver in the very step in which it becomes ready, so
there is no moment in which it is nobody's. Of the receivers that wait, one keeps time: its scope has the deadline of
the next delayed task. All others just wait, and nothing polls.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio
from outcome import Error, Value

from .._concurrency.virtual_time import is_virtual
from .._contracts.lending import Loan
from .._logging import line_of
from .._tasks.outcome import Status, Succeeded
from .._tasks.task import Task
from .capabilities import ResultWaiters
from .ledger import Ledger

if TYPE_CHECKING:
    from .._tasks.outcome import Outcome
    from .._tasks.task_id import TaskId

A = TypeVar("A")


@final
class MemoryQueue(Generic[A]):
    """A ledger, and those who wait on it.

    Args:
      capacity: how many tasks may wait before pushing has to.
      keep_results: see :class:`Ledger`.
    """

    def __init__(self, capacity: float, keep_results: int) -> None:
        self.completion = ResultWaiters()
        self.ledger: Ledger[A] = Ledger(
            on_finish=self.completion.announce, keep_results=keep_results, line_of=line_of, is_virtual=is_virtual
        )
        self.capacity = capacity
        self.closed = False
        self._receivers: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self._pushers: deque[tuple[trio.lowlevel.Task, Task[A], object]] = deque()
        self._timer: trio.CancelScope | None = None

    @property
    def receivers_waiting(self) -> int:
        """How many trio tasks wait to receive."""
        return len(self._receivers)

    @property
    def pushers_waiting(self) -> int:
        """How many trio tasks wait for room."""
        return len(self._pushers)

    # Taking

    @trio.lowlevel.enable_ki_protection
    def take_nowait(self) -> Task[A]:
        """The next ready task, in hand; raises ``trio.WouldBlock`` or ``trio.EndOfChannel``."""
        task = self._take()
        if task is not None:
            return task
        if self._has_ended():
            raise trio.EndOfChannel
        raise trio.WouldBlock

    def _take(self) -> Task[A] | None:
        task = self.ledger.take(trio.current_time() if self.ledger.is_timed else 0.0)
        while self._pushers and self._push_waiting() and task is None:  # what had expired has made room
            task = self.ledger.take(trio.current_time())
        return task

    def _has_ended(self) -> bool:
        return self.closed and not self._pushers and self.ledger.is_empty

    @trio.lowlevel.enable_ki_protection
    async def wait_and_take(self) -> Task[A]:
        """The next task, once there is one; there is none just now. If it is cancelled, nothing was taken."""
        while True:
            handed = await (self._keep_time() if self._must_keep_time() else self._wait_for_task())
            if handed is not None:
                handed.parts.status = Status.Running
                return handed
            try:
                # Who was woken to look may have been sent away meanwhile.
                await trio.lowlevel.checkpoint_if_cancelled()
                task = self.take_nowait()
            except trio.WouldBlock:
                continue
            finally:
                # There may be more tasks, or it was the last one of a closed queue, or another receiver has to look.
                self.match_waiters()
            return task

    def _must_keep_time(self) -> bool:
        return self._timer is None and self.ledger.next_due is not None

    async def _keep_time(self) -> Task[A] | None:
        """Wait for a task, or until the next delayed one is due."""
        due = self.ledger.next_due
        assert due is not None
        with trio.CancelScope(deadline=due) as self._timer:
            try:
                return await self._wait_for_task()
            finally:
                self._timer = None
                self.match_waiters()  # somebody else has to keep time from now on
        return None

    async def _wait_for_task(self) -> Task[A] | None:
        """Wait until a task is handed over; None means: look for yourself."""
        me = trio.lowlevel.current_task()
        self._receivers[me] = None

        def leave(_: object) -> trio.lowlevel.Abort:
            del self._receivers[me]
            return trio.lowlevel.Abort.SUCCEEDED

        handed: Task[A] | None = await trio.lowlevel.wait_task_rescheduled(leave)
        return handed

    # Putting in

    @trio.lowlevel.enable_ki_protection
    def push_nowait(self, task: Task[A]) -> TaskId:
        """Let a task in; raises ``trio.WouldBlock`` if there is no room."""
        if self._pushers or self.ledger.waiting >= self.capacity:
            self.expire()
            if self._pushers or self.ledger.waiting >= self.capacity:
                raise trio.WouldBlock
        task_id = self.ledger.push(task, trio.current_time())
        if self._receivers:
            self.match_waiters()
        return task_id

    @trio.lowlevel.enable_ki_protection
    async def push_when_room(self, task: Task[A], handle: object) -> TaskId:
        """Wait for room, then let the task in. If it is cancelled, the task is not in."""
        entry = (trio.lowlevel.current_task(), task, handle)
        self._pushers.append(entry)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._pushers.remove(entry)
            return trio.lowlevel.Abort.SUCCEEDED

        with Loan("", "room in a queue") as loan:
            loan.begin()
            task_id: TaskId = await trio.lowlevel.wait_task_rescheduled(leave)
        return task_id

    def _push_waiting(self) -> bool:
        """There may be room: put in the tasks of those who wait for it, first come, first served.

        Returns:
          whether there was room for any.
        """
        was_room = self.ledger.waiting < self.capacity
        while self._pushers and self.ledger.waiting < self.capacity:
            pusher, task, _ = self._pushers.popleft()
            try:
                task_id = self.ledger.push(task, trio.current_time())
            except Exception as error:  # it is the pusher's, not the receiver's
                trio.lowlevel.reschedule(pusher, Error(error))
            else:
                trio.lowlevel.reschedule(pusher, Value(task_id))
        return was_room

    @trio.lowlevel.enable_ki_protection
    def cancel_pushes(self, handle: object) -> None:
        """Those who wait for room through this handle have come too late."""
        for entry in [entry for entry in self._pushers if entry[2] is handle]:
            self._pushers.remove(entry)
            error = trio.ClosedResourceError("the storage was closed while this push waited for room")
            trio.lowlevel.reschedule(entry[0], Error(error))

    # Settling, and all else that changes what waits

    @trio.lowlevel.enable_ki_protection
    def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Enter the outcome, and hand over what it made ready."""
        if not isinstance(task, Task):
            raise TypeError(f"what is settled is a Task, not {type(task).__name__}")
        self.ledger.settle(task, outcome, 0.0 if type(outcome) is Succeeded else trio.current_time())
        if self._receivers:
            self.match_waiters()

    @trio.lowlevel.enable_ki_protection
    def expire(self) -> None:
        """Kill what was not started in time; that may make room."""
        if self.ledger.is_timed and self.ledger.expire(trio.current_time()):
            self.match_waiters()

    @trio.lowlevel.enable_ki_protection
    def match_waiters(self) -> None:
        """Bring together what waits and who waits, after any change."""
        if self._pushers:
            self._push_waiting()
        while self._receivers:
            task = self._take()
            if task is not None:
                task.parts.status = Status.Queued  # until the receiver goes on
                self._wake_first_receiver(Value(task))
            elif self._has_ended():
                self._wake_first_receiver(Error(trio.EndOfChannel()))
            else:
                break
        due = self.ledger.next_due
        if self._timer is not None:
            self._timer.deadline = float("inf") if due is None else due
        elif due is not None and self._receivers:
            self._wake_first_receiver(Value(None))  # to keep time

    def _wake_first_receiver(self, result: Value[Any] | Error) -> None:
        receiver, _ = self._receivers.popitem(last=False)
        trio.lowlevel.reschedule(receiver, result)
