"""Rules about the six outcomes, and about settling each attempt exactly once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import trio

from ..._contracts.backend import FetchById, NowaitBackend, ReceiveNowaitBackend, Reschedule, WaitForCompletion
from ..._tasks.errors import LeaseLostError
from ..._tasks.outcome import Failed, Killed, Released, Retried, Status, Succeeded, Suspended
from .harness import DELAY, Stopwatch
from .rule import expect, expect_that, refused, rule

if TYPE_CHECKING:
    from ..._tasks.outcome import Ending, Outcome
    from .harness import Harness


async def _is_final(harness: Harness, outcome: Outcome, status: Status) -> Any:
    """Check that this outcome finishes a task; return the task's result, if the backend can give it."""
    task_id = await harness.push(1)
    await harness.settle(await harness.receive_number(1), outcome)
    await harness.expect_nothing()
    if isinstance(harness.backend, FetchById):
        found = await harness.backend.fetch_by_id(task_id)
        expect("the status of the task as it is found then", found and found.parts.status, status)
    if not isinstance(harness.backend, WaitForCompletion):
        return None
    result = await harness.backend.wait_for(task_id)
    expect("the id and the status of its result", (result.id, result.status), (task_id, status))
    return result


@rule(3)
async def succeeded_is_final(harness: Harness) -> None:
    """A task that succeeded does not come again, and its result can be read."""
    result = await _is_final(harness, Succeeded(42), Status.Done)
    if result is not None:
        expect("its result", result.result, 42)


@rule(3)
async def failed_is_final(harness: Harness) -> None:
    """A task that failed does not come again, and its error can be read."""
    result = await _is_final(harness, Failed(ValueError("no stock left")), Status.Failed)
    if result is not None:
        expect_that("its error", "no stock left" in str(result.error), result.error, "what it failed with")


@rule(3)
async def killed_is_final(harness: Harness) -> None:
    """A task that was killed does not come again, and the reason can be read."""
    result = await _is_final(harness, Killed(ValueError("not wanted any more")), Status.Killed)
    if result is not None:
        expect_that("its error", "not wanted any more" in str(result.error), result.error, "what it was killed by")


@rule(3)
async def retried_waits_and_comes_back(harness: Harness) -> None:
    """A retried task comes back once its delay is over, not before, as its next attempt and otherwise as it was."""
    task_id = await harness.push(1, metadata={"note": "kept"})
    task = await harness.receive_number(1)
    clock = Stopwatch()
    await harness.settle(task, Retried(ValueError("again"), DELAY))
    again = await harness.receive_number(1, attempt=2)
    clock.expect_at_least(DELAY, f"a task retried after {DELAY} s")
    expect("its args", again.args, harness.args(1))
    expect("its id and metadata", (again.parts.id, dict(again.parts.metadata)), (task_id, {"note": "kept"}))


@rule(3)
async def released_comes_back_untouched(harness: Harness) -> None:
    """A released task comes back as the same attempt, as it was, and before what waits behind it."""
    task_id = await harness.push(1, metadata={"note": "kept"})
    await harness.push(2)
    for _ in range(2):
        task = await harness.receive_number(1)
        expect("its args, id", (task.args, task.parts.id), (harness.args(1), task_id))
        expect("its metadata", dict(task.parts.metadata), {"note": "kept"})
        await harness.settle(task, Released("given back"))
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    await harness.receive_number(2)


@rule(3)
async def suspended_waits_and_comes_back(harness: Harness) -> None:
    """A suspended task comes back at its time, not before, as the same attempt and otherwise as it was."""
    task_id = await harness.push(1, metadata={"note": "kept"})
    task = await harness.receive_number(1)
    for _ in range(2):
        clock = Stopwatch()
        await harness.settle(task, Suspended(trio.current_time() + DELAY, "not yet"))
        task = await harness.receive_number(1)
        clock.expect_at_least(DELAY, f"a task suspended for {DELAY} s")
        expect("its args", task.args, harness.args(1))
        expect("its id and metadata", (task.parts.id, dict(task.parts.metadata)), (task_id, {"note": "kept"}))
    await harness.settle(task, Succeeded(None))


@rule(3, Reschedule)
async def a_suspension_may_have_no_end(harness: Harness) -> None:
    """A task that is suspended until math.inf waits, and keeps its unique key, until it is rescheduled."""
    backend: Any = harness.backend
    task_id = await harness.push(1, unique="key")
    await harness.settle(await harness.receive_number(1), Suspended(math.inf))
    await harness.expect_nothing()
    if isinstance(harness.backend, FetchById):
        found = await harness.backend.fetch_by_id(task_id)
        seen = found and (found.parts.status, int(found.parts.attempt))
        expect("its status and the attempts that count", seen, (Status.Pending, 0))
    expect("what push under its key returns", await backend.push(harness.args(2), unique="key"), task_id)
    expect("whether it was rescheduled", await backend.reschedule(task_id, 0), True)
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    await harness.expect_nothing()


@rule(7)
async def attempts_are_counted_once(harness: Harness) -> None:
    """Each retry counts as one attempt; a release or a suspension in between counts as none."""
    await harness.push(1)
    for attempt in (1, 2, 3):
        await harness.settle(await harness.receive_number(1, attempt=attempt), Released("interrupted"))
        await harness.settle(await harness.receive_number(1, attempt=attempt), Suspended(trio.current_time()))
        await harness.settle(await harness.receive_number(1, attempt=attempt), Retried(ValueError("again")))
    await harness.receive_number(1, attempt=4)


@rule(8)
async def a_task_is_settled_once(harness: Harness) -> None:
    """Settling a task a second time, after any outcome, raises LeaseLostError, and changes nothing."""
    endings: tuple[Ending, ...] = (Succeeded(1), Failed(ValueError("1")), Killed(ValueError("1")))
    for number, first in enumerate(endings):
        task_id = await harness.push(number)
        task = await harness.receive_number(number)
        await harness.settle(task, first)
        for second in (Released(), Suspended(0.0), Retried(ValueError("2")), Killed(ValueError("2")), Succeeded(2)):
            with refused(f"{type(second).__name__} after {type(first).__name__}", LeaseLostError):
                await harness.settle(task, second)
        if isinstance(harness.backend, FetchById):
            found = await harness.backend.fetch_by_id(task_id)
            status = {Succeeded: Status.Done, Failed: Status.Failed, Killed: Status.Killed}[type(first)]
            expect("its status then", found and found.parts.status, status)
    await harness.expect_nothing()


@rule(8)
async def an_earlier_attempt_cannot_settle(harness: Harness) -> None:
    """Once a task is in its next attempt, the earlier attempt cannot settle it, and the new one can."""
    await harness.push(1)
    stale = await harness.receive_number(1)
    await harness.settle(stale, Retried(ValueError("again")))
    task = await harness.receive_number(1, attempt=2)
    for outcome in (Succeeded(1), Released(), Suspended(0.0), Retried(ValueError("again")), Failed(ValueError("late"))):
        with refused(f"{type(outcome).__name__} from the attempt before", LeaseLostError):
            await harness.settle(stale, outcome)
    await harness.expect_nothing()
    await harness.settle(task, Succeeded(None))


@rule(12)
async def what_is_no_outcome_is_refused(harness: Harness) -> None:
    """Settling with anything but an outcome raises TypeError, and the task stays running."""
    await harness.push(1)
    task = await harness.receive_number(1)
    for thing in ("done", None, Succeeded):
        with refused(f"settle(task, {thing!r})", TypeError):
            await harness.settle(task, cast("Outcome", thing))
    await harness.expect_nothing()
    await harness.settle(task, Succeeded(None))


@rule(4, ReceiveNowaitBackend)
async def taking_without_waiting_is_taking(harness: Harness) -> None:
    """receive_nowait raises trio.WouldBlock if there is no task; a task that it gives is running, as from receive."""
    with refused("receive_nowait where there is nothing", trio.WouldBlock):
        harness.backend.receive_nowait()
    await harness.push(1)
    await harness.push(2)
    seen: list[int] = []
    while len(seen) < 2:
        try:
            task = harness.backend.receive_nowait()
        except trio.WouldBlock:
            task = await harness.receive()
        expect("its attempt", int(task.parts.attempt), 1)
        seen.append(harness.number(task))
        await harness.settle(task, Succeeded(None))
    expect("what came", seen, [1, 2])
    await harness.expect_nothing()


@rule(4, NowaitBackend)
async def settling_without_waiting_is_settling(harness: Harness) -> None:
    """settle_nowait does the same as settle, without waiting."""
    await harness.push(1)
    task = await harness.receive_number(1)
    harness.backend.settle_nowait(task, Retried(ValueError("again")))
    task = await harness.receive_number(1, attempt=2)
    harness.backend.settle_nowait(task, Succeeded(None))
    with refused("settle_nowait once more", LeaseLostError):
        harness.backend.settle_nowait(task, Succeeded(None))
    await harness.expect_nothing()
