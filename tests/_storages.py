"""A list of all kinds of storages, for tests that are the same on each of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from trio_tasks import FileStorage, MemoryStorage, SqliteStorage


@asynccontextmanager
async def memory(path: Path) -> AsyncGenerator[Any, None]:
    yield MemoryStorage[int]()


@asynccontextmanager
async def file(path: Path) -> AsyncGenerator[Any, None]:
    async with FileStorage(path, int, synchronous="NORMAL") as storage:
        yield storage


@asynccontextmanager
async def sqlite(path: Path) -> AsyncGenerator[Any, None]:
    async with SqliteStorage(path, int, synchronous="NORMAL") as storage:
        yield storage


STORAGES: dict[str, Callable[[Path], AbstractAsyncContextManager[Any]]] = {
    each.__name__: each for each in (memory, file, sqlite)
}
