"""The intake of a worker, which receives tasks while a slot is free, intake is open, and every gate lets attempts
through.

A cancellation here, by ``stop``, by ``pause`` or from outside, finds either a task that was taken or none.

Slots whose handlers never wait could go on taking tasks for ever, and nothing else in the program would run. So they
take them in slices (:class:`TimeSlices`): one slice for each round of trio's scheduler, however many slots there are. A
handler that does wait lets another slot take a task meanwhile. One slot stays on call to notice that; all others are
parked, and cost nothing, until they are needed; and those that were needed call twice as many, so that a thousand
handlers that wait are begun in ten rounds.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, final

import trio

from .._concurrency.exception_groups import is_a
from .._contracts.backend import NowaitBackend, ReceiveNowaitBackend
from .._contracts.events import Idle
from .._contracts.layer import Admitting, Gate, NowaitGate
from .._logging import catch_errors, log_and_suppress
from .._tasks.errors import LeaseLostError
from .._tasks.outcome import Released

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._contracts.backend import Backend
    from .._contracts.context import IntakeState, WorkerContext
    from .._tasks.task import Task
    from .slot import Slot

_SLICE = 0.001
"""Seconds in which one task after the other may be taken before everything else in the program runs."""

_TASKS_IN_A_SLICE = 256
"""And no more tasks than this, for the clock may be one that stands still."""


@final
class Intake:
    """The intake of one run: it receives tasks from the backend for the slots.

    Args:
      context: the run.
      backend: the source of tasks.
      gates: the layers that can hold intake back, outermost first.
      settle_timeout: the seconds that the backend may take to take back a task that was not admitted.
    """

    def __init__(
        self,
        context: WorkerContext,
        backend: Backend[Any],
        gates: Sequence[Gate],
        settle_timeout: float,
    ) -> None:
        self._context = context
        self._state = context.intake_state
        self._backend = backend
        self._gates = gates
        self._admitting = [gate for gate in gates if isinstance(gate, Admitting)]
        self._settle_timeout = settle_timeout
        self._checks: list[Callable[[], None]] = [gate.ready_nowait for gate in gates if isinstance(gate, NowaitGate)]
        name = context.name
        self._dismissals = [
            (gate.dismiss, log_and_suppress("worker %r: layer %r failed to dismiss a task", name, gate))
            for gate in self._admitting
        ]
        self._is_at_gates = False  # one slot is: it waits at the gates, or beyond them for a task
        self._behind = trio.lowlevel.ParkingLot()  # the other slots meanwhile
        self._failure: BaseException | None = None  # of a gate, for the attempt at the next task
        self._unadmitted: set[Task[Any]] = set()  # tasks whose attempt is to fail with the error of a gate
        self._listening = 0
        self._receive_nowait: Callable[[], Task[Any]] | None = None
        if isinstance(backend, ReceiveNowaitBackend):
            self._receive_nowait = backend.receive_nowait
        self._take_nowait = self._receive_nowait if len(self._checks) == len(gates) else None
        self._slices = TimeSlices(self._state)
        self._uses_slices = isinstance(
            backend, NowaitBackend
        )  # otherwise each slot waits when it settles, so that others run

    @property
    def will_take_more(self) -> bool:
        """True if a slot that finishes its task will take another one at once."""
        return not self._gates and self._state.is_open

    async def take(self, slot: Slot) -> Task[Any] | None:
        """Return the next task for this slot; None if there are no more, or intake is closed.

        A stop or a pause cuts the waiting short by cancelling the slot. If that happens in the very step in which a
        task is handed over, the task is returned, and the slot is cancelled: it has to see to that.
        """
        take_nowait = self._take_nowait
        if take_nowait is not None:
            if self._uses_slices and not self._slices.may_take(slot):
                await self._slices.wait(slot)
            if self._state.is_open and (not self._gates or (not self._is_at_gates and self._are_gates_open())):
                try:
                    task = take_nowait()
                except trio.WouldBlock:
                    pass
                except trio.EndOfChannel:
                    self._slices.wake_all()
                    return None  # noqa: ASYNC910  a slot checkpoints when its slice is over, and in the backend
                else:
                    if self._uses_slices:
                        self._slices.note_taken(slot)
                    if not self._gates or await self._admit_or_give_back(task, slot):
                        return task  # noqa: ASYNC910  a slot checkpoints when its slice is over, and in the backend
        self._slices.wake_all()
        return await self._wait(slot)

    async def _wait(self, slot: Slot) -> Task[Any] | None:
        has_looked = not self._gates  # and found nothing: that is why it waits
        while not self._state.closed:
            if self._state.cancelled:
                await self._state.wait_cancelled()
            self._state.add_waiter(slot)
            try:
                if self._state.paused:
                    await self._state.wait_open()
                    if not self._state.is_open:  # closed again before this slot ran
                        continue
                    has_looked = False
                return await (self._receive_through_gates(slot) if self._gates else self._receive(has_looked))
            finally:
                self._state.remove_waiter(slot)
        return None  # noqa: ASYNC910  the slot ends

    async def _receive(self, has_looked: bool = False) -> Task[Any] | None:
        try:
            if self._receive_nowait is not None and not has_looked:
                with suppress(trio.WouldBlock):
                    return self._receive_nowait()  # noqa: ASYNC910  its slice has begun with a checkpoint
            self._emit_if_idle()
            self._listening += 1
            try:
                return await self._backend.receive()
            finally:
                self._listening -= 1
        except trio.EndOfChannel:
            return None  # noqa: ASYNC910  the slot ends

    def _emit_if_idle(self) -> None:
        context = self._context
        if not (context.idle or context.running_tasks):
            context.idle = True
            if context.listeners:
                copy_context().run(context.emit, Idle())  # or what a listener sets would reach the next attempt

    async def _receive_through_gates(self, slot: Slot) -> Task[Any] | None:
        """Wait for the gates, then for a task; one slot at a time, so that the room that gates promise goes to one. If
        a gate fails, the attempt at the next task fails with its error.
        """
        if self._listening:  # the slot that looks now has found nothing
            self._emit_if_idle()
        has_waited = self._is_at_gates
        while self._is_at_gates:
            await self._behind.park()
        self._is_at_gates = True
        try:
            if not (has_waited and self._state.is_open):
                await trio.lowlevel.checkpoint()
            while True:
                failure = await self._pass_gates()
                task = await self._receive()
                if task is None or await self._admit_or_give_back(task, slot, failure):
                    return task
        finally:
            # The next slot is not at the gates before it runs: until then, slots whose attempts end take tasks without
            # waiting for it.
            self._is_at_gates = False
            self._behind.unpark()

    def _are_gates_open(self) -> bool:
        """Return True if a slot may pass all gates without waiting."""
        with catch_errors() as caught:
            for ready_nowait in self._checks:
                ready_nowait()
        if caught.error is None:
            return True
        if not is_a(caught.error, trio.WouldBlock):
            self._failure = caught.error
        return False

    async def _pass_gates(self) -> BaseException | None:  # noqa: ASYNC910  a gate may let through at once
        """Wait until all gates let an attempt through; return the first error that a gate raised, or None."""
        if self._failure is None and self._take_nowait is not None and self._are_gates_open():
            return None  # noqa: ASYNC910  the slot has waited for its turn
        failure, self._failure = self._failure, None
        try:
            for gate in self._gates:
                self._state.gate = gate
                with catch_errors() as caught:
                    await gate.ready()
                failure = caught.error if failure is None else failure
        finally:
            self._state.gate = None
        return failure  # noqa: ASYNC910  the same

    async def _admit_or_give_back(  # noqa: ASYNC910  a gate answers at once
        self, task: Task[Any], slot: Slot, failure: BaseException | None = None
    ) -> bool:
        """Ask the gates to admit a task; give it back and return False if they do not. After a ``failure`` of a gate,
        or if one fails now, the attempt at the task fails with the error.
        """
        admitted = False
        try:
            with catch_errors() as caught:
                admitted = failure is None and self._admit(task)
            failure = caught.error if failure is None else failure
            if failure is not None:
                self._unadmitted.add(task)
                slot.fail_next(failure)
                admitted = True
        finally:
            if not admitted:
                await self._give_back(task)  # noqa: ASYNC102  it shields itself, within bounds
        return admitted  # noqa: ASYNC910  the same

    def _admit(self, task: Task[Any]) -> bool:
        """Ask all gates that count attempts to admit the task; return True if all do, otherwise undo."""
        for count, gate in enumerate(self._admitting):
            admitted = False
            try:
                admitted = gate.admit(task)
            finally:
                if not admitted:
                    self._dismiss(task, self._dismissals[:count])
            if not admitted:
                return False
        return True

    def _dismiss(
        self, task: Task[Any], dismissals: Iterable[tuple[Callable[[Task[Any]], None], log_and_suppress]]
    ) -> None:
        for dismiss, contained in dismissals:
            with contained:
                dismiss(task)

    async def _give_back(self, task: Task[Any]) -> None:  # noqa: ASYNC910  settling is one
        self._context.idle = False
        with suppress(LeaseLostError), trio.fail_after(self._settle_timeout, shield=True):
            await self._backend.settle(task, Released("a gate had no room after all"))

    def dismiss(self, task: Task[Any]) -> None:
        """Free the room that gates reserved for an attempt that is over."""
        if task in self._unadmitted:
            self._unadmitted.discard(task)
            return
        self._dismiss(task, self._dismissals)


@final
class TimeSlices:
    """Time slices in which slots take tasks, so that the rest of the program runs in between.

    Args:
      state: the state of the intake; when it is not open, parked slots leave.
    """

    __slots__ = (
        "_ends",
        "_generation",
        "_last_is_busy",
        "_last_slot",
        "_left",
        "_needed",
        "_on_call",
        "_parked",
        "_slices",
        "_state",
    )

    def __init__(self, state: IntakeState) -> None:
        self._state = state
        self._parked = trio.lowlevel.ParkingLot()
        self._on_call = 0
        self._needed = 0  # slots on call that had to step in since the slice began
        self._last_slot: object = None  # the one that took a task last,
        self._last_is_busy = False  # and whether it has not come back yet
        self._slices = 0
        self._generation = 0
        self._left = 0
        self._ends = 0.0

    def may_take(self, slot: Slot) -> bool:
        """Return True if this slot may take a task at once.

        It may if the slice is not used up, or if the slot that took the last task now waits in its attempt.
        """
        if slot is self._last_slot:
            self._last_is_busy = False
        elif self._last_is_busy:
            return True
        self._left -= 1
        return self._left >= 0 and slot.now() < self._ends

    def note_taken(self, slot: object) -> None:
        """Note that this slot has taken a task. Another slot must be on call to step in if its attempt has to wait."""
        self._last_slot = slot
        self._last_is_busy = True
        if not self._on_call and self._parked:
            self._wake(1)

    async def wait(self, slot: Slot) -> None:  # noqa: ASYNC910  the intake waits while it is not open
        """Let the rest of the program run; return when this slot has a new slice, or intake is not open."""
        self._on_call += 1
        times_over = self._generation
        try:
            while self._state.is_open and times_over == self._generation:
                slices = self._slices
                await trio.lowlevel.checkpoint()
                if slices == self._slices:  # no slot was quicker in this round
                    self._slices += 1
                    self._needed = 0
                    self._left = _TASKS_IN_A_SLICE
                    self._ends = trio.current_time() + _SLICE
                    return
                if self._last_is_busy:  # the slot that was quicker waits in its attempt
                    self._needed += 1
                    if self._on_call == 1:
                        self._wake(2 * self._needed)
                    return
                if self._on_call > 1:
                    await self._park(slot)
        finally:
            self._on_call -= 1

    async def _park(self, slot: Slot) -> None:
        self._on_call -= 1
        self._state.add_waiter(slot)
        was_called = False
        try:
            await self._parked.park()
            was_called = True  # and counted by the slot that called
        finally:
            self._state.remove_waiter(slot)
            if not was_called:
                self._on_call += 1

    def wake_all(self) -> None:
        """Wake all slots, since no task is left to take: each must see that for itself."""
        if self._on_call or self._parked:
            self._generation += 1
            self._wake(len(self._parked))

    def _wake(self, slots: int) -> None:
        self._on_call += len(self._parked.unpark(count=slots))
