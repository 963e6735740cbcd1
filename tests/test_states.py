"""The state table: each storage does with a task what the table says, for each event in each state."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    DuplicateTaskError,
    DurableStorage,
    Failed,
    FileStorage,
    Killed,
    LeaseLostError,
    MemoryStorage,
    Parts,
    Released,
    Retried,
    SqliteStorage,
    Succeeded,
    Suspended,
    Task,
)
from trio_tasks._backends.durable.engine import RowChange
from trio_tasks._contracts.bulk import Refusal
from trio_tasks._contracts.states import (
    COUNTERS,
    DELAYABLE,
    RULES,
    TABLE,
    AttemptChange,
    Change,
    KeyChange,
    Retention,
    TaskEvent,
    TaskState,
    change_of,
    frees_key,
)

DOCS = Path(__file__).parents[1] / "docs"

SOON = 10.0
EXPIRES_IN = 50.0
LEASE = 500.0
KEEP_RESULTS, KEEP_DEAD = 1_000.0, 2_000.0
FAR = 1e7
"""Seconds: each of these lasts longer than those before it together, so that one thing at a time falls due."""
RESULTS_IN_MEMORY = 3
DELAYS = 0.0, 60.0

OUTCOMES: dict[TaskEvent, Callable[[float], Any]] = {
    TaskEvent.SUCCEEDED: lambda _: Succeeded(None),
    TaskEvent.RETRIED: lambda delay: Retried(ValueError("no"), delay),
    TaskEvent.FAILED: lambda _: Failed(ValueError("no")),
    TaskEvent.KILLED: lambda _: Killed(ValueError("no")),
    TaskEvent.RELEASED: lambda _: Released(),
    TaskEvent.SUSPENDED: lambda delay: Suspended(trio.current_time() + delay),
}
WAITING = [TaskState.WAITING, TaskState.DELAYED]
RUNNING = [TaskState.RUNNING, TaskState.ABORTING, TaskState.REPLACED, TaskState.WITHDRAWN]
LIVE = [*WAITING, TaskState.RUNNING, TaskState.ABORTING, TaskState.WITHDRAWN]
FINAL = [TaskState.DONE, TaskState.FAILED, TaskState.KILLED]
HELD_IN: dict[Any, list[TaskState]] = {"start": WAITING, "end": LIVE, "forgotten": LIVE + FINAL, None: LIVE + FINAL}
"""The states in which a task holds its unique key, by the end of the time for which it does; None: a certain time."""
BY_TIME = {TaskEvent.DUE: SOON, TaskEvent.EXPIRE: EXPIRES_IN, TaskEvent.FORGET: KEEP_DEAD, TaskEvent.LEASE_LOST: LEASE}


class Holder:
    """A slot that runs a task, as its storage sees it; it goes on when it is told to end."""

    worker = "w"

    def revoke(self, outcome: Killed | Released) -> bool:
        return True

    def current_line(self) -> str:
        return "nowhere"


class Ended(Holder):
    """A slot whose attempt is over, and only being settled."""

    def revoke(self, outcome: Killed | Released) -> bool:
        return False


class Subject:
    """A task, and all that a test does to it on a storage."""

    numbers = count()

    def __init__(self, storage: Any, clock: MockClock, key_options: dict[str, Any] | None = None) -> None:
        self.storage = storage
        self.key_options = key_options or {}
        self.is_stored = isinstance(storage, DurableStorage)
        self.clock = clock
        self.id = f"task-{next(self.numbers)}"
        self.key = f"key of {self.id}"
        self.task: Task[int] = Task(1, Parts(self.id))
        self.aside = dict.fromkeys(COUNTERS, 0)  # what other tasks have added to the counters

    # Into a state

    async def bring_into(self, state: TaskState, event: TaskEvent) -> None:
        """Bring a new task into the state, in which only this event can happen by itself."""
        if state is TaskState.UNKNOWN:
            return
        delay = 0.0 if state is not TaskState.DELAYED else SOON if event is TaskEvent.DUE else FAR
        expiry = {"expires_in": EXPIRES_IN} if event is TaskEvent.EXPIRE else {}
        first = 0.0 if expiry else delay  # a push of what would expire before it is ready is refused
        await self.storage.push(1, id=self.id, unique=self.key, delay=first, **expiry, **self.key_options)
        if delay > first:
            assert await self.storage.reschedule(self.id, delay)
        if state in WAITING:
            return
        await self.claim()
        if state is TaskState.ABORTING:
            assert await self.storage.abort(self.id)
        elif state is TaskState.WITHDRAWN:
            assert await self.withdraw()
        elif state is TaskState.REPLACED:
            await self.replace()
        elif state is not TaskState.RUNNING:
            await self.storage.settle(self.task, OUTCOMES[TaskEvent[_OUTCOME_OF[state]]](0.0))

    async def claim(self) -> None:
        with trio.fail_after(1):  # of virtual time, so that nothing else falls due
            self.task = await self.storage.receive()
        self.task.parts.holder = Holder()

    async def replace(self) -> None:
        """Push another task with its key, which is then cancelled."""
        await self._push_aside(unique=self.key, delay=FAR, on_conflict="replace")

    async def withdraw(self) -> bool:
        """Do what a call that is cancelled does, without waiting for the end of an attempt."""
        if self.is_stored:
            loop = self.storage._loop
            [answer] = await loop.ask(loop.engine.change_each, self.storage.queue, RowChange("withdraw"), [self.id])
            return not isinstance(answer, Refusal)
        ledger = self.storage._queue.ledger
        counted, is_aborting = ledger.counts["killed"], ledger._aborted.get(self.id) is not None
        runs = self.storage._queue.withdraw(self.id)
        return (runs and not is_aborting) or ledger.counts["killed"] > counted

    async def _push_aside(self, **options: Any) -> None:
        """Push another task, and remove it if it came in."""
        got = await self.storage.push(2, **options)
        if got != self.id:
            assert await self.storage.cancel(got) and await self.storage.discard(got)
            self.aside["pushed"] += 1
            self.aside["killed"] += 1

    async def succeed_with_others(self, number: int) -> None:
        for _ in range(number):
            pushed = await self.storage.push(3, priority=10)
            other = await self.storage.receive()
            assert other.parts.id == pushed
            await self.storage.settle(other, Succeeded(None))
            self.aside["pushed"] += 1
            self.aside["succeeded"] += 1

    # An event

    async def undergo(self, event: TaskEvent, delay: float) -> bool:
        """Make this happen; returns False if the storage says that it did not."""
        if event in OUTCOMES:
            return await _is_accepted(self.storage.settle, self.task, OUTCOMES[event](delay))
        if event in BY_TIME:
            return await self._let_time_pass(event)
        if event is TaskEvent.PUSH:
            options = {"id": self.id, "unique": self.key, "delay": delay, **self.key_options}
            return await _is_accepted(self.storage.push, 1, **options)
        if event is TaskEvent.CLAIM:
            return await self._try_to_claim()
        if event is TaskEvent.REPLACE:
            await self.replace()
            return True
        if event is TaskEvent.UPDATE_BY_PUSH:
            await self._push_aside(unique=self.key, delay=delay, on_conflict="update")
            return True
        if event is TaskEvent.RESCHEDULE:
            return bool(await self.storage.reschedule(self.id, delay))
        if event is TaskEvent.UPDATE:
            return bool(await self.storage.update(Task(4, Parts(self.id))))
        if event is TaskEvent.VACUUM:
            return bool(await self.storage.vacuum())
        if event is TaskEvent.WITHDRAW:
            return await self.withdraw()
        if event is TaskEvent.CANCEL_RUNNING:
            return bool(await self.storage.cancel(self.id, running=True))
        return bool(await getattr(self.storage, event.value)(self.id))

    async def _let_time_pass(self, event: TaskEvent) -> bool:
        self.clock.jump(BY_TIME[event])
        if event is TaskEvent.LEASE_LOST:
            engine, queue = self.storage._loop.engine, self.storage.queue
            return bool((await engine.resume_abandoned(queue)).number)
        if event is TaskEvent.DUE:
            await self.succeed_with_others(1)  # its claim enters what is due
        if event is TaskEvent.FORGET and not self.is_stored:
            await self.succeed_with_others(RESULTS_IN_MEMORY)
        return True

    async def _try_to_claim(self) -> bool:
        """Receive the task, or else another one, which is behind it."""
        other = await self.storage.push(5, priority=-10)
        got = await self.storage.receive()
        is_claimed: bool = got.parts.id == self.id
        if is_claimed:
            self.task = got
            got = await self.storage.receive()
        assert got.parts.id == other
        await self.storage.settle(got, Succeeded(None))
        self.aside["pushed"] += 1
        self.aside["succeeded"] += 1
        return is_claimed

    # Looking

    async def state(self) -> TaskState:
        """Its state, as far as it shows."""
        found = await self.storage.fetch_by_id(self.id)
        if found is None:
            return TaskState.UNKNOWN
        state = next(each for each in TaskState if each.status is found.parts.status)
        if state is TaskState.WAITING and not self.is_stored:
            return TaskState.DELAYED if self.id in self.storage._queue.ledger._not_before else state
        if state is TaskState.WAITING:
            stored = await self.storage._loop.engine.find(self.storage.queue, self.id)
            return TaskState[stored.state.name]
        return state

    async def attempt(self) -> int:
        found = await self.storage.fetch_by_id(self.id)
        return 0 if found is None else int(found.parts.attempt)

    async def counters(self) -> dict[str, int]:
        """Its own part of the counters."""
        counted = await self.storage.metrics()
        return {name: counted[name] - self.aside[name] for name in COUNTERS}

    async def has_its_key(self) -> bool:
        """Push another task with its key, to see which of them has it."""
        got = await self.storage.push(6, unique=self.key, delay=FAR)
        if got != self.id:
            assert await self.storage.cancel(got) and await self.storage.discard(got)
        return bool(got == self.id)

    async def end(self) -> None:
        """Finish it, so that it is in nobody's way."""
        state = await self.state()
        if state.waits:
            await self.storage.cancel(self.id)
        elif state.runs:
            await self.storage.settle(self.task, Failed(ValueError("over")))
        await self.storage.vacuum()


_OUTCOME_OF = {TaskState.DONE: "SUCCEEDED", TaskState.FAILED: "FAILED", TaskState.KILLED: "KILLED"}


async def _is_accepted(call: Callable[..., Awaitable[object]], *args: Any, **options: Any) -> bool:
    try:
        await call(*args, **options)
    except (DuplicateTaskError, LeaseLostError):
        return False
    return True


@asynccontextmanager
async def memory(path: Path) -> AsyncGenerator[Any, None]:
    yield MemoryStorage[int](keep_results=RESULTS_IN_MEMORY)


@asynccontextmanager
async def stored(kind: Any, path: Path, synchronous: str) -> AsyncGenerator[Any, None]:
    options: Any = {"lease": LEASE, "keep_results": KEEP_RESULTS, "keep_dead": KEEP_DEAD}
    async with kind(path, int, synchronous=synchronous, **options) as storage:
        yield storage


STORAGES: dict[str, Callable[[Path], Any]] = {
    "memory": memory,
    "sqlite": lambda path: stored(SqliteStorage, path, "OFF"),
    "file": lambda path: stored(FileStorage, path, "NORMAL"),
}


def happens(kind: str, state: TaskState, event: TaskEvent) -> bool:
    """In memory there are no leases, and dead letters are kept until they are vacuumed."""
    if kind != "memory":
        return True
    return event is not TaskEvent.LEASE_LOST and not (
        event is TaskEvent.FORGET and state in (TaskState.FAILED, TaskState.KILLED)
    )


@pytest.mark.parametrize("state", TaskState, ids=lambda state: state.value)
@pytest.mark.parametrize("kind", STORAGES)
async def test_each_event_does_what_the_table_says(
    kind: str, state: TaskState, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        for event in TaskEvent:
            for delay in DELAYS if event in DELAYABLE else DELAYS[:1]:
                if not happens(kind, state, event):
                    continue
                subject = Subject(storage, mock_clock)
                await subject.bring_into(state, event)
                await check(subject, kind, state, event, delay)
                await subject.end()


async def check(subject: Subject, kind: str, state: TaskState, event: TaskEvent, delay: float) -> None:
    where = f"{event.value} of a task that is {state.value}, delay {delay:g}"
    change = change_of(state, event, delay)
    attempt, counters = await subject.attempt(), await subject.counters()
    had_key = state in HELD_IN["end"]
    accepted = await subject.undergo(event, delay)
    if event is TaskEvent.LEASE_LOST or event not in (*BY_TIME, TaskEvent.REPLACE, TaskEvent.UPDATE_BY_PUSH):
        assert accepted is (change is not None), where
    expected = change or Change(state)
    assert (await subject.state()).status is expected.state.status, where
    if expected.state not in RUNNING:
        assert await subject.state() is expected.state, where
    counted = {name: number - counters[name] for name, number in (await subject.counters()).items()}
    assert counted == {**dict.fromkeys(COUNTERS, 0), **({expected.counter: 1} if expected.counter else {})}, where
    metrics = await subject.storage.metrics()
    there = expected.state is TaskState.WAITING, expected.state is TaskState.DELAYED, expected.state.runs
    assert (metrics["waiting"], metrics["delayed"], metrics["running"]) == there, where
    balance = await subject.storage.audit()
    assert balance, f"{where}: {balance}"
    if expected.state is not TaskState.UNKNOWN:
        assert await subject.attempt() == attempts_after(attempt, expected.attempt), where
    assert await subject.has_its_key() is has_key_after(had_key, expected.key, "end"), where
    if change is not None and change.kept is not None:
        await check_kept(subject, kind, change.kept, where)


def has_key_after(had_key: bool, change: KeyChange, until: Any) -> bool:
    return (had_key or change is KeyChange.TAKEN) and not frees_key(change, until)


@pytest.mark.parametrize("state", TaskState, ids=lambda state: state.value)
@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("until", [each for each in HELD_IN if each != "end"])
async def test_each_event_does_with_the_unique_key_what_the_table_says(
    until: str | None, kind: str, state: TaskState, tmp_path: Path, mock_clock: MockClock
) -> None:
    if until == "start" and state is TaskState.REPLACED:
        return  # it does not hold its key while it runs, and so is never replaced then
    options: dict[str, Any] = {"unique_for": 10 * FAR} if until is None else {"unique_until": until}
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        for event in TaskEvent:
            if not happens(kind, state, event):
                continue
            subject = Subject(storage, mock_clock, options)
            await subject.bring_into(state, event)
            had_key, where = state in HELD_IN[until], f"{event.value} of a task that is {state.value}"
            change = change_of(state, event) or Change(state)
            if event is TaskEvent.REPLACE and not had_key:
                change = Change(state)
            await subject.undergo(event, 0.0)
            assert (await subject.state()).status is change.state.status, where
            assert await subject.has_its_key() is has_key_after(had_key, change.key, until), where
            assert await storage.audit(), where
            await subject.end()


def attempts_after(attempt: int, change: AttemptChange) -> int:
    return 0 if change is AttemptChange.RESET else attempt + {"+1": 1, "-1": -1, "=": 0}[change.value]


async def check_kept(subject: Subject, kind: str, kept: Retention, where: str) -> None:
    """It is remembered for so long, and no longer."""
    if kind == "memory":
        await subject.succeed_with_others(RESULTS_IN_MEMORY - 1)
        assert await subject.attempt() or (await subject.state()).is_final, where
        await subject.succeed_with_others(1)
        is_over = kept is Retention.AS_RESULT
    else:
        seconds = {Retention.AS_RESULT: KEEP_RESULTS, Retention.AS_DEAD: KEEP_DEAD}.get(kept, math.inf)
        subject.clock.jump(min(seconds, FAR) - 1)
        assert (await subject.state()).is_final, where
        subject.clock.jump(2)
        is_over = seconds < math.inf
    assert ((await subject.state()) is TaskState.UNKNOWN) is is_over, where


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_dead_letter_whose_key_is_taken_is_not_resumed(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        subject = Subject(storage, mock_clock)
        await subject.bring_into(TaskState.FAILED, TaskEvent.RESUME)
        await storage.push(2, unique=subject.key)
        with pytest.raises(DuplicateTaskError):
            await storage.resume_by_id(subject.id)
        assert await subject.state() is TaskState.FAILED
        assert (await storage.metrics())["waiting"] == 1


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_task_that_was_received_by_hand_is_aborted_too(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    """No worker makes the attempt, so it cannot be cancelled; the task is killed when it would wait again."""
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        subject = Subject(storage, mock_clock)
        await subject.bring_into(TaskState.RUNNING, TaskEvent.ABORT)
        subject.task.parts.holder = None
        assert await storage.abort(subject.id)
        await storage.settle(subject.task, Released())
        assert await subject.state() is TaskState.KILLED
        assert await subject.attempt() == 0


@pytest.mark.parametrize("kind", STORAGES)
async def test_an_attempt_that_is_over_is_aborted_only_where_its_settlement_takes_time(
    kind: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    """In memory the outcome that the worker has told of is what becomes of it."""
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        subject = Subject(storage, mock_clock)
        await subject.bring_into(TaskState.RUNNING, TaskEvent.ABORT)
        subject.task.parts.holder = Ended()
        assert await storage.abort(subject.id) is subject.is_stored
        await storage.settle(subject.task, Released())
        assert await subject.state() is (TaskState.KILLED if subject.is_stored else TaskState.WAITING)


def test_each_state_can_be_reached_and_left() -> None:
    assert {change.state for change in TABLE.values()} == set(TaskState)
    assert {state for state, _ in TABLE} == set(TaskState)
    assert {event for _, event in TABLE} == set(TaskEvent)
    assert len(TABLE) == sum(len(states) for states, _, _ in RULES)  # no two rules for one state and event


def test_what_is_kept_is_finished_and_nothing_else() -> None:
    for (state, event), change in TABLE.items():
        assert change.state.is_final is (change.kept is not None), (state, event)
        assert change.state.is_final <= frees_key(change.key, "end"), (state, event)


def test_the_table_is_on_a_page() -> None:
    page = (DOCS / "reference" / "tasks.md").read_text("utf-8")
    assert f"<!-- table: states -->\n{states_table().table()}\n<!-- end -->" in page
    assert states_table().EVENTS.keys() == set(TaskEvent)


def states_table() -> Any:
    """The module that makes the table on the page."""
    spec = importlib.util.spec_from_file_location("states", DOCS / "tables" / "states.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
