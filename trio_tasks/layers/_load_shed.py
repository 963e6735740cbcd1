"""A layer that refuses at once what would have to wait for a gate."""

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
    """A layer that is a gate, and counts: such as a limit, or a circuit breaker."""

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
    """Refuse what a gate would have to wait for, at once and for all to see, rather than hold intake back.

    >>> LoadShed(ConcurrencyLimit(20))
    >>> LoadShed(CircuitBreaker())  # fail fast while it is open

    Args:
      gate: the layer to go through if it lets the attempt through now: a ``ConcurrencyLimit`` or a
          ``RateLimit`` (by key, too), a ``CircuitBreaker``, or one of your own that has ``ready``, ``admit`` and
          ``dismiss``. It stands here instead of in the list of layers.

    What is refused raises ``OverloadedError``, and is judged as any error: it has cost the task an attempt, and is
    tried again according to the worker's retry policy. The worker receives tasks whatever the gate says, so nothing is
    left to another worker; that is what it is for: to have the backlog say soon that there is too much.
    """

    __slots__ = ("_admit", "_gate")

    def __init__(self, gate: CountingLayer) -> None:
        _check_gate(gate)
        self._gate = gate
        # A limit by key would admit everything, and have it wait inside.
        self._admit = gate.try_admit if isinstance(gate, (ConcurrencyLimit, RateLimit)) else gate.admit

    async def __call__(self, handler: Handler[A, R], task: Task[A]) -> R:
        """Run the attempt through the gate.

        Raises:
          OverloadedError: the gate has no room for it now.
        """
        if not self._admit(task):
            raise OverloadedError(
                f"task {escaped(task.parts.id)} was refused, as there is no room for it now: {self._gate!r}"
            )
        try:
            return await self._gate(handler, task)
        finally:
            self._gate.dismiss(task)

    def lend(self, task: Task[Any]) -> None:
        """Lend the places that the attempt has in the gate, if that can be."""
        if isinstance(self._gate, LendingGate):
            self._gate.lend(task)

    def reclaim(self, task: Task[Any]) -> None:
        """Have them back."""
        if isinstance(self._gate, LendingGate):
            self._gate.reclaim(task)

    def __repr__(self) -> str:
        return f"<LoadShed over {self._gate!r}>"
