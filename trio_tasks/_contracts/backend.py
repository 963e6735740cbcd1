"""The interfaces of backends: what every backend must do, and the capabilities that a backend may add.

A backend claims a capability by implementing its interface, and is asked with ``isinstance``.
"""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from .._tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from typing_extensions import Unpack

    from .._tasks.limits import Limits
    from .._tasks.outcome import Outcome, Status, TaskResult
    from .._tasks.task import TaskOptions
    from .context import WorkerContext
    from .explanation import Explanation
    from .listing import Page, TaskFilters
    from .metrics import AttemptTotals, Balance, Minute, QueueMetrics
    from .schedules import ScheduleChange, ScheduleEntry, ScheduleResult, TaskTemplate
    from .storage_events import StorageEvent
    from .transfer import ImportReport, StoredTask
    from .worker_info import WorkerInfo

A = TypeVar("A")
R = TypeVar("R")


class Backend(trio.abc.ReceiveChannel[Task[A]], Generic[A]):
    """A source of tasks that is told the outcome of each attempt.

    Two methods must be there: ``receive`` and :meth:`settle`. ``receive`` claims the next task and returns it,
    with ``parts.attempt`` counting this attempt; it raises ``trio.EndOfChannel`` when no more will come, and, if it
    is cancelled, has taken nothing. A worker calls it from as many trio tasks at once as it has slots.
    """

    args_type: Any = Any
    """The type of the args, where it is known: a worker then refuses a handler for values of another class."""

    heartbeat_interval: float | None = None
    """Seconds between two calls of :meth:`beat`; None if there is nothing to renew."""

    settles_within_bounds: bool = False
    """True if :meth:`settle` returns or raises in bounded time by itself, and cannot be cancelled: then a worker spares
    itself the scope around each call."""

    @property
    def beats_when_idle(self) -> bool:
        """True if :meth:`beat` must be called also while no task is running; False lets virtual time run on."""
        return True

    @abstractmethod
    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome of the attempt; whatever it is, the task is no longer running.

        Raises:
          LeaseLostError: this attempt may not settle the task any more. Nothing changed.
          UnsettledError: this outcome cannot be had; nothing changed, and the worker settles the error in its place.

        A worker calls it shielded and with a deadline. If that cancels it, the task is settled or still running.
        """

    async def beat(self, context: WorkerContext) -> None:
        """Renew the leases of the tasks that this worker has claimed.

        Called every :attr:`heartbeat_interval` seconds, from when the intake opens until after the last attempt.
        Where a lease is found lost, call ``task.parts.holder.revoke(Released(reason))``, so that the attempt ends. Do
        so in the step in which you look: once the task is settled, its holder is None.
        If it raises, the worker ends.
        """
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Release what the backend holds; by default nothing."""
        await trio.lowlevel.checkpoint()


class ReceiveNowaitBackend(Backend[A], Generic[A]):
    """A backend that may have tasks ready, which it gives out without waiting."""

    @abstractmethod
    def receive_nowait(self) -> Task[A]:
        """Return the next task; raise ``trio.WouldBlock`` if there is none now, ``trio.EndOfChannel`` if none will
        come.
        """


class NowaitBackend(ReceiveNowaitBackend[A], Generic[A]):
    """A backend that can also settle without waiting, which makes its workers several times as fast."""

    @abstractmethod
    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """Settle as :meth:`~Backend.settle` does, without waiting."""


class Feeder(ABC):
    """A backend that does work of its own while a worker's intake is open, such as carrying in tasks from elsewhere."""

    @abstractmethod
    async def feed(self) -> None:
        """Run beside the slots; the worker cancels it when intake stops, and it may return earlier. If it raises, the
        worker ends.
        """


class FetchById(ABC):
    """A backend that can look up a task by its id."""

    @abstractmethod
    async def fetch_by_id(self, task_id: str) -> Task[Any] | None:
        """Return the task of this id, unfinished or remembered; None if it is not known."""


class Update(ABC):
    """A backend that can replace the args and metadata of a waiting task."""

    @abstractmethod
    async def update(self, task: Task[Any]) -> bool:
        """Replace args and metadata of the waiting task of the same id by this task's; False if no such task waits."""


class Reschedule(ABC):
    """A backend that can change the time at which a waiting task is ready."""

    @abstractmethod
    async def reschedule(self, task_id: str, delay: float) -> bool:
        """Make the waiting task ready in ``delay`` seconds; False if no task of this id waits.

        One that is ready, as its delay is over, say, keeps its place if ``delay`` is 0.
        """


class Cancel(ABC):
    """A backend that can cancel a waiting task and abort a running one."""

    @abstractmethod
    async def cancel(self, task_id: str, *, running: bool = False) -> bool:
        """Kill the waiting task of this id; False if no task of this id waits.

        With ``running=True``, one that runs is aborted as :meth:`abort` does; which of the two is decided in one step.
        """

    @abstractmethod
    async def abort(self, task_id: str) -> bool:
        """Cancel the attempt under way, which is then settled as killed; False if the task is not running.

        It returns as soon as the attempt has been told; :meth:`WaitForCompletion.wait_for` tells when it has ended.
        """


class Progress(ABC):
    """A backend that can store the progress of a running task, for others to read."""

    @abstractmethod
    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task, as plain data; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not running any more. Nothing changed.
        """

    @abstractmethod
    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task; None if none was.

        Raises:
          UnknownTaskError: no such task is known.
        """


class SetMetadata(ABC):
    """A backend that can change the metadata of a running task."""

    @abstractmethod
    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task, in place of those of the same names.

        They are stored, so later attempts and :meth:`FetchById.fetch_by_id` see them; ``task.parts.metadata`` has them
        when this returns.

        Raises:
          LeaseLostError: the task is not running any more. Nothing changed.
        """


class Discard(ABC):
    """A backend that can forget one task that is finished, or waits."""

    @abstractmethod
    async def discard(self, task_id: str) -> bool:
        """Forget the task of this id, finished or waiting; False if there is none, or if it runs.

        One that waited is counted as killed, and nothing else is left of it.
        """


class Vacuum(ABC):
    """A backend that can forget all finished tasks."""

    @abstractmethod
    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        """Forget all finished tasks, dead letters included; return how many there were.

        Args:
          older_than: seconds; only tasks that were finished this long ago, or longer.
          status: only tasks that are Done, Failed or Killed.
        """


class ResumeById(ABC):
    """A backend that can make a finished task wait again."""

    @abstractmethod
    async def resume_by_id(self, task_id: str) -> bool:
        """Make the finished task of this id wait again, with all of its attempts; False if there is no such task. The
        result of one that has succeeded is forgotten.

        Raises:
          DuplicateTaskError: its unique key is taken by now.
        """


class ResumeAbandoned(ABC):
    """A backend that can take back orphans at once."""

    @abstractmethod
    async def resume_abandoned(self) -> int:
        """Make all orphans wait again; return how many there were."""


class RegisterWorker(ABC):
    """A backend that is told which workers run on it."""

    @abstractmethod
    async def register_worker(self, context: WorkerContext) -> None:
        """Note that this worker starts to receive from the backend."""

    async def unregister_worker(self, context: WorkerContext) -> None:
        """Note that this worker has ended; by default do nothing.

        When it returns, no task is running that was claimed for this worker and not given to it. A worker calls it
        after its last attempt, shielded and with a deadline, however it ends.
        """
        await trio.lowlevel.checkpoint()


class WaitForCompletion(ABC):
    """A backend that can wait until a task is finished."""

    @abstractmethod
    async def wait_for(self, task_id: str) -> TaskResult[Any]:
        """Wait until the task is finished, and return its result.

        Raises:
          UnknownTaskError: no such task is known.

        If it is cancelled, the task goes on.
        """


class CallTask(ABC, Generic[A]):
    """A backend that can push a task and wait for its result in one call, whose cancellation ends the task."""

    @abstractmethod
    async def call(self, args: A, type: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Push a task, wait until it is finished, and return its result, or raise its error.

        If it is cancelled, it forgets the task if that waits, cancels its attempt if it runs, in whatever process, and
        returns only when that has ended, within bounds. A task that it did not push, but found by its unique key, goes
        on.

        Raises:
          BaseException: the error of the task, if it has failed or was killed; or what :meth:`TaskSink.push` raises.
          UnknownTaskError: the task was discarded, or its result is not remembered.
        """


class Watch(ABC):
    """A backend that tells of changes of its tasks, as they are made through it in this process."""

    @abstractmethod
    def events(self) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[StorageEvent]]:
        """Open a channel of the changes of the queue that are made here from now on, in the order in which they are
        committed.

        >>> async with storage.events() as events:
        ...     async for event in events:
        ...         print(event)

        ``Pushed`` is a new task. ``Expired``, ``Cancelled`` and ``Replaced`` are the ends of tasks that are not
        attempted any more. An expiry counts from its moment on, and is told when it is entered: by a worker that waits
        for a task here, at that moment; otherwise by the next call that enters what is due, such as the next claim.
        What handlers do is told by events of workers. A slow reader holds up nothing: beyond 10 000 events that wait
        for it, the oldest are dropped, and it gets ``Missed`` with their number in their place. The channel ends when
        the storage is closed.

        Raises:
          trio.ClosedResourceError: the storage is closed.
        """


class ListTasks(ABC):
    """A backend that can list its tasks."""

    @abstractmethod
    async def list_tasks(
        self,
        status: Status | None = None,
        *,
        newest_first: bool = False,
        after: str | None = None,
        limit: int = 100,
        **filters: Unpack[TaskFilters],
    ) -> Page[Task[Any]]:
        """Return at most ``limit`` tasks, of this status if one is given, that pass all filters.

        Those that wait come first: the ready ones in the order in which they would be received, if none has a key, then
        the delayed ones as they fall due. Finished ones come as they were finished. ``newest_first`` gives the opposite
        order. If there are more tasks, ``next`` of the page is the ``after`` with which the list goes on: a task that
        stays in its state while the pages are fetched is on one page, whatever else comes and goes.

        Raises:
          ValueError: ``after`` is not a cursor of this list.
        """


class ActOnMany(ABC):
    """A backend that can change many tasks by one call, chosen by the filters of ``list_tasks``, or by their ids.

    Each method changes up to 500 tasks in one transaction, with others in between, and returns how many it changed. A
    task that has changed meanwhile is judged again in its transaction. Tasks that are pushed or finished after the call
    began are left alone. If it is cancelled, the transactions that were made stay.

    Such a backend takes several ids, too, wherever its other interfaces take one: a list, or any other iterable but a
    string, which is always one id. ``fetch_by_id`` and ``wait_for`` then return lists, in the order of the ids;
    :exc:`UnknownTaskError` names all ids that are not known. ``cancel``, ``abort``, ``discard``, ``resume_by_id`` and
    ``reschedule`` return a :class:`ChangeReport`: which tasks were changed, and the reason for each other one, as it
    was found in the same transaction. An id that is given twice is judged once. What is no id is a ``TypeError``, and
    then nothing is changed.
    """

    @abstractmethod
    async def retry_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Make all failed and killed tasks wait again that pass the filters, as :meth:`ResumeById.resume_by_id` does.

        With ``Status.Done``, those that are done instead. One whose unique key is taken stays as it is; the number of
        these is logged. ``resume_by_id`` of several ids gives the reason for each.
        """

    @abstractmethod
    async def cancel_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Kill all waiting tasks that pass the filters, as :meth:`Cancel.cancel` does."""

    @abstractmethod
    async def discard_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Forget all finished tasks that pass the filters, as :meth:`Discard.discard` does."""


class ListWorkers(ABC):
    """A backend that can list the workers that run on it."""

    @abstractmethod
    async def list_workers(self) -> list[str]:
        """List the names of the workers that are alive."""

    @abstractmethod
    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        """Return the state of each worker of the queue, alive or not.

        Args:
          fresh: True asks workers of other processes for their present state, and waits for it, for a second at most.
              Otherwise the state is that of their last heartbeat, or of a change since they had a task. The ``as_of``
              of each worker is the time of its state.
        """


class ListQueues(ABC):
    """A backend with several queues that can list them."""

    @abstractmethod
    async def list_queues(self) -> list[str]:
        """List the names of the queues."""


class Metrics(ABC):
    """A backend that counts its tasks."""

    @abstractmethod
    async def metrics(self) -> QueueMetrics:
        """Count the tasks of the queue: in all since it was made, by outcome, and at present, by state."""


class Pause(ABC):
    """A backend whose queue can be paused, for all workers in all processes."""

    @abstractmethod
    async def pause(self) -> None:
        """Give out no more tasks, until :meth:`resume`. Attempts under way go on, and tasks can be pushed."""

    @abstractmethod
    async def resume(self) -> None:
        """Give out tasks again."""

    @abstractmethod
    async def is_paused(self) -> bool:
        """Return True if the queue is paused."""


class SetLimits(ABC):
    """A backend whose queue has limits, of the whole and of each key, which hold for all workers in all processes."""

    @abstractmethod
    async def set_limits(self, limits: Limits | None, *, key: str | None = None) -> None:
        """Replace the limits of the queue, or of one key in it; None: it has none of its own.

        Raises:
          TypeError, ValueError: they are no :class:`Limits`, or a key is given a limit of the whole queue.
        """

    @abstractmethod
    async def get_limits(self, *, key: str | None = None) -> Limits | None:
        """Return the limits of the queue, or those that one key has of its own; None if there are none."""

    @abstractmethod
    async def list_limits(self) -> dict[str | None, Limits]:
        """Return all limits: those of the queue under None, and those that keys have of their own by key."""


class Explain(ABC):
    """A backend that can explain where a task is, and why it does not run now."""

    @abstractmethod
    async def explain(self, task_id: str) -> Explanation:
        """Explain where the task of this id is, and why it does not run now. An id may also be unknown."""


class Throughput(ABC):
    """A backend that adds up the attempts of each minute."""

    @abstractmethod
    async def throughput(
        self, since: datetime | None = None, until: datetime | None = None, *, name: str | None = None
    ) -> list[Minute]:
        """Return the sums of each minute and name, in order; from and until these moments, and of one name, if they
        are given."""

    def attempt_totals(self) -> list[AttemptTotals]:
        """Return the sums of all attempts that this process has settled, for each name; they never fall. By default,
        none are known.
        """
        return []


class StoreSchedules(ABC):
    """A backend that keeps schedules, and pushes their tasks in the step that notes which times were fired.

    The schedules belong to the store, and not to one of its queues. These methods are for a scheduler.
    """

    @abstractmethod
    async def list_schedules(self, after: int = 0, *, name: str | None = None) -> Sequence[ScheduleEntry]:
        """Return the schedules whose revision is above ``after``, by revision; or the one of a name, if it is. Those
        removed lately are among them."""

    @abstractmethod
    async def set_schedules(self, changes: Sequence[ScheduleChange]) -> Sequence[ScheduleResult]:
        """Make each change whose schedule has the revision that is said, and push its tasks to this queue.

        The change of one schedule and its tasks are one step, which happens whole or not at all. If it is cancelled,
        nothing was done; once it returns, all of it is stored.
        """

    @abstractmethod
    def make_template(self, task: Task[Any]) -> TaskTemplate:
        """Return what is to be kept of a task that schedules push to this queue.

        Raises:
          TypeError, ValueError: its args cannot be encoded.
        """

    @abstractmethod
    async def wait_for_schedules(self, seen: int = 0) -> int:
        """Wait until a schedule may have been changed since the call that returned ``seen``; a second at most, where
        other processes may change them. Return the number to give next.

        Raises:
          trio.ClosedResourceError: nothing more can be pushed here.
        """


class TransferTasks(ABC):
    """A backend whose tasks can be carried to another one, complete: with state, results, errors and history."""

    @abstractmethod
    async def export_tasks(self, after: str | None = None, *, limit: int = 500) -> Page[StoredTask]:
        """Return at most ``limit`` tasks as they are stored, in an order that stays the same: that of their pushes, as
        a rule.

        ``next`` of the page is the ``after`` with which it goes on. A task that is there from the first page to the
        last is on exactly one of them, as it was when that was read. Large tasks make pages shorter.

        Raises:
          ValueError: ``after`` is not the ``next`` of a page of this queue.
        """

    @abstractmethod
    async def import_tasks(self, tasks: Iterable[StoredTask]) -> ImportReport:
        """Store these tasks as they are, all in one transaction: give it some hundreds at a time.

        One whose id is known stays as it is there: it is ``present`` if it is the same task, whatever has become of it,
        and refused if it is another one. So an import that was interrupted can be repeated. A task is refused, too, if
        its unique key is held by another one, or if it is larger than the store takes. A running one is an orphan, as
        if its worker had died: its attempt counts. The imported tasks are counted as pushed, and finished ones as
        finished.

        If it is cancelled, nothing was stored; once it returns, all of it is.
        """


class Audit(ABC):
    """A backend that can check that no task is missing, and that its counters are right."""

    @abstractmethod
    async def audit(self) -> Balance:
        """Compare the counters with the tasks in the queue; true at any moment:
        ``pushed + resumed = finished + waiting + delayed + running``."""


INTERFACES: tuple[type, ...] = tuple(
    each
    for each in vars().values()
    if isinstance(each, ABCMeta) and each.__module__ == __name__ and each is not Backend
)
"""The interfaces above that a backend may implement in addition: nothing repeats this list."""


class PollStrategy(ABC):
    """A rule that decides when a backend polls again. One object serves one :func:`poll`."""

    @abstractmethod
    async def wait(self) -> None:
        """Return when it is time to poll again, after a poll that found nothing.

        If it is cancelled, the next thing done is a look, so a signal that it has consumed is not lost.
        """

    def found(self) -> None:
        """Note that a poll found something; a strategy that counts polls without success starts again. Default:
        nothing.
        """
