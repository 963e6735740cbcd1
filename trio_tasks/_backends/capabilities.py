"""The capabilities of backends in memory: find, change, cancel, list and wait for tasks."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, final, overload

import trio

from .._checks import check_seconds, check_text
from .._contracts.backend import (
    ActOnMany,
    Audit,
    Cancel,
    Discard,
    FetchById,
    ListTasks,
    Metrics,
    Progress,
    Reschedule,
    ResumeById,
    SetMetadata,
    Update,
    Vacuum,
    WaitForCompletion,
)
from .._contracts.lending import Loan
from .._contracts.listing import CHANGED_AT_ONCE, Found, PageRequest, selections
from .._contracts.sink import check_task
from .._printing import escaped
from .._tasks.errors import DuplicateTaskError, UnknownTaskError
from .._tasks.extensions import Metadata
from .._tasks.outcome import TaskResult, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Unpack

    from .._contracts.listing import Page, Selection, TaskFilters
    from .._contracts.metrics import Balance, QueueMetrics
    from .._tasks.outcome import Ending, Status
    from .._tasks.task import Task
    from .._tasks.task_id import TaskId
    from .ledger import Ledger

A = TypeVar("A")
R = TypeVar("R")


class LedgerHolder(Protocol[A]):
    """The interface of an object that has a ledger and the trio tasks that wait on it."""

    name: str
    is_paused: bool
    ledger: Ledger[A]
    completion: ResultWaiters

    def expire(self) -> None:
        """Kill the tasks that were not started in time."""

    def match_waiters(self) -> None:
        """Serve waiting trio tasks after a change that may have made a task ready."""


class LedgerCapabilities(
    FetchById,
    Update,
    Reschedule,
    Cancel,
    Discard,
    Vacuum,
    ResumeById,
    WaitForCompletion,
    ListTasks,
    ActOnMany,
    Metrics,
    Audit,
    Progress,
    SetMetadata,
    Generic[A],
):
    """The base of backends that keep their tasks in memory, such as :class:`MemoryStorage`.

    Each method decides in one step, after its one checkpoint; so a call that is cancelled has changed nothing.
    """

    _ledger_holder: LedgerHolder[A]

    @overload
    async def wait_for(self, task_id: str, type: type[R]) -> TaskResult[R]: ...
    @overload
    async def wait_for(self, task_id: str, type: None = None) -> TaskResult[Any]: ...
    async def wait_for(self, task_id: str, type: Any = None) -> TaskResult[Any]:
        """Wait until the task is finished, and return its :class:`TaskResult`.

        Args:
          task_id: the id of the task.
          type: a class that the result is an instance of, for type checkers: ``wait_for(id, Receipt)`` is a
              ``TaskResult[Receipt]``; default any value.

        Raises:
          UnknownTaskError: no such task is known, or it ended and is not remembered any more.
          TypeError: the result is not an instance of ``type``.

        If it is cancelled, the task goes on.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        ledger, completion = self._ledger_holder.ledger, self._ledger_holder.completion
        while True:
            self._ledger_holder.expire()
            result = ledger.result_of(task_id)
            if result is not None:
                return typed(result, type)
            if ledger.find(task_id) is None:
                raise UnknownTaskError(task_id)
            expiry = ledger.expires_at(task_id)
            with trio.move_on_at(math.inf if expiry is None else expiry):
                return typed(await completion.wait_for(task_id), type)

    async def fetch_by_id(self, task_id: str) -> Task[A] | None:
        """Return a copy of the task of this id, unfinished or remembered; or None. Its ``parts.context`` is a
        :class:`StoredTaskInfo`, with its history, its error, its result and its progress.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        task = self._ledger_holder.ledger.find(task_id)
        return None if task is None else self._shown(task)

    def _shown(self, task: Task[A]) -> Task[A]:
        return self._ledger_holder.ledger.shown(task)

    @trio.lowlevel.enable_ki_protection
    async def update(self, task: Task[A]) -> bool:
        """Replace args and metadata of the waiting task of the same id by this task's; False if no such task waits."""
        check_task(task)
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        return self._ledger_holder.ledger.update(task)

    @trio.lowlevel.enable_ki_protection
    async def reschedule(self, task_id: str, delay: float) -> bool:
        """Make the waiting task ready in ``delay`` seconds; False if no task of this id waits."""
        check_seconds(delay, "delay")
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        moved = self._ledger_holder.ledger.reschedule(task_id, delay, trio.current_time())
        self._ledger_holder.match_waiters()
        return moved

    @trio.lowlevel.enable_ki_protection
    async def cancel(self, task_id: str, *, running: bool = False) -> bool:
        """Kill the waiting task of this id; False if no task of this id waits.

        With ``running=True``, one that runs is aborted, as :meth:`abort` does.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        ledger = self._ledger_holder.ledger
        cancelled = ledger.cancel(task_id, "cancelled while it waited")
        self._ledger_holder.match_waiters()
        return cancelled or (running and ledger.abort(task_id, "aborted while it ran"))

    @trio.lowlevel.enable_ki_protection
    async def abort(self, task_id: str) -> bool:
        """Cancel the attempt under way, which is then settled as killed; False if there is none, or if it is over and
        only being settled.

        If the attempt succeeds all the same, the task is done; but it is not attempted again after this.
        It does not wait for the attempt to end: :meth:`wait_for` does. A sync handler ends when it next asks
        ``trio.from_thread.check_cancelled()``.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        return self._ledger_holder.ledger.abort(task_id, "aborted while it ran")

    @trio.lowlevel.enable_ki_protection
    async def resume_by_id(self, task_id: str) -> bool:
        """Make the finished task of this id wait again, with all of its attempts; False if there is no such task. The
        result of one that has succeeded is forgotten.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        resumed = self._ledger_holder.ledger.resume(task_id, trio.current_time())
        self._ledger_holder.match_waiters()
        return resumed

    @trio.lowlevel.enable_ki_protection
    async def discard(self, task_id: str) -> bool:
        """Forget the task of this id, finished or waiting; False if there is none, or if it runs.

        One that waited is counted as killed; those that wait for its result get :exc:`UnknownTaskError`.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        discarded = self._ledger_holder.ledger.discard(task_id)
        self._ledger_holder.match_waiters()
        return discarded

    @trio.lowlevel.enable_ki_protection
    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        """Forget all finished tasks, dead letters included; return how many there were.

        Args:
          older_than: seconds; only tasks that were finished this long ago, or longer.
          status: only tasks that are Done, Failed or Killed.
        """
        if older_than is not None or status is not None:
            seconds = 0.0 if older_than is None else check_seconds(older_than, "older_than")
            chosen = selections("vacuum", status, {}, self._seconds(), seconds)
            return await self._change_all(chosen, self._ledger_holder.ledger.discard)
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        return self._ledger_holder.ledger.vacuum()

    @trio.lowlevel.enable_ki_protection
    async def retry_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Make all failed and killed tasks wait again that pass the filters, with all of their attempts; or those that
        are done, if that status is given. Return how many there were; one whose unique key is taken stays as it is.
        """

        def resume(task_id: str) -> bool:
            with suppress(DuplicateTaskError):
                return self._ledger_holder.ledger.resume(task_id, trio.current_time())
            return False

        return await self._change_all(selections("retry_all", status, filters, self._seconds()), resume)

    @trio.lowlevel.enable_ki_protection
    async def cancel_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Kill all waiting tasks that pass the filters; return how many there were."""
        cancel = partial(self._ledger_holder.ledger.cancel, reason="cancelled while it waited")
        return await self._change_all(selections("cancel_all", status, filters, self._seconds()), cancel)

    @trio.lowlevel.enable_ki_protection
    async def discard_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        """Forget all finished tasks that pass the filters; return how many there were."""
        chosen = selections("discard_all", status, filters, self._seconds())
        return await self._change_all(chosen, self._ledger_holder.ledger.discard)

    def _seconds(self) -> float:
        return self._ledger_holder.ledger.seconds()

    async def _change_all(self, chosen: list[Selection], change: Callable[[str], bool]) -> int:
        """Change all tasks of these selections, with a checkpoint before each 500 of them."""
        number = 0
        for selection in chosen:
            request: PageRequest | None = PageRequest(selection, False, None, CHANGED_AT_ONCE)
            while request is not None:
                await trio.lowlevel.checkpoint()
                self._ledger_holder.expire()
                found = self._ledger_holder.ledger.search(request, trio.current_time())
                number += sum(change(task.parts.id) for task in found.rows)
                self._ledger_holder.match_waiters()
                request = None if found.next is None else replace(request, after=found.next)
        return number  # noqa: ASYNC910  there is a selection at least

    async def list_tasks(
        self,
        status: Status | None = None,
        *,
        newest_first: bool = False,
        after: str | None = None,
        limit: int = 100,
        **filters: Unpack[TaskFilters],
    ) -> Page[Task[A]]:
        """Return copies of at most ``limit`` tasks, of this status if one is given, that pass the filters. Unfinished
        ones come first. Each is as :meth:`fetch_by_id` shows it.

        Args:
          status: the status of the tasks.
          newest_first: list in the opposite order, so that the task that was finished last comes first.
          after: the ``next`` of the page before, to go on with the list.
          limit: the number of tasks on the page.
          filters: see :class:`TaskFilters`.

        Raises:
          ValueError: ``after`` is not the cursor of this list.
        """
        request = PageRequest.of(status, filters, newest_first=newest_first, after=after, limit=limit)
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        found = self._ledger_holder.ledger.search(request, trio.current_time())
        return request.page(Found([self._shown(each) for each in found.rows], found.next, found.is_partial))

    @trio.lowlevel.enable_ki_protection
    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
        """
        check_task(task)
        await trio.lowlevel.checkpoint()
        self._ledger_holder.ledger.report(task, progress)

    @trio.lowlevel.enable_ki_protection
    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task, in place of those of the same names; later attempts and
        :meth:`fetch_by_id` see them.

        Raises:
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
        """
        check_task(task)
        metadata = Metadata({**task.parts.metadata, **values})
        await trio.lowlevel.checkpoint()
        self._ledger_holder.ledger.set_metadata(task, metadata)

    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task; None if none was.

        Raises:
          UnknownTaskError: no such task is known.
        """
        check_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        ledger = self._ledger_holder.ledger
        if ledger.find(task_id) is None:
            raise UnknownTaskError(task_id)
        return ledger.progress_of(task_id)

    async def metrics(self) -> QueueMetrics:
        """Return the counters of the queue: tasks in all since it was made, by outcome, and at present, by state."""
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        holder = self._ledger_holder
        return holder.ledger.metrics(trio.current_time(), is_paused=holder.is_paused)

    async def audit(self) -> Balance:
        """Compare the counters of the queue with its tasks: ``pushed + resumed = finished + waiting + delayed +
        running``, at any moment.

        >>> balance = await storage.audit()
        >>> assert balance, str(balance)
        """
        await trio.lowlevel.checkpoint()
        return self._ledger_holder.ledger.audit(self._ledger_holder.name)


@final
class ResultWaiters:
    """The trio tasks that wait for results of tasks; a ledger calls :meth:`announce`."""

    __slots__ = ("_awaited",)

    def __init__(self) -> None:
        self._awaited: dict[str, _Awaited] = {}

    def announce(self, task_id: TaskId, outcome: Ending | None) -> None:
        """Wake the trio tasks that wait for this task, which is finished; with None, it is discarded."""
        awaited = self._awaited.pop(task_id, None)
        if awaited is not None:
            awaited.result = None if outcome is None else TaskResult.of(task_id, outcome)
            awaited.finished.set()

    async def wait_for(self, task_id: str) -> TaskResult[Any]:
        """Wait for the result of a task that is not finished yet. If this is cancelled, the task goes on.

        Raises:
          UnknownTaskError: the task was discarded.
        """
        awaited = self._awaited.setdefault(task_id, _Awaited())
        with Loan(task_id, f"task {escaped(task_id)}") as loan:
            loan.begin()
            await awaited.finished.wait()
        if awaited.result is None:
            raise UnknownTaskError(task_id)
        return awaited.result


@final
class _Awaited:
    """A task whose result trio tasks wait for."""

    __slots__ = ("finished", "result")

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.result: TaskResult[Any] | None = None
