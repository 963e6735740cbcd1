"""Tests of the schedules of a router: a monitor stores and fires them, and they are changed at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import Call, Firing, Injected, MemoryStorage, Queues, Router, cron, every
from trio_tasks.testing import virtual_clock

START = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
Open = Callable[[Router], AbstractAsyncContextManager[Queues]]


@pytest.fixture
def clock() -> Iterator[MockClock]:
    with virtual_clock(start=START) as clock:
        yield clock


@pytest.fixture(params=["memory", "sqlite", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    def make(tasks: Router) -> Any:
        if request.param == "memory":
            return tasks.open(MemoryStorage[Call[object]]())
        return tasks.open(f"{request.param}:///{tmp_path}/tasks")

    return make


def router(seen: list[tuple[str, Firing]]) -> Router:
    tasks = Router()

    @tasks.task
    async def report(customer: str = "all", *, firing: Firing = Injected) -> None:
        seen.append((customer, firing))

    @tasks.task(queue="emails", unique="{to}")
    async def send(to: str, *, firing: Firing = Injected) -> None:
        seen.append((to, firing))

    tasks.schedule("hourly", report.bind(), cron("0 * * * *", zone="UTC"), missed="latest", jitter=300)
    tasks.schedule("mail", send.bind("a@example.com"), every(minutes=20), overlap="skip")
    return tasks


def hours(*numbers: float) -> list[datetime]:
    return [START + timedelta(hours=number) for number in numbers]


def times(seen: list[tuple[str, Firing]], name: str) -> list[datetime]:
    return [firing.time for _, firing in seen if firing.schedule == name]


async def test_a_monitor_fires_the_schedules(opened: Open, clock: MockClock) -> None:
    seen: list[tuple[str, Firing]] = []
    tasks = router(seen)
    async with opened(tasks) as queues, queues.monitor({"default": 2, "emails": 1}) as monitor:
        await trio.sleep(3.5 * 3600)
        monitor.shutdown()
    assert times(seen, "hourly") == hours(1, 2, 3)
    assert times(seen, "mail") == [START + timedelta(minutes=20 * number) for number in range(1, 11)]
    assert {value for value, _ in seen} == {"all", "a@example.com"}


async def test_schedules_are_changed_at_run_time(opened: Open, clock: MockClock) -> None:
    seen: list[tuple[str, Firing]] = []
    tasks = router(seen)
    report = tasks.functions["report"]
    async with opened(tasks) as queues, queues.monitor({"default": 2, "emails": 1}) as monitor:
        await queues.schedules.put("report-42", report.bind("42"), cron("30 * * * *", zone="UTC"))
        await trio.sleep(3600 * 1.75)
        await queues.schedules.pause("hourly")
        assert await queues.schedules.run_now("mail") is not None
        await trio.sleep(3600)
        listed = {each.name: (each.queue, each.is_paused, each.is_orphaned) for each in await queues.schedules.list()}
        assert listed == {
            "hourly": ("default", True, False),
            "mail": ("emails", False, False),
            "report-42": ("default", False, False),
        }
        await queues.schedules.remove("report-42")
        await trio.sleep(3600)
        monitor.shutdown()
    assert times(seen, "hourly") == hours(1)
    assert times(seen, "report-42") == hours(0.5, 1.5, 2.5)
    assert START + timedelta(hours=1.75) in times(seen, "mail")


async def test_schedules_of_an_included_router_belong_to_it(clock: MockClock) -> None:
    seen: list[tuple[str, Firing]] = []
    tasks, other = Router(), router(seen)
    tasks.include(other)
    other.schedule("late", other.functions["report"].bind("late"), every(hours=1))
    with pytest.raises(ValueError, match="two schedules have the name 'late'"):
        tasks.schedule("late", tasks.functions["report"].bind(), every(hours=1))
    async with tasks.open(MemoryStorage[Call[object]]()) as queues:
        async with queues.monitor({"default": 2, "emails": 1}) as monitor:
            await trio.sleep(3601)
            monitor.shutdown()
        assert [each.name for each in await queues.schedules.list()] == ["hourly", "late", "mail"]
    assert times(seen, "late") == hours(1)


async def test_what_is_wrong_with_a_schedule_is_said_where_it_is_defined() -> None:
    tasks = router([])
    call = tasks.functions["report"].bind()
    with pytest.raises(ValueError, match="two schedules have the name 'hourly'"):
        tasks.schedule("hourly", call, every(hours=1))
    with pytest.raises(ValueError, match="needs overlap='allow'"):
        tasks.schedule("all", call, every(hours=1), missed="all")
    with pytest.raises(TypeError, match="must be a Call"):
        tasks.schedule("none", 5, every(hours=1))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match="has no function 'other'"):
        tasks.schedule("none", Call("other", {}), every(hours=1))
    with pytest.raises(TypeError, match=r"what cron\(\) or every\(\) returns"):
        tasks.schedule("none", call, "* * * * *")  # type: ignore[arg-type]  # the mistake
