"""A handle to a stored queue: opening and closing it, and further queues over the same connection."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from ..._concurrency.background import run_shielded
from ..._concurrency.exception_groups import is_a
from ..._contracts.open_stores import note_closed, note_open
from ..._exports import part_of
from .exchange_loop import ExchangeLoop
from .queue import QueueState

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from .engine import Engine
    from .queue import StorageOptions

A = TypeVar("A")


@part_of("DurableStorage")
class StorageHandle(Generic[A]):
    """What is opened, shared and closed."""

    heartbeat_interval: float | None
    args_type: Any

    def _found(self, engine: Engine, queue: QueueState, poll_interval: float) -> None:
        """Stand on this engine."""
        self._loop = ExchangeLoop(engine, poll_interval)
        self._stack: AsyncExitStack | None = AsyncExitStack()
        self._join(queue)

    def _join(self, queue: QueueState) -> None:
        queue = self._queue = self._loop.queues.setdefault(queue.name, queue)
        queue.handles += 1
        self._closed = False
        self.heartbeat_interval = queue.lease / 3
        self.args_type = queue.type

    @property
    def beats_when_idle(self) -> bool:
        """True if heartbeats are worth their while when no task is in hand: not under a virtual clock."""
        return self._loop.engine.news_may_be_lost

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._queue.name

    @property
    def lease(self) -> float:
        """Seconds after which a task in hand is an orphan, unless its lease is renewed."""
        return self._queue.lease

    def share(self, type: Any = Any, *, queue: str, **options: Unpack[StorageOptions]) -> Any:
        """Another queue over the same connection.

        It is open for as long as this storage is, and is closed on its own. The options are those of the storage
        (``lease``, ``codec``, ``result_type``, ``keep_results``, ``keep_dead``,
        ``unreadable_after``), and the same as here if not given.

        Raises:
          ValueError: the queue is open here already, for another type.
        """
        sibling = self._queue.sibling(queue, type, options)
        known = self._loop.queues.get(queue)
        if known is not None and repr(known.codec) != repr(sibling.codec):
            raise ValueError(
                f"queue {queue!r} is open here already, with {known.codec!r} rather than {sibling.codec!r}"
            )
        other = object.__new__(self.__class__)
        other._loop = self._loop
        other._stack = None
        other._join(sibling)
        return other

    # Opening and closing

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Open the store; raises :class:`BackendError` if it cannot be had. A shared queue is open already."""
        if self._stack is None:
            await trio.lowlevel.checkpoint()
            return self
        if self._loop.is_open or self._loop.closed:
            raise RuntimeError(f"{self!r} has been opened already; make a new one to open it again")
        engine = self._loop.engine
        with trio.CancelScope(shield=True):
            await engine.open()
        self._loop.is_open = True
        self._loop.token = trio.lowlevel.current_trio_token()
        self._loop.pid = os.getpid()
        await self._stack.enter_async_context(run_shielded(self._loop.run))
        await self._stack.enter_async_context(run_shielded(engine.listen, self._loop.on_wakeup))
        note_open(self._loop)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with trio.CancelScope(shield=True):
                await self.aclose()  # noqa: ASYNC102  what an engine does is bounded by itself
        finally:
            await self._end_tasks(error)  # noqa: ASYNC102  it waits for two trio tasks that were told to end

    async def _end_tasks(  # noqa: ASYNC910  a shared queue has none
        self, error: BaseException | None
    ) -> None:
        """End what runs beside the block: the loop of exchanges, and who listens for news."""
        if self._stack is not None:
            # What the block raised is not the nursery's to wrap, unless it was the nursery that cancelled the block.
            ours = error if error is not None and is_a(error, trio.Cancelled) else None
            await self._stack.__aexit__(type(ours) if ours else None, ours, ours.__traceback__ if ours else None)

    def close(self) -> None:
        """Nothing more is pushed through this handle. Workers on its queue end once that is empty."""
        if self._closed:
            return
        self._closed = True
        self._queue.handles -= 1
        self._loop.check_queues()

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """As :meth:`close`; and the connection is closed, unless this is a shared queue.

        What was given to a worker is not waited for: end the workers first. What waits stays stored. It does its work
        even if it is cancelled.
        """
        self.close()
        if self._stack is not None and self._loop.is_open and not self._loop.closed:
            with trio.CancelScope(shield=True):
                try:
                    await self._loop.end()
                finally:
                    note_closed(self._loop)
        await trio.lowlevel.checkpoint_if_cancelled()

    def __repr__(self) -> str:
        state = "closed" if self._loop.closed else "open" if self._loop.is_open else "not opened yet"
        return f"<{type(self).__name__} {self._loop.engine!r}, queue {self.queue!r}, {state}>"
