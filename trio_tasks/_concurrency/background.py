"""Functions that run in the background of a block, and end with it.

trio-util has the plain kind; it has no types, so this is the one place where its name is spelled.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, final

import trio


def run_and_cancelling(
    async_fn: Callable[..., Awaitable[object]], *args: Any
) -> AbstractAsyncContextManager[None, Any]:
    """Run ``async_fn(*args)`` in the background of an ``async with`` block, and cancel it when the block ends."""
    import trio_util  # late: its import takes as long as half of this library's

    beside: Any = trio_util
    block: AbstractAsyncContextManager[None, Any] = beside.run_and_cancelling(async_fn, *args)
    return block


@final
class Background:
    """Functions that run in the background of a block, and are shielded from cancellations that come from outside it.
    So they go on for as long as something in the block shields itself and cleans up. See :func:`open_background`.

    Args:
      nursery: the nursery around the block.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: list[trio.CancelScope] = []

    def start(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run ``async_fn(*args)`` until it returns, or the block ends."""
        scope = trio.CancelScope(shield=True)
        self._scopes.append(scope)
        self._nursery.start_soon(self._run, scope, async_fn, args)

    async def _run(
        self, scope: trio.CancelScope, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]
    ) -> None:
        with scope:
            await async_fn(*args)

    def end(self) -> None:
        """Cancel all of them."""
        for scope in self._scopes:
            scope.cancel()


@asynccontextmanager
async def open_background() -> AsyncGenerator[Background, None]:
    """Open a background for the block: what is started in it is cancelled when the block ends."""
    async with trio.open_nursery() as nursery:
        background = Background(nursery)
        try:
            yield background
        finally:
            background.end()


@asynccontextmanager
async def run_shielded(async_fn: Callable[..., Awaitable[object]], *args: Any) -> AsyncGenerator[None, None]:
    """Do as :func:`run_and_cancelling`, but in a :class:`Background`."""
    async with open_background() as background:
        background.start(async_fn, *args)
        yield
