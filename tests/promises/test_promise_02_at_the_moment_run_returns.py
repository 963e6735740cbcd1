"""Tests of promise 2: when ``run()`` returns, each task is finished or back in the store; a cancellation takes effect
soon.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import MemoryStorage, RetryPolicy, Status, Worker
from trio_tasks._concurrency.exception_groups import leaves

from tests._scale import scaled
from tests._storages import STORAGES, sqlite
from tests.promises._ended_process import KINDS, WAYS

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
@pytest.mark.once
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_promise_02_a_process_that_is_killed_when_run_has_returned_has_burnt_no_attempt(
    tmp_path: Path, kind: str, way: str
) -> None:
    command = [sys.executable, "-m", "tests.promises._ended_process", kind, way, str(scaled(200)), str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {}


@pytest.mark.nightly
@pytest.mark.once
def test_promise_02_ctrl_c_loses_no_task_in_memory() -> None:
    trials = scaled(1000)
    command = [sys.executable, "-m", "tests.promises._interrupted_process", str(trials)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"interrupted": trials, "faults": {}}


def press_ctrl_c(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


class PressingGate:
    """A gate that presses Ctrl-C in one of its methods."""

    def __init__(self, step: str) -> None:
        self.step = step

    def press(self, step: str) -> None:
        if step == self.step:
            press_ctrl_c()

    async def ready(self) -> None:
        await trio.lowlevel.checkpoint()
        self.press("ready")

    def admit(self, task: object) -> bool:
        self.press("admit")
        return True

    def dismiss(self, task: object) -> None:
        self.press("dismiss")

    async def __call__(self, handler: Any, task: Any) -> Any:
        self.press("before")
        result = await handler(task)
        self.press("after")
        return result


def at_event(kind: str) -> dict[str, Any]:
    return {"on_event": lambda _, event: press_ctrl_c() if type(event).__name__ == kind else None}


def pressing(*_: object) -> float:
    press_ctrl_c()
    return 0.0


INTERRUPTED: dict[str, dict[str, Any]] = {
    "handler": {},
    **{f"gate.{step}": {"layers": [PressingGate(step)]} for step in ("ready", "admit", "dismiss", "before", "after")},
    **{f"listener on {kind}": at_event(kind) for kind in ("Start", "Engage", "Success", "Error", "Idle")},
    "retry policy": {"retry": RetryPolicy(backoff=pressing)},
}


@pytest.mark.parametrize("place", INTERRUPTED)
def test_promise_02_ctrl_c_loses_nothing_wherever_code_of_the_user_runs(place: str) -> None:
    storage = MemoryStorage[int]()

    async def handler(n: int) -> None:
        await trio.lowlevel.checkpoint()
        if place == "handler" and n == 2:
            press_ctrl_c()
        if n == 3:
            raise ValueError("once")

    async def main() -> None:
        await storage.push_bulk(range(6))
        with trio.fail_after(60):
            await Worker("interrupted", storage, handler, concurrency=2, **INTERRUPTED[place]).run()

    with pytest.raises(BaseException) as caught:
        trio.run(main)
    assert any(isinstance(each, KeyboardInterrupt) for each in leaves(caught.value))
    statistics = storage.statistics()
    assert (statistics.running, statistics.receivers_waiting) == (0, 0)
    assert statistics.pushed == 6 == statistics.waiting + statistics.succeeded + statistics.failed


@pytest.mark.nightly
@pytest.mark.once
@pytest.mark.parametrize("slots", [8, 100])
@pytest.mark.parametrize("kind", STORAGES)
async def test_promise_02_a_cancellation_is_heard_by_each_slot_before_its_second_attempt(
    tmp_path: Path, kind: str, slots: int
) -> None:
    """The handler never waits, and the queue never ends. The cancellation comes from an attempt, or from beside it."""
    rng = random.Random(slots)
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        pushed = 0
        for number in range(scaled(100)):
            pushed += len(await storage.push_bulk([number] * (6 * slots)))
            last, begun, late = rng.randrange(1, 5 * slots), 0, 0
            scope = trio.CancelScope()

            async def handler(n: int) -> None:  # noqa: ASYNC910  that is the point of it
                nonlocal begun, late
                late += scope.cancel_called  # noqa: B023  it is called in this round only
                begun += 1
                if begun == last and number % 2:  # noqa: B023  the same
                    scope.cancel()  # noqa: B023  the same

            async def cancel_beside() -> None:
                while begun < last:  # noqa: ASYNC110, B023  each attempt counts; it is called in this round only
                    await trio.lowlevel.checkpoint()
                scope.cancel()  # noqa: B023  the same

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_beside)
                with scope:
                    await Worker("cut", storage, handler, concurrency=slots).run()
                nursery.cancel_scope.cancel()
            assert late <= slots
            assert await storage.list_tasks(Status.Running) == []
            metrics = await storage.metrics()
            assert metrics["waiting"] + metrics["succeeded"] == pushed
            assert metrics["released"] <= (number + 1) * 2 * slots


async def test_promise_02_an_error_of_a_sibling_ends_a_worker_that_always_has_more_to_do(tmp_path: Path) -> None:
    async with sqlite(tmp_path / "tasks") as storage:
        await storage.push_bulk([0] * 200)
        begun = 0

        async def handler(n: int) -> None:  # noqa: ASYNC910  that is the point of it
            nonlocal begun
            begun += 1

        async def fail() -> None:
            while begun < 10:  # noqa: ASYNC110  each attempt counts
                await trio.lowlevel.checkpoint()
            raise OSError("the sibling")

        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Worker("w", storage, handler, concurrency=2).run)
                nursery.start_soon(fail)
        assert begun < 60
        assert (await storage.metrics())["running"] == 0
