"""Work that goes on beside a block, and ends with it.

trio-util has the plain kind; it has no types, so this is the one place where its name is spelled.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio


def run_and_cancelling(
    async_fn: Callable[..., Awaitable[object]], *args: Any
) -> AbstractAsyncContextManager[None, Any]:
    """``async with run_and_cancelling(async_fn, *args)``: run it until the block is left, and cancel it then."""
    import trio_util  # which takes as long to import as half of this library, and is not needed before a worker runs

    beside: Any = trio_util
    block: AbstractAsyncContextManager[None, Any] = beside.run_and_cancelling(async_fn, *args)
    return block


@asynccontextmanager
async def run_shielded(async_fn: Callable[..., Awaitable[object]], *args: Any) -> AsyncGenerator[None, None]:
    """``async with run_shielded(async_fn, *args)``: the same, but a cancellation from outside does not end it: only
    leaving the block does. So it goes on for as long as something in the block shields itself and cleans up."""
    scope = trio.CancelScope(shield=True)

    async def run() -> None:
        with scope:
            await async_fn(*args)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)  # noqa: ASYNC113  it need not have begun when the block does
        try:
            yield
        finally:
            scope.cancel()
