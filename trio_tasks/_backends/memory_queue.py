"""A queue in memory: a :class:`Ledger`, and the trio tasks that wait for a task or for room.

As in trio's own memory channels, a task is given to a waiting receiver in the same step in which it becomes ready, so
it always has an owner. Of the receivers that wait, one keeps time: its scope has the deadline of the next delayed task.
All others just wait, and nothing polls.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio
from outcome import Error, Value

from .._checks import check_count, check_name
from .._concurrency.changes import ChangeCount
from .._concurrency.tracebacks import traceback_text
from .._concurrency.virtual_time import epoch_clock, is_virtual
from .._contracts.deadlines import check_default, end_of
from .._contracts.event_readers import EventReaders
from .._contracts.lending import Loan
from .._contracts.result_waits import ResultWaits
from .._contracts.schedules import ScheduleEntry
from .._contracts.sink import PushHooks
from .._contracts.storage_events import Pushed
from .._logging import line_of
from .._tasks.errors import DuplicateTaskError
from .._tasks.outcome import Status, Succeeded
from .._tasks.task import Parts, Task
from .ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._codecs.codec import Codec
    from .._contracts.context import WorkerContext
    from .._contracts.schedules import ScheduleChange, TaskTemplate
    from .._tasks.limits import Limits
    from .._tasks.outcome import Outcome
    from .._tasks.task_id import TaskId
    from .encoding import Encoding

A = TypeVar("A")


@final
class MemoryQueue(Generic[A]):
    """A queue of a :class:`MemoryStorage`, shared by all handles to it.

    Args:
      name: the name of the queue.
      type: the type of the args; None for any object.
      options: all options of the storage.
      siblings: the queues of the storage by name. This one is added.
    """

    def __init__(self, name: str, type: Any, options: dict[str, Any], siblings: dict[str, MemoryQueue[Any]]) -> None:
        capacity, keep_results = options["max_buffer_size"], options["keep_results"]
        if capacity != math.inf:
            check_count(capacity, "max_buffer_size (unless it is math.inf)")
        check_count(keep_results, "keep_results", minimum=0)
        self.name = check_name(name, "queue")
        self.type = type
        self.options = options
        self.on_push: PushHooks = options["on_push"].of_queue(self.name)
        self.inherits = check_default(options["deadline"])
        self.encoding = _encoding_of(type, options["codec"], options["result_type"])
        self.pushing_handles: set[object] = set()  # handles through which tasks may still be pushed
        self.workers: dict[WorkerContext, float] = {}  # and since when they receive
        first = next(iter(siblings.values()), None)
        self.schedules: MemorySchedules = MemorySchedules() if first is None else first.schedules
        self.siblings = siblings
        siblings[name] = self
        self.completion = ResultWaits()
        self.ledger: Ledger[A] = Ledger(
            on_finish=self.completion.announce,
            keep_results=keep_results,
            line_of=line_of,
            traceback_of=traceback_text,
            is_virtual=is_virtual,
        )
        self.events = self.ledger.events = EventReaders()
        self.set_first_limits(options["limits"])
        self.capacity: float = capacity
        self.closed = False
        self.is_paused = False
        self._receivers: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self._pushers: deque[tuple[trio.lowlevel.Task, Task[A], object, float | None]] = deque()
        self._timer: trio.CancelScope | None = None
        self._clock: trio.abc.Clock | None = None  # the clock of the trio run in which the queue was last used

    def note_run(self, clock: trio.abc.Clock) -> None:
        """Go by the clock of this run from now on, in what is told of tasks."""
        if clock is not self._clock:
            if self._clock is not None and self.ledger.keyed is not None:
                self.ledger.keyed.restart_clock()
            self._clock, self.ledger.clock = clock, epoch_clock()

    def make_sibling(self, name: str, type: Any, options: Mapping[str, Any]) -> MemoryQueue[Any]:
        """Make another queue of the storage. Options that are not given are the same; the codec is for its type."""
        same = dict(self.options)
        for_type = getattr(same["codec"], "for_type", None)
        if for_type is not None and not isinstance(same["codec"], _Class):
            same["codec"] = for_type  # the codec of this queue is for another type
        if type is None and self.encoding is not None:
            type = Any
        return MemoryQueue(name, type, {**same, "limits": None, **_with_hooks(options)}, self.siblings)

    def check_same(self, type: Any, options: Mapping[str, Any]) -> None:
        """Raise if a type or an option differs from this queue's."""
        given = _with_hooks(options) if type is None else {"type": type, **_with_hooks(options)}
        known = {"type": self.type, **self.options}
        for option, value in given.items():
            if option != "limits" and value != known[option]:
                raise ValueError(f"queue {self.name!r} is open here already, with {option}={known[option]!r}")

    def set_first_limits(self, limits: Limits | None) -> None:
        """Set the limits of the queue, unless it has some."""
        if limits is not None and self.ledger.limits.of_queue is None:
            self.ledger.set_limits(limits, None)

    def remove_handle(self, handle: object) -> None:
        """Remove a handle; the queue is closed when its last one is removed."""
        self.pushing_handles.discard(handle)
        if not self.pushing_handles and not self.closed:
            self.closed = True
            self.events.end()
            self.match_waiters()

    @property
    def receivers_waiting(self) -> int:
        """Number of trio tasks that wait to receive."""
        return len(self._receivers)

    @property
    def pushers_waiting(self) -> int:
        """Number of trio tasks that wait for room."""
        return len(self._pushers)

    # Taking

    @trio.lowlevel.enable_ki_protection
    def take_nowait(self) -> Task[A]:
        """Claim the next ready task; raise ``trio.WouldBlock`` or ``trio.EndOfChannel`` if there is none."""
        task = self._take()
        if task is not None:
            return task
        if self._has_ended():
            raise trio.EndOfChannel
        raise trio.WouldBlock

    def _take(self) -> Task[A] | None:
        if self.is_paused:
            if self.ledger.is_timed():  # enter what is due, so that no receiver waits for it
                self.ledger.enter_due(trio.current_time())
            return None
        task = self.ledger.take(trio.current_time() if self.ledger.is_timed() else 0.0)
        while self._pushers and self._push_waiting() and task is None:  # expired tasks made room
            task = self.ledger.take(trio.current_time())
        return task

    def _has_ended(self) -> bool:
        return self.closed and not self._pushers and self.ledger.is_empty

    @trio.lowlevel.enable_ki_protection
    async def wait_and_take(self) -> Task[A]:
        """Claim the next task, waiting for one if none is ready. If it is cancelled, nothing was taken."""
        while True:
            handed = await (self._keep_time() if self._must_keep_time() else self._wait_for_task())
            if handed is not None:
                handed.parts.status = Status.Running
                return handed
            try:
                # This receiver was woken to look, and may have been cancelled meanwhile.
                await trio.lowlevel.checkpoint_if_cancelled()
                task = self.take_nowait()
            except trio.WouldBlock:
                continue
            finally:
                # There may be more tasks, or it was the last one of a closed queue, or another receiver has to look.
                self.match_waiters()
            return task

    def _must_keep_time(self) -> bool:
        return self._timer is None and self.ledger.is_timed() and self.ledger.next_due is not None

    async def _keep_time(self) -> Task[A] | None:
        """Wait for a task until the next delayed one is due."""
        due = self.ledger.next_due
        assert due is not None
        with trio.CancelScope(deadline=due) as self._timer:
            try:
                return await self._wait_for_task()
            finally:
                self._timer = None
                self.match_waiters()  # let another receiver wait for the next due time
        return None

    async def _wait_for_task(self) -> Task[A] | None:
        """Wait until a task is handed over; None if the caller must look for one."""
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
        """Push a task; raise ``trio.WouldBlock`` if there is no room."""
        if self._pushers or self.ledger.waiting >= self.capacity:
            self.expire()
            if self._pushers or self.ledger.waiting >= self.capacity:
                raise trio.WouldBlock
        clock = trio.lowlevel.current_clock()
        if clock is not self._clock:
            self.note_run(clock)
        terms = task.parts.terms
        end = end_of(terms, inherits=self.inherits) if self.inherits or terms.deadline is not None else None
        task_id = self.ledger.push(task, clock.current_time(), end)
        if self.events.open and task_id == task.parts.id:
            self.events.tell(Pushed(task_id, True))
        if self._receivers:
            self.match_waiters()
        return task_id

    @trio.lowlevel.enable_ki_protection
    async def push_when_room(self, task: Task[A], handle: object) -> TaskId:
        """Wait for room, then push the task. If it is cancelled, nothing was pushed."""
        entry = (trio.lowlevel.current_task(), task, handle, end_of(task.parts.terms, inherits=self.inherits))
        self._pushers.append(entry)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._pushers.remove(entry)
            return trio.lowlevel.Abort.SUCCEEDED

        with Loan((), "room in a queue") as loan:
            loan.begin()
            task_id: TaskId = await trio.lowlevel.wait_task_rescheduled(leave)
        return task_id

    def _push_waiting(self) -> bool:
        """Push tasks that wait for room, in order; return True if there was room for any."""
        was_room = self.ledger.waiting < self.capacity
        while self._pushers and self.ledger.waiting < self.capacity:
            pusher, task, _, end = self._pushers.popleft()
            try:
                task_id = self.ledger.push(task, trio.current_time(), end)
            except Exception as error:  # the error is the pusher's, not the receiver's
                trio.lowlevel.reschedule(pusher, Error(error))
            else:
                if self.events.open and task_id == task.parts.id:
                    self.events.tell(Pushed(task_id, True))
                trio.lowlevel.reschedule(pusher, Value(task_id))
        return was_room

    @trio.lowlevel.enable_ki_protection
    def cancel_pushes(self, handle: object) -> None:
        """Fail all pushes that wait for room through this handle."""
        for entry in [entry for entry in self._pushers if entry[2] is handle]:
            self._pushers.remove(entry)
            error = trio.ClosedResourceError("the storage was closed while this push waited for room")
            trio.lowlevel.reschedule(entry[0], Error(error))

    def push_for_schedule(self, template: TaskTemplate) -> TaskId | None:
        """Push a task of a schedule, whether there is room or not; return None if it is a duplicate."""
        task = Task[A](template.payload, Parts(terms=template.terms, metadata=template.metadata))
        self.note_run(trio.lowlevel.current_clock())
        is_given = isinstance(template.terms.deadline, float)  # a schedule has no deadline that could be inherited
        try:
            end = end_of(template.terms, inherits=False) if is_given else None
            task_id = self.ledger.push(task, trio.current_time(), end)
        except DuplicateTaskError:
            return None
        if self.events.open and task_id == task.parts.id:
            self.events.tell(Pushed(task_id, True))
        return task_id

    # Settling, and all else that changes what waits

    @trio.lowlevel.enable_ki_protection
    def withdraw(self, task_id: str) -> bool:
        """Forget a task whose call was cancelled, if it waits. If it runs, cancel its attempt, after which it is
        forgotten, and return True.
        """
        found = self.ledger.find(task_id)
        if found is None or found.parts.status.is_final:
            return False
        if found.parts.status is Status.Pending:
            return not self.ledger.discard(task_id)
        self.ledger.abort(task_id, None)
        return True

    def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome, and serve waiting trio tasks."""
        if not isinstance(task, Task):
            raise TypeError(f"settle takes a Task, not {type(task).__name__}")
        ledger, is_success = self.ledger, type(outcome) is Succeeded
        ledger.settle(task, outcome, 0.0 if is_success else trio.current_time())
        if self._receivers and (not is_success or self.closed or ledger.keyed is not None):  # else no task is ready now
            self.match_waiters()

    @trio.lowlevel.enable_ki_protection
    def expire(self) -> None:
        """Kill tasks that were not started in time, which may make room."""
        if self.ledger.is_timed() and self.ledger.expire(trio.current_time()):
            self.match_waiters()

    @trio.lowlevel.enable_ki_protection
    def match_waiters(self) -> None:
        """Serve trio tasks that wait for room or for a task, after any change."""
        if self._pushers:
            self._push_waiting()
        ledger = self.ledger
        while self._receivers:
            task = self._take() if ledger.waiting else None
            if task is not None:
                task.parts.status = Status.Queued  # until the receiver goes on
                self._wake_first_receiver(Value(task))
            elif self._has_ended():
                self._wake_first_receiver(Error(trio.EndOfChannel()))
            else:
                break
        due = ledger.next_due if ledger.is_timed() else None
        if self._timer is not None:
            self._timer.deadline = float("inf") if due is None else due
        elif due is not None and self._receivers:
            self._wake_first_receiver(Value(None))  # let it wait for the next due time

    def _wake_first_receiver(self, result: Value[Any] | Error) -> None:
        receiver, _ = self._receivers.popitem(last=False)
        trio.lowlevel.reschedule(receiver, result)


@final
class MemorySchedules:
    """The schedules of a storage in memory, which all of its queues share."""

    __slots__ = ("changes", "entries", "revision")

    def __init__(self) -> None:
        self.entries: dict[str, ScheduleEntry] = {}
        """By name, in the order of their revisions."""
        self.revision = 0
        self.changes = ChangeCount()

    def after(self, revision: int, name: str | None) -> list[ScheduleEntry]:
        """Return the schedules that were changed after a revision; or the one of a name, if it was."""
        if name is not None:
            return [each for each in filter(None, [self.entries.get(name)]) if each.revision > revision]
        changed = takewhile(lambda each: each.revision > revision, reversed(self.entries.values()))
        return [*changed][::-1]

    def set(self, change: ScheduleChange) -> int:
        """Make a change, if the schedule has the revision that is said; return the new one, or 0."""
        known = self.entries.get(change.name)
        if (known.revision if known is not None and not known.is_removed else 0) != change.was:
            return 0
        self.revision += 1
        self.entries.pop(change.name, None)
        self.entries[change.name] = ScheduleEntry(
            change.name, self.revision, change.schedule, is_removed=change.schedule is None
        )
        self.changes.note()
        return self.revision


_Class = type


def _with_hooks(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with ``on_push`` checked."""
    return {**options, "on_push": PushHooks(options["on_push"])} if "on_push" in options else {**options}


def _encoding_of(type: Any, codec: Codec | Callable[[Any], Codec] | None, result_type: Any) -> Encoding | None:
    """Return the codecs of a queue; None if values are kept by reference."""
    if type is None and codec is None and result_type is None:
        return None
    from .encoding import Encoding  # it imports cbor2 and msgspec, which nothing else in memory needs

    return Encoding(Any if type is None else type, codec, Any if result_type is None else result_type)
