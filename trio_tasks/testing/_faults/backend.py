"""A backend that injects faults, at given rates and decided by a seed; its claims; and the draw of faults."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, final

import trio
from trio.testing import MockClock

from ..._backends.channel import as_backend
from ..._backends.mirroring import mirroring
from ..._checks import check_count, check_sync
from ..._contracts.backend import Backend, NowaitBackend
from ..._logging import log_and_suppress
from ..._tasks.errors import BackendError, LeaseLostError
from ..._tasks.outcome import Retried
from .deliveries import Deliveries, Delivery, duplicate_of, has_claim
from .rates import Fault, Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from ..._contracts.context import WorkerContext
    from ..._tasks.outcome import Outcome
    from ..._tasks.task import Parts, Task
    from .rates import FaultKind


A = TypeVar("A")

_GIVE_BACK_SECONDS = 10.0
"""Seconds that the backend may take to settle the lost claims."""


@final
class FaultyBackend(Backend[A]):
    """A wrapper around a backend that loses, repeats and delays its tasks, and makes operations fail, as a seed
    decides.

    >>> storage = MemoryStorage[int]()
    >>> faulty = FaultyBackend(storage, Faults.rough(), seed=1234)
    >>> await Worker("test", faulty, double).run()
    >>> print(*faulty.log, sep="\\n")

    All its faults are allowed for an at-least-once backend, so the promises hold over it. Dropped tasks, and tasks that
    a dead receiver had claimed, come back after their lease. Of two copies of a delivery one can be settled; the
    :meth:`settle` of the other raises :class:`LeaseLostError`. An operation that fails raises :class:`BackendError`. A
    failing backend ends its worker, so let a :class:`Monitor` restart it.

    It has exactly the interfaces of the wrapped backend, so ``isinstance`` gives the same answers; all their methods
    but ``events`` stall and fail as the rates say. But a backend that stalls is never a ``NowaitBackend``. Methods that
    belong to no interface (``close``, ``statistics``, ``push_nowait``) are passed on without faults; a ``clone()``, or
    a queue made by ``share()``, has no faults until it is wrapped.

    A backend without leases (one whose ``heartbeat_interval`` is None) would never give out a lost task again. So the
    wrapper settles such a task as ``Retried``: it comes back after ``absence_seconds`` with its attempt counted, as it
    would with a lease. A :class:`ScriptedBackend` gives nothing twice: a task that it loses stays lost.

    Args:
      backend: a backend, or any ``trio.abc.ReceiveChannel``, of args or of whole tasks.
      faults: the rates and durations of the faults.
      seed: the seed that decides which call has which fault, if the order of calls is the same; see
          :func:`run_seeded`.
      on_fault: a function that is called with each :class:`Fault` as it happens, such as ``print``.

    Raises:
      TypeError: an argument is wrong; the message says which one.
    """

    def __new__(
        cls,
        backend: trio.abc.ReceiveChannel[Any],
        faults: Faults,
        *,
        seed: int = 0,
        on_fault: Callable[[Fault], object] | None = None,
    ) -> Self:
        if not isinstance(faults, Faults):
            raise TypeError(f"faults must be a Faults, such as Faults.rough(), not {faults!r}")
        return object.__new__(mirroring(cls, as_backend(backend), without=(NowaitBackend,) if faults.stall else ()))

    def __init__(
        self,
        backend: trio.abc.ReceiveChannel[Any],
        faults: Faults,
        *,
        seed: int = 0,
        on_fault: Callable[[Fault], object] | None = None,
    ) -> None:
        self.backend: Backend[A] = as_backend(backend)
        """The backend inside, without faults."""
        self.faults = faults
        self.seed = seed
        self.heartbeat_interval = self.backend.heartbeat_interval
        self.args_type = self.backend.args_type
        self.settles_within_bounds = self.backend.settles_within_bounds and not faults.stall
        self._deliveries: Deliveries[A] = Deliveries()
        self._injector = FaultInjector(faults, seed, on_fault, self._deliveries.wake_all)
        self._claims: Claims[A] = Claims(self.backend, self._injector)

    @property
    def log(self) -> tuple[Fault, ...]:
        """The faults injected so far, in order."""
        return tuple(self._injector.log)

    async def pass_on(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Call this method of the wrapped backend, unless a fault is injected. Cancelled in a stall, it does
        nothing.
        """
        await self._injector.stall(verb)
        self._injector.check(verb)
        return await getattr(self.backend, verb)(*args, **kwargs)

    def pass_through(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Call this sync method of the wrapped backend, such as ``events``; it has no faults."""
        return getattr(self.backend, verb)(*args, **kwargs)

    # Receiving

    async def receive(self) -> Task[A]:
        """Claim the next task, unless a fault is injected.

        Raises:
          trio.EndOfChannel: the backend inside has ended, and no delivery is pending.
          BackendError: the connection is down, or went down while this waited.
          RuntimeError: a fault should move the clock, and the clock is no ``MockClock``.

        If it is cancelled, nothing was taken: pending deliveries go to the next receiver.
        """
        await self._injector.stall("receive")
        self._injector.check("receive")
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            late = self._deliveries.pop_due()
            if late is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return self._deliver(late)
            task = await self._wait_for_task()
            arrived = None if task is None else self._arrive(task)
            await self._claims.give_back_lost()
            if arrived is not None:
                return arrived  # noqa: ASYNC910  it has waited

    async def _wait_for_task(self) -> Task[A] | None:
        """Receive a task from the wrapped backend; None when a late delivery is due."""
        task: Task[A] | None = None
        with self._deliveries.waiting() as scope:
            if self._deliveries.has_room:
                try:
                    with self._deliveries.claiming():
                        task = await self.backend.receive()
                except trio.EndOfChannel:
                    if not self._deliveries.pending:
                        raise
            if task is None:
                await trio.sleep_forever()
        if task is None and scope.cancelled_caught and self._injector.is_down:
            raise BackendError("receive failed: the connection went down")
        return task  # noqa: ASYNC910  it has waited

    def receive_nowait(self) -> Task[A]:
        """Receive as :meth:`receive` does, if the wrapped backend is a ``ReceiveNowaitBackend``; or raise
        ``trio.WouldBlock``.
        """
        if not (self._claims.has_leases or isinstance(self.backend, NowaitBackend)):
            raise trio.WouldBlock  # a task that is lost could not be given back without waiting
        self._injector.check("receive")
        inside: Any = self.backend
        while True:
            late = self._deliveries.pop_due()
            if late is not None:
                return self._deliver(late)
            if not self._deliveries.has_room_for_one_more:
                raise trio.WouldBlock
            try:
                arrived = self._arrive(inside.receive_nowait())
            except trio.EndOfChannel:
                if self._deliveries.pending:
                    raise trio.WouldBlock from None
                raise
            self._claims.give_back_lost_nowait()
            if arrived is not None:
                return arrived

    def _arrive(self, task: Task[A]) -> Task[A] | None:
        """Decide which faults a delivery has; return the task if it is delivered at once."""
        injector, faults, parts, deliveries = self._injector, self.faults, task.parts, self._deliveries
        self._claims.mark_orphan(task)
        if injector.occurs(faults.drop):
            injector.record("drop", "receive", parts)
            self._claims.lose(task)
            return None
        duplicate = None
        if injector.occurs(faults.duplicate):
            injector.record("duplicate", "receive", parts)
            duplicate = duplicate_of(task)
            deliveries.add(Delivery(duplicate, "duplicate", trio.current_time()))
        self._claims.add(task, duplicate)
        late: Literal["delay", "reorder"] | None = None
        if injector.occurs(faults.delay):
            late = "delay"
        elif not deliveries.holds_back and injector.occurs(faults.reorder):
            late = "reorder"
        if late is None:
            return self._deliver(task)
        seconds = injector.record(late, "receive", parts, injector.draw_seconds(faults.delay_seconds))
        delivery = Delivery(task, late, trio.current_time() + seconds)
        deliveries.add(delivery)
        if not self._claims.has_leases:
            trio.lowlevel.spawn_system_task(self._drop_unclaimed, delivery)
        return None

    def _deliver(self, task: Task[A]) -> Task[A]:
        self._deliveries.release_held_back()
        return task

    async def _drop_unclaimed(self, delivery: Delivery[A]) -> None:
        """Give a late delivery back to a backend without leases, if no receiver takes it in time."""
        with delivery.timer:
            await trio.sleep_until(delivery.due + self.faults.absence_seconds[1])
        if self._deliveries.remove(delivery):
            self._claims.lose(delivery.task)
            with log_and_suppress("a lost task could not be given back to the wrapped backend"):
                await self._claims.give_back_lost()

    # Settling

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Settle the task in the wrapped backend, unless a fault is injected.

        Raises:
          LeaseLostError: this attempt may not settle the task any more. Nothing changed.
          UnsettledError: this outcome cannot be stored. Nothing changed.
          BackendError: the connection is down, or the settle failed, before it took effect or after it did.

        If it is cancelled, the task is settled or still running; where there are no leases, it then comes back.
        """
        is_told = False
        try:
            await self._injector.stall("settle", task.parts)
            self._fail_before(task.parts)
            is_told = True
        finally:
            if not is_told:
                self._claims.lose(task)
                await self._claims.give_back_lost()  # noqa: ASYNC102  it shields itself, within bounds
        with self._claims.settling(task) as known:
            await self.backend.settle(known, outcome)
        await self._injector.stall("settle", task.parts)
        self._fail_after(task.parts)

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """Settle as :meth:`settle` does, if the wrapped backend is a ``NowaitBackend`` and no stalls are injected."""
        inside: Any = self.backend
        try:
            self._fail_before(task.parts)
        except BackendError:
            self._claims.lose(task)
            self._claims.give_back_lost_nowait()
            raise
        with self._claims.settling(task) as known:
            inside.settle_nowait(known, outcome)
        self._fail_after(task.parts)

    def _fail_before(self, parts: Parts) -> None:
        injector = self._injector
        if self._claims.is_forfeited(parts):
            injector.record("refused", "settle", parts)
            raise BackendError(f"settle failed: the receiver of task {parts.id} has died")
        self._injector.check("settle", parts)
        if injector.occurs(self.faults.die):
            injector.record("die", "settle", parts)
            self._claims.lose_all_but(delivery.task for delivery in self._deliveries.pending)
            raise BackendError(f"settle failed: the receiver of task {parts.id} died just now")
        if injector.occurs(self.faults.fail_before):
            injector.record("fail_before", "settle", parts)
            raise BackendError("settle failed, and nothing was stored")

    def _fail_after(self, parts: Parts) -> None:
        injector = self._injector
        if injector.occurs(self.faults.fail_after):
            injector.record("fail_after", "settle", parts)
            raise BackendError("settle failed, though the outcome was stored")

    # All else

    async def beat(self, context: WorkerContext) -> None:
        """Send the heartbeat of the wrapped backend, unless a fault is injected."""
        await self.pass_on("beat", context)

    async def aclose(self) -> None:
        """Close the wrapped backend. Deliveries that are still late are dropped."""
        await self.backend.aclose()

    async def __aenter__(self) -> Self:
        """Open the wrapped backend, if it needs to be opened."""
        await self.backend.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.backend.__aexit__(kind, error, trace)  # noqa: ASYNC102  it is the backend's to shield itself

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped backend that belongs to no interface."""
        if name.startswith("_") or name == "backend":
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return getattr(self.backend, name)

    def __repr__(self) -> str:
        return f"<FaultyBackend of {self.backend!r}: {len(self._injector.log)} faults so far>"


@final
class Claims(Generic[A]):
    """The claims made through a faulty backend that are not settled yet, or that are lost.

    Where the backend has leases, a lost claim is just forgotten. Where it has none, it is settled as retried, so that
    the task comes back after a while, and its attempt counts.

    Args:
      backend: the backend that has given out the tasks.
      injector: the fault injector, which records each loss.
    """

    def __init__(self, backend: Backend[A], injector: FaultInjector) -> None:
        self._backend: Any = backend
        self._injector = injector
        self.has_leases = backend.heartbeat_interval is not None
        self._held: dict[Parts, Task[Any]] = {}  # the task as the backend knows it, by the parts of each copy
        self._forfeited: set[Parts] = set()  # parts of tasks whose receiver has died
        self._lost: list[Task[Any]] = []  # lost tasks that are to be given back
        self._given_back: set[str] = set()  # ids of tasks given back, and not claimed again since

    def add(self, task: Task[A], duplicate: Task[A] | None = None) -> None:
        """Add a delivered claim, and its duplicate if there is one."""
        self._held[task.parts] = task
        if duplicate is not None:
            self._held[duplicate.parts] = duplicate if has_claim(task.parts) else task

    def mark_orphan(self, task: Task[A]) -> None:
        """Mark the task as an orphan if an earlier claim of it was lost."""
        if task.parts.id in self._given_back:
            self._given_back.discard(task.parts.id)
            task.parts.is_orphan = True

    @contextmanager
    def settling(self, task: Task[Any]) -> Generator[Task[Any], None, None]:
        """Give the block the task as the backend knows it; when the block ends, this copy is settled."""
        known = self._held.get(task.parts, task)
        try:
            yield known
        except LeaseLostError:
            self._held.pop(task.parts, None)  # another receiver has it, or it is settled
            raise
        self._held.pop(task.parts, None)
        task.parts.status = known.parts.status

    # Losing

    def lose(self, task: Task[Any]) -> None:
        """Lose a claim: its lease runs out; in a backend without leases, the task is given back later."""
        known = self._held.pop(task.parts, task)
        if not self.has_leases:
            self._lost.append(known)

    def lose_all_but(self, kept: Iterable[Task[Any]]) -> None:
        """Lose all claims except these, as if the receiver had died."""
        spared = {task.parts for task in kept}
        for parts, task in [*self._held.items()]:
            if parts not in spared:
                self._forfeited.add(parts)
                self.lose(task)

    def is_forfeited(self, parts: Parts) -> bool:
        """Return True if the receiver of this task has died; only once for each task."""
        was_there = parts in self._forfeited
        self._forfeited.discard(parts)
        return was_there

    async def give_back_lost(self) -> None:  # noqa: ASYNC910  there is seldom anything to give back
        """Give the lost claims back to a backend without leases; shielded, within a time limit."""
        if self._lost:
            with trio.move_on_after(_GIVE_BACK_SECONDS, shield=True):  # noqa: ASYNC912  the same
                while self._lost:
                    task, outcome = self._next_lost()
                    with suppress(LeaseLostError):
                        await self._backend.settle(task, outcome)
                        self._note_lost(task, outcome)

    def give_back_lost_nowait(self) -> None:
        """Give back the lost claims without waiting."""
        while self._lost:
            task, outcome = self._next_lost()
            with suppress(LeaseLostError):
                self._backend.settle_nowait(task, outcome)
                self._note_lost(task, outcome)

    def _next_lost(self) -> tuple[Task[Any], Retried]:
        task = self._lost.pop()
        seconds = self._injector.draw_seconds(self._injector.faults.absence_seconds)
        return task, Retried(BackendError("the delivery was lost, or its receiver died"), seconds)

    def _note_lost(self, task: Task[Any], outcome: Retried) -> None:
        self._injector.record("lost", "settle", task.parts, outcome.after)
        self._given_back.add(task.parts.id)


@final
class FaultInjector:
    """Decides which faults happen, from a seed, and keeps a log of them.

    Args:
      faults: the rates.
      seed: a whole number.
      on_fault: a function that is called with each fault as it happens; or None.
      on_down: a function that is called when the connection goes down.
    """

    def __init__(
        self,
        faults: Faults,
        seed: int,
        on_fault: Callable[[Fault], object] | None,
        on_down: Callable[[], None],
    ) -> None:
        self.faults = faults
        self.log: list[Fault] = []
        self._rng = Random(f"faults {check_count(seed, 'seed', minimum=None)}")
        self._on_fault = None if on_fault is None else check_sync(on_fault, "on_fault", "on_fault(fault) -> object")
        self._on_down = on_down
        self._down_until = -float("inf")

    def occurs(self, rate: float) -> bool:
        """Return True if a fault of this rate happens now, drawn at random."""
        return rate > 0 and self._rng.random() < rate

    def draw_seconds(self, span: tuple[float, float]) -> float:
        """Draw a duration between two limits."""
        return self._rng.uniform(*span)

    def record(
        self, kind: FaultKind, operation: str, parts: Parts | None = None, seconds: float | None = None
    ) -> float:
        """Record a fault; return its seconds."""
        task_id, attempt = (None, None) if parts is None else (parts.id, int(parts.attempt))
        fault = Fault(trio.current_time(), kind, operation, task_id, attempt, seconds)
        self.log.append(fault)
        if self._on_fault is not None:
            with log_and_suppress("on_fault failed"):
                self._on_fault(fault)
        return seconds or 0.0

    @property
    def is_down(self) -> bool:
        """True while the connection is down."""
        return trio.current_time() < self._down_until

    def check(self, operation: str, parts: Parts | None = None) -> None:
        """Raise BackendError if the connection is down or goes down now; otherwise the clock may jump."""
        faults = self.faults
        if self.is_down:
            self.record("refused", operation, parts)
            raise BackendError(f"{operation} failed: the connection is down")
        if faults.jump:
            self._may_jump(operation, parts)
        if self.occurs(faults.disconnect):
            seconds = self.record("disconnect", operation, parts, self.draw_seconds(faults.outage_seconds))
            self._down_until = trio.current_time() + seconds
            self._on_down()
            raise BackendError(f"{operation} failed: the connection went down, for {seconds:.3f} s")

    def _may_jump(self, operation: str, parts: Parts | None) -> None:
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, MockClock):
            raise RuntimeError(
                f"Faults(jump=...) moves trio's clock, which must be a MockClock for that, not {clock!r}"
            )
        if self.occurs(self.faults.jump):
            clock.jump(self.record("jump", operation, parts, self.draw_seconds(self.faults.jump_seconds)))

    async def stall(  # noqa: ASYNC910  it seldom does
        self, operation: str, parts: Parts | None = None
    ) -> None:
        """Sleep for a while, if a stall happens now."""
        if self.occurs(self.faults.stall):
            await trio.sleep(self.record("stall", operation, parts, self.draw_seconds(self.faults.stall_seconds)))
