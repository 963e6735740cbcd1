"""Tests with the fixtures and the marker of trio_tasks, which the project's conftest.py asks for:

pytest_plugins = ["trio_tasks.testing.pytest"]
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import Data, MemoryStorage, RetryPolicy, TaskId, Worker, constant
from trio_tasks.testing import Redelivery, assert_pushed

if TYPE_CHECKING:
    from trio_tasks.testing.pytest import OpenSqlite


class Bank:
    """A fake of the bank: like the real one, it charges once for each key."""

    def __init__(self) -> None:
        self.charges: dict[str, int] = {}

    async def charge(self, amount: int, key: str) -> None:
        await trio.sleep(0.5)
        self.charges.setdefault(key, amount)
        await trio.sleep(0.5)


async def charge(amount: int, task_id: TaskId, bank: Data[Bank]) -> None:
    await bank.charge(amount, key=task_id)


@pytest.mark.redelivery  # cancelled at each moment, delivered again, and compared with one clean run
async def test_a_customer_is_charged_once(redelivery: Redelivery) -> None:
    bank = Bank()
    await redelivery.deliver(charge, 30, data=[bank])
    redelivery.compare(charges=bank.charges)


async def test_an_order_is_charged_a_day_later(tasks: MemoryStorage[Any]) -> None:
    await tasks.push(30, delay=86400)
    await assert_pushed(tasks, 30)


async def test_a_month_of_retries(open_sqlite: OpenSqlite, task_clock: MockClock) -> None:
    async def always_out(amount: int) -> None:
        await trio.lowlevel.checkpoint()
        raise ConnectionError

    day = timedelta(days=1).total_seconds()
    async with open_sqlite(int, lease=day) as storage:
        await storage.push(30)
        storage.close()
        worker = Worker("bank", storage, always_out, retry=RetryPolicy(attempts=31, backoff=constant(day)), log=None)
        report = await worker.run()
    assert (report.retried, report.failed) == (30, 1)
    assert trio.current_time() == pytest.approx(30 * day, rel=0.01)
