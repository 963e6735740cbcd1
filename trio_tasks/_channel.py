"""Any ``trio.abc.ReceiveChannel`` as a backend.

A channel gives and takes nothing back, so what comes back is kept here, in this process: a retried task waits out its
delay without holding a seat, a released one goes first, a failed one stays readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import trio

from ._abc import Backend, NowaitBackend
from ._bookkeeping import Bookkeeping
from ._one_way import OneWay

if TYPE_CHECKING:
    from ._outcome import Outcome
    from ._task import Task

A = TypeVar("A")


class ChannelBackend(Bookkeeping[A], Backend[A]):
    """A channel of plain args, of whole tasks, or of both, as a backend.

    It ends once the channel has ended and nothing that was retried or released waits here. A channel that fails
    fails whoever receives. A task whose id is known already is left out, with a warning in the log: its id makes it
    count once.

    Args:
      channel: any ``trio.abc.ReceiveChannel`` whose ``receive`` takes nothing when it is cancelled, as that of trio's
          memory channels. One trio task at a time waits in it, so it need not stand more.
    """

    _desk: OneWay[A]  # type: ignore[assignment]  # a desk of another kind, with all that bookkeeping asks of one

    def __init__(self, channel: trio.abc.ReceiveChannel[Task[A]] | trio.abc.ReceiveChannel[A]) -> None:
        self._channel = _check_channel(channel)
        self._desk = OneWay(channel.receive, *_nowait_ways(self, channel))

    async def receive(self) -> Task[A]:
        """The next task, in hand from now on: what is due here goes before what the channel gives.

        Raises:
          trio.EndOfChannel: the channel has ended, and nothing waits here.

        If it is cancelled, nothing was taken.
        """
        return await self._desk.take()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Take note of how the attempt ended. If it is cancelled, the task is still in hand.

        Raises:
          LeaseLostError: the task is not in hand in this attempt.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._desk.settle(task, outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def aclose(self) -> None:
        """Close the channel. What is kept here stays, and so do its failed and killed tasks."""
        await self._channel.aclose()

    def __repr__(self) -> str:
        ledger = self._desk.ledger
        counts = f"{ledger.waiting} waiting, {ledger.in_hand} in hand, {ledger.dead} dead"
        return f"<{type(self).__name__} over {self._channel!r}: {counts}>"
