"""Tests of the place of a task among those that wait: of one priority, the one that waits longest goes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import Killed, Retried, Status, Suspended

from tests._storages import STORAGES

Change = Callable[[Any], Awaitable[Any]]


async def nothing(storage: Any) -> None:
    await trio.lowlevel.checkpoint()


async def reschedule(storage: Any) -> None:
    assert await storage.reschedule("early", 0)


async def reschedule_several(storage: Any) -> None:
    assert await storage.reschedule(["early"], 0)


async def reschedule_after_orphans(storage: Any) -> None:
    await storage.resume_abandoned()
    assert await storage.reschedule("early", 0)


async def update(storage: Any) -> None:
    assert await storage.update(await storage.fetch_by_id("early"))


async def update_by_a_push(storage: Any) -> None:
    assert await storage.push(7, unique="key", on_conflict="update") == "early"


CHANGES: list[Change] = [
    nothing, reschedule, reschedule_several, reschedule_after_orphans, update, update_by_a_push,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", STORAGES)
async def test_a_task_whose_time_has_come_waits_from_then_on(
    kind: str, change: Change, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await storage.push(1, id="early", delay=5.0, unique="key")
        await trio.sleep(6.0)
        await storage.push(2, id="late")
        await trio.sleep(1.0)
        await change(storage)
        assert (await storage.explain("early")).ahead == 0
        assert [str((await storage.receive()).parts.id) for _ in range(2)] == ["early", "late"]
        assert await storage.audit()


async def retried(storage: Any) -> None:
    await storage.push(1, id="other")
    task = await storage.receive()
    await storage.push(2, id="early", delay=5.0)
    await trio.sleep(6.0)
    await storage.settle(task, Retried(ValueError("again")))


async def suspended(storage: Any) -> None:
    await storage.push(1, id="early")
    task = await storage.receive()
    await storage.settle(task, Suspended(trio.current_time() + 5.0))
    await storage.push(2, id="other", delay=6.0)
    await trio.sleep(7.0)


async def resumed(storage: Any) -> None:
    await storage.push(1, id="other")
    await storage.settle(await storage.receive(), Killed(ValueError("no")))
    await storage.push(2, id="early", delay=5.0)
    await trio.sleep(6.0)
    await storage.resume_by_id("other")


async def rescheduled(storage: Any) -> None:
    await storage.push(1, id="other", delay=1000.0)
    await storage.push(2, id="early", delay=5.0)
    await trio.sleep(6.0)
    await storage.reschedule("other", 0)


async def updated(storage: Any) -> None:
    await storage.push(1, id="other", delay=1000.0, unique="key")
    await storage.push(2, id="early", delay=5.0)
    await trio.sleep(6.0)
    await storage.push(1, unique="key", on_conflict="update")


@pytest.mark.parametrize("case", [retried, suspended, resumed, rescheduled, updated])
@pytest.mark.parametrize("kind", STORAGES)
async def test_it_goes_before_those_that_are_ready_since(
    kind: str, case: Change, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await case(storage)
        ids = [str((await storage.receive()).parts.id) for _ in range(2)]
        assert ids == ["early", "other"]


@pytest.mark.parametrize("kind", STORAGES)
async def test_several_tasks_that_are_finished_together_stay_in_their_order(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await storage.push_bulk(range(2), priority=-1)
        delayed = await storage.push(2, delay=1000.0)
        first = await storage.push(3, priority=1)
        async with storage.events() as events:
            await storage.cancel([first, delayed])
            assert await storage.cancel_all() == 2
            told = [(await events.receive()).id for _ in range(4)]
        listed = await storage.list_tasks(Status.Killed)
        assert [task.args for task in listed] == [3, 2, 0, 1]
        assert [task.parts.id for task in listed] == told
        assert [task.parts.id for task in await storage.list_tasks(newest_first=True)] == told[::-1]


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_task_that_is_resumed_waits_for_no_time(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        ids = [
            await storage.push(1, delay=1000.0),
            await storage.push(2, run_at=datetime.now(timezone.utc) + timedelta(days=1)),
        ]
        await storage.cancel(ids)
        assert all((await storage.resume_by_id(ids)).changed)
        assert [task.parts.run_at for task in await storage.fetch_by_id(ids)] == [None, None]
        assert [(await storage.receive()).parts.run_at for _ in ids] == [None, None]


@pytest.mark.parametrize("kind", STORAGES)
async def test_an_audit_counts_what_is_due_by_now_as_the_metrics_do(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await storage.push(1, delay=5.0)
        await storage.push(2, expires_in=5.0)
        await storage.push(3, delay=5.0, expires_in=6.0)
        await storage.push(4)
        await storage.settle(await storage.receive(), Suspended(trio.current_time() + 5.0))
        for seconds in (0.0, 5.5, 1.0, 1000.0):
            await trio.sleep(seconds)
            balance, metrics = await storage.audit(), await storage.metrics()
            assert balance, str(balance)
            assert {**metrics, **balance.counters, **balance.tasks} == metrics


@pytest.mark.parametrize("kind", STORAGES)
async def test_the_oldest_one_that_waits_is_found_however_it_became_ready(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await storage.push(1, id="early", delay=5.0)
        await storage.push(2, id="expires", expires_in=8.0)
        await trio.sleep(6.0)
        await storage.push(3, id="late")
        await storage.reschedule("late", 0)  # which enters what is due
        await trio.sleep(10.0)
        assert (await storage.metrics())["oldest_waiting"] == pytest.approx(11.0, abs=0.5)


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_task_that_is_updated_in_its_place_counts_once(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        await storage.push(1, id="first", unique="key")
        await storage.push(2, id="second")
        for options in ({}, {"expires_in": 3600.0}, {}):
            await storage.push(3, unique="key", on_conflict="update", **options)
        assert (await storage.explain("second")).ahead == 1
        assert [task.parts.id for task in await storage.list_tasks()] == ["first", "second"]
        assert (await storage.receive()).args == 3


@pytest.mark.parametrize("kind", STORAGES)
async def test_a_task_that_does_not_come_back_has_no_new_time(kind: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        for outcome in (Retried(ValueError("again"), 60.0), Suspended(trio.current_time() + 60.0)):
            task_id = await storage.push(1)
            task = await storage.receive()
            assert await storage.abort(task_id)
            await storage.settle(task, outcome)
            parts = (await storage.fetch_by_id(task_id)).parts
            assert (parts.status, parts.run_at) == (Status.Killed, None)
