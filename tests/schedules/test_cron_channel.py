"""Tests of Cron: the times of a schedule as a channel, in one process."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_tasks import (
    Cron,
    Firing,
    MemoryStorage,
    RetryAfterError,
    Schedules,
    Worker,
    WorkerContext,
    cron,
    every,
)
from trio_tasks._clock import use_wall_clock
from trio_tasks.testing import Cut, explore_cancellations, virtual_clock

UTC = timezone.utc
START = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=START) as clock:
        yield clock


def minutes(*numbers: int) -> list[datetime]:
    return [START + timedelta(minutes=number) for number in numbers]


async def test_each_time_comes_when_it_is_due(clock: MockClock) -> None:
    channel = Cron("*/15 * * * *", zone="UTC")
    firings = []
    for number in (1, 2, 3):
        firings.append(await channel.receive())
        assert trio.current_time() == number * 900
    assert [each.time for each in firings] == minutes(15, 30, 45)
    assert [each.previous for each in firings] == [None, *minutes(15, 30)]
    assert firings[0].schedule == "cron('*/15 * * * *', zone='UTC')"


async def test_a_worker_is_given_firings_through_a_month(clock: MockClock) -> None:
    seen: list[Firing] = []

    async def report(firing: Firing, context: WorkerContext) -> None:
        seen.append(firing)
        if len(seen) == 31:
            context.stop()

    await Worker("reports", Cron(cron("0 3 * * *", zone="Europe/Berlin")), report).run()
    assert [each.time.astimezone(UTC) for each in seen] == [
        datetime(2026, 11, 29, 2, tzinfo=UTC) + timedelta(days=day) for day in range(31)
    ]


async def test_a_firing_that_failed_is_tried_again(clock: MockClock) -> None:
    seen: list[tuple[float, datetime]] = []

    async def report(firing: Firing, context: WorkerContext) -> None:
        seen.append((trio.current_time(), firing.time))
        if len(seen) == 1:
            raise RetryAfterError(ValueError("not yet"), 30)
        context.stop()

    await Worker("reports", Cron("* * * * *", zone="UTC"), report, concurrency=1).run()
    assert seen == [(60, *minutes(1)), (90, *minutes(1))]


async def test_of_the_times_that_passed_meanwhile_the_last_one_comes_at_once(clock: MockClock) -> None:
    channel = Cron(every(minutes=1))
    assert (await channel.receive()).time == minutes(1)[0]
    await trio.sleep(200)
    firing = await channel.receive()
    assert (firing.time, firing.previous) == (minutes(4)[0], minutes(1)[0])
    assert trio.current_time() == 260
    assert (await channel.receive()).time == minutes(5)[0]


async def test_several_receivers_share_the_times(clock: MockClock) -> None:
    channel = Cron("* * * * *", zone="UTC")
    times = []

    async def receive() -> None:
        times.extend([(await channel.receive()).time for _ in range(3)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
    assert sorted(times) == minutes(1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("hours", [-1, 24])
async def test_a_clock_that_is_set(hours: int, autojump_clock: MockClock) -> None:
    """Back: no time comes again. Forward: as after a time without receiving."""
    ahead = START.timestamp()
    with use_wall_clock(lambda: ahead + trio.current_time()):
        channel = Cron("* * * * *", zone="UTC")
        assert (await channel.receive()).time == minutes(1)[0]
        ahead += hours * 3600
        firing = await channel.receive()
        if hours < 0:
            assert firing.time == minutes(2)[0]
            assert 3600 <= trio.current_time() - 60 <= 3661
        else:
            assert firing.time == minutes(24 * 60 + 1)[0]
            assert trio.current_time() == 60
        assert firing.previous == minutes(1)[0]


class JumpingClock(trio.abc.Clock):
    """A clock that goes on to the next deadline whenever all trio tasks wait, and is not taken for virtual time."""

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        """Begin at 0."""

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if deadline == math.inf:
            return 60.0
        self.now = max(self.now, deadline)
        return 0.0


async def receive_daily(times: list[tuple[float, datetime]]) -> None:
    channel = Cron("@daily", zone="UTC")
    for _ in range(2):
        firing = await channel.receive()
        times.append((trio.current_time(), firing.time))


async def fire_daily(times: list[tuple[float, datetime]]) -> None:
    storage = MemoryStorage[int]()
    schedules = Schedules(storage)
    await schedules.put("daily", 1, cron("@daily", zone="UTC"), overlap="allow")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedules.run)
        for _ in range(2):
            firing = await Firing.from_task(await storage.receive())
            times.append((trio.current_time(), firing.time))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("follow", [receive_daily, fire_daily])
def test_the_wall_clock_is_looked_at_each_second(follow: Callable[[list[Any]], Awaitable[None]]) -> None:
    """It is set forward to the next midnight, then back by a day, and forward by two."""
    ahead, times = START.timestamp(), list[tuple[float, datetime]]()

    async def set_clock() -> None:
        nonlocal ahead
        for seconds in (43200 - 30, -86400, 2 * 86400):
            await trio.sleep(20.5)
            ahead += seconds

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, times)
            nursery.start_soon(set_clock)

    clock = JumpingClock()
    with use_wall_clock(lambda: ahead + clock.now):
        trio.run(main, clock=clock)
    assert [time.day for _, time in times] == [29, 30]
    # 1. It was set to half a minute before midnight but for the 20.5 s that had passed.
    # 2. It was set a day forward, on balance: that midnight has passed, and is noticed with the next look.
    assert [seconds for seconds, _ in times] == [pytest.approx(30, abs=0.01), pytest.approx(62, abs=0.51)]


async def test_the_end(clock: MockClock) -> None:
    channel = Cron("@yearly", zone="UTC")
    assert repr(channel) == "<Cron cron('0 0 1 1 *', zone='UTC')>"

    async def receive() -> None:
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await channel.aclose()
    await receive()
    await channel.aclose()
    assert [each async for each in channel] == []
    assert repr(channel) == "<Cron cron('0 0 1 1 *', zone='UTC'), closed>"


async def test_a_calendar_that_ends_ends_the_channel(clock: MockClock) -> None:
    last = START + timedelta(days=2)
    channel = Cron(cron("@daily", zone="UTC").on(lambda day: day <= last.date()))
    assert [each.time.day async for each in channel] == [29, 30]


BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (("0 3 * * *",), {}, TypeError, "needs the time zone"),
    (("0 3 * *",), {"zone": "UTC"}, ValueError, "5 fields"),
    ((every(minutes=1),), {"zone": "UTC"}, TypeError, "times alone"),
    ((5,), {}, TypeError, "cron expression"),
]


@pytest.mark.parametrize(("arguments", "keywords", "kind", "text"), BAD, ids=[repr(each[0]) for each in BAD])
def test_bad_arguments_are_refused(
    arguments: tuple[Any, ...], keywords: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        Cron(*arguments, **keywords)


def test_no_time_is_lost_wherever_receive_is_cancelled() -> None:
    async def program(cut: Cut) -> None:
        channel = Cron("* * * * *", zone="UTC")
        times = [(await channel.receive()).time]
        with cut:
            times.append((await channel.receive()).time)
        times.append((await channel.receive()).time)
        first, *_ = times
        assert times == [first + timedelta(minutes=number) for number in range(len(times))]

    assert explore_cancellations(program).cuts > 1
