"""The slots of one run of a worker: trio tasks that receive, attempt and settle, in a nursery of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio
from outcome import Value

from ._events import Start

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._context import WorkerContext
    from ._seat import Seat


@final
class Slots:
    """Runs as many slots as the run's concurrency, until each of them has ended.

    Args:
      context: the run.
      make_slot: makes one.
    """

    def __init__(self, context: WorkerContext, make_slot: Callable[[], Seat]) -> None:
        self._context = context
        self._make_slot = make_slot
        self._nursery: trio.Nursery
        self._running = 0
        self._watcher: trio.lowlevel.Task | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[WorkerContext]) -> None:
        """Run them; return when all have ended."""
        async with trio.open_nursery() as self._nursery:
            self._context.emit(Start())
            for _ in range(self._context.concurrency):
                self._start()
            task_status.started(self._context)
            await self._watch()

    def _start(self) -> None:
        self._running += 1
        self._nursery.start_soon(self._run_slot)

    @trio.lowlevel.enable_ki_protection
    async def _run_slot(self) -> None:
        try:
            slot = self._make_slot()
            await slot.sit()
            if slot.left_open:
                self._start()
        finally:
            self._running -= 1
            if not self._running and self._watcher is not None:
                watcher, self._watcher = self._watcher, None
                trio.lowlevel.reschedule(watcher, Value(None))

    async def _watch(self) -> None:
        """Wait until all slots have ended, or a cancellation comes.

        trio calls the abort function in the step in which the cancellation is made, and so the intake is closed by it
        at once: no slot has to look for a cancellation before each task, and nothing more is claimed for any of them.
        """
        self._watcher = trio.lowlevel.current_task()

        def note(_: object) -> trio.lowlevel.Abort:
            self._watcher = None
            self._context.door.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(note)
