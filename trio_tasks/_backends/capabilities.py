"""The capabilities of backends in memory: find, change, cancel, list and wait for tasks."""

# A string is an iterable of strings, and one id all the same: the overload for one id comes first.
# mypy: disable-error-code=overload-overlap

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import trio

from .._checks import check_flag, check_seconds, check_stored_text
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
from .._contracts.bulk import Refusal, ReportBuilder, check_ids, in_batches, log_taken
from .._contracts.lending import Loan
from .._contracts.listing import CHANGED_AT_ONCE, Found, PageRequest, selections
from .._contracts.result_waits import ResultWait
from .._contracts.sink import check_task
from .._printing import escaped
from .._tasks.errors import DuplicateTaskError, UnknownTaskError
from .._tasks.extensions import Metadata
from .._tasks.outcome import Status, TaskResult, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from typing_extensions import Unpack

    from .._contracts.bulk import ChangeReport
    from .._contracts.listing import Page, Selection, TaskFilters
    from .._contracts.metrics import Balance, QueueMetrics
    from .._contracts.result_waits import ResultWaits
    from .._tasks.task import Task
    from .ledger import Ledger

A = TypeVar("A")
R = TypeVar("R")


class LedgerHolder(Protocol[A]):
    """The interface of an object that has a ledger and the trio tasks that wait on it."""

    name: str
    is_paused: bool
    ledger: Ledger[A]
    completion: ResultWaits

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
    @overload
    async def wait_for(self, ids: Iterable[str], /, type: type[R]) -> list[TaskResult[R]]: ...
    @overload
    async def wait_for(self, ids: Iterable[str], /, type: None = None) -> list[TaskResult[Any]]: ...
    async def wait_for(self, task_id: str | Iterable[str], type: Any = None) -> TaskResult[Any] | list[TaskResult[Any]]:
        """Wait until the task is finished, and return its :class:`TaskResult`.

        Args:
          task_id: the id of the task; or several in an iterable, to wait until all of them are finished, and get a list
              in the order of the ids.
          type: a class that the result is an instance of, for type checkers: ``wait_for(id, Receipt)`` is a
              ``TaskResult[Receipt]``; default any value.

        Raises:
          UnknownTaskError: no such task is known, or it ended and is not remembered any more. Of several, it names all
            that are not known, as soon as there is one.
          TypeError: the result is not an instance of ``type``.

        If it is cancelled, the task goes on.
        """
        ids = check_ids(task_id)
        await trio.lowlevel.checkpoint()
        if isinstance(ids, list):
            return [typed(each, type) for each in await self._wait_for(ids)]
        return typed((await self._wait_for([ids]))[0], type)

    async def _wait_for(self, ids: Sequence[str]) -> list[TaskResult[Any]]:
        what = f"task {escaped(ids[0])}" if len(ids) == 1 else f"{len(ids)} tasks"
        with ResultWait(self._ledger_holder.completion, ids) as wait, Loan(wait.pending, what) as loan:
            self._look(wait)
            while wait.pending:
                loan.begin()
                await wait.wait(trio.current_time())
                self._look(wait)
        return [wait.results[task_id] for task_id in ids]  # noqa: ASYNC910  the caller has had its checkpoint

    def _look(self, wait: ResultWait) -> None:
        """Look at the tasks that may be finished, or may have vanished."""
        self._ledger_holder.expire()
        ledger = self._ledger_holder.ledger
        for task_id in wait.take_news():
            result = ledger.result_of(task_id)
            if result is not None or ledger.find(task_id) is None:
                wait.end(task_id, result)
            else:
                wait.expires_at(task_id, ledger.expires_at(task_id))
        if wait.unknown:
            raise UnknownTaskError(*wait.unknown)

    @overload
    async def fetch_by_id(self, task_id: str) -> Task[A] | None: ...
    @overload
    async def fetch_by_id(self, ids: Iterable[str], /) -> list[Task[A] | None]: ...
    async def fetch_by_id(self, task_id: str | Iterable[str]) -> Task[A] | list[Task[A] | None] | None:
        """Return a copy of the task of this id, unfinished or remembered; or None. Its ``parts.context`` is a
        :class:`StoredTaskInfo`, with its history, its error, its result and its progress.

        Of several ids in an iterable, it returns a list in the order of the ids.
        """
        ids = check_ids(task_id)
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        return [self._fetched(each) for each in ids] if isinstance(ids, list) else self._fetched(ids)

    def _fetched(self, task_id: str) -> Task[A] | None:
        task = self._ledger_holder.ledger.find(task_id)
        return None if task is None else self._shown(task)

    def _shown(self, task: Task[A]) -> Task[A]:
        return self._ledger_holder.ledger.reader.shown(task)

    @trio.lowlevel.enable_ki_protection
    async def update(self, task: Task[A]) -> bool:
        """Replace args and metadata of the waiting task of the same id by this task's; False if no such task waits."""
        check_task(task, "update")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        return self._ledger_holder.ledger.update(task)

    @overload
    async def reschedule(self, task_id: str, delay: float) -> bool: ...
    @overload
    async def reschedule(self, ids: Iterable[str], /, delay: float) -> ChangeReport: ...
    @trio.lowlevel.enable_ki_protection
    async def reschedule(self, task_id: str | Iterable[str], delay: float) -> bool | ChangeReport:
        """Make the waiting task ready in ``delay`` seconds; False if no task of this id waits.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.
        """
        check_seconds(delay, "delay")
        ledger = self._ledger_holder.ledger

        def reschedule(one: str) -> bool:
            return ledger.reschedule(one, delay, trio.current_time())

        return await self._change("rescheduled", check_ids(task_id), reschedule)

    @overload
    async def cancel(self, task_id: str, *, running: bool = False) -> bool: ...
    @overload
    async def cancel(self, ids: Iterable[str], /, *, running: bool = False) -> ChangeReport: ...
    @trio.lowlevel.enable_ki_protection
    async def cancel(self, task_id: str | Iterable[str], *, running: bool = False) -> bool | ChangeReport:
        """Kill the waiting task of this id; False if no task of this id waits.

        With ``running=True``, one that runs is aborted, as :meth:`abort` does.

        Of several ids in an iterable, it returns a :class:`ChangeReport`: which were cancelled, and why the others were
        not. 500 of them are cancelled in one step, with a checkpoint before each. If it is cancelled, the steps that
        were made stay.

        >>> report = await storage.cancel(ids)
        >>> print(report)
        2 of 3 cancelled; not 01a…: it runs, on worker 'w'
        """
        ledger = self._ledger_holder.ledger
        check_flag(running, "running")

        def cancel(one: str) -> bool:
            return ledger.cancel(one, "cancelled while it waited") or (
                running and ledger.abort(one, "aborted while it ran")
            )

        return await self._change("cancelled", check_ids(task_id), cancel, aborts=running)

    @overload
    async def abort(self, task_id: str) -> bool: ...
    @overload
    async def abort(self, ids: Iterable[str], /) -> ChangeReport: ...
    @trio.lowlevel.enable_ki_protection
    async def abort(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Cancel the attempt under way, which is then settled as killed; False if there is none, or if it is over and
        only being settled.

        If the attempt succeeds all the same, the task is done; but it is not attempted again after this.
        It does not wait for the attempt to end: :meth:`wait_for` does. A sync handler ends when it next asks
        ``trio.from_thread.check_cancelled()``.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.
        """
        ledger = self._ledger_holder.ledger

        def abort(one: str) -> bool:
            return ledger.abort(one, "aborted while it ran")

        return await self._change("aborted", check_ids(task_id), abort, aborts=True)

    @overload
    async def resume_by_id(self, task_id: str) -> bool: ...
    @overload
    async def resume_by_id(self, ids: Iterable[str], /) -> ChangeReport: ...
    @trio.lowlevel.enable_ki_protection
    async def resume_by_id(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Make the finished task of this id wait again, with all of its attempts; False if there is no such task. The
        result of one that has succeeded is forgotten.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.

        Raises:
          DuplicateTaskError: its unique key is taken by now. Of several, the report says so.
        """
        ledger = self._ledger_holder.ledger

        def resume(one: str) -> bool:
            return ledger.resume(one, trio.current_time())

        return await self._change("resumed", check_ids(task_id), resume)

    @overload
    async def discard(self, task_id: str) -> bool: ...
    @overload
    async def discard(self, ids: Iterable[str], /) -> ChangeReport: ...
    @trio.lowlevel.enable_ki_protection
    async def discard(self, task_id: str | Iterable[str]) -> bool | ChangeReport:
        """Forget the task of this id, finished or waiting; False if there is none, or if it runs.

        One that waited is counted as killed; those that wait for its result get :exc:`UnknownTaskError`.

        Of several ids in an iterable, it returns a :class:`ChangeReport`, as :meth:`cancel` does.
        """
        return await self._change("discarded", check_ids(task_id), self._ledger_holder.ledger.discard)

    async def _change(
        self, verb: str, ids: str | list[str], change: Callable[[str], bool], *, aborts: bool = False
    ) -> bool | ChangeReport:
        """Change one task, or several with a checkpoint before each 500 of them."""
        if isinstance(ids, str):
            await trio.lowlevel.checkpoint()
            self._ledger_holder.expire()
            is_changed = change(ids)
            self._ledger_holder.match_waiters()
            return is_changed
        builder = ReportBuilder(verb)
        for batch in in_batches(ids, CHANGED_AT_ONCE):
            await trio.lowlevel.checkpoint()
            self._ledger_holder.expire()
            for task_id in batch:
                builder.add(task_id, self._change_one(task_id, change, aborts=aborts))
            self._ledger_holder.match_waiters()
        return builder.report()  # noqa: ASYNC910  there is a batch at least

    def _change_one(self, task_id: str, change: Callable[[str], bool], *, aborts: bool) -> Refusal | None:
        """Change a task; return why it was not changed, or None if it was."""
        try:
            if change(task_id):
                return None
        except DuplicateTaskError as error:
            return Refusal(taken_by=error.taken_by)
        task = self._ledger_holder.ledger.find(task_id)
        if task is None:
            return Refusal()
        status, holder = task.parts.status, task.parts.holder
        return Refusal(status, None if holder is None else holder.worker, is_ending=aborts and status is Status.Running)

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
        The number of these is logged; :meth:`resume_by_id` of several ids gives the reason for each.
        """

        taken: list[str] = []

        def resume(task_id: str) -> bool:
            try:
                return self._ledger_holder.ledger.resume(task_id, trio.current_time())
            except DuplicateTaskError:
                taken.append(task_id)
                return False

        number = await self._change_all(selections("retry_all", status, filters, self._seconds()), resume)
        log_taken(self._ledger_holder.name, taken)
        return number

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
        number, seen = 0, set[str]()  # a task that has failed again since is not changed again, though time stand still
        for selection in chosen:
            request: PageRequest | None = PageRequest(selection, False, None, CHANGED_AT_ONCE)
            while request is not None:
                await trio.lowlevel.checkpoint()
                self._ledger_holder.expire()
                found = self._ledger_holder.ledger.reader.search(request, trio.current_time())
                new = [task.parts.id for task in found.rows if task.parts.id not in seen]
                seen.update(new)
                number += sum(map(change, new))
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
        found = self._ledger_holder.ledger.reader.search(request, trio.current_time())
        return request.page(Found([self._shown(each) for each in found.rows], found.next, found.is_partial))

    @trio.lowlevel.enable_ki_protection
    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task; it replaces what was reported before.

        Raises:
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
        """
        check_task(task, "report_progress")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.ledger.report(task, progress)

    @trio.lowlevel.enable_ki_protection
    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task, in place of those of the same names; later attempts and
        :meth:`fetch_by_id` see them.

        Raises:
          LeaseLostError: the task is not running in this attempt any more. Nothing changed.
        """
        check_task(task, "set_metadata")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.ledger.set_metadata(task, Metadata({**task.parts.metadata, **values}))

    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task; None if none was.

        Raises:
          UnknownTaskError: no such task is known.
        """
        check_stored_text(task_id, "a task's id")
        await trio.lowlevel.checkpoint()
        self._ledger_holder.expire()
        ledger = self._ledger_holder.ledger
        if ledger.find(task_id) is None:
            raise UnknownTaskError(task_id)
        return ledger.reader.progress_of(task_id)

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
        self._ledger_holder.expire()
        return self._ledger_holder.ledger.audit(self._ledger_holder.name, trio.current_time())
