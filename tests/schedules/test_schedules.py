"""Tests of stored schedules: each time is fired once, over all schedulers, and none is lost."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import (
    BackendError,
    CronSpec,
    FileStorage,
    Firing,
    IntervalSpec,
    MemoryStorage,
    Pushed,
    Schedules,
    SqliteStorage,
    Status,
    Task,
    Worker,
    cron,
    every,
)
from trio_tasks._clock import use_wall_clock
from trio_tasks.abc import StoreSchedules
from trio_tasks.testing import virtual_clock

from tests._storages import STORAGES
from tests.schedules._minutes import between

Opener = Callable[[Path], AbstractAsyncContextManager[Any]]
Times = CronSpec | IntervalSpec
everywhere = pytest.mark.parametrize("opened", STORAGES.values(), ids=STORAGES)
UTC = timezone.utc
START = datetime(2026, 11, 28, 12, tzinfo=UTC)
MINUTE = 60.0


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=START) as clock:
        yield clock


def minutes(*numbers: float) -> list[datetime]:
    return [START + timedelta(minutes=number) for number in numbers]


@asynccontextmanager
async def scheduler(schedules: Schedules) -> AsyncGenerator[trio.CancelScope, None]:
    """Run a scheduler beside the block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(schedules.run)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def firings(storage: Any) -> list[Firing]:
    """The firings of all tasks in a storage, in the order of their times."""
    found = [await Firing.from_task(task) for task in await storage.list_tasks(limit=1000)]
    return sorted(found, key=lambda each: each.time)


async def times(storage: Any) -> list[datetime]:
    return [each.time for each in await firings(storage)]


async def run_for(schedules: Schedules, seconds: float) -> None:
    async with scheduler(schedules):
        await trio.sleep(seconds)


@everywhere
async def test_each_time_is_fired_when_it_is_due(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        assert issubclass(type(storage), StoreSchedules)
        schedules = Schedules(storage)
        await schedules.put("each", 7, cron("*/15 * * * *", zone="UTC"), overlap="allow", attempts=3)
        async with scheduler(schedules):
            await trio.sleep(15 * MINUTE - 1)
            assert await times(storage) == []
            await trio.sleep(1.001)
            [task] = await storage.list_tasks()
            assert (task.args, task.parts.attempts) == (7, 3)
            assert await firings(storage) == [Firing(minutes(15)[0], None, "each")]
            await trio.sleep(30 * MINUTE)
        assert await times(storage) == minutes(15, 30, 45)
        assert [each.previous for each in await firings(storage)] == [None, *minutes(15, 30)]


@everywhere
async def test_a_worker_runs_the_tasks_of_a_month(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    seen: list[tuple[int, Firing]] = []

    async def handle(n: int, firing: Firing) -> None:
        seen.append((n, firing))

    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        schedules.declare("nightly", 5, cron("30 2 * * *", zone="Europe/Berlin"))
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handle).run)
            nursery.start_soon(schedules.run)
            await trio.sleep(30 * 86400)
            nursery.cancel_scope.cancel()
    assert [firing.time.isoformat() for _, firing in seen][:2] == [
        "2026-11-29T02:30:00+01:00",
        "2026-11-30T02:30:00+01:00",
    ]
    assert len(seen) == 30
    assert {n for n, _ in seen} == {5}


@everywhere
@pytest.mark.parametrize(
    ("missed", "more", "expected"),
    [
        ("latest", {}, (1, 11, 12)),
        ("skip", {}, (1, 11, 12)),
        ("all", {}, (1, *range(2, 13))),
        ("all", {"limit": 3}, (1, 9, 10, 11, 12)),
        ("all", {"within": 170}, (1, 9, 10, 11, 12)),
    ],
    ids=["latest", "skip", "all", "limit", "within"],
)
async def test_times_that_passed_while_no_scheduler_ran(
    opened: Opener, tmp_path: Path, clock: MockClock, missed: Any, more: dict[str, Any], expected: tuple[int, ...]
) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(minutes=1), missed=missed, overlap="allow", **more)
        await run_for(schedules, 1.5 * MINUTE)
        await trio.sleep(10 * MINUTE)
        await run_for(schedules, 1 * MINUTE)
        assert await times(storage) == minutes(*expected)
        passed_over = 12 - len(expected)
        assert schedules.missed == ({"each": passed_over} if passed_over else {})


@everywhere
async def test_old_times_can_be_passed_over(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        for name, more in (("skip", {"missed": "skip"}), ("within", {"within": 1800}), ("latest", {})):
            await schedules.put(name, 1, cron("0 * * * *", zone="UTC"), **more)
        await trio.sleep(90.5 * MINUTE)
        await run_for(schedules, 1)
        assert [(each.schedule, each.time) for each in await firings(storage)] == [("latest", *minutes(60))]
        await run_for(schedules, 30 * MINUTE)
        assert {each.schedule for each in await firings(storage)} == {"latest", "skip", "within"}
        assert schedules.missed == {"skip": 1, "within": 1}


@everywhere
async def test_a_schedule_does_not_overlap_itself_unless_it_may(
    opened: Opener, tmp_path: Path, clock: MockClock
) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        await schedules.put("alone", 1, every(minutes=1))
        await run_for(schedules, 3.5 * MINUTE)
        [task] = await storage.list_tasks()
        assert task.parts.unique == "alone"
        assert await times(storage) == minutes(1)
        await storage.discard(task.parts.id)
        await run_for(schedules, 1 * MINUTE)
        assert await firings(storage) == [Firing(minutes(4)[0], minutes(3)[0], "alone")]


@everywhere
async def test_a_pause_passes_times_over(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(minutes=1), missed="all", overlap="allow")
        async with scheduler(schedules):
            await trio.sleep(1.5 * MINUTE)
            assert await schedules.pause("each")
            assert [(each.is_paused, each.next) for each in await schedules.list()] == [(True, None)]
            await trio.sleep(5 * MINUTE)
            assert await schedules.resume("each")
            assert await schedules.resume("each")
            await trio.sleep(1 * MINUTE)
        assert await times(storage) == minutes(1, 7)
        assert schedules.missed == {}
        assert not await schedules.pause("other")
        assert not await schedules.resume("other")


@everywhere
async def test_run_now(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(hours=1), jitter=600)
        await schedules.pause("each")
        await trio.sleep(90)
        task_id = await schedules.run_now("each")
        assert task_id is not None
        [task] = await storage.list_tasks()
        assert (task.parts.id, task.parts.status) == (task_id, Status.Pending)
        assert await storage.receive()
        assert await times(storage) == minutes(1.5)
        assert await schedules.run_now("each") == task_id, "it may not overlap"
        assert await schedules.run_now("other") is None


@everywhere
async def test_a_task_that_several_times_share_is_told_of_once(
    opened: Opener, tmp_path: Path, clock: MockClock
) -> None:
    async with opened(tmp_path / "tasks") as storage, storage.events() as events:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(minutes=1), missed="all", overlap="allow", unique="one")
        await trio.sleep(5.5 * MINUTE)
        await run_for(schedules, 1)
        [task] = await storage.list_tasks()
        assert await events.receive() == Pushed(task.parts.id, True)
        with trio.move_on_after(1):
            raise AssertionError(f"{await events.receive()} was told as well")


@everywhere
async def test_list_and_remove(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        assert await schedules.list() == []
        await schedules.put("weekly", 1, cron("0 9 * * MON", zone="Europe/Berlin"))
        await schedules.put("each", 1, every(minutes=1))
        await run_for(schedules, 90)
        each, weekly = await schedules.list()
        assert (each.name, each.spec, each.queue) == ("each", "every(minutes=1)", "default")
        assert (each.next, each.previous) == (*minutes(2), *minutes(1))
        assert weekly.next is not None
        assert (weekly.next.isoformat(), weekly.previous) == ("2026-11-30T09:00:00+01:00", None)
        assert (weekly.is_dynamic, weekly.is_orphaned, weekly.is_paused) == (True, False, False)
        assert await schedules.remove("each")
        assert not await schedules.remove("each")
        await run_for(schedules, 600)
        assert await times(storage) == minutes(1)
        assert [each.name for each in await schedules.list()] == ["weekly"]


@everywhere
async def test_an_edit_counts_from_now_on(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        async with scheduler(schedules):
            await schedules.put("each", 1, every(hours=1))
            await trio.sleep(61.5 * MINUTE)
            await storage.discard((await storage.list_tasks())[0].parts.id)
            await schedules.put("each", 2, every(minutes=2))
            await trio.sleep(MINUTE)
        [task] = await storage.list_tasks()
        assert task.args == 2
        assert await firings(storage) == [Firing(minutes(62)[0], minutes(60)[0], "each")]


@everywhere
async def test_what_stands_in_the_code_no_more_is_orphaned(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        before = Schedules(storage)
        before.declare("old", 1, every(minutes=1))
        await run_for(before, 1)
        now = Schedules(storage)
        now.declare("new", 2, every(minutes=1), overlap="allow")
        await now.put("dynamic", 3, every(minutes=1))
        await run_for(now, 1.5 * MINUTE)
        assert {each.schedule for each in await firings(storage)} == {"new", "dynamic"}
        infos = await now.list()
        assert {each.name: each.is_orphaned for each in infos} == {"old": True, "new": False, "dynamic": False}
        assert [each.is_orphaned for each in await Schedules(storage).list()] == [False, False, True]
        assert [each.is_orphaned for each in await before.list()] == [False, False, False], "it stands in the code here"
        assert await before.prune() == []
        assert await Schedules(storage).prune() == ["old"]
        assert await now.prune() == []
        assert [each.name for each in await now.list()] == ["dynamic", "new"]


@everywhere
async def test_nothing_is_orphaned_because_no_program_runs(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules, looking = Schedules(storage), Schedules(storage)
        schedules.declare("each", 1, every(minutes=1))
        await run_for(schedules, 1)
        await trio.sleep(30 * 86400)
        assert [each.is_orphaned for each in await looking.list()] == [False]
        assert await looking.prune() == []


@everywhere
async def test_a_schedule_is_not_orphaned_while_a_program_runs_that_has_it(
    opened: Opener, tmp_path: Path, clock: MockClock
) -> None:
    async with opened(tmp_path / "tasks") as storage:
        older, newer, looking = Schedules(storage), Schedules(storage), Schedules(storage)
        for name in ("fired", "paused"):
            older.declare(name, 1, every(minutes=1), overlap="allow")
        await older.put("dynamic", 1, every(days=1))
        async with scheduler(newer):
            async with scheduler(older):
                await older.pause("paused")
                await trio.sleep(3600.5)
                assert not any(each.is_orphaned for each in await looking.list())
                assert await looking.prune() == []
            assert await times(storage) == minutes(*range(1, 61)), "marking it costs none of its times"
            await trio.sleep(601)
            assert [each.name for each in await looking.list() if each.is_orphaned] == ["fired", "paused"]
            [dynamic] = await storage.list_schedules(name="dynamic")
            assert dynamic.schedule.orphaned_from is None
            async with scheduler(older):
                await trio.sleep(1)
                assert not any(each.is_orphaned for each in await looking.list())
            await trio.sleep(601)
            assert await looking.prune() == ["fired", "paused"]
        assert [each.name for each in await looking.list()] == ["dynamic"]


@everywhere
async def test_schedules_of_other_queues_are_not_orphaned(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        first, second = Schedules(storage), Schedules(storage.share(queue="second"))
        first.declare("first", 1, every(minutes=1))
        second.declare("second", 1, every(minutes=1))
        await run_for(second, 1)
        await run_for(first, 1)
        assert not any(each.is_orphaned for each in await Schedules(storage).list())


@everywhere
async def test_of_two_versions_of_a_program_the_newer_one_wins(
    opened: Opener, tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    async with opened(tmp_path / "tasks") as storage:
        older, newer = Schedules(storage), Schedules(storage)
        older.declare("each", 1, every(minutes=3), overlap="allow")
        newer.declare("each", 2, every(minutes=2), overlap="allow")
        async with scheduler(older):
            await trio.sleep(3.5 * MINUTE)
            async with scheduler(newer):
                await trio.sleep(6 * MINUTE)
        assert await times(storage) == minutes(3, 4, 6, 8)
    assert "schedule each is now every(minutes=2); it was every(minutes=3)" in caplog.text
    assert caplog.text.count("schedule each is every(minutes=3) here") == 1


@everywhere
async def test_several_schedulers_fire_each_time_once(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        several = [Schedules(storage) for _ in range(4)]
        for each in several:
            each.declare("a", 1, every(seconds=7), overlap="allow")
            each.declare("b", 2, cron("* * * * *", zone="UTC"), overlap="allow")
        async with trio.open_nursery() as nursery:
            for each in several:
                nursery.start_soon(each.run)
            await trio.sleep(602)
            nursery.cancel_scope.cancel()
        found = await firings(storage)
        for name, step in (("a", 7), ("b", 60)):
            fired = [each for each in found if each.schedule == name]
            assert [each.time for each in fired] == between(every(seconds=step), START, START + timedelta(seconds=601))
            assert [each.previous for each in fired] == [None, *[each.time for each in fired[:-1]]]


@everywhere
async def test_jitter_is_a_delay_that_all_processes_agree_on(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(hours=1), jitter=600, overlap="allow")
        await run_for(schedules, 5.01 * 3600)
        tasks: list[Task[int]] = await storage.list_tasks()
        late = []
        for task in tasks:
            assert task.parts.run_at is not None
            late.append(round((task.parts.run_at - (await Firing.from_task(task)).time).total_seconds(), 1))
        assert sorted(late) == LATE


LATE = [118.2, 135.9, 396.9, 575.9, 600.0]
"""As in every other version, so that those of a rolling deploy agree."""


@everywhere
@pytest.mark.parametrize("hours", [-1, 24])
async def test_a_clock_that_is_set(hours: int, opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    """Back: no time is fired again. Forward: as after a time without a scheduler."""
    ahead = START.timestamp()
    with use_wall_clock(lambda: ahead + clock.current_time()):
        async with opened(tmp_path / "tasks") as storage:
            schedules = Schedules(storage)
            await schedules.put("each", 1, every(minutes=1), overlap="allow")
            async with scheduler(schedules):
                await trio.sleep(61)
                ahead += hours * 3600
                await trio.sleep(60)
                day = 24 * 60
                assert await times(storage) == minutes(1) if hours < 0 else minutes(1, day + 2)
                await trio.sleep(3600)
                expected = minutes(1, 2) if hours < 0 else minutes(1, *range(day + 2, day + 63))
                assert (await times(storage))[: len(expected)] == expected


async def test_a_calendar_stands_in_the_code_only(clock: MockClock) -> None:
    def on_weekdays(day: date) -> bool:
        return day.weekday() < 5

    def twice(day: date) -> bool:
        return day.day % 2 == 0

    times_ = cron("@daily", zone="UTC").on(on_weekdays)
    storage = MemoryStorage[int]()
    schedules, other = Schedules(storage), Schedules(storage)
    with pytest.raises(ValueError, match="calendar is a function"):
        await schedules.put("daily", 1, times_)
    schedules.declare("daily", 1, times_)
    await run_for(schedules, 7 * 86400)
    assert [each.time.weekday() for each in await firings(storage)] == [0]
    other.declare("daily", 1, cron("@daily", zone="UTC").on(twice))
    [info] = await other.list()
    assert (info.spec, info.next) == ("cron('0 0 * * *', zone='UTC').on(" + on_weekdays.__qualname__ + ")", None)


async def test_the_error_of_a_calendar_stops_no_other_schedule(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    def calendar(day: date) -> bool:
        if broken:
            raise SystemExit
        return True

    storage = MemoryStorage[int]()
    schedules = Schedules(storage)
    schedules.declare("broken", 1, cron("* * * * *", zone="UTC").on(calendar), overlap="allow")
    schedules.declare("fine", 1, every(minutes=1), overlap="allow")
    async with scheduler(schedules):
        await trio.sleep(61)
        broken = True
        await trio.sleep(120)
        broken = False
        await trio.sleep(120)
    fired = [(each.schedule, each.time) for each in await firings(storage)]
    assert [time for name, time in fired if name == "fine"] == minutes(1, 2, 3, 4, 5)
    assert [time for name, time in fired if name == "broken"] == minutes(1, 4, 5)
    assert "the times of schedule broken cannot be computed" in caplog.text


async def test_schedules_of_several_queues(tmp_path: Path, clock: MockClock) -> None:
    async with SqliteStorage(tmp_path / "tasks", int, queue="ints", synchronous="NORMAL") as ints:
        texts = ints.share(str, queue="texts")
        both, one = Schedules(ints, texts), Schedules(ints)
        await both.put("number", 1, every(minutes=1))
        await both.put("text", "a", every(minutes=1), queue="texts")
        by_kind = Schedules(ints, texts, queue_of=lambda args: "texts" if isinstance(args, str) else "ints")
        await by_kind.put("paused", "b", every(minutes=1))
        await by_kind.pause("paused")
        assert [(each.name, each.queue) for each in await one.list()] == [
            ("number", "ints"),
            ("paused", "texts"),
            ("text", "texts"),
        ]
        with pytest.raises(ValueError, match="queue must be one of 'ints'"):
            await one.put("text", "a", every(minutes=1), queue="texts")
        with pytest.raises(ValueError, match="'texts', which is not here"):
            await one.run_now("text")
        await run_for(one, 61)
        assert (len(await times(ints)), len(await times(texts))) == (1, 0)
        await run_for(both, 1)
        assert (len(await times(ints)), len(await times(texts))) == (1, 1)


@pytest.mark.parametrize("kind", [FileStorage, SqliteStorage])
async def test_schedules_outlive_the_program(kind: Any, tmp_path: Path, clock: MockClock) -> None:
    for _ in range(3):
        async with kind(tmp_path / "tasks", int, synchronous="NORMAL") as storage:
            schedules = Schedules(storage)
            if not await schedules.list():
                await schedules.put("each", 1, every(minutes=1), overlap="allow")
                await schedules.put("paused", 1, every(minutes=1))
                await schedules.pause("paused")
                await schedules.put("removed", 1, every(minutes=1))
                await schedules.remove("removed")
            await run_for(schedules, 90)
        await trio.sleep(600)
    async with kind(tmp_path / "tasks", int) as storage:
        assert [each.name for each in await Schedules(storage).list()] == ["each", "paused"]
        assert await times(storage) == minutes(1, 11, 12, 23, 24)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"missed": "none"}, ValueError, "missed must be one of 'latest', 'skip', 'all'"),
    ({"overlap": True}, ValueError, "overlap must be one of 'skip', 'allow'"),
    ({"missed": "all"}, ValueError, "needs overlap='allow'"),
    ({"within": 0}, ValueError, "more than 0"),
    ({"limit": 0}, ValueError, "limit must be 1 or more"),
    ({"jitter": -1}, ValueError, "jitter must be 0 or more"),
    ({"jitter": float("nan")}, ValueError, "jitter must be a finite number"),
    ({"jitter": True}, TypeError, "jitter must be a number"),
    ({"jitter": 1e300}, ValueError, "jitter must be 100 years or less"),
    ({"within": True}, TypeError, "within must be a number"),
    ({"within": float("nan")}, ValueError, "within must be a finite number"),
    ({"within": 1e300}, ValueError, "within must be 100 years or less"),
    ({"limit": True}, TypeError, "limit must be a whole number"),
    ({"limit": 10_001}, ValueError, "limit must be 10,000 or less"),
    ({"missed": ["all"]}, ValueError, "missed must be one of"),
    ({"queue": []}, ValueError, "queue must be one of 'default'"),
    ({"metadata": {"firing": 1}}, ValueError, "the metadata 'firing' of a schedule's task is its Firing"),
    ({"delay": 5}, TypeError, "has no delay"),
    ({"jiter": 5}, TypeError, "a schedule has no option 'jiter'; it takes .* jitter, "),
    ({"id": "x"}, TypeError, "has no id"),
    ({"unique": "x"}, ValueError, "needs overlap='allow'"),
    ({"attempts": 0}, ValueError, "attempts must be 1 or more"),
    ({"queue": "other"}, ValueError, "queue must be one of 'default'"),
]


@pytest.mark.parametrize(("keywords", "kind", "text"), BAD, ids=[repr(each[0]) for each in BAD])
async def test_bad_settings_are_refused(keywords: dict[str, Any], kind: type[Exception], text: str) -> None:
    schedules = Schedules(MemoryStorage[int]())
    with pytest.raises(kind, match=text):
        await schedules.put("name", 1, every(minutes=1), **keywords)
    with pytest.raises(kind, match=text):
        schedules.declare("name", 1, every(minutes=1), **keywords)
    assert await schedules.list() == []


BAD_NAMES: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "must not be an empty string"),
    ("a\nb", ValueError, "must have no control characters"),
    ("a\x00", ValueError, "must have no control characters"),
    ("a\x9b", ValueError, "must have no control characters"),
    ("\udcff", ValueError, "UTF-8"),
    ("x" * 1025, ValueError, "1024 bytes or less"),
    (None, TypeError, "must be a string"),
    (b"x", TypeError, "must be a string"),
]


async def test_bad_arguments_are_refused() -> None:
    storage = MemoryStorage[int](type=int)
    schedules = Schedules(storage)
    wrong: Any = "* * * * *"
    with pytest.raises(TypeError, match=r"what cron\(\) or every\(\) returns"):
        await schedules.put("name", 1, wrong)
    for name, kind, text in BAD_NAMES:
        with pytest.raises(kind, match=text):
            await schedules.put(name, 1, every(minutes=1))
        with pytest.raises(kind, match=text):
            schedules.declare(name, 1, every(minutes=1))
        for change in (schedules.pause, schedules.resume, schedules.remove, schedules.run_now):
            with pytest.raises(kind, match=text):
                await change(name)
    with pytest.raises(ValueError, match="args must be int"):
        await schedules.put("name", "text", every(minutes=1))
    schedules.declare("name", 1, every(minutes=1))
    with pytest.raises(ValueError, match="declared already"):
        schedules.declare("name", 1, every(minutes=1))
    with pytest.raises(TypeError, match="Schedules takes"):
        Schedules()
    with pytest.raises(TypeError, match="can store schedules"):
        Schedules(5)
    with pytest.raises(ValueError, match="two of the storages are queue 'default'"):
        Schedules(storage, MemoryStorage[int]())
    with pytest.raises(TypeError, match="queue_of must be callable"):
        Schedules(storage, queue_of=wrong)


@everywhere
async def test_the_scheduler_ends_with_its_storage(opened: Opener, tmp_path: Path, clock: MockClock) -> None:
    async with opened(tmp_path / "tasks") as storage, trio.open_nursery() as nursery:
        schedules = Schedules(storage)
        await schedules.put("each", 1, every(days=30))
        nursery.start_soon(schedules.run)
        await trio.sleep(90)
        storage.close()
    assert trio.current_time() == 90


class Unsteady(StoreSchedules):
    """A queue whose store fails when told to: before it does anything, or after it has done it."""

    def __init__(self, storage: Any) -> None:
        self.storage, self.queue = storage, storage.queue
        self.failures: list[str] = []

    async def list_schedules(self, after: int = 0, *, name: str | None = None) -> Any:
        return await self._call("list", lambda: self.storage.list_schedules(after, name=name))

    async def set_schedules(self, changes: Any) -> Any:
        return await self._call("set", lambda: self.storage.set_schedules(changes))

    def make_template(self, task: Task[Any]) -> Any:
        return self.storage.make_template(task)

    async def wait_for_schedules(self, seen: int = 0) -> int:
        found: int = await self._call("wait", lambda: self.storage.wait_for_schedules(seen))
        return found

    async def _call(self, what: str, call: Callable[[], Any]) -> Any:
        failure = self.failures.pop(0) if self.failures and what in self.failures[0] else ""
        if failure.startswith("before"):
            raise BackendError("the disk is busy")
        result = await call()
        if failure:
            raise BackendError("the answer was lost")
        return result


@pytest.mark.parametrize("failure", ["before list", "before set", "after set", "before wait"])
async def test_a_store_that_fails_for_a_moment_costs_no_time_and_repeats_none(
    clock: MockClock, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    first = MemoryStorage[int]()
    second = first.share(queue="second")
    unsteady = Unsteady(first)
    schedules = Schedules(unsteady, Unsteady(second))
    for queue in ("default", "second"):
        schedules.declare(queue, 1, every(minutes=1), queue=queue, missed="all", overlap="allow")
    unsteady.failures = [failure, failure]  # as it starts
    async with scheduler(schedules):
        await trio.sleep(150)
        unsteady.failures = [failure, failure]  # and when both are due
        await trio.sleep(155)
    assert await times(first) == await times(second) == minutes(1, 2, 3, 4, 5)
    assert "schedules cannot be read or fired; trying again" in caplog.text


async def test_a_queue_that_is_closed_takes_no_other_one_with_it(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_tasks")
    first = MemoryStorage[int]()
    second, third = first.share(queue="second"), first.share(queue="third")
    schedules = Schedules(first, second, third)
    for queue in ("default", "second", "third"):
        schedules.declare(queue, 1, every(minutes=1), queue=queue, overlap="allow")
    async with trio.open_nursery() as nursery:
        await nursery.start(schedules.run)
        await trio.sleep(90)
        first.close()
        await trio.sleep(60)
        third.close()
        await trio.sleep(60)
        second.close()
    assert trio.current_time() == 210
    assert await times(second) == minutes(1, 2, 3)
    assert await times(third) == minutes(1, 2)
    assert await times(first) == minutes(1)
    assert "the queue 'third' is closed" in caplog.text


async def test_a_task_of_no_schedule_has_no_firing(clock: MockClock) -> None:
    storage = MemoryStorage[int]()
    await storage.push(1)
    with pytest.raises(TypeError, match="was not made by a schedule"):
        await Firing.from_task(await storage.receive())


async def test_a_schedule_that_cannot_be_read_is_left_alone_or_replaced(
    tmp_path: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tasks.db"
    async with SqliteStorage(path, int, synchronous="NORMAL") as storage:
        schedules = Schedules(storage)
        for name in ("put", "removed", "declared"):
            await schedules.put(name, 1, every(minutes=1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE trio_tasks_schedule SET body = x'80'")
    async with SqliteStorage(path, int, synchronous="NORMAL") as storage:
        schedules = Schedules(storage)
        schedules.declare("declared", 1, every(minutes=1))
        assert await schedules.list() == []
        assert "schedule put cannot be read" in caplog.text
        assert not await schedules.pause("put")
        assert await schedules.run_now("put") is None
        await schedules.put("put", 1, every(minutes=1))
        assert await schedules.remove("removed")
        await run_for(schedules, 61)
        assert {each.schedule for each in await firings(storage)} == {"put", "declared"}
