"""Tests of attempts that go on after a cancellation: they are waited for, and logged repeatedly."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock
from trio_tasks import MemoryStorage, Worker
from trio_tasks._worker.stuck_attempts import RECORD_INTERVAL


async def stay(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


@pytest.mark.parametrize(("seconds", "times"), [(RECORD_INTERVAL - 1, 0), (RECORD_INTERVAL * 3.5, 3)])
async def test_a_stuck_attempt_is_named_as_long_as_it_stays(
    seconds: float, times: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage[float]()
    task_id = await storage.push(seconds)
    start = trio.current_time()
    with caplog.at_level(logging.WARNING, "trio_tasks"), trio.CancelScope() as scope:
        scope.cancel()
        with trio.CancelScope(shield=True) as inside:
            async with trio.open_nursery() as nursery:
                await nursery.start(Worker("slow", storage, stay).run)
                await trio.testing.wait_all_tasks_blocked()
                inside.cancel()
    assert trio.current_time() - start == seconds
    named = [message for message in caplog.messages if task_id in message]
    assert len(named) == times
    assert all("stay" in message and "await trio.sleep(seconds)" in message for message in named)


async def test_an_attempt_that_is_not_cancelled_is_not_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage[float]()
    await storage.push(RECORD_INTERVAL * 3)
    storage.close()
    with caplog.at_level(logging.WARNING, "trio_tasks"):
        assert (await Worker("slow", storage, stay).run()).succeeded == 1
    assert not caplog.messages
