"""The storage that a command is about: opened by its URL, in the way that the command needs, with all of its queues."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, final
from urllib.parse import unquote_plus

from .. import BackendError, DurableStorage, FileStorage, open_url
from .output import CommandError, ExitStatus, printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

_NAMED = 10
"""Queues that an error names at most."""


class Target(NamedTuple):
    """A task that a command is about: its id, and its queue, if that is known."""

    id: str
    queue: str | None = None


class StoreOptions(NamedTuple):
    """The options that choose a storage and a queue."""

    url: str
    queue: str | None
    """None: all queues."""


@final
class Store:
    """An open storage, and its queues.

    Args:
      storage: the storage.
      queue: the queue that was chosen; None: all of them.
    """

    def __init__(self, storage: DurableStorage[Any], queue: str | None) -> None:
        self.storage = storage
        self.chosen = queue
        self._queues: dict[str, DurableStorage[Any]] = {storage.queue: storage}
        self._known: list[str] = []

    def queue(self, name: str) -> DurableStorage[Any]:
        """Return the queue of this name."""
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = self.storage.share(queue=name)
        return found

    async def names(self) -> list[str]:
        """Return the name of the queue that was chosen, or those of all.

        Raises:
          CommandError: there is no such queue.
        """
        if self.chosen is None:
            return sorted(await self.storage.list_queues())
        await self.check_queue(self.chosen)
        return [self.chosen]

    async def check_queue(self, name: str) -> None:
        """Raise :exc:`CommandError` if there is no queue of this name."""
        if name in self._known:
            return
        names = self._known = sorted(await self.storage.list_queues())
        if name not in names:
            some = ", ".join(map(printable, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
            told = f"the queues are {some}" if names else "it has no queue yet"
            raise CommandError(f"the storage has no queue {printable(name)!r}: {told}", ExitStatus.NOT_FOUND)

    async def queues(self) -> list[DurableStorage[Any]]:
        """Return the queue that was chosen, or all queues."""
        return [self.queue(name) for name in await self.names()]

    async def queue_of(self, target: Target) -> DurableStorage[Any] | None:
        """Return the queue of a task; None if no queue knows the task."""
        [name] = await self.sorted_by_queue([target])
        return None if name is None else self.queue(name)

    async def sorted_by_queue(self, targets: Sequence[Target]) -> dict[str | None, list[str]]:
        """Return the ids of tasks by the names of their queues; under None those that no queue knows.

        Raises:
          CommandError: there is no such queue, several queues have a task of one id, or two queues are named for one.
        """
        found: dict[str | None, list[str]] = {}
        unplaced: list[str] = []
        for target in targets:
            name = target.queue or self.chosen
            if name is None:
                unplaced.append(target.id)
                continue
            if self.chosen not in (None, name):
                told = f"task {printable(target.id)} is said to be on queue {printable(name)!r}"
                raise CommandError(f"{told}, and --queue is {printable(self.chosen or '')!r}", ExitStatus.USAGE)
            await self.check_queue(name)
            found.setdefault(name, []).append(target.id)
        for task_id, name in (await self._places_of(unplaced)).items() if unplaced else ():
            found.setdefault(name, []).append(task_id)
        return found

    async def _places_of(self, ids: list[str]) -> dict[str, str | None]:
        """Return the name of the queue of each of these tasks, by looking into all queues."""
        names = await self.names()
        if len(names) == 1:
            return dict.fromkeys(ids, names[0])
        places: dict[str, str | None] = dict.fromkeys(ids)
        for name in names:
            for task in await self.queue(name).fetch_by_id(ids):
                if task is None:
                    continue
                if (other := places[task.parts.id]) is not None:
                    told = (
                        f"several queues have a task {printable(task.parts.id)}: {printable(other)}, {printable(name)}"
                    )
                    raise CommandError(f"{told}; choose one by --queue", ExitStatus.USAGE)
                places[task.parts.id] = name
        return places


def storage_of(options: StoreOptions, **settings: Any) -> DurableStorage[Any]:
    """Return the storage that a URL names, not yet open. What ``settings`` say goes before what the URL says.

    Raises:
      CommandError: the URL names none that several processes can use.
    """
    if options.url.partition(":")[0].lower() == "memory":
        raise CommandError("memory:// is a storage inside one process, which no other can open", ExitStatus.USAGE)
    if options.queue is not None:
        settings["queue"] = options.queue
    ignored = {*settings, "repair", "create"} if settings.get("read_only") else {*settings}
    try:
        storage = open_url(url_without(options.url, ignored), **settings)
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    assert isinstance(storage, DurableStorage)
    return storage


def url_without(url: str, names: set[str]) -> str:
    """Return a URL without the options of these names."""
    place, _, query = url.partition("?")
    kept = [each for each in query.split("&") if each and unquote_plus(each.partition("=")[0]) not in names]
    return f"{place}?{'&'.join(kept)}" if kept else place


@contextmanager
def without_known_faults() -> Generator[None, None, None]:
    """Log no warning of SQLite's fault in the block: ``doctor`` and ``run`` tell of it, and not each command."""
    log = logging.getLogger("trio_tasks")
    log.addFilter(_is_news)
    try:
        yield
    finally:
        log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "walresetbug" not in str(record.msg)


@asynccontextmanager
async def looking(options: StoreOptions) -> AsyncGenerator[Store, None]:
    """Open a storage to look at it: nothing is made, changed or migrated."""
    storage = storage_of(options, read_only=True)
    async with storage:
        yield Store(storage, _chosen(options, storage))


@asynccontextmanager
async def changing(options: StoreOptions) -> AsyncGenerator[Store, None]:
    """Open a storage to change something in it. A store that is not there is not made, and an old one not migrated:
    other processes may run an older version.
    """
    await check_current(options)
    storage = storage_of(options, create=False)
    async with storage:
        yield Store(storage, _chosen(options, storage))


@asynccontextmanager
async def asking(options: StoreOptions) -> AsyncGenerator[Store, None]:
    """Open a storage to look at it, so that workers of other processes can be asked for their state, if this account
    may do that. A journal has one process, and opening it there would take its tasks over.
    """
    async with AsyncExitStack() as stack:
        try:
            way = looking if isinstance(storage_of(options), FileStorage) else changing
            store = await stack.enter_async_context(way(options))
        except BackendError as error:
            if error.is_missing or error.is_outdated:
                raise
            store = await stack.enter_async_context(looking(options))
        yield store


async def check_current(options: StoreOptions) -> None:
    """Raise if the store is missing or outdated; leave all other errors to those who open it."""
    try:
        async with storage_of(options, read_only=True):
            pass
    except BackendError as error:
        if error.is_missing or error.is_outdated:
            raise


def _chosen(options: StoreOptions, storage: DurableStorage[Any]) -> str | None:
    """Return the queue that the options or the URL choose."""
    has_queue = url_without(options.url, {"queue"}) != url_without(options.url, set())
    return storage.queue if options.queue is not None or has_queue else None
