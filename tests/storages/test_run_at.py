"""Tests of ``run_at``: it is read back as given, and compared with the wall clock each time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, MemoryStorage, RetryAfterError, SqliteStorage, Status, Task, TaskBuilder, Worker
from trio_tasks.testing import run_until_idle, use_wall_clock, virtual_clock

HOUR = 3600.0
KINDS = ["memory", "file", "sqlite"]
ODD = timezone(-timedelta(hours=3, minutes=7, seconds=11))
MOMENTS = [
    datetime(2000, 1, 1, 0, 0, 20, 123457, timezone.utc),
    datetime(2000, 1, 1, 2, 0, 20, 1, timezone(timedelta(hours=2))),
    datetime(1999, 12, 31, 20, 53, 9, 999999, ODD),
    datetime(1999, 12, 31, tzinfo=timezone.utc),
    datetime(1, 1, 1, 12, tzinfo=ODD),
]


@asynccontextmanager
async def opened(kind: str, path: Path, **options: Any) -> AsyncGenerator[Any, None]:
    if kind == "memory":
        yield MemoryStorage[int]()
        return
    storage: Any = FileStorage(path, int) if kind == "file" else SqliteStorage(path, int, **options)
    async with storage:
        yield storage


def as_written(moment: datetime | None) -> str:
    return "never" if moment is None else moment.isoformat()


@pytest.mark.parametrize("moment", [*MOMENTS, None], ids=as_written)
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_given_is_read_back_everywhere_and_always(kind: str, moment: datetime | None, tmp_path: Path) -> None:
    """It is read while the task waits, is due, is in an attempt, is released, retried and done; and after the storage
    was opened again. A delay is read back as the time that it meant at the push.
    """
    given: dict[str, Any] = {"delay": 20.0} if moment is None else {"run_at": moment}
    seen: list[datetime | None] = []
    wanted = [moment or datetime(2000, 1, 1, 0, 0, 20, tzinfo=timezone.utc)]

    async def handler(task: Task[int]) -> None:
        seen.append(task.parts.run_at)
        if len(seen) == 2:
            raise RetryAfterError("again", 0)

    async def main() -> None:
        async with opened(kind, tmp_path / "tasks") as storage:
            task_id = await storage.push(1, **given)
            seen.append((await storage.fetch_by_id(task_id)).parts.run_at)
            seen.extend(task.parts.run_at for task in await storage.list_tasks(Status.Pending))
            await trio.sleep(50)
            seen.append((await storage.fetch_by_id(task_id)).parts.run_at)
            before = [*seen]
            seen.clear()
            await run_until_idle(Worker("w", storage, handler))
            seen.append((await storage.fetch_by_id(task_id)).parts.run_at)
            seen.extend(before)
        if kind != "memory":
            async with opened(kind, tmp_path / "tasks") as storage:
                seen.append((await storage.fetch_by_id(task_id)).parts.run_at)

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert [each and each.isoformat() for each in seen] == [each.isoformat() for each in wanted * len(seen)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_moved_tells_so(kind: str, tmp_path: Path) -> None:
    start = datetime(2000, 1, 1, tzinfo=timezone.utc)
    seen: list[datetime | None] = []

    async def main() -> None:
        async with opened(kind, tmp_path / "tasks") as storage:
            task_id = await storage.push(1, run_at=MOMENTS[1])

            async def look() -> None:
                seen.append((await storage.fetch_by_id(task_id)).parts.run_at)

            await storage.reschedule(task_id, 300)
            await look()
            await storage.reschedule(task_id, 0)
            await look()

            async def again_later(_: Task[int]) -> None:
                raise RetryAfterError("later", 77)

            await run_until_idle(Worker("w", storage, again_later))
            await look()
            await trio.sleep(100)
            await look()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert seen == [start + timedelta(seconds=300), None, *[start + timedelta(seconds=77)] * 2]


def wall_of(hours: list[float]) -> Callable[[], float]:
    return lambda: time.time() + hours[0] * HOUR


@pytest.mark.parametrize("kind", KINDS)
async def test_the_wall_clock_is_set_while_a_moment_is_waited_for(kind: str, tmp_path: Path) -> None:
    """If it is set forward, the task is due at once. If it is set back, the task waits for longer, and started tasks do
    not change. Delays do not change.
    """
    ahead = [0.0]
    begun: list[int] = []

    async def handler(n: int) -> None:
        begun.append(n)

    def soon(seconds: float) -> datetime:
        return datetime.now(timezone.utc) + timedelta(hours=ahead[0], seconds=seconds)

    async def until(number: int) -> None:
        with trio.fail_after(60):
            while number not in begun:  # noqa: ASYNC110  it may have begun before
                await trio.sleep(0.02)

    with use_wall_clock(wall_of(ahead)):
        async with opened(kind, tmp_path / "tasks", poll_interval=0.1) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handler).run)
            await storage.push(1, run_at=soon(0.9 * HOUR))
            await storage.push(2, delay=0.9 * HOUR)
            await storage.push(3, run_at=soon(0.2))
            await until(3)
            ahead[0] = 1.0
            await until(1)
            await storage.push(4, run_at=soon(60))
            await storage.push(5, delay=0.6)
            ahead[0] = 0.0
            await until(5)
            await trio.sleep(0.3)
            assert begun == [3, 1, 5]
            ahead[0] = 1.1  # which is more than a minute
            await until(4)
            assert begun == [3, 1, 5, 4]
            nursery.cancel_scope.cancel()


async def test_over_a_channel_a_moment_is_by_the_wall_clock_too() -> None:
    """The tasks wait in the ledger of the backend, while the receiver waits for the channel."""
    ahead = [0.0]
    send, receive = trio.open_memory_channel[Any](10)
    begun: list[int] = []

    async def handler(n: int) -> None:
        begun.append(n)

    with use_wall_clock(wall_of(ahead)), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker("w", receive, handler).run)
            for n, hours in ((1, 0.9), (2, 2.0)):
                moment = datetime.now(timezone.utc) + timedelta(hours=hours)
                await send.send(TaskBuilder(n).run_at(moment).build())
            await send.send(TaskBuilder(3).run_in_hours(0.5).build())
            await send.send(Task(4))
            while begun != [4]:  # noqa: ASYNC110  there is nothing else to wait for
                await trio.sleep(0.01)
            ahead[0] = 1.0
            while begun != [4, 1]:  # noqa: ASYNC110  likewise, nothing else tells
                await trio.sleep(0.01)
            await send.send(Task(5))
            while 5 not in begun:  # noqa: ASYNC110  nothing else tells
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert begun == [4, 1, 5], "the moment of 2 is later, and a delay is by trio's clock"


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_a_machine_that_boots_with_a_wrong_time(kind: str, tmp_path: Path) -> None:
    """The wall clock is eight hours behind at the push, and is corrected later. The task still starts at its run_at."""
    ahead = [-8.0]
    with use_wall_clock(wall_of(ahead)):
        async with opened(kind, tmp_path / "tasks", poll_interval=0.1) as storage:
            moment = datetime.now(timezone.utc) + timedelta(seconds=0.5)
            await storage.push(1, run_at=moment)
            ahead[0] = 0.0
        async with opened(kind, tmp_path / "tasks", poll_interval=0.1) as storage:
            with trio.fail_after(60):
                task = await storage.receive()
            assert task.parts.run_at == moment
            assert datetime.now(timezone.utc) >= moment


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_that_would_expire_before_it_is_ready_is_refused(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path / "store") as storage:
        late = datetime.now(timezone.utc) + timedelta(hours=1)
        for options in ({"delay": 60.0}, {"delay": HOUR}, {"run_at": late}):
            for ask in (storage.push, storage.push_or_get):
                with pytest.raises(ValueError, match="expires_in must be more than the delay, which is "):
                    await ask(1, expires_in=60.0, **options)
            with pytest.raises(ValueError, match="expires_in must be more than the delay, which is "):
                await storage.push_bulk([1, 2], expires_in=60.0, **options)
        assert await storage.list_tasks() == []
        await storage.push(1, expires_in=2 * HOUR, run_at=late)
        await storage.push(2, expires_in=60.0, run_at=datetime(2000, 1, 1, tzinfo=timezone.utc))
        assert (await storage.receive()).args == 2
