"""A pipe, which carries args from a source into a storage, for the workers of that storage.

A task that was taken from the source and is not in the storage yet is kept here. It is pushed first next time, and its
id makes it count once, even if it is not known whether it had arrived.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import trio

from .._checks import check_flag
from .._contracts.backend import Backend, CallTask, Feeder
from .._contracts.sink import TaskSink
from .._logging import log
from .._printing import quoted
from .._tasks.errors import BackendError, DuplicateTaskError
from .._tasks.task import Task
from .mirroring import mirroring

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

    from .._contracts.context import WorkerContext
    from .._tasks.outcome import Outcome
    from .._tasks.task_id import TaskId

A = TypeVar("A")

_REFUSALS = (DuplicateTaskError, TypeError, ValueError)
_BATCH_SIZE = 64  # items carried between two checkpoints


class _Storage(Protocol[A]):
    """The type of a pipe's storage: a :class:`Backend` that is also a :class:`TaskSink`."""

    @property
    def heartbeat_interval(self) -> float | None: ...
    @property
    def settles_within_bounds(self) -> bool: ...
    @property
    def args_type(self) -> Any: ...
    async def push_task(self, task: Task[A]) -> TaskId: ...
    async def receive(self) -> Task[A]: ...
    async def settle(self, task: Task[Any], outcome: Outcome) -> None: ...
    async def beat(self, context: WorkerContext) -> None: ...


class Pipe(Backend[A], Feeder):
    """A backend that carries items from a source into a storage while a worker's intake is open, and gives out the
    storage's tasks.

    It implements the same interfaces as its storage, except :class:`TaskSink` and :class:`CallTask`. If the storage is
    full, it waits before it reads the next item from the source. Of several workers on one pipe, one carries items at a
    time, and another takes over when it stops.

    If the source is a channel, no cancellation loses an item. An async generator ends if it is cancelled while
    it waits, for example by ``stop`` or ``pause``, and the item that it was working on is lost. So make a channel of
    the generator with ``trio.as_safe_channel``.

    Args:
      source: a ``trio.abc.ReceiveChannel``, or any other async iterable, of args or of whole tasks.
      storage: a :class:`Backend` that is a :class:`TaskSink` too.
      close: True, the default, closes the storage once the source has ended, so that workers end when it is empty.
          Set it to False if other code pushes to the storage, too.

    A task that the storage refuses (``TypeError``, ``ValueError``, :class:`DuplicateTaskError`) is left out. The error
    is logged, since there is no caller to raise it in.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Pipe[A]:
        """Make a pipe that has the capabilities of its storage."""
        storage = kwargs.get("storage", args[1] if len(args) > 1 else None)
        return object.__new__(mirroring(cls, storage, _storage_method, without=(TaskSink, CallTask)))

    def __init__(
        self,
        source: AsyncIterable[Task[A]] | AsyncIterable[A],
        storage: _Storage[A],
        *,
        close: bool = True,
    ) -> None:
        if isinstance(source, Backend) or not hasattr(source, "__aiter__"):
            given = quoted(cast("object", source))
            raise TypeError(f"a pipe's source must be a trio.abc.ReceiveChannel or another async iterable, not {given}")
        if not (isinstance(storage, Backend) and isinstance(storage, TaskSink)):
            raise TypeError(
                f"a pipe's storage must be a Backend and a TaskSink, such as MemoryStorage(), which {storage!r} is not"
            )
        check_flag(close, "close")
        self._close_storage: Callable[[], object] | None = getattr(storage, "close", None) if close else None
        if close and not callable(self._close_storage):
            raise TypeError(f"{storage!r} has no close(), which a pipe calls at the end: give the pipe close=False")
        self._source = source
        self._items: AsyncIterator[Task[A] | A] = source.__aiter__()
        self._storage: Any = storage
        self._receive_nowait: Callable[[], Task[A] | A] | None = getattr(source, "receive_nowait", None)
        self._push_nowait: Callable[[Task[A]], object] | None = getattr(storage, "push_task_nowait", None)
        self._forward_lock = trio.Lock()
        self._in_transit: Task[A] | None = None
        self._tried = False  # whether the task in transit was pushed before
        self._was_interrupted = False  # whether the last wait for the source was cancelled, or failed
        self._ended = False
        self.heartbeat_interval = storage.heartbeat_interval
        self.settles_within_bounds = storage.settles_within_bounds
        self.args_type = storage.args_type

    # Carrying

    @trio.lowlevel.enable_ki_protection
    async def feed(self) -> None:
        """Carry items until the source ends, then close the storage.

        If it is cancelled, a task that it had taken from the source is carried first next time. Errors of the source
        come through as they are, and so do errors of the storage, unless it refuses the task.

        Raises:
          BackendError: the source is an async generator that was ended by an earlier cancellation, or by an error.
        """
        if not isinstance(self._storage, Feeder):
            await self._forward()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._storage.feed)
            nursery.start_soon(self._forward)

    async def _forward(self) -> None:
        async with self._forward_lock:
            while not self._ended:
                if self._in_transit is None:
                    self._in_transit = await self._next()
                if self._in_transit is None:
                    if self._close_storage is not None:
                        self._close_storage()
                    self._ended = True
                elif await self._put(self._in_transit):
                    self._forward_nowait()
                else:
                    return

    def _forward_nowait(self) -> None:
        """Carry what needs no waiting, if both ends have ``nowait`` methods; every error is met again by waiting."""
        if self._receive_nowait is None or self._push_nowait is None:
            return
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError, *_REFUSALS):
            for _ in range(_BATCH_SIZE):
                item = self._receive_nowait()
                self._in_transit = cast("Task[A]", item) if isinstance(item, Task) else Task(item)
                self._push_nowait(self._in_transit)
                self._in_transit = None

    async def _next(self) -> Task[A] | None:
        """Wait for the next item of the source, and return it as a task; None when the source ends."""
        was_interrupted, self._was_interrupted = self._was_interrupted, True
        try:
            item = await self._items.__anext__()
        except StopAsyncIteration:
            if was_interrupted and inspect.isasyncgen(self._items):
                raise BackendError(
                    f"{self._source!r} was ended by a cancellation or an error while it was waited for, so it is not "
                    "known what else it had: carry from a channel, such as trio.as_safe_channel makes"
                ) from None
            return None  # noqa: ASYNC910  it is over, so nothing waits for the lock
        self._was_interrupted = False
        return cast("Task[A]", item) if isinstance(item, Task) else Task(item)

    async def _put(self, task: Task[A]) -> bool:
        """Push the task in transit; return False if the storage is closed."""
        repeated, self._tried = self._tried, True
        refused = True
        try:
            await self._storage.push_task(task)
            refused = False
        except trio.ClosedResourceError:
            log.warning("%r stops, and keeps %r: its storage was closed before its source had ended", self, task)
            return False  # noqa: ASYNC910  it is over, so nothing waits for the lock
        except DuplicateTaskError as error:
            if not repeated:  # if it is repeated, the error means that the task had arrived before
                log.error("a task from %r was not pushed: %s", self, error)
        except (TypeError, ValueError):
            log.error("%r was not pushed: %r refuses it", task, self._storage, exc_info=True)
        self._in_transit, self._tried = None, False
        if refused:  # many refusals in a row must not starve other trio tasks
            await trio.lowlevel.checkpoint()
        return True  # noqa: ASYNC910  either this or the push was one

    # The storage's own methods

    async def receive(self) -> Task[A]:
        """Receive a task from the storage."""
        return cast("Task[A]", await self._storage.receive())

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Settle the task in the storage."""
        await self._storage.settle(task, outcome)

    async def beat(self, context: WorkerContext) -> None:
        """Renew the leases in the storage."""
        await self._storage.beat(context)

    async def aclose(self) -> None:
        """Close the source, if it has ``aclose``. The storage is its owner's to close."""
        aclose = getattr(self._items, "aclose", trio.lowlevel.checkpoint)
        await aclose()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<Pipe {state}: {self._source!r} into {self._storage!r}>"


def pipe_to(source: AsyncIterable[Task[A]] | AsyncIterable[A], storage: _Storage[A], *, close: bool = True) -> Pipe[A]:
    """Make a :class:`Pipe` from the source into the storage."""
    return Pipe(source, storage, close=close)


def _storage_method(verb: str) -> Callable[..., Any]:
    """A method that calls the storage's."""

    def call_storage(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._storage, verb)(*args, **kwargs)

    return call_storage
