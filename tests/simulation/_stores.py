"""The storages that random programs run on, opened as often as a program says."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

from trio_tasks import FileStorage, Limits, MemoryStorage, Rate, SqliteStorage
from trio_tasks._contracts.calls import USUAL_LEASE

Kind = Literal["memory", "file", "sqlite"]
KINDS: tuple[Kind, ...] = ("memory", "file", "sqlite")

_MEMORY_DISK = Path("/dev/shm")


class Stores:
    """The storages of one program. Leases are short, so that they run out within it."""

    def __init__(self, kind: Kind, random: Random, seed: int) -> None:
        self.kind = kind
        self.per_key = 1 + seed % 3 if seed % 2 else None
        self.rate = Rate(3, per=2.0) if seed % 5 == 4 else None
        self.rate_per_key = Rate(1, per=1.5) if seed % 5 == 4 else None
        given = Limits(per_key=self.per_key, rate=self.rate, rate_per_key=self.rate_per_key)
        limits = None if given == Limits() else given
        self._options: dict[str, Any] = {"limits": limits}
        self._lease = random.choice((0.5, 3.0, 30.0))
        self._memory = MemoryStorage[int](
            random.choice((math.inf, math.inf, 1, 3, 10)),
            type=int if self._lease == 3.0 else None,
            keep_results=10**6,
            limits=limits,
        )
        self._synchronous: Any = random.choice(("FULL", "NORMAL"))
        self._is_temporary = random.random() < 0.3
        self.run_count = 1 if kind == "memory" or (kind == "file" and self._is_temporary) else random.choice((1, 2, 3))
        disk = _MEMORY_DISK if _MEMORY_DISK.is_dir() else None
        self._directory = TemporaryDirectory(prefix="trio_tasks-", dir=disk) if kind != "memory" else None
        self._reader: sqlite3.Connection | None = None

    @property
    def lease(self) -> float:
        """Seconds of a lease; in memory, of the time that a call waits for the end of its task."""
        return USUAL_LEASE if self.is_memory else self._lease

    @property
    def is_memory(self) -> bool:
        return self.kind == "memory"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[list[Any], None]:
        """Open the handles; SQLite gets two, for two processes."""
        if self._directory is None:
            yield [self._memory]
            return
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(each) for each in self._made(Path(self._directory.name))]

    def _made(self, directory: Path) -> list[Any]:
        options: dict[str, Any] = {**self._options, "lease": self._lease, "keep_results": math.inf}
        if self.kind == "sqlite":
            options |= {"synchronous": self._synchronous, "driver": "sqlite3"}
            return [SqliteStorage(directory / "tasks.db", int, **options) for _ in range(2)]
        if self._is_temporary:
            return [FileStorage.temporary(int, **options)]
        return [FileStorage(directory / "tasks.journal", int, synchronous=self._synchronous, **options)]

    def count_running(self, storages: list[Any]) -> int:
        """Return how many tasks are claimed, as another handle sees them."""
        if self._directory is None:
            return self._memory.statistics().running
        if self.kind == "file":
            state = storages[0]._loop.engine._open_transaction_log().state
            return sum(len(queue.running) for queue in state.queues.values())
        if self._reader is None:
            self._reader = sqlite3.connect(Path(self._directory.name) / "tasks.db", isolation_level=None)
        [(running,)] = self._reader.execute("SELECT count(*) FROM trio_tasks_task WHERE state = 2").fetchall()
        return int(running)

    def remove(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._directory is not None:
            self._directory.cleanup()
