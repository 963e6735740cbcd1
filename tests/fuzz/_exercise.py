"""Use of a store whose content was damaged: everything that reads it is called."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import trio
from trio_tasks import (
    BackendError,
    DecodeError,
    FileStorage,
    RetryAfterError,
    Schedules,
    SqliteStorage,
    Status,
    Task,
    Worker,
    every,
)
from trio_tasks._tasks.task import OnConflict

if TYPE_CHECKING:
    from trio_tasks._backends.sqlite.driver import Driver

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

Storage = SqliteStorage[int] | FileStorage[int]

TASKS = 8
USER = 1000
"""The seed of who opens it afterwards: the ids that it makes are others."""
HELD: list[dict[str, Any]] = [{}, {"unique_until": "start"}, {"unique_until": "forgotten"}, {"unique_for": 1e6}]
"""How long the unique keys are held."""
_LONG = 130.0
"""Seconds, of virtual time: a task that is retried comes back."""


async def write(path: Path, then: Callable[[], object] = bool) -> None:
    """Write a file with tasks in every state, in two queues.

    ``then`` is called when it is written, and not closed yet.
    """
    async with SqliteStorage(path, int, synchronous="OFF") as storage:
        for n in range(TASKS):
            await storage.push(
                n, delay=30.0 * (n % 5 == 4), metadata={"n": n} if n % 2 else {}, attempts=1 if n == 3 else 5
            )
        with trio.move_on_after(5):
            await Worker("w", storage, handle).run()
        await storage.report_progress(await _received(storage), "half")
        for n, held in enumerate(HELD):
            await storage.push(n, unique=f"key {n}", **held)
        await storage.share(str, queue="other").push("another's")
        await put_schedules(storage)
        then()


async def put_schedules(storage: Storage) -> None:
    """Put schedules that are due at once, or were removed."""
    schedules = Schedules(storage)
    for name in ("each", "gone"):
        await schedules.put(name, 3, every(seconds=1))
    await schedules.remove("gone")


async def _received(storage: SqliteStorage[int]) -> Task[int]:
    await storage.push(0, priority=1)
    return await storage.receive()


async def handle(n: int) -> int:
    """A handler that fails now and then."""
    if n % 3 == 0:
        raise RetryAfterError("again", 60.0)
    return n


def by(driver: Driver) -> Callable[[Path], Storage]:
    """Return a function that opens an SQLite file by this driver."""
    return lambda path: SqliteStorage(path, int, synchronous="OFF", driver=driver)


async def use(path: Path, make: Callable[[Path], Storage], meddle: Callable[[], object] | None = None) -> None:
    """Call everything that reads the file. What cannot be read is an error of ours where it is looked at; a worker goes
    on, unless the store itself cannot be had.

    Args:
      path: of the file.
      make: the storage that is to open it.
      meddle: is called in the midst of it, and again when a worker has run.
    """
    try:
        async with make(path) as storage:
            ids = await _look(storage)
            if meddle is not None:
                meddle()
            await storage.push(5)
            done: list[int] = []
            with trio.move_on_after(_LONG):
                await Worker("w", storage, handle, on_event=lambda _, event: done.append(1)).run()
            assert done
            if meddle is not None:
                meddle()
            await _look(storage)
            for task_id in ids:
                await _change(storage, task_id)
            await _push_under_keys(storage)
            await _use_schedules(storage)
            with trio.move_on_after(1):
                await storage.wait_for(await storage.push(7, delay=5.0))
            await storage.vacuum()
    except BackendError:
        return
    except ExceptionGroup as group:
        _, others = group.split(BackendError)
        if others is not None:
            raise others from None


async def _use_schedules(storage: Storage) -> None:
    schedules = Schedules(storage)
    await _try(schedules.list)
    for name in ("each", "gone", "new"):
        await _try(schedules.pause, name)
        await _try(schedules.run_now, name)
        await _try(partial(schedules.put, name, 4, every(seconds=1)))
    with trio.move_on_after(3):
        await _try(schedules.run)


async def _push_under_keys(storage: Storage) -> None:
    for n in range(len(HELD)):
        for on_conflict in get_args(OnConflict):
            await _try(partial(storage.push, 8, unique=f"key {n}", on_conflict=on_conflict))


async def _look(storage: Storage) -> list[str]:
    found: list[Task[int]] = []
    for status in (None, *Status):
        with suppress(BackendError):
            found += await storage.list_tasks(status, limit=100)
    ids = sorted({str(task.parts.id) for task in found})
    for task in found:
        for name in ("history", "error", "result", "progress", "worker"):
            with suppress(BackendError, DecodeError):
                getattr(task.parts.context, name)
    for task_id in [*ids, "no such task"]:
        await _try(storage.fetch_by_id, task_id)
        await _try(storage.progress_of, task_id)
        with trio.move_on_after(0.5):
            await _try(storage.wait_for, task_id)
    for ask, kind in ((storage.list_queues, str), (storage.list_workers, str), (_counts, int)):
        answers: Any = await _try(ask, storage) if ask is _counts else await _try(ask)
        assert all(type(each) is kind for each in answers or ()), answers
    return ids


async def _counts(storage: Storage) -> list[object]:
    await storage.audit()
    metrics = await storage.metrics()
    assert type(metrics["oldest_waiting"]) is float
    return [number for name, number in metrics.items() if name not in ("oldest_waiting", "is_paused")]


async def _change(storage: Storage, task_id: str) -> None:
    task = await _try(storage.fetch_by_id, task_id)
    await _try(storage.reschedule, task_id, 1.0)
    if task is not None and task.parts.unfit is None:
        await _try(storage.update, task)
    await _try(storage.cancel, task_id)
    await _try(storage.abort, task_id)
    await _try(storage.resume_by_id, task_id)
    await _try(storage.resume_abandoned)
    await _try(storage.discard, task_id)


async def _try(ask: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    try:
        return await ask(*args)
    except (BackendError, DecodeError):
        return None
