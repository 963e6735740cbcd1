"""The arithmetic by which keys share a queue: virtual start times, and windows of begun attempts.

Keys take turns by start-time fair queueing (Pawan Goyal, Harrick M. Vin, Haichen Cheng, "Start-time Fair Queuing", ACM
SIGCOMM 1996). A task that becomes ready gets a *tag*, at which it would begin if each turn took the same time: the
larger one of the virtual time, which is the tag of the task that was taken last, and the end of the turn before of its
key. Tasks are taken in the order of their tags. So a key that was idle is served after at most one turn of each other
one, however many tasks of others wait; and it saves up no turns while it is idle.

Nothing here awaits or reads a clock; all storages go by it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._tasks.limits import Rate

TURN = 2**20
"""The length of a turn of a key with weight 1, in units of virtual time."""
FIRST_TAG = -(2**62)
"""The first tag. All tags are below zero, and so below every order key of a queue without keys, which is a time in
microseconds since the epoch: it takes 2**42 turns to get there."""
NO_KEY = ""
"""The key of tasks without a key, which count together as one: no key that a user may give is empty."""
_BUCKETS = 106
"""Parts of a rate's time, in each of which begun attempts are counted together,"""
_KEPT = 1.0005
"""and its multiple for which they count, as clocks are not exact. Both make a place late by less than a hundredth."""
_MOST_IDLE = 256
"""Keys that are remembered at least; with more of them, those whose turn is over are forgotten now and then."""


def cost_of(weight: float) -> int:
    """Return the length of a turn of a key with this weight, in units of virtual time."""
    return max(1, round(TURN / weight))


@final
class VirtualTime:
    """The virtual time of each priority of a queue, and the end of the latest turn of each key in it."""

    __slots__ = ("_finish", "_look_at", "_passed")

    def __init__(self) -> None:
        self._passed: dict[int, int] = {}
        self._finish: dict[tuple[int, str], int] = {}
        self._look_at = _MOST_IDLE

    def next_tag(self, priority: int, key: str, weight: float) -> int:
        """Return the tag for a task of this key that becomes ready, and count its turn."""
        turn = priority, key
        tag = max(self._passed.get(priority, FIRST_TAG), self._finish.get(turn, FIRST_TAG))
        self._finish[turn] = tag + cost_of(weight)
        if len(self._finish) > self._look_at:
            self._forget_idle()
        return tag

    def take(self, priority: int, tag: int) -> None:
        """Note that a task with this tag was taken."""
        if tag > self._passed.get(priority, FIRST_TAG):
            self._passed[priority] = tag

    def _forget_idle(self) -> None:
        """Forget keys whose latest turn is over: without it they get the same tag."""
        passed = self._passed
        self._finish = {turn: end for turn, end in self._finish.items() if end > passed.get(turn[0], FIRST_TAG)}
        self._look_at = max(_MOST_IDLE, 2 * len(self._finish))


@final
class RateWindow:
    """The attempts that have begun within the latest ``per`` seconds of a rate.

    Those of the same hundredth of ``per`` are counted together, at the time of the last one, so that about a hundred
    numbers are kept: more than ``n`` attempts never begin within ``per`` seconds, and a place may be free up to a
    hundredth of ``per`` late. No moment is in the future: if another rate is used from now on, what has begun counts on
    for the time of that, as far as it was kept for the one before.

    Args:
      begun: the state of another window, as :meth:`state` has given it.
    """

    __slots__ = ("_begun", "_total")

    def __init__(self, begun: Iterable[tuple[float, int]] = ()) -> None:
        self._begun = deque((float(moment), int(number)) for moment, number in begun)
        self._total = sum(number for _, number in self._begun)

    def state(self) -> list[tuple[float, int]]:
        """Return all that is known: moments, and the number of attempts that had begun by each."""
        return [*self._begun]

    def begin(self, rate: Rate, now: float, number: int = 1) -> None:
        """Count so many attempts that begin now."""
        self._total += number
        if self._begun:
            last, before = self._begun[-1]
            step = rate.per / _BUCKETS
            if last >= now or last // step == now // step:
                self._begun[-1] = max(last, now), before + number
                return
        self._begun.append((now, number))

    def ends(self, rate: Rate) -> float:
        """Return the moment from which on none of the attempts counts any more."""
        return self._begun[-1][0] + rate.per * _KEPT if self._begun else -math.inf

    def take_back(self) -> None:
        """Count one of the attempts that were counted last no more, since it has not begun."""
        if self._begun:
            moment, number = self._begun.pop()
            if number > 1:
                self._begun.append((moment, number - 1))
            self._total -= 1

    def free(self, rate: Rate, now: float) -> int:
        """Return the number of attempts that may begin now: below 0 if the rate was lowered meanwhile."""
        kept = rate.per * _KEPT
        while self._begun and self._begun[0][0] + kept <= now:
            self._total -= self._begun.popleft()[1]
        return rate.n - self._total

    def free_at(self, rate: Rate, number: int = 1) -> float:
        """Return the moment from which on so many attempts may begin; ``math.inf`` if the rate is lower than that."""
        wanted = self._total + number - rate.n
        if wanted <= 0:
            return -math.inf
        for moment, begun in self._begun:
            wanted -= begun
            if wanted <= 0:
                return moment + rate.per * _KEPT
        return math.inf

    @property
    def is_empty(self) -> bool:
        """True if no attempt is counted any more."""
        return not self._begun
