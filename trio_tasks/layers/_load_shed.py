"""A layer that fails attempts at once that would have to wait for a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final

from .._contracts.layer import Admitting
from .._contracts.lending import LendingGate
from .._printing import escaped, quoted
from .._tasks.errors import OverloadedError
from ._concurrency_limit import ConcurrencyLimit
from ._rate_limit import RateLimit

if TYPE_CHECKING:
    from .._contracts.layer import Handler
    from .._tasks.task import Task

A = TypeVar("A")
R = TypeVar("R")


class CountingLayer(Admitting, Protocol):
    """A layer that is a gate and counts attempts, such as a limit or a circuit breaker."""

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt."""
        ...


def _check_gate(gate: object) -> None:
    if isinstance(gate, type) or not isinstance(gate, Admitting) or not callable(gate):
        raise TypeError(
            f"gate must be a layer with ready, admit and dismiss, for example ConcurrencyLimit(10), not {quoted(gate)}"
        )


@final
class LoadShed:
    """Raise ``OverloadedError`` for an attempt that would have to wait for a gate.

    >>> LoadShed(ConcurrencyLimit(20))
    >>> LoadShed(CircuitBreaker())  # fail fast while it is open

    Args:
      gate: the layer that is called if it lets the attempt through now: a ``ConcurrencyLimit`` or a
          ``RateLimit`` (by key, too), a ``CircuitBreaker``, or one of your own that has ``ready``, ``admit`` and
          ``dismiss``. It stands here instead of in the list of layers.

    What is refused raises ``OverloadedError``, and is judged as any error: it costs the task an attempt, and is
    retried according to the worker's retry policy. The worker receives tasks whatever the gate says, so no task is
    left to another worker: an overload shows as errors soon, rather than as a growing backlog.
    """

    __slots__ = ("_admit", "_gate")

    def __init__(self, gate: CountingLayer) -> None:
        _check_gate(gate)
        self._gate = gate
        # admit() of a limit with a key admits every task, and lets the attempt wait: ask try_admit().
        self._admit = gate.try_admit if isinstance(gate, (ConcurrencyLimit, RateLimit)) else gate.admit

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt through the gate, if the gate has room.

        Raises:
          OverloadedError: the gate has no room for it now.
        """
        if not self._admit(task):
            raise OverloadedError(f"LoadShed refused task {escaped(task.parts.id)}: there is no room in {self._gate!r}")
        try:
            return await self._gate(handler, task)
        finally:
            self._gate.dismiss(task)

    def lend(self, task: Task[Any]) -> None:
        """Lend the places that the attempt has in the gate, if the gate supports that."""
        if isinstance(self._gate, LendingGate):
            self._gate.lend(task)

    def reclaim(self, task: Task[Any]) -> None:
        """Take back the places that the attempt has in the gate."""
        if isinstance(self._gate, LendingGate):
            self._gate.reclaim(task)

    def __repr__(self) -> str:
        return f"<LoadShed over {self._gate!r}>"
