"""The part of a worker that receives: only when a slot is free, intake open, and every gate lets an attempt through.

A cancellation here, by ``stop``, by ``pause`` or from outside, finds either a task that was taken or none.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, final

import trio

from .._contracts.backend import NowaitBackend, StockedBackend
from .._contracts.events import Idle
from .._contracts.layer import Admitting, Gate
from .._logging import catch_errors, log_and_suppress
from .._tasks.errors import LeaseLostError
from .._tasks.outcome import Released
from .time_slices import TimeSlices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._contracts.backend import Backend
    from .._contracts.context import WorkerContext
    from .._tasks.task import Task
    from .slot import Slot


@final
class Intake:
    """The intake: it takes tasks out of a backend, for the slots of one run.

    Args:
      context: the run.
      backend: where tasks come from.
      gates: the layers that can hold intake back, outermost first.
      settle_timeout: seconds that the backend may take to have a task back that was not admitted after all.
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
        self._gate_lock = trio.Lock()
        self._unadmitted: set[Task[Any]] = set()  # those whose attempt is to fail, since a gate has
        self._listening = 0
        self._receive_nowait: Callable[[], Task[Any]] | None = None
        if isinstance(backend, StockedBackend):
            self._receive_nowait = backend.receive_nowait
        self._slices = TimeSlices(self._state)
        self._uses_slices = isinstance(backend, NowaitBackend)  # else each slot waits when it settles, and others run

    @property
    def will_take_more(self) -> bool:
        """True if a slot that has come to its end with a task will take another one at once."""
        return not self._gates and self._state.is_open

    async def take(self, slot: Slot) -> Task[Any] | None:
        """The next task, for this slot to run; None if no more will come, or none is to be taken any more.

        A stop or a pause cuts the waiting short by cancelling the slot's scope. If that happens in the very step in
        which a task
        is handed over, the task is returned, and the scope is a cancelled one: the slot has to see to that.
        """
        receive_nowait = self._receive_nowait
        if receive_nowait is not None and not self._gates:
            if self._uses_slices and not self._slices.may_take(slot):
                await self._slices.wait(slot.scope)
            if self._state.is_open:
                try:
                    task = receive_nowait()
                except trio.WouldBlock:
                    pass
                except trio.EndOfChannel:
                    self._slices.wake_all()
                    return None  # noqa: ASYNC910  a slot checkpoints when its slice is over, and in the backend
                else:
                    if self._uses_slices:
                        self._slices.note_taken(slot)
                    return task  # noqa: ASYNC910  a slot checkpoints when its slice is over, and in the backend
        self._slices.wake_all()
        return await self._wait(slot)

    async def _wait(self, slot: Slot) -> Task[Any] | None:
        scope = slot.scope
        has_looked = not self._gates  # and found nothing: that is why it waits
        while not self._state.closed:
            if self._state.cancelled:
                await self._state.wait_cancelled()
            self._state.add_waiter(scope)
            try:
                if self._state.paused:
                    await self._state.wait_open()
                    if not self._state.is_open:  # shut again before this one has come to it
                        continue
                    has_looked = False
                return await (self._receive_through_gates(slot) if self._gates else self._receive(has_looked))
            finally:
                self._state.remove_waiter(scope)
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
        """Wait for the gates, then for a task; one slot at a time, so that what they promise is promised to one. If
        a gate fails, the attempt at the next task fails with its error."""
        if self._listening:  # the slot that looks now has found nothing
            self._emit_if_idle()
        await self._gate_lock.acquire()
        try:
            while True:
                failure = await self._pass_gates()
                task = await self._receive()
                if task is None:
                    return None
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
                if admitted:
                    return task
        finally:
            self._gate_lock.release()

    async def _pass_gates(self) -> BaseException | None:  # noqa: ASYNC910  a gate may let through at once
        """Wait for all gates; the first error that one of them has raised, if any has."""
        failure: BaseException | None = None
        for gate in self._gates:
            with catch_errors() as caught:
                await gate.ready()
            failure = caught.error if failure is None else failure
        return failure  # noqa: ASYNC910  the same

    def _admit(self, task: Task[Any]) -> bool:
        """Ask all gates that count; either all of them admit the task, or none."""
        admitted: list[Admitting] = []
        try:
            for gate in self._admitting:
                if not gate.admit(task):
                    return False
                admitted.append(gate)
        finally:
            if len(admitted) < len(self._admitting):
                for gate in admitted:
                    self._dismiss_from(gate, task)
        return True

    def _dismiss_from(self, gate: Admitting, task: Task[Any]) -> None:
        with log_and_suppress("worker %r: layer %r failed to dismiss a task", self._context.name, gate):
            gate.dismiss(task)

    async def _give_back(self, task: Task[Any]) -> None:  # noqa: ASYNC910  settling is one
        self._context.idle = False
        with suppress(LeaseLostError), trio.fail_after(self._settle_timeout, shield=True):
            await self._backend.settle(task, Released("a gate had closed"))

    def dismiss(self, task: Task[Any]) -> None:
        """Take note that the attempt is over: what the gates set aside for it is free again."""
        if task in self._unadmitted:
            self._unadmitted.discard(task)
            return
        for gate in self._admitting:
            self._dismiss_from(gate, task)
