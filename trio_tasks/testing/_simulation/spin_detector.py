"""Limits of a simulation: on virtual time, and on rounds of the scheduler in which virtual time does not move."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio

from ..._concurrency.stacks import current_line

if TYPE_CHECKING:
    from collections.abc import Generator

    from .simulation import Simulation

_MOST_ROUNDS = 1_000_000
"""Rounds of the scheduler in which virtual time may stand still: some seconds of real time."""


@final
class SpinDetector(trio.abc.Instrument):
    """Counts the scheduler's rounds since virtual time last moved, and cancels a scope when there are too many."""

    def __init__(self, most: int = _MOST_ROUNDS) -> None:
        self.scope = trio.CancelScope()
        self._most = most
        self._rounds = 0
        self._time = -math.inf

    def before_io_wait(self, timeout: float) -> None:
        """Count a round of the scheduler."""
        now = trio.current_time()
        if now != self._time:
            self._time, self._rounds = now, 0
        self._rounds += 1
        if self._rounds > self._most:
            self.scope.cancel()


@contextmanager
def limit_virtual_time(
    simulation: Simulation, limit: float, spin_detector: SpinDetector
) -> Generator[None, None, None]:
    """Limit the virtual time that the block may take.

    Raises:
      trio.TooSlowError: it took longer, or time stood still; it says where the program was, and its tasks.
    """
    me = trio.lowlevel.current_task()
    found: list[str] = []

    async def look() -> None:
        await trio.sleep(limit)
        found.extend(_places(simulation, me))
        late.cancel()

    late = trio.CancelScope()
    simulation.nursery.start_soon(look)
    with late, spin_detector.scope:
        yield
    if late.cancelled_caught:
        raise trio.TooSlowError("\n".join([f"the program did not end within {limit:g} s of virtual time:", *found]))
    if spin_detector.scope.cancelled_caught:
        raise trio.TooSlowError(
            f"virtual time stands still at {trio.current_time():g} s, though trio tasks keep running: is there a loop "
            "that tries again without waiting?"
        )


def _places(simulation: Simulation, program: trio.lowlevel.Task) -> list[str]:
    tasks = [f"  task {task_id} is at {place}" for task_id, place in simulation.current_lines().items()]
    return [f"  the program is at {current_line(program)}", *tasks]
