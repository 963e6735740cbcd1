"""Leases live exactly as long as the work: on the storages that last, in virtual time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import FileStorage, SqliteStorage, Worker
from trio_tasks.testing import virtual_clock

LEASE = 30.0


@pytest.mark.parametrize("kind", [SqliteStorage, FileStorage])
def test_promise_08_leases_live_as_long_as_the_work_though_nothing_ran_for_some(kind: Any, tmp_path: Path) -> None:
    """Time jumps by two and a half leases, as when the process was stopped: no slot takes what another one runs."""
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
