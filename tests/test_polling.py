"""Tests of poll strategies: they poll on time, ever more rarely, or when told, and never in a busy loop."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Backoff,
    CustomBackend,
    Interval,
    OnSignal,
    Retried,
    RetryPolicy,
    Task,
    Worker,
    constant,
    poll,
    race,
)
from trio_tasks.abc import PollStrategy


class Table:
    """A table that is polled: rows that arrive, and the times of the polls."""

    def __init__(self, *rows: Any, look: float = 0) -> None:
        self.rows = list(rows)
        self.looks: list[float] = []
        self._look = look
        self._start = trio.current_time()

    async def fetch(self) -> Any:
        """Return the next row, or None, after `look` seconds."""
        self.looks.append(round(trio.current_time() - self._start, 6))
        await trio.sleep(self._look)
        return self.rows.pop(0) if self.rows else None


async def look_for(seconds: float, receive: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What came out in that time."""
    found = []
    with trio.move_on_after(seconds):
        while True:
            found.append(await receive())
    return found


class Once(PollStrategy):
    """A user's strategy with ``wait`` alone, which notes its calls."""

    def __init__(self) -> None:
        self.waits = 0

    async def wait(self) -> None:
        self.waits += 1
        await trio.sleep(1)


# poll


async def test_what_is_there_is_fetched_without_waiting(autojump_clock: MockClock) -> None:
    table = Table(1, 2, 3)
    strategy = Once()
    receive = poll(table.fetch, strategy)
    assert [await receive() for _ in range(3)] == [1, 2, 3]
    assert table.looks == [0, 0, 0]
    assert strategy.waits == 0


async def test_the_strategy_says_when_to_look_again(autojump_clock: MockClock) -> None:
    table = Table()
    strategy = Once()
    assert await look_for(3.5, poll(table.fetch, strategy)) == []
    assert table.looks == [0, 1, 2, 3]
    assert strategy.waits == 4


async def test_the_end_of_what_is_looked_at_is_the_end() -> None:
    async def fetch() -> int | None:
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    with pytest.raises(trio.EndOfChannel):
        await poll(fetch, Interval(1))()


@pytest.mark.parametrize("row", [1, None])
async def test_a_poll_that_never_has_to_wait_can_be_cancelled(row: int | None) -> None:
    async def fetch() -> int | None:
        return row

    class Impatient(PollStrategy):
        async def wait(self) -> None: ...

    receive = poll(fetch, Impatient())
    with trio.move_on_after(0) as scope:
        while True:
            await receive()
    assert scope.cancelled_caught


@pytest.mark.parametrize("steps", range(8))
async def test_a_poll_that_is_cancelled_has_taken_nothing(steps: int, autojump_clock: MockClock) -> None:
    rows = list(range(5))

    async def fetch() -> int | None:
        await trio.lowlevel.checkpoint_if_cancelled()
        row = rows.pop(0) if rows and len(rows) != skipped.pop(0) else None
        await trio.lowlevel.cancel_shielded_checkpoint()
        return row

    skipped = [5, -1, 3, 3, *[-1] * 9]
    receive = poll(fetch, Interval(1))
    found: list[int] = []

    async def keep_receiving() -> None:
        while len(found) < 5:
            found.append(await receive())

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_receiving)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    await keep_receiving()
    assert found == list(range(5))


async def test_what_poll_cannot_use_is_refused_with_what_would_be_right() -> None:
    async def fetch() -> int | None: ...

    with pytest.raises(TypeError, match="fetch must be callable, as async fetch"):
        poll(5, Interval(1))  # type: ignore[arg-type]  # it is the wrong type on purpose
    with pytest.raises(TypeError, match=r"poll takes poll strategies, such as Interval\(5\).*, not 5"):
        poll(fetch, 5)  # type: ignore[arg-type]  # it is the wrong type on purpose
    with pytest.raises(TypeError, match=r"such as Interval\(5\).*, not <class"):
        poll(fetch, Interval)  # type: ignore[arg-type]  # it is the wrong type on purpose


# Interval


async def test_an_interval_does_not_drift(autojump_clock: MockClock) -> None:
    table = Table(look=0.3)
    await look_for(5.1, poll(table.fetch, Interval(1)))
    assert table.looks == [0, 1.3, 2.3, 3.3, 4.3]


async def test_a_beat_that_was_missed_is_left_out(autojump_clock: MockClock) -> None:
    table = Table(look=2.5)
    await look_for(12, poll(table.fetch, Interval(1)))
    assert table.looks == [0, 3.5, 6.5, 9.5]


async def test_a_wait_that_is_cancelled_does_not_put_the_next_one_off(autojump_clock: MockClock) -> None:
    interval = Interval(10)
    start = trio.current_time()
    await interval.wait()
    with trio.move_on_after(4):
        await interval.wait()
    await interval.wait()
    assert trio.current_time() == start + 20


async def test_an_interval_that_woke_late_is_on_time_again(mock_clock: MockClock) -> None:
    interval = Interval(10)
    start = trio.current_time()
    times: list[float] = []

    async def wait() -> None:
        while True:
            await interval.wait()
            times.append(trio.current_time() - start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for jump in (10.75, 9, 0.25):
            await wait_all_tasks_blocked()
            mock_clock.jump(jump)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert times == [10.75, 20]


async def test_an_interval_serves_again_where_the_clock_is_behind(mock_clock: MockClock) -> None:
    interval = Interval(10)

    async def wait() -> float:
        start = trio.current_time()
        await interval.wait()
        return trio.current_time() - start

    later = MockClock(autojump_threshold=0)
    later.jump(1000)
    assert await trio.to_thread.run_sync(lambda: trio.run(wait, clock=later)) == 10
    assert await trio.to_thread.run_sync(lambda: trio.run(wait, clock=MockClock(autojump_threshold=0))) == 10


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "5", None, True])
def test_an_interval_refuses_what_is_no_duration(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^seconds must be (a|more than 0)"):
        Interval(wrong)


# Backoff


async def test_a_backoff_grows_while_it_is_quiet_and_starts_afresh(autojump_clock: MockClock) -> None:
    table = Table()
    receive = poll(table.fetch, Backoff(1, factor=2, maximum=5))
    await look_for(18.5, receive)
    assert table.looks == [0, 1, 3, 7, 12, 17]
    table.rows.append("row")
    table.looks.clear()
    assert await look_for(2.2, receive) == ["row"]
    # Cut short at 18.5, so a look is due at once; and then it is as at the beginning.
    assert table.looks == [18.5, 18.5, 19.5]


async def test_a_backoff_is_scattered_by_jitter(autojump_clock: MockClock) -> None:
    waits = set()
    for _ in range(20):
        start = trio.current_time()
        await Backoff(1, jitter=0.5).wait()
        waits.add(trio.current_time() - start)
    assert len(waits) > 1
    assert all(0.49 < each <= 1.01 for each in waits)


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"first": 0}, "first must be more than 0 seconds"),
        ({"first": "1"}, "first must be a number of seconds"),
        ({"maximum": math.inf}, "maximum must be a finite number"),
        ({"first": 10, "maximum": 5}, "maximum must be 10 seconds or more"),
        ({"factor": 0.5}, "factor must be 1 or more"),
        ({"jitter": 2}, "jitter must be a number from 0 to 1"),
    ],
)
def test_a_backoff_refuses_what_makes_no_sense(options: dict[str, Any], right: str) -> None:
    with pytest.raises((TypeError, ValueError), match=right):
        Backoff(**options)


# OnSignal


async def test_a_signal_wakes_a_waiter(autojump_clock: MockClock) -> None:
    table = Table()
    signal = OnSignal()
    receive = poll(table.fetch, signal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for, 10, receive)
        await trio.sleep(3)
        signal.notify()
        await trio.sleep(3)
        assert table.looks == [0, 3]


async def test_a_signal_that_comes_during_a_look_is_not_lost(autojump_clock: MockClock) -> None:
    table = Table(look=1)
    signal = OnSignal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for, 10, poll(table.fetch, signal))
        await trio.sleep(0.5)
        signal.notify()
        signal.notify()
    assert table.looks == [0, 1]


async def test_a_signal_that_a_cancelled_wait_has_consumed_is_not_lost(autojump_clock: MockClock) -> None:
    table = Table()
    signal = OnSignal()
    receive = poll(table.fetch, race(signal, Interval(1000)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for, 10, receive)
        await trio.sleep(5)
        signal.notify()
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    table.rows.append("row")
    assert await look_for(1, receive) == ["row"]


@pytest.mark.parametrize("end", [False, True], ids=["more", "the end"])
async def test_a_channel_can_be_the_signal(end: bool, autojump_clock: MockClock) -> None:
    table = Table()
    send, channel = trio.open_memory_channel[str](10)
    receive = poll(table.fetch, OnSignal(channel))
    send.send_nowait("one")
    send.send_nowait("two, which counts as the same")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for, 10, receive)
        await trio.sleep(5)
        assert table.looks == [0, 0]
        if not end:
            send.send_nowait("three")
            await trio.sleep(1)
            assert table.looks == [0, 0, 5]
    if end:
        table.rows.append("stored before the end was told")
        send.close()
        assert await receive() == "stored before the end was told"
        with pytest.raises(trio.EndOfChannel):
            await receive()


async def test_an_end_that_was_told_together_with_a_signal_is_not_lost() -> None:
    send, channel = trio.open_memory_channel[str](10)
    signal = OnSignal(channel)
    send.send_nowait("last")
    send.close()
    await signal.wait()
    with pytest.raises(trio.EndOfChannel):
        await signal.wait()


async def test_an_async_function_can_be_the_signal(autojump_clock: MockClock) -> None:
    table = Table()

    async def next_minute() -> None:
        await trio.sleep(60)

    await look_for(150, poll(table.fetch, OnSignal(next_minute)))
    assert table.looks == [0, 60, 120]


async def test_a_signal_wakes_all_waiters() -> None:
    signal = OnSignal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(signal.wait)
        nursery.start_soon(signal.wait)
        await wait_all_tasks_blocked()
        signal.notify()
    with trio.move_on_after(0) as scope:
        await signal.wait()
    assert scope.cancelled_caught


async def test_a_signal_that_comes_while_several_wake_up_is_not_lost() -> None:
    signal = OnSignal()
    awake: list[None] = []

    async def wait() -> None:
        await signal.wait()
        awake.append(None)
        if len(awake) == 1:
            signal.notify()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        signal.notify()
    assert len(awake) == 2
    with trio.fail_after(60):
        await signal.wait()  # it was kept for the next wait
    with trio.move_on_after(0) as scope:
        await signal.wait()
    assert scope.cancelled_caught, "it was kept for one wait"


async def test_a_signal_refuses_what_cannot_tell() -> None:
    _, channel = trio.open_memory_channel[int](0)
    with pytest.raises(TypeError, match=r"a trio\.Event stays set.*notify\(\)"):
        OnSignal(trio.Event())  # type: ignore[arg-type]  # it is the wrong type on purpose
    with pytest.raises(TypeError, match="source must be callable, as an async function"):
        OnSignal(5)  # type: ignore[arg-type]  # it is the wrong type on purpose
    with pytest.raises(RuntimeError, match=r"has a source of signals.*OnSignal\(\)"):
        OnSignal(channel).notify()


# race


async def test_the_first_of_a_race_wins(autojump_clock: MockClock) -> None:
    table = Table()
    signal = OnSignal()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for, 25, poll(table.fetch, race(signal, Interval(10))))
        await trio.sleep(13)
        signal.notify()
    assert table.looks == [0, 10, 13, 20]


async def test_all_of_a_race_are_told_what_was_found(autojump_clock: MockClock) -> None:
    table = Table(None, None, None, "row")
    receive = poll(table.fetch, race(Backoff(1, factor=10), Interval(1000)))
    assert await receive() == "row"
    table.looks.clear()
    await look_for(1.5, receive)
    assert [look - table.looks[0] for look in table.looks] == [0, 1]


async def test_an_error_in_a_race_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.sleep(1)
        raise OSError("gone")

    send, channel = trio.open_memory_channel[str](0)
    send.close()
    ended = OnSignal(channel)
    with pytest.raises(OSError, match="gone"):
        await race(Interval(1000), OnSignal(fail)).wait()
    await race(Interval(1000), ended).wait()
    with pytest.raises(trio.EndOfChannel):
        await race(Interval(1000), race(ended)).wait()


def test_a_race_refuses_what_does_not_run() -> None:
    with pytest.raises(TypeError, match="at least one strategy"):
        race()
    with pytest.raises(TypeError, match=r"race takes poll strategies.*, not 5"):
        race(Interval(1), 5)  # type: ignore[arg-type]  # it is the wrong type on purpose


def test_strategies_describe_themselves() -> None:
    strategy = race(Interval(5), Backoff(1), OnSignal())
    assert repr(strategy) == ("race(Interval(5.0), Backoff(1, factor=2.0, maximum=30.0, jitter=0.0), OnSignal())")


# With a worker


async def test_a_worker_runs_on_what_has_to_be_looked_for(autojump_clock: MockClock) -> None:
    table = Table(1, None, Task("whole"), None, None, 3)
    handled: list[tuple[float, Any]] = []

    async def handle(args: Any) -> None:
        handled.append((trio.current_time() - start, args))
        if args == 1 and len(handled) == 1:
            raise ValueError

    async def stop_later() -> None:
        await trio.sleep(100)

    start = trio.current_time()
    backend = CustomBackend(receive=poll(table.fetch, Interval(10)))
    report = await Worker("w", backend, handle, retry=RetryPolicy(2, constant(15))).run_until(stop_later)
    assert handled == [(0, 1), (10, "whole"), (15, 1), (20, 3)]
    assert report.succeeded == 3
    assert len(table.looks) < 20


async def test_a_retry_that_is_due_does_not_wait_for_the_next_look(autojump_clock: MockClock) -> None:
    table = Table("row")
    backend: CustomBackend[str] = CustomBackend(receive=poll(table.fetch, Interval(1000)))
    start = trio.current_time()
    await backend.settle(await backend.receive(), Retried(ValueError(), 5))
    assert (await backend.receive()).parts.attempt == 2
    assert trio.current_time() == start + 5
