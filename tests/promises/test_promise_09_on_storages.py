"""Tests of promise 9: time is injectable; on SqliteStorage and FileStorage, in virtual time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import FileStorage, HeartBeat, RetryAfterError, SqliteStorage, Worker
from trio_tasks.testing import virtual_clock

from tests.promises._run_worker import A_MONTH

KINDS = [SqliteStorage, FileStorage]
QUICKLY = 10.0  # seconds of processor time


@pytest.mark.parametrize("kind", KINDS)
def test_promise_09_time_is_injectable_a_month_of_retries(kind: Any, tmp_path: Path) -> None:
    """Virtual time stops only where something happens: nothing polls, and no lease is renewed while no task runs."""
    times: list[float] = []
    beats: list[float] = []

    async def handler(_: int) -> None:
        times.append(trio.current_time())
        raise RetryAfterError("again", 6 * 3600)

    def hear(_: object, event: object) -> None:
        if isinstance(event, HeartBeat):
            beats.append(trio.current_time())

    async def main() -> None:
        async with kind(tmp_path / "tasks", int) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handler, on_event=hear).run)
            await storage.push(1, attempts=1000)
            await trio.sleep(A_MONTH)
            nursery.cancel_scope.cancel()

    real = time.process_time()
    with virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert len(times) in (120, 121)  # the last one may come in the very moment of the end
    assert times[119] == pytest.approx(119 * 6 * 3600, abs=60)
    assert len(beats) <= len(times)
    assert time.process_time() - real < QUICKLY


@pytest.mark.parametrize("kind", KINDS)
def test_promise_09_time_is_injectable_what_runs_is_renewed(kind: Any, tmp_path: Path) -> None:
    begun: list[int] = []

    async def handler(n: int) -> None:
        begun.append(n)
        await trio.sleep(3600)

    async def main() -> None:
        async with kind(tmp_path / "tasks", int) as storage, trio.open_nursery() as nursery:
            await nursery.start(Worker("w", storage, handler).run)
            await trio.sleep(7200)
            task_id = await storage.push(1)
            await storage.wait_for(task_id)
            nursery.cancel_scope.cancel()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert begun == [1]


def test_promise_09_time_is_injectable_two_storages_on_a_file_hear_of_one_another(tmp_path: Path) -> None:
    """They notice each other's changes without a poll, and after a week without any."""
    at: list[float] = []

    async def handler(_: int) -> None:
        at.append(trio.current_time())

    async def main() -> None:
        async with SqliteStorage(tmp_path / "tasks", int) as one, SqliteStorage(tmp_path / "tasks", int) as other:
            async with trio.open_nursery() as nursery:
                await nursery.start(Worker("w", one, handler).run)
                await trio.sleep(7 * 86400)
                task_id = await other.push(1)
                await other.wait_for(task_id)
                assert trio.current_time() - 7 * 86400 < 1
                nursery.cancel_scope.cancel()

    with virtual_clock() as clock:
        trio.run(main, clock=clock)
    assert at == [pytest.approx(7 * 86400, abs=0.5)]
