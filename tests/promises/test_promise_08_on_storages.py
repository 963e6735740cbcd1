"""Tests of promise 8: leases last exactly as long as the work; on SqliteStorage and FileStorage, in virtual time."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import Event, FileStorage, Release, SqliteStorage, Worker
from trio_tasks.testing import virtual_clock

LEASE = 30.0


@pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])
def test_promise_08_leases_live_as_long_as_the_work_though_nothing_ran_for_some(kind: Any, tmp_path: Path) -> None:
    """Time jumps by two and a half leases, as if the process was suspended. No slot takes a task that another slot
    runs.
    """
    begun: Counter[int] = Counter()

    async def handler(n: int) -> None:
        begun[n] += 1
        if n < 5:
            await trio.sleep_forever()

    async def main(clock: MockClock) -> None:
        async with kind(tmp_path / "tasks", int, lease=LEASE) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handler, concurrency=10).run)
            await storage.push_bulk(range(5))
            for n in range(5, 25):
                await trio.sleep(1)
                clock.jump(2.5 * LEASE)
                await storage.push(n)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    with virtual_clock() as clock:
        trio.run(main, clock, clock=clock)
    assert begun == Counter(range(25))


def test_promise_08_leases_live_as_long_as_the_work_a_worker_that_lost_one_ends_the_attempt(tmp_path: Path) -> None:
    """Another worker has claimed the task. The next heartbeat cancels the attempt, and it cannot be settled."""
    path = tmp_path / "tasks.db"
    cancelled: list[float] = []
    released: list[str] = []

    async def handler(n: int) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(trio.current_time())
            raise

    def listen(_: object, event: Event) -> None:
        if isinstance(event, Release):
            released.append(event.reason)

    async def main() -> None:
        async with SqliteStorage(path, int, lease=LEASE) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handler, on_event=listen).run)
            await storage.push(1)
            await trio.sleep(1)
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("UPDATE trio_tasks_task SET token = token + (1 << 32) WHERE state = 2")
                connection.commit()
            taken_at = trio.current_time()
            await trio.sleep(LEASE)
            assert [moment <= taken_at + LEASE / 3 for moment in cancelled] == [True]
            assert released == ["its lease was lost"]
            nursery.cancel_scope.cancel()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
