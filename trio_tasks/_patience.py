"""What cannot be made to end is waited for, but not in silence.

A thread does not end because trio says so, nor does a handler that shields itself. Leaving it behind would break the
promise that a settled task has nothing running; so it is named, with the line at which it is, again and again.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ._contained import log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ._context import WorkerContext

PATIENCE = 10.0
"""Seconds after a cancellation before those attempts are named that are still there; and then between two times."""


@asynccontextmanager
async def naming_who_stays(context: WorkerContext) -> AsyncGenerator[None, None]:
    """If the block is cancelled and does not end for long, say in the log which attempts it waits for."""
    watching = trio.CancelScope(shield=True)

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with watching:
                while True:
                    await trio.sleep(PATIENCE)  # noqa: ASYNC102  the scope is shielded, and cancelled below
                    for task_id, where in context.whereabouts().items():
                        log.warning(
                            "worker %r was cancelled, but the attempt of %s at task %s goes on at %s",
                            context.name,
                            getattr(context.recipe, "handler_name", "its handler"),
                            task_id,
                            where,
                        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            yield
        finally:
            watching.cancel()
            nursery.cancel_scope.cancel()
