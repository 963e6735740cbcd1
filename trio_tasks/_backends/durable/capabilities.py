"""The capabilities of stored storages: look at tasks, queues and workers, wait for results, and change tasks."""

# A string is an iterable of strings, and one id all the same: the overload for one id comes first.
# mypy: disable-error-code=overload-overlap

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..._checks import check_flag
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
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    SetLimits,
    SetMetadata,
    Throughput,
    Update,
    Vacuum,
    WaitForCompletion,
)
from ..._contracts.bulk import check_ids
from ..._contracts.listing import PageRequest
from ..._contracts.minutes import check_span, shown
from ..._exports import rename
from ..._tasks.limits import check_key, check_limits
from ..._tasks.outcome import typed
from .engine import RowChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from typing_extensions import Unpack

    from ..._contracts.bulk import ChangeReport
    from ..._contracts.explanation import Explanation
    from ..._contracts.listing import Page, TaskFilters
    from ..._contracts.metrics import AttemptTotals, Balance, Minute, QueueMetrics
    from ..._contracts.store_info import StoreInfo
    from ..._contracts.worker_info import WorkerInfo
    from ..._tasks.limits import Limits
    from ..._tasks.outcome import Status, TaskResult
    from ..._tasks.task import Task
    from .exchange_loop import ExchangeLoop
    from .operations import QueueOperations
    from .queue import QueueState

A = TypeVar("A")
R = TypeVar("R")


class DurableCapabilities(
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
    SetLimits,
    Explain,
    Progress,
    SetMetadata,
    Throughput,
    Generic[A],
):
    """The part of :class:`DurableStorage` that serves those who look after the tasks.

    Each call is one operation of the engine, or several of them. Cancelled while it waits for the engine, it has
    changed nothing; once the operation is under way, it is carried to its end.
    """

    _loop: ExchangeLoop
    _queue: QueueState
    _operations: QueueOperations

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
        ids = check_ids(task_id)
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
        ids = check_ids(task_id)
        if isinstance(ids, list):
            return [typed(each, type) for each in await self._operations.wait_for(ids)]
        return typed((await self._operations.wait_for([ids]))[0], type)

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

    async def set_limits(self, limits: Limits | None, *, key: str | None = None) -> None:
        """Replace the limits of the queue, or of one key in it. They are stored, and hold over all processes.

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
        checked = check_limits(limits, of_key=check_key(key) is not None)
        await self._loop.ask(self._loop.engine.set_limits, self._queue.name, key, checked)
        self._loop.check_queues()

    async def get_limits(self, *, key: str | None = None) -> Limits | None:
        """Return the limits of the queue, or those that one key has of its own; None if there are none."""
        first = self._loop.first_limits.get(self._queue.name) if key is None else None  # the next exchange stores them
        found = await self._loop.ask(self._loop.engine.get_limits, self._queue.name, check_key(key))
        return first if found is None else found

    async def list_limits(self) -> dict[str | None, Limits]:
        """Return all limits: those of the queue under None, and then those that keys have of their own by key."""
        first = self._loop.first_limits.get(self._queue.name)  # the same
        found = await self._loop.ask(self._loop.engine.list_limits, self._queue.name)
        return found if first is None or None in found else {None: first, **found}

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
        ids = check_ids(task_id)
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
        ids = check_ids(task_id)
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
        ids = check_ids(task_id)
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
        ids = check_ids(task_id)
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
        ids = check_ids(task_id)
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


rename("trio_tasks.abc", {"DurableCapabilities": DurableCapabilities})
