"""What one can do with the tasks of a stored queue beside pushing and receiving: find, change, await, forget them.

Each is one operation of the engine. Cancelled while it waits for its turn, it has changed nothing; once under way, it
is carried to its end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import trio

from ..._checks import check_count, check_seconds, check_text, check_unicode
from ..._clock import microseconds_of, wall_after
from ..._contracts.backend import (
    Cancel,
    Discard,
    FetchById,
    ListTasks,
    ListWorkers,
    Metrics,
    Progress,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    Update,
    Vacuum,
    WaitForCompletion,
)
from ..._contracts.lending import Loan
from ..._contracts.sink import check_task
from ..._exports import part_of
from ..._printing import escaped, quoted
from ..._tasks.errors import AbortError, LeaseLostError, UnknownTaskError
from ..._tasks.outcome import Status, typed
from ..._tasks.task import Task
from .encoding import decode_options, encode_error, encode_options, moment_of
from .engine import State
from .queue import Lease, abort
from .rows import ENDS, PLAIN, STATES, result_of, result_of_ending, shown
from .settling import check_length

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..._tasks.outcome import TaskResult
    from .engine import ClaimKey, Part, StoredRow
    from .exchange_loop import ExchangeLoop
    from .queue import QueueState

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")

_ALL = 2**62
"""Rows, more than there are."""

_PARTS_APART = 0.01
"""Seconds between two transactions of one call. A process that waits for the lock looks more often than that."""


@part_of("DurableStorage")
class StorageOperations(
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
    ListWorkers,
    Metrics,
    Progress,
    Generic[A],
):
    """The capabilities of a stored queue."""

    _queue: QueueState
    _loop: ExchangeLoop

    async def _do(self, verb: str, task_id: str, *args: Any) -> Any:
        """Have the engine do this to the task."""
        check_unicode(check_text(task_id, "a task's id"), "a task's id")
        return await self._loop.ask(getattr(self._loop.engine, verb), self._queue.name, task_id, *args)

    # Looking

    async def fetch_by_id(self, task_id: str) -> Task[A] | None:
        """The task of this id, unfinished or remembered; or None. Its ``parts.context`` has its history, its error, its
        result and its progress."""
        stored: StoredRow | None = await self._do("find", task_id)
        return None if stored is None else shown(stored, self._queue)

    async def list_tasks(self, status: Status | None = None, *, limit: int = 100) -> list[Task[A]]:
        """At most ``limit`` tasks, of this status if one is given; unfinished ones first."""
        check_count(limit, "limit")
        if status is not None and not isinstance(status, Status):
            raise TypeError(f"status must be a Status, such as Status.Pending, not {quoted(status)}")
        states: Sequence[State] = list(State) if status is None else STATES[status]
        engine = self._loop.engine
        if status not in (Status.Queued, Status.Running):
            found: Sequence[StoredRow] = await self._loop.ask(engine.list, self._queue.name, states, limit)
            return [shown(stored, self._queue) for stored in found]
        # The store does not tell those apart that were claimed here and not begun.
        most = limit + len(self._queue.unbegun()) if status is Status.Running else _ALL
        found = await self._loop.ask(engine.list, self._queue.name, states, most)
        tasks = [shown(stored, self._queue) for stored in found]
        return [task for task in tasks if task.parts.status is status][:limit]

    async def progress_of(self, task_id: str) -> Any:
        """The progress that was last reported for the task; None if nothing was.

        Raises:
          UnknownTaskError: no such task is known.
        """
        stored: StoredRow | None = await self._do("find", task_id)
        if stored is None:
            raise UnknownTaskError(task_id)
        return None if stored.progress is None else PLAIN.decode(stored.progress)

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        """Keep this as the progress of a task in hand: plain data, which replaces what was reported before.

        Raises:
          LeaseLostError: the task is not in hand any more. Nothing changed.
        """
        check_task(task)
        lease = task.parts.context
        if not isinstance(lease, Lease) or lease.settled:
            raise LeaseLostError(f"task {escaped(task.parts.id)} is not in hand here")
        packed = PLAIN.encode(progress)
        check_length(len(packed), self._loop.engine.longest, "the progress")
        kept: bool = await self._loop.ask(self._loop.engine.report, lease.claim_key, packed)
        if not kept:
            raise LeaseLostError(f"task {escaped(task.parts.id)} had its attempt {task.parts.attempt} taken away")

    @overload
    async def wait_for(self, task_id: str, type: type[R]) -> TaskResult[R]: ...
    @overload
    async def wait_for(self, task_id: str, type: None = None) -> TaskResult[Any]: ...
    async def wait_for(self, task_id: str, type: Any = None) -> TaskResult[Any]:
        """Wait until the task has ended, in whatever process, and return its :class:`TaskResult`.

        Args:
          task_id: of the task.
          type: a class that the result is an instance of, for type checkers: ``wait_for(id, Receipt)`` is a
              ``TaskResult[Receipt]``; default any value. The storage's ``result_type`` is what decodes it.

        Raises:
          TypeError: the result is not an instance of ``type``.
          UnknownTaskError: no such task is known, or it ended and is not remembered any more. A task that ends in this
            process while somebody waits for it here is remembered for them, also with ``keep_results=0``.

        If it is cancelled, the task goes on.
        """
        waiters = self._queue.waiters
        with Loan(check_text(task_id, "a task's id"), f"task {escaped(task_id)}") as loan:
            waiters[task_id] += 1
            try:
                return typed(await self._wait_for(task_id, loan), type)
            finally:
                waiters[task_id] -= 1
                if not waiters[task_id]:
                    del waiters[task_id]
                    self._queue.endings.pop(task_id, None)

    async def _wait_for(self, task_id: str, loan: Loan) -> TaskResult[Any]:
        awaited = self._queue.awaited
        while True:
            event = awaited.setdefault(task_id, trio.Event())
            try:
                stored: StoredRow | None = await self._do("find", task_id)
                if stored is None:
                    ending = self._queue.endings.get(task_id)
                    if ending is None or ending.kind not in ENDS:
                        raise UnknownTaskError(task_id)
                    return result_of_ending(task_id, ending, self._queue)
                if stored.state >= State.DONE:
                    return result_of(stored, self._queue)
                if not event.is_set():
                    event = awaited.setdefault(task_id, event)
                    self._loop.wake_up.set()  # somebody has to look now and then
                    loan.begin()
                    with trio.move_on_after(self._seconds_until(stored.expires)):
                        await event.wait()
            finally:
                if awaited.get(task_id) is event and not event.statistics().tasks_waiting:
                    del awaited[task_id]

    def _seconds_until(self, moment: float | None) -> float:
        """The seconds until a moment on the engine's clock: never none, since it may have come by trio's only."""
        return math.inf if moment is None else max(0.001, moment - self._loop.engine.now())

    async def list_workers(self) -> list[str]:
        """The names of the workers that run on this queue, in any process."""
        return list(await self._loop.ask(self._loop.engine.workers, self._queue.name))

    async def list_queues(self) -> list[str]:
        """The names of all queues of the store."""
        return list(await self._loop.ask(self._loop.engine.queues))

    async def metrics(self) -> dict[str, int]:
        """What went through the queue since it was made, by outcome, and what waits and runs now."""
        counts: dict[str, int] = await self._loop.ask(self._loop.engine.counts, self._queue.name)
        return counts

    # Changing

    async def update(self, task: Task[A]) -> bool:
        """Give the waiting task of this id the args and metadata of this one; False if none of that id waits."""
        check_task(task)
        payload = self._queue.codec.encode(task.args)
        stored: StoredRow | None = await self._do("find", task.parts.id)
        if stored is None:
            return False
        run_at = moment_of(stored.run_at, stored.options)
        head = encode_options(decode_options(stored.options)[0], task.parts.metadata, run_at)
        check_length(len(payload) + len(head or b""), self._loop.engine.longest, "the task")
        changed: bool = await self._do("update", task.parts.id, payload, head)
        return changed

    async def reschedule(self, task_id: str, delay: float) -> bool:
        """Have the waiting task be ready in ``delay`` seconds; False if none of that id waits."""
        run_at = microseconds_of(wall_after(check_seconds(delay, "delay")))
        moved: bool = await self._do("reschedule", task_id, delay, run_at)
        self._loop.check_queues()
        return moved

    async def cancel(self, task_id: str) -> bool:
        """Kill the waiting task of this id; False if none of that id waits."""
        error = encode_error(AbortError("cancelled while it waited"))
        cancelled: bool = await self._do("cancel", task_id, error)
        if cancelled:
            self._queue.finish(task_id)
            self._loop.check_queues()
        return cancelled

    async def abort(self, task_id: str) -> bool:
        """Cancel the attempt under way, in whatever process, which is then settled as killed; False if there is none.

        It returns once that is stored, and the attempt has been told, if it is in this process; in another one its
        worker hears of it within moments, or at the latest with its next heartbeat. If the attempt succeeds all the
        same, it has; but in no way does the task come back from it, even if its worker dies.
        """
        held: ClaimKey | None = await self._do("abort", task_id)
        parts = self._queue.leased.get(task_id)
        if parts is not None and parts.context.claim_key == held:
            abort(parts)
        return held is not None

    async def resume_by_id(self, task_id: str) -> bool:
        """Let the failed or killed task of this id wait again, with all of its attempts; False if there is none.

        Raises:
          DuplicateTaskError: its unique key is taken by now.
        """
        resumed: bool = await self._do("resume", task_id)
        self._loop.check_queues()
        return resumed

    async def resume_abandoned(self) -> int:
        """Let the tasks wait again whose leases have run out, as they do when somebody receives; returns how many.

        With many of them this takes several transactions, and others have theirs in between. If it is cancelled, those
        that were made hold.
        """
        for queue, late in self._loop.late_leases():  # what runs here is not abandoned
            held, until = {parts.context.claim_key: parts for parts in late}, self._loop.engine.now() + queue.lease
            queue.note_renewal(held, await self._loop.ask(self._loop.engine.renew, [*held], queue.lease), until)
        number = await self._in_parts(self._loop.engine.resume_abandoned)
        self._loop.check_queues()
        return number

    async def discard(self, task_id: str) -> bool:
        """Forget the finished task of this id, such as a dead letter; False if there is none."""
        part: Part = await self._do("forget", task_id)
        return part.number > 0

    async def vacuum(self) -> int:
        """Forget all finished tasks, dead letters included; returns how many there were.

        With many of them this takes several transactions, and others have theirs in between. If it is cancelled, those
        that were made hold.
        """
        return await self._in_parts(self._loop.engine.forget, None)

    async def _in_parts(self, step: Callable[..., Awaitable[Part]], *args: Any) -> int:
        """Repeat a step until there is no more to do; the number of all rows that it was about."""
        number, is_more = await self._loop.ask(step, self._queue.name, *args)
        while is_more:
            await trio.sleep(_PARTS_APART)
            part: Part = await self._loop.ask(step, self._queue.name, *args)
            number, is_more = number + part.number, part.is_more
        return number
