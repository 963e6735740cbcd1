"""Tests of run_seeded: the same seed gives the same run, and afterwards all global state is restored."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio._core import _run as trios_scheduler  # what is to be as it was has no public name
from trio.testing import MockClock
from trio_tasks import Error, MemoryStorage, Release, SqliteStorage, Succeeded, Success, Task, TaskId, Worker, _clock
from trio_tasks._concurrency import threads as _threads
from trio_tasks._tasks import task_id as _task_id
from trio_tasks.testing import run_once, run_seeded
from trio_tasks.testing._simulation import scheduler as _rng

from tests.testing._seeded_program import KINDS, history

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
scheduler: Any = trios_scheduler
_note: ContextVar[str] = ContextVar("_note", default="none")


async def order(names: str, rounds: int) -> str:
    """In which order trio runs so many trio tasks."""
    said: list[str] = []

    async def say(name: str) -> None:
        for _ in range(rounds):
            said.append(name)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(say, name)
    return "".join(said)


def test_the_same_seed_is_the_same_order_and_others_are_others() -> None:
    orders = [run_seeded(order, "abcde", 20, seed=seed) for seed in (1, 2, 1, 2, 3)]
    assert orders[0] == orders[2]
    assert orders[1] == orders[3]
    assert len({*orders}) == 3


def test_every_order_of_three_comes() -> None:
    assert len({run_seeded(order, "abc", 1, seed=seed) for seed in range(100)}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_is_the_same_run_to_the_event(kind: str) -> None:
    first = [history(kind, seed) for seed in range(4)]
    assert {each.kind for events in first for each in events} >= {Success, Error, Release}, "too little happens"
    assert [history(kind, seed) for seed in range(4)] == first
    assert first[0] != first[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_is_the_same_run_in_another_process(kind: str) -> None:
    here = [repr(each) for each in history(kind, 1)]
    for salt in ("1", "77"):
        command = [sys.executable, "-m", "tests.testing._seeded_program", kind, "1"]
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONUTF8": "1"}
        run = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines() == here


def everything() -> list[object]:
    return [
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING,
        scheduler._r.getstate(),
        random.getstate(),
        _clock.WALL_CLOCK.read,
        _clock._machine,
        _task_id._sequence,
        _threads.pause_instead(),
    ]


def test_afterwards_everything_is_as_it_was() -> None:
    during: list[list[object]] = []

    async def look() -> int:
        during.append(everything())
        random.random()
        await trio.lowlevel.checkpoint()
        return 7

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    before = everything()
    assert run_seeded(look, seed=1) == 7
    assert everything() == before
    with pytest.raises(KeyboardInterrupt):
        run_seeded(fail, seed=1)
    assert everything() == before
    [there] = during
    assert not [number for number, each in enumerate(there) if each == before[number] and number > 0]


def test_an_error_comes_out_as_it_is() -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_seeded(fail, seed=1)


def test_ids_and_the_module_random_go_by_the_seed() -> None:
    async def draw() -> list[object]:
        ids: list[object] = [TaskId.new() for _ in range(3)]
        await trio.sleep(1)
        assert ids == sorted(ids, key=str)
        return [*ids, TaskId.new(), random.random()]

    assert run_seeded(draw, seed=5) == run_seeded(draw, seed=5)
    assert not {*run_seeded(draw, seed=5)} & {*run_seeded(draw, seed=6)}


def test_time_is_virtual_and_the_wall_clock_goes_with_it() -> None:
    new_year = datetime(2001, 1, 1, tzinfo=timezone.utc)
    began: list[float] = []

    async def handler(n: int) -> None:
        began.append(trio.current_time())

    async def a_year() -> None:
        storage = MemoryStorage[int]()
        await trio.sleep(365 * 86400)
        assert trio.current_time() == 365 * 86400
        await storage.push(1, run_at=new_year)
        storage.close()
        await Worker("w", storage, handler).run()

    run_seeded(a_year, seed=1)
    assert began == [366 * 86400]  # 2000 was a leap year


def test_two_storages_on_one_file_hear_of_one_another_at_once(tmp_path: Path) -> None:
    done: list[float] = []

    async def handler(n: int) -> None:
        done.append(trio.current_time())

    async def main() -> None:
        path = tmp_path / "tasks.db"
        async with SqliteStorage(path, int, synchronous="OFF", poll_interval=5) as here:
            there = SqliteStorage(path, int, synchronous="OFF", poll_interval=5)
            async with there, trio.open_nursery() as nursery:
                await nursery.start(Worker("w", there, handler).run)
                await trio.sleep(1)
                await here.push(1)
                await trio.sleep(10)
                nursery.cancel_scope.cancel()

    run_seeded(main, seed=1)
    assert done == [1]  # in virtual time they share the process: no look every five seconds is needed


def test_sync_handlers_run_in_place_and_take_no_time() -> None:
    def handler(n: int) -> str:
        return threading.current_thread().name

    async def main() -> None:
        assert await run_once(handler, 1) == Succeeded(threading.current_thread().name)
        assert trio.current_time() == 0

    run_seeded(main, seed=1)


def test_what_a_sync_handler_sets_stays_with_it_as_in_a_thread() -> None:
    def handler(n: int) -> str:
        before = _note.get()
        _note.set("mine")
        return before

    async def layer(handler: Callable[[Task[int]], Awaitable[str]], task: Task[int]) -> str:
        _note.set("the layer's")
        return f"{await handler(task)}, then {_note.get()}"

    async def main() -> None:
        assert await run_once(handler, 1, layers=[layer]) == Succeeded("the layer's, then the layer's")

    run_seeded(main, seed=1)


def test_a_clock_and_instruments_may_be_given() -> None:
    class Counting(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1

    async def main() -> float:
        await trio.lowlevel.checkpoint()
        return trio.current_time()

    clock, counting = MockClock(autojump_threshold=0), Counting()
    clock.jump(77)
    assert run_seeded(main, seed=1, clock=clock, instruments=[counting]) == 77
    assert counting.steps > 1


async def test_it_is_refused_inside_a_run() -> None:
    before = everything()
    with pytest.raises(RuntimeError, match="call it outside of trio"):
        run_seeded(trio.sleep, 0, seed=1)
    assert everything() == before


def test_it_is_refused_while_another_is_under_way() -> None:
    refused: list[str] = []

    def another() -> None:
        try:
            run_seeded(trio.sleep, 0, seed=2)
        except RuntimeError as error:
            refused.append(str(error))

    async def main() -> None:
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
        await trio.lowlevel.checkpoint()

    run_seeded(main, seed=1)
    assert len(refused) == 1
    assert "one at a time" in refused[0]
    run_seeded(trio.sleep, 0, seed=2)


@pytest.mark.parametrize("seed", ["1", 1.0, None, True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be a whole number"):
        run_seeded(trio.sleep, 0, seed=seed)


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ({}, "_ALLOW_DETERMINISTIC_SCHEDULING"),
        ({"_ALLOW_DETERMINISTIC_SCHEDULING": 1}, "_ALLOW_DETERMINISTIC_SCHEDULING"),
        ({"_ALLOW_DETERMINISTIC_SCHEDULING": False}, "_r"),
    ],
)
def test_a_trio_that_has_moved_its_rng_is_named(
    monkeypatch: pytest.MonkeyPatch, without: dict[str, object], named: str
) -> None:
    moved = SimpleNamespace(**without)
    monkeypatch.setitem(sys.modules, _rng._MODULE, moved)
    with pytest.raises(RuntimeError, match=f"trio {trio.__version__} has no .*{named}"):
        run_seeded(trio.sleep, 0, seed=1)
    assert vars(moved) == without


def test_a_trio_without_its_module_or_without_the_age_of_its_tasks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_rng, "_MODULE", "trio._core._elsewhere")
        with pytest.raises(RuntimeError, match=r"has no trio\._core\._elsewhere"):
            run_seeded(trio.sleep, 0, seed=1)
    monkeypatch.setattr(_rng, "_AGE", "_age")
    with pytest.raises(RuntimeError, match=r"has no trio\.lowlevel\.Task\._age"):
        run_seeded(trio.sleep, 0, seed=1)
