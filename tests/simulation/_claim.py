"""A claim, as the checker knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trio_tasks import Outcome, Parts


@dataclass(eq=False)
class Claim:
    """The right of one attempt to settle its task, once, through any copy of the task."""

    parts: Parts
    until: float  # on the storage's clock; the lease may have been renewed since
    settled: Outcome | None = None
    under_way: list[tuple[float, Outcome]] = field(default_factory=list[tuple[float, Outcome]])
    is_overtaken: bool = False  # somebody has the task by now, and how this one was settled is not known yet
    is_resumed: bool = False  # the task was, after this one was settled, which is not known yet
    is_void: bool = False  # its storage was closed
    moved_to: float = math.inf  # by somebody who came before it was known how this one was settled
    is_told: bool = False  # by a worker
    quiet: int = 0  # how many quiet moments there were before it
    came_at_once: bool = False  # to a worker, before the next one
    overtaken_at: float | None = None  # on trio's clock

    @property
    def is_over(self) -> bool:
        return self.settled is not None or self.is_overtaken or self.is_void or self.overtaken_at is not None

    @property
    def lease_until(self) -> float:
        return max(self.until, getattr(self.parts.context, "until", self.until))


def key_of(parts: Parts) -> object:
    """What tells a claim from all others."""
    token = getattr(parts.context, "token", None)
    return parts if token is None else (parts.id, token)
