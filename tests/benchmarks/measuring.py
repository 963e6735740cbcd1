"""The method of measurement: candidates run in turns, and the best turn of each counts.

The best and not the mean, because whatever else the machine does can only add to a turn. Garbage of one turn is
collected before the next; within a turn the collector runs as it would in anybody's program.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping

MICRO = 1e6


class CpuTime:
    """Measures the CPU time that the process, with all its threads, uses in a block: ``with CpuTime() as cpu``."""

    seconds = math.nan

    def __enter__(self) -> CpuTime:
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began


def in_turns(contenders: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, float]:
    """Call each function ``rounds`` times, in turns; return the lowest result of each."""
    least = dict.fromkeys(contenders, math.inf)
    for _ in range(rounds):
        for name, measure in contenders.items():
            gc.collect()
            least[name] = min(least[name], measure())
    return least


def verdict(value: float, target: float) -> str:
    """Return one word that says whether ``value`` is within the target."""
    return "PASS" if value <= target else f"over target ({target:g})"
