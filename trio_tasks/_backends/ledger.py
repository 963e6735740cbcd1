"""The ledger of a queue in memory: its waiting and running tasks, and the outcomes of finished ones.

Nothing here awaits, and the caller passes the time in (``now``, on any monotonic clock), so each decision is atomic: a
task is in exactly one place before and after every call. A task with a ``run_at`` is compared with the wall clock too,
each time that one is to be taken, since that clock may be set.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from .._clock import WALL_CLOCK, wall_after
from .._contracts.groups import QueueLimits
from .._contracts.metrics import Balance, QueueMetrics
from .._contracts.minutes import ADDED_AT_ONCE, MOST_IN_MEMORY, Tally
from .._contracts.states import KeyChange
from .._contracts.storage_events import Cancelled, DeadlinePassed, Expired, Replaced
from .._printing import escaped, quoted
from .._tasks.errors import (
    AbortError,
    DeadlineError,
    LeaseLostError,
    TaskExpiredError,
    id_taken,
    is_by_caller,
    key_taken,
    not_again,
    withdrawn_error,
)
from .._tasks.outcome import ALL_OUTCOMES, Failed, Killed, Released, Retried, Status, Succeeded, Suspended, TaskResult
from .._tasks.task import USUAL_TERMS, Task, attempt_number, check_ends, end_attempt, failed_attempt
from .._tasks.task_info import NOTHING_KNOWN
from .ledger_reader import LedgerReader, LedgerTables
from .ready_queue import DelayQueue, KeyedQueue, ReadyQueue, first_moment
from .unique_keys import UniqueKeys
from .wall_clock_queue import WallClockQueue, later

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._contracts.event_readers import EventReaders
    from .._tasks.extensions import Metadata
    from .._tasks.limits import Limits
    from .._tasks.outcome import Ending, Outcome
    from .._tasks.task import Parts
    from .._tasks.task_id import TaskId

A = TypeVar("A")

_TAKEN, _SUCCEEDED = Status.Running, Status.Done
"""The statuses that each task comes to have: to look one up in an Enum costs as much as ten assignments."""

_KINDS: dict[type, int] = {Succeeded: 0, Retried: 1, Failed: 2, Killed: 3, Released: 4, Suspended: 5}
"""The order in which attempts are counted by their outcome."""


@final
class Ledger(Generic[A]):
    """The tasks of a queue in memory, and their states.

    Args:
      on_finish: a function that is called with each task that reaches a final status, or is discarded while it waits
          (None), at once.
      keep_results: the number of succeeded tasks that are kept with their results; the oldest are forgotten first.
          Failed and killed ones are kept until :meth:`vacuum`.
      line_of: a function that gives an error as one line, for the history.
      traceback_of: a function that gives the traceback of an error as text.
      is_virtual: a function that returns True if ``now`` is on a clock that a test moves. A ``run_at`` is then a delay,
          unless the wall clock was replaced, too.
    """

    __slots__ = (
        "_aborted",
        "_dead",
        "_delayed",
        "_done",
        "_expiring",
        "_infos",
        "_keep_results",
        "_keys",
        "_line_of",
        "_live",
        "_not_before",
        "_oldest",
        "_on_finish",
        "_ready",
        "_running",
        "_start_by",
        "_successors",
        "_suspended",
        "_tables",
        "_tiebreak",
        "_traceback_of",
        "_wall",
        "clock",
        "counts",
        "events",
        "keyed",
        "limits",
        "reader",
        "tally",
    )

    def __init__(
        self,
        *,
        on_finish: Callable[[TaskId, Ending | None], None],
        keep_results: int,
        line_of: Callable[[BaseException], str],
        traceback_of: Callable[[BaseException], str],
        is_virtual: Callable[[], bool],
    ) -> None:
        self._line_of = line_of
        self._traceback_of = traceback_of
        self._on_finish = on_finish
        self._keep_results = keep_results
        self.events: EventReaders | None = None
        """Those that are told of tasks which are killed while they wait; set by a holder that has such readers."""
        self.clock = WALL_CLOCK
        """The clock for what is told of tasks; the holder sets it for each run of trio."""
        tables = self._tables = LedgerTables[A]()  # the hot path has them as attributes
        self._live, self._running, self.counts = tables.live, tables.running, tables.counts
        self._not_before, self._start_by, self._suspended = tables.due, tables.ends, tables.suspended
        self._done, self._dead, self._infos = tables.done, tables.dead, tables.infos
        self._ready: ReadyQueue[A] | KeyedQueue[A] = ReadyQueue()
        self.keyed: KeyedQueue[A] | None = None
        """The ready tasks, once a task has a key, or there are limits."""
        self.limits = QueueLimits()
        """The limits of the queue and its keys, to be set by :meth:`set_limits`."""
        self._delayed: DelayQueue[A] = DelayQueue()
        self._wall: WallClockQueue[A] = WallClockQueue(is_virtual)
        self._tiebreak = count()
        self._successors: dict[str, TaskId] = {}  # the newer task's id, for running tasks that were replaced
        self._keys = UniqueKeys()
        self._expiring: list[tuple[float, str]] = []  # a heap of these times, with stale entries
        self._aborted: dict[
            str, str | None
        ] = {}  # why running tasks are killed when their attempts end; None: forgotten
        self._oldest: deque[tuple[str, int]] = deque()  # the next of these to be forgotten, with their positions
        self.tally = Tally(MOST_IN_MEMORY)
        self.reader = LedgerReader(tables, lambda: self._ready, self._tiebreak.__next__)
        """The ledger as it is looked at."""

    def seconds(self) -> float:
        """Return the time for what is told of tasks, in seconds since the epoch."""
        return self.clock.read()

    # Coming in

    def push(self, task: Task[A], now: float, end: float | None = None) -> TaskId:
        """Add a task; return its id, or the id of the task that has its unique key.

        Args:
          task: the task.
          now: the time.
          end: the time at which its deadline is over; None if it has none.

        Raises:
          DuplicateTaskError: the id is known, or the unique key is taken and ``on_conflict`` is ``"raise"``. Nothing
            changed.
          ValueError: it would expire, or its deadline be over, before it is ready.
        """
        if task.parts.status is not Status.Pending:  # it was pushed before, and is finished: start afresh
            task = Task(task.args, task.parts.again(attempt=0))
        if self._start_by:
            self.expire(now)
        if self._delayed.heap and self._delayed.heap[0][0] <= now:
            self._make_delayed_ready(now)  # it has waited for longer
        parts = task.parts
        task_id, terms = parts.id, parts.terms
        delay = parts.seconds_to_wait
        if terms is not USUAL_TERMS:
            check_ends(terms, delay)
        if task_id in self._live or task_id in self._dead or task_id in self._done:
            raise id_taken(task_id)
        if terms.unique is not None:
            other = self._claim(task, now, end)
            if other is not None:
                return other
        if terms.key is not None and self.keyed is None:
            self._use_keys()
        self._live[task_id] = task
        parts.pushed = self.seconds()
        parts.started = parts.finished = None
        self.counts["pushed"] += 1
        if terms.expires_in is not None or end is not None or parts.deadline is not None:
            self._set_end(parts, now, end)
        if delay <= 0:
            parts.waits_since = parts.pushed
            self._ready.append(task)
            return task_id
        self._delay(task, delay, now, stamp=delay == terms.delay)
        if parts.run_at is not None and not terms.delay:
            self._wall.append(task, parts.run_at, delay, now)
        return task_id

    def _set_end(self, parts: Parts, now: float, end: float | None) -> None:
        """Set the deadline of a task that was pushed, in place of an earlier one, and the time at which it expires."""
        parts.deadline = None if end is None else self.seconds() + end - now
        parts.cancel_at = math.inf if end is None else end
        expires_in = parts.terms.expires_in
        first = parts.cancel_at if expires_in is None else min(parts.cancel_at, now + expires_in)
        if first < math.inf:
            self._expire_at(parts.id, first)

    def _expire_at(self, task_id: str, moment: float) -> None:
        self._start_by[task_id] = moment
        heappush(self._expiring, (moment, task_id))

    def _claim(self, task: Task[A], now: float, end: float | None) -> TaskId | None:
        """Take the unique key for this task, and return None; or return the id of the task that keeps it."""
        key, on_conflict = task.parts.terms.unique, task.parts.terms.on_conflict
        assert key is not None
        holder = self._keys.holder(key, now)
        if holder is not None:
            live = self._live.get(holder)
            if live is not None and live.parts.terms.unique != key:
                live = None  # another task has the id by now
            if on_conflict == "raise" or holder == task.parts.id:
                raise key_taken(key, holder, is_finished=live is None)
            if on_conflict == "update" and live is not None and holder not in self._running:
                self._update_by_push(live, task, now, end)
            if on_conflict != "replace" or live is None:
                return holder
            if not self._replace(holder, task.parts.id):
                self._successors.setdefault(holder, task.parts.id)
        self._keys.take(task.parts, now)
        return None

    def _update_by_push(self, waiting: Task[A], new: Task[A], now: float, end: float | None) -> None:
        """Give a waiting task the args, options and time of another one."""
        parts, terms, delay = waiting.parts, new.parts.terms, new.parts.seconds_to_wait
        is_ready = parts.id not in self._not_before
        keeps_place = delay <= 0 and is_ready
        keeps_place &= (parts.terms.priority, parts.terms.key) == (terms.priority, terms.key)
        if terms.key is not None and self.keyed is None:
            self._use_keys()
        if self.keyed is not None and not keeps_place:
            self.keyed.discard(parts)
        parts.terms, parts.metadata, parts.run_at = terms, new.parts.metadata, new.parts.run_at
        self._keys.take(parts, now)
        self._start_by.pop(parts.id, None)
        self._set_end(parts, now, end)
        if keeps_place:
            waiting.args = new.args
            return
        moved = self._live[parts.id] = Task(new.args, parts)
        self._delay(moved, delay, now, stamp=delay == terms.delay)
        if delay > 0 and parts.run_at is not None and not terms.delay:
            self._wall.append(moved, parts.run_at, delay, now)

    def _delay(self, task: Task[A], seconds: float, now: float, *, stamp: bool = True) -> None:
        """Make the task ready after this many seconds."""
        if self._not_before:
            self._not_before.pop(task.parts.id, None)
            self._wall.moments.pop(task.parts.id, None)
            self._suspended.pop(task.parts.id, None)
        if seconds <= 0:
            self.enter_due(now)  # what is due by now has waited for longer
            task.parts.waits_since = self.seconds()
            self._ready.append(task)
            return
        if self.keyed is not None:
            self.keyed.discard(task.parts)
        self._not_before[task.parts.id] = now + seconds
        task.parts.position = next(self._tiebreak)
        if stamp:
            task.parts.run_at = wall_after(seconds)
        self._delayed.append(task, now + seconds)

    # Keys and limits

    def _use_keys(self) -> None:
        """Let keys take turns from now on, and limits hold."""
        ready = filter(self.reader.is_ready, self._ready)
        self._ready = self.keyed = KeyedQueue(self.limits, self._running, ready)

    def set_limits(self, limits: Limits | None, key: str | None) -> None:
        """Replace the limits of the queue, or of a key in it; None removes them."""
        self.limits.set(limits, key)
        if self.keyed is None:
            self._use_keys()
        else:
            self.keyed.apply_limits(key)

    # Going out

    def take(self, now: float) -> Task[A] | None:
        """Begin an attempt at the next ready task; None if there is none."""
        if self._start_by or self._delayed.heap:
            self.enter_due(now)
        while (task := self._ready.pop(now)) is not None:
            parts = task.parts
            if self._live.get(parts.id) is not task:
                continue  # a stale entry: the task was cancelled, replaced or rescheduled since
            if self._start_by:
                self._start_by.pop(parts.id, None)  # it was started in time, even if it is interrupted
            if self._keys.until_start:
                self._keys.note(parts, KeyChange.BEGUN)
            parts.attempt = attempt_number(parts.attempt + 1)
            parts.status = _TAKEN
            read = self.clock.read  # faster than `self.seconds()`
            parts.started = read()
            self._running[parts.id] = parts
            return task
        return None

    def enter_due(self, now: float) -> None:
        """Kill tasks that were not started in time, and make delayed tasks ready whose time has come."""
        if self._start_by:
            self.expire(now)
        if self._delayed.heap:
            self._make_delayed_ready(now)
        if self._wall.heap:
            for task in self._wall.pop_due(now, self._is_delayed):
                self._make_ready(task, now)
        if self.keyed is not None:
            self.keyed.wake(now)

    def _make_delayed_ready(self, now: float) -> None:
        """Make delayed tasks ready whose time has come."""
        while (due := self._delayed.next_due) is not None and due <= now:
            first = self._delayed.pop_first()
            if self._is_delayed(first) and not self._is_early(first, now):
                self._make_ready(first, now)

    def _is_delayed(self, task: Task[A]) -> bool:
        """Return True if an entry in the delay queue is still valid."""
        return self._live.get(task.parts.id) is task and task.parts.id in self._not_before

    def _is_early(self, task: Task[A], now: float) -> bool:
        """Delay a task further that is not due by the wall clock yet, since that was set back; False if it is due."""
        rest = self._wall.rest(task.parts.id)
        if rest <= 0:
            return False
        due = self._not_before[task.parts.id] = later(now, rest)
        self._delayed.append(task, due)
        return True

    def _make_ready(self, task: Task[A], now: float) -> None:
        task.parts.waits_since = self.seconds() - max(0.0, now - self._not_before.pop(task.parts.id))
        self._wall.moments.pop(task.parts.id, None)
        self._suspended.pop(task.parts.id, None)
        self._ready.append(task)

    def expire(self, now: float) -> bool:
        """Kill tasks that were not started in time, or whose deadline is over. True if there were any."""
        is_any = False
        while self._first_expiry is not None and self._first_expiry <= now:
            moment, task_id = heappop(self._expiring)
            task = self._live[task_id]
            is_deadline = task.parts.deadline is not None and moment == task.parts.cancel_at
            if is_deadline:
                error: Exception = DeadlineError("its deadline was over while it waited")
            else:
                error = TaskExpiredError(f"not started within {task.parts.terms.expires_in} s")
            self._finish(task, Killed(error))
            if self.events is not None and self.events.open:
                self.events.tell(DeadlinePassed(task.parts.id) if is_deadline else Expired(task.parts.id))
            if task.parts.finished is not None:  # since that moment, or since its push, if that was later
                since = task.parts.finished - max(0.0, now - moment)
                task.parts.finished = since if task.parts.pushed is None else max(since, task.parts.pushed)
            is_any = True
        return is_any

    def expires_at(self, task_id: str) -> float | None:
        """Return the time at which the task of this id, if it waits, expires, or its deadline is over; or None."""
        return self._start_by.get(task_id)

    @property
    def _first_expiry(self) -> float | None:
        """Return the time at which the next task expires; None if none does."""
        return first_moment(self._expiring, self._start_by)

    @property
    def next_due(self) -> float | None:
        """The time at which the next delayed task is due, the next task expires or a rate lets the next one go; None if
        there is none of these."""
        while (first := self._delayed.first) is not None and not self._is_delayed(first):
            self._delayed.pop_first()  # a stale entry
        expiry, due = self._first_expiry if self._start_by else None, self._delayed.next_due
        if due is not None and self._wall.heap:
            due = min(due, self._wall.next_look)
        if self.keyed is not None and (wake := self.keyed.next_wake) < math.inf:
            due = wake if due is None else min(due, wake)
        return due if expiry is None else expiry if due is None else min(due, expiry)

    # Coming back

    def settle(self, task: Task[A], outcome: Outcome, now: float) -> None:
        """Record the outcome of the attempt.

        Raises:
          LeaseLostError: the task is not running under these parts. Nothing changed.
        """
        parts = task.parts
        if self._running.get(parts.id) is not parts:
            raise LeaseLostError(
                f"task {escaped(parts.id)} is not running in its attempt {parts.attempt}: nothing to settle"
            )
        if type(outcome) is Succeeded:
            self._succeed(parts, outcome)
            return
        if isinstance(outcome, (Failed, Killed)):
            self._finish(self._live[parts.id], outcome)
            return
        if not isinstance(outcome, (Retried, Released, Suspended)):
            raise TypeError(f"an outcome is {ALL_OUTCOMES}, not {quoted(outcome)}")
        self._end_attempt(parts)
        self._note_attempt(parts, outcome, self.seconds())
        parts.status = Status.Pending
        attempts_made = parts.attempt if isinstance(outcome, Retried) else parts.attempt - 1
        again = self._again(parts, attempts_made)
        if isinstance(outcome, Retried):
            self._note_failure(parts, outcome)
        again.parts.context = self._infos.get(parts.id, NOTHING_KNOWN)
        if self._end_unwanted(again):
            return
        if isinstance(outcome, Retried):
            self.counts["retried"] += 1
            self._delay(again, outcome.after, now)
        elif isinstance(outcome, Suspended):
            self.counts["suspended"] += 1
            self._delay(again, outcome.until - now, now)
            if parts.id in self._not_before:
                self._suspended[parts.id] = outcome.reason
        else:
            again.parts.waits_since = parts.waits_since
            self.counts["released"] += 1
            self._ready.append_front(again)

    def _again(self, parts: Parts, attempts: int) -> Task[A]:
        """Make a task of one whose attempt has ended, to wait in its place; it has no place in the order yet."""
        again = self._live[parts.id] = Task(self._live[parts.id].args, parts.again(attempts))
        again.parts.run_at = parts.run_at
        if parts.deadline is not None:
            self._expire_at(parts.id, parts.cancel_at)
        return again

    def _end_attempt(self, parts: Parts) -> None:
        del self._running[parts.id]
        if self.keyed is not None:
            self.keyed.end(parts)

    def _end_unwanted(self, again: Task[A]) -> bool:
        """End a task that must not wait again, whatever the outcome of its attempt; False if it may."""
        task_id = again.parts.id
        if task_id in self._aborted:
            reason = self._aborted[task_id]
            return self._drop(again) if reason is None else self._kill(task_id, reason)
        return task_id in self._successors and self._replace(task_id, self._successors[task_id])

    def _note_attempt(self, parts: Parts, outcome: Outcome, ended: float) -> None:
        """Add an attempt to the sums of its minute."""
        if (started := parts.started) is not None:
            waited = started - parts.waits_since
            self.tally.add(parts.terms.name, _KINDS[type(outcome)], ended - started, waited, ended)

    def _succeed(self, parts: Parts, outcome: Succeeded[Any]) -> None:
        """Finish a task whose attempt has succeeded."""
        task_id = parts.id
        task = self._live[task_id]
        del self._live[task_id], self._running[task_id]
        if self.keyed is not None:
            self.keyed.end(parts)
        parts.status = _SUCCEEDED
        read = self.clock.read  # faster than `self.seconds()`
        ended = parts.finished = read()
        number = parts.position = self.counts["succeeded"] = self.counts["succeeded"] + 1
        succeeded = self.tally.succeeded
        succeeded.extend((parts.terms.name, parts.started, parts.waits_since, ended))
        if not number % ADDED_AT_ONCE:
            self.tally.add_up()
        if self._start_by or self._aborted or self._successors or self._not_before or parts.terms.unique is not None:
            self._clear_terms(parts, KeyChange.ENDED)
        self._remember(task, outcome)
        on_finish = self._on_finish
        on_finish(task_id, outcome)

    def _finish(self, task: Task[A], outcome: Failed | Killed) -> None:
        """Finish a task that has failed, or was killed."""
        parts = task.parts
        task_id = parts.id
        attempt = self._running.pop(task_id, None)
        ended = parts.finished = self.seconds()
        if attempt is not None:
            self._note_attempt(attempt, outcome, ended)
            if self.keyed is not None:
                self.keyed.end(parts)
        self._remove(parts, KeyChange.ENDED)
        has_failed = isinstance(outcome, Failed)
        parts.status, counter = (Status.Failed, "failed") if has_failed else (Status.Killed, "killed")
        self.counts[counter] += 1
        parts.position = self.counts[counter]
        self._dead[task_id] = task, outcome
        self._tables.dead_failed += has_failed
        if attempt is not None:
            self._note_failure(parts, outcome)
        else:
            self._infos[task_id] = replace(self._infos.get(task_id, NOTHING_KNOWN), error=outcome.error)
        self._on_finish(task_id, outcome)
        if is_by_caller(outcome.error):
            self.discard(task_id)

    def _remove(self, parts: Parts, key: KeyChange) -> None:
        """Take a task out of the unfinished ones, with this change of its unique key."""
        del self._live[parts.id]
        if self.keyed is not None:
            self.keyed.discard(parts)
        self._clear_terms(parts, key)

    def _clear_terms(self, parts: Parts, key: KeyChange) -> None:
        """Forget the times and requests that a task has no longer, and note the change of its unique key."""
        task_id = parts.id
        for each in (self._start_by, self._aborted, self._successors, self._not_before, self._suspended):
            each.pop(task_id, None)
        self._wall.moments.pop(task_id, None)
        if parts.terms.unique is not None:
            self._keys.note(parts, key)

    def _remember(self, task: Task[A], outcome: Succeeded[Any]) -> None:
        if not self._keep_results:
            if self._infos:
                self._infos.pop(task.parts.id, None)
            if self._keys:
                self._keys.note(task.parts, KeyChange.FORGOTTEN)
            return
        if len(self._done) >= self._keep_results:
            self._forget_oldest()
        holder = task.parts.holder
        self._done[task.parts.id] = task, outcome, None if holder is None else holder.worker

    def _forget_oldest(self) -> None:
        """Forget the task that succeeded first. The oldest are noted once for all: to find the first entry of a dict
        costs a step for each one that was deleted before it.
        """
        while True:
            if not self._oldest:
                self._oldest.extend((task.parts.id, task.parts.position) for task, _, _ in self._done.values())
            task_id, position = self._oldest.popleft()
            finished = self._done.get(task_id)
            if finished is not None and finished[0].parts.position == position:  # else it was resumed or discarded
                break
        del self._done[task_id]
        if self._infos:
            self._infos.pop(task_id, None)
        if self._keys:
            self._keys.note(finished[0].parts, KeyChange.FORGOTTEN)

    def _note_failure(self, parts: Parts, outcome: Retried | Failed | Killed) -> None:
        """Add the failed attempt to the history of its task."""
        entry = failed_attempt(parts, outcome, self.seconds(), self._line_of, self._traceback_of)
        self._infos[parts.id] = self._infos.get(parts.id, NOTHING_KNOWN).with_attempt(entry, outcome.error)

    # Interventions

    def cancel(self, task_id: str, reason: str) -> bool:
        """Kill a waiting task; False if it does not wait."""
        return self._kill(task_id, reason, Cancelled)

    def _replace(self, task_id: str, by: TaskId) -> bool:
        """Kill a waiting task whose unique key another one has now; False if it does not wait."""
        return self._kill(task_id, f"replaced by task {escaped(by)}", lambda task_id: Replaced(task_id, by))

    def _kill(
        self, task_id: str, reason: str, make_event: Callable[[TaskId], Cancelled | Replaced] | None = None
    ) -> bool:
        task = self._waiting(task_id)
        if task is not None:
            self._finish(task, Killed(AbortError(reason)))
            if make_event is not None and self.events is not None and self.events.open:
                self.events.tell(make_event(task.parts.id))
        return task is not None

    def abort(self, task_id: str, reason: str | None) -> bool:
        """Cancel the attempt under way; unless it finishes, the task is killed then, or forgotten if there is no
        reason. False if the task is not running, or the attempt is over and only being settled."""
        parts = self._running.get(task_id)
        if parts is None or (reason is None and task_id in self._aborted):
            return False
        is_told = end_attempt(parts, withdrawn_error() if reason is None else AbortError(reason))
        if is_told or reason is None:
            self._aborted[task_id] = reason
        return is_told

    def _drop(self, waiting: Task[A]) -> bool:
        """Forget a waiting task, which counts as killed."""
        self._remove(waiting.parts, KeyChange.FORGOTTEN)
        self.counts["killed"] += 1
        self._infos.pop(waiting.parts.id, None)
        self._on_finish(waiting.parts.id, None)
        return True

    def reschedule(self, task_id: str, delay: float, now: float) -> bool:
        """Make a waiting task ready in ``delay`` seconds; False if it does not wait."""
        self.enter_due(now)
        task = self._waiting(task_id)
        if task is not None and (delay > 0 or task_id in self._not_before):  # a ready task keeps its place
            moved = self._live[task.parts.id] = Task(task.args, task.parts)
            moved.parts.run_at = None
            self._delay(moved, delay, now)
        return task is not None

    def update(self, task: Task[A]) -> bool:
        """Replace args and metadata of the waiting task of the same id; False if no such task waits."""
        waiting = self._waiting(task.parts.id)
        if waiting is not None:
            waiting.args, waiting.parts.metadata = task.args, task.parts.metadata
        return waiting is not None

    def resume(self, task_id: str, now: float) -> bool:
        """Make a finished task wait again, with all of its attempts; False if there is none of this id.

        Raises:
          DuplicateTaskError: its unique key is taken by now. Nothing changed.
        """
        finished = self._dead.get(task_id) or self._done.get(task_id)
        if finished is None:
            return False
        parts = finished[0].parts.again(attempt=0)
        parts.deadline = None  # it was asked for once more, whatever it was pushed with
        if parts.terms.unique is not None:
            holder = self._keys.holder(parts.terms.unique, now)
            if holder is not None and holder != parts.id:
                raise not_again(task_id, holder)
            if parts.terms.unique_for is None:
                self._keys.take(parts, now)
        if self._done.pop(task_id, None) is None:
            del self._dead[task_id]
        elif task_id in self._infos:  # an error of an attempt before the one that succeeded
            self._infos[task_id] = replace(self._infos[task_id], error=None)
        self._tables.dead_failed -= isinstance(finished[1], Failed)
        self.enter_due(now)  # what is due by now has waited for longer
        self.counts["resumed"] += 1
        parts.waits_since = self.seconds()
        parts.context = self._infos.get(parts.id, NOTHING_KNOWN)
        task = self._live[parts.id] = Task(finished[0].args, parts)
        self._ready.append(task)
        return True

    def _check_running(self, parts: Parts, verb: str) -> None:
        """Raise ``LeaseLostError`` unless the task runs under these parts; ``verb`` says what cannot be done."""
        if self._running.get(parts.id) is not parts:
            raise LeaseLostError(
                f"task {escaped(parts.id)} is not running in its attempt {parts.attempt}: nothing to {verb}"
            )

    def set_metadata(self, task: Task[A], metadata: Metadata) -> None:
        """Replace the metadata of a running task.

        Raises:
          LeaseLostError: the task is not running under these parts. Nothing changed.
        """
        parts = task.parts
        self._check_running(parts, "change")
        parts.metadata = self._live[parts.id].parts.metadata = metadata

    def report(self, task: Task[A], progress: Any) -> None:
        """Store the progress of a running task.

        Raises:
          LeaseLostError: the task is not running under these parts. Nothing changed.
        """
        parts = task.parts
        self._check_running(parts, "report")
        self._infos[parts.id] = replace(self._infos.get(parts.id, NOTHING_KNOWN), progress=progress)

    def discard(self, task_id: str) -> bool:
        """Forget one task that is finished or waits; False if there is none of this id, or if it runs."""
        finished = self._done.pop(task_id, None) or self._dead.pop(task_id, None)
        waiting = self._waiting(task_id)
        if finished is not None:
            self._tables.dead_failed -= isinstance(finished[1], Failed)
            self._keys.note(finished[0].parts, KeyChange.FORGOTTEN)
        elif waiting is not None:
            self._drop(waiting)
            if self.events is not None and self.events.open:
                self.events.tell(Cancelled(waiting.parts.id))
        if finished is None and waiting is None:
            return False
        self._infos.pop(task_id, None)
        return True

    def vacuum(self) -> int:
        """Forget all finished tasks; return how many there were."""
        forgotten = len(self._done) + len(self._dead)
        for task_id in (*self._done, *self._dead) if self._infos else ():
            self._infos.pop(task_id, None)
        finished = self._done.values(), self._dead.values()
        for task in (each[0] for several in finished for each in several) if self._keys else ():
            self._keys.note(task.parts, KeyChange.FORGOTTEN)
        self._done.clear()
        self._dead.clear()
        self._tables.dead_failed = 0
        return forgotten

    # Looking

    def _waiting(self, task_id: str) -> Task[A] | None:
        task = self._live.get(task_id)
        return None if task_id in self._running else task

    def find(self, task_id: str) -> Task[A] | None:
        """Return the task of this id, unfinished or remembered; or None."""
        finished = self._done.get(task_id) or self._dead.get(task_id)
        return finished[0] if finished else self._live.get(task_id)

    def delay_of(self, task_id: str) -> tuple[float, str | None] | None:
        """When a delayed task is due, and the reason of its suspension; None if it is not delayed."""
        due = self._not_before.get(task_id)
        return None if due is None else (due, self._suspended.get(task_id))

    def result_of(self, task_id: str) -> TaskResult[Any] | None:
        """Return the result of the task of this id, if it is finished and remembered."""
        finished = self._done.get(task_id) or self._dead.get(task_id)
        return finished and TaskResult.of(finished[0].parts.id, finished[1])

    @property
    def waiting(self) -> int:
        """Number of tasks that wait, ready or delayed."""
        return len(self._live) - len(self._running)

    def metrics(self, now: float, *, is_paused: bool = False) -> QueueMetrics:
        """Return all counters."""
        self.enter_due(now)
        return self.reader.metrics(now, self.seconds(), is_paused=is_paused)

    def audit(self, queue: str, now: float) -> Balance:
        """Compare the counters with the tasks."""
        self.enter_due(now)
        return self.reader.audit(queue, now)

    def is_timed(self) -> bool:
        """Return True if :meth:`take` depends on the time, since a task is delayed or may expire, or there is a
        rate. It is a method, since it is called for each task, and a property costs three times as much."""
        return bool(self._start_by or self._delayed.heap or self._ready.is_timed)

    @property
    def is_empty(self) -> bool:
        """True if no task waits, and none is running that could come back."""
        return not self.waiting and not any(parts.holder for parts in self._running.values())

    @property
    def running(self) -> int:
        """Number of tasks in an attempt."""
        return len(self._running)

    @property
    def dead(self) -> int:
        """Number of dead letters."""
        return len(self._dead)

    @property
    def remembered(self) -> int:
        """Number of succeeded tasks that are kept with their results."""
        return len(self._done)
