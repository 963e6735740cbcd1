"""Tests of simulate: a failing seed is reported, and fails again."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import Custom, Engage, MemoryStorage, Monitor, RetryPolicy, SqliteStorage, Start, Success, Worker
from trio_tasks.abc import Backend
from trio_tasks.testing import (
    Faults,
    Recorded,
    ScriptedBackend,
    Simulation,
    SimulationFailed,
    SimulationReport,
    simulate,
)
from trio_tasks.testing._simulation import simulate as _simulate


class Account:
    """An account with a race: it reads, waits, and writes."""

    def __init__(self) -> None:
        self.balance = 0

    async def pay_in(self, amount: int) -> int:
        balance = self.balance
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        self.balance = balance + amount
        return amount


async def race(simulation: Simulation) -> None:
    """Fails by some schedules, and not by others."""
    account, storage = Account(), MemoryStorage[int]()
    for name in ("ada", "bob"):
        await simulation.start(Worker(name, storage, account.pay_in))
    await storage.push(1)
    await trio.sleep(simulation.random.choice((0.0, 5.0)))
    await storage.push(2)
    storage.close()
    await simulation.wait_workers_stopped()
    if account.balance != 3:
        raise ValueError(f"there are {account.balance}")


async def no_race(simulation: Simulation) -> None:
    account, storage = Account(), MemoryStorage[int]()
    await simulation.start(Worker("ada", storage, account.pay_in, concurrency=1))
    await storage.push_bulk([1, 2])
    storage.close()
    await simulation.wait_workers_stopped()
    assert account.balance == 3


def failure_of(program: Callable[[Simulation], Awaitable[object]], **options: Any) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as caught:
        simulate(program, **options)
    return caught.value


def test_a_race_is_found_and_its_seed_fails_again() -> None:
    first = failure_of(race, seeds=50)
    again = failure_of(race, seeds=[first.seed])
    assert again.seed == first.seed
    assert list(again.events) == list(first.events)
    assert again.virtual_seconds == first.virtual_seconds
    assert first.is_repeatable
    assert isinstance(first.__cause__, ValueError)
    assert "there are" in str(first.__cause__)


def test_some_seeds_pass_by() -> None:
    failed: list[int] = []
    for seed in range(50):
        try:
            simulate(race, seeds=[seed])
        except SimulationFailed as failure:
            failed.append(failure.seed)
    assert 0 < len(failed) < 50


def test_the_message_says_what_one_needs_to_know() -> None:
    failure = failure_of(race, seeds=50)
    lines = iter(str(failure).splitlines())
    run = f"(run {failure.seed + 1})"
    assert re.fullmatch(rf"seed {failure.seed} fails {re.escape(run)}: ValueError: there are [12]", next(lines))
    assert re.fullmatch(r"after [05]\.000 s of virtual time and \d+ events:", next(lines))
    for each in failure.events:
        assert next(lines).split()[2:4] == [each.worker, each.kind.__name__]
    assert list(lines) == [f"to run it again: simulate(tests.testing.test_simulate.race, seeds=[{failure.seed}])"]


def test_a_partial_program_is_written_as_one() -> None:
    async def program(number: int, handler: object, *, colour: str) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    with pytest.raises(
        SimulationFailed, match=r"simulate\(partial\(.*program, 1, .*race, colour='red'\), seeds=\[0\]\)"
    ):
        simulate(partial(program, 1, race, colour="red"), seeds=1)


def test_only_the_last_events_are_told() -> None:
    async def program(simulation: Simulation) -> None:
        for number in range(100):
            simulation.events.note(number)
        await trio.lowlevel.checkpoint()
        raise ValueError

    lines = str(failure_of(program, seeds=1)).splitlines()
    assert "100 events, of which these are the last:" in lines[1]
    assert [line.split()[-1] for line in lines[2:-1]] == [str(number) for number in range(75, 100)]


def test_what_passes_is_counted() -> None:
    report = simulate(no_race, seeds=range(3, 13))
    assert report == SimulationReport(seeds=10, events=report.events, virtual_seconds=0.0, real_seconds=1.0)
    assert report.events >= 10 * 6
    assert report.real_seconds > 0


def test_a_program_may_take_nothing() -> None:
    runs: list[float] = []

    async def program() -> None:
        await trio.sleep(7)
        runs.append(trio.current_time())

    assert simulate(program, seeds=3) == SimulationReport(3, 0, 21.0, 0.0)
    assert runs == [7.0] * 3


def test_how_many_or_which() -> None:
    seen: list[int] = []

    async def program(simulation: Simulation) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(simulation.seed)

    simulate(program, seeds=3)
    simulate(program, seeds=(n * n for n in (3, 4)))
    simulate(partial(program), seeds=[-1])
    assert seen == [0, 1, 2, 9, 16, -1]


def test_the_seed_throws_the_rng_of_the_program() -> None:
    thrown: list[float] = []

    async def program(simulation: Simulation) -> None:
        await trio.lowlevel.checkpoint()
        thrown.append(simulation.random.random())

    simulate(program, seeds=[1, 2, 1])
    assert thrown[0] == thrown[2] != thrown[1]


def test_an_error_beside_the_program_fails_it_too() -> None:
    async def program(simulation: Simulation) -> None:
        backend = ScriptedBackend[int]([1, OSError("gone")])
        await simulation.start(Worker("w", backend, Account().pay_in))
        await trio.sleep_forever()

    failure = failure_of(program, seeds=1)
    assert isinstance(failure.__cause__, OSError)
    assert "OSError: gone" in str(failure)


def test_several_errors_are_kept_together() -> None:
    async def fail() -> None:
        raise OSError

    async def program(simulation: Simulation) -> None:
        simulation.nursery.start_soon(fail)
        simulation.nursery.start_soon(fail)
        await trio.sleep_forever()

    assert "ExceptionGroup" in type(failure_of(program, seeds=1).__cause__).__name__


def test_what_is_in_the_nursery_ends_with_the_program() -> None:
    async def program(simulation: Simulation) -> None:
        await simulation.start(Worker("w", MemoryStorage[int](), Account().pay_in))
        simulation.nursery.start_soon(trio.sleep_forever)
        await trio.sleep(1)

    assert simulate(program, seeds=2).virtual_seconds == 2.0


def test_a_program_that_waits_for_ever_is_told_where() -> None:
    async def stay(n: int) -> None:
        await trio.sleep_forever()

    async def program(simulation: Simulation) -> None:
        storage = MemoryStorage[int]()
        await simulation.start(Worker("w", storage, stay))
        await storage.push(1, id="the-one")
        storage.close()
        await simulation.wait_workers_stopped()

    failure = failure_of(program, seeds=1, time_limit=60)
    assert isinstance(failure.__cause__, trio.TooSlowError)
    assert failure.virtual_seconds == 60
    assert re.search(r"the program is at .*wait_workers_stopped\(\)", str(failure))
    assert re.search(r"task the-one is at .*sleep_forever\(\)", str(failure))


def test_a_program_that_turns_without_time_passing_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_simulate.SpinDetector.__init__, "__defaults__", (1000,))

    async def program() -> None:
        await trio.sleep(3)
        while True:  # noqa: ASYNC110  that it turns for ever is the point
            await trio.lowlevel.checkpoint()

    with pytest.raises(SimulationFailed, match=r"virtual time stands still at 3 s"):
        simulate(program, seeds=1)


def test_a_failure_that_the_seed_does_not_repeat_is_told_so() -> None:
    runs = count()

    async def program(simulation: Simulation) -> None:
        await trio.lowlevel.checkpoint()
        if next(runs) == 3:
            raise ValueError

    failure = failure_of(program, seeds=10)
    assert failure.seed == 3
    assert not failure.is_repeatable
    assert "depends on something besides the seed" in str(failure)


def test_a_monitor_may_be_recorded() -> None:
    async def program(simulation: Simulation) -> None:
        storage = MemoryStorage[int]()
        monitor = Monitor(on_event=simulation.events)
        monitor.register(Worker("watched", storage, Account().pay_in))
        simulation.nursery.start_soon(monitor.run)
        await storage.push(1)
        await trio.sleep(1)
        assert [each.worker for each in simulation.events.of(Success)] == ["watched"]

    simulate(program, seeds=5)


def test_a_stored_storage_has_a_directory_of_its_own() -> None:
    directories: list[Path] = []

    async def program(simulation: Simulation) -> None:
        directories.append(simulation.directory)
        assert not list(simulation.directory.iterdir())
        async with SqliteStorage(simulation.directory / "tasks.db", int, synchronous="OFF") as storage:
            await simulation.start(Worker("w", storage, Account().pay_in))
            await storage.push_bulk(range(5))
            storage.close()
            await simulation.wait_workers_stopped()
            assert len(simulation.events.of(Engage)) == 5
            assert simulation.events.of(Start)

    simulate(program, seeds=3)
    assert len({*directories}) == 3
    assert not [each for each in directories if each.exists()]


def test_a_faulty_backend_has_its_faults_by_the_seed_and_its_worker_is_kept_running() -> None:
    faults = Faults(disconnect=0.1, fail_after=0.1, duplicate=0.2, delay=0.2)
    histories: list[list[Recorded]] = []

    async def program(simulation: Simulation) -> None:
        account, storage = Account(), MemoryStorage[int]()
        faulty = simulation.faulty(storage, faults)
        await simulation.keep_running(Worker("w", faulty, account.pay_in, retry=RetryPolicy(100)))
        await storage.push_bulk(range(10))
        storage.close()
        await simulation.wait_workers_stopped()
        histories.append(list(simulation.events))
        assert [each for each in simulation.events.of(Custom) if each.worker == ""]
        assert (await storage.metrics())["succeeded"] == 10

    simulate(program, seeds=[1, 2, 1])
    assert histories[0] == histories[2] != histories[1]
    starts = sum(each.kind is Start for events in histories for each in events)
    assert starts > 3, "no worker was started again"


def test_two_faulty_backends_have_faults_of_their_own() -> None:
    async def program(simulation: Simulation) -> None:
        await trio.lowlevel.checkpoint()
        first, second = (simulation.faulty(MemoryStorage[int](), Faults.rough()) for _ in range(2))
        assert first.seed != second.seed

    simulate(program, seeds=1)


@pytest.mark.parametrize(
    ("program", "options", "error", "said"),
    [
        (None, {}, TypeError, "program must be callable, as async program"),
        (no_race, {"seeds": 0}, ValueError, "seeds must be 1 or more"),
        (no_race, {"seeds": []}, ValueError, "nothing was simulated"),
        (no_race, {"seeds": ["1"]}, TypeError, "seed must be a whole number"),
        (no_race, {"time_limit": 0}, ValueError, "time_limit must be more than 0"),
    ],
)
def test_wrong_arguments_are_refused(program: Any, options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        simulate(program, **options)


async def test_it_is_refused_inside_a_run() -> None:
    with pytest.raises(RuntimeError, match="from a plain function"):
        simulate(no_race, seeds=1)


def test_an_interrupt_comes_out_as_it_is() -> None:
    async def program() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, allow_unwrapped=True):
        simulate(program, seeds=1)


def test_it_shows_itself() -> None:
    shown: list[str] = []

    async def program(simulation: Simulation) -> None:
        await simulation.start(Worker("w", MemoryStorage[int](), Account().pay_in))
        shown.append(repr(simulation))

    simulate(program, seeds=[5])
    assert shown == ["<Simulation of seed 5: 1 workers, 1 events>"]


def _types(storage: Backend[int]) -> None:
    """Calls that type checkers must accept."""

    async def one(simulation: Simulation) -> int:
        return 1

    async def none() -> None: ...

    simulate(one)
    simulate(none)
    simulate(partial(race), seeds=range(3))
