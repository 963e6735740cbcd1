"""The slots of one run of a worker: trio tasks that receive, attempt and settle, in a nursery of their own.

An attempt that waits for another task lends its slot: an extra slot runs in its place until the wait is over. The extra
one ends as soon as it runs no task; the attempt goes on at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio
from outcome import Value

from .._contracts.events import Start
from .._contracts.lending import is_attempted
from .._logging import log
from .._tasks.outcome import Released

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._contracts.context import WorkerContext
    from .._contracts.lending import LendingGate
    from .._tasks.task import Task
    from .slot import Slot, TaskSource

_STALL_INTERVAL = 5.0
"""Seconds for which all slots wait for other tasks before that is said in the log; and then between two times."""

_STOPPED = Released("its worker stops, and it waited for another task")


@final
class Slots:
    """The slots of a run: as many as its concurrency, until each of them has ended.

    Args:
      context: the run.
      intake: where tasks come from.
      make_slot: makes a slot that takes its tasks from such a source.
      lend: how many extra slots there may be.
      gates: layers in which an attempt that waits lends its places.
    """

    def __init__(
        self,
        context: WorkerContext,
        intake: TaskSource,
        make_slot: Callable[[TaskSource], Slot],
        lend: int,
        gates: Sequence[LendingGate],
    ) -> None:
        self._context = context
        self._intake = intake
        self._make_slot = make_slot
        self._lend = lend
        self._gates = gates
        self._nursery: trio.Nursery
        self._running = 0
        self._watcher: trio.lowlevel.Task | None = None
        self._lenders: dict[Slot, Task[Any]] = {}
        self._extras: dict[Slot, None] = {}  # a set that keeps its order, so that a seed decides all
        self._stall_scope: trio.CancelScope | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[WorkerContext]) -> None:
        """Run them; return when all have ended."""
        self._context.intake_state.on_close = self._release_lenders
        async with trio.open_nursery() as self._nursery:
            self._context.emit(Start())
            for _ in range(self._context.concurrency):
                self._start()
            task_status.started(self._context)
            await self._watch()
            self._nursery.cancel_scope.cancel()  # there may be one left that only looks for a stall

    def _start(self) -> None:
        self._running += 1
        self._nursery.start_soon(self._run_slot, self._make_slot(self._intake), self._start)

    @trio.lowlevel.enable_ki_protection
    async def _run_slot(self, slot: Slot, replace: Callable[[], object]) -> None:
        slot.lender = self
        try:
            await slot.run()
            if slot.left_open:
                replace()
        finally:
            self._extras.pop(slot, None)
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
            self._context.intake_state.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(note)

    # Lending

    @property
    def has_surplus(self) -> bool:
        """True if there are more extra slots than slots that are lent."""
        return len(self._extras) > len(self._lenders)

    def lend(self, slot: Slot, task: Task[Any]) -> None:
        """Have another slot run in place of this one, if there may be one more; end the attempt, if no slot will
        take the task that it waits for."""
        if self._context.intake_state.closed:
            slot.revoke(_STOPPED)
            return
        self._lenders[slot] = task
        self._context.lent = len(self._lenders)
        for gate in self._gates:
            gate.lend(task)
        if len(self._extras) < min(len(self._lenders), self._lend):
            self._start_extra()
        self._look_for_stall()

    def reclaim(self, slot: Slot, task: Task[Any]) -> None:
        """Take the slot back, since its attempt goes on. An extra slot that runs no task ends; if all have
        one, the first that has not."""
        if self._lenders.pop(slot, None) is None:
            return
        self._context.lent = len(self._lenders)
        for gate in self._gates:
            gate.reclaim(task)
        if self._stall_scope is not None:
            self._stall_scope.cancel()
            self._stall_scope = None
        if self.has_surplus:
            idle = next((extra for extra in self._extras if not extra.is_busy), None)
            if idle is not None:
                del self._extras[idle]
                idle.retire()

    def _start_extra(self) -> None:
        slot = self._make_slot(ExtraSource(self, self._intake))
        self._extras[slot] = None
        self._running += 1
        self._nursery.start_soon(self._run_slot, slot, lambda: None)

    def has_retired(self, slot: Slot) -> bool:
        """Return True if this extra slot takes no more: it was told to end, or there is one too many."""
        if slot in self._extras and self.has_surplus:
            del self._extras[slot]
        return slot not in self._extras

    def _release_lenders(self) -> None:
        """Release the attempts that lend their slots: intake has stopped, so no slot will take what they wait for."""
        for slot in list(self._lenders):
            slot.revoke(_STOPPED)

    # Stalls

    def _look_for_stall(self) -> None:
        if len(self._lenders) >= self._context.concurrency + self._lend and self._stall_scope is None:
            self._stall_scope = trio.CancelScope()
            self._nursery.start_soon(self._name_stall, self._stall_scope)

    async def _name_stall(self, scope: trio.CancelScope) -> None:
        """Log now and then that all slots wait for tasks that no slot attempts here."""
        with scope:
            looks = 0
            while True:  # noqa: ASYNC913  it sleeps first
                await trio.sleep(_STALL_INTERVAL / 2)
                goes_on = any(is_attempted(slot.waits_for) for slot in self._lenders if slot.waits_for)
                looks = 0 if goes_on else looks + 1
                if not looks or looks % 2:  # at the first one, what is waited for may just have ended
                    continue
                waits = [f"task {slot.attempted} waits for {slot.what}" for slot in self._lenders]
                log.warning(
                    "worker %r stalls: its %d slots, and %d more that they lent, all wait for tasks that no slot "
                    "attempts: %s; give it more concurrency, or a larger lend",
                    self._context.name,
                    self._context.concurrency,
                    len(self._extras),
                    "; ".join(waits),
                )


@final
class ExtraSource:
    """An intake for one extra slot, which gives it nothing more once the slot is not needed.

    Args:
      slots: know whether it is.
      intake: where its tasks come from.
    """

    def __init__(self, slots: Slots, intake: TaskSource) -> None:
        self._slots = slots
        self._intake = intake

    async def take(self, slot: Slot) -> Task[Any] | None:
        """The next task; None if no more will come, or this slot is not needed any more."""
        if self._slots.has_retired(slot):
            return None  # noqa: ASYNC910  the slot ends
        return await self._intake.take(slot)

    def dismiss(self, task: Task[Any]) -> None:
        """Take note that the attempt is over."""
        self._intake.dismiss(task)

    @property
    def will_take_more(self) -> bool:
        """True if the slot will take another task when it has come to its end with one."""
        return not self._slots.has_surplus and self._intake.will_take_more
