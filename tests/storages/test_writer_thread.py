"""Tests of the writer thread: calls are made in order and are not cut short, in a thread or in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from trio_tasks._backends.durable.io_thread import WriterThread
from trio_tasks._concurrency.threads import pause_instead, without_threads


@pytest.fixture(params=["thread", "in place"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "thread":
        yield "thread"
        return
    with without_threads(trio.lowlevel.checkpoint):
        yield "in place"


def writer(idle: list[str]) -> WriterThread:
    return WriterThread("a writer", lambda: idle.append("idle"), 0.001)


async def test_it_calls_where_it_should(place: str) -> None:
    thread = writer([])
    where = await thread.call(threading.current_thread)
    assert (where is threading.current_thread()) == (place == "in place")
    thread.end()


async def test_it_is_done_in_order(place: str) -> None:
    thread, asked, done = writer([]), list[int](), list[int]()

    async def ask(number: int) -> None:
        asked.append(number)
        await thread.call(done.append, number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, number)
    assert done == asked
    thread.end()


async def test_errors_are_raised_to_the_caller(place: str) -> None:
    thread = writer([])
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 / 0)
    assert await thread.call(int, "7") == 7
    thread.end()


async def test_it_cannot_be_cancelled(place: str) -> None:
    thread, done = writer([]), list[int]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await thread.call(done.append, 1)
    assert done == [1]
    assert not scope.cancelled_caught
    thread.end()


async def test_a_job_without_a_waiter_is_done_too_after_earlier_ones(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    thread, done = writer([]), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, done.append, "first")
        while place == "in place" and not (vars(thread)["_line"] or done):  # noqa: ASYNC110  it has been lined up once the line has it
            await trio.lowlevel.checkpoint()
        if place == "thread":
            await trio.testing.wait_all_tasks_blocked()
        thread.do_soon(done.append, "second")
        thread.do_soon(lambda: 1 / 0)
    await thread.call(done.append, "third")
    assert done == ["first", "second", "third"]
    assert "ZeroDivisionError" in caplog.text
    thread.end()


async def test_on_idle_is_called_once_when_no_call_comes(place: str) -> None:
    idle: list[str] = []
    thread = writer(idle)
    for _ in range(2):
        await thread.call(idle.clear)
        with trio.fail_after(60):
            while not idle:  # noqa: ASYNC110  it is called in the thread
                await trio.sleep(0.001)
        await trio.sleep(0.02)  # twenty times as long as it waits for a call
        assert idle == ["idle"], "once after each call"
    thread.end()


async def test_on_idle_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    thread = WriterThread("a writer", fail, 0.001)
    with trio.fail_after(60):
        while "ZeroDivisionError" not in caplog.text:  # noqa: ASYNC110  it is logged in the thread
            await trio.sleep(0.001)
        assert await thread.call(int, "7") == 7
    thread.end()


async def test_in_place_it_takes_as_long_as_it_is_told() -> None:
    paused: list[int] = []

    async def pause() -> None:
        paused.append(1)
        await trio.lowlevel.checkpoint()

    with without_threads(pause):
        thread = writer([])
        with without_threads(trio.lowlevel.checkpoint):
            assert pause_instead() is trio.lowlevel.checkpoint
        assert pause_instead() is pause
    assert pause_instead() is None
    before = threading.active_count()
    await thread.call(int)
    assert paused == [1]
    assert threading.active_count() == before
    thread.end()
