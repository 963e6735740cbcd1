"""Journals that were spoiled: opened as documented, or refused; and nothing is there that never was."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio
from trio_tasks import BackendError, FileStorage, RetryAfterError, Status, Worker
from trio_tasks.testing import run_seeded

from tests._silence import silence
from tests.fuzz._spoil import spoiled

_NAME = "tasks.journal"
_TASKS = 12
_USER = 1000
"""The seed of who opens it afterwards: the ids that it makes are others."""


@cache
def _written(seed: int) -> bytes:
    """A journal with tasks that were done, failed, retried, are delayed, in hand or waiting."""

    async def write(path: Path) -> None:
        async def handle(n: int) -> int:
            if n % 3 == 0:
                raise RetryAfterError("again", 60.0)
            return n

        async with FileStorage(path, int) as storage:
            for n in range(_TASKS):
                await storage.push(n, delay=30.0 * (n % 5 == 4), priority=n % 2)
            with trio.move_on_after(5):
                await Worker("w", storage, handle).run()
            await storage.push(_TASKS)
            await storage.receive()

    with TemporaryDirectory() as directory:
        run_seeded(write, Path(directory, _NAME), seed=seed)
        return Path(directory, _NAME).read_bytes()


def fuzz_journal(random: Random) -> None:
    """A whole journal."""
    data = spoiled(_written(random.randrange(8)), random)
    with TemporaryDirectory(prefix="trio_tasks-fuzz-") as directory:
        path = Path(directory, _NAME)
        path.write_bytes(data)
        with silence():
            run_seeded(_use, path, data, random.random() < 0.5, seed=_USER)


async def _use(path: Path, data: bytes, repair: bool) -> None:
    try:
        async with FileStorage(path, int, repair=repair) as storage:
            seen = {task.parts.id: task.args for task in await storage.list_tasks(limit=1000)}
            assert all(n in range(_TASKS + 1) for n in seen.values()), seen
            assert len(seen) <= _TASKS + 1
            if storage.recovery is not None:
                assert storage.recovery.kept_as.exists(), "what was dropped is kept"
            new = await storage.push(99)
            counts = await storage.metrics()
            assert counts["waiting"] >= 1, counts
    except BackendError:
        assert path.read_bytes() == data, "it is left alone"  # noqa: ASYNC240  nobody waits: it is small
        return
    async with FileStorage(path, int) as storage:  # what was recovered stays so
        assert storage.recovery is None
        again = {task.parts.id: task.args for task in await storage.list_tasks(limit=1000)}
        assert again == {**seen, new: 99}, (seen, again)
        task = await storage.fetch_by_id(new)
        assert task is not None
        assert task.parts.status is Status.Pending
