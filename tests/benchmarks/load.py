"""The work that both sides of a comparison are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio


async def no_op(n: int) -> None:
    """A handler that does nothing."""


async def one_checkpoint(n: int) -> None:
    """A handler with one checkpoint."""
    await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Load:
    """Numbers to be handled, at most ``concurrency`` at the same time."""

    tasks: int
    concurrency: int
    handler: Callable[[int], Awaitable[None]] = no_op
    trickles: bool = False
    """Whether they are pushed one after the other while the workers run, and pushing counts; or all beforehand."""
    listener: bool = False
    """Whether somebody is told when each begins and ends."""
    timeout: float | None = None
