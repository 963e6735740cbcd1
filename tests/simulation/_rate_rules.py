"""Rules about rates: no more attempts of a queue, or of a key, begin within the time of a rate than it says."""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from trio_tasks import Rate

if TYPE_CHECKING:
    from trio_tasks import Parts

    from tests.simulation._claim_checker import ClaimChecker

_CLOSE = 1e-6


class RateRule:
    """The attempts of a queue, or of a key in it, by when they have begun.

    Args:
      rate: the one that they have to keep.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._begun: list[float] = []

    def begin(self, checker: ClaimChecker, parts: Parts) -> None:
        """Check an attempt that has begun, by the storage's clock; they may be told of in another order."""
        if parts.started is None:
            checker.fault(f"{parts.id} does not tell when its attempt {parts.attempt} began")
            return
        insort(self._begun, parts.started)
        number = self._rate.n
        place = self._begun.index(parts.started)
        for first in range(max(0, place - number), min(place, len(self._begun) - number - 1) + 1):
            seconds = self._begun[first + number] - self._begun[first]
            if seconds < self._rate.per - _CLOSE:
                checker.fault(f"{parts.id} begins attempt {parts.attempt}, the {number + 1}th within {seconds:g} s")
        if place >= number and self._begun[place] - self._begun[place - number] < 1.02 * self._rate.per:
            checker.seen["an attempt that has waited for a rate"] += 1
