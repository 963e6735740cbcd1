"""Tests of calls whose tasks are attempted in another process: what a cancellation ends there, and within what time."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_tasks import SqliteStorage, Status
from trio_tasks._contracts import calls
from trio_tasks.testing._exploration.steps import StepCounter

from tests.storages import _child as programs
from tests.storages._child import NEVER, Child, child, open_storage

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="its console is another"),
    pytest.mark.real,
]

FOREVER = 3600.0
_UNCUT = 3
"""Calls in a row that end before the moment at which they were to be cut: then there are no more moments."""


@dataclass
class CutCalls:
    """Calls of one process whose handler is in another one. Each is cancelled at another moment: before a step of any
    trio task of this process but those of the test, or when all of them wait.

    Attributes:
      returned: by the id of each call, when it had returned.
      ends: how often each end was seen: a call that was cancelled before its task had begun, or under its attempt; a
          task that was done although its call was cancelled; a call that has returned the result.
    """

    storage: SqliteStorage[float]
    worker: Child
    notes: Path
    returned: dict[str, float] = field(default_factory=dict[str, float])
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(["not begun", "begun", "done", "returned"], 0))

    async def cut_at_each_moment(self, seconds: float) -> int:
        """Call a handler that takes so many seconds once for each moment; return how many moments there were."""
        at, uncut = 0, 0
        while uncut < _UNCUT:
            at += 1
            was_cut = await self._cut(seconds, at)
            uncut = 0 if was_cut else uncut + 1
        return at - uncut

    async def _cut(self, seconds: float, at: int) -> bool:
        """Cancel a call at one moment; if there is no such moment, when its attempt has begun, and all wait. Check that
        nothing is left of it.
        """
        task_id, scope, result = f"{seconds:g} cut at {at}", trio.CancelScope(), None
        is_over = all_wait = False
        test, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

        def counts(task: trio.lowlevel.Task | None) -> bool:
            nonlocal all_wait
            all_wait = task is None
            return not is_over and task is not test and (task is None or not task.name.startswith("<"))

        def cut() -> None:
            if all_wait:  # trio has decided how long it sleeps
                token.run_sync_soon(scope.cancel)
            else:
                scope.cancel()

        async def call() -> None:
            nonlocal result, is_over
            with scope:
                result = await self.storage.call(seconds, id=task_id)
            is_over = True
            self.returned[task_id] = time.monotonic()
            if seconds == FOREVER:
                nursery.cancel_scope.cancel()

        counter = StepCounter(at, cut, counts)
        trio.lowlevel.add_instrument(counter)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                if seconds == FOREVER:
                    while await self.worker.hear_of("begins") != f"begins {task_id}":
                        pass  # one that was cancelled before it was heard of
                    await wait_all_tasks_blocked(0.005)
                    scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(counter)
        await self._check(task_id, result)
        return counter.was_reached and scope.cancelled_caught

    async def _check(self, task_id: str, result: object) -> None:
        """Check that no attempt of a call that has returned is under way, and that its task is done or forgotten."""
        began, ended = self._ids("begins"), self._ids("ended")
        assert began == ended, f"when the call {task_id} has returned, {[*{*began} - {*ended}]} still runs"
        found = await self.storage.fetch_by_id(task_id)
        assert found is None or found.parts.status is Status.Done
        assert result == (None if found is None else "slept") or result is None
        end = "begun" if task_id in began else "not begun"
        self.ends["returned" if result is not None else "done" if found is not None else end] += 1

    def _lines(self) -> list[tuple[str, str, float]]:
        lines = [line.partition(" ") for line in self.notes.read_text().splitlines()] if self.notes.exists() else []
        return [(word, rest.rpartition(" ")[0], float(rest.rpartition(" ")[2])) for word, _, rest in lines]

    def _ids(self, word: str) -> list[str]:
        return [task_id for each, task_id, _ in self._lines() if each == word]

    def check_times(self) -> None:
        """Check that no step of an attempt has come after its call had returned."""
        late = [(word, task_id) for word, task_id, moment in self._lines() if moment > self.returned[task_id]]
        assert not late


@asynccontextmanager
async def calling(path: Path, *, lease: float, worker_lease: float) -> AsyncGenerator[CutCalls, None]:
    """A storage of this process, and a worker in another one."""
    async with (
        child(programs.work_for_calls, path, str(worker_lease)) as worker,
        open_storage(path, lease=lease, poll_interval=NEVER) as storage,
    ):
        assert await worker.hear_of("works")
        yield CutCalls(storage, worker, path.with_suffix(".notes"))


async def nothing_is_left(storage: SqliteStorage[Any]) -> None:
    metrics = await storage.metrics()
    assert (metrics["waiting"], metrics["delayed"], metrics["running"]) == (0, 0, 0)
    assert (metrics["kept_failed"], metrics["kept_killed"]) == (0, 0)
    balance = await storage.audit()
    assert balance, str(balance)


async def test_a_call_that_is_cancelled_here_at_any_moment_has_ended_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is pushed, while it waits, while it runs there, while its result comes. No lease ends meanwhile."""
    async with calling(tmp_path / "tasks.db", lease=50.0, worker_lease=NEVER) as cut_calls:
        assert await cut_calls.cut_at_each_moment(FOREVER) > 5
        assert await cut_calls.cut_at_each_moment(0.0) > 5
        cut_calls.check_times()
        assert all(cut_calls.ends.values()), f"some never came: {cut_calls.ends}"
        await nothing_is_left(cut_calls.storage)
        await cut_calls.worker.tell("stop")
    assert "still runs" not in caplog.text


@pytest.mark.parametrize("is_over", [True, False], ids=["its lease is over", "its lease goes on"])
async def test_a_call_whose_worker_was_killed_ends_within_bounds(
    tmp_path: Path, is_over: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is forgotten when the lease of the dead worker is over; and if that takes longer than a lease of this process
    and the time to settle, a warning names it.
    """
    monkeypatch.setattr(calls, "SETTLE_TIMEOUT", 60.0 if is_over else 0.2)
    lease, worker_lease = 0.5, 0.5 if is_over else NEVER
    async with calling(tmp_path / "tasks.db", lease=lease, worker_lease=worker_lease) as cut_calls:
        storage = cut_calls.storage
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: storage.call(FOREVER, id="called"))
            await cut_calls.worker.hear_of("begins")
            cut_calls.worker.process.kill()
            await cut_calls.worker.process.wait()
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancelled_caught
        assert trio.current_time() - began >= (0.0 if is_over else lease + 0.2)
        found = await storage.fetch_by_id("called")
        warned = "task called still runs, 0.7 s after its call was cancelled" in caplog.text
        assert (found is None, warned) == (is_over, not is_over)
        if is_over:
            await nothing_is_left(storage)
