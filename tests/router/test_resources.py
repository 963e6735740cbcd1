"""Tests of resources: values that are opened with a run, and closed after its last attempt."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NewType

import pytest
import trio
from trio_tasks import Call, Data, HandlerSignatureError, Injected, MemoryStorage, Monitor, Router, Succeeded, Worker
from trio_tasks.testing import Cut, TestWorker, explore_cancellations, run_once


class Settings:
    host = "here"


class Mailer:
    def __init__(self, host: str = "here") -> None:
        self.host = host
        self.is_open = True


class Pool:
    """Opened before the mailer."""


def program(log: list[str]) -> Router:
    """A router with two resources, whose history is logged."""
    tasks = Router()

    @tasks.resource
    async def pool() -> AsyncIterator[Pool]:
        log.append("open pool")
        yield Pool()
        log.append("close pool")

    @tasks.resource
    @asynccontextmanager
    async def mailer(settings: Data[Settings], pool: Data[Pool]) -> AsyncGenerator[Mailer, None]:
        log.append("open mailer")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            mailer = Mailer(settings.host)
            try:
                yield mailer
            finally:
                mailer.is_open = False
                log.append("close mailer")
                nursery.cancel_scope.cancel()

    @tasks.task
    async def send(to: str, mailer: Data[Mailer] = Injected) -> str:
        assert mailer.is_open
        log.append(f"send to {to} at {mailer.host}")
        await trio.lowlevel.checkpoint()
        return to

    @tasks.task(queue="other")
    async def idle(n: int, pool: Data[Pool] | None = Injected) -> bool:
        await trio.lowlevel.checkpoint()
        return pool is not None

    return tasks


OPENED_AND_CLOSED = ["open pool", "open mailer", "send to a at here", "close mailer", "close pool"]


async def test_a_worker_opens_them_for_each_run() -> None:
    log: list[str] = []
    tasks = program(log)
    storage = MemoryStorage[Call[object]]()
    worker = Worker("w", storage, tasks, data=[Settings()])
    for _ in range(2):
        await storage.push(tasks.functions["send"].bind("a"))
        assert (await worker.run_until_idle()).succeeded == 1
        assert log == OPENED_AND_CLOSED
        log.clear()
    assert await run_once(tasks, tasks.functions["send"].bind("a"), data=[Settings()]) == Succeeded("a")
    assert log == OPENED_AND_CLOSED


async def test_a_monitor_opens_them_once_for_all_its_workers() -> None:
    log: list[str] = []
    tasks = program(log)
    async with tasks.open(MemoryStorage()) as queues:
        for _ in range(2):
            task_id = await queues.push(tasks.functions["send"].bind("a"))
            other = await queues.push(tasks.functions["idle"].bind(1))
            async with queues.monitor({"default": 2, "other": 1}, data=[Settings()]) as monitor:
                assert await tasks.functions["send"].result(queues, task_id) == "a"
                assert await tasks.functions["idle"].result(queues, other) is True
                monitor.shutdown()
            assert log == OPENED_AND_CLOSED
            log.clear()


async def test_only_what_functions_need_is_opened() -> None:
    log: list[str] = []
    tasks = program(log)
    send = tasks.functions["send"]
    outcome = await run_once(tasks, send.bind("a"), data=[Mailer("fake")])  # the pool is for another function
    assert outcome == Succeeded("a")
    assert log == ["open pool", "send to a at fake", "close pool"]
    log.clear()
    async with tasks.open(MemoryStorage()) as queues:
        await queues.push(tasks.functions["idle"].bind(1))
        [worker] = queues.make_workers({"other": 1})
        assert (await worker.run_until_idle()).succeeded == 1
        assert log == ["open pool", "close pool"]
        task_id = await queues["other"].push(send.bind("a"))
        assert (await worker.run_until_idle()).suspended == 1  # its mailer is not opened for this queue
        assert "is not in data" in (await queues.explain(task_id)).reason


async def test_a_value_among_the_data_of_the_task_goes_first() -> None:
    tasks = program([])
    storage = MemoryStorage[Call[object]]()
    await storage.push(tasks.functions["send"].bind("a"), data=[Mailer("its own")])
    log: list[str] = []
    assert (await TestWorker(storage, program(log), data=[Settings()]).execute_next())[1] == Succeeded("a")
    assert "send to a at its own" in log


async def test_one_that_cannot_be_opened_ends_the_run() -> None:
    tasks = Router()

    @tasks.resource
    async def mailer() -> AsyncIterator[Mailer]:
        await trio.lowlevel.checkpoint()
        raise OSError("no such host")
        yield Mailer()

    @tasks.task
    async def send(to: str, mailer: Data[Mailer] = Injected) -> None:
        """It is never run."""

    storage = MemoryStorage[Call[object]]()
    await storage.push(send.bind("a"))
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no such host")):
        await Worker("w", storage, tasks).run()
    assert storage.statistics().waiting == 1
    async with tasks.open(MemoryStorage()) as queues:
        monitor = queues.monitor({"default": 1}, should_restart=lambda context, error, attempt: True)
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no such host")):
            await monitor.run()
        assert not monitor.is_running


async def test_a_monitor_restarts_a_worker_whose_resources_cannot_be_opened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tasks, tries = Router(), list[int]()

    @tasks.resource
    async def mailer() -> AsyncIterator[Mailer]:
        tries.append(len(tries))
        if len(tries) < 3:
            raise OSError("no such host")
        yield Mailer()
        await trio.lowlevel.checkpoint()

    @tasks.task
    async def send(to: str, mailer: Data[Mailer] = Injected) -> None:
        await trio.lowlevel.checkpoint()

    storage = MemoryStorage[Call[object]]()
    await storage.push(send.bind("a"))
    storage.close()
    monitor = Monitor(should_restart=lambda context, error, attempt: True)
    report = await monitor.register(Worker("w", storage, tasks)).run()
    assert (report.restarts, len(tries), [each.succeeded for each in report.workers]) == (2, 3, [0, 0, 1])


@pytest.mark.parametrize("cancels", [Monitor.shutdown, lambda monitor: monitor.cancel_scope.cancel()])
async def test_a_monitor_is_cancelled_while_a_resource_is_opened(
    autojump_clock: trio.testing.MockClock, cancels: Callable[[Monitor], None]
) -> None:
    """By its time for a shutdown, or at once: it returns as after any cancellation, and its block is cancelled."""
    tasks, log = Router(), list[str]()

    @tasks.resource
    async def pool() -> AsyncIterator[Pool]:
        try:
            await trio.sleep_forever()
            yield Pool()
        finally:
            log.append("close pool")

    @tasks.task()
    async def use(pool: Data[Pool] = Injected) -> None: ...

    async with tasks.open("memory:") as queues, trio.open_nursery() as nursery:
        monitor = queues.monitor({"default": 1}, shutdown_timeout=5)

        async def cancel() -> None:
            await trio.sleep(1)
            cancels(monitor)

        nursery.start_soon(cancel)
        report = await monitor.run()
        assert (report.workers, report.errors, log) == ((), (), ["close pool"])
        nursery.start_soon(cancel)
        async with monitor:
            log.append("block")
            await trio.sleep_forever()
        assert log == ["close pool", "close pool", "block"]
        assert not monitor.is_running


async def test_it_must_be_of_the_type_that_it_says() -> None:
    tasks = Router()

    @tasks.resource
    async def mailer() -> AsyncIterator[Mailer]:
        yield Pool()  # type: ignore[misc]  # that is the mistake
        await trio.lowlevel.checkpoint()

    @tasks.task
    async def send(to: str, mailer: Data[Mailer] = Injected) -> None:
        """It is never run."""

    with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match="which is no Mailer")):
        await run_once(tasks, send.bind("a"))


async def not_yielding() -> AsyncIterator[Mailer]:
    """No generator."""
    return None  # type: ignore[return-value]  # that is the mistake


async def unannotated():  # type: ignore[no-untyped-def]  # that is the mistake
    yield Mailer()


async def of_no_class() -> AsyncIterator[Mailer | None]:
    yield None


async def of_unknown() -> AsyncIterator[Nowhere]:  # type: ignore[name-defined]  # noqa: F821  that is the mistake
    yield None


async def needs_text(host: str) -> AsyncIterator[Mailer]:
    yield Mailer(host)


async def needs_unknown(host: Data[Nowhere]) -> AsyncIterator[Mailer]:  # type: ignore[name-defined]  # noqa: F821  that is the mistake
    yield Mailer(host)


WRONG: dict[str, tuple[Any, str]] = {
    "no generator": (not_yielding, "it is no async generator"),
    "unannotated": (unannotated, "annotate what it yields"),
    "union": (of_no_class, "it must yield a value of a class"),
    "unknown": (of_unknown, "annotate what it yields"),
    "text": (needs_text, "its parameter 'host: str' cannot be filled in: annotate it as Data"),
    "unknown parameter": (needs_unknown, "its parameter 'host: .*' cannot be evaluated"),
    "no function": (5, "it is no function"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_resources_are_refused_when_the_program_is_imported(name: str) -> None:
    function, text = WRONG[name]
    with pytest.raises(HandlerSignatureError, match=text):
        Router().resource(function)


def test_two_of_one_type_are_refused() -> None:
    tasks = program([])

    def another() -> AbstractAsyncContextManager[Pool]:
        raise NotImplementedError

    with pytest.raises(ValueError, match="two resources are a Pool"):
        tasks.resource(another)


def test_what_a_resource_needs_must_be_there() -> None:
    with pytest.raises(HandlerSignatureError, match="'settings' is neither in data nor a resource"):
        Worker("w", MemoryStorage[Call[object]](), program([]))


def test_a_cancellation_at_any_moment_closes_what_was_opened() -> None:
    async def scenario(cut: Cut) -> None:
        log: list[str] = []
        tasks = program(log)
        async with tasks.open(MemoryStorage()) as queues:
            await queues.push(tasks.functions["send"].bind("a"))
            with cut:
                async with queues.monitor({"default": 1}, data=[Settings()]) as monitor:
                    monitor.shutdown()
            assert log.count("open mailer") == log.count("close mailer")
            assert (await queues.metrics())["default"]["running"] == 0

    assert explore_cancellations(scenario).cuts > 3


Host = NewType("Host", str)
