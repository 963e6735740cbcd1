"""A text with half of a surrogate pair, which no store can keep, is refused wherever a user gives a name, on each
storage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trio_tasks import Limits, MemoryStorage, Router, Schedules, TaskBuilder, TaskId, Worker, every

from tests._storages import STORAGES

HALF = "half \ud800"


def _router(**options: Any) -> Router:
    async def work(n: int) -> None: ...

    tasks = Router()
    tasks.task(**options)(work)
    return tasks


async def _schedule(storage: Any) -> None:
    await Schedules(storage).put(HALF, TaskBuilder(1).build(), every(days=1))


def _of(verb: str, *more: Any) -> Callable[[Any], Any]:
    return lambda storage: getattr(storage, verb)(HALF, *more)


GIVEN: dict[str, Callable[[Any], Any]] = {
    "an id": lambda storage: storage.push(1, id=HALF),
    "an id of its own class": lambda storage: TaskId(HALF),
    "a key": lambda storage: storage.push(1, key=HALF),
    "a key for the builder": lambda storage: TaskBuilder(1).key(HALF),
    "a unique key": lambda storage: storage.push(1, unique=HALF),
    "a name in metadata": lambda storage: storage.push(1, metadata={HALF: 1}),
    "a key of many tasks": lambda storage: storage.push_bulk([1, 2], key=HALF),
    "a queue": lambda storage: storage.share(queue=HALF),
    "a queue in memory": lambda storage: MemoryStorage[int](queue=HALF),
    "the key of limits": lambda storage: storage.set_limits(Limits(per_key=1), key=HALF),
    "the key of limits to look at": lambda storage: storage.get_limits(key=HALF),
    "a schedule": _schedule,
    "a worker": lambda storage: Worker(HALF, storage, print),
    "a version": lambda storage: Worker("w", storage, print, version=HALF),
    "the name of a task": lambda storage: _router(name=HALF),
    "the queue of a task": lambda storage: _router(queue=HALF),
    "an alias of a task": lambda storage: _router(aliases=[HALF]),
    "the prefix of a router": lambda storage: Router(HALF),
    "an id to look for": _of("fetch_by_id"),
    "an id to wait for": _of("wait_for"),
    "an id to cancel": _of("cancel"),
    "an id to abort": _of("abort"),
    "an id to discard": _of("discard"),
    "an id to resume": _of("resume_by_id"),
    "an id to reschedule": _of("reschedule", 1.0),
    "an id to explain": _of("explain"),
    "an id whose progress is asked for": _of("progress_of"),
    "ids to cancel": lambda storage: storage.cancel(["a", HALF]),
    "a filter by name": lambda storage: storage.list_tasks(name=HALF),
    "a filter by key": lambda storage: storage.list_tasks(key=HALF),
    "a filter by worker": lambda storage: storage.list_tasks(worker=HALF),
    "a filter by unique key": lambda storage: storage.list_tasks(unique=HALF),
    "the filter of a verb": lambda storage: storage.cancel_all(key=HALF),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("kind", STORAGES)
async def test_a_text_that_no_store_can_keep_is_refused(kind: str, given: str, tmp_path: Path) -> None:
    async with STORAGES[kind](tmp_path / "tasks") as storage:
        with pytest.raises(ValueError, match=r"must be encodable as UTF-8, which .* half of a surrogate pair"):
            answer = GIVEN[given](storage)
            await answer
        assert await storage.list_tasks() == []
