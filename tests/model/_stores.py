"""The storages that the machine is run on, with one handle for each worker."""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from trio_tasks import FileStorage, MemoryStorage, SqliteStorage
from trio_tasks._contracts.context import WorkerContext

from ._model import Model, Traits

WORKERS = 3
LEASE = 10 + 1 / 128
KEEP = 20 + 1 / 512
"""Seconds; neither they nor any delay ends at a moment at which a step is made."""


class Store(ABC):
    """A store, and the handle of each worker."""

    traits: Traits
    has_one_process = True

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.directory = directory
        self.handles: list[Any] = []
        self.contexts = [WorkerContext(f"w{number}") for number in range(WORKERS)]
        self._nursery = nursery
        self._ends: dict[Any, tuple[trio.Event, trio.Event]] = {}

    @abstractmethod
    async def open(self) -> None:
        """Open all handles."""

    async def restart(self, worker: int, model: Model, *, cleanly: bool) -> list[Any]:
        """Open a new handle for this worker, after a crash or after closing; return the handles that are gone."""
        raise NotImplementedError

    async def _opened(self, storage: Any) -> Any:
        """Open a handle that stays open until it is closed here."""
        await self._nursery.start(self._keep, storage)
        return storage

    async def _keep(  # noqa: ASYNC114  the name is ours alone
        self, storage: Any, task_status: trio.TaskStatus[None]
    ) -> None:
        end, ended = self._ends[storage] = trio.Event(), trio.Event()
        async with storage:
            task_status.started()
            await end.wait()
        ended.set()

    async def close(self, storage: Any) -> None:
        end, ended = self._ends.pop(storage)
        end.set()
        await ended.wait()

    async def close_all(self) -> None:
        for storage in [*self._ends]:
            await self.close(storage)


class InMemory(Store):
    traits = Traits(lease=math.inf, keep_results=math.inf, is_stored=False, waits_from_due=False)

    async def open(self) -> None:
        self.handles = [MemoryStorage[Any]()] * WORKERS


class InMemoryEncoded(InMemory):
    """MemoryStorage with encoded values, as the second of two queues."""

    async def open(self) -> None:
        beside = MemoryStorage[Any](type=Any)
        self.handles = [beside.share(queue="another")] * WORKERS


STORED = Traits(lease=LEASE, keep_results=KEEP, is_stored=True, waits_from_due=True)


class InFile(Store):
    """FileStorage, in one process. If it dies, what counts is the file as it is."""

    traits = STORED

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        super().__init__(directory, nursery)
        self._lives = 0

    @property
    def _path(self) -> Path:
        return self.directory / f"{self._lives}.journal"

    async def open(self) -> None:
        storage = FileStorage(self._path, synchronous="NORMAL", lease=LEASE, keep_results=KEEP)
        self.handles = [await self._opened(storage)] * WORKERS
        for context in self.contexts:
            await storage.register_worker(context)

    async def restart(self, worker: int, model: Model, *, cleanly: bool) -> list[Any]:
        gone, before = self.handles[0], self._path
        if cleanly:
            await self.close(gone)
        self._lives += 1
        shutil.copyfile(before, self._path)
        await self.open()
        model.lose_all()
        model.enter_due()  # so does who opens the file
        return [gone]


class InSqlite(Store):
    """SqliteStorage, with one process for each worker."""

    traits = replace(STORED, is_exact=False)
    has_one_process = False

    async def open(self) -> None:
        for worker in range(WORKERS):
            self.handles.append(await self._open(worker))

    async def _open(self, worker: int) -> Any:
        path = self.directory / "tasks.db"
        storage: Any = SqliteStorage(path, synchronous="OFF", lease=LEASE, keep_results=KEEP, poll_interval=1 / 64)
        await self._opened(storage)
        await storage.register_worker(self.contexts[worker])
        return storage

    async def restart(self, worker: int, model: Model, *, cleanly: bool) -> list[Any]:
        gone = self.handles[worker]
        if cleanly:
            await self.close(gone)
        self.contexts[worker] = WorkerContext(f"w{worker}")
        self.handles[worker] = await self._open(worker)
        return [gone] if cleanly else []  # else it is only stopped: it may come to life again
