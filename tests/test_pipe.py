"""Tests of pipes: each item of a source arrives in the storage once, even if the pipe is interrupted."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    BackendError,
    CustomBackend,
    MemoryStorage,
    Outcome,
    Pipe,
    Succeeded,
    Task,
    TaskId,
    TaskSink,
    WaitForCompletion,
    Worker,
    WorkerContext,
    pipe_to,
)
from trio_tasks.abc import Feeder, ListQueues, ListTasks, NowaitBackend, RegisterWorker


async def numbers(count: int, *, pause: float = 0) -> AsyncGenerator[int, None]:  # noqa: ASYNC900  pipes have to take it
    for n in range(count):
        await trio.sleep(pause)
        yield n


def channel_of(*items: Any, end: bool = True) -> trio.MemoryReceiveChannel[Any]:
    send, receive = trio.open_memory_channel[Any](math.inf)
    for item in items:
        send.send_nowait(item)
    if end:
        send.close()
    else:
        receive.keeps_open = send  # type: ignore[attr-defined]  # the other end lives as long
    return receive


class PlainStorage(TaskSink[Any], Backend[Any], Feeder, ListQueues):
    """A storage with the capabilities that MemoryStorage lacks; each method can be made to fail."""

    heartbeat_interval = 10

    def __init__(self) -> None:
        self.inner = MemoryStorage[Any]()
        self.fails: Exception | None = None
        self.is_slow_to_answer = False
        self.events: list[str] = []

    async def push_task(self, task: Task[Any]) -> TaskId:
        if self.fails is not None:
            raise self.fails
        task_id = await self.inner.push_task(task)
        if self.is_slow_to_answer:
            await trio.sleep(10)
        return task_id

    async def receive(self) -> Task[Any]:
        return await self.inner.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await self.inner.settle(task, outcome)

    async def beat(self, context: WorkerContext) -> None:
        await trio.lowlevel.checkpoint()
        self.events.append("beat")

    async def feed(self) -> None:
        self.events.append("feed")
        try:
            await trio.sleep_forever()
        finally:
            self.events.append("fed")

    async def list_queues(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["default"]

    def close(self) -> None:
        self.inner.close()


async def run_worker(backend: Backend[Any], **options: Any) -> list[Any]:
    """What a worker handled, until the backend ended."""
    handled = []

    async def handle(args: Any) -> None:
        await trio.lowlevel.checkpoint()
        handled.append(args)

    await Worker("w", backend, handle, **options).run()
    return handled


async def feed_for(seconds: float, pipe: Pipe[Any]) -> None:
    with trio.move_on_after(seconds):
        await pipe.feed()


async def drain(storage: Backend[Any]) -> list[Any]:
    """All args that are left, until the storage ends."""
    return [task.args async for task in storage]


# Carrying


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("kind", ["channel", "generator", "safe channel"])
async def test_a_worker_runs_on_what_is_carried_and_ends_with_it(kind: str, concurrency: int) -> None:
    storage = MemoryStorage[int]()
    if kind == "channel":
        handled = await run_worker(Pipe(channel_of(*range(20)), storage), concurrency=concurrency)
    elif kind == "generator":
        handled = await run_worker(pipe_to(numbers(20), storage), concurrency=concurrency)
    else:
        async with trio.as_safe_channel(numbers)(20) as source:
            handled = await run_worker(Pipe(source, storage), concurrency=concurrency)
    assert sorted(handled) == list(range(20))
    with pytest.raises(trio.ClosedResourceError):
        await storage.push(1)


async def test_whole_tasks_arrive_whole() -> None:
    task = Task.builder("whole").id("mine").priority(3).build()
    storage = MemoryStorage[str]()
    pipe = Pipe(channel_of("plain", task), storage)
    await pipe.feed()
    assert await pipe.receive() is task
    assert (await pipe.receive()).args == "plain"


async def test_others_may_go_on_pushing_where_the_pipe_does_not_close() -> None:
    storage = MemoryStorage[int]()
    await Pipe(channel_of(1), storage, close=False).feed()
    await storage.push(2)
    storage.close()
    assert await drain(storage) == [1, 2]


async def test_what_needs_no_waiting_is_carried_in_one_go() -> None:
    storage = MemoryStorage[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Pipe(channel_of(*range(50)), storage).feed)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert storage.statistics().waiting == 50


async def test_a_storage_that_is_full_makes_the_source_wait(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](0)
    storage = MemoryStorage[int](2)
    pipe = Pipe(receive, storage)
    sent: list[int] = []

    async def send_all() -> None:
        with send:
            for n in range(10):
                await send.send(n)
                sent.append(n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        nursery.start_soon(pipe.feed)
        await trio.sleep(1)
        assert sent == [0, 1, 2]  # two wait in the storage, one in transit
        await pipe.settle(await pipe.receive(), Succeeded(None))
        await trio.sleep(1)
        assert sent == [0, 1, 2, 3]
        assert await drain(pipe) == list(range(1, 10))


# Interruptions


@pytest.mark.parametrize("steps", range(15))
@pytest.mark.parametrize("size", [1, math.inf])
async def test_nothing_is_lost_wherever_a_worker_is_cut_short(steps: int, size: float) -> None:
    pipe = Pipe(channel_of(*range(8)), MemoryStorage[int](size))
    handled: list[int] = []

    async def handle(n: int) -> None:
        await trio.lowlevel.checkpoint()
        handled.append(n)

    worker = Worker("w", pipe, handle, concurrency=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await worker.run()
    assert sorted(handled) == list(range(8))


async def test_what_was_in_transit_goes_first(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](1)
    pipe = Pipe(channel_of(0, 1, 2), storage)
    await feed_for(1, pipe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.feed)
        assert await drain(pipe) == [0, 1, 2]


async def test_what_arrived_though_its_push_was_cancelled_counts_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = PlainStorage()
    pipe = Pipe(channel_of(0, 1), storage)
    storage.is_slow_to_answer = True
    await feed_for(1, pipe)
    storage.is_slow_to_answer = False
    await feed_for(1, pipe)
    assert await drain(storage) == [0, 1]
    assert not caplog.records


async def test_of_two_workers_one_carries_and_the_other_takes_over(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](0)
    pipe = Pipe(receive, MemoryStorage[int]())
    handled: list[tuple[str, int]] = []

    async def handle(n: int, context: WorkerContext) -> None:
        handled.append((context.name, n))

    async with trio.open_nursery() as nursery:
        first: WorkerContext = await nursery.start(Worker("first", pipe, handle).run)
        await wait_all_tasks_blocked()
        await nursery.start(Worker("second", pipe, handle).run)
        await wait_all_tasks_blocked()
        assert receive.statistics().tasks_waiting_receive == 1
        first.stop()
        await first.wait_stopped()
        await send.send(1)
        send.close()
    assert handled == [("second", 1)]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_paused_worker_goes_on_carrying_from_a_channel(times: int, autojump_clock: MockClock) -> None:
    handled: list[int] = []

    async def handle(n: int) -> None:
        handled.append(n)

    async with trio.as_safe_channel(numbers)(5, pause=1) as source, trio.open_nursery() as nursery:
        worker = Worker("w", Pipe(source, MemoryStorage[int]()), handle)
        context: WorkerContext = await nursery.start(worker.run)
        for _ in range(times):
            await trio.sleep(1.3)
            context.pause()
            await trio.sleep(0.1)
            context.resume()
    assert handled == [0, 1, 2, 3, 4]


async def test_an_async_generator_that_was_cut_short_is_not_taken_for_one_that_ended(
    autojump_clock: MockClock,
) -> None:
    storage = MemoryStorage[int]()
    pipe = Pipe(numbers(5, pause=1), storage)
    await feed_for(2.5, pipe)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"ended by a cancellation or an error.*trio\.as_safe_channel"):
            await pipe.feed()
    await storage.push(5)  # it is open
    storage.close()
    assert await drain(storage) == [0, 1, 5]


async def test_an_async_generator_that_failed_is_not_taken_for_one_that_ended() -> None:
    async def failing() -> AsyncGenerator[int, None]:  # noqa: ASYNC900  pipes have to take it
        yield 1
        raise OSError("no connection")

    pipe = Pipe(failing(), MemoryStorage[int]())
    with pytest.raises(OSError, match="no connection"):
        await pipe.feed()
    with pytest.raises(BackendError, match="ended by a cancellation or an error"):
        await pipe.feed()


async def test_a_generator_that_waits_for_room_survives(autojump_clock: MockClock) -> None:
    storage = MemoryStorage[int](1)
    pipe = Pipe(numbers(4), storage)
    await feed_for(1, pipe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.feed)
        assert await drain(storage) == [0, 1, 2, 3]


# What goes wrong


async def test_a_source_that_fails_ends_the_worker() -> None:
    receive = channel_of(1, end=False)
    receive.close()
    with pytest.RaisesGroup(pytest.RaisesExc(trio.ClosedResourceError)):
        await run_worker(Pipe(receive, MemoryStorage[int]()))


async def test_a_storage_that_fails_ends_the_worker_and_what_was_in_transit_waits() -> None:
    storage = PlainStorage()
    pipe = Pipe(channel_of(0, 1), storage)
    storage.fails = OSError("no connection")
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no connection"), flatten_subgroups=True):
        await run_worker(pipe)
    storage.fails = None
    assert await run_worker(pipe, concurrency=1) == [0, 1]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "waiting"])
@pytest.mark.parametrize("refusal", [TypeError("cannot be encoded"), ValueError("too long")])
async def test_what_a_storage_refuses_is_left_out_and_logged(
    refusal: Exception, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class RefusesBad(PlainStorage):
        async def push_task(self, task: Task[Any]) -> TaskId:
            self.check(task)
            return await super().push_task(task)

        def check(self, task: Task[Any]) -> None:
            if task.args == "bad":
                raise refusal

    class Quick(RefusesBad):
        def push_task_nowait(self, task: Task[Any]) -> TaskId:
            self.check(task)
            return self.inner.push_task_nowait(task)

    storage = RefusesBad() if waits else Quick()
    assert await run_worker(Pipe(channel_of(1, "bad", 2), storage), concurrency=1) == [1, 2]
    assert [record.message.count("<str>: Pending, attempt 0> was not pushed") for record in caplog.records] == [1]
    assert str(refusal) in caplog.text


async def test_a_task_that_comes_twice_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    twice = [Task.builder(n).id("same").build() for n in range(2)]
    assert await run_worker(Pipe(channel_of(*twice, 2), MemoryStorage[int]()), concurrency=1) == [0, 2]
    assert "'same' has been pushed already" in caplog.text


async def test_a_source_of_refusals_starves_no_trio_task() -> None:
    class Endless:
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> Task[int]:
            return Task.builder(1).id("same").build()

    class RefusesAtOnce(PlainStorage):
        async def push_task(self, task: Task[Any]) -> TaskId:
            raise ValueError

    others: list[int] = []

    async def run_beside() -> None:
        for n in range(5):
            await trio.lowlevel.checkpoint()
            others.append(n)
        nursery.cancel_scope.cancel()

    logging.disable(logging.CRITICAL)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_beside)
            await Pipe(Endless(), RefusesAtOnce()).feed()
    finally:
        logging.disable(logging.NOTSET)
    assert others == [0, 1, 2, 3, 4]


async def test_a_storage_that_was_closed_is_worked_off(caplog: pytest.LogCaptureFixture) -> None:
    storage = MemoryStorage[int]()
    await storage.push(0)
    storage.close()
    source = channel_of(1, 2)
    pipe = Pipe(source, storage)
    with caplog.at_level(logging.WARNING, "trio_tasks"):
        await pipe.feed()
    assert "closed before its source had ended" in caplog.text
    assert await run_worker(pipe) == [0]
    assert source.receive_nowait() == 2


# Being the storage


async def test_a_pipe_can_do_what_its_storage_can() -> None:
    memory = Pipe(channel_of(), MemoryStorage[Any]())
    plain = Pipe(storage=PlainStorage(), source=channel_of())
    for capability in (NowaitBackend, WaitForCompletion, ListTasks, RegisterWorker):
        assert isinstance(memory, capability)
        assert not isinstance(plain, capability)
    assert isinstance(plain, ListQueues)
    assert await plain.list_queues() == ["default"]
    assert not isinstance(memory, TaskSink)
    assert type(memory) is type(Pipe(channel_of(), MemoryStorage[Any]()))
    assert type(memory).__name__ == "Pipe"


async def test_its_tasks_can_be_waited_for() -> None:
    pipe = Pipe(channel_of(Task.builder(1).id("mine").build()), MemoryStorage[int]())
    await pipe.feed()
    assert isinstance(pipe, NowaitBackend)
    assert isinstance(pipe, WaitForCompletion)
    pipe.settle_nowait(pipe.receive_nowait(), Succeeded("fine"))
    assert (await pipe.wait_for("mine")).unwrap() == "fine"
    with pytest.raises(trio.EndOfChannel):
        pipe.receive_nowait()


async def test_a_storage_with_periodic_work_of_its_own_gets_it(autojump_clock: MockClock) -> None:
    storage = PlainStorage()

    async def handle(n: int) -> None:
        await trio.sleep(15)

    await Worker("w", Pipe(channel_of(1), storage), handle).run()
    assert sorted(storage.events) == ["beat", "beat", "fed", "feed"]


@pytest.mark.parametrize("kind", ["channel", "generator", "iterator"])
async def test_closing_a_pipe_closes_its_source_alone(kind: str) -> None:
    class Iterator:
        def __aiter__(self) -> Iterator:
            return self

        async def __anext__(self) -> int:
            return 1

    storage = MemoryStorage[int]()
    channel = channel_of(1)
    generator = numbers(5)
    source: Any = {"channel": channel, "generator": generator, "iterator": Iterator()}[kind]
    await Pipe(source, storage).aclose()
    if kind == "channel":
        with pytest.raises(trio.ClosedResourceError):
            channel.receive_nowait()
    await storage.push(1)
    assert [n async for n in generator] == ([] if kind == "generator" else [0, 1, 2, 3, 4])


async def test_what_it_cannot_use_is_refused_with_what_would_be_right() -> None:
    storage: Any = MemoryStorage[int]()
    channel: Any = channel_of(1)
    wrong: Any
    for wrong in (5, [1, 2], numbers, storage, None):
        with pytest.raises(
            TypeError, match=r"source must be a trio\.abc\.ReceiveChannel or another async iterable, not"
        ):
            Pipe(wrong, storage)
    for wrong in (5, channel, MemoryStorage, None):
        with pytest.raises(TypeError, match=r"must be a Backend and a TaskSink, such as MemoryStorage\(\)"):
            Pipe(channel, wrong)
    with pytest.raises(TypeError, match="missing"):
        Pipe(channel)  # type: ignore[call-arg]  # it is what is tested

    class Endless(PlainStorage):
        close: Any = None

    with pytest.raises(TypeError, match=r"has no close\(\), .* give the pipe close=False"):
        Pipe(channel, Endless())
    Pipe(channel, Endless(), close=False)


async def test_a_storage_that_cannot_be_closed_says_so_at_the_end() -> None:
    backend: CustomBackend[int] = CustomBackend(receive=MemoryStorage[int]().receive)
    pipe = Pipe(channel_of(), backend)
    with pytest.raises(BackendError, match="made without close="):
        await pipe.feed()


async def test_it_describes_itself() -> None:
    pipe = Pipe(channel_of(), MemoryStorage[int]())
    assert repr(pipe).startswith("<Pipe open: <receive channel")
    await pipe.feed()
    assert repr(pipe).startswith("<Pipe ended: <receive channel")
