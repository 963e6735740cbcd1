"""The operations on a stored queue besides pushing, receiving and settling: look up, wait, change, forget."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, final

import trio

from ..._checks import check_seconds, check_stored_text
from ..._clock import microseconds_of, wall_after
from ..._concurrency.virtual_time import rest
from ..._contracts.bulk import Refusal, ReportBuilder, in_batches, log_taken
from ..._contracts.explanation import Evidence, explanation_of
from ..._contracts.lending import Loan
from ..._contracts.listing import CHANGED_AT_ONCE, SLACK, Found, selections
from ..._contracts.result_waits import ResultWait
from ..._contracts.schedules import TaskTemplate
from ..._contracts.sink import check_storable, check_task
from ..._contracts.storage_events import Pushed
from ..._printing import escaped
from ..._tasks.errors import AbortError, LeaseLostError, UnknownTaskError, withdrawn_error
from ..._tasks.extensions import Metadata
from ..._tasks.outcome import Status
from ..._tasks.task import end_attempt
from .encoding import decode_options, encode_error, encode_options, moment_of
from .engine import ENDS, ClaimKey, Query, RowChange, State
from .queue import Lease, aborted
from .rows import PLAIN, STATES, check_length, result_of, result_of_ending, task_of
from .schedules import entry_of, result_of_update, update_of
from .worker_runs import find_workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ..._contracts.bulk import ChangeReport
    from ..._contracts.explanation import Explanation
    from ..._contracts.listing import Page, PageRequest, Selection, TaskFilters
    from ..._contracts.schedules import ScheduleChange, ScheduleEntry, ScheduleResult
    from ..._contracts.worker_info import WorkerInfo
    from ..._tasks.outcome import TaskResult
    from ..._tasks.task import Task
    from .engine import Changed, LocatedRow, Part, StoredRow
    from .exchange_loop import ExchangeLoop
    from .queue import QueueState

    ManyVerb = Literal["retry_all", "cancel_all", "discard_all"]

_SCHEDULES_POLLED = 1.0
"""Seconds after which schedules are looked at again, which another process may have changed."""
_LOOKED_APART = 1.0
"""Seconds between two looks at a task whose lease is over, and which is not taken back yet."""
_PARTS_APART = 0.01
"""Seconds between two transactions of one call. A process that waits for the lock polls more often than that."""
_CHANGES: dict[ManyVerb, Literal["cancel", "resume", "forget"]] = {
    "retry_all": "resume",
    "cancel_all": "cancel",
    "discard_all": "forget",
}
"""The change of the engine that each verb for many tasks makes."""


@final
class QueueOperations:
    """The operations on one queue of a store that :class:`DurableStorage` offers to those who look after it.

    Each is one operation of the engine, or several of them; the methods of the storage say what they promise.

    Args:
      loop: the loop that makes exchanges with the engine, through which all else is asked of it, too.
      queue: the state of the queue in this process.
    """

    __slots__ = ("_loop", "_queue")

    def __init__(self, loop: ExchangeLoop, queue: QueueState) -> None:
        self._loop = loop
        self._queue = queue

    # Looking up

    async def fetch_by_id(self, task_id: str) -> Task[Any] | None:
        """Return the task of this id; None if it is not known."""
        stored: StoredRow | None = await self._do("find", task_id)
        return None if stored is None else task_of(stored, self._queue)

    async def fetch_each(self, ids: Sequence[str]) -> list[Task[Any] | None]:
        """Return the tasks of these ids, in their order; None for each that is not known."""
        found = {stored.id: stored for stored in await self._find_each(ids) if stored is not None}
        return [task_of(found[task_id], self._queue) if task_id in found else None for task_id in ids]

    async def _find_each(self, ids: Sequence[str]) -> list[StoredRow | None]:
        """Return the rows of these ids, each of them once."""
        rows: list[StoredRow | None] = []
        for batch in in_batches(ids, CHANGED_AT_ONCE):
            rows += await self._loop.ask(self._loop.engine.find_each, self._queue.name, batch)
        return rows  # noqa: ASYNC910  there is a batch at least

    async def list_tasks(self, request: PageRequest) -> Page[Task[Any]]:
        """Return a page of tasks."""
        selection, newest_first = request.selection, request.newest_first
        query = self._query(selection)._replace(newest_first=newest_first, after=request.after, limit=request.limit)
        found: Found[StoredRow] = await self._loop.ask(self._loop.engine.search, self._queue.name, query)
        tasks = [task_of(stored, self._queue) for stored in found.rows]
        if selection.status is not None:  # one that was claimed meanwhile has another by now
            tasks = [task for task in tasks if task.parts.status is selection.status]
        return request.page(Found(tasks, found.next, found.is_partial))

    def _query(self, selection: Selection) -> Query:
        """Return the question for these tasks.

        In the store, a row that is claimed here and not begun is RUNNING like any other.
        """
        status = selection.status
        query = Query(list(State) if status is None else STATES[status], selection)
        if status is Status.Running:
            return query._replace(left_out=self._queue.unbegun())
        return query if status is not Status.Queued else query._replace(only=self._queue.unbegun())

    async def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for the task."""
        stored: StoredRow | None = await self._do("find", task_id)
        if stored is None:
            raise UnknownTaskError(task_id)
        return None if stored.progress is None else PLAIN.decode(stored.progress)

    async def explain(self, task_id: str) -> Explanation:
        """Explain where the task is, and why it does not run now."""
        evidence = await self._evidence(task_id)
        if self._loop.engine.knows_workers and evidence.needs_workers:
            workers = await self.workers(fresh=True)
            evidence = await self._evidence(task_id)  # that took a while, and all is to be of the same time
            evidence.workers = workers if evidence.needs_workers else ()
        return explanation_of(evidence)

    async def _evidence(self, task_id: str) -> Evidence:
        """Return all that the store knows of a task at present, but for the workers."""
        found: LocatedRow | None = await self._do("locate", task_id)
        evidence = Evidence(id=task_id, queue=self._queue.name, now=self._loop.engine.now())
        if found is not None:
            evidence.task = task_of(found.row, self._queue)
            evidence.due, evidence.reason, evidence.place = found.row.due, found.row.suspended, found.place
            evidence.is_paused, evidence.limit = found.is_paused, found.limit
        if not self._loop.engine.knows_workers:
            evidence.workers = None
        return evidence

    async def workers(self, *, fresh: bool) -> list[WorkerInfo]:
        """Return the workers on this queue; with ``fresh``, in their present state."""
        engine, queue = self._loop.engine, self._queue
        found = await find_workers(engine, self._loop.ask, queue.name, fresh=fresh)
        own = queue.workers.infos(queue.worker_names, engine.now())
        return [*own, *(queue.workers.decoded(each) for each in found if not each.is_own)]

    # Waiting for a result

    async def wait_for(self, ids: Sequence[str], *, lends: bool = True) -> list[TaskResult[Any]]:
        """Wait until all of these tasks are finished, and return their results, in the order of the ids.

        Args:
          ids: the ids.
          lends: True lends the slot of the attempt that waits.
        """
        queue, what = self._queue, f"task {escaped(ids[0])}" if len(ids) == 1 else f"{len(ids)} tasks"
        try:
            with ResultWait(queue.awaited, ids) as wait, Loan(wait.pending, what) as loan:
                await self._look(wait)
                while wait.pending:
                    if not wait.has_news:
                        self._loop.wake_up.set()  # the loop polls while a result is awaited
                        if lends:
                            loan.begin()
                        await wait.wait(self._loop.engine.now())
                    await self._look(wait)
        finally:
            for task_id in ids if queue.endings else ():
                if task_id not in queue.awaited.by_id:
                    queue.endings.pop(task_id, None)
        return [wait.results[task_id] for task_id in ids]

    async def _look(self, wait: ResultWait) -> None:
        """Look at the tasks that may be finished, or may have vanished."""
        news = wait.take_news()
        for task_id, stored in zip(news, await self._find_each(news), strict=True):
            if stored is not None and stored.state < State.DONE:
                wait.expires_at(task_id, stored.expires)
            elif stored is not None:
                wait.end(task_id, result_of(stored, self._queue))
            else:
                ending = self._queue.endings.get(task_id)
                is_end = ending is not None and ending.kind in ENDS
                wait.end(task_id, result_of_ending(task_id, ending, self._queue) if is_end and ending else None)
        if wait.unknown:
            raise UnknownTaskError(*wait.unknown)

    # Changing a running task

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Store the progress of a running task."""
        check_task(task, "report_progress")
        lease = task.parts.context
        if not isinstance(lease, Lease) or lease.settled:
            raise LeaseLostError(f"task {escaped(task.parts.id)} is not running here")
        packed = PLAIN.encode(progress)
        check_length(len(packed), self._loop.engine.longest, "the progress")
        is_kept: bool = await self._loop.ask(self._loop.engine.report, lease.claim_key, packed)
        if not is_kept:
            raise LeaseLostError(f"attempt {task.parts.attempt} of task {escaped(task.parts.id)} has lost its lease")

    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        """Add these values to the metadata of a running task."""
        check_task(task, "set_metadata")
        locks, task_id = self._queue.metadata_locks, task.parts.id
        lock = locks.setdefault(task_id, trio.Lock())
        try:
            async with lock:  # each call adds to what the one before has stored
                await self._set_metadata(task, values)
        finally:
            if not lock.locked():
                locks.pop(task_id, None)

    async def _set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        parts, lease = task.parts, task.parts.context
        if not isinstance(lease, Lease) or lease.settled:
            raise LeaseLostError(f"task {escaped(parts.id)} is not running here")
        metadata = Metadata({**parts.metadata, **values})
        options = encode_options(parts.terms, metadata, parts.run_at)
        check_length(len(options or b""), self._loop.engine.longest, "the metadata")
        is_kept: bool = await self._loop.ask(self._loop.engine.set_options, lease.claim_key, options)
        if not is_kept:
            raise LeaseLostError(f"attempt {parts.attempt} of task {escaped(parts.id)} has lost its lease")
        parts.metadata = decode_options(options)[1]  # as later attempts see it

    # Changing a task

    async def update(self, task: Task[Any]) -> bool:
        """Replace args and metadata of a waiting task."""
        check_task(task, "update")
        payload, task_id = self._queue.codec.encode(task.args), task.parts.id
        check_length(len(payload), self._loop.engine.longest, "the task")
        while True:  # another call may change the options in between: they are read again then
            stored: StoredRow | None = await self._do("find", task_id)
            if stored is None or stored.state > State.DELAYED:
                return False
            run_at = moment_of(stored.run_at, stored.options)
            options = encode_options(decode_options(stored.options, stored.name)[0], task.parts.metadata, run_at)
            check_length(len(payload) + len(options or b""), self._loop.engine.longest, "the task")
            if await self._do("update", task_id, payload, options, stored.options):
                return True

    async def reschedule(self, task_id: str, delay: float) -> bool:
        """Make a waiting task ready in ``delay`` seconds."""
        run_at = microseconds_of(wall_after(check_seconds(delay, "delay")))
        moved: bool = await self._do("reschedule", task_id, delay, run_at)
        self._loop.check_queues()
        return moved

    async def cancel(self, task_id: str, *, running: bool) -> bool:
        """Kill a waiting task; with ``running``, also abort a running one."""
        error = encode_error(AbortError("cancelled while it waited"))
        cancelled: bool | ClaimKey = await self._do("cancel", task_id, error, running)
        if isinstance(cancelled, ClaimKey):
            self._end_here(task_id, cancelled, aborted())
            return True
        if cancelled:
            self._loop.check_queues()
        return cancelled

    async def abort(self, task_id: str) -> bool:
        """Cancel the attempt under way, in whatever process."""
        claim_key: ClaimKey | None = await self._do("abort", task_id)
        if claim_key is not None:
            self._end_here(task_id, claim_key, aborted())
        return claim_key is not None

    def _end_here(self, task_id: str, claim_key: ClaimKey, error: AbortError) -> None:
        """Cancel the attempt under this claim, if it is made in this process."""
        for parts in self._queue.claimed():
            if parts.id == task_id and parts.context.claim_key == claim_key:
                end_attempt(parts, error)

    async def withdraw(self, task_id: str) -> None:
        """End a task whose call was cancelled: forget it if it waits, and otherwise cancel its attempt, in whatever
        process. Return once it has ended.
        """
        change = RowChange("withdraw")
        [answer] = await self._loop.ask(self._loop.engine.change_each, self._queue.name, change, [task_id])
        self._loop.check_queues()
        if isinstance(answer, ClaimKey):
            self._end_here(task_id, answer, withdrawn_error())
        while (stored := await self._do("find", task_id)) is not None and stored.state == State.RUNNING:
            left = stored.due - self._loop.engine.now()
            with trio.move_on_after(max(_LOOKED_APART, left)):  # noqa: ASYNC912  waiting for a result is one
                with suppress(UnknownTaskError):
                    await self.wait_for([task_id], lends=False)
                return
            await self.resume_abandoned()  # its worker has died, and its lease is over

    async def resume(self, task_id: str) -> bool:
        """Make a finished task wait again."""
        resumed: bool = await self._do("resume", task_id)
        self._loop.check_queues()
        return resumed

    async def discard(self, task_id: str) -> bool:
        """Forget a task that is finished, or waits."""
        part: Part = await self._do("forget", task_id)
        if part.number:
            self._loop.check_queues()
        return part.number > 0

    async def _do(self, verb: str, task_id: str, *args: Any) -> Any:
        """Call this method of the engine for a task."""
        check_stored_text(task_id, "a task's id")
        return await self._loop.ask(getattr(self._loop.engine, verb), self._queue.name, task_id, *args)

    # Schedules

    async def list_schedules(self, after: int, name: str | None) -> list[ScheduleEntry]:
        """Return the schedules that were changed after a revision."""
        return [*map(entry_of, await self._loop.ask(self._loop.engine.schedules, after, name))]

    async def set_schedules(self, changes: Sequence[ScheduleChange]) -> list[ScheduleResult]:
        """Change schedules, and push tasks with them."""
        engine = self._loop.engine
        updates = [update_of(each, self._queue.name, engine) for each in changes]
        outcomes = await self._loop.ask(engine.set_schedules, updates)
        self._loop.schedule_changes.note()
        if any(outcome.ids for outcome in outcomes):
            self._loop.check_queues()
        results = [*map(result_of_update, outcomes)]
        if self._queue.events.open:
            for update, result in zip(updates, results, strict=True):
                for row, task_id in zip(update.rows, result.ids):  # noqa: B905  there is none if nothing was done
                    if task_id is not None and task_id == row.id:  # else it is another one, with the same unique key
                        self._queue.events.tell(Pushed(task_id, True))
        return results

    def make_template(self, task: Task[Any]) -> TaskTemplate:
        """Encode a task that schedules push."""
        check_storable(task.parts)
        payload = self._queue.codec.encode(task.args)
        options = encode_options(task.parts.terms, task.parts.metadata)
        check_length(len(payload) + len(options or b""), self._loop.engine.longest, "the task")
        return TaskTemplate(payload, task.parts.terms, task.parts.metadata)

    async def wait_for_schedules(self, seen: int) -> int:
        """Wait until a schedule may have been changed."""
        changes = self._loop.schedule_changes
        with trio.move_on_after(_SCHEDULES_POLLED if self._loop.engine.needs_polling else math.inf):
            return await changes.wait(seen)
        return changes.number

    # Changing many tasks

    async def change_all(self, name: ManyVerb, status: Status | None, filters: TaskFilters) -> int:
        """Change all tasks that pass the filters; return how many there were."""
        chosen = selections(name, status, filters, self._loop.engine.now(), slack=SLACK)
        return await self._change_all(_CHANGES[name], chosen)

    async def vacuum(self, older_than: float | None, status: Status | None) -> int:
        """Forget finished tasks; return how many there were."""
        if older_than is not None or status is not None:
            seconds = 0.0 if older_than is None else check_seconds(older_than, "older_than")
            chosen = selections("vacuum", status, {}, self._loop.engine.now(), seconds, slack=SLACK)
            return await self._change_all("forget", chosen)
        return await self._in_parts(self._loop.engine.forget, None)

    async def reschedule_each(self, ids: Sequence[str], delay: float) -> ChangeReport:
        """Make the waiting tasks of these ids ready in ``delay`` seconds."""
        run_at = microseconds_of(wall_after(check_seconds(delay, "delay")))
        return await self.change_each("rescheduled", RowChange("reschedule", delay=delay, run_at=run_at), ids)

    async def change_each(self, verb: str, change: RowChange, ids: Sequence[str]) -> ChangeReport:
        """Change the tasks of these ids; ``verb`` is the change as a participle, for the report."""
        builder = ReportBuilder(verb)
        for number, batch in enumerate(in_batches(ids, CHANGED_AT_ONCE)):
            if number:
                await rest(_PARTS_APART)
            answers = await self._loop.ask(self._loop.engine.change_each, self._queue.name, change, batch)
            for task_id, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Refusal):
                    builder.add(task_id, answer)
                    continue
                builder.add(task_id, None)
                if isinstance(answer, ClaimKey):
                    self._end_here(task_id, answer, aborted())
            self._loop.check_queues()
        return builder.report()  # noqa: ASYNC910  there is a batch at least

    async def _change_all(self, verb: Literal["cancel", "resume", "forget"], chosen: list[Selection]) -> int:
        """Change all tasks of these selections; return the number of those that were changed."""
        number, taken = 0, list[str]()
        for selection in chosen:
            query, is_more = self._query(selection)._replace(limit=CHANGED_AT_ONCE), True
            while is_more:
                if number:
                    await rest(_PARTS_APART)
                step: Changed = await self._loop.ask(self._loop.engine.change, self._queue.name, verb, query)
                self._loop.check_queues()
                number += len(step.ids)
                taken += step.taken
                query, is_more = query._replace(after=step.after), step.is_more
        log_taken(self._queue.name, taken)
        return number  # noqa: ASYNC910  there is a selection at least

    async def resume_abandoned(self) -> int:
        """Make orphans wait again; return how many there were."""
        for queue, late in self._loop.late_leases(self._loop.engine.now()):  # tasks that run here are not abandoned
            held, until = {parts.context.claim_key: parts for parts in late}, self._loop.engine.now() + queue.lease
            queue.note_renewal(held, await self._loop.ask(self._loop.engine.renew, [*held], queue.lease), until)
        number = await self._in_parts(self._loop.engine.resume_abandoned)
        self._loop.check_queues()
        return number

    async def _in_parts(self, step: Callable[..., Awaitable[Part]], *args: Any) -> int:
        """Repeat a step until nothing is left to do; return the number of rows in all steps."""
        number, is_more = await self._loop.ask(step, self._queue.name, *args)
        while is_more:
            await rest(_PARTS_APART)
            part: Part = await self._loop.ask(step, self._queue.name, *args)
            number, is_more = number + part.number, part.is_more
        return number
