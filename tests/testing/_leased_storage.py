"""A sound storage for tests of the conformance kit, with leases and with rows that outlive its handles.

It is written to be read and to be broken, in one place at a time, by a subclass; not to be fast.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import trio
from trio_tasks import (
    AbortError,
    Attempt,
    Audit,
    Balance,
    Cancelled,
    ChangeReport,
    DeadlineError,
    DeadlinePassed,
    DuplicateTaskError,
    Expired,
    Explanation,
    Failed,
    Killed,
    LeaseLostError,
    Limits,
    Metadata,
    Minute,
    Outcome,
    Page,
    Parts,
    PastAttempt,
    Pause,
    Pushed,
    QueueMetrics,
    Released,
    Replaced,
    Retried,
    Status,
    StorageEvent,
    Succeeded,
    Suspended,
    Task,
    TaskExpiredError,
    TaskFilters,
    TaskId,
    TaskResult,
    TaskSink,
    UnknownTaskError,
    WorkerContext,
    WorkerInfo,
)
from trio_tasks._backends.durable.engine import SettlementKind
from trio_tasks._checks import check_text
from trio_tasks._clock import seconds_until, wall_after
from trio_tasks._concurrency.tracebacks import traceback_text
from trio_tasks._contracts.bulk import check_ids
from trio_tasks._contracts.event_readers import EventReaders
from trio_tasks._contracts.explanation import Evidence, Place, explanation_of
from trio_tasks._contracts.metrics import STORED_STATES, make_metrics
from trio_tasks._contracts.minutes import Tally, shown
from trio_tasks._contracts.sink import check_task, make_tasks
from trio_tasks._contracts.states import COUNTERS
from trio_tasks._contracts.worker_info import worker_info
from trio_tasks._tasks.limits import check_limits
from trio_tasks._tasks.task_info import NOTHING_KNOWN, KnownTaskInfo
from trio_tasks.abc import (
    ActOnMany,
    CallTask,
    Cancel,
    Discard,
    Explain,
    FetchById,
    ListQueues,
    ListTasks,
    ListWorkers,
    Metrics,
    Progress,
    ReceiveNowaitBackend,
    RegisterWorker,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    ScheduleChange,
    ScheduleEntry,
    ScheduleResult,
    SetLimits,
    SetMetadata,
    StoreSchedules,
    TaskTemplate,
    Throughput,
    Update,
    Vacuum,
    WaitForCompletion,
    Watch,
    make_page,
    seconds_to_deadline,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

LEASE = 2.0
ENDINGS: dict[type, str] = {
    Succeeded: "succeeded",
    Failed: "failed",
    Killed: "killed",
    Retried: "retried",
    Released: "released",
    Suspended: "suspended",
}


class Token(int):
    """The number of a claim, which is what a task in an attempt has as its context; and the attempts before."""

    history: tuple[PastAttempt, ...] = ()


@dataclass(eq=False)
class Row:
    """A stored task."""

    parts: Parts
    args: str
    metadata: str
    place: tuple[float, int]  # when it began to wait, and how many did before
    due: float
    start_by: float | None
    status: Status = Status.Pending
    attempt: int = 0
    end: float | None = None  # its deadline
    until: float = 0.0
    token: int = 0
    result: TaskResult[Any] | None = None
    progress: Any = None
    mark: Any = None  # of those that break something
    info: KnownTaskInfo = NOTHING_KNOWN
    hand: Parts | None = None
    is_suspended: bool = False
    reason: str | None = None  # of its suspension
    successor: str = ""  # which has its unique key now
    has_begun: bool = False


@dataclass(eq=False)
class Store:
    """The rows, and the other state that outlives handles."""

    rows: dict[str, Row] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    timed: dict[str, tuple[Row, float]] = field(default_factory=dict)  # by unique key, the holder and the end
    workers: list[WorkerContext] = field(default_factory=list)
    is_paused: bool = False
    schedules: dict[str, ScheduleEntry] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=lambda: count(1))
    queues: dict[str, Store] = field(default_factory=dict)  # the others
    changed: trio.Event = field(default_factory=trio.Event)
    readers: EventReaders = field(default_factory=EventReaders)
    tally: Tally = field(default_factory=Tally)
    limits: dict[str | None, Limits] = field(default_factory=dict)  # by key; None: of the queue
    begun: dict[str | None, list[float]] = field(default_factory=dict)  # the attempts, likewise
    passed: dict[int, float] = field(default_factory=dict)  # the virtual time, by priority
    turns: dict[tuple[int, str], float] = field(default_factory=dict)  # the end of the latest turn, by priority and key

    def mark_changed(self) -> None:
        """Wake all receivers."""
        self.changed.set()
        self.changed = trio.Event()


def for_one_id(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that breaks a storage for one id, and leaves it as it is for several."""

    async def call(self: Any, task_id: Any, *args: Any, **options: Any) -> Any:
        of = method if isinstance(task_id, str) else getattr(LeasedStorage, verb)
        return await of(self, task_id, *args, **options)

    return call


class LeasedStorage(
    TaskSink[Any],
    StoreSchedules,
    ReceiveNowaitBackend[Any],
    Cancel,
    Discard,
    Explain,
    FetchById,
    ListQueues,
    ListTasks,
    ActOnMany,
    ListWorkers,
    Metrics,
    Progress,
    RegisterWorker,
    Reschedule,
    ResumeAbandoned,
    ResumeById,
    SetMetadata,
    Update,
    Vacuum,
    WaitForCompletion,
    CallTask[Any],
    Audit,
    Throughput,
    Pause,
    SetLimits,
    Watch,
):
    """A storage with leases."""

    def __init_subclass__(cls) -> None:
        for verb in ("reschedule", "cancel", "abort", "resume_by_id", "discard", "fetch_by_id", "wait_for"):
            if verb in vars(cls):
                setattr(cls, verb, for_one_id(verb, vars(cls)[verb]))

    lease = LEASE
    heartbeat_interval: float | None = LEASE / 4

    def __init__(self, store: Store, queue: str = "default") -> None:
        self.store = store
        self.queue = queue
        self.closed = False

    # Pushing

    async def push_task(self, task: Task[Any]) -> TaskId:
        check_task(task)
        await trio.lowlevel.checkpoint()
        return self.enter(task)

    async def push_bulk(self, many: Any, **options: Any) -> list[TaskId]:
        tasks: list[Task[Any]] = await make_tasks(many, options)  # type: ignore[arg-type]  # they are checked there
        for task in tasks:
            self.encode(task.args)
        return [await self.push_task(task) for task in tasks]

    async def call(self, args: Any, type: Any = None, **options: Any) -> Any:
        pushed = await self.push_or_get(args, **options)
        try:
            return (await self.wait_for(pushed.id)).unwrap()
        except trio.Cancelled:
            if pushed.is_new:
                await self.end_call(pushed.id)
            raise

    async def end_call(self, task_id: str) -> None:
        with trio.move_on_after(LEASE, shield=True):
            await self.cancel(task_id, running=True)
            if (await self.wait_for(task_id)).status is Status.Killed:
                await self.discard(task_id)

    def encode(self, args: Any) -> str:
        return json.dumps(args)

    def enter(self, task: Task[Any]) -> TaskId:
        if self.closed:
            raise trio.ClosedResourceError("closed")
        parts, terms, now = task.parts, task.parts.terms, trio.current_time()
        payload, metadata = self.encode(task.args), json.dumps(dict(parts.metadata))
        rest = seconds_to_deadline(task)
        end = None if rest is None else now + rest
        self.match_waiters()
        if parts.id in self.store.rows:
            return self.known(task)
        if terms.unique is not None and (other := self.holder_of(terms.unique)) is not None:
            if terms.on_conflict == "raise":
                raise DuplicateTaskError("the unique key is taken")
            if other.status.is_final:
                return other.parts.id
            if terms.on_conflict == "update" and other.status is Status.Pending:
                delay = parts.seconds_to_wait
                other.args, other.metadata = payload, metadata
                if delay > 0 or other.due > now or other.parts.terms.priority != terms.priority:
                    other.place, other.due = (now + delay, next(self.store.numbers)), now + delay
                other.parts.terms = terms
                other.end = end
                other.start_by = None if terms.expires_in is None else now + terms.expires_in
                self.bound(other)
                self.hold_key(other)
                self.store.mark_changed()
            if terms.on_conflict in ("skip", "update"):
                return other.parts.id
            if other.status is Status.Pending:
                self.finish(other, Killed(AbortError(f"replaced by {parts.id}")))
                self.tell(Replaced(other.parts.id, parts.id))
            other.successor = parts.id
        delay = terms.delay if parts.run_at is None or terms.delay else seconds_until(parts.run_at)
        start_by = None if terms.expires_in is None else now + terms.expires_in
        place = (now + delay, next(self.store.numbers))
        parts.pushed, parts.started, parts.finished = now, None, None
        row = self.store.rows[parts.id] = Row(parts, payload, metadata, place, now + delay, start_by, end=end)
        self.bound(row)
        self.hold_key(self.store.rows[parts.id])
        self.store.counts["pushed"] += 1
        self.tell(Pushed(parts.id, True))
        self.store.mark_changed()
        return parts.id

    def bound(self, row: Row) -> None:
        """Let a row that waits end by its deadline at the latest."""
        row.start_by = min((each for each in (row.start_by, row.end) if each is not None), default=None)

    def known(self, task: Task[Any]) -> TaskId:
        raise DuplicateTaskError("the id is known")

    def holder_of(self, key: str) -> Row | None:
        rows = [row for row in self.store.rows.values() if row.parts.terms.unique == key and self.holds_key(row)]
        if key in self.store.timed and self.store.timed[key][1] > trio.current_time():
            rows = [self.store.timed[key][0]]
        return rows[0] if rows else None

    def holds_key(self, row: Row) -> bool:
        if row.successor or row.parts.terms.unique_for is not None:
            return False
        is_over = {"start": row.has_begun or row.status.is_final, "end": row.status.is_final, "forgotten": False}
        return not is_over[row.parts.terms.unique_until]

    def hold_key(self, row: Row) -> None:
        terms = row.parts.terms
        if terms.unique is not None and terms.unique_for is not None:
            self.store.timed[terms.unique] = row, trio.current_time() + terms.unique_for
        elif terms.unique is not None:
            self.store.timed.pop(terms.unique, None)

    def close(self) -> None:
        self.closed = True
        self.store.readers.end()
        self.store.mark_changed()

    def share(self, *, queue: str) -> LeasedStorage:
        return LeasedStorage(self.store.queues.setdefault(queue, Store()), queue)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # Receiving

    async def receive(self) -> Task[Any]:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                task = self.take()
            except trio.WouldBlock:
                changed = self.store.changed
                with trio.move_on_at(self.next_time()):
                    await changed.wait()
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return task

    def receive_nowait(self) -> Task[Any]:
        return self.take()

    def take(self) -> Task[Any]:
        self.match_waiters()
        if ready := self.takeable():
            return self.hand_out(self.first_of(ready))
        if self.has_ended():
            raise trio.EndOfChannel
        raise trio.WouldBlock

    def ready(self) -> list[Row]:
        now = trio.current_time()
        return [] if self.store.is_paused else [row for row in self.rows_of(Status.Pending) if row.due <= now]

    # Keys and limits

    def takeable(self) -> list[Row]:
        """The ready rows for which all limits have a place."""
        return self.places(self.ready()) if self.free_of(None) > 0 else []

    def first_of(self, ready: list[Row]) -> Row:
        """Choose the row whose turn it is, and count the turn of its key."""
        store, priority = self.store, max(map(self.level_of, ready))
        lines: dict[str, Row] = {}
        for row in sorted(ready, key=self.order):
            if self.level_of(row) == priority:
                lines.setdefault(row.parts.terms.key or "", row)
        passed = store.passed.get(priority, 0.0)
        tags = {key: max(passed, store.turns.get((priority, key), passed)) for key in lines}
        key = min(lines, key=lambda each: (tags[each], lines[each].place))
        store.passed[priority] = tags[key]
        store.turns[priority, key] = tags[key] + self.turn_of(key)
        return lines[key]

    def level_of(self, row: Row) -> int:
        return row.parts.priority

    def turn_of(self, key: str) -> float:
        limits = self.limits_of(key)
        return 1.0 if limits is None else 1.0 / limits.weight

    def limits_of(self, key: str) -> Limits | None:
        limits = self.store.limits
        return limits.get(key) or limits.get(None)

    def places(self, rows: list[Row]) -> list[Row]:
        """Those of the ready rows for which the limits of their keys have places."""
        free: dict[str, float] = {}
        passed: list[Row] = []
        for row in sorted(rows, key=self.order):
            key = row.parts.terms.key or ""
            if key not in free:
                free[key] = self.free_of(key)
            free[key] -= 1
            if free[key] >= 0:
                passed.append(row)
        return passed

    def free_of(self, key: str | None) -> float:
        """The number of attempts that may begin now: of a key, or of the queue."""
        limits = self.store.limits.get(None) if key is None else self.limits_of(key)
        if limits is None or key == "":
            return math.inf
        most, rate = (limits.concurrency, limits.rate) if key is None else (limits.per_key, limits.rate_per_key)
        free = math.inf if most is None else most - self.running_of(key)
        if rate is not None:
            now = trio.current_time()
            free = min(free, rate.n - sum(now < moment + rate.per for moment in self.begun_of(key)))
        return max(free, 0)

    def begun_of(self, key: str | None) -> list[float]:
        return self.store.begun.get(key, [])

    def running_of(self, key: str | None) -> int:
        return sum(key is None or row.parts.terms.key == key for row in self.rows_of(Status.Running))

    def next_places(self) -> list[float]:
        """The moments at which a rate may have a place again."""
        rates = [rate for each in self.store.limits.values() for rate in (each.rate, each.rate_per_key) if rate]
        return [moment + rate.per for moments in self.store.begun.values() for moment in moments for rate in rates]

    async def set_limits(self, limits: Limits | None, *, key: str | None = None) -> None:
        check_limits(limits, of_key=key is not None)
        if key is not None:
            check_text(key, "key")
        await trio.lowlevel.checkpoint()
        self.store.limits.pop(key, None)
        self.store.begun.clear()
        if limits is not None:
            self.store.limits[key] = limits
        self.store.mark_changed()

    async def get_limits(self, *, key: str | None = None) -> Limits | None:
        await trio.lowlevel.checkpoint()
        return self.store.limits.get(key)

    async def list_limits(self) -> dict[str | None, Limits]:
        await trio.lowlevel.checkpoint()
        return dict(sorted(self.store.limits.items(), key=lambda each: each[0] or ""))

    def order(self, row: Row) -> Any:
        return -row.parts.priority, row.place

    def has_ended(self) -> bool:
        return self.closed and all(row.status.is_final for row in self.store.rows.values())

    def rows_of(self, status: Status) -> list[Row]:
        return [row for row in self.store.rows.values() if row.status is status]

    def next_time(self) -> float:
        times = [row.due for row in self.rows_of(Status.Pending)] + [row.until for row in self.rows_of(Status.Running)]
        times += self.next_places()
        return min((time for time in times if time > trio.current_time()), default=float("inf"))

    def match_waiters(self) -> None:
        """Enter everything that is due now."""
        now = trio.current_time()
        for row in self.rows_of(Status.Running):
            if row.until <= now:
                row.status = Status.Pending
                self.bound(row)
        for row in self.rows_of(Status.Pending):
            if row.start_by is not None and row.start_by <= now:
                is_deadline = row.start_by == row.end
                self.finish(row, Killed(DeadlineError("over") if is_deadline else TaskExpiredError("expired")))
                self.tell(DeadlinePassed(row.parts.id) if is_deadline else Expired(row.parts.id))

    def hand_out(self, row: Row) -> Task[Any]:
        row.status, row.start_by, row.has_begun = Status.Running, None, True
        row.attempt += 1
        row.until = trio.current_time() + self.lease
        row.parts.started = trio.current_time()
        for key in {None, row.parts.terms.key}:
            self.store.begun.setdefault(key, []).append(trio.current_time())
        row.token = next(self.store.numbers)
        task = self.shown(row)
        row.hand, task.parts.context = task.parts, Token(row.token)
        task.parts.context.history = row.info.history
        return task

    def shown(self, row: Row) -> Task[Any]:
        metadata = Metadata(json.loads(row.metadata))
        parts = Parts(row.parts.id, attempt=Attempt(row.attempt), terms=row.parts.terms, metadata=metadata)
        parts.status = row.status
        parts.pushed, parts.started = row.parts.pushed, row.parts.started
        parts.finished = row.parts.finished if row.status.is_final else None
        if row.end is not None:
            parts.deadline = parts.cancel_at = row.end
        if row.status is Status.Pending and row.due > trio.current_time():
            parts.run_at = wall_after(row.due - trio.current_time())
        parts.context = self.info_of(row)
        return Task(json.loads(row.args), parts)

    def info_of(self, row: Row) -> KnownTaskInfo:
        info = replace(row.info, progress=row.progress)
        if row.hand is not None and row.hand.holder is not None:
            info = replace(info, worker=row.hand.holder.worker)
        if row.status is Status.Done and row.result is not None:
            return replace(info, error=None, result=row.result.result)
        return info

    # Settling

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.enter_outcome(self.held(task), outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def held(self, task: Task[Any]) -> Row:
        """The row of a task that is running; raises LeaseLostError if it is not."""
        self.match_waiters()
        row = self.store.rows.get(task.parts.id)
        if row is None or row.status is not Status.Running or row.token != task.parts.context:
            raise LeaseLostError("not running")
        return row

    def enter_outcome(self, row: Row, outcome: Outcome) -> None:
        if type(outcome) not in ENDINGS:
            raise TypeError(f"not an outcome: {outcome!r}")
        self.note(row, outcome)
        self.add_up(row, outcome)
        if isinstance(outcome, (Succeeded, Failed, Killed)):
            self.finish(row, outcome)
            return
        if row.successor:
            self.finish(row, Killed(AbortError(f"replaced by {row.successor}")))
            self.tell(Replaced(row.parts.id, TaskId(row.successor)))
            return
        self.store.counts[ENDINGS[type(outcome)]] += 1
        row.status, row.hand = Status.Pending, None
        self.bound(row)
        if not isinstance(outcome, Retried):
            row.attempt -= 1
        row.is_suspended = isinstance(outcome, Suspended)
        row.reason = outcome.reason if isinstance(outcome, Suspended) else None
        if not isinstance(outcome, Released):
            row.due = trio.current_time() + outcome.after if isinstance(outcome, Retried) else outcome.until
            row.place = row.due, next(self.store.numbers)
        self.store.mark_changed()

    def add_up(self, row: Row, outcome: Outcome) -> None:
        """Add the attempt to the sums of its minute."""
        started, now = row.parts.started or 0.0, trio.current_time()
        kind = SettlementKind[ENDINGS[type(outcome)].upper()]
        self.store.tally.add(row.parts.name, kind, now - started, started - row.place[0], now)

    async def throughput(
        self, since: datetime | None = None, until: datetime | None = None, *, name: str | None = None
    ) -> list[Minute]:
        await trio.lowlevel.checkpoint()
        return shown([(*key, sums) for key, sums in self.store.tally.rows.items()], since, until, name)

    def note(self, row: Row, outcome: Outcome) -> None:
        """Add a failed attempt to the history."""
        worker = row.hand.holder.worker if row.hand is not None and row.hand.holder is not None else None
        if isinstance(outcome, (Retried, Failed, Killed)):
            line = f"{type(outcome.error).__name__}: {outcome.error}"
            took = trio.current_time() - (row.parts.started or 0.0)
            version = getattr(row.hand and row.hand.holder, "version", None)
            told = line, took, traceback_text(outcome.error), version
            entry = PastAttempt(row.attempt, trio.current_time(), worker, ENDINGS[type(outcome)], *told)
            row.info = row.info.with_attempt(entry, outcome.error)

    def finish(self, row: Row, outcome: Succeeded[Any] | Failed | Killed) -> None:
        self.store.counts[ENDINGS[type(outcome)]] += 1
        row.result, row.hand = TaskResult.of(row.parts.id, outcome), None
        row.parts.finished = trio.current_time()
        row.status = row.result.status
        self.store.mark_changed()

    async def beat(self, context: WorkerContext) -> None:
        await trio.lowlevel.checkpoint()
        for task in list(context.running_tasks):
            try:
                self.renew(self.held(task))
            except LeaseLostError:
                self.lost(task)

    def renew(self, row: Row) -> None:
        row.until = trio.current_time() + self.lease

    def lost(self, task: Task[Any]) -> None:
        if task.parts.holder is not None:
            task.parts.holder.revoke(Released("its lease was lost"))

    # Looking

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[trio.abc.ReceiveChannel[StorageEvent], None]:
        async with self.store.readers.opened(self.check_open) as events:
            yield events

    def tell(self, event: StorageEvent) -> None:
        self.store.readers.tell(event)

    def check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("closed")

    async def find(self, task_id: str) -> Row | None:
        await trio.lowlevel.checkpoint()
        self.match_waiters()
        return self.store.rows.get(task_id)

    async def fetch_by_id(self, task_id: Any) -> Any:
        if not isinstance(task_id, str):
            return await self.fetch_each(check_ids(task_id))
        row = await self.find(task_id)
        return None if row is None else self.shown(row)

    async def fetch_each(self, ids: Iterable[str]) -> list[Any]:
        return [await LeasedStorage.fetch_by_id(self, each) for each in ids]

    async def wait_for(self, task_id: Any) -> Any:
        if not isinstance(task_id, str):
            if unknown := [each for each in check_ids(task_id) if each not in self.store.rows]:
                raise UnknownTaskError(*unknown)
            return [await LeasedStorage.wait_for(self, each) for each in check_ids(task_id)]
        while True:
            row = await self.find(task_id)
            if row is None:
                raise UnknownTaskError(task_id)
            if row.result is not None:
                return row.result
            with trio.move_on_at(float("inf") if row.start_by is None else row.start_by):
                await self.store.changed.wait()

    async def list_tasks(
        self,
        status: Status | None = None,
        *,
        newest_first: bool = False,
        after: str | None = None,
        limit: int = 100,
        **filters: Unpack[TaskFilters],
    ) -> Page[Task[Any]]:
        await trio.lowlevel.checkpoint()
        self.match_waiters()
        rows = [*self.store.rows.values()]
        if status in (None, Status.Pending) and (delayed := filters.pop("delayed", None)) is not None:
            ready = self.places(self.ready())
            rows = [row for row in self.rows_of(Status.Pending) if (row not in ready) == delayed]
        listed = [(self.listed(row), self.shown(row)) for row in rows]
        return make_page(listed, status, newest_first=newest_first, after=after, limit=limit, **filters)

    def listed(self, row: Row) -> tuple[float, ...]:
        if row.status.is_final:
            return 3, row.parts.finished or 0.0, *row.place
        if row.status is Status.Running:
            return 2, *row.place
        if row.due <= trio.current_time():
            return 0, -row.parts.priority, *row.place
        return 1, row.due, *row.place

    async def list_queues(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["default", *self.store.queues]

    async def register_worker(self, context: WorkerContext) -> None:
        await trio.lowlevel.checkpoint()
        self.store.workers.append(context)

    async def list_workers(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return [each.name for each in self.store.workers if not each.is_stopped]

    async def workers(self, *, fresh: bool = False) -> list[WorkerInfo]:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        return [worker_info(each, self.queue, since=now, now=now) for each in self.store.workers if not each.is_stopped]

    async def metrics(self) -> QueueMetrics:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        ready = [now - row.place[0] for row in self.rows_of(Status.Pending) if row.due <= now]
        return make_metrics(
            self.counters(), orphans=0, oldest_waiting=max(ready, default=0.0), is_paused=self.store.is_paused
        )

    def counters(self) -> dict[str, int]:
        delayed = [row for row in self.rows_of(Status.Pending) if row.due > trio.current_time()]
        ready = [row for row in self.rows_of(Status.Pending) if row.due <= trio.current_time()]
        held = len(ready) - len(self.places(ready))
        finished = {"kept_done": Status.Done, "kept_failed": Status.Failed, "kept_killed": Status.Killed}
        return {
            **self.store.counts,
            "waiting": len(ready) - held,
            "delayed": len(delayed) + held,
            "held_now": held,
            "suspended_now": sum(row.is_suspended for row in delayed),
            "running": len(self.rows_of(Status.Running)),
            **{name: len(self.rows_of(status)) for name, status in finished.items()},
        }

    async def explain(self, task_id: str) -> Explanation:
        row, now = await self.find(task_id), trio.current_time()
        evidence = Evidence(id=task_id, queue=self.queue, now=now, is_paused=self.store.is_paused)
        if row is not None:
            evidence.task, evidence.reason = self.shown(row), row.reason
            evidence.due = row.due if row.status is Status.Pending else None
            if row.status is Status.Pending and row.due <= now:
                ready = [each for each in self.rows_of(Status.Pending) if each.due <= now]
                evidence.place = self.place_behind(
                    sorted((e for e in ready if self.order(e) < self.order(row)), key=self.order)
                )
        evidence.workers = await self.workers()
        return explanation_of(evidence)

    def place_behind(self, rows: list[Row]) -> Place:
        return Place.after(row.parts.id for row in rows)

    async def pause(self) -> None:
        await trio.lowlevel.checkpoint()
        self.store.is_paused = True

    async def resume(self) -> None:
        await trio.lowlevel.checkpoint()
        self.store.is_paused = False
        self.store.mark_changed()

    async def is_paused(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.store.is_paused

    def set_schedule(self, change: ScheduleChange) -> ScheduleResult:
        known = self.store.schedules.get(change.name, ScheduleEntry(change.name, 0, None))
        if (known.revision if known.schedule is not None else 0) != change.was:
            return ScheduleResult(0)
        revision = next(self.store.numbers)
        self.store.schedules[change.name] = ScheduleEntry(
            change.name, revision, change.schedule, change.schedule is None
        )
        templates = change.tasks
        tasks = [Task(each.payload, Parts(terms=each.terms, metadata=each.metadata)) for each in templates]
        return ScheduleResult(revision, [self.enter(task) for task in tasks])

    async def set_schedules(self, changes: Sequence[ScheduleChange]) -> list[ScheduleResult]:
        await trio.lowlevel.checkpoint()
        return [self.set_schedule(each) for each in changes]

    async def list_schedules(self, after: int = 0, *, name: str | None = None) -> list[ScheduleEntry]:
        await trio.lowlevel.checkpoint()
        return [each for each in self.store.schedules.values() if each.revision > after and name in (None, each.name)]

    def make_template(self, task: Task[Any]) -> TaskTemplate:
        self.encode(task.args)
        return TaskTemplate(task.args, task.parts.terms, task.parts.metadata)

    async def wait_for_schedules(self, seen: int = 0) -> int:
        await trio.sleep(1)
        return seen + 1

    async def audit(self) -> Balance:
        await trio.lowlevel.checkpoint()
        counters = self.counters()
        return Balance(self.queue, counters, {name: counters[name] for name in STORED_STATES})

    async def report_progress(self, task: Task[Any], progress: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.held(task).progress = progress

    async def set_metadata(self, task: Task[Any], values: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        row = self.held(task)
        task.parts.metadata = Metadata({**task.parts.metadata, **values})
        row.metadata = json.dumps(dict(task.parts.metadata))

    async def progress_of(self, task_id: str) -> Any:
        row = await self.find(task_id)
        if row is None:
            raise UnknownTaskError(task_id)
        return row.progress

    # Changing

    async def change_each(self, verb: str, ids: Any, change: Callable[[str], Awaitable[bool]]) -> ChangeReport:
        """Change the tasks of several ids."""
        changed: list[TaskId] = []
        refused: dict[str, str] = {}
        for task_id in dict.fromkeys(check_ids(ids)):
            with suppress(DuplicateTaskError):
                if await change(task_id):
                    changed.append(TaskId(task_id))
                    continue
            refused[task_id] = "it is in another state, or not known"
        return ChangeReport(tuple(changed), refused, verb)

    async def waiting(self, task_id: str) -> Row | None:
        row = await self.find(task_id)
        return row if row is not None and row.status is Status.Pending else None

    async def update(self, task: Task[Any]) -> bool:
        if (row := await self.waiting(task.parts.id)) is None:
            return False
        row.args, row.metadata = self.encode(task.args), json.dumps(dict(task.parts.metadata))
        return True

    async def reschedule(self, task_id: Any, delay: float) -> Any:
        if not isinstance(task_id, str):
            return await self.change_each("rescheduled", task_id, partial(LeasedStorage.reschedule, self, delay=delay))
        if (row := await self.waiting(task_id)) is None:
            return False
        row.due = trio.current_time() + delay
        self.store.mark_changed()
        return True

    async def cancel(self, task_id: Any, *, running: bool = False) -> Any:
        if not isinstance(task_id, str):
            return await self.change_each("cancelled", task_id, partial(LeasedStorage.cancel, self, running=running))
        if (row := await self.waiting(task_id)) is None:
            return running and await self.abort(task_id)
        self.finish(row, Killed(AbortError("cancelled")))
        self.tell(Cancelled(row.parts.id))
        return True

    async def abort(self, task_id: Any) -> Any:
        if not isinstance(task_id, str):
            return await self.change_each("aborted", task_id, partial(LeasedStorage.abort, self))
        row = await self.find(task_id)
        if row is None or row.hand is None or row.hand.holder is None:
            return False
        return row.hand.holder.revoke(Killed(AbortError("aborted")))

    async def resume_by_id(self, task_id: Any) -> Any:
        if not isinstance(task_id, str):
            return await self.change_each("resumed", task_id, partial(LeasedStorage.resume_by_id, self))
        row = await self.find(task_id)
        if row is None or not row.status.is_final:
            return False
        if row.parts.terms.unique is not None and self.holder_of(row.parts.terms.unique) not in (None, row):
            raise DuplicateTaskError("the unique key is taken")
        row.successor, row.has_begun = "", False
        row.status, row.result, row.attempt, row.due, row.start_by = Status.Pending, None, 0, 0.0, None
        row.end = None
        self.store.counts["resumed"] += 1
        self.store.mark_changed()
        return True

    async def resume_abandoned(self) -> int:
        await trio.lowlevel.checkpoint()
        before = len(self.rows_of(Status.Running))
        self.match_waiters()
        self.store.mark_changed()
        return before - len(self.rows_of(Status.Running))

    async def vacuum(self, *, older_than: float | None = None, status: Status | None = None) -> int:
        await trio.lowlevel.checkpoint()
        if status is not None and not status.is_final:
            raise ValueError("vacuum is about finished tasks")
        finished = [row for row in self.store.rows.values() if row.status.is_final and status in (None, row.status)]
        latest = trio.current_time() - (older_than or 0.0)
        old = [row for row in finished if (row.parts.finished or 0.0) <= latest]
        for row in old:
            del self.store.rows[row.parts.id]
        return len(old)

    async def retry_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        number = 0
        for each in (Status.Failed, Status.Killed) if status is None else (status,):
            for task in await self.list_tasks(each, limit=10_000, **filters):
                with suppress(DuplicateTaskError):
                    number += await self.resume_by_id(task.parts.id)
        return number

    async def cancel_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        if status not in (None, Status.Pending):
            raise ValueError("cancel_all is about tasks that wait")
        return sum(
            [await self.cancel(t.parts.id) for t in await self.list_tasks(Status.Pending, limit=9999, **filters)]
        )

    async def discard_all(self, status: Status | None = None, **filters: Unpack[TaskFilters]) -> int:
        number = 0
        for each in (Status.Done, Status.Failed, Status.Killed) if status is None else (status,):
            for task in await self.list_tasks(each, limit=10_000, **filters):
                number += await self.discard(task.parts.id)
        return number

    async def discard(self, task_id: Any) -> Any:
        if not isinstance(task_id, str):
            return await self.change_each("discarded", task_id, partial(LeasedStorage.discard, self))
        row = await self.find(task_id)
        if row is None or row.status is Status.Running:
            return False
        if not row.status.is_final:
            self.finish(row, Killed(AbortError("discarded")))
            self.tell(Cancelled(row.parts.id))
        del self.store.rows[task_id]
        return True
