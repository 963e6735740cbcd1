"""Tests of a router as the handler and the codec of whatever takes one: workers, pipes, and the kits for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import (
    AbortError,
    Attempt,
    Call,
    Data,
    Failed,
    FileStorage,
    HandlerSignatureError,
    Injected,
    Killed,
    MemoryStorage,
    Metadata,
    Retried,
    RetryPolicy,
    Router,
    SqliteStorage,
    Status,
    Succeeded,
    Suspended,
    Task,
    TaskBuilder,
    TaskId,
    Worker,
    WorkerBuilder,
    WorkerContext,
    constant,
    pipe_to,
)
from trio_tasks.abc import Handler
from trio_tasks.layers import Timeout
from trio_tasks.testing import (
    Cut,
    Faults,
    Simulation,
    TestWorker,
    check_backend,
    explore_cancellations,
    run_once,
    simulate,
)

from tests._scale import scaled


class Mailer:
    def __init__(self, host: str = "here") -> None:
        self.host = host


class Session:
    """An extractor that is opened for an attempt, and closed after it."""

    log: list[str] = []  # noqa: RUF012  one test looks at it

    @classmethod
    @asynccontextmanager
    async def from_task(cls, task: Task[Any], mailer: Data[Mailer]) -> AsyncIterator[Session]:
        cls.log.append(f"open at {mailer.host}")
        yield cls()
        cls.log.append("close")


tasks = Router()


@tasks.task
async def double(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n * 2


@tasks.task
def halve(n: int, *, attempt: Attempt = Injected) -> str:
    return f"{n // 2}, attempt {attempt}"


@tasks.task(attempts=2, retry=RetryPolicy(attempts=9, backoff=constant(7.0)))
async def fail(text: str = "no") -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError(text)


def storages(tmp_path: Path) -> list[Any]:
    return [
        MemoryStorage[Call[object]](),
        MemoryStorage(type=Call, codec=tasks),
        SqliteStorage(tmp_path / "tasks.db", Call, codec=tasks),
        FileStorage(tmp_path / "tasks.journal", Call, codec=tasks),
    ]


@pytest.mark.parametrize("number", range(4))
async def test_a_plain_storage_takes_calls(number: int, tmp_path: Path) -> None:
    """Every way of pushing gives the task the name of its function."""
    send, receive = trio.open_memory_channel[Any](9)
    async with storages(tmp_path)[number] as storage:
        call = double.bind(21)
        ids = [
            await storage.push(call),
            await storage.push(call, priority=3),
            *await storage.push_bulk([call]),
            await storage.push_task(Task(call)),
            await storage.push_task(TaskBuilder(call).build()),
            (await storage.push_or_get(call)).id,
        ]
        send.send_nowait(call)
        send.close()
        await storage.push_stream(receive)
        assert [task.parts.name for task in await storage.list_tasks(name="double")] == ["double"] * 7
        storage.close()
        await Worker("w", storage, tasks).run()
        assert [(await storage.wait_for(each)).result for each in ids] == [42] * 6
        found = await storage.fetch_by_id(ids[0])
        assert (found.args, found.parts.name) == (call, "double")


async def test_a_pipe_takes_calls(autojump_clock: trio.testing.MockClock) -> None:
    send, receive = trio.open_memory_channel[Call[int]](9)
    storage = MemoryStorage[Call[int]]()
    pipe = pipe_to(receive, storage)
    send.send_nowait(double.bind(21))
    send.close()
    report = await Worker("w", pipe, tasks).run()
    assert report.succeeded == 1
    [task] = await storage.list_tasks()
    assert task.parts.name == "double"


async def test_workers_of_all_kinds_take_a_router() -> None:
    storage = MemoryStorage[Call[object]]()
    await storage.push_bulk([double.bind(1), halve.bind(8)])
    worker = TestWorker(storage, tasks)
    assert (await worker.execute_next())[1] == Succeeded(2)
    assert (await worker.execute_next())[1] == Succeeded("4, attempt 1")
    assert await run_once(tasks, halve.bind(8), attempt=3) == Succeeded("4, attempt 3")
    built = WorkerBuilder("w").backend(storage).build(tasks)
    await storage.push(double.bind(3))
    storage.close()
    assert (await built.run()).succeeded == 1
    assert await tasks(Task(double.bind(5))) == 10
    assert built.handler_name == repr(tasks)


async def test_parameters_are_filled_in_by_their_annotations() -> None:
    router = Router()

    @router.task
    async def everything(
        first: int,
        second: int = 2,
        *,
        mailer: Data[Mailer] = Injected,
        other: Data[Path] | None = Injected,
        attempt: Attempt = Injected,
        task_id: TaskId = Injected,
        metadata: Metadata = Injected,
        context: WorkerContext = Injected,
        nursery: trio.Nursery = Injected,
        session: Session = Injected,
        task: Task[Any] = Injected,
    ) -> list[Any]:
        nursery.start_soon(trio.lowlevel.checkpoint)
        assert isinstance(session, Session)
        return [first, second, mailer.host, other, attempt, task_id, dict(metadata), context.name, task.args.name]

    storage = MemoryStorage[Call[object]]()
    await storage.push(everything.bind(1), id="a", metadata={"b": 1})
    worker = TestWorker(storage, router, data=[Mailer("there")])
    _, outcome = await worker.execute_next()
    assert outcome == Succeeded([1, 2, "there", None, 1, "a", {"b": 1}, "test", "everything"])
    assert Session.log == ["open at there", "close"]
    await storage.push(everything.bind(1), data=[Mailer("its own")], id="c")
    _, outcome = await worker.execute_next()
    assert isinstance(outcome, Succeeded)
    assert outcome.result[2] == "its own"
    with pytest.raises(HandlerSignatureError, match=r"everything cannot be a task: its parameter 'mailer: .*' is not"):
        Worker("w", storage, router)


async def test_a_router_is_refused_by_a_storage_of_other_args() -> None:
    with pytest.raises(HandlerSignatureError, match="a Router handles Calls, and the args are int here"):
        Worker("w", MemoryStorage(type=int), tasks)  # type: ignore[arg-type]  # that is the mistake


async def test_the_policy_of_a_function_goes_before_that_of_the_worker(autojump_clock: trio.testing.MockClock) -> None:
    outcome = await run_once(tasks, fail.bind("once"), retry=RetryPolicy(attempts=1, backoff=constant(3.0)))
    assert isinstance(outcome, Retried)
    assert (outcome.after, str(outcome.error)) == (7.0, "once")
    assert isinstance(await run_once(tasks, fail.bind(), attempt=2), Failed)
    router = Router()
    router.task(retry=RetryPolicy(attempts=3, retry_if=lambda error: "never" not in str(error)))(fail.__wrapped__)
    assert Task(router.functions["fail"].bind()).parts.attempts == 3
    assert isinstance(await run_once(router, router.functions["fail"].bind("never")), Killed)


async def test_layers_of_a_function_are_inside_those_of_the_worker() -> None:
    log: list[str] = []
    router = Router()

    async def note(name: str, handler: Handler[Any, Any], task: Task[Any]) -> Any:
        log.append(f"{name} {task.parts.name}")
        return await handler(task)

    router.task(name="a", layers=[partial(note, "first"), partial(note, "second")])(double.__wrapped__)
    router.task(name="b", layers=[Timeout(1)])(halve.__wrapped__)
    assert await run_once(router, Call("a", {"n": 1}), layers=[partial(note, "worker")]) == Succeeded(2)
    assert log == ["worker a", "first a", "second a"]
    assert await run_once(router, Call("b", {"n": 8})) == Succeeded("4, attempt 1")


async def test_two_routers_of_the_same_names_know_nothing_of_each_other() -> None:
    """In one process, on two storages, and each as the handler of what the other one made."""
    first, second = Router(), Router()

    @first.task(name="f")
    async def one(n: int) -> str:
        await trio.lowlevel.checkpoint()
        return f"first {n}"

    @second.task(name="f")
    async def two(n: int) -> str:
        await trio.lowlevel.checkpoint()
        return f"second {n}"

    assert await run_once(first, one.bind(1)) == Succeeded("first 1")
    assert await run_once(second, two.bind(1)) == Succeeded("second 1")
    assert await run_once(second, one.bind(1)) == Succeeded("second 1")  # a name is all that a call says
    first.task(double.__wrapped__)
    assert isinstance(await run_once(second, double.bind(1)), Suspended)
    assert second.task_names == frozenset(["f"])
    assert Router(unknown="fail").task_names is None


# The kits


@pytest.mark.parametrize("is_encoded", [True, False])
async def test_a_storage_of_calls_keeps_the_rules_of_backends(
    is_encoded: bool, autojump_clock: trio.testing.MockClock
) -> None:
    def open_backend() -> Any:
        return MemoryStorage(type=Call, codec=tasks) if is_encoded else MemoryStorage[Call[object]]()

    await check_backend(open_backend, args=double.bind)


@pytest.mark.nightly
@pytest.mark.real
async def test_a_stored_storage_of_calls_keeps_the_rules_of_backends(tmp_path: Path) -> None:
    await check_backend(
        lambda: SqliteStorage(tmp_path / "tasks.db", Call, codec=tasks, synchronous="OFF", lease=1.0), args=double.bind
    )


def test_a_cancellation_at_any_moment_loses_no_call() -> None:
    """One function is known, one is not, and one fails; each task is done, dead, or waits as before."""
    strangers = Router().task(name="stranger")(double.__wrapped__)

    async def scenario(cut: Cut) -> None:
        storage = MemoryStorage[Call[object]]()
        ids = await storage.push_bulk([double.bind(1), strangers.bind(2), halve.bind(8), fail.bind()])
        done: list[str] = []
        with cut:
            with trio.move_on_after(1):
                await Worker("w", storage, tasks, concurrency=2, log=None).run()
        counts = storage.statistics()
        assert counts.running == 0
        assert counts.waiting + counts.succeeded == 4
        stranger = await storage.fetch_by_id(ids[1])
        assert stranger is not None
        assert (stranger.parts.status, stranger.parts.attempt) == (Status.Pending, 0)
        assert not done

    result = explore_cancellations(scenario)
    assert result.cuts > 10


async def program(simulation: Simulation) -> None:
    """Workers of two versions on one storage whose deliveries go wrong: one lacks a function of the other."""
    newer, older, ran = Router(), Router(), list[int]()

    async def work(n: int) -> int:
        await trio.sleep(simulation.random.random())
        ran.append(n)
        return n

    old = newer.task(name="old")(work)
    older.task(name="old")(work)
    new = newer.task(name="new")(work)
    storage = MemoryStorage[Call[object]]()
    backend = simulation.faulty(storage, Faults(drop=0.1, duplicate=0.1))
    await simulation.start(Worker("newer", backend, newer, concurrency=2))
    await simulation.start(Worker("older", backend, older, concurrency=2))
    ids = [await storage.push((old, new)[n % 2].bind(n), attempts=9) for n in range(8)]
    storage.close()
    await simulation.wait_workers_stopped()
    for n, task_id in enumerate(ids):
        assert (await storage.wait_for(task_id)).result == n
    assert {*ran} == {*range(8)}
    assert await storage.audit(), "one was lost, or counted twice"
    counts = storage.statistics()
    assert (counts.succeeded, counts.failed, counts.killed) == (8, 0, 0)


def test_a_rolling_deploy_under_faults_ends_well() -> None:
    simulate(program, seeds=range(scaled(20)))


# Promise 6: whatever a function, or what belongs to it, raises


class Liar(Exception):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), Liar(), AbortError("no"), BaseException("all")])
async def test_nothing_that_a_function_raises_harms_its_worker(error: BaseException) -> None:
    router = Router()

    @router.task
    async def wild(n: int) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async def explode(handler: Handler[Any, Any], task: Task[Any]) -> Any:
        await trio.lowlevel.checkpoint()
        raise error

    router.task(double.__wrapped__)
    router.task(name="layered", layers=[explode])(halve.__wrapped__)
    storage = MemoryStorage[Call[object]]()
    calls = [wild.bind(1), Call("layered", {"n": 1}), double.bind(2), Call("not there", {})]
    await storage.push_bulk(calls, attempts=1)
    report = await Worker("w", storage, router, log=None).run_until_idle()
    assert (report.succeeded, report.failed + report.killed, report.suspended) == (1, 2, 1)


async def test_an_unknown_name_may_be_handled_by_anything() -> None:
    async def refuse(call: Call[Any]) -> object:
        await trio.lowlevel.checkpoint()
        raise SystemExit(call.name)

    outcome = await run_once(Router(unknown=refuse), Call("x", {}), retry=RetryPolicy(attempts=1))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SystemExit)


async def explode(call: Call[Any]) -> object:
    await trio.lowlevel.checkpoint()
    raise SystemExit(call.name)


@pytest.mark.parametrize("storage", ["memory", "sqlite", "file"])
@pytest.mark.parametrize(
    ("unknown", "status"), [("suspend", Status.Pending), ("fail", Status.Killed), (explode, Status.Failed)]
)
async def test_a_function_that_is_not_there_harms_no_neighbour(
    storage: str, unknown: Any, status: Status, tmp_path: Path
) -> None:
    def opened(router: Router) -> Any:
        if storage == "memory":
            return nullcontext(memory)
        make = SqliteStorage if storage == "sqlite" else FileStorage
        return make(tmp_path / "tasks", Call, codec=router)

    memory, newer, older = MemoryStorage[Call[object]](), Router(), Router(unknown=unknown)
    new, old = newer.task(name="new")(double.__wrapped__), newer.task(name="old")(double.__wrapped__)
    older.task(name="old")(double.__wrapped__)
    async with opened(newer) as there:
        ids = await there.push_bulk([new.bind(1), old.bind(2), new.bind(3), old.bind(4)], attempts=1)
    async with opened(older) as there:
        report = await Worker("w", there, older, concurrency=2, log=None).run_until_idle()
        assert (report.succeeded, report.suspended) == (2, 2 if unknown == "suspend" else 0)
        found = await there.fetch_by_id(ids)
        assert [task.parts.status for task in found] == [status, Status.Done, status, Status.Done]


async def test_a_plain_handler_may_have_the_default_too() -> None:
    """Then it is filled in as well, and is missed where it is not there; a function of a router is one, too."""

    async def greet(name: str, mailer: Data[Mailer] = Injected) -> str:
        await trio.lowlevel.checkpoint()
        return f"{name} at {mailer.host}"

    for handler in (greet, Router().task(greet)):
        assert await run_once(handler, "ada", data=[Mailer("there")]) == Succeeded("ada at there")
        with pytest.raises(HandlerSignatureError, match=r"'mailer: .*' is not in data"):
            Worker("w", MemoryStorage[str](), handler)


async def test_an_attribute_of_a_function_hides_nothing() -> None:
    def odd(n: int) -> int:
        return n

    odd.__dict__.update(name="other", bind=None, queue="other")
    made = Router().task(odd)
    assert (made.name, made.queue, made.bind(1).args) == ("odd", "default", {"n": 1})


async def test_methods_and_callable_objects_are_functions() -> None:
    class Counter:
        def __init__(self) -> None:
            self.total = 0

        async def add(self, n: int, *, attempt: Attempt = Injected) -> int:
            await trio.lowlevel.checkpoint()
            self.total += n * attempt
            return self.total

        def __call__(self, n: int) -> str:
            return f"called with {n}"

    router, counter = Router(), Counter()
    add = router.task(counter.add)
    call = router.task(name="call")(counter)
    nothing = router.task(name="nothing")(partial(counter.add, 5))
    assert await run_once(router, add.bind(3), attempt=2) == Succeeded(6)
    assert await run_once(router, call.bind(4)) == Succeeded("called with 4")
    assert await run_once(router, nothing.bind()) == Succeeded(11)
