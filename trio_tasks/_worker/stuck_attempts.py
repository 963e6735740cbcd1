"""Reports and log records of attempts that go on after a cancellation.

A thread does not end because trio says so, nor does a handler that shields itself. Leaving it behind would break the
promise that a settled task has nothing running; so it is named, with the line at which it is, again and again.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import trio

from .._contracts.report import Overrun
from .._printing import escaped
from .._tasks.task_id import TaskId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .._contracts.context import WorkerContext

RECORD_INTERVAL = 10
"""Seconds after a cancellation before those attempts are named that are still there; and then between two times."""


@asynccontextmanager
async def log_stuck_attempts(context: WorkerContext) -> AsyncGenerator[None, None]:
    """Report the attempts that go on for a while after the block was cancelled; if they go on for long, log them
    too.
    """
    watching = trio.CancelScope(shield=True)

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with watching:
                await _watch(context)  # noqa: ASYNC102  the scope is shielded, and cancelled below

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            yield
        finally:
            watching.cancel()
            nursery.cancel_scope.cancel()


async def _watch(context: WorkerContext) -> None:  # noqa: ASYNC910  it has no end of its own
    began = trio.current_time()
    for seconds in count(1):
        await trio.sleep_until(began + seconds)
        for task_id, where in context.current_lines().items():
            context.tally.overruns[task_id] = Overrun(context.name, TaskId(task_id), float(seconds), where)
        if seconds % RECORD_INTERVAL == 0:
            log_where_stuck(context)


def log_where_stuck(context: WorkerContext) -> None:
    """Log the attempts that go on, and the line of each."""
    for task_id, where in context.current_lines().items():
        context.named.add(task_id)
        if context.attempt_log is not None:
            context.attempt_log.log.warning(
                "worker %r was cancelled, but the attempt of %s at task %s goes on at %s",
                context.name,
                getattr(context.recipe, "handler_name", "its handler"),
                escaped(task_id),
                where,
            )
