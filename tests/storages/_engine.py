"""An engine for tests, with rows in memory under a virtual clock, and errors on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

import trio
from trio_tasks import BackendError, Balance, QueueMetrics, StoredTask
from trio_tasks._backends.durable.engine import (
    Changed,
    ClaimKey,
    Engine,
    Exchange,
    ExchangeResult,
    KilledRow,
    LocatedRow,
    Part,
    Query,
    Renewal,
    RowChange,
    RowsRead,
    ScheduleOutcome,
    ScheduleRow,
    ScheduleUpdate,
    State,
    StoredRow,
    StoredWorker,
    WorkerRow,
)
from trio_tasks._backends.durable.queue import QueueState, StorageOptions
from trio_tasks._backends.durable.storage import DurableStorage
from trio_tasks._backends.file.engine import FileEngine
from trio_tasks._contracts.bulk import Refusal
from trio_tasks._contracts.listing import Found
from trio_tasks._contracts.minutes import Sums
from trio_tasks._contracts.store_info import StoreInfo

if TYPE_CHECKING:
    from trio_tasks import Limits
    from typing_extensions import Unpack

A = TypeVar("A")
T = TypeVar("T")


@final
class Store:
    """The rows that several engines share, and the engines to wake after changes."""

    def __init__(self) -> None:
        self.rows = FileEngine(None, synchronous="NORMAL")
        self.users = 0
        self.listeners: dict[Engine, Callable[[], None]] = {}
        self.asked: dict[Engine, Callable[[], None]] = {}

    def tell_others(self, me: Engine) -> None:
        for engine, on_change in self.listeners.items():
            if engine is not me:
                on_change()


@final
class TroubledEngine(Engine):
    """An engine with rows in memory that fails on demand.

    Attributes:
      latency: seconds that everything takes, before it is done; and as many after it.
      trouble: what is raised in place of doing anything.
      late_trouble: what is raised when an exchange is done, as if the connection had broken then.
      gate: an exchange that was done waits for this before it answers.
      calls: how often each method was called.
      exchanges: all that were asked for.
      at_once: the most calls that were under way together.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.latency = 0.0
        self.trouble: Exception | None = None
        self.late_trouble: Exception | None = None
        self.gate: trio.Event | None = None
        self.misses_wakeups = False
        self.calls: Counter[str] = Counter()
        self.exchanges: list[Exchange] = []
        self.at_once = 0
        self._under_way = 0

    async def open(self) -> None:
        self.calls["open"] += 1
        await self._take_time()
        if not self.store.users:
            await self.store.rows.open()
        self.store.users += 1

    async def aclose(self) -> None:
        self.calls["aclose"] += 1
        self.store.users -= 1
        if not self.store.users:
            await self.store.rows.aclose()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def now(self) -> float:
        return self.store.rows.now()

    async def _take_time(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(self.latency)
        if self.trouble is not None:
            raise self.trouble

    async def _call(self, name: str, *args: Any, **options: Any) -> Any:
        self.calls[name] += 1
        self._under_way += 1
        self.at_once = max(self.at_once, self._under_way)
        try:
            await self._take_time()
            call: Callable[..., Awaitable[Any]] = getattr(self.store.rows, name)
            with trio.CancelScope(shield=True):
                result = await call(*args, **options)
                await trio.sleep(self.latency)
            return result
        finally:
            self._under_way -= 1

    async def _telling(self, name: str, *args: Any, **options: Any) -> Any:
        result = await self._call(name, *args, **options)
        self.store.tell_others(self)
        return result

    async def exchange(self, exchange: Exchange) -> ExchangeResult:
        self.exchanges.append(exchange)
        answer: ExchangeResult = await self._call("exchange", exchange)
        if self.gate is not None:
            with trio.CancelScope(shield=True):
                await self.gate.wait()
        if exchange.settled or exchange.pushed:
            self.store.tell_others(self)
        if self.late_trouble is not None:
            raise self.late_trouble
        return answer

    def take_killed(self) -> Sequence[KilledRow]:
        return self.store.rows.take_killed()

    async def renew(self, held: Sequence[ClaimKey], lease: float, workers: Sequence[WorkerRow] = ()) -> Renewal:
        renewal: Renewal = await self._call("renew", held, lease, workers)
        return renewal

    async def set_options(self, held: ClaimKey, options: bytes | None) -> bool:
        return bool(await self._call("set_options", held, options))

    async def report(self, held: ClaimKey, progress: bytes) -> bool:
        return bool(await self._call("report", held, progress))

    async def find(self, queue: str, task_id: str) -> StoredRow | None:
        stored: StoredRow | None = await self._call("find", queue, task_id)
        return stored

    async def find_each(self, queue: str, ids: Sequence[str]) -> Sequence[StoredRow | None]:
        found: Sequence[StoredRow | None] = await self._call("find_each", queue, ids)
        return found

    async def locate(self, queue: str, task_id: str) -> LocatedRow | None:
        located: LocatedRow | None = await self._call("locate", queue, task_id)
        return located

    async def search(self, queue: str, query: Query) -> Found[StoredRow]:
        found: Found[StoredRow] = await self._call("search", queue, query)
        return found

    async def change(self, queue: str, verb: Literal["cancel", "resume", "forget"], query: Query) -> Changed:
        changed: Changed = await self._telling("change", queue, verb, query)
        return changed

    async def change_each(
        self, queue: str, change: RowChange, ids: Sequence[str]
    ) -> Sequence[ClaimKey | bool | Refusal]:
        answers: Sequence[ClaimKey | bool | Refusal] = await self._telling("change_each", queue, change, ids)
        return answers

    async def cancel(self, queue: str, task_id: str, error: bytes, running: bool = False) -> bool | ClaimKey:
        cancelled: bool | ClaimKey = await self._telling("cancel", queue, task_id, error, running)
        return cancelled

    async def abort(self, queue: str, task_id: str) -> ClaimKey | None:
        held: ClaimKey | None = await self._telling("abort", queue, task_id)
        return held

    async def reschedule(self, queue: str, task_id: str, delay: float, run_at: int | None = None) -> bool:
        return bool(await self._telling("reschedule", queue, task_id, delay, run_at))

    async def update(self, queue: str, task_id: str, payload: bytes, options: bytes | None, was: bytes | None) -> bool:
        return bool(await self._call("update", queue, task_id, payload, options, was))

    async def resume(self, queue: str, task_id: str) -> bool:
        return bool(await self._telling("resume", queue, task_id))

    async def resume_abandoned(self, queue: str) -> Part:
        part: Part = await self._telling("resume_abandoned", queue)
        return part

    async def forget(self, queue: str, task_id: str | None) -> Part:
        part: Part = await self._call("forget", queue, task_id)
        return part

    async def metrics(self, queue: str) -> QueueMetrics:
        counts: QueueMetrics = await self._call("metrics", queue)
        return counts

    async def set_paused(self, queue: str, paused: bool) -> None:
        await self._telling("set_paused", queue, paused)

    async def set_limits(
        self, queue: str, key: str | None, limits: Limits | None, *, only_if_none: bool = False
    ) -> None:
        await self._telling("set_limits", queue, key, limits, only_if_none=only_if_none)

    async def get_limits(self, queue: str, key: str | None) -> Limits | None:
        limits: Limits | None = await self._call("get_limits", queue, key)
        return limits

    async def list_limits(self, queue: str) -> dict[str | None, Limits]:
        limits: dict[str | None, Limits] = await self._call("list_limits", queue)
        return limits

    async def schedules(self, after: int, name: str | None = None) -> Sequence[ScheduleRow]:
        rows: Sequence[ScheduleRow] = await self._call("schedules", after, name)
        return rows

    async def set_schedules(self, updates: Sequence[ScheduleUpdate]) -> Sequence[ScheduleOutcome]:
        outcomes: Sequence[ScheduleOutcome] = await self._telling("set_schedules", updates)
        return outcomes

    async def minutes(self, queue: str) -> Sequence[tuple[int, str, Sums]]:
        rows: Sequence[tuple[int, str, Sums]] = await self._call("minutes", queue)
        return rows

    async def audit(self, queue: str) -> Balance:
        balance: Balance = await self._call("audit", queue)
        return balance

    async def inspect(self) -> StoreInfo:
        info: StoreInfo = await self._call("inspect")
        return info

    async def read_rows(self, queue: str, after: int, limit: int) -> RowsRead:
        rows: RowsRead = await self._call("read_rows", queue, after, limit)
        return rows

    async def insert_rows(self, queue: str, rows: Sequence[StoredTask]) -> Sequence[bool | str]:
        answers: Sequence[bool | str] = await self._telling("insert_rows", queue, rows)
        return answers

    async def queues(self) -> Sequence[str]:
        names: Sequence[str] = await self._call("queues")
        return names

    async def register(self, queue: str, workers: Sequence[WorkerRow]) -> None:
        await self._call("register", queue, workers)

    async def workers(self, queue: str) -> Sequence[StoredWorker]:
        workers: Sequence[StoredWorker] = await self._call("workers", queue)
        return workers

    async def ask_workers(self, queue: str) -> None:
        await self._call("ask_workers", queue)
        for engine, on_asked in self.store.asked.items():
            if engine is not self:
                on_asked()

    async def listen(
        self, on_change: Callable[[], None], on_finish: Callable[[], None], on_asked: Callable[[], None]
    ) -> None:
        if not self.misses_wakeups:
            self.store.listeners[self] = on_change
            self.store.asked[self] = on_asked
        try:
            await trio.sleep_forever()
        finally:
            self.store.listeners.pop(self, None)
            self.store.asked.pop(self, None)

    def __repr__(self) -> str:
        return "in trouble"


@final
class Storage(DurableStorage[A]):
    """A DurableStorage on the test engine."""

    def __init__(
        self,
        engine: TroubledEngine | None = None,
        type: Any = Any,
        *,
        queue: str = "q",
        poll_interval: float = 1.0,
        **options: Unpack[StorageOptions],
    ) -> None:
        self.engine = engine or TroubledEngine()
        self._found(self.engine, QueueState(queue, type, options), poll_interval)

    async def rows(self, *states: State) -> list[str]:
        """Return the ids of the rows in these states, from the store itself."""
        found = await self.engine.store.rows.search(self.queue, Query(states or list(State), limit=10_000))
        return [row.id for row in found.rows]


def broken(message: str = "the line is dead") -> BackendError:
    return BackendError(message)


class FinalError(BackendError):
    """A BackendError that retrying cannot cure."""

    is_final = True
