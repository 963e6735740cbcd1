"""When a task comes, and before which others."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ..._abc import WaitForCompletion
from ..._clock import wall_now
from ..._errors import DuplicateTaskError
from ..._outcome import Failed, Killed, Retried, Succeeded
from ..._task import Status
from ._bench import DELAY, Stopwatch
from ._rule import expect, refused, rule

if TYPE_CHECKING:
    from ..._outcome import Outcome
    from ._bench import Bench


@rule(3)
async def first_come_first_served(bench: Bench) -> None:  # noqa: ASYNC910  the list is not empty
    """Of tasks that are equal otherwise, who waits longest goes first."""
    numbers = list(range(20))
    for number in numbers:
        await bench.push(number)
    expect("the order in which they come", [bench.number(await bench.take()) for _ in numbers], numbers)


@rule(3)
async def higher_priority_goes_first(bench: Bench) -> None:
    """The higher priority goes first, whenever it was pushed; less than 0 gives way to all others."""
    for number, priority in enumerate((0, -5, 10, 0, 10)):
        await bench.push(number, priority=priority)
    expect("the order in which they come", [bench.number(await bench.take()) for _ in range(5)], [2, 4, 0, 3, 1])


@rule(9)
async def a_delay_is_waited_for(bench: Bench) -> None:
    """A delayed task does not come before its delay is over; and then it comes to who waits for it."""
    clock = Stopwatch()
    await bench.push(1, delay=DELAY)
    await bench.take_number(1)
    clock.expect_at_least(DELAY, f"a task delayed by {DELAY} s")


@rule(9)
async def a_moment_is_waited_for(bench: Bench) -> None:
    """A task with a run_at does not come before that moment; one whose moment has passed comes at once."""
    clock = Stopwatch()
    await bench.push(1, run_at=wall_now() + timedelta(seconds=DELAY))
    late = clock.on_the_wall  # the moment was that much nearer already when the task was in
    await bench.push(2, run_at=wall_now() - timedelta(days=400))
    await bench.take_number(2)
    await bench.take_number(1)
    clock.expect_at_least(DELAY - late, f"a task to be run {DELAY} s from now")


@rule(9)
async def a_delayed_task_holds_nobody_up(bench: Bench) -> None:
    """Tasks that are ready come before those that still wait for their time; of those, the earliest goes first."""
    for number, delay in enumerate((2 * DELAY, DELAY, 0.0)):
        await bench.push(number, **({"delay": delay} if delay else {}), priority=-number)
    expect("the order in which they come", [bench.number(await bench.take()) for _ in range(3)], [2, 1, 0])


@rule(9)
async def what_has_expired_is_not_started(bench: Bench) -> None:
    """A task that was not started within its expires_in does not come any more, and is killed."""
    task_id = await bench.push(1, expires_in=0.1)
    await bench.push(2, expires_in=3600.0)
    await bench.pass_time(0.25)
    await bench.take_number(2)
    if isinstance(bench.backend, WaitForCompletion):
        expect("the status of the expired task", (await bench.backend.wait_for(task_id)).status, Status.Killed)


@rule(9)
async def what_was_started_in_time_does_not_expire(bench: Bench) -> None:
    """A task that was started within its expires_in comes again when it is retried later than that."""
    await bench.push(1, expires_in=DELAY)
    await bench.settle(await bench.take_number(1), Retried(ValueError("again"), 2 * DELAY))
    await bench.take_number(1, attempt=2)


@rule(12)
async def a_taken_key_is_skipped(bench: Bench) -> None:
    """Pushing under a unique key that is taken leaves the first task in place and returns its id."""
    task_id = await bench.push(1, unique="key")
    expect("what push returns", await bench.backend.push(bench.args(2), unique="key"), task_id)
    await bench.push(3, unique="other key")
    task = await bench.take_number(1)
    expect("what push returns while the first runs", await bench.backend.push(bench.args(2), unique="key"), task_id)
    await bench.settle(task, Retried(ValueError("again"), DELAY))
    expect("what push returns while it waits", await bench.backend.push(bench.args(2), unique="key"), task_id)
    await bench.take_number(3)
    await bench.take_number(1, attempt=2)
    await bench.nothing_comes()


@rule(12)
async def a_taken_key_is_replaced(bench: Bench) -> None:
    """With on_conflict="replace", the waiting task of the same unique key is killed, and the new one waits."""
    old = await bench.push(1, unique="key")
    await bench.push(2, unique="key", on_conflict="replace")
    await bench.settle(await bench.take_number(2), Succeeded(None))
    await bench.nothing_comes()
    if isinstance(bench.backend, WaitForCompletion):
        expect("the status of the replaced task", (await bench.backend.wait_for(old)).status, Status.Killed)


@rule(12)
async def a_taken_key_is_refused(bench: Bench) -> None:
    """With on_conflict="raise", a second task of the same unique key is refused with DuplicateTaskError."""
    await bench.push(1, unique="key")
    with refused("a second task of the same unique key", DuplicateTaskError):
        await bench.push(2, unique="key", on_conflict="raise")
    await bench.settle(await bench.take_number(1), Succeeded(None))
    await bench.nothing_comes()


@rule(12)
async def a_key_is_free_after_the_end(bench: Bench) -> None:
    """A unique key can be had again as soon as the task that had it is finished, however it ended."""
    outcomes: tuple[Outcome, ...] = (Succeeded(None), Failed(ValueError("failed")), Killed(ValueError("killed")))
    for number, outcome in enumerate(outcomes):
        await bench.push(number, unique="key", on_conflict="raise")
        await bench.settle(await bench.take_number(number), outcome)
    await bench.push(7, unique="key", on_conflict="raise")
    await bench.take_number(7)
