"""Tests of receive channels as backends: retried and released tasks are kept, and a cancellation loses none."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Backend,
    Failed,
    Killed,
    LeaseLostError,
    MemoryStorage,
    Released,
    Retried,
    RetryPolicy,
    Status,
    Succeeded,
    Task,
    Worker,
    constant,
)
from trio_tasks._backends.channel import ChannelBackend, as_backend
from trio_tasks.abc import NowaitBackend

T = TypeVar("T")
DONE = Succeeded(None)
ERROR = ValueError("no")


class PlainChannel(trio.abc.ReceiveChannel[T], Generic[T]):
    """A channel with no more than trio's interface, which serves one receiver at a time."""

    def __init__(self, inner: trio.MemoryReceiveChannel[T]) -> None:
        self._inner = inner
        self._conflicts = 0

    async def receive(self) -> T:
        if self._conflicts:
            raise trio.BusyResourceError
        self._conflicts += 1
        try:
            return await self._inner.receive()
        finally:
            self._conflicts -= 1

    async def aclose(self) -> None:
        await self._inner.aclose()


Wrap = Callable[["trio.MemoryReceiveChannel[Any]"], "trio.abc.ReceiveChannel[Any]"]
both_kinds = pytest.mark.parametrize(
    "wrap", [pytest.param(lambda channel: channel, id="memory"), pytest.param(PlainChannel, id="plain")]
)


def open_backend(wrap: Wrap = PlainChannel, size: float = math.inf) -> tuple[trio.MemorySendChannel[Any], Backend[Any]]:
    send, receive = trio.open_memory_channel[Any](size)
    return send, as_backend(wrap(receive))


# What a backend is made of


async def test_a_backend_stays_as_it_is() -> None:
    storage = MemoryStorage[int]()
    assert as_backend(storage) is storage


async def test_a_memory_channel_need_not_be_waited_for() -> None:
    _, receive = trio.open_memory_channel[int](0)
    assert isinstance(as_backend(receive), NowaitBackend)
    assert not isinstance(as_backend(PlainChannel(receive)), NowaitBackend)


async def test_what_is_no_backend_is_refused_with_what_would_be_right() -> None:
    channel = trio.open_memory_channel[int](0)

    async def numbers() -> Any:  # noqa: ASYNC900  an async generator is what is refused here
        yield 1

    generator = numbers()
    for wrong, right in (
        (5, r"MemoryStorage\(\), or from a trio.abc.ReceiveChannel, not from 5$"),
        (None, "not from None"),
        (channel, "give the receiving one"),
        (channel[0], "give the other one"),
        (MemoryStorage, r"make one, MemoryStorage\(\.\.\.\)"),
        (generator, r"Pipe\(source, storage\)"),
    ):
        with pytest.raises(TypeError, match=right):
            as_backend(wrong)  # type: ignore[arg-type]  # it is the wrong type on purpose
    with pytest.raises(TypeError, match=r"a trio\.abc\.ReceiveChannel, not 5"):
        ChannelBackend(5)  # type: ignore[arg-type]  # it is the wrong type on purpose
    await generator.aclose()


# What comes out


@both_kinds
async def test_args_and_whole_tasks_come_out_as_running_tasks(wrap: Wrap) -> None:
    send, backend = open_backend(wrap)
    whole = Task.builder("whole").id("mine").build()
    send.send_nowait("plain")
    send.send_nowait(whole)
    send.close()
    first, second = await backend.receive(), await backend.receive()
    assert (first.args, first.parts.attempt, first.parts.status) == ("plain", 1, Status.Running)
    assert second is whole
    assert (second.parts.attempt, second.parts.status) == (1, Status.Running)
    with pytest.raises(trio.EndOfChannel):
        await backend.receive()
    await backend.settle(first, DONE)
    assert first.parts.status is Status.Done


async def test_nowait_gives_what_there_is_and_tells_when_there_is_none() -> None:
    send, backend = open_backend(lambda channel: channel)
    assert isinstance(backend, NowaitBackend)
    with pytest.raises(trio.WouldBlock):
        backend.receive_nowait()
    send.send_nowait(1)
    task = backend.receive_nowait()
    send.close()
    backend.settle_nowait(task, Retried(ERROR))
    assert backend.receive_nowait().parts.attempt == 2
    with pytest.raises(trio.EndOfChannel):
        backend.receive_nowait()


async def test_nowait_blocks_where_an_ended_channel_has_left_something_to_retry(autojump_clock: MockClock) -> None:
    send, backend = open_backend(lambda channel: channel)
    assert isinstance(backend, NowaitBackend)
    send.send_nowait(1)
    send.close()
    backend.settle_nowait(backend.receive_nowait(), Retried(ERROR, 5))
    with pytest.raises(trio.WouldBlock):
        backend.receive_nowait()
    await trio.sleep(5)
    assert backend.receive_nowait().args == 1


async def test_what_a_task_asks_for_is_heeded(autojump_clock: MockClock) -> None:
    send, backend = open_backend()
    start = trio.current_time()
    send.send_nowait(Task.builder("later").run_in_seconds(10).build())
    send.send_nowait(Task.builder("expired").run_in_seconds(5).expires_in(6).build())
    send.close()
    with trio.move_on_after(1):
        await backend.receive()
    await trio.sleep(6)
    task = await backend.receive()
    assert task.args == "later"
    assert trio.current_time() == start + 10
    assert isinstance(backend, ChannelBackend)
    assert [each.args for each in await backend.list_tasks(Status.Killed)] == ["expired"]


async def test_a_task_that_is_sent_twice_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    send, backend = open_backend()
    task = Task.builder(1).id("once").build()
    send.send_nowait(task)
    send.send_nowait(Task.builder(2).id("once").build())
    send.send_nowait(3)
    with caplog.at_level(logging.WARNING, "trio_tasks"):
        assert [(await backend.receive()).args for _ in range(2)] == [1, 3]
    assert "'once' has been pushed already" in caplog.text


# What comes back


async def test_a_retried_task_waits_and_then_goes_first(autojump_clock: MockClock) -> None:
    send, backend = open_backend()
    start = trio.current_time()
    for n in range(3):
        send.send_nowait(n)
    await backend.settle(await backend.receive(), Retried(ERROR, 10))
    assert (await backend.receive()).args == 1
    await trio.sleep_until(start + 10)
    again = await backend.receive()
    assert (again.args, again.parts.attempt) == (0, 2)
    assert (await backend.receive()).args == 2


async def test_a_released_task_goes_first_and_has_lost_no_attempt() -> None:
    send, backend = open_backend()
    send.send_nowait(0)
    send.send_nowait(1)
    await backend.settle(await backend.receive(), Released())
    again = await backend.receive()
    assert (again.args, again.parts.attempt) == (0, 1)


@both_kinds
async def test_a_retry_is_delivered_while_all_wait_for_the_channel(wrap: Wrap, autojump_clock: MockClock) -> None:
    send, backend = open_backend(wrap)
    send.send_nowait("again")
    task = await backend.receive()
    received: list[tuple[float, Any]] = []

    async def receive() -> None:
        again = await backend.receive()
        received.append((trio.current_time() - start, again.args))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await backend.settle(task, Retried(ERROR, 10))
        await trio.sleep(15)
        assert received == [(10, "again")]
        nursery.cancel_scope.cancel()


async def test_an_earlier_retry_is_not_delivered_late(autojump_clock: MockClock) -> None:
    send, backend = open_backend()
    send.send_nowait("late")
    send.send_nowait("early")
    late, early = await backend.receive(), await backend.receive()
    await backend.settle(late, Retried(ERROR, 10))
    start = trio.current_time()

    async def settle() -> None:
        await wait_all_tasks_blocked()
        await backend.settle(early, Retried(ERROR, 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        assert (await backend.receive()).args == "early"
        assert trio.current_time() == start + 1
        assert (await backend.receive()).args == "late"
        assert trio.current_time() == start + 10


@pytest.mark.parametrize("outcome", [Released(), Retried(ERROR)], ids=["released", "retried"])
@both_kinds
async def test_what_is_ready_at_once_is_delivered_at_once(
    wrap: Wrap, outcome: Released | Retried, autojump_clock: MockClock
) -> None:
    send, backend = open_backend(wrap)
    send.send_nowait(1)
    task = await backend.receive()
    start = trio.current_time()

    async def settle() -> None:
        await wait_all_tasks_blocked()
        await backend.settle(task, outcome)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        with trio.fail_after(1):
            assert (await backend.receive()).args == 1
    assert trio.current_time() == start


async def test_a_delayed_task_that_a_look_without_waiting_found_is_delivered_in_time(
    autojump_clock: MockClock,
) -> None:
    class TwoSources(PlainChannel[Any]):
        """What is looked up is not what is waited for."""

        in_the_other = [Task.builder("delayed").run_in_seconds(5).build()]  # noqa: RUF012  there is but one

        def receive_nowait(self) -> Any:
            if not self.in_the_other:
                raise trio.WouldBlock
            return self.in_the_other.pop()

    _, receive = trio.open_memory_channel[Any](math.inf)
    backend = as_backend(TwoSources(receive))
    assert isinstance(backend, NowaitBackend)
    start = trio.current_time()

    async def look() -> None:
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            backend.receive_nowait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert (await backend.receive()).args == "delayed"
    assert trio.current_time() == start + 5


async def test_settling_a_task_that_is_not_running_is_refused() -> None:
    send, backend = open_backend()
    send.send_nowait(1)
    task = await backend.receive()
    await backend.settle(task, Retried(ERROR))
    with pytest.raises(LeaseLostError):
        await backend.settle(task, DONE)
    with pytest.raises(LeaseLostError):
        await backend.settle(Task("stranger"), DONE)
    again = await backend.receive()
    with pytest.raises(LeaseLostError):
        await backend.settle(task, DONE)
    await backend.settle(again, DONE)


async def test_settling_takes_effect_even_if_it_is_cancelled() -> None:
    send, backend = open_backend()
    send.send_nowait(1)
    task = await backend.receive()
    with trio.CancelScope() as scope:
        scope.cancel()
        await backend.settle(task, Retried(ERROR))
    assert (await backend.receive()).parts.attempt == 2


async def test_dead_letters_stay_readable_and_can_be_resumed() -> None:
    send, backend = open_backend()
    assert isinstance(backend, ChannelBackend)
    send.send_nowait("failed")
    send.send_nowait("killed")
    failed, killed = await backend.receive(), await backend.receive()
    await backend.settle(failed, Failed(ERROR))
    await backend.settle(killed, Killed(ERROR))
    assert [each.parts.id for each in await backend.list_tasks(Status.Failed)] == [failed.parts.id]
    assert [each.parts.id for each in await backend.list_tasks(Status.Killed)] == [killed.parts.id]
    assert (await backend.wait_for(failed.parts.id)).error is ERROR

    async def resume() -> None:
        await wait_all_tasks_blocked()
        assert await backend.resume_by_id(failed.parts.id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resume)
        again = await backend.receive()
    assert (again.args, again.parts.attempt) == ("failed", 1)
    assert await backend.vacuum() == 1
    assert not await backend.list_tasks(Status.Killed)


async def test_the_end_of_a_task_can_be_waited_for() -> None:
    send, backend = open_backend()
    assert isinstance(backend, ChannelBackend)
    send.send_nowait(1)
    task = await backend.receive()
    results: list[Any] = []

    async def wait() -> None:
        results.append((await backend.wait_for(task.parts.id)).unwrap())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await backend.settle(task, Succeeded("fine"))
    assert results == ["fine", "fine"]


# The end


async def test_it_ends_when_nothing_is_left_to_retry(autojump_clock: MockClock) -> None:
    send, backend = open_backend()
    send.send_nowait(1)
    task = await backend.receive()
    send.close()
    await backend.settle(task, Retried(ERROR, 10))
    start = trio.current_time()
    again = await backend.receive()
    assert trio.current_time() == start + 10
    await backend.settle(again, DONE)
    with pytest.raises(trio.EndOfChannel):
        await backend.receive()


async def test_all_waiting_receivers_get_the_end_of_the_channel() -> None:
    send, backend = open_backend()
    ended: list[bool] = []

    async def receive() -> None:
        with pytest.raises(trio.EndOfChannel):
            await backend.receive()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        send.close()
    assert len(ended) == 3


async def test_cancelling_the_last_retry_is_the_end(autojump_clock: MockClock) -> None:
    send, backend = open_backend()
    assert isinstance(backend, ChannelBackend)
    send.send_nowait(1)
    task = await backend.receive()
    send.close()
    await backend.settle(task, Retried(ERROR, 1000))
    start = trio.current_time()

    async def cancel() -> None:
        await wait_all_tasks_blocked()
        assert await backend.cancel(task.parts.id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with pytest.raises(trio.EndOfChannel):
            await backend.receive()
    assert trio.current_time() == start


async def test_closing_it_closes_the_channel() -> None:
    send, backend = open_backend()
    await backend.aclose()
    with pytest.raises(trio.BrokenResourceError):
        send.send_nowait(1)


async def test_it_describes_itself() -> None:
    send, backend = open_backend()
    for n in range(3):
        send.send_nowait(n)
    tasks = [await backend.receive() for _ in range(3)]
    await backend.settle(tasks[0], Released())
    await backend.settle(tasks[1], Failed(ERROR))
    assert repr(backend).startswith("<ChannelBackend over <")
    assert repr(backend).endswith(": 1 waiting, 1 running, 1 dead>")


# Cancellation


@both_kinds
@pytest.mark.parametrize("steps", range(12))
async def test_a_receive_that_is_cancelled_has_taken_nothing(wrap: Wrap, steps: int) -> None:
    send, backend = open_backend(wrap, 2)
    received: list[int] = []
    given_back: set[int] = set()

    async def keep_receiving(scope: trio.CancelScope) -> None:
        with scope, contextlib.suppress(trio.EndOfChannel):
            while True:
                task = await backend.receive()
                with trio.CancelScope(shield=True):
                    if task.args % 3 and task.args not in given_back:
                        given_back.add(task.args)
                        await backend.settle(task, Released() if task.args % 3 == 1 else Retried(ERROR))
                    else:
                        received.append(task.args)
                        await backend.settle(task, DONE)

    async def send_all() -> None:
        with send:
            for n in range(10):
                await send.send(n)

    scopes = [trio.CancelScope() for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(keep_receiving, scope)
        nursery.start_soon(send_all)
        for scope in scopes:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        await keep_receiving(trio.CancelScope())
    assert sorted(received) == list(range(10))


async def test_a_receive_that_is_cancelled_while_it_keeps_time_leaves_that_to_others(
    autojump_clock: MockClock,
) -> None:
    send, backend = open_backend()
    send.send_nowait(1)
    await backend.settle(await backend.receive(), Retried(ERROR, 10))
    start = trio.current_time()

    async def first(scope: trio.CancelScope) -> None:
        with scope:
            await backend.receive()

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, scope)
        await wait_all_tasks_blocked()
        nursery.start_soon(first, trio.CancelScope())
        await wait_all_tasks_blocked()
        scope.cancel()
    assert trio.current_time() == start + 10
    assert scope.cancelled_caught


# With a worker


@both_kinds
async def test_a_worker_runs_on_a_channel(wrap: Wrap, autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](math.inf)
    tries: dict[int, int] = {}

    async def handle(n: int) -> None:
        tries[n] = tries.get(n, 0) + 1
        await trio.sleep(1)
        if n % 2 and tries[n] == 1:
            raise ERROR

    for n in range(10):
        send.send_nowait(n)
    send.close()
    worker = Worker("w", wrap(receive), handle, concurrency=3, retry=RetryPolicy(2, constant(60)))
    report = await worker.run()
    assert (report.succeeded, report.retried) == (10, 5)
    assert tries == {n: 1 + n % 2 for n in range(10)}


@both_kinds
async def test_a_retried_task_holds_no_slot(wrap: Wrap, autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](math.inf)
    ran: list[tuple[float, int]] = []
    start = trio.current_time()

    async def handle(n: int) -> None:
        ran.append((trio.current_time() - start, n))
        if len(ran) == 1:
            raise ERROR

    for n in range(3):
        send.send_nowait(n)
    send.close()
    await Worker("w", wrap(receive), handle, concurrency=1, retry=RetryPolicy(2, constant(60))).run()
    assert ran == [(0, 0), (0, 1), (0, 2), (60, 0)]


@both_kinds
async def test_what_a_stopped_worker_left_is_there_for_its_next_run(wrap: Wrap, autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](math.inf)
    attempts: list[tuple[int, int]] = []

    async def handle(task: Task[int]) -> None:
        await trio.sleep(10)
        attempts.append((task.args, task.parts.attempt))

    for n in range(5):
        send.send_nowait(n)
    send.close()
    worker = Worker("w", wrap(receive), handle, concurrency=2)
    with trio.move_on_after(15):
        await worker.run()
    await worker.run()
    assert sorted(attempts) == [(n, 1) for n in range(5)]


async def test_a_channel_that_fails_ends_the_worker() -> None:
    class Broken(PlainChannel[int]):
        async def receive(self) -> int:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("the other end is gone")

    _, receive = trio.open_memory_channel[int](0)

    async def handle(n: int) -> None: ...

    with pytest.RaisesGroup(pytest.RaisesExc(trio.BrokenResourceError, match="is gone")):
        await Worker("w", Broken(receive), handle, concurrency=1).run()
