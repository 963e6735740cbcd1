"""The ledger of a queue in memory as it is read: its tasks as lists, the facts about one task, and the counters.

Nothing here changes a task; only the numbers of running tasks, by which these are listed, are given when they are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from .._contracts.listing import Position, find_page
from .._contracts.metrics import STORED_STATES, Balance, QueueMetrics, make_metrics
from .._contracts.states import COUNTERS
from .._tasks.outcome import Failed, Status
from .._tasks.task import Task
from .._tasks.task_info import NOTHING_KNOWN
from .ready_queue import KeyedQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._contracts.listing import Found, PageRequest
    from .._tasks.outcome import Killed, Succeeded
    from .._tasks.task import Parts
    from .._tasks.task_id import TaskId
    from .._tasks.task_info import KnownTaskInfo
    from .ready_queue import ReadyQueue

A = TypeVar("A")

_SECTIONS = (Status.Pending, Status.Pending, Status.Running, Status.Done, Status.Failed, Status.Killed)
"""The sections of a list of all tasks, by the status of the tasks in each."""
_READY, _DELAYED, _RUNNING, _DONE = range(4)


@final
class LedgerTables(Generic[A]):
    """The tables of a ledger, which it alone changes. They stay the same objects.

    Attributes:
      live: all unfinished tasks: ready, delayed or running.
      running: the running tasks.
      due: the time at which each delayed task is due.
      ends: the time at which each task that waits expires, or its deadline is over.
      suspended: the reasons of suspended tasks that are delayed.
      done: the tasks that succeeded and are kept, with their outcomes and workers.
      dead: the dead letters.
      dead_failed: the number of dead letters that failed; the others were killed.
      infos: facts of tasks that failed once, or reported progress.
      counts: how often each event has happened, by its name.
    """

    __slots__ = ("counts", "dead", "dead_failed", "done", "due", "ends", "infos", "live", "running", "suspended")

    def __init__(self) -> None:
        self.live: dict[str, Task[A]] = {}
        self.running: dict[str, Parts] = {}
        self.due: dict[str, float] = {}
        self.ends: dict[str, float] = {}
        self.suspended: dict[str, str] = {}
        self.done: dict[str, tuple[Task[A], Succeeded[Any], str | None]] = {}
        self.dead: dict[str, tuple[Task[A], Failed | Killed]] = {}
        self.dead_failed = 0
        self.infos: dict[str, KnownTaskInfo] = {}
        self.counts: dict[str, int] = dict.fromkeys(COUNTERS, 0)


@final
class LedgerReader(Generic[A]):
    """The tasks and the counters of a ledger, to be looked at.

    Args:
      tables: the tables of the ledger.
      ready: a function that returns its ready tasks, stale entries among them.
      number: a function that returns the next place in the order in which tasks become delayed or running.
    """

    __slots__ = ("_number", "_numbers", "_ready", "_tables")

    def __init__(
        self,
        tables: LedgerTables[A],
        ready: Callable[[], ReadyQueue[A] | KeyedQueue[A]],
        number: Callable[[], int],
    ) -> None:
        self._tables = tables
        self._ready = ready
        self._number = number
        self._numbers: dict[Parts, int] = {}  # the positions of running tasks that were listed

    @property
    def _keyed(self) -> KeyedQueue[A] | None:
        ready = self._ready()
        return ready if isinstance(ready, KeyedQueue) else None

    def is_ready(self, task: Task[A]) -> bool:
        """Return True if an entry of the ready tasks is not stale."""
        tables, task_id = self._tables, task.parts.id
        return tables.live.get(task_id) is task and task_id not in tables.running

    def before(self, task: Task[A]) -> Iterator[TaskId]:
        """The ids of the ready tasks that go before this one."""
        in_turn = self._ready() if self._keyed is None else self._keyed.in_turn()
        ready = takewhile(lambda each: each is not task, filter(self.is_ready, in_turn))
        return (each.parts.id for each in ready)

    def shown(self, task: Task[A]) -> Task[A]:
        """Return a copy of a task, with a StoredTaskInfo as its context."""
        parts = task.parts.copy()
        parts.context = self._info_of(task.parts)
        return Task(task.args, parts)

    def _info_of(self, parts: Parts) -> KnownTaskInfo:
        info = self._tables.infos.get(parts.id, NOTHING_KNOWN)
        if (done := self._tables.done.get(parts.id)) is not None:
            return replace(info, error=None, result=done[1].result, worker=done[2])
        return info if parts.holder is None else replace(info, worker=parts.holder.worker)

    def progress_of(self, task_id: str) -> Any:
        """Return the progress that was last reported for this task; None if none was."""
        return self._tables.infos.get(task_id, NOTHING_KNOWN).progress

    def tasks(self) -> Iterator[Task[A]]:
        """Return all tasks that are unfinished or remembered, in the order in which they are listed."""
        for section in range(len(_SECTIONS)):
            yield from (task for _, task in self._section(section, 1))

    def search(self, request: PageRequest, now: float) -> Found[Task[A]]:
        """Find the tasks of a page.

        Ready tasks come first, in the order in which they would be taken; then delayed tasks, as they fall due; then
        running and remembered tasks, as they were taken or finished.
        """
        selection = request.selection

        def takes(task: Task[A]) -> bool:
            parts = task.parts
            worker = self._info_of(parts).worker if selection.worker is not None else None
            return selection.takes(parts.name, worker, parts.pushed, parts.finished) and (
                not selection.needs_terms or selection.takes_terms(parts.terms, parts.metadata)
            )

        return find_page(self._listed(request, now), request.limit, takes if selection.is_filtered else None)

    def _listed(self, request: PageRequest, now: float) -> Iterator[tuple[Position, Task[A]]]:
        """Return the tasks of the sections that were asked for, after the position from which the list goes on."""
        selection, after = request.selection, request.after
        step = -1 if request.newest_first else 1
        for section in range(len(_SECTIONS))[::step]:
            if after is not None and (section - after.section) * step < 0:
                continue  # it is on the pages before
            if selection.status not in (None, _SECTIONS[section]):
                continue
            is_delayed = self._delay_test(section, now)
            begins_after = after.key if after is not None and after.section == section else None
            for key, task in self._section(section, step):
                if begins_after is not None and (key <= begins_after if step > 0 else key >= begins_after):
                    continue
                if selection.delayed in (None, is_delayed(task)):
                    yield Position(section, key), task

    def _delay_test(self, section: int, now: float) -> Callable[[Task[A]], bool]:
        """Return a function that returns True for a task of the section that waits for its time, or for its key."""
        if section == _DELAYED:
            return lambda task: self._tables.due[task.parts.id] > now
        return (lambda _: False) if section != _READY or self._keyed is None else self._keyed.held_test(now)

    def _section(self, section: int, step: int) -> Iterator[tuple[tuple[float, ...], Task[A]]]:
        """Return the tasks of a section with their sort keys; in the opposite order if the step is -1."""
        tables = self._tables
        if section == _READY:
            for task in filter(self.is_ready, self._ready() if step > 0 else reversed(self._ready())):
                yield (-task.parts.terms.priority, task.parts.position), task
        elif section == _DELAYED:
            rows = [(min(due, tables.ends.get(each, due)), tables.live[each]) for each, due in tables.due.items()]
            delayed = [((due, task.parts.position), task) for due, task in rows]  # some expire before they are ready
            yield from sorted(delayed, key=lambda each: each[0], reverse=step < 0)
        else:
            for task in self._section_in_order(section, step):
                yield (task.parts.position,), task

    def _section_in_order(self, section: int, step: int) -> Iterable[Task[A]]:
        """Return the tasks of a section that are kept in the order in which they came into it."""
        tables = self._tables
        if section == _RUNNING:
            self._number_running()
            return map(tables.live.__getitem__, tables.running if step > 0 else reversed(tables.running))
        if section == _DONE:
            return (task for task, _, _ in (tables.done.values() if step > 0 else reversed(tables.done.values())))
        dead = tables.dead.values() if step > 0 else reversed(tables.dead.values())
        return (task for task, _ in dead if task.parts.status is _SECTIONS[section])

    def _number_running(self) -> None:
        """Set the positions of the running tasks. It is not done when one is taken, since few are ever listed."""
        known = self._numbers
        self._numbers = {
            parts: known[parts] if parts in known else self._number() for parts in self._tables.running.values()
        }
        for parts, number in self._numbers.items():
            parts.position = number

    def metrics(self, now: float, seconds: float, *, is_paused: bool) -> QueueMetrics:
        """Return all counters; ``seconds`` is the time since the epoch."""
        since = [task.parts.waits_since for task in self._ready().firsts(now, self.is_ready)]
        age = max(0.0, seconds - min(since)) if since else 0.0
        return make_metrics(self._all_counts(now), orphans=0, oldest_waiting=age, is_paused=is_paused)

    def _all_counts(self, now: float) -> dict[str, int]:
        tables = self._tables
        held = 0 if self._keyed is None else self._keyed.held_now(now)
        return {
            **tables.counts,
            "waiting": len(tables.live) - len(tables.running) - len(tables.due) - held,
            "delayed": len(tables.due) + held,
            "held_now": held,
            "running": len(tables.running),
            "suspended_now": len(tables.suspended),
            "kept_done": len(tables.done),
            "kept_failed": tables.dead_failed,
            "kept_killed": len(tables.dead) - tables.dead_failed,
        }

    def audit(self, queue: str, now: float) -> Balance:
        """Compare the counters with the tasks."""
        tables = self._tables
        there: dict[str, int] = dict.fromkeys(STORED_STATES, 0)
        there["held_now"] = 0 if self._keyed is None else sum(map(self._keyed.held_test(now), self._keyed))
        there["waiting"] = sum(map(self.is_ready, self._ready())) - there["held_now"]
        there["delayed"] = sum(task_id in tables.live for task_id in tables.due) + there["held_now"]
        there["suspended_now"] = sum(task_id in tables.due for task_id in tables.suspended)
        there["running"] = sum(task_id in tables.live for task_id in tables.running)
        there["kept_done"] = len(tables.done)
        there["kept_failed"] = sum(isinstance(outcome, Failed) for _, outcome in tables.dead.values())
        there["kept_killed"] = len(tables.dead) - there["kept_failed"]
        return Balance(queue, self._all_counts(now), there)
