"""A storage that does not answer."""

from __future__ import annotations

import trio
from trio_tasks import QueueMetrics
from trio_tasks.abc import EMPTY_METRICS, Metrics


class Hanging(Metrics):
    """A queue that does not answer, and cannot be cancelled, until it is let go on; or that fails."""

    queue = "slow"

    def __init__(self) -> None:
        self.goes_on = trio.Event()
        self.asked = 0
        self.fails = False

    async def metrics(self) -> QueueMetrics:
        self.asked += 1
        with trio.CancelScope(shield=True):
            await self.goes_on.wait()
        if self.fails:
            raise OSError("gone")
        return EMPTY_METRICS
