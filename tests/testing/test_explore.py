"""Tests of explore_cancellations."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_tasks import Backend, MemoryStorage, Outcome, Released, Succeeded, Task, Worker
from trio_tasks.testing import BrokenByCut, Cut, DivergedError, explore_cancellations

pytestmark = pytest.mark.once

HERE = Path(__file__)


def line(mark: str) -> int:
    """The number of the line of this file that ends with this comment."""
    [found] = [n for n, text in enumerate(HERE.read_text("utf-8").splitlines(), 1) if text.endswith(f"# {mark}")]
    return found


def broken(scenario: Callable[..., Awaitable[object]], **options: Any) -> BrokenByCut:
    """The failure that is found."""
    with pytest.raises(BrokenByCut) as caught:
        explore_cancellations(scenario, **options)
    return caught.value


# What is found


class Slow(Backend[int]):
    """A storage that takes time to settle, and can be cancelled meanwhile."""

    def __init__(self) -> None:
        self.storage = MemoryStorage[int]()

    async def receive(self) -> Task[int]:
        return await self.storage.receive()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        await trio.sleep(0.1)  # it settles
        self.storage.settle_nowait(task, outcome)


async def settle_without_a_shield(cut: Cut) -> None:
    backend = Slow()
    await backend.storage.push(1)
    with cut:
        task = await backend.receive()
        outcome: Outcome = Released()
        try:
            await trio.sleep(1)
            outcome = Succeeded(1)
        finally:
            await backend.settle(task, outcome)  # noqa: ASYNC102  that is what is to be found
    assert backend.storage.statistics().running == 0, "it is still running"


def test_a_settle_without_a_shield_is_found_with_its_line() -> None:
    error = broken(settle_without_a_shield)
    place = f"{HERE}:{line('it settles')} in settle: await trio.sleep(0.1)  # it settles"
    assert error.lines[-1] == place  # the second time that it is raised
    assert error.lines[0].endswith("await trio.sleep(1)")
    assert error.task == "settle_without_a_shield"
    assert place in str(error)
    assert "AssertionError: it is still running" in str(error)
    assert isinstance(error.__cause__, AssertionError)
    assert isinstance(error, AssertionError)


async def lose_between_receive_and_handler(cut: Cut) -> None:
    storage = MemoryStorage[int]()
    await storage.push_bulk([1, 2])
    with cut:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_one, storage)
            nursery.start_soon(take_one, storage)
    assert storage.statistics().running == 0


async def take_one(storage: MemoryStorage[int]) -> None:
    task = await storage.receive()
    await trio.lowlevel.checkpoint()  # it is lost
    outcome: Outcome = Released()
    try:
        await trio.sleep(1)
        outcome = Succeeded(1)
    finally:
        storage.settle_nowait(task, outcome)


def test_an_item_that_is_lost_between_receive_and_handler_is_found_with_its_line() -> None:
    error = broken(lose_between_receive_and_handler)
    assert f"{HERE}:{line('it is lost')} in take_one: await trio.lowlevel.checkpoint()  # it is lost" in error.lines
    assert error.task.endswith("take_one")
    assert error.others > 0


class Till:
    """A lock that a cancellation leaves locked."""

    def __init__(self) -> None:
        self.lock = trio.Lock()

    async def count(self) -> None:
        await self.lock.acquire()
        await trio.sleep(1)  # it is locked
        self.lock.release()


def test_a_lock_that_is_left_behind_is_found_by_an_invariant() -> None:
    tills: list[Till] = []

    async def scenario() -> None:
        tills.append(Till())
        await tills[-1].count()

    error = broken(scenario, invariant=lambda: not tills[-1].lock.locked())
    assert error.lines[0] == f"{HERE}:{line('it is locked')} in count: await trio.sleep(1)  # it is locked"
    assert "the invariant returned False" in str(error)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_found_again_alone(seed: int) -> None:
    first = broken(lose_between_receive_and_handler, seeds=[seed])
    assert str(broken(lose_between_receive_and_handler, seeds=[seed])) == str(first)
    again = broken(lose_between_receive_and_handler, seeds=[seed], at=first.number)
    assert (again.number, again.lines, again.steps) == (first.number, first.lines, first.steps)
    assert again.others == 0


def test_the_shortest_trace_is_told_and_what_happened_before() -> None:
    async def scenario(cut: Cut) -> None:
        begun = trio.current_time()
        with cut:
            for _ in range(5):
                await trio.sleep(1)
        assert trio.current_time() - begun in (0, 1, 5)

    error = broken(scenario)
    assert len(error.steps) == 5
    assert error.steps[0].split(" comes to ")[1].endswith("with cut:")
    assert error.others == 5
    assert "at moment 5, in trio task " in str(error)
    assert "seeds=[0], at=5" in str(error)


def test_what_is_sound_stands_every_cut() -> None:
    async def scenario(cut: Cut) -> None:
        storage = MemoryStorage[int]()
        await storage.push_bulk([1, 2, 3])
        storage.close()
        with cut:
            await Worker("w", storage, trio.sleep, concurrency=2).run()
        statistics = storage.statistics()
        assert (statistics.running, statistics.waiting + statistics.succeeded) == (0, 3)

    found = explore_cancellations(scenario, seeds=range(3))
    assert found.cuts > 60
    assert found.seeds == (0, 1, 2)
    assert sum(found.lines.values()) >= found.cuts / 2
    assert str(found).startswith(f"{found.cuts} cuts at {len(found.lines)} lines, under 3 seeds, in ")


# Where it is cut


def test_every_checkpoint_is_cut_on_entry_and_while_it_waits() -> None:
    caught: Counter[tuple[str, float]] = Counter()

    async def scenario(cut: Cut) -> None:
        where, event = "first", trio.Event()
        with cut:
            try:
                await trio.lowlevel.checkpoint()
                where = "second"
                await trio.sleep(2)
                where = "third"
                event.set()
                await event.wait()
                where = "over"
            finally:
                caught[where, trio.current_time()] += 1

    found = explore_cancellations(scenario)
    assert caught == {("first", 0.0): 2, ("second", 0.0): 1, ("second", 2.0): 1, ("third", 2.0): 1, ("over", 2.0): 1}
    assert found.cuts == 5
    assert [text.split(": ")[1] for text in found.lines] == [
        "await trio.lowlevel.checkpoint()",
        "await trio.sleep(2)",
        "await event.wait()",
    ]


def test_a_shield_holds_the_cancellation_up() -> None:
    ends: list[float] = []

    async def scenario(cut: Cut) -> None:
        with cut:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                await trio.sleep(1)
            await trio.sleep(1)
        ends.append(trio.current_time())

    explore_cancellations(scenario)
    assert ends[0] == 3.0
    assert set(ends[1:]) == {2.0, 3.0}


def test_parts_are_cut_each_for_itself_at_the_steps_of_all() -> None:
    left: Counter[tuple[bool, bool]] = Counter()

    async def scenario(cut: Cut) -> None:
        scopes: dict[str, trio.CancelScope] = {}

        async def part(name: str) -> None:
            with cut(name) as scopes[name]:
                for _ in range(3):
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(part, "a")
            nursery.start_soon(part, "b")
        left[scopes["a"].cancelled_caught, scopes["b"].cancelled_caught] += 1

    found = explore_cancellations(scenario)
    assert left[True, True] == 0
    assert left[True, False] >= 6
    assert left[False, True] >= 6
    assert sum(left.values()) == found.cuts + 1


def test_a_nursery_that_was_there_before_is_not_inside() -> None:
    places: list[str] = []

    async def outside() -> None:
        await trio.sleep(1)
        await trio.sleep(2)

    async def scenario(cut: Cut) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outside)
            with cut:
                await trio.sleep(5)

    places += explore_cancellations(scenario).lines
    assert [text.split(": ")[1] for text in places] == ["await trio.sleep(5)"]


def test_a_scenario_knows_whether_it_was_cut() -> None:
    came: list[tuple[bool, bool]] = []

    async def scenario(cut: Cut) -> None:
        assert not cut.has_come
        with cut, cut as scope:
            await trio.sleep(1)
        came.append((cut.has_come, scope.cancelled_caught))
        assert repr(cut).startswith("<Cut ")

    explore_cancellations(scenario)
    assert came[0] == (False, False)
    assert all(has_come for has_come, _ in came[1:])
    assert (True, False) in came[1:]  # once it had ended already


def test_each_seed_has_a_schedule_of_its_own() -> None:
    orders: set[str] = set()

    async def scenario(cut: Cut) -> None:
        order: list[str] = []

        async def note(name: str) -> None:
            order.append(name)
            await trio.lowlevel.checkpoint()

        with cut:
            async with trio.open_nursery() as nursery:
                for name in "abc":
                    nursery.start_soon(note, name)
        orders.add("".join(order))

    explore_cancellations(scenario)
    under_one = len(orders)
    found = explore_cancellations(scenario, seeds=range(10))
    assert len(orders) > under_one
    assert len(found.seeds) == 10


# What goes wrong otherwise


def test_a_run_that_does_not_end_fails_and_says_where_it_is_stuck() -> None:
    async def child(event: trio.Event) -> None:
        with trio.CancelScope(shield=True):
            await event.wait()  # it is stuck

    async def scenario(cut: Cut) -> None:
        event = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, event)
            with cut:
                await trio.sleep(1)
                event.set()

    error = broken(scenario, time_limit=100)
    assert isinstance(error.__cause__, trio.TooSlowError)
    assert "within 100 seconds" in str(error)
    assert f"{HERE}:{line('it is stuck')} in child: " in str(error)


def test_a_run_that_ends_late_in_its_shield_fails_too() -> None:
    async def scenario(cut: Cut) -> None:
        with cut:
            try:
                await trio.sleep(1)
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(150)
                raise

    error = broken(scenario, time_limit=100)
    assert "within 100 seconds" in str(error)
    explore_cancellations(scenario, time_limit=200)


def test_a_run_that_spins_fails() -> None:
    async def scenario(cut: Cut) -> None:
        is_over = False
        with cut:
            await trio.lowlevel.checkpoint()
            is_over = True
        while not is_over:  # noqa: ASYNC110  that it spins is the point
            await trio.lowlevel.checkpoint()

    assert "did not end within 200000 steps" in str(broken(scenario, at=1))


def test_a_scenario_that_fails_without_a_cut_is_no_discovery() -> None:
    async def scenario(cut: Cut) -> None:
        with cut:
            await trio.sleep(1)
        raise ZeroDivisionError("of its own")

    error = broken(scenario)
    assert error.number == 0
    assert str(error).endswith("fails without being cut: ZeroDivisionError: of its own")


def test_a_scenario_that_does_not_repeat_itself_is_told_so() -> None:
    numbers = count()

    async def scenario(cut: Cut) -> None:
        with cut:
            if next(numbers) > 2:
                await trio.sleep(1)
            await trio.sleep(2)

    with pytest.raises(DivergedError, match=r"seed 0, moment \d of (.|\n)*sleep\(2\)(.|\n)*sleep\(1\)(.|\n)*besides"):
        explore_cancellations(scenario)


def test_a_scenario_that_draws_from_the_system_is_told_so() -> None:
    async def scenario(cut: Cut) -> None:
        with cut:
            for _ in range(os.urandom(1)[0] % 16):
                await trio.sleep(1)

    with pytest.raises(DivergedError):
        explore_cancellations(scenario, seeds=range(10))


def test_a_cancellation_that_gets_out_of_its_scope_fails() -> None:
    async def scenario(cut: Cut) -> None:
        kept: list[trio.Cancelled] = []
        with cut:
            try:
                await trio.sleep(1)
            except trio.Cancelled as error:
                kept.append(error)
                raise
        for each in kept:
            raise each

    assert "Cancelled" in str(broken(scenario))


async def wait_badly(cut: Cut) -> None:
    """As who says nothing when it is asked whether it can be cancelled, once something was."""

    def leave(_: object) -> Any:
        return None if cut.has_come else trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(leave)


def test_a_wait_that_breaks_cancellation_is_reported() -> None:
    async def scenario(cut: Cut) -> None:
        with trio.move_on_after(1), cut:
            await wait_badly(cut)

    error = broken(scenario, at=2)  # the first cut comes before it waits, and breaks trio
    assert "abort function must return Abort enum" in str(error)
    assert error.lines[0].endswith("wait_task_rescheduled(leave)")


def test_a_scenario_that_breaks_trio_is_told_of_like_any_other() -> None:
    async def outside(cut: Cut) -> None:
        with trio.move_on_after(1):
            await wait_badly(cut)

    async def scenario(cut: Cut) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outside, cut)
            with cut:
                await trio.sleep(0.5)

    assert "the scenario has broken trio" in str(broken(scenario))


def test_an_invariant_may_be_async() -> None:
    calls = 0

    async def scenario() -> None:
        await trio.sleep(1)

    async def invariant() -> None:
        nonlocal calls
        await trio.sleep(1)
        calls += 1

    found = explore_cancellations(scenario, invariant=invariant)
    assert calls == found.cuts + 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_ends_the_program_passes_through(error: type[BaseException]) -> None:
    async def scenario(cut: Cut) -> None:
        with cut:
            await trio.sleep(1)
        if cut.has_come:
            raise error

    with pytest.raises(error):
        explore_cancellations(scenario)


async def sound(cut: Cut) -> None:
    with cut:
        await trio.lowlevel.checkpoint()


async def no_cut(cut: Cut) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("scenario", "options", "message"),
    [
        (no_cut, {}, "never entered"),
        (sound, {"at": 3}, "at=3 is too large: under seed 0 there are 2"),
        (sound, {"at": 0}, "at must be 1 or more"),
        (sound, {"time_limit": 0}, "time_limit must be"),
        (sound, {"seeds": ()}, "seeds"),
        (sound, {"seeds": ["one"]}, "seed must be a whole number"),
        (sound, {"seeds": 5}, "seeds must be a list"),
        (sound, {"invariant": 5}, "invariant must be callable"),
        (5, {}, "scenario must be callable"),
    ],
)
def test_wrong_arguments_are_refused(scenario: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        explore_cancellations(scenario, **options)


def test_a_part_has_a_name() -> None:
    async def scenario(cut: Any) -> None:
        with cut(5):
            await trio.lowlevel.checkpoint()

    assert "takes the name of the part" in str(broken(scenario))


async def test_it_makes_runs_of_its_own() -> None:
    await trio.lowlevel.checkpoint()
    with pytest.raises(RuntimeError, match="trio run of its own"):
        explore_cancellations(sound)


def test_it_is_a_plain_function() -> None:
    assert not inspect.iscoroutinefunction(explore_cancellations)
