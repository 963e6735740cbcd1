"""Every backend, opened with the same tasks in it, for tests that cancel its operations."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from trio_tasks import (
    Audit,
    CustomBackend,
    Failed,
    FileStorage,
    LeaseLostError,
    ListTasks,
    MemoryStorage,
    Metrics,
    Outcome,
    Pipe,
    Progress,
    Released,
    Retried,
    SqliteStorage,
    Status,
    Succeeded,
    Task,
    TaskBuilder,
    abc,
)
from trio_tasks._backends.channel import as_backend
from trio_tasks._clock import wall_now
from trio_tasks.testing import Pause, ScriptedBackend

LEASE = 60.0
GIVE_BACK_SECONDS = 2.0
"""Seconds after which a storage has given back whatever it had at hand for nobody."""
LATER = 100.0


class BackendUnderTest:
    """A backend under test, with its properties.

    Args:
      backend: what is tried.
      storage: where the tasks are to be looked for, if the backend has them elsewhere.
      put: puts a task in, where the backend is no sink itself.
      source: where tasks are before the backend keeps them, for one that gives tasks and takes none back.
    """

    def __init__(
        self,
        backend: Any,
        *,
        storage: Any = None,
        put: Callable[[Task[str]], Any] | None = None,
        source: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.backend = backend
        self.storage = backend if storage is None else storage
        self.put: Callable[[Task[str]], Any] = backend.push_task if put is None else put
        self.source = source
        self.leased: dict[str, Task[str]] = {}
        self.held: Task[str]

    async def push(self, args: str, delay: float = 0.0) -> None:
        """Push a task."""
        task = TaskBuilder(args).id(args).run_after(delay).build()
        await self.put(task)

    async def receive(self) -> Task[str]:
        """Receive a task."""
        task: Task[str] = await self.backend.receive()
        self.leased[task.parts.id] = task
        return task

    async def arrange(self) -> None:
        """Push and run tasks until there is a dead letter, a running task, a waiting one and a delayed one."""
        await self.push("dead")
        await self.backend.settle(await self.receive(), Failed(ValueError("no")))
        await self.push("held")
        self.held = await self.receive()
        if self.source is not None:
            await self._prefetch()
        else:
            await self.push("waiting")
            await self.push("later", LATER)
        await trio.sleep(GIVE_BACK_SECONDS)

    async def _prefetch(self) -> None:
        """Make the backend prefetch the waiting tasks."""
        await self.push("later", LATER)
        with trio.move_on_after(GIVE_BACK_SECONDS):
            await self.backend.receive()
        await self.push("waiting")
        await self.backend.settle(await self.backend.receive(), Released())

    async def snapshot(self) -> Any:
        """Return everything that the backend shows of its tasks."""
        if not isinstance(self.storage, ListTasks):
            return self.storage.snapshot()
        tasks = await self.storage.list_tasks(limit=1000)
        seen: dict[str, Any] = {} if self.source is None else self.source()
        for task in tasks:
            parts = task.parts
            progress = await self.storage.progress_of(parts.id) if isinstance(self.storage, Progress) else None
            status = Status.Running if parts.status is Status.Queued else parts.status
            due = parts.run_at or wall_now()
            waits = status is Status.Pending and (due - wall_now()).total_seconds() > LATER / 2
            past = [(each.attempt, each.became) for each in parts.context.history]
            seen[str(task.args)] = (status.name, int(parts.attempt), dict(parts.metadata), waits, progress, past)
        assert len(seen) >= len(tasks), f"something is there twice: {tasks}"
        return seen

    async def drain(self) -> list[str]:
        """Release the running tasks, then run all tasks; return the args in the order of settling."""
        with suppress(LeaseLostError):
            await self.backend.settle(self.held, Released())
        for held in self.leased.values():
            with suppress(LeaseLostError):
                await self.backend.settle(held, Released())
        await self.push("after all")
        done: list[str] = []
        while True:
            task: Any = None
            with trio.move_on_after(1.5 * LATER), suppress(trio.EndOfChannel):
                task = await self.backend.receive()
            if task is None:
                return done
            await self.backend.settle(task, Succeeded(None))
            done.append(str(task.args))

    async def audit(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Check that each task is done once, and that nothing is running or unaccounted for."""
        if isinstance(self.storage, abc.Pause):
            await self.storage.resume()
        done = await self.drain()
        assert not {args: n for args, n in Counter(done).items() if n > 1}, f"done twice: {done}"
        assert "after all" in done, "it is not of use any more"
        lost = _unfinished(after) - {*done}
        if self.source is None:  # otherwise what has succeeded is not remembered
            lost |= _unfinished(before) - {*after}
        assert not lost, f"lost: {lost}"
        if isinstance(self.storage, Audit):
            balance = await self.storage.audit()
            assert balance, str(balance)
        if isinstance(self.storage, Metrics):
            metrics = await self.storage.metrics()
            assert (metrics["waiting"], metrics["delayed"], metrics["running"]) == (0, 0, 0), metrics
            assert metrics["succeeded"] + metrics["failed"] + metrics["killed"] >= metrics["pushed"], metrics


def _unfinished(rows: dict[str, Any]) -> set[str]:
    return {args for args, row in rows.items() if row[0] in ("Pending", "Running")}


class DictStore:
    """A store in a dict, for a CustomBackend."""

    def __init__(self, *, keeps_time: bool) -> None:
        self._keeps_time = keeps_time
        self._rows: dict[str, tuple[str, Task[str]]] = {}
        self._due: dict[str, float] = {}
        self._changed = trio.Event()

    def _write(self, status: str, task: Task[str]) -> None:
        self._rows.pop(task.parts.id, None)
        self._rows[task.parts.id] = status, task
        self._changed.set()
        self._changed = trio.Event()

    async def push(self, task: Task[str]) -> None:
        await trio.lowlevel.checkpoint()
        self._due[task.parts.id] = trio.current_time() + task.parts.delay * self._keeps_time
        self._write("Pending", task)

    async def receive(self) -> Task[str]:
        await trio.lowlevel.checkpoint()
        while True:
            for status, task in self._rows.values():
                if status == "Pending" and self._due[task.parts.id] <= trio.current_time():
                    self._write("Running", task)
                    return task
            with trio.move_on_after(LATER):
                await self._changed.wait()

    async def settle(self, task: Task[str], outcome: Outcome) -> None:
        await trio.lowlevel.checkpoint()
        self._write("Pending" if isinstance(outcome, (Released, Retried)) else type(outcome).__name__, task)

    def snapshot(self) -> dict[str, tuple[str, int]]:
        return {task.args: (status, 0) for status, task in self._rows.values()}


class Script:
    """The outcomes that a ScriptedBackend was told."""

    def __init__(self, backend: ScriptedBackend[Any]) -> None:
        self._backend = backend

    def snapshot(self) -> dict[str, tuple[Any, ...]]:
        return {task.args: (type(outcome).__name__, 0) for task, outcome in self._backend.settled}


@asynccontextmanager
async def memory() -> AsyncGenerator[BackendUnderTest, None]:
    yield BackendUnderTest(MemoryStorage[str]())


@asynccontextmanager
async def encoded() -> AsyncGenerator[BackendUnderTest, None]:
    yield BackendUnderTest(MemoryStorage[str](type=str).share(str, queue="another"))


@asynccontextmanager
async def file() -> AsyncGenerator[BackendUnderTest, None]:
    async with FileStorage.temporary(str, lease=LEASE) as storage:
        yield BackendUnderTest(storage)


@asynccontextmanager
async def sqlite() -> AsyncGenerator[BackendUnderTest, None]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "tasks.db")
        async with SqliteStorage(path, str, lease=LEASE, synchronous="OFF", poll_interval=50) as storage:
            yield BackendUnderTest(storage)


@asynccontextmanager
async def shared() -> AsyncGenerator[BackendUnderTest, None]:
    async with FileStorage.temporary(str, lease=LEASE) as storage:
        yield BackendUnderTest(storage.share(str, queue="another"))


@asynccontextmanager
async def pipe() -> AsyncGenerator[BackendUnderTest, None]:
    send, receive = trio.open_memory_channel[Any](10)
    storage = MemoryStorage[Any]()
    tested = BackendUnderTest(Pipe(receive, storage), storage=storage, put=storage.push_task)
    with send:
        yield tested


@asynccontextmanager
async def custom() -> AsyncGenerator[BackendUnderTest, None]:
    store = DictStore(keeps_time=True)
    backend = CustomBackend[str](receive=store.receive, push=store.push, settle=store.settle)
    yield BackendUnderTest(backend, storage=store)


@asynccontextmanager
async def keeping() -> AsyncGenerator[BackendUnderTest, None]:
    store = DictStore(keeps_time=False)
    backend = CustomBackend[str](receive=store.receive, push=store.push)

    def source() -> dict[str, Any]:
        return {args: row for args, row in store.snapshot().items() if row[0] == "Pending"}

    yield BackendUnderTest(backend, source=source)


@asynccontextmanager
async def channel() -> AsyncGenerator[BackendUnderTest, None]:
    send, receive = trio.open_memory_channel[Any](10)
    backend: Any = as_backend(receive)
    with send, receive:
        yield BackendUnderTest(backend, put=send.send, source=dict)


@asynccontextmanager
async def scripted() -> AsyncGenerator[BackendUnderTest, None]:
    backend = ScriptedBackend[Any](["dead", "held", "waiting", Pause(LATER), "later", "after all"])

    async def put(task: Task[str]) -> None:
        await trio.lowlevel.checkpoint()

    yield BackendUnderTest(backend, storage=Script(backend), put=put)


BACKENDS: dict[str, Callable[[], AbstractAsyncContextManager[BackendUnderTest]]] = {
    each.__name__: each for each in (memory, encoded, file, sqlite, shared, pipe, custom, keeping, channel, scripted)
}
