"""A backend for any ``trio.abc.ReceiveChannel``.

A channel gives and takes nothing back, so what comes back is kept here, in this process: a retried task waits out its
delay without holding a slot, a released one goes first, a failed one stays readable.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from weakref import WeakKeyDictionary

import trio

from .._contracts.backend import Backend, NowaitBackend
from .._printing import quoted
from .capabilities import LedgerCapabilities
from .retry_buffer import RetryBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._tasks.outcome import Outcome
    from .._tasks.task import Task

A = TypeVar("A")


_BUFFERS: WeakKeyDictionary[trio.abc.ReceiveChannel[Any], RetryBuffer[Any]] = WeakKeyDictionary()


def _buffer_of(channel: trio.abc.ReceiveChannel[Any]) -> RetryBuffer[Any]:
    """Return the retry buffer of a channel. It lives as long as the channel, so a task that one worker gave back waits
    for the next worker over the same channel, in another backend too.
    """
    try:
        buffer = _BUFFERS.get(channel)
        if buffer is None:
            # A strong reference would keep the channel alive for ever; the callers hold one anyway.
            reference = cast("Callable[[], Any]", weakref.ref(channel))
            nowait = (lambda: reference().receive_nowait()) if hasattr(channel, "receive_nowait") else None
            buffer = _BUFFERS[channel] = RetryBuffer(lambda: reference().receive(), nowait)
    except TypeError:  # a channel without weak references or without a hash
        return RetryBuffer(channel.receive, getattr(channel, "receive_nowait", None))
    return buffer


class ChannelBackend(LedgerCapabilities[A], Backend[A]):
    """A backend over a channel of plain args, of whole tasks, or of both; :func:`as_backend` makes one.

    It ends once the channel has ended and nothing that was retried or released waits here. A channel that fails
    fails its receivers. A task whose id is known already is left out, with a warning in the log, since its id
    makes it count once.

    Args:
      channel: any ``trio.abc.ReceiveChannel`` whose ``receive`` takes nothing if it is cancelled, as is true of
          trio's own. One trio task at a time waits in it.
    """

    def __init__(self, channel: trio.abc.ReceiveChannel[Task[A]] | trio.abc.ReceiveChannel[A]) -> None:
        if not isinstance(channel, trio.abc.ReceiveChannel):
            raise TypeError(f"ChannelBackend takes a trio.abc.ReceiveChannel, not {quoted(channel)}")
        self._channel: trio.abc.ReceiveChannel[Any] = channel
        self._ledger_holder = self._buffer = _buffer_of(channel)

    async def receive(self) -> Task[A]:
        """Wait for the next task, and claim it; a retried or released task that is due goes before those of the
        channel.

        Raises:
          trio.EndOfChannel: the channel has ended, and nothing waits here.

        If it is cancelled, nothing was taken.
        """
        return await self._buffer.take()

    async def settle(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome of the attempt, even if this call is cancelled.

        Raises:
          LeaseLostError: the task is not running in this attempt. Nothing changed.
        """
        self._buffer.settle(task, outcome)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def aclose(self) -> None:
        """Close the channel. Tasks that are kept here can still be read."""
        await self._channel.aclose()

    def __repr__(self) -> str:
        ledger = self._buffer.ledger
        counts = f"{ledger.waiting} waiting, {ledger.running} running, {ledger.dead} dead"
        return f"<{type(self).__name__} over {self._channel!r}: {counts}>"


class NowaitChannelBackend(ChannelBackend[A], NowaitBackend[A]):
    """A backend over a channel that has ``receive_nowait``, such as a memory channel."""

    def receive_nowait(self) -> Task[A]:
        """Claim the next task, or raise ``trio.WouldBlock`` if there is none now; else as :meth:`receive`."""
        return self._buffer.take_nowait()

    def settle_nowait(self, task: Task[Any], outcome: Outcome) -> None:
        """Record the outcome, as :meth:`settle` does, without a checkpoint."""
        self._buffer.settle(task, outcome)


@overload
def as_backend(source: Backend[A]) -> Backend[A]: ...
@overload
def as_backend(source: trio.abc.ReceiveChannel[Task[A]]) -> Backend[A]: ...
@overload
def as_backend(source: trio.abc.ReceiveChannel[A]) -> Backend[A]: ...
def as_backend(source: trio.abc.ReceiveChannel[Any]) -> Backend[Any]:
    """Return a backend as it is, and wrap any other channel in one.

    Raises:
      TypeError: the source is neither.
    """
    if isinstance(source, Backend):
        return source  # pyright: ignore[reportUnknownVariableType]  # a backend of whatever it is
    if not isinstance(source, trio.abc.ReceiveChannel):
        raise TypeError(
            "a worker receives from a backend, such as MemoryStorage(), or from a trio.abc.ReceiveChannel, "
            f"not from {quoted(source)}{_hint(source)}"
        )
    if callable(getattr(source, "receive_nowait", None)):
        return NowaitChannelBackend(source)
    return ChannelBackend(source)


def _hint(source: Any) -> str:
    """Return a suggestion for the end of an error text, if the mistake is a known one."""
    if callable(getattr(source, "__aiter__", None)):
        is_class = isinstance(source, type)
        return f": make one, {source.__name__}(...)" if is_class else ": carry it into a storage, Pipe(source, storage)"
    if isinstance(source, trio.abc.SendChannel):
        return ": that is the sending end, so give the other one"
    ends: Any = source
    if isinstance(source, tuple) and any(isinstance(each, trio.abc.ReceiveChannel) for each in ends):
        return ": those are both ends of a channel, so give the receiving one"
    return ""
