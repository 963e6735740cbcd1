"""Tests that cancel worker runs at every moment: each attempt is made once, and a successor finishes the rest."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    AbortError,
    Backend,
    Backoff,
    DuplicateTaskError,
    FileStorage,
    Interval,
    MemoryStorage,
    Monitor,
    OnSignal,
    Outcome,
    Queues,
    RetryAfterError,
    SqliteStorage,
    SqliteTransaction,
    Succeeded,
    Task,
    Worker,
    layers,
    poll,
    race,
)
from trio_tasks.testing import Cut, TestWorker, explore_cancellations, run_once, run_until_idle

from tests.cuts._public_methods import SIMULATED, kinds_of_backends, public_classes, public_functions, verbs_of

pytestmark = pytest.mark.searching

Made = Callable[[Task[str]], Awaitable[str]]
Runner = Callable[[Any, Made, Cut], Awaitable[None]]

ENDINGS = {("good", 1): 1, ("again", 1): 1, ("again", 2): 1, ("bad", 1): 1}
"""Which attempts come to their end, and how often."""


# Storages


@asynccontextmanager
async def memory() -> AsyncGenerator[Any, None]:
    yield MemoryStorage[str]()


@asynccontextmanager
async def file() -> AsyncGenerator[Any, None]:
    async with FileStorage.temporary(str) as storage:
        yield storage


@asynccontextmanager
async def sqlite() -> AsyncGenerator[Any, None]:
    with tempfile.TemporaryDirectory() as directory:
        async with SqliteStorage(Path(directory, "tasks.db"), str, synchronous="OFF", poll_interval=50) as storage:
            yield storage


class Slow(Backend[str]):
    """A storage whose operations take time and can be cancelled."""

    def __init__(self) -> None:
        self.storage = MemoryStorage[str]()
        self.push_bulk = self.storage.push_bulk
        self.metrics = self.storage.metrics
        self.audit = self.storage.audit
        self.close = self.storage.close

    async def receive(self) -> Task[str]:
        await trio.sleep(0.125)
        return await self.storage.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await trio.sleep(0.125)
        self.storage.settle_nowait(task, outcome)


@asynccontextmanager
async def slow() -> AsyncGenerator[Any, None]:
    yield Slow()


STORAGES: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {
    each.__name__: each for each in (memory, slow, file, sqlite)
}

# What runs a worker


def worker_of(storage: Any, handler: Made, **options: Any) -> Worker[str, str]:
    return Worker("cut", storage, handler, concurrency=2, **options)


async def run(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        await worker_of(storage, handler).run()


async def run_until(storage: Any, handler: Made, cut: Cut) -> None:
    async def three_seconds() -> None:
        await trio.sleep(3)

    with cut:
        await worker_of(storage, handler).run_until(three_seconds)


async def stream(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        async with worker_of(storage, handler).stream() as events:
            async for _ in events:
                await trio.lowlevel.checkpoint()


async def monitor_run(storage: Any, handler: Made, cut: Cut) -> None:
    monitor = Monitor(shutdown_timeout=0.5).register(worker_of(storage, handler))
    with cut:
        async with trio.open_nursery() as nursery:
            await nursery.start(monitor.run)
            await trio.sleep(1.75)
            monitor.shutdown()
    assert not monitor.is_running


async def monitor_group(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        async with Monitor(shutdown_timeout=0.5) as monitor:
            monitor.register(worker_of(storage, handler))
            await trio.sleep(1.75)
            monitor.shutdown()


async def run_with_signal(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        await Monitor().register(worker_of(storage, handler)).run_with_signal()


async def execute_next(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        worker = TestWorker(storage, handler)
        for _ in range(3):
            await worker.execute_next()


async def until_idle(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        await run_until_idle(worker_of(storage, handler))


async def worker_until_idle(storage: Any, handler: Made, cut: Cut) -> None:
    with cut:
        await worker_of(storage, handler).run_until_idle()


async def wait_stopped(storage: Any, handler: Made, cut: Cut) -> None:
    """One who waits for the end of a worker is cut, which is nothing to the worker."""
    async with trio.open_nursery() as nursery:
        context = await nursery.start(worker_of(storage, handler).run)
        with cut:
            await context.wait_stopped()
            assert context.is_stopped


async def wait_shutting_down(storage: Any, handler: Made, cut: Cut) -> None:
    """One who waits for a worker to be told to stop is cut, which is nothing to the worker."""
    async with trio.open_nursery() as nursery:
        context = await nursery.start(worker_of(storage, handler).run)

        async def stop() -> None:
            await trio.sleep(6.5)
            context.stop()

        nursery.start_soon(stop)
        with cut:
            await context.wait_shutting_down()
            assert context.is_shutting_down


RUNNERS: dict[str, Runner] = {
    each.__name__: each
    for each in (
        run,
        run_until,
        stream,
        monitor_run,
        monitor_group,
        run_with_signal,
        execute_next,
        until_idle,
        worker_until_idle,
        wait_stopped,
        wait_shutting_down,
    )
}
MANY = {"memory": list(RUNNERS), "slow": list(RUNNERS), "file": list(RUNNERS), "sqlite": ["run", "monitor_run"]}


def explored(kind: str, runner: Runner) -> Callable[[Cut], Awaitable[None]]:
    async def scenario(cut: Cut) -> None:
        ended: Counter[tuple[str, int]] = Counter()

        async def handler(task: Task[str]) -> str:
            await trio.sleep(1)
            ended[task.args, int(task.parts.attempt)] += 1
            if task.args == "bad":
                raise AbortError("no")
            if task.args == "again" and task.parts.attempt == 1:
                raise RetryAfterError("again", 5)
            return task.args

        async with STORAGES[kind]() as storage:
            await storage.push_bulk(["good", "again", "bad"])
            storage.close()
            await runner(storage, handler, cut)
            metrics = await storage.metrics()
            assert metrics["running"] == 0, "a task is running without a worker"
            await Worker("successor", storage, handler).run()
            metrics = await storage.metrics()
            assert ended == ENDINGS, ended
            assert (metrics["waiting"], metrics["delayed"], metrics["running"]) == (0, 0, 0), metrics
            balance = await storage.audit()
            assert balance, str(balance)
            assert (metrics["pushed"], metrics["succeeded"], metrics["killed"]) == (3, 2, 1), metrics

    return scenario


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in MANY.items() for name in names])
def test_what_runs_a_worker_is_cut_at_every_moment(kind: str, name: str) -> None:
    assert explore_cancellations(explored(kind, RUNNERS[name])).cuts > 10


@pytest.mark.parametrize("kind", STORAGES)
def test_after_a_cut_each_slot_begins_one_more_attempt_at_most(kind: str) -> None:
    """Its handler has no checkpoint: only the worker itself can notice the cancellation."""

    async def scenario(cut: Cut) -> None:
        late = 0

        async def handler(task: Task[str]) -> str:  # noqa: ASYNC910  that is the point of it
            nonlocal late
            late += cut.has_come
            return task.args

        async with STORAGES[kind]() as storage:
            await storage.push_bulk(map(str, range(12)))
            storage.close()
            with cut:
                await worker_of(storage, handler).run()
            assert late <= 2, f"{late} attempts began in 2 slots after the cut"
            assert (await storage.metrics())["running"] == 0, "a task is running without a worker"

    assert explore_cancellations(scenario).cuts > 5


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_attempts_that_wait_for_others_are_cut_at_every_moment(kind: str) -> None:
    """They lend their slots: whatever is cut, no slot is lost, and none is one too many."""

    async def scenario(cut: Cut) -> None:
        async with STORAGES[kind]() as storage:

            async def handler(task: Task[str]) -> str:
                await trio.sleep(1)
                if task.args.startswith("parent"):
                    with suppress(DuplicateTaskError):
                        await storage.push(task.args[-1], id=f"child of {task.args}")
                    await storage.wait_for(f"child of {task.args}")
                return task.args

            await storage.push_bulk(["parent 1", "parent 2", "parent 3"])
            worker = worker_of(storage, handler)
            context = worker.prepare()
            with cut, trio.move_on_after(4.5):
                await worker.run(context)
            assert context.lent == 0
            assert (await storage.metrics())["running"] == 0, "a task is running without a worker"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker_of(storage, handler).run)
                with trio.fail_after(100):
                    while (metrics := await storage.metrics())["waiting"] or metrics["delayed"] or metrics["running"]:  # noqa: ASYNC110  who ends last
                        await trio.sleep(1)
                nursery.cancel_scope.cancel()
            metrics = await storage.metrics()
            assert (metrics["pushed"], metrics["succeeded"]) == (6, 6), metrics

    assert explore_cancellations(scenario).cuts > 20


# Writes of one's own


def test_a_transaction_is_made_exactly_once() -> None:
    async def scenario(cut: Cut) -> None:
        async def handler(args: str, transaction: SqliteTransaction) -> None:
            transaction.execute("INSERT INTO written VALUES (?)", (args,))
            await trio.sleep(1)

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "tasks.db")
            users = sqlite3.connect(path)
            users.execute("CREATE TABLE written (args)")
            users.commit()
            async with SqliteStorage(path, str, synchronous="OFF", join_existing=True, poll_interval=50) as storage:
                await storage.push_bulk(["one", "two"])
                storage.close()
                with cut:
                    await Worker("cut", storage, handler, concurrency=1).run()
                done = (await storage.metrics())["succeeded"]
                assert len(users.execute("SELECT args FROM written").fetchall()) == done
                await Worker("successor", storage, handler).run()
            written = sorted(args for (args,) in users.execute("SELECT args FROM written"))
            users.close()
            assert written == ["one", "two"]

    assert explore_cancellations(scenario).cuts > 30


# Layers


async def acknowledge(*_: object) -> None:
    """At once: an attempt that is cut in a layer is released, though its handler has returned."""


def listen(*_: object) -> None:
    pass


LAYERS: dict[str, Callable[[], Any]] = {
    "Acknowledge": lambda: layers.Acknowledge(acknowledge),
    "CircuitBreaker": lambda: layers.CircuitBreaker(failure_threshold=1, recovery_timeout=2.0),
    "ConcurrencyLimit": lambda: layers.ConcurrencyLimit(1),
    "ConcurrencyLimit by key": lambda: layers.ConcurrencyLimit(1, key=lambda task: "one"),
    "EventListener": lambda: layers.EventListener(listen),
    "Filter": lambda: layers.Filter(lambda task: True),
    "InThread": lambda: layers.InThread(nullcontext),
    "LoadShed": lambda: layers.LoadShed(layers.ConcurrencyLimit(2)),
    "Log": layers.Log,
    "LongRunning": lambda: layers.LongRunning(5),
    "MapArgs": lambda: layers.MapArgs(lambda args: args),
    "MapError": lambda: layers.MapError(lambda error: error),
    "MapResult": lambda: layers.MapResult(lambda result: result),
    "RateLimit": lambda: layers.RateLimit(1, per=2.0),
    "Retry": lambda: layers.Retry(1),
    "Timeout": lambda: layers.Timeout(30),
    "Trace": layers.Trace,
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_cut_at_every_moment_and_lets_others_through(name: str) -> None:
    """The successor has the same layer: what was cut has left nothing behind in it."""

    async def scenario(cut: Cut) -> None:
        layer = LAYERS[name]()

        async def runner(storage: Any, handler: Made, cut: Cut) -> None:
            with cut:
                await worker_of(storage, handler, layers=[layer]).run()
            spare = MemoryStorage[str]()
            await spare.push_bulk(["one", "two"])
            spare.close()
            with trio.fail_after(100):
                report = await Worker("spare", spare, len, concurrency=1, layers=[layer]).run()
            assert report.succeeded == 2, report

        await explored("memory", runner)(cut)

    if name == "LoadShed":
        pytest.skip("what it refuses costs an attempt: that is what it is for")
    assert explore_cancellations(scenario, seeds=range(2)).cuts > 20


@pytest.mark.parametrize("name", [name for name in LAYERS if hasattr(LAYERS[name](), "ready")])
def test_a_slot_that_waits_at_a_gate_is_cut_at_every_moment(name: str) -> None:
    async def scenario(cut: Cut) -> None:
        gate = LAYERS[name]()
        with cut:
            await gate.ready()
        with trio.fail_after(100):
            await gate.ready()

    assert explore_cancellations(scenario).cuts > 0


@pytest.mark.parametrize("name", LAYERS)
def test_an_attempt_without_a_backend_is_cut_at_every_moment(name: str) -> None:
    async def scenario(cut: Cut) -> None:
        layer = LAYERS[name]()
        with cut:
            assert isinstance(await run_once(trio.sleep, 1.0, layers=[layer]), Succeeded)
        with trio.fail_after(100):
            assert isinstance(await run_once(trio.sleep, 1.0, layers=[layer]), Succeeded)

    assert explore_cancellations(scenario).cuts > 5


# Waiting to look


STRATEGIES: dict[str, Callable[[], Any]] = {
    "Interval": lambda: Interval(1),
    "Backoff": lambda: Backoff(1),
    "OnSignal": OnSignal,
    "race": lambda: race(Interval(1), OnSignal()),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_poll_strategy_is_cut_at_every_moment(name: str) -> None:
    async def scenario(cut: Cut) -> None:
        strategy = STRATEGIES[name]()
        rows = ["one", "two"]

        async def fetch() -> str | None:
            await trio.lowlevel.checkpoint()
            return rows.pop() if rows and trio.current_time() > 3 else None

        async def notify() -> None:
            while True:
                await trio.sleep(2)
                getattr(strategy, "notify", lambda: None)()

        receive = poll(fetch, strategy)
        got: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify)
            with cut:
                await strategy.wait()
            with cut:
                got.append(await receive())
            with trio.fail_after(100):
                while rows:
                    got.append(await receive())
            nursery.cancel_scope.cancel()
        assert sorted(got) in (["one", "two"], ["one"]), "what fetch takes and cannot give back is its own"

    explore_cancellations(scenario)


# Nothing is forgotten


RUN: dict[str, set[str]] = {
    "Worker": {"run", "run_until", "run_until_idle", "stream"},
    "WorkerContext": {"wait_stopped", "wait_shutting_down", "set_metadata"},  # the last is the backend's, cut as that
    "Monitor": {"run", "run_with_signal", "__aenter__", "__aexit__"},
    "TestWorker": {"execute_next"},
    "Redelivery": {"deliver"},  # it is cut, and cuts, in tests/testing/test_redelivery.py
    "Queues": {*verbs_of(Queues)},  # those of one queue, cut as its; several: see tests/router/test_queues.py
    "TaskFunction": {"result"},  # it waits as `wait_for` of the storage does
    "DjangoConnections": {"__call__"},  # it is an InThread with a function of Django
    "SqliteTransaction": {"from_task"},
    # In tests/schedules:
    "Cron": {"receive", "__anext__", "aclose", "__aenter__", "__aexit__"},
    "Firing": {"from_task"},
    "Schedules": {"list", "pause", "prune", "put", "remove", "resume", "run", "run_now"},
    **{name: {"wait"} for name in STRATEGIES},
    **{name: {"__call__", "ready"} for name in LAYERS},
}
CALLED = {"run_once", "run_until_idle"}
"""Functions that are cut above."""
NOT_CUT = {
    "advance": "is for the time of tests",
    "assert_pushed": "only looks",
    "check_backend": "cuts others",
}


def test_nothing_public_is_left_out() -> None:
    cut = {name: set(verbs_of(cls)) for cls in kinds_of_backends().values() for name in [cls.__name__]}
    public = {name: set(verbs_of(cls)) for name, cls in public_classes().items() if name not in SIMULATED}
    assert "Worker" in public
    missing = {name: left for name, verbs in public.items() if (left := verbs - cut.get(name, RUN.get(name, set())))}
    assert not missing, "public and async, and nobody cuts it"
    assert not {*public_functions()} - CALLED - {*NOT_CUT}, "the same"
    with suppress(StopIteration):
        assert next(name for name in RUN if name not in public) == "race"
