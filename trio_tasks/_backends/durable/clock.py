"""The clock of a store in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import trio

from ..._clock import is_machine_clock_replaced, machine_now

if TYPE_CHECKING:
    from collections.abc import Callable

JUMP = 0.5
"""Seconds by which the machine's clock is suddenly ahead if the machine was asleep."""
_SLACK = 0.0005
_TRIES = 20

_OFFSETS: trio.lowlevel.RunVar[dict[str, Offset]] = trio.lowlevel.RunVar("trio_tasks clocks of files")


class Reading(NamedTuple):
    """The readings of both clocks at one instant."""

    machine: str
    """The name of the machine's clock."""
    seconds: float
    """The reading of the machine's clock."""
    trio: float
    """The reading of trio's clock."""


@final
class Offset:
    """The seconds to add to trio's clock to have the store's; they only grow."""

    __slots__ = ("seconds", "sessions")

    def __init__(self) -> None:
        self.seconds = float("-inf")
        self.sessions: set[int] = set()
        """The numbers of those that go by it, where several processes may have the store open."""

    @classmethod
    def of(cls, path: str) -> Offset:
        """The one offset that all storages of this run have for this path, so that they agree under a virtual clock."""
        try:
            offsets = _OFFSETS.get()
        except LookupError:
            offsets = dict[str, Offset]()
            _OFFSETS.set(offsets)
        return offsets.setdefault(path, cls())


@final
class StoreClock:
    """trio's clock plus an offset, which follows the machine's clock and never goes back.

    All of it may be called from any thread. The two clocks are read at one instant, in the thread that knows the time
    of the store, so it does not matter how long the event loop is busy meanwhile.

    Args:
      trio_time: trio's clock, as a function.
      offset: the seconds to add to it.
      is_virtual: True if a test moves trio's clock; then the machine's clock is not used, unless it was replaced, too.
    """

    __slots__ = ("_anchor", "_began", "_offset", "_trio_time", "is_virtual", "sessions")

    def __init__(self, trio_time: Callable[[], float], offset: Offset, *, is_virtual: bool = False) -> None:
        self.is_virtual = is_virtual
        stands_still = is_virtual and not is_machine_clock_replaced()
        self._began = Reading(*machine_now(), trio_time()) if stands_still else None
        self._trio_time = trio_time
        self._offset = offset
        self._anchor = float("-inf")
        self.sessions = offset.sessions
        """Those that have this very clock."""

    @property
    def is_shared(self) -> bool:
        """True if other processes may go by it: not where the time is one that a test moves."""
        return self._began is None

    def anchor(self) -> tuple[str, float]:
        """The name of the machine's clock, and the seconds to add to that to have the store's."""
        reading = self.read()
        return reading.machine, reading.trio + self._offset.seconds - reading.seconds

    def now(self) -> float:
        """The time of the store, in seconds since the epoch."""
        return self._trio_time() + self._offset.seconds

    def read(self) -> Reading:
        """Read both clocks at one instant; again if another thread ran in between."""
        if self._began is not None:
            now = self._trio_time()
            return self._began._replace(seconds=self._began.seconds + now - self._began.trio, trio=now)
        best = float("inf")
        reading = Reading("", 0.0, 0.0)
        for _ in range(_TRIES):
            before = self._trio_time()
            machine, seconds = machine_now()
            after = self._trio_time()
            if after - before < best:
                best, reading = after - before, Reading(machine, seconds, after)
            if best <= _SLACK:
                break
        return reading

    def start(self, now: float, reading: Reading) -> None:
        """Set the time of the store at this reading, unless another storage of the run has set a later one."""
        self._anchor = now - reading.seconds
        self._offset.seconds = max(self._offset.seconds, now - reading.trio)

    def tick(self) -> float:
        """Follow the machine's clock.

        Returns:
          the seconds by which it has jumped ahead, as it does when the machine wakes up; else 0.
        """
        reading = self.read()
        ahead = self._anchor + reading.seconds - (reading.trio + self._offset.seconds)
        if ahead <= 0.0:
            return 0.0
        self._offset.seconds += ahead
        return ahead if ahead > JUMP else 0.0
