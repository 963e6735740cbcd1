"""Rules about pushing: tasks come out with the args and options they were pushed with, and bad input is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import trio

from ..._tasks.errors import DuplicateTaskError
from ..._tasks.outcome import Status, Succeeded
from ..._tasks.task import Task
from ..._tasks.task_id import TaskId
from .rule import Feature, expect, expect_that, refused, rule

if TYPE_CHECKING:
    from .harness import Harness

_NOTES = {
    "tenant": "Jürgen ☃ \U0001f40d \x00 end",
    "empty": "",
    "number": -1.5,
    "yes": True,
    "nested": {"a": [1, None]},
}


@rule(2)
async def a_task_comes_out_as_it_went_in(harness: Harness) -> None:
    """A received task has the args, the id and the options that it was pushed with, and is in its first attempt."""
    own_id = f"own {TaskId.new()} ☃"
    task_id = await harness.push(7, id=own_id, attempts=4, timeout=90.0, priority=3)
    expect("what push returned", (type(task_id), task_id), (TaskId, own_id))
    task = await harness.receive()
    parts = task.parts
    expect("its args", task.args, harness.args(7))
    expect("its id", (type(parts.id), parts.id), (TaskId, own_id))
    expect("its attempt", int(parts.attempt), 1)
    expect("its status", parts.status, Status.Running)
    expect("attempts, timeout and priority", (parts.attempts, parts.timeout, parts.priority), (4, 90.0, 3))
    await harness.settle(task, Succeeded(None))


@rule(2)
async def ids_are_given_where_none_is(harness: Harness) -> None:
    """Each task that is pushed without an id gets an id of its own, even for equal args, and push returns it."""
    ids = [await harness.push(1) for _ in range(3)]
    expect("how many ids there are for three tasks", len(set(ids)), 3)
    expect("the ids that come", [(await harness.receive()).parts.id for _ in ids], ids)


@rule(2)
async def metadata_is_kept(harness: Harness) -> None:
    """Metadata comes out as it was pushed: any text, numbers, lists and mappings."""
    await harness.push(0, metadata=_NOTES)
    expect("the metadata", dict((await harness.receive()).parts.metadata), _NOTES)


@rule(2)
async def large_tasks_are_kept(harness: Harness) -> None:
    """A task of a megabyte comes out whole."""
    note = "trio ☃ " * 120_000
    await harness.push(0, metadata={"note": note})
    kept = (await harness.receive()).parts.metadata["note"]
    expect("the length of a note of a megabyte", len(kept), len(note))
    expect_that("a note of a megabyte", kept == note, "another text", "the same text")


@rule(2)
async def args_of_all_sizes_are_kept(harness: Harness) -> None:  # noqa: ASYNC910  the list is not empty
    """Args come out equal to what went in."""
    numbers = [0, 1, 255, 256, 65_536, 2**31, 2**53 + 1]
    for number in numbers:
        await harness.push(number)
    for number in numbers:
        expect("args", (await harness.receive()).args, harness.args(number))


@rule(2)
async def a_bulk_goes_in_as_a_whole(harness: Harness) -> None:
    """A bulk keeps its options and its order, and push_bulk returns the ids; an empty bulk is no error."""
    ids = await harness.backend.push_bulk([harness.args(number) for number in range(5)], metadata={"bulk": 1})
    expect("how many ids push_bulk returns for five tasks", len(ids), 5)
    tasks = [await harness.receive() for _ in ids]
    expect("the args that come", [task.args for task in tasks], [harness.args(number) for number in range(5)])
    expect("the ids that come", [task.parts.id for task in tasks], ids)
    expect("their metadata", [dict(task.parts.metadata) for task in tasks], [{"bulk": 1}] * 5)
    expect("the ids of an empty bulk", await harness.backend.push_bulk([]), [])


@rule(2)
async def a_receiver_that_waits_is_served(harness: Harness) -> None:
    """A receiver that waits gets the next task that is pushed."""
    taken: list[Task[Any]] = []

    async def wait() -> None:
        taken.append(await harness.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await harness.pass_time(0.1)
        expect("what came before anything was pushed", len(taken), 0)
        task_id = await harness.push(1)
    expect("the id of what came", taken[0].parts.id, task_id)


@rule(12)
async def a_known_id_is_refused(harness: Harness) -> None:
    """A second task under the id of an unfinished one is refused with DuplicateTaskError, and the first stays."""
    task_id = await harness.push(1)
    with refused("a second task of the same id", DuplicateTaskError):
        await harness.backend.push(harness.args(2), id=task_id)
    task = await harness.receive_number(1)
    expect("the args of the first", task.args, harness.args(1))
    with refused("a second task of the same id, while the first one runs", DuplicateTaskError):
        await harness.backend.push(harness.args(2), id=task_id)
    await harness.settle(task, Succeeded(None))
    await harness.expect_nothing()


@rule(12)
async def pushing_again_counts_once(harness: Harness) -> None:
    """A task that is pushed twice, as after a cancelled push, is in the store once."""
    task = Task.builder(harness.args(1)).build()
    harness.note_pushed(1, await harness.backend.push_task(task))
    with refused("the same task once more", DuplicateTaskError):
        await harness.backend.push_task(task)
    await harness.settle(await harness.receive_number(1), Succeeded(None))
    await harness.expect_nothing()


@rule(12)
async def wrong_options_are_refused(harness: Harness) -> None:
    """A delay that is not a number, an option of the wrong type or an unknown one is refused; nothing is stored."""
    for options in (
        {"delay": math.nan},
        {"delay": -1.0},
        {"priority": "high"},
        {"attempts": 0},
        {"timeout": 0},
        {"metadata": 7},
        {"expires_in": math.nan},
        {"expires_in": 5.0, "delay": 5.0},
        {"deadline": math.nan},
        {"deadline": math.inf},
        {"deadline": 0},
        {"deadline": 5.0, "delay": 5.0},
        {"colour": "blue"},
        {"on_conflict": "skip"},
    ):
        with refused(f"push with {options}", TypeError, ValueError):
            await harness.push(0, **options)
    await harness.expect_nothing()


@rule(12)
async def what_is_no_task_is_refused(harness: Harness) -> None:
    """push_task of anything but a Task raises TypeError, and nothing is stored."""
    for thing in (harness.args(1), None, object()):
        with refused(f"push_task({thing!r})", TypeError):
            await harness.backend.push_task(thing)
    await harness.expect_nothing()


@rule(12)
async def a_bulk_is_checked_before_it_is_stored(harness: Harness) -> None:
    """A bulk that contains an error is refused as a whole: none of it is stored."""

    def stumbling() -> Iterator[Any]:
        yield harness.args(1)
        raise LookupError("the list of what to push ends in an error")

    with refused("a bulk of an iterator that raises", LookupError):
        await harness.backend.push_bulk(stumbling())
    with refused("a bulk with a wrong option", ValueError):
        await harness.backend.push_bulk([harness.args(1), harness.args(2)], delay=math.nan)
    with refused("a bulk with one id for several tasks", TypeError):
        await harness.backend.push_bulk([harness.args(1), harness.args(2)], id="conformance")
    await harness.expect_nothing()


@rule(12, Feature.LASTING)
async def what_cannot_be_encoded_is_refused(harness: Harness) -> None:
    """Args that cannot be stored are refused with TypeError or ValueError, also in a bulk, and nothing is stored."""
    with refused("push of an object that cannot be encoded", TypeError, ValueError):
        await harness.backend.push(object())
    with refused("a bulk with an object that cannot be encoded", TypeError, ValueError):
        await harness.backend.push_bulk([harness.args(1), object(), harness.args(2)])
    await harness.expect_nothing()
    await harness.push(3)
    await harness.receive_number(3)
